"""The discriminator's whole step: two forwards, a loss, and penalties, which share a forward where they can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _checks as checks
from ._torch_internals import tree_map_only
from .discriminator import compile as compiled
from .discriminator import forward as eagerly
from .discriminator.forward import Forward, as_given, tensors_of
from .discriminator.joined import Call, Joined, check_norms, is_known
from .discriminator.outputs import Output, check_counts, check_output, check_tree, chosen, outputs_of, warn_of_mixed
from .functional import discriminator_loss
from .interpolation import checked_samples
from .norms import Tensors
from .ops.losses import check_name
from .penalties import ENGINES, KINDS, PenaltyOptions, ScheduledPenalty, difference_of, penalty_of
from .samples import Groups, arranged

Loss = str | Callable[[Any, Any], Tensor]
Penalty = str | ScheduledPenalty


class DiscriminatorStep(NamedTuple):
    """The result of a step of the discriminator.

    Attributes:
        total: loss and penalties, to be differentiated: `step.total.backward()`.
        loss: the loss, detached.
        penalty: the sum of the penalties, detached; None where none was due.
        real_logits, fake_logits: what the loss was taken of, detached: what the discriminator returned, or the
            chosen output.
        engine: how it was computed: "eager", "eager, pruned" or "compiled".
        real_outputs: all that the discriminator returned on real, detached; None unless they were to be kept.
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor | None
    real_logits: Any
    fake_logits: Any
    engine: str
    real_outputs: Any = None


@dataclass(frozen=True)
class StepOptions:
    """What `discriminator_step` takes beside the discriminator and its inputs.

    Loss and penalties are checked when it is made, the engine before anything else.

    Attributes:
        loss, penalty, engine, prune, concat, keep_outputs: as `discriminator_step` takes them.
        penalties: the penalties with their schedules.
    """

    loss: Loss
    penalty: Penalty | Sequence[Penalty] | None
    engine: str
    prune: bool
    concat: bool = False
    keep_outputs: bool = False
    penalties: tuple[ScheduledPenalty, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check the loss and the penalties' options."""
        check_loss(self.loss, "discriminator", "real and fake logits")
        object.__setattr__(self, "penalties", _schedules(self.penalty))
        for p in self.penalties:
            for name, instead in _INSTEAD.items():
                if name in p.options:
                    raise ValueError(f"penalty: {name} has no effect within a step; {instead}")

    def loss_function(self) -> Callable[[Any, Any], Any]:
        """Return the loss as a function of logits."""
        return partial(discriminator_loss, loss=self.loss) if isinstance(self.loss, str) else self.loss


def check_loss(loss: Any, role: str, of: str) -> None:
    """Raise where a loss is not known, or is a module of the other role, which takes `of` the other way round."""
    if isinstance(loss, str):
        check_name(loss)
    elif not callable(loss):
        raise TypeError(f"loss: expected a name or a function of {of}, got {type(loss).__name__}")
    found = getattr(loss, "role", role)
    if found != role and isinstance(loss, nn.Module):
        raise ValueError(f"loss: expected a loss of the {role}, got a {type(loss).__name__}")


OF_MODULES = (
    "; options of a loss or a penalty belong to a fastgan.nn.DiscriminatorLoss, GeneratorLoss or GradientPenalty,"
    " given for it"
)
_PLAIN: dict[str, Any] = {"batch_dim": 0, "pac": 1, "output": None}
_INSTEAD = {
    "engine": "give engine to discriminator_step",
    "prune": "give prune to discriminator_step",
    "return_stats": "call gradient_penalty for its statistics",
}


def _named(kind: str) -> ScheduledPenalty:
    """Return the penalty of a kind that is given for `penalty`."""
    checks.choice("penalty", kind, KINDS)
    return ScheduledPenalty(kind)


_of_kind = lru_cache(maxsize=64)(_named)  # due at every call, so that nobody reads its count


def _schedules(penalty: Any) -> tuple[ScheduledPenalty, ...]:
    """Return the penalties of a step with their schedules."""
    single = penalty is None or isinstance(penalty, (str, nn.Module, ScheduledPenalty))
    given: Any = ([] if penalty is None else [penalty]) if single else penalty
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"penalty: expected a kind, a fastgan.nn.GradientPenalty or a list of them, got {type(given).__name__}"
        )
    of_kind = _named if torch.compiler.is_compiling() else _of_kind
    found = tuple([of_kind(p) if isinstance(p, str) else p for p in given])
    for p in found:
        if not isinstance(p, ScheduledPenalty):
            raise TypeError(
                f"penalty: expected kinds of gradient_penalty or fastgan.nn.GradientPenalty, got {type(p).__name__}"
            )
    return found


class _DuePenalty(NamedTuple):
    """A penalty of this step, with its inputs drawn.

    Attributes:
        options: the penalty's.
        shared: "real" or "fake": it is evaluated at that batch, on the loss's own forward; None: at x.
        x: its inputs.
        args, kwargs: what the discriminator takes beside them.
        nearby: the other inputs of an approximation, for each direction.
        numbers: how many samples its inputs have, for `check_counts`.
        weights: a factor for each of them, or None.
    """

    options: PenaltyOptions
    shared: str | None
    x: Any
    args: Any
    kwargs: Any
    nearby: list[Any]
    numbers: tuple[int, ...]
    weights: Any


class _Batch(NamedTuple):
    """What a step is given, and how samples are arranged in it: what of batch_dim, pac and output is not plain."""

    real: Any
    fake: Any
    args: Any
    fake_args: Any
    kwargs: Any
    arrangement: dict[str, Any]
    groups: Any
    fake_groups: Any
    weights: Any


def _due(p: ScheduledPenalty, batch: _Batch) -> _DuePenalty | None:
    """Return a penalty if it is due at this step; draw its inputs."""
    real, fake, args, fake_args, kwargs, arrangement, groups, fake_groups, weights = batch
    on_fake = KINDS[p.kind].inputs == "fake"
    o = p.due()
    if o is None:
        return None
    o = p.arranged(o, fake_groups if on_fake else groups, **arrangement)
    if weights is not None:
        o.check_weights(weights, real, fake)
    args = fake_args if on_fake else args
    shared = o.inputs if o.inputs in ("real", "fake") and p.part == 1 else None
    if shared:
        x = fake if on_fake else real
    else:
        first = fake if on_fake else real
        real, fake, args, kwargs, weights = p.cut(o, first, (real, fake, args, kwargs, weights))
        x = o.evaluated_at(real, fake)
    nearby = o.nearby(x) if o.is_approximate else []
    return _DuePenalty(o, shared, x, args, kwargs, nearby, o.numbers_of(x), weights)


class _Plain(NamedTuple):
    """A call of the discriminator of which no gradient by the input is asked."""

    result: Any


class _Part(NamedTuple):
    """One call among those that were joined, with its gradient by its own input.

    Attributes:
        whole: the joined call.
        joined: how it was joined.
        k: the call's place.
        result: what the discriminator returned for it.
    """

    whole: Any
    joined: Joined
    k: int
    result: Any

    @property
    def create_graph(self) -> bool:
        """Whether the gradient is to be differentiated in turn."""
        return self.whole.create_graph

    def gradients(self, output: Any = None, numbers: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """Return the gradient by this call's input: as samples do not mix, its part of that of all outputs."""
        outputs = outputs_of(self.result if output is None else chosen(self.result, output))
        check_counts(outputs, self.joined.of_input(self.k, tensors_of(self.whole.x)[0]), numbers)
        return tuple([self.joined.of_input(self.k, g) for g in self.whole.gradients(output)])

    def with_zeros(self, t: Tensor, output: Any = None) -> Tensor:
        """Return `t` so that its backward sends zeros where PyTorch does."""
        return self.whole.with_zeros(t, output)


class _Step:
    """A step under way: the forwards of the loss, then the penalties.

    Attributes:
        calls: the module that calls discriminators.
        sides: the calls on "real" and on "fake".
        near: what the discriminator returned near a penalty's inputs, where that was joined with the loss's calls.
        created: the leaves that were made for gradients.
    """

    def __init__(self, calls: Any, discriminator: Any, create_graph: bool, prune: bool) -> None:
        self.calls = calls
        self.discriminator = discriminator
        self.create_graph = create_graph
        self.prune = prune
        self.sides: dict[str, Any] = {}
        self.near: dict[int, list[Any]] = {}
        self.created: list[Tensor] = []

    def forward(self, x: Any, args: Any, kwargs: Any) -> Forward:
        """Call the discriminator so that its gradient by x can be taken."""
        options = {"create_graph": self.create_graph, "prune": self.prune}
        found = self.calls.Forward(self.discriminator, x, args, kwargs, **options)
        self.created += found.created
        return found

    def side(self, call: Call, twice: bool) -> Forward | _Plain:
        """Call the discriminator; `twice`: so that its gradient can be differentiated."""
        if twice:
            return self.calls.differentiably(lambda: self.forward(*call))
        return _Plain(self.discriminator(call.x, *call.args, **call.kwargs))

    def apart(self, real: Call, fake: Call, due: Sequence[_DuePenalty]) -> None:
        """Call the discriminator on real, then on fake."""
        exact = [d.shared for d in due if not d.options.is_approximate]
        self.sides = {"real": self.side(real, "real" in exact), "fake": self.side(fake, "fake" in exact)}

    def join(self, real: Call, fake: Call, due: Sequence[_DuePenalty], batch_dim: int, pac: int) -> None:
        """Call the discriminator once, on real, fake and what lies near them."""
        joined = Joined(_calls(real, fake, due), batch_dim, pac)
        exact = [d.shared for d in due if d.shared and not d.options.is_approximate]
        call, twice = joined.call, bool(exact)
        looks = self.calls is eagerly and not is_known(self.discriminator, joined.calls)
        if looks and not twice:
            call = call._replace(x=_requiring_grad(call.x))
        whole = self.side(call, twice)
        if looks:
            joined.check(self.discriminator, whole.x if isinstance(whole, Forward) else call.x, whole.result)
        results = joined.split(whole.result)
        self.sides = {name: _Part(whole, joined, k, results[k]) for k, name in enumerate(("real", "fake"))}
        for k, d in enumerate(due):
            if d.nearby:
                self.near[k] = [results.pop(2) for _ in d.nearby]

    def penalty(self, k: int, d: _DuePenalty) -> Tensor:
        """Return one penalty, the k-th."""
        if not d.options.is_approximate:
            side, grads = self.calls.differentiably(lambda: self._gradients(d))
            value = penalty_of(side, grads, d.options.without_draws(self.prune), weights=d.weights).value
        else:
            value = difference_of(self._here(k, d), self._near(k, d), d.options, d.x, d.weights)
        return value if self.create_graph else value.detach()

    def _gradients(self, d: _DuePenalty) -> tuple[Any, tuple[Tensor, ...]]:
        """Return a penalty's call of the discriminator, and its gradients by the input."""
        side = self.sides[d.shared] if d.shared else self.forward(d.x, d.args, d.kwargs)
        return side, side.gradients(d.options.output, d.numbers)

    def _here(self, k: int, d: _DuePenalty) -> Any:
        """Return what the discriminator returned on an approximation's inputs."""
        if d.shared:
            return self.sides[d.shared].result
        if k in self.near:  # the first samples of a batch that it has seen
            part = self.sides[d.options.inputs]
            return tree_map_only(Tensor, lambda t: part.joined.part(part.k, t, d.x), part.whole.result)
        return self.discriminator(d.x, *d.args, **d.kwargs)

    def _near(self, k: int, d: _DuePenalty) -> list[Any]:
        """Return what it returned near them."""
        if k in self.near:
            return self.near[k]
        return [self.discriminator(x, *d.args, **d.kwargs) for x in d.nearby]


def _calls(real: Call, fake: Call, due: Sequence[_DuePenalty]) -> list[Call]:
    """Return the calls that are joined: on real, on fake, and near the inputs of approximations."""
    return [real, fake, *[Call(x, d.args, d.kwargs) for d in due for x in d.nearby]]


def _requiring_grad(x: Any) -> Any:
    """Return inputs that require grad, so that it can be seen what depends on them."""
    return as_given(x, [t if t.requires_grad else t.detach().requires_grad_() for t in tensors_of(x)])


def _step(
    calls: Any,
    discriminator: Callable[..., Any],
    inputs: Any,
    loss: Callable[[Any, Any], Any],
    output: Any,
    prune: bool,
    together: tuple[int, int] | None = None,
    keep: bool = False,
    create_graph: bool = True,
) -> tuple[Tensor, Any, list[Tensor]]:
    """Return total, (loss, penalty, logits, outputs on real), and the leaves that were made.

    Args:
        calls: the module that calls discriminators.
        discriminator: the user's.
        inputs: (real, fake, args, fake_args, kwargs, penalties that are due).
        loss: of real and fake logits.
        output: which part of the result they are.
        prune: whether zero second derivatives are skipped.
        together: the batch dimension and pac, where the loss's calls are joined.
        keep: whether what the discriminator returned on real is wanted.
        create_graph: whether gradients are.
    """
    step = _Step(calls, discriminator, create_graph, prune)
    real, fake, args, fake_args, kwargs, due = inputs
    of = Call(real, args, kwargs), Call(fake, fake_args, kwargs)
    if together:
        step.join(*of, due, *together)
    else:
        step.apart(*of, due)
    outputs = [step.sides["real"].result, step.sides["fake"].result]
    logits = outputs if output is None else [chosen(result, output) for result in outputs]
    value = loss(*logits)
    if isinstance(loss, partial) and not isinstance(logits[0], Tensor):  # the loss of a name
        warn_of_mixed(outputs_of(logits[0]))
    if not isinstance(value, Tensor) or value.dim():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"loss: expected it to return a scalar tensor, got {got}")
    penalties = [step.penalty(k, d) for k, d in enumerate(due)]
    total = sum(penalties, start=value)
    penalty = sum([p.detach() for p in penalties[1:]], start=penalties[0].detach()) if penalties else None
    if keep:
        check_tree("keep_outputs", outputs[0])
    kept = [*logits, outputs[0] if keep else None]
    return total, (value.detach(), penalty, *tree_map_only(Tensor, Tensor.detach, kept)), step.created


def discriminator_step(
    discriminator: Callable[..., Any],
    real: Tensors,
    fake: Tensors,
    *args: Any,
    loss: Loss = "nonsaturating",
    penalty: Penalty | Sequence[Penalty] | None = None,
    fake_args: Sequence[Any] | None = None,
    batch_dim: int = 0,
    pac: int = 1,
    groups: Groups | None = None,
    fake_groups: Groups | None = None,
    output: Output | None = None,
    sample_weights: Tensor | None = None,
    concat: bool = False,
    keep_outputs: bool = False,
    engine: str = "auto",
    prune: bool = True,
    **kwargs: Any,
) -> DiscriminatorStep:
    """Return the loss and the gradient penalties of a step of the discriminator.

        r1 = fastgan.nn.GradientPenalty("r1", weight=5.0)
        step = fastgan.discriminator_step(D, real, fake.detach(), loss="hinge", penalty=r1)
        step.total.backward()

    The discriminator is called on real and on fake once each. A penalty that is evaluated at one of these batches
    ("r1", "r2" and their approximations) shares that forward. Batch statistics therefore move once for both, and
    dropout draws one mask for both. Other penalties, and those on a fraction of the batch, call the discriminator
    at their own inputs. No gradient flows further than to `real` and `fake` as they are given: give
    `fake.detach()` unless the generator is to be trained by it. Fakes with a graph warn once.

    Args:
        discriminator: as for `gradient_penalty`; called as discriminator(real, *args, **kwargs).
        real: (N, ...), or a tuple of such tensors.
        fake: the same for generated samples.
        *args: what the discriminator takes after its input: labels, embeddings.
        loss: a name of `fastgan.losses()`, a `fastgan.nn.DiscriminatorLoss`, or any function of what the
            discriminator returned on real and on fake, which returns a scalar.
        penalty: None, a kind of `gradient_penalty` with its default weight, a `fastgan.nn.GradientPenalty` with its
            options (lazy ones too), or several of these in a sequence.
        fake_args: the further arguments for fake, where they are others than those for real.
        batch_dim: where samples lie, for `concat` and for penalties that do not say it themselves, as for
            `gradient_penalty`; and so are the next two.
        pac: how many consecutive entries make one sample.
        groups: the number of the sample that each entry of real belongs to.
        fake_groups: the same for fake, where it is another.
        output: which of the discriminator's outputs the loss and the penalties are about: a key, an index, or a
            function of its result. A `fastgan.nn.GradientPenalty` may have another.
        sample_weights: (N,), a constant factor of 0 or more on each sample's part of the penalties.
        concat: call the discriminator once, on real and fake one after the other, and on the neighbours of
            approximations. Tensors among the arguments whose length is the number of samples are joined as well;
            bind one of another meaning by functools.partial. Not for discriminators that mix samples. Batch norm in
            training mode raises, and so does one whose output for a sample depends on others, by the gradient. That
            is looked at where modes, numbers, options or shapes are new; engine "compiled" runs such a call
            eagerly. It cannot be seen under `fastgan.compiling()`, nor of statistics that are detached. Spectral
            norm moves once, and exact penalties on real or fake go through the whole batch.
        keep_outputs: keep what the discriminator returned on real, for `generator_step(real_outputs=)`.
        engine: "auto", "eager" or "compiled", as for `gradient_penalty`; compiled, the whole step is one graph.
        prune: as for `gradient_penalty`.
        **kwargs: more for the discriminator, on real and on fake.

    Returns:
        DiscriminatorStep(total, loss, penalty, real_logits, fake_logits, engine, real_outputs). The first three are
        scalars (float32 for 16-bit logits and gradients, else of their dtype). The logits are as the discriminator
        returned them.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the discriminator's gradient cannot be differentiated.
    """
    options = {"loss": loss, "penalty": penalty, "engine": engine, "prune": prune, "concat": concat}
    options["keep_outputs"] = keep_outputs
    arrangement = {"batch_dim": batch_dim, "pac": pac, "output": output}
    where = {k: v for k, v in arrangement.items() if v is not _PLAIN[k]}, groups, fake_groups, sample_weights
    if torch.compiler.is_compiling():
        from .discriminator import in_graphs

        return in_graphs.call(_run, discriminator, real, fake, args, fake_args, kwargs, where, options)
    try:
        return _run(eagerly, discriminator, real, fake, args, fake_args, kwargs, where, options)
    except TypeError as error:
        checks.explain_options(error, "discriminator_step", kwargs, OF_MODULES)
        raise


def _run(
    calls: Any,
    discriminator: Any,
    real: Any,
    fake: Any,
    args: Any,
    fake_args: Any,
    kwargs: Any,
    where: Any,
    options: Any,
) -> DiscriminatorStep:
    """Run `discriminator_step`; `calls` is the module that calls discriminators, eagerly or in a graph."""
    if options["engine"] not in ENGINES:
        checks.choice("engine", options["engine"], ENGINES)
    calls.check_callable("discriminator_step", discriminator)
    create_graph = torch.is_grad_enabled()
    arrangement, groups, fake_groups, weights = where
    fake_groups = groups if fake_groups is None else fake_groups
    fakes = _check_inputs(real, fake, arrangement, groups, fake_groups)
    if create_graph and any([t.grad_fn is not None for t in fakes]):
        checks.warn_once("fake", _HAS_GRAPH)
    o = StepOptions(**options)
    twice = any([not p.is_approximate for p in o.penalties])
    prune = create_graph and calls.prunable(discriminator, twice) and o.prune
    if not isinstance(fake_args, (list, tuple, type(None))):
        raise TypeError(f"fake_args: expected a tuple of arguments, got {type(fake_args).__name__}")
    fake_args = args if fake_args is None else tuple(fake_args)
    batch = _Batch(real, fake, args, fake_args, kwargs, arrangement, groups, fake_groups, weights)
    for p in o.penalties:
        if p.interval > 1:
            p.counts.follow(discriminator)
    found = [_due(p, batch) for p in o.penalties]
    due = [d for d in found if d is not None]
    inputs = (real, fake, args, fake_args, kwargs, due)
    # A value alone is not joined: without gradients it cannot be seen whether samples are mixed.
    together = _together(discriminator, batch) if o.concat and create_graph else None
    given = o.loss_function(), arrangement.get("output"), prune, together, o.keep_outputs

    def evaluate() -> tuple[Tensor, Any]:
        return _step(calls, discriminator, inputs, *given, create_graph=create_graph)[:2]

    engine = "eager"
    compiles = o.engine == "compiled" and create_graph and calls is eagerly
    if compiles and together:  # else the eager step looks whether samples are mixed
        of = Call(real, args, kwargs), Call(fake, fake_args, kwargs)
        compiles = is_known(discriminator, _calls(*of, due))
    if compiles:
        (total, results), engine = compiled.run(discriminator, _step, inputs, given, evaluate)
    else:
        total, results = evaluate()
    for p in o.penalties:
        p.advance()  # not if it failed, so that a step that is tried again has its penalties
    if engine == "eager" and prune and not all([d.options.is_approximate for d in due]):
        engine = "eager, pruned"
    on_logits, penalty, real_logits, fake_logits, real_outputs = results
    return DiscriminatorStep(total, on_logits, penalty, real_logits, fake_logits, engine, real_outputs)


def _check_inputs(
    real: Any, fake: Any, arrangement: dict[str, Any], groups: Any, fake_groups: Any
) -> tuple[Tensor, ...]:
    """Check both batches, and how samples are arranged in them; return the tensors of fake."""
    if "output" in arrangement:
        check_output("output", arrangement["output"])
    tensors: tuple[Tensor, ...] = ()
    of_fake = "groups" if fake_groups is groups else "fake_groups"
    for name, x, of, called in (("real", real, groups, "groups"), ("fake", fake, fake_groups, of_fake)):
        samples = None
        if arrangement or of is not None:
            where = arrangement.get("batch_dim", 0), arrangement.get("pac", 1)
            samples = arranged(*where, of, name=called)
        tensors = checked_samples(name, x, samples)
    return tensors


def _together(discriminator: Any, batch: _Batch) -> tuple[int, int]:
    """Return the batch dimension and pac of calls that are joined; raise where they may not be."""
    if batch.groups is not None or batch.fake_groups is not None:
        raise ValueError("concat: has no place beside groups, whose numbers are of one batch")
    check_norms(discriminator)
    return batch.arrangement.get("batch_dim", 0), batch.arrangement.get("pac", 1)


_HAS_GRAPH = (
    "fake: has a graph, so that the discriminator's backward walks the generator and leaves gradients there; give"
    " fake.detach() unless the generator is to be trained by this loss"
)
