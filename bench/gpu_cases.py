"""What gpu.py measures: cases, their data on the device, and the check that comes before any number.

The baselines are those of `suites/losses.py` and `suites/penalties.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgan
from bench.suites import losses, penalties
from bench.suites.losses import Case
from fastgan import backends
from fastgan.ops import reference

BEYOND_CACHE = 200e6  # bytes over which inputs rotate; an H200 has 50 MB of L2
MOST_SETS = 32
ROUNDINGS = 4  # of half an ulp, of fastgan's gradients: the slope (two), the factor w / n, and their product
LOOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of baselines, which round as PyTorch does


class Arm(NamedTuple):
    """A contender. `step(i)` is one step on the i-th set of inputs: what is timed.

    `gradients(i)` is the same without writing .grad, from an upstream that is there already: what a CUDA
    graph captures and what launches are counted of; None: `step` itself.
    """

    name: str
    step: Callable[[int], Any]
    backend: str | None = None
    gradients: Callable[[int], Any] | None = None

    def active(self) -> AbstractContextManager[Any]:
        """The backend that its calls of fastgan take."""
        return fastgan.backend(self.backend) if self.backend else nullcontext()


class Cell(NamedTuple):
    """A loss at a size: `n` logits in each tensor, or as the case's members have them."""

    case: Case
    n: int
    dtype: torch.dtype = torch.float32

    @property
    def count(self) -> int:
        """Logits in all tensors together."""
        return losses.operand_count(self.case) * (sum(self.case.members) or self.n)


def eager_statistics(r: Tensor, f: Tensor) -> Tensor:
    """The non-saturating loss, and what trainers log of it, an operator for each."""
    on_real, on_fake = F.softplus(-r).mean(), F.softplus(f).mean()
    with torch.no_grad():
        for x, right in ((r, r > 0), (f, f < 0)):
            x.mean(), x.sign().mean(), right.float().mean()
    return on_real + on_fake


SOFTPLUS, HINGE, AVERAGE, GENERATOR = (
    next(c for c in losses.CASES if c.name == name)
    for name in ("nonsaturating D", "hinge D", "relativistic average D", "nonsaturating G")
)
LIST = losses.SEQUENCES[-1]
STATISTICS = SOFTPLUS._replace(name="nonsaturating D, statistics", eager=eager_statistics)
F32, BF16 = torch.float32, torch.bfloat16
# The most informative first: whoever measures may be stopped.
FIRST = (
    *(Cell(case, n, dtype) for n in (61_504, 1 << 20) for dtype in (F32, BF16) for case in (SOFTPLUS, HINGE)),
    *(Cell(case, 1 << 24, F32) for case in (SOFTPLUS, HINGE)),
    *(Cell(case, 4096) for case in (SOFTPLUS, HINGE)),
    *(Cell(AVERAGE, n) for n in (8192, 16_384, 17_000)),
    Cell(STATISTICS, 1 << 20),
    *(Cell(case, 1 << 24, BF16) for case in (SOFTPLUS, HINGE)),
    Cell(LIST, 0),
)
# Where the backends change places: what `auto` would choose by.
REST = (
    *(Cell(case, n) for case in (SOFTPLUS, HINGE) for n in (64, 1024, 16_384, 1 << 18, 1 << 22)),
    *(Cell(AVERAGE, n) for n in (64, 4096, 61_504, 1 << 20, 1 << 24)),
    *(Cell(GENERATOR, n) for n in (64, 4096, 61_504, 1 << 20, 1 << 24)),
    *(Cell(case, n, BF16) for case in (SOFTPLUS, HINGE) for n in (4096, 16_384)),
)
COMPILED = tuple(Cell(case, n) for n in (61_504, 1 << 20, 4096) for case in (SOFTPLUS, HINGE))


def fused_backends(device: torch.device) -> tuple[list[str], list[str]]:
    """The backends to measure on a device, and why not the others."""
    names = ["cuda", "triton"] if device.type == "cuda" else ["cpu"]
    ready, why = [], []
    for name in names:
        refusal = backends.named(name).missing()
        if refusal is None:
            try:
                with fastgan.backend(name):
                    fastgan.generator_loss(torch.zeros(3, device=device))
            except Exception as error:
                refusal = f"{type(error).__name__}: {error}"
        if refusal is None:
            ready.append(name)
        else:
            why.append(f"no {name} ({refusal})")
    return ready, why


def set_count(nbytes: int) -> int:
    """Over how many sets of inputs to rotate."""
    return max(1 if nbytes >= BEYOND_CACHE else 2, min(MOST_SETS, math.ceil(BEYOND_CACHE / nbytes)))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under torch.compile."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def training_arm(
    name: str, loss: Callable[..., Tensor], sets: list[list[Any]], backend: str | None = None, leaves: Any = None
) -> Arm:
    """Forward and backward of `loss` on each set; `leaves`: the tensors of each set that want gradients."""
    leaves = [losses.leaves(s) for s in sets] if leaves is None else leaves
    ones: dict[torch.dtype, Tensor] = {}

    def step(i: int) -> None:
        k = i % len(sets)
        for t in leaves[k]:
            t.grad = None
        loss(*sets[k]).backward()

    def gradients(i: int) -> tuple[Tensor, ...]:
        k = i % len(sets)
        value = loss(*sets[k])
        if value.dtype not in ones:
            ones[value.dtype] = torch.ones_like(value)
        return value.detach(), *torch.autograd.grad(value, leaves[k], ones[value.dtype])

    return Arm(name, step, backend, gradients)


def copy_arm(nbytes: int, device: torch.device) -> Arm:
    """A copy that reads and writes `nbytes` altogether."""
    size = max(1, nbytes // 8)  # float32, each read and written
    pairs = [
        (torch.randn(size, device=device), torch.empty(size, device=device)) for _ in range(set_count(nbytes // 2))
    ]

    def step(i: int) -> None:
        source, target = pairs[i % len(pairs)]
        target.copy_(source)

    return Arm("copy", step)


# --- the check ------------------------------------------------------------------------------------------


class WrongResultError(Exception):
    """A contender computes something else."""


Vetted = tuple[list[Arm], dict[str, str]]


def near(what: str, got: Tensor, exact: Tensor, tolerance: float, floor: float | Tensor = 0.0) -> None:
    """Raises unless each element is within `tolerance` times its exact size, or times `floor` if that is more.

    A tolerance of the dtype's eps is 1 to 2 ulp; half of it is one rounding.
    """
    smallest = torch.finfo(got.dtype).smallest_normal * torch.finfo(got.dtype).eps
    scale = exact.abs().clamp(min=floor)
    distance = (got.detach().double() - exact).abs()
    if not (distance <= tolerance * scale + smallest).all():  # NaN fails too
        worst = (distance / (scale + smallest)).nan_to_num(math.inf).max().item()
        raise WrongResultError(
            f"{what} is {worst:.3g} of its size away from the exact one (allowed: {tolerance:.3g})"
        )


def check(arm: Arm, exact: Sequence[Tensor], floor: float = 0.0) -> None:
    """Raises unless the first set's loss and gradients are within four roundings (a baseline's: about) of `exact`.

    With a floor gradients are differences, of numbers of that size, and may be twice as far away.
    """
    assert arm.gradients is not None
    results = arm.gradients(0)
    for k, (got, want) in enumerate(zip(results, exact, strict=True)):
        rounding = torch.finfo(got.dtype).eps / 2
        tolerance = (ROUNDINGS if k else 2) * rounding if arm.backend else LOOSE[results[1].dtype]
        if k:
            near(f"gradient {k}", got, want, tolerance * (2 if floor else 1), floor)
        else:
            near("the loss", got, want, tolerance)


def vetted(arms: list[Arm], test: Callable[[Arm], None]) -> Vetted:
    """The contenders that pass `test`, and why the others are left out."""
    good, why = [], {}
    for arm in arms:
        try:
            with arm.active():
                test(arm)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            why[arm.name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        else:
            good.append(arm)
    return good, why


# --- losses ---------------------------------------------------------------------------------------------


def logits(cell: Cell, device: torch.device, seed: int) -> list[Any]:
    """Logits that want gradients."""
    generator = torch.Generator(device).manual_seed(seed)
    count = losses.operand_count(cell.case)

    def one(size: int) -> Tensor:
        return (3 * torch.randn(size, generator=generator, device=device)).to(cell.dtype).requires_grad_()

    if cell.case.members:
        return [[one(size) for size in cell.case.members] for _ in range(count)]
    return [one(cell.n) for _ in range(count)]


def exact_loss(case: Case, arguments: list[Any]) -> list[Tensor]:
    """Loss and gradients by fastgan's reference in float64."""
    wide = [t.detach().double().requires_grad_() for t in losses.leaves(arguments)]
    half = len(wide) // 2
    value: Any = 0
    for r, f in zip(wide[:half], wide[half:], strict=True) if case.role == "D" else [(None, wide[0])]:
        if case.role == "D":
            value = value + reference.discriminator(r, f, case.loss, case.relativistic)
        else:
            value = value + reference.generator(f, r, case.loss, case.relativistic)
    return [value.detach(), *torch.autograd.grad(value, wide)]


def fused(case: Case) -> Callable[..., Tensor]:
    """The case's call of fastgan."""
    call = losses.fused(case)
    return call if case is not STATISTICS else lambda r, f: call(r, f, return_stats=True)[0]


def loss_arms(cell: Cell, device: torch.device, names: list[str], with_compiled: bool) -> Vetted:
    """The contenders of a case that compute it; and a copy of as many bytes as they read and write at least."""
    case, first = cell.case, logits(cell, device, 0)
    nbytes = sum(t.nbytes for t in losses.leaves(first))
    sets = [first, *(logits(cell, device, k) for k in range(1, set_count(nbytes)))]
    arms = [training_arm("eager", case.eager, sets)]
    if with_compiled:
        arms.append(training_arm("compiled", compiled(case.eager), sets))
    arms += [training_arm(name, fused(case), sets, name) for name in names]
    exact = exact_loss(case, first)
    # An average's gradient is a difference: there an ulp is that of what is subtracted.
    floor = 1 / losses.leaves(first)[0].numel() if case.relativistic == "average" else 0.0
    good, why = vetted(arms, lambda arm: check(arm, exact, floor))
    return [*good, copy_arm(2 * nbytes, device)], why


# --- penalties ------------------------------------------------------------------------------------------

SAMPLE, LARGE_SAMPLE = (4, 128, 128), (4, 1024, 1024)
# (samples, shape of one, dtype): float32 from 1 MB to 1 GB of gradient, then few large rows, then 16 bits.
FIRST_PENALTIES = ((64, SAMPLE, F32), (1024, SAMPLE, F32), (512, SAMPLE, BF16))
REST_PENALTIES = (
    *((rows, SAMPLE, F32) for rows in (4, 16, 256, 4096)),
    (16, LARGE_SAMPLE, F32),
    (2048, SAMPLE, BF16),
)
TENSORS_MOVED = {
    "interpolation": 3,
    "penalty": 3,
    "both": 6,
}  # a penalty reads its gradient twice: norm, then slope


def samples(rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> list[Tensor]:
    """Real, fake, eps, and a gradient of norms about 2 that wants a gradient."""
    generator = torch.Generator(device).manual_seed(seed)
    real, fake, g = (torch.randn(rows, *shape, generator=generator, device=device).to(dtype) for _ in range(3))
    eps = torch.rand(rows, generator=generator, device=device).to(dtype)
    return [real, fake, eps, (g * (2 / math.prod(shape) ** 0.5)).requires_grad_()]


class Exact(NamedTuple):
    """What is right for the first set: the points between, and penalty and gradient."""

    points: Tensor
    penalty: list[Tensor]


def exact_penalty(data: list[Tensor]) -> Exact:
    """By fastgan's reference in float64."""
    real, fake, eps, g = data
    wide = g.detach().double().requires_grad_()
    with fastgan.backend("reference"):
        value = penalties.fused_penalty(wide)
    points = reference.interpolate(real.double(), fake.double(), eps.double())
    return Exact(points, [value.detach(), *torch.autograd.grad(value, wide)])


def check_points(arm: Arm, got: Tensor, data: list[Tensor], exact: Exact) -> None:
    """Raises unless the points are right; an ulp is that of the larger end."""
    # 1 - eps, its product and the sum are rounded: three times half an ulp.
    tolerance = 1.5 * torch.finfo(got.dtype).eps if arm.backend else LOOSE[got.dtype]
    near("a point", got, exact.points, tolerance, torch.maximum(data[0].abs(), data[1].abs()).double())


def penalty_arms(
    case: str, sets: list[list[Tensor]], exact: Exact, names: list[str], with_compiled: bool, device: torch.device
) -> Vetted:
    """The contenders of "interpolation", "penalty" (given the gradient; forward and backward) or "both"."""
    recipe = (penalties.recipe_points, penalties.recipe_penalty)
    fused = (fastgan.interpolate, penalties.fused_penalty)

    def made(name: str, pair: Any, backend: str | None = None, wrap: Any = lambda f: f) -> Arm:
        points, penalty = pair
        if case == "penalty":
            gradients = [[s[3]] for s in sets]
            return training_arm(name, wrap(penalty), gradients, backend)
        if case == "interpolation":
            call = wrap(points)
            return Arm(name, lambda i: call(*sets[i % len(sets)][:3]), backend)
        both = wrap(lambda real, fake, eps, g: (points(real, fake, eps), penalty(g)))
        return training_arm(name, lambda *s: both(*s)[1], sets, backend, [[s[3]] for s in sets])

    def test(arm: Arm) -> None:
        if case == "interpolation":
            check_points(arm, arm.step(0), sets[0], exact)
        else:
            check(arm, exact.penalty)
        if case == "both":
            check_points(arm, (fused if arm.backend else recipe)[0](*sets[0][:3]), sets[0], exact)

    arms = [made("eager", recipe)]
    if with_compiled:
        arms.append(made("compiled", recipe, None, compiled))
    arms += [made(name, fused, name) for name in names]
    good, why = vetted(arms, test)
    return [*good, copy_arm(TENSORS_MOVED[case] * sets[0][3].nbytes, device)], why


def sample_sets(rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[list[Tensor]]:
    """As many sets of samples as it takes to leave the cache."""
    nbytes = rows * math.prod(shape) * dtype.itemsize
    return [samples(rows, shape, dtype, device, k) for k in range(set_count(nbytes))]


# --- training steps -------------------------------------------------------------------------------------

GAMMA = 1.0  # R3GAN's weight of both penalties
Nets = tuple[nn.Module, nn.Module]


def dcgan(width: int) -> Nets:
    """Generator and discriminator of DCGAN for 64 x 64."""
    g: list[nn.Module] = [nn.ConvTranspose2d(100, 8 * width, 4, 1, 0, bias=False)]
    d: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for k in (8, 4, 2):
        g += [
            nn.BatchNorm2d(k * width),
            nn.ReLU(),
            nn.ConvTranspose2d(k * width, k // 2 * width, 4, 2, 1, bias=False),
        ]
        half = 8 // k * width
        d += [nn.Conv2d(half, 2 * half, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * half), nn.LeakyReLU(0.2)]
    g += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*g), nn.Sequential(*d, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Flatten(0))


class Residual(nn.Module):
    """A block without normalisation, as R3GAN has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=width // 8, bias=False), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, width, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.inside(x)


def r3gan(width: int) -> Nets:
    """Generator and discriminator of residual blocks for 32 x 32, in the manner of R3GAN."""
    g: list[nn.Module] = [nn.ConvTranspose2d(100, width, 4)]
    d: list[nn.Module] = [nn.Conv2d(3, width, 1)]
    for _ in range(3):
        g += [Residual(width), nn.Upsample(scale_factor=2, mode="bilinear")]
        d += [Residual(width), nn.AvgPool2d(2)]
    return nn.Sequential(*g, nn.Conv2d(width, 3, 1)), nn.Sequential(*d, nn.Conv2d(width, 1, 4), nn.Flatten(0))


def dcgan_eager(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return losses.bce_with_logits(d(real), d(fake))


def dcgan_fused(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return fastgan.discriminator_loss(d(real), d(fake))


def _logits_and_gradients(d: nn.Module, *inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    found = []
    for given in inputs:
        x = given.detach().requires_grad_()
        out = d(x)
        found.append((out, torch.autograd.grad(out.sum(), x, create_graph=True)[0]))
    return found


def r3gan_eager(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """As R3GAN's trainer has it."""
    (r, on_real), (f, on_fake) = _logits_and_gradients(d, real, fake)
    penalty = on_real.square().sum((1, 2, 3)) + on_fake.square().sum((1, 2, 3))
    return (F.softplus(-(r - f)) + GAMMA / 2 * penalty).mean()


def r3gan_parts(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The same with fastgan's loss and norms."""
    (r, on_real), (f, on_fake) = _logits_and_gradients(d, real, fake)
    penalty = fastgan.norm_penalty(on_real, "power") + fastgan.norm_penalty(on_fake, "power")
    return fastgan.discriminator_loss(r, f, relativistic="paired") + GAMMA / 2 * penalty


def r3gan_penalties(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The same with fastgan's penalties, which run the discriminator once more."""
    loss = fastgan.discriminator_loss(d(real), d(fake), relativistic="paired")
    return loss + fastgan.r1_penalty(d, real, weight=GAMMA) + fastgan.r2_penalty(d, fake, weight=GAMMA)


def bce_g(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    f = d(fake)
    return F.binary_cross_entropy_with_logits(f, torch.ones_like(f))


def fused_g(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return fastgan.generator_loss(d(fake))


def paired_g(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-(d(fake) - d(real))).mean()


def fused_paired_g(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return fastgan.generator_loss(d(fake), d(real), relativistic="paired")


# For each kind of step: its networks, the images' size, and its losses: the discriminator's, the generator's.
TRAINING: dict[str, tuple[Callable[[int], Nets], int, dict[str, tuple[Any, Any]]]] = {
    "DCGAN": (
        dcgan, 64,
        {"eager": (dcgan_eager, bce_g), "": (dcgan_fused, fused_g)},
    ),
    "R3GAN-like": (
        r3gan, 32,
        {
            "eager": (r3gan_eager, paired_g),
            "": (r3gan_parts, fused_paired_g),
            ", r1_penalty and r2_penalty": (r3gan_penalties, fused_paired_g),
        },
    ),
}  # fmt: skip


def trainer(
    kind: str, formulas: tuple[Any, Any], name: str, backend: str | None, device: torch.device, small: bool
) -> Arm:
    """A step trains the discriminator once and the generator once; `gradients` gives the first loss's gradients."""
    make, size, _ = TRAINING[kind]
    torch.manual_seed(0)
    g, d = (net.to(device) for net in make(8 if small else 64))
    options = {"lr": 1e-5, "betas": (0.0, 0.99), "fused": device.type == "cuda"}
    for_g, for_d = torch.optim.Adam(g.parameters(), **options), torch.optim.Adam(d.parameters(), **options)
    batch = 2 if small else 64
    reals = [torch.randn(batch, 3, size, size, device=device) for _ in range(4)]
    noises = [torch.randn(batch, 100, 1, 1, device=device) for _ in range(4)]

    def gradients(i: int) -> tuple[Tensor, ...]:
        with torch.no_grad():
            fake = g(noises[i % 4])
        loss = formulas[0](d, reals[i % 4], fake)
        return loss.detach(), *torch.autograd.grad(loss, d.parameters())

    def step(i: int) -> None:
        real, noise = reals[i % 4], noises[i % 4]
        with torch.no_grad():
            fake = g(noise)
        for_d.zero_grad()
        formulas[0](d, real, fake).backward()
        for_d.step()
        for_g.zero_grad()
        formulas[1](d, real, g(noise)).backward()
        for_g.step()

    return Arm(name, step, backend, gradients)


def trainers(kind: str, names: list[str], device: torch.device, small: bool) -> Vetted:
    """Eager and fused steps of equal networks that agree with each other (networks in float32: to 1%)."""
    arms = []
    for label, formulas in TRAINING[kind][2].items():
        for name in [None] if label == "eager" else names:
            arms.append(trainer(kind, formulas, label if name is None else name + label, name, device, small))
    expected = [t.double() for t in arms[0].gradients(0)]  # type: ignore[misc]

    scale = max(float(t.abs().max()) for t in expected)  # some gradients are nothing but roundings

    def test(arm: Arm) -> None:
        for k, (got, want) in enumerate(zip(arm.gradients(0), expected, strict=True)):  # type: ignore[misc]
            near(f"result {k} of a step", got, want, 0.01, scale)

    return vetted(arms, test)


# --- launches -------------------------------------------------------------------------------------------

ON_DEVICE = {"kernel", "gpu_memset", "gpu_memcpy"}


def launches(step: Callable[[], Any], device: torch.device) -> int | None:
    """How many kernels, copies and fills a step has the device do; None where the profiler cannot tell."""
    if device.type != "cuda":
        return None
    step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("cat") in ON_DEVICE for event in events) or None
