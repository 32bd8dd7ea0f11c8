"""Trainers whose whole steps are timed: as each is written, and the same with fastgan.

A trainer has its networks, optimizers and data, on which the contenders take turns. Their own losses are those of
bench/baselines.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from bench import adversarial_networks as networks
from bench import zoo
from bench.baselines import dac as own_dac
from bench.baselines import hifigan as own_hifigan
from bench.baselines import r3gan as own_r3gan
from bench.baselines import taming as own_taming
from bench.baselines import vits as own_vits
from fastgan.compat import hifigan as fused_hifigan
from fastgan.compat import r3gan as fused_r3gan
from fastgan.compat import taming as fused_taming


class Way(NamedTuple):
    """How a contender goes through a step.

    Attributes:
        fused: with fastgan's losses.
        frozen: the discriminators are frozen in the generator's step.
        steps: by `discriminator_step` and `generator_step`, in trainers where fastgan is used so.
    """

    fused: bool
    frozen: bool = False
    steps: bool = False

    def freeze(self, *discriminators: nn.Module) -> AbstractContextManager[Any]:
        """Around the generator's part."""
        return fastgan.frozen(*discriminators) if self.frozen else nullcontext()


WAYS = {
    "own": Way(fused=False),
    "own, frozen": Way(fused=False, frozen=True),
    "losses only": Way(fused=True),
    "fastgan": Way(fused=True, frozen=True, steps=True),
}


class Trainer:
    """A trainer's networks, optimizers and data.

    Attributes:
        what: the sizes, for the table.
        ways: the contenders.
        order: the parts of a step.
        close: how far fastgan's gradients may be off in float32, relative to their norms.
        clips: the norms that gradients of "discriminator" and "generator" are clipped to.
        generator, discriminators: the networks.
        real: a batch.
    """

    what = ""
    ways: tuple[str, ...] = tuple(WAYS)
    order: tuple[str, ...] = ("discriminator", "generator")
    close = 1e-5
    clips: dict[str, float] = {}  # noqa: RUF012
    generator: nn.Module
    discriminators: nn.ModuleList
    real: Tensor

    def __init__(self, less: int, dtype: torch.dtype) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build(less)
        for name, value in list(vars(self).items()):
            if isinstance(value, (Tensor, nn.Module)):
                setattr(self, name, value.to(dtype))
        self.all = nn.ModuleList([self.generator, *self.discriminators])
        self.networks = {"generator": self.generator, "discriminator": self.discriminators}
        self.optimizers = {name: self.optimizer(net) for name, net in self.networks.items()}

    def build(self, less: int) -> None:
        """Make the networks and the data."""
        raise NotImplementedError

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The trainer's, for one of the networks."""
        raise NotImplementedError

    def generate(self) -> Any:
        """The generator's forward, which both parts share."""
        raise NotImplementedError

    def discriminator_gradients(self, way: Way, fake: Any) -> None:
        """The discriminator's part up to its gradients."""
        raise NotImplementedError

    def generator_gradients(self, way: Way, fake: Any) -> None:
        """The generator's part up to its gradients."""
        raise NotImplementedError

    def outputs(self) -> Any:
        """What the discriminators give on a batch: the losses' inputs."""
        raise NotImplementedError

    def totals(self, way: Way, outputs: Any) -> tuple[Any, Any]:
        """The losses alone: the discriminator's and the generator's, from the discriminators' outputs."""
        raise NotImplementedError

    def part(self, name: str, way: Way, fake: Any) -> None:
        """One part up to its gradients."""
        self.optimizers[name].zero_grad()
        getattr(self, f"{name}_gradients")(way, fake)

    def update(self, name: str) -> None:
        """What follows the gradients."""
        if name in self.clips:
            nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.clips[name])
        self.optimizers[name].step()


class HifiGan(Trainer):
    """HiFi-GAN's train.py, with its first generator."""

    what = "V1, MPD and MSD, 1 x 8192"
    samples = 8192

    def build(self, less: int) -> None:
        length = self.samples if less == 1 else 2048
        self.filters = networks.triangles(80, 1024, 22050)
        self.real = 0.3 * torch.randn(1, 1, length)
        self.frames = networks.log_mel(self.real, self.filters)
        self.generator = networks.Vocoder(80, max(16, 512 // less))
        self.discriminators = nn.ModuleList([networks.multi_period(less), networks.MultiScale(less)])

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(net.parameters(), 2e-4, betas=(0.8, 0.99))

    def generate(self) -> Tensor:
        return self.generator(self.frames)

    def losses(self, way: Way) -> Any:
        """The module of losses, which is all that one line changes."""
        return fused_hifigan if way.fused else own_hifigan

    def discriminator_gradients(self, way: Way, fake: Tensor) -> None:
        m, loss = self.losses(way), 0
        for judge in self.discriminators:
            real_logits, fake_logits, _, _ = judge(self.real, fake.detach())
            loss = loss + m.discriminator_loss(real_logits, fake_logits)[0]
        loss.backward()  # type: ignore[attr-defined]

    def generator_gradients(self, way: Way, fake: Tensor) -> None:
        m = self.losses(way)
        loss = 45 * F.l1_loss(self.frames, networks.log_mel(fake, self.filters))
        with way.freeze(*self.discriminators):
            for judge in self.discriminators:
                _, logits, real_maps, fake_maps = judge(self.real, fake)
                loss = loss + m.generator_loss(logits)[0] + m.feature_loss(real_maps, fake_maps)
        loss.backward()

    def outputs(self) -> Any:
        fake = self.generate()
        return [judge(self.real, fake) for judge in self.discriminators]

    def totals(self, way: Way, outputs: Any) -> tuple[Any, Any]:
        m = self.losses(way)
        real_and_fake = sum(m.discriminator_loss(real, fake)[0] for real, fake, _, _ in outputs)
        return real_and_fake, sum(m.generator_loss(f)[0] + m.feature_loss(*maps) for _, f, *maps in outputs)


class FusedVits:
    """VITS's functions, as one writes them with fastgan; the floats that it logs are left out."""

    @staticmethod
    def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> tuple[Tensor]:
        """Least squares, summed over discriminators."""
        return (fastgan.discriminator_loss(real, fake, "least_squares"),)

    @staticmethod
    def generator_loss(fake: list[Tensor]) -> tuple[Tensor]:
        """The same for the generator."""
        return (fastgan.generator_loss(fake, loss="least_squares"),)

    @staticmethod
    def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
        """Twice the distances; real maps are detached by default."""
        return fastgan.feature_matching_loss(real, fake, weights=2.0)


class Vits(HifiGan):
    """VITS's train.py from the latents on, with a decoder of half the width; without its KL and duration losses."""

    what = "MPD and one scale, 1 x 8192"

    def build(self, less: int) -> None:
        super().build(less)
        self.latents = torch.randn(1, 192, self.real.shape[-1] // 256)
        self.generator = networks.Vocoder(192, max(16, 256 // less))
        self.discriminators = nn.ModuleList([networks.vits_discriminators(less)])

    def generate(self) -> Tensor:
        return self.generator(self.latents)

    def losses(self, way: Way) -> Any:
        return FusedVits if way.fused else own_vits


class FusedDac:
    """DAC's methods, as one writes them with fastgan."""

    @staticmethod
    def discriminator_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
        """Least squares, summed over discriminators."""
        return fastgan.discriminator_loss([m[-1] for m in real], [m[-1] for m in fake], "least_squares")

    @staticmethod
    def generator_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        """The same for the generator, and the distances of all maps but the last."""
        features = fastgan.feature_matching_loss([m[:-1] for m in real], [m[:-1] for m in fake])
        return fastgan.generator_loss([m[-1] for m in fake], loss="least_squares"), features


class Dac(Trainer):
    """DAC's train.py, with a small autoencoder in the place of the codec."""

    what = "MPD and three spectrograms, 1 x 8192"
    clips = {"discriminator": 10.0, "generator": 1e3}  # noqa: RUF012

    def build(self, less: int) -> None:
        length = 8192 if less == 1 else 2048
        self.filters = [networks.triangles(5 << k, 32 << k, 44100) for k in range(7)]
        self.real = 0.3 * torch.randn(1, 1, length)
        self.generator = networks.codec_generator(max(4, 32 // less))
        self.discriminators = nn.ModuleList([networks.Codec(less)])

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(net.parameters(), 1e-4, betas=(0.8, 0.99))

    def generate(self) -> Tensor:
        return self.generator(self.real)

    def discriminator_gradients(self, way: Way, fake: Tensor) -> None:
        (judge,) = self.discriminators
        d_fake, d_real = judge(fake.clone().detach()), judge(self.real)
        (FusedDac if way.fused else own_dac).discriminator_loss(d_fake, d_real).backward()

    def generator_gradients(self, way: Way, fake: Tensor) -> None:
        (judge,) = self.discriminators
        mel = sum(F.l1_loss(networks.log_mel(fake, f), networks.log_mel(self.real, f)) for f in self.filters)
        with way.freeze(judge):
            d_fake, d_real = judge(fake), judge(self.real)
            adversarial, features = (FusedDac if way.fused else own_dac).generator_loss(d_fake, d_real)
        (15 * mel + 2 * features + adversarial).backward()

    def outputs(self) -> Any:
        (judge,) = self.discriminators
        return judge(self.generate()), judge(self.real)

    def totals(self, way: Way, outputs: Any) -> tuple[Any, Any]:
        m = FusedDac if way.fused else own_dac
        adversarial, features = m.generator_loss(*outputs)
        return m.discriminator_loss(*outputs), 2 * features + adversarial


class VqGan(Trainer):
    """VQGAN's losses in a plain loop, as LlamaGen's; in taming's, Lightning freezes the other network itself."""

    what = "PatchGAN and VGG16, 1 x 3 x 128 x 128"
    order = ("generator", "discriminator")
    close = 1e-3  # the adaptive weight's norms are rounded otherwise
    weight = 0.8

    def build(self, less: int) -> None:
        self.real = torch.rand(1, 3, *[128 if less == 1 else 32] * 2) * 2 - 1
        self.generator = networks.Quantized(max(8, 64 // less))
        self.discriminators = nn.ModuleList([networks.patches(less)])
        self.perceptual = networks.Perceptual(less)
        self.balance: Any = None

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), 4.5e-6, betas=(0.5, 0.9))

    def generate(self) -> tuple[Tensor, Tensor]:
        return self.generator(self.real)

    def discriminator_gradients(self, way: Way, fake: tuple[Tensor, Tensor]) -> None:
        (judge,), images = self.discriminators, fake[0].detach()
        if way.steps:
            step = fastgan.discriminator_step(judge, self.real, images, loss=fused_taming.hinge_d_loss)
            step.total.backward()
        else:
            m = fused_taming if way.fused else own_taming
            m.hinge_d_loss(judge(self.real), judge(images)).backward()

    def generator_gradients(self, way: Way, fake: tuple[Tensor, Tensor]) -> None:
        (judge,), (images, codebook) = self.discriminators, fake
        nll = ((self.real - images).abs() + self.perceptual(self.real, images)).mean()
        if way.steps:
            if self.balance is None:
                self.balance = fastgan.nn.AdaptiveWeight(self.generator.last_layer, weight=self.weight)
            loss = fastgan.nn.GeneratorLoss("hinge")
            step = fastgan.generator_step(judge, images, loss=loss, reconstruction=nll, balance=self.balance)
            (step.total + codebook).backward()
            return
        m = fused_taming if way.fused else own_taming
        with way.freeze(judge):
            g_loss = -judge(images).mean()
        weight = m.calculate_adaptive_weight(nll, g_loss, self.generator.last_layer, self.weight)
        (nll + weight * g_loss + codebook).backward()

    def outputs(self) -> Any:
        (judge,) = self.discriminators
        return judge(self.real), judge(self.generate()[0])

    def totals(self, way: Way, outputs: Any) -> tuple[Any, Any]:
        real, fake = outputs
        m = fused_taming if way.fused else own_taming
        generator = fastgan.generator_loss(fake, loss="hinge") if way.fused else -fake.mean()
        return m.hinge_d_loss(real, fake), generator


class Unconditional(nn.Module):
    """A network that is called with conditions, and has none."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, conditions: Any = None) -> Tensor:
        return self.net(x)


def drawing(width: int, size: int) -> nn.Sequential:
    """A generator of R3GAN's blocks, from 64 numbers to an image."""
    steps = size.bit_length() - 3
    width <<= steps
    layers: list[nn.Module] = [nn.Unflatten(1, (-1, 1, 1)), nn.ConvTranspose2d(64, width, 4)]
    for _ in range(steps):
        layers += [zoo.ResidualBlock(width), zoo.ResidualBlock(width)]
        layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.Upsample(scale_factor=2, mode="bilinear")]
        width //= 2
    return nn.Sequential(*layers, zoo.ResidualBlock(width), zoo.ResidualBlock(width), nn.Conv2d(width, 3, 1))


class R3Gan(Trainer):
    """R3GAN's, which freezes one network while the other is trained; each part generates for itself."""

    what = "residual, width 32, 8 x 3 x 64 x 64"
    ways = ("own", "losses only", "fastgan")
    close = 1e-4  # second derivatives; in float32 the trainer's own are twice as far from its own in float64
    gamma = 1.0

    def build(self, less: int) -> None:
        n, width, size = (8, 32, 64) if less == 1 else (4, 8, 16)
        self.real, self.noise = torch.randn(n, 3, size, size), torch.randn(n, 64)
        self.generator = Unconditional(drawing(width, size))
        self.discriminators = nn.ModuleList([Unconditional(zoo.residual(width, size))])
        self.penalties = [fastgan.nn.GradientPenalty(kind, weight=self.gamma) for kind in ("r1", "r2")]
        self.fused = [
            loss("nonsaturating", relativistic="paired")
            for loss in (fastgan.nn.DiscriminatorLoss, fastgan.nn.GeneratorLoss)
        ]

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), 2e-4, betas=(0.0, 0.9))

    def generate(self) -> None:
        return None

    def phase(self, trained: str) -> nn.Module:
        """Freeze one network, and return the discriminator."""
        for name, net in self.networks.items():
            net.requires_grad_(name == trained)
        return self.discriminators[0]

    def training(self, way: Way, judge: nn.Module) -> Any:
        """The trainer's class."""
        return (fused_r3gan if way.fused else own_r3gan).AdversarialTraining(self.generator, judge)

    def discriminator_gradients(self, way: Way, fake: None) -> None:
        judge = self.phase("discriminator")
        if way.steps:
            generated = self.generator(self.noise).detach()
            step = fastgan.discriminator_step(
                judge, self.real, generated, loss=self.fused[0], penalty=self.penalties
            )
            step.total.backward()
        else:
            self.training(way, judge).AccumulateDiscriminatorGradients(self.noise, self.real, None, self.gamma)

    def generator_gradients(self, way: Way, fake: None) -> None:
        judge = self.phase("generator")
        if way.steps:
            generated = self.generator(self.noise)
            step = fastgan.generator_step(judge, generated, self.real, loss=self.fused[1])
            step.total.backward()
        else:
            self.training(way, judge).AccumulateGeneratorGradients(self.noise, self.real, None)

    def outputs(self) -> Any:
        (judge,) = self.discriminators
        return judge(self.real), judge(self.generator(self.noise))

    def totals(self, way: Way, outputs: Any) -> tuple[Any, Any]:
        real, fake = outputs
        if way.fused:
            return self.fused[0](real, fake), self.fused[1](fake, real)
        return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()


TRAINERS: dict[str, type[Trainer]] = {
    "hifigan": HifiGan,
    "vits": Vits,
    "dac": Dac,
    "vqgan": VqGan,
    "r3gan": R3Gan,
}
