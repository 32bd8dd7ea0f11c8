"""The losses as modules, with the arguments of torch.nn's."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import functional
from .functional import Logits
from .losses import Options, discriminator_spec, generator_spec


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
        values: Any = Options._make(options.get(k, v) for k, v in Options._field_defaults.items())
        for make_spec in (discriminator_spec, generator_spec):
            make_spec(loss, options.get("relativistic"), values._replace(targets=tuple(values.targets)), 1)

    def extra_repr(self) -> str:
        return ", ".join([repr(self.loss), *(f"{k}={v!r}" for k, v in self.options.items())])


class DiscriminatorLoss(_Loss):
    """`fastgan.discriminator_loss` as a module: `DiscriminatorLoss("hinge")(real_logits, fake_logits)`.

    Takes the function's options; unknown or unfit ones raise when the module is built.
    """

    def forward(self, real_logits: Logits, fake_logits: Logits) -> Any:
        """The loss; see `fastgan.discriminator_loss` for shapes, dtypes and errors."""
        return functional.discriminator_loss(real_logits, fake_logits, self.loss, **self.options)


class GeneratorLoss(_Loss):
    """`fastgan.generator_loss` as a module: `GeneratorLoss("hinge")(fake_logits)`.

    Takes the function's options; unknown or unfit ones raise when the module is built.
    """

    def forward(self, fake_logits: Logits, real_logits: Logits | None = None) -> Any:
        """The loss; see `fastgan.generator_loss` for shapes, dtypes and errors."""
        return functional.generator_loss(fake_logits, real_logits, self.loss, **self.options)
