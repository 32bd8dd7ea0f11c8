"""The losses as functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor

from . import _checks as checks
from ._torch_internals import forward_level
from .backends import CHOSEN, nodes
from .backends.cpu import PREFERRED
from .backends.specs import PHIS, LossSpec, OperandTerm, Term
from .ops import elementwise
from .ops import loss as ops
from .ops.autograd import run
from .ops.losses import PAIRED, discriminator_spec, fake_spec, generator_spec, real_spec
from .probabilities import LOSSES as LOGISTIC
from .probabilities import watch as probabilities

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

__all__ = ["LossStats", "discriminator_loss", "generator_loss", "reduce_terms", "term"]

Logits = Tensor | Sequence[Tensor]
# A mask, or labels: one tensor, or one per member.
PerElement = Tensor | Sequence[Tensor | None]
_TARGETS = (0.0, 1.0, 1.0)
Operand = Tensor | tuple[Tensor, Tensor]


class LossStats(NamedTuple):
    """Statistics of the logits from the loss's own pass: detached 0-dim tensors of the loss's dtype.

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


class _Common(TypedDict, total=False):
    """The options that do not change what a loss returns."""

    relativistic: str | None
    margin: float
    targets: Sequence[float | PerElement]
    real_target: float | PerElement
    fake_target: float | PerElement
    weights: Sequence[float] | Tensor | None
    real_mask: PerElement | None
    fake_mask: PerElement | None
    process_group: ProcessGroup | None


# fmt: off
@overload
def discriminator_loss(
    real_logits: Logits | None, fake_logits: Logits | None, loss: str = ..., *, return_stats: Literal[True],
    **options: Unpack[_Common],
) -> tuple[Tensor, LossStats]: ...
@overload
def discriminator_loss(  # type: ignore[overload-overlap]
    real_logits: Sequence[Tensor] | None, fake_logits: Sequence[Tensor] | None, loss: str = ..., *,
    reduction: Literal["none"], **options: Unpack[_Common],
) -> list[Tensor]: ...
@overload
def discriminator_loss(
    real_logits: Logits | None, fake_logits: Logits | None, loss: str = ..., *, reduction: str = ...,
    return_stats: Literal[False] = ..., **options: Unpack[_Common],
) -> Tensor: ...
# fmt: on
def discriminator_loss(
    real_logits: Logits | None,
    fake_logits: Logits | None,
    loss: str = "nonsaturating",
    *,
    relativistic: str | None = None,
    margin: float = 1.0,
    targets: Sequence[float | PerElement] = _TARGETS,
    real_target: float | PerElement = 1.0,
    fake_target: float | PerElement = 0.0,
    weights: Sequence[float] | Tensor | None = None,
    real_mask: PerElement | None = None,
    fake_mask: PerElement | None = None,
    reduction: str = "mean",
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
) -> Tensor | list[Tensor] | tuple[Tensor, LossStats]:
    """Return the discriminator's loss on real and fake logits.

        loss = fastgan.discriminator_loss(D(real), D(fake.detach()), "hinge")
        loss, stats = fastgan.discriminator_loss(D(real), D(fake.detach()), return_stats=True)

    With r and f the logits, m the margin and softplus(x) = ln(1 + e^x), per element:

    - "nonsaturating", "saturating": softplus(-r) + softplus(f); with soft labels t softplus(x) - t x (Goodfellow et
      al. 2014, arXiv:1406.2661)
    - "hinge", "clipped_hinge": relu(m - r) + relu(m + f) (Lim and Ye 2017, arXiv:1705.02894)
    - "least_squares": (r - b)^2 + (f - a)^2, no factor 1/2 (Mao et al. 2017, arXiv:1611.04076)
    - "huber": h(r - b) + h(f - a), where h(x) is x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond
    - "softplus_square": softplus(m - r)^2 + softplus(f)^2 (SAN, Takida et al. 2024, arXiv:2301.12811)
    - "wasserstein": f - r (Arjovsky et al. 2017, arXiv:1701.07875)
    - "ranking": relu(m - r + f)

    Relativistic forms (Jolicoeur-Martineau 2019, arXiv:1807.00734): "paired" is the loss on real of r - f;
    "average" is the loss on real of r - mean(f) plus that on fake of f - mean(r).

    Args:
        real_logits: a tensor of any shape and strides (float32, float64, float16 or bfloat16), or a
            sequence of them, one per scale, period or critic. None: the loss on fake alone, where the loss
            compares no real with fake logits.
        fake_logits: the same for fake; shapes may differ where the loss does not pair elements. None: the loss on
            real alone.
        loss: a name of `fastgan.losses()`.
        relativistic: None, "paired" or "average".
        margin: m of the hinges, of ranking and of "softplus_square".
        targets: (a, b, c) of least squares and "huber", by default (0, 1, 1): the labels of fake, of real, and of
            fake for the generator. Without `relativistic` any of them may be a tensor, as a label may.
        real_target: soft label of real in [0, 1], for the cross-entropy losses; 0.9 is one-sided
            label smoothing. Or a label per element or per sample: a bool or floating tensor of constants, of as
            many dimensions as the logits, to which it broadcasts. A sequence has one such tensor per member.
        fake_target: soft label of fake in [0, 1], or a tensor of labels.
        weights: one per member of a sequence: floats, or a 1-D tensor on the logits' device. The result is
            the sum of weight times the member's loss. Default: all 1.
        real_mask: which real logits count, or how much: a bool or floating tensor w of non-negative constants,
            of as many dimensions as the logits, to which it broadcasts; (N, 1) is one per sample. A sequence has
            one such tensor, or None, per member. With l the loss per element, "mean" is sum(w l) / sum(w), "sum"
            sum(w l), "none" w l. Where elements are paired, w is the product of the masks given; in "average" the
            means are over the masks too. A mean over a mask of zeros raises on the CPU, and is NaN elsewhere.
            Factors are float32 (beside float64: float64). A logit that is masked out must be finite: 0 times
            infinity is NaN.
        fake_mask: the same for fake.
        reduction: "mean" or "sum" over each member's elements, or "none".
        return_stats: return (loss, LossStats); not with masks, nor with targets in tensors.
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
    targets = targets if type(targets) is tuple else _triple(targets)
    given = (loss, relativistic, margin, targets, real_target, fake_target)
    make_spec, names, logits = discriminator_spec, ("real_logits", "fake_logits"), (real_logits, fake_logits)
    if real_logits is None or fake_logits is None:
        make_spec, names, logits = _one_role(real_logits, fake_logits, loss, relativistic)
    if not return_stats and weights is real_mask is fake_mask is process_group is None:
        result = _quick(make_spec, logits, given, reduction)
        if result is not None:
            return result
    return _loss(
        make_spec, names, logits, given, masks=(real_mask, fake_mask), weights=weights,
        reduction=reduction, return_stats=return_stats, process_group=process_group,
    )  # fmt: skip


def _one_role(real: Any, fake: Any, loss: str, relativistic: Any) -> tuple[Any, Any, Any]:
    """Return what makes the loss on the logits that are there, their name, and them."""
    if real is None and fake is None:
        raise ValueError("real_logits and fake_logits: expected logits of at least one, got None and None")
    if relativistic in ("paired", "average") or loss in PAIRED:
        name = "real_logits" if real is None else "fake_logits"
        kind = f"loss {loss!r}" if relativistic is None else f"relativistic={relativistic!r}"
        raise ValueError(f"{name}: expected logits for {kind}, got None")
    if fake is None:
        return real_spec, ("real_logits",), (real,)
    return fake_spec, ("fake_logits",), (fake,)


# fmt: off
@overload
def generator_loss(
    fake_logits: Logits, real_logits: Logits | None = ..., loss: str = ..., *, return_stats: Literal[True],
    **options: Unpack[_Common],
) -> tuple[Tensor, LossStats]: ...
@overload
def generator_loss(  # type: ignore[overload-overlap]
    fake_logits: Sequence[Tensor], real_logits: Sequence[Tensor] | None = ..., loss: str = ..., *,
    reduction: Literal["none"], **options: Unpack[_Common],
) -> list[Tensor]: ...
@overload
def generator_loss(
    fake_logits: Logits, real_logits: Logits | None = ..., loss: str = ..., *, reduction: str = ...,
    return_stats: Literal[False] = ..., **options: Unpack[_Common],
) -> Tensor: ...
# fmt: on
def generator_loss(
    fake_logits: Logits,
    real_logits: Logits | None = None,
    loss: str = "nonsaturating",
    *,
    relativistic: str | None = None,
    margin: float = 1.0,
    targets: Sequence[float | PerElement] = _TARGETS,
    real_target: float | PerElement = 1.0,
    fake_target: float | PerElement = 0.0,
    weights: Sequence[float] | Tensor | None = None,
    real_mask: PerElement | None = None,
    fake_mask: PerElement | None = None,
    reduction: str = "mean",
    return_stats: bool = False,
    process_group: ProcessGroup | None = None,
) -> Tensor | list[Tensor] | tuple[Tensor, LossStats]:
    """Return the generator's loss on fake logits, and on real ones in a relativistic form.

        loss = fastgan.generator_loss(D(fake), loss="hinge")
        loss = fastgan.generator_loss(D(fake), D(real), relativistic="paired")

    With f the fake logits and m the margin, per element:

    - "nonsaturating": softplus(-f); with a soft label softplus(f) - real_target f
    - "saturating": -softplus(f); with a soft label minus the discriminator's loss on fake
    - "hinge", "wasserstein", "ranking": -f
    - "clipped_hinge": relu(m - f)
    - "least_squares": (f - c)^2
    - "huber": h(f - c)
    - "softplus_square": softplus(m - f)^2

    The relativistic forms are the discriminator's with real and fake swapped. Papers and softplus, h: as in
    `discriminator_loss`.

    Args:
        fake_logits: as in `discriminator_loss`.
        real_logits: the same for real; needed with `relativistic`, and without it their values are not looked at.
        loss: a name of `fastgan.losses()`.
        relativistic: None, "paired" or "average".
        margin: m of the hinges, of ranking and of "softplus_square"; without effect on -f.
        targets: (a, b, c) of least squares and "huber", by default (0, 1, 1): c is what the generator wants.
        real_target: soft label in [0, 1] that "nonsaturating" wants for fake. Labels and targets may be tensors, as
            in `discriminator_loss`.
        fake_target: soft label of fake in [0, 1], for "saturating".
        weights: one per member, as in `discriminator_loss`.
        real_mask: which real logits count in a relativistic form, as in `discriminator_loss`.
        fake_mask: which fake logits count.
        reduction: "mean" or "sum" over each member's elements, or "none".
        return_stats: return (loss, LossStats); not with masks, nor with targets in tensors.
        process_group: with "average", means are over the ranks of this group, as in `discriminator_loss`.

    Returns:
        As `discriminator_loss`.

    Raises:
        TypeError, ValueError: as `discriminator_loss`.
    """
    names: tuple[str, ...] = ("fake_logits",)
    logits: tuple[Any, ...] = (fake_logits,)
    if relativistic is not None:
        if real_logits is None:
            raise ValueError(f"real_logits: expected logits for relativistic={relativistic!r}, got None")
        names, logits = ("fake_logits", "real_logits"), (fake_logits, real_logits)
    elif real_logits is not None:
        _check_unused(real_logits)
    targets = targets if type(targets) is tuple else _triple(targets)
    given = (loss, relativistic, margin, targets, real_target, fake_target)
    if not return_stats and weights is real_mask is fake_mask is process_group is None:
        result = _quick(generator_spec, logits, given, reduction)
        if result is not None:
            return result
    return _loss(
        generator_spec, names, logits, given, masks=(real_mask, fake_mask), weights=weights,
        reduction=reduction, return_stats=return_stats, process_group=process_group,
    )  # fmt: skip


def _check_unused(real_logits: Any) -> None:
    """Raise where what stands in the place of real logits is something else, such as a loss's name."""
    if not isinstance(real_logits, (Tensor, Sequence)) or isinstance(real_logits, str):
        named = f"; name a loss by loss={real_logits!r}" if isinstance(real_logits, str) else ""
        got = type(real_logits).__name__
        raise TypeError(f"real_logits: expected a tensor, a sequence of tensors or None, got {got}{named}")


def _triple(targets: Any) -> tuple[Any, ...]:
    return checks.sequence("targets", targets, "three numbers (fake, real, generator)")


def _check_unreduced(reduction: Any, return_stats: bool) -> None:
    """Check a reduction that is neither "mean" nor "sum"."""
    checks.reduction(reduction)
    if return_stats:
        raise ValueError("return_stats: expected reduction 'mean' or 'sum', got 'none'")


def _in_floats(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the fields of LossOptions with floats for all numbers, since 1 and True and NumPy's 1 are one key."""
    loss, relativistic, margin, targets, real_target, fake_target = given
    return (
        loss,
        relativistic,
        checks.number("margin", margin),
        tuple([checks.number("targets", t) for t in targets]),
        checks.number("real_target", real_target),
        checks.number("fake_target", fake_target),
    )


def _is_ordinary() -> bool:
    """Return whether kernels serve as things are; the C++ nodes see for themselves what else there may be."""
    return PREFERRED and CHOSEN.get() == "auto" and forward_level() < 0


def _quick(make_spec: Any, logits: Sequence[Any], given: tuple[Any, ...], reduction: Any) -> Any:
    """Return an ordinary loss in few steps, or None where anything wants `_loss` to look closer."""
    loss, relativistic, margin, targets, real_target, fake_target = given
    if (
        torch.compiler.is_compiling()
        or not (targets is _TARGETS and type(margin) is type(real_target) is type(fake_target) is float)
        or (probabilities.undecided and relativistic is None and loss in LOGISTIC)
        or not _is_ordinary()
    ):
        return None
    first, members = logits[0], 1
    if type(first) is list or type(first) is tuple:
        members = len(first)
        if len(logits) == 1:
            logits = first
        elif type(logits[1]) is type(first) and len(logits[1]) == members:
            logits = [t for member in zip(*logits, strict=True) for t in member]
    try:
        spec = make_spec(given, members, False)
        plan = spec.plans.get(reduction) if reduction in ("mean", "sum") else None
    except (TypeError, ValueError):  # which `_loss` will say better
        return None
    if nodes.module is not None:
        return None if plan is None else nodes.module.loss(plan, logits)
    logits = tuple(logits)
    scanned = nodes.scan(logits)
    if scanned < 0 or not logits or reduction not in ("mean", "sum") or not spec.pairs_fit(logits):
        return None
    return run(ops.Loss(spec, (), reduction), logits, scanned)


def _loss(
    make_spec: Any,
    names: tuple[str, ...],
    tensors: tuple[Any, ...],
    given: tuple[Any, ...],
    *,
    masks: tuple[Any, Any],
    weights: Any,
    reduction: str,
    return_stats: bool,
    process_group: Any,
) -> Any:
    """Check the inputs, run the kernels once, and arrange the result.

    Args:
        make_spec: `discriminator_spec` or `generator_spec`.
        names: those of the operands, one or two.
        tensors: the operands, or sequences of them.
        given: the fields of LossOptions, with tensors per element in the places of numbers.
        masks: of real and of fake, or None.
        weights: one per member, or None.
        reduction: "mean", "sum" or "none".
        return_stats: whether LossStats are wanted.
        process_group: the ranks over which means are taken, or None.
    """
    tracing = torch.compiler.is_compiling()
    loss, relativistic, margin, targets, real_target, fake_target = given
    extra = None
    per_element = masks[0] is not None or masks[1] is not None
    numbers = (  # a graph has no caches to protect
        not any([isinstance(v, (Tensor, list, tuple)) for v in (*targets, real_target, fake_target)])
        if tracing
        else targets is _TARGETS and type(margin) is type(real_target) is type(fake_target) is float
    )
    if per_element or not numbers:
        given, extra = _split(given, masks, names, return_stats, process_group)
    paired = relativistic == "paired" or reduction == "none"
    paired = paired or (relativistic is None and len(tensors) == 2 and loss in PAIRED)
    single, members = isinstance(tensors[0], Tensor), 1
    scanned = -1 if tracing else nodes.scan(tensors)
    if scanned < 0 or (paired and tensors[0].shape != tensors[-1].shape):
        tensors, members = _operands(dict(zip(names, tensors, strict=True)), paired)
        scanned = -1 if tracing else nodes.scan(tensors)
    if reduction not in ("mean", "sum"):
        _check_unreduced(reduction, return_stats)
    if process_group is not None:
        if relativistic != "average":
            raise ValueError(f"process_group: expected relativistic='average', got {relativistic!r}")
        checks.process_group(process_group)
        tensors, scanned = _with_global_means(tensors, process_group), -1
    if probabilities.undecided and not tracing and loss in LOGISTIC and relativistic is None:
        probabilities.look(tensors)
    weights = None if weights is None else checks.member_weights(weights, members, tensors[0].device)
    if extra is None:
        spec = cached(make_spec, given, members, process_group is not None)
    else:
        spec, tensors = _bound(extra, make_spec, names, tensors, given, single, reduction)
        scanned = -1
    if tracing:
        result, buffers = _traced(spec, tensors, weights, reduction, return_stats)
    else:
        op = ops.Loss(spec, () if weights is None else weights, reduction, return_stats)
        result, buffers = run(op, tensors, scanned), op.buffers
    if reduction == "none":
        return _by_member(spec, result, members, single)
    if not return_stats:
        return result
    assert buffers is not None
    return result, LossStats(*buffers.statistics.to(result.dtype).unbind())


def _split(
    given: tuple[Any, ...], masks: tuple[Any, Any], names: tuple[str, ...], return_stats: bool, group: Any
) -> tuple[tuple[Any, ...], Any]:
    """Return the options as numbers, and what came per element, checked, or None."""
    given, extra = elementwise.split(given, {"real_logits": masks[0], "fake_logits": masks[1]})
    if extra is not None:
        extra.check(names, given[1], return_stats, group)
    return given if torch.compiler.is_compiling() else _in_floats(given), extra


def _bound(
    extra: Any,
    make_spec: Any,
    names: tuple[str, ...],
    tensors: tuple[Tensor, ...],
    given: tuple[Any, ...],
    single: bool,
    reduction: str,
) -> tuple[LossSpec, tuple[Tensor, ...]]:
    """Return a loss with what came per element, and its operands."""
    extra.single, extra.members = single, len(tensors) // len(names)

    def make(means: bool) -> LossSpec:
        return cached(make_spec, given, extra.members, means)

    return elementwise.bind(extra, make, names, tensors, given[1], reduction)


def _traced(spec: LossSpec, tensors: tuple[Tensor, ...], weights: Any, reduction: str, numbers: bool) -> Any:
    """Return a loss and its buffers where wanted, in a graph that torch.compile traces."""
    from .ops import torch_library  # which registers operators, wanted only here

    return torch_library.evaluate(spec, tensors, weights, reduction, numbers)


def cached(make: Any, *arguments: Any) -> Any:
    """Call a cached function, without its cache where that cannot be: under torch.compile, or for a list.

    The function's own checks then tell which argument is wrong.
    """
    if torch.compiler.is_compiling():
        return make.__wrapped__(*arguments)
    try:
        return make(*arguments)
    except TypeError:
        return make.__wrapped__(*arguments)


def _operands(logits: dict[str, Any], paired: bool) -> tuple[tuple[Tensor, ...], int]:
    """Return the checked operands, first and second of each member in turn, and how many members there are."""
    names = list(logits)
    if len({isinstance(value, Tensor) for value in logits.values()}) > 1 and all(
        isinstance(value, (Tensor, list, tuple)) for value in logits.values()
    ):
        kinds = " and ".join(type(value).__name__ for value in logits.values())
        raise TypeError(f"{' and '.join(names)}: expected two tensors or two sequences, got {kinds}")
    lists = [checks.operands(name, value) for name, value in logits.items()]
    if len({len(entries) for entries in lists}) > 1:
        counts = " and ".join(str(len(entries)) for entries in lists)
        raise ValueError(f"{' and '.join(names)}: expected as many members, got {counts}")
    tensors = [t for member in zip(*lists, strict=True) for t in member]
    if len(names) == 2:
        for k, (a, b) in enumerate(zip(*lists, strict=True)):
            fitting = checks.pair(names[0], a, names[1], b, paired)
            if paired:  # else each is read in its own dtype
                tensors[2 * k : 2 * k + 2] = fitting
    checks.together("logits", tensors)
    return tuple(tensors), len(lists[0])


def _with_global_means(tensors: tuple[Tensor, ...], group: Any) -> tuple[Tensor, ...]:
    """Return each member's two operands followed by their means over all ranks."""
    from .ops.collectives import global_means

    means = global_means(tensors, group)
    return tuple([t for m in range(0, len(tensors), 2) for t in (*tensors[m : m + 2], *means[m : m + 2])])


def _by_member(spec: LossSpec, values: Sequence[Tensor], members: int, single: bool) -> Any:
    """Add up unreduced terms within each member."""
    sums: list[Any] = [None] * members
    for term, value in zip(spec.terms, values, strict=True):
        sums[term.member] = value if sums[term.member] is None else sums[term.member] + value
    return sums[0] if single else sums


# ---------------------------------------------------------------------------- losses without a name


def term(phi: str, scale: float = 1.0, shift: float = 0.0, linear: float = 0.0, weight: float = 1.0) -> Term:
    """Return one summand of a loss, `weight * reduce(phi(scale * z + shift) + linear * z)`.

        hinge_on_real = fastgan.term("relu", scale=-1.0, shift=1.0)  # relu(1 - z)

    Args:
        phi: "identity", "softplus" (ln(1 + e^z)), "softplus_square" (its square), "relu", "square", "relu_square",
            "abs", "huber" (z^2 / 2 up to |z| = 1, |z| - 1/2 beyond) or "relu_half". The last is relu but for its
            derivative at 0: 1/2, as where PyTorch takes a minimum or maximum of two equal numbers.
        scale: factor inside phi.
        shift: summand inside phi.
        linear: factor of the linear part outside phi.
        weight: factor of the whole.

    Raises:
        ValueError: an unknown phi, or a number that is not finite.
        TypeError: a number that is none.
    """
    if phi not in PHIS:
        raise ValueError(f"phi: expected one of {', '.join(PHIS)}, got {phi!r}")
    numbers = {"scale": scale, "shift": shift, "linear": linear, "weight": weight}
    return Term(phi, *(checks.number(name, value) for name, value in numbers.items()))


# fmt: off
@overload
def reduce_terms(  # type: ignore[overload-overlap]
    terms: Sequence[Term], tensors: Sequence[Operand], *, reduction: Literal["none"], centred: bool = ...,
    masks: Sequence[Tensor | None] | None = ...,
) -> list[Tensor]: ...
@overload
def reduce_terms(
    terms: Sequence[Term], tensors: Sequence[Operand], *, return_values: Literal[True], with_graph: Literal[True],
    centred: bool = ..., reduction: str = ..., masks: Sequence[Tensor | None] | None = ...,
) -> tuple[Tensor, list[Tensor]]: ...
@overload
def reduce_terms(
    terms: Sequence[Term], tensors: Sequence[Operand], *, return_values: Literal[True], centred: bool = ...,
    reduction: str = ..., masks: Sequence[Tensor | None] | None = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def reduce_terms(
    terms: Sequence[Term], tensors: Sequence[Operand], *, centred: bool = ..., reduction: str = ...,
    weights: Sequence[float] | Tensor | None = ..., masks: Sequence[Tensor | None] | None = ...,
) -> Tensor: ...
# fmt: on
def reduce_terms(
    terms: Sequence[Term],
    tensors: Sequence[Operand],
    *,
    centred: bool = False,
    reduction: str = "mean",
    weights: Sequence[float] | Tensor | None = None,
    masks: Sequence[Tensor | None] | None = None,
    return_values: bool = False,
    with_graph: bool = False,
    attached: bool = False,
) -> Tensor | list[Tensor] | tuple[Tensor, Tensor | list[Tensor]]:
    """Return the sum of terms over tensors, in one pass: a loss that has no name yet.

        terms = [fastgan.term("softplus", scale=-1.0), fastgan.term("softplus", weight=0.5)]
        loss = fastgan.reduce_terms(terms, [real_logits, fake_logits])

    Args:
        terms: made with `fastgan.term`, one for each entry of `tensors`.
        tensors: what the term is a function of: a tensor x, or a pair (x, y) of equal shapes for x - y.
            The same tensor may stand in several entries.
        centred: a pair (x, y) stands for x - mean(y) instead; shapes may then differ, and 16-bit dtypes from
            float32.
        reduction: "mean" or "sum" over each entry's elements, or "none".
        weights: one further factor per term: numbers, or a 1-D tensor on the operands' device. Not with with_graph.
        masks: for each term None or a mask w: a bool or floating tensor of non-negative constants, of as many
            dimensions as x, to which it broadcasts. With l the term per element, "mean" is sum(w l) / sum(w),
            "sum" sum(w l), "none" w l. The mean of y where centred is over all of y. A mean over a mask of zeros
            raises on the CPU, and is NaN elsewhere.
        return_values: return (loss, values), values being a detached vector of each term's weighted value.
        with_graph: values is a list of scalars instead. Each has a graph of its own, and can be weighed or
            differentiated by itself. Not with centred.
        attached: the former name of `with_graph`.

    Returns:
        A scalar (float32 for 16-bit tensors, else of their dtype), or for reduction "none" a list of each entry's
        weighted elements. With return_values a pair of the scalar and the values.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    with_graph = with_graph or attached
    if not (centred or return_values or with_graph) and weights is masks is None:
        result = quick_terms(terms, tensors, reduction)
        if result is not None:
            return result
    checks.reduction(reduction)
    if return_values and reduction == "none":
        raise ValueError("return_values: expected reduction 'mean' or 'sum', got 'none'")
    if with_graph and (centred or not return_values or weights is not None):
        raise ValueError("with_graph: expected return_values=True, centred=False and no weights")
    spec, operands, scanned = _bind(terms, tensors, centred)
    if masks is not None:
        spec, operands, scanned = *_masked(spec, operands, masks, reduction), -1
    if weights is not None:
        weights = checks.member_weights(weights, len(terms), operands[0].device, "terms")
    if with_graph:
        return ops.evaluate_terms(spec, operands, reduction, scanned)
    if torch.compiler.is_compiling():
        result, buffers = _traced(spec, operands, weights, reduction, return_values)
    else:
        result, buffers = ops.evaluate(
            spec, operands, weights=weights, reduction=reduction, values=return_values, scanned=scanned
        )
    if return_values:
        assert buffers is not None
        return result, buffers.values.to(result.dtype)
    return list(result) if reduction == "none" else result


def quick_terms(terms: Sequence[Term], tensors: Sequence[Operand], reduction: Any) -> Any:
    """Return ordinary terms by one call of the C++ nodes, or None where anything wants a closer look."""
    if torch.compiler.is_compiling() or nodes.module is None or not _is_ordinary():
        return None
    operands: Any = tensors
    try:
        pairs = tuple([type(entry) is tuple for entry in tensors])
        if True in pairs:
            operands = [t for e, pair in zip(tensors, pairs, strict=True) for t in (e if pair else (e,))]
        spec = _terms_spec(tuple(terms), pairs, False)
        plan = spec.plans.get(reduction) if reduction in ("mean", "sum") else None
    except (TypeError, ValueError, IndexError):
        return None
    return None if plan is None else nodes.module.loss(plan, operands)


def _bind(
    terms: Sequence[Term], tensors: Sequence[Operand], centred: bool
) -> tuple[LossSpec, tuple[Any, ...], int]:
    """Return terms as a loss, its checked operands, and what `nodes.scan` returned for them."""
    for name, value in (("terms", terms), ("tensors", tensors)):
        if not isinstance(value, Collection) or isinstance(value, str):
            raise TypeError(f"{name}: expected a sequence, got {type(value).__name__}")
    terms, tensors = tuple(terms), tuple(tensors)
    if len(terms) != len(tensors) or not terms:
        raise ValueError(
            f"terms and tensors: expected as many of each, at least 1, got {len(terms)}, {len(tensors)}"
        )
    pairs = tuple([isinstance(entry, tuple) for entry in tensors])
    operands: tuple[Any, ...] = tensors
    if True in pairs:
        for entry in tensors:
            if isinstance(entry, tuple) and len(entry) != 2:
                raise ValueError(f"tensors: expected a tensor or a pair, got {len(entry)} tensors")
        operands = tuple([t for e, pair in zip(tensors, pairs, strict=True) for t in (e if pair else (e,))])
    spec = cached(_terms_spec, terms, pairs, centred)
    scanned = -1 if torch.compiler.is_compiling() else nodes.scan(operands)
    if scanned < 0:
        checks.operands("tensors", operands)
    if True in pairs:
        for k, t in enumerate(spec.terms):
            if t.y >= 0 and (scanned < 0 or operands[t.x].shape != operands[t.y].shape):
                names = f"tensors[{k}][0]", f"tensors[{k}][1]"
                fitting = checks.pair(names[0], operands[t.x], names[1], operands[t.y], True)
                operands = (*operands[: t.x], *fitting, *operands[t.y + 1 :])
    return spec, operands, scanned


def _masked(
    spec: LossSpec, operands: tuple[Tensor, ...], masks: Any, reduction: str
) -> tuple[LossSpec, tuple[Tensor, ...]]:
    """Return terms with their masks as factors, and the operands."""
    masks = checks.sequence("masks", masks, "a tensor or None for each term")
    if len(masks) != len(spec.terms):
        raise ValueError(f"masks: expected one for each of {len(spec.terms)} terms, got {len(masks)}")
    own = []
    for k, (bound, mask) in enumerate(zip(spec.terms, masks, strict=True)):
        name, x, factor = f"masks[{k}]", operands[bound.x], None
        if mask is not None:
            checked = checks.per_element(name, mask, x, f"tensors[{k}]", math.inf)
            factor = elementwise.factor(name, checked, x, reduction)
        own.append(elementwise.Constants(factor=factor))
    return elementwise.attach(spec, operands, own)


@lru_cache(maxsize=1024)
def _terms_spec(terms: tuple[Term, ...], pairs: tuple[bool, ...], centred: bool) -> LossSpec:
    """Return terms, each of one operand or of a pair, as a loss of one member per term."""
    bound, at = [], 0
    for k, (one, pair) in enumerate(zip(terms, pairs, strict=True)):
        if not isinstance(one, Term):
            raise TypeError(f"terms: expected fastgan.term, got {type(one).__name__}")
        y, mean_operand = (-1, at + 1) if centred else (at + 1, -1)
        bound.append(OperandTerm(one, at, y, mean_operand, member=k) if pair else OperandTerm(one, at, member=k))
        at += 1 + pair
    return LossSpec(tuple(bound), (0,) * at)
