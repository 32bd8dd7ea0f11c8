"""engine="compiled": the same as the eager engine, whatever changes between two calls, and where it cannot compile.

Most tests run graphs as they were traced, which takes little time; those with the fixture `inductor` compile them.
"""

import collections
import contextlib
import copy
import dataclasses
import enum
import gc
import logging
import pickle
import random
import threading
import time
import types
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import requirements
from fastgan.discriminator import compare, forward
from fastgan.discriminator import compile as compiled
from fastgan.nn import DiscriminatorLoss, GradientPenalty

if lacking := requirements.lacking("engine='compiled'"):
    pytest.skip(f"the engine {lacking}", allow_module_level=True)

COMPILE = torch.compile
STEP = fastgan.discriminator_step
GLOBAL = 2.0  # what a discriminator's forward may read
GENERATOR = np.random.default_rng(0)


def as_traced(step, options=None, **others):
    """torch.compile without a compiler."""
    return COMPILE(step, **{"backend": "aot_eager", **others})


@pytest.fixture(autouse=True)
def _as_traced(monkeypatch):
    torch.set_num_threads(1)  # more of them would wait for each other: everything here is small
    monkeypatch.setattr(torch, "compile", as_traced)
    monkeypatch.delenv("FASTGAN_CHECK_COMPILED", raising=False)
    torch._dynamo.reset()


@pytest.fixture
def inductor(_as_traced, monkeypatch):
    """Graphs are compiled."""
    monkeypatch.setattr(torch, "compile", COMPILE)


class Net(nn.Module):
    """A tiny discriminator. What it does to its features is a method, `between`, for others to change."""

    def __init__(self, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.last = nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)
        for name, value in attributes.items():
            setattr(self, name, value)

    def between(self, h):
        return h

    def forward(self, x):
        return self.last(self.between(self.activation(self.first(x)))).square()


def network(between, **attributes):
    """A discriminator with that in its middle."""
    return type("Net", (Net,), {"between": between, "SLOPE": 2.0})(**attributes).double()


class Conditional(Net):
    def forward(self, x, labels):
        return (super().forward(x) * self.by_class(labels)).sum(1)


def conditional():
    return Conditional(by_class=nn.Embedding(5, 1)).double()


def batch(seed, *shape):
    shape = shape or (4, 6)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y = batch(1), batch(2)


def penalty(d, x=X, *args, engine="compiled", kind="r1", seed=9, **options):
    """The penalty, its gradients and the buffers after it; and the engine."""
    d.zero_grad()
    if seed is not None:
        torch.manual_seed(seed)
    fake = None if kind == "r1" else Y
    value, stats = fastgan.gradient_penalty(
        d, x, fake, *args, kind=kind, engine=engine, return_stats=True, **options
    )
    value.backward()
    return [value.detach(), stats.norms, *[p.grad for p in d.parameters()], *d.buffers()], stats.engine


def step(d, real=X, fake=Y, *args, engine="compiled", seed=9, **options):
    """The same of a whole step."""
    d.zero_grad()
    if seed is not None:
        torch.manual_seed(seed)
    found = STEP(d, real, fake, *args, engine=engine, **options)
    found.total.backward()
    return [*found[:5], *[p.grad for p in d.parameters()], *d.buffers()], found.engine


def whole(d, real=X, fake=Y, *args, **options):
    """A step with a penalty."""
    return step(d, real, fake, *args, penalty="r1", **options)


def same(got, want, tolerance=1e-10):
    for a, b in zip(got, want, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def agrees(call, d, *args, **options):
    """Calls with the engine, compares with the eager one on a copy, and returns by what it was computed."""
    twin = copy.deepcopy(d)
    got, by = call(d, *args, **options)
    want, other = call(twin, *args, engine="eager", **options)
    assert other.startswith("eager")
    single = any(p.dtype in (torch.float32, torch.bfloat16) for p in d.parameters())
    same(got, want, 1e-5 if single else 1e-10)
    return by


def compiled_twice(call, d, *args, **options):
    """Both calls run as a graph, and are right."""
    assert agrees(call, d, *args, **options) == "compiled"
    assert agrees(call, d, *args, **options) == "compiled"


def complaints(found):
    return [str(w.message) for w in found if "engine='compiled'" in str(w.message)]


def numbers():
    """What all generators stand at."""
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
        GENERATOR.bit_generator.state,
    )


def sequence(d, engine, call=penalty, count=4, seed=0):
    """What each of several calls gives, and what all generators then stand at."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    GENERATOR.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    found = []
    for k in range(count):
        results, by = call(d, batch(10 * seed + k), engine=engine, seed=None)
        found.append(([t if t is None else t.clone() for t in results], numbers(), by))
    return found


def same_sequence(got, want, tolerance=1e-10):
    for (a, one, _), (b, other, _) in zip(got, want, strict=True):
        same(a, b, tolerance)
        assert one == other


def engines(found):
    return {by for *_, by in found}


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_under_a_named_backend(name):
    """The reference is what is traced, whichever kernels the caller has named for other calls."""
    with fastgan.backend(name):
        compiled_twice(penalty, network(lambda self, h: h))
        compiled_twice(step, network(lambda self, h: h), loss="hinge", penalty="r1")


def test_an_older_torch(monkeypatch):
    """The engine needs more of torch than fastgan does: without that it says so once, and runs eagerly."""
    d = Net().double()
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert [agrees(penalty, d) for _ in range(2)] == ["eager, pruned"] * 2
    why = "the engine needs torch 2.8 or newer, got 2.7.1+cu126"
    assert complaints(found) == [f"engine='compiled': Net runs eagerly from here on: {why}"]
    assert fastgan.compile_info(d).refused == why


# ---------------------------------------------------------------------------------- compiled by inductor


def test_by_inductor(inductor):
    """Dropout draws the same masks, statistics move once in each call, and the generator stands where it would."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Dropout(0.4), nn.Linear(8, 1)]
    d = nn.Sequential(*layers).double()
    twin = copy.deepcopy(d)
    got, want = sequence(d, "compiled"), sequence(twin, "eager")
    assert engines(got) == {"compiled"}
    same_sequence(got, want)
    assert d[1].num_batches_tracked == 4
    info = fastgan.compile_info(d)
    assert (info.graphs, info.calls, info.refused) == (1, 4, None)
    assert info.seconds > 0


@pytest.mark.slow
def test_steps_by_inductor(inductor):
    """With everything that a step may have: several arguments, losses and penalties, on data with a graph."""
    d = conditional()
    labels = torch.tensor([0, 1, 4, 4]), torch.tensor([2, 2, 0, 3])
    z = batch(3).requires_grad_()

    def call(d, real, **options):
        z.grad = None
        found, by = step(
            d, real, torch.tanh(z), labels[0], fake_args=labels[1:], **options,
            loss=DiscriminatorLoss("hinge"), penalty=["r1", GradientPenalty("r2", weight=0.5)],
        )  # fmt: skip
        return [*found, z.grad], by

    twin = copy.deepcopy(d)
    got, want = sequence(d, "compiled", call, 3), sequence(twin, "eager", call, 3)
    assert engines(got) == {"compiled"}
    same_sequence(got, want)
    assert got[2][0][-1].any()


@pytest.mark.slow
def test_inside_a_compiled_function_by_inductor(inductor):
    """Called from a function that is itself compiled, the graphs still are, and nothing keeps the network alive."""
    torch._dynamo.reset()
    d = Net().double()
    twin = copy.deepcopy(d)

    def whole(d, x, engine):
        total = STEP(d, x * 2, Y, penalty="r1", engine=engine).total
        value, stats = fastgan.gradient_penalty(d, x, None, kind="r1", engine=engine, return_stats=True)
        return total + value * 2, stats.engine

    outer = COMPILE(whole, backend="aot_eager")
    for k in range(3):
        d.zero_grad()
        twin.zero_grad()
        got, by = outer(d, batch(k), "compiled")
        want, _ = whole(twin, batch(k), "eager")
        got.backward()
        want.backward()
        same([got, *[p.grad for p in d.parameters()]], [want, *[p.grad for p in twin.parameters()]])
        assert by == "compiled"
    assert fastgan.compile_info(d)[:2] == (2, 6)
    alive = weakref.ref(d)
    del d, got, outer
    torch._dynamo.reset()
    gc.collect()
    assert alive() is None


# ---------------------------------------------------------------------------------- what changes between calls


class Colour(enum.Enum):
    RED = 2.0
    BLUE = 3.0


@dataclasses.dataclass(slots=True)
class Slotted:
    factor: float


@dataclasses.dataclass
class Options:
    factor: float
    inner: object = None


class Hook:
    """A hook that is an object, and one that is a method of it."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, module, given, result):
        return result * self.factor

    def method(self, module, given, result):
        return result * self.factor


def reads_global(self, h):
    return h * GLOBAL


def set_global(value):
    globals()["GLOBAL"] = value


def reads_closure():
    """Its forward reads a variable of the function around the class."""
    cfg = types.SimpleNamespace(alpha=1.0)

    class Closed(Net):
        def between(self, h):
            return h * cfg.alpha

    return Closed(cfg=cfg).double()


def hooked(hook):
    d = Net().double()
    d.first.register_forward_hook(hook)
    return d


def closure(holder):
    return hooked(lambda module, given, result: result * holder["factor"])


def scaled(read, value):
    """A discriminator that multiplies by what it reads from its attribute `a`."""
    return network(lambda self, h: h * read(self.a), a=value)


def sets(value):
    return lambda d: setattr(d, "a", value)


def hook_of(d):
    return next(iter(d.first._forward_hooks.values()))


NESTED = {"a": [{"b": {"c": {"d": [1.0]}}}]}
# How it is built, and what is then changed.
CHANGES = {
    "number": (lambda: scaled(float, 2.0), sets(3.0)),
    "number's type": (lambda: network(lambda self, h: h * 2 if self.a is True else h, a=1), sets(True)),
    "string": (lambda: scaled(len, "ab"), sets("abc")),
    "NumPy's number": (lambda: scaled(float, np.float64(2)), sets(np.float64(3))),
    "array in place": (lambda: scaled(lambda a: float(a[0]), np.ones(2)), lambda d: d.a.fill(3)),
    "list in place": (lambda: scaled(lambda a: a[0], [2.0]), lambda d: d.a.append(d.a.pop() + 1)),
    "tuple": (lambda: scaled(sum, (2.0, 1.0)), sets((2.0, 2.0))),
    "dict in place": (lambda: scaled(lambda a: a["k"], {"k": 2.0}), lambda d: d.a.update(k=3.0)),
    "set": (lambda: scaled(len, {1}), lambda d: d.a.add(2)),
    "deque": (lambda: scaled(lambda a: a[0], collections.deque([2.0])), sets(collections.deque([3.0]))),
    "range": (lambda: scaled(len, range(2)), sets(range(3))),
    "enum": (lambda: scaled(lambda a: a.value, Colour.RED), sets(Colour.BLUE)),
    "object": (lambda: scaled(lambda a: a.factor, Options(2.0)), lambda d: setattr(d.a, "factor", 3.0)),
    "object within": (lambda: scaled(lambda a: a.inner.factor, Options(0.0, Options(2.0))), lambda d: setattr(d.a.inner, "factor", 3.0)),
    "object with slots": (lambda: scaled(lambda a: a.factor, Slotted(2.0)), lambda d: setattr(d.a, "factor", 3.0)),
    "deep within": (lambda: scaled(lambda a: a["a"][0]["b"]["c"]["d"][0], copy.deepcopy(NESTED)), lambda d: d.a["a"][0]["b"]["c"]["d"].insert(0, 3.0)),
    "memory format": (lambda: scaled(lambda a: 2 if a is torch.channels_last else 3, torch.channels_last), sets(torch.contiguous_format)),
    "function": (lambda: scaled(lambda a: a(2.0), lambda v: v), sets(lambda v: v + 1)),
    "method of the instance": (lambda: Net().double(), lambda d: setattr(d, "between", lambda h: 2 * h)),
    "attribute of the class": (lambda: network(lambda self, h: h * self.SLOPE), lambda d: setattr(type(d), "SLOPE", 3.0)),
    "a class": (lambda: scaled(lambda a: a.SLOPE, type("One", (), {"SLOPE": 2.0})), sets(type("Two", (), {"SLOPE": 3.0}))),
    "tensor": (lambda: scaled(lambda a: a, torch.tensor(2.0).double()), sets(torch.tensor(3.0).double())),
    "tensor in place": (lambda: scaled(lambda a: a, torch.tensor(2.0).double()), lambda d: d.a.fill_(3)),
    "tensor's data": (lambda: scaled(lambda a: a, torch.tensor(2.0).double()), lambda d: d.a.data.fill_(3)),
    "tensor's data set": (lambda: scaled(lambda a: a, torch.tensor(2.0).double()), lambda d: setattr(d.a, "data", torch.tensor(3.0).double())),
    "a variable around the class": (reads_closure, lambda d: setattr(d.cfg, "alpha", 2.0)),
    "a global": (lambda: network(reads_global), lambda d: set_global(3.0)),
    "tensor's number": (lambda: scaled(float, torch.tensor(2.0)), sets(torch.tensor(3.0))),
    "tensor's number in place": (lambda: scaled(float, torch.tensor(2.0)), lambda d: d.a.fill_(3)),
    "tensor in a list": (lambda: scaled(lambda a: a[0], [batch(1, 8)]), lambda d: d.a.__setitem__(0, batch(2, 8))),
    "tensor in a dict, in place": (lambda: scaled(lambda a: a["k"], {"k": batch(1, 8)}), lambda d: d.a["k"].mul_(2)),
    "module in a list": (lambda: network(lambda self, h: self.a[0](h - 1), a=[nn.LeakyReLU(0.5)]), lambda d: setattr(d.a[0], "negative_slope", 0.1)),
    "mode of a module in a list": (lambda: network(lambda self, h: self.a[0](h), a=[nn.Dropout(0.5)]), lambda d: d.a[0].eval()),
    "mode": (lambda: network(lambda self, h: self.a(h), a=nn.Dropout(0.5)), lambda d: d.eval()),
    "a submodule": (lambda: Net().double(), lambda d: setattr(d, "activation", nn.SiLU())),
    "a submodule's attribute": (lambda: Net().double(), lambda d: setattr(d.activation, "negative_slope", 0.5)),
    "a forward hook": (lambda: Net().double(), lambda d: d.first.register_forward_hook(Hook(2.0))),
    "a forward pre-hook": (lambda: Net().double(), lambda d: d.last.register_forward_pre_hook(lambda m, a: (2 * a[0],))),
    "a hook goes": (lambda: hooked(Hook(2.0)), lambda d: d.first._forward_hooks.clear()),
    "what a hook holds": (lambda: hooked(Hook(2.0)), lambda d: setattr(hook_of(d), "factor", 3.0)),
    "what a method's object holds": (lambda: hooked(Hook(2.0).method), lambda d: setattr(hook_of(d).__self__, "factor", 3.0)),
    "what a hook's closure holds": (lambda: closure({"factor": 2.0}), lambda d: hook_of(d).__closure__[0].cell_contents.update(factor=3.0)),
    "frozen": (lambda: Net().double(), lambda d: d.first.weight.requires_grad_(False)),
    "dtype": (lambda: Net().double(), lambda d: d.float()),
    "tied": (lambda: network(lambda self, h: self.a(h), a=nn.Linear(8, 8)), lambda d: setattr(d.a, "bias", d.first.bias)),
    "untied": (lambda: tied(), lambda d: setattr(d.a, "bias", nn.Parameter(d.first.bias.detach() + 1))),
    "parametrization": (lambda: Net().double(), lambda d: nn.utils.parametrizations.spectral_norm(d.first)),
    "parameter's strides": (lambda: Net().double(), lambda d: setattr(d.first.weight, "data", d.first.weight.data.t().contiguous().t())),
}  # fmt: skip


def tied():
    d = network(lambda self, h: self.a(h), a=nn.Linear(8, 8))
    d.a.bias = d.first.bias
    return d


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_followed(name):
    set_global(2.0)
    build, change = CHANGES[name]
    d = build()
    compiled_twice(penalty, d)
    before = penalty(d, engine="eager")[0]
    change(d)
    x = X.to(next(d.parameters()).dtype)
    compiled_twice(penalty, d, x)
    if name not in ("frozen", "tied", "dtype", "parameter's strides"):  # the test's change is one of results too
        assert not torch.allclose(before[0], penalty(d, x, engine="eager")[0][0])


@pytest.mark.parametrize("read", [lambda a: float(a.numpy()), lambda a: a.tolist(), lambda a: a.item()])
def test_a_buffer_that_is_read_as_a_number(read):
    """It is followed, or the network runs eagerly and says why; its number is never frozen into a graph."""
    d = network(lambda self, h: h * read(self.alpha))
    d.register_buffer("alpha", torch.tensor(2.0))
    values = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for value in (2.0, 3.0, 5.0):
            d.alpha.fill_(value)
            values.append(agrees(penalty, d))
    assert set(values) == ({"compiled"} if fastgan.compile_info(d).refused is None else {"eager, pruned"})
    assert len(complaints(found)) == (fastgan.compile_info(d).refused is not None)


def image_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(144, 1)).double()


def test_inputs_and_options_that_change():
    d = Net().double()
    calls = [
        {},
        {"x": X[:3]},
        {"x": batch(4, 6, 4).t()},
        {"x": batch(4, 1, 6).expand(4, 6)},
        {"weight": 3.0},
        {"kind": "r2"},
        {"kind": "wgan-gp"},
        {"kind": "wgan-gp", "target": 0.5},
    ]
    for options in [*calls, *calls]:  # all are kept
        assert agrees(penalty, d, **options) == "compiled"
    assert fastgan.compile_info(d).graphs <= len(calls) == compiled.LIMIT


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: global_setting(torch.use_deterministic_algorithms, False, True),
        lambda: global_setting(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: global_setting(torch.set_float32_matmul_precision, "medium", "highest"),
    ],
)
def test_settings_that_change(setting):
    d = Net()
    x = X.float()
    compiled_twice(penalty, d, x)
    with setting():
        compiled_twice(penalty, d, x)
    assert agrees(penalty, d, x) == "compiled"


@contextlib.contextmanager
def global_setting(call, value, before):
    call(value)
    try:
        yield
    finally:
        call(before)


def test_channels_last():
    d = image_network()
    images = batch(1, 4, 3, 8, 8)
    compiled_twice(penalty, d, images)
    compiled_twice(penalty, d, images.to(memory_format=torch.channels_last))
    compiled_twice(penalty, d.to(memory_format=torch.channels_last), images)


def test_labels_and_which_tensors_are_the_same():
    """A tensor that is given twice, and two in its place, are not taken for each other."""
    d = conditional()
    one, two = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 3, 2, 0])
    compiled_twice(step, d, X, Y, one, penalty="r1")
    assert agrees(step, d, X, Y, two, penalty="r1") == "compiled"  # labels are values
    compiled_twice(step, d, X, Y, one, fake_args=(two,), penalty="r1")
    compiled_twice(step, d, X, X, one, penalty="r1")
    assert agrees(step, d, X, Y, one, penalty="r1") == "compiled"


def test_containers_and_arguments_by_name():
    class Two(Net):
        def forward(self, x, *, scale=1.0, mode="sum", shift=None):
            out = super().forward(x[0]) * scale + super().forward(x[1])
            out = out if shift is None else out + (shift * x[0]).sum(1, keepdim=True)
            return {"logits": out if mode == "sum" else -out, "none": None}

    def loss(r, f):
        return r["logits"].mean() - f["logits"].mean()

    for options in ({}, {"scale": 2.0}, {"scale": 3}, {"mode": "minus"}, {"shift": batch(7, 4, 6)}):
        d, twin = Two().double(), Two().double()
        for real, fake in (((X, Y), (Y, Y)), ([X, Y], [batch(3), X])):
            found = [STEP(e, real, fake, loss=loss, penalty=["r1", "r2"], engine=by, **options) for e, by in ((d, "compiled"), (twin, "eager"))]  # fmt: skip
            assert found[0].engine == "compiled"
            for each, f in zip((d, twin), found, strict=True):
                each.zero_grad()
                f.total.backward()
            same([found[0].total, found[0].penalty], [found[1].total, found[1].penalty])
            same([p.grad for p in d.parameters()], [p.grad for p in twin.parameters()])
            same([found[0].fake_logits["logits"]], [found[1].fake_logits["logits"]])
            assert found[0].real_logits["none"] is None


def weighted(w):
    return lambda r, f: (w * r).mean() - f.mean()


class Weighted:
    def __init__(self, w):
        self.w = w

    def __call__(self, r, f):
        return (self.w * r).mean() - f.mean()


class WeightedModule(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, r, f):
        return (self.w * r).mean() - f.mean()


LOSSES = {
    "name": ("hinge", "wasserstein"),
    "function": (lambda r, f: r.mean() - f.mean(), lambda r, f: r.mean() - 2 * f.mean()),
    "closure": (weighted(2.0), weighted(3.0)),
    "tensor in a closure": (weighted(batch(1, 4, 1)), weighted(batch(2, 4, 1))),
    "object": (Weighted(2.0), Weighted(3.0)),
    "object with a tensor": (Weighted(batch(1, 4, 1)), Weighted(batch(2, 4, 1))),
    "module": (DiscriminatorLoss("hinge"), DiscriminatorLoss("lsgan")),
    "module's options": (DiscriminatorLoss("lsgan"), DiscriminatorLoss("lsgan", targets=(0.0, 0.9, 1.0))),
    "module with buffers": (WeightedModule(batch(1, 4, 1)), WeightedModule(batch(2, 4, 1))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_change(name):
    one, two = LOSSES[name]
    d = Net().double()
    for loss in (one, two, two, one):
        assert agrees(step, d, loss=loss) == "compiled"
    assert not torch.equal(step(d, loss=one)[0][0], step(d, loss=two)[0][0])


def test_lazy_penalties():
    d = Net().double()
    lazy = {e: GradientPenalty("r1", interval=2, weight=2.0) for e in ("compiled", "eager")}
    twin = copy.deepcopy(d)
    for k in range(6):
        got, by = step(d, batch(k), penalty=[lazy["compiled"], "r2"])
        want, _ = step(twin, batch(k), penalty=[lazy["eager"], "r2"], engine="eager")
        same(got, want)
        assert by == "compiled"
    assert fastgan.compile_info(d)[:2] == (2, 6)


def test_what_needs_no_new_graph():
    """Values: of parameters, buffers, data, and attributes that are equal."""
    d = network(lambda self, h: h * self.a["k"] + self.b, a={"k": 2.0})
    d.register_buffer("b", batch(1, 8))
    compiled_twice(penalty, d)
    optimizer = torch.optim.Adam(d.parameters(), 0.1)
    values = []
    for k in range(3):
        assert agrees(penalty, d, batch(k)) == "compiled"
        values.append(penalty(d)[0][0])
        optimizer.step()
    assert len({float(v) for v in values}) == 3
    d.b.mul_(2)
    d.a = {"k": 2.0}
    state = {k: v + 1 for k, v in d.state_dict().items()}
    d.load_state_dict(state)
    assert agrees(penalty, d) == "compiled"
    d.load_state_dict(state, assign=True)  # other tensors of the same names
    assert agrees(penalty, d) == "compiled"
    d.b = batch(5, 8)
    d.last = nn.Linear(8, 1).double()
    assert agrees(penalty, d) == "compiled"
    for _ in range(2):
        assert agrees(step, d, loss=weighted(2.0), penalty=GradientPenalty("r1")) == "compiled"
    assert fastgan.compile_info(d).graphs == 2


def test_a_logger_is_no_obstacle():
    d = Net().double()
    d.log = logging.getLogger("fastgan.tests")
    compiled_twice(penalty, d)


def test_steps_at_points_of_their_own():
    """Of a smooth network the value depends on points that the penalty made."""
    d = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    compiled_twice(step, d, loss="wasserstein", penalty="wgan-gp")


def test_networks_do_not_share_graphs():
    one, two = Net(a=1.0).double(), Net(a=1.0).double()
    compiled_twice(penalty, one)
    with torch.no_grad():
        two.first.weight.mul_(2)
    compiled_twice(penalty, two)
    assert agrees(penalty, one) == "compiled"
    assert fastgan.compile_info(one)[:2] == (1, 3)
    assert fastgan.compile_info(two)[:2] == (1, 2)


# ---------------------------------------------------------------------------------- as part of a training loop


@pytest.fixture
def pair():
    """A discriminator with its graph, and a twin for the eager engine."""
    d = Net().double()
    penalty(d)
    d.zero_grad()
    return d, copy.deepcopy(d)


def r1(d, engine, x=X):
    return fastgan.r1_penalty(d, x, engine=engine, weight=10.0)


def both(pair, use, calls=1):
    """What a use of the penalty leaves, with both engines; the compiled one has run as a graph."""
    d, twin = pair
    fastgan.r1_penalty(d, X, engine="compiled", weight=10.0)
    before = fastgan.compile_info(d)
    got, want = use(d, "compiled"), use(twin, "eager")
    assert fastgan.compile_info(d) == before._replace(calls=before.calls + calls)
    same([*got, *[p.grad for p in d.parameters()]], [*want, *[p.grad for p in twin.parameters()]])
    assert any(p.grad is not None and p.grad.any() for p in d.parameters())


def accumulates(d, engine):
    d(Y).sum().backward()
    r1(d, engine).backward()
    r1(d, engine, Y).backward()
    return ()


def sums(d, engine):
    """As a GradScaler multiplies, and steps add."""
    total = r1(d, engine) * 2 + d(Y).square().mean() - r1(d, engine, Y) / 3
    (total * 65536.0).backward()
    return (total.detach(),)


def by_name(d, engine):
    r1(d, engine).backward()
    norm = nn.utils.clip_grad_norm_(d.parameters(), 0.1)
    return norm, *torch.autograd.grad(r1(d, engine), [d.first.weight, d.last.weight])


def in_place(d, engine):
    one, two = r1(d, engine), r1(d, engine, Y)
    one *= 2
    (one + two).backward()
    return ()


@pytest.mark.parametrize("use", [accumulates, sums, by_name, in_place])
def test_uses(pair, use):
    both(pair, use, 2)


def test_backward_twice(pair):
    def use(d, engine):
        value = r1(d, engine)
        value.backward(retain_graph=True)
        (3 * value).backward()
        return ()

    both(pair, use)
    value = r1(pair[0], "compiled")
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_the_optimizer_may_step_before_the_backward(pair):
    """The gradients are those of the call."""
    d, twin = pair
    value, want = r1(d, "compiled"), r1(twin, "eager")
    value = r1(d, "compiled")
    want.backward()
    with torch.no_grad():
        for p in d.parameters():
            p.mul_(3)
    value.backward()
    same([p.grad for p in d.parameters()], [p.grad for p in twin.parameters()])


class Score(torch.autograd.Function):
    """A sum over samples, whose gradient by the data is the weight itself."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, u):
        x, weight = ctx.saved_tensors
        return weight.expand_as(x), u @ x


def test_the_optimizer_may_step_where_a_gradient_is_the_weight():
    """The backward then says that the weight has changed, rather than send the new one."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(batch(1, 6))

        def forward(self, x):
            return Score.apply(x, self.weight)

    d, fake = Linear(), Y.clone().requires_grad_()
    want = d.weight.detach().expand(4, 6).clone()
    for changes in (False, True):
        fake.grad = None
        found = STEP(d, X, fake, loss=lambda r, f: f.sum() - r.sum(), engine="compiled")
        assert found.engine == "compiled"
        if changes:
            with torch.no_grad():
                d.weight.mul_(3)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                found.total.backward()
        else:
            found.total.backward()
            same([fake.grad], [want])


def test_hooks_of_parameters_fire_once(pair):
    fired = collections.Counter()

    def use(d, engine):
        for name, p in d.named_parameters():
            p.register_hook(lambda g, k=(engine, name): fired.update([k]) or 2 * g)
            p.register_post_accumulate_grad_hook(lambda p, k=(engine, name): fired.update([(*k, "after")]))
        r1(d, engine).backward()
        return ()

    both(pair, use)
    assert set(fired.values()) == {1}
    by_engine = {e: {k[1:] for k in fired if k[0] == e} for e in ("compiled", "eager")}
    assert by_engine["compiled"] == by_engine["eager"]


def test_gradients_to_data_and_arguments():
    """To a generator behind the data, to a leaf, and to an embedding that is an argument."""

    class Embedded(Net):
        def forward(self, x, e):
            return (super().forward(x) * e).sum(1)

    d = Embedded().double()
    z, table, leaf = (batch(k).requires_grad_() for k in range(3))

    def use(d, engine):
        for t in (z, table, leaf):
            t.grad = None
        d.zero_grad()
        value = fastgan.r1_penalty(d, torch.sin(z), table.exp(), engine=engine)
        value = value + fastgan.r1_penalty(d, leaf, X, engine=engine)
        found = STEP(d, torch.sin(z), leaf, table.exp(), penalty=["r1", "r2"], engine=engine)
        (value + found.total).backward()
        return [
            value.detach(),
            found.total.detach(),
            z.grad,
            table.grad,
            leaf.grad,
            *[p.grad for p in d.parameters()],
        ]

    twin = copy.deepcopy(d)
    for _ in range(2):
        got, want = use(d, "compiled"), use(twin, "eager")
        same(got, want)
    assert all(t.any() for t in got[2:5])
    assert fastgan.compile_info(d)[:2] == (3, 6)


def test_a_derivative_of_gradients_is_refused(pair):
    d, _ = pair
    for _ in range(2):
        value = r1(d, "compiled")
        with pytest.raises(RuntimeError, match="engine='compiled' gives gradients that have no derivative"):
            torch.autograd.grad(value, list(d.parameters()), create_graph=True, allow_unused=True)


def test_parameters_that_are_not_reached(pair):
    """A parameter that the penalty does not reach has no gradient, as with autograd."""
    d, _ = pair
    d.unused = nn.Parameter(torch.zeros(3).double())
    compiled_twice(penalty, d)
    assert d.unused.grad is None


# ---------------------------------------------------------------------------------- buffers, generators


def test_buffers_move_once_in_each_call():
    torch.manual_seed(0)
    d = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.BatchNorm1d(8), nn.Linear(8, 1))
    d = d.double()
    twin = copy.deepcopy(d)
    for call in range(1, 4):
        x = batch(call)
        r1(d, "compiled", x)
        twin(x)
        assert d[1].num_batches_tracked == call
        for (n, a), b in zip(d.named_buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0, msg=lambda m: f"{n} after call {call}: {m}")
    twin = copy.deepcopy(d)
    for _ in range(2):
        STEP(d, X, Y, penalty="r1", engine="compiled")
        twin(X)
        twin(Y)
        same(d.buffers(), twin.buffers())
    assert fastgan.compile_info(d)[:2] == (2, 5)


def normed():
    """A network whose weight and spectral norm are hooks, which leave the weight of a call in an attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        layers = nn.utils.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(8, 1))
    return nn.Sequential(*layers).double()


def test_a_network_whose_weight_norm_is_a_hook():
    d, twin = normed(), normed()
    got, want = sequence(d, "compiled"), sequence(twin, "eager")
    assert engines(got) == {"compiled"}
    same_sequence(got, want)
    assert fastgan.compile_info(d).graphs <= 2  # before the first call the weights are parameters' own
    copied = copy.deepcopy(d)
    pickle.loads(pickle.dumps(d))
    same_sequence(sequence(copied, "compiled", seed=1), sequence(twin, "eager", seed=1))


def noisy(self, h):
    return h * (1 + torch.randn_like(h)) + torch.rand(h.shape[1], dtype=h.dtype).sqrt()


def window(self, h):
    k = torch.randint(0, 48, (1,)).tolist()[0]
    return h * torch.arange(k, 8 + k, dtype=h.dtype)


def part(self, h):
    k = torch.randint(0, 4, (1,)).item()
    return F.pad(h[:, k : k + 4], (0, 4))


def shuffled(self, h):
    order = list(range(8))
    random.shuffle(order)
    return h[:, order] * torch.arange(1.0, 9, dtype=h.dtype)


# Noise, random numbers that are more than noise, and others than PyTorch's.
DRAWS = {
    "a window": lambda: network(window),
    "noise": lambda: network(noisy, activation=nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout(0.3))),
    "a part": lambda: network(part),
    "an item": lambda: network(lambda self, h: h * (1 + torch.rand(()).item())),
    "an order": lambda: network(lambda self, h: h[:, torch.randperm(8)] * torch.arange(1.0, 9, dtype=h.dtype)),
    "control flow": lambda: network(lambda self, h: h * 2 if torch.rand(()) < 0.5 else h),
    "of PyTorch's kinds": lambda: network(lambda self, h: h * torch.bernoulli(torch.full_like(h, 0.5)) * torch.empty_like(h).uniform_() * torch.normal(0.0, 1.0, (8,))),
    "PyTorch's generator": lambda: scaled(lambda a: torch.rand(8, generator=a), torch.Generator().manual_seed(1)),
    "random.random": lambda: network(lambda self, h: h * random.random()),
    "random.randint": lambda: network(lambda self, h: h * random.randint(1, 9)),
    "random.uniform": lambda: network(lambda self, h: h * random.uniform(1, 9)),
    "random.gauss": lambda: network(lambda self, h: h * random.gauss(0, 1)),
    "random.choice": lambda: network(lambda self, h: h * random.choice([1.0, 2.0, 3.0])),
    "random.shuffle": lambda: network(shuffled),
    "a coin": lambda: network(lambda self, h: h * 2 if random.random() < 0.5 else h * 3),
    "random.Random": lambda: scaled(lambda a: a.random(), random.Random(1)),
    "random.Random's integers": lambda: scaled(lambda a: a.randint(1, 9), random.Random(1)),
    "NumPy's number": lambda: network(lambda self, h: h * np.random.rand()),
    "NumPy's normal number": lambda: network(lambda self, h: h * float(np.random.normal())),
    "NumPy's array": lambda: network(lambda self, h: h * torch.from_numpy(np.random.rand(8))),
    "NumPy's integers": lambda: network(lambda self, h: h * torch.from_numpy(np.random.randint(1, 9, size=8))),
    "NumPy's order": lambda: network(lambda self, h: h[:, np.random.permutation(8)] * torch.arange(1.0, 9, dtype=h.dtype)),
    "NumPy's generator": lambda: scaled(lambda a: a.random(), np.random.default_rng(1)),
    "NumPy's generator in the module": lambda: network(lambda self, h: h * GENERATOR.random()),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_draws(name):
    """They are the eager engine's in a graph too, or the network runs eagerly and says why; none is frozen."""
    d, twin = DRAWS[name](), DRAWS[name]()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for call, seed in ((penalty, 0), (penalty, 1), (whole, 2)):
            got, want = sequence(d, "compiled", call, seed=seed), sequence(twin, "eager", call, seed=seed)
            refused = fastgan.compile_info(d).refused
            same_sequence(got, want, 1e-10 if refused is None else 0)
            assert engines(got) == ({"compiled"} if refused is None else {"eager, pruned"})
            assert not torch.equal(got[0][0][0], got[1][0][0])
    assert len(complaints(found)) == (refused is not None)
    assert fastgan.compile_info(d).graphs == (2 if refused is None else 0)


def test_the_generator_of_points():
    d, twin = Net().double(), Net().double()
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(3):
        got = fastgan.gradient_penalty(d, X, Y, generator=seeds[0], engine="compiled")
        want = fastgan.gradient_penalty(twin, X, Y, generator=seeds[1], engine="eager")
        same([got], [want])
    assert torch.equal(seeds[0].get_state(), seeds[1].get_state())
    assert fastgan.compile_info(d)[:2] == (1, 3)


def test_nothing_of_the_caller_changes():
    d = Net(a=torch.ones(2), drop=nn.Dropout(0.5)).double().eval()
    x = X.clone()
    attributes = [dict(vars(m)) for m in d.modules()]
    parameters = list(d.parameters())
    values = [p.detach().clone() for p in parameters]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for _ in range(3):
        fastgan.r1_penalty(d, x, engine="compiled")
        assert torch.equal(x, X)
        assert not x.requires_grad
        assert all(a is b and a.grad is None for a, b in zip(d.parameters(), parameters, strict=True))
        same(parameters, values, 0)
        assert [dict(vars(m)) for m in d.modules()] == attributes
        assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------------------- modes and copies


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_eager(mode):
    d = Net().double()
    want = r1(d, "eager").detach()
    for _ in range(2):
        with mode():
            value, stats = fastgan.gradient_penalty(
                d, X * 1, None, kind="r1", weight=10.0, engine="compiled", return_stats=True
            )
        torch.testing.assert_close(value, want, rtol=1e-12, atol=0)
        assert not value.requires_grad
        assert stats.engine == "eager"
    assert fastgan.compile_info(d) == fastgan.CompileInfo()


def test_data_made_in_inference_mode():
    d = conditional()
    with torch.inference_mode():
        x, labels = X * 1, torch.tensor([0, 1, 2, 2])
    for _ in range(3):
        assert agrees(penalty, d, x, labels) == "compiled"
    assert agrees(penalty, d, X, torch.tensor([0, 1, 3, 2])) == "compiled"


def test_a_frozen_network():
    """With nothing to be trained there is nothing to compile, the eager engine refuses it, and may later serve."""
    d = Net().double().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="all of its parameters are frozen"):
                r1(d, "compiled")
    assert fastgan.compile_info(d) == fastgan.CompileInfo()
    compiled_twice(penalty, d.requires_grad_(True))


def test_copies_and_pickles():
    d = Net().double()
    penalty(d)
    penalty(d)
    for other in (copy.deepcopy(d), pickle.loads(pickle.dumps(d)), copy.copy(d)):
        assert fastgan.compile_info(other) == fastgan.CompileInfo()
        compiled_twice(penalty, other)
        assert fastgan.compile_info(d).graphs == 1


def test_a_network_is_freed():
    """With its graphs; neither they nor what they remember keep it."""
    held = Options(2.0)
    d = network(lambda self, h: h * self.a.factor, a=held, b=batch(1, 8))
    held.inner = weakref.ref(d)
    d.first.register_forward_hook(Hook(1.0).method)
    results = [r1(d, "compiled") for _ in range(3)]
    results += [STEP(d, X, Y, penalty="r1", engine="compiled") for _ in range(2)]
    assert fastgan.compile_info(d)[:2] == (2, 5)
    alive = [weakref.ref(d), weakref.ref(d.first), weakref.ref(d.b)]
    del d, results, held
    gc.collect()
    assert [r() for r in alive] == [None] * 3


@contextlib.contextmanager
def without_dynamo():
    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        (lambda: torch.compiler.set_stance("force_eager"), "torch.compile is switched off"),
        (without_dynamo, "torch.compile is switched off"),
        (torch.autograd.detect_anomaly, "autograd detects anomalies"),
    ],
)
def test_where_nothing_can_be_compiled(setting, why):
    """Such a call is eager and says so, and another may be compiled."""
    d = Net().double()
    with setting(), pytest.warns(UserWarning, match=f"runs eagerly where {why}"):
        assert agrees(penalty, d) == "eager, pruned"
    compiled_twice(penalty, d)


def test_a_penalty_inside_of_another_ones_forward():
    """Under the settings of an eager penalty no graph can run, and nobody else would take them back."""
    inner = Net().double()

    def between(self, h):
        self.value = r1(inner, "compiled").item()
        return h

    with pytest.warns(UserWarning, match="runs eagerly where it is called inside of another penalty"):
        r1(network(between), "eager")
    compiled_twice(penalty, inner)


def test_a_module_is_needed():
    d = Net().double()
    for call in (d.forward, lambda x: d(x)):
        with pytest.raises(TypeError, match=r"discriminator: expected a torch.nn.Module for engine='compiled'"):
            r1(call, "compiled")
    with pytest.raises(TypeError, match=r"discriminator: expected a torch.nn.Module, got function"):
        fastgan.compile_info(lambda x: x)


def test_a_compiled_network_counts_as_the_one_within():
    torch._dynamo.reset()
    d = Net().double()
    outside = COMPILE(d, backend="aot_eager")
    compiled_twice(penalty, outside)
    assert penalty(d)[1] == "compiled"
    assert fastgan.compile_info(outside) == fastgan.compile_info(d)
    assert fastgan.compile_info(d)[:2] == (1, 3)


@pytest.mark.parametrize("part", ["itself", "a submodule"])
def test_a_network_that_is_compiled_in_place_or_in_part(part):
    torch._dynamo.reset()
    d = Net().double()
    if part == "itself":
        d.compile(backend="aot_eager")
    else:
        d.first = COMPILE(d.first, backend="aot_eager")
    want = penalty(Net().double(), engine="eager")[0]
    found = [penalty(d) for _ in range(2)]
    assert [by for _, by in found] == ["compiled"] * 2
    for got, _ in found:
        same(got, want)


def test_logging(caplog):
    d = Net().double()
    with caplog.at_level(logging.INFO, "fastgan"):
        r1(d, "compiled")
        r1(d, "compiled")
        r1(d, "compiled", X[:2])
    records = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "fastgan"]
    assert [level for level, _ in records] == ["INFO", "WARNING"]
    for k, (_, message) in enumerate(records, 1):
        assert message.startswith(f"engine='compiled': graph {k} of at most {compiled.LIMIT} for Net took ")


def test_the_limit(monkeypatch):
    monkeypatch.setattr(compiled, "LIMIT", 2)
    d = Net().double()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for n in (4, 3):
            compiled_twice(penalty, d, X[:n])
        assert not complaints(found)
        for n in (2, 1, 2):
            assert agrees(penalty, d, X[:n]) == "eager, pruned"
    assert complaints(found) == [
        "engine='compiled': Net runs eagerly where none of its 2 graphs fits; give it few batch sizes and modes"
    ]
    assert agrees(penalty, d) == "compiled"  # those that there are stay
    assert fastgan.compile_info(d)[::3] == (2, None)


# ---------------------------------------------------------------------------------- threads


def test_a_call_while_another_thread_compiles(monkeypatch):
    """It waits, or runs, and has the same results."""
    d, twin = Net().double(), Net().double()
    inside, go_on = threading.Event(), threading.Event()

    def slow(step, **options):
        graph = as_traced(step, **options)

        def run(*arguments):
            inside.set()
            go_on.wait(30)
            return graph(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", slow)
    found = {}

    def call(n, engine):
        found[n] = r1(d, engine, X[:n])

    todo = (4, "compiled"), (3, "compiled"), (2, "eager")
    threads = [threading.Thread(target=call, args=each, daemon=True) for each in todo]
    threads[0].start()
    assert inside.wait(30)
    for t in threads[1:]:
        t.start()
    time.sleep(0.3)
    go_on.set()
    for t in threads:
        t.join(50)
    assert found.keys() == {4, 3, 2}
    for n, value in found.items():
        d.zero_grad()
        twin.zero_grad()
        value.backward()
        r1(twin, "eager", X[:n]).backward()
        same([p.grad for p in d.parameters()], [p.grad for p in twin.parameters()])
    assert fastgan.compile_info(d)[:2] == (2, 2)


def test_threads_at_once(inductor):
    """Each with its discriminator, and all with one more; by inductor."""
    shared, twin = Net().double(), Net().double()
    own = [Net(a=float(k)).double() for k in range(2)]
    errors, start = [], threading.Barrier(2, timeout=60)

    def work(k):
        try:
            start.wait()
            for call in range(4):
                x = batch(100 * k + call)
                value = r1(shared, "compiled", x)
                got = torch.autograd.grad(value, [shared.first.weight, shared.last.weight])
                want = torch.autograd.grad(r1(twin, "eager", x), [twin.first.weight, twin.last.weight])
                same(got, want)
                r1(own[k], "compiled", x).backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(50)
        assert not t.is_alive()
    assert not errors
    for d, info in zip((shared, *own), map(fastgan.compile_info, (shared, *own)), strict=True):
        assert info.refused is None
        assert info.graphs == 1
        assert info.calls == (8 if d is shared else 4)


def test_a_compiled_step_waits_for_an_eager_penalty_of_another_thread(inductor):
    """Under whose settings PyTorch would refuse to run it, and the network would run eagerly for good."""
    net, x = Net(), batch(0).float()
    for _ in range(2):
        r1(net, "compiled", x)
    thread = threading.Thread(target=r1, args=(net, "compiled", x), daemon=True)
    with forward.differentiable():
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    assert fastgan.compile_info(net).calls == 3
    assert fastgan.compile_info(net).refused is None


# ---------------------------------------------------------------------------------- what can and cannot be compiled


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u


def replaces(self, h):
    self.mean = 0.9 * self.mean + h.detach().mean(0)
    return h * self.mean


def with_buffer(between):
    d = network(between)
    d.register_buffer("mean", torch.zeros(8).double())
    return d


def counts(self, h):
    self.a += 1
    return h * self.a


def appends(self, h):
    self.a.append(1)
    return h * len(self.a)


def moves(self, h):
    self.a.add_(1)
    return h + self.a


def remembers(self, h):
    self.features = h
    return h


def remembering():
    """It ran before: it has that attribute."""
    d = network(remembers)
    d(X)
    return d


def changes_with_the_features(self, h):
    scale = self.features.detach().mean() if hasattr(self, "features") else 1.0
    self.features = h
    return h * scale


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.layer(torch.stack([x, 2 * x, -x], 1))[0]).square()


def again(self, h):
    return checkpoint(lambda t: torch.tanh(t) * self.a(t), h, use_reentrant=False)


def foreign():
    torch.manual_seed(1)
    other = nn.Linear(8, 8).double()
    return network(lambda self, h: other(h))


def with_backward_hook():
    d = Net().double()
    d.first.register_full_backward_hook(
        lambda module, given, result: (3 * given[0],) if given[0] is not None else None
    )
    return d


class Recorder:
    def __init__(self):
        self.found = []

    def __call__(self, module, given, result):
        self.found.append(result.detach())
        return result * len(self.found)


class Subclass(torch.Tensor):
    pass


def with_subclass():
    d = Net().double()
    d.first.register_buffer("extra", torch.zeros(2).as_subclass(Subclass))
    return d


def nested(self, h):
    a = self.a
    while a:
        a, h = a[0], h + 1
    return h


def with_depth():
    depth = []
    for _ in range(100):
        depth = [depth]
    return network(nested, a=depth)


FIT = {
    "a number of the data": lambda: network(lambda self, h: h * h.mean().item()),
    "a parameter's number": lambda: network(lambda self, h: h * float(self.last.bias)),
    "a counter": lambda: network(counts, a=0),
    "a list that grows": lambda: network(appends, a=[]),
    "a tensor that moves": lambda: network(moves, a=torch.ones(1).double()),
    "features in an attribute": lambda: network(remembers),
    "features in an attribute again": remembering,
    "features of the call before": lambda: network(changes_with_the_features),
    "a hook that collects": lambda: hooked(Recorder()),
    "a buffer that is replaced": lambda: with_buffer(replaces),
    "attributes deep within": with_depth,
    "an iterator": lambda: scaled(next, iter(range(1, 100))),
    "a recurrent network": lambda: Recurrent().double(),
    "a checkpoint": lambda: network(again, a=nn.Linear(8, 8)),
}


def attributes(d):
    """What forwards have left in a discriminator."""
    hooks = d.first._forward_hooks.values() if hasattr(d, "first") else ()
    collected = [t for hook in hooks for t in hook.found]
    return [getattr(d, name) for name in ("a", "features", "mean") if hasattr(d, name)] + collected


def same_attributes(d, twin, tolerance):
    for a, b in zip(attributes(d), attributes(twin), strict=True):
        if isinstance(a, torch.Tensor):
            same([a.detach()], [b.detach()], tolerance)
        elif isinstance(a, (int, list)):
            assert a == b


@pytest.mark.parametrize("name", FIT)
def test_what_can_be_compiled(name):
    """Penalty and step run as graphs, and what a forward changes, it changes once in each."""
    d, twin = FIT[name](), FIT[name]()
    twin.load_state_dict(d.state_dict())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for call, count in ((penalty, 3), (whole, 2)):
            got, want = sequence(d, "compiled", call, count), sequence(twin, "eager", call, count)
            same_sequence(got, want)
            assert engines(got) == {"compiled"}
            same_attributes(d, twin, 1e-10)
    assert not complaints(found)
    copy.deepcopy(d.state_dict())


# How it is built, and why it is not compiled: what shows when it is traced, which is for good, and what shows before.
UNFIT = {
    "control flow by data": (lambda: network(lambda self, h: h * 2 if h.mean() > 0 else h), "Data-dependent branching"),
    "a parameter of another module": (foreign, "uses a parameter that is not its own"),
    "a function of autograd": (lambda: network(lambda self, h: Square.apply(h)), "it applies a torch.autograd.Function"),
    "Python's random numbers": (lambda: network(lambda self, h: h * random.random()), "Attempted to call function marked as skipped"),
    "NumPy's generator": (lambda: scaled(lambda a: a.random(), np.random.default_rng(1)), "does not know how to trace method `random`"),
}  # fmt: skip
UNFIT_AT_SIGHT = {
    "backward hooks": (with_backward_hook, "its modules have backward hooks"),
    "a tensor subclass": (with_subclass, "a tensor of type Subclass"),
}


@pytest.mark.parametrize("call", [penalty, whole])
@pytest.mark.parametrize("name", UNFIT | UNFIT_AT_SIGHT)
def test_what_cannot_be_compiled(name, call):
    """One warning, and everything is as with the eager engine alone: results, buffers, attributes, generators."""
    at_sight = name in UNFIT_AT_SIGHT
    build, why = UNFIT_AT_SIGHT[name] if at_sight else UNFIT[name]
    d, twin = build(), build()
    twin.load_state_dict(d.state_dict())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        got = sequence(d, "compiled", call)
    want = sequence(twin, "eager", call)
    same_sequence(got, want, 0)
    assert all(by.startswith("eager") for by in engines(got))
    (message,) = complaints(found)
    assert f"{type(d).__name__} runs eagerly {'where' if at_sight else 'from here on:'} " in message
    assert why in message
    info = fastgan.compile_info(d)
    assert (info.graphs, info.calls) == (0, 0)
    assert info.refused is None if at_sight else why in info.refused


def test_a_function_of_autograd():
    """Without a penalty one derivative is enough, and a graph has it; under a penalty at other points too."""
    compiled_twice(step, network(lambda self, h: Square.apply(h)))
    d = network(lambda self, h: Square.apply(h))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert [agrees(step, d, penalty="wgan-gp") for _ in range(2)] == ["eager, pruned"] * 2
    assert "it applies a torch.autograd.Function" in fastgan.compile_info(d).refused
    assert len(complaints(found)) == 1


def test_the_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="runs eagerly from here on") as found:
        fastgan.r1_penalty(foreign(), X, engine="compiled")
    assert [w.filename for w in found if "eagerly" in str(w.message)] == [__file__]


def test_scripted_modules():
    d = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(d)
    with pytest.warns(UserWarning, match="runs eagerly where it is a scripted module"):
        got = r1(scripted, "compiled")
    torch.testing.assert_close(got, r1(d, "eager"), rtol=1e-10, atol=0)


def test_global_hooks():
    d = Net().double()
    compiled_twice(penalty, d)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, r: seen.append(m))
    try:
        with pytest.warns(UserWarning, match="there are global forward hooks"):
            r1(d, "compiled")
        assert len([m for m in seen if m is d.first]) == 1
    finally:
        handle.remove()


def test_cached_parametrizations():
    d = Net().double()
    nn.utils.parametrizations.spectral_norm(d.first)
    compiled_twice(penalty, d)
    with nn.utils.parametrize.cached(), pytest.warns(UserWarning, match="its parametrizations are cached"):
        r1(d, "compiled")


def test_float16():
    d = Net()
    with (
        torch.autocast("cpu", torch.float16),
        pytest.warns(UserWarning, match="gradients in float16 would underflow"),
    ):
        r1(d, "compiled", X.float())


def wrong(change):
    """A compiler whose results are changed."""

    def compile_(step, **options):
        graph = as_traced(step, **options)

        def run(*arguments):
            found = graph(*arguments)
            (discriminator,) = [a for a in arguments if isinstance(a, nn.Module)]
            return change(discriminator, *found) or found

        return run

    return compile_


def of_gradient(change):
    """The gradient of the first parameter is changed."""
    return wrong(lambda d, value, extras, grads: (value, extras, (change(grads[0]), *grads[1:])))


def fails(step, **_):
    raise RuntimeError("no compiler")


def fails_later(step, **options):
    graph = as_traced(step, **options)

    def run(*arguments):
        graph(*arguments)
        raise RuntimeError("no compiler")

    return run


WRONG = {
    "value": (wrong(lambda d, value, extras, grads: (value * 1.001, extras, grads)), "its values are not those"),
    "statistics": (wrong(lambda d, value, extras, grads: (value, extras._replace(norms=extras.norms + 1), grads)), "its values are not those"),
    "gradient": (of_gradient(lambda g: g * 1.001), "its gradients are not those"),
    "no gradient": (of_gradient(lambda g: None), "its gradients are not those"),
    "NaN": (of_gradient(lambda g: g * float("nan")), "its gradients are not those"),
    "shape": (of_gradient(lambda g: g[None]), "its gradients are not those"),
    "dtype": (of_gradient(lambda g: g.float()), "its gradients are not those"),
    "buffer": (wrong(lambda d, *_: d.norm.running_mean.add_(1) is None), "its buffers are not those"),
    "counter": (wrong(lambda d, *_: d.norm.num_batches_tracked.add_(1) is None), "its buffers are not those"),
    "random numbers": (wrong(lambda *_: torch.rand(1) is None), "it draws other random numbers"),
    "compiler": (fails, "RuntimeError: no compiler"),
    "compiler, later": (fails_later, "RuntimeError: no compiler"),
}  # fmt: skip


def dropping():
    return network(lambda self, h: F.dropout(self.norm(h), 0.2), norm=nn.BatchNorm1d(8))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_compiled_wrongly_is_refused(name, monkeypatch):
    """Where the first call is compared; then everything is the eager engine's."""
    compiler, why = WRONG[name]
    monkeypatch.setenv("FASTGAN_CHECK_COMPILED", "1")
    monkeypatch.setattr(torch, "compile", compiler)
    d, twin = dropping(), dropping()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        got = sequence(d, "compiled")
    same_sequence(got, sequence(twin, "eager"), 0)
    assert engines(got) == {"eager, pruned"}
    (message,) = complaints(found)
    assert why in message
    assert why in fastgan.compile_info(d).refused


@pytest.mark.parametrize("build", [dropping, normed])
def test_what_is_compiled_rightly_is_compared_once(build, monkeypatch):
    compared = []
    beside_eager = compare.beside_eager
    monkeypatch.setattr(compare, "beside_eager", lambda *given: compared.append(given) or beside_eager(*given))
    for expected in (1, 0):
        monkeypatch.setenv("FASTGAN_CHECK_COMPILED", str(expected))
        d, twin = build(), build()
        compared.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = sequence(d, "compiled")
        assert engines(got) == {"compiled"}
        same_sequence(got, sequence(twin, "eager"))
        assert len(compared) == expected


def test_errors_of_the_caller_stay_errors():
    """They are the eager engine's, leave everything as it was, and are no reason to compile nothing more."""
    d = conditional()
    d.norm = nn.BatchNorm1d(8).double()
    before = copy.deepcopy(d.state_dict())
    good, bad = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 99])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(IndexError):
                fastgan.r1_penalty(d, X, bad, engine="compiled")
            with pytest.raises(TypeError):
                fastgan.r1_penalty(d, X, good, "too many", engine="compiled")
            with pytest.raises(RuntimeError):
                fastgan.r1_penalty(d, X[:, :2], good, engine="compiled")
            with pytest.raises(TypeError, match="loss: expected it to return a scalar tensor"):
                STEP(d, X, Y, good, loss=lambda r, f: r, engine="compiled")
        assert fastgan.compile_info(d) == fastgan.CompileInfo()
        compiled_twice(penalty, d, X, good)
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())


def test_what_has_no_second_derivative_raises_as_eagerly():
    d = network(lambda self, h: Once.apply(h))
    texts = []
    for engine in ("eager", "compiled", "compiled"):
        with pytest.raises(RuntimeError, match="its function Once is marked once_differentiable") as error:
            r1(d, engine)
        texts.append(str(error.value))
        with pytest.raises(RuntimeError, match="its function Once is marked once_differentiable"):
            STEP(d, X, Y, penalty="r1", engine=engine)
    assert len(set(texts)) == 1
    assert fastgan.compile_info(d).refused is None
    compiled_twice(step, d)  # a loss needs one derivative only


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite(value):
    """They are the eager engine's, in a first call and in a later one."""
    d, twin = Net().double(), Net().double()
    for x in (X * value, X, X * value):
        got, by = penalty(d, x)
        want, _ = penalty(twin, x, engine="eager")
        assert by == "compiled"
        for a, b in zip(got, want, strict=True):
            assert (a is None) is (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)
    assert got[0].isnan()


def test_what_was_refused_stays_so():
    d = network(lambda self, h: h * 2 if h.mean() > 0 else h)
    with pytest.warns(UserWarning, match="runs eagerly from here on"):
        r1(d, "compiled")
    type(d).between = Net.between
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert agrees(penalty, d) == "eager, pruned"
        assert agrees(step, d, penalty="r1") == "eager, pruned"
    compiled_twice(penalty, copy.deepcopy(d))


def test_what_did_not_fit_one_call_may_fit_another():
    d = with_backward_hook()
    with pytest.warns(UserWarning, match="runs eagerly where its modules have backward hooks"):
        r1(d, "compiled")
    d.first._backward_hooks.clear()
    compiled_twice(penalty, d)


# ---------------------------------------------------------------------------------- inputs and parameters that are related


class Reversed(Net):
    def parameters(self, recurse=True):
        return iter(list(super().parameters(recurse))[::-1])


def test_parameters_in_an_order_of_their_own():
    """Gradients would be handed to the wrong ones."""
    with pytest.warns(UserWarning, match="it lists its parameters in a way of its own"):
        assert agrees(penalty, Reversed().double()) == "eager, pruned"


class Added(Net):
    def forward(self, x, y):
        return super().forward(x + y.tanh())


def test_inputs_that_are_computed_from_each_other():
    """The gradient by one goes through the other."""
    d = Added().double()
    x = batch(4).requires_grad_()
    for given, other in ((x, x.sin()), (x * 2, None)):
        y = given.cos() if other is None else other
        want = fastgan.r1_penalty(d, given, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(fastgan.r1_penalty(d, given, y, engine="compiled"), want)
    assert fastgan.compile_info(d).graphs == 0
    fastgan.r1_penalty(d, x, batch(5).requires_grad_(), engine="compiled")
    assert fastgan.compile_info(d)[:2] == (1, 1)


def test_an_input_that_is_a_parameter():
    d = Added(const=nn.Parameter(batch(4))).double()
    with pytest.warns(UserWarning, match="its input is one of its parameters"):
        fastgan.r1_penalty(d, d.const, X, engine="compiled")


def test_features_that_lead_to_an_input_are_refused():
    """In the backward, as their gradient would end at a stand-in."""
    d = network(remembers)
    fake = (batch(3).requires_grad_() * 2).sin()
    total = fastgan.r2_penalty(d, fake, engine="compiled")
    with pytest.raises(
        RuntimeError, match="a tensor that the discriminator's forward left behind leads to its input"
    ):
        (total + d.features.square().mean()).backward()


def test_a_tensor_with_a_graph_in_an_attribute():
    """The graph cannot hand it its gradient."""
    table = batch(6, 8).requires_grad_()
    d = network(lambda self, h: h * self.a.mean(0))
    d.a = table.exp()
    want = torch.autograd.grad(r1(d, "eager"), table, retain_graph=True)
    with pytest.warns(UserWarning, match="it uses a parameter that is not its own"):
        same(torch.autograd.grad(r1(d, "compiled"), table), want)


def test_a_check_of_inputs_that_want_gradients(monkeypatch):
    """The comparison takes gradients by the inputs' stand-ins too."""
    monkeypatch.setenv("FASTGAN_CHECK_COMPILED", "1")
    d = Added().double()
    compiled_twice(penalty, d, batch(4).requires_grad_(), batch(5).requires_grad_())
