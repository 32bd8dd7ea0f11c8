"""The proof's own machinery, and a small part of what it tries: docs/reliability.md has the rest."""

import json
import re
from dataclasses import replace

import pytest
import torch

import fastgan
from fastgan.backends import native
from tests.helpers import ROOT
from tests.proof import accuracy, binding, bits, fuzz, norms, report, supply
from tests.proof.__main__ import PARTS, claims
from tests.proof.claims import Batch, Claim, Unavailable
from tests.proof.run import Record, Run, batch

needs_kernels = pytest.mark.skipif(native.native is None, reason="the compiled kernels are not there")

# ---------------------------------------------------------------------------------- runs


def counted(seed):
    """Fail at seed 3."""
    if seed == 3:
        raise AssertionError("from here import check\n\n\ndef test_found():\n    check(3)\n")
    return Batch(10, worst=seed / 10, text=f"{seed / 10} ulp")


def run_of(tmp_path, work, monkeypatch, **options):
    """A run of one claim, whose batches run in this process."""

    def here(part, claim, seed, shared):
        from tests.proof.worker import work

        return work(claim, seed)

    monkeypatch.setattr("tests.proof.run.batch", here)
    claim = Claim("it counts", work, "no seed fails", **options)
    return Run({("example", "it counts"): claim}, tmp_path / "state.json")


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    first = run_of(tmp_path, counted, monkeypatch, batches=2)
    first()
    second = run_of(tmp_path, counted, monkeypatch, batches=3)
    second()
    (record,) = second.records.values()
    assert (record.batches, record.cases, record.worst, record.text) == (3, 30, 0.2, "0.2 ulp")
    assert not second.failed()
    assert "| it counts | no seed fails | 0.2 ulp | 30 | yes |" in report.table(second)
    kept = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(kept | {"source": "another"}))
    assert not run_of(tmp_path, counted, monkeypatch).records["example", "it counts"].batches


def test_a_failure_is_printed_as_a_test_and_tried_again(tmp_path, monkeypatch):
    run = run_of(tmp_path, counted, monkeypatch, batches=9)
    run()
    (record,) = run.records.values()
    assert record.batches == 4
    assert "def test_found():\n    check(3)" in record.failure
    assert run.failed() == [("example", "it counts")]
    assert "**no**" in report.table(run)
    again = run_of(tmp_path, counted, monkeypatch, batches=9)
    again()
    assert again.records["example", "it counts"].batches == 4


def test_hours_go_on_with_further_seeds(tmp_path, monkeypatch):
    run = run_of(tmp_path, lambda seed: Batch(1), monkeypatch, endless=True)
    run(hours=0.3 / 3600)
    assert run.records["example", "it counts"].cases > 1
    long = run_of(tmp_path / "long", lambda seed: Batch(1), monkeypatch, long=True)
    long()
    assert "not run: only with HOURS" in report.table(long)


def test_a_claim_that_is_known_to_be_false(tmp_path, monkeypatch):
    run = run_of(tmp_path, lambda seed: Batch(1, worst=2.0), monkeypatch, limit=1.0, unmet="it takes too long")
    run()
    assert not run.failed()
    assert "**no**: it takes too long" in report.table(run)
    holds = run_of(tmp_path / "holds", lambda seed: Batch(1, worst=0.5), monkeypatch, limit=1.0, unmet="it fails")
    holds()
    assert holds.failed()


def unavailable(seed):
    raise Unavailable("no such machine")


def test_what_this_machine_lacks(tmp_path, monkeypatch):
    run = run_of(tmp_path, unavailable, monkeypatch)
    run()
    assert not run.failed()
    assert "not run: no such machine" in report.table(run)


@pytest.mark.parametrize(
    ("body", "said"), [("os.abort()", "ended with -6"), ("time.sleep(60)", "nothing came for")]
)
def test_a_crash_and_a_hang_are_failures_with_their_case(tmp_path, monkeypatch, body, said):
    """In a process of its own, as all batches are."""
    (tmp_path / "tests_crash.py").write_text(
        "import os, time\nfrom tests.proof.claims import *\ndef work(seed):\n    trying('check(7)')\n    "
        f"{body}\nCLAIMS = [Claim('it lives', work, 'it does')]\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    worker = (ROOT / "tests" / "proof" / "worker.py").read_text()
    (tmp_path / "worker.py").write_text(worker.replace('f"tests.proof.{part}"', "part"))
    monkeypatch.setattr("tests.proof.run.WORKER", ["worker"])
    claim = Claim("it lives", None, "it does", timeout=8 if "abort" not in body else 60)
    found = batch("tests_crash", claim, 0, str(tmp_path))
    assert said in found["failure"]
    assert "check(7)" in found["failure"]


def test_every_part_has_claims_of_different_names():
    found = claims(list(PARTS))
    assert {part for part, _ in found} == set(PARTS)
    assert len(found) == sum(len(__import__(f"tests.proof.{p}", fromlist=["CLAIMS"]).CLAIMS) for p in PARTS)
    assert not [name for _, name in found if "|" in name]


def test_the_page_lists_every_claim():
    page = (ROOT / "docs" / "reliability.md").read_text()
    listed = set(re.findall(r"^\| (.*?) \|", page, re.M))
    assert {name for _, name in claims(list(PARTS))} - listed == set()


# ---------------------------------------------------------------------------------- a part of what is claimed


@needs_kernels
def test_float64_beside_200_bits():
    assert accuracy.beside_200_bits(1).worst <= 1.0


@needs_kernels
def test_a_lost_correction_is_seen(monkeypatch):
    """softplus of float64 was once off by 1.08 ulp near -1."""
    x = torch.linspace(-2, -0.6, 5000, dtype=torch.float64)
    monkeypatch.setattr(accuracy, "hard_float64", lambda count, seed: x)
    assert accuracy.beside_200_bits(0).worst <= 1.0
    jet = accuracy.ulp.jet
    monkeypatch.setattr(accuracy.ulp, "jet", lambda phi, x: [v * (1 + 2.0**-52) for v in jet(phi, x)])
    assert accuracy.beside_200_bits(0).worst > 1.0


@needs_kernels
def test_norms(monkeypatch):
    monkeypatch.setattr(norms, "LENGTHS", norms.SHORT[:8])
    assert norms.of_ours(norms.CPU, "float32", 5).worst <= 1.0
    monkeypatch.setitem(norms.OURS, norms.CPU[-1], lambda row: row.square().sum().sqrt())
    with pytest.raises(AssertionError, match="all digits are lost"):
        norms.of_ours(norms.CPU, "float32", 5)


def test_exact_norms():
    """3, 4 and 5; and a square that float64 rounds."""
    assert norms.exact_norm(torch.tensor([3.0, 4.0])) == 5
    one = torch.tensor([1 + 2.0**-52, 2.0**-30], dtype=torch.float64)
    with norms.mpmath.workprec(300):
        want = norms.mpmath.sqrt((1 + norms.mpmath.mpf(2) ** -52) ** 2 + norms.mpmath.mpf(2) ** -60)
        assert abs(norms.exact_norm(one) - want) < norms.mpmath.mpf(2) ** -100


@needs_kernels
def test_bits():
    bits.by_layout(3)
    bits.by_parts(3)
    bits.by_set(3)


@needs_kernels
def test_calls_on_tensors_of_any_kind():
    fuzz.batch(torch.initial_seed() % 1000, 500)


@needs_kernels
def test_a_wrong_call_is_made_small_and_printed(monkeypatch):
    """The printed test finds the fault that it was printed for, and nothing without it."""

    def planted(real, fake, **options):
        value = fastgan.discriminator_loss(real, fake, **options)
        return value if real.is_contiguous() else value * 1.5

    monkeypatch.setitem(fuzz.FUNCTIONS, "discriminator_loss", planted)
    with pytest.raises(AssertionError) as failure:
        fuzz.batch(0)
    printed = str(failure.value).partition("\n\n")[2]
    space = {}
    exec(printed, space)
    with pytest.raises(AssertionError):
        space["test_found"]()
    monkeypatch.undo()
    space["test_found"]()


@needs_kernels
def test_the_binding():
    binding.batch(0, 500)


@needs_kernels
def test_a_byte_beside_a_tensor_is_seen():
    guarded = binding.Guarded()
    inside = guarded(torch.zeros(5))
    inside += 1
    assert guarded.whole()
    inside.as_strided((6,), (1,))[5] = 1
    assert not guarded.whole()


@pytest.mark.parametrize("case", [("upstream", 3), ("x", 1)])
@needs_kernels
def test_a_missing_tensor_is_refused(case):
    """Found by the fuzzing of the binding: each was a crash."""
    name, at = case
    recorded = [a for n, a in binding.sound_calls() if n == "backward" and len(a[3]) == 2]
    arguments = list(recorded[0])
    arguments[at] = (None, *arguments[at][1:])
    with pytest.raises(ValueError, match=rf"{name}\[0\]: expected a tensor, got None"):
        native.native.backward(*arguments)


def test_what_the_package_needs():
    supply.needs(0)


def test_records_take_the_worst_text():
    record = Record()
    for worst in (0.5, 0.9, 0.7):
        record.add({"cases": 1, "worst": worst, "text": str(worst)}, 1.0)
    assert record.text == "0.9"
    assert replace(record).cases == 3
