"""What all adapters have in common: how they are imported and patched in, traced, and served by any backend."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import fastgan
from fastgan import compat
from fastgan.compat import _patch
from tests.helpers import ROOT
from tests.helpers.calls import logits
from tests.helpers.patching import loaded, own


def test_every_trainer_has_a_module_and_a_line_in_the_page():
    page = (ROOT / "docs" / "drop-ins" / "index.md").read_text()
    package = Path(compat.__file__).parent
    found = {p.stem for p in package.iterdir() if not p.name.startswith("_") and p.suffix in ("", ".py")}
    assert found == set(compat.TRAINERS)
    for trainer in compat.TRAINERS:
        module = getattr(compat, trainer)
        assert module is importlib.import_module(f"fastgan.compat.{trainer}")
        assert f"`{trainer}`" in page
        assert "# before" in module.__doc__
        assert "# after" in module.__doc__
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and not isinstance(thing, types.GenericAlias) and name[0] != "A":
                assert thing.__doc__, f"{trainer}.{name}"


def test_adapters_are_imported_when_they_are_asked_for():
    code = (
        "import sys, fastgan; print([m for m in sys.modules if m.startswith('fastgan.compat.') and '._' not in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'hifi_gan'"):
        compat.hifi_gan  # noqa: B018


# ---------------------------------------------------------------------------------- patch


@pytest.fixture
def modules(monkeypatch):
    """Makes modules that are loaded as long as the test."""
    yield from loaded(monkeypatch)


def test_patch_replaces_what_is_bound_anywhere(modules):
    loss, other = (own("hifigan")[name] for name in ("discriminator_loss", "feature_loss"))
    defining = modules("models", discriminator_loss=loss, feature_loss=other, Generator=int)
    using = modules("train", discriminator_loss=loss, renamed=other, kept=loss.__name__)
    assert set(compat.patch("hifigan")) == {
        "models.discriminator_loss", "train.discriminator_loss", "models.feature_loss", "train.renamed",
    }  # fmt: skip
    ours = compat.hifigan
    assert defining.discriminator_loss is using.discriminator_loss is ours.discriminator_loss
    assert using.renamed is ours.feature_loss
    assert defining.Generator is int
    compat.unpatch("hifigan")
    assert defining.discriminator_loss is using.discriminator_loss is loss
    assert using.renamed is other
    with pytest.raises(RuntimeError, match="is not patched"):
        compat.unpatch("hifigan")


@pytest.mark.parametrize(
    ("trainer", "where", "attribute", "table"),
    [
        ("basicsr", ("basicsr.losses.gan_loss", "basicsr.utils.registry"), "LOSS_REGISTRY", "_obj_map"),
        ("mmagic", ("mmagic.models.losses", "mmagic.registry"), "MODELS", "_module_dict"),
        ("mmgen", ("mmgen.models.losses", "mmgen.models.builder"), "MODULES", "_module_dict"),
    ],
)
def test_patch_replaces_what_is_registered(modules, trainer, where, attribute, table):
    GANLoss = type("GANLoss", (own(trainer)["GANLoss"],), {})  # by mmgen's own name

    class Other: ...

    before = {"GANLoss": GANLoss, "Other": Other, "GANLoss_too": GANLoss}
    registry = types.SimpleNamespace(**{table: dict(before)})
    modules(where[0], GANLoss=GANLoss)
    modules(where[1], **{attribute: registry})
    compat.patch(trainer)
    ours = getattr(compat, trainer).GANLoss
    assert getattr(registry, table) == {"GANLoss": ours, "Other": Other, "GANLoss_too": ours}
    compat.unpatch(trainer)
    assert getattr(registry, table) == before


def test_patch_replaces_a_method(modules):
    weigh = own("taming")["calculate_adaptive_weight"]

    class VQLPIPSWithDiscriminator:
        discriminator_weight = 0.5

        def calculate_adaptive_weight(self, nll_loss, g_loss, last_layer=None):
            called.append(self)
            layer = self.last_layer[0] if last_layer is None else last_layer
            return weigh(nll_loss, g_loss, layer, self.discriminator_weight)

    called = []
    module = modules("taming.modules.losses.vqperceptual", VQLPIPSWithDiscriminator=VQLPIPSWithDiscriminator)
    assert compat.patch("taming") == [f"{module.__name__}.VQLPIPSWithDiscriminator.calculate_adaptive_weight"]
    called.clear()
    layer = torch.ones(4, requires_grad=True)
    loss = VQLPIPSWithDiscriminator()
    loss.last_layer = [layer]
    for given in (layer, None):
        weight = loss.calculate_adaptive_weight((layer * 3).sum(), (layer * 2).sum(), last_layer=given)
        torch.testing.assert_close(weight, torch.tensor(0.5 * 6 / (4 + 1e-4)))
    assert not called
    compat.unpatch("taming")
    loss.calculate_adaptive_weight((layer * 3).sum(), (layer * 2).sum())
    assert called == [loss]


def test_patch_of_a_module_by_another_name(modules):
    module = modules("my_losses", loss_hinge_dis=own("biggan")["loss_hinge_dis"])
    with pytest.raises(RuntimeError, match=r"defines the losses first; none of losses is loaded"):
        compat.patch("biggan")
    compat.patch("biggan", "my_losses")
    assert module.loss_hinge_dis is compat.biggan.loss_hinge_dis


def test_patch_leaves_what_is_somebodys_own(modules):
    """A function behind an alias, one with other parameters, and what was bound after the patch."""

    def my_gen(dis_fake): ...

    loss_hinge_dis, loss_hinge_gen = (own("biggan")[name] for name in ("loss_hinge_dis", "loss_hinge_gen"))
    module = modules(
        "losses", loss_hinge_gen=loss_hinge_gen, generator_loss=my_gen, discriminator_loss=loss_hinge_dis
    )
    compat.patch("biggan")
    assert module.generator_loss is my_gen
    assert module.loss_hinge_gen is compat.biggan.loss_hinge_gen
    assert module.discriminator_loss is compat.biggan.loss_hinge_dis
    module.loss_hinge_gen = my_gen
    compat.unpatch("biggan")
    assert module.loss_hinge_gen is my_gen
    assert module.discriminator_loss is loss_hinge_dis

    def loss_hinge_dis_of_mine(logits, margin): ...

    loss_hinge_dis_of_mine.__name__ = "loss_hinge_dis"
    module = modules("losses", loss_hinge_gen=loss_hinge_gen, loss_hinge_dis=loss_hinge_dis_of_mine)
    with pytest.raises(RuntimeError, match=r"losses.loss_hinge_dis: takes \(logits, margin\)"):
        compat.patch("biggan")
    assert module.loss_hinge_gen is loss_hinge_gen
    assert not _patch._undo


def test_patch_warns_of_subclasses(modules):
    GANLoss = own("cyclegan")["GANLoss"]

    class Mine(GANLoss): ...

    modules("models.networks", GANLoss=GANLoss, Mine=Mine)
    with pytest.warns(UserWarning, match="Mine derive from the class that is replaced"):
        compat.patch("cyclegan")


def test_patch_keeps_torchgans_bases(modules):
    class GeneratorLoss(nn.Module):
        def __init__(self, reduction="mean", override_train_ops=None): ...

    loss = own("torchgan")["wasserstein_generator_loss"]
    module = modules("torchgan.losses", GeneratorLoss=GeneratorLoss)
    modules("torchgan.losses.functional", wasserstein_generator_loss=loss)
    assert compat.patch("torchgan") == ["torchgan.losses.functional.wasserstein_generator_loss"]
    assert module.GeneratorLoss is GeneratorLoss


def test_patch_refuses(modules):
    with pytest.raises(ValueError, match="did you mean 'hifigan'"):
        compat.patch("hifi-gan")
    for trainer in ("stylegan3", "wgan_gp"):
        with pytest.raises(ValueError, match="inline"):
            compat.patch(trainer)
    modules("losses", something=1)
    with pytest.raises(RuntimeError, match="found none of its losses in losses"):
        compat.patch("biggan")
    assert not _patch._undo


def test_a_patched_script_trains_on(modules):
    """What a script calls by name after the patch is ours."""
    script = modules("__main__")
    code = """
import torch
from torch.nn import functional as F
def d_logistic_loss(real_pred, fake_pred):
    return F.softplus(-real_pred).mean() + F.softplus(fake_pred).mean()
def step(r, f):
    return d_logistic_loss(r, f)
"""
    exec(compile(code, "train.py", "exec"), vars(script))
    compat.patch("stylegan2")
    r, f = logits(5), logits(5, seed=1)
    assert torch.equal(script.step(r, f), fastgan.discriminator_loss(r, f))


# ---------------------------------------------------------------------------------- the ways calls take


def hifigan(r, f):
    m = compat.hifigan
    loss, parts = m.generator_loss([f, f * 2])
    return loss + parts[0] + m.feature_loss([[r]], [[f]])


STEPS = {
    "hifigan": hifigan,
    "biggan": lambda r, f: sum(compat.biggan.loss_hinge_dis(f, r)),
    "basicsr": lambda r, f: (
        compat.basicsr.GANLoss("vanilla")(r, True, is_disc=True) + LOSSES["basicsr"]([f, r], False)
    ),
    "cyclegan": lambda r, f: LOSSES["cyclegan"](r, True) + LOSSES["cyclegan"](f, False),
    "audiocraft": lambda r, f: compat.audiocraft.hinge_real_loss(r) + compat.audiocraft.hinge_loss(f),
    "monai": lambda r, f: LOSSES["monai"]([r, f], False, True),
    "parallelwavegan": lambda r, f: sum(LOSSES["parallelwavegan"]([f, r], [r, f])),
    "relativisticgan": lambda r, f: compat.relativisticgan.generator_loss(f, r, loss_D=8),
    "studiogan": lambda r, f: compat.studiogan.d_ls(r, f, DDP=False),
    "taming": lambda r, f: compat.taming.vanilla_d_loss(r, f),
    "torchgan": lambda r, f: compat.torchgan.minimax_discriminator_loss(r, f, 0.1),
}
LOSSES = {
    "basicsr": compat.basicsr.MultiScaleGANLoss("hinge", loss_weight=0.1),
    "cyclegan": compat.cyclegan.GANLoss("lsgan", 0.9, 0.1),
    "monai": compat.monai.PatchAdversarialLoss(criterion="hinge"),
    "parallelwavegan": compat.parallelwavegan.DiscriminatorAdversarialLoss(loss_type="hinge"),
}


def gradients(step, backend, compiled=None):
    r, f = (logits(3, 700, seed=k).requires_grad_() for k in range(2))
    with fastgan.backend(backend):
        loss = (compiled or step)(r, f)
        return loss.detach(), *torch.autograd.grad(loss, (r, f))


@pytest.mark.parametrize("name", STEPS)
def test_backends_agree(name):
    for a, b in zip(gradients(STEPS[name], "cpu"), gradients(STEPS[name], "reference"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", STEPS)
def test_under_torch_compile(name):
    torch._dynamo.reset()
    compiled = torch.compile(STEPS[name], fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(STEPS[name], "cpu"), gradients(STEPS[name], "cpu", compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", STEPS)
def test_under_autocast(name):
    """16-bit logits of a network give a float32 loss, and 16-bit gradients."""
    r, f = (logits(3, 700, seed=k).requires_grad_() for k in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eye = torch.eye(700)
        loss = STEPS[name](r @ eye, f @ eye)
    assert loss.dtype is torch.float32
    loss.backward()
    want = gradients(STEPS[name], "cpu")[1:]
    for x, w in zip((r, f), want, strict=True):
        assert x.grad.isfinite().all()
        assert (x.grad - w).abs().mean() < 0.05 * w.abs().mean()  # bfloat16 has 8 bits


@pytest.mark.parametrize("trainer", ["hifigan", "bigvgan"])
def test_k13_floats_are_traced(trainer):
    """K13: the trainer's discriminator_loss compiles as one graph, with its floats."""
    torch._dynamo.reset()
    ours = getattr(compat, trainer).discriminator_loss
    lists = [[logits(3, 7, seed=k), logits(4, seed=k + 5)] for k in range(2)]
    (loss, *floats), (want, *numbers) = (
        torch.compile(ours, fullgraph=True, backend="aot_eager")(*lists),
        ours(*lists),
    )
    assert torch.equal(loss, want)
    assert floats == numbers
    assert all(type(x) is float for side in floats for x in side)


def test_labels_of_cyclegan_that_change():
    """In place, by a checkpoint, and in a graph that is traced before or after it."""
    x, loss = logits(9), compat.cyclegan.GANLoss("lsgan")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for label, change in enumerate((loss.real_label.fill_, loss.real_label.data.fill_)):
        change(label + 0.5)
        for f in (loss, compiled):
            torch.testing.assert_close(f(x, True), (x - label - 0.5).square().mean())
    loss.load_state_dict({"real_label": torch.tensor(0.25), "fake_label": torch.tensor(-1.0)})
    torch.testing.assert_close(compiled(x, True), (x - 0.25).square().mean())
    torch.testing.assert_close(loss.double()(x.double(), False), (x.double() + 1).square().mean())


@pytest.mark.parametrize("mode", ["lsgan", "vanilla"])
def test_labels_of_a_subclass(mode):
    """The usual way to noisy labels: a trainer's own method makes them."""

    class Noisy(compat.cyclegan.GANLoss):
        def get_target_tensor(self, prediction, target_is_real):
            return super().get_target_tensor(prediction, target_is_real) * 0.5

    class Smooth(compat.basicsr.GANLoss):
        def get_target_label(self, input, target_is_real):
            return super().get_target_label(input, target_is_real) * 0.5

    x = logits(30)
    soft = compat.cyclegan.GANLoss(mode, 0.5)(x, True)
    torch.testing.assert_close(Noisy(mode)(x, True), soft)
    torch.testing.assert_close(Smooth(mode)(x, True, is_disc=True), soft)
    patched = compat.cyclegan.GANLoss(mode)
    patched.get_target_tensor = lambda prediction, target_is_real: torch.full_like(prediction, 0.5)
    torch.testing.assert_close(patched(x, True), soft)


def test_a_weight_that_is_a_tensor_gets_its_gradient():
    weight = torch.tensor(0.1, requires_grad=True)
    x = logits(30)
    compat.basicsr.GANLoss("hinge", loss_weight=weight)(x, True).backward()
    torch.testing.assert_close(weight.grad, -x.double().mean().float())


def test_dtypes_that_differ_as_under_autocast():
    """Data are float32, and what a network made is not."""
    r, f = logits(4, 3, 5, 5), logits(4, 3, 5, 5, seed=1).bfloat16()

    def judge(x, *_, **__):
        return {"adv_output": (x.float() * torch.linspace(-1, 1, x.numel()).view_as(x)).sum((1, 2, 3)).square()}

    def plain(x):
        return judge(x)["adv_output"]

    m = compat
    for penalty in (
        m.cyclegan.cal_gradient_penalty(plain, r, f, "cpu")[0],
        m.basicsr.gradient_penalty_loss(plain, r, f),
        m.mmagic.gradient_penalty_loss(plain, r, f),
        m.studiogan.cal_grad_penalty(r, None, f, judge, "cpu"),
        m.relativisticgan.gradient_penalty(plain, r, f, penalty=10.0),
        m.wgan_gp.compute_gradient_penalty(plain, r, f),
        m.wgan_gp.calc_gradient_penalty(plain, r, f, LAMBDA=10),
        m.tfgan.wasserstein_gradient_penalty(r, f, None, lambda x, _: plain(x), None),
    ):
        assert penalty.dtype is torch.float32
        assert penalty.isfinite()
    for loss in (
        m.hifigan.feature_loss([[r]], [[f]]) / 2,
        m.audiocraft.FeatureMatchingLoss()([f], [r]),
        m.parallelwavegan.FeatureMatchLoss(include_final_outputs=True)([[f]], [[r]]),
    ):
        torch.testing.assert_close(loss, (r - f.float()).abs().mean())
    for number in (5, 8):
        loss = m.relativisticgan.discriminator_loss(r.flatten(), f.flatten(), number)
        assert loss.item() == m.relativisticgan.discriminator_loss(r.flatten(), f.float().flatten(), number).item()


def test_losses_are_modules_that_can_be_copied_and_saved():
    import copy
    import pickle

    r = logits(5)
    for loss in LOSSES.values():
        assert isinstance(loss, nn.Module)
        for made in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert made.state_dict().keys() == loss.state_dict().keys()
    first, again = (made(r, True) for made in (LOSSES["cyclegan"], copy.deepcopy(LOSSES["cyclegan"])))
    assert torch.equal(first, again)
