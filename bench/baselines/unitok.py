"""How UniTok computes its discriminator's losses: of one side, real logits or negated fake ones."""

import torch.nn.functional as F


def hinge_loss(logits):
    """The hinge of real logits."""
    return (1 - logits).relu().mean()


def softplus_loss(logits):
    """The softplus of real logits."""
    return F.softplus(-logits).mean()


def linear_loss(logits):
    """The negated mean."""
    return (-logits).mean()
