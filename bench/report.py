"""The measurement of record: `python bench/report.py` writes cpu-<date>.json, .md and .png.

One process; the contenders take turns round by round, so that whatever else the machine does meets
them all; ratios are formed within the run only.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import multiprocessing
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any, NamedTuple

import cases
import torch
from cases import CASES, CONTENDERS, MODES, SEQUENCES, SIZES, Case, Work

import fastgan

DISTURBED = 1.3  # a round counts if its calibration took at most this times the shortest
FEWEST = 3  # rounds that must be left, else all are used and the row is marked
MEMORY_N = 1 << 24
ROW_LIMIT = 6.0  # seconds, after which a row gets no further round; only a busy machine comes to it
Row = dict[str, Any]


class Plan(NamedTuple):
    """What is measured: the sizes, how many times `cases.effort`'s rounds, and of whom the memory."""

    sizes: tuple[int, ...]
    effort: float
    memory: tuple[Case, ...]
    compiled: bool


def progress(items: list[Any]) -> Iterable[Any]:
    """`items`, with a progress bar where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, unit="case", leave=False, dynamic_ncols=True)


def tell(line: str) -> None:
    """Print a figure in a short line of its own, which bench/gpu_stages.py finds."""
    print(f"figure: {line}", flush=True)


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Where this runs."""
    facts = fastgan.info()
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "instruction set": facts["instruction set"],
        "fastgan": facts["fastgan"],
        "torch": facts["torch"],
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.date.today().isoformat(),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """`machine()` on one line."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, instruction set {facts['instruction set']}, "
        f"fastgan {facts['fastgan']}, torch {facts['torch']}, {facts['threads']} threads, {facts['date']}"
    )


# --- time ---------------------------------------------------------------------------------------------


def seconds(work: Work, steps: int) -> float:
    """The time that a step takes."""
    start = perf_counter_ns()
    for _ in range(steps):
        work()
    return (perf_counter_ns() - start) / steps * 1e-9


def calibration() -> Work:
    """A fixed workload of about a millisecond on all threads, the same whatever is measured."""
    x = torch.linspace(-1, 1, 1 << 17)
    y = torch.empty_like(x)

    def work() -> None:
        for _ in range(10):
            torch.exp(x, out=y)

    return work


def measure(works: dict[str, Work], rounds: int, steps: int, calibrate: Work) -> Row:
    """The contenders in turn, round by round; each round after the calibration workload."""
    for work in works.values():
        work()
        work()
    gc.collect()
    times: dict[str, list[float]] = {name: [] for name in works}
    calibrations: list[float] = []
    start = perf_counter()
    for done in range(rounds):
        if done >= FEWEST and perf_counter() - start > ROW_LIMIT:
            break
        calibrate()  # wakes the threads up
        calibrations.append(seconds(calibrate, 1))
        for name, work in works.items():
            if steps > 1:
                work()  # what the one before left in the caches is not to count
            times[name].append(seconds(work, steps))
    return {"steps": steps, "calibration": calibrations, "seconds": times}


def summarize(row: Row, fastest: float) -> None:
    """Adds minima, medians and ratios over the rounds that count; `fastest`: the shortest calibration."""
    kept = [i for i, c in enumerate(row["calibration"]) if c <= DISTURBED * fastest]
    row["rounds"], row["dropped"] = len(row["calibration"]), len(row["calibration"]) - len(kept)
    row["marked"] = len(kept) < FEWEST
    if row["marked"]:
        kept = list(range(row["rounds"]))
    times = {name: [values[i] for i in kept] for name, values in row["seconds"].items()}
    row["minimum"] = {name: min(values) for name, values in times.items()}
    row["median"] = {name: median(values) for name, values in times.items()}
    row["over eager"] = {name: value / row["minimum"]["eager"] for name, value in row["minimum"].items()}
    row["over eager, median"] = {
        name: median(a / b for a, b in zip(values, times["eager"], strict=True)) for name, values in times.items()
    }
    row["fused over copy"] = row["minimum"]["fused"] / row["minimum"]["copy"]


def measure_case(case: Case, plan: Plan, calibrate: Work) -> Iterator[Row]:
    """A row for each size and mode."""
    cases.check(case)
    names = [c for c in CONTENDERS if c != "compiled" or (case.compiled and plan.compiled)]
    for n in [sum(case.members)] if case.members else plan.sizes:
        arguments = cases.operands(case, n)
        rounds, steps = cases.effort(n)
        for mode, backward in MODES.items():
            works = {name: cases.work(name, case, arguments, backward) for name in names}
            facts = {"case": case.name, "loss": case.loss, "role": case.role, "relativistic": case.relativistic}
            facts |= {"members": case.members, "n": n, "mode": mode}
            yield facts | measure(works, max(FEWEST, round(rounds * plan.effort)), steps, calibrate)


# --- memory -------------------------------------------------------------------------------------------


def resident(key: str) -> float:
    """VmRSS, the resident memory, or VmHWM, its peak, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak(case: Case, contender: str) -> float:
    """MiB by which a step's peak exceeds what its logits took already; in a process of its own.

    A first step, which compiles and loads code, does not count.
    """
    torch.set_num_threads(cases.THREADS)
    arguments = cases.operands(case, MEMORY_N)
    work = cases.work(contender, case, arguments, backward=True)
    work()
    for t in cases.leaves(arguments):
        t.grad = None
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    work()
    return round(resident("VmHWM") - before, 1)


def _peak_of(index: int, contender: str) -> float:
    return peak(CASES[index], contender)


def measure_memory(plan: Plan) -> list[Row]:
    """Peak memory of forward and backward; empty where the system does not tell (it is not Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "fastgan"])
    rows = []
    with context.Pool(1, maxtasksperchild=1) as pool:
        for case in progress(list(plan.memory)):
            names = ["fused", "eager"] + ["compiled"] * (plan.compiled and case.compiled)
            peaks = {name: pool.apply(_peak_of, (CASES.index(case), name)) for name in names}
            rows.append({"case": case.name, "n": MEMORY_N, "MiB": peaks})
    return rows


# --- what is written ----------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right, padded to be read as is."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def microseconds(row: Row, contender: str) -> str:
    """A contender's minimum, with three digits that count."""
    if contender not in row["minimum"]:
        return ""
    value = row["minimum"][contender] * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def time_table(rows: list[Row]) -> str:
    """Minima in microseconds, and ratios."""
    head = ["case", "n", *(f"{name} us" for name in CONTENDERS)]
    head += ["fused/eager", "(median)", "compiled/eager", "fused/copy"]
    lines = []
    for row in rows:
        ratios, medians = row["over eager"], row["over eager, median"]
        cells = [row["case"] + " *" * row["marked"], f"{row['n']}"]
        cells += [microseconds(row, name) for name in CONTENDERS]
        cells += [f"{ratios['fused']:.2f}", f"{medians['fused']:.2f}"]
        cells += [f"{ratios['compiled']:.2f}" if "compiled" in ratios else "", f"{row['fused over copy']:.2f}"]
        lines.append(cells)
    return table(head, lines)


def memory_table(rows: list[Row]) -> str:
    """Peaks in MiB."""
    names = [name for name in CONTENDERS if name != "copy"]
    return table(
        ["case", *(f"{name} MiB" for name in names)],
        [
            [row["case"], *(f"{row['MiB'][name]:.0f}" if name in row["MiB"] else "" for name in names)]
            for row in rows
        ],
    )


def warnings(result: dict[str, Any]) -> list[str]:
    """Why the numbers are not to be quoted."""
    checks, found = result["calibration"], []
    if result["quick"]:
        found.append("A quick run: it shows that everything works, and says nothing of speed.")
    if checks["dropped"] > 0.25 * checks["rounds"]:
        found.append(f"A disturbed machine: {checks['dropped']} of {checks['rounds']} rounds dropped.")
    return found


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    rows, checks = result["rows"], result["calibration"]
    text = ["# fastgan on the CPU", machine_line(result["machine"])]
    text.append(
        "Times are minima over rounds in which the contenders take turns; float32. Ratios are of minima, "
        "(median) is the median of the rounds' ratios. "
        f"Rounds dropped as disturbed: {checks['dropped']} of {checks['rounds']}."
    )
    text += [f"**{warning}**" for warning in warnings(result)]
    if any(row["marked"] for row in rows):
        text.append(f"\\* fewer than {FEWEST} undisturbed rounds; all were used.")
    if result["no compile"]:
        text.append(f"Without compiled: {result['no compile']}.")
    for mode in MODES:
        text += [f"## {mode}", time_table([row for row in rows if row["mode"] == mode])]
    if result["memory"]:
        text += [
            "## peak memory",
            f"What forward+backward takes at its peak beyond the logits, n = {MEMORY_N}; gradients included.",
            memory_table(result["memory"]),
        ]
    return "\n\n".join(text) + "\n"


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
    floor = [(row["n"], row["over eager"]["copy"]) for row in rows if row["mode"] == "forward+backward"]
    n, ratio = zip(*floor, strict=True)
    axes.fill_between(n, ratio, 1e-6, color="#d5d8dc", lw=0, label="copy of as many bytes")
    axes.axhline(1, color="#333333", lw=1, label="eager = 1")
    for (contender, mode), style in reversed(LINES.items()):
        points = [
            (row["n"], row["over eager"][contender])
            for row in rows
            if row["mode"] == mode and contender in row["over eager"]
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=f"{LABELS[contender]}, {mode}", **style)
    axes.set_xscale("log")
    axes.set_xticks(n, [TICKS[size] for size in n], fontsize=8)
    axes.minorticks_off()
    axes.set_title(rows[0]["case"], fontsize=10.5)
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plot(result: dict[str, Any], path: Path) -> None:
    """A panel for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    columns = 5
    figure, grid = plt.subplots(-(-len(CASES) // columns), columns, figsize=(15, 7), sharey=True, squeeze=False)
    for case, axes in zip(CASES, grid.flat, strict=False):
        draw_case(axes, [row for row in result["rows"] if row["case"] == case.name])
    values = [v for row in result["rows"] for name, v in row["over eager"].items() if name in LABELS]
    grid[0, 0].set_yscale("log", base=2)
    grid[0, 0].set_ylim(min(0.06, 0.85 * min(values)), max(1.5, 1.15 * max(values)))  # every point shows
    grid[0, 0].yaxis.set_major_locator(LogLocator(2, numticks=20))
    grid[0, 0].yaxis.set_minor_locator(NullLocator())
    grid[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 0.01 else f"{value:.1g}")
    legend = {
        label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.suptitle("Time of a GAN loss over eager PyTorch's (lower is faster)", fontsize=14, y=0.985)
    below = " ".join([machine_line(result["machine"]) + ".", *warnings(result)])
    figure.text(0.5, 0.925, below, ha="center", fontsize=9, color="#555555")
    figure.legend(
        legend.values(), legend, loc="upper center", bbox_to_anchor=(0.5, 0.915), ncols=len(legend), frameon=False,
        fontsize=9,
    )  # fmt: skip
    figure.supxlabel("n, logits in each tensor", fontsize=11)
    figure.supylabel("time / time of eager", fontsize=11)
    figure.tight_layout(rect=(0.005, 0, 1, 0.885))
    figure.savefig(path, dpi=130)
    plt.close(figure)


# --- the run ------------------------------------------------------------------------------------------


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="time torch.compile too (default: not if --quick)"
    )
    return parser.parse_args(given)


def run(plan: Plan) -> dict[str, Any]:
    """All measurements."""
    facts, calibrate, rows = machine(), calibration(), []
    for case in progress([*CASES, *SEQUENCES]):
        rows += measure_case(case, plan, calibrate)
    calibrations = [c for row in rows for c in row["calibration"]]
    for row in rows:
        summarize(row, min(calibrations))
    checks = {"minimum": min(calibrations), "median": median(calibrations), "limit": DISTURBED}
    checks |= {"rounds": len(calibrations), "dropped": sum(row["dropped"] for row in rows)}
    return {"machine": facts, "calibration": checks, "rows": rows, "memory": measure_memory(plan)}


def main(given: list[str] | None = None) -> None:
    """Measures, and writes the JSON, the table and the plot."""
    options = arguments(given)
    start = perf_counter()
    torch.set_num_threads(cases.THREADS)
    wanted = not options.quick if options.compile is None else options.compile
    why = cases.no_compile() if wanted else "not asked for"
    plan = Plan(SIZES[:2], 0.2, CASES[:1], not why) if options.quick else Plan(SIZES, 1.5, CASES, not why)
    result = run(plan) | {"quick": options.quick, "no compile": why}
    result["took"] = round(perf_counter() - start, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"cpu-{result['machine']['date']}"
    text = markdown(result)
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    plot(result, path.with_suffix(".png"))
    print(text)
    print(f"wrote {path}.json, .md and .png after {result['took']:.0f} s")


if __name__ == "__main__":
    main()
