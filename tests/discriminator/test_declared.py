"""What is declared to be piecewise linear is left out of the second derivative, and nothing else changes."""

import copy
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import requirements
from fastgan.discriminator import linear
from fastgan.discriminator.double_backward import walk
from tests.helpers import activations
from tests.helpers.activations import GAIN, SLOPE

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
declare = fastgan.declare_piecewise_linear


def fresh(function, **own):
    """A class of the same Function that nobody has declared."""
    return type(function.__name__, (function,), {"__module__": __name__, **own})


class Net(nn.Module):
    """Convolutions, and after each an activation f(x, b)."""

    def __init__(self, f, bias=False):
        super().__init__()
        widths = ((3, 8), (8, 12), (12, 16))
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 4, 2, 1, bias=bias) for i, o in widths])
        self.biases = nn.ParameterList([torch.randn(o) for _, o in widths])
        self.last = nn.Linear(64, 1)
        self.f = f

    def forward(self, x):
        for conv, b in zip(self.convs, self.biases, strict=True):
            x = self.f(conv(x), b)
        return self.last(x.flatten(1))


def gradients(f, dtype=torch.float64, penalty=fastgan.r1_penalty, make=Net, **options):
    """The penalty and all gradients of a network with an activation."""
    torch.manual_seed(3)
    net = make(f).to(dtype)
    value = penalty(net, X.to(dtype), **options)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()), allow_unused=True)]


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    yield
    assert linear._ANCHOR.grad is None


def same(some, others):
    for a, b in zip(some, others, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def close(some, others):
    for a, b in zip(some, others, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def convolution_backwards(f, **options):
    """How many there are in R1's double backward."""
    net = Net(f)
    penalty = fastgan.r1_penalty(net, X, **options)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        penalty.backward()
    return sum(e.name == "aten::convolution_backward" for e in profile.events())


# ---------------------------------------------------------------------------------- Functions that send none or zeros


class Slopes(Function):
    """leaky_relu(x + b), with slopes that it computes in sight of autograd."""

    @staticmethod
    def forward(ctx, x, b):
        ctx.save_for_backward(x, b)
        return F.leaky_relu(x + b.view(-1, 1, 1), SLOPE)

    @staticmethod
    def backward(ctx, g):
        x, b = ctx.saved_tensors
        dx = torch.ops.aten.leaky_relu_backward(g, x + b.view(-1, 1, 1), SLOPE, False)
        return dx, dx.sum((0, 2, 3))


class Signs(Slopes):
    @staticmethod
    def backward(ctx, g):
        x, b = ctx.saved_tensors
        dx = g * (0.5 * (1 + SLOPE) + 0.5 * (1 - SLOPE) * (x + b.view(-1, 1, 1)).sign())
        return dx, dx.sum((0, 2, 3))


class Mask(Function):
    """The same, but autograd sees nothing of x in its backward: the last bias gets None, and the others zeros."""

    @staticmethod
    def forward(ctx, x, b):
        h = x + b.view(-1, 1, 1)
        ctx.save_for_backward(h > 0)
        return F.leaky_relu(h, SLOPE)

    @staticmethod
    def backward(ctx, g):
        (mask,) = ctx.saved_tensors
        dx = torch.where(mask, g, SLOPE * g)
        return dx, dx.sum((0, 2, 3))


FUNCTIONS = [activations.BiasAct, activations.FusedLeakyReLU, Slopes, Signs, Mask]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_saved(function):
    """As many convolutions as with F.leaky_relu. Undeclared, also a None costs them: PyTorch makes zeros of it."""
    sent = 2 if function is Mask else 3
    own = fresh(function)
    assert convolution_backwards(own.apply, prune=False) == convolution_backwards(own.apply) == sent
    assert convolution_backwards(declare(own).apply) == 0
    assert convolution_backwards(own.apply, prune=False) == sent


def test_what_is_saved_by_pytorchs_own():
    def f(x, b):
        return F.leaky_relu(x + b.view(-1, 1, 1), SLOPE)

    assert [convolution_backwards(f, prune=p) for p in (False, True)] == [3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["r1", "wgan-gp"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_the_same(function, kind, dtype):
    """Bit by bit, zeros and None's too, declared or not, pruned or not; and PyTorch's alone."""

    def penalty(net, x, **options):
        torch.manual_seed(1)
        return fastgan.gradient_penalty(net, x, -x, kind=kind, **options)

    own = fresh(function)
    plain = gradients(own.apply, dtype, penalty, prune=False)
    same(gradients(own.apply, dtype, penalty), plain)
    declare(own)
    same(gradients(own.apply, dtype, penalty), plain)
    same(gradients(own.apply, dtype, penalty, prune=False), plain)
    assert any([g is not None and not g.any() for g in plain])


@pytest.mark.parametrize("function", [*FUNCTIONS[:2], Mask])
def test_a_step_that_shares_its_forward(function):
    def step(net, x):
        return fastgan.discriminator_step(net, x, -x, loss="nonsaturating", penalty="r1").total

    own = fresh(function)
    plain = gradients(own.apply, penalty=step)
    same(gradients(declare(own).apply, penalty=step), plain)


# ---------------------------------------------------------------------------------- what can be declared


def bias_act(x, b=None, *, act="leaky", clamp=None):
    """A function of several operations, as the reference of StyleGAN's bias_act."""
    x = x if b is None else x + b.view(-1, 1, 1)
    x = F.leaky_relu(x, SLOPE) if act == "leaky" else F.silu(x)
    return x * GAIN if clamp is None else (x * GAIN).clamp(-clamp, clamp)


class Biased(nn.Module):
    """An activation with a bias of its own."""

    def __init__(self, n):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(n))

    def forward(self, x):
        return bias_act(x, self.bias.to(x.dtype), clamp=2.0)


class WithModules(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), kind(8), nn.Conv2d(8, 8, 4, 2, 1), kind(8), nn.Flatten(), nn.Linear(128, 1)
        )

    def forward(self, x):
        return self.body(x)


def test_functions_with_arguments_of_all_kinds():
    own = declare(bias_act)
    for call in (
        lambda f, x, b: f(x, b),
        lambda f, x, b: f(x=x, b=b, clamp=1.5),
        lambda f, x, b: f(x, act="leaky"),
        lambda f, x, b: f(x, b.detach()),
    ):
        same(gradients(lambda x, b, c=call: c(own, x, b)), gradients(lambda x, b, c=call: c(bias_act, x, b)))
        same(
            gradients(lambda x, b, c=call: c(own, x, b)), gradients(lambda x, b, c=call: c(own, x, b), prune=False)
        )


def test_modules_with_parameters():
    kind = fresh(Biased)
    plain = gradients(kind, make=WithModules)
    assert declare(kind) is kind
    same(gradients(kind, make=WithModules), plain)
    assert not any([g is None for g in plain[:-1]])


def test_modules_and_decorators():
    @declare
    class Max(nn.Module):
        def forward(self, x):
            return torch.maximum(x, 0.3 * x)

    assert type(pickle.loads(pickle.dumps(copy.deepcopy(Net(None))))) is Net
    pruned, plain = (gradients(lambda n: Max(), make=WithModules, prune=p) for p in (True, False))
    same(pruned, plain)


def test_several_results_and_constants():
    @declare
    def halves(x):
        return {"both": (x.relu(), (-x).relu()), "index": x.argmax(1), "none": None, "sign": x.sign()}

    def f(x, b, halves=halves):
        found = halves(x)
        a, c = found["both"]
        assert found["none"] is None
        assert not found["index"].requires_grad
        return a * c.tanh() + b.view(-1, 1, 1) * found["index"][:, None] + a * found["sign"]

    same(gradients(f), gradients(f, prune=False))


def test_declaring_twice_and_subclasses():
    own = fresh(activations.BiasAct)
    apply = declare(own).__dict__["apply"]
    assert declare(own).__dict__["apply"] is apply
    function = declare(bias_act)
    assert declare(function) is function
    smooth = fresh(own, forward=staticmethod(Silu.forward), backward=staticmethod(Silu.backward))
    same(*(gradients(lambda x, b: smooth.apply(x), prune=p) for p in (True, False)))


@pytest.mark.parametrize("target", [nn.ReLU(), int, 3, nn.Module, Function])
def test_what_cannot_be_declared(target):
    with pytest.raises(TypeError, match="target: expected a class"):
        declare(target)


# ---------------------------------------------------------------------------------- without a second derivative


class Kernel(Function):
    """leaky_relu, whose backward is out of autograd's sight."""

    @staticmethod
    def forward(ctx, x):
        y = F.leaky_relu(x, SLOPE)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        with torch.no_grad():
            return torch.where(y > 0, g, SLOPE * g)


class Once(Kernel):
    backward = staticmethod(once_differentiable(Kernel.backward))


@pytest.mark.parametrize("function", [Kernel, Once])
@pytest.mark.parametrize("penalty", ["r1", "wgan-gp", "step"])
def test_functions_without_a_second_derivative(function, penalty):
    """They are refused, and once declared as good as F.leaky_relu."""

    def call(net, x):
        torch.manual_seed(1)
        if penalty == "step":
            return fastgan.discriminator_step(net, x, -x, loss="hinge", penalty="r1").total
        return fastgan.gradient_penalty(net, x, -x, kind=penalty)

    own = fresh(function)

    def f(x, b):
        return own.apply(x + b.view(-1, 1, 1))

    with pytest.raises(RuntimeError, match="second derivative"):
        gradients(f, penalty=call)
    declare(own)
    same(
        gradients(f, penalty=call), gradients(lambda x, b: F.leaky_relu(x + b.view(-1, 1, 1), SLOPE), penalty=call)
    )


class HalfSeen(Function):
    """x, once in autograd's sight and once out of it."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return g + g.detach()


class Shift(Function):
    """A permutation, which is not symmetric."""

    @staticmethod
    def forward(ctx, x):
        return x.roll(1, 1)

    @staticmethod
    def backward(ctx, g):
        return g.detach().roll(-1, 1)


class BiasedKernel(Kernel):
    @staticmethod
    def forward(ctx, x, b):
        return Kernel.forward(ctx, x + b.view(-1, 1, 1))

    @staticmethod
    def backward(ctx, g):
        dx = Kernel.backward(ctx, g).detach()
        return dx, dx.sum((0, 2, 3))


def test_a_gradient_that_autograd_sees_in_part():
    own = declare(fresh(HalfSeen))
    got, want = (gradients(lambda x, b, f=f: f(x) + b.view(-1, 1, 1)) for f in (own.apply, lambda x: 2 * x))
    close([g if w is not None or g is None or g.any() else None for g, w in zip(got, want, strict=True)], want)


@pytest.mark.parametrize("function", [Shift, BiasedKernel])
def test_what_cannot_be_known(function):
    own = declare(fresh(function))
    with pytest.raises(RuntimeError, match=rf"\({function.__name__}\): expected .* elementwise one of one tensor"):
        gradients(own.apply if function is BiasedKernel else lambda x, b: own.apply(x))


# ---------------------------------------------------------------------------------- wrong declarations


class Silu(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


class HiddenSilu(Silu):
    backward = staticmethod(once_differentiable(Silu.backward))


class HiddenGelu(Kernel):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(g.detach(), x.detach())


def wrong(f):
    with pytest.raises(RuntimeError, match=r"piecewise_linear\(.*piecewise linear in all of its .* do not declare"):
        gradients(f)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [Silu, HiddenSilu, HiddenGelu])
def test_functions_that_are_not_piecewise_linear(function, dtype):
    own = declare(fresh(function))
    with pytest.raises(
        RuntimeError, match=rf"\({function.__name__}\): expected a function that is piecewise linear"
    ):
        gradients(lambda x, b: own.apply(x), dtype)
    wrong(lambda x, b: own.apply(x))  # at each use


def test_options_are_looked_at_one_by_one():
    own = declare(bias_act)
    gradients(lambda x, b: own(x, b, act="leaky"))
    wrong(lambda x, b: own(x, b, act="silu"))


class Power(nn.Module):
    """A power of relu, which an option says in one of many ways."""

    def __init__(self, **options):
        super().__init__()
        self.__dict__.update(options)
        self.register_buffer("exponent", options.get("buffer"))
        self.bias, self.slope = (nn.Parameter(torch.full((), 0.5)) for _ in range(2))
        self.bias.requires_grad_("slope" not in options)
        self.slope.requires_grad_("slope" in options)

    def forward(self, x):
        words = vars(self)
        exponent = words.get("number", words.get("list", [1.0])[0])
        if self.exponent is not None:
            exponent = float(self.exponent)
        f = words.get("function", torch.relu)
        return f(x + self.bias) ** exponent * (self.slope if self.slope.requires_grad else 1.0)


@pytest.mark.parametrize(
    ("straight", "bent"),
    [
        ({"number": 1}, {"number": 2}),
        ({"number": 1.0}, {"number": 1.5}),
        ({"list": [1]}, {"list": [2]}),
        ({"buffer": torch.tensor(1.0)}, {"buffer": torch.tensor(2.0)}),
        ({"function": torch.relu}, {"function": F.silu}),
        ({}, {"slope": True}),
    ],
    ids=["integers", "floats", "lists", "buffers", "functions", "trained"],
)
def test_instances_of_a_module_are_looked_at_one_by_one(straight, bent):
    kind = declare(fresh(Power))
    gradients(lambda n: kind(**straight), make=Frozen)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="expected a function that is piecewise linear"):
            gradients(lambda n: kind(**bent), make=Frozen)


def test_numbers_are_looked_at_one_by_one():
    power = declare(lambda x, p, at=None: x.relu() ** p if at is None else x.relu() ** at)
    for first, second in (({"p": 1}, {"p": 2}), ({"p": 1.0}, {"p": 2.0})):
        gradients(lambda x, b: power(x, **first))
        wrong(lambda x, b: power(x, **second))
    gradients(lambda x, b: power(x, 1, torch.ones(())))
    wrong(lambda x, b: power(x, 1, torch.full((), 2.0)))
    exponent = 1
    closed = declare(lambda x: x.relu() ** exponent)
    gradients(lambda x, b: closed(x))
    exponent = 2
    wrong(lambda x, b: closed(x))


@pytest.mark.parametrize("function", [torch.tanh, lambda x: HiddenSilu.apply(x)], ids=["seen", "hidden"])
def test_zeros_are_no_proof(function):
    """At zero tanh has no second derivative, and a neighbour at some distance in proportion is zero too."""
    own = declare(lambda x: function(x))
    gradients(lambda x, b: own(x * 0.0))
    wrong(lambda x, b: own(x))


def test_parameters_that_multiply():
    """PReLU's weight, and a bias behind a function; a weight that is frozen is none of its tensors."""
    kind = fresh(nn.PReLU)
    plain = gradients(lambda n: kind().requires_grad_(False), make=Frozen, prune=False)
    declare(kind)
    same(gradients(lambda n: kind().requires_grad_(False), make=Frozen), plain)
    with pytest.raises(RuntimeError, match=r"\(PReLU\): expected a function that is piecewise linear in all"):
        gradients(lambda n: kind(), make=WithModules)
    product = declare(lambda x, b: x * b.view(-1, 1, 1))
    wrong(product)


class Frozen(WithModules):
    def parameters(self, recurse=True):
        return (p for p in super().parameters(recurse) if p.requires_grad)


def test_functions_that_work_in_place():
    class InPlace(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            ctx.save_for_backward(x.relu_())
            return x

        @staticmethod
        def backward(ctx, g):
            return g * (ctx.saved_tensors[0] > 0)

    declare(InPlace)
    for f in (InPlace.apply, declare(lambda x: F.relu_(x))):
        with pytest.raises(RuntimeError, match=r"expected a function that changes no .* in place"):
            gradients(lambda x, b, f=f: f(x + b.view(-1, 1, 1)))


def test_tensors_with_a_graph_that_are_no_arguments():
    def f(x, b):
        shift = 2 * b.view(-1, 1, 1)
        return declare(lambda x: F.relu(x + shift))(x)

    with pytest.raises(
        RuntimeError, match="expected all tensors that have a graph as its arguments, got another one"
    ):
        gradients(f)

    class Box:
        def __init__(self, t):
            self.t = t

    with pytest.raises(TypeError, match="expected tensors as its results, got Box"):
        gradients(lambda x, b: declare(lambda x: Box(F.relu(x)))(x).t)


def test_views_and_constants_stay_what_they_are():
    own = declare(lambda x: x)
    x = X.double().requires_grad_()

    def net(x, f=own):
        h = x * 1
        f(h).mul_(2)
        assert not declare(lambda h: (h > 0).double())(h).requires_grad
        return h.square().sum((1, 2, 3))

    same(*([torch.autograd.grad(fastgan.r1_penalty(net, x, prune=p), x)[0]] for p in (True, False)))


# ---------------------------------------------------------------------------------- elsewhere


def test_outside_of_penalties_nothing_changes():
    own = declare(fresh(activations.BiasAct))
    x, b = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    y = own.apply(x, b)
    assert "BiasAct" in y.grad_fn.name()
    function = declare(bias_act)
    assert function(x, b).grad_fn.name().startswith("MulBackward")
    assert function.__wrapped__ is bias_act
    assert function.__name__ == "bias_act"
    with torch.no_grad():
        fastgan.r1_penalty(lambda x: own.apply(x, b).sum((1, 2, 3)), x)


def test_other_threads_see_the_functions_themselves():
    own = declare(fresh(activations.BiasAct))
    inside, done = threading.Event(), threading.Event()
    names = []

    def elsewhere():
        inside.wait(10)
        x = torch.randn(2, 3, 4, 4, requires_grad=True)
        y = own.apply(x, None)
        names.append(y.grad_fn.name())
        done.set()

    def net(x):
        y = own.apply(x, None)
        names.append(y.grad_fn.name())
        inside.set()
        done.wait(10)
        return y.square().sum((1, 2, 3))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    fastgan.r1_penalty(net, X.clone().requires_grad_())
    thread.join()
    assert names == ["LinearBackward", "BiasActBackward"]


class Checkpointed(Net):
    def forward(self, x):
        def middle(x):
            return self.f(self.convs[1](self.f(self.convs[0](x), self.biases[0])), self.biases[1])

        x = checkpoint(middle, x, use_reentrant=False)
        return self.last(self.f(self.convs[2](x), self.biases[2]).flatten(1))


@pytest.mark.parametrize("function", [activations.BiasAct, Mask])
def test_checkpoints_and_hooks_for_saved_tensors(function):
    own = fresh(function)
    plain = gradients(own.apply, make=Checkpointed, prune=False)
    declare(own)
    same(gradients(own.apply, make=Checkpointed), plain)
    with torch.autograd.graph.save_on_cpu():
        same(gradients(own.apply), gradients(own.apply, prune=False))


def test_results_may_be_changed_in_place():
    own = declare(fresh(Mask))
    same(*(gradients(lambda x, b: own.apply(x, b).add_(x.detach()), prune=p) for p in (True, False)))
    saved = declare(fresh(activations.BiasAct))  # where PyTorch refuses it too
    for prune in (True, False):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(lambda x, b: saved.apply(x, b).add_(1), prune=prune)


def test_autocast():
    own = fresh(activations.FusedLeakyReLU)

    def f(x, b):
        return own.apply(x, b.to(x.dtype))

    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(f, torch.float32, prune=False)
        declare(own)
        same(gradients(f, torch.float32), plain)


def test_autocast_has_cast_a_weight_before():
    """In the loss's own forward, and in another use of the same module."""

    class Blur(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.weight, self.bias = torch.rand(8, 1, 3, 3), nn.Parameter(torch.randn(8))

        def forward(self, x):
            return F.relu(F.conv2d(x, self.weight, self.bias, padding=1, groups=8))

    first, blur, last = nn.Conv2d(3, 8, 3), Blur(), nn.Conv2d(8, 1, 3)
    net = nn.Sequential(first, blur, blur, last)

    def found():
        with torch.autocast("cpu", torch.bfloat16):
            net(X)
            return torch.autograd.grad(fastgan.r1_penalty(net, X), [first.weight, last.weight])

    plain = found()
    declare(Blur)
    for a, b in zip(found(), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))
    assert torch.is_autocast_cache_enabled()


def test_others_are_still_refused():
    """Beside what is declared, behind it, and around it."""
    own, kernel = declare(fresh(activations.BiasAct)), fresh(Kernel)
    for f in (
        lambda x, b: kernel.apply(own.apply(x, b)),
        lambda x, b: own.apply(kernel.apply(x), b),
        lambda x, b: own.apply(x, b) + kernel.apply(x),
    ):
        with pytest.raises(RuntimeError, match="its function Kernel computes its gradient out of autograd's sight"):
            gradients(f)


def test_the_third_derivative():
    """A penalty's gradient has one: the Jacobian, once more."""

    def third(f):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 8), f, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        value = fastgan.r1_penalty(net, X.double().flatten()[:24].view(4, 6))
        first = torch.autograd.grad(value, list(net.parameters()), create_graph=True, allow_unused=True)
        total = sum([g.square().sum() for g in first if g is not None])
        return torch.autograd.grad(total, list(net.parameters()), allow_unused=True)

    class Act(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    plain = third(nn.LeakyReLU(SLOPE))
    for function in (declare(fresh(Kernel)).apply, declare(lambda x: F.leaky_relu(x, SLOPE))):
        for a, b in zip(third(Act(function)), plain, strict=True):
            a, b = (torch.zeros(()) if t is None else t for t in (a, b))
            assert torch.allclose(a, b.to(a), rtol=1e-9, atol=1e-12)


def test_a_graph_is_let_go():
    """After a backward what the function has saved is gone, as PyTorch's own is; a second one raises."""
    kept = []

    @declare
    class Own(Mask):
        @staticmethod
        def forward(ctx, x, b):
            mask = x + b.view(-1, 1, 1) > 0
            kept.append(weakref.ref(mask))
            ctx.save_for_backward(mask)
            return torch.where(mask, x, SLOPE * x)

    def held():
        return sum([mask() is not None for mask in kept])

    net = Net(Own.apply)
    step = fastgan.discriminator_step(net, X, -X, loss="hinge", penalty="r1")
    assert held() == 6
    step.total.backward()
    assert held() == 0
    net = Net(declare(fresh(activations.BiasAct)).apply)
    step = fastgan.discriminator_step(net, X, -X, loss="hinge", penalty="r1")
    step.total.backward(retain_graph=True)
    step.total.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        step.total.backward()


@pytest.mark.skipif(bool(requirements.lacking("engine='compiled'")), reason="torch is too old for it")
@pytest.mark.parametrize("target", [bias_act, Biased])
def test_engine_compiled(target):
    """There the functions themselves are traced; a Function runs eagerly, as ever."""
    declared = declare(fresh(target)) if isinstance(target, type) else declare(target)

    def penalty(net, x, **options):
        value, stats = fastgan.gradient_penalty(net, x, None, kind="r1", return_stats=True, **options)
        engines.append(stats.engine)
        return value

    engines = []
    make = WithModules if target is Biased else Net
    compiled, eager = (gradients(declared, penalty=penalty, make=make, engine=e) for e in ("compiled", "eager"))
    assert engines == ["compiled", "eager, pruned"]
    close(compiled, eager)


def test_inside_of_a_graph():
    own, function = declare(fresh(activations.BiasAct)), declare(bias_act)
    x, b = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    for f, plain in (
        (lambda: own.apply(x, b), lambda: activations.BiasAct.apply(x, b)),
        (lambda: function(x, b), None),
    ):
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        same(*(torch.autograd.grad(g().sum(), (x, b)) for g in (compiled, plain or f)))


def test_a_run_does_not_lead_to_the_callers_graph():
    """Else each look into the graph of a run would go through all of the discriminator's."""
    leaf = torch.randn(3, requires_grad=True)
    run = linear.run(lambda x: [x.relu()], [leaf * 2])
    leaves, _ = walk(run.starts(), set())
    assert len(leaves) == 1
    assert leaves[0] is linear._ANCHOR
