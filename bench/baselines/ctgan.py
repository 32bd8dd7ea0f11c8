"""How CTGAN computes the gradient penalty of its critic, which sees packs of rows (PacGAN)."""

import torch


def calc_gradient_penalty(self, real_data, fake_data, device="cpu", pac=10, lambda_=10):
    """WGAN-GP's penalty, with one draw and one norm per pack; a method of the critic there."""
    alpha = torch.rand(real_data.size(0) // pac, 1, 1, device=device)
    alpha = alpha.repeat(1, pac, real_data.size(1)).view(-1, real_data.size(1))
    between = alpha * real_data + ((1 - alpha) * fake_data)
    scores = self(between)
    (grads,) = torch.autograd.grad(
        outputs=scores, inputs=between, grad_outputs=torch.ones(scores.size(), device=device), create_graph=True,
        retain_graph=True, only_inputs=True,
    )  # fmt: skip
    off = grads.view(-1, pac * real_data.size(1)).norm(2, dim=1) - 1
    return (off**2).mean() * lambda_
