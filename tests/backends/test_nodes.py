"""The C++ nodes of autograd: with them and without them, every result and every error is the same."""

import contextlib
import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import requirements
from fastgan.backends import native, nodes
from fastgan.functional import probabilities
from fastgan.ops.losses import discriminator_spec
from tests.helpers.ranks import group_of_one, needs_gloo

if nodes.module is None and os.environ.get("FASTGAN_NODES") != "1":
    pytest.skip(f"C++ nodes: {nodes.state}", allow_module_level=True)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMS = [None, "paired", "average"]


def test_the_nodes_are_there():
    assert nodes.module is not None, nodes.state


@pytest.fixture(autouse=True)
def _decided(monkeypatch):
    """Logits have been looked at, so that a second call takes the shortest way."""
    monkeypatch.setattr(probabilities, "undecided", False)


# ---------------------------------------------------------------------------- the comparison


def outcome(work):
    """What a call returns from the same random numbers, or its error."""
    torch.manual_seed(1)
    try:
        return work()
    except Exception as error:
        return type(error), re.sub(r"0x[0-9a-f]+|\bj\d+", "", str(error))


def steps(t):
    """Strides, but for dimensions of one element, where they mean nothing."""
    if t.layout is not torch.strided or t.is_nested:
        return t.layout
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


def same(a, b):
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
        return type(a) is type(b) and a == b
    if (a.dtype, a.shape, steps(a), type(a)) != (b.dtype, b.shape, steps(b), type(b)):
        return False
    if a.requires_grad != b.requires_grad or a.is_inference() != b.is_inference():
        return False
    if a.is_meta:
        return True
    a, b = a.detach(), b.detach()
    return bool(((a.isnan() & b.isnan()) | ((a == b) & (a.signbit() == b.signbit()))).all())


def both(work):
    """What a call returns: the same the Python way, at a first call and at a second one, bit for bit."""
    with nodes.off():
        want = outcome(work)
    for _ in range(2):
        got = outcome(work)
        assert same(got, want), f"nodes: {got}\nPython: {want}"
    return got


def fine(work):
    """The same, of a call that raises nothing."""
    got = both(work)
    assert not (isinstance(got, tuple) and got and isinstance(got[0], type)), got
    return got


def has_node(t):
    return "CppFunction" in type(t.grad_fn).__name__


def normal(*shape, dtype=torch.float32, grad=True):
    return (torch.randn(shape) * 2).to(dtype).requires_grad_(grad)


def listed(values):
    return list(values) if isinstance(values, (list, tuple)) else [values]


def pulled(values, inputs, cotangents, **options):
    """Gradients, of those values that have any."""
    pairs = [(v, c) for v, c in zip(values, cotangents, strict=True) if v is not None and v.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    values, cotangents = zip(*pairs, strict=True)
    return list(torch.autograd.grad(values, inputs, cotangents, allow_unused=True, retain_graph=True, **options))


def like(tensors):
    return [None if t is None else torch.randn_like(t).requires_grad_() for t in tensors]


def orders(call, *inputs):
    """The value of a call, and its derivatives to the third order."""
    values = listed(call(*inputs))
    assert nodes.module is None or all(map(has_node, values))
    wanted, upstream = [t for t in inputs if t.requires_grad], like(values)
    found = values + pulled(values, wanted, [torch.ones_like(v) for v in values])
    found += pulled(values, wanted, upstream) + pulled(values, wanted, upstream)
    first = pulled(values, wanted, upstream, create_graph=True)
    cotangents, arguments = like(first), [*upstream, *wanted]
    found += first + pulled(first, arguments, cotangents)
    second = pulled(first, arguments, cotangents, create_graph=True)
    inputs = [t for t in (*arguments, *cotangents) if t is not None]
    return found + second + pulled(second, inputs, like(second))


def loss_call(role, loss, form, **options):
    """A loss as a function of real and fake."""
    if role == "D":
        return lambda r, f: fastgan.discriminator_loss(r, f, loss, relativistic=form, **options)
    return lambda r, f: fastgan.generator_loss(f, r, loss, relativistic=form, **options)


every_loss = pytest.mark.parametrize(
    ("role", "loss", "form"), [(a, b, c) for a in "DG" for b in fastgan.losses() for c in FORMS]
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_form = pytest.mark.parametrize("form", FORMS)

# ---------------------------------------------------------------------------- losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@every_dtype
@every_loss
def test_losses_to_third_order(role, loss, form, dtype, reduction):
    call = loss_call(role, loss, form, reduction=reduction)
    fine(lambda: orders(call, normal(7, 5, dtype=dtype), normal(7, 5, dtype=dtype)))


@every_dtype
@every_form
def test_other_numbers(form, dtype):
    """Margins, labels and targets that are not the defaults, and logits that are not finite."""
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, -1.0, 88.0, -104.0])
    for loss, options in (
        ("hinge", {"margin": 0.3}),
        ("nonsaturating", {"real_target": 0.9, "fake_target": 0.1}),
        ("least_squares", {"targets": (-1.0, 1.0, 0.5)}),
    ):
        for role in "DG":
            call = loss_call(role, loss, form, **options)
            fine(lambda: orders(call, normal(9, dtype=dtype), normal(9, dtype=dtype)))
            fine(lambda: orders(call, *[special.to(dtype).roll(k).requires_grad_() for k in range(2)]))


LAYOUTS = {
    "transposed": lambda t: t(4, 6, grad=False).t(),
    "strided": lambda t: t(6, 8, grad=False)[:, ::2],
    "expanded": lambda t: t(6, 1, grad=False).expand(6, 4),
    "one for all": lambda t: t(1, grad=False).expand(6, 4),
    "offset": lambda t: t(25, grad=False)[1:].view(6, 4),
    "scalar": lambda t: t(grad=False),
    "channels last": lambda t: t(2, 3, 4, 5, grad=False).to(memory_format=torch.channels_last),
    "twelve dimensions": lambda t: t(*[2] * 10, 1, 1, grad=False),
    "twelve dimensions, transposed": lambda t: t(*[2] * 10, 1, 1, grad=False).transpose(0, 9).transpose(3, 5),
    "large": lambda t: t(3, 40000, grad=False),
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@every_form
def test_layouts(form, layout, mixed):
    def make(contiguous):
        t = LAYOUTS[layout](normal)
        return (t.contiguous() if contiguous else t).requires_grad_()

    for dtype in (torch.float32, torch.bfloat16):
        call = loss_call("D", "nonsaturating", form)
        fine(lambda: orders(call, *[make(c).detach().to(dtype).requires_grad_() for c in (False, mixed)]))


@pytest.mark.parametrize("grads", [(True, False), (False, True)])
@every_loss
def test_one_of_two_requires_grad(role, loss, form, grads):
    if (role, form, grads) == ("G", None, (True, False)):
        return  # a loss on fake alone
    call = loss_call(role, loss, form)
    fine(lambda: orders(call, *[normal(9, grad=g) for g in grads]))


@every_dtype
@every_form
def test_one_gradient_at_a_time(form, dtype):
    def work():
        r, f = normal(9, dtype=dtype), normal(9, dtype=dtype)
        loss = fastgan.discriminator_loss(r, f, relativistic=form)
        scale = torch.tensor(0.3, dtype=loss.dtype)
        return [torch.autograd.grad(loss, x, scale, retain_graph=True)[0] for x in (r, f, f, r)]

    fine(work)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, -1.0], (1, 0, 3)])
@every_loss
def test_members(role, loss, form, weights, kind):
    def call(*logits):
        return loss_call(role, loss, form, weights=weights)(kind(logits[:3]), kind(logits[3:]))

    def work():
        logits = [normal(*shape) for shape in ((5,), (2, 3), ()) * 2]
        if (role, form) == ("G", None):
            logits[:3] = [t.detach() for t in logits[:3]]
        return orders(call, *logits)

    fine(work)


@every_dtype
@every_loss
def test_statistics(role, loss, form, dtype):
    def work():
        r, f = normal(9, dtype=dtype), normal(9, dtype=dtype)
        value, stats = loss_call(role, loss, form, return_stats=True)(r, f)
        assert nodes.module is None or has_node(value)
        return value, *stats, torch.autograd.grad(value, f)[0]

    fine(work)


@pytest.mark.parametrize("loss", [n for n in fastgan.losses() if n != "ranking"])
def test_real_or_fake_alone(loss):
    fine(lambda: orders(lambda r: fastgan.discriminator_loss(r, None, loss), normal(9)))
    fine(lambda: orders(lambda f: fastgan.discriminator_loss(None, f, loss), normal(9)))
    fine(lambda: orders(lambda f, g: fastgan.discriminator_loss(None, [f, g], loss), normal(9), normal(2)))


def test_the_same_tensor_twice():
    fine(lambda: orders(lambda x: fastgan.discriminator_loss(x, x, "hinge", relativistic="average"), normal(9)))


def test_without_grad():
    fine(
        lambda: [
            loss_call("D", n, m)(normal(9, grad=False), normal(9, grad=False))
            for n in fastgan.losses()
            for m in FORMS
        ]
    )


def test_memory_that_is_not_filled():
    """Outside of the tests' setting, memory for results comes past the dispatcher."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    for form in FORMS:
        fine(lambda: orders(loss_call("D", "hinge", form), normal(2, 30), normal(2, 30)))
    fine(lambda: orders(fastgan.norm_penalty, normal(5, 4)))
    fine(lambda: orders(fastgan.interpolate, normal(5, 4), normal(5, 4), torch.rand(5).requires_grad_()))
    with torch.inference_mode():
        fine(lambda: fastgan.discriminator_loss(normal(9), normal(9)))


UNUSUAL = {
    "weights in a tensor": lambda r, f: fastgan.discriminator_loss([r], [f], weights=torch.ones(1)),
    "a mask": lambda r, f: fastgan.discriminator_loss(r, f, real_mask=torch.ones(9, dtype=torch.bool)),
    "labels": lambda r, f: fastgan.discriminator_loss(r, f, real_target=torch.full((9,), 0.9)),
    "unreduced": lambda r, f: fastgan.discriminator_loss(r, f, reduction="none"),
    "dtypes": lambda r, f: fastgan.discriminator_loss(r.half(), f),
    "negated": lambda r, f: fastgan.discriminator_loss(torch.complex(r, r).conj().imag, f),
    "the reference": fastgan.backend("reference"),
    "the CPU's": fastgan.backend("cpu"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_calls(name):
    """They are what they are without the nodes; and most have none."""
    call = UNUSUAL[name]

    def work():
        r, f = normal(9), normal(9)
        with contextlib.nullcontext() if callable(call) else call:
            value = call(r, f) if callable(call) else fastgan.discriminator_loss(r, f)
        assert not has_node(value) or name == "the CPU's"
        return value, *torch.autograd.grad(value.sum(), (r, f))

    fine(work)


# ---------------------------------------------------------------------------- norms, points, terms

SPECS = [("two_sided", 2), ("one_sided", 2), ("power", 1), ("power", 2), ("power", 6)]
SHAPES = {"sample": (5, 3, 4), "channel": (5, 3, 4, 2), "batch": (5, 3)}
every_over = pytest.mark.parametrize("over", SHAPES)


@every_dtype
@every_over
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("kind", "power"), SPECS)
def test_norm_penalty_to_third_order(kind, power, reduction, over, dtype):
    def call(g):
        return fastgan.norm_penalty(g, kind, power=power, over=over, reduction=reduction)

    fine(lambda: orders(call, normal(*SHAPES[over], dtype=dtype)))


@every_dtype
@every_over
def test_gradient_norm_to_third_order(over, dtype):
    fine(lambda: orders(lambda g: fastgan.gradient_norm(g, over=over), normal(*SHAPES[over], dtype=dtype)))


@pytest.mark.parametrize("target", [0.0, 0.3, 5.0])
def test_targets_and_zeros(target):
    """At a gradient of zeros derivatives are 0."""
    for kind in ("two_sided", "one_sided"):
        fine(lambda: orders(lambda g: fastgan.norm_penalty(g, kind, target=target), normal(4, 3)))
        zeros = torch.zeros(4, 3, requires_grad=True)
        fine(lambda: orders(lambda g: fastgan.norm_penalty(g, kind, target=target), zeros))


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 4), (2, 3, 1, 1), (2, 1, 5, 5), (1, 2000, 2), (3, 2000, 2), (2, 7, 33, 65)]
)
@pytest.mark.parametrize("last", [False, True])
def test_norms_over_channels(shape, last):
    def work():
        g = normal(*shape, grad=False)
        g = (g.to(memory_format=torch.channels_last) if last and g.dim() == 4 else g).requires_grad_()
        return orders(lambda g: fastgan.gradient_norm(g, over="channel"), g)

    fine(work)


@pytest.mark.parametrize("kind", [list, tuple])
@every_over
def test_norms_of_several_tensors(over, kind):
    shapes = {"sample": ((5, 3), (5,), (5, 2, 2)), "channel": ((5, 3, 4), (5, 1, 4)), "batch": ((5, 3), (), (2,))}[
        over
    ]

    def work():
        tensors = [normal(*s) for s in shapes]
        values = fastgan.gradient_norm(kind(tensors), over=over), fastgan.norm_penalty(kind(tensors), over=over)
        found = list(values)
        for v in values:
            found += torch.autograd.grad(v.sum(), tensors[-1:], retain_graph=True)
            found += torch.autograd.grad(v.sum(), tensors, create_graph=True)
        return [*found, *torch.autograd.grad(sum(g.square().sum() for g in found[-3:]), tensors)]

    fine(work)


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if n != "scalar"])
def test_layouts_of_norms_and_points(layout):
    def make():
        return LAYOUTS[layout](normal).requires_grad_()

    fine(lambda: orders(lambda g: fastgan.gradient_norm(g), make()) if make().dim() > 1 else [])
    fine(lambda: orders(lambda g: fastgan.norm_penalty(g, over="batch"), make()))
    fine(lambda: orders(fastgan.interpolate, make(), make(), torch.rand(len(make())).requires_grad_()))


@every_dtype
@pytest.mark.parametrize(
    "grads", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
def test_points_to_third_order(grads, dtype):
    eps = torch.float64 if dtype == torch.float64 else torch.float32

    def work():
        r, f = normal(5, 3, 2, dtype=dtype, grad=grads[0]), normal(5, 3, 2, dtype=dtype, grad=grads[1])
        return orders(fastgan.interpolate, r, f, torch.rand(5).to(eps).requires_grad_(grads[2]))

    fine(work)


def test_points_of_several_tensors():
    def call(*t):
        return fastgan.interpolate(t[:2], t[2:4], t[4])

    fine(lambda: orders(call, normal(5, 3), normal(5), normal(5, 3), normal(5), torch.rand(5).requires_grad_()))
    fine(
        lambda: orders(
            call, normal(5, 3, grad=False), normal(5), normal(5, 3), normal(5, grad=False), torch.rand(5)
        )
    )


def test_a_gradient_of_one_of_several_points():
    def work():
        t = [normal(5, 3), normal(5), normal(5, 3), normal(5), torch.rand(5).requires_grad_()]
        one, other = fastgan.interpolate(t[:2], t[2:4], t[4])
        found = torch.autograd.grad(other.sum(), t, retain_graph=True, allow_unused=True)
        return *found, *torch.autograd.grad(one[0, 0], t, allow_unused=True)

    fine(work)


@pytest.mark.parametrize("shape", [(5, 1), (5, 1, 1)])
def test_shapes_and_dtypes_of_eps(shape):
    for dtype in DTYPES:
        eps = torch.rand(shape).to(dtype)
        fine(lambda: fastgan.interpolate(normal(5, 3), normal(5, 3), eps))
        fine(lambda: fastgan.interpolate(normal(5, 3, dtype=dtype), normal(5, 3, dtype=dtype), torch.rand(10)[::2]))


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("weights", [1.0, [0.5, 2.0, 0.0]])
@pytest.mark.parametrize("detach", [True, False])
def test_features(loss, weights, detach):
    def call(*maps):
        return fastgan.feature_matching_loss(
            [maps[0], [maps[1], maps[2]]], [maps[3], list(maps[4:])], loss=loss, weights=weights, detach_real=detach
        )

    def work():
        return orders(
            call, *[normal(*s, grad=k > 2 or not detach) for k, s in enumerate(((5,), (2, 3, 4), (3, 1)) * 2)]
        )

    fine(work)


def test_features_with_more():
    def work():
        r, f = [normal(5), normal(2, 3)], [normal(5), normal(2, 3)]
        found = []
        for options in ({"normalize": True}, {"weights": torch.rand(2)}, {"mask": [torch.rand(5), None]}):
            value = fastgan.feature_matching_loss(r, f, **options)
            found += [value, *torch.autograd.grad(value, f)]
        return found

    fine(work)


@pytest.mark.parametrize("phi", fastgan.backends.specs.PHIS)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_terms_to_third_order(phi, centred, dtype):
    terms = [fastgan.term(phi, 0.7, 0.2, -0.3, 1.5), fastgan.term(phi)]

    def call(x, y, z):
        return fastgan.reduce_terms(terms, [(x, y), z], centred=centred)

    fine(lambda: orders(call, normal(9, dtype=dtype), normal(9, dtype=dtype), normal(3, dtype=dtype)))


@pytest.mark.parametrize("weights", [None, [0.3, -2.0]])
@pytest.mark.parametrize("with_graph", [False, True])
@every_dtype
def test_values_of_terms(weights, with_graph, dtype):
    def work():
        x, y, z = (normal(9, dtype=dtype) for _ in range(3))
        options = {"with_graph": True} if with_graph else {"weights": weights}
        terms = [fastgan.term("softplus"), fastgan.term("square")]
        total, values = fastgan.reduce_terms(terms, [(x, y), z], return_values=True, **options)
        assert nodes.module is None or has_node(total)
        found = [total, *values, *torch.autograd.grad(total, (x, y, z), retain_graph=True)]
        if with_graph:
            found += [*torch.autograd.grad(values[0] * 3, (x, y)), *torch.autograd.grad(values[1], z)]
        return found

    fine(work)


def test_profilers_see_kernels():
    """Each by its name, in backward within its node; a loss's gradients come from its forward."""
    r, f = (torch.randn(8, 3, requires_grad=True) for _ in range(2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        (2 * fastgan.discriminator_loss(r, f)).backward()
        fastgan.norm_penalty(fastgan.interpolate(r, f)).backward()
    seen = {e.name: e.cpu_parent for e in profile.events() if e.name.startswith("fastgan::")}
    backward = {"fastgan::loss_rescale", "fastgan::penalty_backward", "fastgan::interpolate_backward"}
    assert set(seen) == backward | {f"fastgan::{family}_forward" for family in ("loss", "penalty", "interpolate")}
    assert all((n in backward) == (seen[n] is not None and "CppNode<fastgan::" in seen[n].name) for n in seen)


def test_in_place_operations_on_results():
    def work():
        r, f = normal(5, 3), normal(5, 3)
        points = fastgan.interpolate(r, f, torch.rand(5)).mul_(2)
        loss = fastgan.discriminator_loss(r, f, "hinge").mul_(3).add_(points.sum())
        total, values = fastgan.reduce_terms([fastgan.term("abs")], [r.double()], return_values=True)
        values.zero_()
        return loss, *torch.autograd.grad(loss + total.float(), (r, f))

    fine(work)


# ---------------------------------------------------------------------------- modes and transforms

CALLS = {
    "loss": lambda r, f: fastgan.discriminator_loss(r, f, "nonsaturating"),
    "average": lambda r, f: fastgan.discriminator_loss(r, f, "hinge", relativistic="average"),
    "penalty": lambda r, f: fastgan.norm_penalty((r, f)),
    "norms": lambda r, f: fastgan.gradient_norm((r, f)).sum(),
    "points": lambda r, f: fastgan.interpolate(r, f, torch.arange(len(r)) / 7).square().sum(),
    "features": lambda r, f: fastgan.feature_matching_loss(r, f, loss="l2", detach_real=False),
}
every_call = pytest.mark.parametrize("name", CALLS)


def stepped(call, scale=0.3):
    """A call's value and gradients, by a backward that is not a loss's alone."""
    r, f = normal(5, 4), normal(5, 4)
    value = call(r, f)
    (value * scale).backward()
    return value, r.grad, f.grad


@every_call
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    net = torch.nn.Linear(4, 3)

    def work():
        with torch.autocast("cpu", dtype=dtype):
            value = CALLS[name](net(torch.randn(5, 4)), net(torch.randn(5, 4)))
        return value, *torch.autograd.grad(value, net.parameters())

    fine(work)


@every_call
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_grad_and_inference_mode(name, mode):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        with mode():
            return CALLS[name](r, f), CALLS[name](r + 1, f)

    fine(work)


@every_call
def test_inference_tensors_beside_others(name):
    def work():
        with torch.inference_mode():
            f = torch.randn(5, 4)
        r = normal(5, 4)
        value = CALLS[name](r, f)
        return value, torch.autograd.grad(value, r)[0]

    fine(work)


@every_call
def test_grad_within_inference_mode(name):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        with torch.inference_mode(), torch.enable_grad():
            value = CALLS[name](r, f)
        return value, *torch.autograd.grad(value, (r, f))

    both(work)


@every_call
def test_backward_within_inference_mode(name):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        value = CALLS[name](r, f)
        with torch.inference_mode():
            return torch.autograd.grad(value, (r, f))

    both(work)


@every_call
def test_hooks_of_saved_tensors(name):
    def work():
        seen = []
        with saved_tensors_hooks(lambda t: seen.append("pack") or t.clone(), lambda t: seen.append("unpack") or t):
            found = stepped(CALLS[name])
        assert seen.count("pack") >= 2
        assert seen.count("unpack") >= 2
        return seen.count("pack"), seen.count("unpack"), *found

    fine(work)
    with save_on_cpu():
        fine(lambda: stepped(CALLS[name]))


CHANGES = {
    "float64": lambda t: t.double(),
    "bfloat16": lambda t: t.bfloat16(),
    "integers": lambda t: t.long(),
    "fewer": lambda t: t[1:],
    "flat": lambda t: t.flatten(),
    "none at all": lambda t: t[:0],
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "transposed": lambda t: t.t().contiguous().t(),
}


@every_call
@pytest.mark.parametrize("change", CHANGES)
def test_hooks_that_change_tensors(name, change):
    """As without nodes, or an error: no crash, and no other numbers."""

    def work():
        with saved_tensors_hooks(lambda t: t, lambda t: CHANGES[change](t) if t.dim() else t):
            return stepped(CALLS[name])

    with nodes.off():
        want = outcome(work)
    got = outcome(work)
    raised = isinstance(got, tuple) and isinstance(got[0], type)
    assert raised or same(got, want), f"nodes: {got}\nPython: {want}"


@every_call
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(name, reentrant):
    fine(lambda: stepped(lambda r, f: checkpoint(CALLS[name], r, f, use_reentrant=reentrant)))


@every_call
def test_logits_modified_in_place(name):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        moved = r * 1
        value = CALLS[name](moved, f)
        moved.add_(1)
        value.backward()

    kind, message = both(work)
    assert kind is RuntimeError
    assert "modified by an inplace operation" in message


@every_call
def test_a_second_backward_without_a_graph(name):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        value = CALLS[name](r, f)
        value.backward()
        value.backward()

    kind, message = both(work)
    assert kind is RuntimeError
    assert "second time" in message


@every_call
@pytest.mark.filterwarnings("ignore:Anomaly")
def test_anomaly_mode(name):
    with torch.autograd.set_detect_anomaly(True):
        fine(lambda: stepped(CALLS[name]))


@pytest.mark.filterwarnings("ignore")
def test_anomaly_mode_finds_nan():
    r = torch.full((3,), float("nan"), requires_grad=True)
    with torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values"):
        fastgan.discriminator_loss(r, r * 1).backward()


@pytest.mark.parametrize("make", [fastgan.nn.DiscriminatorLoss, fastgan.nn.GeneratorLoss])
def test_copies_of_modules(make):
    """After calls too, which have filled caches."""
    module = make("hinge", margin=0.3)
    x, y = normal(9), normal(9)
    for _ in range(3):
        want = module(x, y)
    for twin in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert same(twin(x, y).detach(), want.detach())


def test_threads():
    sizes = (50, 20000)

    def work(seed, size):
        generator = torch.Generator().manual_seed(seed)
        r, f = (torch.randn(size, generator=generator).requires_grad_() for _ in range(2))
        value = fastgan.discriminator_loss(r, f, "hinge", relativistic="average")
        value = value + fastgan.norm_penalty(r[None]) + fastgan.interpolate(r, f, torch.full((size,), 0.3)).sum()
        return value.detach(), *torch.autograd.grad(value * 0.3, (r, f))

    with nodes.off():
        want = {(seed, size): work(seed, size) for seed in range(8) for size in sizes}
    wrong = []

    def run(seed):
        for k in range(200):
            size = sizes[k % 20 == 0]
            if not same(work(seed, size), want[seed, size]):
                wrong.append((seed, k))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_one_graph_in_several_threads():
    r, f = normal(20000), normal(20000)
    loss = fastgan.discriminator_loss(r, f, relativistic="average")
    want, found = torch.autograd.grad(loss, (r, f), torch.tensor(0.3), retain_graph=True), []

    def run():
        for _ in range(20):
            found.append(torch.autograd.grad(loss, (r, f), torch.tensor(0.3), retain_graph=True))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 80
    assert all(same(g, want) for g in found)


TRANSFORMS = {
    "grad": lambda c: torch.func.grad(c, (0, 1))(normal(5, 4), normal(5, 4)),
    "vmap": lambda c: torch.func.vmap(c)(normal(3, 5, 4, grad=False), normal(3, 5, 4, grad=False)),
    "vmap, one of two": lambda c: torch.func.vmap(c, (0, None))(normal(3, 5, 4), normal(5, 4)),
    "vmap of grad": lambda c: torch.func.vmap(torch.func.grad(c))(normal(3, 5, 4), normal(3, 5, 4)),
    "jvp": lambda c: torch.func.jvp(c, (normal(5, 4), normal(5, 4)), (torch.ones(5, 4), torch.ones(5, 4))),
    "vjp": lambda c: torch.func.vjp(c, normal(5, 4), normal(5, 4))[1](torch.tensor(0.3)),
    "hessian": lambda c: torch.func.hessian(c)(normal(3, 2), normal(3, 2)),
    "functional hessian": lambda c: torch.autograd.functional.hessian(c, (normal(3, 2), normal(3, 2))),
    "vectorised": lambda c: torch.autograd.functional.hessian(c, (normal(3, 2), normal(3, 2)), vectorize=True),
}


@every_call
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(name, transform):
    both(lambda: TRANSFORMS[transform](CALLS[name]))


@every_call
def test_forward_mode(name):
    def work():
        with forward_ad.dual_level():
            r = forward_ad.make_dual(normal(5, 4), torch.ones(5, 4))
            value = CALLS[name](r, normal(5, 4))
            return forward_ad.unpack_dual(value).tangent

    both(work)


@every_call
def test_tensors_without_tangents_in_a_dual_level(name):
    """Whatever was called before, the second call is as the first."""

    def work():
        with forward_ad.dual_level():
            return stepped(CALLS[name])

    for _ in range(2):
        outcome(lambda: stepped(CALLS[name]))  # which fills caches
    both(work)


@every_call
@pytest.mark.parametrize("create_graph", [False, True])
def test_an_upstream_with_a_tangent(name, create_graph):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        value = CALLS[name](r, f)
        with forward_ad.dual_level():
            upstream = forward_ad.make_dual(torch.tensor(0.3), torch.tensor(1.0))
            grads = torch.autograd.grad(value, (r, f), upstream, create_graph=create_graph)
            return [part for g in grads for part in forward_ad.unpack_dual(g)]

    with nodes.off():
        want = outcome(work)
    got = outcome(work)
    assert same(got, want) or (want[0] is got[0] and isinstance(want[0], type)), f"nodes: {got}\nPython: {want}"


@every_call
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_batched_gradients(name, create_graph):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        value = CALLS[name](r, f)
        grads = torch.autograd.grad(
            value, (r, f), torch.randn(3), is_grads_batched=True, create_graph=create_graph, retain_graph=True
        )
        return *grads, *torch.autograd.grad(value, (r, f))

    both(work)


@pytest.mark.filterwarnings("ignore")
def test_batched_gradients_of_norms():
    def work():
        g = normal(5, 4)
        torch.autograd.grad(fastgan.gradient_norm(g), g, torch.randn(3, 5), is_grads_batched=True)

    kind, message = both(work)
    assert kind is RuntimeError
    assert "a batched backward of an unreduced result" in message


class Ordinary(torch.utils._python_dispatch.TorchDispatchMode):
    """A mode that does nothing but be there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Functions(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@every_call
@pytest.mark.parametrize("mode", [Ordinary, Functions])
@pytest.mark.parametrize("where", ["forward", "backward", "both"])
def test_modes(name, mode, where):
    """A mode in force at the backward alone finds gradients that forward computed, or computes the same."""

    def work():
        r, f = normal(5, 4), normal(5, 4)
        with mode() if where != "backward" else contextlib.nullcontext():
            value = CALLS[name](r, f)
        with mode() if where != "forward" else contextlib.nullcontext():
            return value, *torch.autograd.grad(value, (r, f), torch.tensor(0.3))

    fine(work)


@every_call
def test_upstreams_of_another_kind(name):
    """Expanded, negated, of another class: the same gradients."""

    class Subclass(torch.Tensor):
        pass

    upstreams = {
        "expanded": torch.tensor([0.3]).expand(1)[0],
        "negated": torch.tensor(1 - 0.3j).conj().imag * -1,
        "lazily negated": torch.tensor(1 - 0.3j).conj().imag,
        "a subclass": torch.tensor(0.3).as_subclass(Subclass),
        "zero": torch.zeros(()),
        "NaN": torch.tensor(float("nan")),
        "a parameter": torch.nn.Parameter(torch.tensor(0.3)),
    }

    def work(upstream):
        r, f = normal(5, 4), normal(5, 4)
        return torch.autograd.grad(CALLS[name](r, f), (r, f), upstream)

    for upstream in upstreams.values():
        fine(lambda: work(upstream))


@every_call
def test_traced_by_make_fx(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    def work():
        def step(r, f):
            return torch.autograd.grad(CALLS[name](r, f), (r, f))

        graph = make_fx(step)(normal(5, 4), normal(5, 4))
        return graph.code, *graph(normal(5, 4), normal(5, 4))

    both(work)


@every_call
def test_fake_tensors(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    def work():
        with FakeTensorMode():
            r, f = torch.empty(5, 4, requires_grad=True), torch.empty(5, 4, requires_grad=True)
            value = CALLS[name](r, f)
            return [(type(t), t.shape, t.dtype) for t in (value, *torch.autograd.grad(value, (r, f)))]

    both(work)


@every_call
@pytest.mark.filterwarnings("ignore")
def test_jit_trace(name):
    def work():
        traced = torch.jit.trace(CALLS[name], (normal(5, 4), normal(5, 4)), check_trace=False)
        return stepped(traced)

    both(work)


@every_call
def test_compiled(name):
    def work():
        torch._dynamo.reset()
        return stepped(torch.compile(CALLS[name], fullgraph=True, backend="aot_eager"))

    fine(work)


@every_call
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.filterwarnings("ignore")
def test_compiled_autograd(name, scale):
    """Also over one graph several times, each with its own gradients; torch 2.6 refuses, as docs/install.md says."""
    from torch._dynamo import compiled_autograd

    def work():
        torch._dynamo.reset()
        r, f = normal(5, 4), normal(5, 4)
        value, found = CALLS[name](r, f), []
        with compiled_autograd._enable(lambda module: torch.compile(module, backend="eager")):
            for _ in range(3):
                r.grad = f.grad = None
                value.backward(torch.tensor(scale), retain_graph=True)
                found += [r.grad.clone(), f.grad.clone()]
                r.grad.zero_()
        return found

    if requirements.parsed(torch.__version__) < (2, 8):
        with pytest.raises(RuntimeError, match=r"potentially unsafe C\+\+ autograd function"):
            work()
        return
    fine(work)


@needs_gloo
def test_distributed(tmp_path):
    with group_of_one(tmp_path):

        def work():
            net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
            r, f = net(torch.randn(5, 4)), net(torch.randn(5, 4))
            value = fastgan.discriminator_loss(r, f, "hinge") + fastgan.norm_penalty(r)
            value.backward()
            return value, *[p.grad for p in net.parameters()]

        fine(work)


@every_call
def test_tensor_hooks(name):
    def work():
        r, f = normal(5, 4), normal(5, 4)
        x, seen = r * 1, []
        x.retain_grad()
        x.register_hook(lambda g: seen.append(g.clone()) or g * 2)
        value = CALLS[name](x, f)
        value.register_hook(lambda g: g * 3)
        value.grad_fn.register_prehook(lambda grads: tuple(g * 5 for g in grads))
        value.grad_fn.register_hook(lambda grads, _: None)
        value.backward()
        return *seen, x.grad, r.grad, f.grad

    fine(work)


# ---------------------------------------------------------------------------- memory and owners


@every_call
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_gradients_have_one_owner(name, scale):
    """A change of r.grad in place is not seen by later backwards over the same graph."""

    def work():
        r, f = normal(5, 4), normal(5, 4)
        value, found = CALLS[name](r, f), []
        for _ in range(3):
            r.grad = f.grad = None
            value.backward(torch.tensor(scale), retain_graph=True)
            found += [r.grad.clone(), f.grad.clone()]
            r.grad.fill_(7)
            f.grad.fill_(7)
        return found

    found = fine(work)
    assert same(found[:2], found[2:4])


def test_gradients_are_taken_over_without_a_copy():
    """AccumulateGrad keeps a gradient that nobody else has; a clone of it would have another address."""
    r, seen = normal(50), []
    loss = fastgan.discriminator_loss(r, normal(50, grad=False))
    loss.grad_fn.register_hook(lambda grads, _: seen.append(grads[0].data_ptr()))
    loss.backward()
    del loss
    assert r.grad is not None
    assert len(seen) == 1


@every_call
def test_calls_leave_nothing_behind(name):
    def calls(count):
        for _ in range(count):
            stepped(CALLS[name])
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = calls(50)
        after = calls(2000)
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < 50
    assert after[1] - before[1] < 20000


@every_call
def test_nothing_keeps_operands(name):
    r, f = normal(5, 4), normal(5, 4)
    kept = weakref.ref(r), weakref.ref(f)
    value = CALLS[name](r, f)
    value.backward()
    value = CALLS[name](r, f)
    torch.autograd.grad(value, (r, f), create_graph=True)
    count = sys.getrefcount(r)
    del value
    assert sys.getrefcount(r) <= count
    del r, f
    assert [k() for k in kept] == [None, None]


@pytest.mark.parametrize("form", ["paired", "average"])
def test_graphs_outlive_caches(form):
    def work():
        r, f = normal(9), normal(9)
        loss = fastgan.discriminator_loss(r, f, "hinge", relativistic=form, margin=0.37)
        discriminator_spec.cache_clear()
        gc.collect()
        first = torch.autograd.grad(loss, (r, f), create_graph=True)
        return *first, *torch.autograd.grad(loss, (r, f))

    fine(work)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_margins_that_change_at_each_call():
    """Plans are kept for the latest only."""
    x = normal(5)

    def calls(begin, count):
        for k in range(begin, begin + count):
            fastgan.discriminator_loss(x, x, "hinge", margin=1 + k / 65536)
        gc.collect()
        return resident()

    before = calls(0, 5000)
    assert calls(5000, 5000) - before < 4 << 20


# ---------------------------------------------------------------------------- errors


class Subclass(torch.Tensor):
    pass


def plain(*shape):
    return torch.randn(shape)


BAD = {
    "None": lambda c: c(None, plain(3)),
    "numbers": lambda c: c(1.0, 2.0),
    "an array": lambda c: c([1.0], [2.0]),
    "text": lambda c: c("real", "fake"),
    "a dict": lambda c: c({1: plain(3)}, {1: plain(3)}),
    "a generator": lambda c: c((t for t in ()), plain(3)),
    "tensor and list": lambda c: c(plain(3), [plain(3)]),
    "list and tensor": lambda c: c([plain(3)], plain(3)),
    "list and tuple": lambda c: c([plain(3)], (plain(3),)),
    "no members": lambda c: c([], []),
    "members": lambda c: c([plain(3)], [plain(3), plain(3)]),
    "None as a member": lambda c: c([plain(3), None], [plain(3), plain(3)]),
    "nested lists": lambda c: c([[plain(3)]], [[plain(3)]]),
    "integers": lambda c: c(torch.arange(3), torch.arange(3)),
    "bools": lambda c: c(torch.ones(3, dtype=torch.bool), plain(3)),
    "complex": lambda c: c(torch.randn(3, dtype=torch.complex64), plain(3)),
    "float8": lambda c: c(plain(3).to(torch.float8_e5m2), plain(3)),
    "float64 mixed": lambda c: c(plain(3).double(), plain(3)),
    "float16 mixed": lambda c: c(plain(3).half(), plain(3)),
    "16 bits mixed": lambda c: c(plain(3).half(), plain(3).bfloat16()),
    "shapes": lambda c: c(plain(3), plain(4)),
    "shapes that broadcast": lambda c: c(plain(3, 1), plain(3)),
    "transposed shapes": lambda c: c(plain(3, 4), plain(4, 3)),
    "empty": lambda c: c(plain(0), plain(0)),
    "one empty": lambda c: c(plain(3), plain(3, 0)),
    "sparse": lambda c: c(plain(3).to_sparse(), plain(3)),
    "sparse rows": lambda c: c(plain(3, 3).to_sparse_csr(), plain(3, 3)),
    "mkldnn": lambda c: c(plain(3).to_mkldnn(), plain(3)),
    "quantized": lambda c: c(torch.quantize_per_tensor(plain(3), 0.1, 0, torch.qint8), plain(3)),
    "meta": lambda c: c(plain(3).to("meta"), plain(3).to("meta")),
    "meta and CPU": lambda c: c(plain(3), plain(3).to("meta")),
    "nested": lambda c: c(torch.nested.nested_tensor([plain(3)]), plain(3)),
    "jagged": lambda c: c(torch.nested.nested_tensor([plain(3)], layout=torch.jagged), plain(3)),
    "negated": lambda c: c(torch.randn(3, dtype=torch.complex64).conj().imag, plain(3)),
    "a subclass": lambda c: c(plain(3).as_subclass(Subclass), plain(3)),
    "a parameter": lambda c: c(torch.nn.Parameter(plain(3)), plain(3)),
    "a buffer": lambda c: c(torch.nn.Buffer(plain(3)), plain(3)),
    "lazy": lambda c: c(torch.nn.UninitializedParameter(), plain(3)),
    "scalars": lambda c: c(plain(), plain()),
    "scalar and vector": lambda c: c(plain(), plain(3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bad", BAD)
def test_bad_tensors(bad):
    """The same errors; where there is none, the same results."""
    calls = [loss_call(role, "hinge", form) for role in "DG" for form in FORMS]
    calls += [lambda r, f: fastgan.discriminator_loss(r, f, "ranking", return_stats=True)]
    calls += [lambda r, f: fastgan.discriminator_loss(r, f, weights=[1.0])]
    calls += [lambda r, f: fastgan.norm_penalty([r, f]), lambda r, f: fastgan.gradient_norm(r)]
    calls += [lambda r, f, over=over: fastgan.gradient_norm(r, over=over) for over in ("channel", "batch", "x")]
    calls += [lambda r, f: fastgan.interpolate(r, f, torch.full((3,), 0.3)), fastgan.feature_matching_loss]
    calls += [lambda r, f: fastgan.reduce_terms([fastgan.term("abs")] * 2, [(r, f), r], return_values=True)]
    calls += [lambda r, f: fastgan.reduce_terms([fastgan.term("abs")], [(r, f)], centred=True)]
    for call in calls:
        outcome(lambda: call(torch.randn(3, 3), torch.randn(3, 3)))  # which fills caches
        both(lambda: BAD[bad](call))


OPTIONS = [
    {"margin": True},
    {"margin": "1"},
    {"margin": None},
    {"margin": float("nan")},
    {"margin": float("inf")},
    {"margin": 1},
    {"margin": 10**400},
    {"margin": torch.tensor(0.5)},
    {"margin": torch.tensor([0.5])},
    {"margin": 1j},
    {"loss": "hing"},
    {"loss": ["hinge"]},
    {"loss": None},
    {"loss": 3},
    {"loss": {}},
    {"loss": "wasserstein", "margin": 0.5},
    {"relativistic": "pair"},
    {"relativistic": ["paired"]},
    {"relativistic": True},
    {"reduction": "average"},
    {"reduction": None},
    {"reduction": ["mean"]},
    {"reduction": True},
    {"targets": (0.0, 1.0, 1.0), "loss": "least_squares"},
    {"targets": (0, 1), "loss": "least_squares"},
    {"targets": 3, "loss": "least_squares"},
    {"targets": "abc", "loss": "least_squares"},
    {"targets": (True, 0.0, 1.0), "loss": "least_squares"},
    {"real_target": 1.5, "loss": "nonsaturating"},
    {"real_target": True, "loss": "nonsaturating"},
    {"real_target": "x", "loss": "nonsaturating"},
    {"fake_target": -0.1, "loss": "nonsaturating"},
    {"fake_target": float("nan"), "loss": "saturating"},
    {"weights": [1.0]},
    {"weights": 1.0},
    {"weights": [True]},
    {"weights": ["1"]},
    {"weights": [float("nan")]},
    {"weights": torch.ones(2)},
    {"real_mask": 1},
    {"process_group": 1},
    {"return_stats": 1},
    {"return_stats": True, "reduction": "none"},
    {"unknown": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bad_options(options):
    options = {"loss": "hinge", **options}
    for call in (fastgan.discriminator_loss, fastgan.generator_loss):
        call(normal(3), normal(3), "hinge")
        both(lambda: call(normal(3), normal(3), **options))


NORM_OPTIONS = [
    {"kind": "twosided"},
    {"kind": ["power"]},
    {"power": 3},
    {"kind": "power", "power": 0},
    {"kind": "power", "power": 17},
    {"kind": "power", "power": True},
    {"kind": "power", "power": 2.0},
    {"kind": "power", "target": 2.0},
    {"target": True},
    {"target": "1"},
    {"target": float("nan")},
    {"over": "pixel"},
    {"over": None},
    {"over": ["batch"]},
    {"reduction": "max"},
    {"batch_dim": 5},
    {"batch_dim": True},
    {"pac": 2},
    {"mask": torch.zeros(3, 3)},
    {"weights": torch.ones(4)},
]


@pytest.mark.parametrize("options", NORM_OPTIONS, ids=str)
def test_bad_options_of_norms(options):
    both(lambda: fastgan.norm_penalty(normal(3, 3), **options))


EPS = [
    torch.full((3,), 1.5),
    torch.full((3,), float("nan")),
    torch.rand(4),
    torch.rand(1),
    torch.arange(3),
    0.3,
    "x",
]
EPS += [torch.rand(3).to("meta"), torch.rand(3).to_sparse(), torch.rand(3, 2), torch.rand(())]


@pytest.mark.parametrize("eps", EPS)
def test_bad_eps(eps):
    both(lambda: fastgan.interpolate(normal(3, 3), normal(3, 3), eps))


def test_probabilities_are_warned_of(monkeypatch):
    """The shortest way does not pass by the look at the first logits."""
    from fastgan import _checks

    def work():
        monkeypatch.setattr(probabilities, "undecided", True)
        monkeypatch.setattr(probabilities, "seen", 0)
        monkeypatch.setattr(_checks, "_said", set())
        with pytest.warns(UserWarning, match="all of the first"):
            [fastgan.discriminator_loss(torch.rand(40), torch.rand(40)) for _ in range(20)]

    both(work)


# ---------------------------------------------------------------------------- the module itself


def scanned(scan, tensors):
    try:
        return scan(tensors)
    except TypeError:
        return TypeError


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bad", BAD)
def test_scans_agree(bad):
    BAD[bad](
        lambda *t: [
            scanned(native.scan, x) == scanned(nodes.module.scan, x) or pytest.fail(str(x))
            for x in (t, t[:1], t[1:])
        ]
    )


def test_off_puts_the_nodes_back():
    with contextlib.suppress(KeyError), nodes.off():
        assert nodes.module is None
        raise KeyError
    assert nodes.module is not None
    assert nodes.scan is nodes.module.scan


MISUSE = """
import sys, torch, fastgan
from fastgan.backends import nodes
m, r, f = nodes.module, torch.randn(4, requires_grad=True), torch.randn(4)
term = "softplus -0x1p+0 0x0p+0 0x0p+0 0x1p+0 0x0p+0 {} {} {} 1 {} 1 -1 -1"
def loss(reduction, roles, *terms):
    return m.loss_plan(";".join([reduction, roles, *[term.format(*t) for t in terms]]))
two = loss("mean", "1 2", (0, -1, -1, 0), (1, -1, -1, 0))
one = m.penalty_plan("two_sided 0x1p+0 2 0x1p+0 sample mean")
for call in sys.argv[1:]:
    try:
        print(call, repr(eval(call)), sep=" -> ", flush=True)
    except (TypeError, ValueError, RuntimeError) as error:
        print(call, "Error", sep=" -> ", flush=True)
"""
NOTHING = """m.loss(two, (r,)) | m.loss(two, (r, None)) | m.loss(two, (r, f, f)) | m.loss(two, {1: r, 2: f}) | m.loss(two, ())
m.loss(two, (r, torch.empty(0))) | m.loss(two, (r, f.double())) | m.loss(two, (r, f.to("meta"))) | m.loss(two, (r, f.to_sparse()))
m.interpolate((r, f)) | m.interpolate(()) | m.interpolate((r, f, torch.rand(3))) | m.interpolate((r, f, torch.rand(4).double()))
m.penalty(one, (r[None], f[:, None])) | m.penalty(one, ()) | m.nothing(()) | m.serve(-1) | m.serve(10**6)"""
REFUSED = r"""m.loss("x", ()) | m.loss() | m.loss(two) | m.loss(1, 2, 3, 4, 5) | m.loss(one, (r, f)) | m.scan(5) | m.penalty(two, (r,))
m.penalty() | m.interpolate(5) | m.interpolate(None) | m.loss(two, 5) | m.loss_plan("garbage") | m.loss_plan(5) | m.loss_plan("")
m.loss_plan(";;;") | m.loss_plan("mean;1;") | m.loss_plan("\ud800") | m.penalty_plan("") | m.penalty_plan("two_sided")
m.penalty_plan(None) | m.serve("x") | m.learn() | m.learn(1, 2, 3, 4) | m.nothing(5)
m.penalty_plan("two_sided 0x1p+0 17 0x1p+0 sample mean") | m.penalty_plan("two_sided 0x1p+0 2 0x1p+0 pixel mean")
loss("mean", "1 2", (0, -1, -1, 0), (2, -1, -1, 0)) | loss("mean", "1", (-1, -1, -1, 0)) | loss("mean", "1 2", (0, 9, -1, 0))
loss("mean", "1", (0, -1, 7, 0)) | loss("mean", "1", (0, 0, -1, 0)) | loss("mean", "1 2", (0, -1, -1, 0))
loss("mean", "7", (0, -1, -1, 0)) | loss("max", "1", (0, -1, -1, 0)) | loss("mean 0x1p+0", "1", (0, -1, -1, 3))
loss("mean", "1", ("x", -1, -1, 0)) | loss("mean", "1", ("1e300", -1, -1, 0)) | loss("mean", "1", ("nan", -1, -1, 0))
m.loss(loss("none", "1", (0, -1, -1, 0)), (r,))"""


@pytest.mark.parametrize(("calls", "wanted"), [(NOTHING, "None"), (REFUSED, "Error")], ids=["None", "Error"])
def test_misuse(calls, wanted):
    """An error or None, in a process of its own: never a crash."""
    calls = re.split(r" \| |\n", calls)
    done = subprocess.run([sys.executable, "-c", MISUSE, *calls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.splitlines() == [f"{call} -> {wanted}" for call in calls]


COMMA = """
import locale, torch, fastgan
x = torch.randn(9)
locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
print(fastgan.discriminator_loss(x, x, "hinge", margin=0.3).item() > 0, fastgan.norm_penalty(x[None], target=0.3).item() >= 0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="makes a locale with localedef")
def test_a_locale_with_a_decimal_comma(tmp_path):
    """Programs with a window set the user's locale; numbers are still read as Python wrote them."""
    try:
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no such locale can be made: {error}")
    environment = {**os.environ, "LOCPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMMA], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == "True True", done.stderr


def test_zeros_of_either_sign_are_two_weights():
    """0 and -0 are one key of a cache, and give zeros of other signs."""
    r, f = normal(5), normal(5)

    def signs(weight):
        loss = fastgan.discriminator_loss([r], [f], "wasserstein", weights=[weight])
        return torch.cat(torch.autograd.grad(loss, (r, f))).signbit()

    found = [signs(weight) for weight in (0.0, -0.0)]
    assert torch.equal(found[0], ~found[1])
    with nodes.off():
        assert all(torch.equal(a, signs(weight)) for a, weight in zip(found, (0.0, -0.0), strict=True))
