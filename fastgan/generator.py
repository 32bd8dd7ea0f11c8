"""The generator's step: the loss that it gets from a discriminator which it does not train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks as checks
from ._torch_internals import tree_leaves, tree_map_only
from .auxiliary import feature_matching_loss
from .balance import ADVERSARIAL, FEATURES, Balanced
from .discriminator import frozen as eagerly
from .discriminator.outputs import Output, check_output, check_tree, chosen, outputs_of, warn_of_mixed
from .functional import generator_loss
from .steps import OF_MODULES, check_loss

Loss = str | Callable[[Any, Any], Tensor]
Features = float | Callable[[Any, Any], Tensor]
Balance = Callable[[dict[str, Tensor], Tensor], Balanced]


class GeneratorStep(NamedTuple):
    """The result of a step of the generator.

    Attributes:
        total: the sum of all losses, to be differentiated: `step.total.backward()`.
        loss: the adversarial loss, detached.
        feature_matching: the feature matching loss, detached; None where none was wanted.
        weights: the factor of each loss by its name, where they were balanced, else None.
        fake_logits, real_logits: what the adversarial loss was taken of, detached; None for real where the
            discriminator did not see it.
    """

    total: Tensor
    loss: Tensor
    feature_matching: Tensor | None
    weights: dict[str, Tensor] | None
    fake_logits: Any
    real_logits: Any


class _Options(NamedTuple):
    """What `generator_step` takes beside the discriminator and its inputs."""

    loss: Any
    feature_matching: Any
    output: Any
    features: Any
    reconstruction: Any
    balance: Any

    def check(self) -> None:
        """Raise where options are unfit."""
        check_loss(self.loss, "generator", "fake and real logits")
        for name, output in (("output", self.output), ("features", self.features)):
            if output is not None:
                check_output(name, output)
        if self.feature_matching is not None and not callable(self.feature_matching):
            checks.number("feature_matching", self.feature_matching)
        if self.feature_matching is not None and self.features is None:
            raise ValueError("features: expected which part of the discriminator's result are the maps, got None")
        if self.feature_matching is None and self.features is not None:
            raise ValueError(f"features: has no effect without feature_matching, got {self.features!r}")
        if self.balance is not None and not callable(self.balance):
            raise TypeError(f"balance: expected a fastgan.nn.AdaptiveWeight or the like, got {self.balance!r}")
        for name, value in self.reconstructions().items():
            if name in (ADVERSARIAL, FEATURES):
                raise ValueError(f"reconstruction: {name!r} is the name of the step's own loss; choose another")
            _check_scalar("reconstruction", value)

    def reconstructions(self) -> Mapping[str, Tensor]:
        """Return the losses that are added, by name."""
        if self.reconstruction is None:
            return {}
        one = {"reconstruction": self.reconstruction}
        return self.reconstruction if isinstance(self.reconstruction, Mapping) else one

    def needs_real(self) -> bool:
        """Return whether anything is taken of real; a loss that names none does not look at it."""
        if self.feature_matching is not None:
            return True
        if getattr(self.loss, "role", None) == "generator":  # a fastgan.nn.GeneratorLoss
            return self.loss.relativistic is not None
        return callable(self.loss)


def generator_step(
    discriminator: Callable[..., Any],
    fake: Any,
    real: Any = None,
    *args: Any,
    loss: Loss = "nonsaturating",
    feature_matching: Features | None = None,
    output: Output | None = None,
    features: Output | None = None,
    real_args: Sequence[Any] | None = None,
    real_outputs: Any = None,
    reconstruction: Tensor | Mapping[str, Tensor] | None = None,
    balance: Balance | None = None,
    **kwargs: Any,
) -> GeneratorStep:
    """Return the losses of a step of the generator, by a discriminator that gets no gradients.

        step = fastgan.generator_step(D, G(z), loss="hinge")
        step.total.backward()

    The discriminator's parameters are frozen meanwhile, as in `fastgan.frozen`: their gradients, which this step
    would throw away, are not computed. The generator's are the same without that. Parameters that `fake` depends on
    are the generator's, and are not frozen, behind a reentrant checkpoint too. Other networks that a function calls
    are a part of the discriminator. Real samples go through it under no_grad, once, and only where a loss looks at
    them. Inside a function for torch.compile the step runs between the parts of the graph. Under
    `fastgan.compiling()` it is traced, and parameters that the generator shares are constants there.

    Args:
        discriminator: a module, or a function; called as discriminator(real, *args, **kwargs), then on fake.
        fake: generated samples with their graph: a tensor, or what else the discriminator takes.
        real: real samples, for relativistic losses and for feature matching. They get no gradient.
        *args: what the discriminator takes after its input: labels, embeddings.
        loss: a name of `fastgan.losses()`, a `fastgan.nn.GeneratorLoss` with its options, or a function of fake and
            real logits (None without real), which returns a scalar.
        feature_matching: a factor on `feature_matching_loss`, or a function of real and fake maps, which returns a
            scalar.
        output: which part of the discriminator's result are the logits: a key, an index, or a function of it. By
            default all of it.
        features: which part are the feature maps, in the same way.
        real_args: the further arguments for real, where they are others than those for fake.
        real_outputs: what the discriminator returned on real, where that is known; it is not called on real then,
            and they get no gradient. Outputs of before its optimizer stepped are those of another discriminator.
        reconstruction: a scalar computed of `fake`, or several by name, which are added to the total.
        balance: weighs the losses by their gradients at `fake`: a `fastgan.nn.AdaptiveWeight` or a
            `fastgan.nn.LossBalancer`. They are named "adversarial", "feature_matching", and "reconstruction" or as
            given. The total then sends the gradients that were taken for that: each loss is differentiated once.
            In float16 these miss a GradScaler's factor: use bfloat16.
        **kwargs: more for the discriminator, on real and on fake.

    Returns:
        GeneratorStep(total, loss, feature_matching, weights, fake_logits, real_logits). The first three are
        scalars (float32 for 16-bit logits and maps, else of their dtype), the weights scalars in float32 or wider.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        RuntimeError: the discriminator cannot be frozen, see `fastgan.frozen`, or nothing can be balanced.
    """
    o = _Options(loss, feature_matching, output, features, reconstruction, balance)
    o.check()
    eagerly.check_callable("generator_step", discriminator)
    inputs = fake, real, args, real_args, kwargs, real_outputs
    if torch.compiler.is_compiling():
        from .discriminator import in_graphs

        return in_graphs.generator(_run, discriminator, inputs, o)
    try:
        return _run(eagerly, discriminator, inputs, o)
    except TypeError as error:
        checks.explain_options(error, "generator_step", kwargs, OF_MODULES)
        raise


def _run(calls: Any, discriminator: Any, inputs: Any, o: _Options) -> GeneratorStep:
    """Run `generator_step`; `calls` is the module that freezes discriminators, eagerly or in a graph."""
    fake, real, args, real_args, kwargs, real_outputs = inputs
    if isinstance(real, str):
        raise TypeError(f"real: expected samples or None, got the str {real!r}; name a loss by loss={real!r}")
    if real_args is not None and not isinstance(real_args, (list, tuple)):
        raise TypeError(f"real_args: expected a tuple of arguments, got {type(real_args).__name__}")
    if real_args is not None and (real is None or real_outputs is not None):
        raise ValueError("real_args: has no effect where the discriminator is not called on real, got some")
    call = None
    if o.needs_real() and real is not None and real_outputs is None:
        call = real, args if real_args is None else tuple(real_args), kwargs
        _check_constant(*call)
    elif o.feature_matching is not None and real_outputs is None:
        raise ValueError("real: expected samples for feature_matching, got None")
    elif isinstance(real, Tensor) and real_outputs is None:
        _check_unused(real, fake)
    on_real, on_fake = calls.called_frozen(discriminator, call, (fake, args, kwargs))
    if real_outputs is not None:
        check_tree("real_outputs", real_outputs)
        on_real = tree_map_only(Tensor, Tensor.detach, real_outputs)
    losses, logits = _losses(on_fake, on_real, o)
    if torch.is_grad_enabled() and not losses[ADVERSARIAL].requires_grad:
        raise ValueError("fake: expected samples with a graph back to the generator, got some without (detached?)")
    total, weights = _total(losses, logits, fake, o)
    matched = losses.get(FEATURES)
    loss, matched = losses[ADVERSARIAL].detach(), None if matched is None else matched.detach()
    return GeneratorStep(total, loss, matched, weights, *tree_map_only(Tensor, Tensor.detach, logits))


def _check_unused(real: Tensor, fake: Any) -> None:
    """Raise where no loss looks at real, and what stands in its place seems to be labels."""
    if not real.is_floating_point() or (isinstance(fake, Tensor) and real.dim() != fake.dim()):
        raise TypeError(
            f"real: expected samples or None, got {tuple(real.shape)} of {real.dtype}; this loss looks at none, and"
            " what else the discriminator takes comes after them: generator_step(D, fake, None, labels)"
        )


def _check_constant(real: Any, args: Any, kwargs: Any) -> None:
    """Raise where what the discriminator gets with real wants a gradient, which it would not get."""
    for name, given in (("real", real), ("real_args", args), ("kwargs", kwargs)):
        if any([isinstance(t, Tensor) and t.grad_fn is not None for t in tree_leaves(given)]):
            raise ValueError(
                f"{name}: expected tensors that need no gradient, got one with a graph; detach it, as none flows"
                " through real"
            )


def _losses(on_fake: Any, on_real: Any, o: _Options) -> tuple[dict[str, Tensor], list[Any]]:
    """Return the losses by name, and fake and real logits, of what the discriminator returned."""
    logits = [chosen(on_fake, o.output), None if on_real is None else chosen(on_real, o.output)]
    if isinstance(o.loss, str):
        if not isinstance(logits[0], Tensor):
            warn_of_mixed(outputs_of(logits[0]))
        losses = {ADVERSARIAL: generator_loss(logits[0], loss=o.loss)}
    else:
        losses = {ADVERSARIAL: o.loss(*logits)}
        _check_scalar("loss", losses[ADVERSARIAL])
    if o.feature_matching is not None:
        maps = chosen(on_real, o.features, "features"), chosen(on_fake, o.features, "features")
        if callable(o.feature_matching):
            losses[FEATURES] = o.feature_matching(*maps)
            _check_scalar("feature_matching", losses[FEATURES])
        else:
            losses[FEATURES] = feature_matching_loss(*maps, weights=float(o.feature_matching))
    return {**losses, **o.reconstructions()}, logits


def _check_scalar(name: str, value: Any) -> None:
    """Check that a loss is a scalar."""
    if not isinstance(value, Tensor) or value.dim():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected a scalar tensor, got {got}")


def _total(
    losses: dict[str, Tensor], logits: Any, fake: Any, o: _Options
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Return the sum of losses, balanced where that is wanted, and their weights."""
    if o.balance is None:
        first, *others = losses.values()
        return sum(others, start=first), None
    if any([isinstance(t, Tensor) and t.dtype is torch.float16 for t in tree_leaves([logits, fake])]):
        checks.warn_once("float16", _HALF)
    total, weights = o.balance(losses, fake)
    return total, weights


_HALF = (
    "balance: takes gradients in float16 without a GradScaler's factor, so that small ones become 0; use bfloat16"
)
