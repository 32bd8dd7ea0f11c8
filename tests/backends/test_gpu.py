"""The kernels on a GPU: the CPU's bits, graphs, streams, threads, no waiting, few launches.

Skipped where there is no GPU, unless FASTGAN_TEST_REQUIRED=1, with which they fail. FASTGAN_TEST_DEVICE=cpu runs what needs none with the CPU kernels on both
sides, which tries the tests themselves. FASTGAN_EXHAUSTIVE=1 adds all 2^32 float32 patterns.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

import fastgan
from fastgan import backends, requirements
from fastgan.backends import cpu, cuda
from tests.helpers import ulp

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # conftest asks for deterministic algorithms
DEVICE = torch.device(os.environ.get("FASTGAN_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
BACKENDS = ("cuda", "triton") if ON_GPU else (os.environ.get("FASTGAN_TEST_BACKEND", "cpu"),)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = (1, 31, 1023, 1024, 1025, 8193, 100_003)
FORMS = (None, "paired", "average")

pytestmark = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU's streams")


def unusable(name):
    """Why the kernels of `name` cannot be tested here, or None where they can."""
    return "no CUDA device" if ON_GPU and not torch.cuda.is_available() else backends.named(name).missing()


@pytest.fixture(params=BACKENDS, autouse=True)
def kernels(request):
    """The backend under test, in force while the test runs."""
    why = unusable(request.param)
    if why:
        (pytest.fail if os.environ.get("FASTGAN_TEST_REQUIRED") else pytest.skip)(why)
    with fastgan.backend(request.param):
        yield request.param


# ---------------------------------------------------------------------------------- the same bits


def listed(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def pattern(like, period, factor):
    """Numbers with few bits in the shape of `like`, the same on every device."""
    numbers = (torch.arange(like.numel()) % period - period // 3) * factor
    return numbers.to(like.dtype).reshape(like.shape).to(like.device)


def everything(call, tensors, factor=-0.85):
    """Values, gradients for an upstream of 1 and for another, and what a second order gives."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    values = listed(call(*tensors))
    grad = partial(torch.autograd.grad, retain_graph=True, allow_unused=True)
    plain = grad(values, tensors, [torch.ones_like(v) for v in values])
    ups = [pattern(v, 7, factor).requires_grad_() for v in values]
    first = grad(values, tensors, ups, create_graph=True)
    found = [g for g in first if g is not None and g.requires_grad]
    second = grad(found, [*tensors, *ups], [pattern(g, 17, 0.125) for g in found])
    return [*values, *plain, *first, *second]


def same(got, want):
    """Bit for bit; NaN is NaN, and 0 is -0, as in torch.equal."""
    if got is None or want is None:
        assert all(t is None or not t.any() for t in (got, want))
        return
    got, want = got.detach(), want.detach().to(got.device)
    assert got.dtype is want.dtype
    assert got.shape == want.shape
    nan = want.isnan()
    assert torch.equal(got.isnan(), nan)
    if not torch.equal(got.masked_fill(nan, 3.0), want.masked_fill(nan, 3.0)):
        wrong = (got != want) & ~nan
        a, b = got[wrong][0].item(), want[wrong][0].item()
        pytest.fail(f"{int(wrong.sum())} of {got.numel()} differ ({got.dtype}); the first: {a!r}, wanted {b!r}")


def check(call, tensors, view=lambda t: t, **options):
    """`call` has on the device, first and second order included, the bits it has on the CPU."""
    got = everything(call, [view(t.to(DEVICE)) for t in tensors], **options)
    with fastgan.backend("cpu"):
        want = everything(call, [view(t) for t in tensors], **options)
    for a, b in zip(got, want, strict=True):
        same(a, b)


def logits(n, dtype=torch.float32, shape=None):
    """Two tensors of logits on the CPU, mostly of ordinary size."""
    spread = torch.logspace(-3, 1.5, n)
    return [(torch.randn(n) * spread).reshape(shape or (n,)).to(dtype) for _ in range(2)]


def call_of(role, name, form=None, **options):
    """A loss as a function of (real, fake)."""
    if role == "D":
        return lambda r, f: fastgan.discriminator_loss(r, f, name, relativistic=form, **options)
    return lambda r, f: fastgan.generator_loss(f, r if form else None, name, relativistic=form, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", fastgan.losses())
def test_losses(name, form, dtype):
    for n in SIZES:
        for role in "DG":
            check(call_of(role, name, form), logits(n, dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("role", ["D", "G"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nonsaturating", {"real_target": 0.9, "fake_target": 0.1}),
        ("saturating", {"fake_target": 0.3}),
        ("hinge", {"margin": 0.3}),
        ("ranking", {"margin": -0.7}),
        ("least_squares", {"targets": (-1.0, 0.7, 0.1)}),
    ],
    ids=str,
)
def test_options(name, options, role, form):
    for dtype in DTYPES:
        check(call_of(role, name, form, **options), logits(3001, dtype))


@pytest.mark.parametrize("form", FORMS)
def test_sums_of_three_levels(form):
    for n in (1024 * 1024, 1024 * 1024 + 1, 3_000_017):
        check(call_of("D", "nonsaturating", form), logits(n))
    check(call_of("D", "hinge", form), logits(1024 * 1024 + 1, torch.bfloat16))


def test_more_than_two_to_the_31_elements():
    """64-bit indices: a stride of 0 makes a big tensor small."""
    if ON_GPU and torch.cuda.mem_get_info()[0] < 32 << 30:
        pytest.skip("needs 32 GB, as kernels may copy such a view")
    n = (1 << 31) + 1025
    x = torch.full((1,), 0.5, device=DEVICE).expand(n)
    assert fastgan.generator_loss(x, loss="hinge") == -0.5
    assert fastgan.reduce_terms([fastgan.term("identity")], [x], reduction="sum").item() == torch.tensor(n / 2)


VIEWS = {
    "misaligned": lambda t: t.flatten()[1:],
    "misaligned by three": lambda t: t.flatten()[3:],
    "stepped": lambda t: t.flatten()[::3],
    "transposed": lambda t: t.transpose(0, 3),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "a window": lambda t: t[1:, :, 2:-1, 3:],
    "expanded": lambda t: t[:, :1].expand(-1, 6, -1, -1),
    "a number": lambda t: t[0, 0, 0, 0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("view", VIEWS)
def test_layouts(view, form, dtype):
    check(call_of("D", "nonsaturating", form), logits(4 * 6 * 33 * 17, dtype, (4, 6, 33, 17)), VIEWS[view])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_that_differ_within_a_pair(dtype):
    r, f = logits(6 * 33 * 16, dtype, (1, 6, 33, 16))

    def call(r, f):
        f = f.contiguous(memory_format=torch.channels_last)
        return fastgan.discriminator_loss(r, f, relativistic="paired")

    check(call, [r, f])


WEIGHTS = {
    "none": None,
    "floats": [0.1 * k - 1 for k in range(70)],
    "a tensor": torch.linspace(-1, 2, 70),
    "bfloat16": torch.linspace(-1, 2, 70).bfloat16(),
    "doubles": torch.linspace(-1, 2, 70, dtype=torch.float64),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lists(reduction, form, weights):
    """70 members, of sizes from 1 to some thousands."""
    given = WEIGHTS[weights]

    def call(*tensors):
        w = given.to(tensors[0].device) if isinstance(given, torch.Tensor) else given
        half = len(tensors) // 2
        return fastgan.discriminator_loss(
            tensors[:half], tensors[half:], relativistic=form, reduction=reduction, weights=w
        )

    for dtype in (torch.float32, torch.bfloat16):
        members = [logits(1 + (k * k * 7) % 4099, dtype) for k in range(70)]
        check(call, [r for r, _ in members] + [f for _, f in members])


def test_lists_of_mixed_dtypes_and_of_many_members():
    def call(*tensors):
        return fastgan.generator_loss(tensors, loss="least_squares")

    check(call, [logits(100 * k + 1, DTYPES[2 * (k % 2)])[0] for k in range(9)])
    check(call, [logits(k + 1)[0] for k in range(700)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reductions(reduction, form, dtype):
    for n in (1, 1025, 8193):
        check(call_of("D", "nonsaturating", form, reduction=reduction), logits(n, dtype))
        check(call_of("G", "hinge", form, reduction=reduction), logits(n, dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", fastgan.losses())
@pytest.mark.parametrize("role", ["D", "G"])
def test_statistics(role, name, form):
    call = call_of(role, name, form, return_stats=True)
    for dtype in DTYPES:
        for n in (1, 1025, 100_003):
            r, f = logits(n, dtype)
            loss, stats = call(r.to(DEVICE), f.to(DEVICE))
            with fastgan.backend("cpu"):
                wanted_loss, wanted = call(r, f)
            same(loss, wanted_loss)
            for a, b in zip(stats, wanted, strict=True):
                same(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_with_a_graph(dtype):
    def call(x, y):
        terms = [fastgan.term("softplus", weight=0.5), fastgan.term("relu_half", shift=1.0), fastgan.term("abs")]
        total, values = fastgan.reduce_terms(terms, [x, y, (x, y)], return_values=True, with_graph=True)
        return total + 3 * values[1] - values[2]

    for n in (1, 1025, 100_003):
        check(call, logits(n, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_terms(reduction, dtype):
    """Every phi on one tensor, on a pair and on a centred pair, all in one call."""
    terms = [fastgan.term(p, 1.3, -0.2, 0.1, 0.7) for p in ulp.EXACT]

    def plain(*tensors):
        return fastgan.reduce_terms(terms, list(tensors), reduction=reduction)

    def pairs(*tensors, centred=False):
        entries = list(zip(tensors[::2], tensors[1::2], strict=True))
        return fastgan.reduce_terms(terms, entries, reduction=reduction, centred=centred)

    tensors = [t for n in (1, 70, 300, 1024, 1025, 2050, 5000) for t in logits(n, dtype)]
    check(plain, tensors[::2])
    check(pairs, tensors)
    check(partial(pairs, centred=True), tensors)


def test_values_of_terms():
    terms = [fastgan.term("softplus", weight=w) for w in (1.0, -2.0, 0.3)]
    tensors = [logits(n)[0] for n in (5, 3001, 70_000)]
    got = fastgan.reduce_terms(terms, [t.to(DEVICE) for t in tensors], return_values=True)
    with fastgan.backend("cpu"):
        want = fastgan.reduce_terms(terms, tensors, return_values=True)
    for a, b in zip(got, want, strict=True):
        same(a, b)


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-40, 1e-38, 1.0, -1.0, 17.0, -88.0, 104.0, -104.0, 1e20, -1e20, 3e38, -3e38]
SPECIAL += [float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", fastgan.losses())
def test_special_values(name, dtype):
    x = torch.tensor(SPECIAL).to(dtype)
    for reduction in ("none", "mean"):
        check(call_of("D", name, reduction=reduction), [x, x.flip(0)])
    for number in x:  # alone, where no other value hides it
        check(call_of("D", name, "average"), [number.expand(3), torch.zeros_like(number).expand(2)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("phi", ulp.EXACT)
def test_all_16_bit_patterns(phi, dtype):
    x = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    check(lambda x: fastgan.reduce_terms([fastgan.term(phi)], [x], reduction="none"), [x])


def patterns(begin, end, stride=1):
    """The float32 numbers whose bits are range(begin, end, stride), on the CPU."""
    return torch.arange(begin, end, stride).to(torch.int32).view(torch.float32)


def check_patterns(phi, x):
    got = ulp.jet(phi, x.to(DEVICE))
    with fastgan.backend("cpu"):
        want = ulp.jet(phi, x)
    for a, b in zip(got, want, strict=True):
        same(a, b)


@pytest.mark.parametrize("phi", ulp.EXACT)
def test_a_sample_of_all_patterns(phi):
    check_patterns(phi, patterns(-(1 << 31), 1 << 31, 4099))


@pytest.mark.skipif(os.environ.get("FASTGAN_EXHAUSTIVE") != "1", reason="only if FASTGAN_EXHAUSTIVE=1")
def test_every_pattern_through_softplus():
    """Value, first and second derivative; a chunk at a time, small enough that memory is used again."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    chunk = 1 << 22
    for begin in range(-(1 << 31), 1 << 31, chunk):
        check_patterns("softplus", patterns(begin, begin + chunk))


def test_a_loss_scale_saves_float16_gradients():
    for scale in (65536.0, 3.0):
        f = torch.full((4096,), 17.0, dtype=torch.float16, device=DEVICE, requires_grad=True)
        (fastgan.generator_loss(f) * scale).backward()
        exact = -scale / 4096 / (1 + torch.tensor(17.0, dtype=torch.float64).exp())
        assert torch.equal(f.grad.cpu(), torch.full((4096,), exact).to(torch.float16))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_only_where_they_are_asked_for(form):
    r, f = (t.to(DEVICE) for t in logits(3001))
    both = everything(call_of("D", "nonsaturating", form), [r, f])
    for asked in (0, 1):
        pair = [t.clone().requires_grad_(k == asked) for k, t in enumerate((r, f))]
        call_of("D", "nonsaturating", form)(*pair).backward()
        same(pair[asked].grad, both[1 + asked])
        assert pair[1 - asked].grad is None
    with torch.no_grad():
        same(call_of("D", "nonsaturating", form)(r, f), both[0])


@pytest.mark.parametrize("form", FORMS)
def test_two_backward_passes(form):
    r, f = (t.to(DEVICE).requires_grad_() for t in logits(5000))
    loss = call_of("D", "nonsaturating", form)(r, f)
    first = torch.autograd.grad(loss, (r, f), retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.mul_(7)  # its owner may
    for again, want in zip(torch.autograd.grad(loss, (r, f), retain_graph=True), kept, strict=True):
        same(again, want)
    scaled = torch.autograd.grad(loss, (r, f), torch.full_like(loss, 4.0))
    for g, want in zip(scaled, kept, strict=True):
        torch.testing.assert_close(g, 4 * want, rtol=1e-6, atol=1e-9)
    loss = call_of("D", "nonsaturating", form)(r, f)
    with torch.no_grad():
        r.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tour():
    """Every kernel once, on little data: what compute-sanitizer watches."""
    for form in FORMS:
        for dtype in DTYPES:
            check(call_of("D", "nonsaturating", form), logits(1025, dtype))
        check(call_of("D", "hinge", form, reduction="none"), logits(70))
        check(call_of("D", "hinge", form), logits(4 * 6 * 5 * 7, shape=(4, 6, 5, 7)), VIEWS["a window"])
    for over in ("sample", "channel", "batch"):
        check(partial(fastgan.norm_penalty, over=over), [torch.randn(3, 3, 40, 29)])
    check(fastgan.interpolate, [torch.randn(5, 300), torch.randn(5, 300), torch.rand(5)])


# ---------------------------------------------------------------------------------- penalties

PSI = [
    ("two_sided", {}),
    ("one_sided", {"target": 0.5}),
    *(("power", {"power": p}) for p in (1, 2, 3, 6)),
]
SHAPES = [(4, 3, 5, 7), (1, 1), (2, 1500), (3, 3, 40, 10), (2, 2050, 3), (300, 2), (2, 130, 4)]


def over_for(shape):
    return ["sample", "channel", "batch"] if len(shape) > 2 else ["sample", "batch"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "options"), PSI, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_penalty(shape, kind, options, dtype):
    g = (torch.randn(shape) * 0.3).to(dtype)
    for over in over_for(shape):
        for reduction in ("mean", "sum", "none"):
            check(partial(fastgan.norm_penalty, kind=kind, over=over, reduction=reduction, **options), [g])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows(dtype):
    """Sums of three levels, in few rows and in one."""
    g = (torch.randn(2, 1024 * 1024 + 1) * 0.01).to(dtype)
    for over in ("sample", "batch"):
        check(partial(fastgan.norm_penalty, over=over), [g])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_of_gradients(dtype, view):
    def shaped(t):
        t = VIEWS[view](t)
        return t if t.dim() > 1 else t[: t.numel() // 5 * 5].unflatten(0, (5, -1)) if t.dim() else t.reshape(1, 1)

    g = (torch.randn(4, 6, 33, 17) * 0.1).to(dtype)
    for over in over_for(shaped(g).shape):
        check(partial(fastgan.norm_penalty, over=over), [g], shaped)
        check(partial(fastgan.gradient_norm, over=over), [g], shaped)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_and_statistics_of_penalties(dtype):
    g, weights = (torch.randn(50, 3, 40) * 0.2).to(dtype), torch.rand(50)

    def weighed(g, over):
        return fastgan.norm_penalty(g, over=over, weights=weights.to(g.device))

    for over in ("sample", "channel"):
        check(partial(weighed, over=over), [g])
    for over in over_for(g.shape):
        call = partial(fastgan.norm_penalty, over=over, target=1.1, return_stats=True)
        value, stats = call(g.to(DEVICE))
        with fastgan.backend("cpu"):
            want, wanted = call(g)
        same(value, want)
        for a, b in zip(stats[:6], wanted[:6], strict=True):
            same(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks(dtype):
    """To within roundings: the mask's mean is divided by at another place, as nothing may wait for it."""
    g = (torch.randn(4, 3, 20, 30) * 0.3).to(dtype)
    eps = torch.finfo(dtype).eps
    for mask in (torch.rand(4, 1, 20, 30) > 0.4, torch.rand(4, 3, 20, 30), torch.rand(20, 30, dtype=torch.float64)):
        for over in over_for(g.shape):

            def call(g, mask=mask, over=over):
                return fastgan.norm_penalty(g, over=over, mask=mask.to(g.device))

            got = everything(call, [g.to(DEVICE)])
            with fastgan.backend("cpu"):
                want = everything(call, [g])
            for a, b in zip(got, want, strict=True):
                near = 8 * (eps if a.dtype is dtype else torch.finfo(a.dtype).eps)
                torch.testing.assert_close(a.cpu(), b, rtol=near, atol=near * b.detach().abs().max().item())


@pytest.mark.parametrize("magnitude", [0.0, 1e-44, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("kind", ["two_sided", "one_sided", "power"])
def test_extreme_gradients(kind, magnitude):
    g = (torch.randn(5, 3, 700) * magnitude).float()
    g[1] = 0
    for over in over_for(g.shape):
        check(partial(fastgan.norm_penalty, kind=kind, over=over, reduction="none"), [g])
        check(partial(fastgan.norm_penalty, kind=kind, over=over), [g.double() * magnitude**4])
    g[0, 0, 0], g[2, 1, 3] = float("inf"), float("nan")
    for over in over_for(g.shape):
        check(partial(fastgan.norm_penalty, kind=kind, over=over, reduction="none"), [g])


def test_several_tensors_have_one_norm():
    a, b = torch.randn(4, 3, 5), torch.randn(4, 8000).half()

    def call(a, b):
        return fastgan.norm_penalty((a, b), target=0.3)

    check(call, [a, b])
    check(lambda a, b: fastgan.gradient_norm([a, b], over="batch"), [a, b])
    check(lambda *many: fastgan.norm_penalty(many), [torch.randn(3, k + 1) for k in range(70)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3, 7), (64, 1025), (3, 100_003), (7, 4, 33, 17)], ids=str)
def test_interpolate(shape, dtype):
    """Values and the gradients of real, of fake and of eps."""
    real, fake = (torch.randn(shape).to(dtype) for _ in range(2))
    fake.flatten()[::3] = real.flatten()[::3]
    eps = torch.rand(shape[0], dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    eps[0], eps[-1] = 0.0, 1.0
    check(fastgan.interpolate, [real, fake, eps])
    asked = [t.to(DEVICE).requires_grad_() for t in (real, fake, eps)]
    for t in asked:  # one at a time
        point = fastgan.interpolate(*[x if x is t else x.detach() for x in asked])
        (got,) = torch.autograd.grad(point, t, pattern(point, 17, 0.125))
        with fastgan.backend("cpu"):
            point = fastgan.interpolate(*[x.detach().cpu().requires_grad_(x is t) for x in asked])
        point.backward(pattern(point, 17, 0.125))
        leaf = [node.variable for node, _ in point.grad_fn.next_functions if node is not None]
        same(got, leaf[0].grad)


@pytest.mark.parametrize("view", [v for v in VIEWS if v != "a number"])
def test_layouts_of_samples(view):
    for dtype in DTYPES:
        tensors = logits(4 * 6 * 33 * 17, dtype, (4, 6, 33, 17))
        rows = len(VIEWS[view](tensors[0]))

        def call(real, fake, rows=rows):
            return fastgan.interpolate(real, fake, (torch.arange(rows) % 11 / 16).to(real.device))

        check(call, tensors, VIEWS[view])


def test_interpolate_tuples_and_draws():
    # Few bits: the second derivative by eps is PyTorch's own sum, in an order that each device has for itself.
    a, b = pattern(torch.empty(6, 3, 9), 31, 0.125), pattern(torch.empty(6, 3, 9), 29, 0.25)

    def call(a, b, eps):
        return fastgan.interpolate((a, b), (b, a * 2), eps)

    check(call, [a, b, pattern(torch.empty(6), 5, 0.25).abs()], factor=-0.75)
    a, b = a.to(DEVICE), b.to(DEVICE)
    draws = [fastgan.interpolate(a, b, generator=torch.Generator(DEVICE).manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def discriminator(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(16, 16, 3, 2, 1)]
    layers += [torch.nn.Softplus(), torch.nn.Flatten(), torch.nn.Linear(16 * 16, 1)]
    return torch.nn.Sequential(*layers).to(dtype).to(DEVICE)


@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "r1", "r2", "dragan", "wgan-div"])
def test_whole_penalties(kind):
    """Of a discriminator in float64, against the reference backend."""
    net = discriminator(torch.float64)
    real, fake = (torch.randn(8, 3, 16, 16, dtype=torch.float64, device=DEVICE) for _ in range(2))
    results = []
    for name in (backends.CHOSEN.get(), "reference"):
        with fastgan.backend(name):
            draws = {} if kind in ("r1", "r2") else {"generator": torch.Generator(DEVICE).manual_seed(3)}
            value, stats = fastgan.gradient_penalty(net, real, fake, kind=kind, return_stats=True, **draws)
            results.append([value, *stats[:6], *torch.autograd.grad(value, net.parameters(), allow_unused=True)])
    for got, want in zip(*results, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(bool(requirements.lacking("engine='compiled'")), reason="torch is too old for the engine")
@pytest.mark.parametrize("form", ["penalty", "step"])
def test_compiled_steps(form):
    """Against the same by autograd, on both devices' random numbers: three calls, of which the first is eager."""
    found = []
    for engine in ("compiled", "eager"):
        torch.manual_seed(0)
        net = torch.nn.Sequential(*discriminator(), torch.nn.Dropout(0.5)).double()
        results = []
        for k in range(3):
            torch.manual_seed(k)
            real, fake = (torch.randn(8, 3, 16, 16, dtype=torch.float64, device=DEVICE) for _ in range(2))
            if form == "penalty":
                value, stats = fastgan.gradient_penalty(net, real, fake, engine=engine, return_stats=True)
                by = stats.engine
            else:
                step = fastgan.discriminator_step(net, real, fake, penalty=["r1", "r2"], engine=engine)
                value, by = step.total, step.engine
            results.append([value, *torch.autograd.grad(value, list(net.parameters()), allow_unused=True)])
        found.append((by, results))
    (by, got), (other, want) = found
    assert (by, other) == ("compiled", "eager, pruned")
    for one, two in zip(got, want, strict=True):
        for a, b in zip(one, two, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------------------------- graphs, streams, threads


def step_of(form, **options):
    """Loss and gradients of a call on what requires grad."""

    def step(r, f):
        loss = call_of("D", "nonsaturating", form, **options)(r, f)
        return (loss.detach(), *torch.autograd.grad(loss, (r, f)))

    return step


def penalty_step(r, f):
    """The same of an interpolation and a penalty on what it gives."""
    rows = [t.reshape(10, -1) for t in (r, f)]
    points = fastgan.interpolate(*rows, (torch.arange(10, device=r.device) + 0.5) / 10)
    value = (
        fastgan.norm_penalty(points, weights=torch.ones(10, device=r.device)) + fastgan.gradient_norm(r[None])[0]
    )
    return (value.detach(), *torch.autograd.grad(value, (r, f)))


STEPS = {str(form): step_of(form) for form in FORMS} | {"penalty": penalty_step}


def pair_on_device(n=50_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator).to(DEVICE).requires_grad_() for _ in range(2)]


def captured(step, pair):
    """A graph of one step, and the tensors that a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(*pair)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(*pair)
    return graph, results


@needs_gpu
@pytest.mark.parametrize("name", STEPS)
def test_graph_capture_and_replay(name):
    step, pair = STEPS[name], pair_on_device()
    graph, results = captured(step, pair)
    for seed in (1, 2, 3):
        fresh = pair_on_device(seed=seed)
        with torch.no_grad():
            for mine, new in zip(pair, fresh, strict=True):
                mine.copy_(new)
        graph.replay()
        for got, want in zip(results, step(*fresh), strict=True):
            same(got, want)


@needs_gpu
def test_graph_of_second_order_and_statistics_and_lists():
    weights = torch.tensor([0.5, 2.0], device=DEVICE)

    def step(r, f):
        options = {"weights": weights, "return_stats": True, "relativistic": "average"}
        loss, stats = fastgan.discriminator_loss([r, f], [f * 2, r[:100]], "nonsaturating", **options)
        first = torch.autograd.grad(loss, (r, f), create_graph=True)
        second = torch.autograd.grad(first, (r, f), [torch.ones_like(g) for g in first])
        return [loss.detach(), *stats, *(g.detach() for g in first), *second]

    pair = pair_on_device()
    graph, results = captured(step, pair)
    with torch.no_grad():
        pair[0].mul_(-1.5)
    graph.replay()
    for got, want in zip(results, step(*pair), strict=True):
        same(got, want)


@needs_gpu
@pytest.mark.parametrize("name", STEPS)
def test_replay_beside_an_eager_stream(name):
    """A graph's workspace is its own: the same loss runs eagerly on another stream meanwhile."""
    step, mine, other = STEPS[name], pair_on_device(), pair_on_device(seed=1)
    graph, results = captured(step, mine)
    wanted, wanted_other = step(*mine), step(*other)
    torch.cuda.synchronize()
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    for _ in range(20):
        eager = []
        with torch.cuda.stream(streams[0]):
            for _ in range(10):
                graph.replay()
        with torch.cuda.stream(streams[1]):
            eager.extend(step(*other) for _ in range(10))
        torch.cuda.synchronize()
        for got, want in zip(results, wanted, strict=True):
            same(got, want)
        for one in eager:
            for got, want in zip(one, wanted_other, strict=True):
                same(got, want)


@needs_gpu
@pytest.mark.parametrize("name", STEPS)
def test_several_streams_at_once(name):
    step, pairs = STEPS[name], [pair_on_device(20_000, seed) for seed in range(6)]
    wanted = [step(*pair) for pair in pairs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in pairs]
    found = []
    for _ in range(20):
        for pair, stream, want in zip(pairs, streams, wanted, strict=True):
            with torch.cuda.stream(stream):
                found.append((step(*pair), want))
    torch.cuda.synchronize()
    for got, want in found:
        for a, b in zip(got, want, strict=True):
            same(a, b)


@pytest.mark.parametrize("name", STEPS)
def test_several_threads_at_once(name, kernels):
    step, pairs = STEPS[name], [pair_on_device(5000, seed) for seed in range(4)]
    wanted = [step(*pair) for pair in pairs]

    def work(pair):
        with fastgan.backend(kernels):
            return [step(*pair) for _ in range(20)]

    with ThreadPoolExecutor(len(pairs)) as pool:
        for results, want in zip(pool.map(work, pairs), wanted, strict=True):
            for got in results:
                for a, b in zip(got, want, strict=True):
                    same(a, b)


@needs_gpu
def test_nothing_waits_for_the_device():
    compat = fastgan.compat
    lecam, gan = fastgan.nn.LeCam().to(DEVICE), compat.cyclegan.GANLoss("lsgan").to(DEVICE)
    r, f = pair_on_device(5000)
    weights, up = torch.ones(2, device=DEVICE), torch.tensor(3.0, device=DEVICE)
    penalty_options = {"mask": torch.rand(10, 500, device=DEVICE), "return_stats": True}

    def work():
        for step in STEPS.values():
            step(r, f)
        loss, _ = fastgan.discriminator_loss([r, f], [f, r], "hinge", weights=weights, return_stats=True)
        loss.backward(up, retain_graph=True)
        first = torch.autograd.grad(loss, (r, f), up, create_graph=True)
        torch.autograd.grad(first, (r, f), first, allow_unused=True)
        fastgan.discriminator_loss(r, f, reduction="none").backward(torch.ones_like(r))
        value, _ = fastgan.norm_penalty(r.reshape(10, -1), **penalty_options)
        value.backward()
        fastgan.interpolate(r.reshape(10, -1), f.reshape(10, -1))
        fastgan.feature_matching_loss([[r]], [[f]]).backward(up, retain_graph=True)
        lecam(r, f).backward(up)
        fastgan.adaptive_weight(r.detach(), f.detach())
        total, values = compat.hifigan.generator_loss([r, f])
        (total + values[0]).backward(up)
        (gan(r, True) + gan(f, False)).backward(up)
        sum(compat.biggan.loss_hinge_dis(f, r)).backward(up)

    work()  # what is built or looked up once may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------------------- launches


def launches_of(step):
    from bench import gpu_cases

    torch.use_deterministic_algorithms(False)  # it fills what is empty, by kernels
    found = gpu_cases.launches(step, DEVICE)
    if not found:
        pytest.skip("torch.profiler sees no kernels on this machine")
    return found


def pairs_step(count, name, form=None):
    """Loss and gradients of so many pairs, from an upstream that is there already."""
    reals, fakes = zip(*(pair_on_device(1000 * k + 64, k) for k in range(count)), strict=True)
    one = torch.ones((), device=DEVICE)

    def step():
        loss = fastgan.discriminator_loss(reals, fakes, name, relativistic=form)
        return torch.autograd.grad(loss, (*reals, *fakes), one)

    return step


@needs_gpu
@pytest.mark.parametrize(
    ("most", "count", "name", "form"),
    [
        (2, 1, "nonsaturating", None),
        (2, 1, "hinge", None),
        (2, 1, "nonsaturating", "paired"),
        (3, 1, "nonsaturating", "average"),
        (2, 8, "least_squares", None),
    ],
)
def test_launches_of_a_step(kernels, most, count, name, form):
    """Forward and backward; the averages' means need a pass of their own, and Triton's sums over many chunks."""
    assert launches_of(pairs_step(count, name, form)) <= most + (kernels == "triton" and count > 1)


@needs_gpu
def test_launches_of_other_calls(kernels):
    r, f = (t.detach().reshape(10, -1) for t in pair_on_device())
    eps, leaf, one = torch.rand(10, device=DEVICE), f.clone().requires_grad_(), torch.ones((), device=DEVICE)
    more = kernels == "triton"  # it adds up the sums of many chunks by a launch of its own
    assert launches_of(lambda: fastgan.interpolate(r, f, eps)) == 1
    assert launches_of(lambda: torch.autograd.grad(fastgan.generator_loss(leaf), leaf, one)) <= 2 + more
    with torch.no_grad():
        assert launches_of(lambda: fastgan.discriminator_loss(r, f, return_stats=False)) in (
            1,
            1 + more,
        )


# ---------------------------------------------------------------------------------- torch.compile


def compiled_loss(r, f):
    loss, stats = fastgan.discriminator_loss(r * 2, f, "nonsaturating", relativistic="average", return_stats=True)
    return loss * 3 + 0 * stats.real_sign


def compiled_list(r, f):
    return fastgan.discriminator_loss([r, f * 2], [f, r], "hinge", weights=[0.5, 2.0]) * 3


def compiled_penalty(r, f):
    points = fastgan.interpolate(r.reshape(10, -1), f.reshape(10, -1), torch.linspace(0, 1, 10, device=r.device))
    return fastgan.norm_penalty(points, "one_sided", target=0.2)


@pytest.mark.parametrize("call", [compiled_loss, compiled_list, compiled_penalty])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_traces_the_whole_graph(compiler, call):
    torch._dynamo.reset()
    step = torch.compile(call, fullgraph=True, backend=compiler)
    for n in (500, 70_000):
        pair = pair_on_device(n)
        got, want = step(*pair), call(*pair)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
        found, wanted = (torch.autograd.grad(loss, pair) for loss in (got, want))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


@needs_gpu
def test_compiled_code_uses_the_kernels_or_the_reference():
    """Where the graph has fastgan's operator, the bits are those of the eager call."""
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph.code)
        return graph

    pair = pair_on_device()
    got = torch.compile(call_of("D", "hinge"), fullgraph=True, backend=keep)(*pair)
    want = call_of("D", "hinge")(*pair)
    if "fastgan.loss" in graphs[0]:
        same(got, want)
        for a, b in zip(*(torch.autograd.grad(loss, pair) for loss in (got, want)), strict=True):
            same(a, b)
    else:
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------------- bad input


@needs_gpu
def test_devices_that_differ():
    here, there = torch.randn(10, device=DEVICE), torch.randn(10)
    wide, narrow = here.reshape(2, 5), there.reshape(2, 5)
    for error, match, call in (
        (ValueError, "expected one device", lambda: fastgan.discriminator_loss(here, there)),
        (ValueError, "expected one device", lambda: fastgan.discriminator_loss(there, here)),
        (ValueError, "expected all on one device", lambda: fastgan.generator_loss([here, there])),
        (ValueError, "weights: expected", lambda: fastgan.generator_loss([here], weights=torch.ones(1))),
        (ValueError, "one device", lambda: fastgan.interpolate(wide, narrow)),
        (ValueError, "eps: expected it on", lambda: fastgan.interpolate(wide, wide, torch.rand(2))),
        (ValueError, "expected all on one device", lambda: fastgan.norm_penalty([wide, narrow])),
        (ValueError, "mask: expected it on", lambda: fastgan.norm_penalty(wide, mask=narrow.abs())),
        (ValueError, "weights: expected", lambda: fastgan.norm_penalty(wide, weights=torch.ones(2))),
        (RuntimeError, "cannot serve", lambda: fastgan.generator_loss(there)),
    ):
        with pytest.raises(error, match=match):
            call()
    with fastgan.backend("cpu"), pytest.raises(RuntimeError, match="cannot serve"):
        fastgan.generator_loss(here)
    assert fastgan.generator_loss(here, loss="hinge").isfinite()  # the device is none the worse


@needs_gpu
def test_a_mean_of_a_mask_that_is_not_positive():
    g = torch.randn(4, 5, device=DEVICE)
    assert not fastgan.norm_penalty(g, mask=torch.zeros(4, 5, device=DEVICE)).isfinite()


@needs_gpu
@pytest.mark.usefixtures("python_way")
def test_auto_takes_the_kernels_for_the_device_of_each_call(kernels, monkeypatch):
    if kernels != "cuda":
        pytest.skip("auto takes cuda where it is")
    taken = []
    get = backends.get
    monkeypatch.setattr(backends, "get", lambda *a, **k: taken.append(get(*a, **k)) or taken[-1])
    with fastgan.backend("auto"):
        fastgan.generator_loss(torch.zeros(3))
        fastgan.generator_loss(torch.zeros(3, device=DEVICE))
    assert taken == [cpu.BACKEND, cuda.BACKEND]


@needs_gpu
def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    pair = logits(5000)
    got = everything(call_of("D", "hinge", "average"), [t.to("cuda:1") for t in pair])
    with fastgan.backend("cpu"):
        want = everything(call_of("D", "hinge", "average"), pair)
    for a, b in zip(got, want, strict=True):
        same(a, b)
        assert a is None or a.device.index == 1


def test_autocast():
    net, x = discriminator(), torch.randn(8, 3, 16, 16, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        real, fake = net(x), net(x.flip(0) * 2)
        loss = fastgan.discriminator_loss(real, fake)
    loss.backward()
    assert real.dtype is torch.bfloat16
    assert loss.dtype is torch.float32
    with fastgan.backend("cpu"):
        same(loss, fastgan.discriminator_loss(real.detach().cpu(), fake.detach().cpu()))
    assert all(p.grad.isfinite().all() for p in net.parameters())
