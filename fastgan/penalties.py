"""Gradient penalties of a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor

from . import _checks as checks
from ._counts import CallCounts
from ._options import WithOptions
from ._torch_internals import fsdp_is_used, version
from .backends.specs import MAX_POWER, OVER, PenaltySpec, Term
from .discriminator import compile as compiled
from .discriminator import forward as eagerly
from .discriminator.ddp import watch
from .discriminator.double_backward import check, gradients_of
from .discriminator.forward import Forward, as_given, is_parallel, tensors_of
from .discriminator.outputs import Output, check_counts, check_output, chosen, outputs_of, read
from .discriminator.sharded import gather_in_backward
from .functional import reduce_terms
from .interpolation import around, between, checked_samples, interpolate, nearby
from .norms import (
    PenaltyStats,
    Tensors,
    checked_grads,
    checked_weights,
    gradient_norm,
    norm_penalty,
    of_gradients,
)
from .samples import Groups, Samples, arranged

__all__ = [
    "PenaltyStats",
    "gradient_norm",
    "gradient_penalty",
    "interpolate",
    "norm_penalty",
    "output_penalty",
    "r1_penalty",
    "r2_penalty",
]

ENGINES = ("auto", "eager", "compiled")
Perturbation = Callable[[Any], Any]  # of the inputs, to inputs of the same shapes
SIGMA = 0.01  # of an approximation


class PenaltyKind(NamedTuple):
    """A penalty with a name.

    Attributes:
        inputs: where it is evaluated: "between", "around" (real), "real" or "fake".
        psi: the function of the norm, a kind of norm_penalty; none: the difference between nearby inputs.
        factor: the factor in front of the weight.
        weight: the default one.
    """

    inputs: str
    psi: str = ""
    factor: float = 1.0
    weight: float = 10.0


KINDS = {
    "wgan-gp": PenaltyKind("between", "two_sided"),
    "wgan-lp": PenaltyKind("between", "one_sided"),
    "r1": PenaltyKind("real", "power", 0.5, 1.0),
    "r2": PenaltyKind("fake", "power", 0.5, 1.0),
    "dragan": PenaltyKind("around", "two_sided"),
    "wgan-div": PenaltyKind("between", "power"),
    "r1-approx": PenaltyKind("real"),
    "r2-approx": PenaltyKind("fake"),
}


@dataclass(frozen=True)
class PenaltyOptions:
    """What `gradient_penalty` takes beside the discriminator and its inputs; checked when it is made.

    Attributes:
        inputs: where the penalty is evaluated: "between", "around", "real" or "fake".
        is_approximate: whether it takes a difference in the place of a gradient.
        samples: how samples are arranged, or None where they simply lie along dimension 0.
    """

    kind: str = "wgan-gp"
    weight: float | None = None
    target: float = 1.0
    power: int | None = None
    sigma: float | None = None
    normalize: bool = False
    directions: int = 1
    perturb: Perturbation | None = None
    eps: Tensor | None = None
    generator: torch.Generator | None = None
    over: str = "sample"
    batch_dim: int = 0
    pac: int = 1
    groups: Groups | None = None
    output: Output | None = None
    engine: str = "auto"
    prune: bool = True
    return_stats: bool = False
    inputs: str = field(init=False, repr=False)
    is_approximate: bool = field(init=False, repr=False)
    samples: Samples | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that all options are known and have an effect."""
        if self.weight is None:  # an unknown kind raises below
            kind = KINDS.get(self.kind) if isinstance(self.kind, str) else None
            object.__setattr__(self, "weight", kind.weight if kind else 10.0)
        numbers = self.weight, self.target, self.power, self.sigma
        names = self.kind, self.over, self.engine, self.return_stats, self.normalize, self.directions
        given = type(self.eps), type(self.generator), type(self.perturb)
        try:
            if torch.compiler.is_compiling():  # without the cache
                _check.__wrapped__(numbers, names, given)
            else:
                types = map(type, (*numbers, *names))  # 1 and True are one key, of two types
                _check(numbers, names, given, *types)
        except TypeError:  # perhaps a list, which no cache can look up: the checks tell which
            _check.__wrapped__(numbers, names, given)
        if not type(self.weight) is type(self.target) is float:  # NumPy's would be computed with as they are
            object.__setattr__(self, "weight", checks.number("weight", self.weight))
            object.__setattr__(self, "target", checks.number("target", self.target))
        if self.sigma is not None:
            object.__setattr__(self, "sigma", checks.number("sigma", self.sigma))
        known = KINDS[self.kind]
        object.__setattr__(self, "inputs", known.inputs)
        object.__setattr__(self, "is_approximate", not known.psi)
        object.__setattr__(self, "samples", None)
        plain = self.groups is None and type(self.batch_dim) is type(self.pac) is int
        if not plain or self.batch_dim != 0 or self.pac != 1:
            self._arrange()
        if self.output is not None:
            check_output("output", self.output)
        if self.perturb is not None and not callable(self.perturb):
            raise TypeError(f"perturb: expected a function of the inputs, got {type(self.perturb).__name__}")

    def _arrange(self) -> None:
        """Find out how samples are arranged."""
        samples = arranged(self.batch_dim, self.pac, self.groups, self.over)
        object.__setattr__(self, "samples", samples)
        if samples is not None and samples.index is not None:
            if self.engine == "compiled":
                raise ValueError("groups: engine 'compiled' takes none; use engine='eager'")
            object.__setattr__(self, "groups", (samples.index, samples.count))

    def numbers_of(self, x: Any) -> tuple[int, ...]:
        """Return how many samples inputs have, for `check_counts`."""
        first, samples = x if isinstance(x, Tensor) else next(iter(x)), self.samples
        if self.over == "batch":
            return ()
        if samples is None:
            return (len(first),)
        entries = first.shape[samples.batch_dim]
        return (samples.number(first),) if samples.index is None else (samples.count, entries)

    def check_weights(self, weights: Any, real: Any, fake: Any) -> None:
        """Check a factor per sample beside the inputs, before anything is drawn or called."""
        name, given = ("fake", fake) if self.inputs == "fake" else ("real", real)
        first = checked_samples(name, given, self.samples)[0]
        checks.factors("sample_weights", weights, first.device)
        if self.over == "batch":
            raise ValueError("sample_weights: has no effect over='batch', which has one norm")
        if self.is_approximate and self.samples is not None and self.samples.index is not None:
            raise ValueError("sample_weights: has no place beside groups in an approximation")
        n = self.numbers_of(first)[0]
        if len(weights) != n:
            raise ValueError(f"sample_weights: expected shape ({n},), one per sample, got {tuple(weights.shape)}")

    def spec(self) -> PenaltySpec:
        """Return the penalty on norms."""
        kind = KINDS[self.kind]
        power = int(self.power or (6 if self.kind == "wgan-div" else 2))
        assert self.weight is not None  # since the check
        return PenaltySpec(kind.psi, float(self.target), power, kind.factor * self.weight, self.over, "mean")

    def without_draws(self, prune: bool) -> PenaltyOptions:
        """Return the options once the inputs are drawn, so that options that do the same are equal."""
        return replace(self, prune=prune, eps=None, generator=None)

    def evaluated_at(self, real: Any, fake: Any) -> Any:
        """Return the inputs at which the penalty is evaluated, in the container that real or fake came in."""
        inputs, given = self.inputs, real
        if inputs == "between":
            points = between(real, fake, self.eps, self.generator, self.samples)
        elif inputs == "around":
            points = around(real, self.eps, self.generator, self.samples)
        else:
            given = fake if inputs == "fake" else real
            points = checked_samples(inputs, given, self.samples)
        return points[0] if isinstance(given, Tensor) else as_given(given, points)

    def nearby(self, x: Any) -> list[Any]:
        """Return inputs near x, for the approximations: one for each direction."""
        if self.perturb is not None:
            return [_perturbed(self.perturb, x) for _ in range(self.directions)]
        sigma = SIGMA if self.sigma is None else self.sigma
        return [as_given(x, nearby(tensors_of(x), sigma, self.generator)) for _ in range(self.directions)]

    def factor(self) -> float:
        """Return the factor on an approximation's mean square, for each direction."""
        assert self.weight is not None  # since the check
        sigma = SIGMA if self.sigma is None else self.sigma
        return self.weight / self.directions / (sigma**2 if self.normalize else 1.0)


def _perturbed(perturb: Perturbation, x: Any) -> Any:
    """Return what a perturbation makes of inputs: others, of their shapes."""
    given, traced = tensors_of(x), torch.compiler.is_compiling()
    versions = [] if traced else [version(t) for t in given]
    there = perturb(x)
    moved = tensors_of(there)
    shapes = [tuple(t.shape) for t in given]
    got = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in moved]
    if got != shapes:
        raise ValueError(f"perturb: expected it to return inputs of shapes {shapes}, got {got}")
    if not traced and versions != [version(t) for t in given]:
        raise ValueError("perturb: expected a function that leaves x as it is, got one that works in place")
    if all([a is b for a, b in zip(given, moved, strict=True)]):
        raise ValueError("perturb: expected it to return a neighbour of x, got x itself, where nothing differs")
    return there


@lru_cache(maxsize=256)
def _check(numbers: tuple[Any, ...], names: tuple[Any, ...], given: tuple[type, ...], *types: type) -> None:
    """Check the options of a penalty; `given` has the types of eps, of the generator and of the perturbation."""
    weight, target, power, sigma = numbers
    kind, over, engine, return_stats, normalize, directions = names
    eps, generator, perturb = given
    nothing = type(None)
    checks.choice("kind", kind, KINDS)
    checks.choice("engine", engine, ENGINES)
    checks.choice("over", over, OVER)
    checks.number("weight", weight)
    if not isinstance(normalize, bool):
        raise TypeError(f"normalize: expected True or False, got {type(normalize).__name__}")
    inputs, psi = KINDS[kind][:2]
    idle = {
        "target": (target, checks.number("target", target) != 1.0 and psi in ("power", "")),
        "power": (power, power is not None and kind != "wgan-div"),
        "sigma": (sigma, sigma is not None and psi != ""),
        "normalize": (normalize, normalize and psi != ""),
        "directions": (directions, directions != 1 and psi != ""),
        "perturb": (perturb, perturb is not nothing and psi != ""),
        "eps": (eps, eps is not nothing and inputs not in ("between", "around")),
        "generator": (generator, generator is not nothing and inputs in ("real", "fake") and psi != ""),
        "over": (over, over != "sample" and not psi),
        "engine": (engine, engine == "compiled" and not psi),
        "return_stats": (return_stats, return_stats and not psi),
    }
    for name, (value, has_none) in idle.items():
        if has_none:
            got = f"a {value.__name__}" if isinstance(value, type) else repr(value)
            raise ValueError(f"{name}: has no effect on kind {kind!r}, got {got}")
    if power is not None:
        checks.integer("power", power, 1, MAX_POWER)
    if sigma is not None and checks.number("sigma", sigma) <= 0:
        raise ValueError(f"sigma: expected a positive number, got {sigma}")
    checks.integer("directions", directions, 1, 1024)
    if perturb is not nothing:
        if normalize and sigma is None:
            raise ValueError("sigma: expected how far perturb goes, by whose square to divide, got None")
        if sigma is not None and not normalize:
            raise ValueError("sigma: has no effect beside perturb without normalize=True")
        if generator is not nothing:
            raise ValueError("generator: has no effect beside perturb, which draws by itself")


class PenaltyResult(NamedTuple):
    """A penalty, and the statistics of its norms where they were wanted."""

    value: Tensor
    stats: PenaltyStats | None


def penalty_of(
    call: Forward,
    grads: tuple[Tensor, ...],
    o: PenaltyOptions,
    engine: str = "eager",
    weights: Tensor | None = None,
) -> PenaltyResult:
    """Return the penalty on the gradients of one call of a discriminator; `weights` has checked factors."""
    spec = o.spec()
    found = checked_grads(grads, o.over, o.samples)
    if weights is not None:
        weights = checked_weights("sample_weights", weights, found, o.over, o.samples)
    value, stats = of_gradients(spec, found, o.samples, weights=weights, return_stats=o.return_stats, engine=engine)
    return PenaltyResult(call.with_zeros(value, o.output) if call.create_graph else value, stats)


def difference_of(
    here: Any, nearby: Sequence[Any], o: PenaltyOptions, x: Any, weights: Tensor | None = None
) -> Tensor:
    """Return weight * mean (D(x) - D(x + sigma * noise))^2, summed over the outputs that count.

    Args:
        here: what the discriminator returned on x.
        nearby: the same near x, for each direction.
        o: the penalty's options.
        x: the inputs.
        weights: a factor per sample, checked, or None.
    """
    outputs = outputs_of(chosen(here, o.output))
    check_counts(outputs, tensors_of(x)[0], o.numbers_of(x))
    pairs = [p for there in nearby for p in zip(outputs, outputs_of(chosen(there, o.output)), strict=True)]
    if weights is None:
        return reduce_terms([Term("square", weight=o.factor())] * len(pairs), pairs)
    terms = [Term("square", weight=o.factor() / a.numel()) for a, _ in pairs]
    masks = [_per_output(weights, a, o, x) for a, _ in pairs]
    return reduce_terms(terms, pairs, masks=masks, reduction="sum")


def _per_output(weights: Any, output: Tensor, o: PenaltyOptions, x: Any) -> Tensor:
    """Return factors per sample in a shape that broadcasts to an output."""
    first, n = tensors_of(x)[0], o.numbers_of(x)[0]
    d, same = o.batch_dim % first.dim(), output.dim() == first.dim()
    places = [k for k in ((d, 0) if same else (0, d)) if k < output.dim() and output.shape[k] % n == 0]
    if not places or (len(set(places)) > 1 and not same):
        raise ValueError(
            f"sample_weights: expected outputs of which one dimension has entries for each of {n} samples, got"
            f" shape {tuple(output.shape)}"
        )
    d = places[0]
    entries = weights.repeat_interleave(output.shape[d] // n)
    return entries.reshape([-1 if k == d % output.dim() else 1 for k in range(output.dim())])


def _evaluate(
    calls: Any, discriminator: Callable[..., Any], inputs: Any, o: PenaltyOptions, create_graph: bool = True
) -> tuple[Tensor, Any, list[Tensor]]:
    """Return a penalty at inputs that are drawn, its statistics, and the leaves that were made."""
    x, args, kwargs, weights = inputs
    numbers = o.numbers_of(x)
    options = {"create_graph": create_graph, "prune": o.prune}
    arguments = (discriminator, x, args, kwargs)
    call, grads = calls.differentiably(
        partial(calls.differentiated, calls.Forward, arguments, options, o.output, numbers)
    )
    value, stats = penalty_of(call, grads, o, "eager, pruned" if o.prune else "eager", weights)
    if create_graph and calls is eagerly and is_parallel(discriminator):  # no graph holds such a one
        watch(discriminator, value, *call.parameters(o.output)[:2])
    return value, stats, call.created


def _run(
    calls: Any, discriminator: Callable[..., Any], real: Any, fake: Any, args: Any, kwargs: Any, given: Any
) -> Any:
    """Run `gradient_penalty`; `calls` is the module that calls discriminators, eagerly or in a graph."""
    options, weights = given
    o = PenaltyOptions(**options)
    calls.check_callable("gradient_penalty", discriminator)
    create_graph = torch.is_grad_enabled()
    prune = create_graph and calls.prunable(discriminator, not o.is_approximate) and o.prune
    if weights is not None:
        o.check_weights(weights, real, fake)
    x = o.evaluated_at(real, fake)
    if o.is_approximate:
        moved = o.nearby(x)  # drawn before the discriminator draws, of dropout say
        here, *there = [discriminator(at, *args, **kwargs) for at in (x, *moved)]
        return difference_of(here, there, o, x, weights)
    o, inputs = o.without_draws(prune), (x, args, kwargs, weights)

    def evaluate() -> tuple[Tensor, Any]:
        return _evaluate(calls, discriminator, inputs, o, create_graph)[:2]

    if o.engine == "compiled" and create_graph and calls is eagerly:
        (value, stats), engine = compiled.run(discriminator, _evaluate, inputs, (o,), evaluate)
        stats = stats._replace(engine=engine) if stats and engine == "compiled" else stats
    else:
        value, stats = evaluate()
    return (value, stats) if o.return_stats else value


class ScheduledPenalty(WithOptions):
    """A penalty with an interval and a batch fraction: what `fastgan.nn.GradientPenalty` is, and a step takes.

    Attributes:
        kind, options: of PenaltyOptions.
        interval: the penalty is due at every so many calls for a discriminator, the first among them.
        part: the fraction of the batch on which it is evaluated.
        counts: how many calls there were, for each discriminator.
    """

    DEFAULTS: ClassVar[dict[str, Any]] = {
        name: getattr(PenaltyOptions, name)
        for name in (
            "weight", "target", "power", "sigma", "normalize", "directions", "perturb", "over", "batch_dim", "pac",
            "output", "engine", "prune", "return_stats",
        )
    }  # fmt: skip

    def __init__(self, kind: str, interval: int = 1, part: float = 1.0, **options: Any) -> None:
        for name in options:
            if name not in self.DEFAULTS:
                raise TypeError(f"{name}: unknown option (known: interval, part, {', '.join(self.DEFAULTS)})")
        PenaltyOptions(kind, **options)
        self.kind = kind
        self.interval = interval
        self.part = part
        self.options = options
        self.counts = CallCounts()

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise where options are unfit."""
        PenaltyOptions(self.kind, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, checked where it is an option or says when the penalty is due."""
        if name == "interval":
            checks.number("interval", checks.integer("interval", value, 1))
        elif name == "part" and checks.number("part", value, 0.0, 1.0) == 0.0:
            raise ValueError("part: expected a number in (0, 1], got 0")
        elif name == "kind" and "options" in self.__dict__:
            PenaltyOptions(value, **self.options)
        super().__setattr__(name, value)

    @property
    def weight(self) -> float:
        """The factor in front, the kind's own by default."""
        weight = self.options.get("weight")
        return KINDS[self.kind].weight if weight is None else weight

    @property
    def is_approximate(self) -> bool:
        """Whether it takes a difference in the place of a gradient."""
        return not KINDS[self.kind].psi

    @property
    def calls(self) -> int:
        """How many calls there were for the discriminator at hand."""
        return self.counts.current

    @calls.setter
    def calls(self, value: int) -> None:
        self.counts.current = value

    def due(self) -> PenaltyOptions | None:
        """Return the options of this call's penalty, which weighs as much as those left out, or None between."""
        if self.interval > 1 and self.counts.current % self.interval:
            return None
        weight = self.options.get("weight")
        if weight is None:
            weight = KINDS[self.kind].weight
        weight = (weight if type(weight) is float else checks.number("weight", weight)) * self.interval
        return PenaltyOptions(self.kind, **{**self.options, "weight": weight})

    def arranged(self, o: PenaltyOptions, groups: Any, **defaults: Any) -> PenaltyOptions:
        """Return options with groups, and with `defaults` where the penalty has none of its own."""
        wanted = {name: value for name, value in defaults.items() if name not in self.options}
        return replace(o, groups=groups, **wanted) if groups is not None or wanted else o

    def advance(self) -> None:
        """Count a call; in a graph only where it matters, as a number that changes makes a graph per value."""
        if self.interval > 1 or not torch.compiler.is_compiling():
            self.counts.current += 1

    def cut(self, o: PenaltyOptions, first: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return real, fake and what goes with them, cut to the penalty's fraction of the batch.

        `first` is the batch whose fraction it is.
        """
        if self.part == 1 or first is None:
            return given
        samples = o.samples or Samples()
        if samples.index is not None:
            raise ValueError("part: expected 1 beside groups, which cannot be cut, got a fraction")
        tensors = checked_samples("fake" if o.inputs == "fake" else "real", first, o.samples)
        if o.inputs == "between":
            checked_samples("fake", given[1], o.samples)
        count = samples.number(tensors[0])
        saved = max(1, round(self.part * count))
        return tuple(_cut(list(given), samples, (count, tensors[0].dim()), saved))


def _cut(value: Any, samples: Samples, of: tuple[int, int], saved: int) -> Any:
    """Return `value` with every tensor of as many samples as in `of` cut to its first `saved`.

    `of` has the number of samples, and the dimensions of the input.
    """
    if isinstance(value, Tensor):
        return _cut_tensor(value, samples, of, saved)
    if isinstance(value, (list, tuple)):
        cut = [_cut(v, samples, of, saved) for v in value]
        return type(value)(*cut) if hasattr(value, "_fields") else type(value)(cut)
    return {k: _cut(v, samples, of, saved) for k, v in value.items()} if type(value) is dict else value


def _cut_tensor(t: Tensor, samples: Samples, of: tuple[int, int], saved: int) -> Tensor:
    """Return a tensor cut where samples lie if it has the input's dimensions, else along dimension 0, as labels."""
    count, dims = of
    d = samples.batch_dim
    for dim in (d, 0) if t.dim() == dims else (0, d):
        if -t.dim() <= dim < t.dim():
            for entries in (samples.pac, 1):
                if t.shape[dim] == count * entries:
                    return t.narrow(dim, 0, saved * entries)
    return t


@overload
def gradient_penalty(
    discriminator: Callable[..., Any],
    real: Tensors | None,
    fake: Tensors | None,
    *args: Any,
    return_stats: Literal[True],
    **kwargs: Any,
) -> tuple[Tensor, PenaltyStats]: ...
@overload
def gradient_penalty(
    discriminator: Callable[..., Any], real: Tensors | None, fake: Tensors | None, *args: Any, **kwargs: Any
) -> Tensor: ...
def gradient_penalty(
    discriminator: Callable[..., Any],
    real: Tensors | None,
    fake: Tensors | None,
    *args: Any,
    kind: str = "wgan-gp",
    weight: float | None = None,
    target: float = 1.0,
    power: int | None = None,
    sigma: float | None = None,
    normalize: bool = False,
    directions: int = 1,
    perturb: Perturbation | None = None,
    sample_weights: Tensor | None = None,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    over: str = "sample",
    batch_dim: int = 0,
    pac: int = 1,
    groups: Groups | None = None,
    output: Output | None = None,
    engine: str = "auto",
    prune: bool = True,
    return_stats: bool = False,
    **kwargs: Any,
) -> Tensor | tuple[Tensor, PenaltyStats]:
    """Return a penalty on the gradient g of a discriminator with respect to its input.

        penalty = fastgan.gradient_penalty(D, real, fake.detach(), kind="wgan-gp", weight=10.0)
        (loss + penalty).backward()

    With n_i = ||g_i|| for each sample and mean over samples:

    | kind | penalty | evaluated at | paper |
    | --- | --- | --- | --- |
    | "wgan-gp" | weight * mean (n - target)^2 | points between real and fake | arXiv:1704.00028 |
    | "wgan-lp" | weight * mean max(n - target, 0)^2 | the same | arXiv:1709.08894 |
    | "r1" | weight / 2 * mean n^2 | real | arXiv:1801.04406 |
    | "r2" | weight / 2 * mean n^2 | fake | the same |
    | "dragan" | weight * mean (n - target)^2 | real + eps * std / 2 * uniform noise | arXiv:1705.07215 |
    | "wgan-div" | weight * mean n^power, power 6 (the paper's weight is 2) | between | arXiv:1712.01026 |
    | "r1-approx", "r2-approx" | weight * mean (D(x) - D(x + sigma * noise))^2 | real; fake | arXiv:2501.08316 |

    The approximations need one derivative only, for discriminators that have no second one. The
    expectation of (D(x) - D(x + sigma * noise))^2 is sigma^2 n^2 + O(sigma^4). Thus weight = gamma / (2 sigma^2) is
    about R1 of weight gamma. They are not about R1 in four cases: the discriminator curves within sigma of x; two
    calls on the same x differ (dropout, batch statistics); 16-bit outputs round the difference away; one sample has
    several outputs, whose squares are then averaged and not summed.

    Trainers differ from that paper (Seaweed-APT: weight 100, sigma 0.01 for images and 0.1 for video). Self-Forcing
    and adversarial flow models divide by sigma^2: `normalize`. The latter weigh samples by their distance in time,
    on a quarter of the batch: `sample_weights`, and `part` of `fastgan.nn.GradientPenalty`. Stable Audio's ARC sums
    over logits: multiply the weight by their number. FastGen compares logits of a noised sample with those of the
    clean one plus 0.1 noise. That is not noised to its timestep, and so measures no smoothness. `perturb` says what
    a neighbour is, where that is not x + sigma * noise.

    Nothing is detached: where real or fake require grad, the penalty sends them one. Nothing of the
    caller's is changed beyond what a forward of the discriminator changes (batch statistics). A compiled
    discriminator runs uncompiled, attention in memory linear in tokens; what has no second derivative is refused
    with the cause and the ways out. Under no_grad the value is computed without building a graph. Under
    DistributedDataParallel, call backward once on the sum of loss and penalty (see docs/penalties.md).

    Args:
        discriminator: called as discriminator(x, *args, **kwargs), with x as real came: a tensor, or a
            tuple or list. It returns a tensor of any shape, or a sequence or dict of tensors, all of which
            count (see `output`); g is the gradient of their sum. Their number is a multiple of N.
        real: (N, ...), or a tuple of such tensors: a norm is then over all of them together. May be None
            for a kind that is not evaluated there.
        fake: the same, of real's shapes where points lie between.
        *args: what the discriminator takes after its input: labels, embeddings.
        kind: see the table.
        weight: the factor in front; by default 1 for "r1" and "r2", as in `r1_penalty`, and 10 for the others.
        target: the norm aimed at, for "wgan-gp", "wgan-lp" and "dragan".
        power: for "wgan-div", an integer from 1 to 16.
        sigma: the approximations' step, 0.01 by default.
        normalize: divide an approximation by sigma^2. A weight of gamma / 2 then is about R1 of weight gamma,
            whatever sigma is.
        directions: how many neighbours of each input an approximation draws, and averages over.
        perturb: a function of x that returns its neighbour, in the place of x + sigma * noise. A discriminator of
            diffusion models sees samples with noise of a timestep: perturb the sample, and add the same noise.
        sample_weights: (N,), a constant factor of 0 or more for each sample. Means still divide by N. Where an
            approximation's outputs are more than one per sample, they lie sample by sample.
        eps: (N,) in [0, 1], for points between and "dragan"; by default uniform.
        generator: for random draws: eps, then noise.
        over: "sample", "channel" (one norm per pixel) or "batch".
        batch_dim: the dimension along which samples lie, 1 for recurrent networks in PyTorch's layout.
        pac: how many consecutive entries make one sample, as in PacGAN (CTGAN's critic); they share eps and norm.
        groups: for ragged batches and graphs, the number of the sample that each entry belongs to: (N,) of int64,
            or a pair of it and the number of samples, with which nothing waits for the device.
        output: which of the discriminator's outputs count: a key, an index, or a function of its result. All do by
            default; class logits and features beside a critic's output change the penalty.
        engine: "auto" and "eager": autograd with create_graph. "compiled": forward and double backward as one
            graph of torch.compile (torch.nn.Module discriminators). It compiles for each batch size, dtype, mode
            and so on, which takes seconds. What cannot be compiled warns once and runs eagerly. See
            `fastgan.compile_info`, and `fastgan.compiling` for functions that you compile yourself.
        prune: skip second derivatives that are exactly zero: those of relu, leaky_relu and other piecewise linear
            operations, for which PyTorch sends zeros back through the whole discriminator. The gradients are
            bit-identical. Nothing is skipped where modules have backward hooks or sparse gradients.
        return_stats: return (penalty, PenaltyStats).
        **kwargs: more for the discriminator. The names above are this function's own: a discriminator that takes
            one of them needs a function around it.

    Returns:
        A scalar (float32 for 16-bit gradients, else of their dtype).

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the discriminator's gradient cannot be differentiated.
    """
    options = {
        "kind": kind, "weight": weight, "target": target, "power": power, "sigma": sigma, "normalize": normalize,
        "directions": directions, "perturb": perturb, "eps": eps, "generator": generator, "over": over,
        "batch_dim": batch_dim, "pac": pac, "groups": groups, "output": output, "engine": engine, "prune": prune,
        "return_stats": return_stats,
    }  # fmt: skip
    if torch.compiler.is_compiling():
        from .discriminator import in_graphs

        return in_graphs.call(_run, discriminator, real, fake, args, kwargs, (options, sample_weights))
    try:
        return _run(eagerly, discriminator, real, fake, args, kwargs, (options, sample_weights))
    except TypeError as error:
        checks.explain_options(error, "gradient_penalty", kwargs)
        raise


def r1_penalty(
    discriminator: Callable[..., Any],
    real: Tensors,
    *args: Any,
    weight: float = 1.0,
    engine: str = "auto",
    prune: bool = True,
    **kwargs: Any,
) -> Tensor:
    """Return R1, weight / 2 * mean over samples of ||g||^2 at real samples (arXiv:1801.04406).

        (loss + fastgan.r1_penalty(D, real, weight=10.0)).backward()

    With g the gradient of the discriminator's outputs by the samples: `gradient_penalty` with kind "r1".

    Args:
        discriminator: as for `gradient_penalty`.
        real: (N, ...), or a tuple of such tensors: a norm is then over all of them together.
        *args: what the discriminator takes after its input: labels, embeddings.
        weight: the factor gamma; the paper's is 10.
        engine: "auto", "eager" or "compiled", as for `gradient_penalty`.
        prune: skip second derivatives that are exactly zero.
        **kwargs: other options of `gradient_penalty` (`batch_dim`, `groups`, `return_stats` ...), and more for
            the discriminator.

    Returns:
        A scalar (float32 for 16-bit gradients, else of their dtype); with return_stats (penalty, PenaltyStats).

    Raises:
        TypeError, ValueError, RuntimeError: as `gradient_penalty`.
    """
    return gradient_penalty(
        discriminator, real, None, *args, kind="r1", weight=weight, engine=engine, prune=prune, **kwargs
    )


def r2_penalty(
    discriminator: Callable[..., Any],
    fake: Tensors,
    *args: Any,
    weight: float = 1.0,
    engine: str = "auto",
    prune: bool = True,
    **kwargs: Any,
) -> Tensor:
    """Return R2, weight / 2 * mean over samples of ||g||^2 at generated samples (arXiv:1801.04406).

        (loss + fastgan.r2_penalty(D, fake.detach(), weight=10.0)).backward()

    With g the gradient of the discriminator's outputs by the samples: `gradient_penalty` with kind "r2".

    Args:
        discriminator: as for `gradient_penalty`.
        fake: (N, ...), or a tuple of such tensors: a norm is then over all of them together.
        *args: what the discriminator takes after its input: labels, embeddings.
        weight: the factor gamma; the paper's is 10.
        engine: "auto", "eager" or "compiled", as for `gradient_penalty`.
        prune: skip second derivatives that are exactly zero.
        **kwargs: other options of `gradient_penalty` (`batch_dim`, `groups`, `return_stats` ...), and more for
            the discriminator.

    Returns:
        A scalar (float32 for 16-bit gradients, else of their dtype); with return_stats (penalty, PenaltyStats).

    Raises:
        TypeError, ValueError, RuntimeError: as `gradient_penalty`.
    """
    return gradient_penalty(
        discriminator, None, fake, *args, kind="r2", weight=weight, engine=engine, prune=prune, **kwargs
    )


@overload
def output_penalty(
    outputs: Any, inputs: Tensors, *, kind: str = ..., weight: float | None = ..., target: float = ...,
    power: int | None = ..., sample_weights: Tensor | None = ..., over: str = ..., batch_dim: int = ...,
    pac: int = ..., groups: Groups | None = ..., output: Output | None = ..., return_stats: Literal[True],
) -> tuple[Tensor, PenaltyStats]: ...  # fmt: skip
@overload
def output_penalty(
    outputs: Any, inputs: Tensors, *, kind: str = ..., weight: float | None = ..., target: float = ...,
    power: int | None = ..., sample_weights: Tensor | None = ..., over: str = ..., batch_dim: int = ...,
    pac: int = ..., groups: Groups | None = ..., output: Output | None = ..., return_stats: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
def output_penalty(
    outputs: Any,
    inputs: Tensors,
    *,
    kind: str = "wgan-gp",
    weight: float | None = None,
    target: float = 1.0,
    power: int | None = None,
    sample_weights: Tensor | None = None,
    over: str = "sample",
    batch_dim: int = 0,
    pac: int = 1,
    groups: Groups | None = None,
    output: Output | None = None,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, PenaltyStats]:
    """Return a penalty on the gradient of outputs that a discriminator has already returned, by its inputs.

        images = real.clone().requires_grad_()
        penalty = fastgan.output_penalty(D(images), images, kind="r1")

    For trainers that hand (images, output) to their penalty. Prefer `gradient_penalty` where you can: it calls the
    discriminator itself, and so can skip second derivatives that are zero. It also sees to batch statistics,
    attention, and parameters that the penalty does not reach; here these are as your own call left them. Norms,
    refusals and sharded parameters are the same.

    Args:
        outputs: what the discriminator returned, with its graph: a tensor, or a sequence or dict of tensors.
        inputs: (N, ...), or a tuple of such tensors; they required grad before the discriminator saw them.
        kind: a name of the table of `gradient_penalty`, for its formula; where it is evaluated is up to the caller.
            No approximation.
        weight: the factor in front; by default 1 for "r1" and "r2", and 10 for the others.
        target: as in `gradient_penalty`, like all that follow.
        power: for "wgan-div".
        sample_weights: (N,), a constant factor for each sample.
        over: "sample", "channel" or "batch".
        batch_dim: the dimension along which samples lie.
        pac: how many consecutive entries make one sample.
        groups: the number of the sample that each entry belongs to.
        output: which of the outputs count.
        return_stats: return (penalty, PenaltyStats).

    Returns:
        A scalar (float32 for 16-bit gradients, else of their dtype). Under no_grad it has no graph.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the outputs have no graph, or their gradient cannot be differentiated.
    """
    o = PenaltyOptions(
        kind, weight, target, power, over=over, batch_dim=batch_dim, pac=pac, groups=groups, output=output,
        return_stats=return_stats,
    )  # fmt: skip
    if o.is_approximate:
        raise ValueError(f"kind: expected one of a gradient, got {kind!r}, which calls the discriminator again")
    tensors = checked_samples("inputs", inputs, o.samples)
    for t in tensors:
        if not t.requires_grad:
            raise ValueError(
                "inputs: expected tensors that required grad before the discriminator saw them, got a constant"
            )
    if sample_weights is not None:
        o.check_weights(sample_weights, inputs, inputs)
    found = read(outputs, o.output, tensors[0], o.numbers_of(inputs))
    create_graph = torch.is_grad_enabled()
    grads = gradients_of(found, tensors, create_graph, (lambda parameter: None) if create_graph else None)
    if create_graph:
        check(found, grads, tensors)
        if fsdp_is_used():
            gather_in_backward((), found, grads)
    grads = checked_grads(grads, o.over, o.samples)
    if sample_weights is not None:
        sample_weights = checked_weights("sample_weights", sample_weights, grads, o.over, o.samples)
    value, stats = of_gradients(o.spec(), grads, o.samples, weights=sample_weights, return_stats=return_stats)
    return (value, stats) if stats is not None else value
