"""Loss parts of trainers' steps at their real shapes: the trainer's own functions, and fastgan's adapters for them.

A case builds logits and feature maps as the trainer's discriminators return them, and runs all losses of one
step of discriminator and generator, forward and backward, to the gradients of those tensors. The trainers' own
losses are those of bench/baselines; the only thing that differs between the contenders is the module they come
from.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from textwrap import fill
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from bench import report
from bench.harness import Row, Run, Suite
from fastgan.backends.cpu import Cpu

Made = dict[str, Any]
BASELINES = {"pix2pix": "cyclegan"}  # modules of another name


class Case(NamedTuple):
    """A trainer's step.

    Attributes:
        trainer: the module in bench/baselines and in fastgan.compat.
        what: the shapes, for the table.
        make: (device, a divisor of the batch) -> tensors.
        step: (module of losses, tensors) -> list of (loss, tensors to differentiate it by).
    """

    trainer: str
    what: str
    make: Callable[[str, int], Made]
    step: Callable[[Any, Made], Sequence[tuple[Tensor, Sequence[Tensor]]]]


def module_of(case: Case, contender: str) -> Any:
    """The losses of a contender."""
    if contender == "fused":
        return importlib.import_module(f"fastgan.compat.{case.trainer}")
    return importlib.import_module(f"bench.baselines.{BASELINES.get(case.trainer, case.trainer)}")


def work(case: Case, contender: str, made: Made) -> Callable[[], list[Any]]:
    """A step: losses and gradients."""
    module = module_of(case, contender)

    def run() -> list[Any]:
        found: list[Any] = []
        for loss, inputs in case.step(module, made):
            found += [loss.detach(), *torch.autograd.grad(loss, inputs)]
        return found

    return run


def check(case: Case, made: Made) -> None:
    """Raises unless both contenders compute the same."""
    fused, own = (work(case, c, made)() for c in ("fused", "own"))
    for a, b in zip(fused, own, strict=True):
        size = b.abs().max().clamp(min=1e-30)
        if not (a.double() - b.double()).abs().max() <= 1e-4 * size:
            raise AssertionError(f"{case.trainer}: fastgan and the trainer's own losses differ")


# --- tensors ----------------------------------------------------------------------------------------------


def randn(device: str, *shape: int, seed: int = 0) -> Tensor:
    """A leaf as a discriminator might return."""
    generator = torch.Generator(device).manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, device=device).requires_grad_()


def pair(*shape: int) -> Callable[[str, int], Made]:
    """Logits of real and fake, with a batch."""

    def make(device: str, less: int) -> Made:
        n = max(1, shape[0] // less)
        return {"r": randn(device, n, *shape[1:]), "f": randn(device, n, *shape[1:], seed=1)}

    return make


def hifigan(device: str, less: int) -> Made:
    """The multi-period and multi-scale discriminators' outputs for segments of 8,192 samples, batch 16."""
    n, length = max(1, 16 // less), 8192
    maps: list[list[tuple[int, ...]]] = []
    for period in (2, 3, 5, 7, 11):
        height, shapes = -(-length // period), []
        for channels, stride in ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1), (1, 1)):
            height = -(-height // stride)
            shapes.append((n, channels, height, period))
        maps.append(shapes)
    for scale in range(3):
        width, shapes = length // 2**scale + (scale > 0), []
        for channels, stride in (
            (128, 1), (128, 2), (256, 2), (512, 4), (1024, 4), (1024, 1), (1024, 1), (1, 1),
        ):  # fmt: skip
            width = -(-width // stride)
            shapes.append((n, channels, width))
        maps.append(shapes)
    return _with_maps(device, maps)


def _with_maps(device: str, maps: list[list[tuple[int, ...]]]) -> Made:
    """Feature maps of real and fake, of which the last of each discriminator is its logits."""
    real, fake = ([[randn(device, *s, seed=k) for s in member] for member in maps] for k in range(2))
    return {
        "maps_r": real,
        "maps_f": fake,
        "r": [m[-1].flatten(1).detach().requires_grad_() for m in real],
        "f": [m[-1].flatten(1).detach().requires_grad_() for m in fake],
    }


def pix2pixhd(device: str, less: int) -> Made:
    """Three scales of a patch discriminator with four layers, for one image of 512 x 1024."""
    maps = []
    for scale in range(3):
        height, width = (512 >> scale) // less, (1024 >> scale) // less
        shapes: list[tuple[int, ...]] = []
        for channels, stride in ((64, 2), (128, 2), (256, 2), (512, 1), (1, 1)):
            height, width = height // stride + 1, width // stride + 1
            shapes.append((1, channels, height, width))
        maps.append(shapes)
    return _with_maps(device, maps)


def encodec(device: str, less: int) -> Made:
    """The multi-scale STFT discriminator's outputs for a second of 24 kHz, batch 4."""
    n, maps = max(1, 4 // less), []
    for window in (2048, 1024, 512, 256, 128):
        frames, bins = 24000 * 4 // window, window // 2 + 1
        maps.append([(n, 32, frames, -(-bins // 2**k)) for k in (0, 1, 2, 3, 3)] + [(n, 1, frames, -(-bins // 8))])
    return _with_maps(device, maps)


def flat(nested: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """All tensors of a list of lists."""
    return [t for member in nested for t in member]


# --- steps ------------------------------------------------------------------------------------------------


def kept_loss(m: Any, t: Made, mode: str, beside: Tensor) -> Any:
    """A trainer's GANLoss, made once, as trainers do."""
    if m.__name__ not in t:
        t[m.__name__] = m.GANLoss(mode).to(beside.device)
    return t[m.__name__]


def hifigan_step(m: Any, t: Made) -> Any:
    """As train.py does: the losses of both kinds of discriminators apart."""
    yield sum(m.discriminator_loss(t["r"][k], t["f"][k])[0] for k in (slice(5), slice(5, 8))), [*t["r"], *t["f"]]
    total = sum(m.generator_loss(t["f"][k])[0] for k in (slice(5), slice(5, 8)))
    total = total + sum(m.feature_loss(t["maps_r"][k], t["maps_f"][k]) for k in (slice(5), slice(5, 8)))
    real = [] if m.__name__.endswith("vits") else flat(t["maps_r"])  # which detaches them
    yield total, [*t["f"], *real, *flat(t["maps_f"])]


def pix2pixhd_step(m: Any, t: Made) -> Any:
    """Least squares summed over scales, and ten times the L1 of features, real ones detached."""
    if m.__name__.startswith("fastgan"):
        yield 0.5 * fastgan.discriminator_loss(t["r"], t["f"], "lsgan"), [*t["r"], *t["f"]]
        adversarial = fastgan.generator_loss(t["f"], loss="lsgan")
        real, fake = [x[:-1] for x in t["maps_r"]], [x[:-1] for x in t["maps_f"]]
        features = fastgan.feature_matching_loss(real, fake, weights=10.0 / 3)
    else:
        gan = kept_loss(m, t, "lsgan", t["r"][0])
        yield (
            sum(gan(r, True) + gan(f, False) for r, f in zip(t["r"], t["f"], strict=True)) * 0.5,
            [*t["r"], *t["f"]],
        )
        adversarial, features = sum(gan(f, True) for f in t["f"]), 0
        for r, f in zip(t["maps_r"], t["maps_f"], strict=True):
            for a, b in zip(r[:-1], f[:-1], strict=True):
                features = features + F.l1_loss(b, a.detach()) * (10.0 / 3)
    yield adversarial + features, [*t["f"], *flat([x[:-1] for x in t["maps_f"]])]


def encodec_step(m: Any, t: Made) -> Any:
    """Hinge and normalised feature matching, as the trainer's AdversarialLoss adds them up."""
    real, fake, generator = (
        m.get_real_criterion("hinge"),
        m.get_fake_criterion("hinge"),
        m.get_adv_criterion("hinge"),
    )

    class Adversary(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    feature = m.FeatureMatchingLoss()
    loss = m.AdversarialLoss(Adversary(), _Idle(), generator, real, fake, feature)
    loss.get_adversary_pred = lambda x: x
    fakes, reals = (t["f"], [x[:-1] for x in t["maps_f"]]), (t["r"], [x[:-1] for x in t["maps_r"]])
    loss.train_adv(_Given(fakes), _Given(reals))  # backward included: gradients into .grad
    for x in [*t["r"], *t["f"]]:
        x.grad = None
    adversarial, features = loss(_Given(fakes), _Given(reals))
    yield adversarial + features, [*t["f"], *flat(fakes[1]), *flat(reals[1])]


class _Sound(tuple):
    """A discriminator's outputs in the place of the sound that it gets."""

    audio_data = property(lambda self: self)

    def clone(self) -> Any:
        """Itself: it is given."""
        return self

    detach = clone


def dac_step(m: Any, t: Made) -> Any:
    """DAC's GANLoss, which calls the discriminator."""
    loss = m.GANLoss(lambda outputs: outputs)
    fake, real = _Sound(t["maps_f"]), _Sound(t["maps_r"])
    yield loss.discriminator_loss(fake, real), [x[-1] for x in (*fake, *real)]
    yield sum(loss.generator_loss(fake, real)), flat(t["maps_f"])


def vocos_step(m: Any, t: Made) -> Any:
    """Hinge, and feature matching with real maps that get gradients."""
    yield m.DiscriminatorLoss()(t["r"], t["f"])[0].sum(), [*t["r"], *t["f"]]
    loss = m.GeneratorLoss()(t["f"])[0] + m.FeatureMatchingLoss()(t["maps_r"], t["maps_f"])
    yield loss.sum(), [*t["f"], *flat(t["maps_r"]), *flat(t["maps_f"])]


def nemo_step(m: Any, t: Made) -> Any:
    """Squares, each a mean over discriminators."""
    yield m.DiscriminatorSquaredLoss()(t["r"], t["f"]), [*t["r"], *t["f"]]
    loss = m.GeneratorSquaredLoss()(t["f"]) + m.FeatureMatchingLoss()(t["maps_r"], t["maps_f"])
    yield loss, [*t["f"], *flat(t["maps_f"])]


def speechbrain_step(m: Any, t: Made) -> Any:
    """Squares of all discriminators, and MelGAN's feature loss."""
    yield m._apply_D_loss(t["f"], t["r"], m.MSEDLoss())[0], [*t["r"], *t["f"]]
    loss = m._apply_G_adv_loss(t["f"], m.MSEGLoss()) + m.MelganFeatureLoss()(t["maps_f"], t["maps_r"])
    yield loss, [*t["f"], *flat([x[:-1] for x in t["maps_f"]])]


def truncated_step(m: Any, t: Made) -> Any:
    """HiFi-GAN's losses and the truncated relativistic ones."""
    d = sum(m.discriminator_loss(t["r"], t["f"])[:1]) + m.discriminator_TPRLS_loss(t["r"], t["f"])
    yield d, [*t["r"], *t["f"]]
    g = m.generator_loss(t["f"])[0] + m.generator_TPRLS_loss(t["r"], t["f"])
    loss = g + m.feature_loss(t["maps_r"], t["maps_f"])
    yield loss, [*t["f"], *flat(t["maps_r"]), *flat(t["maps_f"])]


def unitok_step(m: Any, t: Made) -> Any:
    """The hinge of real and of negated fake logits, and the negated mean."""
    yield m.hinge_loss(t["r"]) + m.hinge_loss(-t["f"]), [t["r"], t["f"]]
    yield m.linear_loss(t["f"]), [t["f"]]


def seed_voken_step(m: Any, t: Made) -> Any:
    """Cross-entropy of logits, and LeCam."""
    average = t.setdefault(f"lecam of {m.__name__}", m.LeCAM_EMA())
    loss = m.non_saturate_discriminator_loss(t["r"], t["f"])
    yield loss + 0.05 * m.lecam_reg(t["r"], t["f"], average), [t["r"], t["f"]]
    yield m.non_saturate_gen_loss(t["f"]), [t["f"]]


def ctgan_step(m: Any, t: Made) -> Any:
    """The penalty of a critic of packs of ten rows, whose gradient is cheap."""

    def critic(x: Tensor) -> Tensor:
        return (0.5 * t["w"] * x.square()).view(-1, 10 * x.shape[1]).sum(1, keepdim=True)

    torch.manual_seed(0)  # where the points are drawn from
    yield m.calc_gradient_penalty(critic, t["r"], t["f"]), [t["w"]]  # fakes have a graph, as the trainer's


def rows(device: str, less: int) -> Made:
    """Batches of 500 rows of a table of 150 columns, and the critic's parameter."""
    real, fake = (randn(device, max(10, 500 // less // 10 * 10), 150, seed=k) for k in range(2))
    return {"r": real.detach(), "f": fake, "w": torch.ones((), device=device, requires_grad=True)}


def neosr_step(m: Any, t: Made) -> Any:
    """BasicSR's in another name, with Huber's function."""
    loss = t.setdefault(f"loss of {m.__name__}", m.gan_loss("huber").to(t["r"].device))
    yield loss(t["r"], True, is_disc=True) + loss(t["f"], False, is_disc=True), [t["r"], t["f"]]
    yield loss(t["f"], True, is_disc=False), [t["f"]]


class _Idle:
    """An optimizer without parameters."""

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}


class _Given(tuple):
    """An adversary's outputs in the place of its input."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self[0][0].device

    def detach(self) -> Any:
        """Themselves: they are given."""
        return self


def both(d: str, g: str) -> Callable[[Any, Made], Any]:
    """A discriminator's loss of (real, fake), and a generator's of fake."""

    def step(m: Any, t: Made) -> Any:
        yield getattr(m, d)(t["r"], t["f"]), [t["r"], t["f"]]
        yield getattr(m, g)(t["f"]), [t["f"]]

    return step


def gan_loss(mode: str, generator: dict[str, Any]) -> Callable[[Any, Made], Any]:
    """A GANLoss called for real, for fake and for the generator."""

    def step(m: Any, t: Made) -> Any:
        loss = kept_loss(m, t, mode, t["r"])
        flags = {k: not v for k, v in generator.items()}
        yield loss(t["r"], True, **flags) + loss(t["f"], False, **flags), [t["r"], t["f"]]
        yield loss(t["f"], True, **generator), [t["f"]]

    return step


def biggan_step(m: Any, t: Made) -> Any:
    """Two losses, added."""
    yield sum(m.loss_hinge_dis(t["f"], t["r"])), [t["r"], t["f"]]
    yield m.loss_hinge_gen(t["f"]), [t["f"]]


def magvit2_step(m: Any, t: Made) -> Any:
    """Hinge, fake first."""
    yield m.hinge_discr_loss(t["f"], t["r"]), [t["r"], t["f"]]
    yield m.hinge_gen_loss(t["f"]), [t["f"]]


def studiogan_step(m: Any, t: Made) -> Any:
    """Hinge, with an argument that is not used."""
    yield m.d_hinge(t["r"], t["f"], False), [t["r"], t["f"]]
    yield m.g_hinge(t["f"], False), [t["f"]]


def relativistic_step(m: Any, t: Made) -> Any:
    """Relativistic average cross-entropy."""
    yield m.discriminator_loss(t["r"], t["f"], loss_D=6), [t["r"], t["f"]]
    yield m.generator_loss(t["f"], t["r"], loss_D=6), [t["r"], t["f"]]


def taming_step(m: Any, t: Made) -> Any:
    """Hinge; the generator's part is inline in the trainer. The adaptive weight of two given gradients."""
    yield m.hinge_d_loss(t["r"], t["f"]), [t["r"], t["f"]]
    layer = t.setdefault("layer", torch.ones(3, 128, 3, 3, device=t["f"].device, requires_grad=True))
    weight = m.calculate_adaptive_weight((layer * 2).sum(), (layer * 3).sum(), layer, 1.0)
    mean = m.hinge_gen_loss(t["f"]) if m.__name__.startswith("fastgan") else -t["f"].mean()
    yield weight * mean, [t["f"]]


def pwg_step(m: Any, t: Made) -> Any:
    """Averages over discriminators and layers; hinge."""
    generator, discriminator = m.GeneratorAdversarialLoss(), m.DiscriminatorAdversarialLoss()
    yield sum(discriminator(t["f"], t["r"])), [*t["r"], *t["f"]]
    loss = generator(t["f"]) + m.FeatureMatchLoss()(t["maps_f"], t["maps_r"])
    yield loss, [*t["f"], *flat([x[:-1] for x in t["maps_f"]])]


def monai_step(m: Any, t: Made) -> Any:
    """Least squares after a leaky ReLU, over three scales."""
    loss = m.PatchAdversarialLoss()
    yield loss(t["r"], True, True) + loss(t["f"], False, True), [*t["r"], *t["f"]]
    yield loss(t["f"], True, False), t["f"]


def scales(device: str, less: int) -> Made:
    """Logits of three scales of a patch discriminator for images of 256 x 256, batch 8."""
    shapes = [(max(1, 8 // less), 1, s, s) for s in (30, 14, 6)]
    return {name: [randn(device, *s, seed=k) for s in shapes] for k, name in enumerate("rf")}


def penalty_step(m: Any, t: Made) -> Any:
    """The penalty of a discriminator whose gradient is cheap: w x^2 / 2, summed."""

    def discriminator(x: Tensor) -> Tensor:
        return (0.5 * t["w"] * x.square()).flatten(1).sum(1, keepdim=True)

    import numpy as np

    np.random.seed(0)  # where the points are drawn from
    yield m.compute_gradient_penalty(discriminator, t["r"], t["f"]), [t["w"]]


def samples(device: str, less: int) -> Made:
    """Real and generated images, and the discriminator's parameter."""
    shape = (max(1, 64 // less), 3, 64, 64)
    real, fake = (randn(device, *shape, seed=k).detach() for k in range(2))
    return {"r": real, "f": fake, "w": torch.ones((), device=device, requires_grad=True)}


def r1_step(m: Any, t: Made) -> Any:
    """Logistic losses and R1 of such a discriminator."""
    yield from both("d_logistic_loss", "g_nonsaturating_loss")(m, t)
    yield m.d_r1_loss(0.5 * t["image"].square().flatten(1).sum(1), t["image"]), [t["image"]]


def stylegan2(device: str, less: int) -> Made:
    """Logits of 32 images, and the images."""
    return pair(32, 1)(device, less) | {"image": randn(device, max(1, 32 // less), 3, 256, 256)}


CASES = [
    Case("hifigan", "8 discriminators, 54 maps, 16 x 8192 samples", hifigan, hifigan_step),
    Case("parallelwavegan", "the same", hifigan, pwg_step),
    Case("vits", "the same", hifigan, hifigan_step),
    Case("styletts2", "the same, truncated relativistic too", hifigan, truncated_step),
    Case("speechbrain", "the same", hifigan, speechbrain_step),
    Case("vocos", "the same", hifigan, vocos_step),
    Case("nemo", "5 STFT discriminators, 25 maps, 4 x 24000 samples", encodec, nemo_step),
    Case("dac", "the same", encodec, dac_step),
    Case("audiocraft", "5 STFT discriminators, 25 maps, 4 x 24000 samples", encodec, encodec_step),
    Case("pix2pix", "pix2pixHD: 3 scales, 12 maps, 512 x 1024", pix2pixhd, pix2pixhd_step),
    Case(
        "basicsr",
        "U-Net logits 12 x 256 x 256, vanilla",
        pair(12, 1, 256, 256),
        gan_loss("vanilla", {"is_disc": False}),
    ),
    Case("mmagic", "logits 16 x 128 x 128, lsgan", pair(16, 1, 128, 128), gan_loss("lsgan", {"is_disc": False})),
    Case("cyclegan", "patches 4 x 30 x 30, lsgan", pair(4, 1, 30, 30), gan_loss("lsgan", {})),
    Case("taming", "patches 12 x 30 x 30, adaptive weight", pair(12, 1, 30, 30), taming_step),
    Case("unitok", "logits 32 x 12 x 224, hinge", pair(32, 12, 224), unitok_step),
    Case("seed_voken", "patches 8 x 16 x 16, LeCam", pair(8, 1, 16, 16), seed_voken_step),
    Case("neosr", "U-Net logits 12 x 256 x 256, huber", pair(12, 1, 256, 256), neosr_step),
    Case("modelopt", "logits 8 x 3 heads", pair(8, 3), both("gan_disc_loss", "gan_gen_loss")),
    Case("ctgan", "penalty, 500 rows of 150 columns in packs of 10", rows, ctgan_step),
    Case("monai", "3 scales of patches, batch 8", scales, monai_step),
    Case("magvit2", "logits 4 x 17 x 16 x 16, hinge", pair(4, 1, 17, 16, 16), magvit2_step),
    Case("stylegan2", "32 logits", pair(32, 1), both("d_logistic_loss", "g_nonsaturating_loss")),
    Case("stylegan2", "32 logits, R1 of 3 x 256 x 256", stylegan2, r1_step),
    Case("wgan_gp", "points and penalty, 64 x 3 x 64 x 64", samples, penalty_step),
    Case("biggan", "256 logits, hinge", pair(256, 1), biggan_step),
    Case("studiogan", "64 logits, hinge", pair(64), studiogan_step),
    Case(
        "gigagan",
        "logits 16 x 64 x 64, hinge",
        pair(16, 1, 64, 64),
        both("discriminator_hinge_loss", "generator_hinge_loss"),
    ),
    Case("relativisticgan", "64 outputs, average", pair(64), relativistic_step),
    Case(
        "torchgan", "64 logits, minimax", pair(64, 1), both("minimax_discriminator_loss", "minimax_generator_loss")
    ),
]


# --- time and launches ------------------------------------------------------------------------------------

CONTENDERS = ("fused", "own")
AIM = {"hifigan": 3.0}
# Operators that look at memory anew, or make room for it, and start nothing on a device.
_IDLE = """empty empty_like empty_strided new_empty new_empty_strided view _unsafe_view reshape _reshape_alias
as_strided expand expand_as slice select unsqueeze squeeze permute transpose t alias detach detach_
unbind split flatten result_type item _local_scalar_dense is_nonzero numpy_T movedim view_as unflatten
chunk narrow resolve_conj resolve_neg lift_fresh broadcast_tensors"""
IDLE = frozenset(f"aten::{name}" for name in _IDLE.split())


def launches(work: Callable[[], Any], device: str) -> int:
    """What a step starts."""
    kinds = torch.profiler.ProfilerActivity
    calls: list[int] = []
    run = Cpu._launch

    def counted(self: Cpu, *arguments: Any) -> None:
        calls.append(1)
        run(self, *arguments)

    Cpu._launch = counted  # type: ignore[method-assign]
    try:
        with torch.profiler.profile(activities=[kinds.CUDA if device == "cuda" else kinds.CPU]) as profile:
            work()
            if device == "cuda":
                torch.cuda.synchronize()
    finally:
        Cpu._launch = run  # type: ignore[method-assign]
    events = profile.events()
    if device == "cuda":
        return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in events)
    work_done = [e for e in events if e.name.startswith(("aten::", "fastgan::")) and e.name not in IDLE]
    inner = {id(e.cpu_parent) for e in work_done}
    return sum(id(e) not in inner for e in work_done) + len(calls)  # kernels by the C++ nodes, and by Python


def waiting(work: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A step that is over when it returns."""
    if device != "cuda":
        return work

    def run() -> None:
        work()
        torch.cuda.synchronize()

    return run


def measure(run: Run, case: Case) -> Iterator[Row]:
    """A row of the table."""
    made = case.make(run.device, 8 if run.quick else 1)
    check(case, made)
    works = {c: work(case, c, made) for c in CONTENDERS}
    counts = {c: launches(w, run.device) for c, w in works.items()}
    timed = {c: waiting(w, run.device) for c, w in works.items()}
    start = perf_counter()
    timed["own"]()
    took = perf_counter() - start
    rounds, steps = (3, 1) if run.quick else (5, 1) if took > 0.5 else (40, max(1, int(0.01 / took)))
    facts = {"trainer": case.trainer, "what": case.what, "launches": counts}
    yield facts | run.measure(timed, "own", rounds, steps)


# --- what is written --------------------------------------------------------------------------------------


def figure(row: Row) -> str:
    """A row in short."""
    launched = row["launches"]
    ratios = f"own/fastgan {report.ratio(row, 'fused')} (median {report.ratio(row, 'fused', 'ratio, median')})"
    return f"{row['trainer']}: {ratios}, launches {launched['own']} to {launched['fused']}"


def sections(result: Row) -> list[str]:
    """Minima, ratios, launches and the aim."""
    head = ["trainer", "what", "own us", "fastgan us", "own/fastgan", "(median)", "launches, own", "fastgan", "aim"]
    lines = []
    for row in result["rows"]:
        cells = [report.marked(row, row["trainer"]), row["what"]]
        cells += [report.microseconds(row, name) for name in ("own", "fused")]
        cells += [report.ratio(row, "fused"), report.ratio(row, "fused", "ratio, median")]
        cells += [str(row["launches"][c]) for c in ("own", "fused")]
        lines.append([*cells, f"{AIM.get(row['trainer'], 2.0):g}"])
    return [report.table(head, lines)]


def draw(plt: Any, result: Row, below: str) -> Any:
    """Bars of the ratios."""
    rows = result["rows"][::-1]
    drawing, axes = plt.subplots(figsize=(11, 0.34 * len(rows) + 1.8), layout="constrained")
    ratios = [row["ratio"]["fused"] for row in rows]
    bars = axes.barh(range(len(rows)), ratios, color="#1b5fa8")
    notes = [
        f"{ratio:.1f}   {row['launches']['own']} to {row['launches']['fused']}"
        for ratio, row in zip(ratios, rows, strict=True)
    ]
    axes.bar_label(bars, notes, fontsize=8, padding=3)
    axes.set_yticks(range(len(rows)), [f"{row['trainer']}: {row['what']}" for row in rows], fontsize=8)
    axes.axvline(1, color="#333333", lw=1)
    axes.set_xlim(0, 1.25 * max(ratios))
    axes.set_xlabel("time of the trainer's own over fastgan's (higher is better), then launches", fontsize=9)
    drawing.suptitle("Loss part of a training step, forward and backward", fontsize=12)
    axes.set_title(fill(below, 90), fontsize=8, color="#555555")
    report.bare(axes)
    return drawing


# --- the suite --------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--only", nargs="+", metavar="TRAINER", help="these trainers")


def chosen(options: argparse.Namespace) -> list[Case]:
    """The trainers that are asked for."""
    found = [c for c in CASES if not options.only or c.trainer in options.only]
    if find_spec("numpy") is None:  # from which WGAN-GP's recipe draws
        found = [c for c in found if c.trainer != "wgan_gp"]
    return found


SUITE = Suite(
    name="trainers",
    title="Loss parts of trainers' steps on {device}",
    note=(
        "All losses of a step of discriminator and generator, forward and backward to the gradients of logits and"
        " feature maps. own: the trainer's own functions in eager PyTorch. Launches: on a GPU what runs there, on a"
        " CPU the operators that compute something, where a call of fastgan's kernels counts as one."
    ),
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
    options=add_options,
    devices=("cpu", "cuda"),
    compiles=False,
)
