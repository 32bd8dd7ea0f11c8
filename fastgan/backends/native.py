"""The compiled extension: which of its builds is loaded, and its kernels behind `Kernels`."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import Kernels, Operands
from .specs import LossSpec

_PACKAGE = Path(__file__).parents[1]


def module_name(folder: str, cuda: str | None) -> str:
    """Return the extension to load: the newest in `folder` whose CUDA's major version torch's `cuda` reaches.

    A build with several CUDA toolkits has _native, by the oldest, and others such as _native_cuda13. A driver that
    serves torch serves such a one; and devices that CUDA 13 dropped are used with a torch built by CUDA 12.
    """
    matches = [re.fullmatch(r"_native_cuda(\d+)", found.name) for found in pkgutil.iter_modules([folder])]
    majors = [int(match[1]) for match in matches if match]
    reached = [major for major in majors if major <= int((cuda or "0").split(".")[0])]
    return f"_native_cuda{max(reached)}" if reached else "_native"


def _why_missing(error: ImportError) -> str:
    """Return in plain words why the extension could not be imported."""
    if not isinstance(error, ModuleNotFoundError):
        return str(error)
    others = [path.name for path in sorted(_PACKAGE.glob("_native*.so"))]
    if others:
        return f"it was built for another Python: {', '.join(others)}; build it for this one (docs/install.md)"
    told = build_facts().get("native", "built")
    source = _PACKAGE.parent if (_PACKAGE.parent / "csrc" / "tools" / "toolkit.py").exists() else None
    elsewhere = _installed_elsewhere() if source else None
    if elsewhere:
        return (
            f"this is the source folder {source}, which shadows the fastgan that is installed in {elsewhere}: "
            "work in another folder, or build here with pip install -e ."
        )
    if told != "built":
        return told
    if source:
        return (
            f"this is the source folder {source}, which was not built: pip install -e . does it, or "
            "python setup.py build_ext --inplace"
        )
    return "it was not built; see docs/install.md"


def _installed_elsewhere() -> str | None:
    """Return the folder of a fastgan that could be imported but for this one, or None."""
    folders = [folder for folder in sys.path if Path(folder or ".").resolve() != _PACKAGE.parent.resolve()]
    found = PathFinder.find_spec("fastgan", folders)
    return str(Path(found.origin).parent) if found is not None and found.origin else None


def build_facts() -> dict[str, str]:
    """Return what setup.py recorded; nothing for a source tree that was never built."""
    path = Path(__file__).resolve().parents[1] / "_build.json"  # a strict editable install links modules alone
    return json.loads(path.read_text()) if path.exists() else {}


@cache
def left_out() -> bool:
    """Return whether there is no extension because nobody wants one: by FASTGAN_NATIVE=0, or on Windows."""
    return native is None and (os.name == "nt" or build_facts().get("native") == "not built: FASTGAN_NATIVE=0")


try:
    if TYPE_CHECKING:
        from .. import _native as native
    else:
        native = import_module(f"fastgan.{module_name(str(_PACKAGE), torch.version.cuda)}")
    _import_error = None
except ImportError as error:
    native = None  # type: ignore
    _import_error = _why_missing(error)
else:
    native.learn(
        Tensor,
        torch.nn.Parameter,
        torch.strided,
        (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    )


def missing() -> str | None:
    """Return why there is no compiled extension, or None where there is."""
    return None if native is not None else f"the compiled extension is not there ({_import_error})"


def native_spec(spec: LossSpec, module: Any) -> Any:
    """Return the loss as the extension `module` takes it."""
    entries = [
        (
            module.phis.index(t.term.phi),
            t.x,
            t.y,
            t.mean_operand,
            *t.term[1:],
            t.threshold,
            t.side,
            t.member,
            t.role,
            t.factor,
            t.label,
        )
        for t in spec.terms
    ]
    return module.Spec(entries, spec.roles)


def _cannot_scan(tensors: Operands) -> int:
    return -1


# scan(tensors) looks at all of them in one step of compiled code: -1 unless they are plain, dense, not empty,
# of one supported dtype, on the CPU or on one CUDA device. Else: whether one requires grad, plus 2 on CUDA.
scan = _cannot_scan if native is None else native.scan


class Extension(Kernels):
    """The kernels of the compiled extension for one kind of device; `prefix` begins their names."""

    in_graphs = True

    def __init__(self, module: Any, prefix: str) -> None:
        self.module = module
        self.prefix = prefix

    def _encode(self, spec: LossSpec) -> Any:
        return native_spec(spec, self.module)
