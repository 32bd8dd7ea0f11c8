"""The zoo: discriminators of every usual kind, for the tests and the benchmark of whole penalty steps.

Each is laid out as in the papers and trainers that have it, and comes in any width (a multiple of 8) and for any
size (a multiple of 8, at least 16): images of size x size pixels in three channels, or signals of 16 * size values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
Wrap = Callable[..., nn.Module]
Norm = Callable[[int, int], nn.Module]  # of channels and size


def image(size: int) -> tuple[int, ...]:
    """The shape of one."""
    return (3, size, size)


def signal(size: int) -> tuple[int, ...]:
    """The shape of one."""
    return (1, 16 * size)


def labels(n: int) -> tuple[Any, ...]:
    """The arguments of a conditional discriminator."""
    return (torch.arange(n) % CLASSES,)


class Case(NamedTuple):
    """A discriminator and what it is called with.

    Attributes:
        build: (width, size) -> the discriminator, float32, in training mode, for samples of that size.
        shape: size -> the shape of one sample.
        arguments: what it takes after its input, for n samples.
        aim: whether it is convolutional and piecewise linear: where pruning and compiling are to pay.
        autocast: the dtype of the autocast that it runs under, if any.
    """

    build: Callable[[int, int], nn.Module]
    shape: Callable[[int], tuple[int, ...]] = image
    arguments: Callable[[int], tuple[Any, ...]] = lambda n: ()
    aim: bool = False
    autocast: torch.dtype | None = None


# --- parts ----------------------------------------------------------------------------------------------


def bare(layer: nn.Module) -> nn.Module:
    """A layer as it is: neither spectral nor weight norm around it."""
    return layer


def deprecated(wrap: Wrap) -> Wrap:
    """One of the hooks before parametrizations, which many trainers still have, without its warning."""

    def quiet(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return wrap(layer)

    return quiet


SPECTRAL = nn.utils.parametrizations.spectral_norm
SPECTRAL_HOOK = deprecated(nn.utils.spectral_norm)
WEIGHT = nn.utils.parametrizations.weight_norm
WEIGHT_HOOK = deprecated(nn.utils.weight_norm)


def leaky(inplace: bool = False) -> nn.Module:
    """The usual activation."""
    return nn.LeakyReLU(0.2, inplace)


def activated(layers: Iterable[nn.Module], slope: float = 0.2) -> list[nn.Module]:
    """An activation after each layer."""
    return [each for layer in layers for each in (layer, nn.LeakyReLU(slope))]


def body(
    width: int, size: int, wrap: Wrap = bare, norm: Norm | None = None, activation: Callable[[], nn.Module] = leaky
) -> tuple[nn.Sequential, int, int]:
    """DCGAN's strided convolutions, with the channels and the size of what they give.

    A norm follows each of them, the first too: the smallest networks have no more than two.
    """
    layers: list[nn.Module] = []
    channels = 3
    while size > 4:
        size //= 2
        layers.append(wrap(nn.Conv2d(channels, width, 4, 2, 1)))
        layers += [] if norm is None else [norm(width, size)]
        layers.append(activation())
        channels, width = width, 2 * width
    return nn.Sequential(*layers), channels, size


class MinibatchStd(nn.Module):
    """StyleGAN2's: one more channel, the mean standard deviation over samples of a group of up to four."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        group = math.gcd(n, 4)
        std = (x.unflatten(0, (group, -1)).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat([x, std.view(-1, 1, 1, 1).repeat(group, 1, height, width)], 1)


class ResidualBlock(nn.Module):
    """R3GAN's: an inverted bottleneck with a grouped convolution, and no norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        grouped = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // 8)
        layers = [nn.Conv2d(channels, hidden, 1), grouped, nn.Conv2d(hidden, channels, 1, bias=False)]
        for layer in layers:
            # Fixup's, for eight blocks; its zeros in the last layer would hide the others.
            layer.weight.data *= 8**-0.25
        self.branch = nn.Sequential(*activated(layers[:2]), layers[2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


# --- discriminators -------------------------------------------------------------------------------------


def conv(width: int, size: int, wrap: Wrap = bare, drop: float = 0.0, **parts: Any) -> nn.Module:
    """DCGAN's, with a choice of norm and activation."""
    layers, channels, size = body(width, size, wrap, **parts)
    dropout = [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Flatten(), *dropout, wrap(nn.Linear(channels * size * size, 1)))


def dropped() -> nn.Module:
    """An activation, and some channels left out."""
    return nn.Sequential(leaky(), nn.Dropout2d(0.3))


def minibatch_std(width: int, size: int) -> nn.Module:
    """StyleGAN2's end: that layer, a convolution and two fully connected layers."""
    layers, channels, size = body(width, size)
    convolution = nn.Conv2d(channels + 1, channels, 3, padding=1)
    end = [leaky(), nn.Flatten(), nn.Linear(channels * size * size, channels), leaky(), nn.Linear(channels, 1)]
    return nn.Sequential(*layers, MinibatchStd(), convolution, *end)


def residual(width: int, size: int) -> nn.Module:
    """R3GAN's: two blocks for each size, and a depthwise convolution at the end."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 1)]
    while size > 4:
        layers += [ResidualBlock(width), ResidualBlock(width)]
        layers += [nn.AvgPool2d(2), nn.Conv2d(width, 2 * width, 1, bias=False)]
        width, size = 2 * width, size // 2
    layers += [ResidualBlock(width), ResidualBlock(width), nn.Conv2d(width, width, size, groups=width, bias=False)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 1, bias=False))


def vocoder(width: int, size: int, wrap: Wrap) -> nn.Module:
    """One scale of MelGAN's and HiFi-GAN's multi-scale discriminator: long filters in groups."""
    plan = [(1, width, 15, 1, 1), (width, width, 41, 2, 4), (width, 2 * width, 41, 2, 8)]
    plan += [(2 * width, 4 * width, 41, 4, 8), (4 * width, 4 * width, 5, 1, 1)]
    layers = [wrap(nn.Conv1d(i, o, kernel, stride, kernel // 2, groups=g)) for i, o, kernel, stride, g in plan]
    last = wrap(nn.Conv1d(4 * width, 1, 3, 1, 1))
    return nn.Sequential(*activated(layers, 0.1), last, nn.Flatten())


class MultiPeriod(nn.Module):
    """HiFi-GAN's: a signal folded by several periods, and a list of logits."""

    PERIODS = (2, 3, 5, 7, 11)

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        plan = ((1, width, 3), (width, 2 * width, 3), (2 * width, 4 * width, 3), (4 * width, 4 * width, 1))
        self.networks = nn.ModuleList()
        for _ in self.PERIODS:
            layers = [WEIGHT(nn.Conv2d(i, o, (5, 1), (stride, 1), (2, 0))) for i, o, stride in plan]
            last = WEIGHT(nn.Conv2d(4 * width, 1, (3, 1), 1, (1, 0)))
            self.networks.append(nn.Sequential(*activated(layers, 0.1), last, nn.Flatten()))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for period, network in zip(self.PERIODS, self.networks, strict=True):
            missing = -x.shape[-1] % period
            whole = F.pad(x, (0, missing), "reflect") if missing else x
            logits.append(network(whole.unflatten(-1, (-1, period))))
        return logits


class MultiScale(nn.Module):
    """pix2pixHD's: a patch discriminator for each scale, and a list of logits."""

    SCALES = 3

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        plan = ((3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1))
        self.networks = nn.ModuleList()
        for _ in range(self.SCALES):
            layers = [nn.Conv2d(i, o, 4, stride, 2) for i, o, stride in plan]
            self.networks.append(nn.Sequential(*activated(layers), nn.Conv2d(4 * width, 1, 4, 1, 2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for k, network in enumerate(self.networks):
            if k > 0:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            logits.append(network(x))
        return logits


class Projection(nn.Module):
    """Miyato and Koyama's: how the features agree with what the label is embedded as counts too."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.body, channels, _ = body(width, size)
        self.score = nn.Linear(channels, 1)
        self.embedding = nn.Embedding(CLASSES, channels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        features = self.body(x).sum((2, 3))
        return self.score(features).squeeze(1) + (self.embedding(label) * features).sum(1)


class Auxiliary(nn.Module):
    """AC-GAN's: logits of real and fake and of the classes, in a dict."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.body, channels, size = body(width, size)
        self.logits = nn.Linear(channels * size * size, 1)
        self.aux = nn.Linear(channels * size * size, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).flatten(1)
        return {"logits": self.logits(features), "aux": self.aux(features)}


class Attention(nn.Module):
    """A small vision transformer, normalised before attention and MLP, with GELU."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        channels = 2 * width
        self.patches = nn.Conv2d(3, channels, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn((size // 4) ** 2, channels))
        block = partial(nn.TransformerEncoderLayer, channels, 4, 4 * channels, 0.0, "gelu")
        self.blocks = nn.Sequential(*[block(batch_first=True, norm_first=True) for _ in range(2)])
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT + self.position
        return self.score(self.norm(self.blocks(tokens)).mean(1))


def mlp(width: int, size: int) -> nn.Module:
    """The first GAN's, with today's activation."""
    layers = [nn.Linear(3 * size * size, 8 * width), nn.Linear(8 * width, 8 * width)]
    return nn.Sequential(nn.Flatten(), *activated(layers), nn.Linear(8 * width, 1))


class Recurrent(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.rows = nn.GRU(3 * size, 2 * width, batch_first=True)
        self.score = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rows(x.transpose(1, 2).flatten(2))
        return self.score(states[:, -1])


ZOO: dict[str, Case] = {
    "conv": Case(conv, aim=True),
    "conv, in place": Case(partial(conv, activation=partial(leaky, inplace=True)), aim=True),
    "spectral norm, hook": Case(partial(conv, wrap=SPECTRAL_HOOK), aim=True),
    "spectral norm": Case(partial(conv, wrap=SPECTRAL), aim=True),
    "batch norm": Case(partial(conv, norm=lambda channels, _: nn.BatchNorm2d(channels))),
    "layer norm": Case(partial(conv, norm=lambda channels, size: nn.LayerNorm((channels, size, size)))),
    "instance norm": Case(partial(conv, norm=lambda channels, _: nn.InstanceNorm2d(channels, affine=True))),
    "group norm": Case(partial(conv, norm=lambda channels, _: nn.GroupNorm(4, channels))),
    "dropout": Case(partial(conv, activation=dropped, drop=0.3)),
    "minibatch std": Case(minibatch_std),
    "residual": Case(residual, aim=True),
    "vocoder": Case(partial(vocoder, wrap=WEIGHT), signal, aim=True),
    "vocoder, hook": Case(partial(vocoder, wrap=WEIGHT_HOOK), signal, aim=True),
    "multi-period": Case(MultiPeriod, signal, aim=True),
    "projection": Case(Projection, arguments=labels, aim=True),
    "attention": Case(Attention),
    "mlp": Case(mlp),
    "smooth": Case(partial(conv, activation=nn.SiLU)),
    "recurrent": Case(Recurrent),
    "dict": Case(Auxiliary, aim=True),
    "list": Case(MultiScale, aim=True),
    "autocast": Case(conv, autocast=torch.bfloat16),
}


def built(case: Case, width: int, size: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The discriminator, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case.build(width, size).to(dtype)


def samples(
    case: Case, n: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Real and generated samples, the same in every dtype, and the discriminator's further arguments."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(n, *case.shape(size), generator=generator).to(dtype) for _ in range(2))
    return real, fake, case.arguments(n)
