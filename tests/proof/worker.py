"""One batch of a claim's work in a process of its own: `python -m tests.proof.worker PART NAME SEED`.

Prints one line of JSON, the last: a Batch, or a "failure", or why it is "unavailable".
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import sys
import traceback

import torch

from tests.proof.claims import Batch, Claim, Unavailable


def find(part: str, name: str) -> Claim:
    """Return the claim of a part by its name."""
    module = importlib.import_module(f"tests.proof.{part}")
    return next(claim for claim in module.CLAIMS if claim.name == name)


def work(claim: Claim, seed: int) -> dict[str, object]:
    """Return what a batch of a claim's work says."""
    try:
        torch.manual_seed(seed)
        batch: Batch = claim.work(seed)
    except Unavailable as why:
        return {"unavailable": str(why)}
    except AssertionError as failure:
        return {"failure": "\n".join([str(failure) or traceback.format_exc(), *getattr(failure, "__notes__", ())])}
    except Exception:
        return {"failure": traceback.format_exc()}
    if claim.limit is not None and not (batch.worst is not None and batch.worst <= claim.limit):
        return {**batch._asdict(), "failure": f"{batch.text or batch.worst}: expected at most {claim.limit:g}"}
    return batch._asdict()


def main() -> None:
    """The command line."""
    part, name, seed = sys.argv[1:]
    faulthandler.enable()
    with contextlib.redirect_stdout(sys.stderr):
        said = work(find(part, name), int(seed))
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
