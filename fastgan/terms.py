"""Terms: the form in which every loss reaches the kernels.

A term is `weight * reduce(phi(scale * z + shift) + linear * z)`, where z is one operand x, a pair
x - y, or x less the mean of a third operand. A `Spec` is a list of terms bound to numbered operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

PHIS = ("identity", "softplus", "relu", "square", "relu_square", "abs", "relu_half")
NO_ROLE, REAL, FAKE = 0, 1, 2


class Term(NamedTuple):
    """`weight * reduce(phi(scale * z + shift) + linear * z)`; make one with `fastgan.term`."""

    phi: str
    scale: float = 1.0
    shift: float = 0.0
    linear: float = 0.0
    weight: float = 1.0

    def weighted(self, weight: float) -> Term:
        """The term with another weight. `_replace` is the same, but torch 2.6 does not compile it."""
        return Term(self.phi, self.scale, self.shift, self.linear, weight)


def term(phi: str, scale: float = 1.0, shift: float = 0.0, linear: float = 0.0, weight: float = 1.0) -> Term:
    """One summand of a loss, `weight * reduce(phi(scale * z + shift) + linear * z)`.

    Args:
        phi: "identity", "softplus" (ln(1 + e^z)), "relu", "square", "relu_square", "abs" or
            "relu_half", which is relu but for its derivative at 0: 1/2, as where PyTorch takes a minimum or
            maximum of two equal numbers.
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
    return Term(phi, *(number(name, value) for name, value in numbers.items()))


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float in [low, high]; the error names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not (low <= value <= high and abs(value) < math.inf):  # NaN fails too; torch.compile traces this
        bounds = "a finite number" if low == -math.inf else f"a number in [{low:g}, {high:g}]"
        raise ValueError(f"{name}: expected {bounds}, got {value}")
    return float(value)


class Bound(NamedTuple):
    """A term on operands: x alone, x - y, or x - mean(centre); -1 stands for none.

    `side` and `threshold` say where the discriminator is right, side * (z - threshold) > 0 (side 0:
    not counted); `member` is the number of the weight that multiplies the term; `role` says whether
    its value counts as the loss on real or on fake.
    """

    term: Term
    x: int
    y: int = -1
    centre: int = -1
    threshold: float = 0.0
    side: int = 0
    member: int = 0
    role: int = NO_ROLE

    def swapped(self) -> Bound:
        """The same term of the generator, for which real and fake have changed places."""
        role = {REAL: FAKE, FAKE: REAL, NO_ROLE: NO_ROLE}[self.role]
        return Bound(self.term, self.x, self.y, self.centre, self.threshold, -self.side, self.member, role)


class Spec:
    """Terms and the roles of their operands, with what each backend has made of them.

    Attributes:
        terms: the bound terms; an operand is x or y of at most one of them.
        roles: NO_ROLE, REAL or FAKE for each operand.
        centred: whether any term is centred.
        native: the compiled extension's form, made at first use.
        plans: what fastgan.triton keeps from call to call.
        partial: what `parts` returned.
    """

    __slots__ = ("centred", "native", "partial", "plans", "roles", "terms")

    def __init__(self, terms: tuple[Bound, ...], roles: tuple[int, ...]) -> None:
        self.terms = terms
        self.roles = roles
        self.centred = any(b.centre >= 0 for b in terms)
        self.native: Any = None
        self.plans: Any = None
        self.partial: list[tuple[Spec, list[int]]] | None = None

    def parts(self) -> list[tuple[Spec, list[int]]]:
        """Each term as a spec of its own, and the numbers of its operands here."""
        if self.partial is None:
            self.partial = []
            for b in self.terms:
                operands = [b.x] if b.y < 0 else [b.x, b.y]
                alone = b._replace(x=0, y=-1 if b.y < 0 else 1)
                self.partial.append((Spec((alone,), tuple(self.roles[i] for i in operands)), operands))
        return self.partial

    def encode(self, weights: Sequence[float] | None = None) -> str:
        """As text, members' weights multiplied in: for the registered operators; `decode` reads it."""
        rows = [" ".join(map(str, self.roles))]
        for b in self.terms:
            phi, scale, shift, linear, weight = b.term
            weight *= 1.0 if weights is None else weights[b.member]
            numbers = [float(v).hex() for v in (scale, shift, linear, weight, b.threshold)]
            rows.append(" ".join([phi, *numbers, *map(str, (b.x, b.y, b.centre, b.side, b.member, b.role))]))
        return ";".join(rows)


@lru_cache(maxsize=1024)
def decode(text: str) -> Spec:
    """The spec that `Spec.encode` wrote."""
    roles, *rows = text.split(";")
    terms = []
    for row in rows:
        phi, *fields = row.split()
        scale, shift, linear, weight, threshold = map(float.fromhex, fields[:5])
        x, y, centre, side, member, role = map(int, fields[5:])
        terms.append(Bound(Term(phi, scale, shift, linear, weight), x, y, centre, threshold, side, member, role))
    return Spec(tuple(terms), tuple(map(int, roles.split())))
