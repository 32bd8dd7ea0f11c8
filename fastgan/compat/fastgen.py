"""FastGen (NVlabs/FastGen, fastgen/methods/common_loss.py): adversarial losses of distilled diffusion models.

    from fastgen.methods.common_loss import ..., gan_loss_generator, gan_loss_discriminator     # before
    from fastgan.compat.fastgen import gan_loss_discriminator, gan_loss_generator               # after

Put the line below the trainer's own import in methods/distribution_matching/dmd2.py and ladd.py, or call
`fastgan.compat.patch("fastgen")`. The losses of the diffusion model in the same module stay.

The trainer freezes the discriminator in the student's step itself, so that `fastgan.frozen` adds nothing. Logits
are a few per sample, from heads on a teacher's features: the losses are a small part of a step.

The approximate R1 is inline, a mean square between logits: `fastgan.compat.modelopt.r1_loss` is the same. It
compares logits of a noised sample with those of the clean one plus noise, which is not noised to its timestep. So
it measures no smoothness; `fastgan.gradient_penalty(kind="r1-approx", perturb=...)` can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._shared import mean_of, softplus

__all__ = ["gan_loss_discriminator", "gan_loss_generator"]

ORIGIN = Origin(("fastgen.methods.common_loss",))


def check_2d(**logits: Tensor) -> None:
    """Check that logits are (batch, heads).

    Raises:
        AssertionError: they are not, as in the trainer.
    """
    for name, x in logits.items():
        if x.ndim != 2:
            raise AssertionError(f"{name}: expected shape (batch, heads), got {tuple(x.shape)}")


def gan_loss_generator(fake_logits: Tensor) -> Tensor:
    """Return mean softplus(-f), of logits (batch, heads)."""
    check_2d(fake_logits=fake_logits)
    return mean_of((softplus(-1), fake_logits))


def gan_loss_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return mean softplus(f) + mean softplus(-r), of logits (batch, heads)."""
    check_2d(real_logits=real_logits, fake_logits=fake_logits)
    return mean_of((softplus(1), fake_logits), (softplus(-1), real_logits))


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return logits of three heads for the probe."""
    return {"real_logits": leaf(4, 3, seed=1), "fake_logits": leaf(4, 3, seed=2)}
