"""The measurement of record of penalties: `python bench/penalties.py` writes penalties-cpu-<date>.json, .md, .png.

Done as `report.py` does it: one process, contenders in turn, ratios within the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import Any

import cases
import penalty_cases
import report
import torch
from penalty_cases import CONTENDERS, SHAPES

TITLES = {
    "interpolation": "interpolation",
    "penalty": "penalty, given the gradient",
    "both": "interpolation and penalty",
    "whole": "whole penalty of a small discriminator",
}


def row_of(
    case: str, shape: tuple[int, ...], works: dict[str, Any], rounds: int, steps: int, calibrate: Any
) -> Any:
    """One line of the table."""
    row = report.measure(works, rounds, steps, calibrate)
    return {"case": case, "n": "x".join(map(str, shape)), "mode": "", **row}


def measure_all(quick: bool, compile_too: bool) -> tuple[list[Any], list[float]]:
    """A row for each case and shape."""
    calibrate, rows = report.calibration(), []
    for shape in ((4, 3, 16, 16),) if quick else SHAPES:
        penalty_cases.check(shape)
        d = penalty_cases.data(shape)
        large = d.g.numel() > 1 << 20
        for case, contenders in CONTENDERS.items():
            names = [c for c in contenders if compile_too or c != "compiled"]
            works = {name: penalty_cases.work(name, case, d) for name in names}
            rounds, steps = (3, 2) if quick else (60, 4) if large else (120, 10)
            rows.append(row_of(case, shape, works, rounds, steps, calibrate))
        works = {name: penalty_cases.whole(name, d) for name in ("fused", "pruned", "eager")}
        rows.append(row_of("whole", shape, works, 2 if quick else 12, 1, calibrate))
    calibrations = [c for row in rows for c in row["calibration"]]
    for row in rows:
        row["seconds"].setdefault("copy", row["seconds"]["fused"])
        report.summarize(row, min(calibrations))
    return rows, calibrations


def table(rows: list[Any]) -> str:
    """Minima in microseconds, and ratios."""
    names = ("fused", "pruned", "eager", "lerp", "compiled", "copy")
    head = ["case", "shape", *(f"{n} us" for n in names)]
    head += ["eager/fused", "(median)", "eager/pruned", "compiled/fused", "fused/copy"]
    lines = []
    for row in rows:
        whole = row["case"] == "whole"
        minimum, over = row["minimum"], row["over eager"]
        cells = [TITLES[row["case"]] + " *" * row["marked"], row["n"]]
        cells += ["" if whole and n == "copy" else report.microseconds(row, n) for n in names]
        cells += [f"{1 / over['fused']:.2f}", f"{1 / row['over eager, median']['fused']:.2f}"]
        cells += [f"{1 / over['pruned']:.2f}" if "pruned" in over else ""]
        cells += [f"{minimum['compiled'] / minimum['fused']:.2f}" if "compiled" in minimum else ""]
        cells += ["" if whole else f"{row['fused over copy']:.2f}"]
        lines.append(cells)
    return report.table(head, lines)


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    text = ["# Penalties on the CPU", report.machine_line(result["machine"])]
    checks = result["calibration"]
    text.append(
        "Times are minima over rounds in which the contenders take turns; float32. eager is the usual recipe, "
        "compiled the same under torch.compile, pruned fastgan's with prune=True, "
        "copy a copy of as many bytes as must be read and written. "
        "(median) is the median of the rounds' ratios. Penalties are forward and backward. "
        f"Rounds dropped as disturbed: {checks['dropped']} of {checks['rounds']}."
    )
    text += [f"**{warning}**" for warning in report.warnings(result)]
    if any(row["marked"] for row in result["rows"]):
        text.append(f"\\* fewer than {report.FEWEST} undisturbed rounds; all were used.")
    return "\n\n".join([*text, table(result["rows"])]) + "\n"


COLOURS = {"fused": "#1b5fa8", "pruned": "#7fb2e0", "lerp": "#6b9e78", "compiled": "#c4561a", "copy": "#c3c7cc"}
LABELS = {
    "fused": "fastgan",
    "pruned": "fastgan, prune=True",
    "lerp": "torch.lerp",
    "compiled": "torch.compile",
    "copy": "copy of as many bytes",
}


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of time over the recipe's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys(row["n"] for row in result["rows"]))
    figure, panels = plt.subplots(1, len(shapes), figsize=(6.5 * len(shapes), 4.6), sharey=True, squeeze=False)
    for shape, axes in zip(shapes, panels.flat, strict=True):
        rows = [row for row in result["rows"] if row["n"] == shape]
        for k, row in enumerate(rows):
            names = [n for n in COLOURS if n in row["over eager"] and not (row["case"] == "whole" and n == "copy")]
            for j, name in enumerate(names):
                x = k + 0.2 * (j - (len(names) - 1) / 2)
                label = LABELS[name] if name not in axes.get_legend_handles_labels()[1] else None
                bar = axes.bar(x, row["over eager"][name], 0.19, color=COLOURS[name], label=label)
                axes.bar_label(bar, fmt="%.2f", fontsize=8, padding=1)
        axes.axhline(1, color="#333333", lw=1)
        axes.set_xticks(range(len(rows)), [fill(TITLES[row["case"]], 16) for row in rows], fontsize=8)
        axes.set_title(shape.replace("x", " x "), fontsize=11)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    first = dict(reversed(list(zip(labels, handles, strict=True))))
    names = [LABELS[n] for n in COLOURS if LABELS[n] in first]
    panels.flat[-1].legend([first[n] for n in names], names, frameon=False, fontsize=9, loc="upper left", ncols=2)
    panels.flat[0].set_ylabel("time / time of the usual recipe")
    panels.flat[0].set_ylim(0, 1.35)  # room for the legend
    figure.suptitle("Gradient penalties, forward and backward (lower is faster)", fontsize=13)
    below = " ".join([report.machine_line(result["machine"]) + ".", *report.warnings(result)])
    figure.text(0.5, 0.915, below, ha="center", fontsize=7.5, color="#555555")
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(given: list[str] | None = None) -> None:
    """Measures, and writes the JSON, the table and the plot."""
    options = report.arguments(given)
    start = perf_counter()
    torch.set_num_threads(cases.THREADS)
    wanted = not options.quick if options.compile is None else options.compile
    why = cases.no_compile() if wanted else "not asked for"
    facts = report.machine()
    rows, calibrations = measure_all(options.quick, not why)
    checks = {"rounds": len(calibrations), "dropped": sum(row["dropped"] for row in rows)}
    result = {"machine": facts, "calibration": checks, "rows": rows, "quick": options.quick, "no compile": why}
    result["took"] = round(perf_counter() - start, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"penalties-cpu-{facts['date']}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    plot(result, path.with_suffix(".png"))
    print(markdown(result))
    print(f"wrote {path}.json, .md and .png after {result['took']:.0f} s")


if __name__ == "__main__":
    main()
