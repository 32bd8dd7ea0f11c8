"""Penalties: as one writes them in PyTorch, and the same of fastgan.

The only place with baselines of penalties; `python -m bench penalties`, bench/test_penalties.py and bench/gpu.py
time what is made here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from textwrap import fill
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastgan
from bench import harness, report
from bench.harness import Row, Run, Suite, Work
from fastgan import norms
from fastgan.backends.specs import PenaltySpec

SHAPES = ((64, 3, 64, 64), (16, 3, 256, 256))
WEIGHT = 10.0


class Data(NamedTuple):
    """What the cases work on: samples, eps, and a gradient that wants a gradient."""

    real: Tensor
    fake: Tensor
    eps: Tensor
    g: Tensor


def data(shape: tuple[int, ...]) -> Data:
    """The same for each contender."""
    generator = torch.Generator().manual_seed(0)
    real, fake, g = (torch.randn(shape, generator=generator) for _ in range(3))
    return Data(real, fake, torch.rand(shape[0], generator=generator), (0.01 * g).requires_grad_())


# --- the usual recipe -----------------------------------------------------------------------------------


def recipe_points(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The points between, as in most trainers."""
    e = eps.view(-1, 1, 1, 1)
    return e * real + (1 - e) * fake


def recipe_penalty(g: Tensor) -> Tensor:
    """The penalty given the gradient, as in most trainers."""
    return WEIGHT * ((g.view(g.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def lerp_points(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The points between, by PyTorch's own function."""
    return torch.lerp(fake, real, eps.view(-1, 1, 1, 1))


def fused_penalty(g: Tensor) -> Tensor:
    """What `gradient_penalty` does with the discriminator's gradient."""
    return norms.of_gradients(PenaltySpec("two_sided", 1.0, 2, WEIGHT, "sample", "mean"), (g,))[0]


# --- cases ----------------------------------------------------------------------------------------------

POINTS = {
    "fused": fastgan.interpolate,
    "eager": recipe_points,
    "lerp": lerp_points,
    "compiled": lambda: harness.compiled(recipe_points),
}
PENALTY = {"fused": fused_penalty, "eager": recipe_penalty, "compiled": lambda: harness.compiled(recipe_penalty)}
COPIED = {"interpolation": 1.5, "penalty": 1.0, "both": 2.5}  # tensors read and written at least
CONTENDERS = {
    "interpolation": ("fused", "eager", "lerp", "compiled", "copy"),
    "penalty": ("fused", "eager", "compiled", "copy"),
    "both": ("fused", "eager", "compiled", "copy"),
}


def _made(table: dict[str, Any], contender: str) -> Callable[..., Tensor]:
    return table[contender]() if contender == "compiled" else table[contender]


def work(contender: str, case: str, d: Data) -> Work:
    """One step of a contender: what is timed. `penalty` and `both` are forward and backward."""
    if contender == "copy":
        source = torch.ones(int(COPIED[case] * d.g.numel()))
        return partial(torch.empty_like(source).copy_, source)
    points = _made(POINTS, contender) if case != "penalty" else None
    penalty = _made(PENALTY, contender) if case != "interpolation" else None

    def step() -> None:
        if points is not None:
            points(d.real, d.fake, d.eps)
        if penalty is not None:
            d.g.grad = None
            penalty(d.g).backward()

    return step


def check(shape: tuple[int, ...]) -> None:
    """Raises unless fastgan computes what the recipe does."""
    d = data(shape)
    torch.testing.assert_close(fastgan.interpolate(d.real, d.fake, d.eps), recipe_points(d.real, d.fake, d.eps))
    results = []
    for penalty in (fused_penalty, recipe_penalty):
        value = penalty(d.g)
        results.append((value.detach(), *torch.autograd.grad(value, d.g)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


# --- a whole penalty ------------------------------------------------------------------------------------


def discriminator(size: int) -> nn.Module:
    """A small DCGAN discriminator."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width, channels = 16, 3
    while size > 4:
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels, width, size = width, 2 * width, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 1))


def whole(contender: str, d: Data) -> Work:
    """The penalty of a discriminator from samples to its parameters' gradients."""
    net = discriminator(d.real.shape[-1])

    def recipe() -> Tensor:
        x = recipe_points(d.real, d.fake, d.eps).requires_grad_()
        out = net(x)
        (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
        return recipe_penalty(g)

    def ours() -> Tensor:
        prune = contender == "pruned"
        return fastgan.gradient_penalty(net, d.real, d.fake, eps=d.eps, weight=WEIGHT, prune=prune)

    penalty = recipe if contender == "eager" else ours

    def step() -> None:
        net.zero_grad(set_to_none=True)
        penalty().backward()

    return step


# --- time -----------------------------------------------------------------------------------------------


def shapes(options: argparse.Namespace) -> list[tuple[int, ...]]:
    """The shapes of the samples."""
    return [(4, 3, 16, 16)] if options.quick else list(SHAPES)


def measure(run: Run, shape: tuple[int, ...]) -> Iterator[Row]:
    """A row for each case of a shape, and one of the whole penalty."""
    check(shape)
    d = data(shape)
    facts = {"n": "x".join(map(str, shape))}
    rounds, steps = (3, 2) if run.quick else (60, 4) if d.g.numel() > 1 << 20 else (120, 10)
    for case, contenders in CONTENDERS.items():
        names = [c for c in contenders if run.compiled or c != "compiled"]
        works = {name: work(name, case, d) for name in names}
        yield {"case": case} | facts | run.measure(works, "eager", rounds, steps)
    works = {name: whole(name, d) for name in ("fused", "pruned", "eager")}
    yield {"case": "whole"} | facts | run.measure(works, "eager", 3 if run.quick else 12, 1)


# --- what is written ------------------------------------------------------------------------------------

TITLES = {
    "interpolation": "interpolation",
    "penalty": "penalty, given the gradient",
    "both": "interpolation and penalty",
    "whole": "whole penalty of a small discriminator",
}


def sections(result: Row) -> list[str]:
    """Minima in microseconds, and ratios."""
    names = ("fused", "pruned", "eager", "lerp", "compiled", "copy")
    head = ["case", "shape", *(f"{n} us" for n in names)]
    head += ["eager/fused", "(median)", "eager/pruned", "compiled/fused", "fused/copy"]
    lines = []
    for row in result["rows"]:
        minimum = row["minimum"]
        over = {n: minimum[n] / minimum["fused"] for n in ("compiled", "copy") if n in minimum}
        cells = [report.marked(row, TITLES[row["case"]]), row["n"], *(report.microseconds(row, n) for n in names)]
        cells += [report.ratio(row, "fused"), report.ratio(row, "fused", "ratio, median")]
        cells += [report.ratio(row, "pruned")]
        cells += [f"{over['compiled']:.2f}" if "compiled" in over else ""]
        cells += [f"{1 / over['copy']:.2f}" if "copy" in over else ""]
        lines.append(cells)
    return [report.table(head, lines)]


def figure(row: Row) -> str:
    """A row in short."""
    return f"{row['case']} {row['n']}: eager/fused {report.ratio(row, 'fused')}"


COLOURS = {"fused": "#1b5fa8", "pruned": "#7fb2e0", "lerp": "#6b9e78", "compiled": "#c4561a", "copy": "#c3c7cc"}
LABELS = {
    "fused": "fastgan",
    "pruned": "fastgan, prune=True",
    "lerp": "torch.lerp",
    "compiled": "torch.compile",
    "copy": "copy of as many bytes",
}


def draw_shape(axes: Any, rows: list[Row]) -> None:
    """One panel: a group of bars for each case."""
    for k, row in enumerate(rows):
        names = [n for n in COLOURS if n in row["ratio"]]
        for j, name in enumerate(names):
            x = k + 0.2 * (j - (len(names) - 1) / 2)
            label = LABELS[name] if LABELS[name] not in axes.get_legend_handles_labels()[1] else None
            bar = axes.bar(x, 1 / row["ratio"][name], 0.19, color=COLOURS[name], label=label)
            axes.bar_label(bar, fmt="%.2f", fontsize=8, padding=1)
    axes.axhline(1, color="#333333", lw=1)
    axes.set_xticks(range(len(rows)), [fill(TITLES[row["case"]], 16) for row in rows], fontsize=8)
    axes.set_title(rows[0]["n"].replace("x", " x "), fontsize=11)
    report.bare(axes)


def draw(plt: Any, result: Row, below: str) -> Any:
    """Bars of time over the recipe's."""
    found = list(dict.fromkeys(row["n"] for row in result["rows"]))
    drawing, panels = plt.subplots(1, len(found), figsize=(6.5 * len(found), 4.6), sharey=True, squeeze=False)
    for shape, axes in zip(found, panels.flat, strict=True):
        draw_shape(axes, [row for row in result["rows"] if row["n"] == shape])
    handles, labels = panels.flat[0].get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    names = [LABELS[n] for n in COLOURS if LABELS[n] in first]
    panels.flat[-1].legend([first[n] for n in names], names, frameon=False, fontsize=9, loc="upper left", ncols=2)
    panels.flat[0].set_ylabel("time / time of the usual recipe")
    panels.flat[0].set_ylim(0, 1.35)  # room for the legend
    drawing.suptitle("Gradient penalties, forward and backward (lower is faster)", fontsize=13)
    drawing.text(0.5, 0.915, below, ha="center", fontsize=7.5, color="#555555")
    drawing.tight_layout(rect=(0, 0, 1, 0.94))
    return drawing


SUITE = Suite(
    name="penalties",
    title="Penalties on {device}",
    note=(
        "eager is the usual recipe, compiled the same under torch.compile, pruned fastgan's with prune=True, copy a"
        " copy of as many bytes as must be read and written. Penalties are forward and backward."
    ),
    cases=shapes,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
)
