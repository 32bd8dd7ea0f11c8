"""Bad input: every fault of the contract's list, through every argument of every public function and module.

A form is a function with sound arguments. Each argument has a role, and each role a table of faults with the error
that is expected, word for word. A cell is a form, an argument and a fault. It must raise at the call, before the
discriminator is called, a random number drawn, or anything of the caller's changed.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastgan

from .claims import Batch, Claim
from .faults_of_roles import Fault, always
from .forms_of_functions import CONTEXTS, Form, forms

# ---------------------------------------------------------------------------------- the matrix


class Cell(NamedTuple):
    """A fault in an argument of a form."""

    form: Form
    argument: str
    name: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.form.name}, {self.argument}: {self.name}"


def cells() -> Iterator[Cell]:
    """All cells."""
    for form in forms():
        for argument, role in form.roles.items():
            for name, fault in role.items():
                yield Cell(form, argument, name, fault)
        if form.keyword:
            text = f"{form.keyword}() got an unexpected keyword argument 'unknown_option'..."
            yield Cell(form, "unknown_option", "unexpected", Fault(always(1), TypeError, text))


def parts_of(arguments: Mapping[str, Any]) -> list[nn.Module]:
    """The modules among arguments."""
    return [v for v in arguments.values() if isinstance(v, nn.Module)]


def state(arguments: Mapping[str, Any]) -> list[Any]:
    """What a refused call has to leave as it is: random numbers, modules, the table of losses."""
    found: list[Any] = [torch.get_rng_state(), sorted(fastgan.losses())]
    for module in parts_of(arguments):
        found += [copy.deepcopy(v) for v in module.state_dict().values()]
        found += [p.grad for p in module.parameters()]
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two entries of states are the same."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return bool(torch.equal(a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def fits(wanted: str, got: str) -> bool:
    """Whether a text is the wanted one, in which each ... stands for anything."""
    if "..." not in wanted:
        return wanted == got
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), got, re.DOTALL) is not None


def tried(cell: Cell) -> str:
    """What is wrong with a cell, or nothing."""
    form, fault = cell.form, cell.fault
    wanted = fault.text.replace("{n}", cell.argument)
    arguments = form.sound()
    bad = {**arguments, cell.argument: fault.make(arguments.get(cell.argument))}
    before = state(arguments)
    try:
        with form.context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = form.call(**bad)
    except Exception as error:
        got = type(error), str(error)
    else:
        return f"no error; it returned {str(result)[:80]!r}; wanted {fault.error.__name__}({wanted!r})"
    if got[0] is not fault.error or not fits(wanted, got[1]):
        return f"wanted {fault.error.__name__}({wanted!r}), got {got[0].__name__}({got[1][:300]!r})"
    if not all(same(a, b) for a, b in zip(before, state(arguments), strict=True)):
        return f"something has changed before {got[1][:80]!r} came: the discriminator was called, or a number drawn"
    return ""


def failures(chosen: list[Cell]) -> list[str]:
    """The cells that fail, each with what is wrong."""
    return [f"{cell}: {wrong}" for cell in chosen if (wrong := tried(cell))]


# ---------------------------------------------------------------------------------- numbers that are none

INF, NAN = math.inf, math.nan


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


# For each loss the discriminator's summands on real and on fake, and the generator's, in float64.
MATHEMATICS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "saturating": (lambda r: _softplus(-r), _softplus, lambda f: -_softplus(f)),
    "nonsaturating": (lambda r: _softplus(-r), _softplus, lambda f: _softplus(-f)),
    "hinge": (lambda r: _relu(1 - r), lambda f: _relu(1 + f), lambda f: -f),
    "least_squares": (lambda r: (r - 1) ** 2, lambda f: f**2, lambda f: (f - 1) ** 2),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f),
    "ranking": (lambda r: _relu(1 - r), lambda f: _relu(1 + f), lambda f: -f),
}


class Special(NamedTuple):
    """A loss of logits some of which are no finite numbers.

    Attributes:
        role, loss, form, reduction: of the loss.
        real, fake: the logits.
        way: one of CONTEXTS.
    """

    role: str
    loss: str
    form: str | None
    reduction: str
    real: Tensor
    fake: Tensor
    way: str


def specials() -> Iterator[Special]:
    """All losses, each with NaN and infinities in real, in fake, and in both."""
    ordinary = torch.tensor([0.5, -1.0, 2.0])
    spoilt = [torch.tensor([0.5, -1.0, x]) for x in (NAN, INF, -INF)]
    spoilt += [torch.tensor([INF, -1.0, -INF]), torch.tensor([NAN, INF, 0.0])]
    sides = [(s, ordinary) for s in spoilt] + [(ordinary, s) for s in spoilt] + [(s, s) for s in spoilt]
    ways = [way for way in CONTEXTS if way != " at first"]
    for real, fake in sides:
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            for role in ("discriminator", "generator"):
                for loss in MATHEMATICS:
                    for form in (None, "paired", "average"):
                        for reduction in ("mean", "sum", "none"):
                            for way in ways:
                                yield Special(role, loss, form, reduction, real.to(dtype), fake.to(dtype), way)


def mathematics(s: Special) -> Tensor:
    """What a loss is, in float64."""
    r, f = s.real.double(), s.fake.double()
    on_real, on_fake, generator = MATHEMATICS[s.loss]
    if s.role == "generator" and s.form is None:
        values = [generator(f)]
    else:
        a, b = (r, f) if s.role == "discriminator" else (f, r)
        if s.form == "paired" or (s.form is None and s.loss == "ranking"):
            values = [on_real(a - b)]
        elif s.form == "average":
            values = [on_real(a - b.mean()), on_fake(b - a.mean())]
        else:
            values = [on_real(a), on_fake(b)]
    if s.reduction == "none":
        return torch.stack(values).sum(0)
    return torch.stack([v.mean() if s.reduction == "mean" else v.sum() for v in values]).sum()


def wrong_number(s: Special) -> str:
    """What is wrong with a loss of numbers that are none, or nothing."""
    call = getattr(fastgan, f"{s.role}_loss")
    logits = (s.real, s.fake) if s.role == "discriminator" else (s.fake, s.real)
    with CONTEXTS[s.way]():
        got = call(*logits, s.loss, relativistic=s.form, reduction=s.reduction)
    want = mathematics(s)
    if torch.allclose(got.double(), want, rtol=2e-6, atol=2e-6, equal_nan=True):
        return ""
    return f"{s}: {got.tolist()}, and in mathematics {want.tolist()}"


# ---------------------------------------------------------------------------------- claims


def _matrix(_: int) -> Batch:
    chosen = list(cells())
    found = failures(chosen)
    assert not found, f"{len(found)} of {len(chosen)} cells: " + "\n".join(found[:40])
    return Batch(len(chosen))


def _numbers(_: int) -> Batch:
    tried_so = list(specials())
    found = [wrong for s in tried_so if (wrong := wrong_number(s))]
    assert not found, f"{len(found)} of {len(tried_so)}: " + "\n".join(found[:40])
    return Batch(len(tried_so))


CLAIMS = [
    Claim(
        "every fault in every argument is refused at the call, in words that name it", _matrix,
        "the error's type and text, word for word; nothing called, drawn or changed before",
    ),
    Claim(
        "NaN and infinities among logits go where the mathematics takes them", _numbers,
        "within 2e-6 of float64, and infinite or NaN where that is",
    ),
]  # fmt: skip
