"""How the C++ nodes are found, refused and built; the package's own are never touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastgan
from fastgan import nodes_build as building
from fastgan.backends import native, nodes

pytestmark = pytest.mark.skipif(native.native is None, reason=f"nodes run its kernels: {native.missing()}")

HERE = building.tag(torch.version)
STEP = """
import torch, fastgan
x = torch.arange(6.0).requires_grad_()
loss = fastgan.discriminator_loss(x, x - 8, "hinge", reduction="sum")
loss.backward()
print(type(loss.grad_fn).__name__, loss.item(), x.grad.sum().item(), fastgan.info()["C++ nodes"])
"""


def garbage(folder, **facts):
    """Leave a file that is no library, with a record beside it."""
    (folder / building.NAME).write_bytes(b"no library")
    record = {"torch": HERE, "headers": getattr(native.native, "headers", ""), **facts}
    (folder / building.RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two folders in the places of the package and of the user's cache."""
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir()
    cache.mkdir()
    monkeypatch.delenv("FASTGAN_NODES", raising=False)
    monkeypatch.setattr(
        nodes, "building", SimpleNamespace(**{**vars(building), "PACKAGE": package, "cache": lambda _: cache})
    )
    return package, cache


@pytest.fixture
def never_opened(monkeypatch):
    def fail(*arguments):
        raise AssertionError("the file was opened")

    monkeypatch.setattr(nodes.importlib.util, "spec_from_file_location", fail)


# ---------------------------------------------------------------------------- found and refused


@pytest.mark.usefixtures("never_opened")
def test_an_empty_folder(tmp_path):
    assert nodes._loaded(tmp_path) is None
    (tmp_path / building.RECORD).write_text(json.dumps({"torch": HERE}))
    assert nodes._loaded(tmp_path) is None


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize("version", ["2.0.0 0123456789", HERE + "0", HERE.split()[0], "", None, 5])
def test_another_torch(tmp_path, version):
    """Both versions are named."""
    with pytest.raises(ImportError) as caught:
        nodes._loaded(garbage(tmp_path, torch=version))
    assert str(caught.value) == f"built for torch {version}, and this is torch {HERE}"


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize("headers", ["0123456789abcdef", "", None])
def test_other_headers(tmp_path, headers):
    with pytest.raises(ImportError, match="built from other sources than the kernels"):
        nodes._loaded(garbage(tmp_path, headers=headers))


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize("record", [None, "", "{", "[]", "null", "5", '"torch"', b"\xff\xfe"], ids=str)
def test_records_that_say_nothing(tmp_path, record):
    """One that is missing, cut short, or no record at all: a reason, and no crash at the import of fastgan."""
    garbage(tmp_path)
    (tmp_path / building.RECORD).unlink()
    if record is not None:
        (tmp_path / building.RECORD).write_bytes(record if isinstance(record, bytes) else record.encode())
    with pytest.raises(ImportError, match="built for torch None"):
        nodes._loaded(tmp_path)


@pytest.mark.parametrize("content", [b"no library", b"", b"\x7fELF" + bytes(60)])
def test_what_is_no_library(places, content):
    """The reason is in the state; nothing is raised at the import of fastgan."""
    (garbage(places[0]) / building.NAME).write_bytes(content)
    module, state = nodes._find()
    assert module is None
    assert state.startswith("not used: ")
    assert building.NAME in state
    assert state.endswith("; python -m fastgan build")


@pytest.mark.parametrize("place", [0, 1])
def test_the_reason_is_told(places, place):
    """Of the package or of the cache; one that is not there gives none."""
    garbage(places[place], torch="2.0.0 0123456789")
    assert "built for torch 2.0.0 0123456789" in nodes._find()[1]
    garbage(places[place], headers="")
    assert nodes._find() == (None, "not used: built from other sources than the kernels; python -m fastgan build")


def test_nothing_anywhere(places):
    assert nodes._find() == (None, "not built; python -m fastgan build")


@pytest.mark.usefixtures("places", "never_opened")
def test_without_the_kernels(monkeypatch):
    monkeypatch.setattr(nodes, "native", None)
    assert nodes._find() == (None, "not used: the compiled extension is not there")


@pytest.mark.skipif(nodes.module is None, reason=nodes.state)
def test_those_in_the_cache_are_found(places):
    """Also where the package's own are for another torch; a second library of the name is loaded beside the first."""
    for name in (building.NAME, building.RECORD):
        shutil.copy(Path(nodes.module.__file__).parent / name, places[1])
    garbage(places[0], torch="2.0.0 0123456789")
    module, state = nodes._find()
    assert state == "ready"
    assert Path(module.__file__) == places[1] / building.NAME
    assert module.torch == HERE


@pytest.mark.skipif(nodes.module is None, reason=nodes.state)
def test_a_record_that_is_wrong(places, monkeypatch):
    """What the library itself says counts too."""
    for name in (building.NAME, building.RECORD):
        shutil.copy(Path(nodes.module.__file__).parent / name, places[0])
    record = json.loads((places[0] / building.RECORD).read_text())
    (places[0] / building.RECORD).write_text(json.dumps({**record, "torch": "9.9.9 abc"}))
    monkeypatch.setattr(nodes.building, "tag", lambda version: "9.9.9 abc")
    assert f"its record says torch 9.9.9 abc, and it was built for torch {HERE}" in nodes._find()[1]


# ---------------------------------------------------------------------------- in a process of its own


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package and of its sources, without nodes."""
    root, original = tmp_path_factory.mktemp("copy"), Path(fastgan.__file__).parent
    shutil.copytree(original, root / "fastgan", ignore=shutil.ignore_patterns("_nodes*", "__pycache__", "csrc"))
    shutil.copytree(building.sources(), root / "csrc")
    return root


def run(package, *words, **environment):
    """Run Python with the copy of the package."""
    ours = {k: v for k, v in os.environ.items() if k not in ("FASTGAN_NODES", "FASTGAN_CACHE", "CXX")}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=package,
        env={**ours, "PYTHONPATH": str(package), "FASTGAN_CACHE": str(package / "nothing"), **environment},
    )  # fmt: skip


def compiler(folder, text):
    """Leave a program in the place of a compiler."""
    path = folder / "fake compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"'{path}'"


def test_the_copy_is_what_runs(package):
    done = run(package, "-c", "import fastgan; print(fastgan.__file__, fastgan.info()['C++ nodes'])")
    assert done.stdout.split(maxsplit=1) == [
        str(package / "fastgan" / "__init__.py"),
        "not built; python -m fastgan build\n",
    ]


def test_nodes_are_off_by_the_environment(package, tmp_path):
    done = run(package, "-c", STEP, FASTGAN_NODES="0")
    assert "ApplyBackward 1.0 -1.0 not used: FASTGAN_NODES=0" in done.stdout, done.stderr
    done = run(package, "-m", "fastgan", "info", FASTGAN_NODES="0")
    assert "C++ nodes: not used: FASTGAN_NODES=0" in done.stdout


@pytest.mark.parametrize("record", ["{", "[]", "null"])
def test_any_record_lets_fastgan_be_imported(package, tmp_path, record):
    cache = tmp_path / building.cache(torch.version).name
    cache.mkdir()
    (garbage(cache) / building.RECORD).write_text(record)
    done = run(package, "-c", STEP, FASTGAN_CACHE=str(tmp_path))
    assert "ApplyBackward 1.0 -1.0 not used: built for torch None" in done.stdout, done.stderr


def test_a_compiler_that_fails(package, tmp_path):
    """Its words are shown, the status says so, and nothing is left."""
    cxx = compiler(tmp_path, "echo first; echo 'module.cpp:1: error: no such thing' >&2; exit 3")
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path / "cache"), CXX=cxx)
    assert done.returncode == 1
    assert "fake compiler" in done.stderr
    assert "module.cpp:1: error: no such thing" in done.stderr
    assert "first" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_compiler_that_makes_nothing(package, tmp_path):
    cxx = compiler(tmp_path, "exit 0")
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path / "cache"), CXX=cxx)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a file in the place of a folder")
def test_a_cache_that_cannot_be_written(package, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path / "file"), CXX=compiler(tmp_path, ""))
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("named", "why"), [("/no/compiler", "CXX: expected a C++ compiler"), ("", "no C++ compiler was found")]
)
def test_without_a_compiler(package, tmp_path, named, why):
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path), CXX=named, PATH=str(tmp_path))
    assert done.returncode == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["A compiler", "c++"])
def test_the_compiler_is_found(tmp_path, monkeypatch, name):
    """CXX, with spaces in its path, comes before the PATH; its options are kept."""
    path = tmp_path / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{path}' -O0")
    assert building.find_compiler() == [str(path), "-O0"]


def test_caches_of_other_builds_have_other_folders(monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", "/cache")
    versions = [
        SimpleNamespace(__version__=v, git_version=g)
        for v in ("2.13.0", "2.13.0+cpu")
        for g in ("a" * 40, "b" * 40)
    ]
    assert len({building.cache(v) for v in versions}) == 4
    monkeypatch.delenv("FASTGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert building.cache(versions[0]).is_relative_to("/other/fastgan")


def test_the_version_that_is_installed():
    """It is read without an import of torch."""
    assert building.tag(building.installed_version()) == HERE


@pytest.mark.slow
def test_a_build(package, tmp_path):
    """Built into the cache by the real compiler, used from there, and not built a second time."""
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / building.cache(torch.version).name
    assert sorted(path.name for path in folder.iterdir()) == sorted([building.NAME, building.RECORD])
    done = run(package, "-c", STEP, FASTGAN_CACHE=str(tmp_path))
    assert done.stdout == "CppFunction 1.0 -1.0 ready\n", done.stderr
    stamp = (folder / building.NAME).stat().st_mtime_ns
    done = run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path))
    assert f"the C++ nodes for torch {torch.__version__} are there" in done.stdout
    assert (folder / building.NAME).stat().st_mtime_ns == stamp
    garbage(folder, torch="2.0.0 0123456789")
    assert run(package, "-m", "fastgan", "build", FASTGAN_CACHE=str(tmp_path)).returncode == 0
    assert run(package, "-c", STEP, FASTGAN_CACHE=str(tmp_path)).stdout == "CppFunction 1.0 -1.0 ready\n"
