"""Penalties of a discriminator that fully_shard (FSDP2) has sharded: each gradient is that of one process."""

import copy
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import _torch_internals as internals
from fastgan.nn import GradientPenalty
from tests.helpers.ranks import needs_gloo, run_ranks

fsdp = pytest.importorskip("torch.distributed.fsdp")
pytestmark = pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="this torch has no fully_shard there")
N, WIDTH = 4, 6


# ---------------------------------------------------------------------------- networks


class Block(nn.Module):
    """A residual block, checkpointed or not."""

    def __init__(self, activation, checkpointed=False):
        super().__init__()
        self.activation, self.checkpointed = activation, checkpointed
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def body(self, x):
        return x + self.second(self.activation(self.first(x)))

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)


class Siamese(nn.Module):
    """Calls one block on two views; behind them all is linear, so that no second derivative comes from there."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(nn.Tanh()), Block(nn.Tanh())])
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, x):
        first, shared = self.blocks
        x = first(x)
        return self.last(shared(x) + shared(x.flip(1)))


class Box:
    """What FSDP does not see a tensor in."""

    def __init__(self, x):
        self.x = x


class OfBoxes(nn.Module):
    """A block that also takes a tensor in a box."""

    def __init__(self):
        super().__init__()
        self.block = Block(nn.Tanh())

    def forward(self, x):
        return self.block(x.x if isinstance(x, Box) else x)


class Boxed(nn.Module):
    """As `Siamese`: FSDP sees the input of one call of the block, or of none."""

    def __init__(self, seen):
        super().__init__()
        self.blocks = nn.ModuleList([Block(nn.Tanh()), OfBoxes()])
        self.last = nn.Linear(WIDTH, 1)
        self.seen = seen

    def forward(self, x):
        first, shared = self.blocks
        x = first(x)
        hidden = shared(Box(x))
        return self.last(hidden + shared(x.flip(1)) if self.seen else hidden)


class Conditional(nn.Module):
    """Takes labels; the embedding's input needs no gradient."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(nn.Tanh()), Block(nn.Tanh())])
        self.labels, self.last = nn.Embedding(3, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        embedded = self.labels(torch.arange(len(x), device=x.device) % 3)
        return self.last(x) + (embedded * x).sum(1, keepdim=True)


def partly_frozen():
    found = [Block(nn.Tanh()), nn.Tanh(), Block(nn.Tanh()), nn.Linear(WIDTH, 1)]
    found[2].requires_grad_(False)
    return found


NETWORKS = {
    "partly frozen": partly_frozen,
    "leaky": lambda: [Block(nn.LeakyReLU(0.2)), nn.LeakyReLU(0.2), Block(nn.LeakyReLU(0.2)), nn.Linear(WIDTH, 1)],
    "tanh": lambda: [Block(nn.Tanh()), nn.Tanh(), Block(nn.Tanh()), nn.Linear(WIDTH, 1)],
    "checkpointed": lambda: [Block(nn.Tanh(), True), nn.Tanh(), Block(nn.Tanh(), True), nn.Linear(WIDTH, 1)],
    "checkpointed leaky": lambda: [Block(nn.LeakyReLU(0.2), True), Block(nn.ReLU(), True), nn.Linear(WIDTH, 1)],
    "normed": lambda: [
        Block(nn.Tanh()),
        nn.BatchNorm1d(WIDTH),
        nn.Dropout(0.3),
        Block(nn.Tanh()),
        nn.Linear(WIDTH, 1),
    ],
    "conditional": Conditional,
    "siamese": Siamese,
    "one box": lambda: Boxed(True),
    "box": lambda: Boxed(False),
}


def network(name, dtype=torch.float64):
    torch.manual_seed(0)
    made = NETWORKS[name]()
    return (nn.Sequential(*made) if isinstance(made, list) else made).to(dtype)


def parts(net):
    blocks = net.blocks if hasattr(net, "blocks") else ()
    return [m for m in (*blocks, *net.children()) if not isinstance(m, nn.ModuleList) and [*m.parameters()]]


def sharded(net, how, **options):
    if "checkpointed outside" in how:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        for k, m in enumerate(net):
            if isinstance(m, Block):
                net[k] = checkpoint_wrapper(fsdp.fully_shard(m, **options))
    if "layers" in how or "nested" in how:
        for module in parts(net):
            if not hasattr(module, "set_reshard_after_backward"):
                fsdp.fully_shard(module, **options)
    if "layers" not in how:
        fsdp.fully_shard(net, **options)
    return net


SHARDINGS = {
    "layers": {},
    "layers, resharded": {"reshard_after_forward": True},
    "layers, kept": {"reshard_after_forward": False},
    "root": {},
    "root, resharded": {"reshard_after_forward": True},
    "nested": {},
    "nested, kept": {"reshard_after_forward": False},
}


# ---------------------------------------------------------------------------- what is done with them


def loss(d, x, y):
    return fastgan.discriminator_loss(d(x), d(y), "nonsaturating")


def r1(d, x, **options):
    return fastgan.r1_penalty(d, x, weight=3.0, **options)


def together(d, x, y):
    (loss(d, x, y) + r1(d, x)).backward()


def penalty_first(d, x, y):
    penalty = r1(d, x)
    (penalty + loss(d, x, y)).backward()


def real_last(d, x, y):
    """What goes back through real's forward has arrived when fake's contribution has not."""
    on_fake = d(y)
    penalty = r1(d, x, prune=False)
    (penalty + fastgan.discriminator_loss(d(x), on_fake, "nonsaturating")).backward()


def loss_then_penalty(d, x, y):
    loss(d, x, y).backward()
    r1(d, x).backward()


def penalty_then_loss(d, x, y):
    penalty = r1(d, x)
    value = loss(d, x, y)
    penalty.backward()
    value.backward()


def both_made_then_loss_first(d, x, y):
    penalty = r1(d, x)
    loss(d, x, y).backward()
    penalty.backward()


def step(d, x, y, penalty="r1", **options):
    fastgan.discriminator_step(d, x, y, loss="nonsaturating", penalty=penalty, **options).total.backward()


def two_penalties(d, x, y):
    (r1(d, x) + fastgan.r2_penalty(d, y)).backward()


def two_penalties_apart(d, x, y):
    first, second = r1(d, x), fastgan.r2_penalty(d, y)
    first.backward()
    second.backward()


def lazily(d, x, y):
    penalty = GradientPenalty("r1", interval=2)
    for _ in range(3):
        step(d, x, y, penalty)


def accumulated(d, x, y):
    together(d, x[:2], y[:2])
    together(d, x[2:], y[2:])


def accumulated_without_sync(d, x, y):
    modules = [m for m in d.modules() if hasattr(m, "set_requires_gradient_sync")]
    for m in modules:
        m.set_requires_gradient_sync(False)
    together(d, x[:2], y[:2])
    for m in modules:
        m.set_requires_gradient_sync(True)
    together(d, x[2:], y[2:])


def retained(d, x, y):
    penalty = r1(d, x)
    penalty.backward(retain_graph=True)
    penalty.backward()


def dropped(d, x, y):
    r1(d, x)
    loss(d, x, y).backward()


def without_grad(d, x, y):
    with torch.no_grad():
        r1(d, x)
    loss(d, x, y).backward()


def failed(d, x, y):
    """A backward that fails after its beginning, and one that does not."""
    g = x.clone().requires_grad_()
    penalty = r1(d, g)

    def interrupt(_):
        raise KeyError("planted")

    handle = g.register_hook(interrupt)
    with pytest.raises(KeyError):
        penalty.backward()
    handle.remove()


def generators_step(d, x, y):
    fake = y.clone().requires_grad_()
    with fastgan.frozen(d):  # with the backward, as a part may be checkpointed
        fastgan.generator_step(d, fake, loss="nonsaturating").total.backward()
    assert fake.grad.abs().max() > 0
    together(d, x, y)


HIDDEN = {}


def hidden(d, x, y):
    """No module is found in the function."""
    HIDDEN["d"] = d
    fastgan.r1_penalty(lambda t: sys.modules[__name__].HIDDEN["d"](t), x).backward()


CASES = {
    "penalty": lambda d, x, y: r1(d, x).backward(),
    "unpruned": lambda d, x, y: r1(d, x, prune=False).backward(),
    "between": lambda d, x, y: fastgan.gradient_penalty(
        d, x, y, eps=torch.linspace(0, 1, len(x), dtype=x.dtype)
    ).backward(),
    "function": lambda d, x, y: fastgan.r1_penalty(lambda t: d(t), x).backward(),
    "function that hides it": hidden,
    "input with a graph": lambda d, x, y: r1(d, x.clone().requires_grad_()).backward(),
    "together": together,
    "penalty first": penalty_first,
    "real last": real_last,
    "loss, then penalty": loss_then_penalty,
    "penalty, then loss": penalty_then_loss,
    "both, loss first": both_made_then_loss_first,
    "step": step,
    "step, unpruned": lambda d, x, y: step(d, x, y, prune=False),
    "step, r2": lambda d, x, y: step(d, x, y, "r2"),
    "step, both": lambda d, x, y: step(d, x, y, ["r1", "r2"]),
    "two": two_penalties,
    "two, apart": two_penalties_apart,
    "lazily": lazily,
    "accumulated": accumulated,
    "accumulated without sync": accumulated_without_sync,
    "retained": retained,
    "dropped": dropped,
    "value": without_grad,
    "approximate": lambda d, x, y: step(d, x, y, GradientPenalty("r1-approx", perturb=lambda t: t + 0.1)),
    "generator": generators_step,
}


# ---------------------------------------------------------------------------- beside one process


def batches(rank, dtype=torch.float64):
    g = torch.Generator().manual_seed(10 + rank)
    return [torch.randn(N, WIDTH, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def run(case, net, rank, dtype):
    torch.manual_seed(100 + rank)
    CASES[case](net, *batches(rank, dtype))
    return [None if p.grad is None else whole(p.grad).detach().clone() for p in net.parameters()]


def expected(case, plain, dtype):
    """The mean over ranks of the gradients of one process."""
    found = [run(case, copy.deepcopy(plain), rank, dtype) for rank in range(dist.get_world_size())]
    return [
        None if g[0] is None else sum(t.to(torch.promote_types(t.dtype, torch.float32)) for t in g) / len(g)
        for g in zip(*found, strict=True)
    ]


def groups_of(net):
    states = internals.sharding(net.modules())
    return [g for s in states for g in internals.parameter_groups(s)]


def faults(case, name, how, dtype=torch.float64, **options):
    """What is wrong with a case, in words."""
    options = {**SHARDINGS.get(how, {}), **options}
    want = expected(case, network(name, dtype), dtype)
    net = sharded(network(name, dtype), how, **options)
    try:
        got = run(case, net, dist.get_rank(), dtype)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    found = []
    size = max([float(w.abs().max()) for w in want if w is not None])
    for (at, _), g, w in zip(net.named_parameters(), got, want, strict=True):
        if (g is None) != (w is None):
            found.append(f"{at}: {'no gradient' if g is None else 'a gradient'}")
        elif g is not None:
            off = float((g.to(w.dtype) - w).abs().max()) / size
            if not off <= TOLERANCE[dtype]:
                found.append(f"{at}: off by {off:.1e}")
    for g in groups_of(net):
        if not g.is_sharded or not g.reshard_after_backward:
            found.append(f"{g}: sharded {g.is_sharded}, to be sharded {g.reshard_after_backward}")
        if any(p.untyped_storage().size() for p in internals.gathered_parameters(g)) and how != "layers, kept":
            found.append(f"{g}: keeps memory")
    return found


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.02}


def work(rank, runs):
    """Run cases in turn, and say what is wrong."""
    return [(*run, found) for run in runs if (found := faults(*run))]


QUICK = [
    *[(case, "leaky", how) for case in CASES for how in ("layers", "root")],
    *[(case, name, "nested") for name in ("siamese", "one box", "box") for case in ("penalty", "step")],
    *[(case, "partly frozen", "nested") for case in ("penalty", "function that hides it")],
]


@needs_gloo
def test_two_ranks():
    assert run_ranks(work, QUICK) == [[], []]


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_case(name):
    runs = [(case, name, how) for how in SHARDINGS for case in CASES]
    assert run_ranks(work, runs) == [[], []]
