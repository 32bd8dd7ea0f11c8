"""How calls are spread over a GPU: the launches that the host harness writes down, for the shape of an H100 or H200.

`python -m tests.kernels.cuda.test_cuda_launches` prints the table of docs/cuda.md.
"""

import os
import tempfile
from collections.abc import Callable

import pytest
import torch

import fastgan
from tests.helpers import ROOT, sass
from tests.helpers.once import SHARED

MULTIPROCESSORS = 132
SIZES = (64, 4096, 61_504, 2**20, 2**24)


def loss(n: int, tensors: int = 1, **options) -> Callable[[], object]:
    """A discriminator's loss and its backward; what is in memory does not matter."""

    def call():
        real, fake = ([torch.empty(n, requires_grad=True) for _ in range(tensors)] for _ in range(2))
        fastgan.discriminator_loss(real, fake, loss="nonsaturating", **options).backward()

    return call


def norms(groups: int, length: int) -> Callable[[], object]:
    """The norms of as many rows, and their backward."""

    def call():
        grads = torch.empty(groups, length, dtype=torch.bfloat16 if length > 2**24 else torch.float32)
        fastgan.norm_penalty(grads.requires_grad_()).backward()

    return call


CALLS = {
    **{f"a loss of {n:,} logits a side": loss(n) for n in SIZES},
    **{f"the same of {k} tensors of 4,096 a side": loss(4096, k) for k in (4, 16, 32)},
    **{f"its average form, {n:,}": loss(n, relativistic="average") for n in SIZES[:4]},
    **{
        f"{groups} norms of {length:,} elements": norms(groups, length)
        for groups, length in ((64, 12_288), (16, 3 * 2**20), (1, 2**24), (4096, 1024), (2**20, 16))
    },
}


def spread(call: Callable[[], object]) -> list[sass.Launch]:
    """A call's launches on the device of the table."""
    return sass.recorded(call, MULTIPROCESSORS, run=False)


def table() -> str:
    """For docs/cuda.md."""
    lines = ["| call | launches: kernel, blocks x warps |", "| --- | --- |"]
    for name, call in CALLS.items():
        shapes = [f"`{x.kernel}` {x.blocks:,} x {x.threads // 32}" for x in spread(call)]
        lines.append(f"| {name} | {'; '.join(shapes)} |")
    return "\n".join(lines)


def blocks(call: Callable[[], object]) -> dict[str, int]:
    """Blocks of each kernel that a call launches."""
    return {launch.kernel: launch.blocks for launch in spread(call)}


def test_a_few_logits_take_one_block():
    (forward, backward) = spread(loss(64))
    assert (forward.blocks, forward.threads) == (1, 32)
    assert (backward.blocks, backward.threads) == (2, 32)


@pytest.mark.parametrize("n", [4096, 61_504])
def test_a_block_a_chunk(n):
    """Until all multiprocessors have work: 61,504 logits are on 122 of them and not on 16."""
    chunks = 2 * -(-n // 1024)
    assert blocks(loss(n)) == {"loss_forward<lean, float32>": chunks, "loss_backward<float32>": chunks}


@pytest.mark.parametrize("n", [2**20, 2**22, 2**24, 2**26])
def test_no_thin_last_round(n):
    """As many blocks live at once as the grid has, and all but a few chunks come out even."""
    for launch in spread(loss(n)):
        steady = "steady" in launch.kernel
        live = MULTIPROCESSORS * (3 if "forward" in launch.kernel else 4)
        pieces = 2 * n // 1024 // (launch.threads // 32 if steady else 1)
        assert launch.blocks <= live
        rounds = -(-pieces // launch.blocks)
        assert rounds * launch.blocks - pieces < rounds, (launch.kernel, launch.blocks, rounds)


def test_what_is_not_aligned_is_plain():
    """Halves of an odd number of logits go to the same kernels as others."""

    def call():
        real, fake = torch.empty(2 * 4097, requires_grad=True).chunk(2)
        fastgan.discriminator_loss(real, fake).backward()

    assert blocks(call) == {"loss_forward<lean, float32>": 10, "loss_backward<float32>": 10}


def test_the_average_form():
    """One launch of one block for few logits, means first for more."""
    assert blocks(loss(4096, relativistic="average"))["loss_forward<full, float32>"] == 1
    assert "loss_means<float32>" in blocks(loss(8192, relativistic="average"))


def test_rows_of_norms():
    """A long row is on all multiprocessors; of many rows, each has a block, a warp or a thread."""
    assert blocks(norms(1, 2**24))["penalty_sums<squares, float32>"] >= 2 * MULTIPROCESSORS
    assert blocks(norms(64, 12_288))["penalty_sums<squares, float32>"] == 64


def test_one_kernel_for_lists():
    """A list of 32 tensors takes one launch, as one tensor does."""
    assert blocks(loss(4096, 32)) == {"loss_forward<lean, float32>": 256, "loss_backward<float32>": 256}


def test_the_table_in_the_docs():
    assert table() in (ROOT / "docs" / "cuda.md").read_text(), (
        "python -m tests.kernels.cuda.test_cuda_launches prints the table"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault(SHARED, folder)
        print(table())
