"""Adapters of vocoders' and codecs' losses and their trainers' formulas, as in adapter_losses.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.helpers import adapters
from tests.helpers.adapters import Sound
from tests.proof.adapter_cases import listed, one, two, two_lists, two_sets_of_maps
from tests.proof.adapter_losses import OTHER, functions, loss

SEVERAL = {"members": (2, 1, 3, 5), "container": ("list", "tuple")}
MAPS: dict[str, Any] = {"members": (2, 1, 3), "maps": (2, 1, 4)}


def one_list(o: SimpleNamespace) -> list[Any]:
    """Return logits of several discriminators."""
    return [listed(o)]


# VITS

functions("vits", ("discriminator_loss",), two_lists, longer=(0, 2, -1), **SEVERAL)
functions("vits", ("generator_loss",), one_list, **SEVERAL)
functions("vits", ("feature_loss",), two_sets_of_maps, **MAPS)

# DAC


def judged(m: Any, o: SimpleNamespace, fake: Any, real: Any) -> Any:
    """Call a method of DAC's loss on a discriminator's outputs."""
    made = m.GANLoss(lambda x: x) if o.module == "dac" else m.DACGANLoss(lambda x: x.audio_data)
    return getattr(made, o.method)(Sound(fake), Sound(real))


METHODS = ("discriminator_loss", "generator_loss", "forward")
loss("dac.GANLoss", two_sets_of_maps, judged, method=METHODS, **MAPS)

# Vocos and WavTokenizer


def modules(trainer: str, name: str, inputs: Any, **space: Any) -> None:
    """List a module without options."""

    def call(m: Any, o: SimpleNamespace, *tensors: Any) -> Any:
        return getattr(m, name)()(*tensors)

    loss(f"{trainer}.{name}", inputs, call, **space)


for trainer in ("vocos", "wavtokenizer"):
    modules(trainer, "DiscriminatorLoss", two_lists, longer=(0, 2, -1), **SEVERAL)
    modules(trainer, "GeneratorLoss", one_list, **SEVERAL)
    modules(trainer, "FeatureMatchingLoss", two_sets_of_maps, **MAPS)
loss("wavtokenizer.DACGANLoss", two_sets_of_maps, judged, method=METHODS, **MAPS)

# NeMo

LONGER = {"longer": (0, 2, -1), "fits": lambda o: o.members + o.longer > 0}
for name in ("DiscriminatorHingedLoss", "DiscriminatorSquaredLoss"):
    modules("nemo", name, two_lists, **LONGER, **SEVERAL)
for name in ("GeneratorHingedLoss", "GeneratorSquaredLoss"):
    modules("nemo", name, one_list, **SEVERAL)
modules("nemo", "FeatureMatchingLoss", two_sets_of_maps, **MAPS)
modules("nemo_hifigan", "DiscriminatorLoss", two_lists, longer=(0, 2, -1), **SEVERAL)
modules("nemo_hifigan", "GeneratorLoss", one_list, **SEVERAL)
modules("nemo_hifigan", "FeatureMatchingLoss", two_sets_of_maps, **MAPS)

# SpeechBrain


def summed(m: Any, o: SimpleNamespace, *scores: Any) -> Any:
    """Call the function that sums a loss over discriminators."""
    made = m.MSEGLoss() if len(scores) == 1 else m.MSEDLoss()
    return (m._apply_G_adv_loss if len(scores) == 1 else m._apply_D_loss)(*scores, made)


modules("speechbrain", "MSEGLoss", one)
modules("speechbrain", "MSEDLoss", two, other=OTHER)
modules("speechbrain", "MelganFeatureLoss", two_sets_of_maps, **MAPS)
CONTAINERS = {"members": (2, 1, 3, 5), "container": ("list", "tensor")}
loss("speechbrain._apply_G_adv_loss", one_list, summed, **CONTAINERS)
loss(
    "speechbrain._apply_D_loss",
    two_lists,
    summed,
    longer=(0, 2, -1),
    fits=lambda o: o.container == "list" or o.members + o.longer > 0,
    **CONTAINERS,
)

# StyleTTS 2 and CosyVoice


def near_and_far(o: SimpleNamespace) -> list[Any]:
    """Return logits of both sides, so near each other that nothing is truncated, or far."""
    return adapters.mapped(two_lists(o), lambda x: x * o.spread)


SPREAD: dict[str, Any] = {"spread": (0.03, 0.2, 1.0), "longer": (0, 2, -1), **SEVERAL}
TPRLS = ("discriminator_TPRLS_loss", "generator_TPRLS_loss")
functions("styletts2", TPRLS, near_and_far, **SPREAD)
functions(
    "cosyvoice", ("tpr_loss",), near_and_far, arguments=lambda o: {"tau": o.tau}, tau=(0.04, 1, 0.5), **SPREAD
)
for trainer in ("styletts2", "cosyvoice"):
    functions(trainer, ("discriminator_loss",), two_lists, longer=(0, 2, -1), **SEVERAL)
    functions(trainer, ("generator_loss",), one_list, **SEVERAL)
    functions(trainer, ("feature_loss",), two_sets_of_maps, **MAPS)


def of_two(o: SimpleNamespace) -> list[Any]:
    """Return what two discriminators return: logits of both sides, and maps of both sides."""
    rest = SimpleNamespace(**{**vars(o), "seed": o.seed + 1})
    return [near_and_far(o) + two_sets_of_maps(o), near_and_far(rest) + two_sets_of_maps(rest)]


def of_discriminators(m: Any, o: SimpleNamespace, first: Any, second: Any) -> Any:
    """Call a module on two discriminators' outputs."""
    return getattr(m, o.of)(lambda y, y_hat: first, lambda y, y_hat: second)(None, None)


loss(
    "styletts2.modules",
    of_two,
    of_discriminators,
    of=("GeneratorLoss", "DiscriminatorLoss"),
    size=lambda o, xs: 40.0,
    **SPREAD | MAPS,
)

# stable-audio-tools

functions("stable_audio_tools", ("get_hinge_losses",), two, other=OTHER)
functions("stable_audio_tools", ("get_relativistic_losses",), two)

# BigVSAN


def functions_and_directions(o: SimpleNamespace) -> list[Any]:
    """Return two outputs per discriminator, of both sides."""
    return two_sets_of_maps(SimpleNamespace(**{**vars(o), "maps": 2}))


def san_size(o: SimpleNamespace, inputs: list[Any]) -> float:
    """Return the size of a square beside its summand's."""
    return 4.0 * (1.0 + max(float(x.abs().max()) for x in inputs))


functions("bigvsan", ("discriminator_loss",), functions_and_directions, members=(2, 1, 3), size=san_size)
functions("bigvsan", ("generator_loss",), one_list, size=san_size, **SEVERAL)
functions("bigvsan", ("feature_loss",), two_sets_of_maps, **MAPS)
