"""`python -m tests.golden BACKEND [--every K] [--write]`."""

import argparse
import json
from contextlib import nullcontext

import fastgan
from tests import golden

parser = argparse.ArgumentParser(prog="python -m tests.golden")
parser.add_argument("backend", choices=["cpu", "simulated", "triton"])
parser.add_argument("--every", type=int, default=1, help="of so many cases only one")
parser.add_argument("--write", action="store_true", help="store the hashes")
arguments = parser.parse_args()
if arguments.backend == "triton":
    from tests.helpers import interpreted  # noqa: F401 (mends Triton's interpreter)

    serving = fastgan.backend("triton")
elif arguments.backend == "simulated":
    from tests.helpers import simulated

    serving = simulated.serving()
else:
    serving = nullcontext()
with serving:
    found = golden.hashes(arguments.every)
if arguments.write:
    golden.STORED.write_text(json.dumps(found, indent=0) + "\n")
print(json.dumps(found, indent=0))
