"""K10: state of the process and of caches."""

import gc
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan._torch_internals import ATTENTION_KERNELS, function_mode_depth
from fastgan.discriminator.forward import plain_arithmetic, prunable
from fastgan.nn import GradientPenalty

R, F = torch.randn(7, 1), torch.randn(7, 1)
X = torch.randn(4, 3)

# ---------------------------------------------------------------------------- validation and its caches

OPTIONS = [
    ("hinge", "margin", 1.0),
    ("least_squares", "targets", (0.0, 1.0, 1.0)),
    ("bce", "real_target", 1.0),
    ("bce", "fake_target", 0.0),
]


@pytest.mark.parametrize(("loss", "name", "value"), OPTIONS)
@pytest.mark.parametrize("before", [True, False])
def test_validation_does_not_depend_on_earlier_calls(loss, name, value, before):
    """A cache has 1, True and NumPy's 1 as one key."""
    if before:
        fastgan.discriminator_loss(R, F, loss, **{name: value})
    want = fastgan.discriminator_loss(R, F, loss)
    single = value[1] if name == "targets" else value
    for number in (np.float32(single), np.float64(single), np.int64(single), int(single), torch.tensor(single)):
        given = (value[0], number, value[2]) if name == "targets" else number
        assert torch.equal(fastgan.discriminator_loss(R, F, loss, **{name: given}), want)
        fastgan.nn.DiscriminatorLoss(loss, **{name: given})
    for bad in (bool(single), np.bool_(single), str(single), None):
        given = (value[0], bad, value[2]) if name == "targets" else bad
        for call in (fastgan.discriminator_loss, lambda r, f, loss, **o: fastgan.generator_loss(f, r, loss, **o)):
            with pytest.raises(TypeError, match=f"{name}: expected a number"):
                call(R, F, loss, **{name: given})


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, int, torch.tensor])
def test_numbers_of_all_kinds_in_penalties(number):
    d = nn.Linear(3, 1)
    eps = torch.rand(4)
    want = fastgan.gradient_penalty(d, X, -X, weight=3.0, target=2.0, eps=eps)
    got = fastgan.gradient_penalty(d, X, -X, weight=number(3), target=number(2), eps=eps)
    assert torch.equal(got, want)
    lazy = GradientPenalty("wgan-gp", weight=number(3), target=number(2), interval=2)
    assert lazy.due().weight == 6.0
    assert torch.equal(fastgan.norm_penalty(X, target=number(2)), fastgan.norm_penalty(X, target=2.0))
    with pytest.raises(TypeError, match="weight: expected a number"):
        fastgan.gradient_penalty(d, X, -X, weight=True)


def test_a_third_in_float32_is_not_rounded_again():
    """NumPy's float32 is taken as what it is, and computed with in float64."""
    third = np.float32(1 / 3)
    grads = torch.randn(5, 3, dtype=torch.float64)
    want = fastgan.norm_penalty(grads, target=float(third))
    assert torch.equal(fastgan.norm_penalty(grads, target=third), want)
    d = nn.Linear(3, 1).double()
    assert torch.equal(
        fastgan.r1_penalty(d, X.double(), weight=third), fastgan.r1_penalty(d, X.double(), weight=float(third))
    )


@pytest.mark.parametrize("aliases", ["my", "m"])
def test_one_alias_is_not_a_sequence_of_letters(aliases):
    one = fastgan.term("square")
    with pytest.raises(TypeError, match="aliases: expected a sequence of names, got the str"):
        fastgan.register_loss("never", real=one, fake=one, generator=one, aliases=aliases)
    assert "never" not in fastgan.losses()


# ---------------------------------------------------------------------------- interrupts


def state():
    """What a penalty changes in the process while it runs."""
    from torch._dynamo import eval_frame

    return (
        [enabled() for enabled, _ in ATTENTION_KERNELS.values()],
        eval_frame._stance.stance,
        function_mode_depth(),
        torch.is_grad_enabled(),
        plain_arithmetic.uses,
        plain_arithmetic.kernels,
    )


class Interrupt:
    """Raises KeyboardInterrupt at the k-th point at which Python looks for signals: calls, and returns from C."""

    def __init__(self, at):
        self.left = at
        self.done = False

    def __call__(self, frame, event, argument):
        if event not in ("call", "c_return") or self.done:
            return
        name = frame.f_code.co_filename
        if "fastgan" not in name and not name.endswith(("overrides.py", "contextlib.py")):
            return
        self.left -= 1
        if self.left < 0:
            self.done = True
            raise KeyboardInterrupt


CALLS = {
    "penalty": lambda d: fastgan.gradient_penalty(d, X, -X),
    "step": lambda d: fastgan.discriminator_step(d, X, -X, loss="hinge", penalty=["r1", "wgan-gp"]),
    "no grad": lambda d: fastgan.r1_penalty(d, X),
    "recomputed": lambda d: fastgan.r1_penalty(lambda x: checkpoint(d, x, use_reentrant=False), X).backward(),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_leaves_nothing_behind(call):
    """At every point at which it can come, one after the other."""
    import torch._dynamo

    d = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    CALLS[call](d)
    former = torch.is_grad_enabled()
    torch.set_grad_enabled(call != "no grad")
    try:
        interrupt_everywhere(lambda: CALLS[call](d))
    finally:
        torch.set_grad_enabled(former)


def interrupt_everywhere(call):
    before, at, interrupted = state(), 0, True
    while interrupted:
        interrupt = Interrupt(at)
        sys.setprofile(interrupt)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        interrupted, at = interrupt.done, at + 1
        assert state() == before, at
    assert at > 100


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here")
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread"
)
def test_signals_leave_nothing_behind():
    """Real ones, at times that a timer gives."""

    d = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    CALLS["step"](d)
    before, found = state(), 0
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()  # in a callback of the collector, such as hypothesis has, Python drops an interrupt
    try:
        for k in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + k % 100))
                CALLS["step"](d)
                time.sleep(0.002)  # it comes here at the latest
            except KeyboardInterrupt:
                found += 1
            assert state() == before
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, former)
    assert found == 300


# ---------------------------------------------------------------------------- hooks of modules that a function names

HOOKED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 1))
SPARSE = nn.Embedding(10, 3, sparse=True)
LINEAR = nn.Linear(3, 3)
CONTAINER = {"d": HOOKED}


class Callable:
    def __init__(self, module):
        self.module = module

    def __call__(self, x):
        return self.module(x)


class OfGlobals:
    def __call__(self, x):
        return HOOKED(x)


def through(x):
    return indirect(x)


def indirect(x):
    return [HOOKED(y) for y in (x,)][0]  # noqa: RUF015


FORMS = {
    "module": HOOKED,
    "method": HOOKED.forward,
    "lambda": lambda x: HOOKED(x),
    "function of a function": through,
    "dict": lambda x: CONTAINER["d"](x),
    "object": Callable(HOOKED),
    "its method": Callable(HOOKED).__call__,
    "object over a global": OfGlobals(),
    "default of an argument": lambda x, d=HOOKED: d(x),
    "lambda in a lambda": lambda x: (lambda y: HOOKED(y))(x),
}


@pytest.mark.parametrize("form", FORMS)
def test_hooks_of_what_a_function_names_are_called(form):
    images = torch.randn(2, 3, 8, 8)
    calls = []
    handles = [m.register_full_backward_hook(lambda m, gi, go: calls.append(m)) for m in HOOKED]
    try:
        counts = []
        for prune in (True, False):
            calls.clear()
            penalty = fastgan.r1_penalty(FORMS[form], images, prune=prune)
            first = len(calls)
            penalty.backward()
            counts.append((first, len(calls) - first))
    finally:
        for handle in handles:
            handle.remove()
    assert counts[0] == counts[1]
    assert prunable(FORMS[form])


def test_sparse_gradients_of_a_global_stay_sparse():
    def d(x, y):
        return (torch.relu(LINEAR(x)) * SPARSE(y)).sum(1)

    y = torch.tensor([1, 2, 3, 3])
    for prune in (True, False):
        SPARSE.zero_grad()
        fastgan.r1_penalty(d, X, y, prune=prune).backward()
        assert SPARSE.weight.grad.is_sparse


# ---------------------------------------------------------------------------- operands from inference mode

MIXED = {
    "loss": lambda a, b: fastgan.discriminator_loss(a, b),
    "list": lambda a, b: fastgan.discriminator_loss([a, a], [b, b], "hinge", weights=[1.0, 0.5]),
    "average": lambda a, b: fastgan.discriminator_loss(a, b, relativistic="average"),
    "generator": lambda a, b: fastgan.generator_loss(a, b, relativistic="paired"),
    "features": lambda a, b: fastgan.feature_matching_loss([b], [a]),
    "hifigan": lambda a, b: fastgan.compat.hifigan.feature_loss([[b]], [[a]]),
    "lecam": lambda a, b: fastgan.lecam_penalty(a, a, torch.zeros(1), b[0, :1]),
    "interpolate": lambda a, b: fastgan.interpolate(a, b, torch.full((4,), 0.25)).square().sum(),
    "terms": lambda a, b: fastgan.reduce_terms([fastgan.term("square")], [(a, b)]),
    "norms": lambda a, b: fastgan.norm_penalty((a, b)),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_operands_made_in_inference_mode(name, backend):
    torch.manual_seed(0)
    a, b = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    with torch.inference_mode():
        frozen = b * 1
    with fastgan.backend(backend):
        want, got = MIXED[name](a, b), MIXED[name](a, frozen)
    assert torch.equal(got, want)
    assert torch.equal(*[torch.autograd.grad(value, a)[0] for value in (got, want)])
