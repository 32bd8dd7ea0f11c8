"""What may come in an argument's place: each role's faults, with the error that is expected, word for word."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import fastgan

Value = Callable[[Any], Any]  # of the sound value, to a bad one


class Fault(NamedTuple):
    """What may come in an argument's place.

    Attributes:
        make: a function of the sound value.
        error: the exception's type.
        text: all of its message, with {n} for the argument's name; where it ends in "...", its begin.
    """

    make: Value
    error: type[Exception]
    text: str


Role = Mapping[str, Fault]


def of_type(text: str, values: Mapping[str, Value]) -> dict[str, Fault]:
    """TypeErrors whose text ends in what `values` has as the fault's name."""
    return {f"{name}": Fault(make, TypeError, f"{{n}}: {text}, got {name}") for name, make in values.items()}


def of_value(text: str, values: Mapping[str, Value]) -> dict[str, Fault]:
    """ValueErrors whose text ends in what `values` has as the fault's name."""
    return {f"{name}": Fault(make, ValueError, f"{{n}}: {text}, got {name}") for name, make in values.items()}


def always(value: Any) -> Value:
    """A bad value that does not depend on the sound one."""
    return lambda _: value


# ---------------------------------------------------------------------------------- bad tensors


class DTensor(Tensor):
    """By name what torch.distributed has; tests/losses/test_misuse.py tries the real one."""


_DTYPES = [
    "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
BAD_DTYPES = {f"torch.{name}": (lambda t, name=name: t.to(getattr(torch, name))) for name in _DTYPES}
BAD_DTYPES["torch.complex32"] = lambda t: t.to(torch.complex32)
BAD_DTYPES["torch.uint16"] = lambda t: t.to(torch.uint16)


def quantized(t: Tensor) -> Tensor:
    """A tensor of 8-bit integers with a scale."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)


def sparse(layout: torch.layout) -> Value:
    """A tensor as a sparse matrix."""

    def make(t: Tensor) -> Tensor:
        matrix = t.reshape(len(t), -1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some layouts are in beta
            blocks = {"blocksize": (1, 1)} if "bs" in str(layout) else {}
            return matrix.to_sparse(layout=layout, **blocks)

    return make


def nested(layout: torch.layout) -> Value:
    """A tensor's rows as a ragged batch."""

    def make(t: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.nested.nested_tensor([t.reshape(len(t), -1)[0]] * 2, layout=layout)

    return make


LAYOUTS = {
    "a sparse_coo one": sparse(torch.sparse_coo), "a sparse_csr one": sparse(torch.sparse_csr),
    "a sparse_csc one": sparse(torch.sparse_csc), "a sparse_bsr one": sparse(torch.sparse_bsr),
    "a sparse_bsc one": sparse(torch.sparse_bsc), "a nested one": nested(torch.strided),
}  # fmt: skip
RAGGED = nested(torch.jagged)
NO_TENSORS = {
    "NoneType": always(None), "float": always(0.5), "int": always(1), "bool": always(True), "str": always("logits"),
    "bytes": always(b"logits"), "ndarray": lambda t: t.numpy(), "dict": lambda t: {"logits": t},
    "set": lambda t: {1.0}, "generator": lambda t: (x for x in [t]), "_TensorMeta": always(Tensor),
    "Linear": always(nn.Linear(1, 1)),
}  # fmt: skip


def of_a_tensor(what: str = "a torch.Tensor or a sequence of them") -> dict[str, Fault]:
    """Faults of one tensor."""
    dtypes = of_type("expected float32, float64, float16 or bfloat16", BAD_DTYPES)
    dtypes["quantized"] = dtypes["torch.int8"]._replace(make=quantized, text=float_wanted("torch.qint8"))
    layouts = of_type("expected a dense tensor", LAYOUTS)
    layouts["jagged"] = layouts["a nested one"]._replace(make=RAGGED)
    text = "{n}: expected a plain tensor, got a DTensor (pass its .to_local())"
    layouts["DTensor"] = Fault(lambda t: t.as_subclass(DTensor), TypeError, text)
    empty = of_value("expected at least one element", {"shape (0,)": always(torch.empty(0))})
    empty |= of_value("expected at least one element", {"shape (3, 0)": always(torch.empty(3, 0))})
    return of_type(f"expected {what}", NO_TENSORS) | dtypes | layouts | empty


def float_wanted(dtype: str) -> str:
    return f"{{n}}: expected float32, float64, float16 or bfloat16, got {dtype}"


def of_tensors() -> dict[str, Fault]:
    """Faults of a tensor or a sequence of them."""
    members = of_a_tensor()
    found = dict(members)
    nothing = {"an empty list": always([]), "an empty tuple": always(())}
    found |= of_value("expected at least one tensor", nothing)
    found["a list of numbers"] = members["float"]._replace(make=always([1.0]))
    found["a list of None"] = members["NoneType"]._replace(make=always([None]))
    return found


LOGITS = of_tensors()
NOT_DENSE = (*LAYOUTS, "jagged", "DTensor")
NO_MAPS = {
    name: make
    for name, make in NO_TENSORS.items()
    if name not in ("generator", "_TensorMeta", "Linear", "set", "dict")
}
MAPS = of_a_tensor() | of_type("expected tensors in sequences of sequences", NO_MAPS)
for _unused in ("generator", "_TensorMeta", "Linear", "set", "dict", "shape (0,)", "shape (3, 0)"):
    del MAPS[_unused]  # an empty map has not its pair's shape

# ---------------------------------------------------------------------------------- numbers and names

HUGE = 10**400
_NO_NUMBERS: dict[str, Value] = {
    "NoneType": always(None), "bool": always(True), "list": always([1.0]), "complex": always(1j),
    "ndarray": always(np.ones(2)), "Tensor": always(torch.ones(2)), "dict": always({}),
    "str 'a' (YAML reads 1e-2 as text, 1.0e-2 as a number)": always("a"),
    "str '1e-2' (YAML reads 1e-2 as text, 1.0e-2 as a number)": always("1e-2"),
}  # fmt: skip
_ODD_TENSORS = {
    "of bool": Fault(always(torch.tensor(True)), TypeError, "{n}: expected a number, got Tensor"),
    "of complex": Fault(always(torch.tensor(1j)), TypeError, "{n}: expected a number, got Tensor"),
    "with a graph": Fault(
        always(torch.tensor(1.0, requires_grad=True)), TypeError,
        "{n}: expected a constant, got a tensor that requires grad (pass its .item())",
    ),
    "on a device": Fault(
        always(torch.tensor(1.0, device="meta")), TypeError,
        "{n}: expected a number, got a tensor on meta, which the host would wait for (pass its .item())",
    ),
}  # fmt: skip
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def of_numbers(low: float = -math.inf, high: float = math.inf, none: bool = False) -> dict[str, Fault]:
    """Faults of a number in [low, high]; `none`: None is sound."""
    found = of_type("expected a number", _NO_NUMBERS) | _ODD_TENSORS
    if none:
        del found["NoneType"]
    bounds = "a finite number" if low == -math.inf else f"a number in [{low:g}, {high:g}]"
    beyond = dict(_NOT_FINITE)
    if low > -math.inf:
        beyond[f"{low - 0.5}"] = low - 0.5
    if high < math.inf:
        beyond[f"{high + 0.5}"] = high + 0.5
    for name, value in beyond.items():
        found[name] = Fault(always(value), ValueError, f"{{n}}: expected {bounds}, got {name}")
    for kind in (np.float32, np.float64, torch.tensor):
        where = f"nan of {kind.__name__}"
        found[where] = Fault(always(kind(math.nan)), ValueError, f"{{n}}: expected {bounds}, got nan")
    large = f"{{n}}: expected a number that a float can hold, got one of {HUGE.bit_length()} bits"
    found["huge"] = Fault(always(HUGE), ValueError, large)
    return found


NUMBER = of_numbers()
OPTIONAL_NUMBER = of_numbers(none=True)
PROBABILITY = of_numbers(0.0, 1.0)
NOT_NEGATIVE = of_numbers(0.0)
# Of labels: one dimension or more is a label per sample; NumPy's numbers become floats before they are looked at.
SOFT_LABEL = {
    n: f._replace(text="{n}: expected a ...number..., got nan") if n.startswith("nan of") else f
    for n, f in PROBABILITY.items()
    if n != "Tensor"
}


def of_integers(low: int, high: int | None = None, none: bool = False) -> dict[str, Fault]:
    """Faults of an integer."""
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    values = [2.5, True, "3", None, [1], low - 1, math.nan, 1.0, np.float64(2.5)]
    values += [] if high is None else [high + 1]
    found = {}
    for value in values:
        if value is not None or not none:
            text = f"{{n}}: expected an integer {bounds}, got {value!r}"
            found[repr(value)] = Fault(always(value), ValueError, text)
    large = f"{{n}}: expected an integer {bounds}, got one of {HUGE.bit_length()} bits"
    if high is not None:
        found["huge"] = Fault(always(HUGE), ValueError, large)
    return found


def of_names(near: Mapping[str, str], known: list[str], none: bool = False) -> dict[str, Fault]:
    """Faults of a name; `near` has misspelt ones and what the hint says."""
    listed = f"(known: {', '.join(map(repr, known))})"
    found = {}
    for name, right in near.items():
        hint = f"; did you mean {right!r}?" if right else ""
        found[name] = Fault(always(name), ValueError, f"{{n}}: unknown name {name!r}{hint} {listed}")
    for value in (3, ["x"], 2.5, *([] if none else [None])):
        found[repr(value)] = Fault(always(value), ValueError, f"{{n}}: unknown name {value!r}...")
    return found


def of_list(text: str, values: list[Any]) -> dict[str, Fault]:
    """Faults of a choice that is written out in the text."""
    return {repr(v): Fault(always(v), ValueError, f"{{n}}: {text}, got {v!r}") for v in values}


LOSSES = [alias for name, aliases in fastgan.losses().items() for alias in (name, *aliases)]
# In a process of many tests the list has names that these have registered.
LOSS = of_names({"hnge": "hinge", "wasserstien": "wasserstein", "lsgn": "lsgan", "Hinge": "hinge"}, LOSSES)
LOSS = {
    n: f._replace(text=f.text.removesuffix(")") + "...)" if f.text[-1] == ")" else f.text) for n, f in LOSS.items()
}
KINDS = ["wgan-gp", "wgan-lp", "r1", "r2", "dragan", "wgan-div", "r1-approx", "r2-approx"]
KIND = of_names({"wgangp": "wgan-gp", "r3": "r2", "R1": "r1", "dragn": "dragan"}, KINDS)
ENGINE = of_names({"compield": "compiled", "eagr": "eager", "fast": "auto"}, ["auto", "eager", "compiled"])
OVER = of_names({"samples": "sample", "pixel": "", "chanel": "channel"}, ["sample", "channel", "batch"])
PSI = of_names({"two-sided": "two_sided", "onesided": "one_sided"}, ["two_sided", "one_sided", "power"])
FORM = of_names({"sums": "sum", "eech": "each"}, ["sum", "each"])
DISTANCE = of_names({"l3": "l2", "L1": "l1"}, ["l1", "l2"])
REDUCTION = of_list("expected 'mean', 'sum' or 'none'", ["avg", "Mean", None, 3, ["mean"], True])
RELATIVISTIC = of_list("expected None, 'paired' or 'average'", ["pair", "Average", True, 3, ["paired"]])
PHI = of_list(
    "expected one of identity, softplus, relu, square, relu_square, abs, relu_half, huber, softplus_square",
    ["sigmoid", "Relu", None, 3],
)
BACKEND = of_list("expected one of auto, cpu, cuda, triton, reference", ["gpu", "CPU", None, 3, ["cpu"], True])
BACKEND = {n: f._replace(text=f.text.replace("{n}", "backend")) for n, f in BACKEND.items()}
BOOLEAN = of_type(
    "expected True or False",
    {
        "str": always("False"), "NoneType": always(None), "float": always(0.5), "list": always([]),
        "Tensor": always(torch.ones(2)),
    },
)  # fmt: skip

# ---------------------------------------------------------------------------------- constants in tensors

_VECTORS = {"list": lambda v: v.tolist(), "float": always(0.5), "str": always("x"), "ndarray": lambda v: v.numpy()}


def _with_numbers(value: float) -> Value:
    """A constant, one number of which is another."""

    def make(t: Tensor) -> Tensor:
        t = t.clone()
        t.view(-1)[-1] = value
        return t

    return make


EPS = of_type("expected a floating-point tensor", _VECTORS | BAD_DTYPES | {"torch.qint8": quantized})
EPS |= {n: LOGITS[n] for n in NOT_DENSE}
EPS["elsewhere"] = Fault(lambda e: e.to("meta"), ValueError, "{n}: expected it on cpu as the samples are, got meta")
for _shape in ((3,), (5,), (4, 3), (1, 4), (0,), ()):
    _text = f"{{n}}: expected shape (4,), one per sample, got {_shape}"
    EPS[f"shape {_shape}"] = Fault(always(torch.full(_shape, 0.5)), ValueError, _text)
for _number, _range in (
    (-0.5, "-0.5 to 0.5"),
    (1.5, "0.5 to 1.5"),
    (math.inf, "0.5 to inf"),
    (math.nan, "nan to nan"),
):
    EPS[f"{_number}"] = Fault(
        _with_numbers(_number), ValueError, f"{{n}}: expected numbers in [0, 1], got some from {_range}"
    )


def of_vector(rest: Mapping[str, Fault], hint: str = "") -> dict[str, Fault]:
    """Faults of a vector of constants."""
    found = of_type("expected a floating-point tensor", _VECTORS | BAD_DTYPES)
    found |= of_value(
        "expected a 1-D tensor on cpu",
        {
            "shape (4, 1) on cpu": lambda v: v[:, None],
            "shape () on cpu": lambda v: v[0],
            "shape (4,) on meta": lambda v: v.to("meta"),
        },
    )
    text = f"{{n}}: expected constants, got a tensor that requires grad{hint}"
    found["with a graph"] = Fault(lambda v: v.clone().requires_grad_(), ValueError, text)
    return found | rest


_PER_SAMPLE = of_value("expected shape (4,), one per sample", {"(3,)": lambda v: v[:3], "(0,)": lambda v: v[:0]})
_IN_RANGE = of_value(
    "expected finite numbers of 0 or more",
    {
        "some from -1 to 1": _with_numbers(-1.0),
        "some from nan to nan": _with_numbers(math.nan),
        "some from 1 to inf": _with_numbers(math.inf),
    },
)
SAMPLE_WEIGHTS = of_vector(_PER_SAMPLE | _IN_RANGE)
NORM_WEIGHTS = of_vector(_PER_SAMPLE)
MEMBER_WEIGHTS = of_type(
    "expected a sequence of numbers or a 1-D tensor",
    {
        "float": always(2.0), "str": always("ab"), "dict": always({1: 1}), "set": always({1.0}),
        "bytes": always(b"ab"),
    },
)  # fmt: skip
MEMBER_WEIGHTS |= of_value("expected one for each of 2 {of}", {"1": always([1.0]), "3": always([1.0] * 3)})
MEMBER_WEIGHTS |= {
    f"[{n}]": f._replace(make=lambda v, f=f: [1.0, f.make(v)])
    for n, f in NUMBER.items()
    if n not in ("with a graph", "on a device")
}
MEMBER_WEIGHTS |= {
    f"tensor: {n}": f._replace(text=f.text.replace("(4", "(2"), make=lambda v, f=f: f.make(torch.tensor(v)))
    for n, f in of_vector({}, " (weigh the losses yourself)").items()
    if n not in ("list", "float", "str", "ndarray")
}
MEMBER_WEIGHTS["a long tensor"] = MEMBER_WEIGHTS["3"]._replace(make=always(torch.ones(3)))


def of_elements(high: str) -> dict[str, Fault]:
    """Faults of constants per element, of shape (4, 3) beside logits of that shape, in [0, high]."""
    wanted = "expected a bool or floating-point tensor"
    dtypes = {n: m for n, m in BAD_DTYPES.items() if n != "torch.bool"}
    found = of_type(wanted, _VECTORS | dtypes | {"torch.qint8": quantized})
    del found["list"], found["float"]
    found |= {n: LOGITS[n] for n in NOT_DENSE}
    text = "{n}: expected a tensor on cpu, as {of}, got one on meta"
    found["elsewhere"] = Fault(lambda t: t.to("meta"), ValueError, text)
    text = "{n}: expected constants, got a tensor that requires grad"
    found["with a graph"] = Fault(lambda t: t.clone().requires_grad_(), ValueError, text)
    for name, make in {
        "(4,)": lambda t: t[:, 0],
        "(4, 2)": lambda t: t[:, :2],
        "(4, 3, 1)": lambda t: t[..., None],
    }.items():
        text = f"{{n}}: expected 2 dimensions that broadcast to those of {{of}}, (4, 3), got {name}"
        found[name] = Fault(make, ValueError, text)
    beyond = {"-1": (-1.0, "-1 to 0.5"), "nan": (math.nan, "nan to nan"), "inf": (math.inf, "0.5 to inf")}
    if high == "1":
        beyond["2"] = (2.0, "0.5 to 2")
    for name, (number, span) in beyond.items():
        text = f"{{n}}: expected finite numbers in [0, {high}], got some from {span}"
        found[name] = Fault(_with_numbers(number), ValueError, text)
    return found


def about(role: Role, of: str) -> dict[str, Fault]:
    """A role whose texts name another argument."""
    return {n: f._replace(text=f.text.replace("{of}", of)) for n, f in role.items()}


def ahead(role: Role, name: str) -> dict[str, Fault]:
    """A role whose texts begin with another name than the argument's, say that of a member."""
    return {n: f._replace(text=f.text.replace("{n}", name)) for n, f in role.items()}


def member(role: Role, k: int = -1) -> dict[str, Fault]:
    """The faults of a role in one member of a sequence."""

    def within(f: Fault) -> Value:
        def make(v: Any) -> Any:
            entries = list(v)
            entries[k] = f.make(entries[k])
            return type(v)(entries)

        return make

    return {f"member: {n}": f._replace(make=within(f)) for n, f in role.items()}


def without(role: Role, *names: str) -> dict[str, Fault]:
    """A role without some of its faults."""
    return {n: f for n, f in role.items() if n not in names}


MASK = of_elements("inf")
ZEROS = {"zeros": Fault(torch.zeros_like, ValueError, "{n}: expected an element above 0 for a mean, got none")}
LABEL = of_elements("1")

# ---------------------------------------------------------------------------------- other arguments

GENERATOR = of_type(
    "expected a torch.Generator", {"int": always(3), "str": always("cpu"), "Tensor": always(torch.ones(1))}
)
BATCH_DIM = of_type(
    "expected an integer",
    {"str": always("0"), "float": always(0.0), "bool": always(True), "NoneType": always(None)},
)
BATCH_DIM |= of_value("expected an integer from -64 to 63", {"64": always(64), "-65": always(-65)})
BATCH_DIM["of none"] = Fault(always(2), ValueError, "batch_dim: expected a dimension of {of}, got 2 for (4, 3)...")
PAC = without(of_integers(1, 1 << 31), "2147483649")
PAC["3"] = Fault(always(3), ValueError, "pac: expected a divisor of 4, the length of {of}, got 3")
_NUMBERS = "expected a vector of int64, one number per entry, or (vector, count)"
GROUPS = of_type(
    _NUMBERS,
    {
        "list": always([0, 0, 1, 1]), "int": always(2), "ndarray": lambda g: g.numpy(),
        "torch.float32 (4,)": lambda g: g.float(), "torch.bool (4,)": lambda g: g.bool(),
        "torch.int64 (4, 1)": lambda g: g[:, None], "torch.int64 ()": lambda g: g[0],
    },
)  # fmt: skip
GROUPS |= of_value(
    "expected one number for each of 4 entries", {"3": lambda g: g[:3], "5": lambda g: g.repeat(2)[:5]}
)
GROUPS["none"] = Fault(lambda g: g[:0], ValueError, "{n}: expected at least one number, got none")
GROUPS["negative"] = Fault(lambda g: g - 1, ValueError, "{n}: expected numbers from 0 to 0, got some from -1 to 0")
GROUPS["a low count"] = Fault(
    lambda g: (g, 1), ValueError, "{n}: expected numbers from 0 to 0, got some from 0 to 1"
)
GROUPS |= {
    f"count {n}": f._replace(make=lambda g, f=f: (g, f.make(2))) for n, f in of_integers(1, none=True).items()
}
NO_FUNCTIONS = {"int": always(3), "str": always("D"), "NoneType": always(None), "Tensor": always(torch.ones(1))}
DISCRIMINATOR = of_type("expected a module or function", NO_FUNCTIONS)
MODULE = of_type("expected a torch.nn.Module", NO_FUNCTIONS)
PERTURB = of_type("expected a function of the inputs", without(NO_FUNCTIONS, "NoneType"))
OUTPUT = of_type(
    "expected a key, an index or a function",
    {
        "bool": always(True), "float": always(0.5), "Tensor": always(torch.ones(1)), "list": always([0]),
        "dict": always({}),
    },
)  # fmt: skip
GROUP = of_type(
    "expected a torch.distributed.ProcessGroup, as dist.group.WORLD after init_process_group",
    {"int": always(1), "str": always("gloo"), "bool": always(True)},
)
TARGETS = of_type(
    "expected three numbers (fake, real, generator)",
    {"float": always(1.0), "str": always("011"), "NoneType": always(None), "dict": always({0: 1})},
)
TARGETS |= of_value(
    "expected three numbers (fake, real, generator)", {"(0.0, 1.0)": always((0.0, 1.0)), "()": always(())}
)
TARGETS |= member(without(NUMBER, "Tensor"))
TERM = of_type(
    "expected a fastgan.term", {"str": always("relu"), "NoneType": always(None), "tuple": always(("relu",))}
)
NAMES_OF_TERMS = of_type(
    "expected fastgan.term", {"str": always("relu"), "NoneType": always(None), "dict": always({})}
)
NEW_NAME = of_list("expected a new string", [3, None, ("a",)])
for _taken in ("hinge", "lsgan"):
    _text = f"{{n}}: expected a new string, got {_taken!r}, which is registered already"
    NEW_NAME[_taken] = Fault(always(_taken), ValueError, _text)
ALIASES = of_type(
    "expected a sequence of names", {"int": always(3), "NoneType": always(None), "the str 'own'": always("own")}
)
ALIASES |= {
    n: f._replace(make=lambda v, f=f: [f.make(v)], text=f.text.replace("{n}", "name")) for n, f in NEW_NAME.items()
}
ARGUMENTS = of_type(
    "expected a tuple of arguments", {"int": always(3), "Tensor": always(torch.ones(4)), "str": always("a")}
)

# ---------------------------------------------------------------------------------- what fits no other argument


def logits() -> Tensor:
    """Logits, of an odd shape and both signs."""
    return torch.linspace(-2.0, 1.5, 12).reshape(4, 3)


def half() -> Tensor:
    """A half for each sample: eps, say."""
    return torch.full((4,), 0.5)


def pair_faults(a: str, b: str, shapes: bool = False, one_dtype: bool = True) -> dict[str, Fault]:
    """What does not fit a tensor's pair."""
    found = {
        "elsewhere": Fault(
            lambda t: t.to("meta"), ValueError, f"{a} and {b}: expected one device, got cpu and meta"
        )
    }
    if one_dtype:
        text = "expected one dtype, got torch.float32 and torch.float64; convert one of them, say by"
        found["wide"] = Fault(lambda t: t.double(), TypeError, f"{a} and {b}: {text} .double() or .float()")
    for made, make in {
        "(4,)": lambda t: t[:, 0],
        "(4, 1)": lambda t: t[:, :1],
        "(1, 4, 3)": lambda t: t[None],
    }.items():
        if shapes:
            never = "(a paired loss never broadcasts)"
            found[made] = Fault(make, ValueError, f"{a} and {b}: expected one shape, got (4, 3) and {made} {never}")
    return found


def among_members(name: str) -> dict[str, Fault]:
    """What does not fit the other members of a sequence."""
    text = "{n}: expected no mix of float64 with others, got torch.float32 and torch.float64; convert one, say by"
    return ahead(
        {
            "elsewhere": Fault(
                lambda v: [v[0], v[1].to("meta")], ValueError, "{n}: expected all on one device, got cpu and meta"
            ),
            "wide": Fault(lambda v: [v[0], v[1].double()], TypeError, f"{text} .double() or .float()"),
        },
        name,
    )


def counted(a: str, b: str, first: bool) -> dict[str, Fault]:
    """A sequence of another length than its pair's, and a tensor beside a sequence."""
    numbers, kinds = ("3 and 2", "Tensor and list") if first else ("2 and 3", "list and Tensor")
    return {
        "longer": Fault(lambda v: [*v, v[0]], ValueError, f"{a} and {b}: expected as many members, got {numbers}"),
        "a tensor": Fault(
            lambda v: v[0], TypeError, f"{a} and {b}: expected two tensors or two sequences, got {kinds}"
        ),
    }


def beside_a_tensor(names: tuple[str, ...], k: int) -> dict[str, Fault]:
    """Sequences, the other of a pair being a tensor."""
    found = {}
    for name, value in {
        "an empty list": [],
        "an empty tuple": (),
        "a list of numbers": [1.0],
        "a list of None": [None],
    }.items():
        kinds = [type(value).__name__, "Tensor"]
        got = " and ".join(kinds if k == 0 else kinds[::-1])
        text = f"{names[0]} and {names[1]}: expected two tensors or two sequences, got {got}"
        found[name] = Fault(always(value), TypeError, text)
    return found


def from_nothing(role: Role, value: Callable[[], Any]) -> Role:
    """A role of an argument that is None by default."""
    return {n: f._replace(make=lambda _, f=f: f.make(value())) for n, f in role.items()}


def sample_weights() -> Role:
    """Faults of a factor per sample, which is None by default."""
    return from_nothing(SAMPLE_WEIGHTS, lambda: torch.ones(4))


def norm_masks() -> Role:
    """Faults of a factor on gradients."""
    wanted = "expected a torch.Tensor or a sequence of them"
    found = of_type(wanted, {"float": always(3.0), "str": always("m"), "ndarray": always(np.ones(3))})
    dtypes = {n: m for n, m in BAD_DTYPES.items() if n != "torch.bool"}
    wanted = "{n}: expected a bool or floating-point tensor, got "
    for name, make in dtypes.items():
        found[name] = Fault(make, TypeError, wanted + name)
    for kind in ("sparse_coo", "sparse_csr", "nested"):
        found[kind] = Fault(
            LAYOUTS[f"a {kind} one"], TypeError, f"{{n}}: expected a dense tensor, got a {kind} one"
        )
    found["jagged"] = found["nested"]._replace(make=RAGGED)
    found["quantized"] = Fault(quantized, TypeError, wanted + "torch.qint8")
    found["DTensor"] = LOGITS["DTensor"]
    found["elsewhere"] = Fault(
        lambda m: m.to("meta"), ValueError, "{n}: expected it on cpu as the gradients are, got meta"
    )
    found["with a graph"] = Fault(
        lambda m: m.clone().requires_grad_(),
        ValueError,
        "{n}: expected a constant, got a tensor that requires grad",
    )
    found["(5,)"] = Fault(
        always(torch.ones(5)), ValueError, "{n}: expected a shape that broadcasts to (4, 3), got (5,)"
    )
    found["(0,)"] = Fault(
        always(torch.ones(0)), ValueError, "{n}: expected a shape that broadcasts to (4, 3), got (0,)"
    )
    found["two"] = Fault(lambda m: [m, m], ValueError, "{n}: expected one for each of 1 tensors, got 2")
    for name, value in {"0": 0.0, "-1": -1.0, "nan": math.nan}.items():
        text = f"{{n}}: expected a positive mean, by which the penalty is divided, got {name}"
        found[name] = Fault(lambda m, v=value: torch.full_like(m, v), ValueError, text)
    return from_nothing(found, lambda: torch.ones(4, 3))


DATA = dict(LOGITS)
DATA["()"] = Fault(
    lambda t: t.sum(), ValueError, "{n}: expected samples along dimension 0, as many in each tensor, got ()"
)
DATA["uneven"] = Fault(
    lambda t: (t, t[:2]),
    ValueError,
    "{n}: expected samples along dimension 0, as many in each tensor, got (4, 3), (2, 3)",
)
DATA |= {n: f._replace(make=lambda t, f=f: f.make([t, t])) for n, f in among_members("{n}").items()}


def data_roles(inputs: tuple[str, ...], cut: bool = False) -> dict[str, Role]:
    """The roles of real and fake."""
    roles: dict[str, Role] = dict.fromkeys(inputs, DATA)
    if len(inputs) == 2:
        shapes = {
            made: Fault(make, ValueError, f"real and fake: expected one shape, got (4, 3) and {made}")
            for made, make in {
                "(4, 1)": lambda t: t[:, :1],
                "(2, 3)": lambda t: t[:2],
                "(4, 3, 1)": lambda t: t[..., None],
            }.items()
        }
        more = Fault(lambda t: (t, t), ValueError, "real and fake: expected as many tensors, got 1 and 2")
        fits = {**pair_faults("real", "fake"), **shapes, "two": more}
        if cut:  # the text has the shapes of what is left of the batch
            shapes = {
                n: f._replace(text="real and fake: expected one shape, got (2, 3) and ...")
                for n, f in shapes.items()
            }
            del shapes["(2, 3)"]
            fits = {**pair_faults("real", "fake"), **shapes, "two": more, "uneven": more}
        roles["fake"] = {**DATA, **fits}
    return roles


NUMBER_OR_FUNCTION = without(NUMBER, "NoneType")
