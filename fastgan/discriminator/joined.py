"""Several calls of a discriminator in one forward, where it does not mix samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._callables import plain, settings
from .._torch_internals import tree_leaves, tree_map_only
from .double_backward import random_like, refusing_reentrant
from .forward import as_given, modules_of, tensors_of
from .outputs import check_tree

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# By module: in which states, and in what calls, it was seen not to mix samples.
_seen: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()
_MANY = 256
_INSTEAD = "call it for real and fake apart: concat=False"


class Call(NamedTuple):
    """A call of a discriminator: its input, and its further arguments."""

    x: Any
    args: Any
    kwargs: Any


class Joined:
    """Calls of a discriminator as one.

    Attributes:
        calls: those that were joined.
        call: that one.
        counts: how many entries along the batch dimension each call has.
        pac: how many of them make a sample.
    """

    def __init__(self, calls: Sequence[Call], batch_dim: int, pac: int) -> None:
        first, self.calls = tensors_of(calls[0].x)[0], calls
        self.batch_dim, self.pac, self.dims = batch_dim, pac, first.dim()
        self.counts = [tensors_of(call.x)[0].shape[batch_dim] for call in calls]
        self.call = Call(
            as_given(calls[0].x, self._joined_inputs([tensors_of(c.x) for c in calls])),
            self._joined("args", [tuple(c.args) for c in calls]),
            self._joined("kwargs", [dict(c.kwargs) for c in calls]),
        )

    def _joined_inputs(self, inputs: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
        """Return the inputs of all calls one after the other."""
        joined = []
        for tensors in zip(*inputs, strict=True):
            shapes = ", ".join([str(tuple(t.shape)) for t in tensors])
            d = self.batch_dim % tensors[0].dim()
            if len({(*t.shape[:d], *t.shape[d + 1 :]) for t in tensors}) > 1:
                raise ValueError(
                    f"concat: expected real and fake of one shape per sample, got {shapes}; {_INSTEAD}"
                )
            dtypes = {t.dtype for t in tensors}
            if torch.float64 in dtypes and len(dtypes) > 1:
                raise TypeError(f"concat: expected real and fake of one dtype, got {sorted(map(str, dtypes))}")
            joined.append(torch.cat(tensors, d))
        return joined

    def _joined(self, name: str, values: Sequence[Any]) -> Any:
        """Return the values of all calls as one: tensors along the samples, what has none as it is."""
        first = values[0]
        if all([isinstance(v, Tensor) for v in values]):
            return self._joined_tensors(name, values)
        if isinstance(first, (list, tuple, dict)):
            if any([type(v) is not type(first) or len(v) != len(first) for v in values]):
                raise ValueError(f"concat: expected {name} of one form in all calls, got others; {_INSTEAD}")
            if isinstance(first, dict):
                return {k: self._joined(f"{name}[{k!r}]", [v[k] for v in values]) for k in first}
            return as_given(
                first, [self._joined(f"{name}[{k}]", each) for k, each in enumerate(zip(*values, strict=True))]
            )
        plain = isinstance(first, (str, int, float, bool))  # what can be compared without further ado
        same = [v is first or (plain and type(v) is type(first) and v == first) for v in values]
        if not all(same):
            raise ValueError(f"concat: expected one value of {name} for real and fake, got several; {_INSTEAD}")
        return first

    def _joined_tensors(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors one after the other along their samples, or the one tensor that all calls have."""
        shapes = ", ".join([str(tuple(t.shape)) for t in tensors])
        samples = [count // self.pac for count in self.counts]
        for dim in self._dims_of(tensors[0]):
            if [t.shape[dim] if t.dim() == tensors[0].dim() else None for t in tensors] in (self.counts, samples):
                if len({(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}) > 1:
                    raise ValueError(f"concat: expected {name} of one shape per sample, got {shapes}; {_INSTEAD}")
                return torch.cat(list(tensors), dim)
        if all([t is tensors[0] for t in tensors]):
            return tensors[0]
        raise ValueError(f"concat: expected {name} with an entry per sample in all calls, got {shapes}; {_INSTEAD}")

    def _dims_of(self, t: Tensor) -> list[int]:
        """Return the dimensions along which a tensor may have samples, the likelier first."""
        d = self.batch_dim % self.dims
        return [k for k in dict.fromkeys((d, 0) if t.dim() == self.dims else (0, d)) if k < t.dim()]

    def split(self, result: Any) -> list[Any]:
        """Return what the discriminator returned, for each call."""
        check_tree("concat", result)
        return [tree_map_only(Tensor, partial(self.part, k), result) for k in range(len(self.counts))]

    def part(self, k: int, t: Tensor, x: Any = None) -> Tensor:
        """Return the entries of one call in a result, or of as many of its first samples as x has."""
        d, each = self._place(t)
        count = self.counts[k] if x is None else tensors_of(x)[0].shape[self.batch_dim]
        return t.narrow(d, sum(self.counts[:k]) // self.pac * each, count // self.pac * each)

    def _place(self, t: Tensor) -> tuple[int, int]:
        """Return the dimension along which a result has samples, and how many entries each has."""
        total = sum(self.counts) // self.pac
        dims = [d for d in self._dims_of(t) if t.shape[d] and t.shape[d] % total == 0]
        exact = [d for d in dims if t.shape[d] == total]
        if len(exact) > 1 and t.dim() != self.dims:
            raise ValueError(
                f"concat: expected outputs of which one dimension has {total} entries, one per sample, got shape"
                f" {tuple(t.shape)}; {_INSTEAD}"
            )
        for d in (*exact, *dims):
            return d, t.shape[d] // total
        raise ValueError(
            f"concat: expected outputs with entries for each of {total} samples, got shape {tuple(t.shape)};"
            f" {_INSTEAD}"
        )

    def of_input(self, k: int, t: Tensor) -> Tensor:
        """Return the entries of one call in the input."""
        return t.narrow(self.batch_dim, sum(self.counts[:k]), self.counts[k])

    def check(self, discriminator: Any, x: Any, result: Any) -> None:
        """Raise where a sample's outputs depend on other samples.

        The second sample's: what is taken relative to the first would not be seen in the first. Its outputs are
        weighed by random numbers, as their sum may be a constant.

        Args:
            discriminator: what was called. It is remembered where it passed, and the sample itself counts.
            x: the input that it was called with, which requires grad.
            result: what it returned.
        """
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.requires_grad]
        inputs = [t for t in tensors_of(x) if t.requires_grad]
        if not outputs or not inputs or sum(self.counts) < 2 * self.pac:
            return
        parts = [t.narrow(d, each, each) for t in outputs for d, each in (self._place(t),)]
        sent, clear = [random_like(t, 0) for t in parts], True
        with refusing_reentrant("concat"):
            grads = torch.autograd.grad(parts, inputs, sent, retain_graph=True, allow_unused=True)
        for g in grads:
            if g is None:
                continue
            own = g.narrow(self.batch_dim, self.pac, self.pac)
            clear = clear and bool(g.isfinite().all()) and bool(own.any())
            before = g.narrow(self.batch_dim, 0, self.pac)
            after = g.narrow(self.batch_dim, 2 * self.pac, g.shape[self.batch_dim] - 2 * self.pac)
            if g.isfinite().all() and (before.any() or after.any()):
                raise ValueError(
                    f"concat: the discriminator mixes samples, as statistics of a batch do; {_INSTEAD}"
                )
        if clear:
            _remember(discriminator, self.calls)


def check_norms(discriminator: Any) -> None:
    """Raise where a discriminator has layers that use statistics of the batch."""
    for m in modules_of(discriminator):
        if isinstance(m, _BATCH_NORMS) and (m.training or m.running_mean is None):
            raise ValueError(
                f"concat: the discriminator has a {type(m).__name__}, whose statistics would be of real and fake"
                f" together; {_INSTEAD}"
            )


def is_known(discriminator: Any, calls: Sequence[Call]) -> bool:
    """Return whether a discriminator, in the state that it is in, was seen not to mix samples in such calls."""
    module, state = _state(discriminator, calls)
    return module is not None and state in _seen.get(module, ())


def _remember(discriminator: Any, calls: Sequence[Call]) -> None:
    module, state = _state(discriminator, calls)
    if module is not None:
        known = _seen.setdefault(module, set())
        if len(known) == _MANY:  # as with a number that counts steps
            known.clear()
        known.add(state)


def _state(discriminator: Any, calls: Sequence[Call]) -> tuple[nn.Module | None, Any]:
    """Return the module by which a discriminator is known, and what else may change what it does with samples.

    That is which modules it has, their modes and numbers, what a function uses, options of the calls, and shapes.
    """
    modules = list(modules_of(discriminator))
    bound = getattr(discriminator, "args", ()), getattr(discriminator, "keywords", {})
    of_modules = tuple([(id(m), *plain(vars(m).values())) for m in modules])
    return (modules[0] if modules else None), (of_modules, *settings(discriminator), *_words([bound, list(calls)]))


def _words(values: Any) -> list[Any]:
    """Return the numbers, switches and names among values, and the shapes of tensors."""
    leaves = tree_leaves(values)
    return [*plain(leaves), *[tuple(v.shape) for v in leaves if isinstance(v, Tensor)]]
