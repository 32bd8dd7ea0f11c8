"""Triton's interpreter, mended where it differs from a device; for a process with TRITON_INTERPRET=1.

What is mended, and nothing else of it:
- `tl.sum` goes to `np.sum`, which begins with 0: so it gives 0 for -0.0 + -0.0, where a device gives -0.0.
- Each call of a function inside of a kernel replaces all of Triton's language anew (1.4 ms). Once is enough.
- Bounds of a range are arrays of one element, which NumPy from 2.4 on does not take for an index (Triton 3.6).

What needs no mending, since the kernels avoid it: stores of bfloat16 truncate, `tl.maximum` loses NaN, functions
of libdevice fail, a reduction of one's own takes 80 ms. `tl.fma` rounds once from Triton 3.9 on; before, it
rounds twice, and the bits are not those of a device: `fma_is_true` tells.
"""

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter


class _Patched:
    def restore(self) -> None:
        """Stays as it is."""


# Whether this Triton is from before its fma was mended.
OLD = tuple(int(v) for v in triton.__version__.split(".")[:2]) < (3, 9)
_patch_lang = interpreter._patch_lang
_done = set()


def _patch_once(fn):
    languages = frozenset(id(v) for v in fn.__globals__.values() if v is tl or v is tl.core)
    if languages not in _done:
        _patch_lang(fn)
        tl.core.tensor.__index__ = lambda self: self.handle.data.item()
        _done.add(languages)
    return _Patched()


def _sum(self, input):
    x = input.handle.data
    first = {"initial": -0.0} if x.dtype.kind == "f" else {}
    return self.to_tensor(np.sum(x, axis=self.axis, keepdims=self.keep_dims, **first), input.dtype)


interpreter._patch_lang = _patch_once
interpreter.ReduceOps.sum = _sum


def fma_is_true() -> bool:
    """Whether the interpreter's fma rounds once."""
    a = np.float32(1 + 2**-12)
    handle = [interpreter.TensorHandle(np.array([v], dtype=np.float32), tl.float32) for v in (a, a, -(a * a))]
    return interpreter.interpreter_builder.create_fma(*handle).data[0] != 0
