"""The same GAN in Lightning, by manual optimization; needs `pip install lightning`.

    python examples/adversarial/with_lightning.py

`toggle_optimizer` is not needed: it freezes the parameters of all other optimizers, and `generator_step` freezes
the discriminator by itself, for its own calls only. The lazy penalty is a submodule, so that checkpoints hold its
count. Lightning counts each optimizer's step in `max_steps`; there are two in a training step.
"""

from __future__ import annotations

import torch
from common import GAMMA, INTERVAL, Generator, arguments, batches, conclude, discriminator, noise_like, optimizer
from torch import Tensor

import fastgan

try:
    import lightning
    from lightning.pytorch.callbacks import TQDMProgressBar
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; this example needs `pip install lightning`") from error


class Gan(lightning.LightningModule):
    """Both networks, and a step of each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.G, self.D = Generator(), discriminator()
        self.r1 = fastgan.nn.GradientPenalty("r1", weight=GAMMA, interval=INTERVAL)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[object]]:
        """Return the discriminator's and the generator's."""
        return [optimizer(self.D), optimizer(self.G)], []

    def training_step(self, batch: list[Tensor], _: int) -> None:
        """Run a step of the discriminator, then one of the generator."""
        (real,) = batch
        optimizer_d, optimizer_g = self.optimizers()
        fake = self.G(noise_like(real))

        step_d = fastgan.discriminator_step(self.D, real, fake.detach(), penalty=self.r1)
        optimizer_d.zero_grad()
        self.manual_backward(step_d.total)
        optimizer_d.step()

        step_g = fastgan.generator_step(self.D, fake)
        optimizer_g.zero_grad()
        self.manual_backward(step_g.total)
        optimizer_g.step()
        self.log_dict({"D": step_d.loss, "G": step_g.loss}, prog_bar=True)


def main() -> None:
    """Train both networks, and draw samples."""
    args = arguments("lightning")
    gan = Gan()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2 * args.steps,
        callbacks=[TQDMProgressBar(refresh_rate=20)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, batches(args.steps))
    conclude(gan.G, args)


if __name__ == "__main__":
    main()
