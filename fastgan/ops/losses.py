"""The table of losses. A new loss is one entry here, or a call of `register_loss`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

from .. import _checks as checks
from ..backends.specs import FAKE, REAL, LossSpec, OperandTerm, Term


@dataclass(frozen=True)
class LossOptions:
    """What a loss depends on besides the logits; checked when it is made."""

    loss: str = "nonsaturating"
    relativistic: str | None = None
    margin: float = 1.0
    targets: tuple[float, float, float] = (0.0, 1.0, 1.0)
    real_target: float = 1.0
    fake_target: float = 0.0

    def __post_init__(self) -> None:
        """Check every option, and that it has an effect on this loss."""
        check_name(self.loss)
        if self.relativistic not in (None, "paired", "average"):
            raise ValueError(f"relativistic: expected None, 'paired' or 'average', got {self.relativistic!r}")
        if not isinstance(self.targets, tuple) or len(self.targets) != 3:
            raise ValueError(f"targets: expected three numbers (fake, real, generator), got {self.targets!r}")
        numbers = {
            "margin": checks.number("margin", self.margin),
            "targets": tuple([checks.number("targets", t) for t in self.targets]),
            "real_target": checks.number("real_target", self.real_target, 0.0, 1.0),
            "fake_target": checks.number("fake_target", self.fake_target, 0.0, 1.0),
        }
        for name, value in numbers.items():
            object.__setattr__(self, name, value)
        for name, default in _DEFAULTS.items():
            if name not in self.definition.options and getattr(self, name) != default:
                raise ValueError(f"{name}: has no effect on loss {_names()[self.loss]!r}; leave it at {default}")

    @property
    def definition(self) -> LossDefinition:
        """The loss's entry in the table."""
        return TABLE[_names()[self.loss]]

    def decision(self) -> tuple[float, int]:
        """Return a threshold of z, and +1 where real logits belong above it (-1: below, 0: undecided)."""
        if self.relativistic or self.definition.paired:
            return 0.0, 1
        low, high = self.definition.boundary(self)
        return (low + high) / 2, 1 if high > low else -1 if high < low else 0


_DEFAULTS = {f.name: f.default for f in fields(LossOptions) if f.name not in ("loss", "relativistic")}
Maker = Callable[[LossOptions], Term]


class LossDefinition(NamedTuple):
    """A loss as the table has it.

    Attributes:
        real, fake: the discriminator's term on real logits, and on fake ones.
        generator: the generator's term on fake logits.
        options: the fields of LossOptions that it depends on.
        aliases: further names.
        paired: the plain form is already a function of real - fake.
        boundary: the labels (fake, real) between which the discriminator decides.
    """

    real: Maker
    fake: Maker
    generator: Maker
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    paired: bool = False
    boundary: Callable[[LossOptions], tuple[float, float]] = lambda o: (-1.0, 1.0)


def cross_entropy(target: float, weight: float = 1.0) -> Term:
    """Return binary cross-entropy on a logit with a soft label: softplus(x) - target * x."""
    if target == 1.0:  # softplus(x) - x = softplus(-x), where nothing cancels
        return Term("softplus", scale=-1.0, weight=weight)
    return Term("softplus", linear=-target, weight=weight)


BCE = ("real_target", "fake_target")

TABLE: dict[str, LossDefinition] = {
    "saturating": LossDefinition(
        real=lambda o: cross_entropy(o.real_target),
        fake=lambda o: cross_entropy(o.fake_target),
        generator=lambda o: cross_entropy(o.fake_target, weight=-1.0),
        options=BCE,
        aliases=("minimax",),
    ),
    "nonsaturating": LossDefinition(
        real=lambda o: cross_entropy(o.real_target),
        fake=lambda o: cross_entropy(o.fake_target),
        generator=lambda o: cross_entropy(o.real_target),
        options=BCE,
        aliases=("logistic", "bce"),
    ),
    "hinge": LossDefinition(
        real=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("relu", shift=o.margin),
        generator=lambda o: Term("identity", scale=-1.0),
        options=("margin",),
    ),
    "clipped_hinge": LossDefinition(
        real=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("relu", shift=o.margin),
        generator=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        options=("margin",),
    ),
    "least_squares": LossDefinition(
        real=lambda o: Term("square", shift=-o.targets[1]),
        fake=lambda o: Term("square", shift=-o.targets[0]),
        generator=lambda o: Term("square", shift=-o.targets[2]),
        options=("targets",),
        aliases=("lsgan",),
        boundary=lambda o: (o.targets[0], o.targets[1]),
    ),
    "huber": LossDefinition(
        real=lambda o: Term("huber", shift=-o.targets[1]),
        fake=lambda o: Term("huber", shift=-o.targets[0]),
        generator=lambda o: Term("huber", shift=-o.targets[2]),
        options=("targets",),
        boundary=lambda o: (o.targets[0], o.targets[1]),
    ),
    "softplus_square": LossDefinition(
        real=lambda o: Term("softplus_square", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("softplus_square"),
        generator=lambda o: Term("softplus_square", scale=-1.0, shift=o.margin),
        options=("margin",),
        boundary=lambda o: (0.0, o.margin),
    ),
    "wasserstein": LossDefinition(
        real=lambda o: Term("identity", scale=-1.0),
        fake=lambda o: Term("identity"),
        generator=lambda o: Term("identity", scale=-1.0),
        aliases=("wgan",),
    ),
    "ranking": LossDefinition(
        real=lambda o: Term("relu", scale=-1.0, shift=o.margin),
        fake=lambda o: Term("relu", shift=o.margin),
        generator=lambda o: Term("identity", scale=-1.0),
        options=("margin",),
        paired=True,
    ),
}


# Names of the losses whose plain form pairs real with fake.
PAIRED = [name for name, definition in TABLE.items() if definition.paired]


def losses() -> dict[str, tuple[str, ...]]:
    """Return the names of all losses, each with its aliases: `losses()["least_squares"]` is `("lsgan",)`."""
    return {name: definition.aliases for name, definition in TABLE.items()}


def register_loss(
    name: str, *, real: Term, fake: Term, generator: Term, aliases: tuple[str, ...] = (), paired: bool = False
) -> None:
    """Give a loss of your own a name that `discriminator_loss` and `generator_loss` take.

        squared = [fastgan.term("relu_square", scale=sign, shift=1.0) for sign in (-1.0, 1.0)]
        fastgan.register_loss("squared_hinge", real=squared[0], fake=squared[1], generator=squared[0])
        loss = fastgan.discriminator_loss(real_logits, fake_logits, "squared_hinge")

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
    if isinstance(aliases, str):
        raise TypeError(f"aliases: expected a sequence of names, got the str {aliases!r}")
    aliases = checks.sequence("aliases", aliases, "a sequence of names")
    for candidate in (name, *aliases):
        if not isinstance(candidate, str) or candidate in _names():
            taken = ", which is registered already" if isinstance(candidate, str) else ""
            raise ValueError(f"name: expected a new string, got {candidate!r}{taken}")
    for key, value in {"real": real, "fake": fake, "generator": generator}.items():
        if not isinstance(value, Term):
            raise TypeError(f"{key}: expected a fastgan.term, got {type(value).__name__}")
    TABLE[name] = LossDefinition(lambda o: real, lambda o: fake, lambda o: generator, (), aliases, paired)
    if paired:
        PAIRED.extend((name, *aliases))
    for made in (discriminator_spec, real_spec, fake_spec, generator_spec):
        made.cache_clear()


# What is meant by names that other projects use.
_ELSEWHERE = {
    **dict.fromkeys(("mse", "l2", "ls"), "'least_squares'"),
    **dict.fromkeys(("vanilla", "gan", "ns", "bcewithlogits", "cross_entropy"), "'nonsaturating'"),
    **dict.fromkeys(("rgan", "rpgan", "relativistic"), "relativistic='paired'"),
    **dict.fromkeys(("ragan", "rahinge", "ralsgan"), "relativistic='average'"),
    **dict.fromkeys(("wgan-gp", "wgan_gp", "wgangp"), "'wasserstein' and a penalty, 'wgan-gp'"),
}


def check_name(loss: Any) -> None:
    """Raise where there is no loss of this name."""
    if isinstance(loss, str) and loss in TABLE:
        return
    if callable(loss):
        raise TypeError(f"loss: expected a name, got {type(loss).__name__} (a step takes a function of logits)")
    checks.choice("loss", loss, _names(), _ELSEWHERE)


def _names() -> dict[str, str]:
    return {alias: name for name, definition in TABLE.items() for alias in (name, *definition.aliases)}


# What a spec is made of: the fields of LossOptions, unchecked, so that a cached call checks nothing twice.
Given = tuple[Any, ...]


@lru_cache(maxsize=1024)
def discriminator_spec(given: Given, members: int = 1, global_means: bool = False) -> LossSpec:
    """Return a discriminator's loss; operands are real, fake of each member in turn.

    With `global_means` each member has four operands: real, fake, and the means of real and of fake, which take the
    place of those computed here.
    """
    options = LossOptions(*given)
    definition, (threshold, side) = options.definition, options.decision()
    on_real, on_fake = definition.real(options), definition.fake(options)
    stride = 4 if global_means else 2
    terms: list[OperandTerm] = []
    for m in range(members):
        r, f = stride * m, stride * m + 1
        mean_r, mean_f, y = -1, -1, -1
        if options.relativistic == "average":
            mean_r, mean_f = (r + 2, f + 2) if global_means else (r, f)
        elif options.relativistic == "paired" or definition.paired:
            y = f
        terms.append(OperandTerm(on_real, r, y, mean_f, threshold, side, m, REAL))
        if y < 0:
            terms.append(OperandTerm(on_fake, f, -1, mean_r, threshold, -side, m, FAKE))
    return LossSpec(tuple(terms), (REAL, FAKE, 0, 0)[:stride] * members)


def _of_role(given: Given, members: int, role: int) -> LossSpec:
    terms = [t for t in discriminator_spec.__wrapped__(given, members).terms if t.role == role]
    alone = [OperandTerm(t.term, t.member, -1, -1, t.threshold, t.side, t.member, role) for t in terms]
    return LossSpec(tuple(alone), (role,) * members)


@lru_cache(maxsize=1024)
def real_spec(given: Given, members: int = 1, global_means: bool = False) -> LossSpec:
    """Return the part of a discriminator's loss on real, of a loss that pairs nothing; operands are real."""
    return _of_role(given, members, REAL)


@lru_cache(maxsize=1024)
def fake_spec(given: Given, members: int = 1, global_means: bool = False) -> LossSpec:
    """Return the part of a discriminator's loss on fake, of a loss that pairs nothing; operands are fake."""
    return _of_role(given, members, FAKE)


@lru_cache(maxsize=1024)
def generator_spec(given: Given, members: int = 1, global_means: bool = False) -> LossSpec:
    """Return a generator's loss: the discriminator's with real and fake in each other's place.

    Operands are fake of each member, and for a relativistic form fake, real of each; `global_means` as in
    `discriminator_spec`.
    """
    options = LossOptions(*given)
    if options.relativistic is not None:
        return discriminator_spec.__wrapped__(given, members, global_means).swapped()
    threshold, side = options.decision()
    term = options.definition.generator(options)
    terms = tuple(OperandTerm(term, m, -1, -1, threshold, -side, m, FAKE) for m in range(members))
    return LossSpec(terms, (FAKE,) * members)
