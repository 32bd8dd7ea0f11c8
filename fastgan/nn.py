"""The losses and penalties as modules, with the arguments of torch.nn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import _checks as checks
from . import auxiliary, functional, penalties
from ._options import WithOptions
from .backends.specs import Term
from .balance import AdaptiveWeight, LossBalancer
from .functional import Logits
from .norms import PenaltyStats, Tensors
from .ops.losses import LossOptions
from .samples import Groups

__all__ = ["AdaptiveWeight", "DiscriminatorLoss", "GeneratorLoss", "GradientPenalty", "LeCam", "LossBalancer"]

LossResult = Tensor | list[Tensor] | tuple[Tensor, functional.LossStats]


class _Loss(WithOptions, nn.Module):
    """A loss's options, checked when they are set and read at each call.

    Attributes:
        role: whose loss it is, so that a step does not take the other's.
    """

    role: ClassVar[str]

    DEFAULTS: ClassVar[dict[str, Any]] = functional.discriminator_loss.__kwdefaults__  # type: ignore[assignment]

    def __init__(self, loss: str = "nonsaturating", **options: Any) -> None:
        nn.Module.__init__(self)
        for name in options:
            if name not in self.DEFAULTS:
                raise TypeError(f"{name}: unknown option (known: {', '.join(self.DEFAULTS)})")
        self.loss = loss
        self.check_options(options)
        self.options = options

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise where options are unfit."""
        names = {field.name for field in fields(LossOptions)}
        given = {name: value for name, value in options.items() if name in names}
        if "targets" in given:
            given["targets"] = checks.sequence("targets", given["targets"], "three numbers")
        LossOptions(self.loss, **given)
        if "reduction" in options:
            checks.reduction(options["reduction"])
        checks.member_weights(options.get("weights"), None, None)

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return ", ".join([repr(self.loss), *(f"{k}={v!r}" for k, v in self.options.items())])


class DiscriminatorLoss(_Loss):
    """`fastgan.discriminator_loss` as a module: `DiscriminatorLoss("hinge")(real_logits, fake_logits)`.

    Args:
        loss: a name of `fastgan.losses()`.
        **options: those of the function after the logits. They are attributes too, to be set later.

    Raises:
        TypeError, ValueError: unknown, unfit or bad options, when the module is built.
    """

    role = "discriminator"

    def forward(self, real_logits: Logits, fake_logits: Logits) -> LossResult:
        """Return the loss; see `fastgan.discriminator_loss` for shapes, dtypes and errors."""
        return functional.discriminator_loss(real_logits, fake_logits, self.loss, **self.options)


class GeneratorLoss(_Loss):
    """`fastgan.generator_loss` as a module: `GeneratorLoss("hinge")(fake_logits)`.

    Args:
        loss: a name of `fastgan.losses()`.
        **options: those of the function after the logits. They are attributes too, to be set later.

    Raises:
        TypeError, ValueError: unknown, unfit or bad options, when the module is built.
    """

    role = "generator"

    def forward(self, fake_logits: Logits, real_logits: Logits | None = None) -> LossResult:
        """Return the loss; see `fastgan.generator_loss` for shapes, dtypes and errors."""
        return functional.generator_loss(fake_logits, real_logits, self.loss, **self.options)


class _Counting(nn.Module):
    """A module whose count of calls is in the state_dict; a state_dict without it leaves the count as it is."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        missing = arguments[2]
        extra = f"{prefix}_extra_state"
        if extra in missing:  # of a run from before there was such a module
            missing.remove(extra)


class GradientPenalty(penalties.ScheduledPenalty, _Counting):
    """`fastgan.gradient_penalty` as a module, which can be lazy: `GradientPenalty("r1", interval=16)(D, real)`.

    A lazy penalty (StyleGAN2, arXiv:1912.04958) is computed at every k-th call only, the first among
    them, and then weighs k times as much. The other calls return None and do nothing. Calls are counted for each
    discriminator by itself; where gradients are accumulated, each micro-batch is one. The counts are in the
    module's state_dict, so that a resumed run goes on in step.

    Args:
        kind: as for the function.
        interval: k, at least 1.
        part: the fraction of the batch on which it is evaluated, in (0, 1]: the first samples, at least one. Every
            tensor among the discriminator's further arguments that has a row for each sample is cut with
            them. The penalty remains a mean, over fewer samples.
        **options: `weight`, `target`, `power`, `sigma`, `normalize`, `directions`, `perturb`, `over`, `batch_dim`,
            `pac`, `output`, `engine`, `prune` and `return_stats` of the function. They are attributes too, to be
            set later. `groups` and `sample_weights` are given at each call.

    Raises:
        TypeError, ValueError: unknown, unfit or bad options, when the module is built.
    """

    def __init__(self, kind: str = "wgan-gp", *, interval: int = 1, part: float = 1.0, **options: Any) -> None:
        nn.Module.__init__(self)
        penalties.ScheduledPenalty.__init__(self, kind, interval, part, **options)

    def forward(
        self,
        discriminator: Callable[..., Any],
        real: Tensors,
        fake: Tensors | None = None,
        *args: Any,
        groups: Groups | None = None,
        sample_weights: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, PenaltyStats] | None:
        """Return the penalty, or None between: see `fastgan.gradient_penalty`.

        Args:
            discriminator: as for the function.
            real: (N, ...), or a tuple of such tensors.
            fake: the same for generated samples; not needed for a kind that is evaluated at real.
            *args: what the discriminator takes after its input.
            groups: the number of the sample that each entry belongs to.
            sample_weights: (N,), a constant factor for each sample.
            **kwargs: more for the discriminator.

        Returns:
            A scalar, or (penalty, PenaltyStats) with return_stats; None where a lazy penalty is not due.

        Raises:
            TypeError, ValueError, RuntimeError: as the function.
        """
        if self.interval > 1:
            self.counts.follow(discriminator)
        due = self.due()
        if due is None:
            self.advance()
            return None
        due = self.arranged(due, groups)
        if sample_weights is not None and self.part != 1:  # before they are cut
            due.check_weights(sample_weights, real, fake)
        first = fake if due.inputs == "fake" else real
        real, fake, args, kwargs, weights = self.cut(due, first, (real, fake, args, kwargs, sample_weights))
        options = {**self.options, "groups": due.groups, "weight": due.weight, "sample_weights": weights}
        result = penalties.gradient_penalty(discriminator, real, fake, *args, kind=self.kind, **options, **kwargs)
        self.advance()  # not if it failed, so that a step that is tried again has its penalty
        return result

    def get_extra_state(self) -> dict[str, Any]:
        """Return the counts of calls, for the state_dict."""
        return self.counts.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the counts of calls from a state_dict."""
        self.counts.restore(state)

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        shown = {"interval": self.interval, "part": self.part} | self.options
        defaults = {"interval": 1, "part": 1.0}
        return ", ".join([repr(self.kind), *(f"{k}={v!r}" for k, v in shown.items() if defaults.get(k) != v)])


class LeCam(_Counting):
    """LeCam's regularisation with its moving averages: `LeCam(weight=0.3)(real_logits, fake_logits)`.

    `fastgan.lecam_penalty` at averages that each call first moves, average = decay * average + (1 - decay) *
    mean of the logits. They are buffers, kept on the logits' device and in the state_dict; nothing waits for
    the device. In eval mode they stay.

    Args:
        weight: the factor in front.
        decay: in [0, 1).
        start: this many calls return None while the averages follow the batch, as trainers do that wait for
            the logits to settle.
        members: how many discriminators there are, where logits come as a sequence.

    Raises:
        TypeError, ValueError: bad options, when the module is built.
    """

    real_average: Tensor
    fake_average: Tensor

    def __init__(self, weight: float = 1.0, *, decay: float = 0.99, start: int = 0, members: int = 1) -> None:
        super().__init__()
        checks.integer("start", start, 0)
        checks.integer("members", members, 1)
        if checks.number("decay", decay, 0.0, 1.0) == 1.0:
            raise ValueError("decay: expected a number in [0, 1), got 1")
        self.weight = checks.number("weight", weight)
        self.decay = float(decay)
        self.start = start
        self.calls = 0
        self.register_buffer("real_average", torch.zeros(members))
        self.register_buffer("fake_average", torch.zeros(members))

    def forward(self, real_logits: Logits, fake_logits: Logits) -> Tensor | None:
        """Return the penalty, or None before it starts: see `fastgan.lecam_penalty`.

        Logits whose mean is not finite, as a GradScaler's overflow gives them, leave an average as it was.

        Args:
            real_logits: a tensor, or a sequence of as many as there are members.
            fake_logits: the same for fake.

        Returns:
            A scalar, or None in the first `start` calls.

        Raises:
            TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
        """
        calls, averages = self.calls, (self.real_average, self.fake_average)
        if self.training:
            moved = self._moved(self.real_average, real_logits, "real_logits")
            averages = moved, self._moved(self.fake_average, fake_logits, "fake_logits")
            if calls <= self.start:  # no further: a number that changes would be recompiled at each call
                calls += 1
        penalty = None
        if calls > self.start:
            penalty = auxiliary.lecam_penalty(real_logits, fake_logits, *averages, weight=self.weight)
        if self.training:  # only now, as a call that fails moves nothing
            with torch.no_grad():
                self.real_average.copy_(averages[0])
                self.fake_average.copy_(averages[1])
            self.calls = calls
        return penalty

    @torch.no_grad()
    def _moved(self, average: Tensor, logits: Logits, name: str = "logits") -> Tensor:
        """Return an average, moved towards the means of logits that are finite; `name` is theirs."""
        decay = self.decay if self.calls > self.start else 0.0
        members = [t.detach() for t in checks.operands(name, logits)]
        if len(members) != len(average):
            raise ValueError(f"{name}: expected {len(average)} members, got {len(members)}")
        _, means = functional.reduce_terms([Term("identity")] * len(members), members, return_values=True)
        means = means.to(average.dtype)
        moved = torch.where(average.isfinite(), average.lerp(means, 1 - decay), means)  # an older run's may be NaN
        return torch.where(means.isfinite(), moved, average)

    def get_extra_state(self) -> dict[str, int]:
        """Return the count of calls, for the state_dict."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the count of calls from a state_dict."""
        self.calls = state["calls"]

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return f"weight={self.weight}, decay={self.decay}, start={self.start}"
