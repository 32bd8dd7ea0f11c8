"""How magvit2-pytorch computes its hinge (fake first), its gradient penalty and a layer's gradients."""

import torch
import torch.nn.functional as F


def hinge_discr_loss(fake, real):
    """The mean of both hinges' sum."""
    return (F.relu(1 + fake) + F.relu(1 - real)).mean()


def hinge_gen_loss(fake):
    """The negated mean."""
    return -fake.mean()


def gradient_penalty(images, output, center=0.0):
    """The mean squared distance of each sample's norm from the center; the weight is the trainer's."""
    (gradient,) = torch.autograd.grad(
        output, images, grad_outputs=torch.ones_like(output), create_graph=True, retain_graph=True
    )
    return ((gradient.reshape(gradient.shape[0], -1).norm(2, dim=1) - center) ** 2).mean()


def grad_layer_wrt_loss(loss, layer):
    """The detached gradient of a loss at a layer's weight; the graph is kept."""
    return torch.autograd.grad(loss, layer, grad_outputs=torch.ones_like(loss), retain_graph=True)[0].detach()
