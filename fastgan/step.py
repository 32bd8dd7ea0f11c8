"""The discriminator's whole step: loss and gradient penalties, on one forward where a penalty looks at a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from . import checks, compiled, graph, penalties
from .functional import discriminator_loss
from .interpolation import checked_samples
from .nn import GradientPenalty
from .norms import Tensors
from .penalties import ENGINES, KINDS, Options

Loss = str | Callable[[Any, Any], Tensor]
Penalty = str | GradientPenalty


class DiscriminatorStep(NamedTuple):
    """What a step of the discriminator computed.

    Attributes:
        total: loss and penalties, to be differentiated: `step.total.backward()`.
        loss: the loss, detached.
        penalty: the sum of the penalties, detached; None where none was due.
        real_logits, fake_logits: what the discriminator returned, detached.
        engine: what computed it: "eager", "eager, pruned" or "compiled".
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor | None
    real_logits: Any
    fake_logits: Any
    engine: str


class _Due(NamedTuple):
    """A penalty of this step, and where it looks: at a batch of the loss's ("real", "fake"), or at its own points.

    `args` are "real" or "fake" for those of that batch, else cut with its part.
    """

    options: Options
    shared: str | None
    points: Any = None
    nearby: Any = None
    args: Any = ()
    kwargs: Any = None


def _loss_function(loss: Loss) -> Callable[[Any, Any], Tensor]:
    if isinstance(loss, str):
        return partial(discriminator_loss, loss=loss)
    if not callable(loss):
        raise TypeError(f"loss: expected a name or a function of real and fake logits, got {type(loss).__name__}")
    return loss


def _modules(penalty: Penalty | Sequence[Penalty] | None) -> list[GradientPenalty]:
    """The penalties as modules."""
    single = penalty is None or isinstance(penalty, (str, nn.Module))
    given: Any = ([] if penalty is None else [penalty]) if single else penalty
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"penalty: expected a kind, a fastgan.nn.GradientPenalty or a list of them, got {type(given).__name__}"
        )
    modules = []
    for p in given:
        module = GradientPenalty(p) if isinstance(p, str) else p
        if not isinstance(module, GradientPenalty):
            raise TypeError(
                "penalty: expected kinds of gradient_penalty or fastgan.nn.GradientPenalty, got"
                f" {type(module).__name__}"
            )
        for name, instead in _INSTEAD.items():
            if name in module.options:
                raise ValueError(f"penalty: {name} has no effect within a step; {instead}")
        modules.append(module)
    return modules


_INSTEAD = {
    "engine": "give engine to discriminator_step",
    "prune": "give prune to discriminator_step",
    "return_stats": "call gradient_penalty for its statistics",
}


def _due(module: GradientPenalty, real: Any, fake: Any, args: Any, fake_args: Any, kwargs: Any) -> _Due | None:
    """What a penalty asks of this step; draws its points."""
    o = module.due()
    if o is None:
        return None
    kind = KINDS[o.kind]
    if kind.point in ("real", "fake") and module.part == 1:
        nearby = None if kind.psi else penalties.neighbours(fake if kind.point == "fake" else real, o)
        return _Due(o, kind.point, nearby=nearby)
    args = fake_args if kind.point == "fake" else args
    real, fake, args, kwargs = module.cut(real, fake, args, kwargs)
    points = penalties.points_for(kind, real, fake, o)
    return _Due(o, None, points, None if kind.psi else penalties.neighbours(points, o), args, kwargs)


class _Sides:
    """The forwards on real and fake, each made once, and the gradients by their inputs."""

    def __init__(self, discriminator: Any, create_graph: bool, prune: bool) -> None:
        self.discriminator = discriminator
        self.create_graph = create_graph
        self.prune = prune
        self.given: dict[str, tuple[Any, Any, Any]] = {}
        self.results: dict[str, Any] = {}
        self.own: list[Tensor] = []
        self._points: dict[str, tuple[Any, Any]] = {}
        self._gradients: dict[str, Any] = {}

    def run(self, side: str, x: Any, args: Any, kwargs: Any, differentiated: bool) -> Any:
        """D(x); `differentiated`: in a form that can be, by x and twice."""
        self.given[side] = x, args, kwargs
        pruning = None
        if differentiated:
            x, own = penalties.leafed(x, self.create_graph)
            self.own += own
            result, pruning = graph.forward(self.discriminator, x, args, kwargs, self.prune)
        else:
            result = self.discriminator(x, *args, **kwargs)
        self._points[side] = x, pruning
        self.results[side] = result
        return result

    def gradients(self, side: str) -> Any:
        """The gradient by a side's input, with the leaves below it."""
        if side not in self._gradients:
            x, pruning = self._points[side]
            points = x if isinstance(x, Tensor) else tuple(x)
            self._gradients[side] = graph.gradients(self.results[side], points, self.create_graph, pruning)
        return self._gradients[side]


def _step(
    discriminator: Callable[..., Any],
    inputs: Any,
    loss: Callable[[Any, Any], Tensor],
    prune: bool,
    create_graph: bool,
    traced: bool,
) -> tuple[Tensor, Any, list[Tensor]]:
    """The step by autograd: total, (loss, penalty, logits), and the leaves that were made."""
    real, fake, args, fake_args, kwargs, due = inputs
    sides = _Sides(discriminator, create_graph, prune)
    for side, x, a in (("real", real, args), ("fake", fake, fake_args)):
        twice = any(d.shared == side and KINDS[d.options.kind].psi for d in due)
        with graph.differentiable() if traced or twice else nullcontext():
            sides.run(side, x, a, kwargs, twice)
    on_logits = loss(sides.results["real"], sides.results["fake"])
    if not isinstance(on_logits, Tensor) or on_logits.dim():
        got = tuple(on_logits.shape) if isinstance(on_logits, Tensor) else type(on_logits).__name__
        raise TypeError(f"loss: expected it to return a scalar tensor, got {got}")
    values = []
    for d in due:
        with graph.differentiable() if traced else nullcontext():
            value = _penalty(discriminator, d, sides, prune, create_graph)
        values.append(value if create_graph else value.detach())
    total = sum(values, start=on_logits)
    penalty = sum([v.detach() for v in values[1:]], start=values[0].detach()) if values else None
    logits = tree_map_only(Tensor, Tensor.detach, (sides.results["real"], sides.results["fake"]))
    return total, (on_logits.detach(), penalty, *logits), sides.own


def _penalty(discriminator: Any, d: _Due, sides: _Sides, prune: bool, create_graph: bool) -> Tensor:
    """One penalty of the step."""
    o = d.options._replace(prune=prune, eps=None, generator=None)
    if d.shared is None and KINDS[o.kind].psi:
        made, own = penalties.at(discriminator, d.points, d.args, d.kwargs, o, create_graph)
        sides.own += own
        return made.value
    if d.shared is None:
        return penalties.of_difference(
            discriminator(d.points, *d.args, **d.kwargs), discriminator(d.nearby, *d.args, **d.kwargs), o
        )
    if not KINDS[o.kind].psi:
        _, args, kwargs = sides.given[d.shared]
        return penalties.of_difference(sides.results[d.shared], discriminator(d.nearby, *args, **kwargs), o)
    with graph.differentiable():
        grads, leaves = sides.gradients(d.shared)
    return penalties.of_gradients(grads, leaves, sides.own, o, create_graph, "").value


def discriminator_step(
    discriminator: Callable[..., Any],
    real: Tensors,
    fake: Tensors,
    *args: Any,
    loss: Loss = "nonsaturating",
    penalty: Penalty | Sequence[Penalty] | None = None,
    fake_args: Sequence[Any] | None = None,
    engine: str = "auto",
    prune: bool = True,
    **kwargs: Any,
) -> DiscriminatorStep:
    """The loss and the gradient penalties of a step of the discriminator.

        step = fastgan.discriminator_step(D, real, fake, loss="hinge", penalty=GradientPenalty("r1", weight=5.0))
        step.total.backward()

    The discriminator is called on real and on fake once each; a penalty that looks at one of these batches itself
    ("r1", "r2" and their approximations) takes that forward and saves its own. Batch statistics therefore move
    once for both, and dropout draws one mask for both. Other penalties, and those on a part of the batch, call the
    discriminator at their own points. No gradient flows further than to `real` and `fake` as they are given: give
    `fake.detach()` unless the generator is to be trained by it.

    Args:
        discriminator: as for `gradient_penalty`; called as discriminator(real, *args, **kwargs).
        real, fake: (N, ...), or tuples of such tensors.
        *args: what the discriminator takes after its input: labels, embeddings.
        loss: a name of `fastgan.losses()`, a `fastgan.nn.DiscriminatorLoss`, or any function of what the
            discriminator returned on real and on fake, which returns a scalar.
        penalty: None, a kind of `gradient_penalty` with its default weight, a `fastgan.nn.GradientPenalty` with its
            options (lazy ones too), or several of these in a sequence.
        fake_args: the further arguments for fake, where they are others than those for real.
        engine: "auto", "eager" or "compiled", as for `gradient_penalty`; compiled, the whole step is one graph.
        prune: as for `gradient_penalty`.
        **kwargs: more for the discriminator, on real and on fake.

    Returns:
        DiscriminatorStep(total, loss, penalty, real_logits, fake_logits, engine); the first three are scalars
        (float32 for 16-bit logits and gradients, else of their dtype), the logits are as the discriminator returned
        them.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the discriminator's gradient cannot be differentiated.
    """
    if torch.compiler.is_compiling():
        from . import untraced

        return untraced.step(discriminator, real, fake, args, loss, penalty, fake_args, engine, prune, kwargs)
    return _run(discriminator, real, fake, args, loss, penalty, fake_args, engine, prune, kwargs)


def _run(
    discriminator: Any, real: Any, fake: Any, args: Any, loss: Any, penalty: Any, fake_args: Any, engine: str,
    prune: bool, kwargs: Any,
) -> DiscriminatorStep:  # fmt: skip
    """`discriminator_step` outside of any compiled graph."""
    checks.known("engine", engine, ENGINES)
    penalties.check_callable("discriminator_step", discriminator)
    for name, x in (("real", real), ("fake", fake)):
        checked_samples(name, x)
    function = _loss_function(loss)
    modules = _modules(penalty)
    if not isinstance(fake_args, (list, tuple, type(None))):
        raise TypeError(f"fake_args: expected a tuple of arguments, got {type(fake_args).__name__}")
    fake_args = args if fake_args is None else tuple(fake_args)
    due = [d for m in modules if (d := _due(m, real, fake, args, fake_args, kwargs)) is not None]
    inputs = (real, fake, args, fake_args, kwargs, due)
    create_graph = torch.is_grad_enabled()
    prune = prune and create_graph and graph.prunable(discriminator)

    def body(
        discriminator: Callable[..., Any], inputs: Any, traced: bool = True
    ) -> tuple[Tensor, Any, list[Tensor]]:
        return _step(discriminator, inputs, function, prune, create_graph, traced)

    def eager() -> tuple[Tensor, Any]:
        return body(discriminator, inputs, False)[:2]

    by = "eager"
    if engine == "compiled" and create_graph:
        (total, parts), by = compiled.run(discriminator, body, inputs, ("step", loss, prune), eager)
    else:
        total, parts = eager()
    for m in modules:
        m.advance()  # not if it failed, so that a step that is tried again has its penalties
    pruned = by == "eager" and prune and any(KINDS[d.options.kind].psi for d in due)
    on_logits, of_penalties, real_logits, fake_logits = parts
    by = "eager, pruned" if pruned else by
    return DiscriminatorStep(total, on_logits, of_penalties, real_logits, fake_logits, by)
