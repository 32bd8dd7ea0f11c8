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
from tests.helpers.ranks import group_of_one, needs_fsdp, run_ranks

fsdp = pytest.importorskip("torch.distributed.fsdp")
pytestmark = needs_fsdp
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


VALUES = []  # of this run


def noted(value):
    VALUES.append(value.detach().clone())
    return value


def loss(d, x, y):
    return noted(fastgan.discriminator_loss(d(x), d(y), "nonsaturating"))


def r1(d, x, **options):
    return noted(fastgan.r1_penalty(d, x, weight=3.0, **options))


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
    noted(fastgan.discriminator_step(d, x, y, loss="nonsaturating", penalty=penalty, **options).total).backward()


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


ALIVE = []


def kept_alive(d, x, y):
    """A penalty that never goes backward, and outlives the step; the next forward wants the new weights."""
    ALIVE.append(r1(d, x))
    loss(d, x, y).backward()


def of_two_inputs(d, x, y):
    fastgan.r1_penalty(lambda pair: d(pair[0] * pair[1].sigmoid()), (x, y)).backward()


def generators_step(d, x, y):
    with torch.no_grad():
        d(x)  # FSDP reads the dtype of what is trainable at the first forward, which must not be a frozen one
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


def of_an_output(d, x, y):
    x = x.clone().requires_grad_()
    noted(fastgan.output_penalty(d(x), x, kind="r1", weight=3.0)).backward()


CASES = {
    "of an output": of_an_output,
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
    "kept alive": kept_alive,
    "two inputs": of_two_inputs,
    "value": without_grad,
    "approximate": lambda d, x, y: step(d, x, y, GradientPenalty("r1-approx", perturb=lambda t: t + 0.1)),
    "generator": generators_step,
}


# ---------------------------------------------------------------------------- beside one process


def batches(rank, dtype=torch.float64):
    g = torch.Generator().manual_seed(10 + rank)
    return [torch.randn(N, WIDTH, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


def own(t):
    """A rank's own shard, or what is not sharded."""
    return t.to_local() if hasattr(t, "to_local") else t


def beside(w, g):
    """The part of a whole gradient that a rank has."""
    return w if g.shape == w.shape else [*w.chunk(dist.get_world_size()), w[:0]][dist.get_rank()]


def run(case, net, rank, dtype):
    torch.manual_seed(100 + rank)
    VALUES.clear()
    CASES[case](net, *batches(rank, dtype))
    return [None if p.grad is None else own(p.grad).detach().clone() for p in net.parameters()]


def expected(case, plain, dtype):
    """The mean over ranks of the gradients of one process; of this rank's, values and buffers."""
    own, found, state = dist.get_rank(), [], []
    for rank in range(dist.get_world_size()):
        net = copy.deepcopy(plain)
        found.append(run(case, net, rank, dtype))
        if rank == own:
            state = state_of(net)
    return [None if of[0] is None else mean(of) for of in zip(*found, strict=True)], state


def state_of(net):
    """The values of a run, and what it has made of the buffers."""
    return [*VALUES, *[b.to(torch.float64) for b in net.buffers()]]


def mean(tensors):
    return sum(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors) / len(tensors)


class Cast(nn.Module):
    def forward(self, x):
        return x.bfloat16()


def groups_of(net):
    states = internals.sharding(net.modules())
    return [g for s in states for g in internals.parameter_groups(s)]


def faults(case, name, how, dtype=torch.float64, mixed=False):
    """What is wrong with a case, in words; `mixed`: parameters are gathered in bfloat16."""
    options, plain = dict(SHARDINGS.get(how, {})), network(name, dtype)
    if mixed:
        options["mp_policy"] = fsdp.MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        plain = nn.Sequential(Cast(), plain.bfloat16())
    want, state = expected(case, plain, dtype)
    net = sharded(network(name, dtype), how, **options)
    try:
        got = run(case, net, dist.get_rank(), dtype)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    names = [name for name, _ in net.named_parameters()]
    found = [*differences(names, got, want, 0.02 if mixed else TOLERANCE[dtype]), *left_gathered(net)]
    for k, (ours, theirs) in enumerate(zip(state_of(net), state, strict=True)):
        if not torch.allclose(ours.to(theirs.dtype), theirs, 0.02 if mixed else 10 * TOLERANCE[dtype], 0):
            found.append(f"value or buffer {k}: {ours}, {theirs}")
    return found


def differences(names, got, want, tolerance):
    found = []
    size = max([float(w.abs().max()) for w in want if w is not None])
    for name, g, w in zip(names, got, want, strict=True):
        if (g is None) != (w is None):
            found.append(f"{name}: {'no gradient' if g is None else 'a gradient'}")
        elif g is not None:
            w = beside(w, g)
            off = float((g.to(w.dtype) - w).abs().max()) / size if len(w) else 0.0
            if not off <= tolerance:
                found.append(f"{name}: off by {off:.1e}")
    return found


def left_gathered(net):
    """What a backward has left behind; FSDP itself leaves nothing."""
    found = []
    for g in groups_of(net):
        if not g.is_sharded or not g.reshard_after_backward:
            found.append(f"{g}: sharded {g.is_sharded}, to be sharded {g.reshard_after_backward}")
        if any(p.untyped_storage().size() for p in internals.gathered_parameters(g)):
            found.append(f"{g}: keeps memory")
    return found


def training_faults(case, name, how, dtype=torch.float64):
    """What is wrong with the weights after each of three steps of Adam."""
    plain, net = network(name, dtype), sharded(network(name, dtype), how, **SHARDINGS[how])
    ours, theirs = (torch.optim.Adam(m.parameters(), 0.01) for m in (net, plain))
    found = []
    for k in range(3):
        for p, g in zip(plain.parameters(), expected(case, plain, dtype)[0], strict=True):
            p.grad = g
        theirs.step()
        ours.zero_grad()
        run(case, net, dist.get_rank(), dtype)
        ours.step()
        weights = [own(p).detach() for p in net.parameters()]
        names = [f"step {k}, {name}" for name, _ in net.named_parameters()]
        found += differences(names, weights, list(plain.parameters()), 1e-10)
    return found


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def work(rank, runs):
    """Run cases in turn, and say what is wrong."""
    return [(*run, found) for run in runs if (found := faults(*run))]


def both(rank, runs, trainings):
    """The same, and then some training."""
    return [*work(rank, runs), *[(*run, found) for run in trainings if (found := training_faults(*run))]]


# Of the cases, one of each kind: for the networks that are not run through all.
TELLING = (
    "penalty", "of an output", "unpruned", "function that hides it", "input with a graph", "together", "penalty first", "real last",
    "penalty, then loss", "step", "step, both", "two, apart", "accumulated without sync", "retained", "generator",
)  # fmt: skip
TRAININGS = [
    (case, name, how)
    for case in ("step", "kept alive", "together")
    for name, how in (("leaky", "root"), ("tanh", "nested"))
]
QUICK = [
    *[(case, "leaky", how) for case in CASES for how in ("layers", "root")],
    *[(case, name, "nested") for name in ("siamese", "one box", "box") for case in ("penalty", "step")],
    *[(case, "partly frozen", "nested") for case in ("penalty", "function that hides it")],
    *[("step", "checkpointed", how) for how in ("nested", "checkpointed outside")],
    ("step", "tanh", "nested", torch.float32),
    ("step", "tanh", "nested", torch.float32, True),
]


def test_two_ranks():
    assert run_ranks(both, QUICK, TRAININGS) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_case(name):
    ways = SHARDINGS if name == "leaky" else ("layers", "root, resharded", "nested")
    cases = CASES if name in ("leaky", "conditional") else TELLING
    # In a box there is neither a module to see nor FSDP's node: it raises.
    unseen = ("function that hides it", "of an output") if name == "box" else ()
    runs = [(case, name, how) for how in ways for case in cases if case not in unseen]
    assert run_ranks(work, runs) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky", "checkpointed"])
def test_other_precisions_and_checkpoints_outside(name):
    runs = [(case, name, "nested", torch.float32, mixed) for case in CASES for mixed in (False, True)]
    runs += [(case, name, "nested, checkpointed outside") for case in CASES]
    assert run_ranks(work, runs) == [[], []]


# ---------------------------------------------------------------------------- one rank


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    with group_of_one(tmp_path_factory.mktemp("store")):
        yield


@pytest.mark.parametrize(
    ("case", "how"),
    [*[(case, how) for case in ("penalty", "unpruned") for how in SHARDINGS], ("step", "root")],
)
def test_one_rank_has_the_same_bits(case, how, group):
    net = sharded(network("tanh", torch.float32), how, **SHARDINGS[how])
    got = run(case, net, 0, torch.float32)  # of a step sharded by layers, sums are in another order
    want = run(case, network("tanh", torch.float32), 0, torch.float32)
    assert all(g is w is None or torch.equal(g, w) for g, w in zip(got, want, strict=True))


def test_the_users_own_switch_is_kept(group):
    """Who has FSDP keep parameters gathered has them gathered after a penalty too."""
    net = sharded(network("leaky"), "nested")
    net[0].set_reshard_after_backward(False)
    together(net, *batches(0))
    kept = {id(g) for g in groups_of(net[0])}
    for g in groups_of(net):
        assert (g.is_unsharded, g.reshard_after_backward) == ((True, False) if id(g) in kept else (False, True))


def test_a_backward_that_fails_leaves_the_switch_as_it_was(group):
    net = sharded(network("leaky"), "nested")
    x = batches(0)[0].requires_grad_()
    inside = []

    def fail(_):
        inside.extend([g.reshard_after_backward for g in groups_of(net)])
        raise KeyError("planted")

    x.register_hook(fail)
    penalty = r1(net, x.clone(), prune=False)
    with pytest.raises(KeyError, match="planted"):
        penalty.backward()
    assert inside
    assert not any(inside)
    assert all(g.reshard_after_backward for g in groups_of(net))
