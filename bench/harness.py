"""The harness of all suites: `python -m bench SUITE` writes <suite>-<device>-<date>.json, .md and .png.

One process; the contenders take turns round by round, so that whatever else the machine does meets them all;
ratios are formed within the run only. Everything is written anew after each case.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

import fastgan
from bench import report

THREADS = 2
DISTURBED = 1.3  # a round counts if its calibration took at most this times the shortest
FEWEST = 3  # rounds that must be left, else all are used and the row is marked
ROW_LIMIT = 6.0  # seconds, after which a row gets no further round; short steps come to it on a busy machine only
RESULTS = Path(__file__).with_name("results")
Row = dict[str, Any]
Work = Callable[[], Any]
Within = Mapping[str, Callable[[], AbstractContextManager[Any]]]


class Suite(NamedTuple):
    """What is measured.

    Attributes:
        name: the command's and the files'.
        title: the report's heading; `{device}` is where it ran.
        note: what the numbers are, below the line about the machine.
        cases: the options -> what is measured.
        measure: a run and a case -> its rows, made by `Run.measure`; a row {"wrong": why} was not timed.
        sections: the result -> the report's tables.
        draw: matplotlib's pyplot, the result and a line about the run -> the figure, or None for no plot.
        figure: a row -> a short line.
        options: adds to the command line.
        after: a run -> what is measured when all cases are, joined to the result.
        devices: where it can run.
        compiles: whether some contenders are compiled.
        instead: the options -> the suite that measures what they ask for, or None for this one.
    """

    name: str
    title: str
    note: str
    cases: Callable[[argparse.Namespace], list[Any]]
    measure: Callable[[Run, Any], Iterator[Row]]
    sections: Callable[[Row], list[str]]
    draw: Callable[[Any, Row, str], Any]
    figure: Callable[[Row], str]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    after: Callable[[Run], Row] = lambda run: {}
    devices: tuple[str, ...] = ("cpu",)
    compiles: bool = True
    instead: Callable[[argparse.Namespace], Suite | None] = lambda options: None


# --- torch.compile ----------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function under torch.compile; forgets what was compiled before, as graphs per size add up."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # no pool of workers that lives on beside what is timed
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


@lru_cache(maxsize=1)
def no_compile() -> str | None:
    """Why torch.compile does not work on this machine, or None where it does."""
    try:
        compiled(lambda x: F.softplus(x).mean())(torch.zeros(8))
    except Exception as error:
        return f"torch.compile does not work here: {type(error).__name__}: {str(error).strip()[:200]}"
    return None


# --- the machine ------------------------------------------------------------------------------------------


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> Row:
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


# --- time -------------------------------------------------------------------------------------------------


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


class Run:
    """A run of a suite: its options, and the clock."""

    def __init__(self, suite: Suite, options: argparse.Namespace) -> None:
        self.options = options
        self.device: str = options.device
        self.quick: bool = options.quick
        wanted = suite.compiles and (not self.quick if options.compile is None else options.compile)
        self.why_not_compiled = no_compile() if wanted else "not asked for"
        self.compiled = self.why_not_compiled is None
        self.calibrate = calibration()

    def measure(
        self,
        works: dict[str, Work],
        base: str,
        rounds: int,
        steps: int,
        limit: float = ROW_LIMIT,
        within: Within | None = None,
    ) -> Row:
        """The contenders in turn, round by round; each round after the calibration workload.

        `within`: by contender, the context that is entered around all its steps of a round.
        """
        contexts = {name: (within or {}).get(name, nullcontext) for name in works}
        for name, work in works.items():
            with contexts[name]():
                work()
                work()
        gc.collect()
        times: dict[str, list[float]] = {name: [] for name in works}
        calibrations: list[float] = []
        start = perf_counter()
        for done in range(rounds):
            if done >= FEWEST and perf_counter() - start > limit:
                break
            self.calibrate()  # wakes the threads up
            calibrations.append(seconds(self.calibrate, 1))
            for name, work in works.items():
                with contexts[name]():
                    if steps > 1:
                        work()  # what the one before left in the caches is not to count
                    times[name].append(seconds(work, steps))
        return {"base": base, "steps": steps, "calibration": calibrations, "seconds": times}


def summarize(row: Row, fastest: float) -> None:
    """Add minima, medians and the ratios of the base's time to the others'; `fastest`: the shortest calibration.

    A row's "pairs" name further ratios: {"a/b": (a, b)}.
    """
    kept = [i for i, c in enumerate(row["calibration"]) if c <= DISTURBED * fastest]
    row["rounds"], row["dropped"] = len(row["calibration"]), len(row["calibration"]) - len(kept)
    row["marked"] = len(kept) < FEWEST
    if row["marked"]:
        kept = list(range(row["rounds"]))
    times = {name: [values[i] for i in kept] for name, values in row["seconds"].items()}
    row["minimum"] = {name: min(values) for name, values in times.items()}
    row["median"] = {name: median(values) for name, values in times.items()}
    pairs = {name: (row["base"], name) for name in times} | row.get("pairs", {})
    row["ratio"] = {key: row["minimum"][a] / row["minimum"][b] for key, (a, b) in pairs.items()}
    row["ratio, median"] = {
        key: median(x / y for x, y in zip(times[a], times[b], strict=True)) for key, (a, b) in pairs.items()
    }


def summarized(found: Row) -> Row:
    """What was found with its rows summarized, and how many of their rounds count."""
    found = copy.deepcopy(found)
    calibrations = [c for row in found["rows"] for c in row["calibration"]]
    for row in found["rows"]:
        summarize(row, min(calibrations))
    dropped = sum(row["dropped"] for row in found["rows"])
    return found | {"calibration": {"rounds": len(calibrations), "dropped": dropped, "limit": DISTURBED}}


# --- the run ----------------------------------------------------------------------------------------------


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


def measured(suite: Suite, run: Run, until: float) -> Iterator[Row]:
    """What was found so far, after each case: its rows; the cases without time left; what was wrong."""
    found: Row = {"rows": [], "left": [], "wrong": []}
    for case in progress(suite.cases(run.options)):
        if perf_counter() > until:
            found["left"].append(str(getattr(case, "name", case)))
            continue
        for row in suite.measure(run, case):
            found["wrong" if "wrong" in row else "rows"].append(row.get("wrong", row))
        gc.collect()
        yield found
    yield found


def at_least(least: int, step: int = 1) -> Callable[[str], int]:
    """The type of a number on the command line."""

    def number(text: str) -> int:
        value = int(text)
        if value < least or value % step:
            multiple = f" and a multiple of {step}" * (step > 1)
            raise argparse.ArgumentTypeError(f"expected at least {least}{multiple}, got {value}")
        return value

    return number


def arguments(suite: Suite, given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {suite.name}", description=suite.note)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder to write to (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument("--device", choices=suite.devices, default="cpu")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds after which no further case is begun"
    )
    parser.add_argument(
        "--threads", type=int, help=f"for the operators (default: {THREADS}, with --quick 1); in the files' names"
    )
    parser.set_defaults(compile=None)
    if suite.compiles:
        parser.add_argument(
            "--compile",
            action=argparse.BooleanOptionalAction,
            help="time the compiled too (default: not if --quick)",
        )
    suite.options(parser)
    return parser.parse_args(given)


def save(suite: Suite, result: Row, path: Path) -> None:
    """Write everything as JSON, and the tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report.markdown(suite, result))


def main(suite: Suite, given: list[str] | None = None) -> None:
    """Measure, and write the JSON, the tables and the plot."""
    options = arguments(suite, given)
    suite = suite.instead(options) or suite
    start = perf_counter()
    torch.set_num_threads(options.threads or (1 if options.quick else THREADS))
    run, facts = Run(suite, options), machine()
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    known: Row = {"machine": facts, "device": device, "quick": options.quick, "no compile": run.why_not_compiled}
    threads = f"-{options.threads}-threads" if options.threads else ""
    path = options.out / f"{suite.name}{threads}-{options.device}-{facts['date']}"
    told = 0
    for found in measured(suite, run, start + options.budget):
        result = known | summarized(found) | {"took": round(perf_counter() - start, 1)}
        save(suite, result, path)  # whatever stops this program, what is there is not lost
        for row in result["rows"][told:]:
            tell(suite.figure(row))
        told = len(result["rows"])
    for why in result["wrong"]:
        tell(f"WRONG: {why[:200]}")
    result |= suite.after(run) | {"took": round(perf_counter() - start, 1)}
    save(suite, result, path)
    report.plot(suite, result, path.with_suffix(".png"))
    print(report.markdown(suite, result))
    made = [suffix for suffix in (".json", ".md", ".png") if path.with_suffix(suffix).exists()]
    print(f"wrote {path}{', '.join(made)} after {result['took']:.0f} s")
    if result["wrong"]:
        sys.exit(f"wrong: {'; '.join(result['wrong'])}")
