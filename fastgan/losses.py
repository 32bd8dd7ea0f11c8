"""The table of losses. A new loss is one row here, or a call of `register_loss`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from . import checks
from .terms import FAKE, REAL, Bound, Spec, Term, number


class Options(NamedTuple):
    """What a loss may depend on besides the logits."""

    margin: float = 1.0
    targets: tuple[float, float, float] = (0.0, 1.0, 1.0)
    real_target: float = 1.0
    fake_target: float = 0.0


Maker = Callable[[Options], Term]


class Row(NamedTuple):
    """A loss: its term on real logits, on fake logits, and the generator's on fake logits.

    `options` names the fields of Options that it depends on. `paired`: its plain form is already a
    function of real - fake. `boundary`: the labels (fake, real) between which the discriminator decides.
    """

    real: Maker
    fake: Maker
    generator: Maker
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    paired: bool = False
    boundary: Callable[[Options], tuple[float, float]] = lambda o: (-1.0, 1.0)


def cross_entropy(target: float, weight: float = 1.0) -> Term:
    """Binary cross-entropy on a logit with a soft label: softplus(x) - target * x."""
    if target == 1.0:  # softplus(x) - x = softplus(-x), where nothing cancels
        return Term("softplus", scale=-1.0, weight=weight)
    return Term("softplus", linear=-target, weight=weight)


BCE = ("real_target", "fake_target")

TABLE: dict[str, Row] = {
    "saturating": Row(
        real=lambda o: cross_entropy(o.real_target),
        fake=lambda o: cross_entropy(o.fake_target),
        generator=lambda o: cross_entropy(o.fake_target, weight=-1.0),
        options=BCE,
        aliases=("minimax",),
    ),
    "nonsaturating": Row(
        real=lambda o: cross_entropy(o.real_target),
        fake=lambda o: cross_entropy(o.fake_target),
        generator=lambda o: cross_entropy(o.real_target),
        options=BCE,
        aliases=("logistic", "bce"),
    ),
    "hinge": Row(
        real=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("relu", shift=o.margin),
        generator=lambda o: Term("identity", scale=-1.0),
        options=("margin",),
    ),
    "least_squares": Row(
        real=lambda o: Term("square", shift=-o.targets[1]),
        fake=lambda o: Term("square", shift=-o.targets[0]),
        generator=lambda o: Term("square", shift=-o.targets[2]),
        options=("targets",),
        aliases=("lsgan",),
        boundary=lambda o: (o.targets[0], o.targets[1]),
    ),
    "wasserstein": Row(
        real=lambda o: Term("identity", scale=-1.0),
        fake=lambda o: Term("identity"),
        generator=lambda o: Term("identity", scale=-1.0),
        aliases=("wgan",),
    ),
    "ranking": Row(
        real=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("relu", shift=o.margin),
        generator=lambda o: Term("identity", scale=-1.0),
        options=("margin",),
        paired=True,
    ),
}


# Names of the losses whose plain form pairs real with fake.
PAIRED = [name for name, row in TABLE.items() if row.paired]


def losses() -> dict[str, tuple[str, ...]]:
    """The names of all losses, each with its aliases."""
    return {name: row.aliases for name, row in TABLE.items()}


def register_loss(
    name: str, *, real: Term, fake: Term, generator: Term, aliases: tuple[str, ...] = (), paired: bool = False
) -> None:
    """Gives a loss of your own a name that `discriminator_loss` and `generator_loss` take.

    Args:
        name: the new name; one that is taken raises.
        real: the discriminator's term on real logits (made with `fastgan.term`).
        fake: the discriminator's term on fake logits.
        generator: the generator's term on fake logits.
        aliases: further names.
        paired: the discriminator's plain form is `real` on real - fake, and `fake` serves only the
            average relativistic form.

    Raises:
        ValueError: a name that is taken.
        TypeError: a term that is none.
    """
    for candidate in (name, *aliases):
        if not isinstance(candidate, str) or candidate in _names():
            raise ValueError(f"name: expected a new string, got {candidate!r}")
    for key, value in {"real": real, "fake": fake, "generator": generator}.items():
        if not isinstance(value, Term):
            raise TypeError(f"{key}: expected a fastgan.term, got {type(value).__name__}")
    TABLE[name] = Row(lambda o: real, lambda o: fake, lambda o: generator, (), tuple(aliases), paired)
    if paired:
        PAIRED.extend((name, *aliases))
    discriminator_spec.cache_clear()
    generator_spec.cache_clear()


def _names() -> dict[str, str]:
    return {alias: name for name, row in TABLE.items() for alias in (name, *row.aliases)}


def _row(loss: str, relativistic: str | None, given: tuple[Any, ...]) -> tuple[Row, Options]:
    """The loss's row and its checked options."""
    options = Options(*given)
    names = _names()
    checks.known("loss", loss, names)
    if relativistic not in (None, "paired", "average"):
        raise ValueError(f"relativistic: expected None, 'paired' or 'average', got {relativistic!r}")
    row = TABLE[names[loss]]
    if not isinstance(options.targets, tuple) or len(options.targets) != 3:
        raise ValueError(f"targets: expected three numbers (fake, real, generator), got {options.targets!r}")
    checked = Options(
        number("margin", options.margin),
        tuple(number("targets", t) for t in options.targets),  # type: ignore[arg-type]
        number("real_target", options.real_target, 0.0, 1.0),
        number("fake_target", options.fake_target, 0.0, 1.0),
    )
    for field, default in Options._field_defaults.items():
        if field not in row.options and getattr(checked, field) != default:
            raise ValueError(f"{field}: has no effect on loss {names[loss]!r}; leave it at {default}")
    return row, checked


def _decision(row: Row, relativistic: str | None, options: Options) -> tuple[float, int]:
    """Threshold of z, and +1 where real logits belong above it (-1: below, 0: no telling)."""
    if relativistic or row.paired:
        return 0.0, 1
    low, high = row.boundary(options)
    return (low + high) / 2, (high > low) - (high < low)


@lru_cache(maxsize=1024)
def discriminator_spec(
    loss: str, relativistic: str | None, given: tuple[Any, ...], members: int, global_means: bool = False
) -> Spec:
    """Terms of a discriminator loss; operands are real, fake of each member in turn.

    `given` are the fields of Options, unchecked. With `global_means` each member has four: real, fake,
    and the means of real and of fake, which take the place of those computed here.
    """
    row, options = _row(loss, relativistic, given)
    threshold, side = _decision(row, relativistic, options)
    stride = 4 if global_means else 2
    terms: list[Bound] = []
    for m in range(members):
        r, f = stride * m, stride * m + 1
        if relativistic == "average":
            mean_r, mean_f = (r + 2, f + 2) if global_means else (r, f)
            terms.append(Bound(row.real(options), r, -1, mean_f, threshold, side, m, REAL))
            terms.append(Bound(row.fake(options), f, -1, mean_r, threshold, -side, m, FAKE))
        elif relativistic == "paired" or row.paired:
            terms.append(Bound(row.real(options), r, f, -1, threshold, side, m, REAL))
        else:
            terms.append(Bound(row.real(options), r, -1, -1, threshold, side, m, REAL))
            terms.append(Bound(row.fake(options), f, -1, -1, threshold, -side, m, FAKE))
    return Spec(tuple(terms), (REAL, FAKE, 0, 0)[:stride] * members)


@lru_cache(maxsize=1024)
def generator_spec(
    loss: str, relativistic: str | None, given: tuple[Any, ...], members: int, global_means: bool = False
) -> Spec:
    """Terms of a generator loss: the discriminator's with the roles of real and fake swapped.

    Operands are fake of each member, and for a relativistic form fake, real of each; `global_means`
    as in `discriminator_spec`.
    """
    row, options = _row(loss, relativistic, given)
    threshold, side = _decision(row, relativistic, options)
    if relativistic is None:
        maker = row.generator(options)
        terms = tuple(Bound(maker, m, -1, -1, threshold, -side, m, FAKE) for m in range(members))
        return Spec(terms, (FAKE,) * members)
    swapped = discriminator_spec.__wrapped__(loss, relativistic, given, members, global_means)
    other = {REAL: FAKE, FAKE: REAL, 0: 0}
    return Spec(
        tuple(b.swapped() for b in swapped.terms),
        tuple(other[r] for r in swapped.roles),
    )
