"""The demo agrees with the reference, and trainers with one changed import with what they were before it."""

import os
import re
import subprocess
import sys
import wave

import pytest

from tests.helpers import ROOT
from tests.helpers.ranks import needs_fsdp

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"
DEMO = EXAMPLES / "digits.py"


def start(script, *options):
    """As in an environment in which this checkout is installed."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def run(script, *options):
    done = start(script, *options)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--loss", "hinge", "--relativistic", "average"],
        ["--loss", "wgan", "--relativistic", "paired"],
        ["--loss", "wgan-gp"],
        ["--penalty", "r1"],
    ],
)
def test_the_demo(options, tmp_path):
    done = run(DEMO, "--steps", "15", "--out", str(tmp_path), *options)
    for name in ("samples.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    loss, gradient = re.search(r"loss (\S+), gradient (\S+)", done.stdout.splitlines()[-1]).groups()
    assert float(loss) < 1e-6
    assert float(gradient) < 1e-7


def difference(done, steps):
    """What the last line says: the largest relative difference of the curves."""
    line = done.stdout.splitlines()[-1]
    found = re.fullmatch(
        rf"largest difference over {steps} steps: (?:0 \(bitwise equal\)|\S+ \(relative (\S+)\))", line
    )
    assert found, line
    return float(found[1] or 0)


@pytest.mark.parametrize("name", ["pix2pix", "vocoder", "vqgan", "r3gan", "wgan_gp"])
def test_a_trainer_with_one_changed_import(name, tmp_path):
    pytest.importorskip("tqdm")
    done = run(EXAMPLES / f"{name}.py", "--steps", "4", "--out", str(tmp_path))
    pictures = ["curves.png", "spectrograms.png" if name == "vocoder" else "samples.png"]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    if name == "vocoder":
        with wave.open(str(tmp_path / "sound.wav")) as file:
            assert (file.getframerate(), file.getsampwidth()) == (8000, 2)
            assert file.getnframes() == 2 * (8 * 4000 + 4000)
    assert difference(done, 4) < 1e-5


@needs_fsdp
@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12), ("float32", 1e-5)])
def test_a_sharded_discriminator(dtype, most, tmp_path):
    done = run(EXAMPLES / "fsdp_r1.py", "--steps", "2", "--dtype", dtype, "--out", str(tmp_path))
    assert (tmp_path / "held.png").read_bytes().startswith(b"\x89PNG")
    whole, before, during, after, off = re.search(
        r"(\d+) bytes of.*holds (\d+) before a step, (\d+) while .*, (\d+) after\n.*2 steps: (\S+) of",
        done.stdout,
        re.DOTALL,
    ).groups()
    assert before == after
    assert int(before) < 0.6 * int(whole) == 0.6 * int(during)
    assert float(off) < most


@pytest.mark.parametrize("options", [[], ["--checkpoint"]])
def test_a_transformer(options, tmp_path):
    done = run(EXAMPLES / "transformer_r1.py", "--steps", "2", "--tokens", "600", "--out", str(tmp_path), *options)
    assert "profiler" not in done.stderr
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    ours, plain = (float(m) for m in re.findall(r"(\d+) MiB at the peak", done.stdout))
    assert ours < 0.5 * plain
    assert float(re.search(r"gradient: (\S+) of", done.stdout)[1]) < 1e-5


def test_the_tour(tmp_path):
    pytest.importorskip("tqdm")
    command = [sys.executable, str(EXAMPLES / "tour.py")]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the same gradients: True" in done.stdout
    assert "second derivatives: True" in done.stdout
    for picture in ("gradient.png", "wgan-gp.png", "speed.png"):
        assert (tmp_path / "demo" / "tour" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("digits.py", ["--steps", "0"], "argument --steps: expected an integer of at least 1, got '0'"),
        ("digits.py", ["--loss", "wgan-gp", "--penalty", "r1"], "argument --penalty: --loss wgan-gp has its own"),
        ("digits.py", ["--interval", "4"], "argument --interval: has no effect without a penalty"),
        ("wgan_gp.py", ["--steps", "-1"], "argument --steps: expected an integer of at least 1, got '-1'"),
        ("penalty_engines.py", ["--steps", "0"], "argument --steps: expected an integer of at least 1, got '0'"),
        ("adversarial/plain.py", ["--steps", "x"], "argument --steps: expected an integer of at least 1, got 'x'"),
        ("fsdp_r1.py", ["--ranks", "0"], "argument --ranks: expected an integer of at least 1, got '0'"),
        ("transformer_r1.py", ["--heads", "3"], "argument --width: expected a multiple of the 3 heads, got 128"),
    ],
)
def test_unfit_options(script, options, said):
    pytest.importorskip("tqdm")
    done = start(EXAMPLES / script, *options)
    assert done.returncode == 2
    assert f"error: {said}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_a_package_that_is_missing(name, tmp_path):
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\")")
    search = os.pathsep.join([str(tmp_path), str(EXAMPLES.parent)])
    command = [sys.executable, str(EXAMPLES / "adversarial" / f"with_{name}.py")]
    environment = {**os.environ, "PYTHONPATH": search}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == f"No module named '{name}'; this example needs `pip install {name}`\n"


def test_a_trainer_in_float64(tmp_path):
    done = run(EXAMPLES / "r3gan.py", "--steps", "4", "--double", "--out", str(tmp_path))
    assert difference(done, 4) < 1e-13


@pytest.mark.parametrize(
    ("name", "needs"),
    [("plain", "tqdm"), ("with_ddp", "tqdm"), ("with_lightning", "lightning"), ("with_accelerate", "accelerate")],
)
def test_an_adversarial_step(name, needs, tmp_path):
    pytest.importorskip(needs)
    done = run(EXAMPLES / "adversarial" / f"{name}.py", "--steps", "6", "--out", str(tmp_path))
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'samples.png'}"


def test_the_engines_of_a_penalty(tmp_path):
    """Uncompiled: tests/discriminator/test_compiled.py has what is compiled."""
    pytest.importorskip("tqdm")
    done = run(EXAMPLES / "penalty_engines.py", "--steps", "3", "--no-compile", "--out", str(tmp_path))
    for model in ("r3gan", "wgan-gp"):
        for picture in ("samples.png", "curves.png"):
            assert (tmp_path / model / picture).read_bytes().startswith(b"\x89PNG")
    found = re.findall(r"largest difference over 3 steps, of the curve's size: eager (\S+)$", done.stdout, re.M)
    assert len(found) == 2
    assert max(map(float, found)) < 1e-13


def test_engines_whose_curves_part(tmp_path):
    pytest.importorskip("tqdm")
    options = ["--model", "wgan-gp", "--steps", "1", "--no-compile", "--bound", "-1", "--out", str(tmp_path)]
    done = start(EXAMPLES / "penalty_engines.py", *options)
    assert done.returncode == 1
    assert done.stderr.endswith("the curves of wgan-gp are further apart than -1.0\n")
