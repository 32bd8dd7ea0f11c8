"""Puts an adapter's names in the place of an imported trainer's, and takes them out again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """Where a trainer's own losses are.

    Attributes:
        modules: the modules that define them, as the trainer's code imports them; a script's are also `__main__`.
        registries: (module, attribute) of registries from which the trainer builds losses by name.
        methods: (name of the adapter, class, method) of methods to replace in those modules.
    """

    modules: tuple[str, ...] = ()
    registries: tuple[tuple[str, str], ...] = ()
    methods: tuple[tuple[str, str, str], ...] = ()


_NETWORKS = Origin(("models.networks",))
_SCRIPT = ("train", "__main__")
# A trainer whose losses are inline in its steps has no names to replace: no modules.
ORIGINS: dict[str, Origin] = {
    "audiocraft": Origin(("audiocraft.adversarial.losses",)),
    "basicsr": Origin(
        ("basicsr.losses.gan_loss", "basicsr.losses"), (("basicsr.utils.registry", "LOSS_REGISTRY"),)
    ),
    "biggan": Origin(("losses",)),
    "bigvgan": Origin(("loss",)),
    "cut": _NETWORKS,
    "cyclegan": _NETWORKS,
    "gigagan": Origin(("gigagan_pytorch.gigagan_pytorch",)),
    "hifigan": Origin(("models",)),
    "magvit2": Origin(("magvit2_pytorch.magvit2_pytorch",)),
    "mmagic": Origin(
        ("mmagic.models.losses", "mmagic.models.losses.gan_loss", "mmagic.models.losses.disc_auxiliary_loss"),
        (("mmagic.registry", "MODELS"),),
    ),
    "mmgen": Origin(
        ("mmgen.models.losses", "mmgen.models.losses.gan_loss", "mmgen.models.losses.disc_auxiliary_loss"),
        (("mmgen.models.builder", "MODULES"),),
    ),
    "monai": Origin(("monai.losses.adversarial_loss",)),
    "parallelwavegan": Origin(
        ("parallel_wavegan.losses.adversarial_loss", "parallel_wavegan.losses.feat_match_loss")
    ),
    "pix2pix": _NETWORKS,
    "r3gan": Origin(("R3GAN.Trainer",)),
    "relativisticgan": Origin(),
    "studiogan": Origin(("utils.losses",)),
    "stylegan2": Origin(_SCRIPT),
    "stylegan3": Origin(),
    "taming": Origin(
        ("taming.modules.losses.vqperceptual",),
        methods=(("_method", "VQLPIPSWithDiscriminator", "calculate_adaptive_weight"),),
    ),
    "tfgan": Origin(),
    "torchgan": Origin(("torchgan.losses", "torchgan.losses.functional")),
    "wgan_gp": Origin(
        ("wgan_gp", "dragan", "gan_mnist", "gan_cifar", "gan_64x64", "gan_language", "gan_toy", "__main__")
    ),
}
TRAINERS = tuple(sorted(ORIGINS))

# What each patch replaced: how to put it back.
_undo: dict[str, list[tuple[Any, str, Any]]] = {}


def _replace(trainer: str, holder: Any, name: str, new: Any) -> None:
    """Sets holder.name, or holder[name] of a dict, and remembers what was there."""
    if isinstance(holder, dict):
        _undo[trainer].append((holder, name, holder[name]))
        holder[name] = new
    else:
        _undo[trainer].append((holder, name, vars(holder)[name]))
        setattr(holder, name, new)


def _holders(old: Any) -> Iterator[tuple[ModuleType, str]]:
    """Every loaded module that holds an object, and by what name: `from m import f` binds it anew."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType) or module.__name__.startswith("fastgan."):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                yield module, name


def _registered(trainer: str, name: str, old: Any) -> Iterator[dict[str, Any]]:
    """The tables of the trainer's registries in which `name` stands for the object to replace."""
    for where, attribute in ORIGINS[trainer].registries:
        registry = getattr(sys.modules.get(where), attribute, None)
        for table in ("_obj_map", "_module_dict"):  # BasicSR's, OpenMMLab's
            found = getattr(registry, table, {})
            if found.get(name) is old:
                yield found


def patch(trainer: str, *modules: str) -> list[str]:
    """Replaces an imported trainer's own losses by `fastgan.compat.<trainer>`'s, wherever they are bound.

    That is in every loaded module that holds one (`from losses import f` binds it a second time) and in the
    trainer's registry. Call it after the trainer's modules are imported and before losses are built: an object
    that was made before keeps its class, and so does a function that was stored in an object.

    Args:
        trainer: a name of `fastgan.compat.TRAINERS`.
        *modules: names of the loaded modules that define the losses, where they are not the usual ones.

    Returns:
        What was replaced, as "module.name".

    Raises:
        ValueError: an unknown trainer; one whose losses are inline, so that there is no name to replace.
        RuntimeError: it is patched already; or none of its modules is loaded, or they hold none of the names.
    """
    from .. import checks

    checks.known("trainer", trainer, ORIGINS)
    origin = ORIGINS[trainer]
    if not (origin.modules or modules):
        raise ValueError(
            f"trainer: the losses of {trainer!r} are inline in its steps; call fastgan.compat.{trainer} there"
        )
    if trainer in _undo:
        raise RuntimeError(f"trainer: {trainer!r} is patched already")
    adapter = import_module(f".{trainer}", __package__)
    names = modules or origin.modules
    loaded = [sys.modules[name] for name in names if isinstance(sys.modules.get(name), ModuleType)]
    if not loaded:
        raise RuntimeError(f"trainer: import {trainer!r} first; none of {', '.join(names)} is loaded")
    _undo[trainer] = []
    try:
        replaced = _replace_all(trainer, origin, adapter, loaded)
    except BaseException:
        unpatch(trainer)
        raise
    if not replaced:
        del _undo[trainer]
        raise RuntimeError(f"trainer: found none of its losses in {', '.join(m.__name__ for m in loaded)}")
    return replaced


def _replace_all(trainer: str, origin: Origin, adapter: ModuleType, loaded: list[ModuleType]) -> list[str]:
    replaced = []
    for module in loaded:
        for name in adapter.__all__:
            old, new = vars(module).get(name), getattr(adapter, name)
            if old is None or old is new:
                continue
            for table in _registered(trainer, name, old):
                _replace(trainer, table, name, new)
            for holder, bound in _holders(old):
                _replace(trainer, holder, bound, new)
                replaced.append(f"{holder.__name__}.{bound}")
        for name, owner, method in origin.methods:
            cls = vars(module).get(owner)
            if cls is not None and method in vars(cls):
                _replace(trainer, cls, method, getattr(adapter, name))
                replaced.append(f"{module.__name__}.{owner}.{method}")
    return replaced


def unpatch(trainer: str) -> None:
    """Puts back what `patch(trainer)` replaced.

    Raises:
        RuntimeError: it is not patched.
    """
    if trainer not in _undo:
        raise RuntimeError(f"trainer: {trainer!r} is not patched (patched: {', '.join(_undo) or 'none'})")
    for holder, name, old in reversed(_undo.pop(trainer)):
        if isinstance(holder, dict):
            holder[name] = old
        else:
            setattr(holder, name, old)
