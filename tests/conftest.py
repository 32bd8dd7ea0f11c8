"""Every test runs with uninitialised memory full of NaN, so that an output that was not written shows."""

import pytest
import torch


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
