"""fastgan.compat: taming-transformers, MONAI and tfgan against their formulas."""

import warnings

import pytest
import torch
from torch import nn

from bench.baselines import monai as peer_monai
from bench.baselines import taming as peer_taming
from bench.baselines import tfgan as peer_tfgan
from fastgan.compat import monai, taming, tfgan
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES, LAYOUTS, Critic, compare, images, same_penalty, sample, twice

MODULES = [(taming, peer_taming), (monai, peer_monai), (tfgan, peer_tfgan)]
NAMES = [(ours, peer, n) for ours, peer in MODULES for n in adapters.public(peer) if n != "AdversarialCriterions"]


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.mark.parametrize(("ours", "peer", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_names_and_signatures(ours, peer, name):
    adapters.same_interface(getattr(ours, name), getattr(peer, name))
    assert name in ours.__all__


# ---------------------------------------------------------------------------------- taming


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["hinge_d_loss", "vanilla_d_loss"])
def test_taming_discriminator(dtype, layout, name):
    inputs = sample(layout, dtype, 1), sample(layout, dtype, 2)
    # The derivative of softplus is within 1 ulp; it is then multiplied by 1/(2n), rounded too.
    compare(getattr(taming, name), getattr(peer_taming, name), inputs, more=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_taming_generator(dtype, layout):
    inputs = (sample(layout, dtype),)
    compare(taming.hinge_gen_loss, peer_taming.hinge_gen_loss, inputs, scale=lambda f: f.abs().mean())


@pytest.mark.parametrize("name", ["hinge_d_loss", "vanilla_d_loss"])
def test_taming_unequal_batches_and_half(name):
    compare(getattr(taming, name), getattr(peer_taming, name), (torch.randn(3, 1, 4, 4), torch.randn(5, 1, 2)))
    loss = getattr(taming, name)(logits_real=torch.full((4,), -99.0), logits_fake=torch.full((3,), -99.0))
    assert loss.item() == (50.0 if name == "hinge_d_loss" else 49.5)


def test_taming_adopt_weight():
    for step, threshold, value, expected in [
        (0, 0, 0.0, 0.7),
        (4, 5, 0.0, 0.0),
        (5, 5, 0.0, 0.7),
        (4, 5, -1.0, -1.0),
    ]:
        got = taming.adopt_weight(0.7, step, threshold=threshold, value=value)
        assert got == expected == peer_taming.adopt_weight(0.7, step, threshold, value)
        assert type(got) is float
    assert taming.adopt_weight(1, 3) == 1
    assert type(taming.adopt_weight(1, 3)) is int


class Decoder(nn.Module):
    """A last layer, and the losses whose gradients at it are weighed."""

    def __init__(self, dtype, size=1.0):
        super().__init__()
        draw = torch.Generator().manual_seed(2)
        self.last = nn.Conv2d(4, 3, 3, padding=1, dtype=dtype)
        self.critic = nn.Conv2d(3, 1, 3, dtype=dtype)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64) / 5)
        self.size = size
        self.x = torch.randn(2, 4, 6, 6, generator=draw, dtype=torch.float64).to(dtype)

    def forward(self, losses):
        image = self.last(self.x)
        return (image - 0.3).abs().mean(), self.size * losses.hinge_gen_loss(self.critic(image))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0, 1e6])
@pytest.mark.parametrize("options", [{"discriminator_weight": 1.0}, {"discriminator_weight": 0.8}])
def test_taming_adaptive_weight(dtype, tolerance, size, options):
    """Size 0 reaches the ceiling; both losses still go backward afterwards."""
    found = []
    for module in (taming, peer_taming):
        net = Decoder(dtype, size)
        nll, g = net(module)
        weight = module.calculate_adaptive_weight(nll, g, net.last.weight, **options)
        assert (weight.shape, weight.dtype, weight.requires_grad) == ((), dtype, False)
        (nll + weight * g).backward()
        found.append((weight, net.last.weight.grad, net.critic.weight.grad))
    for a, b in zip(*found, strict=True):
        assert adapters.close(a, b, tolerance)


def test_taming_adaptive_weight_is_clamped_before_the_factor():
    w = torch.ones(3, requires_grad=True)
    weight = taming.calculate_adaptive_weight(1e6 * w.sum(), 0 * w.sum(), w, 0.5)
    assert weight.item() == 5000.0
    assert taming.calculate_adaptive_weight(0 * w.sum(), w.sum(), w, 1.0).item() == 0.0


@pytest.mark.parametrize("name", ["hinge_d_loss", "vanilla_d_loss"])
def test_taming_losses_survive_more_than_one_backward(name):
    x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
    y = (x.detach() / 3).requires_grad_()
    twice(getattr(taming, name)(x, y), x, y)
    loss = getattr(taming, name)(2 * x, y)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    loss.backward()
    assert x.grad.equal(first)


# ---------------------------------------------------------------------------------- MONAI

CRITERIA = ["bce", "hinge", "least_squares"]


def scaled(criterion):
    """The size of what cancels in hinge's 1 - tanh(x), and in its derivative 1 - tanh(x)^2.

    Least squares has an activation before, of a constant that is rounded, and products in its gradient: 4 ulp.
    """
    if criterion != "hinge":
        return {"more": 2.0, "more_value": 2.0} if criterion == "least_squares" else {"more": 1.0}
    return {
        "scale": lambda *xs: torch.tensor(float(len(adapters.flat(xs)))),
        "slope": lambda *xs: [torch.tensor(1.0 / x.numel()) for x in adapters.flat(xs)],
    }


def calls(target, for_discriminator, *arguments, **options):
    """The adapter's and the peer's loss, as functions of the input."""
    losses = (m.PatchAdversarialLoss(*arguments, **options) for m in (monai, peer_monai))
    return [lambda x, loss=loss: loss(x, target, for_discriminator) for loss in losses]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("target", [True, False])
def test_monai(dtype, layout, criterion, target):
    ours, peer = calls(target, True, criterion=criterion)
    compare(ours, peer, (sample(layout, dtype),), **scaled(criterion))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("one", [True, False])
def test_monai_reductions(dtype, criterion, reduction, target, one):
    """One tensor, or a list of them of unequal sizes; "none" is always a list."""
    members = [sample(layout, dtype, i) for i, layout in enumerate(("maps", "N", "strided"))]
    ours, peer = calls(target, True, reduction, criterion)
    compare(ours, peer, (members[0] if one else members,), **scaled(criterion))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("layout", ["edges", "maps"])
def test_monai_without_activation(dtype, target, layout):
    ours, peer = calls(target, True, no_activation_leastsq=True)
    compare(ours, peer, (sample(layout, dtype),))


def test_monai_shares_a_tie_of_the_minimum():
    """tanh is 1 from 10 on: the minimum is at its tie, where its derivative is half, of a slope of 0."""
    x = torch.tensor([0.0, 20.0], requires_grad=True)
    monai.PatchAdversarialLoss(criterion="hinge")(x, True, True).backward()
    assert x.grad.tolist() == [-0.5, 0.0]


def test_monai_least_squares_slope_at_zero():
    x = torch.zeros(1, requires_grad=True)
    monai.PatchAdversarialLoss()(x, True, True).backward()
    assert x.grad.item() == pytest.approx(-0.1)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_monai_generator(criterion):
    """It is the loss on real, also for hinge; a wrong flag warns and is not used."""
    x = sample("maps", torch.float32)
    real = monai.PatchAdversarialLoss(criterion=criterion)(x, True, True)
    loss = monai.PatchAdversarialLoss(criterion=criterion)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loss(x, target_is_real=True, for_discriminator=False).equal(real)
        loss(x, target_is_real=False, for_discriminator=True)
    with pytest.warns(UserWarning, match="target_is_real"):
        assert loss(x, target_is_real=False, for_discriminator=False).equal(real)


@pytest.mark.parametrize("target", [True, False])
def test_monai_bce_holds_where_sigmoid_saturates(target):
    """There the loss on fake jumps to 100 past 17, and the gradient on real fades below -28."""
    x = torch.tensor([17.0, 40.0, -28.0, -90.0, 1e4, -1e4], requires_grad=True)
    ours, peer = calls(target, True, criterion="bce")
    compare(ours, peer, (x.detach(),))
    ours(x).backward()
    wrong = (x < 0) if target else (x > 0)
    assert x.grad[wrong].abs().tolist() == pytest.approx([1 / 6] * 3)


def test_monai_bce_agrees_with_sigmoid_and_log():
    x = torch.linspace(-8, 8, 101)
    for target in (True, False):
        s = torch.sigmoid(x)
        expected = nn.BCELoss()(s, torch.full_like(s, float(target)))
        got = monai.PatchAdversarialLoss(criterion="bce")(x, target, True)
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_monai_names():
    assert {m.value for m in monai.AdversarialCriterions} == set(CRITERIA)
    assert {m.name for m in monai.AdversarialCriterions} == {m.name for m in peer_monai.AdversarialCriterions}
    assert monai.AdversarialCriterions.BCE == "bce"
    x = torch.randn(5)
    for member in monai.AdversarialCriterions:
        a, b = (monai.PatchAdversarialLoss(criterion=c)(x, True, True) for c in (member, member.value))
        assert a.equal(b)
    with pytest.raises(ValueError):
        monai.PatchAdversarialLoss(criterion="wgan")


def test_monai_takes_tuples_and_capitals():
    """There a tuple fails, and names in capitals pass the constructor to fail at the call."""
    members = [torch.randn(3), torch.randn(4, 2)]
    for criterion in CRITERIA:
        expected = monai.PatchAdversarialLoss(criterion=criterion)(members, False, True)
        assert monai.PatchAdversarialLoss(criterion=criterion.upper())(tuple(members), False, True).equal(expected)


def test_monai_second_backward():
    for criterion in CRITERIA:
        x = torch.linspace(-2, 2, 9, requires_grad=True)
        twice(monai.PatchAdversarialLoss(criterion=criterion)([x, 2 * x], False, True), x)


# ---------------------------------------------------------------------------------- tfgan

GENERATORS = [
    "wasserstein_generator_loss",
    "wasserstein_hinge_generator_loss",
    "minimax_generator_loss",
    "modified_generator_loss",
    "least_squares_generator_loss",
]
DISCRIMINATORS = [
    "wasserstein_discriminator_loss",
    "wasserstein_hinge_discriminator_loss",
    "minimax_discriminator_loss",
    "modified_discriminator_loss",
    "least_squares_discriminator_loss",
]
RELATIVISTIC = ["relativistic_discriminator_loss", "relativistic_generator_loss"]
REDUCTIONS = ["weighted_sum_by_nonzero_weights", "weighted_sum", "weighted_mean", "weighted_sum_over_batch_size"]
WIDE = [torch.float32, torch.float64]


def tf(name, **options):
    return [lambda *x, m=m: getattr(m, name)(*x, **options) for m in (tfgan, peer_tfgan)]


def absolute(*xs):
    """The size of a mean of logits of both signs, and of a constant beside."""
    return 2 + sum(x.abs().mean() for x in xs)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GENERATORS + DISCRIMINATORS)
def test_tfgan_defaults(dtype, layout, name):
    inputs = [sample(layout, dtype, i) for i in range(1 if name in GENERATORS else 2)]
    # With a soft label softplus(x) - t x cancels, and so does its derivative, which is no larger than 1.
    slope = (lambda *xs: [torch.tensor(1 / x.numel()) for x in xs]) if "m" in name[:2] else None
    compare(*tf(name), tuple(inputs), scale=absolute, slope=slope, more=1.0)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("layout", ["N", "Nx1", "maps", "one", "strided"])
@pytest.mark.parametrize("name", RELATIVISTIC)
def test_tfgan_relativistic(dtype, layout, name):
    inputs = sample(layout, dtype, 1), sample(layout, dtype, 2)
    slope = lambda *xs: [torch.tensor(2 / x.numel()) for x in xs]  # noqa: E731
    compare(*tf(name), inputs, scale=absolute, slope=slope, more=2.0)
    compare(*tf(name, real_weights=0.5, generated_weights=2), inputs, scale=absolute, slope=slope, more=4.0)


OPTIONS = [
    ("wasserstein_generator_loss", {"weights": 2.3}),
    ("minimax_generator_loss", {"weights": 2.3, "label_smoothing": 0.5}),
    ("modified_generator_loss", {"label_smoothing": 0.5, "weights": 0.0}),
    (
        "modified_generator_loss",
        {"label_smoothing": 0.25, "scope": "s", "loss_collection": None, "add_summaries": True},
    ),
    ("least_squares_generator_loss", {"real_label": 0.9, "weights": 2}),
    ("wasserstein_discriminator_loss", {"real_weights": 2.3, "generated_weights": 0.5}),
    ("wasserstein_hinge_discriminator_loss", {"real_hinge": 0.5, "generated_hinge": 2.0, "real_weights": 3}),
    ("minimax_discriminator_loss", {"label_smoothing": 0.0, "generated_weights": 0.1}),
    ("modified_discriminator_loss", {"label_smoothing": 1.0, "real_weights": 0.1}),
    ("least_squares_discriminator_loss", {"real_label": 2, "fake_label": -1, "real_weights": 0.3}),
]


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_tfgan_options(reduction, name, options):
    """In float64, where weights as numbers are not rounded."""
    if reduction == "weighted_mean" and 0.0 in options.values():
        pytest.skip("nothing divided by nothing")
    inputs = [sample("maps", torch.float64, i) for i in range(1 if "generator" in name else 2)]
    slope = lambda *xs: [torch.tensor(3.0) for _ in xs]  # noqa: E731
    ours, peer = tf(name, reduction=reduction, **options)
    sums = (
        {"scale": lambda *xs: torch.tensor(4000.0)}
        if reduction != "none"
        else {"scale": lambda *xs: torch.tensor(10.0)}
    )
    compare(ours, peer, tuple(inputs), slope=slope, **sums)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 1, 5, 7), (1, 1, 1, 7), ()])
def test_tfgan_weights_as_tensors(reduction, shape):
    """A tensor of weights broadcasts, and its zeros are not counted."""
    weights = torch.linspace(-0.5, 2, 140, dtype=torch.float64)[: torch.Size(shape).numel()].view(shape).clone()
    weights[weights.abs() < 0.3] = 0.0
    for name in ("wasserstein_generator_loss", "modified_generator_loss", "minimax_generator_loss"):
        compare(
            *tf(name, weights=weights, reduction=reduction),
            (sample("maps", torch.float64),),
            scale=lambda f: torch.tensor(4000.0),
            slope=lambda f: [torch.ones(())],
        )
    options = {"real_weights": weights, "generated_weights": 0.7, "reduction": reduction}
    inputs = sample("maps", torch.float64, 1), sample("maps", torch.float64, 2)
    size = {"scale": lambda *xs: torch.tensor(4000.0), "slope": lambda *xs: [torch.ones(())] * 2}
    for name in DISCRIMINATORS + RELATIVISTIC:
        compare(*tf(name, **options), inputs, **size)


def test_tfgan_numbers():
    f = torch.tensor([0.0, 0.0])
    assert tfgan.minimax_generator_loss(f).item() == pytest.approx(-0.693147 - 0.313262, rel=1e-5)
    assert tfgan.minimax_generator_loss(f, weights=2.3).item() == pytest.approx(
        2.3 * (-0.693147 - 0.313262), rel=1e-5
    )
    assert tfgan.wasserstein_generator_loss(f - 3, weights=2.3).item() == pytest.approx(6.9)
    assert tfgan.least_squares_generator_loss(f).item() == 0.5
    x = torch.tensor([2.0])
    assert tfgan.minimax_discriminator_loss(x, x - 99).item() == pytest.approx(0.126928 + 0.125 * 2, rel=1e-5)
    assert tfgan.wasserstein_generator_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])).item() == -3.0


TF_PENALTIES = [
    {},
    {"target": 0.4},
    {"target": 0.8, "one_sided": True},
    {"target": 0.1, "one_sided": True},
    {"epsilon": 0.5, "weights": 3.0},
    {"weights": torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)},
    {"reduction": "none"},
    {"reduction": "weighted_sum", "weights": 0.5},
]


@pytest.mark.parametrize("options", TF_PENALTIES)
@pytest.mark.parametrize("wants", [True, False])
def test_tfgan_penalty(options, wants):
    """The discriminator sees the generator's inputs, and may return a tuple."""

    def call(module):
        def critic(net):
            return lambda x, z: (net(x) * z, None)

        return lambda net, x, y: module.wasserstein_gradient_penalty(
            x, y, torch.linspace(0.5, 2, 4, dtype=x.dtype), critic(net), None, **options
        )

    same_penalty(call(tfgan), call(peer_tfgan), images(), wants=wants)


def test_tfgan_penalty_float32_and_a_zero_gradient():
    def call(module):
        gate = torch.tensor([1.0, 0.0, 1.0, 1.0])
        return lambda net, x, y: module.wasserstein_gradient_penalty(
            x, y, gate, lambda p, z: net(p) * z, discriminator_scope=None
        )

    same_penalty(
        call(tfgan),
        call(peer_tfgan),
        images(torch.float32),
        make_net=lambda: Critic(dtype=torch.float32),
        tolerance=1e-4,
    )
