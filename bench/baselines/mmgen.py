"""How MMGeneration computes its losses: MMagic's, with reductions on top and shorter names."""

import functools
import inspect

from . import mmagic
from .mmagic import GANLossComps as GANLoss
from .mmagic import gen_path_regularizer

__all__ = [
    "DiscShiftLoss",
    "GANLoss",
    "GeneratorPathRegularizer",
    "GradientPenaltyLoss",
    "R1GradientPenalty",
    "disc_shift_loss",
    "gen_path_regularizer",
    "gradient_penalty_loss",
    "r1_gradient_penalty_loss",
]


def _reduced(value, weight, reduction, avg_factor):
    if weight is not None:
        value = value * weight
    if avg_factor is not None:
        if reduction == "none":
            return value
        if reduction != "mean":
            raise ValueError(f'avg_factor can not be used with reduction="{reduction}"')
        return value.sum() / avg_factor
    if reduction == "mean":
        return value.mean()
    if reduction == "sum":
        return value.sum()
    if reduction == "batchmean":
        return value.sum() / value.shape[0]
    if reduction == "flatmean":
        return value.mean(dim=tuple(range(1, value.dim())))
    if reduction == "none":
        return value
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _reducible(function):
    """`function` with three more keyword arguments: a weight, and how what is weighted becomes one number."""

    @functools.wraps(function)
    def call(*args, weight=None, reduction="mean", avg_factor=None, **kwargs):
        return _reduced(function(*args, **kwargs), weight, reduction, avg_factor)

    own = inspect.signature(function)
    more = [
        p for p in inspect.signature(call, follow_wrapped=False).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    call.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])
    return call


disc_shift_loss = _reducible(mmagic.disc_shift_loss)
gradient_penalty_loss = _reducible(mmagic.gradient_penalty_loss)
r1_gradient_penalty_loss = _reducible(mmagic.r1_gradient_penalty_loss)


class DiscShiftLoss(mmagic.DiscShiftLossComps):
    """The weighted mean of the squares."""

    def plain(self, *args, **kwargs):
        return disc_shift_loss(*args, weight=self.loss_weight, **kwargs)

    from_dict = plain


class GradientPenaltyLoss(mmagic.GradientPenaltyLossComps):
    """The gradient penalty, weighted; `norm_mode` is read with `data_info` only."""

    def plain(self, *args, **kwargs):
        return gradient_penalty_loss(*args, weight=self.loss_weight, **kwargs)

    def from_dict(self, **kwargs):
        return gradient_penalty_loss(weight=self.loss_weight, norm_mode=self.norm_mode, **kwargs)


class R1GradientPenalty(mmagic.R1GradientPenaltyComps):
    """The penalty at real data, weighted, once in `interval` iterations."""

    def plain(self, *args, **kwargs):
        return r1_gradient_penalty_loss(*args, weight=self.loss_weight, norm_mode=self.norm_mode, **kwargs)

    from_dict = plain


class GeneratorPathRegularizer(mmagic.GeneratorPathRegularizerComps):
    """The path-length penalty with its running mean; without `data_info`, the function's three results."""

    def plain(self, *args, **kwargs):
        return gen_path_regularizer(*args, weight=self.loss_weight, **kwargs)
