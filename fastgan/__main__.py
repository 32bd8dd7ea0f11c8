"""`python -m fastgan info` and `python -m fastgan build`."""

from __future__ import annotations

import argparse
import sys
import time

from ._info import text


def build() -> None:
    """Build the C++ nodes for this torch, where they are not there yet, and say so."""
    import torch

    from . import nodes_build as building
    from .backends import native, nodes

    why = native.missing()
    if why:
        sys.exit(f"the nodes run the kernels of the compiled extension: {why}")
    version = torch.__version__
    folder = building.cache(torch.version)
    if nodes.module is not None or building.recorded(folder) == building.record(torch.version):
        print(f"the C++ nodes for torch {version} are there")
        return
    print(f"building the C++ nodes for torch {version} (some 20 seconds) ...", end=" ", flush=True)
    begin = time.monotonic()
    try:
        path = building.build(torch, building.find_compiler(), folder)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"failed\n{error}")
    print(f"done in {time.monotonic() - begin:.0f} s: {path}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m fastgan")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what was built, what is used, and why not the rest")
    commands.add_parser(
        "build", help="the C++ nodes of autograd, for the torch that is here, into the user's cache"
    )
    if parser.parse_args().command == "build":
        build()
    else:
        print(text())


if __name__ == "__main__":
    main()
