"""The public API as text: names, parameters and defaults. `python -m tests.golden.api` writes api.txt."""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import fastgan
import fastgan.compat

STORED = Path(__file__).with_name("api.txt")


def _public(module: ModuleType) -> list[str]:
    """The names that a module offers: those of __all__, else those defined in it."""
    named = getattr(module, "__all__", None)
    if named is not None:
        return sorted(named)
    return sorted(
        n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__
    )


def _signature(value: object) -> str:
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return ""  # it is Python's own, and differs between versions
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _lines(prefix: str, value: object) -> Iterator[str]:
    if isinstance(value, ModuleType):
        yield f"{prefix}: module"
    elif isinstance(value, type):
        yield f"{prefix}{_signature(value)}: class"
        own = [vars(c) for c in reversed(value.__mro__) if c.__module__.startswith("fastgan")]
        for name, member in sorted({k: v for members in own for k, v in members.items()}.items()):
            if name[0] != "_" and (inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod))):
                yield f"{prefix}.{name}{_signature(getattr(value, name))}"
        if hasattr(value, "_fields"):
            yield f"{prefix} fields: {', '.join(value._fields)}"
    elif callable(value):
        yield f"{prefix}{_signature(value)}"
    else:
        yield f"{prefix}: {type(value).__name__}"


def lines() -> list[str]:
    """One line for each public name."""
    folder = fastgan.compat.__path__
    compat = [f"fastgan.compat.{m.name}" for m in pkgutil.iter_modules(folder) if m.name[0] != "_"]
    found: list[str] = []
    for name in (
        "fastgan",
        "fastgan.functional",
        "fastgan.nn",
        "fastgan.penalties",
        "fastgan.compat",
        *sorted(compat),
    ):
        module = importlib.import_module(name)
        for public in _public(module):
            found += _lines(f"{name}.{public}", getattr(module, public))
    return [re.sub(" at 0x[0-9a-f]+", "", line) for line in found]


if __name__ == "__main__":
    STORED.write_text("\n".join(lines()) + "\n")
