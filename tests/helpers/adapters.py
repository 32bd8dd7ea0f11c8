"""Comparing an adapter of fastgan.compat with the trainer's own formulas (bench/baselines)."""

import inspect
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import ulp

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# How far from the formula in float64: ulp of the dtype, but float64 itself relative, as the formula is rounded there too.
VALUE = {torch.float32: 2.0, torch.float16: 2.0, torch.bfloat16: 2.0, torch.float64: 1e-13 * 2**53}
GRADIENT = {torch.float32: 2.0, torch.float16: 1.0, torch.bfloat16: 1.0, torch.float64: 1e-12 * 2**53}
# Where losses have kinks and labels, and where exp would overflow or vanish.
EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 30.0, -30.0, 100.0, -100.0, 1e-6, -1e-6, 1e4, -1e4]
SHAPES = {"N": (37,), "Nx1": (9, 1), "maps": (4, 1, 5, 7), "one": (1,), "long": (2500,)}
LAYOUTS = [*SHAPES, "edges", "transposed", "strided", "channels last"]


def sample(layout, dtype, seed=0):
    """Logits of a layout; the edges in float16 stay below where a square overflows."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return (3 * torch.randn(shape, generator=draw, dtype=torch.float64)).to(dtype)

    if layout == "edges":
        edges = torch.tensor(EDGES, dtype=torch.float64)
        return (edges.clamp(-200, 200) if dtype is torch.float16 else edges).roll(seed).to(dtype)
    if layout == "transposed":
        return normal(7, 6).t()
    if layout == "strided":
        return normal(60)[::3]
    if layout == "channels last":
        return normal(3, 4, 5, 2).contiguous(memory_format=torch.channels_last)
    return normal(*SHAPES[layout])


@contextmanager
def exact():
    """F.softplus and F.binary_cross_entropy_with_logits as the mathematics has them: no threshold, no cancellation.

    And `x.float()` stays in float64.
    """

    def bce(x, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None):
        if x.shape != target.shape:
            raise ValueError("the target must have the input's shape")
        target = target.to(x)
        loss = -target * F.logsigmoid(x) - (1 - target) * F.logsigmoid(-x)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(reduction)
        return loss if reduction == "none" else getattr(loss, reduction)()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "softplus", lambda x, beta=1.0, threshold=20.0: -F.logsigmoid(-x))
        patch.setattr(F, "binary_cross_entropy_with_logits", bce)
        patch.setattr(torch.Tensor, "float", lambda x: x.double())
        yield


def widened(function):
    """`function` where PyTorch's default dtype is float64: tensors made of python numbers are."""

    def call(*args):
        torch.set_default_dtype(torch.float64)
        try:
            return function(*args)
        finally:
            torch.set_default_dtype(torch.float32)

    return call


def mapped(tree, function):
    """`tree` with `function` of each tensor in its lists, tuples and dicts."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: mapped(value, function) for key, value in tree.items()}
    return type(tree)(mapped(value, function) for value in tree) if isinstance(tree, (list, tuple)) else tree


def flat(tree):
    """What is in the lists, tuples and dicts of `tree`, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for value in tree for leaf in flat(value)] if isinstance(tree, (list, tuple)) else [tree]


def skeleton(tree):
    """The containers, and each tensor's dtype and shape."""
    if isinstance(tree, (list, tuple)):
        return type(tree), [skeleton(value) for value in tree]
    return (tree.dtype, tuple(tree.shape)) if isinstance(tree, torch.Tensor) else type(tree)


def leaves(tree, double=False):
    """The same with tensors that want a gradient, in the same memory unless they are made float64."""

    def leaf(x):
        if not x.is_floating_point():
            return x
        return (x.double() if double else x).detach().requires_grad_()

    return mapped(tree, leaf)


def backward(output, tree):
    """Gradients of `output` (weighted, if it is no scalar) for all tensors of `tree`; zeros where there are none."""
    wanted = [x for x in flat(tree) if isinstance(x, torch.Tensor) and x.requires_grad]
    weights = torch.ones_like(output)
    if output.dim():
        weights = (
            torch.tensor([1.0, -2.0, 0.5]).repeat(output.numel())[: output.numel()].view(output.shape).to(output)
        )
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in wanted]
    grads = torch.autograd.grad(output, wanted, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, grads, strict=True)]


def compare(ours, theirs, inputs, *, truth=None, scale=None, slope=None, dtype=None, more=0.0, more_value=0.0):
    """Ours on `inputs` (a tuple of tensors and of what holds them) against their formula in float64.

    Container, dtype and shape are those of their formula on the inputs themselves. `truth` is their formula
    where its constants are rounded to the inputs' dtype. `scale` and `slope` give, of the inputs in float64,
    the size of what is summed to a value and to an element of a gradient, where that cancels. `dtype` is the
    result's, where the trainer's own differs by accident. `more` ulp are allowed in float32 gradients of
    more roundings than usual, and `more_value` in their values.
    """
    kept = mapped(inputs, torch.clone)
    mine, exactly = leaves(inputs), leaves(inputs, double=True)
    got = ours(*mine)
    form = skeleton(theirs(*leaves(inputs)))
    assert skeleton(got) == (form if dtype is None else (dtype, form[1])), (skeleton(got), form)
    with exact():
        want = (truth or theirs)(*exactly)
    size = None if scale is None else scale(*mapped(exactly, torch.Tensor.detach))
    steep = None if slope is None else slope(*mapped(exactly, torch.Tensor.detach))
    for value, exact_value in zip(flat(got), flat(want), strict=True):
        agree(tensor_of(value, got, mine), exact_value, mine, exactly, size, steep, more, more_value)
    for before, after in zip(flat(kept), flat(inputs), strict=True):
        assert not isinstance(before, torch.Tensor) or torch.equal(before, after), "an input was changed"
    return got


def tensor_of(value, got, mine):
    """A float beside a loss has been one of the loss's dtype; one alone has been of the inputs'."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=next(x.dtype for x in flat([got, mine]) if isinstance(x, torch.Tensor)))


def agree(value, want, mine, exactly, size, steep, more, more_value):
    """One result of `compare`: its value and its gradients."""
    want = torch.as_tensor(want, dtype=torch.float64)
    bound = VALUE[value.dtype] + (more_value if value.dtype is torch.float32 else 0.0)
    same(value.detach(), want.detach(), bound, size, "value")
    assert value.requires_grad or not want.requires_grad, "the graph is missing"
    wanted = backward(want, exactly)
    for i, (grad, exact_grad) in enumerate(zip(backward(value, mine), wanted, strict=True)):
        bound = GRADIENT[grad.dtype] + (more if grad.dtype is torch.float32 else 0.0)
        same(grad, exact_grad, bound, None if steep is None else steep[i], f"gradient {i}")


def same(got, want, bound, scale, name):
    """Each element within `bound` ulp; the message shows the first that is not."""
    if ulp.error(got, want, scale) <= bound:
        return
    sizes = [None] * got.numel() if scale is None else torch.as_tensor(scale).expand_as(want).reshape(-1)
    for i, (a, b, size) in enumerate(zip(got.reshape(-1), want.reshape(-1), sizes, strict=True)):
        off = ulp.error(a, b, size)
        assert off <= bound, f"{name}, element {i} of {got.numel()}: {a.item()!r}, exactly {b.item()!r}: {off} ulp"


def twice(value, *inputs):
    """A second backward over a kept graph gives the same."""
    first = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(value, inputs, allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def same_parameters(ours, theirs):
    """The parameters' names, order, kinds and defaults."""
    mine, their = inspect.signature(ours), inspect.signature(theirs)
    assert [(p.name, p.default, p.kind) for p in mine.parameters.values()] == [
        (p.name, p.default, p.kind) for p in their.parameters.values()
    ]


def same_interface(ours, theirs):
    """The trainer's parameters first, and more only by keyword, of a function or of a class and its methods.

    A default that is a function or a module is not compared.
    """
    mine, their = (list(inspect.signature(f).parameters.values()) for f in (ours, theirs))
    their = [p for p in their if p.kind is not p.KEYWORD_ONLY]
    assert [(p.name, p.kind) for p in mine[: len(their)]] == [(p.name, p.kind) for p in their]
    for a, b in zip(mine, their, strict=False):
        free = callable(b.default) and b.default is not b.empty
        assert free or (a.default == b.default and type(a.default) is type(b.default)), (a, b)
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(their) :])
    if inspect.isclass(theirs):
        for name, method in vars(theirs).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                same_interface(getattr(ours, name), method)


def public(module):
    """The names of a module's own functions and classes."""
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return sorted(name for name in own | set(getattr(module, "__all__", ())) if not name.startswith("_"))


class Sound:
    """Tensors in the place of a sound, as audiotools' AudioSignal holds one."""

    def __init__(self, audio_data):
        self.audio_data = audio_data

    def clone(self):
        return Sound(mapped(self.audio_data, torch.clone))

    def detach(self):
        return Sound(mapped(self.audio_data, torch.Tensor.detach))


class Critic(nn.Module):
    """A small smooth discriminator: one number an image, or a map of them."""

    def __init__(self, channels=3, maps=False, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(11)
        self.first = nn.Conv2d(channels, 5, 3, padding=1, dtype=dtype)
        self.second = nn.Conv2d(5, 1, 3, padding=1, dtype=dtype)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64) / 3)
        self.maps, self.calls = maps, 0

    def forward(self, x):
        self.calls += 1
        h = F.softplus(self.second(torch.tanh(self.first(x))))
        # Scores where no cross-entropy's formula loses digits.
        return h if self.maps else h.flatten(1).sum(1) / 9


def images(dtype=torch.float64, n=4, channels=3, size=6, seed=5):
    """Real and fake images."""
    draw = torch.Generator().manual_seed(seed)
    both = torch.randn(2, n, channels, size, size, generator=draw, dtype=torch.float64).to(dtype)
    return both[0].clone(), both[1].clone()


def outcome(call, inputs, net, seed=7, wants=True):
    """The value of call(net, *inputs), gradients of its first tensor for inputs and parameters, and what was drawn."""
    inputs = [x.detach().clone().requires_grad_(wants) if x.is_floating_point() else x for x in inputs]
    torch.manual_seed(seed)
    value = call(net, *inputs)
    drawn = torch.rand(3)
    total = next(x for x in flat(value) if isinstance(x, torch.Tensor) and x.requires_grad)
    tensors = [*(x for x in inputs if x.requires_grad), *net.parameters()]
    return value, torch.autograd.grad(total.sum(), tensors, allow_unused=True), drawn


def same_penalty(ours, theirs, inputs, make_net=Critic, tolerance=1e-10, wants=True):
    """Value, draws, and gradients for inputs and parameters; none where the trainer's has none."""
    (got, grads, drawn), (want, their_grads, their_drawn) = (
        outcome(f, inputs, make_net(), wants=wants) for f in (ours, theirs)
    )
    assert torch.equal(drawn, their_drawn), "the random numbers drawn differ"
    assert skeleton(got) == skeleton(want)
    for a, b in zip(flat(got), flat(want), strict=True):
        assert close(a, b, tolerance)
    assert any(g is not None and g.any() for g in their_grads)
    for i, (a, b) in enumerate(zip(grads, their_grads, strict=True)):
        assert close(0 if a is None else a, 0 if b is None else b, tolerance), f"gradient {i}"


def close(a, b, tolerance):
    """Equal within `tolerance` of the largest element; NaN only where both have it."""
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item(), equal_nan=True)
