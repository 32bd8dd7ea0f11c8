"""K6: devices and tracers."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastgan
from fastgan import compat
from fastgan.nn import GradientPenalty, LeCam

R, F = torch.randn(6, 1), torch.randn(6, 1)
X, Y = torch.randn(4, 3), torch.randn(4, 3)

# ---------------------------------------------------------------------------- a device without float64


class NoDouble(TorchDispatchMode):
    """Refuse float64 as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default:  # an array of NumPy's, on the host
            return out
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.dtype == torch.float64:
                raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype (in {func})")
        return out


@pytest.fixture
def no_double(monkeypatch):
    monkeypatch.setattr("fastgan.backends.reference.widest", lambda device: torch.float32)
    monkeypatch.setattr("fastgan.backends.base.widest", lambda device: torch.float32)
    monkeypatch.setattr("fastgan.compat.seed_voken.widest", lambda device: torch.float32)
    with fastgan.backend("reference"), NoDouble():
        yield


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def terms(**options):
    return fastgan.reduce_terms([fastgan.term("relu")], [R.clone().requires_grad_()], **options)[0]


D = network()
CASES = {
    "discriminator": lambda r, f: fastgan.discriminator_loss(r, f),
    "generator": lambda r, f: fastgan.generator_loss(f),
    "average": lambda r, f: fastgan.discriminator_loss(r, f, relativistic="average"),
    "weights": lambda r, f: fastgan.discriminator_loss([r], [f], weights=[0.5]),
    "weights in a tensor": lambda r, f: fastgan.discriminator_loss([r], [f], weights=torch.tensor([0.5])),
    "statistics": lambda r, f: fastgan.discriminator_loss(r, f, return_stats=True)[0],
    "values": lambda r, f: terms(return_values=True),
    "values with graphs": lambda r, f: terms(return_values=True, with_graph=True),
    "LeCam": lambda r, f: LeCam()(r, f),
    "features": lambda r, f: fastgan.feature_matching_loss([r], [f], normalize=True),
    "adaptive weight": lambda r, f: fastgan.adaptive_weight(r.detach(), f.detach()),
    "r1": lambda r, f: fastgan.r1_penalty(D, X),
    "wgan-gp": lambda r, f: fastgan.gradient_penalty(D, X, Y),
    "dragan": lambda r, f: fastgan.gradient_penalty(D, X, None, kind="dragan"),
    "r1-approx": lambda r, f: fastgan.gradient_penalty(D, X, None, kind="r1-approx"),
    "norms": lambda r, f: fastgan.gradient_penalty(D, X, Y, return_stats=True)[0],
    "groups": lambda r, f: fastgan.gradient_penalty(D, X, Y, groups=torch.tensor([0, 1, 1, 0])),
    "packs": lambda r, f: fastgan.gradient_penalty(D, X, Y, pac=2),
    "step": lambda r, f: fastgan.discriminator_step(D, X, Y, loss="hinge", penalty="r1").total,
    "mask": lambda r, f: fastgan.norm_penalty(X, mask=X > 0),
    "weights of norms": lambda r, f: fastgan.norm_penalty(X, weights=torch.ones(4)),
    "channel": lambda r, f: fastgan.norm_penalty(torch.randn(2, 3, 4), over="channel"),
    "cyclegan": lambda r, f: compat.cyclegan.GANLoss("lsgan")(r, True),
    "hifigan": lambda r, f: compat.hifigan.discriminator_loss([r], [f])[0],
    "hifigan generator": lambda r, f: compat.hifigan.generator_loss([f])[0],
    "hifigan features": lambda r, f: compat.hifigan.feature_loss([[r]], [[f]]),
    "parallelwavegan": lambda r, f: compat.parallelwavegan.DiscriminatorAdversarialLoss()(f, r)[0],
    "taming": lambda r, f: compat.taming.hinge_d_loss(r, f),
    "basicsr": lambda r, f: compat.basicsr.GANLoss("vanilla")(r, True, is_disc=True),
    "monai": lambda r, f: compat.monai.PatchAdversarialLoss()(r, True, for_discriminator=True),
    "wgan_gp": lambda r, f: compat.wgan_gp.compute_gradient_penalty(D, X, Y),
    "biggan": lambda r, f: compat.biggan.loss_hinge_dis(f, r)[0],
    "seed_voken": lambda r, f: compat.seed_voken.non_saturate_discriminator_loss(r[:, None], f[:, None]),
    "studiogan": lambda r, f: compat.studiogan.d_hinge(r, f, None),
    "studiogan lecam": lambda r, f: compat.studiogan.lecam_reg(
        r, f, type("Ema", (), {"D_real": 0.25, "D_fake": -0.5})()
    ),
    "stylegan2": lambda r, f: compat.stylegan2.d_logistic_loss(r, f),
    "relativistic": lambda r, f: compat.relativisticgan.discriminator_loss(r, f, loss_D=3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_device_without_float64(name, no_double):
    value = CASES[name](R.clone().requires_grad_(), F.clone().requires_grad_())
    assert value.dtype == torch.float32
    assert value.isfinite()
    if value.requires_grad:
        value.backward()


# ---------------------------------------------------------------------------- torch.jit.trace

TRACED = {
    "discriminator": lambda a, b: fastgan.discriminator_loss(a, b, "hinge"),
    "average": lambda a, b: fastgan.discriminator_loss(a, b, relativistic="average"),
    "generator": lambda a, b: fastgan.generator_loss(a),
    "unreduced": lambda a, b: fastgan.discriminator_loss(a, b, "hinge", reduction="none"),
    "statistics": lambda a, b: fastgan.discriminator_loss(a, b, return_stats=True)[1].real_mean,
    "norms": lambda a, b: fastgan.norm_penalty(a),
    "masked": lambda a, b: fastgan.norm_penalty(a, mask=torch.tensor([1.0, 0.0, 1.0])),
    "groups": lambda a, b: fastgan.gradient_norm(a, groups=(torch.tensor([0, 1, 1, 0]), 2)),
    "features": lambda a, b: fastgan.feature_matching_loss([a], [b]),
    "interpolate": lambda a, b: fastgan.interpolate(a, b, torch.full((4,), 0.3)),
    "terms": lambda a, b: fastgan.reduce_terms([fastgan.term("abs")], [(a, b)], return_values=True)[1],
    "lecam": lambda a, b: fastgan.lecam_penalty(a, b, torch.zeros(1), torch.ones(1)),
    "adaptive weight": lambda a, b: fastgan.adaptive_weight(a, b),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRACED)
def test_torch_jit_trace(name):
    """A trace is a function of its inputs, and not the memory of a kernel's result."""
    torch.manual_seed(0)
    traced = torch.jit.trace(TRACED[name], (X, Y), check_trace=False)
    for _ in range(2):
        a, b = torch.randn(4, 3), torch.randn(4, 3)
        torch.testing.assert_close(traced(a, b), TRACED[name](a, b), rtol=1e-6, atol=1e-6)


def test_a_backend_by_name_cannot_be_traced():
    if fastgan.info()["backends"]["cpu"] != "ready":
        pytest.skip("no kernels here")
    with fastgan.backend("cpu"), pytest.raises(RuntimeError, match=r"cannot serve this call: torch\.jit\.trace"):
        torch.jit.trace(TRACED["discriminator"], (X, Y), check_trace=False)


# ---------------------------------------------------------------------------- torch.compile, sizes and numbers that vary

LOSSES = {
    "list": lambda r, f: fastgan.discriminator_loss([r, f], [f, r], "lsgan"),
    "list, weights": lambda r, f: fastgan.discriminator_loss([r, f], [f, r], "lsgan", weights=[1.0, 0.5]),
    "hinge, weights": lambda r, f: fastgan.discriminator_loss([r, f], [f, r], "hinge", weights=[1.0, 0.5]),
    "lsgan": lambda r, f: fastgan.discriminator_loss(r, f, "lsgan"),
    "lsgan, targets": lambda r, f: fastgan.discriminator_loss(r, f, "lsgan", targets=(0.0, 0.9, 1.0)),
    "lsgan, integers": lambda r, f: fastgan.discriminator_loss(r, f, "lsgan", targets=(0, 1, 1)),
    "generator": lambda r, f: fastgan.generator_loss(f, loss="lsgan"),
    "module": fastgan.nn.DiscriminatorLoss("least_squares"),
    "hinge, integer": lambda r, f: fastgan.discriminator_loss(r, f, "hinge", margin=1),
    "statistics": lambda r, f: fastgan.discriminator_loss(r, f, "lsgan", return_stats=True)[1].real_accuracy,
}


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_with_dynamic_shapes(name):
    torch._dynamo.reset()
    call = torch.compile(LOSSES[name], backend="eager", fullgraph=True, dynamic=True)
    for n in (6, 9):
        r, f = torch.randn(n, 1), torch.randn(n, 1)
        assert torch.equal(call(r, f), LOSSES[name](r, f))


ANNEALED = {
    "soft label": lambda r, f, t: fastgan.discriminator_loss(r, f, "bce", real_target=t),
    "margin": lambda r, f, t: fastgan.discriminator_loss(r, f, "hinge", margin=t),
    "target": lambda r, f, t: fastgan.generator_loss(f, loss="lsgan", targets=(0.0, 1.0, t)),
    "weights": lambda r, f, t: fastgan.discriminator_loss([r, r], [f, f], "hinge", weights=[t, 1.0]),
    "LeCam": lambda r, f, t: fastgan.lecam_penalty(r, f, torch.zeros(1), torch.ones(1), weight=t),
    "features": lambda r, f, t: fastgan.feature_matching_loss([r], [f], weights=t),
    "penalty": lambda r, f, t: fastgan.norm_penalty(r, target=t),
}


@pytest.mark.parametrize("name", ANNEALED)
def test_a_number_that_is_annealed_in_a_graph(name):
    """Two graphs, one for the first value and one for all others, and right values."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    call = torch.compile(ANNEALED[name], backend=counter, fullgraph=True)
    for k in range(12):
        number = 0.8 + k * 0.01
        torch.testing.assert_close(call(R, F, number), ANNEALED[name](R, F, number), rtol=2e-6, atol=0)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("option", ["weight", "target"])
def test_an_annealed_penalty_in_a_graph(option):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    d = network()
    eps = torch.rand(4)

    def penalty(x, y, number):
        return fastgan.gradient_penalty(d, x, y, eps=eps, **{option: number})

    with fastgan.compiling():
        call = torch.compile(penalty, backend=counter, fullgraph=True)
        for k in range(6):
            number = 0.8 + k * 0.01
            torch.testing.assert_close(call(X, Y, number), penalty(X, Y, number), rtol=1e-5, atol=0)
    assert counter.frame_count <= 2


def test_lazy_weights_in_graphs_of_one_function():
    """The module's own numbers may change too."""
    torch._dynamo.reset()
    d, module = network(), GradientPenalty("r1", weight=2.0)
    with fastgan.compiling():
        call = torch.compile(lambda x: module(d, x), backend="aot_eager", fullgraph=True)
        for weight in (2.0, 3.0, 4.0):
            module.weight = weight
            torch.testing.assert_close(call(X), module(d, X), rtol=1e-5, atol=0)
