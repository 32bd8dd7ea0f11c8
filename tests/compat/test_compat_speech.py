"""fastgan.compat: NeMo, ESPnet, SpeechBrain, StyleTTS 2 and CosyVoice against their formulas."""

import pytest
import torch

import fastgan
from bench.baselines import cosyvoice as peer_cosyvoice
from bench.baselines import hifigan as peer_hifigan
from bench.baselines import nemo as peer_nemo
from bench.baselines import nemo_hifigan as peer_nemo_hifigan
from bench.baselines import parallelwavegan as peer_parallelwavegan
from bench.baselines import speechbrain as peer_speechbrain
from bench.baselines import styletts2 as peer_styletts2
from fastgan import compat
from fastgan.compat import (
    cosyvoice,
    espnet,
    hifigan,
    nemo,
    nemo_hifigan,
    parallelwavegan,
    speechbrain,
    styletts2,
)
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES
from tests.helpers.patching import loaded
from tests.helpers.sounds import compare, fmaps, logits, own

MODULES = [(nemo, peer_nemo), (nemo_hifigan, peer_nemo_hifigan), (speechbrain, peer_speechbrain)]
MODULES += [(styletts2, peer_styletts2), (cosyvoice, peer_cosyvoice)]
NAMES = [(ours, peer, name) for ours, peer in MODULES for name in ours.__all__]


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)  # the tensors are small, and more threads would only wait for each other


@pytest.fixture
def modules(monkeypatch):
    yield from loaded(monkeypatch)


@pytest.mark.parametrize(("ours", "peer", "name"), NAMES, ids=lambda x: getattr(x, "__name__", x))
def test_names_and_signatures(ours, peer, name):
    adapters.same_interface(getattr(ours, name), getattr(peer, name))


def test_every_name_is_there():
    for ours, peer in MODULES:
        assert set(adapters.public(peer)) <= set(ours.__all__)


# ---------------------------------------------------------------------------------- NeMo


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["Hinged", "Squared"])
def test_nemo(kind, dtype):
    ours, theirs = (getattr(m, f"Discriminator{kind}Loss")() for m in (nemo, peer_nemo))
    compare(ours, theirs, logits(dtype), logits(dtype, 1))
    compare(ours, theirs, logits(dtype)[:4], logits(dtype, 1)[:2])  # divided by 4
    compare(ours, theirs, logits(dtype)[:2], logits(dtype, 1)[:4])
    compare(getattr(nemo, f"Generator{kind}Loss")(), getattr(peer_nemo, f"Generator{kind}Loss")(), logits(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nemo_features(dtype):
    ours, theirs = nemo.FeatureMatchingLoss(), peer_nemo.FeatureMatchingLoss()
    real, fake = fmaps(dtype), fmaps(dtype, 1)
    compare(ours, theirs, real, fake)
    compare(ours, theirs, real, fake[:2])  # divided by 3
    compare(ours, theirs, real, [maps[:2] for maps in fake])  # divided by 3 and by 2


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        *((f"Discriminator{kind}Loss", inputs) for kind in ("Hinged", "Squared")
          for inputs in (([], []), ([torch.ones(2)], []))),
        *((f"Generator{kind}Loss", ([],)) for kind in ("Hinged", "Squared")),
        *(("FeatureMatchingLoss", inputs) for inputs in (([], []), ([[]], [[]]), ([[torch.ones(2)]], []))),
    ],
)  # fmt: skip
def test_nemo_of_empty_lists(name, inputs):
    try:
        want = getattr(peer_nemo, name)()(*inputs)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            getattr(nemo, name)()(*inputs)
        return
    got = getattr(nemo, name)()(*inputs)
    assert (type(got), got) == (type(want), want) == (float, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nemos_hifigan(dtype):
    ours, theirs = nemo_hifigan, peer_nemo_hifigan
    compare(ours.DiscriminatorLoss(), theirs.DiscriminatorLoss(), logits(dtype), logits(dtype, 1))
    compare(ours.GeneratorLoss(), theirs.GeneratorLoss(), logits(dtype))
    compare(ours.FeatureMatchingLoss(), theirs.FeatureMatchingLoss(), fmaps(dtype), fmaps(dtype, 1))


def test_nemos_hifigan_takes_keywords():
    x, y = [torch.zeros(3)], [torch.ones(3)]
    assert nemo_hifigan.DiscriminatorLoss()(disc_real_outputs=x, disc_generated_outputs=y)[1:] == ([1.0], [1.0])
    assert nemo_hifigan.FeatureMatchingLoss()(fmap_r=[x], fmap_g=[y]) == hifigan.feature_loss([x], [y]) == 2


@pytest.mark.parametrize(("trainer", "peer"), [("nemo", peer_nemo), ("nemo_hifigan", peer_nemo_hifigan)])
def test_nemo_is_patched(modules, trainer, peer):
    adapter = getattr(compat, trainer)
    (path,) = adapter.ORIGIN.modules
    relative = type("RelativeFeatureMatchingLoss", (), {})
    module = modules(path, **own(peer, *adapter.__all__), RelativeFeatureMatchingLoss=relative)
    model = modules("nemo.collections.tts.models.audio_codec", FeatureMatchingLoss=module.FeatureMatchingLoss)
    compat.patch(trainer)
    assert all(getattr(module, name) is getattr(adapter, name) for name in adapter.__all__)
    assert model.FeatureMatchingLoss is adapter.FeatureMatchingLoss
    assert module.RelativeFeatureMatchingLoss is relative


@pytest.mark.parametrize("name", [n for n in nemo.__all__ if n.startswith("Discriminator")])
def test_nemo_without_the_half_is_another(modules, name):
    theirs = getattr(peer_nemo, name)
    doubled = type(name, (theirs,), {"forward": lambda self, disc_scores_real, disc_scores_gen: 2 * theirs.forward(
        self, disc_scores_real, disc_scores_gen)})  # fmt: skip
    modules(nemo.ORIGIN.modules[0], **{name: doubled})
    with pytest.raises(RuntimeError, match=r"differs from fastgan's \(forward in float32: result 0: "):
        compat.patch("nemo")


# ---------------------------------------------------------------------------------- ESPnet


def test_espnet_is_parallelwavegan(modules):
    assert set(espnet.__all__) == set(parallelwavegan.__all__)
    module = modules("espnet2.gan_tts.hifigan.loss", **own(peer_parallelwavegan, *espnet.__all__))
    codec = modules("espnet2.gan_codec.dac.dac", FeatureMatchLoss=module.FeatureMatchLoss)
    compat.patch("espnet")
    for name in espnet.__all__:
        assert getattr(module, name) is getattr(espnet, name) is getattr(parallelwavegan, name)
    assert codec.FeatureMatchLoss is espnet.FeatureMatchLoss


def test_espnets_losses_with_other_labels_are_refused(modules):
    class GeneratorAdversarialLoss(peer_parallelwavegan.GeneratorAdversarialLoss):
        def forward(self, outputs):
            return super().forward([x + 1 for x in outputs])

    modules("espnet2.gan_tts.hifigan.loss", GeneratorAdversarialLoss=GeneratorAdversarialLoss)
    with pytest.raises(RuntimeError, match=r"differs from fastgan's \(forward in float32: result 0: "):
        compat.patch("espnet")


# ---------------------------------------------------------------------------------- SpeechBrain


@pytest.mark.parametrize("dtype", DTYPES)
def test_speechbrain(dtype):
    for real, fake in zip(logits(dtype), logits(dtype, 1), strict=True):
        compare(speechbrain.MSEGLoss(), peer_speechbrain.MSEGLoss(), fake)
        compare(speechbrain.MSEDLoss(), peer_speechbrain.MSEDLoss(), fake, real)
    compare(speechbrain.MelganFeatureLoss(), peer_speechbrain.MelganFeatureLoss(), fmaps(dtype), fmaps(dtype, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_loss", [False, True])
def test_speechbrain_sums(own_loss, dtype):
    """In one call for its own loss, else by calling the loss once per discriminator."""

    def on_both(module):
        def other(score_fake, score_real):
            return score_fake.sin().sum() + score_real.sum(), score_real.mean(), score_fake.mean()

        made = module.MSEDLoss() if own_loss else other
        return lambda fake, real: module._apply_D_loss(fake, real, made)

    def on_fake(module):
        made = module.MSEGLoss() if own_loss else (lambda score_fake: score_fake.mean())
        return lambda fake: module._apply_G_adv_loss(fake, made)

    if own_loss or dtype in (torch.float32, torch.float64):
        fake, real = (logits(dtype, seed) for seed in (1, 0))
        fake, real = (fake, real) if own_loss else (fake[:3], real[:3])
        options = {} if own_loss else {"more": 4.0, "more_value": 1e4}
        compare(on_both(speechbrain), on_both(peer_speechbrain), fake, real, **options)
        compare(on_both(speechbrain), on_both(peer_speechbrain), fake[:2], real, **options)
        compare(on_both(speechbrain), on_both(peer_speechbrain), fake[0], real[0], **options)
        compare(on_fake(speechbrain), on_fake(peer_speechbrain), fake, **options)
        compare(on_fake(speechbrain), on_fake(peer_speechbrain), fake[0], **options)


def test_speechbrains_parts_are_twice_the_last():
    real, fake = [torch.zeros(2), torch.full((3,), 3.0)], [torch.ones(4), torch.full((2,), 2.0)]
    found = speechbrain._apply_D_loss(fake, real, speechbrain.MSEDLoss())
    assert [x.item() for x in found] == [1.0 + 1.0 + 4.0 + 4.0, 8.0, 8.0]
    assert [x.item() for x in peer_speechbrain._apply_D_loss(fake, real, peer_speechbrain.MSEDLoss())] == [10, 8, 8]


def test_speechbrain_of_empty_lists():
    for module in (speechbrain, peer_speechbrain):
        assert module._apply_D_loss([], [], module.MSEDLoss()) == (0, 0, 0)
        assert module._apply_G_adv_loss([], module.MSEGLoss()) == 0
        with pytest.raises(ZeroDivisionError):
            module.MelganFeatureLoss()([], [])
        with pytest.raises(IndexError):
            module.MelganFeatureLoss()([[torch.ones(2)]], [])


def test_speechbrain_is_patched(modules):
    """Its class that calls the functions is the trainer's, and calls fastgan's then."""
    (path,) = speechbrain.ORIGIN.modules
    module = modules(path, **own(peer_speechbrain, *speechbrain.__all__))
    exec("def step(fake, real): return _apply_D_loss(fake, real, MSEDLoss())", vars(module))
    fake, real = logits(torch.float64, 1), logits(torch.float64)
    before = module.step(fake, real)
    assert len(compat.patch("speechbrain")) == 5
    assert all(getattr(module, name) is getattr(speechbrain, name) for name in speechbrain.__all__)
    for a, b in zip(module.step(fake, real), before, strict=True):
        assert adapters.close(a, b, 1e-14)


def test_speechbrains_mean_over_discriminators_is_refused(modules):
    def _apply_G_adv_loss(scores_fake, loss_func):
        return peer_speechbrain._apply_G_adv_loss(scores_fake, loss_func) / len(scores_fake)

    modules(speechbrain.ORIGIN.modules[0], _apply_G_adv_loss=_apply_G_adv_loss)
    with pytest.raises(RuntimeError, match=r"_apply_G_adv_loss: differs from fastgan's \(in float32: result 0: "):
        compat.patch("speechbrain")


# ---------------------------------------------------------------------------------- StyleTTS 2 and CosyVoice

TPRLS = [
    (styletts2.discriminator_TPRLS_loss, peer_styletts2.discriminator_TPRLS_loss),
    (styletts2.generator_TPRLS_loss, peer_styletts2.generator_TPRLS_loss),
    (lambda r, f: cosyvoice.tpr_loss(r, f, 0.7), lambda r, f: peer_cosyvoice.tpr_loss(r, f, 0.7)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.02, 0.1, 1.0])
@pytest.mark.parametrize(("ours", "theirs"), TPRLS)
def test_tprls(ours, theirs, spread, dtype):
    """Near each other nothing is truncated, and gradients go through the median."""
    real, fake = ([(x * spread).to(dtype) for x in logits(torch.float64, seed) if x.numel() > 3] for seed in (0, 1))
    compare(ours, theirs, real[:-1], fake[:-1])
    compare(ours, theirs, real[:2], fake[:-1])
    if spread == 1.0:
        compare(ours, theirs, real, fake)  # with edges


def test_tprls_by_hand():
    real, fake = torch.tensor([0.0, 0.1, 0.2, 0.2]), torch.tensor([0.1, 0.0, 0.0, 0.1], requires_grad=True)
    # r - f is -0.1, 0.1, 0.2, 0.1: its median is 0.1, and below it -0.1 alone
    assert cosyvoice.tpr_loss([real], [fake], 1.0).item() == pytest.approx(0.04, rel=1e-6)
    assert cosyvoice.tpr_loss([real, real], [fake, fake], 0.01).item() == pytest.approx(0.02, rel=1e-6)
    loss = styletts2.discriminator_TPRLS_loss([real / 2], [fake / 2])
    assert loss.item() == pytest.approx(0.01, rel=1e-6)
    loss.backward()
    assert fake.grad.tolist() == pytest.approx([0.1, -0.05, 0.0, -0.05])  # of the one below, and of both medians
    # f - r is 0.1, -0.1, -0.2, -0.1: its median is -0.1, and below it -0.2 alone
    assert styletts2.generator_TPRLS_loss([real / 2], [fake / 2]).item() == pytest.approx(0.0025, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_tprls_of_nothing_below_the_median_is_nan(n):
    real, fake = torch.ones(n), torch.zeros(n)
    for module in (styletts2, peer_styletts2):
        assert module.discriminator_TPRLS_loss([real], [fake]).isnan()


def test_tprls_of_empty_lists():
    for loss in (styletts2.discriminator_TPRLS_loss, styletts2.generator_TPRLS_loss):
        assert loss([], []) == 0
        assert type(loss([], [])) is int
    assert cosyvoice.tpr_loss([torch.ones(2)], [], 0.04) == 0


@pytest.mark.parametrize("module", [styletts2, cosyvoice])
def test_hifigans_functions_are_there(module):
    for name in hifigan.__all__:
        assert getattr(module, name) is getattr(hifigan, name)


class Judge(torch.nn.Module):
    """A discriminator like HiFi-GAN's, of two members."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(9, 9, dtype=torch.float64) for _ in range(2))

    def forward(self, y, y_hat):
        maps = [[[torch.tanh(layer(x)), layer(x).sin()] for layer in self.layers] for x in (y, y_hat)]
        scores = [[m[0] * 0.3 - m[1] for m in side] for side in maps]
        return scores[0], scores[1], maps[0], maps[1]


@pytest.mark.parametrize("name", ["GeneratorLoss", "DiscriminatorLoss"])
def test_styletts2_modules(name):
    """Value, gradients of sounds and discriminators, and no float of the logits."""
    found = []
    for module in (styletts2, peer_styletts2):
        made = getattr(module, name)(Judge(1), Judge(2))
        torch.manual_seed(3)
        y, y_hat = (torch.randn(4, 1, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
        loss = made(y, y_hat)
        assert (loss.shape, loss.dtype) == ((), torch.float64)
        loss.backward()
        found.append([loss.detach(), y.grad, y_hat.grad, *(p.grad for p in made.parameters())])
        assert {key.split(".")[0] for key in made.state_dict()} == {"mpd", "msd"}
    for a, b in zip(*found, strict=True):
        assert adapters.close(a, b, 1e-12)


def test_styletts2s_discriminator_loss_reads_no_number(monkeypatch):
    def no_number(self):
        raise AssertionError("a number was read")

    monkeypatch.setattr(torch.Tensor, "item", no_number)
    monkeypatch.setattr(torch.Tensor, "tolist", no_number)
    y = torch.randn(4, 1, 9, dtype=torch.float64)
    styletts2.DiscriminatorLoss(Judge(1), Judge(2))(y, y + 1)


def test_styletts2_is_patched(modules):
    module = modules("losses", **own(peer_styletts2, *styletts2.__all__))
    modules("train_second", **{name: getattr(module, name) for name in styletts2.__all__})
    assert len(compat.patch("styletts2")) == 2 * len(styletts2.__all__)
    assert module.GeneratorLoss is styletts2.GeneratorLoss


def test_vits_is_not_styletts2(modules):
    """Both keep their losses in a module of one name."""
    from bench.baselines import vits as peer_vits

    modules("losses", **own(peer_vits, *compat.vits.__all__))
    with pytest.raises(RuntimeError, match=r"losses\.feature_loss: differs from fastgan's"):
        compat.patch("styletts2")
    modules("losses", **own(peer_styletts2, *styletts2.__all__))
    with pytest.raises(RuntimeError, match=r"losses\.feature_loss: differs from fastgan's"):
        compat.patch("vits")


def test_a_swapped_tprls_is_refused(modules):
    def generator_TPRLS_loss(disc_real_outputs, disc_generated_outputs):
        return peer_styletts2.discriminator_TPRLS_loss(disc_real_outputs, disc_generated_outputs)

    modules("losses", generator_TPRLS_loss=generator_TPRLS_loss)
    with pytest.raises(RuntimeError, match=r"generator_TPRLS_loss: differs from fastgan's"):
        compat.patch("styletts2")


def test_cosyvoice_is_patched(modules):
    losses = modules("cosyvoice.utils.losses", **own(peer_cosyvoice, "tpr_loss"))
    matcha = modules("matcha.hifigan.models", **own(peer_hifigan, *hifigan.__all__))
    names = {name: getattr(matcha, name) for name in hifigan.__all__} | {"tpr_loss": losses.tpr_loss}
    vocoder = modules("cosyvoice.hifigan.hifigan", **names)
    compat.patch("cosyvoice")
    assert all(getattr(vocoder, name) is getattr(cosyvoice, name) for name in cosyvoice.__all__)
    compat.unpatch("cosyvoice")
    assert vars(vocoder)["tpr_loss"] is names["tpr_loss"]
    assert compat.patch("hifigan")[0].startswith("matcha.hifigan.models.")  # Matcha-TTS by itself


def test_styletts2_beside_frozen_discriminators():
    """As docs/drop-ins shows: the sound's gradient stays, bit by bit, and the discriminators get none."""
    mpd, msd = Judge(1), Judge(2)
    gl, grads = styletts2.GeneratorLoss(mpd, msd), []
    for frozen in (False, True):
        torch.manual_seed(3)
        wav, y_rec = (torch.randn(4, 1, 9, dtype=torch.float64) for _ in range(2))
        y_rec.requires_grad_()
        gl.zero_grad()
        if frozen:
            with fastgan.frozen(mpd, msd):
                loss = gl(wav, y_rec).mean()
        else:
            loss = gl(wav, y_rec).mean()
        loss.backward()
        grads.append(y_rec.grad)
        assert all((p.grad is None) == frozen for p in gl.parameters())
    assert torch.equal(*grads)
