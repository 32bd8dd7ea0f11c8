"""The penalty's cases: as one writes them in PyTorch, and the same of fastgan.

The only place with baselines of penalties; `test_penalties.py` and `penalties.py` time what is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastgan
from fastgan import norms

SHAPES = ((64, 3, 64, 64), (16, 3, 256, 256))
WEIGHT = 10.0
Work = Callable[[], Any]


class Data(NamedTuple):
    """What the cases work on: samples, eps, and a gradient that wants a gradient."""

    real: Tensor
    fake: Tensor
    eps: Tensor
    g: Tensor


def data(shape: tuple[int, ...]) -> Data:
    """The same for each contender."""
    generator = torch.Generator().manual_seed(0)
    real, fake, g = (torch.randn(shape, generator=generator) for _ in range(3))
    return Data(real, fake, torch.rand(shape[0], generator=generator), (0.01 * g).requires_grad_())


# --- the usual recipe -----------------------------------------------------------------------------------


def recipe_points(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The points between, as in most trainers."""
    e = eps.view(-1, 1, 1, 1)
    return e * real + (1 - e) * fake


def recipe_penalty(g: Tensor) -> Tensor:
    """The penalty given the gradient, as in most trainers."""
    return WEIGHT * ((g.view(g.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def lerp_points(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The points between, by PyTorch's own function."""
    return torch.lerp(fake, real, eps.view(-1, 1, 1, 1))


def fused_penalty(g: Tensor) -> Tensor:
    """What `gradient_penalty` does with the discriminator's gradient."""
    return norms.penalty(g, "two_sided", target=1.0, power=2, over="sample", reduction="mean", scale=WEIGHT)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The recipe under torch.compile."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


# --- cases ----------------------------------------------------------------------------------------------

POINTS = {
    "fused": fastgan.interpolate,
    "eager": recipe_points,
    "lerp": lerp_points,
    "compiled": lambda: compiled(recipe_points),
}
PENALTY = {"fused": fused_penalty, "eager": recipe_penalty, "compiled": lambda: compiled(recipe_penalty)}
COPIED = {"interpolation": 1.5, "penalty": 1.0, "both": 2.5}  # tensors read and written at least
CONTENDERS = {
    "interpolation": ("fused", "eager", "lerp", "compiled", "copy"),
    "penalty": ("fused", "eager", "compiled", "copy"),
    "both": ("fused", "eager", "compiled", "copy"),
}


def _made(table: dict[str, Any], contender: str) -> Callable[..., Tensor]:
    return table[contender]() if contender == "compiled" else table[contender]


def work(contender: str, case: str, d: Data) -> Work:
    """One step of a contender: what is timed. `penalty` and `both` are forward and backward."""
    if contender == "copy":
        source = torch.ones(int(COPIED[case] * d.g.numel()))
        return partial(torch.empty_like(source).copy_, source)
    points = _made(POINTS, contender) if case != "penalty" else None
    penalty = _made(PENALTY, contender) if case != "interpolation" else None

    def step() -> None:
        if points is not None:
            points(d.real, d.fake, d.eps)
        if penalty is not None:
            d.g.grad = None
            penalty(d.g).backward()

    return step


def check(shape: tuple[int, ...]) -> None:
    """Raises unless fastgan computes what the recipe does."""
    d = data(shape)
    torch.testing.assert_close(fastgan.interpolate(d.real, d.fake, d.eps), recipe_points(d.real, d.fake, d.eps))
    results = []
    for penalty in (fused_penalty, recipe_penalty):
        value = penalty(d.g)
        results.append((value.detach(), *torch.autograd.grad(value, d.g)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


# --- a whole penalty ------------------------------------------------------------------------------------


def discriminator(size: int) -> nn.Module:
    """A small DCGAN discriminator."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width, channels = 16, 3
    while size > 4:
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels, width, size = width, 2 * width, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 1))


def whole(contender: str, d: Data) -> Work:
    """The penalty of a discriminator from samples to its parameters' gradients."""
    net = discriminator(d.real.shape[-1])

    def recipe() -> Tensor:
        x = recipe_points(d.real, d.fake, d.eps).requires_grad_()
        out = net(x)
        (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
        return recipe_penalty(g)

    def ours() -> Tensor:
        prune = contender == "pruned"
        return fastgan.gradient_penalty(net, d.real, d.fake, eps=d.eps, weight=WEIGHT, prune=prune)

    penalty = recipe if contender == "eager" else ours

    def step() -> None:
        net.zero_grad(set_to_none=True)
        penalty().backward()

    return step
