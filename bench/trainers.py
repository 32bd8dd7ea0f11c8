"""Trainers' loss parts, their own against fastgan's: `python bench/trainers.py`.

Writes trainers-<device>-<date>.json, .md and .png. One process, contenders in turn, ratios within the run, as
`report.py` has it. Launches are counted from torch.profiler: on a GPU what runs there, on a CPU the operators
that compute something, where a call of fastgan's kernels counts as one.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from textwrap import fill
from time import perf_counter
from typing import Any

import cases
import report
import torch
import trainer_cases
from trainer_cases import CASES, Case

from fastgan.backends.cpu import Cpu

CONTENDERS = ("fused", "own")
AIM = {"hifigan": 3.0}
# Operators that look at memory anew, or make room for it, and start nothing on a device.
_IDLE = """empty empty_like empty_strided new_empty new_empty_strided view _unsafe_view reshape _reshape_alias
as_strided expand expand_as slice select unsqueeze squeeze permute transpose t alias detach detach_
unbind split flatten result_type item _local_scalar_dense is_nonzero numpy_T movedim view_as unflatten
chunk narrow resolve_conj resolve_neg lift_fresh broadcast_tensors"""
IDLE = frozenset(f"aten::{name}" for name in _IDLE.split())


def launches(work: Callable[[], Any], device: str) -> int:
    """What a step starts."""
    kinds = torch.profiler.ProfilerActivity
    calls: list[int] = []
    run = Cpu._launch

    def counted(self: Cpu, *arguments: Any) -> None:
        calls.append(1)
        run(self, *arguments)

    Cpu._launch = counted  # type: ignore[method-assign]
    try:
        with torch.profiler.profile(activities=[kinds.CUDA if device == "cuda" else kinds.CPU]) as profile:
            work()
            if device == "cuda":
                torch.cuda.synchronize()
    finally:
        Cpu._launch = run  # type: ignore[method-assign]
    events = profile.events()
    if device == "cuda":
        return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in events)
    inner = {id(e.cpu_parent) for e in events if e.name.startswith("aten::") and e.name not in IDLE}
    leaves = [e for e in events if e.name.startswith("aten::") and e.name not in IDLE and id(e) not in inner]
    return len(leaves) + len(calls)


def waiting(work: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A step that is over when it returns."""
    if device != "cuda":
        return work

    def run() -> None:
        work()
        torch.cuda.synchronize()

    return run


def measure_case(case: Case, device: str, quick: bool, calibrate: Any) -> dict[str, Any]:
    """A row of the table."""
    made = case.make(device, 8 if quick else 1)
    trainer_cases.check(case, made)
    works = {c: trainer_cases.work(case, c, made) for c in CONTENDERS}
    counts = {c: launches(w, device) for c, w in works.items()}
    timed = {c: waiting(w, device) for c, w in works.items()}
    start = perf_counter()
    timed["own"]()
    took = perf_counter() - start
    rounds, steps = (3, 1) if quick else (5, 1) if took > 0.5 else (40, max(1, int(0.01 / took)))
    row = report.measure(timed, rounds, steps, calibrate)
    gc.collect()
    return {"trainer": case.trainer, "what": case.what, "launches": counts, **row}


def summarize(row: dict[str, Any], fastest: float) -> None:
    """Minima, medians and the ratio over the rounds that count."""
    row["seconds"]["eager"] = row["seconds"].pop("own")
    row["seconds"]["copy"] = row["seconds"]["fused"]
    report.summarize(row, fastest)
    row["ratio"] = 1 / row["over eager"]["fused"]
    row["ratio, median"] = median(
        own / fused for own, fused in zip(row["seconds"]["eager"], row["seconds"]["fused"], strict=True)
    )


def summarized(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows measured so far, summarized, and how many of their rounds count."""
    rows = copy.deepcopy(rows)
    calibrations = [c for row in rows for c in row["calibration"]]
    for row in rows:
        summarize(row, min(calibrations))
    checks = {"rounds": len(calibrations), "dropped": sum(row["dropped"] for row in rows)}
    return {"calibration": checks, "rows": rows}


def save(result: dict[str, Any], path: Path) -> None:
    """Write everything as JSON, and the tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))


def figure(row: dict[str, Any]) -> str:
    """A row in short."""
    launched = row["launches"]
    ratios = f"own/fastgan {row['ratio']:.2f} (median {row['ratio, median']:.2f})"
    return f"{row['trainer']}: {ratios}, launches {launched['own']} to {launched['fused']}"


def table(rows: list[dict[str, Any]]) -> str:
    """Minima, ratios, launches and the aim."""
    head = ["trainer", "what", "own us", "fastgan us", "own/fastgan", "(median)", "launches, own", "fastgan", "aim"]
    lines = []
    for row in rows:
        times = [report.microseconds(row, name) for name in ("eager", "fused")]
        ratios = [f"{row['ratio']:.2f}", f"{row['ratio, median']:.2f}"]
        counts = [str(row["launches"][c]) for c in ("own", "fused")]
        aim = AIM.get(row["trainer"], 2.0)
        lines.append([row["trainer"] + " *" * row["marked"], row["what"], *times, *ratios, *counts, f"{aim:g}"])
    return report.table(head, lines)


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    checks = result["calibration"]
    text = [f"# Loss parts of trainers' steps on {result['device']}", report.machine_line(result["machine"])]
    text.append(
        "All losses of a step of discriminator and generator, forward and backward to the gradients of logits and "
        "feature maps; float32. own: the trainer's own functions in eager PyTorch; minima over rounds in which the "
        "two take turns; (median) is the median of the rounds' ratios. Launches: see bench/trainers.py. "
        f"Rounds dropped as disturbed: {checks['dropped']} of {checks['rounds']}."
    )
    text += [f"**{warning}**" for warning in report.warnings(result)]
    if any(row["marked"] for row in result["rows"]):
        text.append(f"\\* fewer than {report.FEWEST} undisturbed rounds; all were used.")
    return "\n\n".join([*text, table(result["rows"])]) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of the ratios, where matplotlib is installed."""
    if find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = result["rows"][::-1]
    figure, axes = plt.subplots(figsize=(11, 0.34 * len(rows) + 1.8), layout="constrained")
    bars = axes.barh(range(len(rows)), [row["ratio"] for row in rows], color="#1b5fa8")
    notes = [f"{row['ratio']:.1f}   {row['launches']['own']} to {row['launches']['fused']}" for row in rows]
    axes.bar_label(bars, notes, fontsize=8, padding=3)
    axes.set_yticks(range(len(rows)), [f"{row['trainer']}: {row['what']}" for row in rows], fontsize=8)
    axes.axvline(1, color="#333333", lw=1)
    axes.set_xlim(0, 1.25 * max(row["ratio"] for row in rows))
    axes.set_xlabel("time of the trainer's own over fastgan's (higher is better), then launches", fontsize=9)
    below = [report.machine_line(result["machine"]), *report.warnings(result)]
    figure.suptitle("Loss part of a training step, forward and backward", fontsize=12)
    axes.set_title("\n".join(fill(line, 90) for line in below), fontsize=8, color="#555555")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).with_name("results")
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: bench/results)")
    parser.add_argument("--quick", action="store_true", help="few rounds of small batches; says nothing of speed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="TRAINER", help="these trainers")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measures, and writes the JSON, the table and the plot."""
    options = arguments(given)
    torch.set_num_threads(cases.THREADS)
    calibrate, facts = report.calibration(), report.machine()
    chosen = [c for c in CASES if not options.only or c.trainer in options.only]
    if find_spec("numpy") is None:  # from which WGAN-GP's recipe draws
        chosen = [c for c in chosen if c.trainer != "wgan_gp"]
    name = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    result = {"machine": facts, "device": name, "quick": options.quick}
    path = options.out / f"trainers-{options.device}-{facts['date']}"
    rows: list[dict[str, Any]] = []
    for case in report.progress(chosen):
        rows.append(measure_case(case, options.device, options.quick, calibrate))
        found = result | summarized(rows)
        save(found, path)  # whatever stops this program, what is there is not lost
        report.tell(figure(found["rows"][-1]))
    plot(found, path.with_suffix(".png"))
    print(markdown(found))
    print(f"wrote {path}.json, .md and .png")


if __name__ == "__main__":
    main()
