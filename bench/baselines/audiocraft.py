"""How AudioCraft computes its adversarial losses, and the wrapper with which it trains the adversary."""

from collections.abc import Callable
from typing import Union

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

ADVERSARIAL_LOSSES = ["mse", "hinge", "hinge2"]
# As the trainer has them: a Union of typing can be called, one by | cannot.
AdvLossType = Union[nn.Module, Callable[[torch.Tensor], torch.Tensor]]  # noqa: UP007
FeatLossType = Union[nn.Module, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]  # noqa: UP007


def _like(x, value):
    # Always float32, whatever x is: with 16-bit logits the loss is therefore float32.
    return torch.tensor([value], device=x.device).expand_as(x)


def mse_real_loss(x):
    """The squared distance from 1."""
    return F.mse_loss(x, _like(x, 1.0))


def mse_fake_loss(x):
    """The squared distance from 0."""
    return F.mse_loss(x, _like(x, 0.0))


def hinge_real_loss(x):
    """The hinge below 1."""
    return -torch.mean(torch.min(x - 1, _like(x, 0.0)))


def hinge_fake_loss(x):
    """The hinge above -1."""
    return -torch.mean(torch.min(-x - 1, _like(x, 0.0)))


def mse_loss(x):
    """The generator's squared distance from 1; zero for an empty tensor."""
    return mse_real_loss(x) if x.numel() else torch.tensor([0.0], device=x.device)


def hinge_loss(x):
    """The generator's negated mean; zero for an empty tensor."""
    return -x.mean() if x.numel() else torch.tensor([0.0], device=x.device)


def hinge2_loss(x):
    """The generator's hinge below 1; zero for an empty tensor."""
    return hinge_real_loss(x) if x.numel() else torch.tensor([0.0])


def _chosen(loss_type, mse, hinge, hinge2):
    assert loss_type in ADVERSARIAL_LOSSES, f"unknown loss type: {loss_type}"
    return {"mse": mse, "hinge": hinge, "hinge2": hinge2}[loss_type]


def get_adv_criterion(loss_type):
    """The generator's loss of that name."""
    return _chosen(loss_type, mse_loss, hinge_loss, hinge2_loss)


def get_real_criterion(loss_type):
    """The discriminator's loss on real of that name."""
    return _chosen(loss_type, mse_real_loss, hinge_real_loss, hinge_real_loss)


def get_fake_criterion(loss_type):
    """The discriminator's loss on fake of that name."""
    return _chosen(loss_type, mse_fake_loss, hinge_fake_loss, hinge_fake_loss)


class FeatureMatchingLoss(nn.Module):
    """The sum of a loss over feature maps, or its mean."""

    def __init__(self, loss=nn.L1Loss(), normalize=True):  # noqa: B008
        super().__init__()
        self.loss = loss
        self.normalize = normalize

    def forward(self, fmap_fake, fmap_real):
        assert len(fmap_fake) == len(fmap_real)
        assert len(fmap_fake) > 0
        total = torch.tensor(0.0, device=fmap_fake[0].device)
        for fake, real in zip(fmap_fake, fmap_real, strict=True):
            assert fake.shape == real.shape
            total += self.loss(fake, real)
        if self.normalize:
            total /= len(fmap_fake)
        return total


class AdversarialLoss(nn.Module):
    """An adversary with its optimizer: `train_adv` is its step, calling the module the generator's losses."""

    def __init__(self, adversary, optimizer, loss, loss_real, loss_fake, loss_feat=None, normalize=True):
        super().__init__()
        self.adversary = adversary
        self.optimizer = optimizer
        self.loss = loss
        self.loss_real = loss_real
        self.loss_fake = loss_fake
        self.loss_feat = loss_feat
        self.normalize = normalize
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for tensor in [*adversary.parameters(), *adversary.buffers()]:
                dist.broadcast(tensor.data, src=0)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "optimizer"] = self.optimizer.state_dict()

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        self.optimizer.load_state_dict(state_dict.pop(prefix + "optimizer"))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_adversary_pred(self, x):
        """The adversary's logits and feature maps, checked."""
        logits, fmaps = self.adversary(x)
        assert isinstance(logits, list)
        assert all(isinstance(logit, torch.Tensor) for logit in logits)
        assert isinstance(fmaps, list)
        assert all(isinstance(fmap, list) for fmap in fmaps)
        assert all(isinstance(f, torch.Tensor) for fmap in fmaps for f in fmap)
        return logits, fmaps

    def train_adv(self, fake, real):
        """One step of the adversary on detached samples; the loss that comes back has been used."""
        loss = torch.tensor(0.0, device=fake.device)
        fakes, _ = self.get_adversary_pred(fake.detach())
        reals, _ = self.get_adversary_pred(real.detach())
        for logit_fake, logit_real in zip(fakes, reals, strict=False):
            loss += self.loss_fake(logit_fake) + self.loss_real(logit_real)
        if self.normalize:
            loss /= len(fakes)
        self.optimizer.zero_grad()
        loss.backward()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for parameter in self.adversary.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        self.optimizer.step()
        return loss

    def forward(self, fake, real):
        adv = torch.tensor(0.0, device=fake.device)
        feat = torch.tensor(0.0, device=fake.device)
        required = [(p, p.requires_grad) for p in self.adversary.parameters()]
        for parameter, _ in required:
            parameter.requires_grad_(False)
        fakes, fmaps_fake = self.get_adversary_pred(fake)
        _, fmaps_real = self.get_adversary_pred(real)
        for parameter, flag in required:
            parameter.requires_grad_(flag)
        for logit in fakes:
            adv += self.loss(logit)
        if self.loss_feat:
            for fmap_fake, fmap_real in zip(fmaps_fake, fmaps_real, strict=False):
                feat += self.loss_feat(fmap_fake, fmap_real)
        if self.normalize:
            adv /= len(fakes)
            feat /= len(fakes)
        return adv, feat


def _averager(beta):
    """Moving averages of numbers by name: decaying sums over decaying counts."""
    sums, counts = {}, {}

    def update(numbers):
        for name, number in numbers.items():
            sums[name] = sums.get(name, 0.0) * beta + float(number)
            counts[name] = counts.get(name, 0.0) * beta + 1
        return {name: sums[name] / counts[name] for name in sums}

    return update


class Balancer:
    """Scales the gradients of losses at the model's output, and sends their sum on; on one rank."""

    def __init__(
        self,
        weights,
        balance_grads=True,
        total_norm=1.0,
        ema_decay=0.999,
        per_batch_item=True,
        epsilon=1e-12,
        monitor=False,
    ):
        self.weights = weights
        self.balance_grads = balance_grads
        self.total_norm = total_norm or 1.0
        self.averager = _averager(ema_decay or 1.0)
        self.per_batch_item = per_batch_item
        self.epsilon = epsilon
        self.monitor = monitor
        self._metrics = {}

    @property
    def metrics(self):
        """Each loss's part of the sum of norms."""
        return self._metrics

    def backward(self, losses, input):
        """Send the gradient on; the loss with the same factors."""
        grads = {k: torch.autograd.grad(loss, [input], retain_graph=True)[0] for k, loss in losses.items()}
        each = self.per_batch_item
        norms = {k: (g.norm(dim=tuple(range(1, g.dim()))).mean() if each else g.norm()) for k, g in grads.items()}
        averages = self.averager(norms)
        self._metrics = {}
        if self.monitor:
            self._metrics = {f"ratio_{k}": a / sum(averages.values()) for k, a in averages.items()}
        total = sum(self.weights[k] for k in averages)
        assert total > 0
        gradient = torch.zeros_like(input)
        loss = torch.tensor(0.0, device=input.device, dtype=input.dtype)
        for k, average in averages.items():
            scale = self.weights[k]
            if self.balance_grads:
                scale = scale / total * self.total_norm / (self.epsilon + average)
            gradient.add_(grads[k], alpha=scale)
            loss += scale * losses[k].detach()
        input.backward(gradient)
        return loss
