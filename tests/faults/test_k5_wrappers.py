"""K5: wrappers of a discriminator that a penalty cannot go through are refused, never silently wrong."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastgan
from fastgan.nn import GradientPenalty
from tests.helpers.ranks import group_of_one, needs_fsdp, needs_gloo, run_ranks

X = torch.randn(4, 5)
CALLS = {
    "penalty": lambda d: fastgan.r1_penalty(d, X),
    "between": lambda d: fastgan.gradient_penalty(d, X, -X, prune=False),
    "module": lambda d: GradientPenalty("r1")(d, X),
    "step": lambda d: fastgan.discriminator_step(d, X, -X, loss="hinge", penalty="r1"),
    "lambda": lambda d: fastgan.r1_penalty(lambda x: d(x), X),
    "compiled": lambda d: fastgan.r1_penalty(d, X, engine="compiled"),
}
calls = pytest.mark.parametrize("call", CALLS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    if not dist.is_available():
        pytest.skip("torch was built without distributed")
    with group_of_one(tmp_path_factory.mktemp("store")):
        yield


@calls
def test_a_static_graph(call, group):
    with pytest.raises(RuntimeError, match=r"static_graph=True.*\.module"):
        CALLS[call](DistributedDataParallel(network(), static_graph=True))


def test_what_a_static_graph_is_good_for(group):
    """Losses, approximations, values, and penalties of the module within."""
    d = DistributedDataParallel(network(), static_graph=True)
    fastgan.discriminator_loss(d(X), d(-X)).backward()
    d = DistributedDataParallel(network(), static_graph=True)
    assert torch.equal(fastgan.r1_penalty(d.module, X), fastgan.r1_penalty(network(), X))
    with torch.no_grad():
        fastgan.r1_penalty(d, X)
    fastgan.discriminator_step(d, X, -X, loss="hinge")
    fastgan.discriminator_step(d, X, -X, loss="hinge", penalty="r1-approx")
    fastgan.r1_penalty(DistributedDataParallel(network()), X).backward()


def fully_sharded(whole):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    d = network()
    for module in [] if whole else [m for m in d if isinstance(m, nn.Linear)]:
        fsdp.fully_shard(module, mesh=mesh)
    return fsdp.fully_shard(d, mesh=mesh)


def gradients(d, call):
    found = CALLS[call](d)
    (found.total if call == "step" else found).backward()
    return [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in d.parameters()]


@needs_fsdp
@calls
@pytest.mark.parametrize("whole", [True, False])
def test_fully_shard(call, whole, group):
    """A penalty goes through, in each form; tests/discriminator/test_sharded.py has many more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that engine="compiled" runs eagerly
        torch.manual_seed(1)
        got = gradients(fully_sharded(whole), call)
        torch.manual_seed(1)
        want = gradients(network(), call)
    assert all(g is w is None or torch.allclose(g, w, rtol=1e-5, atol=1e-7) for g, w in zip(got, want, strict=True))


@needs_fsdp
@pytest.mark.parametrize("whole", [True, False])
def test_fully_shard_is_not_compiled(whole, group):
    d = fully_sharded(whole)
    d(X)  # leaves the outermost parameters gathered, which then are as any others
    with pytest.warns(UserWarning, match=r"runs eagerly where it is sharded by fully_shard"):
        fastgan.r1_penalty(d, X, engine="compiled")


@needs_fsdp
@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [True, False])
def test_fully_shard_is_refused_in_a_graph(fullgraph, group):
    d = fully_sharded(False)
    with fastgan.compiling(), pytest.raises(Exception, match=r"Unsupported|Attempted to call|broke the graph"):
        torch.compile(lambda x: fastgan.r1_penalty(d, x), fullgraph=fullgraph, backend="eager")(X)


@calls
def test_an_unknown_fully_shard(call, group, monkeypatch):
    """Of a torch whose FSDP2 lacks what penalties rely on."""
    d = fully_sharded(True)
    monkeypatch.delattr(torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState, "_pre_backward")
    with pytest.raises(RuntimeError, match=r"fully_shard \(FSDP2\).*r1-approx"):
        CALLS[call](d)


@calls
def test_fsdp1(call, group):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FSDP1 is deprecated
        d = fsdp.FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"FSDP1.*fully_shard.*r1-approx"):
        CALLS[call](d)


class GradSampleModule(nn.Module):
    """By name, as Opacus' is."""

    def __init__(self, module):
        super().__init__()
        self._module = module

    def forward(self, x):
        return self._module(x)


@calls
def test_opacus(call):
    with pytest.raises(RuntimeError, match=r"GradSampleModule.*torch\.func\.vmap.*norm_penalty"):
        CALLS[call](GradSampleModule(network()))


def test_the_way_that_the_refusal_of_opacus_names():
    d = network()

    def of_one(x):
        return d(x[None]).sum()

    grads = torch.func.vmap(torch.func.grad(of_one))(X)
    want = fastgan.r1_penalty(d, X, weight=2.0)
    torch.testing.assert_close(fastgan.norm_penalty(grads, "power"), want, rtol=1e-5, atol=0)


def test_other_modules_are_looked_at_once():
    class Plain(nn.Linear):
        pass

    d = nn.Sequential(Plain(5, 1))
    fastgan.r1_penalty(d, X)
    with pytest.raises(RuntimeError, match="GradSampleModule"):
        fastgan.r1_penalty(nn.Sequential(GradSampleModule(copy.deepcopy(d))), X)


def worker(rank):
    """Whether both ranks' weights stay equal, with each form of the step."""
    together = []
    for form in ("step", "module of a static graph"):
        d = DistributedDataParallel(network(), static_graph=form != "step")
        optimizer = torch.optim.SGD(d.parameters(), 0.1)
        for it in range(3):
            g = torch.Generator().manual_seed(10 * rank + it)
            real, fake = torch.randn(4, 5, generator=g), torch.randn(4, 5, generator=g)
            optimizer.zero_grad()
            if form == "step":
                fastgan.discriminator_step(d, real, fake, loss="hinge", penalty="r1").total.backward()
            else:
                loss = fastgan.discriminator_loss(d(real), d(fake), "hinge")
                (loss + fastgan.r1_penalty(d.module, real)).backward()
            optimizer.step()
            weights = torch.cat([p.detach().flatten() for p in d.parameters()])
            others = [torch.empty_like(weights) for _ in range(2)]
            dist.all_gather(others, weights)
            together.append(torch.equal(*others))
    return together


@needs_gloo
def test_ranks_stay_together():
    assert run_ranks(worker) == [[True] * 6] * 2
