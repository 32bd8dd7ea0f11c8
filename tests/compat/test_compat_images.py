"""The image trainers' adapters against the trainers' own formulas: CycleGAN, BasicSR, MMagic, MMGeneration, StudioGAN, BigGAN."""

import copy
import importlib
import inspect
import itertools
import pickle
import random
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.baselines import basicsr, biggan, cyclegan, mmagic, mmgen, studiogan
from tests.helpers.adapters import (
    DTYPES,
    LAYOUTS,
    Critic,
    backward,
    close,
    compare,
    images,
    outcome,
    public,
    same_parameters,
    same_penalty,
    sample,
    twice,
)

PEERS = {m.__name__.rpartition(".")[2]: m for m in (basicsr, biggan, cyclegan, mmagic, mmgen, studiogan)}
METHODS = ["forward", "get_target_tensor", "get_target_label", "loss_name", "cal_pl_reg"]
EXACT_LABELS, LABELS = (0.875, 0.125), (0.9, 0.1)
LABELS_AS_ROUNDED = [torch.tensor(t, dtype=dtype).item() for t in LABELS for dtype in DTYPES]


def ours(name):
    return importlib.import_module(f"fastgan.compat.{name}")


@pytest.fixture(autouse=True)
def _few_threads():
    torch.set_num_threads(1)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m in PEERS for n in public(PEERS[m])])
def test_names_and_parameters(module, name):
    mine, theirs = getattr(ours(module), name), getattr(PEERS[module], name)
    same_parameters(mine, theirs)
    for method in METHODS if inspect.isclass(theirs) else []:
        own = getattr(theirs, method, None)
        if own is not None and own is not nn.Module.forward:
            same_parameters(getattr(mine, method), own)


def test_cyclegan_is_called_by_these_names():
    own = inspect.signature(cyclegan.GANLoss.__call__)
    mine = ours("cyclegan").GANLoss
    call = mine.forward if mine.__call__ is nn.Module.__call__ else mine.__call__
    assert list(inspect.signature(call).parameters) == list(own.parameters)


@pytest.mark.parametrize("name", ["cut", "pix2pix"])
def test_other_names_of_cyclegan(name):
    assert ours(name).GANLoss is ours("cyclegan").GANLoss
    assert ours(name).cal_gradient_penalty is ours("cyclegan").cal_gradient_penalty


# ---------------------------------------------------------------------------------- GANLoss


def gan_loss_case(module, kind, dtype, labels):
    """Ours, theirs, theirs with labels as the dtype rounds them, and what a gradient's elements are made of."""
    mine, theirs = ours(module).GANLoss, PEERS[module].GANLoss
    # CycleGAN holds its labels in float32, the others in the prediction's dtype.
    held = torch.float32 if module == "cyclegan" else dtype
    rounded = [torch.tensor(t, dtype=held).item() for t in labels]
    return mine(kind, *labels), theirs(kind, *labels), in_double(theirs(kind, *rounded)), rounded


def in_double(loss):
    """With labels in float64: torch 2.11 has no gradient of squares of float64 and float32."""
    return copy.deepcopy(loss).double() if isinstance(loss, torch.nn.Module) else loss


def steepness(kind, x, label):
    """The size of the two numbers whose difference is the gradient's element."""
    if kind == "lsgan" and label in LABELS_AS_ROUNDED:
        return [2 * (x.abs() + abs(label)) / x.numel()]
    if kind == "vanilla" and label not in (0.0, 1.0):
        return [(torch.sigmoid(x) + abs(label)) / x.numel()]
    return [torch.zeros_like(x)]


def value_size(kind, x, label):
    """The size of the summands, where their signs differ."""
    if kind == "vanilla":
        return (F.softplus(x) + (label * x).abs()).mean() if label not in (0.0, 1.0) else 0 * x.abs().mean()
    return x.abs().mean() if kind in ("wgan", "wgangp", "hinge") else 0 * x.abs().mean()


# Of a soft label's gradient, sigmoid(x) - t, the difference is a rounding more: with sigmoid's, 1/n's and the product's.
SOFT = 0.5


TYPES = {
    "basicsr": ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"],
    "mmagic": ["vanilla", "lsgan", "wgan", "hinge", "l1"],
    "mmgen": ["vanilla", "lsgan", "wgan", "hinge", "wgan-logistic-ns"],
}
ALL_TYPES = [(m, kind) for m in TYPES for kind in TYPES[m]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("module", "kind"), ALL_TYPES)
def test_gan_loss(module, kind, dtype):
    for labels in [(1.0, 0.0), EXACT_LABELS, LABELS]:
        mine, theirs, rounded, held = gan_loss_case(module, kind, dtype, labels)
        layouts = LAYOUTS if labels == (1.0, 0.0) else ["maps", "edges"]
        for seed, (layout, real, disc) in enumerate(itertools.product(layouts, (True, False), (True, False))):
            if not disc and layout not in ("maps", "edges"):
                continue
            label = held[0] if real else held[1]
            compare(
                lambda x: mine(x, real, disc),
                lambda x: theirs(x, real, disc),
                (sample(layout, dtype, seed),),
                truth=lambda x: rounded(x, real, disc),
                scale=lambda x: value_size("wgan" if kind == "hinge" and not disc else kind, x, label),
                slope=lambda x: steepness(kind, x, label),
                more=SOFT if label not in (0.0, 1.0) else 0.0,
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("module", "kind"), ALL_TYPES)
def test_loss_weight_is_the_generators(module, kind, dtype):
    mine = ours(module).GANLoss(kind, loss_weight=0.125)
    theirs = PEERS[module].GANLoss(kind, loss_weight=0.125)
    for disc in (True, False):
        compare(
            lambda x: mine(input=x, target_is_real=True, is_disc=disc),
            lambda x: theirs(input=x, target_is_real=True, is_disc=disc),
            (sample("maps", dtype),),
            scale=lambda x: x.abs().mean(),
        )


@pytest.mark.parametrize(("module", "kind"), ALL_TYPES)
def test_any_loss_weight(module, kind):
    mine = ours(module).GANLoss(kind, 1.0, 0.0, 5e-3)
    theirs = PEERS[module].GANLoss(kind, 1.0, 0.0, 5e-3)
    for dtype in (torch.float32, torch.float64):
        compare(lambda x: mine(x, False), lambda x: theirs(x, False), (sample("N", dtype),))
    assert mine.loss_weight == 5e-3
    mine.loss_weight = theirs.loss_weight = 2.0  # schedules set it between steps
    compare(lambda x: mine(x, False), lambda x: theirs(x, False), (sample("N", torch.float32),))


@pytest.mark.parametrize("module", list(TYPES))
def test_target_labels(module):
    x = sample("maps", torch.bfloat16)
    for kind in TYPES[module]:
        mine, theirs = (m.GANLoss(kind, *LABELS) for m in (ours(module), PEERS[module]))
        for flag in (True, False):
            got, want = mine.get_target_label(x, flag), theirs.get_target_label(x, flag)
            if isinstance(want, bool):
                assert got is want
            else:
                assert got.dtype is want.dtype
                assert torch.equal(got.expand_as(want), want)


@pytest.mark.parametrize(
    ("module", "kind"), [*((m, "gan") for m in TYPES), ("mmagic", "wgan_softplus"), ("mmgen", "l1")]
)
def test_unknown_types(module, kind):
    with pytest.raises(NotImplementedError):
        ours(module).GANLoss(kind)
    if module == "mmagic":
        with pytest.raises(NotImplementedError):
            ours(module).GANLossComps("l1")


def test_a_second_backward_of_gan_losses():
    x = sample("maps", torch.float32).requires_grad_()
    for module, kind in ALL_TYPES:
        twice(ours(module).GANLoss(kind)(x, True, is_disc=True), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", TYPES["mmgen"])
def test_mmagic_gan_loss_comps(kind, dtype):
    mine, theirs = (m.GANLossComps(kind, loss_weight=2.0) for m in (ours("mmagic"), mmagic))
    for real in (True, False):
        for disc in (True, False):
            x = sample("maps", dtype, 3)
            compare(
                lambda x: mine(x, real, disc), lambda x: theirs(x, real, disc), (x,), scale=lambda x: x.abs().mean()
            )


# ---------------------------------------------------------------------------------- CycleGAN

MODES = ["lsgan", "vanilla", "wgangp", "nonsaturating"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("labels", [(1.0, 0.0), EXACT_LABELS, LABELS], ids=str)
def test_cyclegan(mode, labels, dtype):
    mine, theirs, truth, held = gan_loss_case("cyclegan", mode, dtype, labels)
    # Theirs rounds float64 to float32 there, by accident.
    result = torch.float64 if (mode, dtype) == ("vanilla", torch.float64) else None
    for seed, layout in enumerate(LAYOUTS if labels == (1.0, 0.0) else ["maps", "edges"]):
        for real in (True, False):
            label = held[0] if real else held[1]
            compare(
                lambda x: mine(x, real),
                lambda x: theirs(x, real),
                (sample(layout, dtype, seed),),
                truth=lambda x: truth(x, real),
                scale=None if mode == "nonsaturating" else lambda x: value_size(mode, x, label),
                slope=lambda x: steepness(mode, x, label),
                more=SOFT if label not in (0.0, 1.0) else 0.0,
                dtype=result,
            )


def test_cyclegan_of_modes_that_do_not_exist():
    for mode in ("hinge", "lsgan ", None):
        with pytest.raises(NotImplementedError):
            ours("cyclegan").GANLoss(mode)


def test_cyclegan_labels_are_buffers():
    mine, theirs = (m.GANLoss("lsgan", 0.9, 0.1) for m in (ours("cyclegan"), cyclegan))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert mine.state_dict()[name].dtype is value.dtype
        assert torch.equal(mine.state_dict()[name], value)
    x = sample("maps", torch.float32)
    for flag in (True, False):
        assert torch.equal(mine.get_target_tensor(x, flag), theirs.get_target_tensor(x, flag))
    # A loaded label counts, and so does one that was set.
    state = {"real_label": torch.tensor(0.5), "fake_label": torch.tensor(-0.5)}
    for loss in (mine, theirs):
        loss.load_state_dict(state)
    for flag in (True, False):
        compare(
            lambda x: mine(x, flag), lambda x: theirs(x, flag), (x,), truth=lambda x: in_double(theirs)(x, flag)
        )
    for loss in (mine, theirs):
        loss.real_label.fill_(0.25)
    for again in (mine, copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine).double()):
        compare(
            lambda x: again(x, True), lambda x: theirs(x, True), (x,), truth=lambda x: in_double(theirs)(x, True)
        )
    again.real_label.fill_(0.75)
    assert close(again(x, True), (x - 0.75).square().mean(), 1e-6)
    assert mine.double().real_label.dtype is torch.float64


@pytest.mark.parametrize("mode", MODES)
def test_cyclegan_in_inference_mode(mode):
    x = sample("maps", torch.float32)
    outside = ours("cyclegan").GANLoss(mode)
    with torch.inference_mode():
        for loss in (outside, ours("cyclegan").GANLoss(mode)):
            assert close(loss(x, True), cyclegan.GANLoss(mode)(x, True), 1e-6)


def test_cyclegan_labels_that_are_integers():
    x = sample("maps", torch.float32)
    for mode in ("lsgan", "vanilla"):
        for flag in (True, False):
            assert ours("cyclegan").GANLoss(mode, 1, 0)(x, flag) == ours("cyclegan").GANLoss(mode)(x, flag)


@pytest.mark.parametrize("mode", MODES)
def test_cyclegan_by_keyword_and_twice(mode):
    x = sample("maps", torch.float32).requires_grad_()
    loss = ours("cyclegan").GANLoss(gan_mode=mode, target_real_label=1.0, target_fake_label=0.0)
    value = loss(prediction=x, target_is_real=False)
    twice(value.sum(), x)


def cycle_penalty(module, **options):
    return lambda net, real, fake: module.cal_gradient_penalty(net, real, fake, "cpu", **options)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"type": "real"},
        {"type": "fake"},
        {"constant": 0.0, "lambda_gp": 1.0},
        {"type": "mixed", "constant": 100.0},
    ],
    ids=str,
)
def test_cyclegan_penalty(options, maps):
    inputs = images()
    same_penalty(
        *(cycle_penalty(m, **options) for m in (ours("cyclegan"), cyclegan)), inputs, lambda: Critic(maps=maps)
    )
    # Where the data want no gradient, as of a data set.
    same_penalty(
        *(cycle_penalty(m, **options) for m in (ours("cyclegan"), cyclegan)),
        inputs,
        lambda: Critic(maps=maps),
        wants=False,
    )


def test_cyclegan_penalty_in_float32():
    calls = [cycle_penalty(m) for m in (ours("cyclegan"), cyclegan)]
    same_penalty(*calls, images(torch.float32), lambda: Critic(dtype=torch.float32), tolerance=1e-4)


def test_cyclegan_penalty_of_rows():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))

        def forward(self, x):
            return torch.tanh(x @ self.weight)[:, None]

    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(5, 6, generator=draw, dtype=torch.float64) for _ in range(2)]
    same_penalty(*(cycle_penalty(m) for m in (ours("cyclegan"), cyclegan)), inputs, Rows)


def test_cyclegan_gradients_that_come_back():
    real, fake = images()
    net = Critic()
    penalty, gradients = ours("cyclegan").cal_gradient_penalty(net, real, fake, torch.device("cpu"), type="real")
    assert gradients.shape == (4, 3 * 6 * 6)
    # Without the 1e-16, and differentiable.
    (plain,) = torch.autograd.grad(net(real).sum(), real)
    assert torch.equal(gradients, plain.reshape(4, -1))
    gradients.square().sum().backward(retain_graph=True)
    assert all(p.grad is not None and p.grad.any() for p in (net.first.weight, net.second.weight))
    penalty.backward()


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_cyclegan_penalty_that_is_off(weight):
    real, fake = images()
    net = Critic()
    before = torch.get_rng_state()
    got = ours("cyclegan").cal_gradient_penalty(net, real, fake, "cpu", lambda_gp=weight)
    assert got == (0.0, None)
    assert isinstance(got, tuple)
    assert isinstance(got[0], float)
    assert net.calls == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert ours("cyclegan").cal_gradient_penalty(net, real, fake, "cpu", type="?", lambda_gp=weight) == (0.0, None)


def test_cyclegan_penalty_changes_the_callers_tensor():
    for kind in ("real", "fake"):
        real, fake = images()
        penalty, _ = ours("cyclegan").cal_gradient_penalty(Critic(), real, fake, "cpu", type=kind)
        assert (real.requires_grad, fake.requires_grad) == (kind == "real", kind == "fake")
        penalty.backward()
        assert (real if kind == "real" else fake).grad.any()
    real, fake = images()
    ours("cyclegan").cal_gradient_penalty(Critic(), real, fake, "cpu")
    assert not real.requires_grad
    assert not fake.requires_grad


def test_cyclegan_penalty_of_unknown_type():
    with pytest.raises(NotImplementedError):
        ours("cyclegan").cal_gradient_penalty(Critic(), *images(), "cpu", type="both")


def test_cyclegan_penalty_channels_last():
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in images()]
    same_penalty(*(cycle_penalty(m) for m in (ours("cyclegan"), cyclegan)), inputs)


class PerSample(nn.Module):
    """Scores whose gradient at sample i is a parameter's row i, whatever the images are."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, x):
        return (x * self.rows).flatten(1).sum(1)


def flat_rows(dtype):
    rows = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    rows[1] = 0
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("constant", [1.0, 0.0, 2.5])
def test_cyclegan_where_the_gradient_is_zero(constant, dtype):
    real = torch.zeros(3, 2, 4, 4, dtype=dtype)
    found = []
    for module in (ours("cyclegan"), cyclegan):
        net = PerSample(flat_rows(dtype))
        penalty, _ = module.cal_gradient_penalty(net, real.clone(), real, "cpu", type="real", constant=constant)
        penalty.backward()
        found.append((penalty, net.rows.grad))
    tolerance = 3e-3 if dtype is torch.float16 else 1e-6
    for got, want in zip(*found, strict=True):
        assert got.dtype is want.dtype
        assert close(got, want, tolerance)
    assert close(found[0][1][1], found[1][1][1], tolerance), "the row that is zero"


# ---------------------------------------------------------------------------------- BasicSR


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", TYPES["basicsr"])
@pytest.mark.parametrize("disc", [True, False])
def test_basicsr_scales(kind, disc, dtype):
    mine, theirs = (m.MultiScaleGANLoss(kind, loss_weight=0.5) for m in (ours("basicsr"), basicsr))
    a, b, c, d = (sample(name, dtype, i) for i, name in enumerate(["maps", "N", "channels last", "Nx1"]))

    def size(scales):
        scales = scales if isinstance(scales, list) else [scales]
        last = [x[-1] if isinstance(x, list) else x for x in scales]
        return sum(x.abs().mean() for x in last) / len(last)

    for scales in ([a, b], [a], [a, [b, c, d]], [[a, b], [c], d], a):
        for real in (True, False):
            compare(lambda x: mine(x, real, disc), lambda x: theirs(x, real, disc), (scales,), scale=size)


def test_basicsr_in_a_relativistic_trainer():
    """ESRGAN's, in its own words: the mean of the other side is detached, and two backward calls are made."""
    found = []
    for module in (ours("basicsr"), basicsr):
        loss = module.GANLoss("vanilla", loss_weight=5e-3)
        real, fake = (sample("maps", torch.float64, i).requires_grad_() for i in range(2))
        on_real = loss(real - fake.detach().mean(), True, is_disc=True) * 0.5
        on_real.backward()
        on_fake = loss(fake - real.detach().mean(), False, is_disc=True) * 0.5
        on_fake.backward()
        of_generator = (loss(real - fake.mean(), False) + loss(fake - real.detach().mean(), True)) / 2
        of_generator.backward()
        found.append((on_real, on_fake, of_generator, real.grad, fake.grad))
    assert all(close(a, b, 1e-12) for a, b in zip(*found, strict=True))


def test_basicsr_lists_that_fail():
    loss = ours("basicsr").MultiScaleGANLoss("lsgan")
    with pytest.raises(ZeroDivisionError):
        loss([], True)
    with pytest.raises(NotImplementedError):
        ours("basicsr").MultiScaleGANLoss("?")
    assert issubclass(ours("basicsr").MultiScaleGANLoss, ours("basicsr").GANLoss)


def of_gradient(module, function, **options):
    """A penalty of the scores and the images they were made from."""

    def call(net, x):
        x.requires_grad_()
        return getattr(module, function)(net(x), x, **options)

    return call


@pytest.mark.parametrize("maps", [False, True])
def test_basicsr_r1(maps):
    for inputs in (images()[:1], [images()[0].contiguous(memory_format=torch.channels_last)]):
        calls = [of_gradient(m, "r1_penalty") for m in (ours("basicsr"), basicsr)]
        same_penalty(*calls, inputs, lambda: Critic(maps=maps))
    calls = [of_gradient(m, "r1_penalty") for m in (ours("basicsr"), basicsr)]
    same_penalty(*calls, images(torch.float32)[:1], lambda: Critic(dtype=torch.float32), tolerance=1e-4)


def test_penalties_of_images_without_a_gradient():
    real, _ = images()
    with pytest.raises((ValueError, RuntimeError)):
        ours("basicsr").r1_penalty(Critic()(real), real)
    with pytest.raises((ValueError, RuntimeError)):
        ours("studiogan").cal_r1_reg(Critic()(real), real, "cpu")


class Synthesis(nn.Module):
    """Images from latents (N, L, d)."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.randn(3, 5, 3 * 4 * 6, generator=draw, dtype=torch.float64).to(dtype))

    def forward(self, latents):
        return torch.tanh(torch.einsum("nld,ldk->nk", torch.sin(latents), self.weight)).view(-1, 3, 4, 6)


def latents(n=4, dtype=torch.float64):
    return (torch.randn(n, 3, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64).to(dtype),)


@pytest.mark.parametrize("mean", [0.0, 1.25])
@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_basicsr_path_lengths(mean, decay, dtype):
    def call(module):
        def run(net, w):
            start = mean if mean == 0.0 else torch.tensor(mean, dtype=dtype)
            return module.g_path_regularize(net(w), w, start, **({} if decay is None else {"decay": decay}))

        return run

    calls = call(ours("basicsr")), call(basicsr)
    same_penalty(*calls, latents(dtype=dtype), lambda: Synthesis(dtype), 1e-10 if dtype is torch.float64 else 1e-4)
    _, mean_length, running = outcome(calls[0], latents(dtype=dtype), Synthesis(dtype))[0]
    assert not mean_length.requires_grad
    assert not running.requires_grad


# ---------------------------------------------------------------------------------- penalties between real and fake

WEIGHTS = {
    "none": None,
    "positive": torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5,
    "channels": torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5,
    "zeros": (
        torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) > 0.4
    ).double(),
}


def between(module, mask, /, **options):
    key = "weight" if module.__name__.endswith("basicsr") else "mask"
    extra = {} if mask is None else {key: mask}
    return lambda net, real, fake: module.gradient_penalty_loss(net, real, fake, **extra, **options)


CASES = [
    ("basicsr", {}),
    *((m, o) for m in ("mmagic", "mmgen") for o in ({}, {"norm_mode": "pixel"}, {"norm_mode": "HWC"})),
]


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("weight", list(WEIGHTS))
@pytest.mark.parametrize(("module", "options"), CASES, ids=str)
def test_gradient_penalty_loss(module, options, weight, maps):
    calls = [between(m, WEIGHTS[weight], **options) for m in (ours(module), PEERS[module])]
    same_penalty(*calls, images(), lambda: Critic(maps=maps))
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in images()]
    same_penalty(*calls, inputs, lambda: Critic(maps=maps))


@pytest.mark.parametrize(("module", "options"), CASES, ids=str)
def test_gradient_penalty_loss_in_float32(module, options):
    calls = [between(m, None, **options) for m in (ours(module), PEERS[module])]
    same_penalty(*calls, images(torch.float32), lambda: Critic(dtype=torch.float32), tolerance=1e-4)


@pytest.mark.parametrize(("module", "options"), CASES, ids=str)
def test_where_the_gradient_is_zero(module, options):
    real = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    found = []
    for m in (ours(module), PEERS[module]):
        net = PerSample(flat_rows(torch.float64))
        penalty = between(m, None, **options)(net, real, real)
        penalty.backward()
        found.append((penalty, net.rows.grad))
    assert close(found[0][0], found[1][0], 1e-12)
    assert close(found[0][1], found[1][1], 1e-12)
    assert not found[0][1][1].any()


@pytest.mark.parametrize("module", ["basicsr", "mmagic", "mmgen"])
def test_no_warnings(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(module).gradient_penalty_loss(Critic(), *images()).backward()


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_norm_modes_that_do_not_exist(module):
    with pytest.raises(NotImplementedError):
        ours(module).gradient_penalty_loss(Critic(), *images(), norm_mode="sample")
    with pytest.raises(NotImplementedError):
        ours(module).r1_gradient_penalty_loss(Critic(), images()[0], norm_mode="sample")


class Scaler:
    """A GradScaler of one factor."""

    def scale(self, x):
        return x * 1024.0

    def get_scale(self):
        return 1024.0


@pytest.mark.parametrize("weight", list(WEIGHTS))
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("mode", [None, "pixel", "HWC"])
@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_r1_gradient_penalty_loss(module, mode, scaled, weight):
    def call(m):
        options = {} if mode is None else {"norm_mode": mode}
        if scaled:
            options["loss_scaler"] = Scaler()
        return lambda net, real: m.r1_gradient_penalty_loss(net, real, mask=WEIGHTS[weight], **options)

    calls = call(ours(module)), call(PEERS[module])
    for maps in (False, True):
        same_penalty(*calls, images()[:1], lambda: Critic(maps=maps))
    same_penalty(*calls, images()[:1], wants=False)
    if weight == "none":
        same_penalty(*calls, images(torch.float32)[:1], lambda: Critic(dtype=torch.float32), tolerance=1e-4)


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_r1_leaves_the_callers_tensor(module):
    real, _ = images()
    kept = real.clone()
    ours(module).r1_gradient_penalty_loss(Critic(), real).backward()
    assert not real.requires_grad
    assert real.grad is None
    assert torch.equal(real, kept)


# ---------------------------------------------------------------------------------- MMagic


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("disc", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(20, 24), (10, 12)])
def test_mmagic_smgan(size, dtype, disc, real):
    mine, theirs = (m.GANLoss("smgan", *EXACT_LABELS, loss_weight=0.5) for m in (ours("mmagic"), mmagic))
    draw = torch.Generator().manual_seed(3)
    mask = (torch.rand(2, 1, 20, 24, generator=draw) > 0.5).to(dtype)
    x = torch.randn(2, 1, *size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    found = [loss(x, real, disc, mask=mask) for loss in (mine, theirs)]
    assert found[0].dtype is found[1].dtype is dtype
    assert found[0].shape == ()
    # A kernel made in float32 is no further off than this.
    tolerance = 1e-6 if dtype is torch.float32 or (disc and not real) else 1e-12
    assert close(*found, tolerance)
    assert close(*(backward(value, (x,))[0] for value in found), tolerance)


def test_mmagic_smgan_needs_a_mask():
    loss = ours("mmagic").GANLoss("smgan")
    x = torch.randn(1, 1, 8, 8)
    with pytest.raises(AttributeError):
        loss(x, True)
    assert loss(x, True, mask=torch.zeros(1, 1, 8, 8)).isnan()
    assert not loss(x, True, True, mask=torch.zeros(1, 1, 8, 8)).isnan()


@pytest.mark.parametrize("options", [{}, {"kernel_size": (5, 9), "sigma": (1.0, 2.5)}], ids=str)
def test_mmagic_gaussian_blur(options):
    x = torch.randn(2, 3, 30, 26)
    got, want = (m.GaussianBlur(**options)(x) for m in (ours("mmagic"), mmagic))
    assert got.dtype is want.dtype
    assert close(got, want, 2e-6)
    inside = ours("mmagic").GaussianBlur((5, 5), (1.0, 1.0))(torch.ones(1, 1, 9, 9))
    assert close(inside[0, 0, 4, 4], 1.0, 1e-6)
    assert inside[0, 0, 0, 0] < 0.9


@pytest.mark.parametrize("size", [[5, 5], 5, (4, 5), (5, 4), (-3, 5), (5, 0)], ids=str)
def test_mmagic_gaussian_blur_of_other_sizes(size):
    with pytest.raises(TypeError):
        ours("mmagic").GaussianBlur(size, (1.0, 1.0))(torch.ones(1, 1, 9, 9))


def test_mmagic_gaussian_blur_of_other_inputs():
    blur = ours("mmagic").GaussianBlur((5, 5), (1.0, 1.0))
    with pytest.raises(TypeError):
        blur([1.0])
    with pytest.raises(ValueError):
        blur(torch.ones(1, 9, 9))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_disc_shift_loss(layout, dtype):
    x = (sample(layout, dtype),)
    compare(ours("mmagic").disc_shift_loss, mmagic.disc_shift_loss, x)
    compare(ours("mmgen").disc_shift_loss, mmgen.disc_shift_loss, x)
    for options in ({}, {"loss_weight": 0.5}):
        # 0.1 is rounded to a 16-bit factor of the gradient, and the product again.
        if dtype in (torch.float32, torch.float64) or options:
            compare(ours("mmagic").DiscShiftLoss(**options), mmagic.DiscShiftLoss(**options), x)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "mean", "weight": 0.5},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"reduction": "none", "weight": 2.0},
        {"reduction": "batchmean"},
        {"reduction": "batchmean", "weight": 0.25},
        {"reduction": "flatmean"},
        {"avg_factor": 7.0},
        {"avg_factor": 3, "weight": 4.0},
        {"reduction": "none", "avg_factor": 3.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mmgen_reductions(options, dtype):
    x = (sample("maps", dtype),)
    compare(lambda x: ours("mmgen").disc_shift_loss(x, **options), lambda x: mmgen.disc_shift_loss(x, **options), x)


def test_mmgen_weights_of_elements():
    weight = torch.rand(4, 1, 5, 7)
    x = (sample("maps", torch.float32),)
    for reduction in ("mean", "sum", "none"):
        options = {"weight": weight, "reduction": reduction}
        compare(
            lambda x: ours("mmgen").disc_shift_loss(x, **options),
            lambda x: mmgen.disc_shift_loss(x, **{**options, "weight": weight.to(x)}),
            x,
        )


def test_mmgen_reductions_that_fail():
    module = ours("mmgen")
    x = sample("maps", torch.float32)
    with pytest.raises(ValueError):
        module.disc_shift_loss(x, reduction="sum", avg_factor=2.0)
    with pytest.raises(ValueError):
        module.disc_shift_loss(x, reduction="median")
    with pytest.raises(TypeError):
        module.disc_shift_loss(x, 0.5)


@pytest.mark.parametrize("options", [{"weight": 3.0}, {"reduction": "sum"}, {"avg_factor": 4.0}], ids=str)
def test_mmgen_penalties_take_reductions(options):
    calls = [between(m, None, **options) for m in (ours("mmgen"), mmgen)]
    same_penalty(*calls, images())

    def at_real(module):
        return lambda net, real: module.r1_gradient_penalty_loss(net, real, norm_mode="HWC", **options)

    same_penalty(at_real(ours("mmgen")), at_real(mmgen), images()[:1])


def test_mmagic_gradient_penalty_module():
    def call(module):
        loss = module.GradientPenaltyLoss(loss_weight=10.0)
        return lambda net, real, fake: loss(net, real, fake, mask=WEIGHTS["positive"])

    same_penalty(call(ours("mmagic")), call(mmagic), images())


def made(net, latents, n):
    """What a generator returns: images of some of the latents, and those."""
    chosen = latents[:n]
    return {"fake_img": net(chosen), "latent": chosen}


def path(module, **options):
    """gen_path_regularizer of the network's images of some latents."""

    def run(net, w):
        sizes = []

        def generator(noise, num_batches, return_latents):
            assert noise is None
            assert return_latents is True
            sizes.append(num_batches)
            return {"noise": None, **made(net, w, num_batches)}

        result = module.gen_path_regularizer(generator, **options)
        return (*result, *sizes)

    return run


@pytest.mark.parametrize(
    "options",
    [
        {"num_batches": 6, "mean_path_length": 0.0},
        {"num_batches": 6, "mean_path_length": 0.75, "pl_batch_shrink": 2, "decay": 0.25, "weight": 4.0},
        {"num_batches": 3, "mean_path_length": 0.0, "pl_batch_shrink": 8},
        {"num_batches": 6, "mean_path_length": 0.0, "pl_batch_shrink": 2, "pl_batch_size": 5},
        {"num_batches": 6, "mean_path_length": 0.0, "pl_batch_shrink": 0, "loss_scaler": Scaler()},
    ],
    ids=lambda o: "-".join(map(str, o)),
)
@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_gen_path_regularizer(module, options):
    options = options | {"mean_path_length": torch.tensor(options["mean_path_length"], dtype=torch.float64)}
    calls = path(ours(module), **options), path(PEERS[module], **options)
    same_penalty(*calls, latents(6), Synthesis)
    penalty, mean, lengths, _ = outcome(calls[0], latents(6), Synthesis())[0]
    assert penalty.requires_grad
    assert lengths.requires_grad
    assert not mean.requires_grad


COMPS = {
    "shift": ("DiscShiftLossComps", "DiscShiftLoss", {"pred": "scores"}, {"loss_weight": 0.5}, "loss_disc_shift"),
    "gp": (
        "GradientPenaltyLossComps",
        "GradientPenaltyLoss",
        {"discriminator": "disc", "real_data": "real", "fake_data": "fake"},
        {"loss_weight": 10.0, "norm_mode": "HWC"},
        "loss_gp",
    ),
    "r1": (
        "R1GradientPenaltyComps",
        "R1GradientPenalty",
        {"discriminator": "disc", "real_data": "real"},
        {"loss_weight": 5.0, "norm_mode": "HWC"},
        "loss_r1_gp",
    ),
}


def component(module, case, **options):
    """A module of a penalty, and the names of its arguments in the dict of outputs."""
    longer, shorter, info, defaults, _ = COMPS[case]
    name = shorter if module.__name__.endswith("mmgen") else longer
    return getattr(module, name)(**{**defaults, **options}), info


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
@pytest.mark.parametrize("case", list(COMPS))
def test_components_of_a_dict(case, module, by_name):
    def call(m):
        info = COMPS[case][2]
        loss, _ = component(m, case, data_info=info)

        def run(net, real, fake):
            outputs = {"disc": net, "real": real, "fake": fake, "scores": net(real), "iteration": 3, "else": None}
            return loss(outputs_dict=outputs) if by_name else loss(outputs)

        return run

    same_penalty(call(ours(module)), call(PEERS[module]), images(), lambda: Critic(maps=True))


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
@pytest.mark.parametrize("case", list(COMPS))
def test_components_of_arguments(case, module):
    def call(m):
        loss, info = component(m, case)

        def run(net, real, fake):
            outputs = {"disc": net, "real": real, "fake": fake, "scores": net(real)}
            return loss(*(outputs[key] for key in info.values()))

        return run

    same_penalty(call(ours(module)), call(PEERS[module]), images(), lambda: Critic(maps=True))


def all_components(module):
    made = {case: component(module, case, data_info={"pred": "scores"})[0] for case in COMPS}
    name = "GeneratorPathRegularizer" + ("" if module.__name__.endswith("mmgen") else "Comps")
    return made | {"path": getattr(module, name)(data_info={"generator": "gen"})}


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_components_refuse(module):
    for loss in all_components(ours(module)).values():
        with pytest.raises(AssertionError):
            loss(torch.ones(3))
        with pytest.raises(AssertionError):
            loss(torch.ones(3), torch.ones(3), outputs_dict={"scores": torch.ones(3)})
        with pytest.raises(NotImplementedError):
            loss()
        with pytest.raises(NotImplementedError):
            loss(torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_names_of_components(module):
    for case, loss in all_components(ours(module)).items():
        assert loss.loss_name() == ("loss_path_regular" if case == "path" else COMPS[case][4])
    assert component(ours(module), "gp", loss_name="mine")[0].loss_name() == "mine"


def regularizer(module, **options):
    return getattr(module, "GeneratorPathRegularizer" + ("" if module.__name__.endswith("mmgen") else "Comps"))(
        **options
    )


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_components_with_an_interval(module):
    real, _ = images()
    info = {"discriminator": "disc", "real_data": "real"}
    loss, _ = component(ours(module), "r1", interval=4, data_info=info)
    for iteration, runs in [(0, True), (1, False), (3, False), (4, True), (8, True)]:
        net = Critic()
        value = loss({"disc": net, "real": real, "iteration": iteration})
        assert (value is not None) is runs
        assert net.calls == runs
    # Whether at construction or in the call.
    with pytest.raises(AssertionError):
        component(ours(module), "r1", interval=4)[0](Critic(), real)
    with pytest.raises(AssertionError):
        regularizer(ours(module), interval=2)(None, num_batches=2)


@pytest.mark.parametrize("module", ["mmagic", "mmgen"])
def test_path_regularizer_keeps_its_mean(module):
    def call(m):
        info = {"generator": "gen", "num_batches": "n"}
        loss = regularizer(m, loss_weight=2.0, pl_batch_shrink=2, decay=0.25, interval=2, data_info=info)
        assert dict(loss.named_buffers())["mean_path_length"].shape == ()
        assert dict(loss.named_buffers())["mean_path_length"] == 0

        def run(net, w):
            def generator(noise, num_batches, return_latents):
                return made(net, w, num_batches)

            outputs = {"gen": generator, "n": 4}
            values = [loss({**outputs, "iteration": i}) for i in (2, 3, 4)]
            assert values[1] is None
            return values[2], values[0], loss.mean_path_length

        return run

    # The mean is a float32 buffer at first.
    same_penalty(call(ours(module)), call(PEERS[module]), latents(), Synthesis, tolerance=1e-6)


def test_path_regularizer_without_a_dict():
    def call(m):
        loss = regularizer(m, loss_weight=3.0)

        def run(net, w):
            def generator(noise, num_batches, return_latents):
                return made(net, w, num_batches)

            return loss(generator, num_batches=4, mean_path_length=torch.tensor(0.5, dtype=torch.float64))

        return run

    for name in ("mmagic", "mmgen"):
        same_penalty(call(ours(name)), call(PEERS[name]), latents(), Synthesis)


ADVERSARIAL = ["gan", "lsgan", "wgan-gp", "ragan", "ragan-ls"]


@pytest.mark.parametrize("kind", ADVERSARIAL)
@pytest.mark.parametrize("role", ["discriminator", "generator", "G"])
@pytest.mark.parametrize("steps", [1, 3])
def test_mmagic_adv_loss(kind, role, steps):
    def call(module):
        loss = module.AdvLoss(kind)

        def run(net, real, fake):
            # 24 samples a call: the third has left some behind.
            for i in range(steps):
                value = loss(net, fake * (i + 1) / steps, real - i, model="discriminator")
            if role == "discriminator":
                return loss(net, fake, real)
            return (loss(net, fake, real, model=role), value.detach())

        return run

    for wants in (True, False):
        same_penalty(call(ours("mmagic")), call(mmagic), images(n=24), wants=wants)
    same_penalty(call(ours("mmagic")), call(mmagic), images(n=24), lambda: Critic(maps=True))


def test_mmagic_adv_loss_is_of_the_trainers_classes():
    """Code asks isinstance, reads `name()` and parts of the loss, and sets LAMBDA."""
    module = ours("mmagic")
    classes = {
        "gan": "DiscLoss", "lsgan": "DiscLoss", "wgan-gp": "DiscLossWGANGP", "ragan": "RelativisticDiscLoss",
        "ragan-ls": "RelativisticDiscLossLS",
    }  # fmt: skip
    real, fake = images(n=3)
    for kind, name in classes.items():
        losses = [m.AdvLoss(kind) for m in (module, mmagic)]
        assert type(losses[0]) is getattr(module, name)
        assert losses[0].name() == losses[1].name()
        for loss in losses:
            loss(Critic(), fake, real)
        for part in ("loss_D", "loss_D_fake", "loss_D_real", "D_fake", "D_real", "pred_fake", "pred_real"):
            got, want = (getattr(loss, part, None) for loss in losses)
            assert (got is None) == (want is None), part
            if want is not None:
                torch.testing.assert_close(got, want)
    assert issubclass(module.DiscLossWGANGP, module.DiscLoss)
    torch.manual_seed(0)
    heavy, light = module.DiscLossWGANGP(), module.DiscLossWGANGP()
    light.LAMBDA = 0
    assert heavy(Critic(), fake, real) > light(Critic(), fake, real)


def test_mmagic_image_pool():
    for m in (ours("mmagic"), mmagic):
        pool, x = m.ImagePool(3), torch.arange(8.0).view(4, 2).requires_grad_()
        assert m.ImagePool(0).add(x) is x
        pool.add(x[:2])
        assert pool.query().tolist() == [[0, 1], [2, 3]]
        pool.add(x[2:])
        assert pool.query().tolist() == [[2, 3], [4, 5], [6, 7]]
        assert not pool.query().requires_grad
        pool.sample_size = 2
        random.seed(0)
        found = pool.query().tolist()
        random.seed(0)
        assert found == random.sample([[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]], 2)


def test_mmagic_adv_loss_that_fails():
    with pytest.raises(ValueError):
        ours("mmagic").AdvLoss("hinge")
    for kind in ("ragan", "ragan-ls"):
        loss = ours("mmagic").AdvLoss(kind)
        with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)):
            loss(Critic(), *images(), model="generator")
    assert list(inspect.signature(ours("mmagic").AdvLoss).parameters) == ["loss_type"]
    for kind in ADVERSARIAL:
        call = inspect.signature(ours("mmagic").AdvLoss(kind).forward)
        assert [(p.name, p.default) for p in call.parameters.values()][3:] == [("model", "discriminator")]
        assert list(call.parameters)[:3] == ["net", "fakeB", "realB"]


# ---------------------------------------------------------------------------------- StudioGAN and BigGAN

STUDIO = ["vanilla", "logistic", "ls", "hinge", "wasserstein"]


def linear_size(*x):
    return sum(v.abs().mean() for v in x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STUDIO)
def test_studiogan(name, dtype):
    module = ours("studiogan")
    d, g = (getattr(module, f"{role}_{name}") for role in "dg")
    their_d, their_g = (getattr(studiogan, f"{role}_{name}") for role in "dg")
    size = linear_size if name in ("wasserstein", "hinge") else None
    for seed, layout in enumerate(LAYOUTS):
        r, f = sample(layout, dtype, seed), sample(layout, dtype, seed + 50)
        compare(
            lambda r, f: d(r, f, False),
            lambda r, f: their_d(r, f, False),
            (r, f),
            scale=linear_size if name == "wasserstein" else None,
        )
        compare(lambda f: g(d_logit_fake=f, DDP=True), lambda f: their_g(f, True), (f,), scale=size)


@pytest.mark.parametrize("name", STUDIO)
def test_studiogan_of_unlike_batches(name):
    d, theirs = getattr(ours("studiogan"), f"d_{name}"), getattr(studiogan, f"d_{name}")
    # A column with a row: the separable losses come to the same mean.
    pairs = [(sample("Nx1", torch.float32), sample("Nx1", torch.float32, 1)[:, 0])]
    if name in ("vanilla", "hinge"):
        pairs.append((sample("N", torch.float32), sample("maps", torch.float32, 1)))
    for r, f in pairs:
        compare(lambda r, f: d(r, f, False), lambda r, f: theirs(r, f, False), (r, f), scale=linear_size)


def test_studiogan_functions_need_ddp():
    for name in STUDIO:
        with pytest.raises(TypeError):
            getattr(ours("studiogan"), f"g_{name}")(torch.ones(3))


def with_scores(net):
    """As StudioGAN's discriminators are called, and what they return."""

    def discriminator(images, labels, eval):
        assert eval is False
        return {"adv_output": net(images) * (1 + labels), "label": labels, "embed": None}

    return discriminator


STUDIO_LABELS = torch.arange(4, dtype=torch.float64)


def studio_penalty(module, name):
    def run(net, real, fake):
        function = getattr(module, name)
        if name == "cal_dra_penalty":
            return function(
                real_images=real, real_labels=STUDIO_LABELS.to(real), discriminator=with_scores(net), device="cpu"
            )
        return function(
            real_images=real,
            real_labels=STUDIO_LABELS.to(real),
            fake_images=fake,
            discriminator=with_scores(net),
            device="cpu",
        )

    return run


@pytest.mark.parametrize("name", ["cal_grad_penalty", "cal_dra_penalty", "cal_maxgrad_penalty"])
def test_studiogan_penalties(name):
    calls = [studio_penalty(m, name) for m in (ours("studiogan"), studiogan)]
    same_penalty(*calls, images())
    same_penalty(*calls, images(), wants=False)
    same_penalty(*calls, [x.contiguous(memory_format=torch.channels_last) for x in images()])
    same_penalty(*calls, images(torch.float32), lambda: Critic(dtype=torch.float32), tolerance=1e-4)


@pytest.mark.parametrize("name", ["cal_grad_penalty", "cal_dra_penalty"])
def test_studiogan_where_the_gradient_is_zero(name):
    real = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for module in (ours("studiogan"), studiogan):
        net = PerSample(flat_rows(torch.float64))
        arguments = [real, torch.zeros(3), *([] if "dra" in name else [real]), with_scores(net), "cpu"]
        torch.manual_seed(0)
        penalty = getattr(module, name)(*arguments)
        penalty.backward()
        found.append((penalty, net.rows.grad))
    assert close(found[0][0], found[1][0], 1e-12)
    assert close(found[0][1], found[1][1], 1e-12)
    assert not found[0][1][1].any()


@pytest.mark.parametrize("name", ["cal_r1_reg", "stylegan_cal_r1_reg"])
def test_studiogan_r1(name):
    options = {"device": "cpu"} if name == "cal_r1_reg" else {}

    def call(module):
        def run(net, x):
            x.requires_grad_()
            return getattr(module, name)(adv_output=net(x), images=x, **options)

        return run

    calls = call(ours("studiogan")), call(studiogan)
    for maps in (False, True):
        same_penalty(*calls, images()[:1], lambda: Critic(maps=maps))
    same_penalty(*calls, images(torch.float32)[:1], lambda: Critic(dtype=torch.float32), tolerance=1e-4)


def test_studiogan_derivative():
    def call(module):
        def run(net, x):
            x.requires_grad_()
            return module.cal_deriv(inputs=x, outputs=net(x), device="cpu").square()

        return run

    for maps in (False, True):
        same_penalty(call(ours("studiogan")), call(studiogan), images()[:1], lambda: Critic(maps=maps))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_studiogan_lecam(dtype):
    module = ours("studiogan")
    for seed, layout in enumerate(LAYOUTS):
        for real, fake in [(0.5, -0.25), (1.0, 0.0), (-2.0, 3.0)]:
            ema = SimpleNamespace(D_real=real, D_fake=fake)
            compare(
                lambda r, f: module.lecam_reg(r, f, ema),
                lambda r, f: studiogan.lecam_reg(r, f, ema),
                (sample(layout, dtype, seed), sample(layout, dtype, seed + 9)),
            )


def test_studiogan_lecam_in_double():
    """Averages are Python numbers, which are double too."""
    ema = SimpleNamespace(D_real=0.3, D_fake=-0.7)
    compare(
        lambda r, f: ours("studiogan").lecam_reg(r, f, ema),
        lambda r, f: studiogan.lecam_reg(r, f, ema),
        (sample("N", torch.float64), sample("N", torch.float64, 1)),
    )


def test_studiogan_lecam_of_tensors():
    def ema(dtype):
        return SimpleNamespace(D_real=torch.tensor(0.5, dtype=dtype), D_fake=torch.tensor(-0.25, dtype=dtype))

    compare(
        lambda r, f: ours("studiogan").lecam_reg(r, f, ema(torch.float32)),
        lambda r, f: studiogan.lecam_reg(r, f, ema(r.dtype)),
        (sample("N", torch.float32), sample("maps", torch.float32)),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_studiogan_feature_matching(dtype):
    a, b = sample("transposed", dtype), sample("transposed", dtype, 1)
    module = ours("studiogan")
    for real, fake in [(a, b), (b, a), (a[:5], b), (sample("maps", dtype), sample("maps", dtype, 1))]:
        compare(module.feature_matching_loss, studiogan.feature_matching_loss, (real, fake), scale=linear_size)
    same = torch.ones(3, 4, dtype=dtype)
    compare(module.feature_matching_loss, studiogan.feature_matching_loss, (same, same.clone()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_studiogan_crammer_singer(dtype):
    module = ours("studiogan")
    label = torch.tensor([0, 3, 2, 2, 1])
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)).mul(64).round().div(64).to(dtype)
    at_kink = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 2, 0], [0, 0, 5, 0], [3, 0, 0, 0]], dtype=dtype)
    for x in (scores, at_kink):
        compare(
            lambda x: module.crammer_singer_loss(x, label, False, epoch=3),
            lambda x: studiogan.crammer_singer_loss(x, label, False),
            (x,),
            scale=linear_size,
        )


@pytest.mark.parametrize("options", [{}, {"pl_decay": 0.5, "pl_weight": 3, "pl_no_weight_grad": True}], ids=str)
def test_studiogan_path_lengths(options):
    def call(module):
        regularizer = module.PathLengthRegularizer("cpu", **options)
        kept = regularizer.pl_mean
        assert kept.shape == ()

        def run(net, w):
            first = regularizer.cal_pl_reg(fake_images=net(w), ws=w)
            assert regularizer.pl_mean is kept
            second = regularizer.cal_pl_reg(net(w), w)
            return second, first, regularizer.pl_mean

        return run

    # The mean is a float32 number.
    same_penalty(call(ours("studiogan")), call(studiogan), latents(), Synthesis, tolerance=1e-6)


BIGGAN = [
    "loss_dcgan_dis",
    "loss_dcgan_gen",
    "loss_hinge_dis",
    "loss_hinge_gen",
    "generator_loss",
    "discriminator_loss",
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BIGGAN)
def test_biggan(name, dtype):
    mine, theirs = getattr(ours("biggan"), name), getattr(biggan, name)
    two = name.endswith("dis") or name.startswith("disc")
    for seed, layout in enumerate(LAYOUTS):
        f, r = sample(layout, dtype, seed), sample(layout, dtype, seed + 20)
        inputs = (f, r) if two else (f,)
        compare(mine, theirs, inputs, scale=linear_size if name in ("loss_hinge_gen", "generator_loss") else None)
    if two:
        compare(mine, theirs, (sample("N", dtype), sample("maps", dtype)))


def test_biggan_order():
    fake, real = torch.full((4, 1), -3.0), torch.full((6, 1), 0.5)
    on_real, on_fake = ours("biggan").discriminator_loss(fake, real)
    assert (on_real, on_fake) == (0.5, 0.0)
    assert ours("biggan").discriminator_loss is ours("biggan").loss_hinge_dis
    assert ours("biggan").generator_loss is ours("biggan").loss_hinge_gen


@pytest.mark.parametrize("name", ["loss_dcgan_dis", "loss_hinge_dis"])
def test_biggan_losses_have_a_graph_each(name):
    fake, real = (sample("N", torch.float32, i).requires_grad_() for i in range(2))
    on_real, on_fake = getattr(ours("biggan"), name)(fake, real)
    (first,) = torch.autograd.grad(on_real, real)
    (second,) = torch.autograd.grad(on_fake, fake)
    both = torch.autograd.grad(sum(getattr(ours("biggan"), name)(fake, real)), (real, fake))
    assert torch.equal(first, both[0])
    assert torch.equal(second, both[1])
    twice(sum(getattr(ours("biggan"), name)(fake, real)), real, fake)
