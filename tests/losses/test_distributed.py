"""The average relativistic forms over the ranks of a process group: two gloo processes on the CPU."""

import warnings

import pytest
import torch
import torch.distributed as dist

import fastgan
from fastgan import requirements
from tests.helpers.ranks import RANKS, needs_gloo, run_ranks


def data():
    g = torch.Generator().manual_seed(3)
    return [torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(2)]


def network():
    torch.manual_seed(5)
    return torch.nn.Linear(4, 1).double()


def same_gradients(got, want, rtol):
    """Each gradient of a network within `rtol` of the largest of them, which has the size of what was added up.

    A last bias's summands cancel: what remains is rounding, and other bits on another processor.
    """
    size = max(float(w.abs().max()) for w in want)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=rtol * size)


def losses(net, x, y, group):
    r, f = net(x), net(y)
    d = fastgan.discriminator_loss(r, f, relativistic="average", process_group=group)
    g = fastgan.generator_loss(f, r, "least_squares", relativistic="average", process_group=group)
    return d + 2 * g


def worker(rank):
    x, y = (t[rank::RANKS] for t in data())
    net = network()
    loss = losses(net, x, y, dist.group.WORLD)
    loss.backward()
    plain = torch.stack([loss.detach(), net.weight.grad.sum()])

    ddp = torch.nn.parallel.DistributedDataParallel(network())
    losses(ddp, x, y, dist.group.WORLD).backward()

    r = net(x).detach().requires_grad_()
    value = fastgan.discriminator_loss(r, net(y).detach(), relativistic="average", process_group=dist.group.WORLD)
    (first,) = torch.autograd.grad(value, r, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), r)
    return plain, ddp.module.weight.grad, ddp.module.bias.grad, second


@needs_gloo
def test_two_ranks_are_one_batch():
    saved = run_ranks(worker)

    x, y = data()
    net = network()
    loss = losses(net, x, y, None)
    loss.backward()
    # The mean of the ranks' losses is the loss of the whole batch, and so is the mean of the gradients,
    # which is what DDP makes of them.
    mean = torch.stack([s[0] for s in saved]).mean(0)
    torch.testing.assert_close(mean, torch.stack([loss.detach(), net.weight.grad.sum()]), rtol=1e-12, atol=0)
    for s in saved:
        same_gradients(s[1:3], [net.weight.grad, net.bias.grad], 1e-12)

    # Second order: <g, g> of the sum of the ranks' losses, on the whole batch.
    r = net(x).detach().requires_grad_()
    value = RANKS * fastgan.discriminator_loss(r, net(y).detach(), relativistic="average")
    (first,) = torch.autograd.grad(value, r, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), r)
    got = torch.empty_like(second)
    for rank, s in enumerate(saved):
        got[rank::RANKS] = s[3]
    same_gradients([got], [second], 1e-12)


# ---------------------------------------------------------------------------------- gradient penalties


def discriminator():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()


def parts(net, x, y, eps):
    loss = fastgan.discriminator_loss(net(x), net(y), "wasserstein")
    return loss, fastgan.gradient_penalty(net, x, y, eps=eps)


def penalty_worker(rank):
    eps = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x, y, e = (t[rank::RANKS].contiguous() for t in (*data(), eps))
    found = {}
    for name in ("together", "penalty first", "apart"):
        ddp = torch.nn.parallel.DistributedDataParallel(discriminator())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name == "penalty first":
                penalty = fastgan.gradient_penalty(ddp, x, y, eps=e)
                (penalty + parts(ddp, x, y, e)[0]).backward()
            else:
                loss, penalty = parts(ddp, x, y, e)
                if name == "together":
                    (loss + penalty).backward()
                else:
                    loss.backward()
                    fastgan.gradient_penalty(ddp, x, y, eps=e).backward()
        found[name] = [p.grad for p in ddp.parameters()], [str(w.message) for w in caught]
    ddp = torch.nn.parallel.DistributedDataParallel(discriminator())
    with warnings.catch_warnings(record=True) as caught, ddp.no_sync():
        warnings.simplefilter("always")
        fastgan.gradient_penalty(ddp, x, y, eps=e).backward()  # asked for: nothing to warn of
    found["no_sync"] = [], [str(w.message) for w in caught]
    hooks = [len(p._post_accumulate_grad_hooks or {}) for p in ddp.parameters()]
    return found, hooks


@needs_gloo
def test_loss_and_penalty_in_one_backward_are_synchronised():
    saved = run_ranks(penalty_worker)

    net = discriminator()
    loss, penalty = parts(net, *data(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64))
    (loss + penalty).backward()
    for found, hooks in saved:
        for name in ("together", "penalty first"):
            grads, caught = found[name]
            assert not caught
            same_gradients(grads, [p.grad for p in net.parameters()], 1e-12)
        assert any("went backward without its loss" in text for text in found["apart"][1])
        assert not found["no_sync"][1]
        assert hooks == [0] * 4  # nothing is left behind
    # What the warning is about: the ranks have drifted apart, or hold what is not the batch's gradient.
    wrong = [
        not torch.allclose(g, p.grad)
        for f, _ in saved
        for g, p in zip(f["apart"][0], net.parameters(), strict=True)
    ]
    assert any(wrong)


def compiled_worker(rank):
    """A penalty beside its loss, and a whole step, three times each."""
    eps = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x, y, e = (t[rank::RANKS].contiguous() for t in (*data(), eps))
    found = {}
    for name in ("beside", "step", "unused", "alone"):
        ddp = torch.nn.parallel.DistributedDataParallel(discriminator(), find_unused_parameters=name == "unused")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(1 if name == "alone" else 3):  # after one alone, the next forward raises
                ddp.zero_grad()
                if name in ("step", "unused"):
                    step = fastgan.discriminator_step(ddp, x, y, loss="hinge", penalty="r1", engine="compiled")
                    by, total = step.engine, step.total
                else:
                    total, stats = fastgan.gradient_penalty(ddp, x, y, eps=e, engine="compiled", return_stats=True)
                    by = stats.engine
                    if name == "beside":
                        total = total + fastgan.discriminator_loss(ddp(x), ddp(y), "wasserstein")
                total.backward()
        ours = [text for w in caught if "penalty" in (text := str(w.message)) or "engine" in text]
        found[name] = [p.grad for p in ddp.parameters()], by, ours
    return found


@pytest.mark.skipif(bool(requirements.lacking("engine='compiled'")), reason="torch is too old for the engine")
@needs_gloo
@pytest.mark.slow
def test_compiled_steps_are_synchronised():
    saved = run_ranks(compiled_worker)

    want = {name: discriminator() for name in ("beside", "step", "unused")}
    sum(parts(want["beside"], *data(), torch.linspace(0.1, 0.9, 6, dtype=torch.float64))).backward()
    for name in ("step", "unused"):
        fastgan.discriminator_step(want[name], *data(), loss="hinge", penalty="r1").total.backward()
    for found in saved:
        for name, net in want.items():
            grads, by, caught = found[name]
            assert by == ("eager, pruned" if name == "unused" else "compiled")
            assert ["looks for unused parameters" in text for text in caught] == [True] * (name == "unused")
            same_gradients(grads, [p.grad for p in net.parameters()], 1e-10)
        assert any("went backward without its loss" in text for text in found["alone"][2])


class Judge(torch.nn.Module):
    """An adversary with statistics and a spectral norm."""

    def __init__(self):
        super().__init__()
        spectral = torch.nn.utils.spectral_norm(torch.nn.Linear(4, 5))
        self.net = torch.nn.Sequential(spectral, torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 1))

    def forward(self, x):
        return [self.net(x)], [[x]]


def adversary_worker(rank):
    m = fastgan.compat.audiocraft
    torch.manual_seed(rank)  # each rank begins with other weights
    judge = Judge()
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.1)
    loss = m.AdversarialLoss(judge, optimizer, m.hinge_loss, m.hinge_real_loss, m.hinge_fake_loss)
    begun = [t.clone() for t in judge.state_dict().values()]
    for _ in range(3):
        loss.train_adv(torch.randn(8, 4), torch.randn(8, 4))  # and has other data
    return begun, list(judge.state_dict().values())


@needs_gloo
def test_an_adversary_is_the_same_on_all_ranks():
    """Weights are broadcast, gradients and statistics averaged."""
    one, other = run_ranks(adversary_worker)
    for a, b in zip(one[0] + one[1], other[0] + other[1], strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(*one, strict=True))


def balancer_worker(rank):
    balancer = fastgan.compat.audiocraft.Balancer({"a": 1.0, "b": 3.0}, monitor=True)
    x = torch.full((2 + 4 * rank, 1, 4), 1.0 + rank, requires_grad=True)
    balancer.backward({"a": x.square().sum() / 2, "b": x.sum()}, x)
    return balancer.metrics, x.grad


@needs_gloo
def test_a_balancer_averages_norms_over_ranks_by_their_samples():
    found = run_ranks(balancer_worker)
    a, b = (2 * 2.0 + 6 * 4.0) / 8, 2.0  # a sample's norms are 2 and 4 on the ranks; 2 on both
    for rank, (metrics, grad) in enumerate(found):
        assert metrics == pytest.approx({"ratio_a": a / (a + b), "ratio_b": b / (a + b)}, rel=1e-6)
        want = torch.full_like(grad, 0.25 * (1.0 + rank) / a + 0.75 / b)
        torch.testing.assert_close(grad, want)
