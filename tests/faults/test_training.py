"""Faults of a training run, and what must hold after each: bit for bit wherever that is possible.

tests/proof/training.py has the list of them, each with its tests; some stand elsewhere.
"""

import copy
import gc
import io
import math
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import fastgan
from fastgan.nn import GradientPenalty, LeCam, LossBalancer
from tests.helpers.marks import slow_but
from tests.helpers.ranks import needs_gloo, run_ranks

INF, NAN = math.inf, math.nan
BATCH, WIDTH = 6, 5


def network(seed=0, out=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, out))


def batch(seed, count=BATCH, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(count, WIDTH, generator=g, dtype=torch.float64).to(dtype) + k for k in range(2)]


def gradients(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def bits(found):
    """Numbers as integers, so that NaN is equal to itself, and 0 is not -0."""
    if isinstance(found, torch.Tensor):
        t = found.detach().contiguous()
        return (tuple(t.shape), str(t.dtype), t.reshape(-1).view(torch.uint8).tolist())
    if isinstance(found, dict):
        return {k: bits(v) for k, v in found.items()}
    if isinstance(found, (list, tuple)):
        return [bits(v) for v in found]
    return found


def same_numbers(got, want, rtol=1e-6):
    """Whether numbers are the same, NaN and infinities among them."""
    torch.testing.assert_close(got.float(), want.float(), rtol=rtol, atol=rtol, equal_nan=True)


# ---------------------------------------------------------------------------- a logit that is no finite number

PLAIN = {
    "nonsaturating": lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
    "hinge": lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    "least_squares": lambda r, f: (r - 1).square().mean() + f.square().mean(),
    "wasserstein": lambda r, f: f.mean() - r.mean(),
    "ranking": lambda r, f: F.relu(1 - (r - f)).mean(),
}
PLAIN_STATISTICS = {
    "real_mean": lambda r, f: r.mean(),
    "fake_mean": lambda r, f: f.mean(),
    "real_sign": lambda r, f: r.sign().mean(),
    "fake_sign": lambda r, f: f.sign().mean(),
}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("side", ["real", "fake"])
@pytest.mark.parametrize("loss", PLAIN)
def test_a_logit_that_is_not_finite(loss, side, bad):
    """Loss, gradients and statistics are plain PyTorch's, and the next step does not know of it."""
    logits = torch.randn(BATCH), torch.randn(BATCH)
    fresh = fastgan.discriminator_loss(*logits, loss, return_stats=True)
    spoilt = [t.clone() for t in logits]
    spoilt[side == "fake"][2] = bad
    ours, theirs = ([t.clone().requires_grad_() for t in spoilt] for _ in range(2))
    got, stats = fastgan.discriminator_loss(*ours, loss, return_stats=True)
    want = PLAIN[loss](*theirs)
    same_numbers(got, want)
    got.backward()
    want.backward()
    for a, b in zip(ours, theirs, strict=True):
        # At NaN itself relu has PyTorch's derivative by the reference, and none by the kernels.
        nowhere = torch.tensor([math.isnan(bad)]) & a.grad.isnan() & a.detach().isnan()
        if loss == "ranking" and math.isnan(bad):  # where a pair has one, both sides have none
            nowhere = a.grad.isnan() & (ours[0] - ours[1]).isnan()
        same_numbers(a.grad[~nowhere], b.grad[~nowhere])
    for name, statistic in PLAIN_STATISTICS.items():
        same_numbers(getattr(stats, name), statistic(*spoilt))
    again = fastgan.discriminator_loss(*logits, loss, return_stats=True)
    assert bits(again) == bits(fresh)


def test_a_step_after_one_of_none():
    """Of a network: its weights are as they were, since nobody stepped, and so is what follows."""
    d, penalty = network(), GradientPenalty("r1", interval=2)
    twin, other = copy.deepcopy(d), GradientPenalty("r1", interval=2)
    real, fake = batch(0)
    broken = real.clone()
    broken[1, 2] = NAN
    step = fastgan.discriminator_step(d, broken, fake, penalty=penalty)
    assert step.total.isnan()
    assert step.penalty.isnan()
    step.total.backward()
    assert all(g.isnan().any() for g in gradients(d)[:-1])
    fastgan.discriminator_step(twin, real, fake, penalty=other).total.backward()
    for net in (d, twin):
        net.zero_grad()
    after = [fastgan.discriminator_step(n, real, fake, penalty=p) for n, p in ((d, penalty), (twin, other))]
    for step in after:
        step.total.backward()
    assert bits(after[0]) == bits(after[1])
    assert bits(gradients(d)) == bits(gradients(twin))


# ---------------------------------------------------------------------------- a row of zeros


class Deaf(nn.Module):
    """A discriminator that does not look at the sample whose first number is above 1000."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        hears = (x.detach()[:, :1] < 1000).to(x.dtype)
        return self.net(x * hears)


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "r1", "r2", "dragan", "wgan-div"])
def test_a_sample_of_which_the_gradient_is_zero(kind, prune):
    """Its norm is 0, and it sends no gradient: psi(0) counts, and all numbers are finite."""
    d = Deaf()
    real, fake = batch(0)
    real[2, 0] = fake[2, 0] = 1e6
    options = {"kind": kind, "prune": prune, "return_stats": True, "weight": 1.0}
    value, stats = fastgan.gradient_penalty(d, real, fake, **options)
    assert stats.norms[2] == 0
    psi = {
        "wgan-gp": lambda n: (n - 1) ** 2,
        "dragan": lambda n: (n - 1) ** 2,
        "wgan-lp": lambda n: F.relu(n - 1) ** 2,
    }
    psi |= {"r1": lambda n: n**2 / 2, "r2": lambda n: n**2 / 2, "wgan-div": lambda n: n**6}
    torch.testing.assert_close(value, psi[kind](stats.norms).mean(), rtol=1e-5, atol=0)
    value.backward()
    found = [g for g in gradients(d) if g is not None]
    assert all(g.isfinite().all() for g in found)
    assert any(g.any() for g in found) or kind == "wgan-lp"


@pytest.mark.parametrize("kind", ["r1-approx", "r2-approx"])
def test_a_sample_that_an_approximation_does_not_see(kind):
    d = Deaf()
    real, fake = batch(0)
    real[:, 0] = fake[:, 0] = 1e6
    value = fastgan.gradient_penalty(d, real, fake, kind=kind)
    assert value == 0
    value.backward()
    assert all(not g.any() for g in gradients(d) if g is not None)


# ---------------------------------------------------------------------------- overflow in mixed precision


def scaled_run(dtype, overflow, penalty):
    """Three steps, one of which overflows in the middle where that is wanted; all states at the end of each."""
    d = network(1)
    optimizer = torch.optim.Adam(d.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    states = []
    for it in (0, "overflow", 1) if overflow else (0, 1):
        real, fake = batch(0 if it == "overflow" else it)
        if not overflow and it == 1:
            scaler.update(2.0**9)  # the scale after an overflow
        with torch.autocast("cpu", dtype=dtype):
            step = fastgan.discriminator_step(d, real, fake, loss="hinge", penalty=penalty)
            total = step.total * (INF if it == "overflow" else 1.0)
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        states.append((bits(d.state_dict()), bits(optimizer.state_dict()), scaler.get_scale()))
    return states


@pytest.mark.parametrize("penalty", [None, "r1"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_overflow_is_skipped_and_forgotten(dtype, penalty):
    first, skipped, after = scaled_run(dtype, True, penalty)
    assert skipped[:2] == first[:2]
    assert skipped[2] == first[2] / 2
    alone = scaled_run(dtype, False, penalty)
    assert first == alone[0]
    assert after == alone[1]
    assert after[0] != first[0]


def test_an_overflow_of_the_logits_in_float16():
    """Inputs too large for float16: the loss is not finite, the step is skipped, and averages stay."""
    d, lecam = network(1), LeCam(0.3)
    optimizer, scaler = torch.optim.SGD(d.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    real, fake = batch(0)
    before = bits(d.state_dict())
    with torch.autocast("cpu", dtype=torch.float16):
        logits = nn.Sequential(d, nn.Linear(1, 1))(real) * 6e4 * 6e4, d(fake)
        loss = fastgan.discriminator_loss(*logits, "least_squares") + 0 * lecam(*[t.detach() for t in logits])
    assert not loss.isfinite()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert bits(d.state_dict()) == before
    assert scaler.get_scale() == 2.0**9
    assert lecam.real_average.isfinite()


# ---------------------------------------------------------------------------- ranks of unequal batches

COUNTS = (3, 5)


def shares():
    """The batch of eight, and what of it each rank has."""
    real, fake = (t.double() for t in batch(0, sum(COUNTS)))
    return (real, fake), [[t[:3] for t in (real, fake)], [t[3:] for t in (real, fake)]]


@pytest.fixture(scope="module")
def ranks():
    """What two ranks find, in one start of them: of unequal batches, and for each form of DDP."""
    return run_ranks(rank_worker)


def rank_worker(rank):
    return {
        "unequal": unequal_worker(rank),
        **{form: ddp_worker(rank, form) for form in ("plain", "static", "unused")},
    }


def unequal_worker(rank):
    d, (real, fake) = network().double(), shares()[1][rank]
    options = {"relativistic": "average", "process_group": dist.group.WORLD, "reduction": "sum"}
    found = [fastgan.discriminator_loss(d(real), d(fake), loss, **options) for loss in ("bce", "lsgan")]
    found += [fastgan.generator_loss(d(fake), d(real), "hinge", **options)]
    sum(found).backward()
    ours, theirs = (DistributedDataParallel(network().double()) for _ in range(2))
    fastgan.discriminator_loss(ours(real), ours(fake), "hinge").backward()
    PLAIN["hinge"](theirs(real), theirs(fake)).backward()
    return torch.stack(found).detach(), gradients(d), gradients(ours.module), gradients(theirs.module)


@needs_gloo
def test_ranks_of_unequal_batches(ranks):
    """The relativistic sum is that over all eight samples; a step under DDP is plain PyTorch's."""
    saved = [found["unequal"] for found in ranks]
    d, (real, fake) = network().double(), shares()[0]
    options = {"relativistic": "average", "reduction": "sum"}
    want = [fastgan.discriminator_loss(d(real), d(fake), loss, **options) for loss in ("bce", "lsgan")]
    want += [fastgan.generator_loss(d(fake), d(real), "hinge", **options)]
    sum(want).backward()
    torch.testing.assert_close(saved[0][0] + saved[1][0], torch.stack(want).detach(), rtol=1e-12, atol=0)
    for a, b, w in zip(saved[0][1], saved[1][1], gradients(d), strict=True):
        torch.testing.assert_close(a + b, w, rtol=1e-10, atol=1e-12)
    for rank in saved:
        for ours, theirs in zip(*rank[2:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert bits(saved[0][2]) == bits(saved[1][2])


# ---------------------------------------------------------------------------- DDP


def ddp_worker(rank, form):
    options = {"static_graph": form == "static", "find_unused_parameters": form == "unused"}
    ddp = DistributedDataParallel(network(), **options)
    optimizer, penalty = torch.optim.Adam(ddp.parameters(), 1e-3), GradientPenalty("r1", interval=2)
    refused = ""
    for it in range(3):
        real, fake = batch(10 * rank + it)
        optimizer.zero_grad()
        if form == "static":
            fastgan.discriminator_loss(ddp(real), ddp(fake), "hinge").backward()
        else:
            fastgan.discriminator_step(ddp, real, fake, loss="hinge", penalty=penalty).total.backward()
        optimizer.step()
    if form == "static":
        try:
            fastgan.discriminator_step(ddp, real, fake, loss="hinge", penalty="r1")
        except RuntimeError as error:
            refused = str(error)
    return [p.detach() for p in ddp.parameters()], refused


def ddp_by_hand(form):
    """The same run in one process: gradients of both ranks, averaged."""
    nets = [network() for _ in range(2)]
    optimizers = [torch.optim.Adam(n.parameters(), 1e-3) for n in nets]
    penalties = [GradientPenalty("r1", interval=2) for _ in range(2)]
    for it in range(3):
        for rank, net in enumerate(nets):
            net.zero_grad()
            real, fake = batch(10 * rank + it)
            penalty = None if form == "static" else penalties[rank]
            fastgan.discriminator_step(net, real, fake, loss="hinge", penalty=penalty).total.backward()
        for a, b in zip(*[n.parameters() for n in nets], strict=True):
            a.grad = b.grad = (a.grad + b.grad) / 2
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach() for p in nets[0].parameters()]


@needs_gloo
@pytest.mark.parametrize("form", ["plain", "static", "unused"])
def test_two_ranks(form, ranks):
    """Weights stay equal on both, and are those of the averaged gradients; a static graph refuses a penalty."""
    (one, refused), (other, _) = (found[form] for found in ranks)
    assert bits(one) == bits(other)
    for got, want in zip(one, ddp_by_hand(form), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert ("static_graph=True" in refused and ".module" in refused) == (form == "static")


# ---------------------------------------------------------------------------- checkpoints


class Run:
    """A training run with everything that has a state."""

    def __init__(self):
        torch.manual_seed(7)
        self.d, self.g = network(2), network(3, WIDTH)
        self.d.append(nn.Dropout(0.1))
        self.parts = nn.ModuleDict(
            {
                "r1": GradientPenalty("r1", interval=3, weight=2.0),
                "gp": GradientPenalty("wgan-gp", interval=2, part=0.5),
                "lecam": LeCam(0.3, start=2),
                "balance": LossBalancer({"adversarial": 1.0, "l1": 2.0}),
            }
        )
        self.optimizers = [torch.optim.Adam(n.parameters(), 1e-3, betas=(0.0, 0.99)) for n in (self.d, self.g)]

    def step(self):
        """One step of both networks, on data that the global generator draws."""
        real, z = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
        fake = self.g(z)
        step = fastgan.discriminator_step(
            self.d, real, fake.detach(), loss="hinge", penalty=[self.parts["r1"], self.parts["gp"]]
        )
        drift = self.parts["lecam"](self.d(real), self.d(fake.detach()))
        total = step.total if drift is None else step.total + drift
        self.optimizers[0].zero_grad()
        total.backward()
        self.optimizers[0].step()
        l1 = (fake - real).abs().mean()
        own = fastgan.generator_step(
            self.d, fake, loss="hinge", reconstruction={"l1": l1}, balance=self.parts["balance"]
        )
        self.optimizers[1].zero_grad()
        own.total.backward()
        self.optimizers[1].step()
        return bits([total, own.total, step.loss])

    def save(self):
        state = {"d": self.d, "g": self.g, "parts": self.parts, "0": self.optimizers[0], "1": self.optimizers[1]}
        file = io.BytesIO()
        torch.save({k: v.state_dict() for k, v in state.items()} | {"random": torch.get_rng_state()}, file)
        return file.getvalue()

    def load(self, saved):
        state = torch.load(io.BytesIO(saved), weights_only=True)
        for name, part in (("d", self.d), ("g", self.g), ("parts", self.parts)):
            part.load_state_dict(state[name])
        for k, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(k)])
        torch.set_rng_state(state["random"])


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_a_run_that_is_resumed(at):
    """From a checkpoint at any step it goes on as if it had not stopped, bit for bit."""
    run = Run()
    for _ in range(at):
        run.step()
    saved = run.save()
    want = [run.step() for _ in range(7)]
    again = Run()
    again.step()  # of a run that has a state of its own already
    again.load(saved)
    assert [again.step() for _ in range(7)] == want
    assert bits(again.d.state_dict()) == bits(run.d.state_dict())
    assert bits(again.parts["lecam"].state_dict()) == bits(run.parts["lecam"].state_dict())


def test_a_run_that_is_resumed_in_another_process(tmp_path):
    run = Run()
    for _ in range(4):
        run.step()
    (tmp_path / "saved").write_bytes(run.save())
    want = [run.step() for _ in range(5)]
    code = f"""
        import pathlib, torch
        from tests.faults.test_training import Run, bits
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads({torch.get_num_threads()})
        run = Run()
        run.load(pathlib.Path({str(tmp_path / "saved")!r}).read_bytes())
        print([run.step() for _ in range(5)])
        """
    assert eval(in_a_process(code)) == want


def in_a_process(code, timeout=120, **environment):
    """What code prints in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---------------------------------------------------------------------------- memory

X, Y = torch.randn(64), torch.randn(64)
IMAGES = torch.randn(4, WIDTH)
WATCHED = network()


def _differentiated(call):
    x = X.clone().requires_grad_()
    call(x).backward()


def _refused(call):
    with pytest.raises(TypeError):
        call()


REPEATED = {
    "a loss": lambda: fastgan.discriminator_loss(X, Y, "hinge"),
    "a loss with gradients": lambda: _differentiated(lambda x: fastgan.discriminator_loss(x, Y)),
    "statistics": lambda: fastgan.discriminator_loss(X, Y, "bce", return_stats=True),
    "labels and masks": lambda: _differentiated(
        lambda x: fastgan.discriminator_loss(x, Y, real_target=torch.rand(64), fake_mask=torch.rand(64))
    ),
    "changing numbers": lambda: fastgan.generator_loss(
        X, Y, "hinge", relativistic="paired", margin=float(torch.rand(()))
    ),
    "terms": lambda: fastgan.reduce_terms([fastgan.term("abs", weight=float(torch.rand(())))], [X]),
    "norms": lambda: _differentiated(lambda x: fastgan.gradient_norm(x[None]).sum()),
    "features": lambda: _differentiated(lambda x: fastgan.feature_matching_loss([Y], [x])),
    "errors": lambda: _refused(lambda: fastgan.discriminator_loss(X, 3.0)),
    "a penalty": lambda: fastgan.r1_penalty(WATCHED, IMAGES).backward(),
    "a step": lambda: fastgan.discriminator_step(
        WATCHED, IMAGES, -IMAGES, penalty=["r1", "wgan-gp"]
    ).total.backward(),
    "a new network": lambda: fastgan.gradient_penalty(nn.Linear(WIDTH, 1), IMAGES, -IMAGES).backward(),
    "a new lazy penalty": lambda: GradientPenalty("r1", interval=2)(nn.Linear(WIDTH, 1), IMAGES),
}
SLOWER = {"errors", "a penalty", "a step", "a new network", "a new lazy penalty", "labels and masks"}
CACHED = {"changing numbers", "terms"}  # what fills caches of some thousand entries, and no more


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(call, times):
    """What memory, objects and tensors grow by in so many calls, after some that fill caches."""
    for _ in range(300):
        call()
    gc.collect()
    gc.freeze()  # what is there is not looked at again
    try:
        begin = resident()
        for _ in range(times):
            call()
        end = resident()
        gc.collect()
        everything = gc.get_objects()
        return end - begin, len(everything), sum(issubclass(type(o), torch.Tensor) for o in everything)
    finally:
        gc.unfreeze()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
@pytest.mark.parametrize("times", slow_but([2_000], [2_000, 100_000]))
@pytest.mark.parametrize("name", REPEATED)
def test_nothing_grows(name, times):
    if name in SLOWER:
        times //= 10 if times < 100_000 else 20
    if name in CACHED:
        times = max(times // 5, 12_000)
    more, things, tensors = growth(REPEATED[name], times)
    assert tensors <= 2
    assert things <= (9_000 if name in CACHED else 60)
    assert more <= (2**23 if name in CACHED else 2**20) + 20 * times


def test_growth_is_seen(monkeypatch):
    kept = []
    monkeypatch.setitem(REPEATED, "a loss", lambda: kept.append(torch.ones(3)))
    with pytest.raises(AssertionError):
        test_nothing_grows("a loss", 2_000)


# ---------------------------------------------------------------------------- threads


def worked(seed):
    """What a thread computes: losses, norms, points, a penalty and a step, with gradients; all bits."""
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(700, generator=g).requires_grad_() for _ in range(2))
    found = []
    for loss in ("bce", "hinge", "lsgan"):
        for form in (None, "paired", "average"):
            value, stats = fastgan.discriminator_loss(a, b, loss, relativistic=form, return_stats=True)
            found += [value, *stats, *torch.autograd.grad(value, (a, b))]
    d, (real, fake) = copy.deepcopy(WATCHED), batch(seed)
    found.append(fastgan.gradient_norm(real))
    found.append(fastgan.interpolate(real, fake, torch.linspace(0, 1, BATCH)))
    penalty = fastgan.gradient_penalty(d, real, fake, eps=torch.linspace(0, 1, BATCH))
    penalty.backward()
    step = fastgan.discriminator_step(d, real, fake, loss="hinge", penalty=["r1", "r2"])
    step.total.backward()
    own = fastgan.generator_step(d, fake.requires_grad_() * 1.0, loss="hinge")
    own.total.backward()
    return bits([*found, penalty, step.total, own.total, *gradients(d), fake.grad])


def in_threads(count, rounds=3):
    """What `worked` gives in threads that run at once, each with its seeds."""
    found, errors, begin = {}, [], threading.Barrier(count)

    def run(k):
        try:
            begin.wait(60)
            for it in range(rounds):
                found[k, it] = worked(10 * k + it)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors
    return found


def test_eight_threads_at_once():
    found = in_threads(8)
    assert len(found) == 24
    for (k, it), got in found.items():
        assert got == worked(10 * k + it)


def test_one_network_and_eight_threads():
    """Values of one discriminator that several threads share: its parameters are read only."""
    real, fake = batch(0)

    def of(seed):
        eps = torch.rand(BATCH, generator=torch.Generator().manual_seed(seed))
        value = fastgan.gradient_penalty(WATCHED, real, fake, eps=eps)
        return bits([value, *torch.autograd.grad(value, list(WATCHED.parameters()), allow_unused=True)][:5])

    want = [of(k) for k in range(8)]
    got = [None] * 8

    def run(k):
        for _ in range(5):
            got[k] = of(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert got == want


def test_several_streams():
    """On a GPU each stream has its own order; on the CPU a stream is nothing, and changes nothing."""
    with torch.cpu.stream(torch.cpu.Stream()):
        assert worked(3) == worked(3)
    if not torch.cuda.is_available():
        return
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for k, stream in enumerate(streams):
        with torch.cuda.stream(stream):
            x = torch.full((1000,), float(k), device="cuda")
            found.append(fastgan.generator_loss(x))
    torch.cuda.synchronize()
    for k, value in enumerate(found):
        assert torch.equal(value, fastgan.generator_loss(torch.full((1000,), float(k), device="cuda")))


# ---------------------------------------------------------------------------- forked and other processes

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
FORKED = """
    import os, sys, torch, fastgan
    from tests.faults.test_training import bits, network, worked
    torch.set_num_threads({threads})
    large = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))

    def everything():
        x = large.clone().requires_grad_()
        value = fastgan.discriminator_loss(x, -large, "hinge")
        if {autograd}:
            value.backward()
            return hash(str([bits(value), bits(x.grad[:100]), bits(x.grad.sum()), worked(0)]))
        with torch.no_grad():
            norms = fastgan.gradient_norm(large.view(1000, 1000))
            points = fastgan.interpolate(large[None], -large[None], torch.rand(1) * 0 + 0.3)
        return hash(str([bits(value), bits(norms), bits(points[0, :100])]))

    want = everything() if {before} else None
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        {child}
        os.write(write, str(everything()).encode())
        os._exit(0)
    os.close(write)
    got = os.fdopen(read).read()
    os.waitpid(pid, 0)
    print(got == str(everything()) and (want is None or got == str(want)))
    """


# Before the fork: whether anything was computed, on how many threads; and what the forked process does first.
# After a parallel region, one thread it is: GNU's OpenMP hangs in a forked process, in plain PyTorch too.
FORKS = [(True, 2, "torch.set_num_threads(1)"), (False, 2, "pass"), (False, 1, "pass"), (True, 1, "pass")]


@needs_fork
@pytest.mark.parametrize(("before", "threads", "child"), slow_but(FORKS[:1], FORKS))
def test_a_forked_process(before, threads, child):
    """It computes the same bits, and does not hang.

    A backward starts autograd's threads, after which PyTorch refuses one in a forked process; not that of the CPU.
    """
    forked = FORKED.format(threads=threads, before=before, child=child, autograd=threads == 1)
    assert in_a_process(forked, timeout=60, OMP_NUM_THREADS=str(threads)).strip() == "True"


def by_a_worker(connection, seed):
    connection.send(worked(seed))


@pytest.mark.parametrize("how", slow_but(["fork"], multiprocessing.get_all_start_methods()))
def test_multiprocessing(how):
    context = multiprocessing.get_context(how)
    ours, theirs = context.Pipe()
    want = worked(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process with threads forks
        process = context.Process(target=by_a_worker, args=(theirs, 5))
        process.start()
    assert ours.poll(60), "the process hangs"
    assert ours.recv() == want
    process.join(60)
    assert process.exitcode == 0


class Judged(Dataset):
    """Samples with a loss of their own."""

    def __len__(self):
        return 8

    def __getitem__(self, k):
        x = torch.full((16,), float(k))
        return x, fastgan.generator_loss(x, loss="hinge")


def collated(samples):
    """A batch, with norms and points that a worker computes."""
    x = torch.stack([s[0] for s in samples])
    loss = fastgan.discriminator_loss(x, -x, "lsgan")
    return (
        x,
        torch.stack([s[1] for s in samples]),
        fastgan.gradient_norm(x),
        fastgan.interpolate(x, -x, torch.full((len(x),), 0.25)),
        loss,
    )


@pytest.mark.parametrize("how", slow_but(["fork"], multiprocessing.get_all_start_methods()))
def test_workers_of_a_data_loader(how):
    want = [bits(collated([Judged()[k] for k in range(i, i + 4)])) for i in (0, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = DataLoader(
            Judged(), 4, num_workers=2, collate_fn=collated, multiprocessing_context=how, timeout=60
        )
        assert [bits(b) for b in loader] == want


# ---------------------------------------------------------------------------- accumulated gradients


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("penalty", [None, "r1", "wgan-gp"])
def test_accumulated_gradients(parts, penalty):
    """Means over micro-batches of one size, each divided by their number, are those over the batch."""
    real, fake = batch(0, dtype=torch.float64)
    eps = torch.rand(BATCH, dtype=torch.float64)

    def total(d, rows):
        loss = fastgan.discriminator_loss(d(real[rows]), d(fake[rows]), "hinge")
        if penalty is None:
            return loss
        more = {"eps": eps[rows]} if penalty == "wgan-gp" else {}
        return loss + fastgan.gradient_penalty(d, real[rows], fake[rows], kind=penalty, **more)

    def run():
        d, size = network().double(), BATCH // parts
        for k in range(parts):
            (total(d, slice(k * size, (k + 1) * size)) / parts).backward()
        return gradients(d)

    whole = network().double()
    total(whole, slice(None)).backward()
    found = run()
    for got, want in zip(found, gradients(whole), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    assert bits(run()) == bits(found)


def test_a_lazy_penalty_counts_micro_batches():
    """As docs/penalties.md has it: each is a call."""
    d, penalty = network(), GradientPenalty("r1", interval=4)
    seen = [fastgan.discriminator_step(d, *batch(k), penalty=penalty).penalty is not None for k in range(8)]
    assert seen == [True, False, False, False] * 2


# ---------------------------------------------------------------------------- compiled and exported


def whole_step(d, penalty):
    """A step as trainers write it: loss, penalty and backward."""

    def step(real, fake):
        found = fastgan.discriminator_step(d, real, fake, loss="hinge", penalty=penalty)
        found.total.backward()
        return found.total.detach(), found.loss

    return step


@pytest.mark.parametrize("backend", slow_but(["aot_eager"], ["aot_eager", "inductor"]))
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("penalty", [None, "r1", "wgan-gp"])
def test_a_compiled_step(penalty, traced, backend):
    """Between the parts of the graph, or with `compiling` in it: eager values, within rounding."""
    if backend == "inductor" and fastgan.requirements.lacking("engine='compiled'"):
        pytest.skip("this torch is too old")
    torch._dynamo.reset()
    d, twin = network().double(), network().double()
    step = torch.compile(whole_step(d, penalty), backend=backend)
    for k in range(2):
        real, fake = batch(k, dtype=torch.float64)
        torch.manual_seed(k)
        want = whole_step(twin, penalty)(real, fake)
        torch.manual_seed(k)
        with fastgan.compiling() if traced else warnings.catch_warnings():
            got = step(real, fake)
        if penalty == "wgan-gp" and traced and backend == "inductor":
            return  # which draws other numbers
        torch.testing.assert_close(got, want, rtol=1e-9, atol=0)
    for a, b in zip(gradients(d), gradients(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class Judging(nn.Module):
    """A discriminator and its loss in one module."""

    def __init__(self, loss):
        super().__init__()
        self.net, self.loss = network(), loss

    def forward(self, real, fake):
        return self.loss(self.net(real), self.net(fake))


@pytest.mark.parametrize("loss", ["bce", "hinge", "lsgan", "wgan", "ranking"])
@pytest.mark.parametrize("form", [None, "paired", "average"])
def test_an_exported_module(loss, form):
    module, (real, fake) = Judging(fastgan.nn.DiscriminatorLoss(loss, relativistic=form)), batch(0)
    exported = torch.export.export(module, (real, fake)).module()
    torch.testing.assert_close(exported(real, fake), module(real, fake), rtol=1e-6, atol=1e-7)
    real, fake = batch(1)
    torch.testing.assert_close(exported(real, fake), module(real, fake), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_an_exported_module_is_saved(tmp_path):
    """A process that loads it needs fastgan's operators, which docs/reliability.md says how to have."""
    module, (real, fake) = Judging(fastgan.nn.DiscriminatorLoss("hinge")), batch(0)
    torch.export.save(torch.export.export(module, (real, fake)), tmp_path / "saved.pt2")
    torch.save((real, fake, module(real, fake).detach()), tmp_path / "inputs")
    code = f"""
        import torch, fastgan.ops.torch_library
        program = torch.export.load({str(tmp_path / "saved.pt2")!r}).module()
        real, fake, want = torch.load({str(tmp_path / "inputs")!r})
        torch.testing.assert_close(program(real, fake), want, rtol=1e-6, atol=1e-7)
        """
    in_a_process(code)


def test_a_penalty_is_not_exported():
    """It differentiates, which no exported program can; the error says what it is about."""

    class Punished(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return fastgan.r1_penalty(self.net, x)

    with pytest.raises(Exception, match=r"gradient penalty|penalty") as found:
        torch.export.export(Punished(), (batch(0)[0],))
    assert "twice" in str(found.value) or "compiling" in str(found.value)
