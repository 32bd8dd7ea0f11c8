"""AudioCraft: EnCodec, MusicGen (facebookresearch/audiocraft: adversarial/losses.py, losses/balancer.py).

    from audiocraft.adversarial import AdversarialLoss, FeatureMatchingLoss                  # before
    from audiocraft.losses import Balancer
    from fastgan.compat.audiocraft import AdversarialLoss, Balancer, FeatureMatchingLoss     # after

AudioCraft's own solvers/builders.py takes them as `adversarial.AdversarialLoss` and so on: call
`fastgan.compat.patch("audiocraft")` for it.

`AdversarialLoss` freezes its adversary in the generator's step, as AudioCraft does: there is nothing to wrap. In a
loop that calls the criteria itself, wrap the adversary's calls of that step in `fastgan.frozen(adversary)`.

With this module's criteria, all of an adversary's logits go through one call, and all feature maps through another.
Fake comes first. At the kink of "hinge" the derivative is 1/2 of the slope, as that of AudioCraft's minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..backends.specs import Term
from ..balance import LossBalancer
from ..discriminator.frozen import frozen
from ._origin import Origin
from ._shared import MINUS, feature_distance, mean_of, min_hinge, square

__all__ = [
    "ADVERSARIAL_LOSSES", "AdvLossType", "AdversarialLoss", "Balancer", "FeatLossType", "FeatureMatchingLoss",
    "get_adv_criterion", "get_fake_criterion", "get_real_criterion", "hinge2_loss", "hinge_fake_loss", "hinge_loss",
    "hinge_real_loss", "mse_fake_loss", "mse_loss", "mse_real_loss",
]  # fmt: skip

ORIGIN = Origin(("audiocraft.adversarial.losses", "audiocraft.losses.balancer"))

ADVERSARIAL_LOSSES = ["mse", "hinge", "hinge2"]
AdvLossType = nn.Module | Callable[[Tensor], Tensor]
FeatLossType = nn.Module | Callable[[Tensor, Tensor], Tensor]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def mse_real_loss(x: Tensor) -> Tensor:
    """Return mean (x - 1)^2: float32 for 16-bit logits, as for all criteria but `hinge_loss`."""
    return mean_of((square(1.0), x), dtype=_wide(x))


def mse_fake_loss(x: Tensor) -> Tensor:
    """Return mean x^2."""
    return mean_of((square(0.0), x), dtype=_wide(x))


def mse_loss(x: Tensor) -> Tensor:
    """Return mean (x - 1)^2.

    For an empty tensor, all generator losses return a zero of shape (1,) without a graph.
    """
    return mse_real_loss(x) if x.numel() else torch.zeros(1, device=x.device)


def hinge_real_loss(x: Tensor) -> Tensor:
    """Return -mean min(x - 1, 0)."""
    return mean_of((min_hinge(-1), x), dtype=_wide(x))


def hinge_fake_loss(x: Tensor) -> Tensor:
    """Return -mean min(-x - 1, 0)."""
    return mean_of((min_hinge(1), x), dtype=_wide(x))


def hinge_loss(x: Tensor) -> Tensor:
    """Return -mean x, in the logits' dtype."""
    return mean_of((MINUS, x)) if x.numel() else torch.zeros(1, device=x.device)


def hinge2_loss(x: Tensor) -> Tensor:
    """Return -mean min(x - 1, 0)."""
    return hinge_real_loss(x) if x.numel() else torch.zeros(1)


def _known(loss_type: str) -> None:
    if loss_type not in ADVERSARIAL_LOSSES:
        raise AssertionError(f"loss_type: expected one of {ADVERSARIAL_LOSSES}, got {loss_type!r}")


def get_adv_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """Return the generator's loss of that type; an unknown one raises AssertionError."""
    _known(loss_type)
    return {"mse": mse_loss, "hinge": hinge_loss, "hinge2": hinge2_loss}[loss_type]


def get_fake_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """Return the discriminator's loss on fake logits."""
    _known(loss_type)
    return mse_fake_loss if loss_type == "mse" else hinge_fake_loss


def get_real_criterion(loss_type: str) -> Callable[[Tensor], Tensor]:
    """Return the discriminator's loss on real logits."""
    _known(loss_type)
    return mse_real_loss if loss_type == "mse" else hinge_real_loss


# The criteria as terms, so that those of several members can go through one call.
_TERMS: dict[Any, Term] = {
    mse_real_loss: square(1.0),
    mse_fake_loss: square(0.0),
    mse_loss: square(1.0),
    hinge_real_loss: min_hinge(-1),
    hinge_fake_loss: min_hinge(1),
    hinge_loss: MINUS,
    hinge2_loss: min_hinge(-1),
}


def _sum_of(entries: Sequence[tuple[Any, Tensor]], divisor: float) -> Tensor:
    """Return the sum of criterion(x) over `divisor`, as a float32 scalar; an empty tensor counts as 0."""
    filled = [(criterion, x) for criterion, x in entries if x.numel()]
    if filled and all(criterion in _TERMS for criterion, _ in filled):
        terms = [(_TERMS[c].weighted(1.0 / divisor), x) for c, x in filled]
        return mean_of(*terms, dtype=torch.float32)
    total = torch.zeros((), device=entries[0][1].device)
    for criterion, x in filled:
        total = total + criterion(x).float()
    return total / divisor


def _is_mean_l1(loss: Any) -> bool:
    return type(loss) is nn.L1Loss and loss.reduction == "mean"


class FeatureMatchingLoss(nn.Module):
    """`FeatureMatchingLoss()(fmap_fake, fmap_real)`: the sum over maps of loss(fake, real), over their number.

    Args:
        loss: of two maps; with the default L1 all maps go through one call.
        normalize: divide by the number of maps.

    A float32 scalar. Real maps are not detached. Empty lists, unequal lengths and shapes raise AssertionError.
    """

    def __init__(self, loss: nn.Module = nn.L1Loss(), normalize: bool = True) -> None:  # noqa: B008 (as there)
        super().__init__()
        self.loss = loss
        self.normalize = normalize

    def forward(self, fmap_fake: list[Tensor], fmap_real: list[Tensor]) -> Tensor:
        """Return the loss of two lists of maps."""
        self.check(fmap_fake, fmap_real)
        divisor = len(fmap_fake) if self.normalize else 1
        if _is_mean_l1(self.loss):
            return feature_distance(fmap_real, fmap_fake, 1.0 / divisor, dtype=torch.float32)
        total = torch.zeros((), device=fmap_fake[0].device)
        for fake, real in zip(fmap_fake, fmap_real, strict=True):
            total = total + self.loss(fake, real).float()
        return total / divisor

    @staticmethod
    def check(fmap_fake: list[Tensor], fmap_real: list[Tensor]) -> None:
        """Raise AssertionError unless the lists match."""
        if not 0 < len(fmap_fake) == len(fmap_real):
            raise AssertionError(
                f"feature maps: expected as many, at least 1, got {len(fmap_fake)}, {len(fmap_real)}"
            )
        for k, (fake, real) in enumerate(zip(fmap_fake, fmap_real, strict=True)):
            if fake.shape != real.shape:
                raise AssertionError(f"feature map {k}: shapes differ, {tuple(fake.shape)} and {tuple(real.shape)}")


class AdversarialLoss(nn.Module):
    """An adversary that trains itself.

    `train_adv(fake, real)` is its step, `forward(fake, real)` the generator's loss.

    Args:
        adversary: returns (list of logits, list of lists of feature maps); its weights are broadcast from rank 0
            where there is a process group.
        optimizer: the adversary's; its state is in this module's state_dict.
        loss: the generator's, of one member's logits.
        loss_real: the adversary's, of real logits.
        loss_fake: the adversary's, of fake logits.
        loss_feat: of two lists of maps, or None.
        normalize: divide by the number of members.
    """

    def __init__(
        self,
        adversary: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: AdvLossType,
        loss_real: AdvLossType,
        loss_fake: AdvLossType,
        loss_feat: FeatLossType | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.adversary = adversary
        if _ranks() > 1:
            for t in [*adversary.parameters(), *adversary.buffers()]:
                dist.broadcast(t.data, 0)
        self.optimizer = optimizer
        self.loss = loss
        self.loss_real = loss_real
        self.loss_fake = loss_fake
        self.loss_feat = loss_feat
        self.normalize = normalize

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "optimizer"] = self.optimizer.state_dict()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        self.optimizer.load_state_dict(state_dict.pop(prefix + "optimizer"))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_adversary_pred(self, x: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return the adversary's logits and feature maps; another form raises AssertionError."""
        logits, fmaps = self.adversary(x)
        lists = isinstance(logits, list) and all(isinstance(t, Tensor) for t in logits) and isinstance(fmaps, list)
        if not (lists and all(isinstance(f, list) and all(isinstance(t, Tensor) for t in f) for f in fmaps)):
            raise AssertionError("adversary: expected (list of tensors, list of lists of tensors)")
        return logits, fmaps

    def train_adv(self, fake: Tensor, real: Tensor) -> Tensor:
        """Run a step of the adversary on fake and real, both detached.

        Returns:
            The loss, whose graph has been used.
        """
        fake_logits, _ = self.get_adversary_pred(fake.detach())
        real_logits, _ = self.get_adversary_pred(real.detach())
        members = list(zip(fake_logits, real_logits, strict=False))
        entries = [e for f, r in members for e in ((self.loss_fake, f), (self.loss_real, r))]
        loss = _sum_of(entries, len(fake_logits) if self.normalize else 1)
        self.optimizer.zero_grad()
        loss.backward()
        _average(self.adversary)
        self.optimizer.step()
        return loss

    def forward(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator's (adversarial, feature matching) losses; the second is 0 without `loss_feat`.

        The adversary's parameters get no gradient.
        """
        with frozen(self.adversary):
            fake_logits, fake_maps = self.get_adversary_pred(fake)
            _, real_maps = self.get_adversary_pred(real)
        n = len(fake_logits) if self.normalize else 1
        adversarial = _sum_of([(self.loss, x) for x in fake_logits], n)
        features = torch.zeros((), device=fake.device)
        if self.loss_feat is not None:
            features = self._features(fake_maps, real_maps, n)
        return adversarial, features

    def _features(self, fake_maps: list[list[Tensor]], real_maps: list[list[Tensor]], n: int) -> Tensor:
        matching: Any = self.loss_feat
        if type(matching) is not FeatureMatchingLoss or not _is_mean_l1(matching.loss):
            total = torch.zeros((), device=fake_maps[0][0].device)
            for fake, real in zip(fake_maps, real_maps, strict=False):
                total = total + matching(fake, real).float()
            return total / n
        fakes: list[Tensor] = []
        reals: list[Tensor] = []
        weights: list[float] = []
        for fake, real in zip(fake_maps, real_maps, strict=False):
            matching.check(fake, real)
            fakes, reals = fakes + fake, reals + real
            weights += [1.0 / n / (len(fake) if matching.normalize else 1)] * len(fake)
        return feature_distance(reals, fakes, weights, dtype=torch.float32)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def _average(module: nn.Module) -> None:
    """Average gradients and floating-point buffers (statistics, spectral norms) over ranks."""
    ranks = _ranks()
    if ranks == 1:
        return
    shared = [p.grad for p in module.parameters() if p.grad is not None]
    shared += [b for b in module.buffers() if b.is_floating_point() or b.is_complex()]
    counts = torch.tensor([len(shared), -len(shared)], device=shared[0].device if shared else None)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    if counts[0] != -counts[1]:
        raise RuntimeError(f"adversary: expected as many gradients on each rank, got {len(shared)} on this one")
    for t in shared:
        dist.all_reduce(t)
        t.div_(ranks)


class _Norms(LossBalancer):
    """A balancer that keeps the averages of its last call, for `Balancer.metrics`."""

    averages: Tensor

    def _averages(self, grads: Sequence[Tensor], places: list[int]) -> Tensor:
        self.averages = super()._averages(grads, places)
        return self.averages


class Balancer:
    """`Balancer(weights).backward(losses, input)`: scale the losses' gradients at `input`, and send them on.

    With avg the moving average of a norm, the gradient is the sum of total_norm * w / (sum of w) * g / avg(||g||).
    Parameters on which a loss depends otherwise than through `input` get no gradient. Options are read at each
    call, but for `ema_decay` and the names of weights. The averages are those of `fastgan.nn.LossBalancer`: nothing
    waits for the device, as AudioCraft's does for each norm. A norm that is not finite leaves its average as it
    was, where AudioCraft's stays NaN.

    Args:
        weights: of each loss by its name.
        balance_grads: False: weights are used as they are.
        total_norm: the norm aimed at; 0 counts as 1.
        ema_decay: of the averages; 0 counts as 1, a plain mean.
        per_batch_item: a norm is the mean over samples of theirs; else it is that of the whole batch.
        epsilon: what is added to an average.
        monitor: keep each average's part of their sum in `metrics`, as floats, which waits for the device.
    """

    def __init__(
        self,
        weights: dict[str, float],
        balance_grads: bool = True,
        total_norm: float = 1.0,
        ema_decay: float = 0.999,
        per_batch_item: bool = True,
        epsilon: float = 1e-12,
        monitor: bool = False,
    ) -> None:
        self.weights = weights
        self.balance_grads = balance_grads
        self.total_norm = total_norm or 1.0
        self.per_batch_item = per_batch_item
        self.epsilon = epsilon
        self.monitor = monitor
        self._balance = _Norms(dict.fromkeys(weights, 1.0))  # by name; AudioCraft takes weights of 0
        self._balance.decay = float(ema_decay or 1.0)
        self._metrics: dict[str, float] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """The ratio_<name> of each loss in the last call, if `monitor`."""
        return self._metrics

    def backward(self, losses: dict[str, Tensor], input: Tensor) -> Tensor:
        """Send the scaled gradients from `input` on.

        Returns:
            The sum of the losses with the same factors, detached and in the dtype of `input`.
        """
        if not sum(self.weights[name] for name in losses) > 0.0:
            raise AssertionError(f"weights: expected a positive sum over the losses, got {self.weights}")
        wide = torch.float32 if input.device.type == "mps" else torch.float64  # there the averages are floats
        balance = self._balance.to(input.device, wide)
        balance.weights, balance.total_norm, balance.eps = self.weights, self.total_norm, self.epsilon
        balance.per_sample, balance.rescale = self.per_batch_item, self.balance_grads
        balance.process_group = dist.group.WORLD if _ranks() > 1 else None
        total, _ = balance(losses, input)
        (g,) = torch.autograd.grad(total, input)
        self._metrics = {}
        if self.monitor:
            ratios = (balance.averages / balance.averages.sum()).tolist()
            self._metrics = {f"ratio_{name}": ratio for name, ratio in zip(losses, ratios, strict=True)}
        input.backward(g)
        return total.detach().to(input.dtype)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments of the balancer for the probe."""
    sounds = leaf(2, 3, 4, seed=17)
    losses = {"a": sounds.square().mean(), "b": sounds.sin().sum()}
    return {"input": sounds, "losses": losses, "weights": {"a": 0.5, "b": 2.0}}
