"""The largest error of every phi and its derivatives: of all float32 patterns, and of many float64.

    python -m tests.helpers.exhaustive [--stride 1] [--phi softplus]

All 2^32 float32 patterns take some minutes; the ordinary tests run it with a large stride. The program that it builds
is the kernels' own header under the kernels' own flags.
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
ORDERS = ("value", "first", "second")


@lru_cache(maxsize=1)
def program() -> str:
    """Build tests/helpers/exhaustive.cpp into a temporary folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    program.folder = folder
    flags = build_facts()["flags"].split()
    if platform.machine() == "x86_64":
        flags.append("-march=x86-64-v3")
    out = str(Path(folder.name, "exhaustive"))
    subprocess.run(["c++", *flags, "-pthread", str(SOURCE), "-o", out], check=True)
    return out


def run(phi: str, *arguments: object, given: str = "") -> str:
    """Return what the program prints; "no long double" where float64 has no oracle here."""
    command = [program(), str(PHIS.index(phi)), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, input=given).stdout


def errors(said: str) -> dict[str, float]:
    """Read the largest error of a phi and of its two derivatives."""
    return dict(zip(ORDERS, map(float, said.split()[::2]), strict=True))


def places(said: str) -> dict[str, str]:
    """Read where these errors are, as text that float.fromhex takes."""
    return dict(zip(ORDERS, said.split()[1::2], strict=True))


def worst(phi: str, stride: int = 1) -> dict[str, float]:
    """The largest error in ulp of each of phi's three functions over every stride-th float32."""
    return errors(run(phi, "patterns", stride))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1, help="test every so many-th pattern")
    parser.add_argument("--phi", choices=PHIS, action="append", help="default: all")
    arguments = parser.parse_args()
    failed = False
    for phi in arguments.phi or PHIS:
        found = worst(phi, arguments.stride)
        failed |= max(found.values()) > 1.0
        print(f"{phi}: " + ", ".join(f"{name} {error:.4f} ulp" for name, error in found.items()), flush=True)
    count = len(range(0, 1 << 32, arguments.stride))
    print(f"{count:,} float32 patterns a phi: {'FAILED' if failed else 'all within 1 ulp'}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
