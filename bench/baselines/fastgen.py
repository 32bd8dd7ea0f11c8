"""How FastGen computes the adversarial losses of its distillation: softplus of (batch, heads) logits."""

import torch.nn.functional as F


def gan_loss_generator(fake_logits):
    """The mean softplus of negated fake logits."""
    assert fake_logits.ndim == 2, f"fake_logits has shape {fake_logits.shape}"
    return F.softplus(-fake_logits).mean()


def gan_loss_discriminator(real_logits, fake_logits):
    """Both sides' mean softplus."""
    assert fake_logits.ndim == 2, f"fake_logits has shape {fake_logits.shape}"
    assert real_logits.ndim == 2, f"real_logits has shape {real_logits.shape}"
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
