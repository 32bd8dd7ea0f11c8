"""The networks of vocoders, codecs and VQGANs, laid out as published, for the benchmark of whole trainers' steps.

`less` divides the channels: 1 gives the published widths of the discriminators, 16 networks that run in no time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from bench.zoo import Wrap

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
Maps = list[Tensor]
# Of real and of generated sound: the logits of all discriminators, and their feature maps.
Pairs = tuple[list[Tensor], list[Tensor], list[Maps], list[Maps]]


def leaky(x: Tensor) -> Tensor:
    """The activation of vocoders."""
    return F.leaky_relu(x, SLOPE)


def channels(plan: Sequence[int], less: int) -> list[tuple[int, int]]:
    """Those before and after each layer, divided; a single one stays."""
    divided = [c if c == 1 else max(2, c // less) for c in plan]
    return list(pairwise(divided))


# --- discriminators of sound ------------------------------------------------------------------------------


class Judge(nn.Module):
    """Convolutions with an activation after each, and one that gives logits; all outputs are feature maps."""

    def __init__(self, layers: Sequence[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, Maps]:
        maps = []
        for layer in self.layers:
            x = leaky(layer(x))
            maps.append(x)
        x = self.last(x)
        return x.flatten(1), [*maps, x]


class Period(Judge):
    """HiFi-GAN's on a signal folded by a period."""

    def __init__(self, period: int, less: int) -> None:
        plan = channels((1, 32, 128, 512, 1024, 1024), less)
        strides = (3, 3, 3, 3, 1)
        layers = [
            weight_norm(nn.Conv2d(i, o, (5, 1), (stride, 1), (2, 0)))
            for (i, o), stride in zip(plan, strides, strict=True)
        ]
        super().__init__(layers, weight_norm(nn.Conv2d(plan[-1][1], 1, (3, 1), 1, (1, 0))))
        self.period = period

    def forward(self, x: Tensor) -> tuple[Tensor, Maps]:
        missing = -x.shape[-1] % self.period
        whole = F.pad(x, (0, missing), "reflect") if missing else x
        return super().forward(whole.unflatten(-1, (-1, self.period)))


# Channels, and the kernel, stride and groups of each layer.
HIFIGAN_SCALE = (1, 128, 128, 256, 512, 1024, 1024, 1024)
HIFIGAN_LAYERS = ((15, 1, 1), (41, 2, 4), (41, 2, 16), (41, 4, 16), (41, 4, 16), (41, 1, 16), (5, 1, 1))
VITS_SCALE = (1, 16, 64, 256, 1024, 1024, 1024)
VITS_LAYERS = ((15, 1, 1), (41, 4, 4), (41, 4, 16), (41, 4, 64), (41, 4, 256), (5, 1, 1))


def scale(
    plan: Sequence[int], layers: Sequence[tuple[int, int, int]], less: int, wrap: Wrap = weight_norm
) -> Judge:
    """One scale of a multi-scale discriminator: long filters in groups."""
    pairs = channels(plan, less)
    made = [
        wrap(nn.Conv1d(i, o, kernel, stride, kernel // 2, groups=math.gcd(groups, i)))
        for (i, o), (kernel, stride, groups) in zip(pairs, layers, strict=True)
    ]
    return Judge(made, wrap(nn.Conv1d(pairs[-1][1], 1, 3, 1, 1)))


class Paired(nn.Module):
    """Discriminators that are called with real and generated sound, as vocoders have them."""

    def __init__(self, judges: Sequence[nn.Module]) -> None:
        super().__init__()
        self.judges = nn.ModuleList(judges)

    def views(self, x: Tensor) -> list[Tensor]:
        """What each of them sees of a signal."""
        return [x] * len(self.judges)

    def forward(self, real: Tensor, generated: Tensor) -> Pairs:
        found: Pairs = ([], [], [], [])
        for judge, r, g in zip(self.judges, self.views(real), self.views(generated), strict=True):
            for side, x in enumerate((r, g)):
                logits, maps = judge(x)
                found[side].append(logits)
                found[2 + side].append(maps)
        return found


class MultiScale(Paired):
    """HiFi-GAN's: the signal, and two running means of it; spectral norm on the first."""

    def __init__(self, less: int) -> None:
        wraps = (spectral_norm, weight_norm, weight_norm)
        super().__init__([scale(HIFIGAN_SCALE, HIFIGAN_LAYERS, less, wrap) for wrap in wraps])

    def views(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for _ in range(len(self.judges) - 1):
            found.append(F.avg_pool1d(found[-1], 4, 2, 2))
        return found


def multi_period(less: int) -> Paired:
    """HiFi-GAN's."""
    return Paired([Period(p, less) for p in PERIODS])


def vits_discriminators(less: int) -> Paired:
    """VITS's: one scale and all periods."""
    return Paired([scale(VITS_SCALE, VITS_LAYERS, less), *(Period(p, less) for p in PERIODS)])


class Spectral(nn.Module):
    """DAC's: a complex spectrogram cut into bands of frequency, with layers of their own for each of them."""

    LAYERS = (((3, 9), (1, 1)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 3), (1, 1)))

    def __init__(self, window: int, less: int) -> None:
        super().__init__()
        self.window = window
        pairs = channels((2, *[32] * len(self.LAYERS)), less)
        self.bands = nn.ModuleList(
            nn.ModuleList(
                weight_norm(nn.Conv2d(i, o, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
                for (i, o), (kernel, stride) in zip(pairs, self.LAYERS, strict=True)
            )
            for _ in BANDS
        )
        self.last = weight_norm(nn.Conv2d(pairs[-1][1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Maps:
        window = torch.hann_window(self.window, dtype=x.dtype)
        spectrum = torch.stft(x.squeeze(1), self.window, self.window // 4, window=window, return_complex=True)
        picture = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (N, 2, frames, frequencies)
        maps, ends, count = [], [], picture.shape[-1]
        for (low, high), layers in zip(BANDS, self.bands, strict=True):
            band = picture[..., int(low * count) : int(high * count)]
            for layer in layers:
                band = leaky(layer(band))
                maps.append(band)
            ends.append(band)
        return [*maps, self.last(torch.cat(ends, -1))]


class Codec(nn.Module):
    """DAC's discriminators: all periods and three resolutions; each one's maps, of which the last is its logits."""

    WINDOWS = (2048, 1024, 512)

    def __init__(self, less: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(Period(p, less) for p in PERIODS)
        self.spectra = nn.ModuleList(Spectral(w, less) for w in self.WINDOWS)

    def forward(self, x: Tensor) -> list[Maps]:
        x = x - x.mean(-1, keepdim=True)
        x = 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
        return [*(judge(x)[1] for judge in self.periods), *(judge(x) for judge in self.spectra)]


# --- generators of sound ----------------------------------------------------------------------------------


class Dilated(nn.Module):
    """HiFi-GAN's first residual block: for each dilation two convolutions, around which the signal passes."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        for d in (1, 3, 5):
            self.first.append(weight_norm(nn.Conv1d(width, width, kernel, 1, d * (kernel // 2), d)))
            self.second.append(weight_norm(nn.Conv1d(width, width, kernel, 1, kernel // 2)))

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(leaky(first(leaky(x))))
        return x


class Vocoder(nn.Module):
    """HiFi-GAN's first generator: frames to 256 times as many samples."""

    UPSAMPLES = ((16, 8), (16, 8), (4, 2), (4, 2))  # kernels and strides
    KERNELS = (3, 7, 11)

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(bands, width, 7, 1, 3))
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for kernel, stride in self.UPSAMPLES:
            self.ups.append(
                weight_norm(nn.ConvTranspose1d(width, width // 2, kernel, stride, (kernel - stride) // 2))
            )
            width //= 2
            self.blocks.append(nn.ModuleList(Dilated(width, k) for k in self.KERNELS))
        self.last = weight_norm(nn.Conv1d(width, 1, 7, 1, 3))

    def forward(self, frames: Tensor) -> Tensor:
        x = self.first(frames)
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = up(leaky(x))
            x = torch.stack([block(x) for block in blocks]).sum(0) / len(blocks)
        return torch.tanh(self.last(F.leaky_relu(x)))


class Snake(nn.Module):
    """DAC's activation: a line and a periodic part, of a frequency for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


def codec_generator(width: int) -> nn.Sequential:
    """A small autoencoder of sound with DAC's strides and activations, without its codebooks."""
    layers: list[nn.Module] = [weight_norm(nn.Conv1d(1, width, 7, 1, 3))]
    for stride in (2, 4, 8, 8):
        layers += [Snake(width), weight_norm(nn.Conv1d(width, 2 * width, 2 * stride, stride, stride // 2))]
        width *= 2
    for stride in (8, 8, 4, 2):
        up = weight_norm(nn.ConvTranspose1d(width, width // 2, 2 * stride, stride, stride // 2))
        width //= 2
        layers += [Snake(2 * width), up, Snake(width), weight_norm(nn.Conv1d(width, width, 7, 1, 3))]
    return nn.Sequential(*layers, Snake(width), weight_norm(nn.Conv1d(width, 1, 7, 1, 3)), nn.Tanh())


# --- spectrograms -----------------------------------------------------------------------------------------


def triangles(bands: int, window: int, rate: int) -> Tensor:
    """Filters evenly spaced in mel, (bands, frequencies)."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, window // 2 + 1)
    step = rate / window  # no triangle is narrower than the spectrum's own steps
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp(min=step)[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1]).clamp(min=step)[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel(x: Tensor, filters: Tensor) -> Tensor:
    """The logarithms of a signal's spectrogram in mel, a frame for each quarter of the window."""
    size = 2 * (filters.shape[1] - 1)
    edge = 3 * size // 8
    padded = F.pad(x, (edge, edge), "reflect").squeeze(1)
    window = torch.hann_window(size, dtype=x.dtype)
    spectrum = torch.stft(padded, size, size // 4, window=window, center=False, return_complex=True)
    magnitude = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    return (filters.to(x.dtype) @ magnitude).clamp(min=1e-5).log()


# --- images -----------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """VQGAN's residual block: group norm, SiLU and a convolution, twice."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*normed(width, out), *normed(out, out))
        self.skip = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.branch(x)


def normed(width: int, out: int) -> tuple[nn.GroupNorm, nn.SiLU, nn.Conv2d]:
    """A norm, an activation and a convolution."""
    return nn.GroupNorm(math.gcd(32, width), width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)


class Quantized(nn.Module):
    """A small VQGAN: a block on each of three sizes, codes for 4 x 4 pixels, and the same back."""

    def __init__(self, width: int, codes: int = 1024, depth: int = 64) -> None:
        super().__init__()
        down = [nn.Conv2d(3, width, 3, padding=1), Normed(width, width)]
        up = [nn.Conv2d(depth, 4 * width, 3, padding=1), Normed(4 * width, 4 * width)]
        for k in range(2):
            here, there = width << k, width << (k + 1)
            down += [nn.Conv2d(here, here, 3, 2, 1), Normed(here, there)]
            here, there = width << (2 - k), width << (1 - k)
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(here, here, 3, padding=1), Normed(here, there)]
        self.encoder = nn.Sequential(*down, *normed(4 * width, depth))
        self.codebook = nn.Embedding(codes, depth)
        *before, self.last = normed(width, 3)
        self.decoder = nn.Sequential(*up, *before)

    @property
    def last_layer(self) -> Tensor:
        """At which the adaptive weight looks."""
        return self.last.weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images from codes, and the codebook's loss."""
        found = self.encoder(images).movedim(1, -1)
        nearest = torch.cdist(found.detach().flatten(0, 2), self.codebook.weight.detach()).argmin(1)
        codes = self.codebook(nearest).view(found.shape)
        loss = (codes.detach() - found).square().mean() + 0.25 * (codes - found.detach()).square().mean()
        through = found + (codes - found).detach()
        return self.last(self.decoder(through.movedim(-1, 1))), loss


def patches(less: int) -> nn.Sequential:
    """pix2pix's PatchGAN with three strided layers and batch norm, as VQGAN has it."""
    width = max(4, 64 // less)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for k, stride in enumerate((2, 2, 1)):
        layers.append(nn.Conv2d(width << k, width << (k + 1), 4, stride, 1, bias=False))
        layers += [nn.BatchNorm2d(width << (k + 1)), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


class Perceptual(nn.Module):
    """LPIPS on VGG16's layers, with random weights, none of which is trained: its time is what counts here."""

    STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions

    def __init__(self, less: int) -> None:
        super().__init__()
        self.stages, self.heads, before = nn.ModuleList(), nn.ModuleList(), 3
        for k, (width, count) in enumerate(self.STAGES):
            width = max(2, width // less)
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if k else []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            self.stages.append(nn.Sequential(*layers))
            self.heads.append(nn.Conv2d(width, 1, 1, bias=False))
            self.heads[-1].weight.data.abs_()
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each image of one batch from that of the other, (N, 1, 1, 1)."""
        total: Tensor = torch.zeros((), dtype=a.dtype)
        for stage, head in zip(self.stages, self.heads, strict=True):
            a, b = stage(a), stage(b)
            unit_a, unit_b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
            total = total + head((unit_a - unit_b).square()).mean((2, 3), keepdim=True)
        return total
