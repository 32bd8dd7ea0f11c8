"""The stages of a run on a GPU: `bench/gpu.sh`.

Each stage is a process with a time limit and a log. One that fails does not stop the next, unless nothing after
it would make sense; the exit status says so. After each, three files in the folder named are written anew:
results.json (all figures, and how each stage went), summary.txt (short lines) and logs.tar.gz (the rest). So
whatever stops the run, what was measured is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 11_000  # characters of the summary, for whoever sees only the end of the output
LARGEST = 4 << 20  # bytes of a file that goes into the archive
PYTEST = ["-m", "pytest", "-q", "--show-capture=no", "--tb=short", "--maxfail=30"]


class Stage(NamedTuple):
    """A process: Python with these arguments, for at most so many seconds.

    Attributes:
        before: a command that runs it, such as compute-sanitizer's; the stage is left out where there is none.
        needed: whether the stages after it make no sense where it fails.
    """

    name: str
    seconds: int
    arguments: list[str]
    environment: Mapping[str, str] = MappingProxyType({})
    before: Sequence[str] = ()
    needed: bool = False


class Outcome(NamedTuple):
    """How a stage went: its exit status, or why it has none."""

    name: str
    seconds: float
    code: int | None
    why: str = ""

    def line(self) -> str:
        """For the summary."""
        return f"{self.name}: {self.why or f'exit {self.code}'}, {self.seconds:.0f} s"


class Run:
    """What the stages have in common, and what they have brought so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix="fastgan-gpu-"))
        self.end = time.monotonic() + 60 * options.minutes
        self.outcomes: list[Outcome] = []
        self.environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "TRITON_CACHE_DIR": str(self.work / "triton"),
        }

    def folder(self, name: str) -> Path:
        """Where a stage writes."""
        path = self.work / "logs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def measured(self, name: str, program: str, *arguments: str) -> list[str]:
        """A program of this folder that writes its figures."""
        quick = ["--quick"] if self.options.quick else []
        path = str(ROOT / "bench" / program)
        return [path, "--device", self.options.device, "--out", str(self.folder(name)), *quick, *arguments]

    def carried(self) -> list[str]:
        """The carried folder, for programs that take it."""
        return ["--carried", str(self.options.carried.resolve())] if self.options.carried else []

    def execute(self, stage: Stage) -> Outcome:
        """Run a stage for as long as it may and there is time."""
        left = self.end - time.monotonic() - 3
        if stage.before and not shutil.which(stage.before[0]):
            return Outcome(stage.name, 0, None, f"not run, no {stage.before[0]} here")
        if left < 5:
            return Outcome(stage.name, 0, None, "not run, out of time")
        start, log = time.monotonic(), self.folder(stage.name) / "log.txt"
        with log.open("w") as file:
            process = subprocess.Popen(
                [*stage.before, sys.executable, *stage.arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                env={**self.environment, **stage.environment},
                preexec_fn=os.setpgrp,  # noqa: PLW1509 (there are no threads here)
            )  # fmt: skip
            try:
                code: int | None = process.wait(min(left, stage.seconds))
                why = ""
            except subprocess.TimeoutExpired:
                stop(process)
                code, why = process.returncode, f"stopped after {min(left, stage.seconds):.0f} s"
        return Outcome(stage.name, time.monotonic() - start, code, why)

    def collect(self) -> None:
        """Write the three files anew."""
        results = {name: found for name in self.names() if (found := figures_of(self.folder(name)))}
        record = {"stages": [o._asdict() for o in self.outcomes], "results": results}
        (self.out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        (self.out / "summary.txt").write_text(self.summary() + "\n")
        with tarfile.open(self.out / "logs.tar.gz", "w:gz") as archive:
            for path in sorted((self.work / "logs").rglob("*")):
                if path.is_file() and path.stat().st_size <= LARGEST:
                    archive.add(path, path.relative_to(self.work / "logs"))

    def names(self) -> list[str]:
        """The stages that have begun."""
        return [o.name for o in self.outcomes]

    def summary(self) -> str:
        """All figures in short lines, then how the stages went."""
        text = []
        for outcome in self.outcomes:
            path = self.folder(outcome.name)
            figures = path / "figures.txt"
            lines = figures.read_text().splitlines() if figures.exists() else last_lines(path / "log.txt", outcome)
            text += [f"== {outcome.name}", *(line[:400] for line in lines)] if lines else []
        ends = [o.line() for o in self.outcomes]
        return "\n".join([*text, "== stages", *ends])


def stop(process: subprocess.Popen[Any]) -> None:
    """End a stage with all that it started."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def figures_of(folder: Path) -> Any:
    """What a stage wrote as JSON; of a program that was stopped while it wrote, nothing."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue
    return found[0] if len(found) == 1 else found


def last_lines(log: Path, outcome: Outcome) -> list[str]:
    """The end of a log: its last line, or more where the stage failed."""
    if outcome.code is None or not log.exists():
        return []
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "E  "))][:12]
    return lines[-1:] if outcome.code == 0 and not outcome.why else [*failed, *lines[-12:]]


# --- the stages -----------------------------------------------------------------------------------------


def has_module(name: str) -> bool:
    """Whether this Python has a module."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def tests(*arguments: str) -> list[str]:
    """Pytest, on as many processors as there are but one."""
    parallel = ["-n", str(max(1, (os.cpu_count() or 2) - 1))] if has_module("xdist") else []
    return [*PYTEST, *parallel, *arguments]


def sanitizer(tool: str) -> list[str]:
    """compute-sanitizer's command."""
    return ["compute-sanitizer", "--tool", tool, "--target-processes", "all", "--error-exitcode", "9"]


def beginning(run: Run) -> list[Stage]:
    """What must be right before anything else makes sense: a call of its own where time is short."""
    carried = ["--use", str(run.options.carried.resolve())] if run.options.carried else []
    target = [] if run.options.device == "cuda" else ["--cpu"]
    device = {"FASTGAN_TEST_DEVICE": run.options.device, "FASTGAN_TEST_REQUIRED": "1"}
    return [
        Stage("machine", 20, ["bench/gpu_machine.py"]),
        Stage("extension", 200, ["bench/gpu_carry.py", "build", *carried, *target], needed=True),
        Stage("tour", 60, [*PYTEST, "tests/test_gpu.py", "-m", "gpu", "-k", "tour"], device, needed=True),
        Stage("smoke", 45, run.measured("smoke", "gpu.py", "--only", "smoke"), needed=True),
    ]


def on_a_gpu(run: Run) -> list[Stage]:
    """The rest, the most informative first."""
    gpu = ["tests/test_gpu.py", "-m", "gpu", "-k"]
    required = {"FASTGAN_TEST_REQUIRED": "1"}  # what is skipped for lack of kernels would look like success
    watched = required | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    few = ["--width", "64", "--batch", "64", "--only", "conv", "residual", "batch norm", "attention"]
    tour = [*PYTEST, *gpu, "tour and cuda"]
    return [
        Stage("tests-cuda", 75, tests(*gpu, "not triton and not compile"), required),
        Stage("memcheck", 40, tour, watched, sanitizer("memcheck")),
        Stage("speed", 80, run.measured("speed", "gpu.py", "--only", "first", "--budget", "75")),
        Stage("ncu", 50, run.measured("ncu", "gpu_ncu.py")),
        Stage("shapes", 30, run.measured("shapes", "gpu_shapes.py", *run.carried())),
        Stage("tests-triton", 75, tests(*gpu, run.options.triton_tests), required),
        Stage("compiled", 90, run.measured("compiled", "gpu.py", "--only", "compiled", "--budget", "75")),
        Stage("training", 40, run.measured("training", "gpu.py", "--only", "training")),
        Stage("trainers", 60, run.measured("trainers", "trainers.py")),
        Stage("steps", 60, run.measured(
            "steps", "penalty_steps.py", "--no-compile", "--budget", "45", "--tables", "penalty", "step", *few)),
        Stage("sizes", 60, run.measured("sizes", "gpu.py", "--only", "rest", "--budget", "55")),
        Stage("racecheck", 40, tour, watched, sanitizer("racecheck")),
        Stage("tests-compile", 60, tests(*gpu, "compile"), required),
        Stage("patterns", 120, [*PYTEST, *gpu, "every_pattern and cuda"], required | {"FASTGAN_EXHAUSTIVE": "1"}),
    ]  # fmt: skip


def rehearsed(run: Run) -> list[Stage]:
    """The same where there is no GPU: each program once, on little."""
    gpu, on_cpu = ["tests/test_gpu.py", "-m", "gpu", "-k"], {"FASTGAN_TEST_DEVICE": "cpu"}
    small = ["--no-compile", "--only", "conv", "--tables", "penalty"]
    return [
        Stage("tests-cuda", 60, tests(*gpu, "threads or masks or autocast"), on_cpu),
        Stage("memcheck", 40, [*PYTEST, *gpu, "tour"], on_cpu, sanitizer("memcheck")),
        Stage("speed", 40, run.measured("speed", "gpu.py", "--only", "first")),
        Stage("ncu", 40, run.measured("ncu", "gpu_ncu.py")),
        Stage("shapes", 40, run.measured("shapes", "gpu_shapes.py")),
        Stage("training", 60, run.measured("training", "gpu.py", "--only", "training")),
        Stage("trainers", 60, run.measured("trainers", "trainers.py", "--only", "cyclegan", "biggan")),
        Stage("steps", 60, run.measured("steps", "penalty_steps.py", *small)),
        Stage("sizes", 40, run.measured("sizes", "gpu.py", "--only", "rest")),
    ]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "bench" / "results" / "local")
    parser.add_argument("--minutes", type=float, default=9, help="for all stages together (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="only what must be right before the rest makes sense")
    parser.add_argument("--carried", type=Path, help="folder that `gpu_carry.py make` filled elsewhere")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages, after the extension")
    parser.add_argument("--triton-tests", default="triton and not compile", help="which of Triton's tests (-k)")
    options = parser.parse_args(given)
    if options.minutes <= 0:
        parser.error(f"--minutes: expected a positive number, got {options.minutes}")
    return options


def main(given: list[str] | None = None) -> None:
    """Run the stages, and write what they bring."""
    options = arguments(given)
    run = Run(options)
    start = time.monotonic()
    stages = beginning(run)
    if not options.smoke:
        stages += on_a_gpu(run) if options.device == "cuda" else rehearsed(run)
    for stage in stages:
        if options.only and stage.name not in ("extension", *options.only):
            continue
        print(f"== {stage.name} (at most {stage.seconds} s)", flush=True)
        outcome = run.execute(stage)
        run.outcomes.append(outcome)
        run.collect()
        print(outcome.line(), flush=True)
        if stage.needed and outcome.code != 0:
            break
    print(f"{run.summary()[-SHOWN:]}\nafter {time.monotonic() - start:.0f} s; in {run.out}")
    shutil.rmtree(run.work, ignore_errors=True)
    failed = [o.name for o in run.outcomes if o.why.startswith("stopped") or o.code not in (0, None)]
    if failed:
        sys.exit(f"FAILED: {' '.join(failed)}")


if __name__ == "__main__":
    main()
