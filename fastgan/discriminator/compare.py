"""The first call of a compiled step beside the eager one, where FASTGAN_CHECK_COMPILED=1 asks for it."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch_internals import tree_leaves
from . import forward
from .traced import detach_normed_weights, whole_step


def beside_eager(
    step: Callable[..., Any], body: Any, discriminator: nn.Module, inputs: Any, leaves: Any, options: Any
) -> Any:
    """Return what the compiled step returns, once the eager one, on a copy, has given the same.

    Raises:
        RuntimeError: values, gradients, buffers or random numbers differ by more than rounding. The discriminator
            and the generators then are as before.
    """
    detach_normed_weights(discriminator)  # else it could not be copied
    twin = copy.deepcopy(discriminator)
    buffers = [b.clone() for b in discriminator.buffers()]
    before = _Generators(discriminator)
    try:
        found, after = step(body, discriminator, inputs, leaves, options), _Generators(discriminator)
        before.set()
        want, wanted = whole_step(forward, body, twin, inputs, leaves, options), _Generators(discriminator)
        _compare(found, want, discriminator, twin)
        if repr(after) != repr(wanted):
            raise RuntimeError("compiled, it draws other random numbers than the eager step")
    except BaseException:
        before.set()
        with torch.no_grad():
            for b, old in zip(discriminator.buffers(), buffers, strict=True):
                b.copy_(old)
        raise
    return found


def _compare(found: Any, want: Any, discriminator: nn.Module, twin: nn.Module) -> None:
    """Raise unless the results of the compiled step, and the buffers after it, are those of the eager one."""
    rough = any(t.dtype.itemsize == 2 for t in tree_leaves((found, want)) if isinstance(t, Tensor))
    parts = {
        "values": (found[:2], want[:2]),
        "gradients": (found[2], want[2]),
        "buffers": (list(discriminator.buffers()), list(twin.buffers())),
    }
    wrong = [name for name, (a, b) in parts.items() if not _agree(tree_leaves(a), tree_leaves(b), rough)]
    if wrong:
        raise RuntimeError(f"compiled, its {', '.join(wrong)} are not those of the eager step")


class _Generators:
    """The states of PyTorch's, Python's and NumPy's generators."""

    def __init__(self, discriminator: nn.Module) -> None:
        self.devices = sorted({t.device.index for t in discriminator.parameters() if t.is_cuda})
        self.of_torch = [torch.get_rng_state(), *[torch.cuda.get_rng_state(d) for d in self.devices]]
        self.of_python = random.getstate()
        numpy = sys.modules.get("numpy")
        self.of_numpy = numpy.random.get_state() if numpy else None

    def __repr__(self) -> str:
        """Return the states, to compare them by."""
        return repr(([t.tolist() for t in self.of_torch], self.of_python, _plain(self.of_numpy)))

    def set(self) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self.of_torch[0])
        for device, state in zip(self.devices, self.of_torch[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.of_python)
        if self.of_numpy is not None:
            sys.modules["numpy"].random.set_state(self.of_numpy)


def _plain(state: Any) -> Any:
    return [v.tolist() if hasattr(v, "tolist") else v for v in state or ()]


def _agree(found: Sequence[Any], want: Sequence[Any], rough: bool) -> bool:
    """Return whether results agree up to rounding; small ones up to the rounding of the largest."""
    if len(found) != len(want):
        return False
    largest = max(
        [float(w.double().nan_to_num(0, 0, 0).norm()) for w in want if isinstance(w, Tensor)], default=0.0
    )
    for f, w in zip(found, want, strict=True):
        if not isinstance(w, Tensor) or not isinstance(f, Tensor):
            if isinstance(w, Tensor) or isinstance(f, Tensor) or f != w:
                return False
            continue
        if f.shape != w.shape or f.dtype != w.dtype:
            return False
        relative = 0.1 if rough else 1e-8 if w.dtype == torch.float64 else 5e-3
        if not torch.equal(f.isfinite(), w.isfinite()):
            return False
        got, wanted = (t.double().nan_to_num(0, 0, 0) for t in (f, w))
        if float((got - wanted).norm()) > relative * (float(wanted.norm()) + 1e-2 * largest):
            return False
    return True
