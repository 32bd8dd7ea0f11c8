"""What gpu.py writes: tables beside the aims, and plots where matplotlib is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.report import table

Row = dict[str, Any]
TITLES = {
    "step": "A step with synchronisation after it",
    "gpu": "Time on the device",
    "host": "Time to enqueue",
    "graph": "In a CUDA graph",
}
COLOURS = {"eager": "#333333", "compiled": "#c4561a", "cuda": "#1b5fa8", "triton": "#6b9e78", "copy": "#c3c7cc"}
LABELS = {"compiled": "torch.compile", "copy": "copy of as many bytes"}
MUCH = 1 << 28  # bytes from which the copy rate is the aim


def seconds(row: Row, arm: str, measure: str, statistic: str = "median") -> float | None:
    """A number of a row, or None where there is none."""
    found = row.get("arms", {}).get(arm, {}).get(measure)
    return found[statistic] if found else None


def ratio(row: Row, over: str, arm: str, measure: str) -> float | None:
    """How many times longer `over` takes than `arm`."""
    a, b = seconds(row, over, measure), seconds(row, arm, measure)
    return a / b if a and b else None


def label(row: Row) -> str:
    """A row in a few words."""
    where = "x".join(map(str, row["shape"])) if "shape" in row else row.get("n", "")
    return " ".join(str(w) for w in (row["case"], where, row.get("dtype", "")) if w != "")


def digits(value: float | None, factor: float = 1.0) -> str:
    """Three digits that count, or nothing."""
    if value is None:
        return ""
    value *= factor
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def figure(facts: Row) -> str:
    """A row as one short line: medians in microseconds, on the device, in a graph and for the host."""
    if "refused" in facts:
        return f"{label(facts)}: NOT MEASURED: {facts['refused'][:80]}"
    parts = []
    for measure in ("gpu", "graph", "host", "step"):
        found = [(name, seconds(facts, name, measure)) for name in facts["arms"]]
        if (measure != "step" or not parts) and any(value for _, value in found):
            parts.append(measure + " " + " ".join(f"{name} {digits(v, 1e6)}" for name, v in found if v))
    return f"{label(facts)}: {' | '.join(parts)}" + "".join(
        f"; NOT {n}: {why[:120]}" for n, why in facts.get("left out", {}).items()
    )


def save(result: Row, out: Path) -> Path:
    """Write what there is so far, as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"gpu-{result['machine']['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


# --- aims -----------------------------------------------------------------------------------------------


def measured(rows: list[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part and "arms" in row]


def worst(found: list[tuple[float | None, str]]) -> str:
    """The least of some ratios, with its row, and the greatest."""
    known = [(value, name) for value, name in found if value is not None]
    if not known:
        return "not measured"
    return f"{min(known)[0]:.2f} ({min(known)[1]}) to {max(known)[0]:.2f}"


def verdict(found: list[tuple[float | None, str]], least: float) -> str:
    known = [value for value, _ in found if value is not None]
    return "" if not known else "yes" if min(known) >= least else "NO"


def aims(result: Row, arm: str) -> list[list[str]]:
    """Aim, what was measured, and whether it was reached, for one of fastgan's backends."""
    rows = result["rows"]
    losses, penalties = measured(rows, "losses"), measured(rows, "penalties")
    counted = [(n, row) for row in losses if (n := row["arms"].get(arm, {}).get("launches"))]
    ours = ", ".join(f"{row['case']} {n}" for n, row in counted if row["dtype"] == "float32")
    theirs = sorted(n for _, row in counted if (n := row["arms"].get("eager", {}).get("launches")))
    launches = f"{ours}; eager {theirs[0]} to {theirs[-1]}" if theirs else ours or "not measured"
    reached = "" if not counted else "yes" if max(n for n, _ in counted) <= 2 else "NO"
    lines = [["2 launches a loss step (eager: 11 or more)", launches, reached]]
    below = [(ratio(row, "eager", arm, "step"), label(row)) for row in losses if row["n"] < 1 << 20]
    lines.append(["3x eager end to end below 1M logits", worst(below), verdict(below, 3)])
    for measure, title in (("step", "end to end"), ("gpu", "on the device"), ("graph", "in a CUDA graph")):
        behind = [(ratio(row, "compiled", arm, measure), label(row)) for row in losses + penalties]
        lines.append([f"never behind torch.compile, {title}", worst(behind), verdict(behind, 1)])
    for part, title in ((losses, "losses"), (penalties, "penalties")):
        rate = [(ratio(row, "copy", arm, "gpu"), label(row)) for row in part if row["bytes"] >= MUCH]
        lines.append([f"90% of the copy rate from 256 MB moved, {title}", worst(rate), verdict(rate, 0.9)])
    for measure, title in (("gpu", "on the device"), ("step", "end to end")):
        both = [(ratio(row, "eager", arm, measure), label(row)) for row in penalties if row["case"] == "both"]
        lines.append([f"interpolation and penalty 4x eager, {title}", worst(both), verdict(both, 4)])
    return lines


# --- tables ---------------------------------------------------------------------------------------------


def arm_names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["arms"]))


def time_table(rows: list[Row], measure: str, fused: list[str]) -> str:
    """Medians, minima in brackets, in microseconds; and ratios of medians."""
    names = [n for n in arm_names(rows) if any(seconds(row, n, measure) for row in rows)]
    pairs = [(a, b) for b in fused for a in ("eager", "compiled") if a in names and b in names]
    head = ["case", *(f"{n} us" for n in names), *(f"{a}/{b}" for a, b in pairs)]
    lines = []
    for row in rows:
        cells = [label(row)]
        for name in names:
            mark = "*" if measure == "gpu" and row["arms"].get(name, {}).get("starved") else ""
            middle, least = (digits(seconds(row, name, measure, s), 1e6) for s in ("median", "minimum"))
            cells.append(f"{middle} ({least}){mark}" if middle else "")
        cells += [digits(ratio(row, a, b, measure)) for a, b in pairs]
        lines.append(cells)
    return table(head, lines)


def rate_table(rows: list[Row]) -> str:
    """GB/s on the device, and the share of the copy's rate."""
    names = [n for n in arm_names(rows) if any(seconds(row, n, "gpu") for row in rows)]
    head = ["case", "MB moved", *(f"{n} GB/s" for n in names), *(f"{n} of copy" for n in names if n != "copy")]
    lines = []
    for row in rows:
        times = [seconds(row, n, "gpu") for n in names]
        shares = [ratio(row, "copy", n, "gpu") for n in names if n != "copy"]
        cells = [digits(row["bytes"] / t * 1e-9) if t else "" for t in times]
        lines.append([label(row), digits(row["bytes"] / 2**20), *cells, *(f"{s:.0%}" if s else "" for s in shares)])
    return table(head, lines)


def count_table(rows: list[Row]) -> str:
    """Launches of a step, and peak memory."""
    names = [n for n in arm_names(rows) if n != "copy"]
    head = ["case", *(f"{n} launches" for n in names), *(f"{n} MiB" for n in names)]
    lines = []
    for row in rows:
        arms = [row["arms"].get(n, {}) for n in names]
        lines.append([label(row), *(str(a.get("launches") or "") for a in arms)])
        lines[-1] += [digits(a.get("peak MiB")) for a in arms]
    return table(head, lines)


def choice_table(rows: list[Row]) -> str:
    """How many times longer triton takes than cuda, for `auto` to choose by."""
    measures = ("gpu", "graph", "host", "step")
    head = ["case", *(f"triton/cuda, {m}" for m in measures)]
    lines = [[label(row), *(digits(ratio(row, "triton", "cuda", m)) for m in measures)] for row in rows]
    return table(head, [line for line in lines if any(line[1:])])


NOTES = (
    "Times are medians over rounds in which the contenders take turns, minima in brackets; a loss or penalty is "
    "forward and backward. eager is the formula as it is written in PyTorch, compiled the same under torch.compile "
    "(static shapes), copy a copy that moves as many bytes as the operation must (a penalty reads its gradient "
    "twice). Logits are counted in each tensor. Before a case is timed, its loss and gradients are "
    "within four roundings (gradients through an average twice that) of fastgan's reference in "
    "float64. Launches are kernels, fills and copies of a step whose upstream is there already (autograd's own "
    "fill is one more for all)."
)


def failures(result: Row) -> list[Row]:
    """Rows in which something was wrong or broke; not those that time or memory did not suffice for."""
    excused = ("out of time", "out of memory")
    return [row for row in result["rows"] if row.get("refused", excused[0]) not in excused or row.get("left out")]


def warnings(result: Row) -> list[str]:
    """Why numbers are not to be quoted, or are missing."""
    found = []
    if result["quick"]:
        found.append("A quick run: it shows that everything works, and says nothing of speed.")
    found += result["missing"]
    missed: dict[str, list[str]] = {}
    for row in result["rows"]:
        if "refused" in row:
            missed.setdefault(row["refused"], []).append(label(row))
        for name, why in row.get("left out", {}).items():
            missed.setdefault(why, []).append(f"{label(row)}, {name}")
    found += [f"Not measured: {'; '.join(labels)}: {why}" for why, labels in missed.items()]
    starved = [f"{label(r)}, {n}" for r in result["rows"] for n, a in r.get("arms", {}).items() if a["starved"]]
    if starved:
        found.append(f"Marked *: the device may have waited for the host in some round: {'; '.join(starved)}")
    graphs = {
        f"{n}: {a['no graph']}" for r in result["rows"] for n, a in r.get("arms", {}).items() if a["no graph"]
    }
    return found + [f"No CUDA graph of {why}" for why in sorted(graphs)]


def markdown(result: Row) -> str:
    """The whole report."""
    rows, fused = result["rows"], result["backends"]
    text = ["# fastgan on a GPU", ", ".join(f"{k} {v}" for k, v in result["machine"].items()), NOTES]
    text += [f"- **{warning}**" for warning in warnings(result)]
    for name in fused:
        text += [
            f"## aims, {name}",
            table(["aim", "measured (ratios: least to greatest)", "reached"], aims(result, name)),
        ]
    for part in ("losses", "penalties", "training"):
        found = measured(rows, part)
        if not found:
            continue
        for measure, title in TITLES.items():
            if any(seconds(row, name, measure) for row in found for name in row["arms"]):
                text += [f"## {part}: {title}", time_table(found, measure, fused)]
        if part != "training" and len(fused) > 1:
            text += [f"## {part}: triton against cuda (more than 1: cuda is faster)", choice_table(found)]
        if part != "training":
            text += [f"## {part}: Bytes a second on the device", rate_table(found)]
        counted = [
            row for row in found if any(a.get("launches") or a.get("peak MiB") for a in row["arms"].values())
        ]
        if counted:
            text += [f"## {part}: Launches and peak memory of a step", count_table(counted)]
    return "\n\n".join(text) + "\n"


# --- plots ----------------------------------------------------------------------------------------------


def tidy(axes: Any) -> None:
    axes.grid(color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def curves(axes: Any, rows: list[Row], across: str, value: Any) -> None:
    """A line for each contender."""
    for name in arm_names(rows):
        points = sorted((row[across], value(row, name)) for row in rows if value(row, name))
        if points:
            style = {"color": COLOURS.get(name, "#8a4fa3"), "label": LABELS.get(name, name)}
            axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=2.5 if name == "copy" else 1.6, **style)
    axes.set_xscale("log", base=2 if across == "n" else 10)
    tidy(axes)


def plot_losses(result: Row, plt: Any) -> Any:
    """A column for each case, float32: a step, and the device's part of it."""
    rows = [row for row in measured(result["rows"], "losses") if row["dtype"] == "float32"]
    cases = [c for c in dict.fromkeys(r["case"] for r in rows) if len({r["n"] for r in rows if r["case"] == c}) > 1]
    if not cases:
        return None
    figure, panels = plt.subplots(
        2, len(cases), figsize=(4 * len(cases), 6.6), sharex=True, sharey="row", squeeze=False
    )
    for k, case in enumerate(cases):
        chosen = [row for row in rows if row["case"] == case]
        for axes, measure in zip(panels[:, k], ("step", "gpu"), strict=True):
            curves(axes, chosen, "n", lambda row, name, m=measure: (seconds(row, name, m) or 0) * 1e6)
            axes.set_yscale("log")
        panels[0, k].set_title(case, fontsize=10.5)
        panels[1, k].set_xlabel("logits in each tensor")
    for axes, measure in zip(panels[:, 0], ("step", "gpu"), strict=True):
        axes.set_ylabel(f"{TITLES[measure]}, us", fontsize=9)
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle("Losses, forward and backward, float32 (lower is faster)")
    return figure


def plot_penalties(result: Row, plt: Any) -> Any:
    """GB/s for each case, float32, samples of one shape."""
    rows = [row for row in measured(result["rows"], "penalties") if row["dtype"] == "float32"]
    if not rows:
        return None
    rows = [row for row in rows if row["shape"][1:] == rows[0]["shape"][1:]]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, panels = plt.subplots(1, len(cases), figsize=(4.4 * len(cases), 4), sharey=True, squeeze=False)
    for axes, case in zip(panels.flat, cases, strict=True):
        chosen = [row for row in rows if row["case"] == case]
        curves(
            axes,
            chosen,
            "gradient MB",
            lambda row, n: row["bytes"] / t * 1e-9 if (t := seconds(row, n, "gpu")) else 0,
        )
        axes.set_title(case, fontsize=10.5)
        axes.set_xlabel("MB of gradient")
    panels.flat[0].set_ylabel("GB/s on the device")
    panels.flat[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Penalties given the gradient, float32 (higher is faster)")
    return figure


def plots(result: Row, path: Path) -> list[Path]:
    """The plots that were written; none where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    for name, draw in (("losses", plot_losses), ("penalties", plot_penalties)):
        figure = draw(result, plt)
        if figure is not None:
            facts = result["machine"]
            below = f"{facts.get('gpu', facts['device'])}, torch {facts['torch']}, {facts['date']}"
            below += ". A quick run: says nothing of speed." if result["quick"] else ""
            figure.text(0.5, 0.005, below, ha="center", fontsize=7.5, color="#555555")
            figure.tight_layout(rect=(0, 0.02, 1, 1))
            written.append(path.with_name(f"{path.name}-{name}.png"))
            figure.savefig(written[-1], dpi=120)
            plt.close(figure)
    return written


def write(result: Row, out: Path) -> str:
    """Writes everything; what a terminal is to show."""
    path = save(result, out).with_suffix("")
    path.with_suffix(".md").write_text(markdown(result))
    shown = [f"- {warning}" for warning in warnings(result)]
    for name in result["backends"]:
        shown += [f"\naims, {name}:", table(["aim", "measured", "reached"], aims(result, name))]
    written = [p.name for p in plots(result, path)]
    return "\n".join([*shown, f"\nwrote {path}.json, .md {' '.join(written)} after {result['took']:.0f} s"])
