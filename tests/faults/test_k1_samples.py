"""K1: samples that do not lie along dimension 0."""

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan.nn import GradientPenalty

from . import plain

TIME, BATCH, WIDTH = 7, 4, 3


class Recurrent(nn.Module):
    """A critic on (time, batch, features)."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(WIDTH, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


class Attention(nn.Module):
    """nn.TransformerEncoderLayer in its default layout, (time, batch, features)."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.layer(x).mean(0))


class Packed(nn.Module):
    """CTGAN's critic: ten rows are one sample."""

    def __init__(self, pac=10, width=6):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(width * pac, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
        self.size = width * pac

    def forward(self, x):
        return self.seq(x.reshape(-1, self.size))


class Graphs(nn.Module):
    """A critic of three graphs of 11 nodes: features are added up by graph."""

    index = torch.tensor([0, 1, 1, 0, 2, 2, 2, 1, 0, 2, 2])

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 8), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(torch.tanh(h.new_zeros(3, 8).index_add(0, self.index, h)))


def by_dim(d):
    return lambda g: list(g.unbind(d))


def by_pack(g):
    return list(g.reshape(4, -1))


def by_graph(g):
    return [g[Graphs.index == k] for k in range(3)]


CASES = {
    "recurrent": (Recurrent, (TIME, BATCH, WIDTH), {"batch_dim": 1}, by_dim(1)),
    "recurrent, from the end": (Recurrent, (TIME, BATCH, WIDTH), {"batch_dim": -2}, by_dim(1)),
    "attention": (Attention, (TIME, BATCH, 4), {"batch_dim": 1}, by_dim(1)),
    "packs": (Packed, (40, 6), {"pac": 10}, by_pack),
    "graphs": (Graphs, (11, WIDTH), {"groups": Graphs.index}, by_graph),
    "graphs, counted": (Graphs, (11, WIDTH), {"groups": (Graphs.index.int(), 3)}, by_graph),
}
cases = pytest.mark.parametrize("case", CASES)


def made(case):
    torch.manual_seed(0)
    make, shape, where, samples = CASES[case]
    d = make()
    return d, plain.in_double(d), torch.randn(shape), torch.randn(shape), where, samples


@cases
def test_r1(case):
    d, twin, real, _, where, samples = made(case)
    want = plain.penalty(twin, real, samples, "power") / 2
    plain.agree(fastgan.r1_penalty(d, real, **where), d, want, twin)


@cases
@pytest.mark.parametrize("prune", [True, False])
def test_gradient_penalty(case, prune):
    d, twin, real, fake, where, samples = made(case)
    eps = torch.rand(3 if "groups" in where else 4)
    x = fastgan.interpolate(real, fake, eps, **where)
    got = fastgan.gradient_penalty(d, real, fake, eps=eps, weight=1.0, prune=prune, **where)
    plain.agree(got, d, plain.penalty(twin, x, samples), twin)


@cases
def test_interpolate(case):
    """One eps for each sample, wherever its entries lie; and gradients by all three."""
    _, _, real, fake, where, samples = made(case)
    count = len(samples(real))
    eps = torch.rand(count)
    operands = [t.requires_grad_() for t in (real, fake, eps)]
    x = fastgan.interpolate(*operands, **where)
    for got, r, f, e in zip(samples(x), samples(real), samples(fake), eps, strict=True):
        torch.testing.assert_close(got, e * r + (1 - e) * f, rtol=1e-6, atol=1e-6)
    grads = torch.autograd.grad(x.square().sum(), operands)
    double = [t.detach().double().requires_grad_() for t in operands]
    parts = zip(*[samples(t) for t in double[:2]], double[2], strict=True)
    total = sum((e * r + (1 - e) * f).square().sum() for r, f, e in parts)
    for a, b in zip(grads, torch.autograd.grad(total, double), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


@cases
def test_norms_of_gradients_that_the_caller_has(case):
    _, _, g, _, where, samples = made(case)
    want = torch.stack([s.double().norm() for s in samples(g)])
    torch.testing.assert_close(fastgan.gradient_norm(g, **where).double(), want, rtol=2e-7, atol=0)
    weights = torch.rand(len(want))
    value, stats = fastgan.norm_penalty(g, weights=weights, return_stats=True, **where)
    assert value.item() == pytest.approx((weights * (want - 1) ** 2).mean().item(), rel=1e-6)
    torch.testing.assert_close(stats.norms.double(), want, rtol=2e-7, atol=0)
    mask = torch.rand(g.shape[-1]) > 0.3
    masked = torch.stack([s.norm() for s in samples(g.double() * mask)])
    value = fastgan.norm_penalty(g, "power", mask=mask, reduction="sum", **where)
    assert value.item() == pytest.approx((masked.square().sum() / mask.float().mean()).item(), rel=1e-6)


@cases
@pytest.mark.parametrize("kind", ["r1", "r2", "wgan-gp", "dragan", "wgan-lp", "r1-approx"])
def test_modules_and_steps(case, kind):
    """The module and the step do what the function does, with the arrangement given to either."""
    d, _, real, fake, where, _ = made(case)
    static = {k: v for k, v in where.items() if k != "groups"}
    groups = {k: v for k, v in where.items() if k == "groups"}
    calls = [
        lambda: fastgan.gradient_penalty(d, real, fake, kind=kind, **where),
        lambda: GradientPenalty(kind, **static)(d, real, fake, **groups),
        lambda: fastgan.discriminator_step(d, real, fake, penalty=kind, **where).penalty,
        lambda: (
            fastgan.discriminator_step(d, real, fake, penalty=GradientPenalty(kind, **static), **groups).penalty
        ),
    ]
    found = []
    for call in calls:
        torch.manual_seed(1)
        found.append(call().detach())
    assert all(torch.equal(found[0], f) for f in found[1:]), found


@pytest.mark.parametrize("kind", ["power", "two_sided"])
def test_second_derivatives_by_group(kind):
    """A row of zeros in a group has the true ones; and squares of large numbers are not infinite."""
    g = torch.randn(6, 2, dtype=torch.float64)
    g[1] = 0
    index = torch.tensor([0, 0, 1, 1, 1, 0])
    torch.autograd.gradgradcheck(lambda x: fastgan.norm_penalty(x, kind, groups=index), g.requires_grad_())
    huge = torch.tensor([[3e200, 4e200], [0.0, 0.0], [3e-200, 4e-200]], dtype=torch.float64)
    found = fastgan.gradient_norm(huge, groups=(torch.tensor([1, 1, 0]), 3))
    torch.testing.assert_close(found, torch.tensor([5e-200, 5e200, 0.0], dtype=torch.float64), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("case", "rows"), [("recurrent", (slice(None), slice(2))), ("packs", slice(20))])
def test_a_part_of_the_batch_is_whole_samples(case, rows):
    d, twin, real, _, where, samples = made(case)
    halved = GradientPenalty("r1", part=0.5, weight=2.0, **where)(d, real)
    split = (lambda g: list(g.reshape(2, -1))) if case == "packs" else samples
    plain.agree(halved, d, plain.penalty(twin, real[rows], split, "power"), twin)


def test_a_part_with_the_arguments_of_its_samples():
    torch.manual_seed(0)
    rnn, real, label = nn.LSTM(WIDTH, 8), torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, 8)
    seen = []

    def d(x, label, steps):
        seen.append((x.shape, label.shape, steps.shape))
        return (rnn(x)[0][-1] * label).sum(1)

    steps = torch.randn(TIME, BATCH, 2)
    GradientPenalty("r1", part=0.5, batch_dim=1)(d, real, None, label, steps)
    assert seen == [((TIME, 2, WIDTH), (2, 8), (TIME, 2, 2))]
    with pytest.raises(ValueError, match="part: expected 1 beside groups"):
        GradientPenalty("r1", part=0.5)(Graphs(), torch.randn(11, WIDTH), groups=Graphs.index)


@pytest.mark.parametrize("case", ["recurrent", "attention", "packs", "graphs"])
@pytest.mark.parametrize("kind", ["r1", "wgan-gp", "r1-approx"])
def test_it_raises_where_the_outputs_show_it(case, kind):
    """The number of outputs is no multiple of the samples that x is said to have."""
    d, _, real, fake, _, _ = made(case)
    with pytest.raises(ValueError, match=r"expected outputs for each of \d+ samples.*batch_dim.*pac.*groups"):
        fastgan.gradient_penalty(d, real, fake, kind=kind)
    with pytest.raises(ValueError, match=r"expected outputs for each of \d+ samples"):
        fastgan.discriminator_step(d, real, fake, loss="hinge", penalty=kind)


@pytest.mark.parametrize("kind", ["r1", "wgan-gp", "r1-approx"])
def test_a_mean_of_the_logits_raises(kind):
    d, x = nn.Linear(3, 1), torch.randn(64, 3)
    with pytest.raises(ValueError, match="returns a mean has to return its logits"):
        fastgan.gradient_penalty(lambda z: d(z).mean(), x, x, kind=kind)
    fastgan.gradient_penalty(lambda z: d(z).mean(), x, x, over="batch")  # one norm in all


def test_it_warns_where_outputs_look_like_another_dimension(monkeypatch):
    """Of 4 steps and 8 samples the number of outputs alone does not tell."""
    monkeypatch.setattr("fastgan._checks._said", set())
    with pytest.warns(UserWarning, match="batch_dim=1"):
        fastgan.r1_penalty(Recurrent(), torch.randn(4, 8, WIDTH))


def test_labels_are_cut_where_their_samples_lie():
    """Also where a label has as many numbers as there are samples."""
    torch.manual_seed(0)
    rnn, real, label = nn.LSTM(WIDTH, 8), torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, BATCH)
    seen = []

    def d(x, label):
        seen.append(label.shape)
        return rnn(x)[0][-1].sum(1) + label.sum(1)

    GradientPenalty("r1", part=0.5, batch_dim=1)(d, real, None, label)
    assert seen == [(2, BATCH)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_of_numbers(dtype):
    """A gradient with one number per entry; and NumPy's integers."""
    g = torch.tensor([3.0, 4.0, 1.0], dtype=dtype)
    assert fastgan.gradient_norm(g, groups=torch.tensor([0, 0, 1])).tolist() == [5.0, 1.0]
    assert fastgan.gradient_norm(g[None], batch_dim=np.int64(1), pac=np.int64(3)).tolist() == pytest.approx(
        [26**0.5]
    )


def test_several_tensors_share_their_samples():
    torch.manual_seed(0)
    x = torch.randn(TIME, BATCH, 2), torch.randn(3, BATCH)
    a, b = nn.Linear(TIME * 2, 4), nn.Linear(3, 4)

    def d(pair):
        return torch.tanh(a(pair[0].transpose(0, 1).flatten(1))) * torch.tanh(b(pair[1].t()))

    g = torch.autograd.grad(d([t.requires_grad_() for t in x]).sum(), x)
    want = torch.stack([torch.cat([t[:, k].flatten() for t in g]).norm() for k in range(BATCH)])
    _, stats = fastgan.gradient_penalty(d, x, None, kind="r1", batch_dim=1, return_stats=True)
    torch.testing.assert_close(stats.norms, want, rtol=1e-5, atol=0)


ok = torch.randn(6, 4)
BAD = [
    (lambda: fastgan.gradient_norm(ok, batch_dim=2), ValueError, "batch_dim: expected a dimension of grads, got 2"),
    (lambda: fastgan.gradient_norm(ok, batch_dim=1.0), TypeError, "batch_dim: expected an integer, got float"),
    (lambda: fastgan.gradient_norm(ok, batch_dim=True), TypeError, "batch_dim: expected an integer, got bool"),
    (lambda: fastgan.gradient_norm(ok, pac=4), ValueError, "pac: expected a divisor of 6"),
    (lambda: fastgan.gradient_norm(ok, pac=0), ValueError, "pac: expected an integer from 1"),
    (lambda: fastgan.gradient_norm(ok, pac=True), ValueError, "pac: expected an integer"),
    (lambda: fastgan.gradient_norm(ok, over="batch", pac=2), ValueError, "over: expected 'sample' beside"),
    (lambda: fastgan.gradient_norm(ok, groups=torch.zeros(6)), TypeError, "groups: expected a vector of int64"),
    (lambda: fastgan.gradient_norm(ok, groups=[0, 0, 1]), TypeError, "groups: expected a vector of int64.* got list"),
    (lambda: fastgan.gradient_norm(ok, groups=torch.arange(5)), ValueError, "groups: expected one number for each of 6"),
    (lambda: fastgan.gradient_norm(ok, groups=(torch.arange(6), 5)), ValueError, "groups: expected numbers from 0 to 4"),
    (lambda: fastgan.gradient_norm(ok, groups=torch.arange(6) - 1), ValueError, "groups: expected numbers from 0"),
    (lambda: fastgan.gradient_norm(ok, groups=torch.arange(6), pac=2), ValueError, "pac: has no effect beside groups"),
    (
        lambda: fastgan.gradient_norm([ok, ok[:5]], batch_dim=0, groups=torch.arange(6)),
        ValueError,
        "expected as many samples along dimension 0",
    ),
    (
        lambda: fastgan.r1_penalty(nn.Linear(4, 1), ok, groups=torch.arange(6), engine="compiled"),
        ValueError,
        "groups: engine 'compiled' takes none",
    ),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(BAD)))
def test_bad_input(k):
    call, error, match = BAD[k]
    with pytest.raises(error, match=match):
        call()
