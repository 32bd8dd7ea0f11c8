"""Adapters of tokenisers, distillation, restoration, tables and control, beside their trainers' formulas."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.proof.adapter_cases import Number, one, tensor, two
from tests.proof.adapter_losses import OTHER, functions, kept, loss
from tests.proof.adapter_steps import SIZES, adaptive, adopted, layers_gradient, of_scores, steps

# ---------------------------------------------------------------------------------- descendants of VQGAN

functions("seed_voken", ("hinge_d_loss", "vanilla_d_loss"), two, other=OTHER)
BATCHES = ((6, 1, 2, 3), (1, 1, 1, 1), (2, 1, 5, 3), (3, 2, 8, 8))
# A mean that cancels is rounded by the size of its parts.
functions("seed_voken", ("non_saturate_gen_loss",), one, shape=BATCHES)
functions("seed_voken", ("non_saturate_discriminator_loss",), two, shape=BATCHES)
loss(
    "seed_voken.lecam_reg",
    two,
    lambda m, o, r, f: m.lecam_reg(
        r, f, SimpleNamespace(logits_real_ema=o.logits_real_ema, logits_fake_ema=o.logits_fake_ema)
    ),
    logits_real_ema=Number(0.5, -2, 2),
    logits_fake_ema=Number(-0.25, -2, 2),
    other=OTHER,
)


def averages(m: Any, o: SimpleNamespace) -> Any:
    """Move SEED-Voken's averages twice."""
    ema = m.LeCAM_EMA(o.init, o.decay)
    draw = torch.Generator().manual_seed(o.seed)
    for _ in range(2):
        real, fake = (torch.randn(o.shape, generator=draw, dtype=torch.float64) for _ in range(2))
        assert ema.update(real, fake) is None
    return ema.logits_real_ema, ema.logits_fake_ema, ema.decay


steps(
    "seed_voken.LeCAM_EMA",
    averages,
    init=Number(0.0, -1.0, 1.0),
    decay=(0.999, 0.5),
    shape=((4, 1, 3, 3), (5,), ()),
)
ADOPT = {"weight": (0.7, 1, 0.0), "global_step": (3, 0, 5, 6), "threshold": (0, 5, 6), "value": (0.0, -1.0, 1)}
steps("seed_voken.adopt_weight", adopted, **ADOPT)
WEIGHED = {"dtype": ("float64", "float32"), "first": SIZES, "second": SIZES}
steps("seed_voken.calculate_adaptive_weight", adaptive, **WEIGHED, discriminator_weight=(1.0, 0.8, 0.5))


def means(o: SimpleNamespace) -> list[Tensor]:
    """Return two mean logits and two averages."""
    shapes = {
        "trainer": ((), (), (1,), (1,)),
        "vectors": ((3,), (3,), (1,), (3,)),
        "rows": ((1,), (2, 1), (), (3,)),
    }
    return [tensor(o, k, shape) for k, shape in enumerate(shapes[o.form])]


functions("titok", ("hinge_d_loss",), two, other=OTHER)
loss(
    "titok.compute_lecam_loss",
    means,
    lambda m, o, *xs: m.compute_lecam_loss(*xs),
    form=("trainer", "vectors", "rows"),
    layout=("contiguous",),
    size=lambda o, xs: 1e3,  # squares of edges up to 1e4, beside which others are small
)

REDUCED = {"reduction": ("mean", "sum", "none")}
functions("rae", ("hinge_d_loss", "vanilla_d_loss"), two, arguments=lambda o: kept(o, "reduction"), **REDUCED)
functions(
    "rae", ("vanilla_g_loss",), one, arguments=lambda o: kept(o, "reduction"), reduction=("mean", "sum")
)  # fmt: skip


# Its fourth argument is a ceiling, where VQGAN's is a factor.
steps("rae.calculate_adaptive_weight", adaptive, **WEIGHED, discriminator_weight=(1e4, 0.5, 3.0))

functions("unitok", ("hinge_loss", "softplus_loss", "linear_loss"), one)
of_scores(
    "diffusers_vqgan.gradient_penalty",
    lambda m, o, y, x: m.gradient_penalty(x, y, weight=o.weight),
    weight=(10, 0.5, 0),
)
steps("diffusers_vqgan.grad_layer_wrt_loss", layers_gradient, scalar=(True, False))
