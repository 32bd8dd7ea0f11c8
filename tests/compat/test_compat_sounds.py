"""fastgan.compat: VITS and its family, BigVSAN, DAC, Vocos, WavTokenizer and stable-audio-tools."""

import math

import pytest
import torch

import fastgan
from bench.baselines import bigvsan as peer_bigvsan
from bench.baselines import dac as peer_dac
from bench.baselines import hifigan as peer_hifigan
from bench.baselines import stable_audio_tools as peer_stable
from bench.baselines import vits as peer_vits
from bench.baselines import vocos as peer_vocos
from bench.baselines import wavtokenizer as peer_wavtokenizer
from fastgan import compat
from fastgan.compat import bigvsan, dac, stable_audio_tools, vits, vocos, wavtokenizer
from tests.helpers import adapters
from tests.helpers.adapters import DTYPES
from tests.helpers.patching import loaded
from tests.helpers.sounds import compare, fmaps, logits, own

MODULES = [(vits, peer_vits), (dac, peer_dac), (vocos, peer_vocos), (wavtokenizer, peer_wavtokenizer)]
MODULES += [(stable_audio_tools, peer_stable), (bigvsan, peer_bigvsan)]
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
        names = set(adapters.public(peer))
        assert set(ours.__all__) == (names - {"discriminator_loss", "generator_loss"} if ours is dac else names)


# ---------------------------------------------------------------------------------- VITS


@pytest.mark.parametrize("dtype", DTYPES)
def test_vits(dtype):
    compare(vits.discriminator_loss, peer_vits.discriminator_loss, logits(dtype), logits(dtype, 1))
    compare(vits.generator_loss, peer_vits.generator_loss, logits(dtype))
    compare(vits.feature_loss, peer_vits.feature_loss, fmaps(dtype), fmaps(dtype, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_vits_is_in_float32_and_detaches_real_maps(dtype):
    real, fake = (torch.ones(3, dtype=dtype, requires_grad=True) for _ in range(2))
    loss, reals, _ = vits.discriminator_loss([real], [fake])
    assert loss.dtype is torch.float32
    assert (loss.item(), reals) == (1.0, [0.0])
    assert type(reals[0]) is float
    loss, parts = vits.generator_loss([fake])
    assert {x.dtype for x in (loss, *parts)} == {torch.float32}
    loss = vits.feature_loss([[real]], [[2 * fake]])
    assert (loss.dtype, loss.item()) == (torch.float32, 2.0)
    loss.backward()
    assert real.grad is None
    assert fake.grad.dtype is dtype


def test_vits_cuts_and_empty_lists():
    real, fake = logits(torch.float32)[:2], logits(torch.float32, 1)[:4]
    compare(vits.discriminator_loss, peer_vits.discriminator_loss, real, fake)
    for name, inputs in (
        ("discriminator_loss", ([], [])), ("generator_loss", ([],)), ("feature_loss", ([], [])),
        ("feature_loss", ([[]], [[]])),
    ):  # fmt: skip
        mine, theirs = getattr(vits, name)(*inputs), getattr(peer_vits, name)(*inputs)
        assert mine == theirs
        assert adapters.skeleton(mine) == adapters.skeleton(theirs)


@pytest.mark.parametrize("path", vits.ORIGIN.modules)
def test_vits_and_its_family_are_patched(modules, path):
    theirs = own(peer_vits, *vits.__all__)
    module = modules(path, **theirs)
    train = modules("train", feature_loss=module.feature_loss)
    compat.patch("vits")
    assert all(getattr(module, name) is getattr(vits, name) for name in vits.__all__)
    assert train.feature_loss is vits.feature_loss
    assert module.kl_loss is theirs["kl_loss"]
    compat.unpatch("vits")
    assert vars(module)["feature_loss"] is theirs["feature_loss"] is train.feature_loss


@pytest.mark.parametrize("name", vits.__all__)
def test_hifigan_and_applio_are_not_vits(modules, name):
    """Applio's feature loss is HiFi-GAN's; its discriminator's loss has no floats."""
    theirs = own(peer_vits, *vits.__all__) | {name: own(peer_hifigan, name)[name]}
    module = modules("losses", **theirs)
    with pytest.raises(RuntimeError, match=rf"^losses\.{name}: differs from fastgan's"):
        compat.patch("vits")
    assert all(getattr(module, n) is theirs[n] for n in theirs)


def test_applio_returns_no_floats(modules):
    def discriminator_loss(disc_real_outputs, disc_generated_outputs):
        return peer_vits.discriminator_loss(disc_real_outputs, disc_generated_outputs)[0], [], []

    modules("losses", discriminator_loss=discriminator_loss)
    with pytest.raises(
        RuntimeError, match=r"differs from fastgan's \(in float32: 5 results and gradients, fastgan's 9"
    ):
        compat.patch("vits")


# ---------------------------------------------------------------------------------- DAC


def judged(module, method):
    """A method of DAC's loss as a function of a discriminator's outputs."""

    def call(fake, real):
        return getattr(module.GANLoss(lambda x: x), method)(adapters.Sound(fake), adapters.Sound(real))

    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["forward", "discriminator_loss", "generator_loss"])
def test_dac(method, dtype):
    fake, real = fmaps(dtype), fmaps(dtype, 1)
    compare(judged(dac, method), judged(peer_dac, method), fake, real)
    if method == "discriminator_loss":  # cut to the shorter
        compare(judged(dac, method), judged(peer_dac, method), fake[:2], real)
        compare(judged(dac, method), judged(peer_dac, method), fake, real[:1])


@pytest.mark.parametrize(
    ("method", "fake", "real"),
    [("discriminator_loss", [], []), ("generator_loss", [], []), ("generator_loss", [[torch.ones(2)]], [[]])],
)
def test_dac_without_members_or_maps(method, fake, real):
    mine, theirs = judged(dac, method)(fake, real), judged(peer_dac, method)(fake, real)
    assert adapters.skeleton(mine) == adapters.skeleton(theirs)
    assert mine == theirs


def test_dac_needs_real_maps():
    for module in (dac, peer_dac):
        with pytest.raises(IndexError):
            judged(module, "generator_loss")([[torch.ones(2), torch.ones(2)]], [])


class Judge(torch.nn.Module):
    """A discriminator of two members."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, x):
        h = self.layer(x)
        return [[torch.tanh(h), h], [h.sin()]]


@pytest.mark.parametrize("method", ["discriminator_loss", "generator_loss"])
def test_dac_gradients_of_sounds_and_discriminator(method):
    """The fake sound is detached in the discriminator's loss, the real maps are in the generator's."""
    grads = []
    for module in (dac, peer_dac):
        torch.manual_seed(3)
        net = Judge()
        fake, real = (torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
        value = getattr(module.GANLoss(net), method)(adapters.Sound(fake), adapters.Sound(real))
        total = value if isinstance(value, torch.Tensor) else value[0] + 2 * value[1]
        total.backward()
        grads.append([x.grad for x in (fake, real, *net.parameters())])
        names = ["discriminator.layer.weight", "discriminator.layer.bias"]
        assert list(module.GANLoss(net).state_dict()) == names
    for a, b in zip(*grads, strict=True):
        assert (a is None and b is None) or adapters.close(a, b, 1e-12)
    assert [g is None for g in grads[0]] == [
        method == "discriminator_loss",
        method == "generator_loss",
        False,
        False,
    ]


def test_dac_is_patched(modules):
    module = modules("dac.nn.loss", **own(peer_dac, "GANLoss"))
    assert compat.patch("dac") == ["dac.nn.loss.GANLoss"]
    assert module.GANLoss is dac.GANLoss


@pytest.mark.parametrize("method", ["discriminator_loss", "generator_loss"])
def test_dac_with_means_over_discriminators_is_another(modules, method):
    """stable-audio-tools' class of these methods divides by their number."""

    class GANLoss(peer_dac.GANLoss):
        pass

    def divided(self, fake, real):
        value = getattr(peer_dac.GANLoss, method)(self, fake, real)
        return value / 2 if isinstance(value, torch.Tensor) else (value[0] / 2, value[1])

    setattr(GANLoss, method, divided)
    modules("dac.nn.loss", GANLoss=GANLoss)
    with pytest.raises(RuntimeError, match=rf"differs from fastgan's \({method} in float32: result 0"):
        compat.patch("dac")


# ---------------------------------------------------------------------------------- Vocos and WavTokenizer

VOCOS = [(vocos, peer_vocos), (wavtokenizer, peer_wavtokenizer)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "peer"), VOCOS)
def test_vocos(ours, peer, dtype):
    compare(ours.DiscriminatorLoss(), peer.DiscriminatorLoss(), logits(dtype), logits(dtype, 1))
    compare(ours.DiscriminatorLoss(), peer.DiscriminatorLoss(), logits(dtype)[:3], logits(dtype, 1))
    compare(ours.GeneratorLoss(), peer.GeneratorLoss(), logits(dtype))
    compare(ours.FeatureMatchingLoss(), peer.FeatureMatchingLoss(), fmaps(dtype), fmaps(dtype, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ours", [vocos, wavtokenizer])
def test_vocos_at_the_kink(ours, dtype):
    """The derivative is that of torch.clamp, the whole slope; a step further it is 0."""
    step = torch.finfo(dtype).eps
    x = torch.tensor([1.0, 1.0 + step, 1.0 - step, 2.0], dtype=dtype, requires_grad=True)
    loss, parts = ours.GeneratorLoss()([x])
    for value in (loss, *parts):
        (grad,) = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=True)
        assert grad.tolist() == [-0.25, 0.0, -0.25, 0.0]
    y = torch.tensor([-1.0, -1.0 - step, 0.0, 0.0], dtype=dtype, requires_grad=True)
    loss, *_ = ours.DiscriminatorLoss()([x.detach()], [y])
    loss.sum().backward()
    assert y.grad.tolist() == [0.25, 0.0, 0.25, 0.25]


def test_vocos_gives_vectors_and_wavtokenizer_scalars():
    real, fake = [torch.zeros(2, 3), torch.ones(4)], [torch.zeros(2, 3), torch.zeros(4)]
    loss, reals, fakes = vocos.DiscriminatorLoss()(real, fake)
    assert (loss.shape, loss.tolist()) == ((1,), [3.0])
    assert [x.shape for x in reals + fakes] == [()] * 4
    loss, reals, fakes = wavtokenizer.DiscriminatorLoss()(real, fake)
    assert (loss.shape, loss.item(), reals, fakes) == ((), 3.0, [1.0, 0.0], [1.0, 1.0])
    assert type(reals[0]) is float
    assert vocos.FeatureMatchingLoss()([real], [fake]).shape == (1,)
    assert wavtokenizer.FeatureMatchingLoss()([real], [fake]).shape == ()


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("GeneratorLoss", ([],)), ("DiscriminatorLoss", ([], [])), ("DiscriminatorLoss", ([torch.ones(2)], [])),
        ("FeatureMatchingLoss", ([], [])), ("FeatureMatchingLoss", ([[torch.ones(2)]], [])),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("ours", "peer"), VOCOS)
def test_vocos_of_empty_lists(ours, peer, name, inputs):
    try:
        want = getattr(peer, name)()(*inputs)
    except IndexError:
        with pytest.raises(IndexError):
            getattr(ours, name)()(*inputs)
        return
    got = getattr(ours, name)()(*inputs)
    assert adapters.skeleton(got) == adapters.skeleton(want)
    assert got == want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["forward", "discriminator_loss", "generator_loss"])
def test_wavtokenizers_dac(method, dtype):
    def judged(module):
        made = module.DACGANLoss(lambda x: x.audio_data)
        return lambda fake, real: getattr(made, method)(adapters.Sound(fake), adapters.Sound(real))

    compare(judged(wavtokenizer), judged(peer_wavtokenizer), fmaps(dtype), fmaps(dtype, 1))


@pytest.mark.parametrize(
    ("trainer", "path", "peer"),
    [("vocos", "vocos.loss", peer_vocos), ("wavtokenizer", "decoder.loss", peer_wavtokenizer)],
)
def test_vocos_is_patched(modules, trainer, path, peer):
    adapter = getattr(compat, trainer)
    module = modules(path, **own(peer, *adapter.__all__))
    experiment = modules("experiment", GeneratorLoss=module.GeneratorLoss)
    compat.patch(trainer)
    assert all(getattr(module, name) is getattr(adapter, name) for name in adapter.__all__)
    assert experiment.GeneratorLoss is adapter.GeneratorLoss


def test_old_commits_of_vocos_are_wavtokenizers(modules):
    names = ["DiscriminatorLoss", "FeatureMatchingLoss", "GeneratorLoss"]
    module = modules("vocos.loss", **own(peer_wavtokenizer, *names))
    with pytest.raises(
        RuntimeError, match=r"vocos\.loss\.GeneratorLoss: differs from fastgan's .*shape \(\), fastgan's"
    ):
        compat.patch("vocos")
    compat.patch("wavtokenizer", "vocos.loss")
    assert all(getattr(module, name) is getattr(wavtokenizer, name) for name in names)


def test_means_over_discriminators_are_not_vocoss(modules):
    class GeneratorLoss(peer_vocos.GeneratorLoss):
        def forward(self, disc_outputs):
            total, parts = super().forward(disc_outputs)
            return total / len(parts), parts

    modules("vocos.loss", GeneratorLoss=GeneratorLoss)
    with pytest.raises(RuntimeError, match=r"in float32: result 0: "):
        compat.patch("vocos")


# ---------------------------------------------------------------------------------- stable-audio-tools


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", stable_audio_tools.__all__)
def test_stable_audio_tools(name, dtype):
    for real, fake in zip(logits(dtype), logits(dtype, 1), strict=True):
        # A difference is rounded before the function.
        compare(getattr(stable_audio_tools, name), getattr(peer_stable, name), real, fake, more=8.0, more_value=2.0)


def test_stable_audio_tools_refuses_shapes_that_broadcast():
    with pytest.raises(ValueError, match="shape"):
        stable_audio_tools.get_relativistic_losses(torch.ones(4, 1), torch.ones(4))
    unequal = torch.zeros(4, 1), torch.zeros(3)
    for a, b in zip(
        stable_audio_tools.get_hinge_losses(*unequal), peer_stable.get_hinge_losses(*unequal), strict=True
    ):
        assert a == b


def test_stable_audio_tools_is_patched(modules):
    discriminators = modules("stable_audio_tools.models.discriminators", **own(peer_stable, "get_hinge_losses"))
    arc = modules("stable_audio_tools.models.arc", **own(peer_stable, "get_relativistic_losses"))
    compat.patch("stable_audio_tools")
    assert discriminators.get_hinge_losses is stable_audio_tools.get_hinge_losses
    assert arc.get_relativistic_losses is stable_audio_tools.get_relativistic_losses


def test_another_order_of_stable_audio_tools_is_refused(modules):
    def get_hinge_losses(score_real, score_fake):
        return peer_stable.get_hinge_losses(score_real, score_fake)[::-1]

    modules("stable_audio_tools.models.discriminators", get_hinge_losses=get_hinge_losses)
    with pytest.raises(RuntimeError, match=r"get_hinge_losses: differs from fastgan's \(in float32: result 0: "):
        compat.patch("stable_audio_tools")


# ---------------------------------------------------------------------------------- traced, and beside a frozen D


@pytest.mark.parametrize(
    "loss",
    [
        vits.discriminator_loss,
        vocos.DiscriminatorLoss(),
        wavtokenizer.DiscriminatorLoss(),
        lambda x, y: dac.GANLoss(lambda z: z).discriminator_loss(
            *(adapters.Sound([[a] for a in z]) for z in (x, y))
        ),
    ],
    ids=["vits", "vocos", "wavtokenizer", "dac"],
)
def test_in_one_graph_of_torch_compile(loss):
    results = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = adapters.leaves((logits(torch.float32), logits(torch.float32, 1)))
        values = [x for x in adapters.flat(call(*leaves)) if isinstance(x, torch.Tensor)]
        grads = torch.autograd.grad(values[0].sum(), adapters.flat(leaves), allow_unused=True)
        results.append([*values, *(g for g in grads if g is not None)])
    for a, b in zip(*results, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert adapters.close(a, b, 1e-6)


def test_dac_beside_a_frozen_discriminator():
    """As docs/drop-ins shows: the sound's gradient stays, bit by bit, and the discriminator gets none."""
    judge, grads = Judge(), []
    for frozen in (False, True):
        torch.manual_seed(3)
        fake, real = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True), torch.randn(2, 1, 6).double()
        gan = dac.GANLoss(judge)
        judge.zero_grad()
        if frozen:
            with fastgan.frozen(judge):
                loss, features = gan.generator_loss(adapters.Sound(fake), adapters.Sound(real))
        else:
            loss, features = gan.generator_loss(adapters.Sound(fake), adapters.Sound(real))
        (loss + 2 * features).backward()
        grads.append(fake.grad)
        assert all((p.grad is None) == frozen for p in judge.parameters())
    assert torch.equal(*grads)


# ---------------------------------------------------------------------------------- BigVSAN


@pytest.mark.parametrize("dtype", DTYPES)
def test_bigvsan(dtype):
    """Numbers of an ordinary size: squares of large ones overflow float16."""
    real, fake = ([[x, x.flip(0) / 2] for x in logits(dtype, seed)[:4]] for seed in (0, 1))
    compare(
        bigvsan.discriminator_loss,
        peer_bigvsan.discriminator_loss,
        real,
        fake,
        scale=lambda *_: torch.tensor(30.0),
        more=2.0,
    )
    compare(
        bigvsan.discriminator_loss,
        peer_bigvsan.discriminator_loss,
        real[:2],
        fake,
        scale=lambda *_: torch.tensor(30.0),
        more=2.0,
    )
    compare(bigvsan.generator_loss, peer_bigvsan.generator_loss, logits(dtype)[:6], more=2.0)


def test_bigvsan_by_hand():
    """softplus(0) is ln 2."""
    real, fake = [torch.ones(3), torch.ones(2)], [torch.zeros(4), torch.ones(5)]
    loss, reals, fakes = bigvsan.discriminator_loss([real], [fake])
    square = math.log(2) ** 2
    assert reals == pytest.approx([2 * square])
    assert fakes == pytest.approx([0.0], abs=1e-7)
    assert loss.item() == pytest.approx(2 * square)
    assert type(reals[0]) is float
    assert bigvsan.discriminator_loss([], []) == (0, [], [])
    assert bigvsan.generator_loss([]) == (0, [])


def test_bigvsan_is_patched_and_hifigan_is_not(modules):
    module = modules("models", **own(peer_bigvsan, *bigvsan.__all__))
    with pytest.raises(RuntimeError, match=r"models\.\w+: differs from fastgan's"):
        compat.patch("hifigan")
    compat.patch("bigvsan")
    assert all(getattr(module, name) is getattr(bigvsan, name) for name in bigvsan.__all__)
    modules("models", **own(peer_hifigan, *bigvsan.__all__))
    with pytest.raises(RuntimeError, match=r"models\.\w+: differs from fastgan's"):
        compat.patch("bigvsan")
