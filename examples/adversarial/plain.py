"""A GAN on handwritten digits in a plain loop: `discriminator_step`, then `generator_step`.

    python examples/adversarial/plain.py

The generator is called once for both steps. The discriminator's step gets its fakes detached, so that its backward
does not walk the generator; the generator's step freezes the discriminator by itself.
"""

from __future__ import annotations

from common import (
    GAMMA,
    INTERVAL,
    Generator,
    arguments,
    batches,
    conclude,
    discriminator,
    losses,
    noise_like,
    optimizer,
)
from tqdm import tqdm

import fastgan


def main() -> None:
    """Train both networks, and draw samples."""
    args = arguments("plain")
    G, D = Generator(), discriminator()
    optimizer_g, optimizer_d = optimizer(G), optimizer(D)
    r1 = fastgan.nn.GradientPenalty("r1", weight=GAMMA, interval=INTERVAL)
    progress = tqdm(batches(args.steps), unit="step", mininterval=0.5)
    for (real,) in progress:
        fake = G(noise_like(real))

        step_d = fastgan.discriminator_step(D, real, fake.detach(), penalty=r1)
        optimizer_d.zero_grad()
        step_d.total.backward()
        optimizer_d.step()

        step_g = fastgan.generator_step(D, fake)
        optimizer_g.zero_grad()
        step_g.total.backward()
        optimizer_g.step()
        progress.set_postfix(losses(step_d, step_g), refresh=False)
    conclude(G, args)


if __name__ == "__main__":
    main()
