"""Whole training steps of trainers: as the trainer writes them, and the same with fastgan.

A case has the trainer's networks, optimizers and data, on which the contenders take turns. Each runs the trainer's
whole step: forwards, losses, backward and optimizer of discriminator and generator. The trainers' own losses are
those of bench/baselines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod
from textwrap import fill
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import fastgan
from bench import adversarial_networks as networks
from bench import report, zoo
from bench.baselines import dac as own_dac
from bench.baselines import hifigan as own_hifigan
from bench.baselines import r3gan as own_r3gan
from bench.baselines import taming as own_taming
from bench.baselines import vits as own_vits
from bench.harness import Row, Run, Suite
from bench.suites.steps import peak
from fastgan.compat import hifigan as fused_hifigan
from fastgan.compat import r3gan as fused_r3gan
from fastgan.compat import taming as fused_taming

TINY = 16  # what --quick divides channels by
PARTS = ("whole", "generator", "discriminator")


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


# --- trainers ---------------------------------------------------------------------------------------------


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


TRAINERS: dict[str, type[Trainer]] = {
    "hifigan": HifiGan,
    "vits": Vits,
    "dac": Dac,
    "vqgan": VqGan,
    "r3gan": R3Gan,
}


# --- whether they agree -----------------------------------------------------------------------------------

Gradients = dict[str, Tensor | None]


def gradients(t: Trainer, way: Way, buffers: dict[str, Tensor]) -> Gradients:
    """Those of both networks by each one's own part, from these buffers; no optimizer steps."""
    t.all.load_state_dict(buffers, strict=False)
    t.all.zero_grad()
    fake = t.generate()
    found: Gradients = {}
    for name in t.order:
        t.part(name, way, fake)
        for key, p in t.networks[name].named_parameters():
            found[f"{name}'s {key}"], p.grad = p.grad, None
    t.all.zero_grad()
    return found


def difference(wanted: Gradients, got: Gradients, close: float, what: str) -> float:
    """The largest difference of a gradient relative to its norm; raises where one is not close.

    What is zero but for rounding, as of a bias before a norm, is measured by the largest as well.
    """
    norms = {key: float(w.double().norm()) for key, w in wanted.items() if w is not None}
    largest, worst = max(norms.values()), 0.0
    for key, w in wanted.items():
        g = got[key]
        if (g is None) is not (w is None):
            raise AssertionError(f"{what}: {key} is None for one contender only")
        if g is None or w is None:
            continue
        off = float((g.double() - w.double()).norm()) / (norms[key] + 1e-3 * largest)
        worst = max(worst, off)
        if not off <= close:
            raise AssertionError(f"{what}: the gradient of {key} is off by {off:.2g}, not {close:.2g}")
    return worst


def equal(a: Gradients, b: Gradients) -> bool:
    """Whether all bits are the same."""
    pairs = zip(a.values(), b.values(), strict=True)
    return all(x is y if x is None or y is None else torch.equal(x, y) for x, y in pairs)


def agreement(name: str, t: Trainer) -> tuple[Row, Gradients]:
    """The trainer's own gradients; for each other whether it has their bits, and how far off they are."""
    double = t.real.dtype == torch.float64
    buffers = {key: value.clone() for key, value in t.all.named_buffers()}
    wanted = gradients(t, WAYS["own"], buffers)
    found: Row = {}
    for other in [w for w in t.ways if w != "own"]:
        got, what = gradients(t, WAYS[other], buffers), f"{name}, {other}, {str(t.real.dtype)[6:]}"
        same = equal(wanted, got)
        if double and not WAYS[other].fused and not same:
            raise AssertionError(f"{what}: gradients are not the bits of the trainer's own")
        found[other] = {"equal": same, "off": difference(wanted, got, t.close, what)}
    return found, wanted


def agreements(name: str, less: int) -> tuple[Row, Trainer]:
    """In float64 and in float32, and how far the trainer's own are off in float32; the trainer in float32."""
    double, exact = agreement(name, TRAINERS[name](less, torch.float64))
    t = TRAINERS[name](less, torch.float32)
    single, own = agreement(name, t)
    rounding = {"equal": False, "off": difference(exact, own, float("inf"), name)}
    return {"float64": double, "float32": {"own": rounding} | single}, t


# --- what is measured -------------------------------------------------------------------------------------

ROUNDS = 9
LIMIT = 240.0  # seconds for the rounds of a case


class Step:
    """A contender's whole step; keeps the seconds of its parts for each call."""

    def __init__(self, t: Trainer, way: Way) -> None:
        self.t, self.way = t, way
        self.seconds: dict[str, list[float]] = {name: [] for name in t.order}

    def __call__(self) -> None:
        start = perf_counter()
        fake = self.t.generate()
        generated = perf_counter() - start
        for name in self.t.order:
            start = perf_counter()
            self.part(name, fake)
            took = perf_counter() - start
            self.seconds[name].append(took + generated if name == "generator" else took)

    def part(self, name: str, fake: Any) -> None:
        """One part with its optimizer's step."""
        self.t.part(name, self.way, fake)
        self.t.update(name)

    def alone(self, name: str) -> Callable[[], None]:
        """A part with the forward that it needs; for the discriminator's the generator's is not counted as its."""
        if name == "whole":
            return self
        if name == "generator":
            return lambda: self.part(name, self.t.generate())
        with torch.no_grad():
            fake = self.t.generate()
        return lambda: self.part(name, fake)


def convolution_backward(
    _grad: Any, x: Any, w: Any, _bias: Any, *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    """What each of the two gradients of a convolution takes: as much as its forward.

    torch's own formula counts the weight's gradient of a convolution in groups once for each group.
    """
    transposed, mask = rest[3], rest[6]
    positions = x[2:] if transposed else _grad[2:]
    return 2 * x[0] * prod(w) * prod(positions) * sum(mask[:2])


class NoModules(ModuleTracker):
    """Tells no modules apart: torch's own hooks stop `autograd.grad` with respect to a leaf."""

    def __enter__(self) -> NoModules:
        return self

    def __exit__(self, *exception: Any) -> None: ...


def operations(work: Callable[[], None]) -> float:
    """The 1e9 operations of a step in convolutions and products of matrices."""
    formulas = {torch.ops.aten.convolution_backward: convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    counter.mod_tracker = NoModules()
    with counter:
        work()
    return counter.get_total_flops() / 1e9


def counted(steps: dict[str, Step]) -> dict[str, dict[str, float]]:
    """Operations for each contender and part."""
    return {name: {part: operations(s.alone(part)) for part in PARTS} for name, s in steps.items()}


def peaks(t: Trainer, steps: dict[str, Step], device: str) -> dict[str, dict[str, float]]:
    """Memory for each contender, of its whole step and of the generator's.

    The gradients of the step before are there in both; where the whole begins they are in the discriminator's too.
    """
    found = {}
    for name, s in steps.items():
        s()
        generator = peak(t.generator, s.alone("generator"), device)
        found[name] = {"whole": peak(t.all, s, device), "generator": generator}
    return found


def measure(run: Run, name: str) -> Iterator[Row]:
    """A row for the whole step of a trainer, and one for each of its parts."""
    less = TINY if run.quick else 1
    try:
        agree, t = agreements(name, less)
    except AssertionError as error:
        yield {"wrong": str(error)}
        return
    steps = {way: Step(t, WAYS[way]) for way in t.ways}
    facts = {"case": name, "what": t.what if less == 1 else "tiny", "agreement": agree}
    facts |= {"operations": counted(steps), "MiB": peaks(t, steps, run.device)}
    row = run.measure(dict(steps), "own", 3 if run.quick else ROUNDS, 1, LIMIT)
    done = len(row["calibration"])
    yield facts | {"part": "whole"} | row
    for part in t.order:
        yield (
            {"case": name, "part": part} | row | {"seconds": {w: s.seconds[part][-done:] for w, s in steps.items()}}
        )


# --- what is written --------------------------------------------------------------------------------------


def milliseconds(row: Row, name: str) -> str:
    """A contender's minimum."""
    return report.digits(row["minimum"][name] * 1e3) if name in row["minimum"] else ""


def ratios(row: Row, name: str) -> list[str]:
    """Of medians and of minima."""
    return [report.ratio(row, name, "ratio, median"), report.ratio(row, name)]


def by_case(result: Row) -> list[dict[str, Row]]:
    """The rows of each case by part."""
    found: dict[str, dict[str, Row]] = {}
    for row in result["rows"]:
        found.setdefault(row["case"], {})[row["part"]] = row
    return list(found.values())


def step_table(cases: list[dict[str, Row]]) -> str:
    """Times and ratios of whole steps."""
    head = ["case", "what", *(f"{w} ms" for w in WAYS)]
    head += [cell for w in list(WAYS)[:0:-1] for cell in (f"own/{w}", "(min)")]
    lines = []
    for rows in cases:
        whole = rows["whole"]
        cells = [report.marked(whole, whole["case"]), whole["what"], *(milliseconds(whole, w) for w in WAYS)]
        lines.append(cells + [cell for w in list(WAYS)[:0:-1] for cell in ratios(whole, w)])
    return report.table(head, lines)


def part_table(cases: list[dict[str, Row]]) -> str:
    """The same of their parts."""
    others = list(WAYS)[:0:-1]
    head = ["case", "part", "own ms", "fastgan ms", *(c for w in others for c in (f"own/{w}", "(min)"))]
    lines = []
    for rows in cases:
        for part in PARTS[1:]:
            row = rows[part]
            cells = [report.marked(row, row["case"]), part, milliseconds(row, "own"), milliseconds(row, "fastgan")]
            lines.append(cells + [cell for w in others for cell in ratios(row, w)])
    return report.table(head, lines)


def operation_table(cases: list[dict[str, Row]]) -> str:
    """Operations of the trainer's own and of fastgan's."""
    head = ["case", *(cell for part in PARTS for cell in (f"{part}, own", "fastgan", "own/fastgan"))]
    lines = []
    for rows in cases:
        counts, cells = rows["whole"]["operations"], []
        for part in PARTS:
            own, ours = (counts[w][part] for w in ("own", "fastgan"))
            cells += [report.digits(own), report.digits(ours), f"{own / ours:.2f}"]
        lines.append([rows["whole"]["case"], *cells])
    return report.table(head, lines)


def memory_table(cases: list[dict[str, Row]]) -> str:
    """Peaks in MiB."""
    parts = ("whole", "generator")
    head = ["case", *(f"{part}, {w}" for part in parts for w in WAYS)]
    lines = []
    for rows in cases:
        found = rows["whole"]["MiB"]
        cells = [report.digits(found[w][part]) if w in found else "" for part in parts for w in WAYS]
        lines.append([rows["whole"]["case"], *cells])
    return report.table(head, lines)


def agreement_table(cases: list[dict[str, Row]]) -> str:
    """Whether gradients are the trainer's own."""
    columns = [(dtype, w) for dtype in ("float64", "float32") for w in list(WAYS)[1:]] + [("float32", "own")]
    head = ["case", *(f"{dtype}, {w}" for dtype, w in columns[:-1]), "own, float32 from float64"]
    lines = []
    for rows in cases:
        cells = []
        for dtype, w in columns:
            found = rows["whole"]["agreement"][dtype].get(w)
            cells.append("" if found is None else "equal" if found["equal"] else f"{found['off']:.1g}")
        lines.append([rows["whole"]["case"], *cells])
    return report.table(head, lines)


NOTES = {
    "steps": "own: as the trainer has it. own, frozen: with the discriminators frozen in the generator's step"
    " (`fastgan.frozen`), and nothing else; R3GAN's trainer does that itself, and so do those on Lightning: their"
    " gain is what fastgan has over this. losses only: with fastgan's losses, and nothing else. fastgan: both; in"
    " vqgan by `generator_step` with an adaptive weight, in r3gan by both steps. Ratios are medians of the rounds'"
    " own, (min) those of minima.",
    "parts": "The same steps, in parts: the generator's with its forward, which the discriminator's shares where"
    " the trainer shares it; each with its optimizer.",
    "operations": "1e9 multiplications and additions in convolutions and products of matrices, of the whole step"
    " and of each part alone. What else there is, norms, activations, losses and optimizers, is not counted.",
    "memory": "MiB by which a step's allocations exceed at their peak what there was before, for the whole step and"
    " for the generator's, at whose beginning the discriminator's gradients are there.",
    "agreement": "Gradients of generator and discriminator, from the same weights, against the trainer's own: equal"
    " to the bit, or the largest difference of a parameter's gradient relative to its norm (and a thousandth of the"
    " largest). Last, what rounding alone does: the trainer's own in float32 from its own in float64. VITS computes"
    " losses in float32 in any case, fastgan in the logits' dtype if that is wider.",
}


def sections(result: Row) -> list[str]:
    """The tables."""
    cases = by_case(result)
    if not cases:
        return []
    text = [
        "## Whole steps",
        NOTES["steps"],
        step_table(cases),
        "## Their parts",
        NOTES["parts"],
        part_table(cases),
    ]
    text += ["## Operations", NOTES["operations"], operation_table(cases)]
    text += ["## Peak memory", NOTES["memory"], memory_table(cases)]
    return [*text, "## Whether gradients are the same", NOTES["agreement"], agreement_table(cases)]


def figure(row: Row) -> str:
    """A row in short."""
    found = " ".join(f"{w} {row['ratio, median'][w]:.2f}" for w in row["median"] if w != "own")
    return f"{row['case']}, {row['part']}: own {row['median']['own'] * 1e3:.4g} ms, own over {found}"


COLOURS = {"losses only": "#7fb2e0", "own, frozen": "#c9c9c9", "fastgan": "#1b5fa8"}


def draw_bars(axes: Any, rows: list[Row]) -> None:
    """A group of bars for each case."""
    for j, (name, colour) in enumerate(COLOURS.items()):
        there = [(k, row["ratio, median"][name]) for k, row in enumerate(rows) if name in row["ratio, median"]]
        places = [k + 0.27 * (j - 1) for k, _ in there]
        bars = axes.bar(places, [v for _, v in there], 0.26, color=colour, label=name)
        axes.bar_label(bars, [f"{v:.2f}" for _, v in there], fontsize=8, padding=2)
    axes.axhline(1, color="#333333", lw=1)
    axes.set_xticks(range(len(rows)), [row["case"] for row in rows])
    axes.set_ylim(0, 1.2 * max(v for row in rows for v in row["ratio, median"].values()))
    report.bare(axes)


def draw(plt: Any, result: Row, below: str) -> Any:
    """Bars of the ratios, for whole steps and for the generators'."""
    drawing, both = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
    for axes, part in zip(both, PARTS[:2], strict=True):
        draw_bars(axes, [row for row in result["rows"] if row["part"] == part])
        axes.set_title({"whole": "whole step", "generator": "generator's step"}[part], fontsize=11)
    both[0].set_ylabel("time of the trainer's own / time (higher is better)")
    both[0].legend(frameon=False, fontsize=9)
    drawing.suptitle("Training steps, forward, backward and optimizers", fontsize=13)
    drawing.supxlabel(fill(below, 150), fontsize=8, color="#555555")
    return drawing


# --- the suite --------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=TRAINERS, help="these cases")


def chosen(options: argparse.Namespace) -> list[str]:
    """The cases that are asked for."""
    return [name for name in TRAINERS if not options.only or name in options.only]


SUITE = Suite(
    name="adversarial",
    title="Trainers' whole steps on {device}",
    note=(
        "Whole training steps: forwards, losses, backward and optimizers of discriminator and generator, with the"
        " published discriminators. Ratios are the time of the trainer's own step over theirs."
    ),
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
    options=add_options,
    compiles=False,
)
