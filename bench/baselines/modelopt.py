"""How NVIDIA's Model Optimizer computes the adversarial losses of its distillation, which it has from FastGen."""

import torch.nn.functional as F


def gan_gen_loss(fake_logits):
    """The mean softplus of negated fake logits."""
    assert fake_logits.ndim == 2, f"fake_logits must be 2D, got shape {tuple(fake_logits.shape)}"
    return F.softplus(-fake_logits).mean()


def gan_disc_loss(real_logits, fake_logits):
    """Both sides' mean softplus."""
    assert real_logits.ndim == 2, f"real_logits must be 2D, got shape {tuple(real_logits.shape)}"
    assert fake_logits.ndim == 2, f"fake_logits must be 2D, got shape {tuple(fake_logits.shape)}"
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_loss(real_logits, perturbed_real_logits):
    """The mean squared difference of logits and their neighbours'."""
    assert real_logits.shape == perturbed_real_logits.shape, "the shapes must match"
    return F.mse_loss(real_logits, perturbed_real_logits, reduction="mean")
