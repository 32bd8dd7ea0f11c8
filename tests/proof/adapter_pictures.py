"""Adapters of tokenisers, distillation, restoration, tables and control, beside their trainers' formulas."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.compat import test_compat_others as others
from tests.proof.adapter_cases import Number, one, tensor, two
from tests.proof.adapter_losses import FLAGS, LABEL, OTHER, WEIGHT, functions, kept, loss
from tests.proof.adapter_steps import (
    MASKS,
    MEAN,
    SIZES,
    adaptive,
    adopted,
    asks,
    layers_gradient,
    masked,
    of_scores,
    paths,
    penalty,
    running,
    steps,
)

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

# ---------------------------------------------------------------------------------- tables, distillation, restoration


def packed(m: Any, o: SimpleNamespace, D: Any, x: Tensor, y: Tensor) -> Any:
    """Call CTGAN's penalty: each sample is a pack of rows."""

    def judge(rows: Tensor) -> Tensor:
        return D(rows.reshape(-1, *o.sample))

    rows = [t.reshape(o.n * o.pac, -1) for t in (x, y)]
    return m.calc_gradient_penalty(
        judge, *rows, "cpu", o.pac, **({} if o.lambda_ is None else {"lambda_": o.lambda_})
    )


penalty(
    "ctgan.calc_gradient_penalty",
    packed,
    lambda_=(None, 0.3, 2.5),
    pac=(1, 2, 4),
    fits=asks,
    sample=((4,), (12,)),
    scores=("column", "numbers", "gated"),
    layout=("contiguous", "strided"),
)
HEADS = {"shape": ((6, 1), (3, 5), (1, 1), (40, 8)), "layout": ("contiguous", "transposed", "strided", "expanded")}
functions("fastgen", ("gan_loss_generator",), one, **HEADS)
functions("fastgen", ("gan_loss_discriminator",), two, **HEADS, other=(None, (7, 2)))
functions("modelopt", ("gan_gen_loss",), one, **HEADS)
functions("modelopt", ("gan_disc_loss",), two, **HEADS, other=(None, (7, 2)))
functions("modelopt", ("r1_loss",), two, edges=(False,), size=lambda o, xs: 30.0)


def redux(name: str) -> Callable[..., Any]:
    """Return a call of traiNNer-redux's GANLoss, whose weight comes first."""

    def call(m: Any, o: SimpleNamespace, x: Tensor) -> Any:
        made = getattr(m, name)(o.loss_weight, o.gan_type, o.real, o.fake)
        return made(x, o.target_is_real, is_disc=o.is_disc)

    return call


for redux_name in ("GANLoss", "MultiScaleGANLoss"):
    loss(
        f"trainner_redux.{redux_name}",
        one,
        redux(redux_name),
        gan_type=("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"),
        **LABEL,
        loss_weight=WEIGHT,
        target_is_real=FLAGS,
        is_disc=FLAGS,
    )
of_scores("trainner_redux.r1_penalty", lambda m, o, y, x: m.r1_penalty(y, x))
penalty(
    "trainner_redux.gradient_penalty_loss",
    lambda m, o, D, x, y: m.gradient_penalty_loss(D, x, y, weight=masked(o)),
    mask=MASKS,
)
paths("trainner_redux.g_path_regularize", running, **MEAN)


def neo(m: Any, o: SimpleNamespace, x: Tensor) -> Any:
    """Call neosr's gan_loss."""
    return m.gan_loss(o.gan_type, o.real, o.fake, o.loss_weight)(x, o.target_is_real, is_disc=o.is_disc)


loss(
    "neosr.gan_loss",
    one,
    neo,
    gan_type=("bce", "mse", "huber"),
    **LABEL,
    loss_weight=WEIGHT,
    target_is_real=FLAGS,
    is_disc=FLAGS,
)

# ---------------------------------------------------------------------------------- control


def motions(m: Any, o: SimpleNamespace) -> Any:
    """Call all of amp-rsl-rl's losses, and go backward by each."""
    net = others.Motions(m, o.loss_type, o.minibatch_std)
    draw = torch.Generator().manual_seed(o.seed)
    states = [torch.randn(o.n, 3, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(4)]
    expert, policy = (states[0], states[1]), (states[2], states[3])
    scores = [net(torch.cat(x, -1)) for x in (policy, expert)]
    found = list(net.compute_loss(*scores, expert, policy, **({} if o.lambda_ is None else {"lambda_": o.lambda_})))
    found += [net.compute_grad_pen(expert, policy, 0.5)]
    cross_entropy = o.loss_type == "BCEWithLogits"
    found += [net.policy_loss(scores[0]), net.expert_loss(scores[1])] if cross_entropy else []
    found += [net.wgan_loss(*scores)]
    leaves = [*net.parameters(), *states]
    grads = [torch.autograd.grad(x, leaves, retain_graph=True, allow_unused=True) for x in found]
    return found, [[torch.zeros(()) if g is None else g for g in each] for each in grads]


steps(
    "amp_rsl_rl.Discriminator",
    motions,
    loss_type=("BCEWithLogits", "Wasserstein"),
    minibatch_std=FLAGS,
    n=(4, 2, 7),
    lambda_=(None, 0.3, 2.5),
)
