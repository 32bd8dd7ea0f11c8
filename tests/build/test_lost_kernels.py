"""A native build that got lost is told of: why, and once per process; what is left out on purpose is not."""

import os
import shutil
import subprocess
import sys
import types
import warnings

import pytest
import torch

import fastgan
from fastgan import _checks, backends
from fastgan.backends import cpu, native, nodes
from tests.helpers import ROOT

# ---------------------------------------------------------------------------- the reason


@pytest.fixture
def checkout(tmp_path):
    """A source folder that was never built."""
    folder, kept = tmp_path / "checkout", shutil.ignore_patterns("*.so*", "_build.json", "__pycache__")
    shutil.copytree(ROOT / "fastgan", folder / "fastgan", ignore=kept)
    (folder / "csrc" / "tools").mkdir(parents=True)
    (folder / "csrc" / "tools" / "toolkit.py").touch()
    return folder


# An editable install of this checkout must not lend the other its extension.
INFO = (
    "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    "import fastgan; print(fastgan.info()['backends']['cpu'])"
)


def test_a_source_folder_shadows_what_is_installed(checkout, tmp_path):
    installed = tmp_path / "site" / "fastgan"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    (checkout / "fastgan" / "_build.json").write_text('{"native": "not built: FASTGAN_NATIVE=0"}')
    done = subprocess.run(
        [sys.executable, "-c", INFO], cwd=checkout, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(installed.parent)},
    )  # fmt: skip
    assert done.stdout.strip() == (
        f"the compiled extension is not there (this is the source folder {checkout}, which shadows the fastgan "
        f"that is installed in {installed}: work in another folder, or build here with pip install -e .)"
    )


def test_a_source_folder_that_was_not_built(checkout, monkeypatch):
    told = {}
    monkeypatch.setattr(sys, "path", [str(checkout)])
    monkeypatch.setattr(native, "_PACKAGE", checkout / "fastgan")
    monkeypatch.setattr(native, "build_facts", lambda: told)
    assert native._why_missing(ModuleNotFoundError()) == (
        f"this is the source folder {checkout}, which was not built: pip install -e . does it, or "
        "python setup.py build_ext --inplace"
    )
    told["native"] = "not built: no C++ compiler was found"
    assert native._why_missing(ModuleNotFoundError()) == "not built: no C++ compiler was found"
    (checkout / "csrc" / "tools" / "toolkit.py").unlink()
    told.clear()
    assert native._why_missing(ModuleNotFoundError()) == "it was not built; see docs/install.md"
    assert native._why_missing(ImportError("undefined symbol")) == "undefined symbol"


# ---------------------------------------------------------------------------- the warning


@pytest.fixture
def facts(monkeypatch):
    """No extension, as after an install without a compiler, in a process that has not warned."""
    told = {"native": "not built: no C++ compiler was found"}
    monkeypatch.setattr(native, "native", None)
    monkeypatch.setattr(native, "_import_error", told["native"])
    monkeypatch.setattr(native, "build_facts", lambda: told)
    monkeypatch.setattr(cpu, "PREFERRED", False)
    monkeypatch.setattr(nodes, "module", None)
    monkeypatch.setattr(nodes, "scan", native._cannot_scan)
    monkeypatch.setattr(_checks, "_said", set())
    native.left_out.cache_clear()
    yield told
    native.left_out.cache_clear()


@pytest.fixture
def said():
    """The warnings of a test."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def call(x=None):
    return fastgan.generator_loss(torch.zeros(2) if x is None else x)


@pytest.mark.usefixtures("facts")
def test_a_lost_extension_is_told_of_once(said):
    call()
    call()
    (found,) = said
    assert found.category is RuntimeWarning
    assert found.filename == __file__, "where the caller stands"
    assert str(found.message) == (
        "tensors on cpu are served by plain PyTorch, which is slower (cpu: the compiled extension is not there (not built: "
        "no C++ compiler was found)). FASTGAN_BACKEND=reference, or an install with FASTGAN_NATIVE=0, takes it silently."
    )


def test_what_is_left_out_on_purpose(facts, said):
    facts["native"] = "not built: FASTGAN_NATIVE=0"
    call()
    assert not said


@pytest.mark.usefixtures("facts")
def test_the_reference_by_name(said):
    with fastgan.backend("reference"):
        call()
    assert not said


def traced():
    return torch.jit.trace(call, torch.zeros(2), check_trace=False)


def transformed():
    return torch.func.grad(call)(torch.zeros(2))


def subclass():
    return call(torch.zeros(2).as_subclass(type("Other", (torch.Tensor,), {})))


def compiled():
    return torch.compile(call, fullgraph=True, backend="eager")(torch.zeros(2))


def by_operations():
    return torch.fx.experimental.proxy_tensor.make_fx(call)(torch.zeros(2))


def on_meta():
    return call(torch.zeros(2, device="meta"))


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize("special", [traced, transformed, subclass, compiled, by_operations, on_meta])
def test_calls_that_are_the_references_by_design(said, special):
    special()
    assert not [w for w in said if "plain PyTorch" in str(w.message)]
    call()
    assert [w for w in said if "plain PyTorch" in str(w.message)], "and the next plain one is told of"


def test_a_processor_on_which_the_reference_is_faster(monkeypatch, said):
    monkeypatch.setattr(_checks, "_said", set())
    monkeypatch.setattr(cpu, "PREFERRED", False)
    monkeypatch.setattr(cpu, "missing", lambda: None)
    assert backends._automatic([torch.zeros(2)], -1).name == "reference"
    assert not said


@pytest.mark.usefixtures("facts")
@pytest.mark.parametrize("triton", [None, "Triton is not there"])
def test_tensors_on_cuda(monkeypatch, said, triton):
    """Where neither kernels serve them."""
    found = {"cuda": types.SimpleNamespace(unusable=lambda *_: "no kernels", preferred=True, differentiable=False)}
    found["triton"] = types.SimpleNamespace(unusable=lambda *_: triton, preferred=True, differentiable=False)
    named = backends.named
    monkeypatch.setattr(backends, "named", lambda name: found.get(name) or named(name))
    tensor = types.SimpleNamespace(device=torch.device("cuda:1"))
    assert (backends._automatic([tensor], 0) is found["triton"]) == (triton is None)
    assert [str(w.message).split(". F")[0] for w in said] == [
        "tensors on cuda are served by plain PyTorch, which is slower (cuda: no kernels; triton: Triton is not there)"
    ] * (triton is not None)


@pytest.mark.skipif(native.native is None, reason="the kernels are not there")
def test_it_costs_nothing_where_kernels_serve(monkeypatch):
    """Not even a look at what was said."""
    monkeypatch.setattr(backends, "has_warned", None)
    monkeypatch.setattr(backends, "_tell_of_a_loss", None)
    if not cpu.PREFERRED:
        pytest.skip("the reference is faster on this processor")
    call()
    call(torch.zeros(2, requires_grad=True)).backward()
