"""`python -m bench SUITE`: the measurements of record. What a suite takes: `python -m bench SUITE --help`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

SUITES = ("steps", "losses", "penalties", "penalty-steps", "trainers", "attention")
# With a command line of their own: those of bench/gpu.sh, two checkouts side by side, and the page of figures.
PROGRAMS = {"gpu": "gpu", "gpu-shapes": "gpu_shapes", "gpu-ncu": "gpu_ncu", "versions": "versions", "page": "page"}


def main(given: list[str]) -> None:
    """Run a suite or a program with the rest of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, *PROGRAMS))
    name = parser.parse_args(given[:1]).suite
    if name in SUITES:
        from bench import harness, page

        harness.main(import_module(f"bench.suites.{name.replace('-', '_')}").SUITE, given[1:])
        if not given[1:]:  # a part of the cases, or a look, is nothing for the pages
            page.write()
    else:
        import_module(f"bench.{PROGRAMS[name]}").main(given[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
