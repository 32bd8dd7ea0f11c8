"""Common code of the examples of a changed import: train twice from one seed, and compare the curves.

"Before" is a run with the trainer's own losses, in plain PyTorch; "after" is the same code with fastgan's. The
networks have SiLU where the trainers have LeakyReLU. At a kink, a difference in the last bit of a number becomes
another gradient, and the curves would diverge by percents for reasons unrelated to the losses.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from options import positive
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate, pad
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for bench.baselines, the trainers' own losses
Curves = list[dict[str, float]]
RUNS = {"before": "trainer's own", "after": "fastgan's"}


def arguments(name: str, description: str) -> argparse.Namespace:
    """Read the command line, and set threads and the default dtype accordingly."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=positive, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=1, help="the networks gain little from more")
    parser.add_argument("--double", action="store_true", help="train in float64")
    parser.add_argument("--out", type=Path, default=Path("demo") / name, help="folder for what is written")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def seed(number: int) -> None:
    """Seed everything that an example draws from."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def run_both(
    train: Callable[[ModuleType, Any], tuple[Any, Curves]],
    before: ModuleType,
    after: ModuleType,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Curves]]:
    """Call train(losses, steps) with each of the two modules of losses, both times from the same seed.

    Returns:
        The results of the trainings, and their curves; both by the run, "before" and "after".
    """
    made, curves = {}, {}
    for run, losses in (("before", before), ("after", after)):
        seed(args.seed)
        steps = tqdm(range(args.steps), desc=f"{run} ({RUNS[run]} losses)", unit="step", mininterval=0.5)
        made[run], curves[run] = train(losses, steps)
    return made, curves


def conclude(curves: dict[str, Curves], title: str, args: argparse.Namespace, *written: Path) -> None:
    """Draw the curves of both runs, and print which files were written and how far apart the curves are."""
    path = args.out / "curves.png"
    draw_curves(curves, title, path)
    print("wrote", ", ".join(str(file) for file in (*written, path)))
    apart = {name: np.abs(values["before"] - values["after"]) for name, values in by_loss(curves).items()}
    largest = max(difference.max() for difference in apart.values())
    relative = max(difference.max() / size(curves, name) for name, difference in apart.items())
    equal = all(not difference.any() for difference in apart.values())
    found = "0 (bitwise equal)" if equal else f"{largest:.1e} (relative {relative:.1e})"
    print(f"largest difference over {args.steps} steps: {found}")


def by_loss(curves: dict[str, Curves]) -> dict[str, dict[str, np.ndarray]]:
    """Return the curves by the name of the loss, and then by the run."""
    names = next(iter(curves.values()))[0]
    return {
        name: {run: np.array([step[name] for step in steps]) for run, steps in curves.items()} for name in names
    }


def size(curves: dict[str, Curves], name: str) -> float:
    """Return a loss's mean size over the first run: Wasserstein losses cross 0, where a ratio means nothing."""
    return float(np.mean([abs(step[name]) for step in next(iter(curves.values()))]))


def draw_curves(curves: dict[str, Curves], title: str, path: Path) -> None:
    """Plot each loss of both runs, one over the other, and below it how far apart they are."""
    losses = by_loss(curves)
    figure, axes = plt.subplots(
        2, len(losses), figsize=(5.2 * len(losses), 6), sharex=True, squeeze=False, layout="constrained"
    )
    for (upper, lower), (name, values) in zip(axes.T, losses.items(), strict=True):
        steps = np.arange(len(values["before"])) + 1
        upper.plot(steps, values["before"], color="#f4a582", linewidth=6, label=f"before: {RUNS['before']} losses")
        upper.plot(steps, values["after"], color="#08306b", linewidth=1, label=f"after: {RUNS['after']}")
        upper.set(title=name, ylabel="loss")
        upper.legend()
        _draw_difference(lower, steps, values)
        lower.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize=14)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_difference(axis: plt.Axes, steps: np.ndarray, values: dict[str, np.ndarray]) -> None:
    """Plot the difference of two curves beside the spacing of the dtype's numbers around their value."""
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    difference = np.abs(values["before"] - values["after"])
    spacing = np.spacing(np.abs(values["before"]).astype(dtype))
    some = values["before"] != 0
    axis.plot(
        steps[some], spacing[some], color="#999999", linewidth=1, label=f"last bit of the loss ({dtype.__name__})"
    )
    seen = difference > 0
    axis.plot(steps[seen], difference[seen], ".", color="#08306b", markersize=4, label="|before - after|")
    axis.set(yscale="log", xlabel="step", ylabel="difference")
    equal = len(seen) - int(seen.sum())
    axis.legend(title=f"{equal} of {len(seen)} steps are bitwise equal", loc="best")
    least = min(spacing[some].min(), difference[seen].min(initial=np.inf))
    axis.set_ylim(least / 3, 1e4 * max(spacing.max(), difference.max()))  # room for the legend


def draw_pictures(rows: dict[str, Tensor], columns: int, title: str, path: Path) -> None:
    """Draw batches of pictures in [-1, 1] below each other, each named, with `columns` pictures per line."""
    lines = [len(pictures) // columns for pictures in rows.values()]
    width = 11.0
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(width, 1.0 + width / columns * sum(lines)), height_ratios=lines, layout="constrained"
    )
    for axis, (name, pictures) in zip(axes, rows.items(), strict=True):
        shown = pictures[: len(pictures) // columns * columns].detach().float()
        large = interpolate(shown, scale_factor=96 // shown.shape[-1], mode="bicubic").clamp(-1, 1)
        framed = pad(large, (4, 4, 4, 4), value=1.0)
        side = framed.shape[-1]
        grid = framed.reshape(-1, columns, shown.shape[1], side, side).permute(0, 3, 1, 4, 2)
        axis.imshow(grid.reshape(-1, columns * side, shown.shape[1]) / 2 + 0.5, cmap="gray", vmin=0, vmax=1)
        axis.set_ylabel(name, fontsize=12)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=14)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def digits() -> Tensor:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, in [-1, 1]."""
    return torch.tensor(load_digits().images, dtype=torch.get_default_dtype()).unsqueeze(1) / 8 - 1
