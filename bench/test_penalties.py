"""The penalty's contenders side by side in pytest-benchmark; of record is `python -m bench penalties`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import harness
from bench.suites import penalties
from bench.suites.penalties import CONTENDERS, SHAPES


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(harness.THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_result(shape: tuple[int, ...]) -> None:
    """What is timed against each other computes the same."""
    penalties.check(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("case", "contender"), [(c, n) for c, names in CONTENDERS.items() for n in names])
def test_penalty(benchmark: Any, case: str, contender: str, shape: tuple[int, ...]) -> None:
    """One contender on one case."""
    if contender == "compiled" and harness.no_compile():
        pytest.skip(harness.no_compile())
    benchmark.group = f"{case}, {shape}"
    benchmark.name = contender
    work = penalties.work(contender, case, penalties.data(shape))
    work()
    benchmark.pedantic(work, rounds=20, iterations=5, warmup_rounds=1)
