"""fastgan.frozen: no gradient of the discriminator's parameters inside, every flag as it was outside."""

import gc
import threading

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.discriminator import frozen as implementation
from tests.helpers.ranks import group_of_one, run_ranks


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 16, 1)
    )
    layers[3].bias.requires_grad_(False)
    return layers


def images(requires_grad=True):
    return torch.randn(2, 3, 6, 6).requires_grad_(requires_grad)


def flags(module):
    return [p.requires_grad for p in module.parameters()]


@pytest.fixture
def net():
    net = network()
    before = flags(net)
    yield net
    assert flags(net) == before
    assert not implementation._held


def test_no_gradient_reaches_the_parameters(net):
    x = images()
    with fastgan.frozen(net):
        assert not any(flags(net))
        loss = net(x).sum()
        assert not net(images(False)).requires_grad  # D(real) makes no graph
    assert any(flags(net))
    loss.backward()
    assert all(p.grad is None for p in net.parameters())
    (want,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(x.grad, want)


def test_a_backward_in_the_block_leaves_no_gradients_of_a_forward_before_it(net):
    x = images()
    before = net(x)
    with fastgan.frozen(net):
        before.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_a_step_after_the_block_trains(net):
    with fastgan.frozen(net):
        net(images(False))
    net(images(False)).sum().backward()
    assert [p.grad is not None for p in net.parameters()] == flags(net)


def test_nested_blocks(net):
    with fastgan.frozen(net):
        with fastgan.frozen(net):
            pass
        assert not any(flags(net))


def test_an_exception(net):
    with pytest.raises(ZeroDivisionError), fastgan.frozen(net):
        raise ZeroDivisionError


def test_parts_that_are_frozen_already_stay_so(net):
    with fastgan.frozen(net):
        pass
    assert not net[3].bias.requires_grad


def test_several_discriminators_and_those_behind_functions(net):
    other = network()
    with fastgan.frozen(net, lambda x: other(x)):
        assert not any(flags(net) + flags(other))
    assert flags(other) == flags(net)


def test_tied_weights():
    a = nn.Linear(3, 3)
    b = nn.Linear(3, 3)
    b.weight = a.weight
    with fastgan.frozen(nn.Sequential(a, b)):
        assert not a.weight.requires_grad
    assert a.weight.requires_grad
    assert b.bias.requires_grad


def test_blocks_of_two_threads_may_overlap(net):
    """The first to come goes first, while the other still is in its block."""
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with fastgan.frozen(net):
            inside.set()
            leave.wait(10)
            seen.append(any(flags(net)))

    thread = threading.Thread(target=other)
    with fastgan.frozen(net):
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join()
    assert seen == [False]


def test_a_block_that_is_left_behind(net):
    """A generator that is never resumed, as where Ctrl-C came inside of the context manager's own code."""
    block = fastgan.frozen(net)
    block.__enter__()
    assert not any(flags(net))
    del block
    gc.collect()
    assert any(flags(net))


@pytest.mark.parametrize("after", range(12))
def test_an_interrupted_release_is_done_again(net, after, monkeypatch):
    count = 0
    real = nn.Parameter.requires_grad_

    def interrupted(self, value=True):
        nonlocal count
        count += 1
        if count == after + 1:
            raise KeyboardInterrupt
        return real(self, value)

    monkeypatch.setattr(nn.Parameter, "requires_grad_", interrupted)
    try:
        with fastgan.frozen(net):
            pass
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()


def test_a_parameter_that_was_replaced_meanwhile_needs_a_gradient_too():
    net = nn.Linear(2, 2)
    with fastgan.frozen(net):
        net.weight = nn.Parameter(net.weight.detach().clone(), requires_grad=False)
    assert net.weight.requires_grad


def test_cached_parametrizations_are_refused(net):
    with parametrize.cached():
        with pytest.raises(RuntimeError, match="cached"), fastgan.frozen(net):
            pass
        with fastgan.frozen(nn.Linear(2, 2)):  # has none
            pass


def test_what_is_no_discriminator():
    with pytest.raises(TypeError, match="discriminators: expected modules or functions, got int"):
        fastgan.frozen(3).__enter__()


def test_a_compiled_discriminator(net):
    compiled, x = torch.compile(net, backend="aot_eager"), images()
    with fastgan.frozen(compiled):
        loss = compiled(x).sum()
    loss.backward()
    assert all(p.grad is None for p in net.parameters())
    compiled(x).sum().backward()
    assert [p.grad is not None for p in net.parameters()] == flags(net)


class Checkpointed(nn.Module):
    def __init__(self, reentrant=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(lambda x: (x * self.scale).exp() * self.scale, x, use_reentrant=self.reentrant)


HIDDEN = {k: nn.Linear(2, 1) for k in range(200)}  # a global of this length is taken for data


class Trainer:
    """No module itself, as many trainers are."""

    def __init__(self):
        self.D, self.G = network(), nn.Linear(2, 2)

    def judge(self, x):
        return self.called(x)

    def called(self, x):
        return self.D(x)


def test_a_method_of_an_object_that_holds_the_module():
    trainer, x = Trainer(), images()
    for function in (trainer.judge, lambda x: trainer.judge(x), trainer.called):
        with fastgan.frozen(function):
            assert not any(flags(trainer.D))
            assert all(flags(trainer.G))  # which its code does not name
        fastgan.generator_step(function, x * 1).total.backward()
        assert all(p.grad is None for p in trainer.D.parameters())


def test_a_function_in_which_no_module_is_found(monkeypatch):
    monkeypatch.setattr("fastgan._checks._said", set())
    with pytest.raises(ValueError, match="discriminators: expected a function that refers to a module"):
        fastgan.frozen(lambda x: HIDDEN[0](x)).__enter__()
    with pytest.warns(UserWarning, match="nothing is frozen"):
        fastgan.generator_step(lambda x: x.sum((1, 2, 3)), images())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_are_refused_by_a_step_whose_backward_comes_later(reentrant):
    net, x = Checkpointed(reentrant), images()
    with pytest.raises(RuntimeError, match=r"checkpointed.*with fastgan\.frozen"):
        fastgan.generator_step(net, x * 1)
    with fastgan.frozen(net):
        fastgan.generator_step(net, x * 1).total.backward()
    assert net.scale.grad is None
    assert x.grad is not None


def test_a_step_leaves_no_mode_and_compiles_nothing_anew():
    net, x = network(), images()
    compiled = torch.compile(net, backend="aot_eager")
    torch._dynamo.utils.counters.clear()  # other tests compile too
    for _ in range(3):
        fastgan.generator_step(compiled, x * 1).total.backward()
    assert torch._dynamo.utils.counters["frames"] == {"total": 1, "ok": 1}
    assert not torch.overrides._get_current_function_mode_stack()
    with pytest.raises(ZeroDivisionError):
        fastgan.generator_step(net, x * 1, loss=lambda f, r: 1 / 0)
    assert not torch.overrides._get_current_function_mode_stack()


def test_power_iterations_are_no_checkpoints():
    net = parametrizations.spectral_norm(nn.Linear(4, 1))
    fastgan.generator_step(net, torch.randn(3, 4, requires_grad=True) * 1)


def test_checkpointed_layers_want_the_backward_in_the_block():
    net, x = Checkpointed(), images()
    with fastgan.frozen(net):
        net(x).sum().backward()
    assert net.scale.grad is None
    with fastgan.frozen(net):
        loss = net(x).sum()
    with pytest.raises(torch.utils.checkpoint.CheckpointError):  # PyTorch says so: nothing is silently wrong
        loss.backward()


# ---------------------------------------------------------------------------------- wrappers


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    with group_of_one(tmp_path_factory.mktemp("store")):
        yield


def test_a_static_graph_is_refused(group):
    d = DistributedDataParallel(nn.Linear(2, 1), static_graph=True)
    with pytest.raises(RuntimeError, match=r"static_graph=True.*\.module"), fastgan.frozen(d):
        pass
    with pytest.raises(RuntimeError, match="static_graph=True"):
        fastgan.generator_step(d, torch.randn(3, 2, requires_grad=True))
    assert not implementation._held
    with fastgan.frozen(d.module):
        assert not any(flags(d))
    assert all(flags(d))


def plain_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 16), nn.LeakyReLU(), nn.Linear(16, 1))


def wrapped(kind):
    net = plain_network()
    if kind.startswith("ddp"):
        return DistributedDataParallel(net, find_unused_parameters=kind == "ddp, unused")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    if kind == "fsdp2, layers":
        for layer in net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh, reshard_after_forward=kind != "fsdp2, kept")


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def work(rank, kinds):
    """Check generators' and discriminators' steps in turn against one process, on both ranks."""
    batches = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3))
    for kind in kinds:
        net, plain = wrapped(kind), plain_network()
        (-plain(batches.flatten(0, 1))).mean().backward()
        for use in ("block", "step", "value"):
            scale = torch.ones(8, requires_grad=True)
            if use == "value":  # no backward follows, which would shard the parameters
                with torch.no_grad(), fastgan.frozen(net):
                    net(batches[rank])
            else:
                step(net, batches[rank] * scale, use).backward()
                want = torch.ones(8, requires_grad=True)
                (-plain_network()(batches[rank] * want)).mean().backward()
                torch.testing.assert_close(scale.grad, want.grad)
            assert all(p.grad is None for p in net.parameters()), (kind, use)
            assert all(flags(net)), (kind, use)
            (-net(batches[rank])).mean().backward()
            for p, q in zip(net.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(whole(p.grad), q.grad)
            net.zero_grad()


def step(net, x, use):
    if use == "step":
        return fastgan.generator_step(net, x, loss="hinge").total
    with fastgan.frozen(net):
        return -net(x).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("ddp", "ddp, unused"), ("fsdp2", "fsdp2, layers", "fsdp2, kept")], ids=str)
def test_two_ranks(kinds):
    if kinds[0] == "fsdp2":
        pytest.importorskip("torch.distributed.fsdp", reason="fully_shard")
        if not hasattr(torch.distributed.fsdp, "fully_shard"):
            pytest.skip("this torch has no fully_shard there")
    run_ranks(work, kinds)


def test_a_block_in_a_compiled_function(net):
    """The graph breaks at the block; gradients and flags are as without compilation."""
    torch._dynamo.reset()

    def step(x):
        x = x * 2
        with fastgan.frozen(net):
            return net(x).square().sum()

    x = images().requires_grad_()
    (want,) = torch.autograd.grad(step(x), x)
    loss = torch.compile(step, backend="aot_eager")(x)
    (got,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(got, want)
    loss.backward()
    assert all(p.grad is None for p in net.parameters())
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="aot_eager", fullgraph=True)(x)
