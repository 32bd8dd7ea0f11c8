"""The CUDA build: which compiler, which architectures, and what happens without."""

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fastgan.backends.native import module_name, native
from tests.helpers import ROOT
from tests.helpers.marks import slow_but

KNOWN = {"7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "12.0"}
FAKE_CXX = """#!/bin/sh
echo "$@" >> "$LOG.cxx"
case "$*" in *--version) echo "a compiler 1.0";; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
exit 0
"""
FAKE_NVCC = """#!/bin/sh
echo "$@" >> "$LOG.nvcc"
case "$1" in
  --version) echo "Cuda compilation tools, release RELEASE, VRELEASE.99";;
  --list-gpu-arch) echo compute_80; echo compute_90;;
  *) %s
     while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done;;
esac
"""
FAKE_SMI = """#!/bin/sh
[ "$*" = "--query-gpu=compute_cap --format=csv,noheader" ] || exit 2
%s
"""
OLD = FAKE_NVCC.replace("RELEASE", "12.0")
NEW = FAKE_NVCC.replace("RELEASE", "13.1")
FAKE_NVCC = FAKE_NVCC.replace("RELEASE", "12.4")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fastgan_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def toolkit() -> ModuleType:
    return load(ROOT / "csrc" / "tools" / "toolkit.py")


def nvcc_below(folder: Path, script: str = "#!/bin/sh\n") -> Path:
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(monkeypatch, tmp_path) -> Path:
    """An environment in which there is no CUDA compiler of any kind."""
    for name in ("CUDA_HOME", "CUDA_PATH", "FASTGAN_CUDA", "TORCH_CUDA_ARCH_LIST", "CXX", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none")])
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        (" ; ", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        ("8.0;9.0+PTX", "8.0 9.0+PTX"),
        ("8.0 9.0", "8.0 9.0"),
        ("8.7, 9.0a,", "8.7 9.0a"),
        ("9.0;9.0", "9.0"),
        ("all", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
    ],
)
def test_architectures(toolkit, asked, expected):
    assert " ".join(toolkit.architectures(asked, KNOWN)) == expected


def test_architectures_that_the_compiler_does_not_know(toolkit):
    assert toolkit.architectures("", {"6.0", "7.0", "7.5", "8.0", "8.7"}) == ["7.0", "7.5", "8.0+PTX"]
    with pytest.raises(ValueError, match=r"knows none of 7\.0 7\.5"):
        toolkit.architectures("", {"5.0"})
    with pytest.raises(ValueError, match=r"does not know 13\.0, it knows 7\.5 .* 9\.0 10\.0 12\.0"):
        toolkit.architectures("8.0;13.0", KNOWN)
    for wrong in ("Hopper", "90", "sm_90", "9.0+ptx", "9.0x"):
        with pytest.raises(ValueError, match="expected numbers such as"):
            toolkit.architectures(wrong, KNOWN)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("9.0", "9.0+PTX"),
        ("7.5 8.6", "7.5 8.6+PTX"),
        ("8.8", "8.7+PTX"),  # the same major version, whose machine code it runs
        ("12.1 13.0", "12.0+PTX"),
        ("11.0 12.0", "10.0+PTX 12.0+PTX"),  # not that of another, for which there is PTX
        ("6.1 9.0", "9.0+PTX"),
    ],
)
def test_architectures_for_these_gpus(toolkit, gpus, expected):
    assert " ".join(toolkit.architectures_for(gpus.split(), {"5.2", *KNOWN})) == expected


def test_gpus_that_the_compiler_has_nothing_for(toolkit):
    with pytest.raises(
        ValueError, match=r"this machine's GPUs are 6\.1 7\.0, and this CUDA compiler knows 7\.5 .* 12\.0;"
    ):
        toolkit.architectures_for(["6.1", "7.0"], {"5.2", *KNOWN})


def test_gencode(toolkit):
    """One virtual architecture for a major version, the oldest asked for."""
    assert toolkit.gencode(["8.9", "8.0", "8.6", "9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_86,code=sm_89",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def test_the_compiler_is_found(toolkit, bare, monkeypatch):
    with pytest.raises(toolkit.NoCudaError, match="no nvcc on the PATH, CUDA_HOME is not set, and PyPI's"):
        toolkit.find()
    site = bare / "site"
    nvcc_below(site / "nvidia" / "cu9")
    newest = nvcc_below(site / "nvidia" / "cu13")
    (site / "nvidia" / "cu14").mkdir()  # libraries without a compiler, as torch brings them
    monkeypatch.setattr(sys, "path", [str(bare / "none"), str(site)])
    assert toolkit.find() == (str(newest), site / "nvidia" / "cu13")
    wrapper = nvcc_below(bare / "wrapper")
    monkeypatch.setenv("PATH", str(wrapper.parent))
    assert toolkit.find() == (str(wrapper), None), "what surrounds a script on the PATH says nothing"
    for name in ("CUDA_PATH", "CUDA_HOME"):
        path = nvcc_below(bare / name)
        monkeypatch.setenv(name, str(bare / name))
        assert toolkit.find() == (str(path), bare / name)
    monkeypatch.setenv("CUDA_HOME", str(bare / "empty"))
    with pytest.raises(FileNotFoundError, match=r"CUDA_HOME is .*empty, where there is no bin/nvcc"):
        toolkit.find()


def test_the_compiler_is_fetched_only_when_asked_for(toolkit, bare, monkeypatch):
    for value in ("", "0", "1"):
        monkeypatch.setenv("FASTGAN_CUDA", value)
        assert toolkit.build_requirements() == []
    monkeypatch.setenv("FASTGAN_CUDA", "wheels")
    assert toolkit.build_requirements() == toolkit.PACKAGES
    monkeypatch.setenv("PATH", str(nvcc_below(bare).parent))
    assert toolkit.build_requirements() == []
    monkeypatch.setenv("FASTGAN_CUDA", "yes")
    with pytest.raises(
        ValueError, match="FASTGAN_CUDA: expected 0, 1, wheels, toolkits' folders or nothing, got 'yes'"
    ):
        toolkit.build_requirements()


def test_setup_can_be_imported():
    assert load(ROOT / "setup.py").NativeBuild.__doc__


class Source:
    """A copy of what is built from, with compilers that only write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("csrc", "fastgan", "triton_kernels"):
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build.json", "*.cu")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        (folder / "csrc" / "cuda" / "one.cu").write_text("// one")
        self.script("c++", FAKE_CXX)

    def script(self, name: str, text: str, toolkit: str = "") -> None:
        path = self.folder / toolkit / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        theirs = ("CUDA_", "FASTGAN_", "TORCH_", "NVCC", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAX_JOBS")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
        kept |= {"PATH": str(self.folder / "bin"), "LOG": str(self.folder / "log"), "CXX": "", "FASTGAN_NODES": "0"}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=kept | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def build(self, **environment: str) -> dict[str, str]:
        done = self.run("setup.py", "-q", "build_ext", "--build-lib", "lib", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list((self.folder / "lib" / "fastgan").glob("_native*.so"))
        return json.loads((self.folder / "lib" / "fastgan" / "_build.json").read_text())

    def fails(self, **environment: str) -> str:
        done = self.run("setup.py", "-q", "build_ext", "--build-lib", "lib", **environment)
        assert done.returncode != 0
        return done.stderr

    def calls(self, compiler: str) -> list[str]:
        log = self.folder / f"log.{compiler}"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def without_packages(toolkit) -> None:
    if toolkit.packaged():
        pytest.skip("PyPI's CUDA compiler is installed here")


@pytest.mark.usefixtures("without_packages")
def test_without_a_compiler(source):
    facts = source.build()
    assert facts["native"] == "built"
    assert facts["cuda"].startswith("not built: no CUDA compiler was found")
    assert not any("FASTGAN_WITH_CUDA" in call for call in source.calls("cxx"))
    assert "no CUDA compiler was found" in source.fails(FASTGAN_CUDA="1")


def test_with_a_compiler(source):
    source.script("nvcc", FAKE_NVCC % "")
    facts = source.build(FASTGAN_CUDA="1")
    assert facts["cuda"] == "built"
    assert facts["cuda compiler"] == "Cuda compilation tools, release 12.4, V12.4.99"
    assert facts["cuda architectures"] == "8.0 9.0+PTX"
    (bind,) = (call for call in source.calls("cxx") if "bindings.cpp" in call)
    assert "-DFASTGAN_WITH_CUDA" in bind
    *_, compiled, linked = source.calls("nvcc")
    assert "one.cu" in compiled
    assert "--fmad=false" in compiled
    assert "compute_90,code=compute_90" in compiled
    assert "compress" not in compiled, "CUDA 12 code compressed so would need a newer driver"
    assert "-cudart static" in linked
    assert "cuda_one.o" in linked
    assert "bindings.o" in linked


def test_a_compiler_that_is_too_old(source):
    """More than 4 KB of parameters came with 12.1."""
    source.script("nvcc", OLD % "")
    why = source.build()["cuda"]
    assert why.startswith("not built: ")
    assert "nvcc is of CUDA 12.0; the kernels have more than 4 KB of parameters, which needs 12.1 or newer" in why
    assert "which needs 12.1 or newer" in source.fails(FASTGAN_CUDA="1")
    source.script("nvcc", FAKE_NVCC.replace("12.4", "12.1") % "")
    assert source.build()["cuda"] == "built"


@pytest.fixture
def two(source) -> str:
    """Toolkits of CUDA 13 and of CUDA 12, as FASTGAN_CUDA names them."""
    source.script("nvcc", NEW % "", "new")
    source.script("nvcc", FAKE_NVCC.replace("$LOG.nvcc", "$LOG.nvcc12") % "", "old")
    return f"{source.folder / 'new'}:{source.folder / 'old'}"


def test_toolkits_side_by_side(source, two):
    """The oldest one's code is in _native, and the CPU kernels are compiled once."""
    facts = source.build(FASTGAN_CUDA=two)
    assert facts["cuda"] == "built"
    assert facts["cuda compiler"] == "Cuda compilation tools, release 12.4, V12.4.99"
    assert facts["cuda 13 compiler"] == "Cuda compilation tools, release 13.1, V13.1.99"
    assert facts["cuda architectures"] == facts["cuda 13 architectures"] == "8.0 9.0+PTX"
    built = {path.name.split(".")[0] for path in (source.folder / "lib" / "fastgan").glob("*.so")}
    assert built == {"_native", "_native_cuda13"}
    binds = [call for call in source.calls("cxx") if "bindings.cpp" in call]
    assert sorted(call.partition("-DFASTGAN_MODULE=")[2].split()[0] for call in binds) == sorted(built)
    assert all("-DFASTGAN_WITH_CUDA" in call for call in binds)
    kernels = [call for call in source.calls("cxx") if "cpu/loss.cpp" in call]
    assert len({call.partition("FASTGAN_ISA=")[2].split()[0] for call in kernels}) == len(kernels)
    for compiler, module, other in (
        ("nvcc12", "_native", "_native_cuda13_"),
        ("nvcc", "_native_cuda13", "/_native_bindings"),
    ):
        *_, compiled, linked = source.calls(compiler)
        assert f"{module}_cuda_one.o" in compiled
        assert f"{module}_bindings.o" in linked
        assert "loss_generic.o" in linked
        assert other not in linked
        assert f"/{module}." in linked.split()[-1]
    assert "--compress-mode=size" in source.calls("nvcc")[-2]


def test_modules_of_an_earlier_build_are_removed(source, two):
    """They would be loaded beside this one's."""
    for folder in ("lib/fastgan", "fastgan"):
        done = source.run("setup.py", "-q", "build_ext", "--build-lib", "lib", "--inplace", FASTGAN_CUDA=two)
        assert done.returncode == 0, done.stderr
        assert len(list((source.folder / folder).glob("_native_cuda13*.so"))) == 1
        done = source.run("setup.py", "-q", "build_ext", "--build-lib", "lib", "--inplace", FASTGAN_CUDA="0")
        assert done.returncode == 0, done.stderr
        assert len(list((source.folder / folder).glob("_native*.so"))) == 1


def test_modules_of_an_earlier_build_are_not_packed_with_one_that_has_none(source):
    """setuptools keeps build/lib; in place they stay, and `info` tells of it."""
    lib = source.folder / "lib" / "fastgan"
    source.build(FASTGAN_CUDA="0")
    for name in ("_nodes.so", "_nodes.so.json", "_native.pyi"):
        (lib / name).write_text("")
    source.build(FASTGAN_CUDA="0")
    assert sorted(path.name for path in lib.glob("_n*") if path.suffix != ".so") == ["_native.pyi"]
    assert len(list(lib.glob("_native*.so"))) == 1
    done = source.run("setup.py", "-q", "build_ext", "--build-lib", "lib", FASTGAN_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in lib.glob("_n*")] == ["_native.pyi"]


def test_toolkits_that_cannot_be_built_side_by_side(source, two):
    new, old = two.split(":")
    assert "expected one toolkit of each major version, got 12.4, 12.4" in source.fails(FASTGAN_CUDA=f"{old}:{old}")
    assert f"FASTGAN_CUDA is {new}x, where there is no bin/nvcc" in source.fails(FASTGAN_CUDA=f"{old}:{new}x")
    source.script("nvcc", OLD % "", "old")
    assert "which needs 12.1 or newer" in source.fails(FASTGAN_CUDA=two)


def test_one_folder_is_a_toolkit_too(source, two):
    folder, _ = two.split(":")
    facts = source.build(FASTGAN_CUDA=folder)
    assert facts["cuda compiler"] == "Cuda compilation tools, release 13.1, V13.1.99"
    assert not list((source.folder / "lib" / "fastgan").glob("_native_cuda*"))
    source.script("nvcc", NEW % "echo broken on purpose >&2; exit 1", "new")
    assert "broken on purpose" in source.fails(FASTGAN_CUDA=folder), "as 1: it must be built"


@pytest.mark.parametrize(
    ("modules", "cuda", "expected"),
    [
        ([], "13.0", "_native"),
        (["_native_cuda13"], "13.2", "_native_cuda13"),
        (["_native_cuda13"], "12.8", "_native"),
        (["_native_cuda13"], None, "_native"),
        (["_native_cuda13", "_native_cuda14"], "13.0", "_native_cuda13"),
        (["_native_cuda9", "_native_cuda13"], "14.0", "_native_cuda13"),
        (["_native_cuda", "_native_cuda13x"], "13.0", "_native"),
    ],
)
def test_the_module_that_is_loaded(tmp_path, modules, cuda, expected):
    """The newest that torch's own CUDA version reaches."""
    for module in ("_native", *modules):
        (tmp_path / f"{module}.py").touch()
    (tmp_path / "_native_cuda12.cpython-20-another-python.so").touch()
    assert module_name(str(tmp_path), cuda) == expected


@pytest.mark.skipif(not getattr(native, "__name__", "").endswith("._native"), reason="there is no fastgan._native")
@pytest.mark.parametrize(
    ("cuda", "expected"),
    slow_but([("13.0", "_native_cuda13")], [("13.0", "_native_cuda13"), ("12.8", "_native"), (None, "_native")]),
)
def test_one_module_is_loaded_and_told_of(tmp_path, cuda, expected):
    """A package with two: the other is not even imported."""
    shutil.copytree(ROOT / "fastgan", tmp_path / "fastgan", symlinks=True)
    shutil.copy(native.__file__, tmp_path)
    (tmp_path / "fastgan" / "_native_cuda13.py").write_text("from _native import *\n")
    code = (
        f"import torch, sys; torch.version.cuda = {cuda!r}\n"
        "import fastgan; print(fastgan.info()['extension'], fastgan.generator_loss(torch.zeros(2)).item())\n"
        "print([name for name in sys.modules if name.startswith('fastgan._native')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == expected
    assert "0.693" in done.stdout
    assert f"['fastgan.{expected}']" in done.stdout


def test_architectures_are_taken_from_the_environment(source):
    source.script("nvcc", FAKE_NVCC % "")
    assert source.build(TORCH_CUDA_ARCH_LIST="9.0")["cuda architectures"] == "9.0"
    assert "does not know 12.0" in source.build(TORCH_CUDA_ARCH_LIST="12.0")["cuda"]
    assert "does not know 12.0" in source.fails(TORCH_CUDA_ARCH_LIST="12.0", FASTGAN_CUDA="1")


@pytest.mark.parametrize(
    ("said", "expected", "origin"),
    [
        ("echo 9.0; echo 8.0; echo 9.0", "8.0 9.0+PTX", "this machine's GPUs (8.0 9.0)"),
        ("echo 12.0", "9.0+PTX", "this machine's GPUs (12.0)"),
        ("echo '[N/A]'", "8.0 9.0+PTX", "all of a release, as nvidia-smi tells of no GPU"),
        ("echo no driver; exit 9", "8.0 9.0+PTX", "all of a release, as nvidia-smi tells of no GPU"),
    ],
)
def test_this_machines_gpus_are_built_for(source, said, expected, origin):
    source.script("nvcc", FAKE_NVCC % "")
    source.script("nvidia-smi", FAKE_SMI % said)
    done = source.run("setup.py", "-q", "build_ext", "--build-lib", "lib", FASTGAN_CUDA="1")
    assert f"compiling CUDA kernels for {expected} (from: {origin}), about 1 min on two cores" in done.stderr
    assert "TORCH_CUDA_ARCH_LIST=9.0 takes one architecture; FASTGAN_CUDA=0 leaves CUDA out" in done.stderr
    facts = json.loads((source.folder / "lib" / "fastgan" / "_build.json").read_text())
    assert facts["cuda architectures"] == expected
    assert facts["cuda architectures from"] == origin


def test_a_gpu_that_is_too_old_and_all(source):
    source.script("nvcc", FAKE_NVCC % "")
    source.script("nvidia-smi", FAKE_SMI % "echo 7.0")
    why = "this machine's GPUs are 7.0, and this CUDA compiler knows 8.0 9.0"
    assert why in source.build()["cuda"]
    assert why in source.fails(FASTGAN_CUDA="1")
    facts = source.build(TORCH_CUDA_ARCH_LIST="all")
    assert facts["cuda architectures"] == "8.0 9.0+PTX"
    assert facts["cuda architectures from"] == "TORCH_CUDA_ARCH_LIST"


def test_an_old_setuptools_is_refused_in_plain_words(source):
    """Before it reads pyproject.toml."""
    package = source.folder / "old" / "setuptools"
    (package / "command").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "__version__ = '65.5.0'\nExtension = object\ndef setup(**_): print('setup ran')\n"
    )
    (package / "command" / "__init__.py").touch()
    (package / "command" / "build_ext.py").write_text("class build_ext: pass\n")
    done = source.run("setup.py", "build_ext", PYTHONPATH=str(package.parent))
    assert done.returncode == 1
    assert "setup.py: expected setuptools 77 or newer, got 65.5.0: pip install 'setuptools>=77'" in done.stderr
    assert "setup ran" not in done.stdout


def test_a_compiler_that_fails_is_told(source):
    (source.folder / "csrc" / "cuda" / "another.cu").write_text("// another")
    fails = "case $* in *one.cu*) echo broken on purpose >&2; exit 1;; *) echo a warning;; esac"
    source.script("nvcc", FAKE_NVCC % fails)
    facts = source.build()
    assert facts["native"] == "built"
    assert facts["cuda"].startswith("not built: ")
    assert "broken on purpose" in facts["cuda"]
    assert "a warning" not in facts["cuda"].split("broken")[0]
    assert "cuda architectures" not in facts
    assert "-DFASTGAN_WITH_CUDA" not in [call for call in source.calls("cxx") if "bindings.cpp" in call][-1]
    assert "broken on purpose" in source.fails(FASTGAN_CUDA="1")


@pytest.mark.parametrize("variable", ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"])
def test_options_that_change_results_are_refused(source, variable):
    """They reach nvcc whatever its command line says, and without a word."""
    source.script("nvcc", FAKE_NVCC % "")
    for flags in ("--use_fast_math", "-lineinfo -fmad true", "--ftz=true", "-prec-div=false", "-Xcompiler -Ofast"):
        said = f"{variable}: expected no options for arithmetic, got {flags!r}"
        assert source.build(**{variable: flags})["cuda"] == f"not built: {said}"
        assert said in source.fails(FASTGAN_CUDA="1", **{variable: flags})
    assert source.build(FASTGAN_CUDA="1", **{variable: "-ccbin g++ -lineinfo"})["cuda"] == "built"


def test_not_wanted(source):
    source.script("nvcc", FAKE_NVCC % "")
    assert source.build(FASTGAN_CUDA="0")["cuda"] == "not built: FASTGAN_CUDA=0"
    assert source.calls("nvcc") == []
    (source.folder / "csrc" / "cuda" / "one.cu").unlink()
    assert source.build()["cuda"] == "not built: no CUDA sources"
    assert "expected 0, 1, wheels, toolkits' folders or nothing" in source.fails(FASTGAN_CUDA="on")
    assert "FASTGAN_NATIVE=0 leaves nothing" in source.fails(FASTGAN_NATIVE="0", FASTGAN_CUDA="1")


@pytest.mark.usefixtures("without_packages")
def test_an_isolated_build_is_told_to_fetch_the_compiler(source, toolkit):
    code = "from setuptools import build_meta as b; print(b.get_requires_for_build_wheel())"
    assert "nvidia" not in source.run("-c", code).stdout
    asked = source.run("-c", code, FASTGAN_CUDA="wheels")
    for package in toolkit.PACKAGES:
        assert package in asked.stdout, asked.stderr


KERNEL = """
#include <cuda_runtime.h>
__global__ void twice(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= 2.0f;
}
extern "C" __attribute__((visibility("default"))) int version() {
  twice<<<1, 32>>>(nullptr, 0);  // an error code where there is no GPU
  int number = 0;
  return cudaRuntimeGetVersion(&number) == cudaSuccess ? number : -1;
}
"""


def test_a_kernel_is_compiled_and_linked(toolkit, tmp_path, monkeypatch):
    """For every architecture of a release; it needs nothing but the C library to load."""
    setup = load(ROOT / "setup.py")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "all")
    try:
        cuda = toolkit.Toolkit(setup.run)
    except toolkit.NoCudaError as error:
        pytest.skip(str(error))
    source, output, library = (str(tmp_path / name) for name in ("a.cu", "a.o", "a.so"))
    Path(source).write_text(KERNEL)
    setup.run(cuda.compile(source, output, str(tmp_path)))
    setup.run(cuda.link([output], library))
    assert "a.cu" in Path(f"{output}.d").read_text()
    assert ctypes.CDLL(library).version() >= 11000
    assert "cudart" not in setup.run(["ldd", library])
