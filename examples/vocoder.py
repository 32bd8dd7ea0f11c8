"""A HiFi-GAN in miniature on a synthesized tune, before and after one changed import.

    python examples/vocoder.py
    python examples/vocoder.py --steps 3000

The generator makes a waveform from mel-like frames. The training is HiFi-GAN's: multi-period and multi-scale
discriminators, `discriminator_loss`, `generator_loss`, `feature_loss` and 45 times the L1 distance of the
spectrograms. Beside the pictures, it writes sound.wav: the original tune and, after half a second, the waveform
from its frames by the generator trained with fastgan.
"""

from __future__ import annotations

import math
import wave
from functools import cache
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import torch
from comparison import Curves, arguments, conclude, run_both
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, l1_loss, pad, silu
from tqdm import tqdm

# before:
from bench.baselines import hifigan as own  # isort: skip

# after:
from fastgan.compat import hifigan as fused  # isort: skip

RATE, FFT, HOP, BANDS = 8000, 256, 64, 48
SEGMENT, BATCH = 16, 8  # a segment's length in frames
NOTES = (0, 4, 7, 12, 9, 5, 7, 0)  # in semitones above 220 Hz
LAMBDA_MEL = 45.0
Judged = tuple[list[Tensor], list[list[Tensor]]]


def tune() -> Tensor:
    """Return half a second of each note: eight harmonics with vibrato and decay."""
    time = torch.arange(RATE // 2) / RATE
    sounds = []
    for note in NOTES:
        frequency = 220 * 2 ** (note / 12) * (1 + 0.006 * torch.sin(2 * math.pi * 5.5 * time))
        phase = 2 * math.pi * frequency.cumsum(0) / RATE
        harmonics = [torch.sin(k * phase) * torch.exp(-(2 + k) * time) / k for k in range(1, 9)]
        attack = (time / 0.01).clamp(max=1)
        sounds.append(attack * torch.stack(harmonics).sum(0))
    sound = torch.cat(sounds)
    return 0.8 * sound / sound.abs().max()


@cache
def bands() -> Tensor:
    """Return triangles over the frequencies of a spectrum, evenly spaced in mel."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    frequencies = torch.linspace(0, RATE / 2, FFT // 2 + 1)
    width = RATE / FFT  # no triangle is narrower than the spectrum's own steps
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp(min=width)[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1]).clamp(min=width)[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def mel(sound: Tensor) -> Tensor:
    """Return log-magnitudes (N, bands, frames) of sounds (N, samples), one frame per hop."""
    edge = (FFT - HOP) // 2
    padded = pad(sound.unsqueeze(1), (edge, edge), mode="reflect").squeeze(1)
    window = torch.hann_window(FFT)
    spectrum = torch.stft(padded, FFT, HOP, window=window, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log((bands() @ (power + 1e-9).sqrt()).clamp(min=1e-2))


class Residual(nn.Module):
    """Dilated convolutions around which the signal passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(silu(x))
        return x


class Generator(nn.Module):
    """Frames -> a waveform, in three upsamplings by 4."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(BANDS, width, 7, padding=3)]
        for _ in range(3):
            up = nn.ConvTranspose1d(width, width // 2, 8, stride=4, padding=2)
            layers += [nn.SiLU(), up, Residual(width // 2)]
            width //= 2
        self.net = nn.Sequential(*layers, nn.SiLU(), nn.Conv1d(width, 1, 7, padding=3), nn.Tanh())

    def forward(self, frames: Tensor) -> Tensor:
        return self.net(frames).squeeze(1)


class Judge(nn.Module):
    """Convolutions that give a logit for each stretch of sound, and the feature maps on the way."""

    def __init__(self, stride: int, width: int = 12) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(ins, outs, (5, 1), stride=(stride, 1), padding=(2, 0))
            for ins, outs in ((1, width), (width, 2 * width), (2 * width, 2 * width))
        )
        self.last = nn.Conv2d(2 * width, 1, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for conv in self.convs:
            x = silu(conv(x))
            maps.append(x)
        x = self.last(x)
        return x.flatten(1), [*maps, x]


class MultiPeriod(nn.Module):
    """Sees every 2nd, 3rd, 5th or 7th sample; returns lists of logits and of feature maps."""

    periods = (2, 3, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList(Judge(3) for _ in self.periods)

    def forward(self, sound: Tensor) -> Judged:
        views = (pad(sound, (0, -sound.shape[1] % p)).unflatten(1, (-1, p)).unsqueeze(1) for p in self.periods)
        logits, maps = zip(*(judge(view) for judge, view in zip(self.judges, views, strict=True)), strict=True)
        return list(logits), list(maps)


class MultiScale(nn.Module):
    """Sees the sound as it is and its running mean; returns lists of logits and of feature maps."""

    scales = (1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList(Judge(4) for _ in self.scales)

    def forward(self, sound: Tensor) -> Judged:
        views = (avg_pool1d(sound.unsqueeze(1), s).unsqueeze(-1) for s in self.scales)
        logits, maps = zip(*(judge(view) for judge, view in zip(self.judges, views, strict=True)), strict=True)
        return list(logits), list(maps)


def segments(sound: Tensor) -> Tensor:
    """Cut pieces of the sound from random places."""
    start = torch.randint(len(sound) - SEGMENT * HOP, (BATCH, 1))
    return sound[start + torch.arange(SEGMENT * HOP)]


def train(losses: ModuleType, steps: tqdm) -> tuple[Generator, Curves]:
    """Train the generator against both kinds of discriminators with the losses of that module."""
    G, mpd, msd = Generator(), MultiPeriod(), MultiScale()
    optimizer_g = torch.optim.AdamW(G.parameters(), lr=2e-3, betas=(0.8, 0.99))
    optimizer_d = torch.optim.AdamW([*mpd.parameters(), *msd.parameters()], lr=5e-4, betas=(0.8, 0.99))
    sound = tune()
    curves: Curves = []
    for _ in steps:
        real = segments(sound)
        frames = mel(real)
        fake = G(frames)

        optimizer_d.zero_grad()
        loss_f, _, _ = losses.discriminator_loss(mpd(real)[0], mpd(fake.detach())[0])
        loss_s, _, _ = losses.discriminator_loss(msd(real)[0], msd(fake.detach())[0])
        loss_d = loss_s + loss_f
        loss_d.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        loss_mel = l1_loss(frames, mel(fake)) * LAMBDA_MEL
        (_, maps_fr), (logits_f, maps_ff) = mpd(real), mpd(fake)
        (_, maps_sr), (logits_s, maps_sf) = msd(real), msd(fake)
        loss_features = losses.feature_loss(maps_fr, maps_ff) + losses.feature_loss(maps_sr, maps_sf)
        loss_gen = losses.generator_loss(logits_s)[0] + losses.generator_loss(logits_f)[0]
        loss_g = loss_gen + loss_features + loss_mel
        loss_g.backward()
        optimizer_g.step()
        curves.append({"discriminators": loss_d.item(), "generator (with features and 45 mel)": loss_g.item()})
    return G, curves


def write_sound(sounds: list[Tensor], path: Path) -> None:
    """Write sounds one after the other, half a second apart, as 16-bit samples."""
    pause = torch.zeros(RATE // 2)
    samples = torch.cat([piece for sound in sounds for piece in (sound, pause)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clamp(-1, 1) * 32767).short().numpy().astype("<i2").tobytes())


def draw_spectrograms(sounds: dict[str, Tensor], title: str, path: Path) -> None:
    """Draw the log-spectrum of each sound, below each other."""
    figure, axes = plt.subplots(len(sounds), 1, figsize=(11, 7), sharex=True, layout="constrained")
    window = torch.hann_window(2 * FFT)
    for axis, (name, sound) in zip(axes, sounds.items(), strict=True):
        spectrum = torch.stft(sound, 2 * FFT, HOP, window=window, return_complex=True).abs()
        level = 20 * torch.log10(spectrum.clamp(min=1e-3))
        extent = (0, len(sound) / RATE, 0, RATE / 2000)
        picture = axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-40, vmax=40, cmap="magma")
        axis.set(title=name, ylabel="kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(picture, ax=axes, label="dB", aspect=40)
    figure.suptitle(title, fontsize=14)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Train twice, and let both generators make the tune from its frames."""
    args = arguments("vocoder", "Compares a small HiFi-GAN with and without fastgan.")
    made, curves = run_both(train, own, fused, args)
    sound = tune()
    with torch.no_grad():
        frames = mel(sound[None])
        sounds = {"original": sound} | {run: G(frames)[0] for run, G in made.items()}
    wav, picture = args.out / "sound.wav", args.out / "spectrograms.png"
    write_sound([sounds["original"], sounds["after"]], wav)
    draw_spectrograms(sounds, f"The tune, and both generators' after {args.steps} steps", picture)
    conclude(curves, "HiFi-GAN: least squares over 6 discriminators, features, 45 mel", args, wav, picture)


if __name__ == "__main__":
    main()
