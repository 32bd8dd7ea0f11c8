"""PyTorch's own list of operators as discriminators: fastgan's penalties against torch.autograd alone, in float64.

Each operator of `op_db`, as a function, a method, in place and by its other names, is put into a small network: a
learned scale before it, learned arguments, and a learned sum of sines of its results behind it. The penalty on that
network has the value and the gradients of the one that is written with `create_graph=True`; where PyTorch cannot
differentiate twice, fastgan raises.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

import fastgan

from .claims import Batch, Claim, trying

# What has no tensor that could be a discriminator's input, or cannot run here.
LEFT_OUT = {
    "makes tensors of numbers": (
        "arange", "empty", "empty_permuted", "empty_strided", "eye", "full", "linspace", "logspace", "ones",
        "linspace.tensor_overload", "logspace.tensor_overload", "randint", "randn", "scalar_tensor", "zeros",
        "signal.windows.bartlett", "signal.windows.blackman",
        "signal.windows.cosine", "signal.windows.exponential", "signal.windows.gaussian",
        "signal.windows.general_cosine", "signal.windows.general_hamming", "signal.windows.hamming",
        "signal.windows.hann", "signal.windows.kaiser", "signal.windows.nuttall",
    ),
    "takes sparse tensors": ("sparse.mm.reduce", "sparse.sampled_addmm"),
    "is compiled for GPUs": (
        "jiterator_2inputs_2outputs", "jiterator_4inputs_with_extra_args", "jiterator_binary",
        "jiterator_binary_return_by_ref", "jiterator_unary",
    ),
    "cannot be called on tensors that require grad": ("resize_", "resize_as_"),
}  # fmt: skip
SAMPLES = 2  # of each way to call an operator
TRIED = 12  # of those that cannot be called so, or have no finite penalty
LOOKED_AT = 200  # of an operator's, of which those are drawn
LARGEST = 400  # elements of an input, where there is one so small
TOLERANCE = 1e-10
KINDS = ("r1", "wgan-gp")
EPS = torch.tensor([0.3, 0.8], dtype=torch.float64)


@functools.cache
def operators() -> dict[str, list[Any]]:
    """Return PyTorch's descriptions of its operators, by name; loading them takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db

    out = {name for names in LEFT_OUT.values() for name in names}
    found: dict[str, list[Any]] = {}
    for op in op_db:
        name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
        if name not in out and op.supports_dtype(torch.float64, "cpu"):
            found.setdefault(name, []).append(op)
    return found


def __getattr__(name: str) -> Any:
    """Give NAMES, the operators' keys, when they are asked for."""
    if name == "NAMES":
        return list(operators())
    raise AttributeError(name)


# ---------------------------------------------------------------------------------- cases


class Case(NamedTuple):
    """An operator, called in one of its ways, on one of its samples.

    Attributes:
        way: "function", "method", "inplace", or one of these of another name.
        call: the operator.
        sample: PyTorch's: input, further arguments, and how its results are made unique.
        kind: the penalty.
        exact: whether one of the samples in the batch is PyTorch's own; the others lie beside it.
        positive: whether the tensors' absolute values are taken, of which more operators are finite.
    """

    op: Any
    way: str
    call: Callable[..., Any]
    sample: Any
    kind: str
    exact: bool
    positive: bool = False


def ways(op: Any) -> dict[str, Callable[..., Any]]:
    """Return how an operator can be called, each function once."""
    found: dict[str, Any] = {"function": op.op, "method": op.method_variant, "inplace": op.inplace_variant}
    for other in op.aliases:
        found |= {other.name: other.op, f"{other.name}, method": other.method_variant}
        found[f"{other.name}, inplace"] = other.inplace_variant
    named: dict[str, Callable[..., Any]] = {}
    for name, call in found.items():
        if call is not None and call not in named.values():
            named[name] = call
    return named


def is_input(x: Any) -> bool:
    """Tell whether a tensor can be a discriminator's input."""
    return isinstance(x, Tensor) and x.dtype is torch.float64 and x.layout is torch.strided and not x.is_nested


def tensors(sample: Any) -> list[Tensor]:
    """Return the tensors of a sample."""
    leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
    return [x for x in leaves if isinstance(x, Tensor)]


def usable(op: Any) -> list[Any]:
    """Return an operator's samples that have an input, the small ones, or else the smallest."""
    sizes = []
    for sample in islice(op.sample_inputs("cpu", torch.float64), LOOKED_AT):
        inputs = [x for x in tensors(sample) if is_input(x)]
        if inputs and inputs[0].numel() and all(x.layout is torch.strided for x in tensors(sample)):
            sizes.append((inputs[0].numel(), len(sizes), sample))
    return [s for n, _, s in sizes if n <= LARGEST] or [s for _, _, s in sorted(sizes)[:2]]


def groups(name: str, seed: int) -> Iterator[Iterator[Case]]:
    """Yield, for each way to call an operator, its cases in the order of a seed."""
    draw = random.Random(f"{name}, {seed}")
    for op in operators()[name]:
        torch.manual_seed(seed)
        samples = usable(op)
        for way, call in ways(op).items():
            chosen = draw.sample(samples, min(TRIED, len(samples)))
            drawn = [Case(op, way, call, s, draw.choice(KINDS), draw.random() < 0.5) for s in chosen]
            yield iter(drawn + [case._replace(positive=True) for case in drawn[:2]])


# ---------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """An operator between a learned scale and a learned sum of sines; each sample of the batch by itself."""

    def __init__(self, case: Case, learned: bool = True) -> None:
        super().__init__()
        self.case = case
        leaves, self.form = tree_flatten((case.sample.input, tuple(case.sample.args), dict(case.sample.kwargs)))
        self.place = next(k for k, x in enumerate(leaves) if is_input(x))
        self.leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]
        if case.positive:
            self.leaves = [x.abs() if is_input(x) else x for x in self.leaves]
        self.x = self.leaves[self.place]
        self.scale = nn.Parameter(torch.ones_like(self.x, memory_format=torch.contiguous_format))
        self.weight = nn.Parameter(torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64))
        others = [k for k, x in enumerate(self.leaves) if learned and k != self.place and is_input(x)]
        self.learned = nn.ParameterDict({str(k): nn.Parameter(self.leaves[k]) for k in others})

    def forward(self, x: Tensor) -> Tensor:
        """Return a number for each sample."""
        return torch.stack([self.one(part) for part in x])

    def one(self, x: Tensor) -> Tensor:
        """Return the number of one sample."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for k, parameter in self.learned.items():
            leaves[int(k)] = parameter * 1.0  # an operator in place may change it
        leaves[self.place] = x * self.scale
        first, args, kwargs = tree_unflatten(leaves, self.form)
        case = self.case
        result = case.op.gradcheck_wrapper(case.call, first, *args, **kwargs)
        if case.sample.output_process_fn_grad is not None:
            result = case.sample.output_process_fn_grad(result)
        return self.total(result)

    def total(self, result: Any) -> Tensor:
        """Return a sum over all numbers of a result."""
        total = torch.zeros((), dtype=torch.float64)
        for out in tree_flatten(result)[0]:
            if isinstance(out, Tensor):
                numbers = torch.view_as_real(out.resolve_conj()) if out.is_complex() else out.double()
                numbers = numbers.reshape(-1)
                total = total + (self.weight[torch.arange(len(numbers)) % 3] * torch.sin(numbers)).sum()
        return total


def batch(case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return real and fake, two samples each, near one of PyTorch's."""
    draw = torch.Generator().manual_seed(1)

    def near() -> Tensor:
        return x * (1 - 0.02 * torch.rand(x.shape, generator=draw, dtype=torch.float64))

    return torch.stack([x if case.exact else near(), near()]), torch.stack([near(), near()])


# ---------------------------------------------------------------------------------- penalties


def plain(net: nn.Module, real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Return the penalty as one writes it."""
    x = real
    if kind == "wgan-gp":
        e = EPS.view(-1, *[1] * (real.dim() - 1))
        x = fastgan.interpolate(real, fake, eps=EPS)  # the same bits: some operators enlarge a rounding without end
        torch.testing.assert_close(x, e * real + (1 - e) * fake, rtol=1e-15, atol=0, equal_nan=True)
    x = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    rows = g.reshape(len(x), -1)
    return rows.square().sum(1).mean() / 2 if kind == "r1" else 10 * ((rows.norm(dim=1) - 1) ** 2).mean()


def ours(net: nn.Module, real: Tensor, fake: Tensor, kind: str, prune: bool = True) -> Tensor:
    """Return fastgan's."""
    if kind == "r1":
        return fastgan.r1_penalty(net, real, engine="eager", prune=prune)
    return fastgan.gradient_penalty(net, real, fake, kind=kind, eps=EPS, engine="eager", prune=prune)


class Found(NamedTuple):
    """What a penalty came to: its value, the parameters' gradients and what is drawn next, or an error.

    Attributes:
        late: whether the error came in the backward only.
    """

    value: Tensor | None = None
    grads: tuple[Tensor | None, ...] = ()
    drawn: Tensor | None = None
    error: Exception | None = None
    late: bool = False

    @property
    def finite(self) -> bool:
        """Whether everything is."""
        return self.value is not None and all(
            t.isfinite().all() for t in (self.value, *self.grads) if t is not None
        )


def found(penalty: Callable[..., Tensor], net: nn.Module, real: Tensor, fake: Tensor, kind: str) -> Found:
    """Return what a penalty comes to."""
    torch.manual_seed(5)  # for operators that draw
    net.zero_grad()
    value = None
    try:
        value = penalty(net, real.clone(), fake.clone(), kind)
        drawn = torch.rand(3)
        value.backward()
    except Exception as error:
        return Found(error=error, late=value is not None)
    grads = tuple(p.grad for p in net.parameters())
    return Found(value.detach(), grads, drawn)


def unlike(got: Found, want: Found) -> str:
    """Return in what two differ, or nothing."""
    if got.late:
        return f"what it cannot do it says in the backward only: {got.error}"
    if got.value is None or want.value is None:
        return (
            "" if got.value is want.value else f"{got.error or got.value!r}, plainly {want.error or want.value!r}"
        )
    if not torch.equal(got.drawn, want.drawn):
        return "the random numbers drawn differ"
    if not close(got.value, want.value):
        return f"the value is {got.value.item()!r}, plainly {want.value.item()!r}"
    most = max((size(g) for g in want.grads if g is not None), default=0.0)
    for k, (a, b) in enumerate(zip(got.grads, want.grads, strict=True)):
        if (a is None) != (b is None):
            return f"gradient {k} is {'none' if a is None else 'one'}, plainly {'none' if b is None else 'one'}"
        if a is not None and not close(a, b, 1e-14 * most + 1e-13):
            return f"gradient {k} is {a.flatten()[:9].tolist()}, plainly {b.flatten()[:9].tolist()}"
    return ""


def close(a: Tensor, b: Tensor, more: float = 0.0) -> bool:
    """Tell whether tensors agree, up to rounding: of the largest element, and of what a gradient came from."""
    return torch.allclose(a, b, rtol=0, atol=TOLERANCE * size(b) + more, equal_nan=True)


def size(t: Tensor) -> float:
    """Return the largest finite number's size."""
    known = t[t.isfinite()]
    return float(known.abs().max()) if known.numel() else 0.0


# ---------------------------------------------------------------------------------- comparison


class Verdict(NamedTuple):
    """What became of a case, and in what it differs.

    Attributes:
        kind: "equal"; "raises" (both do: no second derivative, or no dependence); "undefined" (infinite
            or NaN, on both sides); "unfit" (the operator cannot be called so); or "different".
        difference: the first one.
    """

    kind: str
    difference: str = ""


def judged(case: Case) -> Verdict:
    """Compare a case."""
    for learned in (True, False):
        net = Network(case, learned)
        real, fake = batch(case, net.x)
        want = found(plain, net, real, fake, case.kind)
        if want.error is None or not net.learned:
            break
    got = [found(functools.partial(ours, prune=prune), net, real, fake, case.kind) for prune in (True, False)]
    for prune, one in zip((True, False), got, strict=True):
        if difference := unlike(one, want) or silent(one, net, real, fake, case.kind):
            return Verdict("different", f"prune={prune}: {difference}")
    if want.error is not None:
        return Verdict("raises" if runs(net, real) else "unfit")
    return Verdict("equal" if want.finite else "undefined")


def runs(net: nn.Module, x: Tensor) -> bool:
    """Tell whether a network can be called."""
    try:
        net(x.clone().requires_grad_())
    except Exception:
        return False
    return True


def silent(got: Found, net: nn.Module, real: Tensor, fake: Tensor, kind: str) -> str:
    """Return how much a penalty changes with the parameters, where all their gradients are zero or none."""
    if not got.finite or any(g is not None and g.any() for g in got.grads):
        return ""
    values, h = [], 1e-6
    for step in (h, -2 * h, h):  # and back
        with torch.no_grad():
            for p in net.parameters():
                p += step
        values.append(float(plain(net, real, fake, kind)))
    slope = abs(values[0] - values[1]) / (2 * h)
    small = 1e-4 * (1 + abs(values[2]))
    return "" if slope <= small else f"no parameter gets a gradient, of a penalty with the slope {slope}"


def lines(name: str, seed: int) -> str:
    """Return an operator's cases as a test."""
    return f"from tests.proof.operators import compare\ndef test_found():\n    compare({name!r}, {seed})\n"


def text(name: str, seed: int, case: Case, difference: str) -> str:
    """Return a difference as a test."""
    return f"{name}, {case.way}, {case.kind}: {difference}\n{lines(name, seed)}"


def verdicts(name: str, seed: int) -> Iterator[tuple[Case, Verdict]]:
    """Yield cases of an operator with what became of them: of each way to call it until some were compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for group in groups(name, seed):
            left = SAMPLES
            while left and (case := next(group, None)):
                verdict = judged(case)
                left -= verdict.kind not in ("unfit", "undefined")
                yield case, verdict


def compare(name: str, seed: int) -> int:
    """Compare an operator's cases, and return how many were; raise AssertionError where one differs."""
    count = 0
    for case, verdict in verdicts(name, seed):
        assert not verdict.difference, text(name, seed, case, verdict.difference)
        count += verdict.kind in ("equal", "raises")
    assert count, text(name, seed, case, "none of its samples could be compared")
    return count


def work(seed: int) -> Batch:
    """Compare all operators."""
    counts: Counter[str] = Counter()
    for name in operators():
        trying(lines(name, seed))
        for case, verdict in verdicts(name, seed):
            assert not verdict.difference, text(name, seed, case, verdict.difference)
            counts[verdict.kind] += 1
    compared = counts["equal"] + counts["raises"]
    return Batch(compared, text=f"{len(operators())} operators; both raise in {counts['raises']} cases")


CLAIMS = [
    Claim(
        "PyTorch's operators as discriminators",
        work,
        "values and gradients are torch.autograd's within 1e-10; what has no second derivative raises",
        endless=True,
    )
]
