"""The figures of the README, docs/benchmarks.md and docs/drop-ins/index.md, written there from the newest results.

`python -m bench page` writes them, and so does a suite that has measured all its cases. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import report
from bench.suites.steps import by_case, loss_share

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "drop-ins" / "index.md")
Row = dict[str, Any]

TRAINERS = {
    "hifigan": "HiFi-GAN V1",
    "vits": "VITS-like, MPD and one scale",
    "dac": "DAC-like, MPD and three spectrograms",
    "vqgan": "VQGAN-like, PatchGAN, VGG16, adaptive weight",
    "r3gan": "R3GAN-like, which freezes by itself",
}
LOSSES = {
    "nonsaturating D": "non-saturating, discriminator",
    "nonsaturating G": "non-saturating, generator",
    "hinge D": "hinge, discriminator",
    "least squares D": "least squares, discriminator",
    "relativistic paired D": "relativistic paired, discriminator",
    "relativistic average D": "relativistic average, discriminator",
    "wasserstein D": "Wasserstein, discriminator (means)",
    "hinge G": "hinge, generator (a mean)",
}
BRIEF = ("nonsaturating D", "hinge D", "least squares D", "relativistic average D", "hinge G")
SIZES = {64: "64", 4096: "4,096", 61504: "61,504", 1 << 20: "1M", 1 << 24: "16M"}


def newest(suite: str) -> tuple[str, Row]:
    """The name and the content of a suite's newest result on a CPU that is not a quick run."""
    found = sorted(RESULTS.glob(f"{suite}-cpu-20*.json"), reverse=True)
    for path in found:
        result = json.loads(path.read_text())
        if not result["quick"]:
            return path.stem, result
    raise FileNotFoundError(f"{RESULTS} has no result of {suite}; python -m bench {suite}")


def linked(name: str, text: str = "table", up: str = "../") -> str:
    """A link to a result's tables, from a page from which `up` leads to the root."""
    return f"[{text}]({up}bench/results/{name}.md)"


def origin(suite: str, up: str = "../") -> str:
    """Where and when a suite ran, by which command, and how many rounds were disturbed; `up` leads to the root."""
    name, result = newest(suite)
    checks = result["calibration"]
    dropped = f"{checks['dropped']} of {checks['rounds']}"
    return (
        f"{report.machine_line(result['machine'])}. Command: `python -m bench {suite}`. "
        f"Rounds dropped as disturbed: {dropped}. All figures: {linked(name, up=up)}."
    )


# --- whole steps ------------------------------------------------------------------------------------------


def trainers() -> dict[str, dict[str, Row]]:
    """The rows of whole steps: by trainer, then by part."""
    return {rows["whole"]["case"]: rows for rows in by_case(newest("steps")[1])}


def milliseconds(row: Row, way: str) -> str:
    """A contender's median."""
    return report.digits(row["median"][way] * 1e3)


def before_after(row: Row) -> str:
    """The trainer's own time and fastgan's."""
    return f"{milliseconds(row, 'own')} to {milliseconds(row, 'fastgan')}"


def faster(row: Row) -> str:
    """The median of the rounds' ratios."""
    return f"{row['ratio, median']['fastgan']:.2f}"


def share(rows: dict[str, Row]) -> str:
    """The losses' part of the trainer's own step."""
    percent = 100 * loss_share(rows["losses"], rows["whole"])
    return f"{percent:.1f}%" if percent >= 0.1 else "< 0.1%"


def step_table() -> str:
    """Whole steps, before and after."""
    head = ["trainer", "step, ms", "times as fast", "generator's step, times as fast", "its peak memory, MiB"]
    head.append("losses' share")
    lines = []
    for case, rows in trainers().items():
        memory = rows["whole"]["MiB"]
        peaks = " to ".join(report.digits(memory[way]["generator"]) for way in ("own", "fastgan"))
        whole, generator = rows["whole"], rows["generator"]
        name = report.marked(whole, TRAINERS[case])
        lines.append([name, before_after(whole), faster(whole), faster(generator), peaks, share(rows)])
    return report.table(head, lines)


def part_table() -> str:
    """The losses alone, beside the step that they are a part of."""
    head = ["trainer", "losses, ms", "times as fast", "share of the step", "the step with nothing else changed"]
    lines = []
    for case, rows in trainers().items():
        losses, ratio = rows["losses"], rows["whole"]["ratio, median"]["losses only"]
        lines.append([TRAINERS[case], before_after(losses), faster(losses), share(rows), f"{ratio:.2f}"])
    return report.table(head, lines)


# --- losses by themselves ---------------------------------------------------------------------------------


def loss_table(cases: tuple[str, ...]) -> str:
    """Eager PyTorch's time over fastgan's, by the number of logits."""
    rows = {(r["case"], r["n"]): r for r in newest("losses")[1]["rows"] if r["mode"] == "forward+backward"}
    head = ["eager PyTorch's time over fastgan's; logits in each tensor", *SIZES.values()]
    lines = [[LOSSES[case], *(f"{rows[case, n]['ratio']['fused']:.1f}" for n in SIZES)] for case in cases]
    return report.table(head, lines)


def trainer_table() -> str:
    """All losses of a step at trainers' real shapes: the trainer's own time over that of its adapter."""
    head = ["adapter", "shapes", "times as fast", "launches"]
    lines = []
    for row in newest("trainers")[1]["rows"]:
        launches = f"{row['launches']['own']} to {row['launches']['fused']}"
        lines.append([f"`{row['trainer']}`", row["what"], f"{row['ratio, median']['fused']:.1f}", launches])
    return report.table(head, lines)


def results_table() -> str:
    """The newest result of each suite."""
    head = ["command", "machine", "date", "rounds dropped", "figures"]
    lines = []
    for suite in ("steps", "losses", "loss-calls", "penalties", "penalty-steps", "trainers", "attention"):
        name, result = newest(suite)
        facts, checks = result["machine"], result["calibration"]
        where = f"{facts['cpu']}, {facts['cores']} cores, {facts['instruction set']}"
        dropped = f"{checks['dropped']} of {checks['rounds']}"
        command = {"loss-calls": "losses --sizes 16 64 1024 4096 61504"}.get(suite, suite)
        lines.append([f"`python -m bench {command}`", where, facts["date"], dropped, linked(name)])
    return report.table(head, lines)


# --- the pages --------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable[[], str]] = {
    "steps": step_table,
    "steps' origin": lambda: origin("steps"),
    "steps' plot": lambda: f"![Steps, by the trainer's own time](../bench/results/{newest('steps')[0]}.png)",
    "losses of steps": part_table,
    "losses": lambda: loss_table(tuple(LOSSES)),
    "losses in brief": lambda: loss_table(BRIEF),
    "losses' origin": lambda: origin("losses"),
    "trainers": trainer_table,
    "trainers' origin": lambda: origin("trainers", "../../"),
    "results": results_table,
}


def filled(text: str) -> str:
    """A page with its figures made anew, each between `<!-- figures: NAME -->` and `<!-- end -->`."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{FIGURES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- figures: ([^>]*) -->)\n.*?(<!-- end -->)", made, text, flags=re.S)


def write() -> None:
    """Write the figures of all pages."""
    for path in PAGES:
        path.write_text(filled(path.read_text()))


def main(given: list[str]) -> None:
    """`python -m bench page`."""
    argparse.ArgumentParser(prog="python -m bench page", description=__doc__).parse_args(given)
    write()
    print("wrote the figures of", ", ".join(str(path.relative_to(ROOT)) for path in PAGES))
