"""The build: wheels and sdists, with and without a compiler, and what they record."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers import ROOT


def build(what: str, source: Path, out: Path, **environment: str) -> Path:
    """Builds with the tools of this environment and returns the one file made; without CUDA unless asked."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", str(out), str(source)]
    environment = {**os.environ, "FASTGAN_CUDA": "0", "FASTGAN_NODES": "0", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist") / "out")


@pytest.fixture
def sdist(archive, tmp_path) -> Path:
    """The sdist, unpacked anew for each test: a build leaves its products beside the source."""
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    return source


def test_the_sdist_has_all_that_is_needed(sdist):
    for name in ("csrc/common/math.h", "csrc/bindings.cpp", "csrc/cpu/loss.cpp", "triton_kernels/__init__.py", "LICENSE",
                 "Makefile", "tests/kernels/cpu/test_math.py", "tests/helpers/exhaustive.cpp", "fastgan/py.typed"):  # fmt: skip
        assert (sdist / name).exists(), name
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.suffix != ".pyc":
            assert (sdist / path.relative_to(ROOT)).exists(), path
    assert not list(sdist.rglob("*.so"))


def contents(wheel: Path) -> tuple[set[str], dict[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist()), json.loads(archive.read("fastgan/_build.json"))


def run_away_from_the_source(wheel: Path, folder: Path, code: str) -> str:
    """Runs code on the unpacked wheel, with this environment's torch and nothing of this checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CODE = (
    # An editable install of this checkout must not lend the wheel its extension.
    "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    "import fastgan, torch, fastgan.triton_kernels; r = torch.zeros(3, requires_grad=True)\n"
    "loss = fastgan.generator_loss(r); loss.backward()\n"
    "print(fastgan.__file__, loss.item(), r.grad.tolist(), fastgan.info()['backends']['cpu'])"
)


@pytest.mark.slow
def test_a_wheel_from_the_sdist(sdist, tmp_path):
    wheel = build("wheel", sdist, tmp_path / "out", FASTGAN_NATIVE="1")
    names, facts = contents(wheel)
    assert any(n.startswith("fastgan/_native.") and n.endswith(".so") for n in names)
    assert {"fastgan/triton_kernels/__init__.py", "fastgan/py.typed", "fastgan/_native.pyi"} <= names
    assert not any(n.startswith(("triton_kernels", "tests", "csrc", "bench")) for n in names)
    assert facts["native"] == "built"
    assert "compiler" in facts
    assert "flags" in facts
    out = run_away_from_the_source(wheel, tmp_path / "installed", CODE)
    assert str(tmp_path) in out
    assert out.rstrip().endswith("ready")


@pytest.mark.slow
def test_no_compiler_is_no_failure(sdist, tmp_path):
    (tmp_path / "bin").mkdir()
    wheel = build("wheel", sdist, tmp_path / "out", PATH=str(tmp_path / "bin"), CXX="")
    names, facts = contents(wheel)
    assert not any(n.endswith(".so") for n in names)
    assert facts["native"].startswith("not built: no C++ compiler was found")
    out = run_away_from_the_source(wheel, tmp_path / "installed", CODE)
    assert "0.69314" in out
    assert "the compiled extension is not there" in out


@pytest.mark.slow
def test_a_compiler_that_fails_is_told(sdist, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho broken on purpose >&2\nexit 1\n")
    broken.chmod(0o755)
    _, facts = contents(build("wheel", sdist, tmp_path / "out", CXX=str(broken)))
    assert "broken on purpose" in facts["native"]
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")]
    environment = {**os.environ, "CXX": str(broken), "FASTGAN_NATIVE": "1", "FASTGAN_CUDA": "0"}
    done = subprocess.run(command, cwd=sdist, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "broken on purpose" in done.stderr


@pytest.mark.slow
def test_pip_install_into_an_empty_environment(sdist, tmp_path):
    """Under build isolation, with no torch anywhere; importing it then says what is missing."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", str(sdist)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "FASTGAN_NATIVE": "1", "FASTGAN_CUDA": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [python, "-c", "import fastgan"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "ImportError: fastgan needs PyTorch" in done.stderr
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "fastgan" in listed
    assert "torch " not in listed
