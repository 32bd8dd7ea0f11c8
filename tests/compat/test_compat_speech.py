"""fastgan.compat: NeMo, ESPnet and SpeechBrain against their formulas."""

import pytest
import torch

from bench.baselines import nemo as peer_nemo
from bench.baselines import nemo_hifigan as peer_nemo_hifigan
from bench.baselines import parallelwavegan as peer_parallelwavegan
from bench.baselines import speechbrain as peer_speechbrain
from fastgan import compat
from fastgan.compat import espnet, hifigan, nemo, nemo_hifigan, parallelwavegan, speechbrain
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES
from tests.helpers.sounds import compare, fmaps, loaded, logits, own

MODULES = [(nemo, peer_nemo), (nemo_hifigan, peer_nemo_hifigan), (speechbrain, peer_speechbrain)]
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
