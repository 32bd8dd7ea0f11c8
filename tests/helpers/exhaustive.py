"""Every float32 pattern through every phi: value, first and second derivative within 1 ulp.

    python -m tests.helpers.exhaustive [--stride 1] [--phi softplus]

All 2^32 patterns take some minutes; the ordinary tests run it with a large stride. The program it
builds is the kernels' own header under the kernels' own flags.
"""

import argparse
import platform
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from fastgan.backends.native import build_facts
from fastgan.backends.specs import PHIS

SOURCE = Path(__file__).with_suffix(".cpp")


@lru_cache(maxsize=1)
def program() -> str:
    """Builds tests/helpers/exhaustive.cpp into a temporary folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    program.folder = folder
    flags = build_facts()["flags"].split()
    if platform.machine() == "x86_64":
        flags.append("-march=x86-64-v3")
    out = str(Path(folder.name, "exhaustive"))
    subprocess.run(["c++", *flags, "-pthread", str(SOURCE), "-o", out], check=True)
    return out


def worst(phi: str, stride: int = 1) -> dict[str, float]:
    """The largest error in ulp of each of phi's three functions over every stride-th float32."""
    command = [program(), str(PHIS.index(phi)), str(stride)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(zip(("value", "first", "second"), map(float, done.stdout.split()), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="test every so many-th pattern")
    parser.add_argument("--phi", choices=PHIS, action="append", help="default: all")
    arguments = parser.parse_args()
    failed = False
    for phi in arguments.phi or PHIS:
        errors = worst(phi, arguments.stride)
        failed |= max(errors.values()) > 1.0
        print(f"{phi}: " + ", ".join(f"{name} {error:.4f} ulp" for name, error in errors.items()), flush=True)
    count = len(range(0, 1 << 32, arguments.stride))
    print(f"{count:,} float32 patterns a phi: {'FAILED' if failed else 'all within 1 ulp'}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
