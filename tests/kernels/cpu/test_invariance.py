"""The same bits whatever the threads, instruction set, size of a call or neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgan
from fastgan.backends import cpu
from tests.helpers import ulp

CALLS = {
    "softplus": lambda r, f: fastgan.discriminator_loss(r, f),
    "soft labels": lambda r, f: fastgan.discriminator_loss(r, f, real_target=0.9, fake_target=0.1),
    "hinge": lambda r, f: fastgan.discriminator_loss(r, f, "hinge"),
    "least squares": lambda r, f: fastgan.discriminator_loss(r, f, "least_squares"),
    "wasserstein": lambda r, f: fastgan.discriminator_loss(r, f, "wasserstein"),
    "paired": lambda r, f: fastgan.discriminator_loss(r, f, relativistic="paired"),
    "average": lambda r, f: fastgan.discriminator_loss(r, f, relativistic="average"),
    "feature matching": lambda r, f: fastgan.reduce_terms([fastgan.term("abs")], [(r, f)]),
    "squared hinge": lambda r, f: fastgan.reduce_terms([fastgan.term("relu_square")] * 2, [r, f]),
}


def everything(call, r, f):
    """Loss, first and second order of one call."""
    r, f = r.detach().requires_grad_(), f.detach().requires_grad_()
    loss = call(r, f)
    plain = torch.autograd.grad(loss, (r, f), retain_graph=True)
    scaled = torch.autograd.grad(loss, (r, f), torch.full_like(loss, 1.7), retain_graph=True)
    first = torch.autograd.grad(loss, (r, f), create_graph=True)
    second = torch.autograd.grad(first, (r, f), [torch.sin(r.detach()), torch.cos(f.detach())], allow_unused=True)
    return [loss.detach(), *plain, *scaled, *(g.detach() for g in first), *second]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_threads(name, dtype):
    n = 200_003
    r, f = torch.randn(n).to(dtype), torch.randn(n).to(dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(everything(CALLS[name], r, f))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_instruction_sets(name):
    """The generic kernels, whose fma is libm's, against every set that this processor has."""
    sets, in_force = cpu.native.isas(), cpu.native.isa()
    assert sets[-1] == "generic"
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        values = torch.randn(3000) * torch.logspace(-20, 4, 3000)
        r, f = values.to(dtype), values.flip(0).to(dtype)
        results = []
        try:
            for isa in sets:
                cpu.native.set_isa(isa)
                results.append(everything(CALLS[name], r, f))
        finally:
            cpu.native.set_isa(in_force)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert torch.equal(a.nan_to_num(3.0), b.nan_to_num(3.0)), dtype
    with pytest.raises(ValueError, match="isa: expected one that this processor has"):
        cpu.native.set_isa("v9")


def tree(values):
    """The fixed tree of csrc/cpu/tree.h, written again in NumPy."""
    values = np.asarray(values, dtype=np.float64)
    while True:
        count = -(-len(values) // 1024)
        lanes = np.zeros((count, 8, 128))
        lanes.reshape(-1)[: len(values)] = values
        sums = lanes[:, 0]
        for row in range(1, 8):
            sums = sums + lanes[:, row]
        while sums.shape[1] > 1:
            sums = sums[:, ::2] + sums[:, 1::2]
        values = sums[:, 0]
        if count == 1:
            return values[0]


@pytest.mark.parametrize("n", [1, 2, 64, 127, 128, 129, 1000, 1023, 1024, 1025, 4096, 100_000, 1024 * 1024 + 1])
def test_sums_follow_the_documented_tree(n):
    x = torch.randn(n, dtype=torch.float64) * torch.logspace(-8, 8, n, dtype=torch.float64)
    total = fastgan.reduce_terms([fastgan.term("identity")], [x], reduction="sum")
    assert total.item() == tree(x.numpy())


def test_two_calls_are_one_call():
    """A member of a sequence has the value that it has alone."""
    members = [torch.randn(n) for n in (1, 70, 1024, 3001, 40_000)]
    _, values = fastgan.reduce_terms([fastgan.term("softplus")] * 5, members, return_values=True)
    for member, value in zip(members, values, strict=True):
        assert torch.equal(fastgan.reduce_terms([fastgan.term("softplus")], [member]), value)


def test_more_than_two_to_the_31_elements():
    """64-bit indices: a stride of 0 makes a big tensor small."""
    n = (1 << 31) + 1025
    x = torch.full((1,), 0.5).expand(n)
    assert fastgan.generator_loss(x, loss="hinge") == -0.5
    assert fastgan.reduce_terms([fastgan.term("identity")], [x], reduction="sum") == torch.tensor(n / 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.sampled_from(list(CALLS)),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
def test_any_strides(shape, random, name, dtype):
    """Random views (permuted, stepped, offset, expanded) have the bits of their contiguous copies."""

    def view():
        steps = [random.randint(1, 3) for _ in shape]
        base = torch.randn([1, *(s * k + 2 for s, k in zip(shape, steps, strict=True))]).to(dtype)[0]
        order = list(range(len(shape)))
        random.shuffle(order)
        base = base.permute(order).contiguous().permute([order.index(d) for d in range(len(shape))])
        for d, (s, k) in enumerate(zip(shape, steps, strict=True)):
            start = random.randint(0, 2)
            base = base.narrow(d, start, s * k)
            base = base[(slice(None),) * d + (slice(None, None, k),)]
            if random.random() < 0.2:
                base = base.narrow(d, 0, 1).expand(base.shape)
        return base

    r, f = view(), view()
    for a, b in zip(
        everything(CALLS[name], r, f), everything(CALLS[name], r.contiguous(), f.contiguous()), strict=True
    ):
        assert torch.equal(a, b)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), st.sampled_from(["paired", "average", None])
)
def test_properties(values, form):
    """Swapping real and fake turns one player's relativistic loss into the other's; losses that bound
    something are not negative; a constant shift of all logits leaves relativistic losses alone."""
    r = torch.tensor(values)
    f = r.flip(0) * 0.5
    for loss in ("nonsaturating", "hinge", "least_squares"):
        d = fastgan.discriminator_loss(r, f, loss, relativistic=form)
        assert d >= 0
        if form:
            assert torch.equal(d, fastgan.generator_loss(r, f, loss, relativistic=form))
    hinge = fastgan.discriminator_loss(r, f, "hinge")
    assert ulp.error(hinge, ((1 - r.double()).clamp(min=0).mean() + (1 + f.double()).clamp(min=0).mean())) <= 2.0
