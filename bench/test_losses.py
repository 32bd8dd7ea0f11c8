"""The contenders side by side in pytest-benchmark, one group for each case, size and mode.

For a look at one case (`pytest bench -k "hinge and 4096"`). The numbers of record are those of `python -m bench
losses`, which interleaves the contenders.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import harness
from bench.suites import losses
from bench.suites.losses import CASES, CONTENDERS, MODES, SEQUENCES, SIZES, Case


def _contenders(case: Case) -> list[str]:
    return [c for c in CONTENDERS if case.compiled or c != "compiled"]


def _runs() -> list[Any]:
    sized = [(case, n) for case in CASES for n in SIZES] + [(case, sum(case.members)) for case in SEQUENCES]
    return [
        pytest.param(case, n, mode, contender, id=f"{case.name}-{n}-{mode}-{contender}")
        for case, n in sized
        for mode in MODES
        for contender in _contenders(case)
    ]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(harness.THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", [*CASES, *SEQUENCES], ids=lambda case: case.name)
def test_same_result(case: Case) -> None:
    """What is timed against each other computes the same."""
    losses.check(case)


@pytest.mark.parametrize(("case", "n", "mode", "contender"), _runs())
def test_loss(benchmark: Any, case: Case, n: int, mode: str, contender: str) -> None:
    """One contender on one case."""
    if contender == "compiled" and harness.no_compile():
        pytest.skip(harness.no_compile())
    benchmark.group = f"{case.name}, n = {n}, {mode}"
    benchmark.name = contender
    work = losses.work(contender, case, losses.operands(case, n), MODES[mode])
    work()  # compiles, and makes the caches warm
    rounds, iterations = losses.effort(n)
    benchmark.pedantic(work, rounds=rounds, iterations=iterations, warmup_rounds=1)
