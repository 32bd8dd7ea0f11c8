"""The cost of a call of a loss: as users write it, compiled, fastgan with and without C++ nodes, and empty nodes.

`python -m bench losses --sizes N ...` measures this in place of the other tables of losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import harness, report
from bench.harness import Row, Run, Suite, Work
from bench.suites import losses
from bench.suites.losses import Case
from fastgan.backends import nodes

NAMES = (
    "nonsaturating D (BCE)",
    "hinge D",
    "least squares D",
    "wasserstein D",
    "relativistic paired D",
    "relativistic average D",
    "hinge G",
    "least squares D, 8 members",
)
CASES = tuple(case for case in (*losses.CASES, *losses.SEQUENCES) if case.name in NAMES)

COMPUTING = ("eager", "compiled", "python", "nodes")  # the others compute nothing
CONTENDERS = (*COMPUTING, "empty Function", "empty node")
WITHIN = {"python": nodes.off}
PAIRS = {
    "eager/nodes": ("eager", "nodes"),
    "eager/python": ("eager", "python"),
    "compiled/nodes": ("compiled", "nodes"),
    "nodes/empty node": ("nodes", "empty node"),
}
MODES = ("forward+backward", "forward")
ROUNDS = 60

# Relative to the largest gradient of a tensor; for the loss to its size or 1, as means of both signs cancel. Each
# contender rounds an element a few times and sums in blocks. Measured differences are below 1.5 eps for 16 to 1M
# logits (compiled: to 61,504). A factor of ten is left for other builds; a wrong label, sign or mean is outside.
TOLERANCE = 16 * torch.finfo(torch.float32).eps


# --- contenders -------------------------------------------------------------------------------------------


class Empty(torch.autograd.Function):
    """A node in Python that saves its operands and computes nothing."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return torch.empty((), dtype=tensors[0].dtype, device=tensors[0].device)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return tuple([torch.empty_like(t) for t in ctx.saved_tensors])


def sized(case: Case, n: int) -> Case:
    """The case with n logits in each member of its sequences."""
    return case._replace(members=(n,) * len(case.members))


def forwards(case: Case, arguments: list[Any], compiled: bool) -> dict[str, Work]:
    """The forward of each contender that there is."""
    tensors = tuple(losses.leaves(arguments))
    call = partial(losses.fused(case), *arguments)
    found: dict[str, Work] = {
        "eager": partial(case.eager, *arguments),
        "python": call,
        "empty Function": partial(Empty.apply, *tensors),
    }
    if compiled:
        found["compiled"] = partial(harness.compiled(case.eager), *arguments)
    if nodes.module is not None:
        found |= {"nodes": call, "empty node": partial(nodes.module.nothing, tensors)}
    return {name: found[name] for name in CONTENDERS if name in found}


def with_backward(forward: Work, tensors: list[Tensor]) -> Work:
    """A forward and its backward."""
    return lambda: torch.autograd.grad(forward(), tensors)


def waiting(work: Work) -> Work:
    """A work that has waited for the device."""
    return lambda: (work(), torch.cuda.synchronize())


def far(a: Tensor, b: Tensor, scale: float) -> bool:
    """Whether results differ by more than rounding; NaN does."""
    return not float((a.double() - b.double()).abs().max()) <= TOLERANCE * scale


def disagreement(works: dict[str, Work], tensors: list[Tensor]) -> str | None:
    """Which contender computes something else, or is not what its name says; None where all are right."""
    found, graphs = {}, {}
    for name in [name for name in COMPUTING if name in works]:
        with WITHIN.get(name, nullcontext)():
            value = works[name]()
            found[name] = [value.detach(), *torch.autograd.grad(value, tensors)]
            graphs[name] = value.grad_fn.name()
    right = found["eager"]
    scales = [max(1.0, abs(float(right[0]))), *[float(g.abs().max()) for g in right[1:]]]
    for name, results in found.items():
        if any(map(far, results, right, scales)):
            return f"{name} is not eager"
    if "nodes" in found and not all(map(torch.equal, found["nodes"], found["python"])):
        return "nodes has other bits than python"
    for name, graph in graphs.items():
        if (name == "nodes") != ("CppNode" in graph):
            return f"{name} has the graph of {graph}"
    return None


# --- time -------------------------------------------------------------------------------------------------


def chosen(options: argparse.Namespace) -> list[Case]:
    """All cases."""
    return list(CASES)


def measure(run: Run, case: Case) -> Iterator[Row]:
    """A row for each size and mode."""
    for n in run.options.sizes:
        this = sized(case, n)
        arguments = losses.operands(this, n, run.device)
        tensors = losses.leaves(arguments)
        works = forwards(this, arguments, run.compiled)
        if why := disagreement(works, tensors):
            yield {"wrong": f"{case.name}, n = {n}: {why}"}
            continue
        rounds = harness.FEWEST if run.quick else ROUNDS
        steps = losses.effort(sum(this.members) or n)[1]
        for mode in MODES:
            about = losses.facts(this, n, mode) | {"nodes": nodes.state}
            if mode == "forward+backward":
                timed = {name: with_backward(work, tensors) for name, work in works.items()}
                about["pairs"] = {key: pair for key, pair in PAIRS.items() if set(pair) <= set(works)}
            else:
                timed = works
            if run.device == "cuda":
                timed = {name: waiting(work) for name, work in timed.items()}
            yield about | run.measure(timed, "eager", rounds, steps, within=WITHIN)


# --- what is written --------------------------------------------------------------------------------------


def time_table(rows: list[Row]) -> str:
    """Minima in microseconds, and medians."""

    def cell(row: Row, name: str) -> str:
        least = report.microseconds(row, name)
        return least and f"{least} ({report.microseconds(row, name, 'median')})"

    lines = [
        [report.marked(row, row["case"]), f"{row['n']}", *[cell(row, name) for name in CONTENDERS]] for row in rows
    ]
    return report.table(["case", "n", *[f"{name} us" for name in CONTENDERS]], lines)


def ratio_table(rows: list[Row]) -> str:
    """Ratios of the minima, and the medians of the rounds' ratios."""

    def cell(row: Row, key: str) -> str:
        ratio = report.ratio(row, key)
        return ratio and f"{ratio} ({report.ratio(row, key, 'ratio, median')})"

    lines = [[report.marked(row, row["case"]), f"{row['n']}", *[cell(row, key) for key in PAIRS]] for row in rows]
    return report.table(["case", "n", *PAIRS], lines)


def sections(result: Row) -> list[str]:
    """A table of times for each mode, and one of ratios."""
    text = ["n is the number of logits in each tensor. Medians stand in brackets behind the minima."]
    if absent := {row["nodes"] for row in result["rows"] if "nodes" not in row["minimum"]}:
        text.append(f"Without nodes and empty node: the C++ nodes are {', '.join(absent)}.")
    rows = {mode: [row for row in result["rows"] if row["mode"] == mode] for mode in MODES}
    text += ["## Ratios of forward+backward", ratio_table(rows["forward+backward"])]
    for mode in MODES:
        text += [f"## {mode}", time_table(rows[mode])]
    return text


def figure(row: Row) -> str:
    """A row in short."""
    times = ", ".join(f"{name} {report.microseconds(row, name)}" for name in row["minimum"])
    ratios = "".join(f", {key} {report.ratio(row, key)}" for key in row.get("pairs", ()))
    return f"{row['case']} {row['n']}, {row['mode']}: us {times}{ratios}"


SUITE = Suite(
    name="loss-calls",
    title="What a call of a loss costs on {device}",
    note=(
        "Each loss in eager PyTorch, under torch.compile, with fastgan's autograd Functions in Python (python) and "
        "with its C++ nodes (nodes), beside an empty autograd Function and an empty C++ node on the same operands."
    ),
    cases=chosen,
    measure=measure,
    sections=sections,
    draw=lambda plt, result, below: None,
    figure=figure,
)
