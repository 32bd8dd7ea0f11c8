"""Losses: each as its users write it in PyTorch, and the same of fastgan.

The only place with baselines of losses; `python -m bench losses`, bench/test_losses.py and bench/gpu.py time what
is made here.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from bench import harness, report
from bench.harness import Row, Run, Suite, Work

SIZES = (64, 4096, 61504, 1 << 20, 1 << 24)
CONTENDERS = ("fused", "eager", "compiled", "copy")
MODES = {"forward+backward": True, "forward": False}

MEMORY_N = 1 << 24

Loss = Callable[..., Tensor]


class Case(NamedTuple):
    """A loss, and its eager baseline.

    `eager` takes (real, fake) for the discriminator (role D), (fake) for the generator (G) and
    (fake, real) for the generator of a relativistic form, as fastgan does. `compiled`: whether
    torch.compile is timed too; it costs seconds a size, so not where another case tells the same.
    `members`: sizes of a sequence's members, where there is one.
    """

    name: str
    loss: str
    role: str
    relativistic: str | None
    eager: Loss
    compiled: bool = True
    members: tuple[int, ...] = ()


def bce_with_logits(r: Tensor, f: Tensor) -> Tensor:
    """The non-saturating loss by way of labels, as in most tutorials."""
    real = F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
    return real + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))


def over_members(loss: Loss) -> Loss:
    """The loop over a sequence's members that vocoders and multi-scale discriminators are trained with."""

    def total(*sequences: list[Tensor]) -> Any:
        result: Any = 0
        for member in zip(*sequences, strict=True):
            result += loss(*member)
        return result

    return total


def least_squares(r: Tensor, f: Tensor) -> Tensor:
    """The least squares loss of one discriminator."""
    return ((r - 1) ** 2).mean() + (f**2).mean()


CASES = (
    Case(
        "nonsaturating D", "nonsaturating", "D", None,
        lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
    ),
    Case("nonsaturating D (BCE)", "nonsaturating", "D", None, bce_with_logits, compiled=False),
    Case("nonsaturating G", "nonsaturating", "G", None, lambda f: F.softplus(-f).mean()),
    Case("hinge D", "hinge", "D", None, lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()),
    Case("hinge G", "hinge", "G", None, lambda f: -f.mean(), compiled=False),
    Case("least squares D", "least_squares", "D", None, least_squares),
    Case("least squares G", "least_squares", "G", None, lambda f: ((f - 1) ** 2).mean(), compiled=False),
    Case("wasserstein D", "wasserstein", "D", None, lambda r, f: f.mean() - r.mean()),
    Case("relativistic paired D", "nonsaturating", "D", "paired", lambda r, f: F.softplus(-(r - f)).mean()),
    Case(
        "relativistic average D", "nonsaturating", "D", "average",
        lambda r, f: F.softplus(-(r - f.mean())).mean() + F.softplus(f - r.mean()).mean(),
    ),
)  # fmt: skip

SEQUENCES = tuple(
    Case(
        f"least squares D, {len(members)} members", "least_squares", "D", None, over_members(least_squares),
        compiled=False, members=members,
    )
    for members in (
        (64, 256, 1024, 2048, 4096),  # the periods, or the scales, of a multi-scale discriminator
        (64, 128, 256, 512, 1024, 2048, 3072, 4096),  # a vocoder's periods and scales together
    )
)  # fmt: skip


def operand_count(case: Case) -> int:
    """How many tensors (or sequences) of logits the loss is a function of."""
    return 1 if case.role == "G" and case.relativistic is None else 2


def operands(case: Case, n: int, device: str = "cpu") -> list[Any]:
    """Logits that want gradients: tensors of n elements, or sequences where the case has members."""
    generator = torch.Generator().manual_seed(0)

    def logits(size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device).requires_grad_()

    if case.members:
        return [[logits(size) for size in case.members] for _ in range(operand_count(case))]
    return [logits(n) for _ in range(operand_count(case))]


def leaves(arguments: list[Any]) -> list[Tensor]:
    """The tensors in what `operands` made."""
    return [t for a in arguments for t in (a if isinstance(a, list) else [a])]


def fused(case: Case) -> Loss:
    """The case's call of fastgan."""
    function = fastgan.discriminator_loss if case.role == "D" else fastgan.generator_loss
    return partial(function, loss=case.loss, relativistic=case.relativistic)


def copy(case: Case, n: int, backward: bool) -> Work:
    """A copy of as many bytes as the operation must read and write at least.

    With backward that is a read of each logit and a write of each gradient: a copy of all tensors.
    Forward alone only reads: a copy of half of them.
    """
    total = operand_count(case) * (sum(case.members) or n)
    source = torch.ones(total if backward else total // 2)
    return partial(torch.empty_like(source).copy_, source)


def work(contender: str, case: Case, arguments: list[Any], backward: bool) -> Work:
    """One step of a contender, to be called without arguments: what is timed."""
    tensors = leaves(arguments)
    if contender == "copy":
        return copy(case, tensors[0].numel(), backward)
    made = {"fused": fused, "eager": lambda c: c.eager, "compiled": lambda c: harness.compiled(c.eager)}
    loss = made[contender](case)

    def train() -> None:
        for t in tensors:
            t.grad = None
        loss(*arguments).backward()

    def evaluate() -> None:
        with torch.no_grad():
            loss(*arguments)

    return train if backward else evaluate


def check(case: Case, n: int = 4096) -> None:
    """Raises unless loss and gradients of fastgan are those of the baseline."""
    results = []
    for loss in (fused(case), case.eager):
        arguments = operands(case, n)
        value = loss(*arguments)
        value.backward()
        results.append([value.detach(), *(t.grad for t in leaves(arguments))])
    torch.testing.assert_close(*results)


def effort(n: int) -> tuple[int, int]:
    """Rounds, and steps in each: rounds of some milliseconds where a step is shorter."""
    rounds = 20 if n < 1 << 20 else 12 if n < 1 << 24 else 5
    return rounds, 1 if n >= 1 << 24 else max(2, min(40, 400_000 // n))


# --- time and memory ------------------------------------------------------------------------------------


def chosen(options: argparse.Namespace) -> list[Case]:
    """All cases."""
    return [*CASES, *SEQUENCES]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=harness.at_least(1),
        metavar="N",
        help="measure the cost of a call at these sizes",
    )


def calls(options: argparse.Namespace) -> Suite | None:
    """The suite of the cost of a call, where sizes are given."""
    if options.sizes is None:
        if options.device != "cpu":
            raise SystemExit(
                f"--device {options.device}: expected --sizes with it; `python -m bench gpu` has the rest"
            )
        return None
    from bench.suites import loss_calls  # which imports this module

    return loss_calls.SUITE


def facts(case: Case, n: int, mode: str) -> Row:
    """What a row is about."""
    about = {"case": case.name, "loss": case.loss, "role": case.role, "relativistic": case.relativistic}
    return about | {"members": case.members, "n": n, "mode": mode}


def measure(run: Run, case: Case) -> Iterator[Row]:
    """A row for each size and mode."""
    check(case)
    names = [c for c in CONTENDERS if c != "compiled" or (case.compiled and run.compiled)]
    sizes = SIZES[:2] if run.quick else SIZES
    for n in [sum(case.members)] if case.members else sizes:
        arguments = operands(case, n)
        rounds, steps = effort(n)
        rounds = max(harness.FEWEST, round(rounds * (0.2 if run.quick else 1.5)))
        for mode, backward in MODES.items():
            works = {name: work(name, case, arguments, backward) for name in names}
            yield facts(case, n, mode) | run.measure(works, "eager", rounds, steps)


def resident(key: str) -> float:
    """VmRSS, the resident memory, or VmHWM, its peak, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak(index: int, contender: str) -> float:
    """MiB by which a step's peak exceeds what its logits took already; in a process of its own.

    A first step, which compiles and loads code, does not count.
    """
    torch.set_num_threads(harness.THREADS)
    case = CASES[index]
    arguments = operands(case, MEMORY_N)
    step = work(contender, case, arguments, backward=True)
    step()
    for t in leaves(arguments):
        t.grad = None
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    step()
    return round(resident("VmHWM") - before, 1)


def memory(run: Run) -> Row:
    """Peak memory of forward and backward; none where the system does not tell (it is not Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return {"memory": []}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "fastgan"])
    rows = []
    with context.Pool(1, maxtasksperchild=1) as pool:
        for case in harness.progress(list(CASES[:1] if run.quick else CASES)):
            names = ["fused", "eager"] + ["compiled"] * (run.compiled and case.compiled)
            peaks = {name: pool.apply(peak, (CASES.index(case), name)) for name in names}
            rows.append({"case": case.name, "n": MEMORY_N, "MiB": peaks})
    return {"memory": rows}


# --- what is written ------------------------------------------------------------------------------------


def over_copy(row: Row) -> str:
    """fastgan's time over that of a copy."""
    return f"{row['minimum']['fused'] / row['minimum']['copy']:.2f}"


def time_table(rows: list[Row]) -> str:
    """Minima in microseconds, and ratios."""
    head = ["case", "n", *(f"{name} us" for name in CONTENDERS)]
    head += ["fused/eager", "(median)", "compiled/eager", "fused/copy"]
    lines = []
    for row in rows:
        cells = [report.marked(row, row["case"]), f"{row['n']}"]
        cells += [report.microseconds(row, name) for name in CONTENDERS]
        cells += [report.share(row, "fused"), report.share(row, "fused", "ratio, median")]
        lines.append([*cells, report.share(row, "compiled"), over_copy(row)])
    return report.table(head, lines)


def memory_table(rows: list[Row]) -> str:
    """Peaks in MiB."""
    names = [name for name in CONTENDERS if name != "copy"]
    return report.table(
        ["case", *(f"{name} MiB" for name in names)],
        [[r["case"], *(f"{r['MiB'][name]:.0f}" if name in r["MiB"] else "" for name in names)] for r in rows],
    )


def sections(result: Row) -> list[str]:
    """A table of times for each mode, and one of memory."""
    text = []
    for mode in MODES:
        text += [f"## {mode}", time_table([row for row in result["rows"] if row["mode"] == mode])]
    if result.get("memory"):
        about = f"What forward+backward takes at its peak beyond the logits, n = {MEMORY_N}; gradients included."
        text += ["## peak memory", about, memory_table(result["memory"])]
    return text


def figure(row: Row) -> str:
    """A row in short."""
    return f"{row['case']} {row['n']}, {row['mode']}: fused/eager {report.share(row, 'fused')}"


LINES = {  # (contender, mode): how it is drawn
    ("fused", "forward+backward"): {"color": "#1b5fa8", "lw": 2.2, "marker": "o", "ms": 5},
    ("fused", "forward"): {"color": "#7fb2e0", "lw": 1.4, "marker": "o", "ms": 3.5},
    ("compiled", "forward+backward"): {"color": "#c4561a", "lw": 1.8, "ls": "--", "marker": "s", "ms": 4},
    ("compiled", "forward"): {"color": "#eab08c", "lw": 1.2, "ls": "--", "marker": "s", "ms": 3},
}
LABELS = {"fused": "fastgan", "compiled": "torch.compile"}
TICKS = {64: "64", 4096: "4096", 61504: "61504", 1 << 20: "1M", 1 << 24: "16M"}


def draw_case(axes: Any, rows: list[Row]) -> None:
    """One panel: the contenders' times over eager's, by n."""
    floor = [(row["n"], 1 / row["ratio"]["copy"]) for row in rows if row["mode"] == "forward+backward"]
    n, ratio = zip(*floor, strict=True)
    axes.fill_between(n, ratio, 1e-6, color="#d5d8dc", lw=0, label="copy of as many bytes")
    axes.axhline(1, color="#333333", lw=1, label="eager = 1")
    for (contender, mode), style in reversed(LINES.items()):
        points = [
            (row["n"], 1 / row["ratio"][contender])
            for row in rows
            if row["mode"] == mode and contender in row["ratio"]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=f"{LABELS[contender]}, {mode}", **style)
    axes.set_xscale("log")
    axes.set_xticks(n, [TICKS[size] for size in n], fontsize=8)
    axes.minorticks_off()
    axes.set_title(rows[0]["case"], fontsize=10.5)
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    report.bare(axes)


def draw(plt: Any, result: Row, below: str) -> Any:
    """A panel for each case."""
    from matplotlib.ticker import LogLocator, NullLocator

    columns = 5
    drawing, grid = plt.subplots(-(-len(CASES) // columns), columns, figsize=(15, 7), sharey=True, squeeze=False)
    for case, axes in zip(CASES, grid.flat, strict=False):
        if rows := [row for row in result["rows"] if row["case"] == case.name]:
            draw_case(axes, rows)
    values = [1 / v for row in result["rows"] for name, v in row["ratio"].items() if name in LABELS]
    first = grid[0, 0]
    first.set_yscale("log", base=2)
    first.set_ylim(min(0.06, 0.85 * min(values)), max(1.5, 1.15 * max(values)))  # every point shows
    first.yaxis.set_major_locator(LogLocator(2, numticks=20))
    first.yaxis.set_minor_locator(NullLocator())
    first.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 0.01 else f"{value:.1g}")
    handles = [axes.get_legend_handles_labels() for axes in grid.flat]
    legend = {label: line for lines, labels in handles for line, label in zip(lines, labels, strict=True)}
    drawing.suptitle("Time of a GAN loss over eager PyTorch's (lower is faster)", fontsize=14, y=0.985)
    drawing.text(0.5, 0.925, below, ha="center", fontsize=9, color="#555555")
    drawing.legend(
        legend.values(), legend, loc="upper center", bbox_to_anchor=(0.5, 0.915), ncols=len(legend), frameon=False,
        fontsize=9,
    )  # fmt: skip
    drawing.supxlabel("n, logits in each tensor", fontsize=11)
    drawing.supylabel("time / time of eager", fontsize=11)
    drawing.tight_layout(rect=(0.005, 0, 1, 0.885))
    return drawing


SUITE = Suite(
    name="losses",
    title="Losses on {device}",
    note="Each loss of fastgan (fused) against eager PyTorch, torch.compile and a copy of as many bytes.",
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=draw,
    figure=figure,
    options=add_options,
    after=memory,
    instead=calls,
    devices=("cpu", "cuda"),
)
