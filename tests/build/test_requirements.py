"""Which torch is enough, and a checkout that was not installed."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

import fastgan
from fastgan import requirements
from tests.helpers import ROOT

# An editable install must not lend a copy of the source what it is to find by itself.
ALONE = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"


def python(code, folder):
    command = [sys.executable, "-c", ALONE + code]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.13.0+cpu", (2, 13)), ("2.6.0a0+git1234", (2, 6)), ("3.0", (3, 0)), ("unknown", (0, 0))],
)
def test_versions(version, numbers):
    assert requirements.parsed(version) == numbers


def test_an_older_torch_is_refused_at_import():
    out = python("import torch; torch.__version__ = '2.5.1+cu124'; import fastgan", ROOT)
    assert "ImportError: fastgan needs torch 2.6 or newer, got 2.5.1+cu124" in out


def test_features_that_need_more(monkeypatch):
    assert fastgan.info()["features"] == {
        "engine='compiled'": requirements.lacking("engine='compiled'") or "ready",
    }
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    assert fastgan.info()["features"]["engine='compiled'"] == "ready"
    monkeypatch.setattr(torch, "__version__", "2.7.1")
    assert fastgan.info()["features"]["engine='compiled'"] == "needs torch 2.8 or newer, got 2.7.1"


def test_the_metadata_says_the_same():
    oldest = ".".join(map(str, requirements.OLDEST))
    assert f'torch = ["torch>={oldest}"]' in (ROOT / "pyproject.toml").read_text()


def test_a_checkout_needs_no_installation(tmp_path):
    """The Triton kernels are found where they lie; what lies beside an installed package is not."""
    for part in ("fastgan", "triton_kernels"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "setup.py").touch()
    code = "import fastgan, fastgan.triton_kernels as k, fastgan.triton_kernels.math; print(k.math.__file__)"
    assert python(code, tmp_path).split() == [str(tmp_path / "triton_kernels" / "math.py")]
    assert "No module named 'fastgan.setup'" in python("import fastgan.setup", tmp_path)
    (tmp_path / "setup.py").unlink()
    assert "No module named 'fastgan.triton_kernels'" in python(code, tmp_path)
