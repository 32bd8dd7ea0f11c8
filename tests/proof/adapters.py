"""Every adapter of fastgan.compat against its trainer's formulas (bench/baselines), over options that are drawn.

adapter_cases.py has cases, adapter_losses.py and adapter_steps.py have what is compared.
"""

from __future__ import annotations

from tests.proof import adapter_losses, adapter_pictures, adapter_sounds, adapter_steps  # noqa: F401 (the subjects)
from tests.proof.adapter_cases import SUBJECTS, Case, check, find  # noqa: F401 (of printed tests)
from tests.proof.claims import Batch, Claim


def subjects(trainer: str) -> list[str]:
    """Return the subjects of a trainer."""
    return [name for name, subject in SUBJECTS.items() if subject.trainer == trainer]


def work(seed: int, trainer: str = "") -> Batch:
    """Try cases of each subject, of one trainer or of all."""
    names = subjects(trainer) if trainer else list(SUBJECTS)
    return Batch(sum(find(name, 10, seed) for name in names), text=f"{len(names)} functions, classes and steps")


CLAIMS = [
    Claim(
        "adapters compute what their trainers do",
        work,
        "results, graphs, gradients, draws and states are those of the trainers' formulas, up to rounding",
        batches=2,
        endless=True,
    )
]
