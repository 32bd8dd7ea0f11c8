"""Installs from sources that cannot be written, and those that link to them."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.build.test_cuda_build import Source

WITHOUT = "-dac_override,-dac_read_search,-fowner"  # what lets root write everywhere
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_wheel(sys.argv[1]))"
STRICT = "from setuptools import build_meta as b; b.build_editable('.', {'editable_mode': 'strict'})"
FACTS = (
    # Neither the folder that this runs in nor an editable install of this checkout.
    "import sys; sys.path[0] = sys.argv[1]\n"
    "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    "from fastgan.backends import native; print(native.__file__, native.build_facts()['native'], native.left_out())"
)


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def unwritable(source):
    """The sources without write permission, for root too."""
    folders = [source.folder, *(path for path in source.folder.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield source
    for folder in folders:
        folder.chmod(0o755)


def restricted() -> list[str]:
    """What goes before a command to keep it from writing where it may not."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv")
    return [shutil.which("setpriv"), f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}"]


def test_sources_that_cannot_be_written(unwritable, tmp_path):
    """A wheel is made of them, with nothing left beside them."""
    before = sorted(unwritable.folder.rglob("*"))
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [*restricted(), sys.executable, "-c", BUILD, str(tmp_path / "out")],
        cwd=unwritable.folder, capture_output=True, text=True, check=False,
        env={"PATH": str(unwritable.folder / "bin"), "LOG": str(tmp_path / "log"), "FASTGAN_CUDA": "0",
             "FASTGAN_NODES": "0", "FASTGAN_NATIVE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {"fastgan/_build.json", "fastgan/csrc/torch/module.cpp", "fastgan/nn.py"} <= set(names)
    assert [name for name in names if name.endswith(".so")]
    assert sorted(unwritable.folder.rglob("*")) == before


@pytest.mark.slow
def test_a_strict_editable_install(source):
    """What was built is told of, though only modules are linked."""
    done = source.run("-c", STRICT, FASTGAN_NATIVE="0")
    assert done.returncode == 0, done.stderr
    (links,) = source.folder.glob("build/__editable__*")
    assert not (links / "fastgan" / "_build.json").exists()
    done = source.run("-c", FACTS, str(links))
    assert done.stdout.split(maxsplit=1) == [
        str(links / "fastgan" / "backends" / "native.py"),
        "not built: FASTGAN_NATIVE=0 True\n",
    ], done.stderr
