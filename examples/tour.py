# %% [markdown]
# # A tour of fastgan
#
# What you would do in your first five minutes, whoever you are: train an image GAN, a vocoder or a tokeniser,
# distil a model, or invent a loss. It runs on a CPU in half a minute. `python examples/tour.py` writes its
# pictures to `demo/tour`; the notebook `examples/tour.ipynb` has the same cells with their output.

# %%
import time
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import fastgan

torch.manual_seed(0)
torch.set_num_threads(1)  # timings stay steady beside other programs
OUT = Path("demo/tour")
OUT.mkdir(parents=True, exist_ok=True)

facts = fastgan.info()
for tensors, kernels in facts["auto uses"].items():
    print(f"{tensors} are served by: {kernels}")
print("C++ nodes:", facts["C++ nodes"])

# %% [markdown]
# ## You train an image GAN
#
# Your lines become fastgan's. Loss and gradients are the same, and right where PyTorch's round to 0: at a logit
# of 17 the gradient of `binary_cross_entropy_with_logits` is 0, and the sample teaches nothing.

# %%
real_logits, fake_logits = torch.randn(2, 64, 1, requires_grad=True)
before = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
after, stats = fastgan.discriminator_loss(real_logits, fake_logits, "hinge", return_stats=True)
print(f"hinge: {before:.6f} and {after:.6f}; accuracy on real {stats.real_accuracy:.2f}, from the same pass")

logits = torch.linspace(0, 40, 400, requires_grad=True)
(usual,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, torch.ones(400), reduction="sum"), logits)
(exact,) = torch.autograd.grad(fastgan.generator_loss(logits, reduction="sum"), logits)

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.semilogy(logits.detach(), -usual, lw=4, color="#7fb2e0", label="BCEWithLogitsLoss: 0 from 17 on")
axes.semilogy(logits.detach(), -exact, lw=1.5, color="#c4561a", label="fastgan")
axes.set(xlabel="logit, target 1", ylabel="size of the gradient")
axes.legend(frameon=False)
figure.savefig(OUT / "gradient.png", dpi=110)

# %% [markdown]
# A whole WGAN-GP, on points of eight blobs. Loss and penalty share one backward. `frozen` keeps the
# generator's step from computing gradients of the critic's weights. After 700 steps the points lie on the
# circle of the blobs, and the norm is close to the 1 that the penalty asks for. To part the blobs takes
# more steps.


# %%
def blobs(n):
    angle = torch.randint(8, (n,)) * torch.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


def mlp(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, outputs)
    )


D, G = mlp(2, 1), mlp(8, 2)
optimizer_d = torch.optim.Adam(D.parameters(), 1e-3, betas=(0.0, 0.9))
optimizer_g = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.0, 0.9))
norms = []
for _ in tqdm(range(700), desc="WGAN-GP", mininterval=1.0):
    for _ in range(3):
        real, fake = blobs(256), G(torch.randn(256, 8)).detach()
        loss = fastgan.discriminator_loss(D(real), D(fake), "wasserstein")
        penalty, stats = fastgan.gradient_penalty(D, real, fake, kind="wgan-gp", weight=1.0, return_stats=True)
        optimizer_d.zero_grad()
        (loss + penalty).backward()
        optimizer_d.step()
    norms.append(float(stats.norm_mean))
    with fastgan.frozen(D):
        loss = fastgan.generator_loss(D(G(torch.randn(256, 8))), loss="wasserstein")
    optimizer_g.zero_grad()
    loss.backward()
    optimizer_g.step()

with torch.no_grad():
    points = G(torch.randn(1000, 8))
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
left.scatter(*blobs(1000).T, s=3, color="#bbbbbb", label="real")
left.scatter(*points.T, s=3, color="#c4561a", label="generated")
left.set_aspect("equal")
left.legend(loc="center", markerscale=4, framealpha=0.9, edgecolor="none")
left.set(xlabel="x", ylabel="y")
right.plot(norms, color="#1b5fa8")
right.axhline(1, color="#333333", lw=1)
right.set(xlabel="step", ylabel="mean norm of the critic's gradient")
figure.savefig(OUT / "wgan-gp.png", dpi=110)
print(f"the penalty's engine: {stats.engine} (second derivatives that are zero are skipped)")

# %% [markdown]
# ## You train a vocoder
#
# One changed import gives HiFi-GAN's losses, `from fastgan.compat.hifigan import ...`. More time is in one
# `with`: the generator's step does not need gradients of the discriminator's weights. The generator's
# gradients stay the same to the bit.

# %%
from fastgan.compat.hifigan import feature_loss, generator_loss


class Scale(nn.Module):
    """A small discriminator of waveforms, which returns logits and feature maps."""

    def __init__(self):
        super().__init__()
        widths = [1, 16, 64, 128, 128]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 15, 2, 7) for a, b in pairwise(widths))
        self.head = nn.Conv1d(widths[-1], 1, 3, padding=1)

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            maps.append(x)
        return self.head(x), maps


msd = nn.ModuleList([Scale(), Scale()])
vocoder = nn.Sequential(
    nn.Conv1d(1, 32, 7, padding=3), nn.LeakyReLU(0.1), nn.Conv1d(32, 1, 7, padding=3), nn.Tanh()
)
wave, mel = torch.randn(2, 1, 8192).tanh(), torch.randn(2, 1, 8192)


def generator_gradients(*freeze):
    vocoder.zero_grad()
    msd.zero_grad()
    y_hat = vocoder(mel)
    with fastgan.frozen(*freeze):
        on_real, on_fake = [[judge(x) for judge in msd] for x in (wave, y_hat)]
    adversarial, _ = generator_loss([logits for logits, _ in on_fake])
    total = adversarial + feature_loss([maps for _, maps in on_real], [maps for _, maps in on_fake])
    total.backward()
    return [p.grad.clone() for p in vocoder.parameters()]


def times_as_fast(slow, fast, rounds=10):
    """The ratio of two minima; both take turns, so that another program disturbs both."""
    times = {slow: [], fast: []}
    for _ in range(rounds + 1):
        for work in (slow, fast):
            start = time.perf_counter()
            work()
            times[work].append(time.perf_counter() - start)
    return min(times[slow][1:]) / min(times[fast][1:])


usual, frozen = generator_gradients(), generator_gradients(msd)
print("the same gradients:", all(torch.equal(a, b) for a, b in zip(usual, frozen, strict=True)))
ratio = times_as_fast(generator_gradients, lambda: generator_gradients(msd))
print(f"the generator's step with a frozen discriminator is {ratio:.1f} times as fast here")

# %% [markdown]
# ## You train a tokeniser
#
# VQGAN weighs its adversarial loss by two gradients at the decoder's last layer, and then goes backward
# again. With `AdaptiveWeight` each gradient is taken once.

# %%
decoder = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))
patches = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, 2, 1))
images, codes = torch.randn(4, 3, 32, 32), torch.randn(4, 4, 32, 32)
balance = fastgan.nn.AdaptiveWeight(decoder[2].weight, weight=0.8)
decoded = decoder(codes)
step = fastgan.generator_step(
    patches, decoded, loss="hinge", reconstruction=F.l1_loss(decoded, images), balance=balance
)
step.total.backward()
print(f"the adversarial loss's weight: {step.weights['adversarial']:.3f}")

# %% [markdown]
# ## You distil a model
#
# A large discriminator has no cheap second derivative. Approximate R1 compares it with itself at a point
# nearby. Here real, fake and neighbours are one forward. It is a noisy estimate of the exact penalty.

# %%
critic = nn.Sequential(patches, nn.Flatten(), nn.Linear(64, 1))
student = decoder(codes)
r1 = fastgan.nn.GradientPenalty("r1-approx", weight=0.5, sigma=0.05, normalize=True, directions=8)
step = fastgan.discriminator_step(critic, images, student.detach(), loss="hinge", penalty=r1, concat=True)
step.total.backward()
print(f"loss {step.loss:.3f}, approximate R1 {step.penalty:.3f}")
exact_r1 = fastgan.r1_penalty(critic, images, weight=1.0)
print(f"exact R1 of the same weight, by a double backward: {exact_r1:.3f}")

# %% [markdown]
# ## You invent a loss
#
# Say it as terms: the kernels compute it, with both derivatives in closed form.

# %%
fastgan.register_loss(
    "squared_hinge",
    real=fastgan.term("relu_square", scale=-1.0, shift=1.0),
    fake=fastgan.term("relu_square", shift=1.0),
    generator=fastgan.term("identity", scale=-1.0),
)
r, f = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
expected = F.relu(1 - r).square().mean() + F.relu(1 + f).square().mean()
print(f"squared hinge: {fastgan.discriminator_loss(r, f, 'squared_hinge'):.6f}, written out: {expected:.6f}")
print(
    "second derivatives:",
    torch.autograd.gradgradcheck(lambda a, b: fastgan.discriminator_loss(a, b, "squared_hinge"), (r, f)),
)

# %% [markdown]
# ## You want to see what it saves
#
# The loss by itself, forward and backward. It is a small part of a whole step: `docs/benchmarks.md` has
# those.

# %%
sizes, ratios = [64, 4096, 61504, 1 << 20], []
for n in tqdm(sizes, desc="timing"):
    r, f = torch.randn(2, n, requires_grad=True)

    def eager(r=r, f=f):
        torch.autograd.grad(F.softplus(-r).mean() + F.softplus(f).mean(), (r, f))

    def fused(r=r, f=f):
        torch.autograd.grad(fastgan.discriminator_loss(r, f), (r, f))

    ratios.append(times_as_fast(eager, fused, 30))

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
bars = axes.bar([f"{n:,}" for n in sizes], ratios, color="#1b5fa8")
axes.bar_label(bars, [f"{x:.1f}" for x in ratios])
axes.axhline(1, color="#333333", lw=1)
axes.set(xlabel="logits", ylabel="eager's time / fastgan's", ylim=(0, 1.2 * max(ratios)))
figure.savefig(OUT / "speed.png", dpi=110)
print(f"wrote {OUT}/gradient.png, wgan-gp.png, speed.png")
