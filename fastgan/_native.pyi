"""The compiled extension (csrc/bindings.cpp); fastgan/backends/native.py calls it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

# The names of phi and psi, in the order of their codes; how many numbers LossStats and PenaltyStats are made of.
phis: tuple[str, ...]
psis: tuple[str, ...]
# For fastgan._nodes: a table of the kernels, and a digest of the headers that both are compiled from.
interface: Any
headers: str
stat_count: int
norm_stat_count: int

# CUDA, where it was built: each call once more with cuda_ before its name and a place in the place of threads.
# cuda_unusable returns a reason that stays, or "", and raises RuntimeError with one that may pass.
def cuda_unusable(device: int) -> str: ...
def cuda_versions() -> str: ...
def cuda_shape(warps: int, blocks_per_multi: int, multiprocessors: int) -> None: ...

class Spec:
    def __init__(self, terms: list[tuple[Any, ...]], roles: Sequence[int]) -> None: ...

def learn(tensor: type, parameter: type, strided: Any, dtypes: tuple[Any, ...]) -> None: ...
def scan(tensors: tuple[Tensor, ...]) -> int: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(isa: str) -> None: ...
def forward(
    spec: Any,
    x: Any,
    g: Any,
    result: Any,
    weights: Any,
    reduction: int,
    buffers: Any,
    stats: bool,
    keep: bool,
    threads: int,
) -> None: ...
def backward(
    spec: Any, x: Any, g: Any, upstream: Any, weights: Any, reduction: int, buffers: Any, threads: int
) -> None: ...
def second(
    spec: Any,
    x: Any,
    g: Any,
    v: Any,
    upstream: Any,
    result: Any,
    weights: Any,
    reduction: int,
    buffers: Any,
    threads: int,
) -> None: ...
def rescale(spec: Any, g: Any, upstream: Any, buffers: Any, threads: int) -> bool: ...
def penalty_forward(
    spec: Any,
    g: Any,
    masks: Any,
    weights: Any,
    norms: Any,
    result: Any,
    elementwise: bool,
    statistics: Any,
    threads: int,
) -> None: ...
def penalty_backward(
    spec: Any,
    g: Any,
    masks: Any,
    weights: Any,
    norms: Any,
    upstream: Any,
    elementwise: bool,
    out: Any,
    threads: int,
) -> None: ...
def penalty_second(
    spec: Any,
    g: Any,
    masks: Any,
    weights: Any,
    norms: Any,
    upstream: Any,
    elementwise: bool,
    v: Any,
    out: Any,
    result: Any,
    threads: int,
) -> None: ...
def interpolate_forward(real: Any, fake: Any, eps: Any, out: Any, threads: int) -> None: ...
def interpolate_backward(
    real: Any, fake: Any, eps: Any, upstream: Any, real_grads: Any, fake_grads: Any, eps_grad: Any, threads: int
) -> None: ...
