"""The losses as functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, checks, native
from .losses import PAIRED, discriminator_spec, generator_spec
from .terms import Bound, Spec, Term

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Logits = Tensor | Sequence[Tensor]


class LossStats(NamedTuple):
    """What one pass over the logits also tells: detached 0-dim tensors of the loss's dtype.

    A loss without terms on a role is 0; a statistic of logits that were not given is NaN. The paired
    forms have one term, which counts as the loss on real (for the generator: on fake).

    Attributes:
        loss_real, loss_fake: the parts of the loss, weighted.
        real_mean, fake_mean: means of the logits, over all members of a sequence.
        real_sign, fake_sign: means of the logits' signs.
        real_accuracy, fake_accuracy: how much the discriminator gets right: real above and fake below
            the boundary, which is 0 (least squares: halfway between its labels). In a relativistic form
            what is compared is the difference that the loss is about.
    """

    loss_real: Tensor
    loss_fake: Tensor
    real_mean: Tensor
    fake_mean: Tensor
    real_sign: Tensor
    fake_sign: Tensor
    real_accuracy: Tensor
    fake_accuracy: Tensor


def discriminator_loss(
    real_logits: Logits,
    fake_logits: Logits,
    loss: str = "nonsaturating",
    *,
    relativistic: str | None = None,
    margin: float = 1.0,
    targets: Sequence[float] = (0.0, 1.0, 1.0),
    real_target: float = 1.0,
    fake_target: float = 0.0,
    weights: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
) -> Any:
    """The discriminator's loss on real and fake logits.

    With r and f the logits and softplus(x) = ln(1 + e^x), per element: "saturating" and
    "nonsaturating" softplus(-r) + softplus(f) (Goodfellow et al. 2014; with soft labels t
    softplus(x) - t x); "hinge" relu(m - r) + relu(m + f) (Lim and Ye 2017); "least_squares"
    (r - b)^2 + (f - a)^2, no factor 1/2 (Mao et al. 2017); "wasserstein" f - r (Arjovsky et al. 2017);
    "ranking" relu(m - r + f). Relativistic forms (Jolicoeur-Martineau 2019): "paired" is the loss on
    real of r - f; "average" is the loss on real of r - mean(f) plus that on fake of f - mean(r).

    Args:
        real_logits: a tensor of any shape and strides (float32, float64, float16 or bfloat16), or a
            sequence of them, one a scale, period or critic.
        fake_logits: the same for fake; shapes may differ where the loss does not pair elements.
        loss: a name of `fastgan.losses()`.
        relativistic: None, "paired" or "average".
        margin: m of hinge and ranking.
        targets: (a, b, c) of least squares: the labels of fake, of real, and of fake for the generator.
        real_target: soft label of real in [0, 1], for the cross-entropy losses; 0.9 is one-sided
            label smoothing.
        fake_target: soft label of fake in [0, 1].
        weights: one a member of a sequence: floats, or a 1-D tensor on the logits' device. The result is
            the sum of weight times the member's loss. Default: all 1.
        reduction: "mean" or "sum" over each member's elements, or "none".
        return_stats: return (loss, LossStats).
        process_group: with "average", means are over the ranks of this group. The gradient that a rank
            gets is that of the sum of all ranks' losses, so that DDP's average of the ranks' gradients is
            the gradient of the mean loss. All ranks must take part in forward and backward.

    Returns:
        A scalar (float32 for 16-bit logits, else of their dtype). For reduction "none" the sum of the
        loss on real and on fake element by element in that dtype, and a list of such tensors for a
        sequence.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    return _loss(
        discriminator_spec, ("real_logits", "fake_logits"), real_logits, fake_logits, loss, relativistic,
        (margin, _triple(targets), real_target, fake_target), weights, reduction, return_stats, process_group,
    )  # fmt: skip


def generator_loss(
    fake_logits: Logits,
    real_logits: Logits | None = None,
    loss: str = "nonsaturating",
    *,
    relativistic: str | None = None,
    margin: float = 1.0,
    targets: Sequence[float] = (0.0, 1.0, 1.0),
    real_target: float = 1.0,
    fake_target: float = 0.0,
    weights: Sequence[float] | Tensor | None = None,
    reduction: str = "mean",
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
) -> Any:
    """The generator's loss on fake logits, and on real ones in a relativistic form.

    Per element of the fake logits f: "saturating" -softplus(f); "nonsaturating" softplus(-f); "hinge",
    "wasserstein" and "ranking" -f; "least_squares" (f - c)^2. With soft labels t, "nonsaturating" is
    softplus(f) - real_target f and "saturating" minus the discriminator's loss on fake. The relativistic
    forms are the discriminator's with real and fake swapped.

    Args:
        fake_logits: as in `discriminator_loss`.
        real_logits: the same for real; needed with `relativistic`, and without it not looked at.
        loss, relativistic, margin, targets, real_target, fake_target, weights, reduction, return_stats,
            process_group: as in `discriminator_loss`.

    Returns:
        As `discriminator_loss`.

    Raises:
        TypeError, ValueError: as `discriminator_loss`.
    """
    names = ("fake_logits", "real_logits") if relativistic is not None else ("fake_logits",)
    if relativistic is not None and real_logits is None:
        raise ValueError(f"real_logits: expected logits for relativistic={relativistic!r}, got None")
    return _loss(
        generator_spec, names, fake_logits, real_logits, loss, relativistic,
        (margin, _triple(targets), real_target, fake_target), weights, reduction, return_stats, process_group,
    )  # fmt: skip


def _triple(targets: Any) -> tuple[Any, ...]:
    if not isinstance(targets, (tuple, list)):
        raise TypeError(f"targets: expected three numbers (fake, real, generator), got {type(targets).__name__}")
    return tuple(targets)


def _loss(
    make_spec: Any,
    names: tuple[str, ...],
    first: Any,
    second: Any,
    loss: str,
    relativistic: str | None,
    options: tuple[Any, ...],
    weights: Any,
    reduction: str,
    return_stats: bool,
    process_group: Any,
) -> Any:
    """Checks, one call of the kernels, and the form that the result is returned in.

    `names` are those of first and second; one name: second is not an operand. `options` as in Options.
    """
    tracing = torch.compiler.is_compiling()
    single = isinstance(first, Tensor)
    paired = relativistic == "paired" or reduction == "none"
    paired = paired or (relativistic is None and len(names) == 2 and loss in PAIRED)
    members, scanned = 1, -1
    if single and not tracing:
        # The common case, a microsecond in compiled code; whatever is unusual goes the long way.
        tensors: tuple[Tensor, ...] = (first,) if len(names) == 1 else (first, second)
        scanned = native.scan(tensors)
    if scanned < 0 or (paired and tensors[0].shape != tensors[-1].shape):
        tensors, members = _operands(names, first, second, paired)
        scanned = -1 if tracing else native.scan(tensors)
    checks.reduction(reduction)
    if reduction == "none" and return_stats:
        raise ValueError("return_stats: expected reduction 'mean' or 'sum', got 'none'")
    if process_group is not None:
        if relativistic != "average":
            raise ValueError(f"process_group: expected relativistic='average', got {relativistic!r}")
        tensors, scanned = _with_global_means(tensors, process_group), -1
    if weights is not None:
        weights = checks.weights(weights, members, tensors[0].device)
    wanted = (loss, relativistic, options, members, process_group is not None)
    if tracing:  # caches cannot be traced
        spec = make_spec.__wrapped__(*wanted)
    else:
        try:
            spec = make_spec(*wanted)
        except TypeError:  # perhaps a list, which no cache can look up: the checks say which option it is
            spec = make_spec.__wrapped__(*wanted)
    result, numbers = autograd.evaluate(spec, tensors, weights, reduction, return_stats, scanned)
    if reduction == "none":
        return _by_member(spec, result, members, single)
    if numbers is None:
        return result
    return result, LossStats(*numbers[-8:].to(result.dtype).unbind())


def _operands(names: tuple[str, ...], first: Any, second: Any, paired: bool) -> tuple[tuple[Tensor, ...], int]:
    """The checked operands, first and second of each member in turn, and how many members there are."""
    two = len(names) == 2
    a: tuple[Any, ...]
    b: tuple[Any, ...]
    if isinstance(first, Tensor) and not (two and isinstance(second, (list, tuple))):
        a, b = (first,), (second,)
    elif (
        two and isinstance(first, Tensor) != isinstance(second, Tensor) and isinstance(first, (Tensor, list, tuple))
    ):
        kinds = f"{type(first).__name__} and {type(second).__name__}"
        raise TypeError(f"{' and '.join(names)}: expected two tensors or two sequences, got {kinds}")
    else:
        a = _sequence(names[0], first)
        b = _sequence(names[1], second) if two else (None,) * len(a)
        if len(a) != len(b):
            raise ValueError(f"{' and '.join(names)}: expected as many members, got {len(a)} and {len(b)}")
    tensors = []
    for x, y in zip(a, b, strict=True):
        checks.logits(names[0], x)
        tensors.append(x)
        if two:
            checks.logits(names[1], y)
            checks.pair(names[0], x, names[1], y, paired)
            tensors.append(y)
    checks.together(tensors)
    return tuple(tensors), len(a)


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: expected a torch.Tensor or a sequence of them, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name}: expected at least one member, got an empty {type(value).__name__}")
    return tuple(value)


def _with_global_means(tensors: tuple[Tensor, ...], group: Any) -> tuple[Tensor, ...]:
    """Each member's two operands followed by their means over all ranks."""
    from .distributed import global_means

    means = global_means(tensors, group)
    return tuple([t for m in range(0, len(tensors), 2) for t in (*tensors[m : m + 2], *means[m : m + 2])])


def _by_member(spec: Spec, values: Sequence[Tensor], members: int, single: bool) -> Any:
    """Unreduced terms added up within each member."""
    sums: list[Any] = [None] * members
    for bound, value in zip(spec.terms, values, strict=True):
        sums[bound.member] = value if sums[bound.member] is None else sums[bound.member] + value
    return sums[0] if single else sums


def reduce_terms(
    terms: Sequence[Term],
    tensors: Sequence[Tensor | tuple[Tensor, Tensor]],
    *,
    centred: bool = False,
    reduction: str = "mean",
    return_values: bool = False,
    attached: bool = False,
) -> Any:
    """The sum of terms over tensors: a loss that has no name yet, in one pass.

    Args:
        terms: made with `fastgan.term`, one for each entry of `tensors`.
        tensors: what the term is a function of: a tensor x, or a pair (x, y) of equal shapes for x - y.
            The same tensor may stand in several entries.
        centred: a pair (x, y) stands for x - mean(y) instead; shapes may then differ, and 16-bit dtypes from
            float32.
        reduction: "mean" or "sum" over each entry's elements, or "none".
        return_values: return (loss, values), values being a detached vector of each term's weighted value.
        attached: values is a list of scalars instead, which have a graph each and can be weighed anew or
            differentiated by themselves. Not with centred.

    Returns:
        A scalar, or for reduction "none" a list of each entry's weighted elements.

    Raises:
        TypeError, ValueError: bad input.
    """
    checks.reduction(reduction)
    if return_values and reduction == "none":
        raise ValueError("return_values: expected reduction 'mean' or 'sum', got 'none'")
    if attached and (centred or not return_values):
        raise ValueError("attached: expected return_values=True and centred=False")
    spec, operands, scanned = _bind(terms, tensors, centred)
    if attached:
        return autograd.evaluate_parts(spec, operands, reduction, scanned)
    result, numbers = autograd.evaluate(spec, operands, None, reduction, False, scanned, return_values)
    if numbers is not None:
        return result, numbers[: len(terms)].to(result.dtype)
    return list(result) if reduction == "none" else result


def _bind(
    terms: Sequence[Term], tensors: Sequence[Tensor | tuple[Tensor, Tensor]], centred: bool
) -> tuple[Spec, tuple[Tensor, ...], int]:
    """Terms as a spec, its operands, checked, and what `native.scan` said of them."""
    if len(terms) != len(tensors) or not terms:
        raise ValueError(
            f"terms and tensors: expected as many of each, at least 1, got {len(terms)}, {len(tensors)}"
        )
    pairs = tuple([isinstance(entry, tuple) for entry in tensors])
    operands: tuple[Any, ...] = tuple(tensors)
    if True in pairs:
        for entry in tensors:
            if isinstance(entry, tuple) and len(entry) != 2:
                raise ValueError(f"tensors: expected a tensor or a pair, got {len(entry)} tensors")
        operands = tuple([t for e, pair in zip(tensors, pairs, strict=True) for t in (e if pair else (e,))])
    tracing = torch.compiler.is_compiling()
    wanted = (tuple(terms), pairs, centred)
    try:
        spec = _terms_spec.__wrapped__(*wanted) if tracing else _terms_spec(*wanted)
    except TypeError:  # perhaps a list, which no cache can look up: the checks say what it is
        spec = _terms_spec.__wrapped__(*wanted)
    scanned = -1 if tracing else native.scan(operands)
    if scanned < 0:
        for t in operands:
            checks.logits("tensors", t)
        checks.together(operands)
    if True in pairs:
        for b in spec.terms:
            if b.y >= 0 and (scanned < 0 or operands[b.x].shape != operands[b.y].shape):
                checks.pair("x", operands[b.x], "y", operands[b.y], True)
    return spec, operands, scanned


@lru_cache(maxsize=1024)
def _terms_spec(terms: tuple[Term, ...], pairs: tuple[bool, ...], centred: bool) -> Spec:
    """Terms, each of one operand or of a pair, each a member of its own."""
    bounds, at = [], 0
    for k, (one, pair) in enumerate(zip(terms, pairs, strict=True)):
        if not isinstance(one, Term):
            raise TypeError(f"terms: expected fastgan.term, got {type(one).__name__}")
        y, centre = (-1, at + 1) if centred else (at + 1, -1)
        bounds.append(Bound(one, at, y, centre, member=k) if pair else Bound(one, at, member=k))
        at += 1 + pair
    return Spec(tuple(bounds), (0,) * at)
