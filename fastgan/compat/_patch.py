"""Replacing an imported trainer's own losses by an adapter's, and taking them out again."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, NamedTuple

from . import _probe, _spawned
from ._origin import Origin

_log = logging.getLogger("fastgan")
TRAINERS = tuple(sorted(m.name for m in iter_modules([os.path.dirname(__file__)]) if m.name[0] != "_"))


class _Change(NamedTuple):
    """holder.name, or holder[name] of a dict, which was old and is new; `where` is its name for people."""

    holder: Any
    name: str
    old: Any
    new: Any
    where: str

    def read(self) -> Any:
        """Return what is there now."""
        held = self.holder if isinstance(self.holder, dict) else vars(self.holder)
        return held.get(self.name)

    def write(self, value: Any) -> None:
        """Put a value there."""
        if isinstance(self.holder, dict):
            self.holder[self.name] = value
        else:
            setattr(self.holder, self.name, value)


# What each patch replaced, in order.
_undo: dict[str, list[_Change]] = {}
_spawned.watch(_undo)


def _replace(trainer: str, holder: Any, name: str, new: Any, where: str) -> None:
    """Put the adapter's in its place, and remember what was there."""
    change = _Change(holder, name, None, new, where)
    change = change._replace(old=change.read())
    _undo.setdefault(trainer, []).append(change)
    change.write(new)


def _holders(old: Any) -> Iterator[tuple[str, ModuleType, str]]:
    """Yield every loaded module that holds an object, and its name there: `from m import f` binds it again."""
    for loaded, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or loaded.startswith("fastgan."):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                yield loaded, module, name


def adapter_of(trainer: str) -> ModuleType:
    """Import a trainer's adapter."""
    return import_module(f".{trainer}", __package__)


def _registered(origin: Origin, old: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the tables of the trainer's registries that hold the object to replace, and its keys there."""
    for where, attribute in origin.registries:
        registry = getattr(sys.modules.get(where), attribute, None)
        for table in ("_obj_map", "_module_dict"):  # BasicSR's, OpenMMLab's
            found = getattr(registry, table, {})
            for key in [k for k, value in found.items() if value is old]:
                yield f"{where}.{attribute}[{key!r}]", found, key


def _parameters(thing: Any) -> list[str] | None:
    """Return the names of a function's or class's positional parameters; None where they are not known."""
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _unfit(adapter: ModuleType, old: Any, new: Any) -> str | None:
    """Return why the adapter's does not stand in for the trainer's, or None: its parameters, or its results."""
    theirs, ours = _parameters(old), _parameters(new)
    if theirs is not None and ours is not None and theirs != ours[: len(theirs)]:
        return f"takes ({', '.join(theirs)}), fastgan's ({', '.join(ours)})"
    differences = _probe.differences(adapter, old, new)
    return f"differs from fastgan's ({'; '.join(differences)})" if differences else None


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

    It holds for this process and those that it forks. A spawned process imports the script again: call it at the
    script's top level, and not under `if __name__ == "__main__"`. A second call replaces what was bound since.

    Each function and class is first called on small tensors, as is the adapter's, if it is one of tensors.

    Args:
        trainer: a name of `fastgan.compat.TRAINERS`.
        *modules: names of the loaded modules that define the losses, where they are not the usual ones.

    Returns:
        The replaced names, as "module.name", also those of earlier calls.

    Raises:
        ValueError: an unknown trainer; or one without names to replace, since its losses are inline or read globals
            of their script.
        RuntimeError: none of its modules is loaded; they hold none of the names, or something else by one of them,
            with other parameters, results or gradients. This call has replaced nothing then.

    Warns:
        UserWarning: of classes that derive from a replaced one.
    """
    from .. import _checks as checks

    checks.choice("trainer", trainer, TRAINERS)
    adapter = adapter_of(trainer)
    origin = adapter.ORIGIN
    if not origin.modules:
        raise ValueError(
            f"trainer: the losses of {trainer!r} are inline in its steps or read globals of their script; call"
            f" fastgan.compat.{trainer} there"
        )
    names = modules or origin.modules
    loaded = [sys.modules[name] for name in names if isinstance(sys.modules.get(name), ModuleType)]
    if not loaded:
        raise RuntimeError(
            f"trainer: import the module that defines the losses first; none of {', '.join(names)} is loaded (if it"
            f" has another name: patch({trainer!r}, 'its.name'))"
        )
    _replace_all(trainer, adapter, loaded)
    replaced = patched()[trainer]
    _log.info("patched %s in process %d: %s", trainer, os.getpid(), ", ".join(replaced))
    return replaced


class _Own(NamedTuple):
    """One of the trainer's own functions, classes and methods (of `owner`), and what may stand in for it."""

    where: str
    owner: type | None
    name: str
    old: Any
    candidates: list[Any]


def _function_or_class(thing: Any) -> bool:
    """Return whether this can be replaced: annotations such as a Union are callable, too."""
    return inspect.isroutine(thing) or inspect.isclass(thing)


def _owned(adapter: ModuleType, loaded: list[ModuleType]) -> Iterator[_Own]:
    """Yield what these modules hold by the adapter's names, and their classes' methods."""
    origin = adapter.ORIGIN
    for module in loaded:
        held = vars(module)
        yield from _methods(adapter, module)
        for name in [n for n in adapter.__all__ if n not in origin.kept]:
            old, new = held.get(name), getattr(adapter, name)
            # Another function by an alias is replaced by its own name, if at all.
            if not (_function_or_class(old) and _function_or_class(new)) or old is new:
                continue
            if getattr(old, "__name__", name) in (name, new.__name__):
                yield _Own(f"{module.__name__}.{name}", None, name, old, [new])


def _methods(adapter: ModuleType, module: ModuleType) -> Iterator[_Own]:
    """Yield the methods to replace of a module's classes."""
    for method, candidates in adapter.ORIGIN.methods:
        found = [getattr(adapter, name) for name in candidates]
        for name, owner in [(n, c) for n, c in vars(module).items() if isinstance(c, type) and method in vars(c)]:
            if vars(owner)[method] not in found:
                yield _Own(f"{module.__name__}.{name}.{method}", owner, method, vars(owner)[method], found)


def _fitting(adapter: ModuleType, owned: Iterable[_Own]) -> tuple[list[tuple[_Own, Any]], list[str]]:
    """Return what can be replaced, each with its replacement, and why the others cannot; each object once."""
    fitting, reasons = [], []
    for own in {id(own.old): own for own in reversed(list(owned))}.values():
        unfit = [_unfit(adapter, own.old, new) for new in own.candidates]
        if None in unfit:
            fitting.append((own, own.candidates[unfit.index(None)]))
        else:
            reasons.append(f"{own.where}: {unfit[0]}")
    return fitting[::-1], reasons[::-1]


def _relatives(adapter: ModuleType, fitting: list[tuple[_Own, Any]]) -> list[tuple[_Own, Any]]:
    """Return the same methods of classes beside which a replaced function is bound; warn of those that stay."""
    users = [sys.modules[m] for own, _ in fitting if own.owner is None for m, _, _ in _holders(own.old)]
    known = {id(own.old) for own, _ in fitting}
    found = [own for m in dict.fromkeys(users) for own in _methods(adapter, m) if id(own.old) not in known]
    more, left = _fitting(adapter, found)
    if left:
        warnings.warn(f"{'; '.join(left)}: stays as it is", stacklevel=4)
    return more


def _replace_all(trainer: str, adapter: ModuleType, loaded: list[ModuleType]) -> None:
    """Replace all names and methods in these modules; or nothing, where one does not fit."""
    fitting, reasons = _fitting(adapter, _owned(adapter, loaded))
    if reasons:
        raise RuntimeError(
            f"{'; '.join(reasons)}: not the trainer's own, or of another version; import the adapter's by name"
            " where it fits"
        )
    fitting += _relatives(adapter, fitting)
    for own, _ in fitting:
        _warn_of_subclasses(own.where, own.old, adapter.__all__)
    for own, new in fitting:
        _replace_own(trainer, adapter.ORIGIN, own, new)
    if not _reached(trainer, loaded):
        raise RuntimeError(
            f"trainer: found none of its losses in {', '.join(m.__name__ for m in loaded)}"
            f" (patched: {', '.join(patched()) or 'none'})"
        )
    _spawned.note(_undo)


def _replace_own(trainer: str, origin: Origin, own: _Own, new: Any) -> None:
    """Replace a method in its class; a function or class in registries, and wherever it is bound."""
    if own.owner is not None:
        _replace(trainer, own.owner, own.name, new, own.where)
        return
    for label, table, key in _registered(origin, own.old):
        _replace(trainer, table, key, new, label)
    for loaded, holder, bound in _holders(own.old):
        _replace(trainer, holder, bound, new, f"{loaded}.{bound}")


def _reached(trainer: str, loaded: list[ModuleType]) -> bool:
    """Return whether one of these modules, or a class in it, holds something of the adapter's."""
    holders = {id(m) for m in loaded} | {id(value) for m in loaded for value in vars(m).values()}
    return any(id(c.holder) in holders and c.read() is c.new for c in _undo.get(trainer, []))


def unpatch(trainer: str) -> None:
    """Put back what `patch(trainer)` replaced, except for names that were bound to something else since.

    Raises:
        RuntimeError: it is not patched.
    """
    if trainer not in _undo:
        raise RuntimeError(f"trainer: {trainer!r} is not patched (patched: {', '.join(_undo) or 'none'})")
    for change in reversed(_undo.pop(trainer)):
        if change.read() is change.new:
            change.write(change.old)
    _spawned.note(_undo)
    _log.info("unpatched %s in process %d", trainer, os.getpid())


def _active(trainer: str) -> list[str]:
    """Return the names that hold the adapter's functions and classes now, each once."""
    return list(dict.fromkeys(c.where for c in _undo[trainer] if c.read() is c.new))


def patched() -> dict[str, list[str]]:
    """Return the trainers that are patched in this process, each with the names that are fastgan's now.

    A name is "module.name", "module.class.method" or "module.registry['name']". One that was bound to something
    else since is left out.
    """
    return {trainer: names for trainer in _undo if (names := _active(trainer))}
