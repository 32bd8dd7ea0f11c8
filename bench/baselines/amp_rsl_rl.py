"""How amp-rsl-rl computes its discriminator's losses and penalties, which are its methods."""

import torch
from torch import autograd


def policy_loss(self, discriminator_output):
    """The cross-entropy with 0."""
    return self.loss_fun(discriminator_output, torch.zeros_like(discriminator_output, device=self.device))


def expert_loss(self, discriminator_output):
    """The cross-entropy with 1."""
    return self.loss_fun(discriminator_output, torch.ones_like(discriminator_output, device=self.device))


def wgan_loss(self, policy_d, expert_d):
    """WGAN's, of a tanh of the scores."""
    return torch.tanh(self.eta_wgan * policy_d).mean() - torch.tanh(self.eta_wgan * expert_d).mean()


def compute_loss(self, policy_d, expert_d, sample_amp_expert, sample_amp_policy, lambda_=10):
    """The loss, and the penalty at normalised samples."""
    experts = tuple(self.amp_normalizer(s) for s in sample_amp_expert)
    policies = tuple(self.amp_normalizer(s) for s in sample_amp_policy)
    penalty = self.compute_grad_pen(expert_states=experts, policy_states=policies, lambda_=lambda_)
    if self.loss_type == "BCEWithLogits":
        expert_loss = self.loss_fun(expert_d, torch.ones_like(expert_d))
        policy_loss = self.loss_fun(policy_d, torch.zeros_like(policy_d))
        loss = 0.5 * (expert_loss + policy_loss)
    elif self.loss_type == "Wasserstein":
        loss = self.wgan_loss(policy_d=policy_d, expert_d=expert_d)
    return loss, penalty


def compute_grad_pen(self, expert_states, policy_states, lambda_=10):
    """R1 at expert samples for the cross-entropy; WGAN-GP between both for the Wasserstein loss."""
    expert = torch.cat(expert_states, -1)
    if self.loss_type == "Wasserstein":
        policy = torch.cat(policy_states, -1)
        alpha = torch.rand(expert.size(0), 1, device=expert.device).expand_as(expert)
        data = (alpha * expert + (1 - alpha) * policy).detach().requires_grad_(True)
        scores = _scores(self, data)
        ones = torch.ones_like(scores)
        (grad,) = autograd.grad(scores, data, grad_outputs=ones, create_graph=True, retain_graph=True)
        return lambda_ * (grad.norm(2, dim=1) - 1.0).pow(2).mean()
    if self.loss_type == "BCEWithLogits":
        data = expert.detach().requires_grad_(True)
        (grad,) = autograd.grad(_scores(self, data).sum(), data, create_graph=True, retain_graph=True)
        return 0.5 * lambda_ * (grad.pow(2).sum(dim=1)).mean()
    raise ValueError(f"Unsupported loss type: {self.loss_type}.")


def _scores(self, data):
    """The discriminator's scores of normalised samples; the batch's deviation is a constant."""
    h = self.trunk(data)
    if self.use_minibatch_std:
        with torch.no_grad():
            s = self._minibatch_std_scalar(h)
        h = torch.cat([h, s], dim=-1)
    return self.linear(h)
