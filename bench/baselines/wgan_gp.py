"""How the much copied WGAN-GP and DRAGAN scripts (PyTorch-GAN, caogang/wgan-gp) compute their penalties."""

import torch


def _gradient(outputs, inputs, ones):
    return torch.autograd.grad(outputs, inputs, grad_outputs=ones, create_graph=True, retain_graph=True)[0]


def _numpy_uniform(shape, device):
    import numpy as np

    return torch.tensor(np.random.random(tuple(shape)), dtype=torch.float32, device=device)


def compute_gradient_penalty(D, real_samples, fake_samples):
    """WGAN-GP, without its weight: the norm over all of a sample, one uniform number a sample."""
    n = real_samples.size(0)
    alpha = _numpy_uniform((n, 1, 1, 1), real_samples.device)
    points = (alpha * real_samples + (1 - alpha) * fake_samples).requires_grad_(True)
    gradient = _gradient(D(points), points, points.new_ones(n, 1)).view(n, -1)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()


def compute_gradient_penalty_dragan(D, X, lambda_gp=None):
    """DRAGAN with its weight: the norm over dim 1 alone, one uniform number an element."""
    alpha = _numpy_uniform(X.shape, X.device)
    noisy = X + 0.5 * X.std() * torch.rand(X.size()).to(X.device)
    points = (alpha * X + (1 - alpha) * noisy).detach().requires_grad_(True)
    gradient = _gradient(D(points), points, points.new_ones(X.size(0), 1))
    return lambda_gp * ((gradient.norm(2, dim=1) - 1) ** 2).mean()


def compute_gradient_penalty_div(real_validity, real_imgs, fake_validity, fake_imgs, k=None, p=None):
    """WGAN-div's div_gp with its weight: powers of the norms at real and at fake images themselves."""
    powers = []
    for outputs, inputs in ((real_validity, real_imgs), (fake_validity, fake_imgs)):
        gradient = _gradient(outputs, inputs, torch.ones_like(outputs))
        powers.append(gradient.reshape(len(inputs), -1).pow(2).sum(1) ** (p / 2))
    return torch.mean(powers[0] + powers[1]) * k / 2


def calc_gradient_penalty(netD, real_data, fake_data, LAMBDA=None, *, over=None):
    """WGAN-GP with its weight; over="dim1" is the text model's norm, over dim 1 alone of (N, length, symbols)."""
    n = real_data.size(0)
    alpha = torch.rand(n, *[1] * (real_data.dim() - 1)).to(real_data.device)
    points = (alpha * real_data + (1 - alpha) * fake_data).detach().requires_grad_(True)
    output = netD(points)
    gradient = _gradient(output, points, torch.ones_like(output))
    if over != "dim1":
        gradient = gradient.reshape(n, -1)
    return LAMBDA * ((gradient.norm(2, dim=1) - 1) ** 2).mean()
