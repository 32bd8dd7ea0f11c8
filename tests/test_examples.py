"""The demo runs for every loss and form, writes its pictures, and agrees with the reference."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
DEMO = Path(__file__).parents[1] / "examples" / "digits.py"


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
    command = [sys.executable, str(DEMO), "--steps", "15", "--out", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("samples.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    loss, gradient = re.search(r"loss (\S+), gradient (\S+)", done.stdout.splitlines()[-1]).groups()
    assert float(loss) < 1e-6
    assert float(gradient) < 1e-7
