"""The house stays in order: private names in one file, no cycles of imports, public types, prose."""

import inspect
import pkgutil
import re
import typing

import pytest

import fastgan
from fastgan.backends import native
from fastgan.discriminator import forward
from tests.helpers import house, prose

# They read more of torch's private names, by their nature: see _torch_internals.py.
ENGINE = {"_torch_internals.py", "compile.py", "traced.py", "dynamo.py"}
PUBLIC = (  # noqa: SIM905
    "discriminator_loss generator_loss reduce_terms gradient_penalty r1_penalty r2_penalty norm_penalty gradient_norm"
    " interpolate feature_matching_loss lecam_penalty adaptive_weight discriminator_step"
).split()


def test_private_names_of_torch_stand_in_one_file():
    private = re.compile(r"\btorch\.(?:\w+\.)*_[a-z]\w*|from torch\S* import .*\b_[a-z]\w*")
    for path in (house.PACKAGE).rglob("*.py"):
        if path.name not in ENGINE:
            found = [m for m in private.findall(path.read_text()) if m not in ("torch.__version__",)]
            assert not found, f"{path}: {found}"


def test_imports_have_no_cycle():
    assert house.cycles(house.imports()) == []


def test_the_measure_sees_a_cycle():
    assert house.cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert house.depth({"a": {"b"}, "b": {"c"}, "c": set()}) == 3


@pytest.mark.skipif(native.native is None, reason="the compiled kernels, whose path is measured, are not there")
def test_calls_stay_short(monkeypatch):
    """Files that a call goes through, and changes of file: docs/architecture.md shows the path."""
    monkeypatch.setattr(forward, "fsdp_is_used", lambda: False)  # as other tests may have done
    most = {
        "discriminator_loss": (6, 7),
        "norm_penalty": (7, 9),
        "gradient_penalty": (14, 35),
        "discriminator_step": (16, 47),
    }
    calls = house.traced_calls()
    for name, (files, changes) in most.items():
        got = house.trace(calls[name])
        assert got[1] <= files, (name, got)
        assert got[2] <= changes, (name, got)


def test_no_module_is_shadowed_by_a_function_of_its_name():
    for name in (m.name for m in pkgutil.iter_modules(fastgan.__path__) if m.name != "__main__"):
        found = getattr(fastgan, name, None)
        assert found is None or inspect.ismodule(found), name


def test_public_functions_return_no_any():
    for name in PUBLIC:
        function = getattr(fastgan, name)
        returned = inspect.get_annotations(function)["return"]
        assert "Any" not in returned, (name, returned)
        for overload in typing.get_overloads(function) if hasattr(typing, "get_overloads") else ():
            assert "Any" not in inspect.get_annotations(overload)["return"], name
        own = [p for p in inspect.signature(function).parameters.values() if p.name not in ("args", "kwargs")]
        # What a discriminator takes and returns is its own affair.
        assert not [
            p.name
            for p in own
            if "Any" in str(p.annotation) and p.name not in ("discriminator", "fake_args", "loss")
        ]


def test_prose():
    """Sentences of at most 30 words, and functions' docstrings in the imperative, in the package and these pages."""
    pages = [prose.ROOT / "docs" / name for name in ("architecture.md", "decisions.md")]
    assert prose.long_sentences([*prose.CODE, *pages]) == []
    assert prose.noun_phrases(prose.CODE) == []


def test_the_measure_of_prose_sees_faults(tmp_path):
    page = tmp_path / "long.md"
    page.write_text("Word " * 31 + ".\n")
    assert len(prose.long_sentences([page])) == 1
