"""R3GAN and WGAN-GP on handwritten digits by three engines, whose curves coincide.

    python examples/penalty_engines.py
    python examples/penalty_engines.py --model r3gan --steps 1000
    python examples/penalty_engines.py --no-compile

Each model is trained three times from one seed: by the recipe that trainers have, in plain PyTorch; by
`fastgan.discriminator_step`, eager; and by the same, compiled.

The discriminators have LeakyReLU. A different last bit at its kink can become another slope, and training
amplifies that from step to step. Hence the default is float64, whose last bit is too small for it. In float32
(`--dtype float32`) the curves diverge by percents.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from comparison import Curves, by_loss, digits, draw_pictures, seed, size
from options import positive
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus
from tqdm import tqdm

import fastgan
from fastgan.nn import DiscriminatorLoss, GeneratorLoss, GradientPenalty

NOISE, CLASSES, BATCH, GAMMA, LAMBDA_GP = 32, 10, 64, 1.0, 10.0
# How the engines' curves are drawn, so that each is seen where they lie on each other.
STYLES: dict[str, dict[str, Any]] = {
    "recipe": {"color": "#fdbf8f", "linewidth": 6.5, "linestyle": "-"},
    "eager": {"color": "#3182bd", "linewidth": 2.6, "linestyle": (0, (3, 2))},
    "compiled": {"color": "#000000", "linewidth": 1.3, "linestyle": (0, (1, 2))},
}
# (discriminator, real, fake, conditions) -> the sum to differentiate, and the loss and the penalty in it.
Step = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Generator(nn.Module):
    """Noise and the digit wanted -> a picture of 8 x 8 pixels."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        layers = [nn.Linear(NOISE + CLASSES, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(width, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        return self.net(torch.cat([noise, conditions], 1))


class Discriminator(nn.Module):
    """A picture and its class -> a logit for each sample, high for real."""

    def __init__(self, *layers: nn.Module, features: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers, nn.Flatten())
        # The losses see differences of logits: a bias would have a gradient of rounding errors alone, which Adam
        # would turn into whole steps, different in each run.
        self.score = nn.Linear(features, CLASSES, bias=False)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        return (self.score(self.features(images)) * conditions).sum(1)


class ResidualBlock(nn.Module):
    """R3GAN's: an inverted bottleneck with a grouped convolution and no norm, which begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        last = nn.Conv2d(hidden, channels, 1, bias=False)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden // 8),
            nn.LeakyReLU(0.2),
            last,
        )
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def residual(width: int = 16) -> Discriminator:
    """Return R3GAN's discriminator, for 8 x 8 pixels: no more than one of its blocks."""
    return Discriminator(nn.Conv2d(1, width, 4, 2, 1), ResidualBlock(width), features=width * 16)


def convolutional(width: int = 8) -> Discriminator:
    """Return WGAN-GP's critic, for 8 x 8 pixels."""
    lower = [nn.Conv2d(1, width, 3, padding=1), nn.LeakyReLU(0.2)]
    upper = [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
    return Discriminator(*lower, *upper, features=2 * width * 16)


def zero_centered(samples: Tensor, logits: Tensor) -> Tensor:
    """Return the squared norm of each sample's gradient."""
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def r3gan_recipe(D: nn.Module, real: Tensor, fake: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute R3GAN's losses: the paired relativistic loss, R1 and R2."""
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    real_logits, fake_logits = D(real, conditions), D(fake, conditions)
    r1, r2 = zero_centered(real, real_logits), zero_centered(fake, fake_logits)
    loss, penalty = softplus(fake_logits - real_logits).mean(), GAMMA / 2 * (r1 + r2).mean()
    return loss + penalty, loss.detach(), penalty.detach()


def wgan_gp_recipe(D: nn.Module, real: Tensor, fake: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute WGAN-GP's losses: the Wasserstein loss and the penalty between real and fake."""
    eps = torch.rand(len(real), 1, 1, 1)  # the numbers that fastgan draws, and as early
    points = (eps * real + (1 - eps) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(D(points, conditions).sum(), points, create_graph=True)
    penalty = LAMBDA_GP * ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
    loss = D(fake, conditions).mean() - D(real, conditions).mean()
    return loss + penalty, loss.detach(), penalty.detach()


class Model(NamedTuple):
    """A way to train.

    Attributes:
        title: its name, and its networks and data.
        discriminator: builds the discriminator.
        recipe: the discriminator's step in plain PyTorch.
        recipe_generator: the generator's loss in plain PyTorch, of fake and real logits.
        options: of fastgan's losses.
        penalties: the weights of fastgan's penalties, by name.
        critic_steps: steps of the discriminator for each of the generator.
        rate, betas: Adam's.
        steps: the default number of the generator's steps.
    """

    title: str
    discriminator: Callable[[], nn.Module]
    recipe: Step
    recipe_generator: Callable[[Tensor, Tensor], Tensor]
    options: dict[str, str]
    penalties: dict[str, float]
    critic_steps: int
    rate: float
    betas: tuple[float, float]
    steps: int


MODELS = {
    "r3gan": Model(
        title="R3GAN: paired relativistic loss with R1 and R2",
        discriminator=residual,
        recipe=r3gan_recipe,
        recipe_generator=lambda fake, real: softplus(real - fake).mean(),
        options={"loss": "nonsaturating", "relativistic": "paired"},
        penalties={"r1": GAMMA, "r2": GAMMA},
        critic_steps=1,
        rate=2e-3,
        betas=(0.0, 0.99),
        steps=250,
    ),
    "wgan-gp": Model(
        title="WGAN-GP: Wasserstein loss with the penalty between real and fake",
        discriminator=convolutional,
        recipe=wgan_gp_recipe,
        recipe_generator=lambda fake, real: -fake.mean(),
        options={"loss": "wasserstein"},
        penalties={"wgan-gp": LAMBDA_GP},
        critic_steps=5,
        rate=1e-3,
        betas=(0.0, 0.9),
        steps=160,
    ),
}


class Run(NamedTuple):
    """A training's pictures, curves and time, and its number of compilations."""

    pictures: Tensor
    curves: Curves
    seconds: float
    compiled: fastgan.CompileInfo


def discriminator_step(model: Model, engine: str) -> Step:
    """Return the discriminator's step by the recipe or by fastgan."""
    if engine == "recipe":
        return model.recipe
    loss = DiscriminatorLoss(**model.options)
    penalties = [GradientPenalty(kind, weight=weight) for kind, weight in model.penalties.items()]

    def step(D: nn.Module, real: Tensor, fake: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        done = fastgan.discriminator_step(D, real, fake, conditions, loss=loss, penalty=penalties, engine=engine)
        assert done.penalty is not None  # none of them is lazy
        return done.total, done.loss, done.penalty

    return step


def generator_loss(model: Model, engine: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the generator's loss by the recipe or by fastgan, of fake and real logits."""
    if engine == "recipe":
        return model.recipe_generator
    loss = GeneratorLoss(**model.options)
    return loss if "relativistic" in model.options else lambda fake, real: loss(fake)


def train(model: Model, engine: str, steps: int) -> Run:
    """Train both networks; every engine draws the same random numbers in the same order."""
    G, D = Generator(), model.discriminator()
    optimizer_g = torch.optim.Adam(G.parameters(), lr=model.rate, betas=model.betas)
    optimizer_d = torch.optim.Adam(D.parameters(), lr=model.rate, betas=model.betas)
    images, classes = digits(), torch.tensor(load_digits().target)
    step_of_d, loss_of_g = discriminator_step(model, engine), generator_loss(model, engine)
    curves: Curves = []
    begin = perf_counter()
    for _ in tqdm(range(steps), desc=engine, unit="step", mininterval=0.5):
        for _ in range(model.critic_steps):
            batch = torch.randint(len(images), (BATCH,))
            real, conditions = images[batch], one_hot(classes[batch], CLASSES).to(images.dtype)
            fake = G(torch.randn(BATCH, NOISE), conditions).detach()
            optimizer_d.zero_grad()
            total, loss, penalty = step_of_d(D, real, fake, conditions)
            total.backward()
            optimizer_d.step()

        D.requires_grad_(False)
        optimizer_g.zero_grad()
        fake = G(torch.randn(BATCH, NOISE), conditions)
        loss_g = loss_of_g(D(fake, conditions), D(real, conditions))
        loss_g.backward()
        optimizer_g.step()
        D.requires_grad_(True)
        curves.append({"discriminator": loss.item(), "penalty": penalty.item(), "generator": loss_g.item()})
    seconds = perf_counter() - begin
    wanted = one_hot(torch.arange(40) % CLASSES, CLASSES).to(images.dtype)
    with torch.no_grad():
        pictures = G(torch.randn(len(wanted), NOISE), wanted)
    return Run(pictures, curves, seconds, fastgan.compile_info(D))


def apart(curves: dict[str, Curves], engine: str) -> dict[str, np.ndarray]:
    """Return how far each curve of an engine is from the recipe's, relative to that one's size, step by step."""
    losses = by_loss(curves)
    return {name: np.abs(v[engine] - v["recipe"]) / size(curves, name) for name, v in losses.items()}


def draw(curves: dict[str, Curves], title: str, path: Path) -> None:
    """Plot the curves of all engines on each other, and below them how far they are from the recipe's."""
    losses = by_loss(curves)
    figure, axes = plt.subplots(2, len(losses), figsize=(16, 7), sharex=True, layout="constrained")
    for (upper, lower), (name, values) in zip(axes.T, losses.items(), strict=True):
        steps = np.arange(len(values["recipe"])) + 1
        for engine, curve in values.items():
            upper.plot(steps, curve, label=engine, **STYLES[engine])
        upper.set(title=name, ylabel="value", yscale="log" if name == "penalty" else "linear")
        highest = 1e-16
        for engine in list(curves)[1:]:
            off = apart(curves, engine)[name]
            seen = (off > 0) & np.isfinite(off)
            label = f"{engine} (bitwise equal in {(off == 0).sum()} of {len(off)} steps)"
            lower.plot(steps[seen], off[seen], ".", color=STYLES[engine]["color"], markersize=4, label=label)
            highest = off[seen].max(initial=highest)
        lower.set(yscale="log", xlabel="step", ylabel="|curve - recipe's| / size of the curve")
        lower.set_ylim(1e-18, 100 * highest)  # room for the legend
        upper.legend(handlelength=4)
        lower.legend(loc="upper left")
    figure.suptitle(title, fontsize=14)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def compare(name: str, args: argparse.Namespace) -> float:
    """Train a model by each engine, draw, and print the outcome.

    Returns:
        The largest distance of a curve from the recipe's, relative to that one's size.
    """
    model = MODELS[name]
    steps, folder = args.steps or model.steps, args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Run] = {}
    for engine in ("recipe", "eager", "compiled") if args.compile else ("recipe", "eager"):
        seed(args.seed)
        runs[engine] = train(model, engine, steps)
    target = torch.tensor(load_digits().target)
    chosen = torch.stack([torch.nonzero(target == c)[:4, 0] for c in range(CLASSES)], 1).flatten()
    rows = {"real": digits()[chosen]} | {engine: run.pictures for engine, run in runs.items()}
    draw_pictures(rows, 20, f"{model.title}, after {steps} steps", folder / "samples.png")
    curves = {engine: run.curves for engine, run in runs.items()}
    draw(curves, f"{model.title}, in {args.dtype}", folder / "curves.png")
    print(f"{model.title}: wrote {folder / 'samples.png'} and {folder / 'curves.png'}")
    off = {e: float(np.max([*apart(curves, e).values()])) for e in runs}
    for engine, run in runs.items():
        graphs, calls, seconds, refused = run.compiled
        if engine == "compiled" and refused is not None:
            raise SystemExit(f"compiled: it ran eagerly, which --no-compile leaves out: {refused}")
        compiled = f", {seconds:.1f} s of them for {graphs} graph, of {calls} calls" if graphs else ""
        print(f"  {engine}: {run.seconds:.1f} s{compiled}")
    shown = ", ".join(f"{engine} {off[engine]:.1e}" for engine in list(runs)[1:])
    print(f"  largest difference over {steps} steps, of the curve's size: {shown}")
    return float(np.max([*off.values()]))  # NaN, if there is one


def arguments() -> argparse.Namespace:
    """Read the command line, and set threads and the default dtype accordingly."""
    parser = argparse.ArgumentParser(description="Compares fastgan's engines with the usual recipe.")
    parser.add_argument("--model", choices=["both", *MODELS], default="both")
    parser.add_argument("--steps", type=positive, help="of the generator; by default what takes about a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, default=1, help="the networks gain little from more")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--bound", type=float, default=1e-9, help="how far apart curves may be in float64")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out the compiled run")
    parser.add_argument("--out", type=Path, default=Path("demo/penalty_engines"), help="folder for what is drawn")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_dtype(getattr(torch, args.dtype))
    return args


def main() -> None:
    """Train, draw and compare; fail if curves in float64 do not coincide."""
    args = arguments()
    found = {name: compare(name, args) for name in (MODELS if args.model == "both" else [args.model])}
    too_far = [name for name, off in found.items() if not off <= args.bound]  # NaN is too
    if args.dtype == "float64" and too_far:
        raise SystemExit(f"the curves of {' and '.join(too_far)} are further apart than {args.bound}")


if __name__ == "__main__":
    main()
