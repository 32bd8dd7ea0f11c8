"""What the tests' ranks do when one of them crashes."""

import ctypes
import os
import time
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException

from tests.helpers.ranks import needs_gloo, run_ranks

pytestmark = [needs_gloo, pytest.mark.slow]
NOWHERE = 8  # an address that is not mapped


def in_a_thread_of_its_own(rank, mark, often):
    """Crash, in rank 1 and the first time or always, in a thread that has never run Python."""
    if rank == 1 and (often or not os.path.exists(mark)):
        Path(mark).touch()
        thread = ctypes.c_ulong()
        ctypes.CDLL(None).pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(NOWHERE), None)
        time.sleep(60)
    return rank


def in_python(rank):
    if rank == 1:
        ctypes.string_at(NOWHERE)
    return rank


def test_a_crash_of_gloos_thread_is_tried_again(tmp_path):
    with pytest.warns(UserWarning, match="SIGSEGV: in a thread of gloo's own; it runs once more"):
        assert run_ranks(in_a_thread_of_its_own, str(tmp_path / "mark"), False) == [0, 1]


def test_a_second_one_fails(tmp_path):
    with pytest.warns(UserWarning, match="once more"), pytest.raises(ProcessExitedException, match="SIGSEGV"):
        run_ranks(in_a_thread_of_its_own, str(tmp_path / "mark"), True)


def test_a_crash_under_python_fails_at_once(capfd):
    with pytest.raises(ProcessExitedException, match="SIGSEGV"):
        run_ranks(in_python)
    assert "in in_python" in capfd.readouterr().err
