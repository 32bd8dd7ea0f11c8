"""Train a small GAN on handwritten digits with a loss of your choice, in about two minutes on a CPU.

    python examples/digits.py --loss hinge --relativistic average
    python examples/digits.py --loss wgan-gp
    python examples/digits.py --loss nonsaturating --penalty r1

The digits (1,797 of 8 x 8 pixels) come with scikit-learn, so that nothing is downloaded. The example writes
samples.png and curves.png, and prints a line that compares the fused losses with the reference backend.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from options import positive
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot, pad
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import fastgan

NOISE, CLASSES, BATCH = 32, 10, 64
# Weight of each penalty, and how many steps lie between two of them.
PENALTIES = {
    "wgan-gp": (10.0, 1),
    "wgan-lp": (10.0, 1),
    "dragan": (10.0, 1),
    "wgan-div": (2.0, 1),
    "r1": (0.5, 4),
    "r2": (0.5, 4),
}
Logits = tuple[Tensor, Tensor]


class Generator(nn.Module):
    """Noise and the digit wanted -> a picture of 8 x 8 pixels in [-1, 1]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NOISE + CLASSES, 16 * width, bias=False),
            nn.Unflatten(1, (width, 4, 4)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Draw one picture for each row of noise and its label."""
        return self.net(torch.cat([noise, one_hot(labels, CLASSES)], 1))


class Discriminator(nn.Module):
    """A picture and its label -> a logit, high for real (projection discriminator, Miyato and Koyama 2018).

    The slope of the logit must be bounded: every loss gains from that, and "wasserstein" needs it. Spectral
    normalization does it, unless a gradient penalty does.
    """

    def __init__(self, width: int = 32, bound: Callable[[nn.Module], nn.Module] = spectral_norm) -> None:
        super().__init__()
        self.features = nn.Sequential(
            bound(nn.Conv2d(1, width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            bound(nn.Conv2d(width, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            bound(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.score = bound(nn.Linear(8 * width, 1))
        self.by_class = bound(nn.Embedding(CLASSES, 8 * width))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Judge whether each picture is a real one of its label."""
        features = self.features(images)
        return self.score(features).squeeze(1) + (features * self.by_class(labels)).sum(1)


def real_digits() -> tuple[Tensor, Tensor]:
    """Return all digits as pictures in [-1, 1], and their labels."""
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(digits.target)


def train(
    images: Tensor,
    labels: Tensor,
    steps: int,
    options: dict[str, str | None],
    penalty: fastgan.nn.GradientPenalty | None,
) -> tuple[nn.Module, list[dict[str, float]], list[Logits]]:
    """Train both networks in turn; `options` are the `loss` and `relativistic` of fastgan.

    `penalty`, if given, is added to the discriminator's loss whenever it returns a result, which also includes the
    norms of its gradient.

    Returns:
        The generator with averaged weights; and, for each step, the numbers for the curves and the discriminator's
        logits (real, fake).
    """
    G = Generator()
    D = Discriminator() if penalty is None else Discriminator(bound=lambda layer: layer)
    # Over the last 500 steps, or a sixth of a shorter run: else the weights it began with would dominate.
    decay = max(0.0, min(0.998, 1 - 6 / steps))
    averaged = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.0, 0.99))
    optimizer_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.0, 0.99))
    curves: list[dict[str, float]] = []
    logits: list[Logits] = []
    progress = tqdm(range(steps), desc=str(options["loss"]), unit="step", mininterval=0.5)
    for _ in progress:
        batch = torch.randint(len(images), (BATCH,))
        real, label = images[batch], labels[batch]
        fake = G(torch.randn(BATCH, NOISE), label)

        real_logits, fake_logits = D(real, label), D(fake.detach(), label)
        loss_d, stats = fastgan.discriminator_loss(real_logits, fake_logits, **options, return_stats=True)
        # Some losses see only differences of logits; this keeps their common offset from drifting.
        offset = real_logits.mean() + fake_logits.mean()
        total = loss_d + 0.01 * offset.square()
        found = penalty(D, real, fake.detach(), label) if penalty else None
        if found is not None:
            total = total + found[0]
            norm = found[1].norm_mean
        optimizer_d.zero_grad()
        total.backward()  # loss and penalty at once
        optimizer_d.step()
        logits.append((real_logits.detach(), fake_logits.detach()))

        with fastgan.frozen(D):  # gradients of its weights would be thrown away
            real_logits = D(real, label) if options["relativistic"] else None
            loss_g = fastgan.generator_loss(D(fake, label), real_logits, **options)
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        averaged.update_parameters(G)

        curves.append({"loss of D": loss_d.item(), "loss of G": loss_g.item()})
        curves[-1] |= {name: value.item() for name, value in stats._asdict().items()}
        if penalty:
            curves[-1]["mean norm"] = norm.item()  # of the last penalty, where it is lazy
        progress.set_postfix(D=f"{loss_d:.3f}", G=f"{loss_g:.3f}", refresh=False)
    return averaged.eval(), curves, logits


def draw_samples(
    generator: nn.Module, images: Tensor, labels: Tensor, title: str, path: Path, rows: int = 8
) -> None:
    """Draw generated beside real digits, one column per class."""
    wanted = torch.arange(CLASSES).repeat(rows)
    with torch.no_grad():
        generated = generator(torch.randn(len(wanted), NOISE), wanted)
    by_class = [torch.nonzero(labels == c).squeeze(1) for c in range(CLASSES)]
    chosen = torch.stack([index[torch.randperm(len(index))[:rows]] for index in by_class], 1).flatten()

    figure, axes = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, pictures, name in zip(axes, (generated, images[chosen]), ("generated", "real"), strict=True):
        large = interpolate(pictures, scale_factor=8, mode="bicubic").clamp(-1, 1)
        framed = pad(large, (2, 2, 2, 2), value=-0.6).reshape(rows, CLASSES, 68, 68)
        axis.imshow(framed.permute(0, 2, 1, 3).reshape(rows * 68, CLASSES * 68), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name)
        axis.axis("off")
    figure.suptitle(title, fontsize=15)
    figure.savefig(path, dpi=100)


def draw_curves(curves: list[dict[str, float]], title: str, path: Path) -> None:
    """Plot the losses, and the discriminator's mean logits and accuracy on real and on fake."""
    panels = {
        "loss": ("loss of D", "loss of G"),
        "mean logit of a batch": ("real_mean", "fake_mean"),
        "accuracy of D": ("real_accuracy", "fake_accuracy"),
        "gradient of D by its input": ("mean norm",),
    }
    panels = {quantity: names for quantity, names in panels.items() if names[0] in curves[0]}
    window = max(1, len(curves) // 100)
    steps = np.arange(len(curves) - window + 1) + window
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.5), layout="constrained")
    for axis, (quantity, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            smooth = np.convolve([step[name] for step in curves], np.ones(window) / window, "valid")
            axis.plot(steps, smooth, label=name.replace("_", " "))
        axis.set(xlabel="step", ylabel=quantity)
        axis.legend()
    axes[2].set_ylim(-0.02, 1.02)
    figure.suptitle(f"{title} (mean over {window} steps)" if window > 1 else title)
    figure.savefig(path, dpi=100)


def loss_part(backend: str, logits: Logits, options: dict[str, str | None]) -> tuple[float, Tensor, Tensor]:
    """Compute the losses of D and G and their gradients with respect to the logits, on one backend.

    Returns:
        The seconds that both took, forward and backward; the losses; the gradients.
    """
    real, fake = (x.clone().requires_grad_() for x in logits)
    constant = real.detach() if options["relativistic"] else None
    with fastgan.backend(backend):
        start = perf_counter()
        loss_d = fastgan.discriminator_loss(real, fake, **options)
        gradients = torch.autograd.grad(loss_d, (real, fake))
        loss_g = fastgan.generator_loss(fake, constant, **options)
        gradients += torch.autograd.grad(loss_g, (fake,))
        seconds = perf_counter() - start
    return seconds, torch.stack([loss_d, loss_g]).detach(), torch.stack(gradients)


def compare_backends(logits: list[Logits], options: dict[str, str | None]) -> str:
    """Run both backends on each step's logits in turn, and print how far apart and how fast they are."""
    times: dict[str, list[float]] = {"auto": [], "reference": []}
    apart = []
    for i, step in enumerate(logits):
        results = {}
        for name in sorted(times, reverse=i % 2 == 0):
            seconds, *results[name] = loss_part(name, step, options)
            times[name].append(seconds)
        pairs = zip(results["auto"], results["reference"], strict=True)
        apart.append(torch.stack([(a - b).abs().max() for a, b in pairs]))
    loss, gradient = torch.stack(apart).amax(0).tolist()
    fused, reference = (1e3 * median(times[name]) for name in ("auto", "reference"))
    kernels = "fastgan" if fastgan.info()["auto uses"]["CPU tensors"] == "cpu" else "fastgan without kernels"
    return (
        f"losses of a step: {fused:.3f} ms by {kernels}, {reference:.3f} in PyTorch ({reference / fused:.1f}x); "
        f"largest difference in {len(logits)} steps: loss {loss:.1e}, gradient {gradient:.1e}"
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Trains a small GAN on handwritten digits.")
    names = [name for loss, aliases in fastgan.losses().items() for name in (loss, *aliases)]
    parser.add_argument(
        "--loss", choices=[*names, "wgan-gp"], default="nonsaturating", help="wgan-gp: wgan with that penalty"
    )
    parser.add_argument("--relativistic", choices=["none", "paired", "average"], default="none")
    parser.add_argument("--penalty", choices=["none", *PENALTIES], default="none", help="on the discriminator")
    parser.add_argument("--interval", type=positive, help="steps from one penalty to the next")
    parser.add_argument("--steps", type=positive, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=2, help="1 is quicker where others use the cores too")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
    args = parser.parse_args()
    if args.loss == "wgan-gp" and args.penalty not in ("none", "wgan-gp"):
        parser.error(f"argument --penalty: --loss wgan-gp has its own, got {args.penalty}; take --loss wgan")
    if args.interval and args.penalty == "none" and args.loss != "wgan-gp":
        parser.error("argument --interval: has no effect without a penalty")
    return args


def main() -> None:
    """Train, draw and compare."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    relativistic = None if args.relativistic == "none" else args.relativistic
    loss, kind = ("wgan", "wgan-gp") if args.loss == "wgan-gp" else (args.loss, args.penalty)
    options = {"loss": loss, "relativistic": relativistic}
    title = args.loss if relativistic is None else f"{args.loss}, relativistic {relativistic}"
    penalty = None
    if kind != "none":
        weight, interval = PENALTIES[kind]
        penalty = fastgan.nn.GradientPenalty(
            kind, weight=weight, interval=args.interval or interval, return_stats=True
        )
        title += f" with {kind}" if args.loss != kind else ""
    args.out.mkdir(parents=True, exist_ok=True)
    samples, curves_file = args.out / "samples.png", args.out / "curves.png"

    images, labels = real_digits()
    generator, curves, logits = train(images, labels, args.steps, options, penalty)
    draw_samples(generator, images, labels, f"Digits after {args.steps} steps with the loss: {title}", samples)
    draw_curves(curves, f"Loss: {title}", curves_file)
    print(f"wrote {samples} and {curves_file}")
    print(compare_backends(logits, options))


if __name__ == "__main__":
    main()
