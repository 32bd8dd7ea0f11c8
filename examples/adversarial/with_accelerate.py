"""The same GAN with Hugging Face Accelerate; needs `pip install accelerate`.

    python examples/adversarial/with_accelerate.py

Both networks, both optimizers and the loader are prepared; `accelerator.backward` gets each step's total. On
several processes Accelerate wraps the networks in DistributedDataParallel: each gets one backward per step of its
own.
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

try:
    from accelerate import Accelerator
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; this example needs `pip install accelerate`") from error


def main() -> None:
    """Train both networks, and draw samples."""
    args = arguments("accelerate")
    accelerator = Accelerator(cpu=True)
    G, D = Generator(), discriminator()
    G, D, optimizer_g, optimizer_d, loader = accelerator.prepare(
        G, D, optimizer(G), optimizer(D), batches(args.steps)
    )
    r1 = fastgan.nn.GradientPenalty("r1", weight=GAMMA, interval=INTERVAL)
    progress = tqdm(loader, unit="step", mininterval=0.5, disable=not accelerator.is_local_main_process)
    for (real,) in progress:
        fake = G(noise_like(real))

        step_d = fastgan.discriminator_step(D, real, fake.detach(), penalty=r1)
        optimizer_d.zero_grad()
        accelerator.backward(step_d.total)
        optimizer_d.step()

        step_g = fastgan.generator_step(D, fake)
        optimizer_g.zero_grad()
        accelerator.backward(step_g.total)
        optimizer_g.step()
        progress.set_postfix(losses(step_d, step_g), refresh=False)
    if accelerator.is_main_process:
        conclude(accelerator.unwrap_model(G), args)
    G, D = accelerator.free_memory(G, D)  # a DDP wrapper that outlives its group may never end (torch 2.13)
    accelerator.end_training()


if __name__ == "__main__":
    main()
