"""What an operation asks of a backend, as data: the form in which every loss and penalty reaches the kernels.

A term is `weight * reduce(phi(scale * z + shift) + linear * z)`, where z is one operand x, a pair x - y, or x less
the mean of a third operand. It may have constants per element: a factor on all, and a label on the linear part. A
`LossSpec` is a list of terms on numbered operands. A `PenaltySpec` is a function psi
of the norms of groups of elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .formulas import PHI, PSI

PHIS, PSIS = tuple(PHI), tuple(PSI)
OVER = ("sample", "channel", "batch")
MAX_POWER = 16
NO_ROLE, REAL, FAKE = 0, 1, 2
_OTHER_ROLE = (NO_ROLE, FAKE, REAL)


class Term(NamedTuple):
    """`weight * reduce(phi(scale * z + shift) + linear * z)`; make one with `fastgan.term`, which checks it.

    Attributes:
        phi: the name of the function, as for `fastgan.term`.
        scale, shift: the factor and the summand inside of it.
        linear: the factor of the linear part outside of it.
        weight: the factor of the whole.
    """

    phi: str
    scale: float = 1.0
    shift: float = 0.0
    linear: float = 0.0
    weight: float = 1.0

    def weighted(self, weight: float) -> Term:
        """Return the term with another weight. `_replace` does the same, but torch 2.6 does not compile it."""
        return Term(self.phi, self.scale, self.shift, self.linear, weight)


class OperandTerm(NamedTuple):
    """A term on numbered operands: x alone, x - y, or x - mean(mean_operand); -1 stands for none.

    With constants per element: factor * (phi(scale * z + shift) + linear * label * z).

    Attributes:
        term: the function.
        x, y, mean_operand: numbers of operands.
        threshold, side: the discriminator is right where side * (z - threshold) > 0; side 0 is not counted.
        member: the number of the weight that multiplies the term.
        role: whether its value counts as the loss on real or on fake.
        factor, label: numbers of operands of x's shape, constants in float32 (beside float64: float64), which may
            serve several terms and are nothing else.
    """

    term: Term
    x: int
    y: int = -1
    mean_operand: int = -1
    threshold: float = 0.0
    side: int = 0
    member: int = 0
    role: int = NO_ROLE
    factor: int = -1
    label: int = -1

    def swapped(self) -> OperandTerm:
        """Return the generator's term, for which real and fake change places."""
        return OperandTerm(
            self.term, self.x, self.y, self.mean_operand, self.threshold, -self.side, self.member,
            _OTHER_ROLE[self.role], self.factor, self.label,
        )  # fmt: skip


class LossSpec:
    """The terms of a loss and the roles of its operands, with what each backend has made of them.

    Attributes:
        terms: the terms; an operand is x or y of at most one of them.
        roles: NO_ROLE, REAL or FAKE of each operand.
        subtracts_mean: whether any term subtracts a mean.
        native: the compiled extension's form, made at first use.
        tables: what the Triton backend keeps from call to call.
        single: what `single_terms` returned.
        has_constants: whether any term has a factor or a label per element.
        pairs: the operands that are subtracted from each other.
        plans: what the C++ nodes take, by reduction and weights as text.
    """

    __slots__ = (
        "has_constants",
        "native",
        "pairs",
        "plans",
        "roles",
        "single",
        "subtracts_mean",
        "tables",
        "terms",
    )

    def __init__(self, terms: tuple[OperandTerm, ...], roles: tuple[int, ...]) -> None:
        self.terms = terms
        self.roles = roles
        self.subtracts_mean = any(t.mean_operand >= 0 for t in terms)
        self.pairs = [(t.x, t.y) for t in terms if t.y >= 0]
        self.has_constants = any(t.factor >= 0 or t.label >= 0 for t in terms)
        self.native: Any = None
        self.plans: dict[Any, Any] = {}
        self.tables: Any = None
        self.single: list[tuple[LossSpec, list[int]]] | None = None

    def pairs_fit(self, tensors: Sequence[Any]) -> bool:
        """Return whether there are as many operands as the loss has, and those that are paired have one shape."""
        if len(tensors) != len(self.roles):
            return False
        return all([tensors[x].shape == tensors[y].shape for x, y in self.pairs])

    def swapped(self) -> LossSpec:
        """Return the loss with real and fake in each other's place."""
        return LossSpec(tuple(t.swapped() for t in self.terms), tuple(_OTHER_ROLE[r] for r in self.roles))

    def single_terms(self) -> list[tuple[LossSpec, list[int]]]:
        """Return each term as a loss of its own, with the numbers of its operands here."""
        if self.single is None:
            self.single = []
            for t in self.terms:
                operands = [j for j in (t.x, t.y, t.factor, t.label) if j >= 0]
                at = {j: k for k, j in enumerate(operands)}
                alone = t._replace(x=0, y=at.get(t.y, -1), factor=at.get(t.factor, -1), label=at.get(t.label, -1))
                self.single.append((LossSpec((alone,), tuple(self.roles[i] for i in operands)), operands))
        return self.single

    def numbers(self, weights: Sequence[float] | None = None) -> list[float]:
        """Return five numbers per term, members' weights multiplied in."""
        found: list[float] = []
        for t in self.terms:
            _, scale, shift, linear, weight = t.term
            weight = weight if weights is None else weight * weights[t.member]
            found += [scale, shift, linear, weight, t.threshold]
        return found

    def encode(self, numbers: Sequence[float] | None = None) -> str:
        """Return the loss as text, with its own numbers or others, for the registered operators."""
        numbers = self.numbers() if numbers is None else numbers
        entries = [" ".join(map(str, self.roles))]
        for k, t in enumerate(self.terms):
            own = [float(v).hex() for v in numbers[5 * k : 5 * k + 5]]
            codes = (t.x, t.y, t.mean_operand, t.side, t.member, t.role, t.factor, t.label)
            entries.append(" ".join([t.term.phi, *own, *map(str, codes)]))
        return ";".join(entries)

    def with_numbers(self, numbers: Sequence[float]) -> LossSpec:
        """Return the loss with other numbers."""
        terms = []
        for k, t in enumerate(self.terms):
            scale, shift, linear, weight, threshold = numbers[5 * k : 5 * k + 5]
            terms.append(t._replace(term=Term(t.term.phi, scale, shift, linear, weight), threshold=threshold))
        return LossSpec(tuple(terms), self.roles)


@lru_cache(maxsize=1024)
def decode(text: str) -> LossSpec:
    """Return the loss that `LossSpec.encode` wrote."""
    roles, *entries = text.split(";")
    terms = []
    for entry in entries:
        phi, *fields = entry.split()
        scale, shift, linear, weight, threshold = map(float.fromhex, fields[:5])
        x, y, mean_operand, side, member, role, factor, label = map(int, fields[5:])
        term = Term(phi, scale, shift, linear, weight)
        terms.append(OperandTerm(term, x, y, mean_operand, threshold, side, member, role, factor, label))
    return LossSpec(tuple(terms), tuple(map(int, roles.split())))


class PenaltySpec(NamedTuple):
    """A penalty on norms: scale * reduce(weights * psi(norms)).

    Attributes:
        psi: "two_sided", "one_sided" or "power".
        target, power: what psi depends on.
        scale: the factor in front.
        over: what one norm covers: "sample", "channel" (one norm per pixel) or "batch".
        reduction: "sum", "mean" (over the norms) or "none".
    """

    psi: str
    target: float
    power: int
    scale: float
    over: str
    reduction: str
