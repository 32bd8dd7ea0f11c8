"""The same bits whatever computes them: backends, instruction sets, threads, layouts, parts of a batch, another run."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import fastgan
from fastgan.backends import native
from tests import golden
from tests.helpers import calls, random_calls
from tests.helpers.random_calls import flat as tensors
from tests.proof import suite
from tests.proof.backends import ENVIRONMENT, KERNELS, serving
from tests.proof.claims import Batch, Claim, Unavailable

DTYPES = tuple(golden.DTYPES.values())
FORMS = (None, "paired", "average")
THREADS = (1, 2, 3, 8)
Call = Callable[[], object]


def digest(hashes: dict[str, str]) -> str:
    """Return one hash of many."""
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()[:16]


def stored(backend: str, seed: int) -> Batch:
    """Compare the golden calls on a backend with the stored hashes, which another run on another machine made."""
    with serving(backend):
        found = golden.hashes()
    changed = golden.changed(found)
    assert not changed, f"of {len(found)} calls {len(changed)} have other bits: {', '.join(changed[:9])}"
    return Batch(len(found), text=f"digest {digest(found)}")


def large_calls(seed: int) -> Iterator[tuple[str, Call]]:
    """Yield calls that several threads share, on numbers that are the same on every machine."""
    for short, dtype in golden.DTYPES.items():
        real, fake = (golden.numbers(200_003, dtype=dtype, seed=2 * seed + s) for s in (1, 2))
        for loss in golden.LOSSES:
            for form in FORMS:
                yield f"{short}, {loss} {form}", calls.losses(real, fake, loss=loss, relativistic=form)
        rows = golden.numbers(3, 70_001, dtype=dtype, scale=0.1, seed=seed)
        for kind in ("two_sided", "one_sided", "power"):
            yield f"{short}, norms {kind}", calls.norms(rows, kind, return_stats=True)
        yield f"{short}, points", calls.points(rows, rows.flip(0))


def by_threads(seed: int) -> Batch:
    """Compare large calls on 1, 2, 3 and 8 threads."""
    before, found = torch.get_num_threads(), {}
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            hashes = {name: golden._digest(call()) for name, call in large_calls(seed)}
            other = [name for name in hashes if found.setdefault(name, hashes[name]) != hashes[name]]
            assert not other, f"seed {seed}, {threads} threads: other bits in {', '.join(other[:9])}"
    finally:
        torch.set_num_threads(before)
    return Batch(len(THREADS) * len(found), text=f"digest {digest(found)} (seed {seed})")


def by_layout(seed: int) -> Batch:
    """Compare calls on tensors of every layout with those on contiguous copies."""
    draw, count = random.Random(seed), 0
    for dtype in DTYPES:
        views = list(calls.layouts(dtype, n=20 * draw.randint(1, 120)))
        for real in views:
            fake = draw.choice(views)
            if fake.shape != real.shape:
                continue
            for loss in golden.LOSSES:
                options = {
                    "loss": loss,
                    "relativistic": draw.choice(FORMS),
                    "reduction": draw.choice(("mean", "none")),
                }
                got = tensors(calls.losses(real, fake, **options)())
                want = tensors(calls.losses(real.contiguous(), fake.contiguous(), **options)())
                calls.same(got, want, strides=False)
                count += 1
            for over in ("sample", "channel", "batch"):
                got = tensors(calls.norms(real, over=over)())
                calls.same(got, tensors(calls.norms(real.contiguous(), over=over)()), strides=False)
                count += 1
    return Batch(count)


def of_samples(real: Tensor, fake: Tensor, eps: Tensor, options: dict) -> list[Tensor]:
    """Return what each sample has of its own: losses, their gradients, norms, their gradients, points."""
    r, f = (t.detach().requires_grad_() for t in (real, fake))
    values = fastgan.discriminator_loss(r, f, reduction="none", **options)
    values = values if isinstance(values, tuple) else (values,)
    gradients = torch.autograd.grad(values, (r, f), [torch.ones_like(v) for v in values])
    norms = fastgan.gradient_norm(r)
    by_norm = torch.autograd.grad(norms, r, torch.ones_like(norms))
    return [
        *(v.detach() for v in values),
        *gradients,
        norms.detach(),
        *by_norm,
        fastgan.interpolate(real, fake, eps),
    ]


def by_parts(seed: int) -> Batch:
    """Compare a batch with its parts, cut anywhere."""
    draw, count = random.Random(seed), 0
    for dtype in DTYPES:
        for loss in golden.LOSSES:
            n, width = draw.randint(2, 40), draw.choice((1, 7, 129, 1500))
            real, fake = (golden.numbers(n, width, dtype=dtype, seed=draw.randrange(10**6)) for _ in range(2))
            eps = (
                golden.numbers(n, dtype=torch.float64 if dtype == torch.float64 else torch.float32, scale=0.5) + 0.5
            )
            options = {"loss": loss, "relativistic": draw.choice((None, "paired"))}
            whole = of_samples(real, fake, eps, options)
            cuts = sorted({0, n, *(draw.randint(0, n) for _ in range(3))})
            parts = [of_samples(real[a:b], fake[a:b], eps[a:b], options) for a, b in itertools.pairwise(cuts)]
            calls.same([torch.cat(p) for p in zip(*parts, strict=True)], whole, strides=False)
            count += len(parts)
    return Batch(count)


def by_set(seed: int) -> Batch:
    """Compare random calls on every instruction set that this processor has."""
    if native.native is None:
        raise Unavailable("the extension is not built")
    random.seed(seed)
    sets, before = native.native.isas(), native.native.isa()
    try:
        for _ in range(BY_SET):
            random_calls.compare(sets)
    finally:
        native.native.set_isa(before)
    return Batch(BY_SET * len(sets), text=", ".join(sets))


def on_a_gpu(seed: int) -> Batch:
    """Compare a GPU with the CPU kernels in two processes: equal both times, a run has the bits of the other."""
    if not torch.cuda.is_available():
        raise Unavailable("no GPU here")
    tests = ("tests/backends/test_gpu.py", *suite.EVERY)
    return Batch(sum(suite.counts(*tests, environment={"FASTGAN_TEST_REQUIRED": "1"})[0] for _ in range(2)))


BY_SET = 400  # calls a batch

CLAIMS = [
    *(
        Claim(
            f"stored hashes: {backend}", partial(stored, backend), "the stored bits",
            environment=ENVIRONMENT.get(backend, {}),
        )
        for backend in KERNELS
    ),
    Claim("threads: 1, 2, 3, 8", by_threads, "the same bits", endless=True),
    Claim("instruction sets", by_set, "the same bits", batches=4, endless=True),
    Claim("two runs on a GPU", on_a_gpu, "the bits of the CPU, twice", timeout=3600),
    Claim("layouts", by_layout, "the bits of contiguous copies", endless=True),
    Claim("parts of a batch", by_parts, "the bits of the whole, for what each sample has of its own", endless=True),
]  # fmt: skip
