"""What a loss takes per element beside its logits: labels, masks, and the targets of least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as checks
from ..backends.base import Operands, widest
from ..backends.specs import NO_ROLE, LossSpec, OperandTerm, Term
from .loss import evaluate_terms

# Numbers that stand in the options where a tensor came, by which the terms that depend on it are known.
_LABELS = {"real_target": 0.40450849718747373, "fake_target": 0.17677669529663689}
_TARGETS = (0.05772156649015329, 0.06931471805599453, 0.02718281828459045)


class Constants(NamedTuple):
    """A term's constants, tensors of its x's shape: one that z has subtracted, a factor, and a label."""

    target: Tensor | None = None
    factor: Tensor | None = None
    label: Tensor | None = None


@lru_cache(maxsize=1024)
def _spec_with(spec: LossSpec, layout: tuple[tuple[bool, ...], ...]) -> LossSpec:
    """Return a loss whose terms read the constants that `layout` says, as operands behind those of `spec`."""
    terms, count = [], len(spec.roles)
    for t, there in zip(spec.terms, layout, strict=True):
        numbers = []
        for one in there:
            numbers.append(count if one else -1)
            count += one
        target, factor, label = numbers
        phi, scale, shift, linear, weight = t.term
        own = Term(phi, scale, 0.0 if target >= 0 else shift, -1.0 if label >= 0 else linear, weight)
        y = target if target >= 0 else t.y
        terms.append(OperandTerm(own, t.x, y, t.mean_operand, t.threshold, t.side, t.member, t.role, factor, label))
    return LossSpec(tuple(terms), (*spec.roles, *[NO_ROLE] * (count - len(spec.roles))))


def attach(spec: LossSpec, tensors: Operands, constants: Sequence[Constants]) -> tuple[LossSpec, Operands]:
    """Return a loss whose terms have these constants, one entry per term, and its operands.

    A target takes the place of a term's shift, and a label that of -linear.
    """
    layout = tuple([tuple([t is not None for t in own]) for own in constants])
    make = _spec_with.__wrapped__ if torch.compiler.is_compiling() else _spec_with
    return make(spec, layout), (*tensors, *[t for own in constants for t in own if t is not None])


def factor(name: str, mask: Tensor, like: Tensor, reduction: str) -> Tensor:
    """Return a mask's factors on the elements of `like`: for a mean over the mask times n / sum of the mask."""
    if reduction == "mean":
        exact = mask.to(widest(mask.device))
        mean = exact.mean()
        if checks.is_readable(mean) and mean.item() == 0:
            raise ValueError(f"{name}: expected an element above 0 for a mean, got none")
        mask = (exact / mean).to(mask.dtype)
    return mask.expand(like.shape)


class PerElement:
    """What one call of a loss got per element.

    Attributes:
        masks: a mask, a sequence of them, or None by the name of the logits.
        labels: tensors or sequences of them by the name of the option, each with the number in its place.
    """

    def __init__(self, masks: dict[str, Any], labels: dict[str, tuple[Any, float]]) -> None:
        self.masks = masks
        self.labels = labels
        self.used: set[str] = set()
        self.single = True
        self.members = 1

    def check(self, names: tuple[str, ...], relativistic: Any, return_stats: bool, process_group: Any) -> None:
        """Check that everything has an effect, and that nothing stands beside what it cannot be combined with."""
        for name in self.masks:
            if name not in names:
                raise ValueError(f"{_mask(name)}: expected None where {name} have no part in the loss, got a mask")
        if self.masks and return_stats:
            raise ValueError("return_stats: expected no masks beside it, got one (statistics are of all logits)")
        if self.masks and process_group is not None:
            raise ValueError("process_group: expected no masks beside it, got one")
        targets = any(name.startswith("targets") for name in self.labels)
        if targets and relativistic is not None:
            raise ValueError(f"targets: expected numbers for relativistic={relativistic!r}, got a tensor")
        if targets and return_stats:
            raise ValueError("return_stats: expected targets that are numbers, got a tensor")

    def of_member(self, name: str, value: Any, m: int) -> Any:
        """Return a member's entry of a mask or label."""
        if self.single:
            return value
        if isinstance(value, Tensor) or not isinstance(value, (list, tuple)) or len(value) != self.members:
            kind = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
            raise ValueError(f"{name}: expected a sequence of {self.members} tensors, one per member, got {kind}")
        return value[m]

    def mask(self, name: str, like: Tensor, m: int) -> Tensor | None:
        """Return a member's mask of the logits of this name, not yet expanded."""
        value = self.of_member(_mask(name), self.masks.get(name, [None] * self.members), m)
        if value is None or (self.single and name not in self.masks):
            return None
        return checks.per_element(_mask(name), value, like, name, math.inf)

    def label(self, number: float, like: Tensor, logits: str, m: int) -> Tensor | None:
        """Return a member's tensor of the option in whose place `number` stands, expanded, or None."""
        for name, (value, place) in self.labels.items():
            if number == place:
                self.used.add(name)
                high = 1.0 if name in _LABELS else None
                found = checks.per_element(name, self.of_member(name, value, m), like, logits, high)
                return found.expand(like.shape)
        return None


def _mask(logits: str) -> str:
    return logits.replace("logits", "mask")


def split(given: tuple[Any, ...], masks: dict[str, Any]) -> tuple[tuple[Any, ...], PerElement | None]:
    """Return the options with numbers in the places of tensors, and what came per element, or None.

    Args:
        given: the fields of LossOptions; targets are a tuple.
        masks: by the name of the logits; None where there is none.
    """
    loss, relativistic, margin, targets, *soft = given
    labels: dict[str, tuple[Any, float]] = {}
    for k, (name, place) in enumerate(_LABELS.items()):
        if _is_tensors(soft[k]):
            labels[name] = (soft[k], place)
            soft[k] = place
    if any([_is_tensors(t) for t in targets]) and len(targets) == 3:
        for k, place in enumerate(_TARGETS):
            if _is_tensors(targets[k]):
                labels[f"targets[{k}]"] = (targets[k], place)
        targets = tuple([p if _is_tensors(t) else t for t, p in zip(targets, _TARGETS, strict=True)])
    if labels and not torch.compiler.is_compiling():
        _check_places((*given[3], *given[4:]))
    there = {name: value for name, value in masks.items() if value is not None}
    if not labels and not there:
        return given, None
    return (loss, relativistic, margin, targets, *soft), PerElement(there, labels)


def _check_places(numbers: Sequence[Any]) -> None:
    """Raise where a number is by chance one that stands in for a tensor."""
    if any([type(v) is float and v in (*_LABELS.values(), *_TARGETS) for v in numbers]):
        raise ValueError(
            "real_target, fake_target and targets: expected another number beside a tensor; change its last digit"
        )


def _is_tensors(value: Any) -> bool:
    """Return whether an option is per element: a tensor of one dimension or more, or a sequence of tensors."""
    if isinstance(value, Tensor):
        return value.dim() > 0
    return isinstance(value, (list, tuple)) and any([isinstance(t, Tensor) for t in value])


def bind(
    extra: PerElement, make: Any, names: tuple[str, ...], tensors: Operands, relativistic: Any, reduction: str
) -> tuple[LossSpec, Operands]:
    """Return a loss with what came per element, and its operands.

    Args:
        extra: what came.
        make: returns the loss on `names` of each member in turn; make(True): each followed by their means.
        names: the names of a member's operands.
        tensors: the operands.
        relativistic: the form; in "average" means are over the masks.
        reduction: "mean", "sum" or "none".
    """
    stride = len(names)
    masks = [extra.mask(names[k % stride], t, k // stride) for k, t in enumerate(tensors)]
    own_means = relativistic == "average" and any([m is not None for m in masks])
    spec = make(own_means)
    constants = []
    for t in spec.terms:
        first = stride * t.member
        at = t.x % (2 * stride if own_means else stride)
        y = t.y % stride if t.y >= 0 else -1
        x = tensors[first + at]
        label = extra.label(-t.term.linear, x, names[at], t.member)
        target = extra.label(-t.term.shift, x, names[at], t.member)
        of = [k for k in (at, y) if k >= 0 and masks[first + k] is not None]
        product: Any = None
        for k in of:
            product = masks[first + k] if product is None else product * masks[first + k]
        if product is not None:
            product = factor(" and ".join([_mask(names[k]) for k in of]), product, x, reduction)
        constants.append(Constants(target, product, label))
    for name in extra.labels:
        if name not in extra.used:
            raise ValueError(f"{name}: has no effect on this loss; expected no tensor, got one")
    if own_means or any([c.target is not None for c in constants]):
        # A gradient that has several summands, or a pair with float32, is rounded to 16 bits once, at its end.
        tensors = tuple([t.float() if t.dtype in checks.SIXTEEN_BITS else t for t in tensors])
    if own_means:
        tensors = _with_means(tensors, masks, [_mask(n) for n in names])
    return attach(spec, tensors, constants)


def _with_means(tensors: Operands, masks: Sequence[Tensor | None], names: Sequence[str]) -> Operands:
    """Return each member's two operands followed by their means over their masks."""
    terms = tuple([OperandTerm(Term("identity"), k, member=k) for k in range(len(tensors))])
    own = [
        Constants(factor=None if m is None else factor(names[k % 2], m, tensors[k], "mean"))
        for k, m in enumerate(masks)
    ]
    spec, operands = attach(LossSpec(terms, (NO_ROLE,) * len(tensors)), tensors, own)
    _, means = evaluate_terms(spec, operands, "mean")
    return tuple([t for m in range(0, len(tensors), 2) for t in (*tensors[m : m + 2], *means[m : m + 2])])
