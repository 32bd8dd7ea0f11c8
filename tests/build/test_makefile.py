"""The Makefile says what it fetches, and takes torch alone from an index of one's choice."""

import os
import re
import shutil
import subprocess

import pytest
from packaging.specifiers import SpecifierSet

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*words):
    """What make would do in an environment that is not there, or what it prints."""
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the make that runs these tests
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def dry(target, *words):
    return make("-n", target, "VENV=/nowhere/venv", *words)


def test_what_is_fetched_is_said_first():
    lines = dry("demo")
    (said,) = (k for k, line in enumerate(lines) if line.startswith("echo"))
    assert "torch==2.13.0" in lines[said]
    assert "PyPI's build for Linux with CUDA: about 2.7 GB" in lines[said]
    assert "INDEX=https://download.pytorch.org/whl/cpu takes the CPU build, about 200 MB" in lines[said]
    (fetched,) = (k for k, line in enumerate(lines) if re.search(r"pip install.*torch==2.13.0", line))
    assert fetched == said + 1
    assert " -q" not in lines[fetched], "pip shows how far it is"
    assert "--index-url" not in lines[fetched]


def test_the_index_is_for_torch_alone():
    lines = dry("demo", "INDEX=https://somewhere/cpu")
    (line,) = (line for line in lines if "--index-url" in line)
    assert '--index-url https://somewhere/cpu "torch==2.13.0"' in line
    assert not any("2.7 GB" in line for line in lines)


def test_wheels_are_for_all_architectures():
    """Whatever GPUs this machine has."""
    assert any('TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-all}"' in line for line in dry("wheel"))
    text = (ROOT / "pyproject.toml").read_text()
    assert 'TORCH_CUDA_ARCH_LIST = "all"' in re.search(r"^environment = .*", text, re.M)[0]


def test_help_lists_every_target():
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    listed = [line.split()[1] for line in make("help")]
    assert listed == targets
    assert make() == make("help")


def test_the_extra_for_tests_takes_the_triton_that_torch_brings():
    """torch 2.13.0 from PyPI requires 3.7.1, 2.11.0 has 3.6.0."""
    (wanted,) = re.findall(r'"triton([^";]*); sys_platform', (ROOT / "pyproject.toml").read_text())
    accepted = SpecifierSet(wanted)
    assert [v for v in ("3.5.1", "3.6.0", "3.7.1", "3.9.0", "4.0.0") if v in accepted] == [
        "3.6.0",
        "3.7.1",
        "3.9.0",
    ]
