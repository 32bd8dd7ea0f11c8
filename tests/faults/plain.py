"""The penalties as the papers state them, in float64 by PyTorch's autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def in_double(d: nn.Module) -> nn.Module:
    """A copy in float64, without gradients."""
    twin = copy.deepcopy(d).double()
    twin.zero_grad()
    return twin


def penalty(
    d: Callable[[Tensor], Tensor], x: Tensor, samples: Callable[[Tensor], list[Tensor]], kind: str = "two_sided"
) -> Tensor:
    """Mean over samples of (n - 1)^2, or of n^2 for "power"; `samples` splits a gradient into those of samples."""
    x = x.detach().double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        (g,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    norms = torch.stack([s.square().sum() for s in samples(g)])
    return norms.mean() if kind == "power" else ((norms.sqrt() - 1) ** 2).mean()


def gradients(value: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of a value, zeros where there is none."""
    parameters = list(parameters)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def agree(got: Tensor, d: nn.Module, want: Tensor, twin: nn.Module, within: float = 2e-6) -> None:
    """Whether a value and its gradients by a network's parameters are those in float64."""
    assert abs(got.item() - want.item()) <= within * abs(want.item())
    wanted = gradients(want, twin.parameters())
    least = 0.02 * max(b.norm() for b in wanted)  # sums that cancel have float32's noise of the largest
    for a, b in zip(gradients(got, d.parameters()), wanted, strict=True):
        assert (a.double() - b).norm() <= 10 * within * b.norm().clamp_min(least), (a, b)
