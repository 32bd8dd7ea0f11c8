"""The benchmark times what it says: its baselines compute what fastgan computes, and its report is made."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
BENCH = Path(__file__).parents[1] / "bench"


def test_baselines_compute_the_same(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import cases

    for case in (*cases.CASES, *cases.SEQUENCES):
        cases.check(case)
    import penalty_cases

    penalty_cases.check((3, 3, 16, 16))


def test_the_report_of_penalties_is_made(tmp_path):
    command = [sys.executable, str(BENCH / "penalties.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png"}
    assert "whole penalty" in done.stdout
    assert "says nothing of speed" in done.stdout


def test_the_report_of_whole_steps_is_made(tmp_path):
    """Small ones of each kind of output and argument; before a case is timed values and gradients are compared."""
    command = [sys.executable, str(BENCH / "penalty_steps.py"), "--quick", "--out", str(tmp_path), "--only"]
    names = [
        "conv",
        "spectral norm",
        "batch norm",
        "vocoder",
        "projection",
        "attention",
        "dict",
        "list",
        "autocast",
    ]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png"}
    for heading in ("whole penalty step", "whole discriminator step", "What a penalty costs", "of 6 cases"):
        assert heading in done.stdout
    assert "says nothing of speed" in done.stdout


def test_the_report_of_trainers_is_made(tmp_path):
    """Small batches of all but the heaviest; before a case is timed both contenders' results are compared."""
    command = [sys.executable, str(BENCH / "trainers.py"), "--quick", "--out", str(tmp_path), "--only"]
    trainers = ["pix2pix", "basicsr", "mmagic", "cyclegan", "taming", "monai", "magvit2", "wgan_gp", "biggan"]
    trainers += ["studiogan", "gigagan", "relativisticgan", "torchgan", "parallelwavegan"]
    done = subprocess.run([*command, *trainers], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png"}
    assert "3 scales, 12 maps" in done.stdout
    assert "says nothing of speed" in done.stdout


def test_the_report_is_made(tmp_path):
    command = [sys.executable, str(BENCH / "report.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png"}
    assert "nonsaturating D" in done.stdout
    assert "says nothing of speed" in done.stdout


def test_the_script_for_a_gpu_runs_without_one(tmp_path):
    command = [sys.executable, str(BENCH / "gpu.py"), "--device", "cpu", "--quick", "--only", "losses"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {".json", ".md"} <= {p.suffix for p in tmp_path.iterdir()}
