"""Penalties of discriminators: against the usual recipes, what is refused, and what is left alone."""

import collections
import copy
import dataclasses
import functools
import gc
import math
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.discriminator import double_backward

KINDS = ["wgan-gp", "wgan-lp", "r1", "r2", "dragan", "wgan-div"]


class Net(nn.Module):
    """A discriminator of small images with every usual part: residual, resampled, normalised, conditional."""

    def __init__(self, norm=nn.GroupNorm, activation=None):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1, groups=2))
        self.norm = norm(4, 8) if norm is nn.GroupNorm else norm(8)
        self.activation = activation or nn.LeakyReLU(0.2)
        self.score = nn.Linear(8 * 16, 1)
        self.by_class = nn.Embedding(5, 8 * 16)

    def features(self, x):
        h = self.activation(self.first(x))
        h = F.avg_pool2d(h + self.activation(self.norm(self.second(h))), 2)
        return h.flatten(1)

    def forward(self, x, labels=None):
        h = self.features(x)
        score = self.score(h).squeeze(1)
        return score if labels is None else score + (h * self.by_class(labels)).sum(1)


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net().double().eval()  # spectral norm's power iteration would move between calls


def images(n=4, dtype=torch.float64):
    return torch.randn(n, 3, 8, 8, dtype=dtype), torch.randn(n, 3, 8, 8, dtype=dtype)


def gradient(net, x, *args):
    x = x.detach().requires_grad_()
    out = net(x, *args)
    return torch.autograd.grad(out.sum(), x, create_graph=True)[0]


def usual(kind, net, real, fake, eps, noise, *args):
    """The penalties as their authors write them."""
    e = eps.view(-1, 1, 1, 1)
    between = e * real + (1 - e) * fake
    if kind == "r1":
        return 1 / 2 * gradient(net, real, *args).square().sum([1, 2, 3]).mean()
    if kind == "r2":
        return 1 / 2 * gradient(net, fake, *args).square().sum([1, 2, 3]).mean()
    if kind == "dragan":
        n = gradient(net, real + e * 0.5 * real.std() * noise, *args).flatten(1).norm(2, dim=1)
        return 10 * ((n - 1) ** 2).mean()
    n = gradient(net, between, *args).flatten(1).norm(2, dim=1)
    if kind == "wgan-div":
        return 10 * (n**6).mean()
    return 10 * ((n - 1) ** 2 if kind == "wgan-gp" else F.relu(n - 1) ** 2).mean()


def grads_of(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)


def close(a, b, tolerance=1e-11):
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            assert x is y
        else:
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 4, 4])], ids=["plain", "conditional"])
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_usual_recipe(kind, labels, net):
    for p in net.parameters():
        p.data *= 2  # norms on both sides of the target
    real, fake = images()
    args = () if labels is None else (labels,)
    seed = torch.Generator().manual_seed(7)
    eps, noise = (
        torch.rand(4, generator=seed, dtype=torch.float64),
        torch.rand(real.shape, generator=seed, dtype=torch.float64),
    )
    want = usual(kind, net, real, fake, eps, noise, *args)
    draw = {} if kind in ("r1", "r2") else {"generator": seed}
    seed.manual_seed(7)
    got = fastgan.gradient_penalty(net, real, fake, *args, kind=kind, **draw)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    close(grads_of(got, net), grads_of(want, net))
    if labels is not None:
        seed.manual_seed(7)
        by_name = fastgan.gradient_penalty(net, real, fake, kind=kind, labels=labels, **draw)
        assert torch.equal(by_name, got)


def test_r1_and_r2(net):
    real, fake = images()
    assert torch.equal(
        fastgan.r1_penalty(net, real, weight=3.0), fastgan.gradient_penalty(net, real, None, kind="r1", weight=3.0)
    )
    assert torch.equal(
        fastgan.r2_penalty(net, fake), fastgan.gradient_penalty(net, None, fake, kind="r2", weight=1.0)
    )
    assert torch.equal(
        fastgan.r1_penalty(net, real, torch.tensor([1, 2, 3, 0])),
        fastgan.r1_penalty(net, real, labels=torch.tensor([1, 2, 3, 0])),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_whole(kind):
    """By finite differences over the parameters of a smooth discriminator."""
    torch.manual_seed(0)
    real, fake, eps = torch.randn(2, 3).double(), torch.randn(2, 3).double(), torch.tensor([0.3, 0.8]).double()
    shapes = [(4, 3), (4,), (1, 4)]

    def call(*p):
        def discriminator(x):
            return F.linear(torch.tanh(F.linear(x, p[0], p[1])), p[2])

        options = {"eps": eps, "generator": torch.Generator().manual_seed(1)} if kind not in ("r1", "r2") else {}
        return fastgan.gradient_penalty(discriminator, real, fake, kind=kind, **options)

    torch.autograd.gradcheck(call, [(2 * torch.randn(s).double()).requires_grad_() for s in shapes])


def test_options(net):
    real, fake = images()
    eps = torch.rand(4, dtype=torch.float64)
    g = gradient(net, eps.view(-1, 1, 1, 1) * real + (1 - eps.view(-1, 1, 1, 1)) * fake)
    for over, n in (("channel", g.norm(dim=1)), ("batch", g.norm())):
        got = fastgan.gradient_penalty(net, real, fake, eps=eps, over=over, target=0.1, weight=2.0)
        torch.testing.assert_close(got, 2 * ((n - 0.1) ** 2).mean(), rtol=1e-12, atol=0)
    got, stats = fastgan.gradient_penalty(net, real, fake, eps=eps, return_stats=True)
    torch.testing.assert_close(stats.norms, g.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert stats.engine == "eager, pruned"
    assert torch.equal(got, fastgan.gradient_penalty(net, real, fake, eps=eps, engine="eager"))
    got = fastgan.gradient_penalty(net, real, fake, eps=eps, kind="wgan-div", power=3, weight=2.0)
    torch.testing.assert_close(got, 2 * (g.flatten(1).norm(dim=1) ** 3).mean(), rtol=1e-12, atol=0)


def test_tuples_lists_and_outputs_of_all_kinds():
    a, b = nn.Linear(3, 2).double(), nn.Linear(4, 2).double()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x):
            assert type(x) is kind
            h = torch.tanh(a(x[0])) * torch.sigmoid(b(x[1]))
            return (
                {"logits": h, "none": None, "other": h.square().sum(1)}
                if returns is dict
                else returns([h, h.square().sum(1)])
            )

    r = [torch.randn(5, 3).double(), torch.randn(5, 4).double()]
    f = [torch.randn(5, 3).double(), torch.randn(5, 4).double()]
    e = torch.rand(5).double()
    x = [(e[:, None] * s + (1 - e[:, None]) * t).requires_grad_() for s, t in zip(r, f, strict=True)]
    for kind in (list, tuple):
        for returns in (list, tuple, dict):  # noqa: B007 (Two reads both)
            h = torch.tanh(a(x[0])) * torch.sigmoid(b(x[1]))
            g = torch.autograd.grad(h.sum() + h.square().sum(), x, create_graph=True)
            want = 10 * ((torch.cat(g, 1).norm(dim=1) - 1) ** 2).mean()
            got = fastgan.gradient_penalty(Two(), kind(r), kind(f), eps=e)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
            close(grads_of(got, a), grads_of(want, a))


def test_without_gradients(net):
    real, fake = images()
    eps = torch.rand(4).double()
    want = [
        fastgan.gradient_penalty(net, real, fake, kind=k, eps=eps).detach()
        for k in ("wgan-gp", "wgan-lp", "wgan-div")
    ]
    want += [fastgan.r1_penalty(net, real).detach()]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = [
                fastgan.gradient_penalty(net, real * 1, fake, kind=k, eps=eps)
                for k in ("wgan-gp", "wgan-lp", "wgan-div")
            ]
            got += [fastgan.r1_penalty(net, real * 1)]
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-13, atol=0)  # PyTorch's own bits differ with the mode
                assert not a.requires_grad
    with torch.inference_mode():
        inference = real * 1
        labels, scale = torch.tensor([1, 2, 0, 0]), torch.full((4, 1, 1, 1), 2.0).double()
        scaled = fastgan.r1_penalty(lambda x, e, k: net(x * e[0], k), real, [scale], k=labels)
    want_scaled = fastgan.r1_penalty(lambda x, k: net(x * 2, k), real, labels.clone()).detach()
    torch.testing.assert_close(scaled, want_scaled, rtol=1e-12, atol=0)
    torch.testing.assert_close(fastgan.r1_penalty(net, inference).detach(), want[3], rtol=1e-13, atol=0)


def test_nothing_of_the_caller_changes(net):
    real, fake = images()
    before = (real.clone(), fake.clone(), copy.deepcopy(net.state_dict()))
    frozen = net.first.weight.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    eps = torch.rand(4)
    assert torch.equal(eps, torch.rand(4, generator=torch.Generator().manual_seed(1)))
    for kind in KINDS:
        fastgan.gradient_penalty(net, real, fake, kind=kind)
    assert frozen.grad is None
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert real.grad is None
    assert not real.requires_grad
    assert torch.equal(real, before[0])
    assert torch.equal(fake, before[1])
    for k, v in net.state_dict().items():
        assert torch.equal(v, before[2][k]), k
    torch.set_rng_state(state)
    torch.manual_seed(1)
    fastgan.r1_penalty(net, real)
    assert torch.equal(torch.rand(4), eps)  # no draw without a need


def test_buffers_move_once():
    torch.manual_seed(0)
    net = Net(nn.BatchNorm2d).train()
    twin = copy.deepcopy(net)
    real, fake = images(dtype=torch.float32)
    eps = torch.rand(4)
    fastgan.gradient_penalty(net, real, fake, eps=eps)
    twin(fastgan.interpolate(real, fake, eps))
    for (k, a), b in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), k


def test_data_with_a_graph_stay_attached(net):
    """A penalty sends real and fake a gradient where they require one, and none where they do not."""
    z = torch.randn(4, 3, 8, 8).double().requires_grad_()
    real, _ = images()
    eps = torch.rand(4).double()

    def compare(got, want):
        close(torch.autograd.grad(got, z), torch.autograd.grad(want, z))

    e = eps.view(-1, 1, 1, 1)
    x = e * real + (1 - e) * torch.sin(z)
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    compare(
        fastgan.gradient_penalty(net, real, torch.sin(z), eps=eps),
        10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean(),
    )
    x = torch.sin(z)
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    compare(fastgan.r2_penalty(net, torch.sin(z)), g.square().flatten(1).sum(1).mean() / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    torch.manual_seed(0)
    net = Net().eval()
    real, fake = images(dtype=torch.float32)
    eps = torch.rand(4)
    want = fastgan.gradient_penalty(net, real, fake, eps=eps)
    with torch.autocast("cpu", dtype=dtype):
        got = fastgan.gradient_penalty(net, real, fake, eps=eps)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, want, rtol=2e-2, atol=0)
    for a, b in zip(grads_of(got, net), grads_of(want, net), strict=True):
        if b is not None and b.any():
            assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
    got = fastgan.r1_penalty(net.to(dtype), real.to(dtype))
    assert got.dtype is torch.float32


# ---------------------------------------------------------------------------------- never silently wrong


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u


def fused_attention(x):
    q = x[:, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0]


class Wrapped(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 8), middle, nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


X = torch.randn(3, 5, 8)


@pytest.mark.parametrize("position", ["middle", "end"])
def test_a_function_differentiable_once_is_refused(position):
    """At the end of a network PyTorch itself would take its gradient for a constant, silently."""
    net = Wrapped(Once.apply) if position == "middle" else nn.Sequential(nn.Linear(8, 1))
    call = net if position == "middle" else lambda x: Once.apply(net(x))
    with pytest.raises(
        RuntimeError, match=r"discriminator: .* its function Once is marked once_differentiable; .*r1-approx"
    ):
        fastgan.r1_penalty(call, X)
    with torch.no_grad():
        fastgan.r1_penalty(call, X)  # the value needs no second derivative


class OnceByVjp(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def vjp(ctx, u):
        return 2 * ctx.saved_tensors[0] * u


class OnceDecorated(Once):
    @staticmethod
    @functools.wraps(Once.backward)
    def backward(ctx, u):
        return Once.backward(ctx, u)


@pytest.mark.parametrize("function", [OnceByVjp, OnceDecorated])
def test_the_mark_is_found_wherever_it_is(function):
    net = nn.Linear(8, 1)
    with pytest.raises(RuntimeError, match=f"its function {function.__name__} is marked once_differentiable"):
        fastgan.r1_penalty(lambda x: function.apply(net(x)), X)


def test_what_made_the_input_or_an_argument_needs_one_derivative_only(net):
    real, _ = images()
    w = real.detach().clone().requires_grad_()
    compiled = torch.compile(lambda w: torch.sin(w), backend="aot_eager")
    for fake, plain in ((Once.apply(w), w * w), (compiled(w), torch.sin(w))):
        assert fake.grad_fn.name() in ("OnceBackward", "CompiledFunctionBackward")
        got = torch.autograd.grad(fastgan.r2_penalty(net, fake), [w, net.first.weight])
        want = torch.autograd.grad(fastgan.r2_penalty(net, plain), [w, net.first.weight])
        close(got, want)
    table = torch.rand(4, 1, 1, 1).double().requires_grad_()
    got = fastgan.r1_penalty(lambda x, e: net(x * e), real, Once.apply(table))
    want = fastgan.r1_penalty(lambda x, e: net(x * e), real, table * table)
    close(torch.autograd.grad(got, table), torch.autograd.grad(want, table))
    bias = torch.zeros(1).double().requires_grad_()
    with pytest.raises(RuntimeError, match="no parameter can be reached"):  # the fake's own are not D's
        fastgan.r2_penalty(lambda x: x.square().sum((1, 2, 3)) + bias, w * 1)


def test_fused_attention_is_refused_and_the_public_one_runs_in_plain_arithmetic():
    with pytest.raises(
        RuntimeError, match=r"discriminator: .*fused attention: call torch.nn.functional.scaled_dot"
    ):
        fastgan.r1_penalty(Wrapped(fused_attention), X)
    torch.manual_seed(0)
    net = Wrapped(lambda x: F.scaled_dot_product_attention(x, x, x)).double()
    x = X.double()
    got = fastgan.r1_penalty(net, x, weight=2.0)
    h = x.detach().requires_grad_()
    y = net.first(h)
    out = net.last(torch.softmax(y @ y.transpose(1, 2) / math.sqrt(8), -1) @ y)
    (g,) = torch.autograd.grad(out.sum(), h, create_graph=True)
    want = g.square().sum((1, 2)).mean()
    torch.testing.assert_close(got, want)
    close(grads_of(got, net), grads_of(want, net))


@pytest.mark.parametrize("module", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(module):
    torch.manual_seed(0)
    rnn = module(8, 8, batch_first=True).double()
    net = Wrapped(lambda x: rnn(x)[0]).double()
    fastgan.r1_penalty(net, X.double()).backward()
    found = rnn.weight_hh_l0.grad[0, 0].item()
    step = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            rnn.weight_hh_l0[0, 0] += sign * step
            values.append(fastgan.r1_penalty(net, X.double()).item())
            rnn.weight_hh_l0[0, 0] -= sign * step
    assert abs((values[0] - values[1]) / (2 * step) - found) < 1e-6 * max(1, abs(found))


def test_what_a_graph_says_of_a_recurrent_kernel_is_named():
    class Node:
        def __init__(self, name):
            self.text = name

        def name(self):
            return self.text

    suspect = [Node("torch::autograd::NotImplemented")]
    assert "cudnn.flags(enabled=False)" in double_backward._refusal(suspect, ["CudnnRnnBackward0", "AddBackward0"])
    assert "no second derivative" in double_backward._refusal(suspect, ["AddBackward0"])
    assert double_backward._is_suspect(suspect[0])
    assert not double_backward._is_suspect(Node("CudnnRnnBackward0"))  # one derivative is all that its value needs


def test_detached_discriminators_are_refused(net):
    real, _ = images()

    def halfway(x):
        return net(x.detach()) + x.sum((1, 2, 3))  # a gradient, but a constant one

    with pytest.raises(RuntimeError, match="no parameter can be reached"):
        fastgan.r1_penalty(halfway, real)
    with pytest.raises(ValueError, match="its output does not depend on its input"):
        fastgan.r1_penalty(lambda x: net(x.detach()), real)
    with pytest.raises(RuntimeError, match="its output has no graph back to its input"):
        fastgan.r1_penalty(lambda x: net(x).detach(), real)
    with pytest.raises(ValueError, match="its output does not depend on tensor 1 of its input"):
        fastgan.r1_penalty(lambda x: net(x[0]), (real, real))
    frozen = copy.deepcopy(net).requires_grad_(False)
    with pytest.raises(RuntimeError, match="all of its parameters are frozen"):
        fastgan.r1_penalty(frozen, real)
    with torch.no_grad():
        assert fastgan.r1_penalty(frozen, real) == fastgan.r1_penalty(net, real)
    fastgan.r1_penalty(lambda x: x.square(), real)  # nothing to train, nothing to refuse


def test_checkpointing():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).double()
    x = X.double()
    with pytest.raises(RuntimeError, match=r"reentrant checkpointing .* use_reentrant=False"):
        fastgan.r1_penalty(Wrapped(lambda x: checkpoint(body, x, use_reentrant=True)).double(), x)
    net = Wrapped(lambda x: checkpoint(body, x, use_reentrant=False)).double()
    got = fastgan.r1_penalty(net, x)
    net.middle = body
    want = fastgan.r1_penalty(net, x)
    assert torch.equal(got, want)
    close(grads_of(got, body), grads_of(want, body), 0)


def test_compiled_discriminators_run_uncompiled(net):
    torch._dynamo.reset()
    real, fake = images()
    eps = torch.rand(4).double()
    want = fastgan.gradient_penalty(net, real, fake, eps=eps)
    compiled = torch.compile(net, backend="aot_eager")
    compiled(real)
    part = copy.deepcopy(net)
    part.features = torch.compile(part.features, backend="aot_eager")
    in_place = copy.deepcopy(net)
    in_place.compile(backend="aot_eager")
    for d, own in ((compiled, net), (part, part), (in_place, in_place)):
        got = fastgan.gradient_penalty(d, real, fake, eps=eps)
        assert torch.equal(got, want)
        close(grads_of(got, own), grads_of(fastgan.gradient_penalty(net, real, fake, eps=eps), net), 0)
    assert compiled(real.clone().requires_grad_()).grad_fn.name() == "CompiledFunctionBackward"  # as before


def test_compiled_graphs_are_refused(net):
    from functorch.compile import aot_module, make_boxed_func

    compiled = aot_module(net, fw_compiler=lambda g, _: make_boxed_func(g.forward))
    with pytest.raises(RuntimeError, match="it ran as a compiled graph"):
        fastgan.r1_penalty(compiled, images()[0])


def test_inside_a_compiled_step(net):
    """The penalty runs between the parts of the compiled step, and its gradients are right."""
    torch._dynamo.reset()
    real, fake = images()
    eps = torch.rand(4).double()

    def step(real, fake):
        loss = fastgan.discriminator_loss(net(real), net(fake))
        return loss + fastgan.gradient_penalty(net, real, fake, eps=eps)

    got, want = torch.compile(step, backend="aot_eager")(real, fake), step(real, fake)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    close(grads_of(got, net), grads_of(want, net))
    torch._dynamo.reset()

    from fastgan.discriminator import in_graphs  # which imports the compiler

    why = (
        "penalties and steps run between the parts of a graph"
        if in_graphs.TAKES_REASON
        else r"disable\(\) wrapped function <function _between"
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match=why):
        torch.compile(step, backend="aot_eager", fullgraph=True)(real, fake)


def test_threads_give_the_settings_back(net):
    """Attention kernels and compilation are settings of the process; penalties that overlap restore them."""
    real, _ = images()
    inside, done = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    def slow(first):
        def discriminator(x):
            inside.wait()  # both are in
            if not first:
                done.wait()  # the first has left
                assert not torch.backends.cuda.flash_sdp_enabled()
            return net(x)

        fastgan.r1_penalty(discriminator, real)
        if first:
            done.wait()

    before = torch.backends.cuda.flash_sdp_enabled()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(slow, [True, False]))
    assert torch.backends.cuda.flash_sdp_enabled() == before
    assert torch._dynamo.eval_frame._stance.stance == "default"


# ---------------------------------------------------------------------------------- approximations


def test_approximations(net):
    real, fake = images()
    for kind, x in (("r1-approx", real), ("r2-approx", fake)):
        seed = torch.Generator().manual_seed(5)
        noise = torch.randn(x.shape, generator=seed, dtype=x.dtype)
        want = 3.0 * (net(x) - net(x + 0.05 * noise)).square().mean()
        got = fastgan.gradient_penalty(
            net, real, fake, kind=kind, sigma=0.05, weight=3.0, generator=seed.manual_seed(5)
        )
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        close(grads_of(got, net), grads_of(want, net))
    # What it approximates: weight gamma / (2 sigma^2) is R1 of weight gamma, in expectation.
    x = real[:1].expand(4000, -1, -1, -1)
    with torch.no_grad():
        approximate = fastgan.gradient_penalty(net, x, None, kind="r1-approx", sigma=1e-4, weight=1 / (2 * 1e-4**2))
        torch.testing.assert_close(approximate, fastgan.r1_penalty(net, real[:1]), rtol=0.1, atol=0)
    outputs = fastgan.gradient_penalty(
        lambda x: [net(x), 2 * net(x)], real, None, kind="r1-approx", generator=seed.manual_seed(5)
    )
    one = fastgan.gradient_penalty(net, real, None, kind="r1-approx", generator=seed.manual_seed(5))
    torch.testing.assert_close(outputs, 5 * one)
    call = Wrapped(Once.apply)
    fastgan.gradient_penalty(call, X, None, kind="r1-approx").backward()  # one derivative is enough
    assert call.first.weight.grad.any()


# ---------------------------------------------------------------------------------- the module


def test_the_module_is_lazy(net):
    real, fake = images()
    module = fastgan.nn.GradientPenalty("r1", interval=4, weight=2.0)
    values = [module(net, real) for _ in range(9)]
    assert [v is None for v in values] == [False, True, True, True, False, True, True, True, False]
    torch.testing.assert_close(values[0], fastgan.r1_penalty(net, real, weight=8.0), rtol=1e-15, atol=0)
    resumed = fastgan.nn.GradientPenalty("r1", interval=4, weight=2.0)
    resumed.load_state_dict(module.state_dict())
    assert [resumed(net, real) is None for _ in range(4)] == [True, True, True, False]
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin(net, real) is None
    fresh = fastgan.nn.GradientPenalty("r1", interval=2)
    with pytest.raises(TypeError):
        fresh(net, None)
    assert fresh(net, real) is not None
    filled = []
    fastgan.r1_penalty(lambda x, to: to.append(1) or net(x), real, filled)
    assert filled == [1]  # arguments are handed on, not copied
    assert repr(module) == "GradientPenalty('r1', interval=4, weight=2.0)"
    assert repr(fastgan.nn.GradientPenalty()) == "GradientPenalty('wgan-gp')"
    torch.manual_seed(2)
    got = fastgan.nn.GradientPenalty(target=0.5)(net, real, fake)
    torch.manual_seed(2)
    assert torch.equal(got, fastgan.gradient_penalty(net, real, fake, target=0.5))
    with torch.no_grad():
        _, stats = fastgan.nn.GradientPenalty(return_stats=True)(net, real, fake)
    assert stats.norms.shape == (4,)


def test_the_module_takes_a_part_of_the_batch(net):
    real, fake = images()
    labels = torch.tensor([0, 1, 2, 3])
    half = fastgan.nn.GradientPenalty("r1", part=0.5, weight=1.0)
    assert torch.equal(half(net, real, None, labels), fastgan.r1_penalty(net, real[:2], labels[:2]))
    assert torch.equal(half(net, real, labels=labels), fastgan.r1_penalty(net, real[:2], labels[:2]))
    least = fastgan.nn.GradientPenalty("r2", part=0.01, weight=1.0)
    assert torch.equal(least(net, None, fake), fastgan.r2_penalty(net, fake[:1]))
    uneven = fastgan.nn.GradientPenalty("r2", part=0.5, weight=1.0)
    assert torch.equal(uneven(net, real[:3], fake, labels), fastgan.r2_penalty(net, fake[:2], labels[:2]))
    named = collections.namedtuple("named", "x k")
    seen = []
    half = fastgan.nn.GradientPenalty("r1", part=0.5)
    half(lambda x: seen.append((type(x), len(x.x))) or x.x.square() * x.k, named(real, fake))
    assert seen == [(named, 2)]
    seen = []
    fastgan.nn.GradientPenalty("r1", part=0.75)(
        lambda x, c, k: seen.append((len(x[0]), len(c["a"]), k)) or x[0].square(), (real,), None, {"a": labels}, k=7
    )
    assert seen == [(3, 3, 7)]


# ---------------------------------------------------------------------------------- bad input

ok = torch.zeros(4, 3)
linear = nn.Linear(3, 1)
GP, IN, NP, GN = fastgan.gradient_penalty, fastgan.interpolate, fastgan.norm_penalty, fastgan.gradient_norm
MODULE = fastgan.nn.GradientPenalty
CASES = [
    (lambda: GP(linear, ok, ok, kind="wgangp"), ValueError, "kind: unknown name 'wgangp'; did you mean 'wgan-gp'"),
    (lambda: GP(linear, ok, ok, engine="compield"), ValueError, "engine: unknown name 'compield'; did you mean 'compiled'"),
    (lambda: GP(linear, ok, None, kind="r1-approx", engine="compiled"), ValueError, "engine: has no effect on kind"),
    (lambda: GP(lambda x: x, ok, ok, engine="compiled"), TypeError, r"torch.nn.Module for engine='compiled'.* got function"),
    (lambda: GP(linear, ok, ok, over="pixel"), ValueError, "over: unknown name 'pixel'"),
    (lambda: GP(linear, ok, ok, weight="1"), TypeError, "weight: expected a number, got str"),
    (lambda: GP(linear, ok, ok, weight=math.nan), ValueError, "weight: expected a finite number, got nan"),
    (lambda: GP(linear, ok, ok, kind="r1", target=0.5), ValueError, "target: has no effect on kind 'r1', got 0.5"),
    (lambda: GP(linear, ok, ok, power=3), ValueError, "power: has no effect on kind 'wgan-gp', got 3"),
    (lambda: GP(linear, ok, ok, kind="wgan-div", power=2.5), ValueError, "power: expected an integer from 1 to 16, got 2.5"),
    (lambda: GP(linear, ok, ok, sigma=0.1), ValueError, "sigma: has no effect on kind 'wgan-gp'"),
    (lambda: GP(linear, ok, ok, kind="r1-approx", sigma=0.0), ValueError, "sigma: expected a positive number, got 0.0"),
    (lambda: GP(linear, ok, ok, kind="r1", eps=torch.rand(4)), ValueError, "eps: has no effect on kind 'r1'"),
    (lambda: GP(linear, ok, ok, kind="r1", generator=torch.Generator()), ValueError, "generator: has no effect on kind 'r1'"),
    (lambda: GP(linear, ok, ok, kind="r1-approx", over="channel"), ValueError, "over: has no effect on kind 'r1-approx'"),
    (lambda: GP(linear, ok, ok, kind="r1-approx", return_stats=True), ValueError, "return_stats: has no effect"),
    (lambda: GP(3, ok, ok), TypeError, "discriminator: expected a module or function, got int"),
    (lambda: GP(linear, ok, ok, weigth=3.0), TypeError, "'weigth'; gradient_penalty has no option 'weigth', and so it goes to the disc"),
    (lambda: GP(linear, pack_sequence([ok]), pack_sequence([ok])), TypeError, "got PackedSequence; pad it by torch.nn.utils.rnn.pad_packed_"),
    (lambda: GP(linear, None, ok), TypeError, "real: expected a torch.Tensor or a sequence of them, got NoneType"),
    (lambda: GP(linear, ok, None), TypeError, "fake: expected a torch.Tensor or a sequence of them, got NoneType"),
    (lambda: GP(linear, np.zeros((4, 3)), ok), TypeError, "real: expected a torch.Tensor or a sequence of them, got ndarray"),
    (lambda: GP(linear, ok.int(), ok), TypeError, r"real: expected float32, .*, got torch\.int32"),
    (lambda: GP(linear, ok, ok[:2]), ValueError, r"real and fake: expected one shape, got \(4, 3\) and \(2, 3\)"),
    (lambda: GP(linear, ok, ok.double()), TypeError, "real and fake: expected one dtype"),
    (lambda: GP(linear, ok[:0], ok[:0]), ValueError, "real: expected at least one element"),
    (lambda: GP(linear, (ok, ok[:2]), (ok, ok[:2])), ValueError, r"real: expected samples along dimension 0, .*\(4, 3\), \(2, 3\)"),
    (lambda: GP(linear, (ok,), (ok, ok)), ValueError, "real and fake: expected as many tensors, got 1 and 2"),
    (lambda: GP(linear, (), ()), ValueError, "real: expected at least one tensor, got an empty tuple"),
    (lambda: GP(linear, ok[0, 0], ok[0, 0]), ValueError, "real: expected samples along dimension 0"),
    (lambda: GP(lambda x: 3.0, ok, ok), TypeError, "discriminator: expected it to return a tensor, .*, got float"),
    (lambda: GP(lambda x: [linear(x), [x]], ok, ok), TypeError, "discriminator: .* got list as output 1; say by output="),
    (lambda: GP(lambda x: {"a": x, "label": torch.ones(4).long()}, ok, ok), TypeError, "got torch.int64 as output 'label'"),
    (lambda: GP(lambda x: [None], ok, ok), ValueError, "discriminator: expected it to return at least one tensor"),
    (lambda: GP(linear, ok[:1, :1], None, kind="dragan"), ValueError, "real: expected at least two elements"),
    (lambda: IN(ok, ok, torch.rand(3)), ValueError, r"eps: expected shape \(4,\), one per sample, got \(3,\)"),
    (lambda: IN(ok, ok, torch.rand(4, 3)), ValueError, r"eps: expected shape \(4,\), one per sample, got \(4, 3\)"),
    (lambda: IN(ok, ok, torch.rand(4) + 1), ValueError, r"eps: expected numbers in \[0, 1\], got some from 1"),
    (lambda: IN(ok, ok, -torch.rand(4)), ValueError, r"eps: expected numbers in \[0, 1\]"),
    (lambda: IN(ok, ok, torch.full((4,), math.nan)), ValueError, r"eps: expected numbers in \[0, 1\], got some from nan"),
    (lambda: IN(ok, ok, 0.5), TypeError, "eps: expected a floating-point tensor, got float"),
    (lambda: IN(ok, ok, torch.ones(4).long()), TypeError, "eps: expected a floating-point tensor, got torch.int64"),
    (lambda: IN(ok, ok, torch.rand(4, device="meta")), ValueError, "eps: expected it on cpu as the samples are, got meta"),
    (lambda: IN(ok.to_sparse(), ok), TypeError, "real: expected a dense tensor, got a sparse_coo one"),
    (lambda: GN(3.0), TypeError, "grads: expected a torch.Tensor or a sequence of them, got float"),
    (lambda: GN([]), ValueError, "grads: expected at least one tensor, got an empty list"),
    (lambda: GN([ok, None]), TypeError, "grads: expected a torch.Tensor .*, got NoneType"),
    (lambda: GN([ok, ok[:2]]), ValueError, r"grads: expected norms of one shape over each sample, .*\(4, 3\) and \(2, 3\)"),
    (lambda: GN([ok, ok.double()]), TypeError, "grads: expected no mix of float64 with others"),
    (lambda: GN(ok[0], over="channel"), ValueError, "grads: expected at least 2 dimensions for over='channel', got 1"),
    (lambda: GN(ok, over="dim1"), ValueError, "over: unknown name 'dim1'"),
    (lambda: NP(ok, "wgan-gp"), ValueError, "kind: unknown name 'wgan-gp'"),
    (lambda: NP(ok, reduction="avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
    (lambda: NP(ok, power=6), ValueError, "power: expected 2 for kind 'two_sided', got 6"),
    (lambda: NP(ok, "power", power=17), ValueError, "power: expected an integer from 1 to 16, got 17"),
    (lambda: NP(ok, "power", target=0.0), ValueError, "target: has no effect on kind 'power', got 0.0"),
    (lambda: NP(ok, mask=torch.ones(5)), ValueError, r"mask: expected a shape that broadcasts to \(4, 3\), got \(5,\)"),
    (lambda: NP(ok, mask=torch.zeros(4, 1)), ValueError, "mask: expected a positive mean, .* got 0"),
    (lambda: NP(ok, mask=torch.ones(3).long()), TypeError, r"mask: expected a bool or floating-point tensor, got torch\.int64"),
    (lambda: NP(ok, mask=torch.ones(4, 3).to_sparse()), TypeError, "mask: expected a dense tensor, got a sparse_coo one"),
    (lambda: NP(ok, mask=-torch.ones(3)), ValueError, "mask: expected a positive mean, .* got -1"),
    (lambda: GP(linear, (ok, ok.double()), None, kind="dragan"), TypeError, "real: expected no mix of float64 with others"),
    (lambda: torch.func.grad(lambda x: fastgan.r1_penalty(linear, x))(ok), RuntimeError, "cannot run under a torch.func transform"),
    (lambda: NP(ok, mask=3.0), TypeError, "mask: expected a torch.Tensor or a sequence of them, got float"),
    (lambda: NP(ok, mask=torch.ones(3, requires_grad=True)), ValueError, "mask: expected a constant"),
    (lambda: NP([ok, ok], mask=[torch.ones(3)]), ValueError, "mask: expected one for each of 2 tensors, got 1"),
    (lambda: NP(ok, weights=[1.0] * 4), TypeError, "weights: expected a floating-point tensor, got list"),
    (lambda: NP(ok, weights=torch.ones(3)), ValueError, r"weights: expected shape \(4,\), one per sample, got \(3,\)"),
    (lambda: NP(ok, over="batch", weights=torch.ones(4)), ValueError, "weights: has no effect over='batch'"),
    (lambda: MODULE("r1", interval=0), ValueError, "interval: expected an integer of at least 1, got 0"),
    (lambda: MODULE("r1", part=0.0), ValueError, r"part: expected a number in \(0, 1\], got 0"),
    (lambda: MODULE("r1", part=1.5), ValueError, "part: expected a number in"),
    (lambda: MODULE("r1", eps=1), TypeError, "eps: unknown option"),
    (lambda: MODULE("r3"), ValueError, "kind: unknown name 'r3'"),
    (lambda: MODULE("r1", target=2.0), ValueError, "target: has no effect on kind 'r1'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=range(len(CASES)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_module_s_options_are_not_overridden_by_a_call():
    d, x = nn.Linear(4, 1), torch.randn(5, 4)
    for options in ({"weight": 5.0}, {"kind": "wgan-gp"}, {"return_stats": True}):
        module = fastgan.nn.GradientPenalty("r1", interval=4, return_stats=False)
        with pytest.raises(TypeError, match="multiple values"):
            module(d, x, x, **options)
        assert module.calls == 0


def test_a_schedule_of_one_s_own():
    class Halved(fastgan.nn.GradientPenalty):
        def due(self):
            return dataclasses.replace(super().due(), weight=0.5)

    d, x = nn.Linear(4, 1), torch.randn(5, 4)
    whole = fastgan.r1_penalty(d, x, weight=1.0)
    assert torch.equal(Halved("r1", weight=1.0)(d, x), whole / 2)
    assert torch.equal(fastgan.discriminator_step(d, x, x, penalty=Halved("r1", weight=1.0)).penalty, whole / 2)


def test_functions_of_a_discriminator_are_not_kept():
    """One that makes a Function at each call must not leave it behind, with what its code refers to."""
    made = []

    def discriminator(x):
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, g):
                return g * 2

        made.append(weakref.ref(Double))
        return Double.apply(x).square() * w

    w = torch.ones((), requires_grad=True)
    for _ in range(3):
        fastgan.r1_penalty(discriminator, torch.randn(5, 4)).backward()
    gc.collect()
    assert [ref() for ref in made[:-1]] == [None, None]
