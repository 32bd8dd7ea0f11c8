"""Cases of adapters: what is called, with options and tensors that are drawn, and made smaller where one fails.

A case is data, from which both sides get equal tensors and networks.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan import compat
from tests.helpers import adapters
from tests.proof.claims import trying

DTYPES = ("float32", "float64", "bfloat16", "float16")
WIDE = ("float32", "float64")
ULP = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
LEAST = {torch.float64: 0.0, torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}
# How many of them a loss may be off; the formula in float64 is rounded at each step itself.
ULPS = {torch.float64: 500.0, torch.float32: 4.0, torch.float16: 4.0, torch.bfloat16: 4.0}
DIGITS = {"float64": 1e-10, "float32": 1e-4}  # of penalties and steps, of the largest element

# ---------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """What is called, and its options."""

    subject: str
    options: dict[str, Any]


class Number(NamedTuple):
    """A number that is drawn between two; the default, which is drawn as well, is the simplest."""

    default: float
    low: float
    high: float


class Subject(NamedTuple):
    """What of an adapter is compared.

    Attributes:
        trainer: the module of bench/baselines.
        modules: those of fastgan.compat that have it; the case says which.
        space: for each option the values to draw, the default first, or a Number.
        run: makes of a module and the options what is to be compared: see `Loss` and `same`.
        fits: whether options go together.
    """

    trainer: str
    modules: tuple[str, ...]
    space: dict[str, Any]
    run: Callable[[Any, Any, dict[str, Any]], None]
    fits: Callable[[SimpleNamespace], bool]


SUBJECTS: dict[str, Subject] = {}
# Options that decide which name is called.
NAMING = ("module", "of", "as_module", "criterion")


class Unfit(Exception):
    """Raised where the trainer's own code fails: nothing to compare with."""


def peer(trainer: str) -> Any:
    """Return the trainer's formulas."""
    return importlib.import_module(f"bench.baselines.{trainer}")


def drawn(name: str, draw: random.Random) -> Case:
    """Draw a case of a subject."""
    subject = SUBJECTS[name]
    while True:
        options = {key: value_of(values, draw) for key, values in subject.space.items()}
        if subject.fits(SimpleNamespace(**options)):
            return Case(name, options)


def each(name: str, keys: tuple[str, ...] = ()) -> Iterator[Case]:
    """Yield for each value of each option, or of those in `keys`, the case that is the simplest else."""
    space = SUBJECTS[name].space
    simple = {key: default_of(values) for key, values in space.items()}
    for key, values in space.items():
        if values is int or isinstance(values, Number) or (keys and key not in keys):
            continue
        for value in values:
            options = simple | {key: value}
            if SUBJECTS[name].fits(SimpleNamespace(**options)):
                yield Case(name, options)


def value_of(values: Any, draw: random.Random) -> Any:
    """Draw the value of an option."""
    if isinstance(values, Number):
        return values.default if draw.random() < 0.3 else round(draw.uniform(values.low, values.high), 3)
    return draw.randrange(1000) if values is int else draw.choice(values)


def default_of(values: Any) -> Any:
    """Return an option's simplest value."""
    return values.default if isinstance(values, Number) else 0 if values is int else values[0]


def check(case: Case) -> bool:
    """Compare a case, and return whether the trainer could run it; raise AssertionError where the two differ."""
    subject = SUBJECTS[case.subject]
    options = SimpleNamespace(**{key: default_of(values) for key, values in subject.space.items()} | case.options)
    mine, theirs = importlib.import_module(f"fastgan.compat.{options.module}"), peer(subject.trainer)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject.run(seen(mine), theirs, options)
    except Unfit:
        return False
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
    return True


def failure(case: Case) -> str:
    """Return in what a case fails, or nothing."""
    try:
        check(case)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def smaller(case: Case) -> Case:
    """Return a case that still fails, with as many defaults as can be."""
    subject = SUBJECTS[case.subject]
    for key, values in subject.space.items():
        options = {**case.options, key: default_of(values)}
        if (
            options != case.options
            and subject.fits(SimpleNamespace(**options))
            and failure(Case(case.subject, options))
        ):
            case = Case(case.subject, options)
    return case


def text(case: Case) -> str:
    """Return a case that fails, and how, as a test."""
    return f"{failure(case)}\n{lines(case)}"


def lines(case: Case) -> str:
    """Return a case as a test."""
    return f"from tests.proof.adapters import Case, check\ndef test_found():\n    check({case!r})\n"


def find(name: str, count: int, seed: int) -> int:
    """Try cases of a subject, and return how many could be compared; raise with one that fails, made small."""
    draw, compared = random.Random(f"{name}, {seed}"), 0
    for _ in range(count):
        case = drawn(name, draw)
        trying(lines(case))
        if failure(case):
            raise AssertionError(text(smaller(case)))
        compared += check(case)
    return compared


# ---------------------------------------------------------------------------------- which names were called

USED: dict[str, set[str]] = {}


class seen:
    """A module of fastgan.compat that notes which of its names were asked for."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        """Note the name, and give what the module has."""
        USED.setdefault(self.module.__name__.rpartition(".")[2], set()).add(name)
        return getattr(self.module, name)


# What has no formula to compare.
NOT_COMPARED = {
    "audiocraft": {"ADVERSARIAL_LOSSES": "a list", "AdvLossType": "a type", "FeatLossType": "a type"},
    "mmagic": {"ImagePool": "a list of outputs"},
    "monai": {"AdversarialCriterions": "an enumeration"},
    "tfgan": {"BY_NONZERO_WEIGHTS": "a name"},
    "torchgan": {"GeneratorLoss": "a base without a loss", "DiscriminatorLoss": "a base without a loss"},
}


def wanted(trainer: str) -> set[str]:
    """Return the names that are to be compared."""
    module = getattr(compat, trainer)
    listed = getattr(module, "__all__", None) or adapters.public(module)
    return set(listed) - set(NOT_COMPARED.get(trainer, {}))


# ---------------------------------------------------------------------------------- data

SHAPES = ((6,), (1,), (6, 1), (2, 1, 5, 3), (3, 4, 2), (2, 3, 4, 5), (300,), (2500,))
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "channels last")
LOGITS = {
    "seed": int, "dtype": DTYPES, "shape": SHAPES, "layout": LAYOUTS, "edges": (False, True),
    "wants": ("all", "all", "first", "none"),
}  # fmt: skip


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return a tensor of equal numbers (but for "expanded") in another layout."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack([x, x.flip(0)], dim=-1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


def tensor(o: SimpleNamespace, k: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the k-th tensor of a case."""
    draw = torch.Generator().manual_seed(100 * o.seed + k)
    x = 3 * torch.randn(o.shape if shape is None else shape, generator=draw, dtype=torch.float64)
    if o.edges:
        edges = torch.tensor(adapters.EDGES, dtype=torch.float64).roll(o.seed + k)
        edges = edges.clamp(-200, 200) if o.dtype == "float16" else edges
        x.view(-1)[: len(edges)] = edges[: x.numel()]
    return laid_out(x.to(getattr(torch, o.dtype)), o.layout)


def one(o: SimpleNamespace) -> list[Any]:
    """Return one tensor."""
    return [tensor(o, 0)]


def two(o: SimpleNamespace) -> list[Any]:
    """Return two tensors."""
    return [tensor(o, 0), tensor(o, 1, getattr(o, "other", None))]


def listed(o: SimpleNamespace, start: int = 0) -> Any:
    """Return tensors in the container that is asked for, each of another shape; with "maps" among maps."""
    first = SHAPES.index(o.shape)
    found = [tensor(o, start + k, SHAPES[(first + k) % len(SHAPES)]) for k in range(o.members)]
    if o.container == "tensor":
        return found[0]
    if o.container == "maps":
        return [[tensor(o, start + 40 + k, (4,)), x] for k, x in enumerate(found)]
    return tuple(found) if o.container == "tuple" else found


def two_lists(o: SimpleNamespace) -> list[Any]:
    """Return two such containers, the second perhaps longer."""
    more = SimpleNamespace(**{**vars(o), "members": o.members + getattr(o, "longer", 0)})
    return [listed(o), listed(more, 20)]


def feature_maps(o: SimpleNamespace, start: int = 0) -> list[list[Tensor]]:
    """Return feature maps, of each discriminator several."""
    shapes = [(2, 3, 4), (2, 5), (2, 2, 3, 2), (7,)]
    return [[tensor(o, start + 5 * i + k, shapes[(i + k) % 4]) for k in range(o.maps)] for i in range(o.members)]


def two_sets_of_maps(o: SimpleNamespace) -> list[Any]:
    """Return feature maps of both sides."""
    return [feature_maps(o), feature_maps(o, 50)]
