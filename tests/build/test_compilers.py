"""The user's C++ compiler and flags: all of CXX is kept, and no flag changes results."""

import subprocess
import sys

import pytest

from fastgan import nodes_build as building
from tests.build.test_cuda_build import FAKE_CXX, FAKE_NVCC, Source, load
from tests.helpers import ROOT

LAUNCHER = '#!/bin/sh\necho "$@" >> "$LOG.launcher"\nexec "$@"\n'
# Each gives a compiler leave to change the results of the code.
ALONE = (
    "-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-ffinite-math-only", "-fno-signed-zeros",
    "-freciprocal-math", "-fassociative-math -fno-signed-zeros -fno-trapping-math", "-ffp-contract=fast",
)  # fmt: skip
CODE = """
float sum(const float* x) { float s = 0; for (int i = 0; i < 64; ++i) s += x[i]; return s; }
float zero(float a) { return a - a; }
float positive(float a) { return a + 0.0f; }
float half(float a, float b, float c) { return a / c + b / c; }
float fused(float a, float b, float c) { return a * b + c; }
bool number(float a) { return a == a; }
"""


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Programs on a PATH of their own."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str) -> str:
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_all_words_of_cxx_are_kept(program, monkeypatch):
    program("ccache")
    path = program("A compiler")
    for words in (["ccache", path, "-m64"], [path, "-DX=a b"]):
        monkeypatch.setenv("CXX", building.shlex.join(words))
        assert building.find_compiler() == words
        assert building.behind_launcher(words)[0] == path
    assert building.behind_launcher(["/usr/lib/ccache"]) == ["/usr/lib/ccache"]


@pytest.mark.parametrize("named", ["nonexistent", "ccache nonexistent", "nonexistent g++"])
def test_a_cxx_that_is_not_there(program, monkeypatch, named):
    """Another compiler is no substitute for the one that was named."""
    program("g++")
    program("ccache")
    monkeypatch.setenv("CXX", named)
    with pytest.raises(
        FileNotFoundError, match=r"CXX: expected a C\+\+ compiler that is on the PATH, got 'nonexist"
    ):
        building.find_compiler()


def test_a_quotation_without_an_end(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-DX='a")
    with pytest.raises(ValueError, match=r"CXXFLAGS: expected words as a shell takes them, got \"-DX='a\""):
        building.compile_flags()


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_flags_that_are_read(monkeypatch, system):
    """ARCHFLAGS are macOS's; CFLAGS are for C, of which there is none."""
    monkeypatch.setattr(sys, "platform", system)
    for name in ("CPPFLAGS", "CXXFLAGS", "CFLAGS", "LDFLAGS", "ARCHFLAGS"):
        monkeypatch.setenv(name, f"-D{name}")
    arch = ["-DARCHFLAGS"] if system == "darwin" else []
    assert building.compile_flags() == ["-DCPPFLAGS", "-DCXXFLAGS", *arch, *building.EXACT]
    assert building.link_flags() == ["-DLDFLAGS", *arch, *building.EXACT]


def test_an_install_goes_on_without_the_cxx_that_is_not_there(source):
    why = "CXX: expected a C++ compiler that is on the PATH, got 'nonexistent'"
    done = source.run("setup.py", "-q", "build_ext", "--build-lib", "lib", CXX="nonexistent")
    assert done.returncode == 0, done.stderr
    assert f"native kernels were not built: {why}" in done.stderr
    assert why in source.fails(CXX="nonexistent", FASTGAN_NATIVE="1")
    assert "CXX: expected words as a shell takes them" in source.fails(CXX="c++ 'x", FASTGAN_NATIVE="1")


def test_the_flags_reach_the_compilers(source):
    """Before ours, in C++ and by way of nvcc, which takes one program and splits at commas."""
    source.script("ccache", LAUNCHER)
    source.script("g++-9", FAKE_CXX)
    source.script("nvcc", FAKE_NVCC % "")
    flags = {"CPPFLAGS": "-DA=1,2", "CXXFLAGS": "-std=c++20 -ffast-math", "LDFLAGS": "-Wl,-O1"}
    facts = source.build(CXX="ccache g++-9 -m64", FASTGAN_CUDA="1", MAX_JOBS="3", **flags)
    assert facts["flags"].startswith("-m64 -DA=1,2 -std=c++20 -ffast-math -O3 -fno-fast-math ")
    assert any(call.startswith("g++-9 -m64 -DA=1,2") for call in source.calls("launcher"))
    *_, compiled, linked = source.calls("nvcc")
    for call in (compiled, linked):
        assert "-ccbin g++-9 -Xcompiler=-m64 " in call
    assert r"-Xcompiler=-DA=1\,2 -Xcompiler=-ffast-math -Xcompiler=-O3 -Xcompiler=-fno-fast-math " in compiled
    assert "c++20" not in compiled
    assert compiled.index("-ffp-contract=off,") > compiled.index("-ffast-math")
    assert " --threads 3 " in compiled
    assert r"-Xcompiler=-Wl\,-O1 -Xcompiler=-O3 " in linked
    facts = source.build(CXX="ccache g++-9", FASTGAN_CUDA="0", **flags)
    assert source.calls("cxx")[-1].find("-Wl,-O1 -O3 -fno-fast-math") > 0
    assert "-ccbin" not in (source.build(FASTGAN_CUDA="1") and source.calls("nvcc")[-1])


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_max_jobs(monkeypatch, value):
    setup = load(ROOT / "setup.py")
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(ValueError, match=f"MAX_JOBS: expected a whole number above 0, got '{value}'"):
        setup.max_jobs()
    monkeypatch.setenv("MAX_JOBS", "2")
    assert setup.max_jobs() == 2
    monkeypatch.delenv("MAX_JOBS")
    assert setup.max_jobs() == 0


def test_ninja_starts_no_more_than_that(monkeypatch, tmp_path):
    setup, ran = load(ROOT / "setup.py"), []
    monkeypatch.setattr(setup, "run", ran.append)
    monkeypatch.setenv("MAX_JOBS", "3")
    if setup.compile_all([], tmp_path) != "ninja":
        pytest.skip("there is no ninja")
    assert ran[0][-1] == "-j3"


def test_hostile_flags_change_no_code(tmp_path, monkeypatch):
    """The same assembly as without them; and the library sets no mode in which subnormals are 0."""
    try:
        cxx = building.find_compiler()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    setup, path = load(ROOT / "setup.py"), tmp_path / "a.cpp"
    path.write_text(CODE)
    monkeypatch.setenv("CXX", " ".join(cxx))

    def assembly(flags: str) -> str:
        monkeypatch.setenv("CXXFLAGS", flags)
        words = [*cxx, *building.compile_flags(), *setup.FLAGS, *setup.ISAS.get("v3", [])]
        return setup.run([*words, "-S", str(path), "-o", "-"])

    plain = assembly("")
    assert "fmadd" not in plain
    for flags in (*ALONE, " ".join(ALONE)):
        assert assembly(flags) == plain, flags
    monkeypatch.setenv("LDFLAGS", " ".join(ALONE))
    words = [*cxx, "-shared", "-###", str(path), *building.link_flags()]
    assert "crtfastmath" not in subprocess.run(words, capture_output=True, text=True, check=True).stderr
