"""The measurement of record of whole penalty and discriminator steps over the zoo: `python bench/penalty_steps.py`.

Writes steps-<device>-<date>.json, .md and .png. One process, contenders in turn, ratios within the run, as
`report.py` has it. What is compiled is compiled anew for each case, with an empty cache.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import Any, NamedTuple

import cases
import report
import step_cases
import torch
from step_cases import TABLES, Made, Table, Work
from torch import nn
from zoo import ZOO

import fastgan

ROUNDS = 24
INTERVALS = (1, 4, 16)
AIMS = {"pruned": 1.3, "compiled": 1.5}
NOISE = 0.03  # slower by less than this is not told from level
Row = dict[str, Any]


class Plan(NamedTuple):
    """What is measured, where and until when."""

    tables: tuple[str, ...]
    names: tuple[str, ...]
    width: int
    size: int
    batch: int
    device: str
    quick: bool
    compiled: bool
    until: float


# --- time and memory --------------------------------------------------------------------------------------


def peak(net: nn.Module, step: Work, device: str) -> float:
    """MiB by which a step's allocations exceed at their peak what there was before it."""
    net.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return round(most / 2**20, 1)


@contextmanager
def nothing_compiled(compiled: bool) -> Iterator[None]:
    """An empty cache, so that a case's seconds are those of its first run on a machine."""
    if not compiled:
        yield
        return
    from torch._inductor.utils import fresh_cache

    torch._dynamo.reset()
    with fresh_cache():
        yield


def contenders(table: Table, m: Made, compiled: bool) -> tuple[dict[str, nn.Module], dict[str, Work], Row]:
    """The discriminators, the steps, and which of them do not compile and why."""
    names = [name for name in table.values if compiled or not name.startswith("compiled")]
    nets = {name: m.net() for name in names}
    works = {name: step_cases.work(table.values[name], nets[name], m) for name in names}
    refused = {}
    for name in [n for n in names if n.startswith("compiled")]:
        why = step_cases.settle(nets[name], works[name])
        if why is not None:
            refused[name] = why
            del works[name]
    return nets, works, refused


def measure_case(title: str, name: str, plan: Plan, calibrate: Any) -> Row:
    """A row of one of the tables."""
    table = TABLES[title]
    m = step_cases.make(name, plan.width, plan.size, plan.batch, plan.device)
    nets, works, refused = contenders(table, m, plan.compiled)
    step_cases.check(table, m, nets, works)
    works[table.base]()
    start = perf_counter()
    works[table.base]()
    took = perf_counter() - start
    rounds, steps = (3, 1) if plan.quick else (ROUNDS, max(1, int(0.02 / took)))
    row = report.measure(works, rounds, steps, calibrate)
    infos = {n: fastgan.compile_info(nets[n]) for n in works if n.startswith("compiled")}
    for n, info in infos.items():
        if info.graphs != 1 or info.refused:
            refused[n] = info.refused or f"{info.graphs} graphs where one was expected"
            del row["seconds"][n]
    facts = {"table": title, "case": name, "aim": m.case.aim, "width": m.width, "size": m.size}
    facts |= {"refused": refused, "compile seconds": {n: round(i.seconds, 1) for n, i in infos.items()}}
    if title == "penalty":
        facts["MiB"] = {n: peak(nets[n], works[n], plan.device) for n in row["seconds"]}
    return facts | row


def measure_all(plan: Plan, calibrate: Any) -> Iterator[Row]:
    """What was measured so far, after each case: its rows; the cases without time left; what was found wrong."""
    found: Row = {"rows": [], "left": [], "wrong": []}
    for name in report.progress(list(plan.names)):
        if perf_counter() > plan.until:
            found["left"].append(name)
            continue
        with nothing_compiled(plan.compiled):
            for title in [t for t in plan.tables if name in TABLES[t].names]:
                try:
                    found["rows"].append(measure_case(title, name, plan, calibrate))
                except AssertionError as error:  # the other cases' compiling is not to be in vain
                    found["wrong"].append(f"{HEADINGS[title]}: {error}")
        gc.collect()
        yield found
    yield found


def summarized(found: Row) -> Row:
    """The same with its rows summarized, and how many of their rounds count."""
    found = copy.deepcopy(found)
    rows = found["rows"]
    calibrations = [c for row in rows for c in row["calibration"]]
    for row in rows:
        summarize(row, min(calibrations))
    found["calibration"] = {"rounds": len(calibrations), "dropped": sum(row["dropped"] for row in rows)}
    return found


def summarize(row: Row, fastest: float) -> None:
    """Minima, medians, and the ratios of the base's time to the others' over the rounds that count."""
    base = TABLES[row["table"]].base
    seconds = row["seconds"]
    known = {"calibration": row["calibration"], "seconds": {**seconds, "eager": seconds[base]}}
    known["seconds"] |= {"fused": seconds[base], "copy": seconds[base]}
    report.summarize(known, fastest)
    row |= {key: known[key] for key in ("rounds", "dropped", "marked")}
    row |= {key: {name: known[key][name] for name in seconds} for key in ("minimum", "median")}
    row["ratio"] = {name: 1 / known["over eager"][name] for name in seconds}
    row["ratio, median"] = {name: 1 / known["over eager, median"][name] for name in seconds}


# --- what is written --------------------------------------------------------------------------------------


def milliseconds(row: Row, name: str) -> str:
    """A contender's minimum, or that it was refused."""
    if name in row["refused"]:
        return "refused"
    return f"{row['minimum'][name] * 1e3:.3g}" if name in row["minimum"] else ""


def ratios(row: Row, name: str) -> list[str]:
    """Of minima and of medians."""
    return [f"{row[key][name]:.2f}" if name in row[key] else "" for key in ("ratio", "ratio, median")]


def title_of(row: Row) -> list[str]:
    """A row's first cells."""
    return [row["case"] + " *" * row["marked"], f"{row['width']}, {row['size']}"]


def penalty_table(rows: list[Row]) -> str:
    """Times, ratios and seconds of compiling."""
    names = list(TABLES["penalty"].values)
    ours = [n for n in names if n != "recipe"]
    head = ["case", "width, size", "aim", *(f"{n} ms" for n in names)]
    head += [cell for n in ours for cell in (f"recipe/{n}", "(median)")]
    head += ["compiling s"]
    lines = []
    for row in rows:
        cells = [*title_of(row), "yes" if row["aim"] else "", *(milliseconds(row, n) for n in names)]
        cells += [cell for n in ours for cell in ratios(row, n)]
        cells += [f"{s:.0f}" for s in row["compile seconds"].values()] or [""]
        lines.append(cells)
    return report.table(head, lines)


def memory_table(rows: list[Row]) -> str:
    """Peaks in MiB."""
    names = list(TABLES["penalty"].values)
    lines = [[row["case"], *(f"{row['MiB'][n]:.1f}" if n in row["MiB"] else "" for n in names)] for row in rows]
    return report.table(["case", *(f"{n} MiB" for n in names)], lines)


def step_table(rows: list[Row]) -> str:
    """Times and ratios."""
    names = list(TABLES["step"].values)
    others = [n for n in names if n != "recipe"]
    head = ["case", "width, size", *(f"{n} ms" for n in names)]
    head += [cell for n in others for cell in (f"recipe/{n}", "(median)")]
    lines = [
        [*title_of(row), *(milliseconds(row, n) for n in names), *(c for n in others for c in ratios(row, n))]
        for row in rows
    ]
    return report.table(head, lines)


def forwards_table(rows: list[Row]) -> str:
    """What penalties cost, in forwards; at an interval of k, a k-th of it for each step."""
    head = ["case", "width, size", "what", "part", "ms", *(f"forwards, every {k}" for k in INTERVALS)]
    lines = []
    for row in rows:
        for name in [n for n in TABLES["forwards"].values if n in row["minimum"] or n in row["refused"]]:
            engine, _, part = name.partition(" ")
            cells = [*title_of(row), engine if part == "" else f"R1, {engine}", part, milliseconds(row, name)]
            intervals = () if name in row["refused"] else INTERVALS if part else (1,)
            cells += [f"{1 / row['ratio'][name] / k:.2f}" for k in intervals]
            lines.append(cells + [""] * (len(head) - len(cells)))
    return report.table(head, lines)


def verdict(rows: list[Row], name: str, aim: float) -> list[str]:
    """Where a contender meets its aim, and where it is slower than the recipe, in minimum and median."""
    wanted = [row for row in rows if row["aim"]]
    short = [row for row in wanted if row["ratio"].get(name, 0) < aim]
    slower = [
        row
        for row in rows
        if name in row["ratio"] and max(row["ratio"][name], row["ratio, median"][name]) < 1 - NOISE
    ]
    told = [
        ", ".join(f"{r['case']} ({ratios(r, name)[0] or 'refused'})" for r in found) for found in (short, slower)
    ]
    met = f"{len(wanted) - len(short)} of {len(wanted)} cases" + (f"; not {told[0]}" if short else "")
    return [
        f"- {name}, {aim:g} times as fast as the recipe where that is the aim: {met}",
        f"- {name}, slower than the recipe by more than {NOISE:.0%}: {told[1] or 'no case'}",
    ]


def verdicts(rows: list[Row]) -> str:
    """Which aims are met."""
    timed = [n for n in AIMS if any(n in row["ratio"] or n in row["refused"] for row in rows)]
    return "\n".join(["Aims:", "", *(line for n in timed for line in verdict(rows, n, AIMS[n]))])


NOTES = {
    "penalty": "WGAN-GP's penalty from samples to the parameters' gradients. recipe: plain PyTorch as in most"
    " trainers; unpruned: fastgan with prune=False; pruned: fastgan's default; compiled: engine='compiled', as a"
    " graph. compiling: tracing, compiling and comparing with the eager step, with an empty cache.",
    "step": "Hinge loss and R1 on real. recipe: three forwards; shared: the recipe with R1 by the loss's forward on"
    " real, as some trainers have it; separate: fastgan's discriminator_loss and r1_penalty; one graph:"
    " discriminator_step; compiled: that with engine='compiled'.",
    "forwards": "In forwards of the discriminator in training mode, without a graph. loss: two forwards and the"
    " backward of the hinge loss. recipe: R1 as in most trainers; pruned, compiled: by fastgan.nn.GradientPenalty."
    " Every 4 or 16: divided by that interval.",
}
HEADINGS = {
    "penalty": "A whole penalty step",
    "step": "A whole discriminator step with R1",
    "forwards": "What a penalty costs",
}
MEMORY = (
    "How far the same steps' allocations exceed at their peak what there was before, gradients included (on a CPU"
    " without what oneDNN takes for itself)."
)
WRITERS = {"penalty": penalty_table, "step": step_table, "forwards": forwards_table}


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    checks, rows = result["calibration"], result["rows"]
    text = [f"# Whole steps on {result['device']}", report.machine_line(result["machine"])]
    text.append(
        f"Batches of {result['batch']}; float32. Times are minima over rounds in which the contenders take turns,"
        " ratios the recipe's time over theirs; (median) is the median of the rounds' ratios."
        f" Rounds dropped as disturbed: {checks['dropped']} of {checks['rounds']}."
    )
    text += [f"**{warning}**" for warning in report.warnings(result)]
    if any(row["marked"] for row in rows):
        text.append(f"\\* fewer than {report.FEWEST} undisturbed rounds; all were used.")
    if result["no compile"]:
        text.append(f"Without compiled: {result['no compile']}.")
    text += [f"**Wrong, and not timed: {what}.**" for what in result["wrong"]]
    if result["left"]:
        text.append(f"No time was left for {', '.join(result['left'])}.")
    for title, write in WRITERS.items():
        mine = [row for row in rows if row["table"] == title]
        if mine:
            text += [f"## {HEADINGS[title]}", NOTES[title], write(mine)]
            why = [f"- {r['case']}, {n}: not compiled: {w}" for r in mine for n, w in r["refused"].items()]
            text += ["\n".join(why)] if why else []
            if title == "penalty":
                text += [verdicts(mine), "## Its peak memory", MEMORY, memory_table(mine)]
    return "\n\n".join(text) + "\n"


def save(result: Row, path: Path) -> None:
    """Write everything as JSON, and the tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))


def figures(result: Row) -> list[str]:
    """The rows in short."""
    lines = []
    for row in result["rows"]:
        times = " ".join(f"{name} {value * 1e3:.3g}" for name, value in row["median"].items())
        lines.append(f"{row['table']}, {row['case']}: ms {times}")
    return lines + [f"WRONG: {what[:200]}" for what in result["wrong"]]


COLOURS = {"unpruned": "#1b5fa8", "pruned": "#7fb2e0", "compiled": "#c4561a"}
LABELS = {
    "unpruned": "fastgan, prune=False",
    "pruned": "fastgan",
    "compiled": "fastgan, engine='compiled'",
}

WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # behind numbers, where a line would cross them


def draw(axes: Any, rows: list[Row]) -> None:
    """A group of bars for each case."""
    names = [n for n in COLOURS if any(n in row["ratio"] for row in rows)]
    for j, name in enumerate(names):
        there = [(k, 1 / row["ratio"][name]) for k, row in enumerate(rows) if name in row["ratio"]]
        places = [k + 0.27 * (j - (len(names) - 1) / 2) for k, _ in there]
        bars = axes.bar(places, [v for _, v in there], 0.26, color=COLOURS[name], label=LABELS[name])
        axes.bar_label(bars, [f"{v:.2f}" for _, v in there], fontsize=6.5, padding=2, rotation=90, bbox=WHITE)
    axes.axhline(1, color="#333333", lw=1)
    for aim in [AIMS[n] for n in names if n in AIMS]:
        axes.axhline(1 / aim, color="#333333", lw=1.2, ls=":")
        axes.text(len(rows) - 0.38, 1 / aim, f"1/{aim:g}", fontsize=8, va="center")
    axes.set_xticks(range(len(rows)), [fill(r["case"] + "†" * r["aim"], 11) for r in rows], fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(
        0, 1.32 * max(1.0, *(1 / v for row in rows for v in row["ratio"].values()))
    )  # room for the legend
    axes.set_ylabel("time / time of the usual recipe")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of time over the recipe's, where matplotlib is installed."""
    rows = [row for row in result["rows"] if row["table"] == "penalty"]
    if find_spec("matplotlib") is None or not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(max(10, 0.75 * len(rows)), 5.4), layout="constrained")
    draw(axes, rows)
    figure.suptitle("Whole penalty steps (lower is faster; † is where the aims apply)", fontsize=13)
    below = [report.machine_line(result["machine"]), *report.warnings(result)]
    axes.set_title("\n".join(fill(line, 130) for line in below), fontsize=8, color="#555555")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# --- the run ----------------------------------------------------------------------------------------------


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="time the compiled too (default: not if --quick)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=ZOO, help="these of the zoo's cases")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")
    parser.add_argument("--width", type=int, help="of the discriminators, a multiple of 8 (default: 32, quick: 8)")
    parser.add_argument("--size", type=int, help="of the images, a multiple of 8 (default: 64, quick: 16)")
    parser.add_argument("--batch", type=int, help="samples (default: 16, quick: 4)")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds after which no further case is begun"
    )
    options = parser.parse_args(given)
    for name, least, step in (("width", 8, 8), ("size", 16, 8), ("batch", 2, 1)):
        value = getattr(options, name)
        if value is not None and (value < least or value % step):
            parser.error(f"--{name}: expected at least {least} and a multiple of {step}, got {value}")
    return options


def plan_of(options: argparse.Namespace, compiled: bool) -> Plan:
    """What the command line asks for."""
    usual = (8, 16, 4) if options.quick else (32, 64, 16)
    asked = (options.width, options.size, options.batch)
    width, size, batch = (u if a is None else a for a, u in zip(asked, usual, strict=True))
    names = tuple(name for name in ZOO if not options.only or name in options.only)
    return Plan(
        tuple(options.tables), names, width, size, batch, options.device, options.quick, compiled,
        perf_counter() + options.budget,
    )  # fmt: skip


def main(given: list[str] | None = None) -> None:
    """Measures, and writes the JSON, the tables and the plot."""
    options = arguments(given)
    start = perf_counter()
    torch.set_num_threads(1 if options.quick else cases.THREADS)
    wanted = not options.quick if options.compile is None else options.compile
    why = cases.no_compile() if wanted else "not asked for"
    calibrate, facts = report.calibration(), report.machine()
    plan = plan_of(options, not why)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    known = {"machine": facts, "device": name, "batch": plan.batch, "quick": options.quick, "no compile": why}
    path = options.out / f"steps-{options.device}-{facts['date']}"
    told = 0
    for found in measure_all(plan, calibrate):
        result = known | summarized(found) | {"took": round(perf_counter() - start, 1)}
        save(result, path)  # whatever stops this program, what is there is not lost
        for line in (lines := figures(result))[told:]:
            report.tell(line)
        told = len(lines)
    plot(result, path.with_suffix(".png"))
    print(markdown(result))
    print(f"wrote {path}.json, .md and .png after {result['took']:.0f} s")
    if result["wrong"]:
        sys.exit(f"wrong: {'; '.join(result['wrong'])}")


if __name__ == "__main__":
    main()
