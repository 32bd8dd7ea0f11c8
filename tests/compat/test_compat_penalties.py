"""fastgan.compat: the trainers with gradient penalties (StyleGAN2 and 3, R3GAN, WGAN-GP and others) against their formulas."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from bench.baselines import gigagan as peer_gigagan
from bench.baselines import magvit2 as peer_magvit2
from bench.baselines import r3gan as peer_r3gan
from bench.baselines import relativisticgan as peer_relativistic
from bench.baselines import stylegan2 as peer_stylegan2
from bench.baselines import stylegan3 as peer_stylegan3
from bench.baselines import wgan_gp as peer_wgan
from fastgan.compat import basicsr, gigagan, magvit2, r3gan, relativisticgan, stylegan2, stylegan3, taming, wgan_gp
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES, LAYOUTS, Critic, compare, images, same_penalty, sample

MODULES = [
    (stylegan2, peer_stylegan2),
    (stylegan3, peer_stylegan3),
    (r3gan, peer_r3gan),
    (wgan_gp, peer_wgan),
    (relativisticgan, peer_relativistic),
    (magvit2, peer_magvit2),
    (gigagan, peer_gigagan),
]
NAMES = [(ours, peer, n) for ours, peer in MODULES for n in adapters.public(peer)]


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.mark.parametrize(("ours", "peer", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_names_and_signatures(ours, peer, name):
    adapters.same_interface(getattr(ours, name), getattr(peer, name))
    assert name in ours.__all__


def both(name, *modules):
    """The function of that name of the adapter and of the peer."""
    return [getattr(m, name) for m in modules]


# ---------------------------------------------------------------------------------- losses of one and two tensors

# Losses that only add means of one sign; then those whose mean cancels, with the size of its parts.
SINGLE = [
    (stylegan2, peer_stylegan2, "g_nonsaturating_loss"),
    (stylegan3, peer_stylegan3, "loss_gmain"),
    (stylegan3, peer_stylegan3, "loss_dgen"),
    (stylegan3, peer_stylegan3, "loss_dreal"),
    (magvit2, peer_magvit2, "hinge_gen_loss"),
    (gigagan, peer_gigagan, "generator_hinge_loss"),
]
PAIRS = [
    (stylegan2, peer_stylegan2, "d_logistic_loss"),
    (magvit2, peer_magvit2, "hinge_discr_loss"),
    (gigagan, peer_gigagan, "discriminator_hinge_loss"),
    (gigagan, peer_gigagan, "aux_matching_loss"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("ours", "peer", "name"), SINGLE, ids=lambda x: getattr(x, "__name__", x))
def test_losses_of_fake(dtype, layout, ours, peer, name):
    scale = (lambda f: f.abs().mean()) if "hinge" in name else None
    compare(*both(name, ours, peer), (sample(layout, dtype),), scale=scale)


# The derivative of softplus is within 1 ulp; it is then multiplied by 1/n, rounded too: 3 ulp for float32.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("ours", "peer", "name"), PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_losses_of_both(dtype, layout, ours, peer, name):
    more = 0.0 if "hinge" in name else 1.0
    compare(*both(name, ours, peer), (sample(layout, dtype, 1), sample(layout, dtype, 2)), more=more)


def test_stylegan2_unequal_batches():
    compare(*both("d_logistic_loss", stylegan2, peer_stylegan2), (torch.randn(5, 1), torch.randn(9)))


@pytest.mark.parametrize("name", ["hinge_discr_loss", "discriminator_hinge_loss", "aux_matching_loss"])
def test_a_broadcast_changes_no_separable_mean(name):
    ours, peer = (magvit2, peer_magvit2) if name == "hinge_discr_loss" else (gigagan, peer_gigagan)
    ours, peer = both(name, ours, peer)
    x, y = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert ours(x, y).item() == pytest.approx(peer(x, y).item(), rel=1e-13)


def test_who_comes_first_and_which_sign():
    low, high = torch.full((3,), -5.0), torch.full((3,), 5.0)
    assert magvit2.hinge_discr_loss(low, high).item() == 0.0
    assert gigagan.discriminator_hinge_loss(low, high).item() == 0.0
    assert gigagan.generator_hinge_loss(high).item() == 5.0
    assert magvit2.hinge_gen_loss(high).item() == -5.0


def test_gigagan_does_not_overflow():
    x = torch.tensor([-200.0, -1e4], requires_grad=True)
    loss = gigagan.aux_matching_loss(x, x)
    loss.backward()
    assert loss.item() == 10200.0
    assert x.grad.tolist() == [-1.0, -1.0]


# ---------------------------------------------------------------------------------- RelativisticGAN

VECTORS = ["N", "one", "long", "edges", "strided"]


def parts(number):
    """The size of what is added to a value, and to an element of a gradient, of that loss."""
    if number == 3:
        return (lambda r, f: r.abs().mean() + f.abs().mean()), None
    if number < 5:
        return None, None
    if number == 7:
        # (x - 1)^2 of a difference, and its mean besides.
        size = lambda r, f: 1 + r.abs().max() + f.abs().max()  # noqa: E731
        return None, lambda r, f: [4 * size(r, f) / r.numel()] * 2
    return (lambda r, f: 1 + r.abs().mean() + f.abs().mean()), lambda r, f: [2 / r.new_tensor(r.numel())] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", VECTORS)
@pytest.mark.parametrize("number", range(2, 9))
def test_relativistic(dtype, layout, number):
    real, fake = sample(layout, dtype, 1), sample(layout, dtype, 2)
    ours, peer = both("discriminator_loss", relativisticgan, peer_relativistic)
    scale, slope = parts(number)
    options = {"scale": scale, "slope": slope}
    if dtype is torch.float64 and number in (5, 6):
        # There a float32 target makes the result of float64 outputs float32.
        options["dtype"] = torch.float64
    compare(lambda r, f: ours(r, f, number), lambda r, f: peer(r, f, loss_D=number), (real, fake), **options)
    ours, peer = both("generator_loss", relativisticgan, peer_relativistic)
    if number in (3, 4):
        options["scale"] = lambda r, f: f.abs().mean()
    compare(lambda r, f: ours(f, r, number), lambda r, f: peer(f, r, loss_D=number), (real, fake), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edges", [False, True])
def test_relativistic_of_probabilities(dtype, edges):
    draw = torch.Generator().manual_seed(2)
    real, fake = torch.rand(2, 40, generator=draw, dtype=torch.float64).to(dtype) * 0.98 + 0.01
    if edges:  # the floor of the logarithm
        real, fake = torch.tensor([0.0, 1.0, 1e-30, 0.5]).to(dtype), torch.tensor([1.0, 0.0, 0.5, 1e-30]).to(dtype)
    ours, peer = both("discriminator_loss", relativisticgan, peer_relativistic)
    compare(lambda r, f: ours(r, f, 1), lambda r, f: peer(r, f, 1), (real, fake))
    ours, peer = both("generator_loss", relativisticgan, peer_relativistic)
    compare(lambda f: ours(f, loss_D=1), lambda f: peer(f, loss_D=1), (fake,))


def test_relativistic_refuses_what_would_broadcast():
    for number in (5, 6, 7, 8):
        with pytest.raises((TypeError, ValueError)):
            relativisticgan.generator_loss(torch.zeros(4), loss_D=number)
    with pytest.raises(ValueError):
        relativisticgan.discriminator_loss(torch.zeros(4, 1), torch.zeros(4), 5)
    with pytest.raises(ValueError):
        relativisticgan.generator_loss(torch.zeros(4, 1), torch.zeros(4), 5)


def test_relativistic_detaches_nothing():
    for number in range(5, 9):
        r, f = (torch.tensor(x, requires_grad=True) for x in ([0.5, -0.25], [0.25, 0.0]))
        relativisticgan.generator_loss(f, r, number).backward()
        assert r.grad.abs().sum() > 0
        assert f.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------- penalties


class Flat(Critic):
    """Logits of shape (N, 1), and none of the second sample's pixels matter."""

    def forward(self, x):
        gate = torch.ones(len(x), 1, dtype=x.dtype)
        gate[1] = 0.0
        return gate * super().forward(x)[:, None]


class Column(Critic):
    """Logits of shape (N, 1)."""

    def forward(self, x):
        return super().forward(x)[:, None]


def float32(kind):
    return lambda: kind(dtype=torch.float32)


def numpy_too(function):
    """`function` with NumPy's generator seeded, and what NumPy would draw next besides."""

    def call(*args):
        np.random.seed(3)
        value = function(*args)
        return value, float(np.random.random())

    return call


# name, a call of (module, discriminator, real, fake).
PENALTIES = {
    "stylegan2 r1": (stylegan2, peer_stylegan2, lambda m, D, x, y: m.d_r1_loss(D(x), x)),
    "stylegan3 r1": (stylegan3, peer_stylegan3, lambda m, D, x, y: m.r1_penalty(D(x), x)),
    "r3gan": (r3gan, peer_r3gan, lambda m, D, x, y: m.AdversarialTraining.ZeroCenteredGradientPenalty(x, D(x))),
    "r3gan instance": (
        r3gan,
        peer_r3gan,
        lambda m, D, x, y: m.AdversarialTraining(None, None).ZeroCenteredGradientPenalty(Samples=x, Critics=D(x)),
    ),
    "wgan_gp": (wgan_gp, peer_wgan, lambda m, D, x, y: m.compute_gradient_penalty(D, x, y)),
    "wgan_gp dragan": (wgan_gp, peer_wgan, lambda m, D, x, y: m.compute_gradient_penalty_dragan(D, x, 10)),
    "wgan_gp dragan weight": (wgan_gp, peer_wgan, lambda m, D, x, y: m.compute_gradient_penalty_dragan(D, x, 0.3)),
    "wgan_gp caogang": (wgan_gp, peer_wgan, lambda m, D, x, y: m.calc_gradient_penalty(D, x, y, 10)),
    "wgan_gp caogang weight": (wgan_gp, peer_wgan, lambda m, D, x, y: m.calc_gradient_penalty(D, x, y, LAMBDA=0.1)),
    "wgan_gp caogang text": (
        wgan_gp,
        peer_wgan,
        lambda m, D, x, y: m.calc_gradient_penalty(D, x, y, 10, over="dim1"),
    ),
    "wgan_gp div": (
        wgan_gp,
        peer_wgan,
        lambda m, D, x, y: m.compute_gradient_penalty_div(D(x), x, D(y), y, k=2, p=6),
    ),
    "wgan_gp div weight": (
        wgan_gp,
        peer_wgan,
        lambda m, D, x, y: m.compute_gradient_penalty_div(D(x), x, D(y), y, k=0.3, p=2),
    ),
    "relativisticgan": (
        relativisticgan,
        peer_relativistic,
        lambda m, D, x, y: m.gradient_penalty(lambda z: D(z).flatten(), x, y, penalty=10.0),
    ),
    "relativisticgan weight": (
        relativisticgan,
        peer_relativistic,
        lambda m, D, x, y: m.gradient_penalty(lambda z: D(z).flatten(), x, y, penalty=2.5),
    ),
    "magvit2": (magvit2, peer_magvit2, lambda m, D, x, y: m.gradient_penalty(x, D(x))),
    "magvit2 center": (magvit2, peer_magvit2, lambda m, D, x, y: m.gradient_penalty(x, D(x), center=0.7)),
    "gigagan": (gigagan, peer_gigagan, lambda m, D, x, y: m.gradient_penalty(x, D(x))),
    "gigagan options": (
        gigagan,
        peer_gigagan,
        lambda m, D, x, y: m.gradient_penalty(x, D(x), weight=3, center=0.7),
    ),
    "gigagan list": (
        gigagan,
        peer_gigagan,
        lambda m, D, x, y: m.gradient_penalty(x, [D(x), x.square().sum((1, 2)), D(2 * x)]),
    ),
    "gigagan weights": (
        gigagan,
        peer_gigagan,
        lambda m, D, x, y: m.gradient_penalty(x, (D(x), x.square()), grad_output_weights=[0.5, 2.0]),
    ),
}
DETACHED = ["wgan_gp dragan", "wgan_gp caogang", "relativisticgan"]


def sides(case):
    ours, peer, call = PENALTIES[case]
    return [numpy_too(lambda D, x, y, m=m: call(m, D, x, y)) for m in (ours, peer)]


def tolerance(case):
    """There 1 - alpha, with alpha from NumPy, is rounded to float32 also when the data are float64."""
    return 1e-6 if case == "wgan_gp" else 1e-10


@pytest.mark.parametrize("kind", [Column, Flat])
@pytest.mark.parametrize("case", PENALTIES)
def test_penalties(case, kind):
    """In float64: value, draws, gradients for parameters and data; Flat has a row of zeros in its gradient."""
    same_penalty(*sides(case), images(), make_net=kind, tolerance=tolerance(case))


@pytest.mark.parametrize("case", PENALTIES)
def test_penalties_float32(case):
    same_penalty(*sides(case), images(torch.float32), make_net=float32(Column), tolerance=1e-4)


@pytest.mark.parametrize("case", [c for c in PENALTIES if not c.startswith(("wgan", "relat"))])
def test_penalties_bfloat16(case):
    """The result's dtype is the images'; the discriminator's own rounding is what differs from the peer's."""
    same_penalty(
        *sides(case), images(torch.bfloat16), make_net=lambda: Column(dtype=torch.bfloat16), tolerance=0.05
    )


@pytest.mark.parametrize("case", PENALTIES)
def test_penalties_of_another_seed_and_one_sample(case):
    ours, peer = sides(case)
    same_penalty(ours, peer, images(n=1, seed=9), make_net=Column, tolerance=tolerance(case))
    (a, *_), (b, *_) = (adapters.outcome(f, images(seed=9), Column(), seed=123) for f in (ours, peer))
    for x, y in zip(adapters.flat(a), adapters.flat(b), strict=True):
        assert adapters.close(x, y, tolerance(case))


@pytest.mark.parametrize("case", PENALTIES)
def test_which_penalties_reach_the_data(case):
    ours, peer = sides(case)
    reached = []
    for f in (ours, peer):
        _, (real, fake, *_), _ = adapters.outcome(f, images(), Column())
        reached.append([g is not None and bool(g.any()) for g in (real, fake)])
    assert reached[0] == reached[1]
    assert any(reached[0]) != (case.removesuffix(" weight").removesuffix(" text") in DETACHED)


@pytest.mark.parametrize("case", PENALTIES)
def test_penalties_of_channels_last(case):
    """There `view` of the gradient raises in some; the result is that of contiguous images."""
    ours, _ = sides(case)
    plain = images()
    last = [x.contiguous(memory_format=torch.channels_last) for x in plain]
    (a, grads, _), (b, others, _) = (adapters.outcome(ours, x, Column()) for x in (plain, last))
    for x, y in zip(adapters.flat(a), adapters.flat(b), strict=True):
        assert adapters.close(x, y, 1e-10)
    for x, y in zip(grads, others, strict=True):
        assert (x is None and y is None) or adapters.close(x, y, 1e-10)


@pytest.mark.parametrize("case", [c for c in PENALTIES if c.startswith(("wgan", "relat")) and " div" not in c])
def test_data_without_gradient(case):
    same_penalty(*sides(case), images(), make_net=Column, wants=False, tolerance=tolerance(case))


@pytest.mark.parametrize("name", ["compute_gradient_penalty", "compute_gradient_penalty_dragan"])
def test_wgan_takes_logits_of_any_shape(name):
    real, fake = images()
    arguments = (real, 10) if name.endswith("dragan") else (real, fake)
    found = []
    for net in (Column(), Critic()):
        np.random.seed(1)
        torch.manual_seed(1)
        found.append(getattr(wgan_gp, name)(net, *arguments).item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_wgan_text_and_toy_data():
    draw = torch.Generator().manual_seed(4)
    for shape, over in [((5, 7, 3), "dim1"), ((5, 7, 3), "sample"), ((6, 2), "sample")]:
        real, fake = torch.randn(2, *shape, generator=draw, dtype=torch.float64)

        def critic():
            net = nn.Sequential(nn.Linear(shape[-1], 4), nn.Tanh(), nn.Linear(4, 1)).double()
            for i, p in enumerate(net.parameters()):
                p.data.copy_(torch.linspace(-1, 1 + i, p.numel(), dtype=torch.float64).view(p.shape))
            return net

        ours, peer = (
            lambda D, x, y, m=m, over=over: m.calc_gradient_penalty(D, x, y, 10, over=over)
            for m in (wgan_gp, peer_wgan)
        )
        same_penalty(ours, peer, (real, fake), make_net=critic)


# Numbers that a script keeps in globals, options or attributes: the call, with all but that number.
GLOBALS = {
    "LAMBDA": lambda D, x: wgan_gp.calc_gradient_penalty(D, x, x),
    "lambda_gp": lambda D, x: wgan_gp.compute_gradient_penalty_dragan(D, x),
    "k": lambda D, x: wgan_gp.compute_gradient_penalty_div(D(x), x, D(x), x, p=6),
    "p": lambda D, x: wgan_gp.compute_gradient_penalty_div(D(x), x, D(x), x, k=2),
    "penalty": lambda D, x: relativisticgan.gradient_penalty(D, x, x),
    "loss_D": lambda D, x: relativisticgan.discriminator_loss(D(x), D(x)),
    "loss_D ": lambda D, x: relativisticgan.generator_loss(D(x)),
    "pl_decay": lambda D, x: stylegan3.path_length_penalty(x, x[:, :, 0], torch.zeros([])),
    "discriminator_weight": lambda D, x: taming.calculate_adaptive_weight(D(x).sum(), D(x).sum(), x),
}


@pytest.mark.parametrize("name", GLOBALS)
def test_k13_numbers_of_a_script_have_no_default(name):
    """K13: a script whose LAMBDA is 0.1 got 10, silently."""
    real = images()[0].requires_grad_()
    with pytest.raises(TypeError, match=rf"^{name.strip()}: expected .*(script|self)\S* .*, got None"):
        GLOBALS[name](Critic(), real)


def test_k13_text_data_need_over():
    """K13: a text critic's norms over dimension 1 became one over all of a sample."""
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"^over: expected 'dim1' or 'sample' for data of 3 dimensions, got None"):
        wgan_gp.calc_gradient_penalty(lambda x: x.square().sum((1, 2)), x, x, 10)
    with pytest.raises(ValueError, match=r"^over: expected 'sample' or 'dim1', got 'dim2'"):
        wgan_gp.calc_gradient_penalty(lambda x: x.square().sum((1, 2)), x, x, 10, over="dim2")


def test_relativistic_takes_a_smaller_last_batch():
    """The script's buffers have the full batch's size, and a smaller one raises there."""
    same_penalty(*sides("relativisticgan"), images(n=3), make_net=Column)


def test_magvit2_takes_videos():
    draw = torch.Generator().manual_seed(4)
    video = torch.randn(3, 2, 4, 5, 5, generator=draw, dtype=torch.float64)
    ours, peer = (
        lambda D, x, m=m: m.gradient_penalty(x, D(x.transpose(1, 2).flatten(0, 1))) for m in (magvit2, peer_magvit2)
    )
    same_penalty(ours, peer, (video,), make_net=lambda: Critic(channels=2, maps=True))


@pytest.mark.parametrize("module", [magvit2, gigagan])
def test_images_must_require_grad(module):
    real, _ = images()
    with pytest.raises((RuntimeError, ValueError)):
        module.gradient_penalty(real, Column()(real))


class Scaler:
    """What gigagan needs of a GradScaler."""

    def __init__(self, size):
        self.size = size

    def scale(self, x):
        return x * self.size

    def get_scale(self):
        return self.size


@pytest.mark.parametrize("size", [1024.0, 1e-6])
def test_gigagan_scaler(size):
    """1e-6 is below eps, which the gradient is then divided by."""
    ours, peer = (
        lambda D, x, m=m: m.gradient_penalty(x, [D(x), D(3 * x)], scaler=Scaler(size), center=0.5)
        for m in (gigagan, peer_gigagan)
    )
    same_penalty(ours, peer, images()[:1], make_net=Column)


def test_gigagan_grad_scaler():
    real = images(torch.float32)[0].requires_grad_()
    net = Column(dtype=torch.float32)
    scaled = gigagan.gradient_penalty(real, net(real), scaler=torch.amp.GradScaler("cpu", init_scale=4096.0))
    plain = gigagan.gradient_penalty(real, net(real))
    assert scaled.item() == pytest.approx(plain.item(), rel=1e-5)


def test_magvit2_layer_gradient():
    net = Column()
    loss = magvit2.hinge_gen_loss(net(images()[0]))
    first = magvit2.grad_layer_wrt_loss(loss, net.second.weight)
    again = magvit2.grad_layer_wrt_loss(loss, layer=net.second.weight)
    expected = peer_magvit2.grad_layer_wrt_loss(peer_magvit2.hinge_gen_loss(net(images()[0])), net.second.weight)
    assert first.equal(again)
    assert not first.requires_grad
    torch.testing.assert_close(first, expected, rtol=1e-10, atol=0)
    loss.backward()
    torch.testing.assert_close(net.second.weight.grad, expected, rtol=1e-10, atol=0)


# ---------------------------------------------------------------------------------- path length


class Synthesis(nn.Module):
    """Latents (N, L, d) to images (N, 3, 4, 5), smooth."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(14, 60, generator=draw, dtype=torch.float64).to(dtype) / 3)

    def forward(self, latents):
        return torch.tanh(latents.flatten(1) @ self.weight).view(-1, 3, 4, 5)


def latents(dtype=torch.float64):
    return torch.randn(4, 2, 7, generator=torch.Generator().manual_seed(8), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("mean", [0, 0.8, torch.tensor(0.3)])
@pytest.mark.parametrize("decay", [0.01, 0.5])
@pytest.mark.parametrize("which", ["penalty", "lengths"])
def test_stylegan2_path(dtype, tolerance, mean, decay, which):
    mean = mean.to(dtype) if isinstance(mean, torch.Tensor) else mean

    def call(module):
        def run(net, w):
            penalty, m, lengths = module.g_path_regularize(net(w), w, mean, decay=decay)
            assert not m.requires_grad
            return (penalty, m, lengths) if which == "penalty" else (m, lengths.square())

        return run

    ours, peer = call(stylegan2), call(peer_stylegan2)
    same_penalty(ours, peer, (latents(dtype),), make_net=lambda: Synthesis(dtype), tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("options", [{"pl_decay": 0.01}, {"pl_decay": 0.5}])
def test_stylegan3_path(dtype, tolerance, options):
    def call(module):
        def run(net, w):
            mean = torch.tensor(0.4, dtype=dtype)
            kept = mean
            penalty = module.path_length_penalty(net(w), w, mean, **options)
            assert kept.item() != 0.4  # overwritten in place
            assert not mean.requires_grad
            return penalty, mean

        return run

    ours, peer = call(stylegan3), call(peer_stylegan3)
    same_penalty(ours, peer, (latents(dtype),), make_net=lambda: Synthesis(dtype), tolerance=tolerance)


# ---------------------------------------------------------------------------------- R3GAN


class Conditional(Critic):
    """A discriminator (x, c) that records whom it saw, with logits of (N,) or (N, 1)."""

    def __init__(self, column=False):
        super().__init__()
        self.column, self.seen = column, []

    def forward(self, x, c):
        self.seen.append(x.detach().mean().item())
        y = super().forward(x) * c
        return y[:, None] if self.column else y


class Generator(nn.Module):
    """Noise (N, 6) and a condition to images (N, 3, 6, 6)."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(6, 108, generator=draw, dtype=torch.float64) / 3)

    def forward(self, z, c):
        return torch.tanh(z @ self.weight).view(-1, 3, 6, 6) + c.view(-1, 1, 1, 1)


def r3_step(module, step, column=False, **options):
    generator, discriminator = Generator(), Conditional(column)
    training = module.AdversarialTraining(generator, discriminator)
    draw = torch.Generator().manual_seed(6)
    noise = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    conditions = torch.rand(4, generator=draw, dtype=torch.float64)
    real = images()[0].requires_grad_()
    result = getattr(training, step)(noise, real, conditions, **options)
    assert type(result) is list
    assert not any(x.requires_grad for x in result)
    assert real.grad is None
    return (
        result,
        discriminator.seen,
        [p.grad for net in (generator, discriminator) for p in net.parameters()],
        training,
    )


STEPS = [
    ("AccumulateGeneratorGradients", {}),
    ("AccumulateGeneratorGradients", {"Scale": 0.25}),
    ("AccumulateGeneratorGradients", {"Preprocessor": lambda x: x.square() + 0.5 * x}),
    ("AccumulateDiscriminatorGradients", {"Gamma": 2.0}),
    ("AccumulateDiscriminatorGradients", {"Gamma": 0.5, "Scale": 3}),
    ("AccumulateDiscriminatorGradients", {"Gamma": 5, "Preprocessor": lambda x: x.square() + 0.5 * x}),
]


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize(("step", "options"), STEPS)
def test_r3gan(step, options, column):
    results, seen, grads, _ = r3_step(r3gan, step, column, **options)
    expected, order, expected_grads, _ = r3_step(peer_r3gan, step, column, **options)
    assert adapters.skeleton(results) == adapters.skeleton(expected)
    for a, b in zip(results, expected, strict=True):
        assert adapters.close(a, b, 1e-10)
    assert seen == order
    for a, b in zip(grads, expected_grads, strict=True):
        assert (a is None) == (b is None)
        assert a is None or adapters.close(a, b, 1e-10)


def test_r3gan_accumulates():
    draw = torch.Generator().manual_seed(6)
    noise, conditions = torch.randn(4, 6, generator=draw, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    generator, discriminator = Generator(), Conditional()
    training = r3gan.AdversarialTraining(generator, discriminator)
    assert training.Generator is generator
    assert training.Discriminator is discriminator
    for _ in range(2):
        training.AccumulateGeneratorGradients(noise, images()[0], conditions)
    twice = generator.weight.grad.clone()
    generator.zero_grad()
    training.AccumulateGeneratorGradients(noise, images()[0], conditions)
    torch.testing.assert_close(twice, 2 * generator.weight.grad, rtol=1e-12, atol=0)


class Rectified(nn.Module):
    """A critic of convolutions and leaky_relu, and a condition."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 1),
        ).double()

    def forward(self, x, c=None):
        y = self.body(x).flatten()
        return y if c is None else y * c


class Unpruned(r3gan.AdversarialTraining):
    """One whose penalty is its own, which gets the logits of a plain forward."""

    calls = 0

    @staticmethod
    def ZeroCenteredGradientPenalty(Samples, Critics):
        Unpruned.calls += 1
        return r3gan.AdversarialTraining.ZeroCenteredGradientPenalty(Samples, Critics)


@pytest.mark.parametrize(
    "preprocessor", [lambda x: x, lambda x: x.abs() + x.square(), lambda x: x + torch.randn_like(x)]
)
def test_r3gan_prunes(preprocessor):
    """Results, draws and all gradients are the same bit by bit."""
    found, pruned = [], []
    for kind in (r3gan.AdversarialTraining, Unpruned):
        net = Rectified()
        torch.manual_seed(9)
        noise, conditions = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            results = kind(Generator(), net).AccumulateDiscriminatorGradients(
                noise, images()[0], conditions, 2.0, Preprocessor=preprocessor
            )
        found.append([*results, *[p.grad for p in net.parameters()], torch.randn(3)])
        pruned.append(any("PiecewiseLinearBackward" in e.name for e in profile.events()))
    assert Unpruned.calls
    assert pruned == [True, False]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("trainer", ["stylegan2", "stylegan3", "basicsr"])
def test_r1_of_a_discriminator_instead_of_its_logits(trainer):
    """The weights that docs/drop-ins/stylegan.md names."""
    gamma, every, net = 10.0, 16, Rectified()
    real, fake = images()
    real.requires_grad_()
    if trainer == "stylegan3":
        old = (stylegan3.r1_penalty(net(real), real) * (gamma / 2)).mean()
        new = fastgan.r1_penalty(net, real, weight=gamma)
    else:
        r1 = stylegan2.d_r1_loss if trainer == "stylegan2" else basicsr.r1_penalty
        old = gamma / 2 * r1(net(real), real) * every
        new = fastgan.r1_penalty(net, real, weight=gamma * every)
        assert fastgan.r1_penalty(net, real, weight=2.0).item() == pytest.approx(
            r1(net(real), real).item(), rel=1e-13
        )
    weight = gamma if trainer == "stylegan3" else gamma * every
    r1 = fastgan.nn.GradientPenalty("r1", weight=weight)
    step = fastgan.discriminator_step(net, real, fake, loss="nonsaturating", penalty=r1)
    assert step.penalty.item() == pytest.approx(old.item(), rel=1e-13)
    for a, b in zip(*(torch.autograd.grad(v, list(net.parameters())[:-1]) for v in (old, new)), strict=True):
        assert adapters.close(a, b, 1e-12)


def test_r3gan_refuses_unpaired_logits():
    generator = Generator()
    shapes = iter([(4, 1), (4,)])
    training = r3gan.AdversarialTraining(generator, lambda x, c: x.flatten(1).sum(1).view(next(shapes)))
    with pytest.raises(ValueError):
        training.AccumulateGeneratorGradients(torch.randn(4, 6).double(), images()[0], torch.ones(4).double())


def test_r3gan_penalty_needs_no_root_at_zero():
    x = torch.zeros(2, 1, 2, 2, requires_grad=True)
    penalty = r3gan.AdversarialTraining.ZeroCenteredGradientPenalty(x, F.softplus(0 * x).sum((1, 2, 3)))
    penalty.sum().backward()
    assert penalty.tolist() == [0.0, 0.0]
    assert x.grad.isfinite().all()
