"""The measurement on a GPU: `python -m bench gpu` writes gpu-<date>.json, .md and plots; `gpu.sh` does the rest.

One process; the contenders take turns round by round; nothing is measured of a case before its loss and
gradients are found right. README.md beside this says how each number comes about.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import math
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

import fastgan
from bench import gpu_cases, gpu_report
from bench.gpu_cases import Arm, Cell
from bench.harness import tell

MOST_QUEUED = 600  # launches in a batch; past about 1,000 the driver makes the host wait
Row = dict[str, Any]


# --- clocks ---------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Seconds that a step took the device and the host; `starved`: the device may have waited for the host."""

    gpu: float
    host: float
    starved: bool


class Gpu:
    """CUDA events around a batch that is queued while the device is kept busy with a delay."""

    def __init__(self) -> None:
        self.cycles = 1e9
        for _ in range(3):
            self.cycles = 5e7 / self._elapsed(lambda: torch.cuda._sleep(50_000_000))

    @staticmethod
    def _elapsed(work: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e-3

    @staticmethod
    def wait() -> None:
        torch.cuda.synchronize()

    def batch(self, step: Callable[[int], Any], first: int, count: int, delay: float) -> Batch:
        """`count` steps from the `first` on, after `delay` seconds in which the host queues them."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(int(delay * self.cycles))
        start.record()
        begin = perf_counter()
        for i in range(first, first + count):
            step(i)
        host = perf_counter() - begin
        end.record()
        starved = start.query()  # the delay was over before all was queued
        torch.cuda.synchronize()
        return Batch(start.elapsed_time(end) * 1e-3 / count, host / count, starved)

    def replay(self, arm: Arm, steps: int, rounds: int) -> list[float]:
        """Seconds a step of a CUDA graph of `steps` steps."""
        run = arm.gradients or arm.step
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            kept = [run(i) for i in range(steps)]
        times = [self.batch(lambda _: graph.replay(), 0, 4, 2e-3).gpu / steps for _ in range(rounds + 1)][1:]
        del kept
        return times

    @staticmethod
    def peak(step: Callable[[int], Any]) -> float:
        """MiB by which a step exceeds what is there already."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(0)
        return (torch.cuda.max_memory_allocated() - before) / 2**20


class Cpu:
    """The same calls where there is no GPU, to try everything around them; its numbers say nothing."""

    @staticmethod
    def wait() -> None:
        pass

    @staticmethod
    def batch(step: Callable[[int], Any], first: int, count: int, delay: float) -> Batch:
        begin = perf_counter()
        for i in range(first, first + count):
            step(i)
        taken = (perf_counter() - begin) / count
        return Batch(taken, taken, False)


Clock = Gpu | Cpu


class Plan(NamedTuple):
    """What is measured, on what, how often, until when."""

    device: torch.device
    clock: Clock
    backends: list[str]
    quick: bool
    rounds: int
    deadline: float

    def late(self) -> bool:
        return perf_counter() > self.deadline


# --- one row --------------------------------------------------------------------------------------------


def steps_of(clock: Clock, step: Callable[[int], Any], first: int, count: int) -> list[float]:
    """Seconds of each step, waiting for the device after it."""
    times = []
    clock.wait()
    for i in range(first, first + count):
        begin = perf_counter()
        step(i)
        clock.wait()
        times.append(perf_counter() - begin)
    return times


def delay_for(clock: Clock, arm: Arm, count: int) -> float:
    """How long a delay covers the queueing of a batch; runs the batch thrice, which warms everything up."""
    host = [clock.batch(arm.step, 0, count, 0.0).host for _ in range(3)]
    return 3e-4 + 1.5 * count * min(host[1:])


def turns(plan: Plan, arms: list[Arm], count: int, batches: bool) -> dict[str, Row]:
    """The contenders in turn, round by round, every other round backwards."""
    clock, delays, taken = plan.clock, {}, {}
    for arm in arms:
        taken[arm.name] = {"gpu": [], "host": [], "step": [], "starved": 0}
        with arm.active():
            delays[arm.name] = delay_for(clock, arm, count) if batches else 0.0
            steps_of(clock, arm.step, 0, 1 if batches else 3)
    gc.collect()
    gc.disable()
    for done in range(plan.rounds):
        for arm in arms if done % 2 == 0 else reversed(arms):
            row = taken[arm.name]
            with arm.active():
                for _ in range(3 if batches else 0):
                    batch = clock.batch(arm.step, done * count, count, delays[arm.name])
                    if not batch.starved:
                        break
                    delays[arm.name] *= 2
                if batches:
                    row["gpu"].append(batch.gpu)
                    row["host"].append(batch.host)
                    row["starved"] += batch.starved
                row["step"].append(median(steps_of(clock, arm.step, done * count, count)))
    gc.enable()
    return taken


def summary(times: list[float]) -> dict[str, float] | None:
    return {"median": median(times), "minimum": min(times)} if times else None


def replays(plan: Plan, arm: Arm, steps: int) -> tuple[list[float], str | None]:
    """Times of graph replays, or why there are none."""
    if not isinstance(plan.clock, Gpu):
        return [], None
    try:
        with arm.active():
            return plan.clock.replay(arm, steps, plan.rounds), None
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        torch.cuda.synchronize()
        return [], f"{type(error).__name__}: {str(error).strip()[:200]}"


def measure(plan: Plan, arms: list[Arm], count: int, large: bool, batches: bool = True) -> dict[str, Row]:
    """All numbers of each contender. `large`: a graph holds few steps; `batches`: device and host time too."""
    found = {arm.name: arm for arm in arms}
    rows: dict[str, Row] = {}
    for name, row in turns(plan, arms, count, batches).items():
        arm = found[name]
        times, why = replays(plan, arm, 2 if large else 8) if batches else ([], None)
        rows[name] = {key: summary(row[key]) for key in ("gpu", "host", "step")} | {
            "graph": summary(times), "no graph": why, "starved": row["starved"],
            "samples": row | {"graph": times},
        }  # fmt: skip
        if name != "copy" and isinstance(plan.clock, Gpu):
            with arm.active():
                rows[name]["peak MiB"] = plan.clock.peak(counted(arm, batches))
    return rows


def counted(arm: Arm, batches: bool = True) -> Callable[[int], Any]:
    """The step of which launches and memory are told."""
    return arm.gradients if arm.gradients and batches else arm.step


def count_launches(plan: Plan, arms: list[Arm], rows: dict[str, Row], batches: bool = True) -> None:
    """Adds the number of launches of a step, which takes a while to find."""
    for arm in arms:
        if arm.name in rows and arm.name != "copy":
            with arm.active():
                run = counted(arm, batches)
                rows[arm.name]["launches"] = gpu_cases.launches(lambda run=run: run(0), plan.device)


def attempt(plan: Plan, facts: Row, work: Callable[[], Row]) -> Row:
    """`facts` with what `work` measured, or with why there is nothing."""
    start = perf_counter()
    if plan.late():
        return facts | {"refused": "out of time"}
    torch._dynamo.reset()  # as many graphs would add up as there are sizes
    try:
        facts |= work()
    except torch.cuda.OutOfMemoryError:
        facts["refused"] = "out of memory"
    except Exception as error:
        facts["refused"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    gc.enable()
    gc.collect()
    with contextlib.suppress(
        RuntimeError
    ):  # after a crash of the device everything raises; the report is yet to come
        torch.cuda.empty_cache()
    facts["took"] = round(perf_counter() - start, 2)
    tell(f"{gpu_report.figure(facts)} ({facts['took']} s)")
    return facts


# --- all rows -------------------------------------------------------------------------------------------


def measure_losses(plan: Plan, cells: Sequence[Cell], with_compiled: bool = False) -> Iterator[Row]:
    """A row for each loss and size."""
    for cell in [c._replace(n=min(c.n, 4096)) for c in cells[:2]] if plan.quick else cells:
        nbytes = 2 * cell.count * cell.dtype.itemsize
        facts: Row = {"part": "losses", "case": cell.case.name, "n": cell.n or cell.count}
        facts |= {"dtype": str(cell.dtype)[6:], "bytes": nbytes}

        def work(cell: Cell = cell, nbytes: int = nbytes) -> Row:
            arms, why = gpu_cases.loss_arms(cell, plan.device, plan.backends, with_compiled)
            count = 2 if plan.quick else MOST_QUEUED // 120 if cell.case.members else 20
            rows = measure(plan, arms, count, nbytes > 1 << 26)
            if cell.n == 4096 or cell.case.members:
                count_launches(plan, arms, rows)
            return {"arms": rows, "left out": why}

        yield attempt(plan, facts, work)


def prepared(plan: Plan, *shape_and_dtype: Any) -> tuple[Any, Any]:
    """Sets of samples, and what is right for the first; or None and why there are none."""
    try:
        sets = gpu_cases.sample_sets(*shape_and_dtype, plan.device)
        return sets, gpu_cases.exact_penalty(sets[0])
    except Exception as error:
        return None, error


def measure_penalties(plan: Plan, shapes: Sequence[Any], with_compiled: bool = False) -> Iterator[Row]:
    """A row for each part of a penalty and shape."""
    for rows, shape, dtype in ((4, (4, 16, 16), torch.float32),) if plan.quick else shapes:
        sets, exact = (None, None) if plan.late() else prepared(plan, rows, shape, dtype)
        n = rows * math.prod(shape)
        for case, moved in gpu_cases.TENSORS_MOVED.items():
            nbytes = n * dtype.itemsize
            facts: Row = {"part": "penalties", "case": case, "shape": [rows, *shape], "dtype": str(dtype)[6:]}
            facts |= {"n": n, "gradient MB": nbytes / 2**20, "bytes": moved * nbytes}

            def work(
                case: str = case, sets: Any = sets, exact: Any = exact, large: bool = nbytes >= 1 << 26
            ) -> Row:
                if sets is None:
                    raise exact
                arms, why = gpu_cases.penalty_arms(case, sets, exact, plan.backends, with_compiled, plan.device)
                found = measure(plan, arms, 2 if plan.quick else 4 if large else 16, large)
                if not large:
                    count_launches(plan, arms, found)
                return {"arms": found, "left out": why}

            yield attempt(plan, facts, work)


def measure_training(plan: Plan) -> Iterator[Row]:
    """A row for each kind of training step."""
    torch.backends.cudnn.benchmark = True
    for kind in gpu_cases.TRAINING:

        def work(kind: str = kind) -> Row:
            arms, why = gpu_cases.trainers(kind, plan.backends, plan.device, plan.quick)
            rows = measure(plan, arms, 1 if plan.quick else 10, True, batches=False)
            count_launches(plan, arms, rows, batches=False)
            return {"arms": rows, "left out": why}

        yield attempt(plan, {"part": "training", "case": kind}, work)


PARTS: dict[str, Callable[[Plan], Iterable[Row]]] = {
    "smoke": lambda plan: chain(
        measure_losses(plan, gpu_cases.FIRST[:1]), measure_penalties(plan, gpu_cases.FIRST_PENALTIES[:1])
    ),
    "first": lambda plan: chain(
        measure_losses(plan, gpu_cases.FIRST), measure_penalties(plan, gpu_cases.FIRST_PENALTIES)
    ),
    "compiled": lambda plan: chain(
        measure_losses(plan, gpu_cases.COMPILED, True),
        measure_penalties(plan, gpu_cases.FIRST_PENALTIES[:1], True),
    ),
    "rest": lambda plan: chain(
        measure_losses(plan, gpu_cases.REST), measure_penalties(plan, gpu_cases.REST_PENALTIES)
    ),
    "training": measure_training,
}


# --- the whole ------------------------------------------------------------------------------------------


def machine(device: torch.device) -> Row:
    """Where this runs."""
    facts: Row = {"date": datetime.date.today().isoformat(), "python": platform.python_version()}
    facts |= {"torch": torch.__version__, "fastgan": fastgan.__version__, "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "memory GB": round(properties.total_memory / 1e9)}
        facts |= {"multiprocessors": properties.multi_processor_count, "L2 MB": properties.L2_cache_size / 2**20}
        command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            facts["driver and clocks"] = done.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            pass
    try:
        import triton

        facts["triton"] = triton.__version__
    except ImportError:
        pass
    return facts


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_name("results") / "local"
    parser.add_argument(
        "--out", type=Path, default=default, help="folder to write to (default: bench/results/local)"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument("--only", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--budget", type=float, default=280, help="seconds after which no further row is begun")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measures, and writes the JSON after each row, then the tables and the plots."""
    options, start = arguments(given), perf_counter()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device (--device cpu tries the program)")
    ready, missing = gpu_cases.fused_backends(device)
    clock = Gpu() if device.type == "cuda" else Cpu()
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads that wait for a core make small steps long
    rounds = 3 if options.quick else 9
    plan = Plan(device, clock, ready, options.quick, rounds, start + options.budget)
    result: Row = {"machine": machine(device), "backends": ready, "missing": missing, "quick": options.quick}
    result |= {"rounds": rounds, "rows": []}
    for part in options.only or [p for p in PARTS if p != "smoke"]:
        for row in PARTS[part](plan):
            result["rows"].append(row)
            result["took"] = round(perf_counter() - start, 1)
            gpu_report.save(result, options.out)  # whatever stops this program, what is there is not lost
    print(gpu_report.write(result, options.out))
    if not ready or gpu_report.failures(result):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
