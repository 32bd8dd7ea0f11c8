"""The picture that examples of memory and time end in: a group of bars for each quantity."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(quantities: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """Draw for each quantity, by its label, the value of each contender."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(quantities), figsize=(4.2 * len(quantities), 3.6), layout="constrained")
    for axis, (label, values) in zip([axes] if len(quantities) == 1 else axes, quantities.items(), strict=True):
        bars = axis.bar(list(values), list(values.values()), 0.5, color=["#1b5fa8", "#c4561a", "#7fb2e0"])
        axis.bar_label(bars, [f"{value:,.4g}" for value in values.values()], padding=2)
        axis.set(ylabel=label, ylim=(0, 1.15 * max(values.values())))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"wrote {path}")
