"""autocast, loss scaling, inference mode, copies of modules, torch.compile and registered operators."""

import copy
import pickle

import pytest
import torch

import fastgan
from fastgan.functional import LossStats
from fastgan.ops import torch_library as operators
from fastgan.ops.losses import discriminator_spec
from tests.helpers import ulp


def test_no_grad_and_inference_mode():
    r, f = torch.randn(70, requires_grad=True), torch.randn(70, requires_grad=True)
    want = fastgan.discriminator_loss(r, f)
    with torch.no_grad():
        got = fastgan.discriminator_loss(r, f)
        assert torch.equal(got, want)
        assert not got.requires_grad
    with torch.inference_mode():
        got = fastgan.discriminator_loss(torch.randn(4) * 0, torch.zeros(4), "hinge")
        assert got == 2.0
        assert got.is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_loss_scaling(dtype):
    net = torch.nn.Linear(16, 1)
    x = torch.randn(32, 16)
    grads = []
    for scale in (1.0, 65536.0):
        with torch.autocast("cpu", dtype=dtype):
            logits = net(x)
            assert logits.dtype is dtype
            loss = fastgan.discriminator_loss(logits, logits.flip(0) * 2)
        assert loss.dtype is torch.float32
        grads.append([g / scale for g in torch.autograd.grad(loss * scale, net.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-4)


def test_a_loss_scale_saves_float16_gradients():
    """1/n * sigmoid(-20) is 0 in float16; times 2^16 it is not, and must not be rounded before."""
    f = torch.full((4096,), 17.0, dtype=torch.float16, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    scaler.scale(fastgan.generator_loss(f)).backward()
    exact = -65536.0 / 4096 / (1 + torch.tensor(17.0, dtype=torch.float64).exp())
    assert torch.equal(f.grad, torch.full_like(f, exact.to(torch.float16)))
    assert f.grad.abs().min() > 0


def test_modules():
    r, f = torch.randn(8), torch.randn(8)
    d = fastgan.nn.DiscriminatorLoss("hinge", margin=0.5, relativistic="average")
    g = fastgan.nn.GeneratorLoss("hinge", margin=0.5, relativistic="average")
    assert torch.equal(d(r, f), fastgan.discriminator_loss(r, f, "hinge", margin=0.5, relativistic="average"))
    assert torch.equal(g(f, r), fastgan.generator_loss(f, r, "hinge", margin=0.5, relativistic="average"))
    assert repr(d) == "DiscriminatorLoss('hinge', margin=0.5, relativistic='average')"
    for module in (d, g):
        a, b = (r, f) if module is d else (f, r)
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(twin(a, b), module(a, b))
    assert not list(d.state_dict())
    for bad, message in (
        ({"loss": "hingee"}, "did you mean 'hinge'"),
        ({"loss": "hinge", "targets": (0, 1, 0)}, "targets: has no effect on loss 'hinge'"),
        ({"margine": 2.0}, "margine: unknown option"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            fastgan.nn.DiscriminatorLoss(**bad)


def d_loss(r, f):
    return fastgan.discriminator_loss(r, f, "nonsaturating", real_target=0.9)


def g_loss(r, f):
    return fastgan.generator_loss(f, r, "least_squares", relativistic="average")


def stats_loss(r, f):
    loss, stats = fastgan.discriminator_loss(r, f, "hinge", return_stats=True)
    return loss + 0 * stats.real_sign


def sequence_loss(r, f):
    return fastgan.discriminator_loss([r, f], [f, r * 2], "hinge", weights=[0.5, 2.0])


def elements_loss(r, f):
    return fastgan.discriminator_loss(r, f, reduction="none").sum()


def terms_loss(r, f):
    return fastgan.reduce_terms([fastgan.term("abs", weight=2.0), fastgan.term("softplus")], [(r, f), r])


@pytest.mark.parametrize("loss", [d_loss, g_loss, stats_loss, sequence_loss, elements_loss, terms_loss])
def test_compile_traces_the_whole_graph(loss):
    torch._dynamo.reset()
    net = torch.nn.Linear(12, 1).double()
    x, y = torch.randn(40, 12).double(), torch.randn(40, 12).double()

    def step(x, y):
        return loss(net(x), net(y))

    want = step(x, y)
    want_grads = torch.autograd.grad(want, net.parameters())
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(x, y)
    got_grads = torch.autograd.grad(got, net.parameters())
    if loss is elements_loss:  # whose sums over samples are PyTorch's, in an order that its kernels choose
        return check_sums(loss, net, (x, y), (got, *got_grads), (want, *want_grads))
    assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(got_grads, want_grads, strict=True))


def check_sums(loss, net, inputs, got, want):
    """K11: sums cancel, so that their rounding errors are measured by their summands."""
    logits = [net(t).detach().requires_grad_() for t in inputs]
    value = loss(*logits)
    slopes = torch.autograd.grad(value, logits)
    weight = sum(g.abs().t() @ t.abs() for g, t in zip(slopes, inputs, strict=True))
    bias = sum(g.abs().sum(0) for g in slopes)
    for a, b, summands in zip(got, want, (value.detach(), weight, bias), strict=True):
        assert ulp.error(a.detach(), b.detach(), summands) <= 4.0


def test_inductor():
    torch._dynamo.reset()
    r, f = torch.randn(500, requires_grad=True), torch.randn(500, requires_grad=True)
    got = torch.compile(lambda r, f: d_loss(r * 2, f) * 3, fullgraph=True)(r, f)
    want = d_loss(r * 2, f) * 3
    assert torch.equal(got, want)
    for a, b in zip(torch.autograd.grad(got, (r, f)), torch.autograd.grad(want, (r, f)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", [None, "paired", "average"])
def test_operators(form, dtype):
    spec = discriminator_spec(("nonsaturating", form)).encode()
    r, f = (torch.randn(20, dtype=dtype, requires_grad=True) for _ in range(2))
    operators.torch.library.opcheck(torch.ops.fastgan.loss, ([r, f], spec, "mean", True, "cpu"))
    loss, aux = torch.ops.fastgan.loss([r, f], spec, "mean", False, "cpu")
    up = torch.ones_like(loss).requires_grad_()
    backward = (up, aux.detach(), [r, f], spec, "mean", [True, True], "cpu")
    torch.library.opcheck(torch.ops.fastgan.loss_backward, backward)
    second = (
        up.detach(),
        aux.detach(),
        [r.detach(), f.detach()],
        [r.detach(), f.detach()],
        spec,
        "mean",
        [True, True],
        "cpu",
    )
    torch.library.opcheck(torch.ops.fastgan.loss_second, second)
    if dtype is torch.float64:

        def run(r, f):
            return torch.ops.fastgan.loss([r, f], spec, "mean", False, "cpu")[0]

        torch.autograd.gradcheck(run, (r, f))
        torch.autograd.gradgradcheck(run, (r, f))


def stats_by_hand(r, f, loss_real, loss_fake, threshold=0.0):
    return [loss_real, loss_fake, r.mean(), f.mean(), r.sign().mean(), f.sign().mean(),
            (r > threshold).double().mean(), (f < threshold).double().mean()]  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_statistics(backend):
    r, f = torch.randn(3000, dtype=torch.float64), torch.randn(2000, dtype=torch.float64) + 0.3
    nan = float("nan")
    with fastgan.backend(backend):
        loss, stats = fastgan.discriminator_loss(r, f, "hinge", return_stats=True)
        parts = stats_by_hand(r, f, (1 - r).relu().mean(), (1 + f).relu().mean())
        torch.testing.assert_close(torch.stack(stats), torch.stack(parts), rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(loss, stats.loss_real + stats.loss_fake, rtol=1e-15, atol=0)

        _, stats = fastgan.discriminator_loss(r, f, "least_squares", return_stats=True)
        parts = stats_by_hand(r, f, ((r - 1) ** 2).mean(), (f**2).mean(), 0.5)
        torch.testing.assert_close(torch.stack(stats), torch.stack(parts), rtol=1e-13, atol=1e-15)

        _, stats = fastgan.generator_loss(f, loss="wgan", return_stats=True)
        assert stats.loss_real == 0
        assert stats.real_mean.isnan()
        assert stats.real_accuracy.isnan()
        torch.testing.assert_close(stats.loss_fake, -f.mean())
        torch.testing.assert_close(stats.fake_accuracy, (f < 0).double().mean())

        a, b = r[:2000], f
        for call, x, y in ((fastgan.discriminator_loss, a, b), (fastgan.generator_loss, b, a)):
            loss, stats = call(x, y, "hinge", relativistic="paired", return_stats=True)
            right = (a - b > 0).double().mean()
            torch.testing.assert_close(stats.real_accuracy, right)
            torch.testing.assert_close(stats.fake_accuracy, right)
            torch.testing.assert_close(stats.real_mean, a.mean())
            torch.testing.assert_close(stats.fake_mean, b.mean())
            assert (stats.loss_real if x is a else stats.loss_fake) == loss

            _, stats = call(x, y, "hinge", relativistic="average", return_stats=True)
            torch.testing.assert_close(stats.real_accuracy, (a > b.mean()).double().mean())
            torch.testing.assert_close(stats.fake_accuracy, (b < a.mean()).double().mean())

        members, stats = fastgan.discriminator_loss([r, f], [f, r], "hinge", weights=[1, 3], return_stats=True)
        torch.testing.assert_close(stats.real_mean, torch.cat([r, f]).mean())
        torch.testing.assert_close(stats.loss_real, (1 - r).relu().mean() + 3 * (1 - f).relu().mean())
        assert isinstance(stats, LossStats)
        for s in stats:
            assert s.dim() == 0
            assert not s.requires_grad
            assert s.dtype is members.dtype
        _, stats = fastgan.discriminator_loss(torch.tensor([nan, 1.0]), torch.zeros(2), return_stats=True)
        assert stats.real_mean.isnan()
        assert stats.real_sign == 0.5
        assert stats.real_accuracy == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["dense", "strided"])
def test_statistics_beside_gradients(layout, dtype):
    """Statistics do not depend on whether gradients are wanted, nor on where these are written."""
    r, f = (torch.randn(30, 40, generator=torch.Generator().manual_seed(k)).to(dtype) for k in (0, 1))
    if layout == "strided":
        r, f = r.t(), f.t()
    for form in (None, "paired", "average"):
        _, plain = fastgan.discriminator_loss(r, f, relativistic=form, return_stats=True)
        inputs = (r.detach().requires_grad_(), f.detach().requires_grad_())
        _, beside = fastgan.discriminator_loss(*inputs, relativistic=form, return_stats=True)
        assert torch.equal(torch.stack(plain), torch.stack(beside)), form


def test_compile_honours_the_backend():
    torch._dynamo.reset()
    r, f = torch.randn(50), torch.randn(50)
    graphs = []

    def keep(graph, _):
        graphs.append(graph.code)
        return graph

    for name in ("auto", "reference"):
        with fastgan.backend(name):
            torch._dynamo.reset()
            torch.compile(d_loss, fullgraph=True, backend=keep)(r, f)
    assert "fastgan.loss" in graphs[0]
    assert "fastgan" not in graphs[1]
    assert "log_sigmoid" in graphs[1] or "logsigmoid" in graphs[1]


def test_compile_with_changing_sizes_and_options():
    """What torch.compile makes symbolic on a second call, a size or a Python number, must not break it."""
    torch._dynamo.reset()
    step = torch.compile(
        lambda r, f, m: fastgan.discriminator_loss(r * 1.0, f, "hinge", margin=m),
        fullgraph=True,
        backend="aot_eager",
    )
    for n in (5, 7, 1000):
        for margin in (1.0, 0.5, 0.25):
            r, f = torch.randn(n, requires_grad=True), torch.randn(n)
            want = fastgan.discriminator_loss(r, f, "hinge", margin=margin)
            assert torch.equal(step(r, f, margin), want)


def test_export():
    x = torch.randn(9)
    exported = torch.export.export(fastgan.nn.GeneratorLoss("hinge"), (x,)).module()
    assert torch.equal(exported(x), fastgan.generator_loss(x, loss="hinge"))
