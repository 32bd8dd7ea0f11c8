"""fastgan.compat: NeMo against its formulas."""

import pytest
import torch

from bench.baselines import nemo as peer_nemo
from bench.baselines import nemo_hifigan as peer_nemo_hifigan
from fastgan import compat
from fastgan.compat import hifigan, nemo, nemo_hifigan
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES
from tests.helpers.sounds import compare, fmaps, loaded, logits, own

MODULES = [(nemo, peer_nemo), (nemo_hifigan, peer_nemo_hifigan)]
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
