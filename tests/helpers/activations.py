"""Trainers' own activations, on the CPU: autograd.Functions of the shape in which they are published."""

import torch
from torch.autograd import Function

SLOPE, GAIN = 0.2, 2**0.5


def kernel(x, b, reference=None):
    """(x + b), through the leaky relu with its gain; with a reference, whose sign chooses the slope, its gradient."""
    x = x.detach() if b is None else x.detach() + b.detach().view(-1, *[1] * (x.ndim - 2))
    chooses = x if reference is None else reference.detach()
    return torch.where(chooses > 0, x * GAIN, x * (SLOPE * GAIN))


def others(x):
    """All dimensions but the channels'."""
    return [k for k in range(x.ndim) if k != 1]


class BiasAct(Function):
    """StyleGAN2-ADA's, StyleGAN3's and R3GAN's: the backward is a Function of the gradient and the result."""

    @staticmethod
    def forward(ctx, x, b):
        y = kernel(x, b)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = BiasActGrad.apply(dy, y)
        return dx, dx.sum(others(dx)) if ctx.needs_input_grad[1] else None


class BiasActGrad(Function):
    @staticmethod
    def forward(ctx, dy, y):
        ctx.save_for_backward(y)
        return kernel(dy, None, y)

    @staticmethod
    def backward(ctx, ddx):
        (y,) = ctx.saved_tensors
        return BiasActGrad.apply(ddx, y) if ctx.needs_input_grad[0] else None, None


class FusedLeakyReLU(Function):
    """rosinality's and BasicSR's: the backward's Function gives the bias's gradient too."""

    @staticmethod
    def forward(ctx, x, b):
        y = kernel(x, b)
        ctx.save_for_backward(y)
        ctx.bias = b is not None
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx, db = FusedLeakyReLUBackward.apply(dy, y, ctx.bias)
        return dx, db if ctx.bias else None


class FusedLeakyReLUBackward(Function):
    @staticmethod
    def forward(ctx, dy, y, bias):
        ctx.save_for_backward(y)
        dx = kernel(dy, None, y)
        return dx, dx.sum(others(dx)) if bias else dy.new_empty(0)

    @staticmethod
    def backward(ctx, ddx, ddb):
        (y,) = ctx.saved_tensors
        return kernel(ddx, ddb if ddb.numel() else None, y), None, None
