"""Every test runs with uninitialised memory full of NaN, so that an output that was not written shows."""

import os
import shutil
import tempfile

import pytest
import torch

from fastgan.backends import nodes
from tests.helpers.once import SHARED


def pytest_configure(config):
    """One folder for all of a run's processes; a worker of pytest-xdist takes its share of the processors."""
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="fastgan-tests-")
        # What another checkout or an earlier run has left in inductor's cache is not under test.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(os.environ[SHARED], "inductor"))
    else:
        share = max(1, torch.get_num_threads() // config.workerinput["workercount"])
        torch.set_num_threads(share)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))  # for the processes that tests start


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[SHARED], ignore_errors=True)


@pytest.fixture(autouse=True)
def _poison():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def python_way():
    """Without the C++ nodes: for what looks into Python's own."""
    with nodes.off():
        yield
