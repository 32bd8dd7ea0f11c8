"""How many instructions a thread of a CUDA kernel executes for each element, read from the machine code.

No GPU takes part: tests/helpers/sass interprets a thread of the launches that the host harness writes down. The
difference of two sizes is what an element costs in the steady state.

`python -m tests.kernels.cuda.test_cuda_sass` prints the table of docs/cuda.md.
"""

import ctypes
import functools
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import fastgan
from fastgan.backends import native
from fastgan.backends.native import build_facts
from tests.helpers import ROOT, sass
from tests.helpers.calls import logits
from tests.helpers.once import SHARED

# Instructions an element of a thread's, in float32 and in bfloat16. Of a loss: its value, its value and gradients (a
# training step's forward), and gradients (its backward, where the upstream is not 1). The aims for a value are 68 and 14,
# and for bfloat16 1.3 times as many as for float32. Pairs are equal: each argument is at a kink.
BUDGETS = {
    ("value", "softplus"): (66, 68),
    ("value", "other"): (14.5, 16),
    ("forward", "softplus"): (81, 82),
    ("forward", "other"): (21, 28),
    ("backward", "softplus"): (53, 27),
    ("backward", "other"): (20, 26),
    ("value", "pairs"): (17, 20),
    ("forward", "pairs"): (22, 29),
    ("backward", "pairs"): (21, 24),
}
NORM_BUDGETS = {"penalty_sums<squares, float32>": 6, "penalty_sums<dots, float32>": 9}
MOST_LOCAL = 2  # loads and stores of the stack for an element
# A thread of an element-wise kernel, so that a multiprocessor has 32 warps.
MOST_REGISTERS = 64
ELEMENTWISE = ("loss_backward<", "penalty_gradient<", "interpolate_elements<")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LIBRARY = native.native.__file__ if native.native else None
ARCHITECTURES = ("sm_90", "sm_89")  # those that are read, the first that the extension has for the budgets
# Elements of a tensor in the smaller call, and how many more in the larger: each block of a grid of two has 16 chunks
# of 1,024 elements more, so that work which goes around its 8 warps is spread evenly.
ELEMENTS, MORE = 64 * 1024, 16 * 1024
ROW, LONGER = 64 * 2048, 32 * 2048  # of a norm: the same in pairs of chunks


class Case(NamedTuple):
    """A call of n elements a tensor, and what follows it.

    Attributes:
        family: loss, norms or interpolation.
        start: does the forward pass for (n, dtype) and returns the backward pass.
        tensors: how many tensors of n elements the kernels read.
        sizes: n of the smaller call, and how many more.
    """

    family: str
    start: Callable[[int, torch.dtype], Callable[[], object]]
    tensors: int = 1
    sizes: tuple[int, int] = (ROW, LONGER)


# ---------------------------------------------------------------------------------- calls


def named_loss(loss: str, **options):
    """The discriminator's loss of real and fake logits."""

    def start(n, dtype):
        real, fake = (torch.zeros(n, dtype=dtype, requires_grad=True) for _ in range(2))
        return fastgan.discriminator_loss(real, fake, loss=loss, **options).backward

    return start


def own_loss(phi: str):
    """The same of a phi that none of the named losses uses."""

    def start(n, dtype):
        tensors = [torch.zeros(n, dtype=dtype, requires_grad=True) for _ in range(2)]
        terms = [fastgan.term(phi, scale=-1.0, shift=1.0), fastgan.term(phi, shift=1.0)]
        return fastgan.reduce_terms(terms, tensors).backward

    return start


def matching(n, dtype):
    """The mean absolute difference of features, which are equal."""
    pair = tuple(torch.zeros(n, dtype=dtype, requires_grad=True) for _ in range(2))
    return fastgan.reduce_terms([fastgan.term("abs")], [pair]).backward


def norm(n, dtype):
    """The gradient penalty of one sample."""
    grads = torch.zeros(1, n, dtype=dtype, requires_grad=True)
    return fastgan.norm_penalty(grads).backward


def norm_twice(n, dtype):
    """The second derivatives of the same; its forward pass is the first two."""
    grads = torch.zeros(1, n, dtype=dtype, requires_grad=True)
    up = torch.ones((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, requires_grad=True)
    (first,) = torch.autograd.grad(fastgan.norm_penalty(grads), grads, up, create_graph=True)
    return lambda: torch.autograd.grad(first, (grads, up), torch.zeros_like(first))


def points(n, dtype):
    """Points between real and fake samples."""
    real, fake = (torch.zeros(1, n, dtype=dtype, requires_grad=True) for _ in range(2))
    between = fastgan.interpolate(real, fake)
    return lambda: torch.autograd.grad(between, (real, fake), torch.zeros_like(between))


def loss_case(start) -> Case:
    return Case("loss", start, 2, (ELEMENTS, MORE))


CASES = {
    "softplus": loss_case(named_loss("nonsaturating")),
    "softplus, linear": loss_case(named_loss("nonsaturating", real_target=0.9)),
    "relu": loss_case(named_loss("hinge")),
    "square": loss_case(named_loss("least_squares")),
    "identity": loss_case(named_loss("wasserstein")),
    "relu_square": loss_case(own_loss("relu_square")),
    "abs": loss_case(own_loss("abs")),
    "relu_half": loss_case(own_loss("relu_half")),
    "pairs": Case("loss", matching, 1, (ELEMENTS, MORE)),
    "norm": Case("norms", norm),
    "second order": Case("norms", norm_twice),
    "points": Case("interpolation", points),
}
PHIS = [name for name, case in CASES.items() if case.family == "loss"]


# ---------------------------------------------------------------------------------- what they cost


class Row(NamedTuple):
    """What an element costs in one kernel; direction: forward or backward."""

    case: str
    direction: str
    dtype: torch.dtype
    cost: sass.Cost


@functools.cache
def architectures() -> list[str]:
    """Those of the extension that are read here."""
    built = sass.architectures(LIBRARY)
    return [arch for arch in ARCHITECTURES if arch in built]


@functools.cache
def recordings(name: str, dtype: torch.dtype) -> dict[str, tuple[list[sass.Launch], list[sass.Launch]]]:
    """The launches of a case's two calls, forward and backward, on a device that two blocks fill."""
    case, found = CASES[name], {"value": [], "forward": [], "backward": []}
    n, more = case.sizes
    for size in (n, n + more):
        backward = []
        for direction, call in (
            ("value", torch.no_grad()(lambda: case.start(size, dtype)) if case.family == "loss" else lambda: None),
            ("forward", lambda: backward.append(case.start(size, dtype))),
            ("backward", lambda: backward[0]()),
        ):
            found[direction].append(sass.recorded(call, 1, warps=8, blocks_per_multi=2))
    return {direction: tuple(both) for direction, both in found.items()}


@functools.cache
def rows(name: str, dtype: torch.dtype, arch: str) -> list[Row]:
    """What the kernels of a case cost; a kernel that has nothing to do for each element is left out."""
    case, code = CASES[name], sass.kernels(LIBRARY, arch)
    found = []
    for direction, (small, large) in recordings(name, dtype).items():
        if name == "second order" and direction == "forward":
            continue
        for cost in measured(small, large, case.tensors * case.sizes[1], code, dtype):
            if cost.instructions > 0.5:
                found.append(Row(name, direction, dtype, cost))
    return found


def measured(small, large, more, code, dtype) -> list[sass.Cost]:
    """sass.steady(); another compiler than the one whose code has been looked at may use any instruction."""
    try:
        return sass.steady(small, large, more, code, sass.filling(dtype))
    except sass.UnknownInstructionError as unknown:
        if "release 13.0" in compiler():
            raise
        pytest.skip(f"{compiler()}: {unknown}")


def compiler() -> str:
    """The one that the extension's kernels are by."""
    major = re.match(r"_native_cuda(\d+)", Path(LIBRARY).name)
    return build_facts()[f"cuda {major[1]} compiler" if major else "cuda compiler"]


def instructions(name: str, direction: str, dtype: torch.dtype) -> float:
    """What all kernels of one direction take for an element."""
    return sum(r.cost.instructions for r in rows(name, dtype, architectures()[0]) if r.direction == direction)


def table(arch: str) -> str:
    """For docs/cuda.md."""
    lines = [
        f"| {arch} | of | dtype | instructions | float64 | conversions | branches |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in CASES:
        for dtype in DTYPES:
            lines += [line_of(row) for row in rows(name, dtype, arch)]
    return "\n".join(lines)


def line_of(row: Row) -> str:
    """A row of the table."""
    cost = row.cost
    numbers = (cost.instructions, cost.float64, cost.conversions, cost.branches)
    of = row.case if row.case == "second order" else f"{row.case}, {row.direction}"
    cells = [f"`{cost.kernel}`", of, str(row.dtype).removeprefix("torch.")]
    return "| " + " | ".join(cells + [f"{x:.1f}" for x in numbers]) + " |"


# ---------------------------------------------------------------------------------- tests

pytestmark = [
    pytest.mark.skipif(not hasattr(native.native, "cuda_forward"), reason=f"CUDA: {build_facts().get('cuda')}"),
    pytest.mark.skipif(sass.disassembler() is None, reason="there is no cuobjdump"),
]


@pytest.fixture(autouse=True)
def _built_for_one_of_them():
    if not architectures():
        pytest.skip(f"no code for {' or '.join(ARCHITECTURES)}")


def budgets(direction: str, name: str) -> tuple[float, float]:
    return BUDGETS[
        direction, "pairs" if name == "pairs" else "softplus" if name.startswith("softplus") else "other"
    ]


@pytest.mark.parametrize("direction", ["value", "forward", "backward"])
@pytest.mark.parametrize("name", PHIS)
def test_instructions_of_losses(name, direction):
    for dtype, most in zip((torch.float32, torch.bfloat16), budgets(direction, name), strict=True):
        assert 0 < instructions(name, direction, dtype) <= most, dtype
        assert all(row.cost.local <= MOST_LOCAL for row in rows(name, dtype, architectures()[0]))


@pytest.mark.parametrize("name", ["norm", "second order"])
def test_instructions_of_norms(name):
    costs = [row.cost for row in rows(name, torch.float32, architectures()[0])]
    (sums,) = [cost for cost in costs if cost.kernel in NORM_BUDGETS]
    assert 0 < sums.instructions <= NORM_BUDGETS[sums.kernel]
    assert all(row.cost.local <= MOST_LOCAL for arch in architectures() for row in rows(name, torch.float16, arch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "direction"), [("relu", "value"), ("softplus", "forward"), ("norm", "forward")])
def test_doubles_where_they_are_slow(name, direction, dtype):
    """On sm_89 a sum's addition is all that an element costs of them."""
    if "sm_89" not in architectures():
        pytest.skip("no code for sm_89")
    (cost,) = [row.cost for row in rows(name, dtype, "sm_89") if row.direction == direction]
    assert cost.float64 + cost.conversions <= 1.3


def test_registers_of_elementwise_kernels():
    used = {
        kernel: number
        for (kernel, arch), number in sass.registers(LIBRARY).items()
        if arch in architectures() and kernel.startswith(ELEMENTWISE) and "float64" not in kernel
    }
    assert used
    assert {kernel: number for kernel, number in used.items() if number > MOST_REGISTERS} == {}


def test_the_table_in_the_docs():
    """The one in docs/cuda.md is of this compiler's code."""
    text = (ROOT / "docs" / "cuda.md").read_text()
    if compiler() not in text or any(f"| {arch} | of | dtype |" not in text for arch in architectures()):
        pytest.skip("built by another compiler, or not for the same architectures")
    for arch in architectures():
        assert table(arch) in text, "python -m tests.kernels.cuda.test_cuda_sass prints the table"


# ---------------------------------------------------------------------------------- is the interpreter right?


def check_written(call, inputs, results, arch, dtype, kernels=""):
    """What some threads write into `results`, which the call fills, is what the harness has put there, bit by bit.

    Of kernels whose names begin with `kernels`: forward's gradients are not yet those that backward puts in their place.

    Before, the results' memory holds what it must not hold: the inverse of every bit.
    """
    results.clear()
    launches = sass.recorded(call, 1, warps=8, blocks_per_multi=2)
    code, same = sass.kernels(LIBRARY, arch), 0
    given, want = ({at: word for t in tensors for at, word in words(t).items()} for tensors in (inputs, results))
    given |= {at: word ^ 0xFFFFFFFF for at, word in want.items()}
    for launch in (found for found in launches if found.kernel.startswith(kernels)):
        for block, number in ((0, 0), (0, 37), (launch.blocks - 1, launch.threads - 1)):
            thread = sass.thread_of(launch, code, sass.filling(dtype), block=block, number=number)
            thread.memory.update(given)
            thread.run()
            for at, word in want.items():
                for shift in (0, 16):
                    wrong = (thread.memory[at] ^ word) >> shift & 0xFFFF
                    assert wrong in (0, 0xFFFF), (launch.kernel, block, number, at)
                    same += wrong == 0
    assert same >= 12


def words(tensor: torch.Tensor) -> dict[int, int]:
    """The 4-byte words of its memory, by their address / 4."""
    storage = tensor.untyped_storage()
    content = ctypes.string_at(storage.data_ptr(), storage.nbytes())
    content += bytes(-len(content) % 4)
    first = storage.data_ptr() // 4
    return {first + k: int.from_bytes(content[4 * k : 4 * k + 4], "little") for k in range(len(content) // 4)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["nonsaturating", "hinge"])
def test_gradients_that_threads_write(name, dtype):
    """In the last chunk a thread has fewer elements than a chunk has."""
    n = 2 * 8 * 1024 + 40
    real, fake = logits(n, dtype=dtype).requires_grad_(), logits(n, dtype=dtype, seed=1).requires_grad_()
    from_loss, found = torch.tensor(1.5, dtype=torch.float64 if dtype == torch.float64 else torch.float32), []

    def call():
        loss = fastgan.discriminator_loss(real, fake, loss=name)
        found.extend(torch.autograd.grad(loss, (real, fake), from_loss.to(loss.dtype)))

    for arch in architectures():
        check_written(call, (real, fake, from_loss), found, arch, dtype, "loss_backward")


@pytest.mark.parametrize("phi", ["softplus", "square"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_threads_write(dtype, phi):
    """Two terms, one of them with a linear part."""
    n, found = 2 * 8 * 1024 + 40, []
    tensors = [logits(n, dtype=dtype), logits(n, dtype=dtype, seed=1)]
    terms = [fastgan.term(phi, scale=-1.5, shift=0.5), fastgan.term(phi, linear=-0.75)]

    def call():
        found.extend(fastgan.reduce_terms(terms, tensors, reduction="none"))

    for arch in architectures():
        check_written(call, tensors, found, arch, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_points_that_threads_write(dtype):
    """Samples whose elements lie apart, too: their places come from divisions."""
    for shape in ((3, 5000), (4, 3, 700)):
        real, fake, found = logits(*shape, dtype=dtype), logits(*shape, dtype=dtype, seed=1), []
        real = real.transpose(-1, -2) if len(shape) == 3 else real
        fake = fake.transpose(-1, -2).contiguous() if len(shape) == 3 else fake
        eps = torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        for arch in architectures():
            check_written(
                lambda: found.append(fastgan.interpolate(real, fake, eps)),
                (real, fake, eps),
                found, arch, dtype,
            )  # fmt: skip


def test_an_unknown_instruction_is_named():
    kernel = sass.Kernel("made_up", "sm_90", "  /*0000*/  FROB.X R1, R2 ;\n  /*0010*/  EXIT ;\n", {}, 0x210)
    with pytest.raises(sass.UnknownInstructionError, match=r"made_up: FROB.X R1, R2"):
        sass.Thread(kernel, b"", grid=1, threads=32).run()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(SHARED, folder)
        print("\n\n".join(table(arch) for arch in architectures()))
