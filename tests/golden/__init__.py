"""Hashes of results and gradients that every version must reproduce, on every backend, bit for bit.

`python -m tests.golden BACKEND` prints the hashes of a backend ("cpu", "simulated" or "triton"); `--write` stores
those of the CPU kernels in hashes.json. Write them only for a change that is meant to change results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import fastgan
from tests.helpers import calls

STORED = Path(__file__).with_name("hashes.json")
DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}
LOSSES = ("saturating", "nonsaturating", "hinge", "least_squares", "wasserstein", "ranking")  # not those of tests
PHIS = ("identity", "softplus", "relu", "square", "relu_square", "abs", "relu_half", "huber", "softplus_square")


def numbers(*shape: int, dtype: torch.dtype, scale: float = 8.0, seed: int = 0) -> Tensor:
    """Numbers in [-scale, scale] from integer arithmetic: the same on every machine, unlike random draws."""
    count = torch.Size(shape).numel()
    k = torch.arange(count, dtype=torch.int64) + 977 * seed
    k = (k * 2654435761 + 40503) % 2**32
    return ((k.double() / 2**31 - 1) * scale).view(shape).to(dtype)


def _losses(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    r, f = (numbers(2500, dtype=dtype, seed=s) for s in (1, 2))
    for loss in LOSSES:
        for form in (None, "paired", "average"):
            options = {"loss": loss, "relativistic": form}
            yield f"{loss} {form}", calls.losses(r, f, return_stats=True, **options)
            yield f"{loss} {form} sum", calls.losses(r, f, reduction="sum", upstream=1.0, **options)
            yield f"{loss} {form} none", calls.losses(r, f, reduction="none", **options)
        # Of r and f the differences are two numbers; of these they are many.
        options = {"loss": loss, "relativistic": "paired", "reduction": "none"}
        yield f"{loss} pairs", calls.losses(r, f.flip(0), **options)
    lists = [[numbers(n, dtype=dtype, seed=n + s) for n in (1, 700, 3000)] for s in (3, 4)]
    yield "lists", calls.losses(*lists, loss="hinge", weights=(0.5, 1.0, 2.0), return_stats=True)
    yield "lists average", calls.losses(*lists, relativistic="average")
    yield "soft labels", calls.losses(r, f, real_target=0.9, fake_target=0.1)
    yield "targets", calls.losses(r, f, loss="least_squares", targets=(-1.0, 1.0, 0.0), return_stats=True)
    yield "strided", calls.losses(r.view(50, 50).t(), f[::1].view(50, 50).t())
    yield "generator", lambda: _generator(f, r)
    for phi in PHIS:
        yield f"phi {phi}", lambda phi=phi: _jet(phi, numbers(3000, dtype=dtype, scale=30.0, seed=5))
    yield "values with graphs", calls.parts(r, f)


def _generator(f: Tensor, r: Tensor) -> list[Tensor]:
    found = []
    for loss in LOSSES:
        x = f.detach().requires_grad_()
        value = fastgan.generator_loss(x, loss=loss)
        found += [value, *torch.autograd.grad(value, x)]
        y, z = f.detach().requires_grad_(), r.detach().requires_grad_()
        value = fastgan.generator_loss(y, z, loss=loss, relativistic="average")
        found += [value, *torch.autograd.grad(value, (y, z))]
    return found


def _jet(phi: str, x: Tensor) -> list[Tensor]:
    """Values, first and second derivatives, with a scale, a shift and a linear part."""
    x = x.detach().requires_grad_()
    found = []
    for term in (fastgan.term(phi), fastgan.term(phi, scale=-0.7, shift=0.3, linear=0.2, weight=1.5)):
        (value,) = fastgan.reduce_terms([term], [x], reduction="none")
        (first,) = torch.autograd.grad(value, x, torch.ones_like(value), create_graph=True)
        (second,) = torch.autograd.grad(first, x, torch.ones_like(first))
        found += [value, first, second]
    return found


def _norms(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    g = numbers(6, 5, 17, 13, dtype=dtype, scale=0.2, seed=6)
    g[1] = 0
    long = numbers(3, 2100, dtype=dtype, scale=0.1, seed=7)
    for over in ("sample", "channel", "batch"):
        for kind, options in (
            ("two_sided", {"target": 0.5}), ("one_sided", {}), ("power", {"power": 1}), ("power", {"power": 2}),
            ("power", {"power": 6}),
        ):  # fmt: skip
            name = f"{over} {kind} {options}"
            yield name, calls.norms(g, kind, over=over, return_stats=True, **options)
        yield f"{over} none", calls.norms(g, over=over, reduction="none")
    yield "long", calls.norms(long, return_stats=True)
    yield "several", calls.norms([g, long[:1].expand(6, -1)], "two_sided")
    weights = numbers(6, dtype=torch.float32, scale=2.0, seed=8)
    mask = numbers(6, 1, 17, 13, dtype=torch.float32, scale=1.0, seed=9).abs()
    yield "weights", calls.norms(g, weights=weights)
    yield "mask", calls.norms(g, mask=mask)
    yield "channels last", calls.norms(g.contiguous(memory_format=torch.channels_last), over="channel")


def _points(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    real, fake = (numbers(7, 3, 37, dtype=dtype, seed=s) for s in (10, 11))
    fake[0] = real[0]
    yield "points", calls.points(real, fake)
    yield "pairs of points", calls.points((real, real[:, 0]), (fake, fake[:, 1]))
    yield "permuted points", calls.points(real.transpose(1, 2), fake.transpose(1, 2))


class Cubic:
    """A discriminator of products alone, whose bits no library decides: w x^3, element by element."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        self.w = numbers(*shape, dtype=dtype, scale=0.5, seed=12).requires_grad_()

    def __call__(self, x: Tensor) -> Tensor:
        return self.w[: len(x)] * x * x * x


def _penalties(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    real, fake = (numbers(6, 3, 14, dtype=dtype, scale=1.0, seed=s) for s in (13, 14))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    eps = numbers(6, dtype=wide, scale=0.5, seed=15) + 0.5

    def penalty(**options: object) -> Callable[[], object]:
        def call() -> list[object]:
            d = Cubic(real.shape, dtype)
            value, stats = fastgan.gradient_penalty(d, real, fake, return_stats=True, engine="eager", **options)
            return [value, stats[:-1], *torch.autograd.grad(value, d.w)]

        return call

    for over in ("sample", "channel", "batch"):
        for kind in ("wgan-gp", "wgan-lp", "wgan-div"):
            yield f"{kind} {over}", penalty(kind=kind, eps=eps, over=over)
        for kind in ("r1", "r2"):
            yield f"{kind} {over}", penalty(kind=kind, over=over, weight=3.0)

    def step() -> list[object]:
        d = Cubic(real.shape, dtype)
        terms = [
            fastgan.nn.GradientPenalty("r1", interval=4, part=0.5, weight=2.0),
            fastgan.nn.GradientPenalty("r2", weight=10.0),
        ]
        step = fastgan.discriminator_step(d, real, fake, loss="hinge", penalty=terms)
        return [step[:-1], *torch.autograd.grad(step.total, d.w)]

    yield "step", step


FAMILIES = {"losses": _losses, "norms": _norms, "points": _points, "penalties": _penalties}


def _digest(results: object) -> str:
    found = hashlib.sha256()
    for result in calls.flat([results]):
        t = result.detach().contiguous()
        t = t.masked_fill(t.isnan(), torch.nan)  # which NaN is nobody's promise
        found.update(f"{t.dtype}{tuple(t.shape)}".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def hashes(every: int = 1) -> dict[str, str]:
    """The hash of each case, or of every so many, on the backend in force."""
    cases = [
        (f"{family}, {short}, {name}", call)
        for family, make in FAMILIES.items()
        for short, dtype in DTYPES.items()
        for name, call in make(dtype)
    ]
    return {name: _digest(call()) for name, call in cases[::every]}


def changed(found: dict[str, str]) -> list[str]:
    """The cases whose hash is not the stored one."""
    stored = json.loads(STORED.read_text())
    return [name for name, value in found.items() if stored.get(name) != value]
