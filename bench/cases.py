"""The cases: each loss as its users write it in PyTorch, and the same of fastgan.

The only place with baselines; `test_losses.py` and `report.py` time what is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import source_tree  # noqa: F401
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan

THREADS = 2
SIZES = (64, 4096, 61504, 1 << 20, 1 << 24)
CONTENDERS = ("fused", "eager", "compiled", "copy")
MODES = {"forward+backward": True, "forward": False}

Loss = Callable[..., Tensor]
Work = Callable[[], Any]


class Case(NamedTuple):
    """A loss, and its eager baseline.

    `eager` takes (real, fake) for the discriminator (role D), (fake) for the generator (G) and
    (fake, real) for the generator of a relativistic form, as fastgan does. `compiled`: whether
    torch.compile is timed too; it costs seconds a size, so not where another case tells the same.
    `members`: sizes of a sequence's members, where there is one.
    """

    name: str
    loss: str
    role: str
    relativistic: str | None
    eager: Loss
    compiled: bool = True
    members: tuple[int, ...] = ()


def bce_with_logits(r: Tensor, f: Tensor) -> Tensor:
    """The non-saturating loss by way of labels, as in most tutorials."""
    real = F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
    return real + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))


def over_members(loss: Loss) -> Loss:
    """The loop over a sequence's members that vocoders and multi-scale discriminators are trained with."""

    def total(*sequences: list[Tensor]) -> Any:
        result: Any = 0
        for member in zip(*sequences, strict=True):
            result += loss(*member)
        return result

    return total


def least_squares(r: Tensor, f: Tensor) -> Tensor:
    """The least squares loss of one discriminator."""
    return ((r - 1) ** 2).mean() + (f**2).mean()


CASES = (
    Case(
        "nonsaturating D", "nonsaturating", "D", None,
        lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
    ),
    Case("nonsaturating D (BCE)", "nonsaturating", "D", None, bce_with_logits, compiled=False),
    Case("nonsaturating G", "nonsaturating", "G", None, lambda f: F.softplus(-f).mean()),
    Case("hinge D", "hinge", "D", None, lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean()),
    Case("hinge G", "hinge", "G", None, lambda f: -f.mean(), compiled=False),
    Case("least squares D", "least_squares", "D", None, least_squares),
    Case("least squares G", "least_squares", "G", None, lambda f: ((f - 1) ** 2).mean(), compiled=False),
    Case("wasserstein D", "wasserstein", "D", None, lambda r, f: f.mean() - r.mean()),
    Case("relativistic paired D", "nonsaturating", "D", "paired", lambda r, f: F.softplus(-(r - f)).mean()),
    Case(
        "relativistic average D", "nonsaturating", "D", "average",
        lambda r, f: F.softplus(-(r - f.mean())).mean() + F.softplus(f - r.mean()).mean(),
    ),
)  # fmt: skip

SEQUENCES = tuple(
    Case(
        f"least squares D, {len(members)} members", "least_squares", "D", None, over_members(least_squares),
        compiled=False, members=members,
    )
    for members in (
        (64, 256, 1024, 2048, 4096),  # the periods, or the scales, of a multi-scale discriminator
        (64, 128, 256, 512, 1024, 2048, 3072, 4096),  # a vocoder's periods and scales together
    )
)  # fmt: skip


def operand_count(case: Case) -> int:
    """How many tensors (or sequences) of logits the loss is a function of."""
    return 1 if case.role == "G" and case.relativistic is None else 2


def operands(case: Case, n: int) -> list[Any]:
    """Logits that want gradients: tensors of n elements, or sequences where the case has members."""
    generator = torch.Generator().manual_seed(0)

    def logits(size: int) -> Tensor:
        return torch.randn(size, generator=generator).requires_grad_()

    if case.members:
        return [[logits(size) for size in case.members] for _ in range(operand_count(case))]
    return [logits(n) for _ in range(operand_count(case))]


def leaves(arguments: list[Any]) -> list[Tensor]:
    """The tensors in what `operands` made."""
    return [t for a in arguments for t in (a if isinstance(a, list) else [a])]


def fused(case: Case) -> Loss:
    """The case's call of fastgan."""
    function = fastgan.discriminator_loss if case.role == "D" else fastgan.generator_loss
    return partial(function, loss=case.loss, relativistic=case.relativistic)


def compiled(case: Case) -> Loss:
    """The eager baseline under torch.compile; forgets what was compiled before, as graphs per size add up."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # no pool of workers that lives on beside what is timed
    torch._dynamo.reset()
    return torch.compile(case.eager, fullgraph=True, dynamic=False)


@lru_cache(maxsize=1)
def no_compile() -> str | None:
    """Why torch.compile does not work on this machine, or None where it does."""
    try:
        compiled(CASES[0])(torch.zeros(8), torch.zeros(8))
    except Exception as error:
        return f"torch.compile does not work here: {type(error).__name__}: {str(error).strip()[:200]}"
    return None


def copy(case: Case, n: int, backward: bool) -> Work:
    """A copy of as many bytes as the operation must read and write at least.

    With backward that is a read of each logit and a write of each gradient: a copy of all tensors.
    Forward alone only reads: a copy of half of them.
    """
    total = operand_count(case) * (sum(case.members) or n)
    source = torch.ones(total if backward else total // 2)
    return partial(torch.empty_like(source).copy_, source)


def work(contender: str, case: Case, arguments: list[Any], backward: bool) -> Work:
    """One step of a contender, to be called without arguments: what is timed."""
    tensors = leaves(arguments)
    if contender == "copy":
        return copy(case, tensors[0].numel(), backward)
    loss = {"fused": fused, "eager": lambda c: c.eager, "compiled": compiled}[contender](case)

    def train() -> None:
        for t in tensors:
            t.grad = None
        loss(*arguments).backward()

    def evaluate() -> None:
        with torch.no_grad():
            loss(*arguments)

    return train if backward else evaluate


def check(case: Case, n: int = 4096) -> None:
    """Raises unless loss and gradients of fastgan are those of the baseline."""
    results = []
    for loss in (fused(case), case.eager):
        arguments = operands(case, n)
        value = loss(*arguments)
        value.backward()
        results.append([value.detach(), *(t.grad for t in leaves(arguments))])
    torch.testing.assert_close(*results)


def effort(n: int) -> tuple[int, int]:
    """Rounds, and steps in each: rounds of some milliseconds where a step is shorter."""
    rounds = 20 if n < 1 << 20 else 12 if n < 1 << 24 else 5
    return rounds, 1 if n >= 1 << 24 else max(2, min(40, 400_000 // n))
