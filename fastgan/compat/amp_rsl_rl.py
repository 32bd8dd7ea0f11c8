"""amp-rsl-rl (gbionics/amp-rsl-rl, amp_rsl_rl/networks/discriminator.py): adversarial motion priors.

    from amp_rsl_rl.networks.discriminator import Discriminator       # before
    import fastgan                                                    # after, below it
    fastgan.compat.patch("amp_rsl_rl")

The losses and penalties are methods of the trainer's Discriminator, and so each function here has it as `self`.
`compute_grad_pen` is the part that costs: the discriminator's double backward, which is pruned here (ReLU). The
policy gets no gradient from the discriminator, whose reward is made under no_grad, so that `fastgan.frozen` adds
nothing.

With the cross-entropy the penalty is R1 at expert samples, with a factor 1/2; with the Wasserstein loss it is
WGAN-GP between both. The deviation of the minibatch is a constant in either.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..penalties import gradient_penalty
from ._origin import Origin
from ._shared import MINUS, PLUS, mean_of, softplus

__all__ = ["compute_grad_pen", "compute_loss", "expert_loss", "policy_loss", "wgan_loss"]

ORIGIN = Origin(
    ("amp_rsl_rl.networks.discriminator",), methods=tuple([(name, (name,)) for name in __all__])
)  # fmt: skip


def policy_loss(self: Any, discriminator_output: Tensor) -> Tensor:
    """Return mean softplus(x), the cross-entropy with 0."""
    _check_cross_entropy(self)
    return mean_of((softplus(1), discriminator_output))


def expert_loss(self: Any, discriminator_output: Tensor) -> Tensor:
    """Return mean softplus(-x), the cross-entropy with 1."""
    _check_cross_entropy(self)
    return mean_of((softplus(-1), discriminator_output))


def _check_cross_entropy(self: Any) -> None:
    if self.loss_fun is None:
        raise TypeError(f"loss_type: expected 'BCEWithLogits' for this loss, got {self.loss_type!r}")


def wgan_loss(self: Any, policy_d: Tensor, expert_d: Tensor) -> Tensor:
    """Return mean tanh(eta f) - mean tanh(eta r), with f the policy's and r the expert's scores."""
    policy, expert = torch.tanh(self.eta_wgan * policy_d), torch.tanh(self.eta_wgan * expert_d)
    return mean_of((PLUS, policy), (MINUS, expert))


def compute_loss(
    self: Any, policy_d: Tensor, expert_d: Tensor, sample_amp_expert: tuple[Tensor, Tensor],
    sample_amp_policy: tuple[Tensor, Tensor], lambda_: float = 10,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (loss, penalty): (mean softplus(-r) + mean softplus(f)) / 2, or `wgan_loss`; and `compute_grad_pen`.

    The penalty is at normalised samples.
    """
    experts = tuple(self.amp_normalizer(s) for s in sample_amp_expert)
    policies = tuple(self.amp_normalizer(s) for s in sample_amp_policy)
    penalty = self.compute_grad_pen(expert_states=experts, policy_states=policies, lambda_=lambda_)
    if self.loss_type == "Wasserstein":
        return self.wgan_loss(policy_d=policy_d, expert_d=expert_d), penalty
    return mean_of((softplus(-1, 0.5), expert_d), (softplus(1, 0.5), policy_d)), penalty


def compute_grad_pen(
    self: Any, expert_states: tuple[Tensor, Tensor], policy_states: tuple[Tensor, Tensor], lambda_: float = 10
) -> Tensor:
    """Return lambda_ / 2 * mean ||g||^2 at expert samples; for Wasserstein lambda_ * mean (||g|| - 1)^2 between.

    Samples are pairs of states and next states, and get no gradient. The second draws torch.rand(N, 1).

    Raises:
        ValueError: another loss_type than "BCEWithLogits" and "Wasserstein".
    """

    def scores(data: Tensor) -> Tensor:
        h = self.trunk(data)
        if self.use_minibatch_std:
            with torch.no_grad():
                s = self._minibatch_std_scalar(h)
            h = torch.cat([h, s], dim=-1)
        return self.linear(h)

    expert = torch.cat(expert_states, -1).detach()
    if self.loss_type == "BCEWithLogits":
        return gradient_penalty(scores, expert, None, kind="r1", weight=lambda_).to(expert.dtype)
    if self.loss_type != "Wasserstein":
        raise ValueError(f"loss_type: expected 'BCEWithLogits' or 'Wasserstein', got {self.loss_type!r}")
    alpha = torch.rand(len(expert), 1, device=expert.device)
    policy = torch.cat(policy_states, -1).detach()
    wide = torch.promote_types(torch.promote_types(expert.dtype, policy.dtype), alpha.dtype)
    return gradient_penalty(scores, expert.to(wide), policy.to(wide), weight=lambda_, eps=alpha.flatten())


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return a discriminator, states and scores for the probe."""
    judge = SimpleNamespace(
        loss_type="BCEWithLogits", loss_fun=torch.nn.BCEWithLogitsLoss(), device="cpu", eta_wgan=0.3,
        use_minibatch_std=True, amp_normalizer=torch.tanh, trunk=lambda x: x + 0.3 * x.square(),
        linear=lambda h: h.sum(1, keepdim=True), _minibatch_std_scalar=lambda h: h.std(0).mean().expand(len(h), 1),
        compute_grad_pen=lambda expert_states, policy_states, lambda_: lambda_ * expert_states[0].square().sum(),
    )  # fmt: skip
    expert, policy = (leaf(4, 3, seed=1), leaf(4, 3, seed=2)), (leaf(4, 3, seed=3), leaf(4, 3, seed=4))
    found = {"self": judge, "policy_d": leaf(4, 1, seed=5), "expert_d": leaf(4, 1, seed=6)}
    found |= dict.fromkeys(("expert_states", "sample_amp_expert"), expert)
    found |= dict.fromkeys(("policy_states", "sample_amp_policy"), policy)
    return found | {"discriminator_output": leaf(4, 1, seed=7)}
