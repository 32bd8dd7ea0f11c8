"""fastgan.compat: trainers of tokenisers and restoration against their formulas.

Names, signatures and patch are tested of those in test_compat_others.py, too.
"""

import types

import pytest
import torch
from torch import nn

from fastgan import compat
from tests.compat import test_compat_images as pictures
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES, LAYOUTS, Critic, compare, images, sample, twice
from tests.helpers.patching import both, loaded, own, peer, scaled

TRAINERS = ["seed_voken", "titok", "rae", "unitok", "diffusers_vqgan", "ctgan", "fastgen", "modelopt"]
TRAINERS += ["trainner_redux", "amp_rsl_rl", "neosr"]
METHODS = {"ctgan": ["calc_gradient_penalty"]}  # methods of a class there
METHODS["amp_rsl_rl"] = ["compute_grad_pen", "compute_loss", "expert_loss", "policy_loss", "wgan_loss"]
NAMES = [(t, n) for t in TRAINERS for n in adapters.public(peer(t))]


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.fixture
def modules(monkeypatch):
    """Makes modules that are loaded as long as the test."""
    yield from loaded(monkeypatch)


@pytest.mark.parametrize(("trainer", "name"), NAMES)
def test_names_and_signatures(trainer, name):
    ours = getattr(compat, trainer)
    adapters.same_interface(getattr(ours, name), getattr(peer(trainer), name))
    assert name in ours.__all__


@pytest.mark.parametrize("trainer", TRAINERS)
def test_nothing_more(trainer):
    assert set(getattr(compat, trainer).__all__) == set(adapters.public(peer(trainer)))


# ---------------------------------------------------------------------------------- losses of one and two tensors

# The mean of -x cancels, so that an error is measured by the size of its parts.
ONE = [("rae", "vanilla_g_loss", True), ("unitok", "hinge_loss", False), ("unitok", "softplus_loss", False)]
ONE += [("unitok", "linear_loss", True)]
TWO = [("rae", "hinge_d_loss"), ("rae", "vanilla_d_loss"), ("titok", "hinge_d_loss")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("trainer", "name", "cancels"), ONE)
def test_of_one(dtype, layout, trainer, name, cancels):
    scale = (lambda x: x.abs().mean()) if cancels else None
    compare(*both(trainer, name), (sample(layout, dtype),), scale=scale, more=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("trainer", "name"), TWO)
def test_of_two(dtype, layout, trainer, name):
    compare(*both(trainer, name), (sample(layout, dtype, 1), sample(layout, dtype, 2)), more=1.0)


@pytest.mark.parametrize(("trainer", "name"), TWO)
def test_unequal_batches_and_two_backwards(trainer, name):
    x, y = sample("maps", torch.float32, 1), sample("Nx1", torch.float32, 2)
    compare(*both(trainer, name), (x, y), more=1.0)
    x, y = x.requires_grad_(), y.requires_grad_()
    twice(both(trainer, name)[0](x, y), x, y)


# ---------------------------------------------------------------------------------- SEED-Voken


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["maps", "channels last"])
@pytest.mark.parametrize("name", ["non_saturate_gen_loss", "non_saturate_discriminator_loss"])
def test_seed_voken_of_mean_logits(dtype, layout, name):
    """Means cancel, and so does the softplus's slope where they are small."""
    inputs = [sample(layout, dtype, k) for k in range(1 if "gen" in name else 2)]
    size = {"scale": lambda *xs: sum(x.abs().mean() for x in xs)}
    compare(*both("seed_voken", name), tuple(inputs), more=2.0, more_value=2.0, **size)


def test_seed_voken_takes_the_mean_before_the_cross_entropy():
    x = torch.tensor([[4.0, -4.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    expected = torch.nn.functional.softplus(torch.tensor([0.0, -1.0])).mean()
    torch.testing.assert_close(compat.seed_voken.non_saturate_gen_loss(x), expected)
    assert compat.seed_voken.non_saturate_gen_loss(
        x.view(2, 1, 1, 1, 2)
    ) == compat.seed_voken.non_saturate_gen_loss(x)


def test_seed_voken_divides_real_logits_by_the_fakes_batch():
    name = "non_saturate_discriminator_loss"
    compare(*both("seed_voken", name), (torch.randn(4, 1, 3, 2), torch.randn(2, 1, 3, 2)), more=2.0, more_value=2.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["N", "maps", "transposed"])
def test_seed_voken_lecam(dtype, layout):
    real, fake = sample(layout, dtype, 1), sample(layout, dtype, 2)
    found = []
    for module in (compat.seed_voken, peer("seed_voken")):
        ema = module.LeCAM_EMA(0.5, decay=0.25)
        ema.update(real, fake)
        ema.update(real, fake + 1)
        assert type(ema.logits_real_ema) is type(ema.logits_fake_ema) is float
        found.append((ema.logits_real_ema, ema.logits_fake_ema))
    tolerance = {"rel": 1e-6 if dtype in (torch.float32, torch.float64) else 0.01, "abs": 1e-2}
    assert found[0] == pytest.approx(found[1], **tolerance)
    ema = types.SimpleNamespace(logits_real_ema=0.75, logits_fake_ema=-0.25)
    ours, theirs = both("seed_voken", "lecam_reg")
    compare(lambda r, f: ours(r, f, ema), lambda r, f: theirs(r, f, ema), (real, fake), more=1.0)


# ---------------------------------------------------------------------------------- TiTok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [((), (), (1,), (1,)), ((3,), (3,), (1,), (3,)), ((1,), (2, 1), (), (3,))])
def test_titok_lecam_of_means(dtype, shapes):
    """All four get a gradient, and pairs broadcast."""
    torch.manual_seed(3)
    inputs = tuple((3 * torch.randn(s)).to(dtype) for s in shapes)
    size = {"scale": lambda *xs: 1 + sum(x.abs().max() for x in xs) ** 2}
    compare(*both("titok", "compute_lecam_loss"), inputs, more=2.0, **size)


# ---------------------------------------------------------------------------------- RAE


@pytest.mark.parametrize("name", ["hinge_d_loss", "vanilla_d_loss", "vanilla_g_loss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rae_reductions(name, reduction):
    """The discriminator's losses sum for every word but "mean"."""
    ours, theirs = both("rae", name)
    inputs = (torch.randn(4, 3), torch.randn(4, 3))[: 1 if name == "vanilla_g_loss" else 2]
    if (name, reduction) == ("vanilla_g_loss", "none"):
        for loss in (ours, theirs):
            with pytest.raises(ValueError, match="none"):
                loss(*inputs, reduction)
        return
    size = {"scale": lambda *xs: sum(x.abs().sum() for x in xs)}
    compare(lambda *xs: ours(*xs, reduction), lambda *xs: theirs(*xs, reduction), inputs, more=1.0, **size)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0, 1e6])
@pytest.mark.parametrize("limit", [1e4, 0.5])
def test_rae_adaptive_weight(dtype, digits, size, limit):
    """Size 0 reaches the ceiling; both losses still go backward afterwards."""
    found = []
    for module in (compat.rae, peer("rae")):
        torch.manual_seed(1)
        layer, x = nn.Parameter(torch.randn(4, 3, dtype=dtype)), torch.randn(5, 4, dtype=dtype)
        recon, gan = (x @ layer).square().mean(), size * (x @ layer).tanh().sum()
        weight = module.calculate_adaptive_weight(recon, gan, layer, limit)
        assert (weight.shape, weight.dtype, weight.requires_grad) == ((), dtype, False)
        (recon + weight * gan).backward()
        found.append((weight, layer.grad))
    for a, b in zip(*found, strict=True):
        assert adapters.close(a, b, digits)


# ---------------------------------------------------------------------------------- diffusers' VQGAN


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_diffusers_gradient_penalty(maps, weight):
    """The trainer's form wants images that require grad before the discriminator sees them."""

    def call(module):
        def penalty(net, x):
            return module.gradient_penalty(x, net(x), **({} if weight is None else {"weight": weight}))

        return penalty

    real, _ = images()
    ours, theirs = call(compat.diffusers_vqgan), call(peer("diffusers_vqgan"))
    adapters.same_penalty(ours, theirs, (real,), lambda: Critic(maps=maps))


# ---------------------------------------------------------------------------------- traiNNer-redux

TYPES = ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gan_type", TYPES)
@pytest.mark.parametrize("labels", [(1.0, 0.0), (0.75, 0.25)])
@pytest.mark.parametrize("name", ["GANLoss", "MultiScaleGANLoss"])
def test_trainner_redux(dtype, gan_type, labels, name):
    """The weight changes nothing."""
    ours, theirs = (cls(0.1, gan_type, *labels) for cls in both("trainner_redux", name))
    for layout in ("maps", "channels last", "edges"):
        for flags in ((True, True), (False, True), (True, False)):
            label = labels[0 if flags[0] else 1]
            compare(
                lambda x, flags=flags: ours(x, *flags), lambda x, flags=flags: theirs(x, *flags),
                (sample(layout, dtype),), more=1.0, scale=lambda x, label=label: pictures.value_size(gan_type, x, label),
                slope=lambda x, label=label: pictures.steepness(gan_type, x, label),
            )  # fmt: skip
    assert ours.loss_weight == 0.1


def test_trainner_redux_lists_and_labels():
    """A list is an error of the trainer's; here it is the mean, as in BasicSR."""
    members = [torch.randn(2, 1, 4, 4), [torch.randn(3), torch.randn(2, 5)], torch.randn(7)]
    with pytest.raises(RuntimeError, match="result type Float"):
        peer("trainner_redux").MultiScaleGANLoss(1.0, "lsgan")(members, True)
    loss = compat.trainner_redux.MultiScaleGANLoss(0.1, "lsgan")
    torch.testing.assert_close(loss(members, True), compat.basicsr.MultiScaleGANLoss("lsgan")(members, True))
    for gan_type in ("lsgan", "wgan"):
        ours, theirs = (cls(1.0, gan_type) for cls in both("trainner_redux", "GANLoss"))
        for real in (True, False):
            labels = [m.get_target_label(members[0], real) for m in (ours, theirs)]
            assert labels[0] is labels[1] or labels[0].equal(labels[1])
    with pytest.raises(NotImplementedError, match="ganetic"):
        compat.trainner_redux.GANLoss(1.0, "ganetic")


def test_trainner_redux_registry(modules):
    theirs = own("trainner_redux")
    registry = types.SimpleNamespace(_obj_map={n: theirs[n] for n in ("GANLoss", "MultiScaleGANLoss")})
    modules("traiNNer.losses.gan_loss", **{n: theirs[n] for n in compat.trainner_redux.__all__})
    modules("traiNNer.utils.registry", LOSS_REGISTRY=registry)
    assert "traiNNer.utils.registry.LOSS_REGISTRY['GANLoss']" in compat.patch("trainner_redux")
    assert registry._obj_map["MultiScaleGANLoss"] is compat.trainner_redux.MultiScaleGANLoss


# ---------------------------------------------------------------------------------- neosr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gan_type", ["bce", "mse", "huber"])
@pytest.mark.parametrize("labels", [(1.0, 0.0), (0.75, 0.25)])
def test_neosr(dtype, gan_type, labels):
    """The weight is on the generator's loss alone, 0.1 by default."""
    kind = {"bce": "vanilla", "mse": "lsgan"}.get(gan_type, gan_type)
    weight = 0.1 if dtype in (torch.float32, torch.float64) else 0.125  # exact in 16 bits
    for flags in ((True, True), (False, True), (True, False)):
        ours, theirs = (cls(gan_type, *labels, loss_weight=weight) for cls in both("neosr", "gan_loss"))
        label = labels[0 if flags[0] else 1]
        for layout in ("maps", "channels last", "edges"):
            compare(
                lambda x: ours(x, *flags), lambda x: theirs(x, *flags), (sample(layout, dtype),), more=2.0,
                more_value=1.0, scale=lambda x: pictures.value_size(kind, x, label),
                slope=lambda x: pictures.steepness(kind, x, label),
            )  # fmt: skip
    assert both("neosr", "gan_loss")[0]().loss_weight == 0.1


def test_neosr_in_place_and_labels_of_a_subclass():
    """neosr divides the losses in place; a subclass's labels are heeded; `chc` is neosr's own."""
    x = sample("maps", torch.float32).requires_grad_()
    for gan_type in ("bce", "mse", "huber"):
        found = []
        for cls in both("neosr", "gan_loss"):
            loss = cls(gan_type)(x, target_is_real=True, is_disc=True)
            loss /= 4
            found.append(torch.autograd.grad(loss, x)[0])
            noisy = type("noisy", (cls,), {"get_target_label": lambda self, x, real: torch.full_like(x, 0.3)})
            found[-1] = torch.cat([found[-1].flatten(), noisy(gan_type)(x, True).reshape(1)])
        torch.testing.assert_close(*found)
    with pytest.raises(NotImplementedError, match="vanilla"):
        compat.neosr.gan_loss("vanilla")
    with pytest.raises(ImportError, match="neosr"):
        compat.neosr.gan_loss("chc")


def test_neosr_takes_chc_from_neosr(modules):
    modules("neosr.losses.basic_loss", chc=nn.L1Loss)
    modules("neosr.losses")
    modules("neosr")
    x = sample("maps", torch.float32)
    torch.testing.assert_close(compat.neosr.gan_loss("chc")(x, True), 0.1 * (x - 1).abs().mean())


def test_neosr_registry(modules):
    theirs = own("neosr")["gan_loss"]
    registry = types.SimpleNamespace(_obj_map={"gan_loss": theirs})
    modules("neosr.losses.gan_loss", gan_loss=theirs)
    modules("neosr.utils.registry", LOSS_REGISTRY=registry)
    assert "neosr.utils.registry.LOSS_REGISTRY['gan_loss']" in compat.patch("neosr")
    assert registry._obj_map["gan_loss"] is compat.neosr.gan_loss


# ---------------------------------------------------------------------------------- patch


PLACES = [(t, place) for t in TRAINERS for place in getattr(compat, t).ORIGIN.modules if place != "__mp_main__"]


@pytest.mark.parametrize(("trainer", "place"), PLACES)
def test_patch(modules, trainer, place):
    """Every place of the trainer's losses; what is bound elsewhere too."""
    adapter, theirs = getattr(compat, trainer), own(trainer)
    names = [n for n in adapter.__all__ if n in theirs and n not in METHODS.get(trainer, ())]
    if not names:
        pytest.skip("its losses are methods")
    module = modules(place, **{n: theirs[n] for n in names}, kept=len)
    using = modules("the_trainers_loop", renamed=theirs[names[0]])
    replaced = {n for n in compat.patch(trainer) if not n.startswith("bench.")}  # formulas that others import
    assert replaced == {f"{place}.{n}" for n in names} | {"the_trainers_loop.renamed"}
    assert all(getattr(module, n) is getattr(adapter, n) for n in names)
    assert using.renamed is getattr(adapter, names[0])
    compat.unpatch(trainer)
    assert all(getattr(module, n) is theirs[n] for n in names)


KIND = [(t, n) for t, n in NAMES if n not in ("adopt_weight", "calculate_adaptive_weight", "LeCAM_EMA")]


@pytest.mark.parametrize(("trainer", "name"), [(t, n) for t, n in KIND if n not in METHODS.get(t, ())])
def test_patch_refuses_a_look_alike(modules, trainer, name):
    theirs = scaled(own(trainer)[name])
    module = modules("my_losses", **{name: theirs})
    with pytest.raises(RuntimeError, match=rf"my_losses\.{name}: differs from fastgan's"):
        compat.patch(trainer, "my_losses")
    assert getattr(module, name) is theirs
    assert compat.patched() == {}


def weighing(factor, default):
    """A class of losses with VQGAN's adaptive weight as a method, as its descendants have it."""
    weigh = own("taming")["calculate_adaptive_weight"]

    def calculate_adaptive_weight(self, nll_loss, g_loss, last_layer):
        return factor(self) * weigh(nll_loss, g_loss, last_layer, 1.0)

    calculate_adaptive_weight.__defaults__ = (None,) if default else None
    return type("Loss", (), {"discriminator_weight": 0.5, "calculate_adaptive_weight": calculate_adaptive_weight})


DESCENDANTS = [
    ("taming", "taming.modules.losses.vqperceptual", True),
    ("taming", "ldm.modules.losses.contperceptual", True),
    ("taming", "ldm.modules.losses.vqperceptual", True),
    ("taming", "sgm.modules.autoencoding.lpips.vqperceptual", True),
    ("taming", "sgm.modules.autoencoding.losses.discriminator_loss", False),
    ("taming", "tokenizer.tokenizer_image.vq_loss", False),
    ("seed_voken", "Open_MAGVIT2.modules.losses.vqperceptual", True),
    ("seed_voken", "IBQ.modules.losses.vqperceptual", True),
]


@pytest.mark.parametrize(("trainer", "place", "default"), DESCENDANTS)
def test_patch_reaches_the_descendants_weight(modules, trainer, place, default):
    """latent-diffusion's, generative-models' and SEED-Voken's methods have the factor; LlamaGen's has none."""
    bare = place.startswith("tokenizer")
    module = modules(
        place, Loss=weighing((lambda self: 1.0) if bare else (lambda self: self.discriminator_weight), default)
    )
    assert compat.patch(trainer) == [f"{place}.Loss.calculate_adaptive_weight"]
    layer = torch.ones(4, requires_grad=True)
    weight = module.Loss().calculate_adaptive_weight((layer * 3).sum(), (layer * 2).sum(), last_layer=layer)
    torch.testing.assert_close(weight, torch.tensor(6 / (4 + 1e-4)) * (1.0 if bare else 0.5))


def test_patch_of_latent_diffusion(modules):
    """Its module takes everything from taming's, has a class of its own, and one call reaches both."""
    theirs, factor = own("taming"), lambda self: self.discriminator_weight
    names = {n: theirs[n] for n in ("adopt_weight", "hinge_d_loss", "vanilla_d_loss")}
    taming, ldm = "taming.modules.losses.vqperceptual", "ldm.modules.losses.contperceptual"
    defining = modules(taming, VQLPIPSWithDiscriminator=weighing(factor, True), **names)
    module = modules(ldm, **{n: v for n, v in vars(defining).items() if n[0] != "_"}, LPIPS=weighing(factor, True))
    replaced = {n for n in compat.patch("taming") if not n.startswith("bench.")}
    assert replaced == {
        *(f"{place}.{n}" for place in (taming, ldm) for n in names),
        f"{taming}.VQLPIPSWithDiscriminator.calculate_adaptive_weight",
        f"{ldm}.LPIPS.calculate_adaptive_weight",
    }
    assert module.hinge_d_loss is compat.taming.hinge_d_loss
