"""Calls on tensors of any shape, strides, dtype, offset and kind: no crash, no hang, no silent wrong number.

A call on a view must have the bits of the same call on a contiguous copy, and be near the formulas in float64. Numbers
lie on a grid that every dtype holds, so that kinks are met exactly and on both sides. What is not supported must raise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode

import fastgan
from tests.helpers import ulp
from tests.helpers.calls import flat
from tests.proof import binding
from tests.proof.claims import Batch, Claim, trying

CASES = 1000  # a batch
NEAR = 8.0  # ulp of the largest element, where both are rounded several times
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
REFUSED = {"int64": torch.int64, "bool": torch.bool, "complex64": torch.complex64, "float8": torch.float8_e4m3fn}
# Kinds of tensors that are computed with as plain ones are.
PLAIN = ("plain", "negative bit", "subclass", "parameter", "inference", "requires grad")
ELSEWHERE = {"subclass"}  # of these the reference computes, with other roundings
WITHOUT_DATA = ("meta", "fake")
LOSSES = ("saturating", "nonsaturating", "hinge", "least_squares", "wasserstein", "ranking")


FAKE = FakeTensorMode()


class Subclass(torch.Tensor):
    """A tensor of a class of one's own."""


@dataclass(frozen=True)
class View:
    """A tensor: any strides over a storage, so that elements may share memory, and the kind of tensor it is."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    dtype: str = "float32"
    kind: str = "plain"
    seed: int = 0

    def make(self, storage: Tensor | None = None) -> Tensor:
        """Return the tensor; over a storage that others have too, if one is given."""
        last = self.offset + max(0, sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)))
        if storage is None or storage.numel() <= last or storage.dtype != self.storage_dtype:
            storage = grid(last + 3, self.seed).to(self.storage_dtype)
        x = storage.as_strided(self.shape, self.strides, self.offset)
        return KINDS[self.kind](x)

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype of the memory below."""
        return (DTYPES | REFUSED)[self.dtype]


def grid(count: int, start: int) -> Tensor:
    """Return multiples of 1/16 within 8."""
    g = torch.Generator().manual_seed(start)
    return torch.randint(-128, 129, (count,), generator=g).double() / 16


def negated(x: Tensor) -> Tensor:
    """Return a tensor that is -x by its negative bit alone."""
    return torch._neg_view(x) if x.dtype.is_floating_point and x.dtype != torch.float8_e4m3fn else x


def in_inference(x: Tensor) -> Tensor:
    """Return a copy with the same strides that inference mode made."""
    with torch.inference_mode():
        return x * 1 if x.dtype in DTYPES.values() else x


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "negative bit": negated,
    "subclass": lambda x: x.as_subclass(Subclass),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
    "inference": in_inference,
    "requires grad": lambda x: x.requires_grad_(x.is_floating_point()),
    "meta": lambda x: x.to("meta"),
    "fake": lambda x: FAKE.from_tensor(x),
}


@dataclass(frozen=True)
class Case:
    """A call: the function's name, its tensors, whether they share a storage, its options, and the backend."""

    function: str
    real: View
    fake: View
    shared: bool = False
    options: dict = field(default_factory=dict)
    gradients: bool = True


def cubic(x: Tensor) -> Tensor:
    """A discriminator whose gradient is no constant."""
    return x * x * x / 64


def terms(real: Tensor, fake: Tensor, **options: object) -> object:
    """Return a loss of two terms, of which one has a scale, a shift and a linear part."""
    own = fastgan.term("softplus", scale=-0.5, shift=0.25, linear=-0.5)
    return fastgan.reduce_terms([fastgan.term("abs"), own], [real, fake], **options)


FUNCTIONS: dict[str, Callable[..., object]] = {
    "discriminator_loss": fastgan.discriminator_loss,
    "generator_loss": lambda real, fake, **o: fastgan.generator_loss(fake, real, **o),
    "reduce_terms": terms,
    "feature_matching_loss": lambda real, fake: fastgan.feature_matching_loss([fake], [real]),
    "norm_penalty": lambda real, fake, **o: fastgan.norm_penalty(real, **o),
    "gradient_norm": lambda real, fake, **o: fastgan.gradient_norm((real, fake), **o),
    "interpolate": lambda real, fake: fastgan.interpolate(
        real, fake, torch.linspace(0, 1, len(real)).to(wide(real))
    ),
    "r1_penalty": lambda real, fake, **o: fastgan.r1_penalty(cubic, real, **o),
}
PAIRS = {"gradient_norm", "interpolate", "feature_matching_loss"}  # take two tensors of one shape
ONE = {"norm_penalty", "r1_penalty"}


def wide(x: Tensor) -> torch.dtype:
    """Return the dtype that is computed in beside a tensor."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def result(case: Case, real: Tensor, fake: Tensor) -> list[Tensor]:
    """Return a call's value and gradients."""
    inputs = [real, fake][: 1 if case.function in ONE else 2]
    views = (case.real, case.fake)
    inputs = [
        x.detach().requires_grad_() if case.gradients and view.kind != "inference" else x
        for x, view in zip(inputs, views, strict=False)
    ]
    value = list(flat([FUNCTIONS[case.function](inputs[0], inputs[-1], **case.options)]))
    found = [v.detach() for v in value]
    if case.gradients and any(v.requires_grad for v in value):
        outputs = [v for v in value if v.requires_grad]
        ups = [torch.full_like(v, 0.5) for v in outputs]
        leaves = [x for x in inputs if x.requires_grad]
        found += (
            [g for g in torch.autograd.grad(outputs, leaves, ups, allow_unused=True) if g is not None]
            if leaves
            else []
        )
    return found


def printed(case: Case) -> str:
    """Return a case as a test."""
    return f"from tests.proof.fuzz import *\n\n\ndef test_found():\n    check({case!r})\n"


def check(case: Case) -> None:
    """Raise AssertionError, with the case as a test, where a call is wrong."""
    trying(printed(case))
    try:
        check_(case)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n\n{printed(case)}") from error


def check_(case: Case) -> None:
    """Compare a call with that on plain copies and with the formulas, or see that it raises."""
    real = case.real.make()
    fake = case.fake.make(storage_of(real) if case.shared else None)
    views = (case.real,) if case.function in ONE else (case.real, case.fake)
    if why := refused(case, real, fake):
        try:
            got = FUNCTIONS[case.function](real, fake, **case.options)
        except (TypeError, ValueError):
            return
        raise AssertionError(f"no error though {why}: {got}")
    if any(v.kind in WITHOUT_DATA for v in views):
        return without_data(case, real, fake)
    before = [plain(x) for x in (real, fake)]
    try:
        got = result(case, real, fake)
    except ValueError:
        if real.shape == fake.shape:
            raise
        return None  # shapes that differ may be refused
    want = result(case, *before)
    for x, copy in zip((real, fake), before, strict=True):
        assert torch.equal(plain(x), copy), "an input was changed"
    if not any(v.kind in ELSEWHERE for v in views):
        same(got, want)
    if case.function == "r1_penalty" and real.dtype in (torch.float16, torch.bfloat16):
        return None  # the discriminator itself rounds to 16 bits
    with fastgan.backend("reference"):
        count = max(real.numel(), fake.numel()) if case.options.get("reduction") == "sum" else 1
        near(got, result(case, *(x.double() for x in before)), float(count))
    return None


def storage_of(x: Tensor) -> Tensor:
    """Return the memory below a tensor as a vector."""
    base = torch.empty(0, dtype=x.dtype)
    return base.set_(x.untyped_storage()) if x.device.type == "cpu" and type(x) is Tensor else base


def plain(x: Tensor) -> Tensor:
    """Return a contiguous copy that is nothing but a tensor."""
    return x.detach().as_subclass(torch.Tensor).resolve_neg().clone(memory_format=torch.contiguous_format)


def refused(case: Case, real: Tensor, fake: Tensor) -> str:
    """Return why a call must raise, or nothing."""
    views = (case.real,) if case.function in ONE else (case.real, case.fake)
    for view in views:
        if view.dtype in REFUSED:
            return f"{view.dtype} is not supported"
        if 0 in view.shape:
            return "a tensor is empty"
    form = case.options.get("relativistic")
    pair = form == "paired" or (case.options.get("loss") == "ranking" and form is None)
    if len(views) == 2:
        if real.device != fake.device:
            return "devices differ"
        if (real.dtype == torch.float64) != (fake.dtype == torch.float64):
            return "float64 is mixed with others"
        if (pair or case.function in PAIRS - {"gradient_norm"}) and real.shape != fake.shape:
            return "shapes differ"
    if case.function == "gradient_norm" and (real.dim() == 0 or fake.dim() == 0 or len(real) != len(fake)):
        return "tensors have other numbers of samples"
    if case.function in ("norm_penalty", "interpolate", "r1_penalty") and real.dim() == 0:
        return "there is no dimension of samples"
    return ""


def without_data(case: Case, real: Tensor, fake: Tensor) -> None:
    """See that a call without data has the shape and dtype of one with it, or raises a clear error."""
    try:
        with FAKE if isinstance(real, FakeTensor) else nullcontext():
            got = list(flat([FUNCTIONS[case.function](real, fake, **case.options)]))
    except (TypeError, ValueError, NotImplementedError):
        return
    twin = [View(v.shape, v.strides, v.offset, v.dtype).make() for v in (case.real, case.fake)]
    want = list(flat([FUNCTIONS[case.function](*twin, **case.options)]))
    assert [(g.shape, g.dtype) for g in got] == [(w.shape, w.dtype) for w in want]


def same(got: list[Tensor], want: list[Tensor]) -> None:
    """See that results have the same bits."""
    assert len(got) == len(want) > 0
    for g, w in zip(got, want, strict=True):
        g = plain(g)
        assert (g.dtype, g.shape) == (w.dtype, w.shape), (
            f"{g.dtype} {tuple(g.shape)}, a copy {w.dtype} {tuple(w.shape)}"
        )
        assert torch.equal(g.nan_to_num(0.25), w.nan_to_num(0.25)), f"other bits than of a copy: {g} and {w}"


def near(got: list[Tensor], exact: list[Tensor], size: float) -> None:
    """See that results are near the formulas in float64; a sum may have lost digits of summands of a size."""
    assert len(got) == len(exact)
    for g, e in zip(got, exact, strict=True):
        scale = e.abs().max().clamp(min=size if g.dim() == 0 else 0)
        off = ulp.error(plain(g), e.reshape(g.shape), scale.expand(g.shape))
        assert off <= NEAR, f"{off} ulp from the formula: {g} and {e}"


# ---------------------------------------------------------------------------------- drawing cases


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> View:
    """Draw how a tensor of a shape lies in memory."""
    strides, size = [0] * len(shape), 1
    for d in draw(st.permutations(range(len(shape)))):
        strides[d] = draw(st.sampled_from((size, size, size + 1, 2 * size, 1, 0)))
        size = max(size, strides[d] * shape[d])
    kind = draw(st.sampled_from(PLAIN * 4 + WITHOUT_DATA))
    return View(shape, tuple(strides), draw(st.integers(0, 9)), dtype, kind, draw(st.integers(0, 99)))


SHAPES = st.one_of(
    st.lists(st.integers(1, 7), max_size=5).map(tuple),
    st.sampled_from([(), (0,), (3, 0), (1,), (1025,), (4, 513), (2, 3, 700), (1, 1, 1, 1, 1, 1, 3), (64, 65)]),
)
OPTIONS = {
    "discriminator_loss": {"loss": LOSSES, "relativistic": (None, "paired", "average"), "reduction": ("mean", "sum", "none")},
    "generator_loss": {"loss": LOSSES, "relativistic": ("paired", "average"), "reduction": ("mean", "sum", "none")},
    "reduce_terms": {"reduction": ("mean", "sum")},
    "norm_penalty": {"kind": ("two_sided", "one_sided"), "reduction": ("mean", "sum", "none")},
    "r1_penalty": {"prune": (True, False)},
}  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a call."""
    function = draw(st.sampled_from(list(FUNCTIONS)))
    options = {name: draw(st.sampled_from(values)) for name, values in OPTIONS.get(function, {}).items()}
    shape = draw(SHAPES)
    dtypes = st.sampled_from([*DTYPES] * 5 + [*REFUSED])
    dtype = draw(dtypes)
    other = dtype if draw(st.integers(0, 9)) else draw(dtypes)
    other_shape = shape if draw(st.integers(0, 4)) else draw(SHAPES)
    real, fake = draw(views(shape, dtype)), draw(views(other_shape, other))
    if fake.kind in WITHOUT_DATA or real.kind in WITHOUT_DATA:
        fake = View(fake.shape, fake.strides, fake.offset, fake.dtype, real.kind)
    return Case(function, real, fake, draw(st.booleans()), options, draw(st.booleans()))


def batch(start: int, count: int = CASES) -> Batch:
    """Try cases that a seed decides; the one that fails is made as small as hypothesis can."""

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )
    @given(cases())
    def run(case: Case) -> None:
        check(case)

    run()
    return Batch(count)


CLAIMS = [
    Claim("calls on tensors of any kind", batch, "bits of a copy, near the formulas, or an error", batches=20, endless=True),
    Claim("the native binding", binding.batch, "an error or the bits of a call, no byte beside the outputs", batches=20, endless=True),
]  # fmt: skip
