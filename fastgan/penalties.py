"""Gradient penalties of a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, compiled, distributed, graph
from .functional import reduce_terms
from .interpolation import checked_pair, checked_samples, eps_for, interpolate
from .interpolation import evaluate as between
from .norms import PenaltyStats, Tensors, check_power, gradient_norm, norm_penalty, penalty
from .rows import OVER
from .terms import number, term

__all__ = [
    "PenaltyStats",
    "gradient_norm",
    "gradient_penalty",
    "interpolate",
    "norm_penalty",
    "r1_penalty",
    "r2_penalty",
]

ENGINES = ("auto", "eager", "compiled")


class Kind(NamedTuple):
    """A penalty with a name: where it looks, and what it makes of the norm there."""

    point: str  # "between", "around" (real), "real" or "fake"
    psi: str = ""  # a kind of norm_penalty; none: the difference between neighbouring points
    factor: float = 1.0


KINDS = {
    "wgan-gp": Kind("between", "two_sided"),
    "wgan-lp": Kind("between", "one_sided"),
    "r1": Kind("real", "power", 0.5),
    "r2": Kind("fake", "power", 0.5),
    "dragan": Kind("around", "two_sided"),
    "wgan-div": Kind("between", "power"),
    "r1-approx": Kind("real"),
    "r2-approx": Kind("fake"),
}


class Options(NamedTuple):
    """What `gradient_penalty` takes beside the discriminator and its inputs."""

    kind: str = "wgan-gp"
    weight: float = 10.0
    target: float = 1.0
    power: int | None = None
    sigma: float | None = None
    eps: Tensor | None = None
    generator: torch.Generator | None = None
    over: str = "sample"
    engine: str = "auto"
    prune: bool = True
    return_stats: bool = False

    def checked(self) -> Kind:
        """The kind, once all options are found to be known and to have an effect."""
        checks.known("kind", self.kind, KINDS)
        checks.known("engine", self.engine, ENGINES)
        checks.known("over", self.over, OVER)
        kind = KINDS[self.kind]
        number("weight", self.weight)
        idle = {
            "target": number("target", self.target) != 1.0 and kind.psi in ("power", ""),
            "power": self.power is not None and self.kind != "wgan-div",
            "sigma": self.sigma is not None and kind.psi != "",
            "eps": self.eps is not None and kind.point not in ("between", "around"),
            "generator": self.generator is not None and kind.point in ("real", "fake") and kind.psi != "",
            "over": self.over != "sample" and not kind.psi,
            "engine": self.engine == "compiled" and not kind.psi,
            "return_stats": self.return_stats and not kind.psi,
        }
        for name, has_none in idle.items():
            if has_none:
                raise ValueError(f"{name}: has no effect on kind {self.kind!r}, got {getattr(self, name)!r}")
        if self.power is not None:
            check_power(self.power)
        if self.sigma is not None and number("sigma", self.sigma) <= 0:
            raise ValueError(f"sigma: expected a positive number, got {self.sigma}")
        return kind


def points_for(kind: Kind, real: Any, fake: Any, o: Options) -> Any:
    """The points at which the penalty looks, in the container that real or fake came in."""
    return _as_given(fake if kind.point == "fake" else real, _points(kind, real, fake, o))


def _points(kind: Kind, real: Any, fake: Any, o: Options) -> tuple[Tensor, ...]:
    if kind.point == "real":
        return checked_samples("real", real)
    if kind.point == "fake":
        return checked_samples("fake", fake)
    if kind.point == "between":
        r, f = checked_pair(real, fake)
        return between(r, f, eps_for(r[0], o.eps, o.generator))
    r = checked_samples("real", real)
    eps = eps_for(r[0], o.eps, o.generator)
    return between(tuple([_perturbed(t, o.generator) for t in r]), r, eps)


def _perturbed(real: Tensor, generator: torch.Generator | None) -> Tensor:
    """DRAGAN's other end: uniform noise of half the batch's standard deviation beside the data."""
    if real.numel() < 2:
        raise ValueError("real: expected at least two elements, of which a standard deviation can be taken")
    wide = real.double() if real.dtype == torch.float64 else real.float()
    noise = torch.rand(real.shape, dtype=wide.dtype, device=real.device, generator=generator)
    return (wide + 0.5 * wide.std() * noise).to(real.dtype)


def _as_given(given: Any, points: tuple[Tensor, ...]) -> Any:
    """The points in the container that the discriminator is called with."""
    if isinstance(given, Tensor):
        return points[0]
    return type(given)(*points) if hasattr(given, "_fields") else type(given)(points)


class Made(NamedTuple):
    """A penalty that was computed, and what belongs to it.

    Attributes:
        value: the penalty.
        stats: its PenaltyStats, or None where they were not wanted.
        leaves: the parameters below it.
    """

    value: Tensor
    stats: PenaltyStats | None
    leaves: graph.Leaves


def leafed(x: Any, attached: bool) -> tuple[Any, list[Tensor]]:
    """The points as something to differentiate by, in their container, and those that were made for it."""
    points = tensors_of(x)
    inputs = tuple([graph.leaf(p, attached) for p in points])
    return _as_given(x, inputs), [t for t, p in zip(inputs, points, strict=True) if t is not p]


def tensors_of(x: Any) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def of_gradients(
    grads: tuple[Tensor, ...], leaves: graph.Leaves, own: list[Tensor], o: Options, create_graph: bool, engine: str
) -> Made:
    """The penalty on gradients by inputs of which `own` were made here."""
    default_power = 6 if o.kind == "wgan-div" else 2
    kind = KINDS[o.kind]
    result = penalty(
        grads, kind.psi, target=o.target, power=o.power or default_power, over=o.over, reduction="mean",
        scale=kind.factor * o.weight, return_stats=o.return_stats, engine=engine,
    )  # fmt: skip
    value, stats = result if o.return_stats else (result, None)
    if create_graph:
        value = leaves.with_zeros(value, own)
    return Made(value, stats, leaves)


def at(
    discriminator: Callable[..., Any], x: Any, args: Any, kwargs: Any, o: Options, create_graph: bool
) -> tuple[Made, list[Tensor]]:
    """The penalty at x by autograd, and the leaves that were made for it."""
    with graph.differentiable():
        x, own = leafed(x, create_graph)
        grads, leaves = graph.input_gradients(discriminator, x, args, kwargs, create_graph, o.prune)
    return of_gradients(grads, leaves, own, o, create_graph, "eager, pruned" if o.prune else "eager"), own


def _run(discriminator: Callable[..., Any], real: Any, fake: Any, args: Any, kwargs: Any, o: Options) -> Any:
    """`gradient_penalty` outside of any compiled graph."""
    kind = o.checked()
    check_callable("gradient_penalty", discriminator)
    create_graph = torch.is_grad_enabled()
    x = points_for(kind, real, fake, o)
    if not kind.psi:
        return _difference(discriminator, x, args, kwargs, o)
    prune = o.prune and create_graph and graph.prunable(discriminator)
    o = o._replace(prune=prune, eps=None, generator=None)

    def eager() -> tuple[Tensor, PenaltyStats | None]:
        made, _ = at(discriminator, x, args, kwargs, o, create_graph)
        if create_graph:
            distributed.watch(discriminator, made.value, made.leaves.reached, made.leaves.missed)
        return made.value, made.stats

    if o.engine == "compiled" and create_graph:
        value, stats = _by_graph(discriminator, x, args, kwargs, o, eager)
    else:
        value, stats = eager()
    return (value, stats) if o.return_stats else value


def _by_graph(discriminator: Any, x: Any, args: Any, kwargs: Any, o: Options, eager: Any) -> Any:
    """The penalty at x and its statistics, by a compiled graph where that can be."""

    def body(discriminator: Callable[..., Any], inputs: Any) -> Any:
        x, args, kwargs = inputs
        made, own = at(discriminator, x, args, kwargs, o, True)
        return made.value, made.stats, own

    (value, stats), engine = compiled.run(discriminator, body, (x, args, kwargs), ("penalty", o), eager)
    return value, stats and (stats._replace(engine=engine) if engine == "compiled" else stats)


def check_callable(caller: str, discriminator: Any) -> None:
    """Raises unless there is a discriminator that can be differentiated here."""
    if not callable(discriminator):
        raise TypeError(f"discriminator: expected a module or function, got {type(discriminator).__name__}")
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{caller}: cannot run under a torch.func transform; take torch.func's gradient of the"
            " discriminator there, and give it to norm_penalty"
        )


def _difference(discriminator: Callable[..., Any], x: Any, args: Any, kwargs: Any, o: Options) -> Tensor:
    """The approximation: D at x, and at points nearby."""
    moved = neighbours(x, o)  # drawn before the discriminator draws, of dropout say
    return of_difference(discriminator(x, *args, **kwargs), discriminator(moved, *args, **kwargs), o)


def neighbours(x: Any, o: Options) -> Any:
    """Points at a distance of sigma * noise from x."""
    sigma = 0.01 if o.sigma is None else o.sigma
    moved = []
    for p in tensors_of(x):
        dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
        noise = torch.randn(p.shape, dtype=dtype, device=p.device, generator=o.generator)
        moved.append((p + sigma * noise).to(p.dtype))
    return _as_given(x, tuple(moved))


def of_difference(here: Any, nearby: Any, o: Options) -> Tensor:
    """Weight * mean (D(x) - D(x + sigma * noise))^2, summed over the outputs."""
    pairs = list(zip(graph.outputs_of(here), graph.outputs_of(nearby), strict=True))
    return reduce_terms([term("square", weight=float(o.weight))] * len(pairs), pairs)


def gradient_penalty(
    discriminator: Callable[..., Any],
    real: Tensors | None,
    fake: Tensors | None,
    *args: Any,
    kind: str = "wgan-gp",
    weight: float = 10.0,
    target: float = 1.0,
    power: int | None = None,
    sigma: float | None = None,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    over: str = "sample",
    engine: str = "auto",
    prune: bool = True,
    return_stats: bool = False,
    **kwargs: Any,
) -> Any:
    """A penalty on the gradient g of a discriminator with respect to its input.

    With n_i = ||g_i|| for each sample and mean over samples:

    | kind | penalty | at | paper |
    | --- | --- | --- | --- |
    | "wgan-gp" | weight * mean (n - target)^2 | points between real and fake | arXiv:1704.00028 |
    | "wgan-lp" | weight * mean max(n - target, 0)^2 | the same | arXiv:1709.08894 |
    | "r1" | weight / 2 * mean n^2 | real | arXiv:1801.04406 |
    | "r2" | weight / 2 * mean n^2 | fake | the same |
    | "dragan" | weight * mean (n - target)^2 | real + eps * std / 2 * uniform noise | arXiv:1705.07215 |
    | "wgan-div" | weight * mean n^power, power 6 (the paper's weight is 2) | between | arXiv:1712.01026 |
    | "r1-approx", "r2-approx" | weight * mean (D(x) - D(x + sigma * noise))^2 | real; fake | arXiv:2501.08316 |

    The approximations need one derivative only, for discriminators that have no second one. In
    expectation they are sigma^2 ||g||^2 + O(sigma^4), so that weight = gamma / (2 sigma^2) is about R1 of
    weight gamma. They are not about R1 where the discriminator curves within sigma of x, where two calls
    on the same x differ (dropout, batch statistics), where 16-bit outputs round the difference away, or
    where one sample has several outputs, whose squares are then averaged and not summed.

    Nothing is detached: where real or fake require grad, the penalty sends them one. Nothing of the
    caller's is changed beyond what a forward of the discriminator changes (batch statistics). A compiled
    discriminator runs uncompiled, attention in plain arithmetic; what has no second derivative is refused
    with the cause and the ways out. Under no_grad the value is computed without building a graph. Under
    DistributedDataParallel, call backward once on the sum of loss and penalty (see docs/penalties.md).

    Args:
        discriminator: called as discriminator(x, *args, **kwargs), with x as real came: a tensor, or a
            tuple or list. It returns a tensor of any shape, or a sequence or dict of tensors, all of which
            count; g is the gradient of their sum.
        real: (N, ...), or a tuple of such tensors: a norm is then over all of them together. May be None
            for a kind that does not look at it.
        fake: the same, of real's shapes where points lie between.
        *args: what the discriminator takes after its input: labels, embeddings.
        kind: see the table.
        weight: the factor in front.
        target: the norm aimed at, for "wgan-gp", "wgan-lp" and "dragan".
        power: for "wgan-div", an integer from 1 to 16.
        sigma: the approximations' step, 0.01 by default.
        eps: (N,) in [0, 1], for points between and "dragan"; by default uniform.
        generator: for random draws: eps, then noise.
        over: "sample", "channel" (a norm for each pixel) or "batch".
        engine: "auto" and "eager": autograd with create_graph. "compiled": the double backward traced and
            compiled as one graph (torch.nn.Module discriminators). It compiles for each batch size, dtype, mode
            and so on, which takes from seconds to minutes; the first call of each is eager, and compared with the
            graph. What cannot be compiled warns once and runs eagerly. See `fastgan.compile_info`.
        prune: leave out second derivatives that are zero: those of relu, leaky_relu and other piecewise linear
            operations, for which PyTorch sends zeros back through the whole discriminator. The gradients are the
            same, bit by bit. Nothing is left out where modules have backward hooks or sparse gradients.
        return_stats: return (penalty, PenaltyStats).
        **kwargs: more for the discriminator. The names above are this function's own: a discriminator that takes
            one of them needs a function around it.

    Returns:
        A scalar (float32 for 16-bit gradients, else of their dtype).

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the discriminator's gradient cannot be differentiated.
    """
    options = Options(kind, weight, target, power, sigma, eps, generator, over, engine, prune, return_stats)
    if torch.compiler.is_compiling():
        from . import untraced

        return untraced.run(discriminator, real, fake, args, kwargs, options)
    return _run(discriminator, real, fake, args, kwargs, options)


def r1_penalty(
    discriminator: Callable[..., Any],
    real: Tensors,
    *args: Any,
    weight: float = 1.0,
    engine: str = "auto",
    prune: bool = True,
    **kwargs: Any,
) -> Tensor:
    """Weight / 2 * mean over samples of ||g||^2 at real samples (R1, Mescheder et al. 2018).

    `gradient_penalty` with kind "r1", which has the arguments, returns and errors.
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
    """Weight / 2 * mean over samples of ||g||^2 at generated samples (R2, Mescheder et al. 2018).

    `gradient_penalty` with kind "r2", which has the arguments, returns and errors.
    """
    return gradient_penalty(
        discriminator, None, fake, *args, kind="r2", weight=weight, engine=engine, prune=prune, **kwargs
    )
