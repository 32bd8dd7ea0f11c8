"""The losses and penalties as modules, with the arguments of torch.nn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks as checks
from . import auxiliary, functional, penalties
from .backends.specs import Term
from .functional import Logits
from .norms import PenaltyStats, Tensors
from .ops.losses import LossOptions
from .samples import Groups

LossResult = Tensor | list[Tensor] | tuple[Tensor, functional.LossStats]


class _Loss(nn.Module):
    """A loss's options, checked when it is built and read at each call."""

    def __init__(self, loss: str = "nonsaturating", **options: Any) -> None:
        super().__init__()
        known: dict[str, Any] = functional.discriminator_loss.__kwdefaults__  # type: ignore[assignment]
        for name in options:
            if name not in known:
                raise TypeError(f"{name}: unknown option (known: {', '.join(known)})")
        self.loss = loss
        self.options = options
        names = {field.name for field in fields(LossOptions)}
        given = {name: value for name, value in options.items() if name in names}
        if "targets" in given:
            given["targets"] = tuple(given["targets"])
        LossOptions(loss, **given)

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return ", ".join([repr(self.loss), *(f"{k}={v!r}" for k, v in self.options.items())])


class DiscriminatorLoss(_Loss):
    """`fastgan.discriminator_loss` as a module: `DiscriminatorLoss("hinge")(real_logits, fake_logits)`.

    Takes the function's options; unknown or unfit ones raise when the module is built.
    """

    def forward(self, real_logits: Logits, fake_logits: Logits) -> LossResult:
        """Return the loss; see `fastgan.discriminator_loss` for shapes, dtypes and errors."""
        return functional.discriminator_loss(real_logits, fake_logits, self.loss, **self.options)


class GeneratorLoss(_Loss):
    """`fastgan.generator_loss` as a module: `GeneratorLoss("hinge")(fake_logits)`.

    Takes the function's options; unknown or unfit ones raise when the module is built.
    """

    def forward(self, fake_logits: Logits, real_logits: Logits | None = None) -> LossResult:
        """Return the loss; see `fastgan.generator_loss` for shapes, dtypes and errors."""
        return functional.generator_loss(fake_logits, real_logits, self.loss, **self.options)


class GradientPenalty(penalties.ScheduledPenalty, nn.Module):
    """`fastgan.gradient_penalty` as a module, which can be lazy: `GradientPenalty("r1", interval=16)(D, real)`.

    A lazy penalty (StyleGAN2, arXiv:1912.04958) is computed at every k-th call only, the first among
    them, and then weighs k times as much. The other calls return None and do nothing. The count of calls
    is in the module's state_dict, so that a resumed run goes on in step.

    Args:
        kind: as for the function.
        interval: k, at least 1.
        part: the fraction of the batch on which it is evaluated, in (0, 1]: the first samples, at least one. Every
            tensor among the discriminator's further arguments that has a row for each sample is cut with
            them. The penalty remains a mean, over fewer samples.
        **options: `weight`, `target`, `power`, `sigma`, `over`, `batch_dim`, `pac`, `output`, `engine`, `prune` and
            `return_stats` of the function; `groups` is given at each call.

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
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, PenaltyStats] | None:
        """Return the penalty, or None between: see `fastgan.gradient_penalty`."""
        due = self.due()
        if due is None:
            self.advance()
            return None
        due = self.arranged(due, groups)
        real, fake, args, kwargs = self.cut(due, real, fake, args, kwargs)
        options = {**self.options, "groups": due.groups, "weight": due.weight}
        result = penalties.gradient_penalty(discriminator, real, fake, *args, kind=self.kind, **options, **kwargs)
        self.advance()  # not if it failed, so that a step that is tried again has its penalty
        return result

    def get_extra_state(self) -> dict[str, int]:
        """Return the count of calls, for the state_dict."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the count of calls from a state_dict."""
        self.calls = state["calls"]

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        shown = {"interval": self.interval, "part": self.part} | self.options
        defaults = {"interval": 1, "part": 1.0}
        return ", ".join([repr(self.kind), *(f"{k}={v!r}" for k, v in shown.items() if defaults.get(k) != v)])


class LeCam(nn.Module):
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
        """Return the penalty, or None before it starts: see `fastgan.lecam_penalty`."""
        if self.training:
            self._move(real_logits, fake_logits)
        if self.calls <= self.start:
            return None
        return auxiliary.lecam_penalty(
            real_logits, fake_logits, self.real_average, self.fake_average, weight=self.weight
        )

    @torch.no_grad()
    def _move(self, real_logits: Logits, fake_logits: Logits) -> None:
        decay = self.decay if self.calls > self.start else 0.0
        for average, logits in ((self.real_average, real_logits), (self.fake_average, fake_logits)):
            members = [logits] if isinstance(logits, Tensor) else list(logits)
            if len(members) != len(average):
                raise ValueError(f"logits: expected {len(average)} members, got {len(members)}")
            detached = [t.detach() if isinstance(t, Tensor) else t for t in members]
            _, means = functional.reduce_terms([Term("identity")] * len(members), detached, return_values=True)
            average.lerp_(means.to(average.dtype), 1 - decay)
        if self.calls <= self.start:  # no further: a number that changes would be compiled anew at each call
            self.calls += 1

    def get_extra_state(self) -> dict[str, int]:
        """Return the count of calls, for the state_dict."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the count of calls from a state_dict."""
        self.calls = state["calls"]

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return f"weight={self.weight}, decay={self.decay}, start={self.start}"
