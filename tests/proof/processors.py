"""The suite as on other processors: PyTorch's, oneDNN's and MKL's kernels for narrower instruction sets.

No test may compare noise: what holds must hold with the roundings of any processor.
"""

from __future__ import annotations

from tests.proof import suite
from tests.proof.claims import Batch, Claim

# What limits each library to a set; fastgan's own kernels have the same bits on each.
SETS = {
    "SSE4": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
FOLDERS = ("losses", "penalties", "discriminator", "compat", "faults", "golden", "backends")


def ordinary(seed: int) -> Batch:
    """Run the ordinary tests of everything but builds, kernels and benchmarks."""
    return suite.passing(*suite.ORDINARY, "-p", "tests.proof.scalar", *(f"tests/{folder}" for folder in FOLDERS))


CLAIMS = [
    Claim(f"the suite with kernels for {name}", ordinary, "every test passes", environment=environment, long=True, timeout=5400)
    for name, environment in SETS.items()
]  # fmt: skip
