"""What the harness writes: the report's frame, tables, and plots where matplotlib is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def machine_line(facts: Row) -> str:
    """`harness.machine()` on one line."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, instruction set {facts['instruction set']}, "
        f"fastgan {facts['fastgan']}, torch {facts['torch']}, {facts['threads']} threads, {facts['date']}"
    )


def warnings(result: Row) -> list[str]:
    """Why the numbers are not to be quoted."""
    checks, found = result["calibration"], []
    if result["quick"]:
        found.append("A quick run: it shows that everything works, and says nothing of speed.")
    if checks["dropped"] > 0.25 * checks["rounds"]:
        found.append(f"A disturbed machine: {checks['dropped']} of {checks['rounds']} rounds dropped.")
    return found


# --- tables -----------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right, padded to be read as is."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def marked(row: Row, name: str) -> str:
    """A row's first cell, with a star where too few rounds were undisturbed."""
    return name + " *" * row["marked"]


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def microseconds(row: Row, contender: str, key: str = "minimum") -> str:
    """A contender's minimum, or its median; empty where it was not timed."""
    return digits(row[key][contender] * 1e6) if contender in row[key] else ""


def ratio(row: Row, contender: str, key: str = "ratio") -> str:
    """How many times as fast as the base a contender is; empty where it was not timed."""
    return f"{row[key][contender]:.2f}" if contender in row[key] else ""


def share(row: Row, contender: str, key: str = "ratio") -> str:
    """A contender's time over the base's; empty where it was not timed."""
    return f"{1 / row[key][contender]:.2f}" if contender in row[key] else ""


def markdown(suite: Any, result: Row) -> str:
    """The whole report."""
    checks = result["calibration"]
    text = [f"# {suite.title.format(device=result['device'])}", machine_line(result["machine"])]
    text.append(
        f"{suite.note} float32. Times are minima over rounds in which the contenders take turns; (median) is the "
        f"median of the rounds' ratios. Rounds dropped as disturbed: {checks['dropped']} of {checks['rounds']}."
    )
    text += [f"**{warning}**" for warning in warnings(result)]
    if any(row["marked"] for row in result["rows"]):
        text.append("\\* fewer than 3 undisturbed rounds; all were used.")
    if suite.compiles and result["no compile"]:
        text.append(f"Without compiled: {result['no compile']}.")
    text += [f"**Wrong, and not timed: {what}.**" for what in result["wrong"]]
    if result["left"]:
        text.append(f"No time was left for {', '.join(result['left'])}.")
    return "\n\n".join([*text, *suite.sections(result)]) + "\n"


# --- plots ------------------------------------------------------------------------------------------------


def plot(suite: Any, result: Row, path: Path) -> None:
    """Draw the suite's plot, where matplotlib is installed."""
    if find_spec("matplotlib") is None or not result["rows"]:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    below = " ".join([machine_line(result["machine"]) + ".", *warnings(result)])
    figure = suite.draw(plt, result, below)
    if figure is not None:
        figure.savefig(path, dpi=120)
        plt.close(figure)


def bare(axes: Any) -> None:
    """Without a frame above and on the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
