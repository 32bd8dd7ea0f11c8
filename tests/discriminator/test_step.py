"""The discriminator's whole step: against its loss and its penalties one by one, on one forward for each batch."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan import requirements
from fastgan.nn import DiscriminatorLoss, GradientPenalty

STEP = fastgan.discriminator_step


@pytest.fixture(autouse=True)
def _one_thread():
    """More of them would wait for each other: everything here is small."""
    torch.set_num_threads(1)


class Net(nn.Module):
    """A conditional discriminator of small images, piecewise linear or smooth."""

    def __init__(self, activation=None, norm=None, drop=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.LeakyReLU(0.2)
        self.drop = nn.Dropout(drop)
        self.score = nn.Linear(8 * 16, 1)
        self.by_class = nn.Embedding(5, 8 * 16)
        self.calls = 0

    def forward(self, x, labels=None, scale=1.0):
        self.calls += 1
        h = F.avg_pool2d(self.activation(self.norm(self.first(x))), 2).flatten(1)
        h = self.drop(h)
        score = self.score(h).squeeze(1)
        return scale * (score if labels is None else score + (h * self.by_class(labels)).sum(1))


def net(**parts):
    return Net(**parts).double()


def images(n=4):
    return torch.randn(n, 3, 8, 8, dtype=torch.float64), torch.randn(n, 3, 8, 8, dtype=torch.float64)


def grads_of(loss, *tensors):
    return torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)


def close(a, b, tolerance=1e-11):
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            assert x is y
        else:
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def squared_gradient(d, x, *args, **kwargs):
    """D(x), and the mean of its gradient's squared norms, on one forward."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    out = d(x, *args, **kwargs)
    (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return out, g.square().flatten(1).sum(1).mean()


def nonsaturating(r, f):
    return F.softplus(-r).mean() + F.softplus(f).mean()


# ---------------------------------------------------------------------------------- the same as its parts

LOSSES = {
    **{name: (name, functools.partial(fastgan.discriminator_loss, loss=name)) for name in fastgan.losses()},
    "module": (DiscriminatorLoss("hinge", relativistic="average"),) * 2,
    "module with options": (
        DiscriminatorLoss("lsgan", targets=(0.1, 0.9, 1.0)),
        functools.partial(fastgan.discriminator_loss, loss="lsgan", targets=(0.1, 0.9, 1.0)),
    ),
    "function": (lambda r, f: f.exp().mean() - r.tanh().sum(),) * 2,
}  # fmt: skip


@pytest.mark.parametrize("penalty", [None, "r1"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, penalty):
    given, function = LOSSES[loss]
    d = net()
    real, fake = images()
    step = STEP(d, real, fake, loss=given, penalty=penalty)
    want = function(d(real), d(fake))
    torch.testing.assert_close(step.loss, want.detach(), rtol=1e-12, atol=0)
    if penalty:
        want = want + fastgan.gradient_penalty(d, real, None, kind="r1")
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))


P = GradientPenalty
PENALTIES = {
    "none": (None, []),
    "nothing": ([], []),
    "r1": ("r1", [P("r1")]),
    "r2": ("r2", [P("r2")]),
    "both": (["r1", "r2"], [P("r1"), P("r2")]),
    "between": ("wgan-gp", [P("wgan-gp")]),
    "one-sided": ("wgan-lp", [P("wgan-lp")]),
    "around": ("dragan", [P("dragan")]),
    "div": (P("wgan-div", weight=2.0, power=4), [P("wgan-div", weight=2.0, power=4)]),
    "weights": ([P("r1", weight=3.0), P("r2", weight=0.5, over="channel")], [P("r1", weight=3.0), P("r2", weight=0.5, over="channel")]),
    "twice": (["r1", P("r1", weight=1.0, over="batch")], [P("r1"), P("r1", weight=1.0, over="batch")]),
    "approximations": (("r1-approx", P("r2-approx", sigma=0.1)), [P("r1-approx"), P("r2-approx", sigma=0.1)]),
    "approximated beside": ([P("r1-approx", sigma=0.5), "r1"], [P("r1-approx", sigma=0.5), P("r1")]),
    "part": ([P("r1", part=0.5), P("r2", part=0.25)], [P("r1", part=0.5), P("r2", part=0.25)]),
    "part of between": (P("wgan-gp", part=0.5, target=0.5), [P("wgan-gp", part=0.5, target=0.5)]),
    "part of an approximation": (P("r2-approx", part=0.5), [P("r2-approx", part=0.5)]),
    "three": (["wgan-gp", "r1", "dragan"], [P("wgan-gp"), P("r1"), P("dragan")]),
}  # fmt: skip


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name, conditional):
    """Value and every gradient; what is drawn is drawn in the penalties' order."""
    given, modules = copy.deepcopy(PENALTIES[name])
    d = net(activation=nn.Tanh())
    real, fake = images()
    args = (torch.tensor([0, 1, 4, 4]),) if conditional else ()
    torch.manual_seed(7)
    step = STEP(d, real, fake, *args, penalty=given, scale=2.0)
    torch.manual_seed(7)
    values = [m(d, real, fake, *args, scale=2.0) for m in modules]
    loss = nonsaturating(d(real, *args, scale=2.0), d(fake, *args, scale=2.0))
    want = sum(values, start=loss)
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(step.loss, loss.detach(), rtol=1e-12, atol=0)
    if values:
        torch.testing.assert_close(step.penalty, sum(values).detach(), rtol=1e-12, atol=0)
    else:
        assert step.penalty is None
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))
    before = torch.get_rng_state()
    torch.manual_seed(7)
    for m in modules:
        m(d, real, fake, *args)
    assert torch.equal(torch.get_rng_state(), before)  # nothing else was drawn


def test_further_arguments_of_fake():
    d = net()
    real, fake = images()
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 0, 1])
    step = STEP(d, real, fake, a, penalty=["r1", "r2", P("r2", part=0.5)], fake_args=[b], scale=3.0)
    want = nonsaturating(d(real, a, 3.0), d(fake, b, 3.0)) + fastgan.r1_penalty(d, real, a, scale=3.0)
    want = want + fastgan.r2_penalty(d, fake, b, scale=3.0)
    want = want + P("r2", part=0.5)(d, None, fake, b, scale=3.0)
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))
    assert torch.equal(step.fake_logits, d(fake, b, 3.0))
    unconditional = STEP(d, real, fake, a, fake_args=())
    assert torch.equal(unconditional.fake_logits, d(fake))


class Two(nn.Module):
    """Takes two tensors, in one container or another, and returns several."""

    def __init__(self, kind, returns):
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)
        self.kind, self.returns = kind, returns

    def forward(self, x):
        assert type(x) is self.kind
        h = torch.tanh(self.a(x[0])) * torch.sigmoid(self.b(x[1]))
        out = [h, h.square().sum(1)]
        return {"logits": out[0], "other": out[1], "none": None} if self.returns is dict else self.returns(out)


@pytest.mark.parametrize("returns", [list, tuple, dict])
@pytest.mark.parametrize("kind", [list, tuple])
def test_containers(kind, returns):
    d = Two(kind, returns).double()
    real, fake = (kind([torch.randn(5, 3).double(), torch.randn(5, 4).double()]) for _ in range(2))

    def loss(r, f):
        assert type(r) is type(f) is returns
        r, f = ([o["logits"], o["other"]] if returns is dict else list(o) for o in (r, f))
        return fastgan.discriminator_loss(r, f, "hinge")

    torch.manual_seed(1)
    step = STEP(d, real, fake, loss=loss if returns is dict else "hinge", penalty=["r1", "r2", "r1-approx"])
    torch.manual_seed(1)
    want = loss(d(real), d(fake)) + fastgan.gradient_penalty(d, real, fake, kind="r1-approx")
    want = want + fastgan.gradient_penalty(d, real, fake, kind="r1")
    want = want + fastgan.gradient_penalty(d, real, fake, kind="r2")
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))
    for got, x in ((step.real_logits, real), (step.fake_logits, fake)):
        assert type(got) is returns
        out = d(x)
        for a, b in zip(got.values(), out.values(), strict=True) if returns is dict else zip(got, out, strict=True):
            assert a is b is None or torch.equal(a, b)
            assert a is None or not a.requires_grad


def test_what_is_returned():
    d = net()
    real, fake = images()
    step = STEP(d, real, fake, penalty=["r1", "r2"])
    torch.testing.assert_close(step.total, step.loss + step.penalty, rtol=1e-15, atol=0)
    assert torch.equal(step.real_logits, d(real))
    assert torch.equal(step.fake_logits, d(fake))
    assert step.total.requires_grad
    assert step.total.dim() == 0
    for t in (step.loss, step.penalty, step.real_logits, step.fake_logits):
        assert not t.requires_grad
        assert t.grad_fn is None
    step.total.backward()
    assert all(p.grad is not None for n, p in d.named_parameters() if "by_class" not in n)


# ---------------------------------------------------------------------------------- one forward for each batch


@pytest.mark.parametrize(
    ("penalty", "calls"),
    [
        (None, 2),
        ("r1", 2),
        (["r1", "r2"], 2),
        (["r1", P("r1", weight=1.0)], 2),
        (["r1-approx", "r2-approx"], 4),
        (["r1-approx", "r1"], 3),
        ("wgan-gp", 3),
        (P("r1", part=0.5), 3),
    ],
)
def test_forwards(penalty, calls):
    d = net()
    STEP(d, *images(), penalty=copy.deepcopy(penalty))
    assert d.calls == calls


def test_batch_statistics_move_once_for_each_batch():
    d, twin = (net(norm=nn.BatchNorm2d(8)) for _ in range(2))
    real, fake = images()
    for calls in (2, 4):
        STEP(d, real, fake, penalty=["r1", "r2"]).total.backward()
        twin(real)
        twin(fake)
        assert d.norm.num_batches_tracked == calls
        for a, b in zip(d.buffers(), twin.buffers(), strict=True):
            assert torch.equal(a, b)


def test_batch_statistics_in_training():
    """Loss and penalty through the same normalisation, also of fake."""
    d = net(norm=nn.BatchNorm2d(8), activation=nn.SiLU())
    real, fake = images()
    step = STEP(d, real, fake, penalty=["r1", "r2"])
    (r, on_real), (f, on_fake) = squared_gradient(d, real), squared_gradient(d, fake)
    want = nonsaturating(r, f) + on_real / 2 + on_fake / 2
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))


def test_dropout_draws_one_mask_for_both():
    d = net(drop=0.5)
    real, fake = images()
    torch.manual_seed(11)
    step = STEP(d, real, fake, penalty=["r1", "r2"])
    after = torch.get_rng_state()
    torch.manual_seed(11)
    (r, on_real), (f, on_fake) = squared_gradient(d, real), squared_gradient(d, fake)
    assert torch.equal(torch.get_rng_state(), after)
    want = nonsaturating(r, f) + on_real / 2 + on_fake / 2
    torch.testing.assert_close(step.total, want, rtol=1e-12, atol=0)
    close(grads_of(step.total, *d.parameters()), grads_of(want, *d.parameters()))
    assert not torch.equal(step.real_logits, d(real))  # there is a mask


# ---------------------------------------------------------------------------------- data with a graph


@pytest.mark.parametrize("penalty", [None, "r1", ["r1", "r2"], "wgan-gp", "r2-approx", P("r1", part=0.5)])
@pytest.mark.parametrize("attached", ["real", "fake", "both", "leaf"])
def test_data_with_a_graph_stay_attached(attached, penalty):
    d = net(activation=nn.Tanh())
    z = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    leaf = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def batches():
        real, fake = torch.sin(z[0]), torch.sin(z[1])
        if attached == "leaf":
            return leaf, fake.detach()
        return (real if attached != "fake" else real.detach()), (fake if attached != "real" else fake.detach())

    wanted = [leaf if attached == "leaf" else z, *d.parameters()]
    modules = [P(p) if isinstance(p, str) else p for p in ([] if penalty is None else penalty if isinstance(penalty, list) else [penalty])]  # fmt: skip
    torch.manual_seed(2)
    got = grads_of(STEP(d, *batches(), penalty=copy.deepcopy(modules)).total, *wanted)
    torch.manual_seed(2)
    real, fake = batches()
    values = [m(d, real, fake) for m in modules]
    want = grads_of(sum(values, start=nonsaturating(d(real), d(fake))), *wanted)
    close(got, want)
    assert got[0].any()


def test_arguments_with_a_graph():
    real, fake = images()
    table = torch.randn(4, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    d = net(activation=nn.Tanh())

    def scaled(x, e):
        return d(x * e)

    got = grads_of(STEP(scaled, real, fake, torch.exp(table), penalty="r1").total, table)
    e = torch.exp(table)
    want = nonsaturating(scaled(real, e), scaled(fake, e)) + fastgan.r1_penalty(scaled, real, e)
    close(got, grads_of(want, table))


def test_nothing_of_the_caller_changes():
    d = net()
    real, fake = images()
    before = real.clone(), fake.clone(), copy.deepcopy(d.state_dict())
    d.first.weight.requires_grad_(False)
    state = torch.get_rng_state()
    STEP(d, real, fake, penalty=["r1", "r2"])
    assert torch.equal(torch.get_rng_state(), state)  # no draw without a need
    assert torch.equal(real, before[0])
    assert torch.equal(fake, before[1])
    assert not real.requires_grad
    assert not fake.requires_grad
    assert all(torch.equal(v, before[2][k]) for k, v in d.state_dict().items())
    assert all(p.grad is None for p in d.parameters())
    assert not d.first.weight.requires_grad


@pytest.mark.parametrize("penalty", [None, ["r1", "r2"], "wgan-gp", "r1-approx", P("r2", part=0.5)])
@pytest.mark.parametrize("engine", fastgan.penalties.ENGINES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, engine, penalty):
    d = net()
    real, fake = images()
    torch.manual_seed(4)
    want = STEP(d, real, fake, penalty=copy.deepcopy(penalty))
    torch.manual_seed(4)
    with mode():
        got = STEP(d, real * 1, fake * 1, penalty=copy.deepcopy(penalty), engine=engine)
    for a, b in zip(got[:3], want[:3], strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            assert not a.requires_grad
            torch.testing.assert_close(a, b.detach(), rtol=1e-13, atol=0)
    assert got.engine == "eager"
    assert not got.real_logits.requires_grad


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u


def test_a_function_differentiable_once():
    """Refused where a penalty needs more, and there alone."""
    d = net(activation=Once.apply)
    real, fake = images()
    for penalty in ("r1", ["r1-approx", "r2"], P("r1", part=0.5), "wgan-gp"):
        with pytest.raises(RuntimeError, match=r"its function Once is marked once_differentiable; .*r1-approx"):
            STEP(d, real, fake, penalty=penalty)
    for penalty in (None, "r1-approx"):
        STEP(d, real, fake, penalty=penalty).total.backward()
    with torch.no_grad():  # the value needs no second derivative
        got = STEP(d, real, fake, penalty="r1")
        torch.testing.assert_close(got.penalty, fastgan.r1_penalty(d, real), rtol=1e-12, atol=0)


def test_no_second_derivative_of_what_made_the_data_is_asked_for():
    d = net()
    w = images()[0].requires_grad_()
    got = grads_of(STEP(d, Once.apply(w), images()[1], penalty="r1").total, w)
    assert got[0].any()


# ---------------------------------------------------------------------------------- pruning, engines


@pytest.mark.parametrize("penalty", ["r1", ["r1", "r2"], "wgan-gp", P("r2", part=0.5), ["r1", "r2-approx"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(8)], ids=["plain", "batch norm"])
def test_pruning_changes_no_bit(norm, dtype, penalty):
    found = []
    for pruned in (True, False):
        d = Net(norm=copy.deepcopy(norm), activation=nn.LeakyReLU(0.2, inplace=True)).to(dtype)
        torch.manual_seed(8)
        real, fake = torch.randn(2, 4, 3, 8, 8, dtype=dtype)
        step = STEP(d, real, fake, torch.tensor([0, 1, 2, 2]), penalty=copy.deepcopy(penalty), prune=pruned)
        assert step.engine == ("eager, pruned" if pruned else "eager")
        found.append([*step[:5], *grads_of(step.total, *d.parameters()), *d.buffers()])
    for a, b in zip(*found, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_less_is_computed():
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 4, 2, 1), nn.ReLU()]
    d, (real, fake) = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 1)).double(), images()
    counts = []
    for pruned in (True, False):
        total = STEP(d, real, fake, penalty="wgan-gp", prune=pruned).total
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            total.backward()
        counts.append(sum(e.name == "aten::convolution_backward" for e in profile.events()))
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("penalty", "engine"),
    [
        (None, "eager"),
        ("r1-approx", "eager"),
        ("r1", "eager, pruned"),
        ([P("r1-approx"), P("wgan-gp")], "eager, pruned"),
    ],
)
def test_the_engine_is_named(penalty, engine):
    d = net()
    real, fake = images()
    for asked in ("auto", "eager"):
        assert STEP(d, real, fake, penalty=penalty, engine=asked).engine == engine
    assert STEP(d, real, fake, penalty=penalty, prune=False).engine == "eager"
    d.first.register_full_backward_hook(lambda *_: None)
    assert STEP(d, real, fake, penalty=penalty).engine == "eager"


def test_inside_a_compiled_step():
    """It runs between the parts of the compiled function, and its gradients are right."""
    torch._dynamo.reset()
    d = net()
    real, fake = images()

    def whole(real, fake):
        step = STEP(d, real * 2, fake, penalty=["r1", "r2"])
        return step.total * 2 + step.real_logits.sum()

    got, want = torch.compile(whole, backend="aot_eager")(real, fake), whole(real, fake)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    close(grads_of(got, *d.parameters()), grads_of(want, *d.parameters()))
    torch._dynamo.reset()

    from fastgan.discriminator import in_graphs  # which imports the compiler

    why = (
        "penalties and steps run between the parts of a graph"
        if in_graphs.TAKES_REASON
        else r"disable\(\) wrapped function <function _between"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match=why):
        torch.compile(whole, backend="aot_eager", fullgraph=True)(real, fake)


@pytest.mark.parametrize("penalty", ["r1", "wgan-gp", P("r1", part=0.5)])
def test_a_compiled_discriminator_runs_uncompiled(penalty):
    torch._dynamo.reset()
    d = net()
    real, fake = images()
    torch.manual_seed(1)
    want = STEP(d, real, fake, penalty=copy.deepcopy(penalty))
    torch.manual_seed(1)
    got = STEP(torch.compile(d, backend="aot_eager"), real, fake, penalty=penalty)
    torch.testing.assert_close(got.total, want.total, rtol=1e-12, atol=0)
    close(grads_of(got.total, *d.parameters()), grads_of(want.total, *d.parameters()))


def test_autocast():
    d = Net()
    real, fake = torch.randn(2, 4, 3, 8, 8)
    want = STEP(d, real, fake, penalty="r1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = STEP(d, real, fake, penalty="r1")
    assert got.real_logits.dtype is torch.bfloat16
    assert got.total.dtype is torch.float32
    torch.testing.assert_close(got.total, want.total, rtol=2e-2, atol=0)
    for a, b in zip(grads_of(got.total, *d.parameters()), grads_of(want.total, *d.parameters()), strict=True):
        if b is not None:
            assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99


# ---------------------------------------------------------------------------------- lazy penalties


def test_lazy_penalties():
    d = net()
    lazy, always = P("r1", weight=2.0, interval=3), P("r2")
    for call in range(7):
        real, fake = images()
        step = STEP(d, real, fake, penalty=[lazy, always])
        want = fastgan.r2_penalty(d, fake)
        if call % 3 == 0:
            want = want + fastgan.r1_penalty(d, real, weight=6.0)
        torch.testing.assert_close(step.penalty, want.detach(), rtol=1e-12, atol=0)
        assert (lazy.calls, always.calls) == (call + 1, call + 1)
    lazy = P("wgan-gp", interval=2)
    assert STEP(d, real, fake, penalty=lazy).penalty is not None
    state = torch.get_rng_state()
    between = STEP(d, real, fake, penalty=lazy)
    assert between.penalty is None
    assert between.engine == "eager"
    assert torch.equal(between.total, between.loss)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn in between


NEEDS_ENGINE = pytest.mark.skipif(bool(requirements.lacking("engine='compiled'")), reason="torch is too old for it")


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=NEEDS_ENGINE)])
def test_a_failed_step_does_not_count(engine):
    d = net()
    real, fake = images()
    lazy, plain = P("r1", interval=2), P("r2")

    def bad(r, f):
        raise ArithmeticError("of the caller")

    with pytest.raises(ArithmeticError, match="of the caller"):
        STEP(d, real, fake, loss=bad, penalty=[lazy, plain], engine=engine)
    with pytest.raises(TypeError):
        STEP(d, real, fake, torch.zeros(4), 1.0, "too many", penalty=[lazy, plain], engine=engine)
    assert (lazy.calls, plain.calls) == (0, 0)
    assert fastgan.compile_info(d).refused is None  # that is no reason to compile nothing more
    assert STEP(d, real, fake, penalty=[lazy, plain]).penalty is not None
    assert (lazy.calls, plain.calls) == (1, 1)


# ---------------------------------------------------------------------------------- bad input

linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).double()
ok = torch.randn(4, 3, 8, 8, dtype=torch.float64)
CASES = [
    (lambda: STEP(linear, ok, ok, loss="vanila"), ValueError, "loss: unknown name 'vanila'"),
    (lambda: STEP(linear, ok, ok, loss=3), TypeError, "loss: expected a name or a function of real and fake logits, got int"),
    (lambda: STEP(linear, ok, ok, loss=lambda r, f: r), TypeError, r"loss: expected it to return a scalar tensor, got \(4, 1\)"),
    (lambda: STEP(linear, ok, ok, loss=lambda r, f: 2.0), TypeError, "loss: expected it to return a scalar tensor, got float"),
    (lambda: STEP(linear, ok, ok, penalty="r3"), ValueError, "penalty: unknown name 'r3'"),
    (lambda: STEP(linear, ok, ok, penalty=["r1", None]), TypeError, "penalty: expected kinds of gradient_penalty or .*GradientPenalty, got NoneType"),
    (lambda: STEP(linear, ok, ok, penalty=nn.ReLU()), TypeError, "penalty: expected .*GradientPenalty, got ReLU"),
    (lambda: STEP(linear, ok, ok, penalty=3), TypeError, "penalty: expected a kind, .* got int"),
    (lambda: STEP(linear, ok, ok, penalty={"r1": 1.0}), TypeError, "penalty: expected a kind, .* got dict"),
    (lambda: STEP(linear, ok, ok, fake_args=ok), TypeError, "fake_args: expected a tuple of arguments, got Tensor"),
    (lambda: STEP(linear, ok, ok, penalty=[3.0]), TypeError, "penalty: expected .*GradientPenalty, got float"),
    (lambda: STEP(linear, ok, ok, penalty=P("r1", engine="eager")), ValueError, "penalty: engine has no effect within a step; give engine to discriminator_step"),
    (lambda: STEP(linear, ok, ok, penalty=["r2", P("r1", prune=False)]), ValueError, "penalty: prune has no effect within a step; give prune"),
    (lambda: STEP(linear, ok, ok, penalty=P("r1", return_stats=True)), ValueError, "penalty: return_stats has no effect .*gradient_penalty"),
    (lambda: STEP(linear, ok, ok, engine="fast"), ValueError, "engine: unknown name 'fast'"),
    (lambda: STEP(3, ok, ok), TypeError, "discriminator: expected a module or function, got int"),
    (lambda: STEP(linear.forward, ok, ok, engine="compiled"), TypeError, r"discriminator: expected a torch\.nn\.Module for engine='compiled'.*, got method"),
    (lambda: STEP(linear, None, ok), TypeError, "real: expected a torch.Tensor or a sequence of them, got NoneType"),
    (lambda: STEP(linear, ok, 2.0), TypeError, "fake: expected a torch.Tensor or a sequence of them, got float"),
    (lambda: STEP(linear, ok.long(), ok), TypeError, "real: expected float32, .*, got torch.int64"),
    (lambda: STEP(linear, ok, ok[:2], penalty="wgan-gp"), ValueError, r"real and fake: expected one shape, got \(4, 3, 8, 8\) and \(2, 3, 8, 8\)"),
    (lambda: STEP(lambda x: x.shape, ok, ok, penalty="r1"), TypeError, "real_logits: expected a torch.Tensor"),
    (lambda: STEP(lambda x: linear(x.detach()), ok, ok, penalty="r1"), ValueError, "discriminator: its output does not depend on its input"),
    (lambda: torch.func.grad(lambda x: STEP(linear, x, ok).total)(ok), RuntimeError, "discriminator_step: cannot run under a torch.func transform"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=range(len(CASES)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
