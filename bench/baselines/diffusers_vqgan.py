"""How diffusers' VQGAN example computes its gradient penalty, and gradients by a layer."""

import torch


def grad_layer_wrt_loss(loss, layer):
    """The gradient of a loss by a layer's weight, without a graph."""
    grads = torch.autograd.grad(outputs=loss, inputs=layer, grad_outputs=torch.ones_like(loss), retain_graph=True)
    return grads[0].detach()


def gradient_penalty(images, output, weight=10):
    """WGAN-GP's penalty at images that the discriminator has seen already."""
    ones = torch.ones(output.size(), device=images.device)
    (grads,) = torch.autograd.grad(
        outputs=output, inputs=images, grad_outputs=ones, create_graph=True, retain_graph=True, only_inputs=True
    )
    norms = torch.reshape(grads, (grads.shape[0], -1)).norm(2, dim=1)
    return weight * ((norms - 1) ** 2).mean()
