"""The stages of a run on a GPU: `bench/gpu.sh`.

Each stage is a process with a time limit and a log. One that fails does not stop the next, unless nothing after
it would make sense; the exit status says so. Three files in the folder named are written anew every few seconds:
results.json (all figures, and how each stage went), summary.txt (short lines) and, after each stage, logs.tar.gz
(the rest). So whatever stops the run, what was measured is there.
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
RUNNING = "running"
SLICE = 5  # seconds between two writes of what there is
PYTEST = ["-m", "pytest", "-q", "-rf", "--show-capture=no", "--tb=short", "--maxfail=30"]


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
        caches = Path(tempfile.gettempdir()) / "fastgan-gpu-caches"  # kept for the next call on this machine
        self.end = time.monotonic() + 60 * options.minutes
        self.outcomes: list[Outcome] = []
        self.environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }

    def folder(self, name: str) -> Path:
        """Where a stage writes."""
        path = self.work / "logs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def measured(self, name: str, program: str, *arguments: str) -> list[str]:
        """A suite or program of `python -m bench` that writes its figures."""
        quick = ["--quick"] if self.options.quick else []
        where = ["--device", self.options.device, "--out", str(self.folder(name))]
        return ["-m", "bench", program, *where, *quick, *arguments]

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
                preexec_fn=os.setpgrp,
            )  # fmt: skip
            why, most = "", min(left, stage.seconds)
            while process.poll() is None:
                taken = time.monotonic() - start
                if taken >= most:
                    stop(process)
                    why = f"stopped after {most:.0f} s"
                    break
                try:
                    process.wait(min(SLICE, most - taken))
                except subprocess.TimeoutExpired:
                    self.save([*self.outcomes, Outcome(stage.name, taken, None, RUNNING)])
        return Outcome(stage.name, time.monotonic() - start, process.returncode, why)

    def save(self, outcomes: list[Outcome]) -> None:
        """Write figures and summary anew."""
        results = {o.name: found for o in outcomes if (found := figures_of(self.folder(o.name)))}
        record = {"stages": [o._asdict() for o in outcomes], "results": results}
        replace(self.out / "results.json", json.dumps(record, indent=1) + "\n")
        replace(self.out / "summary.txt", self.summary(outcomes) + "\n")

    def collect(self) -> None:
        """Write all three files anew."""
        self.save(self.outcomes)
        with tarfile.open(self.out / "logs.tar.gz", "w:gz") as archive:
            for path in sorted((self.work / "logs").rglob("*")):
                if path.is_file() and path.stat().st_size <= LARGEST:
                    archive.add(path, path.relative_to(self.work / "logs"))

    def summary(self, outcomes: list[Outcome], most: int | None = None) -> str:
        """The figures in short lines, then how the stages went, in at most so many characters."""
        ends = "\n".join(["== stages", *[o.line() for o in outcomes]])
        text: list[str] = []
        for outcome in outcomes:
            lines = shown(self.folder(outcome.name) / "log.txt", outcome)
            text += [f"== {outcome.name}", *(line[:400] for line in lines)] if lines else []
        return "\n".join([*(text if most is None else beginning_of(text, most - len(ends))), ends])


def beginning_of(lines: list[str], most: int) -> list[str]:
    """The first lines, of so many characters altogether: what was measured first tells most."""
    count, size = 0, 100
    while count < len(lines) and size + len(lines[count]) < most:
        size += len(lines[count]) + 1
        count += 1
    left = len(lines) - count
    return lines[:count] + ([f"... and {left} lines more in summary.txt"] if left else [])


def replace(path: Path, text: str) -> None:
    """Write a file whole, or leave it as it was."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a stage with all that it started. An interrupt first: pytest then says what failed."""
    for number, patience in ((signal.SIGINT, 3), (signal.SIGTERM, 1), (signal.SIGKILL, 9)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.poll()


def figures_of(folder: Path) -> Any:
    """What a stage wrote as JSON; of a program that was stopped while it wrote, nothing."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue
    return found[0] if len(found) == 1 else found


def shown(log: Path, outcome: Outcome) -> list[str]:
    """The figures in a log; else its last line; and more of its end where the stage failed."""
    if not log.exists():
        return []
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    # A progress bar may stand before it.
    figures = [line.partition("figure: ")[2] for line in lines if "figure: " in line]
    if outcome.why == RUNNING:
        return figures
    if outcome.code == 0 and not outcome.why:
        return figures or lines[-1:]
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "E  "))][:12]
    return [*figures, *failed, *lines[-12:]]


# --- the stages -----------------------------------------------------------------------------------------


def has_module(name: str) -> bool:
    """Whether this Python has a module."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def tests(*arguments: str) -> list[str]:
    """Pytest, on as many processors as there are but one."""
    parallel = ["-n", str(max(1, (os.cpu_count() or 2) - 1))] if has_module("xdist") else []
    return [*PYTEST, *parallel, *arguments]


# Of each of the many processes of a test stage.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def sanitizer(tool: str) -> list[str]:
    """compute-sanitizer's command."""
    # Drivers are asked for functions that they may not have: that is no error of a kernel.
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return ["compute-sanitizer", "--tool", tool, *quiet, "--target-processes", "all", "--error-exitcode", "9"]


def beginning(run: Run) -> list[Stage]:
    """What must be right before anything else makes sense: a call of its own where time is short."""
    carried = ["--use", str(run.options.carried.resolve())] if run.options.carried else []
    target = [] if run.options.device == "cuda" else ["--cpu"]
    device = {"FASTGAN_TEST_DEVICE": run.options.device, "FASTGAN_TEST_REQUIRED": "1"}
    tour = [*PYTEST, "tests/backends/test_gpu.py", "-m", "gpu", "-k"]
    return [
        Stage("machine", 60, ["bench/gpu_machine.py"]),
        Stage("extension", 200, ["bench/gpu_carry.py", "build", *carried, *target], needed=True),
        Stage("tour", 60, [*tour, "tour and not triton"], device, needed=True),
        *([Stage("tour-triton", 90, [*tour, "tour and triton"], device)] if run.options.device == "cuda" else []),
        Stage("smoke", 60, run.measured("smoke", "gpu", "--only", "smoke")),
    ]


def on_a_gpu(run: Run) -> list[Stage]:
    """The rest, the most informative first."""
    gpu = ["tests/backends/test_gpu.py", "-m", "gpu", "-k"]
    required = {"FASTGAN_TEST_REQUIRED": "1"}  # what is skipped for lack of kernels would look like success
    watched = required | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    few = ["--width", "64", "--batch", "64", "--only", "conv", "residual", "batch norm", "attention"]
    tour, lengths = [*PYTEST, *gpu, "tour and cuda"], ["1024", "4096"]
    return [
        Stage("tests-cuda", 90, tests(*gpu, "not triton and not compile"), required | ONE_THREAD),
        Stage("memcheck", 60, tour, watched, sanitizer("memcheck")),
        Stage("speed", 80, run.measured("speed", "gpu", "--only", "first", "--budget", "75")),
        Stage("ncu", 50, run.measured("ncu", "gpu-ncu")),
        Stage("shapes", 30, run.measured("shapes", "gpu-shapes", *run.carried())),
        Stage("tests-triton", 75, tests(*gpu, run.options.triton_tests), required | ONE_THREAD),
        Stage("compiled", 90, run.measured("compiled", "gpu", "--only", "compiled", "--budget", "75")),
        Stage("training", 40, run.measured("training", "gpu", "--only", "training")),
        Stage("trainers", 60, run.measured("trainers", "trainers")),
        Stage("steps", 60, run.measured(
            "steps", "penalty-steps", "--no-compile", "--budget", "45", "--tables", "penalty", "step", *few)),
        Stage("attention", 60, run.measured("attention", "attention", "--budget", "40", "--tokens", *lengths)),
        Stage("sizes", 60, run.measured("sizes", "gpu", "--only", "rest", "--budget", "55")),
        Stage("racecheck", 60, tour, watched, sanitizer("racecheck")),
        Stage("tests-compile", 60, tests(*gpu, "compile"), required | ONE_THREAD),
        Stage("patterns", 120, [*PYTEST, *gpu, "every_pattern and cuda"], required | {"FASTGAN_EXHAUSTIVE": "1"}),
    ]  # fmt: skip


def rehearsed(run: Run) -> list[Stage]:
    """The same where there is no GPU: each program once, on little."""
    gpu, on_cpu = ["tests/backends/test_gpu.py", "-m", "gpu", "-k"], {"FASTGAN_TEST_DEVICE": "cpu"}
    small = ["--no-compile", "--only", "conv", "--tables", "penalty"]
    return [
        Stage("tests-cuda", 60, tests(*gpu, "threads or masks or autocast"), on_cpu),
        Stage("memcheck", 40, [*PYTEST, *gpu, "tour"], on_cpu, sanitizer("memcheck")),
        Stage("speed", 40, run.measured("speed", "gpu", "--only", "first")),
        Stage("ncu", 40, run.measured("ncu", "gpu-ncu")),
        Stage("shapes", 40, run.measured("shapes", "gpu-shapes")),
        Stage("training", 60, run.measured("training", "gpu", "--only", "training")),
        Stage("trainers", 60, run.measured("trainers", "trainers", "--only", "cyclegan", "biggan")),
        Stage("steps", 60, run.measured("steps", "penalty-steps", *small)),
        Stage("attention", 40, run.measured("attention", "attention", "--tokens", "16")),
        Stage("sizes", 40, run.measured("sizes", "gpu", "--only", "rest")),
    ]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "bench" / "results" / "local")
    parser.add_argument("--minutes", type=float, default=9, help="for all stages together (default: 9)")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--smoke", action="store_true", help="only what must be right before the rest makes sense")
    part.add_argument("--rest", action="store_true", help="without the tour and figures that --smoke has shown")
    parser.add_argument("--carried", type=Path, help="folder that `gpu_carry.py make` filled elsewhere")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--quick", action="store_true", help="few rounds of small sizes; says nothing of speed")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages, after the extension")
    parser.add_argument("--triton-tests", default="triton and not compile", help="which of Triton's tests (-k)")
    options = parser.parse_args(given)
    if options.minutes <= 0:
        parser.error(f"--minutes: expected a positive number, got {options.minutes}")
    if options.carried and not (options.carried / "fastgan").is_dir():
        parser.error(f"--carried: expected a folder that gpu_carry.py made, got {options.carried}")
    return options


def chosen(run: Run) -> list[Stage]:
    """The stages that the command line asks for; the extension is always there.

    Raises:
        SystemExit: a stage named is not known.
    """
    options, stages = run.options, beginning(run)
    if options.rest:
        stages = [s for s in stages if s.name in ("machine", "extension")]
    if not options.smoke:
        stages += on_a_gpu(run) if options.device == "cuda" else rehearsed(run)
    unknown = set(options.only or ()) - {s.name for s in stages}
    if unknown:
        sys.exit(f"--only: expected some of {' '.join(s.name for s in stages)}, got {' '.join(sorted(unknown))}")
    return [s for s in stages if not options.only or s.name in ("extension", *options.only)]


def main(given: list[str] | None = None) -> None:
    """Run the stages, and write what they bring."""
    options = arguments(given)
    run = Run(options)
    start = time.monotonic()
    for stage in chosen(run):
        print(f"== {stage.name} (at most {stage.seconds} s)", flush=True)
        outcome = run.execute(stage)
        run.outcomes.append(outcome)
        run.collect()
        print(outcome.line(), flush=True)
        if stage.needed and outcome.code != 0:
            break
    print(f"{run.summary(run.outcomes, SHOWN)}\nafter {time.monotonic() - start:.0f} s; in {run.out}")
    shutil.rmtree(run.work, ignore_errors=True)
    failed = [o.name for o in run.outcomes if o.why.startswith("stopped") or o.code not in (0, None)]
    if failed:
        sys.exit(f"FAILED: {' '.join(failed)}")


if __name__ == "__main__":
    main()
