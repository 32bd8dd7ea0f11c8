"""ParallelWaveGAN (kan-bayashi/ParallelWaveGAN, parallel_wavegan/losses/).

    from parallel_wavegan.losses import DiscriminatorAdversarialLoss, GeneratorAdversarialLoss, ...     # before
    from parallel_wavegan.losses import MelSpectrogramLoss, ...                                         # after
    from fastgan.compat.parallelwavegan import DiscriminatorAdversarialLoss, GeneratorAdversarialLoss

bin/train.py imports them with its spectrogram losses in one statement, and those stay.

The trainer's `_train_step` calls the discriminator on real samples without a graph, but leaves it trainable in
the generator's step. Wrap `p_ = self.model["discriminator"](y_)` there in
`with fastgan.frozen(self.model["discriminator"]):`.

All real logits go through one call, and so do all fake logits and all feature maps. Fake comes first in every
class; the loss on real comes first in the result. ESPnet has the same classes: `espnet`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..backends.specs import Term
from ._origin import Origin
from ._shared import MINUS, feature_distance, mean_of, min_hinge, square

__all__ = ["DiscriminatorAdversarialLoss", "FeatureMatchLoss", "GeneratorAdversarialLoss"]

ORIGIN = Origin(("parallel_wavegan.losses.adversarial_loss", "parallel_wavegan.losses.feat_match_loss"))


def _members(name: str, outputs: Any) -> list[Tensor]:
    """Return the logits: a tensor, or those of each member; for a member that is a sequence, its last entry."""
    if isinstance(outputs, Tensor):
        return [outputs]
    members = [x[-1] if isinstance(x, (list, tuple)) else x for x in outputs]
    if not members:
        raise ValueError(f"{name}: expected at least one member, got an empty {type(outputs).__name__}")
    return members


class _Adversarial(nn.Module):
    def __init__(self, average_by_discriminators: bool = True, loss_type: str = "mse") -> None:
        super().__init__()
        if loss_type not in ("mse", "hinge"):
            raise AssertionError(f"loss_type: expected 'mse' or 'hinge', got {loss_type!r}")
        self.average_by_discriminators = average_by_discriminators
        self.loss_type = loss_type

    def _weighed(self, term: Term, members: list[Tensor]) -> list[tuple[Term, Tensor]]:
        term = term.weighted(1.0 / (len(members) if self.average_by_discriminators else 1))
        return [(term, x) for x in members]


class GeneratorAdversarialLoss(_Adversarial):
    """`loss(outputs)`: mean (x - 1)^2 ("mse") or -mean x ("hinge"), of a tensor or summed over a list of them.

    Args:
        average_by_discriminators: divide the sum by the list's length.
        loss_type: "mse" or "hinge"; another raises AssertionError.
    """

    def forward(self, outputs: Any) -> Tensor:
        """Return a scalar of the logits' dtype; an empty list raises ValueError."""
        term = square(1.0) if self.loss_type == "mse" else MINUS
        return mean_of(*self._weighed(term, _members("outputs", outputs)))


class DiscriminatorAdversarialLoss(_Adversarial):
    """`loss(outputs_hat, outputs)`: the tuple (loss on real, loss on fake). Fake logits are the first argument.

    Mean (r - 1)^2 and mean f^2 ("mse"), or -mean min(r - 1, 0) and -mean min(-f - 1, 0) ("hinge"). The arguments
    are those of `GeneratorAdversarialLoss`.
    """

    def forward(self, outputs_hat: Any, outputs: Any) -> tuple[Tensor, Tensor]:
        """Return two scalars with a graph each; an empty list raises ValueError."""
        fakes, reals = _members("outputs_hat", outputs_hat), _members("outputs", outputs)
        mse = self.loss_type == "mse"
        pairs = list(zip(reals, fakes, strict=False))
        on_real = self._weighed(square(1.0) if mse else min_hinge(-1), [r for r, _ in pairs])
        on_fake = self._weighed(square(0.0) if mse else min_hinge(1), [f for _, f in pairs])
        return mean_of(*on_real), mean_of(*on_fake)  # apart, as each may be differentiated by itself


class FeatureMatchLoss(nn.Module):
    """`loss(feats_hat, feats)`: over discriminators and layers, mean |fake - real|, with real detached.

    Args:
        average_by_layers: divide each discriminator's sum by its number of layers.
        average_by_discriminators: divide the total by the number of discriminators.
        include_final_outputs: also compare the last entry of each, the logits.
    """

    def __init__(
        self,
        average_by_layers: bool = True,
        average_by_discriminators: bool = True,
        include_final_outputs: bool = False,
    ) -> None:
        super().__init__()
        self.average_by_layers = average_by_layers
        self.average_by_discriminators = average_by_discriminators
        self.include_final_outputs = include_final_outputs

    def forward(self, feats_hat: Any, feats: Any) -> Any:
        """Return a scalar of the maps' dtype; 0.0, where no discriminator has a map beside its final output."""
        members = list(zip(feats_hat, feats, strict=False))
        if not members:
            raise ValueError("feats_hat and feats: expected at least one discriminator")
        reals: list[Tensor] = []
        fakes: list[Tensor] = []
        weights: list[float] = []
        for fake, real in members:
            end = None if self.include_final_outputs else -1
            pairs = list(zip(fake[:end], real[:end], strict=False))
            if not pairs:  # the trainer counts it among the discriminators, with a sum of 0
                continue
            fakes += [f for f, _ in pairs]
            reals += [r for _, r in pairs]
            outer = len(members) if self.average_by_discriminators else 1
            weights += [1.0 / outer / (len(pairs) if self.average_by_layers else 1)] * len(pairs)
        return feature_distance(reals, fakes, weights, detach_real=True) if fakes else 0.0


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: logits of two discriminators."""
    return {"outputs": [leaf(2, 3, seed=5), leaf(2, 3, seed=6)]}
