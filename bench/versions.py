"""Two checkouts against each other, in one interleaved run: `python -m bench versions OLD [NEW]`.

Each checkout runs in a process of its own, on one thread; rounds alternate between the two, and the first changes
from round to round. Both must have been built in place (`setup.py build_ext --inplace`). Prints the medians, the
minima, and the median of the rounds' ratios: above 1, NEW is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZES = (64, 4096)
WORKER = "import sys; sys.path.insert(0, sys.argv[1]); exec(open(sys.argv[2]).read()); serve(sys.argv[1])"


def works() -> dict[str, tuple[Callable[[], object], int]]:
    """What is measured, forward and backward, with the calls of one round."""
    import torch

    import fastgan

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made: dict[str, tuple[Callable[[], object], int]] = {}
    for n in SIZES:
        r, f = (torch.randn(n, requires_grad=True) for _ in range(2))
        for loss in fastgan.losses():
            for form in (None, "paired", "average"):
                made[f"D {loss} {form}, {n}"] = (
                    lambda r=r, f=f, loss=loss, form=form: torch.autograd.grad(
                        fastgan.discriminator_loss(r, f, loss, relativistic=form), (r, f)
                    ),
                    100,
                )
            made[f"G {loss}, {n}"] = (
                lambda f=f, loss=loss: torch.autograd.grad(fastgan.generator_loss(f, loss=loss), f),
                100,
            )
    g = torch.randn(16, 3, 32, 32, requires_grad=True)
    real, fake = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    d = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.LeakyReLU(0.2), torch.nn.Flatten(), torch.nn.Linear(144, 1)
    )
    made["norm_penalty"] = lambda: torch.autograd.grad(fastgan.norm_penalty(g), g), 100
    made["gradient_penalty, tiny D"] = lambda: fastgan.gradient_penalty(d, real, fake).backward(), 20
    made["discriminator_step, tiny D"] = (
        lambda: fastgan.discriminator_step(d, real, fake, loss="hinge", penalty="r1").total.backward(),
        20,
    )
    return made


def serve(checkout: str) -> None:
    """Run a work for each name that comes in, and print the nanoseconds of a call."""
    import fastgan

    assert Path(fastgan.__file__).is_relative_to(Path(checkout).resolve()), fastgan.__file__
    made = works()
    for work, _ in made.values():
        for _ in range(5):
            work()
    print(json.dumps(list(made)), flush=True)
    for line in sys.stdin:
        work, calls = made[line.strip()]
        start = time.perf_counter_ns()
        for _ in range(calls):
            work()
        print((time.perf_counter_ns() - start) / calls, flush=True)


def main(given: list[str]) -> None:
    """Compare the two checkouts that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench versions", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args(given)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(checkout.resolve()), __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for checkout in (options.old, options.new)
    ]  # fmt: skip
    names, _ = [json.loads(w.stdout.readline()) for w in workers]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for r in range(options.rounds):
        for name in names:
            for k in (0, 1) if r % 2 else (1, 0):
                workers[k].stdin.write(name + "\n")
                workers[k].stdin.flush()
                times[name][k].append(float(workers[k].stdout.readline()) / 1000)
    ratios = {name: statistics.median(o / n for o, n in zip(*both, strict=True)) for name, both in times.items()}
    print(f"{'us, median (least)':32} {'old':>18} {'new':>18} {'old / new':>10}")
    for name, both in times.items():
        told = [f"{statistics.median(t):.1f} ({min(t):.1f})" for t in both]
        print(f"{name:32} {told[0]:>18} {told[1]:>18} {ratios[name]:10.3f}")
    for n in SIZES:
        found = [ratio for name, ratio in ratios.items() if name.endswith(f", {n}")]
        print(f"losses of {n}: median {statistics.median(found):.3f}, from {min(found):.3f} to {max(found):.3f}")
