"""`python -m tests.proof [PART...] [--hours H] [--seed S]`: exits with 1 where a claim does not hold."""

import argparse
import importlib
import os
from pathlib import Path

from tests.helpers import ROOT
from tests.proof import report
from tests.proof.run import Run

PARTS = (
    "accuracy",
    "bits",
    "memory",
    "misuse",
    "fuzz",
    "adapters",
    "operators",
    "training",
    "processors",
    "supply",
)


def claims(parts: list[str]) -> dict:
    """Return the claims of these parts by part and name, in the table's order."""
    modules = {part: importlib.import_module(f"tests.proof.{part}") for part in parts}
    return {(part, claim.name): claim for part, module in modules.items() for claim in module.CLAIMS}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--hours", type=float, default=0.0, help="go on with further seeds until so many are over")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch of each claim")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="batches at a time")
    parser.add_argument("--anew", action="store_true", help="do not go on where an earlier run was stopped")
    parser.add_argument(
        "--state", type=Path, default=ROOT / "build" / "proof" / "state.json", help="keeps what is done"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"PART: expected one of {', '.join(PARTS)}, got {part}")
    if options.anew:
        options.state.unlink(missing_ok=True)
    run = Run(claims(options.parts or list(PARTS)), options.state, options.seed, options.jobs)
    run(options.hours)
    text = report.table(run)
    print(text)
    if options.write:
        report.write(options.write, text)
    for key in run.failed():
        said = run.records[key].failure or "it holds, though it is listed as known not to"
        print(f"{': '.join(key)}\n\n{said}\n")
    raise SystemExit(bool(run.failed()))


if __name__ == "__main__":
    main()
