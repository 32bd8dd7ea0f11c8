"""`python -m fastgan info`."""

from __future__ import annotations

import argparse

from ._info import text


def main() -> None:
    """Parse the command line; there is one command."""
    parser = argparse.ArgumentParser(prog="python -m fastgan")
    parser.add_argument(
        "command", choices=["info"], help="info: what was built, what is used, and why not the rest"
    )
    parser.parse_args()
    print(text())


if __name__ == "__main__":
    main()
