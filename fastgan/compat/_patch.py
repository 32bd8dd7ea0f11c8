"""Replacing an imported trainer's own losses by an adapter's, and taking them out again."""

from __future__ import annotations

import inspect
import sys
import warnings
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
        kept: names of the adapter that are left as the trainer has them.
    """

    modules: tuple[str, ...] = ()
    registries: tuple[tuple[str, str], ...] = ()
    methods: tuple[tuple[str, str, str], ...] = ()
    kept: tuple[str, ...] = ()


_NETWORKS = Origin(("models.networks",))
_SCRIPT = ("train", "__main__")
# No modules: the losses are inline in the trainer's steps, or functions that read globals of their script.
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
    # Its Trainer tells losses apart by these bases, from which the adapter's classes derive.
    "torchgan": Origin(
        ("torchgan.losses", "torchgan.losses.functional"), kept=("GeneratorLoss", "DiscriminatorLoss")
    ),
    "wgan_gp": Origin(),
}
TRAINERS = tuple(sorted(ORIGINS))

# What each patch replaced: how to put it back.
_undo: dict[str, list[tuple[Any, str, Any, Any]]] = {}


def _replace(trainer: str, holder: Any, name: str, new: Any) -> None:
    """Set holder.name, or holder[name] of a dict, and remember the previous value."""
    if isinstance(holder, dict):
        _undo[trainer].append((holder, name, holder[name], new))
        holder[name] = new
    else:
        _undo[trainer].append((holder, name, vars(holder)[name], new))
        setattr(holder, name, new)


def _holders(old: Any) -> Iterator[tuple[str, ModuleType, str]]:
    """Yield every loaded module that holds an object, and its name there: `from m import f` binds it again."""
    for loaded, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or loaded.startswith("fastgan."):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                yield loaded, module, name


def _registered(trainer: str, old: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the tables of the trainer's registries that hold the object to replace, and its keys there."""
    for where, attribute in ORIGINS[trainer].registries:
        registry = getattr(sys.modules.get(where), attribute, None)
        for table in ("_obj_map", "_module_dict"):  # BasicSR's, OpenMMLab's
            found = getattr(registry, table, {})
            for key in [k for k, value in found.items() if value is old]:
                yield found, key


def _parameters(thing: Any) -> list[str] | None:
    """Return the names of a function's or class's positional parameters; None where they are not known."""
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _check_fit(where: str, old: Any, new: Any) -> None:
    """Raise unless the adapter takes what the trainer's own takes."""
    theirs, ours = _parameters(old), _parameters(new)
    if theirs is not None and ours is not None and theirs != ours[: len(theirs)]:
        raise RuntimeError(
            f"{where}: takes ({', '.join(theirs)}), fastgan's ({', '.join(ours)}): not the trainer's own, or of"
            " another version; import the adapter's by name where it fits"
        )


def _warn_of_subclasses(where: str, old: Any, replaced: list[str]) -> None:
    """Warn of classes that derive from a replaced one and are not replaced themselves."""
    left = [c for c in getattr(old, "__subclasses__", list)() if not c.__module__.startswith("fastgan.")]
    names = [c.__qualname__ for c in left if c.__name__ not in replaced]
    if names:
        warnings.warn(
            f"{where}: {', '.join(names)} derive from the class that is replaced and stay as they are; where"
            " they call super() by its name they fail when they are built",
            stacklevel=4,
        )


def patch(trainer: str, *modules: str) -> list[str]:
    """Replace an imported trainer's own losses by `fastgan.compat.<trainer>`'s, wherever they are bound.

    They are replaced in every loaded module that holds one (`from losses import f` binds it a second time) and in
    the trainer's registry. Call it after the trainer's modules are imported and before losses are built. An object
    that was made before keeps its class, and so does a function that was stored in an object.

    Args:
        trainer: a name of `fastgan.compat.TRAINERS`.
        *modules: names of the loaded modules that define the losses, where they are not the usual ones.

    Returns:
        The replaced names, as "module.name".

    Raises:
        ValueError: an unknown trainer; or one without names to replace, since its losses are inline or read globals
            of their script.
        RuntimeError: it is patched already; none of its modules is loaded; they hold none of the names, or
            something else by one of them. Nothing is replaced then.

    Warns:
        UserWarning: of classes that derive from a replaced one.
    """
    from .. import _checks as checks

    checks.choice("trainer", trainer, ORIGINS)
    origin = ORIGINS[trainer]
    if not origin.modules:
        raise ValueError(
            f"trainer: the losses of {trainer!r} are inline in its steps or read globals of their script; call"
            f" fastgan.compat.{trainer} there"
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
            if not callable(old) or old is new or name in origin.kept:
                continue
            if getattr(old, "__name__", name) not in (name, new.__name__):
                continue  # another function by an alias: replaced by its own name, if at all
            _check_fit(f"{module.__name__}.{name}", old, new)
            _warn_of_subclasses(f"{module.__name__}.{name}", old, adapter.__all__)
            for table, key in _registered(trainer, old):
                _replace(trainer, table, key, new)
            for where, holder, bound in _holders(old):
                _replace(trainer, holder, bound, new)
                replaced.append(f"{where}.{bound}")
        for name, owner, method in origin.methods:
            cls = vars(module).get(owner)
            if cls is not None and method in vars(cls):
                _replace(trainer, cls, method, getattr(adapter, name))
                replaced.append(f"{module.__name__}.{owner}.{method}")
    return replaced


def unpatch(trainer: str) -> None:
    """Put back what `patch(trainer)` replaced, except for names that were bound to something else since.

    Raises:
        RuntimeError: it is not patched.
    """
    if trainer not in _undo:
        raise RuntimeError(f"trainer: {trainer!r} is not patched (patched: {', '.join(_undo) or 'none'})")
    for holder, name, old, new in reversed(_undo.pop(trainer)):
        if isinstance(holder, dict):
            if holder.get(name) is new:
                holder[name] = old
        elif vars(holder).get(name) is new:
            setattr(holder, name, old)
