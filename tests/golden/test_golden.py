"""Stored hashes of results and gradients: no change alters a bit unseen, on any backend (tests/golden)."""

import json
import os
import subprocess
import sys

import pytest
from packaging.version import Version

import fastgan
from fastgan.backends import native
from tests import golden

pytestmark = pytest.mark.skipif(native.native is None, reason="the compiled kernels are not there")


@pytest.mark.parametrize("isa", native.native.isas() if native.native else [])
def test_cpu(isa):
    before = native.native.isa()
    native.native.set_isa(isa)
    try:
        with fastgan.backend("cpu"):
            found = golden.hashes()
    finally:
        native.native.set_isa(before)
    assert golden.changed(found) == []
    assert list(found) == list(json.loads(golden.STORED.read_text()))


@pytest.mark.parametrize(
    ("backend", "every"), [("simulated", 1), ("triton", 9), pytest.param("triton", 1, marks=pytest.mark.slow)]
)
def test_other_backends(backend, every):
    """The CUDA kernels on the host harness, and the Triton kernels in their interpreter."""
    if backend == "triton":
        triton = pytest.importorskip("triton")
        if Version(triton.__version__) < Version("3.9"):
            pytest.skip("Triton's interpreter rounds fma twice before Triton 3.9")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if backend == "triton" else "0"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.golden", backend, "--every", str(every)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert golden.changed(json.loads(done.stdout)) == []
