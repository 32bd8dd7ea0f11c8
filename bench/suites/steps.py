"""Whole training steps of trainers: as the trainer writes them, and the same with fastgan.

A case has the trainer's networks, optimizers and data, on which the contenders take turns. Each runs the trainer's
whole step: forwards, losses, backward and optimizer of discriminator and generator.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from textwrap import fill
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from bench import report
from bench.adversarial_trainers import TRAINERS, WAYS, Trainer, Way
from bench.harness import Row, Run, Suite
from bench.suites.penalty_steps import peak

TINY = 16  # what --quick divides channels by
PARTS = ("whole", "generator", "discriminator")


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


def leaves(tree: Any) -> Any:
    """A discriminator's outputs without their graph, each of which wants a gradient."""
    if isinstance(tree, Tensor):
        return tree.detach().requires_grad_()
    return [leaves(entry) for entry in tree]


def flat(tree: Any) -> list[Tensor]:
    """All tensors of what `leaves` gives."""
    return [tree] if isinstance(tree, Tensor) else [x for entry in tree for x in flat(entry)]


def operands_of(total: Tensor, outputs: Any) -> list[Tensor]:
    """Those of the outputs on which a loss depends."""
    operands = flat(outputs)
    found = torch.autograd.grad(total, operands, allow_unused=True, retain_graph=True)
    return [x for x, g in zip(operands, found, strict=True) if g is not None]


def losses_alone(t: Trainer) -> dict[str, Callable[[], None]]:
    """All losses of a step with their gradients by the discriminators' outputs; raises where losses differ."""
    with torch.no_grad():
        outputs = leaves(t.outputs())
    own, ours = (t.totals(WAYS[way], outputs) for way in ("own", "fastgan"))
    for a, b in zip(own, ours, strict=True):
        if not torch.allclose(a.detach(), b.detach(), rtol=1e-5, atol=0):
            raise AssertionError(f"a loss alone is {float(a.detach())}, and fastgan's {float(b.detach())}")
    # To ask autograd for gradients that a loss does not have takes time too.
    reached = [operands_of(total, outputs) for total in own]

    def work(way: Way) -> None:
        for total, operands in zip(t.totals(way, outputs), reached, strict=True):
            torch.autograd.grad(total, operands)

    return {way: partial(work, WAYS[way]) for way in ("own", "fastgan")}


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
        losses = losses_alone(t)
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
    yield {"case": name, "part": "losses"} | run.measure(losses, "own", 3 if run.quick else 4 * ROUNDS, 5)


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


def loss_table(cases: list[dict[str, Row]]) -> str:
    """The losses alone, and how much of a step they are."""
    head = ["case", "own ms", "fastgan ms", "own/fastgan", "(min)", "of the own step"]
    lines = []
    for rows in cases:
        row, whole = rows["losses"], rows["whole"]
        cells = [report.marked(row, row["case"]), milliseconds(row, "own"), milliseconds(row, "fastgan")]
        lines.append([*cells, *ratios(row, "fastgan"), f"{100 * loss_share(row, whole):.1f}%"])
    return report.table(head, lines)


def loss_share(losses: Row, whole: Row) -> float:
    """The losses' part of the trainer's own step."""
    return losses["median"]["own"] / whole["median"]["own"]


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
    "losses": "All losses of a step, discriminator's and generator's, feature matching too, with their gradients by"
    " the discriminators' outputs; last, their part of the trainer's own step, all that a changed import can save.",
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
    text += ["## The losses alone", NOTES["losses"], loss_table([rows for rows in cases if "losses" in rows])]
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
    name="steps",
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
