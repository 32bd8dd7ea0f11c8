"""MONAI (Project-MONAI/MONAI, monai/losses/adversarial_loss.py).

    from monai.losses import PatchAdversarialLoss                # before, also in a statement with others
    from fastgan.compat.monai import PatchAdversarialLoss        # after

Pass logits: the loss applies the activation itself, as in MONAI. Cross-entropy is computed from the logit. MONAI
takes a sigmoid and then a logarithm, in float32. For fake logits past 17 its loss jumps to 100 with gradient 0, and
its gradient on real logits fades to 0 below -28. For logits up to 8 the two agree to 1e-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._origin import Origin
from ._shared import bce, mean_of, min_hinge, result_dtype, square

__all__ = ["AdversarialCriterions", "PatchAdversarialLoss"]

ORIGIN = Origin(("monai.losses.adversarial_loss",))


class AdversarialCriterions(str, Enum):
    """The criteria, as strings."""

    BCE = "bce"
    HINGE = "hinge"
    LEAST_SQUARE = "least_squares"

    def __str__(self) -> str:
        """Return the name, as MONAI prints it."""
        return self.value


class PatchAdversarialLoss(nn.Module):
    """`loss(input, target_is_real, for_discriminator)` of logits, or of a list of them.

    | criterion | activation | real | fake |
    | --- | --- | --- | --- |
    | "bce" | in the formula | softplus(-x) | softplus(x) |
    | "least_squares" | v = leaky_relu(x, 0.05), none with no_activation_leastsq | (v - 1)^2 | v^2 |
    | "hinge" | v = tanh(x) | -min(v - 1, 0) | -min(-v - 1, 0) |

    Args:
        reduction: "mean" or "sum" within a member and over the list; or "none", the list of the members' losses.
            "hinge" takes the mean within a member regardless of the reduction, as in MONAI.
        criterion: a name, in any case, or an `AdversarialCriterions`; another raises ValueError.
        no_activation_leastsq: see the table.

    The generator's hinge loss is the one on real, and not -mean x. For the generator, target_is_real=False warns
    and counts as True.
    """

    def __init__(
        self, reduction: Any = "mean", criterion: str = "least_squares", no_activation_leastsq: bool = False
    ) -> None:
        super().__init__()
        self.criterion = AdversarialCriterions(str(criterion).lower())
        self.reduction = str(getattr(reduction, "value", reduction)).lower()
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
        self.no_activation_leastsq = no_activation_leastsq

    def _entry(self, x: Tensor, real: bool) -> tuple[Any, Tensor]:
        """Return the term and the activated logits, in float32 or wider."""
        if self.criterion is AdversarialCriterions.BCE:
            return bce(1.0 if real else 0.0), x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.criterion is AdversarialCriterions.HINGE:
            return min_hinge(-1 if real else 1), torch.tanh(wide)
        return square(1.0 if real else 0.0), wide if self.no_activation_leastsq else F.leaky_relu(wide, 0.05)

    def forward(self, input: Tensor | Sequence[Tensor], target_is_real: bool, for_discriminator: bool) -> Any:
        """Return a scalar; for reduction "none" a list of each member's elements ("hinge": of scalars)."""
        if not for_discriminator and not target_is_real:
            warnings.warn("target_is_real: the generator's loss is about being real, True is used", stacklevel=2)
            target_is_real = True
        members = [input] if isinstance(input, Tensor) else list(input)
        if not members:
            raise ValueError("input: expected at least one tensor, got an empty sequence")
        entries = [self._entry(x, bool(target_is_real)) for x in members]
        hinge = self.criterion is AdversarialCriterions.HINGE
        if self.reduction == "none":
            within = "mean" if hinge else "none"
            pairs = zip(entries, members, strict=True)
            return [mean_of(entry, reduction=within, dtype=result_dtype([x])) for entry, x in pairs]
        if self.reduction == "mean":
            entries = [(term.weighted(1.0 / len(entries)), v) for term, v in entries]
        return mean_of(*entries, reduction="mean" if hinge else self.reduction, dtype=result_dtype(members))
