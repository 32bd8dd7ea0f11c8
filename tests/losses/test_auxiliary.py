"""Feature matching, LeCam, adaptive weights, and values of terms that have a graph."""

import copy

import pytest
import torch

import fastgan
from fastgan import auxiliary
from fastgan.ops import reference
from tests.helpers import ulp
from tests.helpers.calls import logits

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def maps(dtype=torch.float32, seed=0):
    """Feature maps of two discriminators, as lists of lists."""
    shapes = [[(2, 3, 17), (2, 8, 9)], [(2, 4, 5, 3), (1300,), (2, 1, 1)]]
    return [[logits(*s, dtype=dtype, seed=seed) for s in member] for member in shapes]


def flat(nested):
    return [t for member in nested for t in member]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("detach", [True, False])
def test_feature_matching(dtype, detach):
    real, fake = maps(dtype), maps(dtype, seed=1)
    real[0][0][0] = fake[0][0][0]  # the kink
    inputs = [t.requires_grad_() for t in flat(real) + flat(fake)]
    loss = fastgan.feature_matching_loss(real, fake, weights=2.0, detach_real=detach)
    exact = sum(2 * (r.double() - f.double()).abs().mean() for r, f in zip(flat(real), flat(fake), strict=True))
    assert loss.dtype == (dtype if dtype.itemsize == 8 else torch.float32)
    assert ulp.error(loss.detach(), exact.detach()) <= 1.0
    got = torch.autograd.grad(loss, inputs, allow_unused=True)
    want = torch.autograd.grad(exact, inputs)
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        if k < len(inputs) // 2 and detach:
            assert g is None
        else:
            assert g.dtype is dtype
            assert ulp.error(g, w.double()) <= 1.0


def test_feature_matching_is_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(auxiliary, "reduce_terms", lambda terms, tensors, masks: calls.append((terms, tensors)))
    fastgan.feature_matching_loss(maps(), maps(seed=1), weights=[1, 2, 3, 4, 5])
    ((terms, tensors),) = calls
    assert [t.weight for t in terms] == [1, 2, 3, 4, 5]
    assert [x.shape for x, _ in tensors] == [t.shape for t in flat(maps())]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((maps(), maps()[:1]), {}, "as many maps, at least 1, got 5 and 2"),
        (([], []), {}, "at least 1, got 0 and 0"),
        (([3.0], [3.0]), {}, "real_features: expected tensors"),
        ((maps(), maps()), {"weights": [1.0]}, "weights: expected one for each of 5"),
        ((maps(), maps()), {"weights": float("nan")}, "weights: expected a finite number"),
        ((torch.ones(4, 1), torch.ones(4)), {}, "expected one shape"),
        ((torch.ones(4).long(), torch.ones(4).long()), {}, "expected float32"),
        ((torch.ones(4), torch.ones(4).double()), {}, "float64"),
    ],
)
def test_feature_matching_refuses(arguments, options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        fastgan.feature_matching_loss(*arguments, **options)


# ---------------------------------------------------------------------------------- LeCam


def lecam(r, f, real_average, fake_average):
    above, below = (r.double() - fake_average).relu().square(), (real_average - f.double()).relu().square()
    return above.mean() + below.mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_lecam_penalty(dtype):
    r, f = (logits(n, dtype=dtype, seed=n).requires_grad_() for n in (1300, 70))
    average = torch.tensor(0.7), torch.tensor(-0.3)
    loss = fastgan.lecam_penalty(r, f, *average, weight=3.0)
    exact = 3 * lecam(r, f, *(a.double() for a in average))
    assert loss.dtype == (dtype if dtype.itemsize == 8 else torch.float32)
    assert ulp.error(loss.detach(), exact.detach()) <= 2.0
    got, want = (torch.autograd.grad(x, (r, f)) for x in (loss, exact))
    for g, w in zip(got, want, strict=True):
        # The argument, the coefficient and their product are rounded, relative to the larger of x and the average.
        assert ulp.error(g, w.double(), scale=w.abs().max().double()) <= 2.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_lecam_of_averages_that_are_numbers(dtype):
    """SEED-Voken's are, as a .item() of each step's mean; a float32 tensor would round them."""
    real, fake = ([torch.randn(5, 3).to(dtype).requires_grad_() for _ in range(2)] for _ in range(2))
    loss = fastgan.lecam_penalty(real, fake, [0.3, -1.2], (0.1, 2.0), weight=3.0)
    averages = torch.tensor([[0.3, -1.2], [0.1, 2.0]], dtype=torch.float64)
    exact = 3 * sum(
        lecam(r.double(), f.double(), *averages[:, k]) for k, (r, f) in enumerate(zip(real, fake, strict=True))
    )
    assert ulp.error(loss.detach(), exact.detach()) <= (2 if dtype != torch.float64 else 8)
    got, want = (torch.autograd.grad(x, (*real, *fake)) for x in (loss, exact))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(
            a.double(), b.double(), rtol=2**-7 if dtype is torch.bfloat16 else 2**-10, atol=1e-6
        )
    alone = fastgan.lecam_penalty(real[0], fake[0], 0.3, 0.1)
    torch.testing.assert_close(alone.double(), lecam(real[0].double(), fake[0].double(), 0.3, 0.1))


def test_lecam_module():
    """Averages follow the batch until `start`, then decay; they are in the state_dict, and so is the count."""
    module = fastgan.nn.LeCam(0.5, decay=0.9, start=2, members=2)
    real, fake, used = None, None, []
    for step in range(5):
        r, f = ([logits(30, seed=10 * step + k + j) for k in range(2)] for j in (0, 5))
        means = [torch.tensor([t.double().mean() for t in side]) for side in (r, f)]
        decay = 0.9 if step > 2 else 0.0
        real = means[0] if real is None else decay * real + (1 - decay) * means[0]
        fake = means[1] if fake is None else decay * fake + (1 - decay) * means[1]
        before = copy.deepcopy(module.state_dict())
        found = module(r, f)
        used.append(found is not None)
        torch.testing.assert_close(module.real_average.double(), real, rtol=1e-5, atol=1e-6)
        if found is not None:
            exact = sum(0.5 * lecam(r[k], f[k], real[k], fake[k]) for k in range(2))
            torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
            resumed = fastgan.nn.LeCam(0.5, decay=0.9, start=2, members=2)
            resumed.load_state_dict(before)
            assert torch.equal(resumed(r, f), found)
    assert used == [False, False, True, True, True]


def test_lecam_before_its_backward():
    """The averages move on while an earlier penalty waits for its backward; in eval mode they stay."""
    module = fastgan.nn.LeCam()
    r, f = logits(30).requires_grad_(), logits(30, seed=1).requires_grad_()
    first = module(r, f)
    averages = module.real_average.double().clone(), module.fake_average.double().clone()
    second = module(r + 1, f - 1)
    (first + second).backward()
    wanted = torch.autograd.grad(lecam(r, f, *averages), (r, f))
    got = torch.autograd.grad(module.eval()(r, f), (r, f))
    assert not torch.equal(got[0], wanted[0].float())
    moved = module.real_average.clone()
    module(r + 5, f)
    assert torch.equal(module.real_average, moved)


def test_lecam_is_compiled_once():
    torch._dynamo.reset()
    module = fastgan.nn.LeCam(start=2)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    r, f = logits(30).requires_grad_(), logits(30, seed=1).requires_grad_()
    limit = (
        "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    )  # torch 2.6
    with torch._dynamo.config.patch({limit: 6}):
        for _ in range(20):
            compiled(r, f)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fastgan.nn.LeCam(decay=1.0), "decay"),
        (lambda: fastgan.nn.LeCam(start=-1), "start"),
        (lambda: fastgan.nn.LeCam(members=0), "members"),
        (lambda: fastgan.nn.LeCam()([torch.ones(2)] * 2, [torch.ones(2)] * 2), "expected 1 members, got 2"),
        (lambda: fastgan.lecam_penalty(torch.ones(2), torch.ones(2), "0.5", torch.ones(1)), "real_average"),
        (
            lambda: fastgan.lecam_penalty(torch.ones(2), torch.ones(2), [0.5, 1.0], 0.0),
            "real_average: expected 1 num",
        ),
        (lambda: fastgan.lecam_penalty(torch.ones(2), torch.ones(2), 0.5, float("nan")), "fake_average"),
        (lambda: fastgan.lecam_penalty(torch.ones(2), torch.ones(2), torch.ones(1), torch.ones(2)), "fake_average"),
        (lambda: fastgan.lecam_penalty(3.0, torch.ones(2), torch.ones(1), torch.ones(1)), "real_logits"),
        (lambda: fastgan.lecam_penalty([], [], torch.ones(0), torch.ones(0)), "at least one tensor"),
    ],
)
def test_lecam_refuses(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


# ---------------------------------------------------------------------------------- adaptive weight


@pytest.mark.parametrize("dtype", DTYPES)
def test_adaptive_weight(dtype):
    a, b = logits(8, 5, dtype=dtype), logits(8, 5, dtype=dtype, seed=3)
    found = fastgan.adaptive_weight(a, b.requires_grad_(), weight=0.8)
    norm = [t.detach().double().norm() for t in (a, b)]
    torch.testing.assert_close(found.double(), 0.8 * norm[0] / (norm[1] + 1e-4), rtol=1e-6, atol=0)
    assert found.dtype == (dtype if dtype.itemsize == 8 else torch.float32)
    assert not found.requires_grad


def test_adaptive_weight_ends():
    tiny, huge, none = torch.full((3,), 1e-25), torch.full((3,), 1e20), torch.zeros(3)
    assert fastgan.adaptive_weight(huge, none).item() == 1e4
    assert fastgan.adaptive_weight(none, huge).item() == 0.0
    assert fastgan.adaptive_weight(huge, huge).item() == 1.0  # no overflow of the squares
    assert fastgan.adaptive_weight(tiny, tiny, eps=0.0).item() == 1.0
    assert fastgan.adaptive_weight([huge, huge], [huge, huge], weight=2.0).item() == 2.0
    assert fastgan.adaptive_weight(torch.tensor([torch.nan]), none).isnan()
    with pytest.raises(ValueError, match="limit"):
        fastgan.adaptive_weight(huge, none, limit=-1.0)


# ---------------------------------------------------------------------------------- values with a graph


TERMS = [
    fastgan.term("softplus", weight=0.5),
    fastgan.term("square", shift=-1.0),
    fastgan.term("relu_half", shift=1.0),
]


def values_of(tensors, reduction="mean"):
    return fastgan.reduce_terms(TERMS, tensors, reduction=reduction, return_values=True, attached=True)


def exactly(tensors, reduction="mean"):
    x, y, z = (t.double() for t in tensors)
    parts = [0.5 * reference.softplus(x), (y - 1).square(), torch.maximum(z + 1, torch.zeros_like(z))]
    return [getattr(p, reduction)() for p in parts]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "weigh",
    [
        lambda total, values: total,
        lambda total, values: sum(values),
        lambda total, values: 3 * (values[0] + values[1] + values[2]),
        lambda total, values: 2 * values[0] - values[2],
        lambda total, values: total + 5 * values[1],
        lambda total, values: values[2],
    ],
)
def test_values_can_be_weighed_anew(weigh, reduction, dtype):
    tensors = [logits(n, dtype=dtype, scale=3.0, seed=n).requires_grad_() for n in (40, 1500, 3)]
    tensors[2].data[0] = -1.0  # the kink
    total, values = values_of(tensors, reduction)
    exact = exactly(tensors, reduction)
    for v, e in zip(values, exact, strict=True):
        assert v.shape == ()
        assert v.requires_grad
        assert ulp.error(v.detach(), e.detach()) <= 1.0
    got, want = weigh(total, values), weigh(sum(exact), exact)
    for _ in range(2):  # a second backward over the same graph
        grads = torch.autograd.grad(got, tensors, allow_unused=True, retain_graph=True)
        exactly_grads = torch.autograd.grad(want, tensors, allow_unused=True, retain_graph=True)
        for g, w in zip(grads, exactly_grads, strict=True):
            assert (g is None) is (w is None)
            assert g is None or ulp.error(g, w.double()) <= 3.0


def test_gradients_that_forward_made_are_used(monkeypatch):
    """On the CPU: a backward from the loss computes nothing again."""
    tensors = [logits(n, seed=n).requires_grad_() for n in (40, 1500, 3)]
    calls = []
    kernels = type(fastgan.backends.get(tuple(tensors)))
    backward = kernels.loss_backward
    monkeypatch.setattr(kernels, "loss_backward", lambda self, *a: calls.append(1) or backward(self, *a))
    total, values = values_of(tensors)
    total.backward()
    assert not calls
    values[0].backward()
    assert len(calls) == 1


def test_each_value_has_a_graph_of_its_own():
    """A backward from one frees nothing behind another, and does not reach it."""
    leaves = [logits(n, seed=n).requires_grad_() for n in (40, 30)]
    reached = []
    inputs = [leaf * 2 for leaf in leaves]
    for k, t in enumerate(inputs):
        t.register_hook(lambda g, k=k: reached.append(k))
    terms = [fastgan.term("square"), fastgan.term("abs", weight=0.5)]
    _, (one, other) = fastgan.reduce_terms(terms, inputs, return_values=True, attached=True)
    one.backward()
    assert reached == [0]
    other.backward()
    torch.testing.assert_close(leaves[0].grad, 8 * leaves[0].detach() / 40)
    torch.testing.assert_close(leaves[1].grad, leaves[1].detach().sign() / 30)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_values_may_be_changed_in_place(backend):
    x, y = (logits(n, seed=n).requires_grad_() for n in (40, 30))
    with fastgan.backend(backend):
        terms = [fastgan.term("square"), fastgan.term("abs")]
        _, values = fastgan.reduce_terms(terms, [x, y], return_values=True, attached=True)
        before = values[1].item()
        values[0] += 1
        values[0] *= 2
        assert values[1].item() == before
        values[0].backward()
    torch.testing.assert_close(x.grad, 4 * x.detach() / 40)


def test_higher_orders_of_values():
    tensors = [logits(n, dtype=torch.float64, seed=n).requires_grad_() for n in (4, 5, 3)]
    weights = torch.tensor([0.3, -2.0, 0.5], dtype=torch.float64, requires_grad=True)

    def weighed(w, *inputs):
        total, values = values_of(inputs)
        return sum(a * v for a, v in zip(w, values, strict=True)) + total * w[0]

    assert torch.autograd.gradcheck(weighed, (weights, *tensors))
    assert torch.autograd.gradgradcheck(weighed, (weights, *tensors))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_values_without_gradients(backend):
    tensors = [logits(n, seed=n) for n in (40, 1500, 3)]
    with fastgan.backend(backend):
        total, values = values_of(tensors)
        detached = fastgan.reduce_terms(TERMS, tensors, return_values=True)[1]
    assert not total.requires_grad
    assert torch.equal(torch.stack(values), detached)


def test_entries_of_other_lengths_are_refused():
    """Also where three and one make as many tensors as two pairs."""
    x, term = torch.ones(3), fastgan.term("square")
    for entries in ([(x, x, x), (x,)], [(x, x, x)], [(x,)], [()]):
        with pytest.raises(ValueError, match="expected a tensor or a pair, got"):
            fastgan.reduce_terms([term] * len(entries), entries)


def test_attached_refuses():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="with_graph"):
        fastgan.reduce_terms([fastgan.term("relu")], [x], with_graph=True)
    with pytest.raises(ValueError, match="with_graph"):
        fastgan.reduce_terms([fastgan.term("relu")], [(x, x)], centred=True, return_values=True, attached=True)


def test_relu_half_shares_the_kink():
    x = torch.tensor([-1.0, 0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan], requires_grad=True)
    for backend in ("cpu", "reference"):
        with fastgan.backend(backend):
            (g,) = torch.autograd.grad(fastgan.reduce_terms([fastgan.term("relu_half")], [x], reduction="sum"), x)
        assert g[:6].tolist() == [0.0, 0.5, 0.5, 1.0, 1.0, 0.0]
        assert backend == "reference" or g[6].isnan()


def test_under_torch_compile():
    tensors = [logits(n, seed=n).requires_grad_() for n in (40, 1500, 3)]
    real, fake = maps(), [[t.requires_grad_() for t in m] for m in maps(seed=1)]

    def step(tensors, real, fake):
        total, values = values_of(tensors)
        return total + 2 * values[1] + fastgan.feature_matching_loss(real, fake)

    want = torch.autograd.grad(step(tensors, real, fake), [*tensors, *flat(fake)])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(tensors, real, fake), [*tensors, *flat(fake)])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-9)


def test_masks_of_maps_may_be_nested_as_the_maps_are():
    torch.manual_seed(0)
    real, fake = ([[torch.randn(2, 3, n) for n in (8, 4)], [torch.randn(2, 3, 5)]] for _ in range(2))
    first, last = torch.rand(2, 1, 8) > 0.3, torch.rand(2, 1, 5) > 0.3
    nested = fastgan.feature_matching_loss(real, fake, mask=[[first, None], (last,)])
    assert torch.equal(nested, fastgan.feature_matching_loss(real, fake, mask=[first, None, last]))
    distances = [(f - r).abs() for r, f in zip([*real[0], *real[1]], [*fake[0], *fake[1]], strict=True)]
    masks = [m.expand_as(d).float() for m, d in zip((first, torch.ones(1, 1, 1), last), distances, strict=True)]
    expected = sum((d * m).sum() / m.sum() for d, m in zip(distances, masks, strict=True))
    torch.testing.assert_close(nested, expected)
    with pytest.raises(ValueError, match="mask: expected one for each of 3 pairs of maps, got 2"):
        fastgan.feature_matching_loss(real, fake, mask=[[first], last])
