"""The checks must be able to fail: faults are planted, one at a time, and each must be noticed.

A list of faults (cpu.py, cpu_memory.py, cuda.py, triton.py) is data. Its `judge` says whether the checks notice a fault in a copy of
the checkout, with what `prepare` built once. Where nothing is planted nothing may be noticed.
"""

import pytest

from tests.mutants import cpu, cpu_memory, cuda, triton
from tests.mutants.runner import Verdicts

LISTS = {"cpu": cpu, "cpu_memory": cpu_memory, "cuda": cuda, "triton": triton}
CASES = [(kernels, name) for kernels, judge in LISTS.items() for name in judge.FAULTS]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def verdicts(request, tmp_path_factory):
    asked = [
        i.callspec.params for i in request.session.items if i.module is request.module and hasattr(i, "callspec")
    ]
    cases = [(p["kernels"], p["name"]) for p in asked if not LISTS[p["kernels"]].missing()]
    made = Verdicts(LISTS, cases, tmp_path_factory.mktemp("mutants"))
    yield made
    made.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("kernels", "name"), CASES)
def test_a_fault_is_noticed(kernels, name, verdicts):
    if why := LISTS[kernels].missing():
        pytest.skip(why)
    noticed, said = verdicts((kernels, name))
    assert noticed is (LISTS[kernels].FAULTS[name][0] is not None), said
