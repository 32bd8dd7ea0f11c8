"""Whole penalty steps over the zoo: every usual discriminator, every engine, against the recipe as one writes it."""

import functools
import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastgan


def _zoo():
    """bench/zoo.py, whose folder is not a package."""
    path = Path(__file__).parents[1] / "bench" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    module = sys.modules["zoo"] = importlib.util.module_from_spec(spec)  # where torch.compile looks it up
    spec.loader.exec_module(module)
    return module


zoo = _zoo()
ENGINES = {"eager": {"prune": False}, "pruned": {"prune": True}}
KINDS = ["wgan-gp", "r1"]
FULL = [name for name, case in zoo.ZOO.items() if case.autocast is None]
LOWERED = [name for name, case in zoo.ZOO.items() if case.autocast is not None]
N, WIDTH, SIZE = 4, 8, 16
EPS = torch.tensor([0.1, 0.9, 0.4, 0.7], dtype=torch.float64)


def recipe(kind, net, real, fake, *arguments):
    """The penalty as trainers write it."""
    x = real
    if kind == "wgan-gp":
        e = EPS.to(real).view(-1, *[1] * (real.dim() - 1))
        x = e * real + (1 - e) * fake
    x = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        out = net(x, *arguments)
        out = list(out.values()) if isinstance(out, dict) else out if isinstance(out, list) else [out]
        (g,) = torch.autograd.grad(sum(o.sum() for o in out), x, create_graph=True)
    squares = g.flatten(1).square().sum(1)
    return 10 / 2 * squares.mean() if kind == "r1" else 10 * ((squares.sqrt() - 1) ** 2).mean()


def ours(engine):
    """A penalty with the recipe's arguments."""

    def penalty(kind, net, real, fake, *arguments):
        eps = {"eps": EPS.to(real)} if kind == "wgan-gp" else {}
        return fastgan.gradient_penalty(net, real, fake, *arguments, kind=kind, **eps, **ENGINES[engine])

    return penalty


def step(penalty, kind, name, dtype):
    """The value, the parameters' gradients and the buffers after one penalty, from the same state each time."""
    case = zoo.ZOO[name]
    net = zoo.built(case, WIDTH, SIZE, dtype)
    real, fake, arguments = zoo.samples(case, N, SIZE, dtype)
    torch.manual_seed(5)  # dropout's masks
    with torch.autocast("cpu", case.autocast) if case.autocast else nullcontext():
        value = penalty(kind, net, real, fake, *arguments)
    value.backward()
    grads = {n: p.grad for n, p in net.named_parameters()}
    return value.detach(), grads, dict(net.named_buffers())


@functools.cache
def wanted(kind, name):
    """What the recipe comes to in float64."""
    return step(recipe, kind, name, torch.float64)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FULL)
def test_gradients(name, kind, engine):
    """Value, every gradient, None's too, and buffers are the recipe's."""
    value, grads, buffers = step(ours(engine), kind, name, torch.float64)
    want, want_grads, want_buffers = wanted(kind, name)
    torch.testing.assert_close(value, want, rtol=1e-11, atol=0)
    assert {n for n, g in grads.items() if g is None} == {n for n, g in want_grads.items() if g is None}
    most = max(g.abs().max() for g in want_grads.values() if g is not None)
    assert most > 1e-6
    for n, w in want_grads.items():
        if w is not None:
            # What is zero but for rounding, as of a bias before batch norm, is that of the sums it came from.
            torch.testing.assert_close(
                grads[n], w, rtol=0, atol=float(1e-11 * w.abs().max() + 1e-14 * most), msg=lambda m: f"{n}: {m}"
            )
    torch.testing.assert_close(buffers, want_buffers, rtol=1e-11, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOWERED)
def test_gradients_under_autocast(name, kind, engine):
    """No further from float64, which autocast leaves alone, than twice the recipe: that is off by 0.02 and 0.04."""
    exact = {n: w for n, w in wanted(kind, name)[1].items() if w is not None}
    size = torch.cat([w.flatten() for w in exact.values()]).norm()

    def error(penalty):
        grads = {n: g for n, g in step(penalty, kind, name, torch.float32)[1].items() if g is not None}
        assert grads.keys() == exact.keys()
        assert {g.dtype for g in grads.values()} == {torch.float32}
        return float(torch.cat([(grads[n].double() - w).flatten() for n, w in exact.items()]).norm() / size)

    theirs = error(recipe)
    assert 0.005 < theirs < 0.1
    assert error(ours(engine)) <= 2 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_pruning_changes_no_bit(name, kind, dtype):
    """Value, every gradient, None's too, and buffers."""
    pruned, plain = (step(ours(engine), kind, name, dtype) for engine in ("pruned", "eager"))
    assert torch.equal(pruned[0], plain[0])
    for found, want in zip(pruned[1:], plain[1:], strict=True):
        for n, w in want.items():
            assert (found[n] is None) is (w is None), n
            assert w is None or torch.equal(found[n], w), n


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["batch norm", "spectral norm", "spectral norm, hook"])
def test_buffers_move_once(name, engine):
    """Running statistics and the power iteration's vectors are those after as many forward calls as penalties."""
    case = zoo.ZOO[name]
    real, _, _ = zoo.samples(case, N, SIZE)
    net, twin = (zoo.built(case, WIDTH, SIZE) for _ in range(2))
    for calls in (1, 2):
        before = {n: b.clone() for n, b in twin.named_buffers()}
        fastgan.r1_penalty(net, real, **ENGINES[engine]).backward()
        twin(real)
        assert any(not torch.equal(b, before[n]) for n, b in twin.named_buffers())
        for n, b in net.named_buffers():
            assert torch.equal(b, twin.get_buffer(n)), n
            assert not n.endswith("num_batches_tracked") or b == calls
