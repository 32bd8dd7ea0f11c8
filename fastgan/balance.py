"""Weights of a generator's losses by their gradients at its output: VQGAN's adaptive weight, EnCodec's balancer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from . import _checks as checks
from .auxiliary import adaptive_weight
from .discriminator.double_backward import refusing_reentrant
from .norms import gradient_norm
from .ops.given import with_gradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ADVERSARIAL, FEATURES = "adversarial", "feature_matching"  # what a generator's step calls its own losses
_NO_SECOND = (
    "balance: its gradients have no derivative, so that the total cannot be differentiated with create_graph"
)


class Balanced(NamedTuple):
    """Losses, weighed and added up.

    Attributes:
        total: their sum, to be differentiated once; it sends the gradients that are known already.
        weights: the factor of each loss, detached 0-dim tensors on the losses' device.
    """

    total: Tensor
    weights: dict[str, Tensor]


class _Gradients(NamedTuple):
    """A loss, and its gradients.

    Attributes:
        value: the loss.
        at: its gradient at the generator's output.
        beside: those by leaves on which it depends not only through that output.
    """

    value: Tensor
    at: Tensor
    beside: list[tuple[Tensor, Tensor]]


def _leaves_beside(loss: Tensor, at: Tensor) -> list[Tensor]:
    """Return the leaves on which a loss depends otherwise than through `at`."""
    node, number = get_gradient_edge(at)[:2]
    leaves: list[Tensor] = []
    seen: set[Any] = {None}
    stack: list[Any] = [loss.grad_fn]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current is node:  # the loss is `at` itself
            continue
        if type(current).__name__ == "AccumulateGrad":
            leaves.append(current.variable)
            continue
        for below, output in current.next_functions:
            if below is not node:
                stack.append(below)
            elif output != number:
                raise ValueError(
                    "losses: one of them depends on another output of the operation that gave fake; compute the"
                    " losses of a clone of fake, and give that"
                )
    return leaves


def _differentiated(losses: Mapping[str, Tensor], at: Tensor) -> dict[str, _Gradients]:
    """Return the gradients of losses, each taken once."""
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "balance: weighs losses by their gradients, which there are none of under torch.no_grad()"
        )
    if not isinstance(at, Tensor) or not at.requires_grad:
        got = "one that requires none" if isinstance(at, Tensor) else type(at).__name__
        raise ValueError(f"fake: expected a tensor that requires grad, at which losses are balanced, got {got}")
    if at._backward_hooks or at.retains_grad:
        raise ValueError(
            "fake: has backward hooks, or retains its gradient, which would count each loss; give fake before you"
            " call register_hook or retain_grad"
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) and loss.dim() else _kind(loss)
            raise ValueError(f"losses: expected scalars with a graph back to fake, got {got} as {name!r}")
    return {name: _gradients(name, loss, at) for name, loss in losses.items()}


def _gradients(name: str, loss: Tensor, at: Tensor) -> _Gradients:
    """Return the gradients of a loss, by `at` and by the leaves beside it, each by that way alone."""
    leaves, sent = _leaves_beside(loss, at), []

    def stop(g: Tensor) -> Tensor:
        sent.append(g)
        return torch.zeros_like(g)  # what goes through `at` to the leaves is sent from there by the total

    handle = at.register_hook(stop) if leaves else None
    try:
        # Kept: losses may share a part of their graph, and one that goes beside `at` that of the generator.
        with refusing_reentrant("balance"):
            g, *others = torch.autograd.grad(loss, [at, *leaves], retain_graph=True, allow_unused=True)
    finally:
        if handle is not None:
            handle.remove()
    if g is None:
        raise ValueError(
            f"losses: expected {name!r} to depend on fake, got one that does not. What a compiled function returns"
            " comes out of one graph: compute losses outside"
        )
    beside = [(p, o) for p, o in zip(leaves, others, strict=True) if o is not None]
    return _Gradients(loss.detach(), sent[0] if sent else g, beside)


def _check_mapping(losses: Any) -> None:
    """Raise where losses have no names."""
    if not isinstance(losses, Mapping):
        raise TypeError(f"losses: expected scalars by the names of losses, got {type(losses).__name__}")


def _kind(loss: Any) -> str:
    return "one without a graph" if isinstance(loss, Tensor) else type(loss).__name__


def _total(found: Mapping[str, _Gradients], weights: Mapping[str, Tensor], at: Tensor) -> Balanced:
    """Return the sum of weighed losses, whose backward sends the weighed gradients."""
    value: Any = 0.0
    sums: dict[int, list[Any]] = {}  # by the id of what they are the gradient of: it and the sum
    for name, (loss, g, beside) in found.items():
        w = weights[name]
        value = value + w.to(loss.dtype) * loss
        for t, part in ((at, g), *beside):
            wide = torch.promote_types(part.dtype, torch.float32)  # in which a large factor is finite
            weighed = part.to(wide) * w.to(wide)
            entry = sums.setdefault(id(t), [t, None])
            entry[1] = weighed if entry[1] is None else entry[1] + weighed
    tensors = [t for t, _ in sums.values()]
    grads = [g.to(t.dtype) for t, g in sums.values()]
    return Balanced(with_gradients(value, tensors, grads, _NO_SECOND), dict(weights))


class AdaptiveWeight(nn.Module):
    """VQGAN's weight of the adversarial loss, for `fastgan.generator_step(balance=...)`.

        balance = fastgan.nn.AdaptiveWeight(decoder.conv_out.weight, weight=0.8)
        step = fastgan.generator_step(D, fake, loss="hinge", reconstruction=nll, balance=balance)
        (step.total + codebook_loss).backward()

    Esser et al. 2021 (arXiv:2012.09841), eq. 7: weight * min(||g_rec|| / (||g_adv|| + eps), limit), where g are the
    gradients of all other losses and of the adversarial one by the decoder's last layer. VQGAN takes both through
    the perceptual network and the discriminator, and goes the whole way again in the backward of the sum. Here both
    are taken once, at the decoder's output, and the backward starts from their weighed sum. The loss of feature
    matching is added as it is. Nothing waits for the device. A loss that also goes beside `fake`, as with a KL
    term, gets all its gradients, at the price of one more backward. Such a term is better added to the total.

    Args:
        last_layer: the weight of the decoder's last layer, by which norms are taken, or a function that returns it.
            None: norms of the gradients by the output itself, as some descendants of VQGAN have it.
        weight: the factor in front, which may be set later; at 0 the adversarial loss trains nothing.
        eps: what is added to the adversarial norm.
        limit: the largest ratio.

    Raises:
        TypeError, ValueError: bad options, when the module is built.
    """

    def __init__(
        self,
        last_layer: Tensor | Callable[[], Tensor] | None = None,
        *,
        weight: float = 1.0,
        eps: float = 1e-4,
        limit: float = 1e4,
    ) -> None:
        super().__init__()
        known = isinstance(last_layer, Tensor) or last_layer is None or callable(last_layer)
        if not known or isinstance(last_layer, nn.Module):
            raise TypeError(
                "last_layer: expected a weight, a function that returns it, or None, got"
                f" {type(last_layer).__name__}"
            )
        self.last_layer = (last_layer,)  # in a tuple: the decoder's, and no parameter of this module
        self.weight = checks.number("weight", weight)
        self.eps = checks.number("eps", eps, 0.0)
        self.limit = checks.number("limit", limit, 0.0)

    def forward(self, losses: Mapping[str, Tensor], fake: Tensor) -> Balanced:
        """Return the sum of losses, "adversarial" weighed against those that are not the step's own.

        Args:
            losses: scalars by name, "adversarial" among them.
            fake: the decoder's output, of which they are computed.

        Returns:
            Balanced(total, weights): the sum to be differentiated, once, and the factor of each loss by its name.

        Raises:
            TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
            RuntimeError: gradients are switched off.
        """
        _check_mapping(losses)
        others = [name for name in losses if name not in (ADVERSARIAL, FEATURES)]
        if ADVERSARIAL not in losses or not others:
            names = ", ".join(losses) or "none"
            raise ValueError(
                f"losses: expected 'adversarial' and a reconstruction to weigh it against, got {names}"
            )
        first, *more = (losses[name] for name in others)
        joined = {others[0]: sum(more, start=first)}
        rest = {name: joined.get(name, loss) for name, loss in losses.items() if name not in others[1:]}
        found = _differentiated(rest, fake)  # the reconstruction in one backward, which its parts may share
        norms = [self._at_last_layer(found[name].at, fake) for name in (others[0], ADVERSARIAL)]
        weight = adaptive_weight(*norms, weight=self.weight, eps=self.eps, limit=self.limit)
        one = torch.ones_like(weight)
        balanced = _total(found, {name: weight if name == ADVERSARIAL else one for name in rest}, fake)
        return balanced._replace(weights={name: balanced.weights.get(name, one) for name in losses})

    def _at_last_layer(self, g: Tensor, fake: Tensor) -> Tensor:
        """Return the gradient by the last layer, of one by the output."""
        (layer,) = self.last_layer
        if layer is None:
            return g
        layer = layer if isinstance(layer, Tensor) else layer()
        if not layer.requires_grad:
            raise ValueError("last_layer: expected a weight that requires grad, got one that does not (frozen?)")
        (found,) = torch.autograd.grad(fake, layer, g, retain_graph=True, allow_unused=True)
        if found is None:
            raise ValueError("last_layer: expected a weight that fake was made with, got another")
        return found

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return f"weight={self.weight}, eps={self.eps}, limit={self.limit}"


class LossBalancer(nn.Module):
    """EnCodec's balancer of losses by their gradients at the generator's output.

        balance = fastgan.nn.LossBalancer({"adversarial": 4.0, "feature_matching": 4.0, "l1": 0.1, "mel": 2.0})
        step = fastgan.generator_step(
            D, fake, real, feature_matching=1.0, features=1, output=0,
            reconstruction={"l1": l1, "mel": mel}, balance=balance,
        )
        (step.total + commitment).backward()

    Defossez et al. 2022 (arXiv:2210.13438), section 3.4. Let g_k be the gradient of loss k, and n_k the moving
    average of its norm. What is sent back is the sum of total_norm * weight_k / (sum of weights) * g_k / n_k. The
    sum of weights is over the losses that are given. An average is a decaying sum over a decaying count. Averages
    are buffers on the device, in the state_dict; nothing waits. Each call moves them, in eval mode
    too. A norm that is not finite, as after a GradScaler's overflow, leaves its average as it was.

    Args:
        weights: of each loss, by name, above 0; a call may leave losses out.
        total_norm: the norm aimed at.
        decay: of the averages, in [0, 1).
        per_sample: a norm is the mean over samples of theirs; else it is that of the whole batch.
        rescale: False: weights are used as they are.
        eps: what is added to a norm.
        process_group: average norms over its ranks, weighed by their samples. All ranks must take part.

    Raises:
        TypeError, ValueError: bad options, when the module is built.
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        total_norm: float = 1.0,
        decay: float = 0.999,
        per_sample: bool = True,
        rescale: bool = True,
        eps: float = 1e-12,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(weights, Mapping) or not weights:
            raise TypeError(f"weights: expected numbers by the names of losses, got {weights!r}")
        self.weights = {name: checks.number(f"weights[{name!r}]", w, 0.0) for name, w in weights.items()}
        self._names = tuple(weights)  # in the order of the averages; weights may be set again
        if not all(self.weights.values()):
            raise ValueError(f"weights: expected numbers above 0, got {self.weights}")
        if checks.number("decay", decay, 0.0, 1.0) == 1.0:
            raise ValueError("decay: expected a number in [0, 1), got 1")
        self.total_norm = checks.number("total_norm", total_norm, 0.0)
        self.decay, self.per_sample, self.rescale = float(decay), per_sample, rescale
        self.eps = checks.number("eps", eps, 0.0)
        if process_group is not None:
            checks.process_group(process_group)
        self.process_group = process_group
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))

    def forward(self, losses: Mapping[str, Tensor], fake: Tensor) -> Balanced:
        """Return the balanced sum of losses.

        Args:
            losses: scalars by name, each with a weight.
            fake: the generator's output (N, ...), of which they are computed.

        Returns:
            Balanced(total, weights): the sum to be differentiated, once, and the factor of each loss by its name.

        Raises:
            TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
            RuntimeError: gradients are switched off.
        """
        _check_mapping(losses)
        unknown = [name for name in losses if name not in self._names or name not in self.weights]
        if unknown or not losses:
            got = ", ".join(map(repr, unknown)) or "no loss"
            raise ValueError(f"losses: expected some of {', '.join(map(repr, self._names))}, got {got}")
        found = _differentiated(losses, fake)
        places = [self._names.index(name) for name in losses]
        norms = self._averages([g.at for g in found.values()], places)
        if not self.rescale:
            return _total(found, {name: norms.new_full((), self.weights[name]) for name in losses}, fake)
        share = self.total_norm / sum(self.weights[name] for name in losses)
        scales = [self.weights[name] * share / (n + self.eps) for name, n in zip(losses, norms, strict=True)]
        return _total(found, dict(zip(losses, scales, strict=True)), fake)

    @torch.no_grad()
    def _averages(self, grads: Sequence[Tensor], places: list[int]) -> Tensor:
        """Return the moving averages of the norms of gradients, which are moved by them."""
        over = "sample" if self.per_sample else "batch"
        norms = torch.stack([gradient_norm(g, over=over).mean() for g in grads]).to(self.sums)
        finite = norms.isfinite()
        for k, place in enumerate(places):  # by slices: an index by a list would be copied to the device
            for buffer, new in ((self.sums, norms[k]), (self.counts, torch.ones_like(norms[k]))):
                buffer[place] = torch.where(finite[k], buffer[place] * self.decay + new, buffer[place])
        averages = torch.stack([self.sums[p] / self.counts[p] for p in places])
        if self.process_group is not None:
            samples = len(grads[0]) if self.per_sample else 1
            sums = torch.cat([averages * samples, averages.new_full((1,), samples)])
            dist.all_reduce(sums, group=self.process_group)
            averages = sums[:-1] / sums[-1]
        return averages

    def get_extra_state(self) -> list[str]:
        """Return the names of the losses, in the order of the averages, for the state_dict."""
        return list(self._names)

    def set_extra_state(self, state: list[str]) -> None:
        """Put averages that come from a state_dict in the order of this module's losses.

        Raises:
            ValueError: they are of other losses.
        """
        if set(state) != set(self._names):
            raise ValueError(f"state_dict: expected averages of {list(self._names)}, got those of {state}")
        for buffer in (self.sums, self.counts):
            buffer.copy_(torch.stack([buffer[state.index(name)] for name in self._names]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossBalancer:
        """Move the averages with the module, in float32 at least: a count in bfloat16 stops at 256."""
        kept = self.sums, self.counts
        super()._apply(fn, recurse)
        if self.sums.dtype in checks.SIXTEEN_BITS:
            moved = zip(kept, (self.sums, self.counts), strict=True)
            self.sums, self.counts = (old.to(new.device) for old, new in moved)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LossBalancer:
        """Return a copy, with the same process group."""
        memo[id(self.process_group)] = self.process_group
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def extra_repr(self) -> str:
        """Return the options, as the module prints them."""
        return f"{self.weights}, total_norm={self.total_norm}, decay={self.decay}, per_sample={self.per_sample}"
