"""Attention inside a penalty: two derivatives, no tensor of queries times keys, PyTorch's meaning of every argument."""

import functools
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.discriminator import attention as calls
from fastgan.discriminator.attention import attention
from fastgan.ops import attention as ops
from tests.faults.plain import gradients

PLAIN = [SDPBackend.MATH]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """One thread, as more of them would wait for each other; and no call is too small."""
    torch.set_num_threads(1)
    monkeypatch.setattr(calls, "FEW", 0)


@pytest.fixture(params=["small blocks", "one block"])
def blocks(request, monkeypatch):
    """Blocks of a few queries, or all at once."""
    monkeypatch.setitem(ops.BLOCK, "cpu", 40 if request.param == "small blocks" else 1 << 20)


def random(*shape, dtype=torch.float64, grad=True):
    return torch.randn(shape, dtype=dtype).requires_grad_(grad)


def operands(*, rows=5, keys=6, batch=(2, 3), dtype=torch.float64, wide=4):
    torch.manual_seed(0)
    shapes = (rows, wide), (keys, wide), (keys, 3)
    return [random(*batch, *shape, dtype=dtype) for shape in shapes]


def orders(attend, tensors, order=2):
    """Attention's result, and derivatives of it up to an order, each by all tensors that want one."""
    wanted = [t for t in tensors if t.requires_grad]
    found = [attend()]
    last = found
    for k in range(order):
        weighed = [(t * torch.linspace(0, 1, t.numel(), dtype=t.dtype).view_as(t)).sin().sum() for t in last]
        last = torch.autograd.grad(sum(weighed), wanted, create_graph=k + 1 < order)
        found += last
    return [t.detach() for t in found]


def far(got, want):
    """The largest difference, over the largest of all derivatives of an order."""
    return max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in zip(got, want, strict=True))


# ---------------------------------------------------------------------------- the operation


FLAT = {
    "plain": {},
    "causal": {"causal": True},
    "more queries than keys": {"causal": True, "rows": 6, "keys": 5},
    "bias": {"bias": (3, 5, 6)},
    "bias of all": {"bias": (1, 1, 6), "bias_of": (0, 0, 0)},
    "bias of some": {"bias": (2, 5, 1), "bias_of": (0, 1, 0)},
    "bools": {"bias": (1, 5, 6), "bias_of": (0, 0, 0), "bools": True},
}


@pytest.mark.parametrize("name", FLAT)
def test_derivatives_are_those_of_finite_differences(name, blocks):
    how = {"rows": 5, "keys": 6, "causal": False, "bias": None, "bools": False, **FLAT[name]}
    q, k, v = operands(rows=how["rows"], keys=how["keys"], batch=(3,))
    bias = None if how["bias"] is None else random(*how["bias"])
    if how["bools"]:
        bias = bias > 0.5
        bias[0, 1] = False  # a query that sees nothing
    spec = ops.AttentionSpec(0.7, how["causal"], how.get("bias_of", (0, 1, 2)))
    given = [q, k, v] if bias is None or how["bools"] else [q, k, v, bias]

    def attend(*given):
        return ops.Attend.apply(spec, *given[:3], given[3] if len(given) > 3 else bias)

    assert torch.autograd.gradcheck(attend, given)
    assert torch.autograd.gradgradcheck(attend, given)
    for order in (2, 3):  # in closed form, and by plain arithmetic
        got = orders(lambda: attend(*given), given, order)
        want = orders(lambda: ops.plain(spec, q, k, v, bias), given, order)
        assert far(got, want) < 1e-12


def test_a_third_derivative_where_the_upstream_depends_on_the_operands():
    q, k, v = operands(batch=(2,), rows=5, keys=5)
    spec = ops.AttentionSpec(0.5, False)

    def deep(attend):
        return attend(attend(q, k, v) @ torch.ones(3, 4, dtype=q.dtype) + q, k, v)

    got = orders(lambda: deep(lambda *t: ops.Attend.apply(spec, *t, None)), [q, k, v], order=3)
    want = orders(lambda: deep(lambda *t: ops.plain(spec, *t, None)), [q, k, v], order=3)
    assert far(got, want) < 1e-12


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor):
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": True}])
def test_no_tensor_of_queries_times_keys_is_made(options, monkeypatch):
    monkeypatch.setitem(ops.BLOCK, "cpu", 1 << 12)
    n = 256
    tensors = [random(2, 2, n, 8, dtype=torch.float32) for _ in range(3)]
    if "attn_mask" in options:
        options = {"attn_mask": (torch.rand(2, 1, 1, n) > 0.1).expand(2, 2, n, n)}
    with Largest() as seen:
        orders(lambda: attention(*tensors, **options), tensors)
    assert seen.elements <= 2 * 2 * n * 8 * 2  # two operands side by side
    assert seen.elements < n * n


@pytest.mark.parametrize("n", [64, pytest.param(512, marks=pytest.mark.slow)])
def test_float32_is_as_near_to_float64_as_plain_arithmetic(n):
    """By ulp of the largest of each tensor."""
    torch.manual_seed(1)
    tensors = [random(1, 2, n, 64, dtype=torch.float32) for _ in range(3)]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    with sdpa_kernel(PLAIN):
        want = orders(lambda: F.scaled_dot_product_attention(*exact), exact)
        plain = orders(lambda: F.scaled_dot_product_attention(*tensors), tensors)
    for a, b, w in zip(orders(lambda: attention(*tensors), tensors), plain, want, strict=True):
        ulp = torch.finfo(torch.float32).eps * float(w.abs().max())
        ours, theirs = (float((t.double() - w).abs().max()) / ulp for t in (a, b))
        assert ours <= max(4.0, 1.5 * theirs), (ours, theirs)


# ---------------------------------------------------------------------------- PyTorch's arguments


def lower(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 0.4


CALLS = {
    "two dimensions": {"batch": ()},
    "three": {"batch": (2,)},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "causal, more queries": {"is_causal": True, "rows": 7},
    "bools": {"attn_mask": lower(2, 1, 5, 6)},
    "a query that sees nothing": {"attn_mask": torch.tensor([0, 1, 0, 1, 1])[:, None].bool()},
    "keys of each sample, expanded": {"attn_mask": lower(2, 1, 1, 6).expand(2, 3, 5, 6)},
    "floats": {"attn_mask": torch.linspace(-2, 2, 90, dtype=torch.float64).view(3, 5, 6)},
    "infinities": {"attn_mask": torch.zeros(5, 6, dtype=torch.float64).masked_fill(~lower(5, 6), -torch.inf)},
    **{f"learned {shape}": {"learned": shape} for shape in [(5, 6), (6,), (3, 5, 6), (2, 1, 5, 6), (2, 3, 1, 6)]},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_means_what_it_means_in_pytorch(name, blocks):
    options = dict(CALLS[name])
    tensors = operands(**{k: options.pop(k) for k in ("batch", "rows") if k in options})
    if "learned" in options:
        options["attn_mask"] = random(*options.pop("learned"))
    wanted = [*tensors, *(t for t in (options.get("attn_mask"),) if t is not None)]
    got = orders(lambda: attention(*tensors, **options), wanted)
    assert is_ours(attention(*tensors, **options))
    with sdpa_kernel(PLAIN):
        assert far(got, orders(lambda: F.scaled_dot_product_attention(*tensors, **options), wanted)) < 1e-13


@pytest.mark.parametrize("batches", [((2, 6), (2, 3), (2, 2)), ((6,), (3,), (1,)), ((2, 1, 3), (2, 2, 1), (3,))])
def test_groups_of_heads_and_batches_that_broadcast(batches, blocks):
    torch.manual_seed(0)
    shapes = (5, 4), (6, 4), (6, 3)
    tensors = [random(*b, *s) for b, s in zip(batches, shapes, strict=True)]
    options = {"enable_gqa": len(batches[0]) < 3}
    got = orders(lambda: attention(*tensors, **options), tensors)
    assert is_ours(attention(*tensors, **options))
    with sdpa_kernel(PLAIN):
        assert far(got, orders(lambda: F.scaled_dot_product_attention(*tensors, **options), tensors)) < 1e-13


def is_ours(t):
    """Whether the operation is in a tensor's graph."""
    nodes, seen = [t.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [below for below, _ in node.next_functions]
    return any(node.name() in ("AttendBackward", "AttendGradientsBackward") for node in seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_mask", [None, torch.float32])
def test_16_bits_are_computed_with_as_in_plain_arithmetic(dtype, of_mask):
    tensors = operands(dtype=dtype, rows=64, keys=64, wide=16)
    mask = torch.linspace(-1, 1, 64, dtype=of_mask or dtype).requires_grad_()
    wanted = [*tensors, mask]
    got = orders(lambda: attention(*tensors, attn_mask=mask), wanted)
    with sdpa_kernel(PLAIN):
        want = orders(lambda: F.scaled_dot_product_attention(*tensors, attn_mask=mask), wanted)
    for a, b in zip(got, want, strict=True):
        assert a.dtype is b.dtype
        ulp = torch.finfo(dtype).eps * float(b.abs().max())
        assert float((a.double() - b.double()).abs().max()) <= 2 * ulp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_gives_its_type_as_to_pytorchs(dtype):
    tensors = operands(dtype=dtype)
    mask = torch.linspace(-1, 1, 6, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = attention(*tensors, attn_mask=mask)
        with sdpa_kernel(PLAIN):
            theirs = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours, theirs)
        grads = torch.autograd.grad(ours.sum(), tensors, create_graph=True)  # computed in float32 all the same
    assert all(g.dtype is dtype for g in grads)


def test_what_is_left_to_pytorch():
    tensors = operands()

    def same(*given, **options):
        found = []
        for attend in (attention, F.scaled_dot_product_attention):
            torch.manual_seed(3)
            found.append(attend(*given, **options))
        assert not is_ours(found[0])
        assert torch.equal(*found)

    same(*tensors, dropout_p=0.5)
    same(*(t.detach() for t in tensors))
    with torch.no_grad():
        same(*tensors)
    same(*(t[:0] for t in tensors))
    mask = torch.ones(5, 6, dtype=torch.bool)
    wrong = [
        (tensors, {"attn_mask": mask, "is_causal": True}),
        (tensors, {"attn_mask": torch.ones(4, 6)}),
        (tensors, {"unknown": 1}),
        ([tensors[0], tensors[1].float(), tensors[2]], {}),
        ([tensors[0], tensors[1][..., :2], tensors[2]], {}),
        ([*tensors[:2], None], {}),
        ([random(2, 5, 5, 4), random(2, 2, 6, 4), random(2, 2, 6, 3)], {"enable_gqa": True}),
    ]
    for given, options in wrong:
        said = []
        for attend in (attention, F.scaled_dot_product_attention):
            with pytest.raises((RuntimeError, TypeError)) as error:
                attend(*given, **options)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_a_learned_mask_has_a_gradient_for_each_of_its_elements(blocks):
    """Also where elements share memory: a leaf, and one that a hook looks at."""
    tensors = operands()
    leaf = nn.Parameter(torch.randn(1, 6, dtype=torch.float64).expand(5, 6))
    column = random(5, 1)

    def clamped(attend):
        mask = column.expand(5, 6) * 1 if attend is None else column.expand(5, 6)
        mask.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        return mask

    for mask, wanted in ((lambda: leaf, leaf), (lambda: clamped(1), column)):
        with sdpa_kernel(PLAIN):
            want = orders(lambda: F.scaled_dot_product_attention(*tensors, attn_mask=mask()), [wanted])
        assert far(orders(lambda: attention(*tensors, attn_mask=mask()), [wanted]), want) < 1e-13


@pytest.mark.parametrize("bools", [True, False])
def test_a_mask_may_be_an_inference_tensor(bools):
    with torch.inference_mode():
        mask = torch.zeros(5, 6, dtype=torch.float64)
        mask = mask == 0 if bools else mask
    tensors = operands()
    with sdpa_kernel(PLAIN):
        want = orders(lambda: F.scaled_dot_product_attention(*tensors), tensors)
    assert far(orders(lambda: attention(*tensors, attn_mask=mask), tensors), want) < 1e-13


def test_a_third_derivative_that_depends_on_one_tensor():
    q, k, v = operands(batch=(2,))
    (g,) = torch.autograd.grad(attention(q.detach(), k.detach(), v).sum(), v, create_graph=True)
    (h,) = torch.autograd.grad((g * v).square().sum(), v, create_graph=True)
    assert torch.allclose(h, 2 * v * g.detach() ** 2)


def test_few_scores_are_left_to_plain_arithmetic(monkeypatch):
    tensors = operands()
    monkeypatch.setattr(calls, "FEW", 2 * 3 * 5 * 6)
    assert not is_ours(attention(*tensors))
    monkeypatch.setattr(calls, "FEW", 2 * 3 * 5 * 6 - 1)
    assert is_ours(attention(*tensors))


# ---------------------------------------------------------------------------- inside a penalty


class Tokens(nn.Module):
    """A discriminator of sequences; `mixer` is what its tokens see of each other."""

    def __init__(self, mixer):
        super().__init__()
        self.embed, self.mixer, self.head = nn.Linear(4, 8), mixer, nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.mixer(self.embed(x)).mean(1))


class Heads(nn.Module):
    def __init__(self, weights=False, dropout=0.0, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.options = {"need_weights": weights, **options}

    def forward(self, h):
        return h + self.attention(h, h, h, **self.options)[0]


class Function(nn.Module):
    def forward(self, h):
        q = h.unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


class Biased(nn.Module):
    """With a learned bias, as of relative positions."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 6, 6))

    def forward(self, h):
        q = h.unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q, self.bias).transpose(1, 2).flatten(2)


PADDING = torch.tensor([[0, 0, 0, 0, 1, 1]] * 3, dtype=torch.bool)
CAUSAL = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
NETS = {
    "function": (Function, True),
    "learned bias": (Biased, True),
    "heads": (Heads, True),
    "heads, padding": (lambda: Heads(key_padding_mask=PADDING), True),
    "heads, causal": (lambda: Heads(attn_mask=CAUSAL, is_causal=True), True),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), True),
    "weights": (lambda: Heads(weights=True), False),
    "dropout": (lambda: Heads(dropout=0.5), False),
}


def of_plain_arithmetic(net, x):
    x = x.detach().requires_grad_()
    with sdpa_kernel(PLAIN):
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return g.square().sum((1, 2)).mean()


class Seen(TorchFunctionMode):
    """A mode of the user's."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_a_penalty_takes_it_where_it_can(name, prune):
    torch.manual_seed(0)
    make, taken = NETS[name]
    net, x = Tokens(make()).double(), torch.randn(3, 6, 4, dtype=torch.float64)
    found = []
    for penalty in (
        lambda: fastgan.r1_penalty(net, x, weight=2.0, prune=prune),
        lambda: of_plain_arithmetic(net, x),
    ):
        torch.manual_seed(3)
        value = penalty()
        found.append([value.detach(), *gradients(value, net.parameters())])
        assert is_ours(value) == (taken and len(found) == 1)
    assert far(*found) < 1e-13


def test_a_mode_of_the_users_sees_pytorchs_function():
    net, x = Tokens(Heads()), torch.randn(3, 6, 4)
    with Seen() as seen:
        fastgan.r1_penalty(net, x).backward()
    assert "multi_head_attention_forward" in seen.names


def test_what_stands_in_its_place_is_called(monkeypatch):
    called, torchs = [], F.scaled_dot_product_attention

    def other(*args, **kwargs):
        called.append(1)
        return torchs(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", other)
    for net in (Tokens(Heads()), Tokens(Function())):
        fastgan.r1_penalty(net, torch.randn(3, 6, 4)).backward()
    assert len(called) == 2


@pytest.mark.parametrize("few", [0, calls.FEW])
def test_a_discriminator_that_chooses_kernels(few, monkeypatch):
    monkeypatch.setattr(calls, "FEW", few)
    net, x = Tokens(Function()), torch.randn(3, 6, 4)

    def choosing(x):
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            return net(x)

    values = [fastgan.r1_penalty(d, x) for d in (net, choosing)]
    assert torch.equal(*values)
    for value in values:
        value.backward()


# ---------------------------------------------------------------------------- checkpoints


def again(function, x):
    return checkpoint(function, x, use_reentrant=False)


class Checkpointed(nn.Module):
    """A network in a checkpoint, or in one in another."""

    def __init__(self, net, depth):
        super().__init__()
        self.net, self.depth = net, depth

    def forward(self, x):
        call = self.net
        for _ in range(self.depth):
            call = functools.partial(again, call)
        return call(x)


class Device(nn.Module):
    """Makes a tensor where the default device is."""

    def __init__(self, devices):
        super().__init__()
        self.net, self.devices = nn.Sequential(nn.Linear(4, 8), Function(), nn.Linear(8, 1)), devices

    def forward(self, x):
        self.devices.append(torch.empty(1).device.type)
        return self.net(x).mean(1)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", NETS)
def test_checkpoints_recompute_it(name, depth):
    torch.manual_seed(0)
    net, x = Tokens(NETS[name][0]()), torch.randn(3, 6, 4)
    found = []
    for d in (net, Checkpointed(net, depth)):
        torch.manual_seed(3)
        value = fastgan.discriminator_step(d, x, -x, loss="hinge", penalty="r1").total
        found.append([value.detach(), *torch.autograd.grad(value, net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_devices_are_those_of_the_caller():
    """A default device of the caller's, and one that stands around a checkpoint."""
    devices = []
    net, x = Checkpointed(Device(devices), 1), torch.randn(3, 6, 4)

    def on_cpu(x):
        with torch.device("cpu"):
            return net(x)

    fastgan.r1_penalty(on_cpu, x).backward()
    assert devices == ["cpu"] * 3
    with torch.device("meta"):
        fastgan.r1_penalty(net, x).backward()
    assert devices[3] == "meta"  # older releases recompute on the CPU, with and without a penalty
    assert torch.empty(1).device.type == "cpu"


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"), reason="this torch tells of no hooks"
)
def test_other_checkpoints_are_refused():
    from torch.distributed._composable import checkpoint as composable

    net = Tokens(Function())
    composable(net.mixer)
    with pytest.raises(RuntimeError, match=r"attention inside of a checkpoint that is not torch\.utils"):
        fastgan.r1_penalty(net, torch.randn(3, 6, 4))


def test_a_compiled_part_beside_attention_runs_uncompiled_both_times():
    torch.manual_seed(0)
    net, x = Tokens(Function()), torch.randn(3, 6, 4)
    embed = net.embed
    found = []
    for part in (embed, torch.compile(embed, backend="aot_eager")):
        part(x).sum().backward()  # compiled for the trainer's other calls
        net.embed = part
        value = fastgan.r1_penalty(Checkpointed(net, 1), x)
        found.append(torch.autograd.grad(value, [embed.weight, net.head.weight]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["function", "leaky"])
def test_a_function_under_torch_compile_that_goes_backward(name):
    """Dynamo leaves the Functions' backwards alone, whose saved tensors a checkpoint hands out once."""
    torch.manual_seed(0)
    leaky = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    net, x = Checkpointed(Tokens(Function()) if name == "function" else leaky, 1), torch.randn(3, 6, 4)

    def step(x):
        value = fastgan.r1_penalty(lambda x: net(x).flatten(1).sum(1), x)
        value.backward()
        return value.detach() * 2

    found = []
    for call in (step, torch.compile(step, backend="aot_eager")):
        net.zero_grad()
        found.append([call(x), *[p.grad.clone() for p in net.parameters() if p.grad is not None]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Noted(nn.Module):
    """Notes what it computes, weakly."""

    def __init__(self, net):
        super().__init__()
        self.first, self.net, self.seen = nn.Linear(4, 4), net, []

    def forward(self, x):
        h = self.first(x)
        self.seen.append(weakref.ref(h))
        return self.net(h)


@pytest.mark.parametrize("kind", ["r1", "wgan-gp"])
@pytest.mark.parametrize("name", ["function", "encoder"])
def test_no_graph_outlives_its_penalty(name, kind):
    net = Noted(Checkpointed(nn.Sequential(Tokens(NETS[name][0]()), nn.LeakyReLU(0.2), nn.Linear(1, 1)), 1))
    x = torch.randn(3, 6, 4)
    for _ in range(3):
        fastgan.gradient_penalty(net, x, -x, kind=kind).backward()
        fastgan.discriminator_step(net, x, -x, penalty=kind).total.backward()
        fastgan.gradient_penalty(net, x, -x, kind=kind)
    gc.collect()
    assert [ref() for ref in net.seen if ref() is not None] == []


def test_nothing_is_left_behind():
    """Neither modes nor settings, also where a recomputation stops early or raises."""
    before = torch.backends.cuda.flash_sdp_enabled(), torch._C._len_torch_function_stack()
    net, x = Checkpointed(Tokens(Function()), 2), torch.randn(3, 6, 4)
    fastgan.r1_penalty(net, x).backward()
    value = fastgan.r1_penalty(net, x)
    weight, linear = net.net.embed.weight, F.linear
    F.linear = lambda *args: (_ for _ in ()).throw(OSError("in between"))
    try:
        with pytest.raises(OSError, match="in between"):
            value.backward()
    finally:
        F.linear = linear
    assert weight.requires_grad
    assert before == (torch.backends.cuda.flash_sdp_enabled(), torch._C._len_torch_function_stack())
