"""Adapters of penalties and of training steps, beside their trainers' in the same dtype.

They agree to the digits that the trainer's own order of operations leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from tests.compat import test_compat_audio as audio
from tests.compat import test_compat_images as pictures
from tests.compat import test_compat_penalties as penalties
from tests.compat import test_compat_torchgan as worlds
from tests.helpers import adapters
from tests.proof.adapter_cases import DIGITS, SUBJECTS, WIDE, Number, Subject, Unfit, laid_out
from tests.proof.adapter_losses import FLAGS, LABEL, REDUCED, REDUCTIONS, TF, WEIGHT, always, kept, most, tf_weight

# ---------------------------------------------------------------------------------- penalties and steps


class Critic(nn.Module):
    """A discriminator of data of any shape.

    Scores are one a sample, in a column, or in maps; of the "gated" the second sample's do not depend on the data.
    """

    def __init__(self, o: SimpleNamespace, shape: tuple[int, ...]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(o.seed + 7)
        width, dtype = torch.Size(shape).numel(), getattr(torch, o.dtype)
        maps = 4 if o.scores == "maps" else 1
        first, second = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((width, 5), (5, maps)))
        self.first, self.second = nn.Parameter((first / 3).to(dtype)), nn.Parameter(second.to(dtype))
        self.scores, self.bent = o.scores, o.bent

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        """Return scores, times what else is given."""
        h = x.flatten(1) @ self.first
        h = F.leaky_relu(h, 0.2) if self.bent else torch.tanh(h)
        out = -F.logsigmoid(-h @ self.second)  # softplus without a threshold
        if self.scores == "gated":
            out = out * (torch.arange(len(x)) != 1).to(out)[:, None]
        for c in rest:
            out = out * (1 + c.reshape(-1, 1).to(out))
        out = out[:, 0] if self.scores in ("numbers", "gated") else out
        return out.view(-1, 1, 2, 2) if self.scores == "maps" else out


PENALTY = {
    "seed": int, "dtype": ("float64", "float64", "float32"), "n": (4, 1, 2, 3), "sample": ((3, 4, 5), (1, 2, 2)),
    "scores": ("numbers", "column", "maps", "gated"), "bent": (False, True), "wants": (True, False),
    "layout": ("contiguous", "channels last", "transposed", "strided"),
}  # fmt: skip


def samples(o: SimpleNamespace, k: int) -> Tensor:
    """Return the k-th batch of samples, a leaf."""
    draw = torch.Generator().manual_seed(100 * o.seed + k)
    x = torch.randn(o.n, *o.sample, generator=draw, dtype=torch.float64).to(getattr(torch, o.dtype))
    return laid_out(x, o.layout).requires_grad_(o.wants)


class Same(NamedTuple):
    """What computes all of a result, gradients, draws and states among it, in the trainer's way and in fastgan's.

    Attributes:
        run: returns it, of a module and the options.
        digits: how far numbers may be apart, of the largest element; None for those of the dtype.
        double: whether PyTorch's default dtype is float64 meanwhile.
    """

    run: Callable[[Any, SimpleNamespace], Any]
    digits: float | None = None
    double: bool = False

    def __call__(self, mine: Any, theirs: Any, o: SimpleNamespace) -> None:
        """Compare the two modules."""
        try:
            with adapters.exact():
                want = self.outcome(theirs, o)
        except Exception as error:
            raise Unfit(str(error)) from error
        digits = DIGITS[getattr(o, "dtype", "float64")] if self.digits is None else self.digits
        alike("", self.outcome(mine, o), want, max(digits, DIGITS[getattr(o, "dtype", "float64")]))

    def outcome(self, module: Any, o: SimpleNamespace) -> Any:
        """Return everything, and what is drawn next."""
        torch.manual_seed(o.seed)
        np.random.seed(o.seed)
        result = (adapters.widened(self.run) if self.double else self.run)(module, o)
        return {"result": result, "draw": torch.rand(2), "NumPy's draw": float(np.random.random())}


def alike(where: str, got: Any, want: Any, digits: float) -> None:
    """Raise where two results differ: in containers, types, dtypes, shapes, graphs, or numbers."""
    if isinstance(want, Tensor) and isinstance(got, Tensor):
        for name in ("dtype", "shape", "requires_grad"):
            a, b = getattr(got, name), getattr(want, name)
            assert a == b, f"{where}: {name} is {a}, the trainer's {b}"
        assert near(got, want, digits), (
            f"{where}: {got.flatten()[:9].tolist()}, the trainer's {want.flatten()[:9].tolist()}"
        )
        return
    assert type(got) is type(want), f"{where}: {type(got).__name__}, the trainer's {type(want).__name__}"
    if isinstance(want, dict):
        assert list(got) == list(want), f"{where}: {list(got)}, the trainer's {list(want)}"
    if isinstance(want, (list, tuple, dict)):
        assert len(got) == len(want), f"{where}: {len(got)} results, the trainer's {len(want)}"
        for key in want if isinstance(want, dict) else range(len(want)):
            alike(f"{where} {key}".strip(), got[key], want[key], digits)
    elif isinstance(want, float):
        a, b = torch.tensor(got).double(), torch.tensor(want).double()
        assert near(a, b, digits), f"{where}: {got!r}, the trainer's {want!r}"
    else:
        assert got == want, f"{where}: {got!r}, the trainer's {want!r}"


def near(a: Tensor, b: Tensor, digits: float) -> bool:
    """Tell whether tensors agree, up to the largest element's rounding."""
    a, b = a.detach().double(), b.detach().double()
    least = 1e-14 if digits < 1e-7 else 1e-7
    return torch.allclose(a, b, rtol=digits, atol=digits * most(b) + least, equal_nan=True)


def gradients(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a value, zeros where there is none."""
    asked = [t for t in tensors if t.requires_grad]
    if not value.requires_grad:
        return []
    grads = torch.autograd.grad(value.sum(), asked, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, asked, strict=True)]


def penalty(
    name: str,
    call: Callable[..., Any],
    /,
    *,
    batches: int = 2,
    also: tuple[str, ...] = (),
    fits: Callable[[SimpleNamespace], bool] = always,
    digits: float | None = None,
    **space: Any,
) -> None:
    """List a penalty: `call` gets the module, the options, a critic and batches of samples."""
    trainer = name.partition(".")[0]

    def run(m: Any, o: SimpleNamespace) -> Any:
        net = Critic(o, o.sample)
        leaves = [samples(o, k) for k in range(batches)]
        asked = [x.requires_grad for x in leaves]
        value = call(m, o, net, *leaves)
        tensors = [v for v in adapters.flat(value) if isinstance(v, Tensor)]
        kept = [x for x, wants in zip(leaves, asked, strict=True) if wants]
        grads = [gradients(v, [*kept, *net.parameters()]) for v in tensors]
        return {"value": value, "gradients": grads, "asked": [x.requires_grad for x in leaves]}

    modules = (trainer, *also)
    SUBJECTS[name] = Subject(trainer, modules, {"module": modules} | PENALTY | space, Same(run, digits), fits)


def asks(o: SimpleNamespace) -> bool:
    """Tell whether the data require grad, as what gets scores needs."""
    return o.wants


def asking_for(x: Tensor) -> Tensor:
    """Return the samples, which require grad now, as a trainer has them before its discriminator's call."""
    return x if x.requires_grad else x.requires_grad_()


# Of scores and data


def of_scores(name: str, call: Callable[..., Any], **more: Any) -> None:
    """List a penalty of scores that are there already."""
    penalty(name, lambda m, o, D, x: call(m, o, D(x), x), batches=1, fits=asks, **more)


of_scores("stylegan2.d_r1_loss", lambda m, o, y, x: m.d_r1_loss(y, x))
of_scores("stylegan3.r1_penalty", lambda m, o, y, x: m.r1_penalty(y, x))
of_scores("basicsr.r1_penalty", lambda m, o, y, x: m.r1_penalty(y, x))
of_scores("studiogan.cal_r1_reg", lambda m, o, y, x: m.cal_r1_reg(y, x, "cpu"))
of_scores("studiogan.stylegan_cal_r1_reg", lambda m, o, y, x: m.stylegan_cal_r1_reg(y, x))
of_scores("studiogan.cal_deriv", lambda m, o, y, x: m.cal_deriv(x, y, "cpu").square())
of_scores(
    "magvit2.gradient_penalty", lambda m, o, y, x: m.gradient_penalty(x, y, o.center), center=Number(0.0, 0.0, 2.0)
)
of_scores(
    "torchgan.wasserstein_gradient_penalty",
    lambda m, o, y, x: (
        m.WassersteinGradientPenalty(o.reduction)(x, y)
        if o.as_module
        else m.wasserstein_gradient_penalty(x, y, o.reduction)
    ),
    reduction=REDUCTIONS,
    as_module=(False, True),
)
of_scores(
    "torchgan.dragan_gradient_penalty",
    lambda m, o, y, x: (
        m.DraganGradientPenalty(o.reduction, k=o.k)(x, y)
        if o.as_module
        else m.dragan_gradient_penalty(x, y, o.k, o.reduction)
    ),
    reduction=REDUCTIONS,
    k=Number(1.0, 0.0, 3.0),
    as_module=(False, True),
)


def gigagan_penalty(m: Any, o: SimpleNamespace, D: Any, x: Tensor) -> Any:
    """Call GigaGAN's penalty, on one output or on several with weights."""
    outputs = D(x) if o.outputs == 1 else [D(x), x.square().flatten(1).sum(1), D(2 * x)][: o.outputs]
    weights = [0.5, 2.0, 0.0][: o.outputs] if o.weighted else None
    scaler = None if o.scaler is None else penalties.Scaler(o.scaler)
    return m.gradient_penalty(x, outputs, weights, weight=o.weight, center=o.center, scaler=scaler)


penalty(
    "gigagan.gradient_penalty",
    gigagan_penalty,
    batches=1,
    fits=asks,
    outputs=(1, 2, 3),
    weighted=(False, True),
    weight=(10, 1, 0.5, 0),
    center=Number(0.0, 0.0, 2.0),
    scaler=(None, 1024.0, 1e-6),
)
penalty(
    "r3gan.ZeroCenteredGradientPenalty",
    lambda m, o, D, x: (
        m.AdversarialTraining(None, None) if o.instance else m.AdversarialTraining
    ).ZeroCenteredGradientPenalty(x, D(x)),
    batches=1,
    fits=asks,
    instance=(False, True),
)

# Of a discriminator and data

penalty(
    "cyclegan.cal_gradient_penalty",
    lambda m, o, D, x, y: m.cal_gradient_penalty(D, x, y, "cpu", o.type, o.constant, o.lambda_gp),
    also=("pix2pix", "cut"),
    type=("mixed", "real", "fake"),
    constant=Number(1.0, 0.0, 3.0),
    lambda_gp=(10.0, 1.0, 0.3, 0.0),
)
penalty(
    "relativisticgan.gradient_penalty",
    lambda m, o, D, x, y: m.gradient_penalty(D, x, y, penalty=o.penalty),
    penalty=(10.0, 0.5, 1),
    scores=("numbers", "gated"),
)
ANY = {"sample": ((3, 4, 5), (6,), (4, 3), (2, 3, 2, 2))}
penalty(
    "wgan_gp.compute_gradient_penalty",
    lambda m, o, D, x, y: m.compute_gradient_penalty(D, x, y),
    digits=1e-6,  # 1 - alpha is rounded to float32 also for data in float64
    scores=("column",),
)
penalty(
    "wgan_gp.compute_gradient_penalty_dragan",
    lambda m, o, D, x: m.compute_gradient_penalty_dragan(D, x, o.lambda_gp),
    batches=1,
    digits=1e-6,
    lambda_gp=(10, 0.3),
    scores=("column",),
    n=(4, 2, 3, 1),
    **ANY,
)
penalty(
    "wgan_gp.compute_gradient_penalty_div",
    lambda m, o, D, x, y: m.compute_gradient_penalty_div(D(asking_for(x)), x, D(asking_for(y)), y, o.k, o.p),
    k=(2, 0.5),
    p=(6, 2, 3, 4),
    **ANY,
)
penalty(
    "wgan_gp.calc_gradient_penalty",
    lambda m, o, D, x, y: m.calc_gradient_penalty(D, x, y, o.LAMBDA, over=o.over),
    LAMBDA=(10, 0.1),
    over=("sample", "dim1"),
    **ANY,
)
MASKS = (None, "pixels", "channels", "zeros")


def masked(o: SimpleNamespace) -> Tensor | None:
    """Return a mask for images."""
    if o.mask is None:
        return None
    draw = torch.Generator().manual_seed(o.seed)
    channels, *place = o.sample
    shape = (o.n, channels if o.mask == "channels" else 1, *place)
    found = torch.rand(shape, generator=draw, dtype=torch.float64)
    found = (found > 0.4) | (torch.arange(place[-1]) == 0) if o.mask == "zeros" else found + 0.5
    return found.to(getattr(torch, o.dtype))


penalty(
    "basicsr.gradient_penalty_loss",
    lambda m, o, D, x, y: m.gradient_penalty_loss(D, x, y, weight=masked(o)),
    mask=MASKS,
)
NORM = {"mask": MASKS, "norm_mode": ("pixel", "HWC")}


def in_parts(o: SimpleNamespace) -> dict[str, Any]:
    """Return mmgen's options of a reduction; none for mmagic."""
    return kept(o, *REDUCED) if o.module == "mmgen" else {}


def mm_fits(o: SimpleNamespace) -> bool:
    """Tell whether mmgen's options go together: a penalty is one number."""
    return o.module == "mmagic" or (
        o.reduction in ("mean", "sum", "none") and (o.avg_factor is None or o.reduction != "sum")
    )


for trainer in ("mmagic", "mmgen"):
    more = REDUCED if trainer == "mmgen" else {}
    penalty(
        f"{trainer}.gradient_penalty_loss",
        lambda m, o, D, x, y: m.gradient_penalty_loss(D, x, y, masked(o), o.norm_mode, **in_parts(o)),
        fits=mm_fits,
        **NORM,
        **more,
    )
    penalty(
        f"{trainer}.r1_gradient_penalty_loss",
        lambda m, o, D, x: m.r1_gradient_penalty_loss(
            D, x, masked(o), o.norm_mode, pictures.Scaler() if o.scaled else None, **in_parts(o)
        ),
        batches=1,
        fits=mm_fits,
        scaled=(False, True),
        **NORM,
        **more,
    )
penalty(
    "mmagic.GradientPenaltyLoss",
    lambda m, o, D, x, y: m.GradientPenaltyLoss(o.loss_weight)(D, x, y, mask=masked(o)),
    mask=MASKS,
    loss_weight=(1.0, 10.0, 0.5),
)


def component(m: Any, o: SimpleNamespace, D: Any, x: Tensor, *more: Tensor) -> Any:
    """Call a component of a penalty, with a dict of outputs or with its arguments."""
    options = {"loss_weight": o.loss_weight, "norm_mode": o.norm_mode}
    info = {"discriminator": "disc", "real_data": "real"} | ({"fake_data": "fake"} if more else {})
    outputs = {"disc": D, "real": x, "fake": more[0] if more else None, "iteration": o.iteration, "else": None}
    if not more:
        options["interval"] = o.interval
    if o.way == "arguments":
        return getattr(m, o.name)(**options)(D, x, *more)
    made = getattr(m, o.name)(**options, data_info=info)
    return made(outputs_dict=outputs) if o.way == "keyword" else made(outputs)


for trainer, gp, r1 in (
    ("mmagic", "GradientPenaltyLossComps", "R1GradientPenaltyComps"),
    ("mmgen", "GradientPenaltyLoss", "R1GradientPenalty"),
):
    shared: dict[str, Any] = {
        "loss_weight": (1.0, 10.0, 0.5),
        "norm_mode": ("pixel", "HWC"),
        "iteration": (0, 1, 4),
    }
    shared["way"] = ("dict", "keyword", "arguments")
    penalty(f"{trainer}.{gp}", component, name=(gp,), **shared)
    penalty(
        f"{trainer}.{r1}",
        component,
        batches=1,
        name=(r1,),
        interval=(1, 4),
        fits=lambda o: o.interval == 1 or o.way != "arguments",
        **shared,
    )


def studiogan_penalty(m: Any, o: SimpleNamespace, D: Any, x: Tensor, y: Tensor) -> Any:
    """Call a penalty of StudioGAN."""

    def judge(images: Tensor, labels: Tensor, eval: bool) -> dict[str, Any]:
        assert eval is False
        return {"adv_output": D(images, labels), "label": labels}

    labels = torch.arange(len(x)).to(x)
    data = (x, labels) if o.name == "cal_dra_penalty" else (x, labels, y)
    return getattr(m, o.name)(*data, judge, "cpu")


for name in ("cal_grad_penalty", "cal_dra_penalty", "cal_maxgrad_penalty"):
    penalty(f"studiogan.{name}", studiogan_penalty, name=(name,))


def tf_penalty(m: Any, o: SimpleNamespace, D: Any, x: Tensor, y: Tensor) -> Any:
    """Call TF-GAN's penalty; the discriminator sees the generator's inputs, and may return a tuple."""
    z = torch.linspace(0, 1, len(x), dtype=x.dtype)

    def judge(points: Tensor, inputs: Any) -> Any:
        return (D(points, inputs), None) if o.returns_tuple else D(points, inputs)

    weights = tf_weight(o.weights, x.flatten(1)[:, 0], 0)
    options = kept(o, "target", "one_sided", "epsilon", "reduction")
    return m.wasserstein_gradient_penalty(x, y, z, judge, None, weights=weights, **options)


penalty(
    "tfgan.wasserstein_gradient_penalty",
    tf_penalty,
    target=Number(1.0, 0.1, 2.0),
    one_sided=(False, True),
    epsilon=(1e-10, 0.5),
    weights=(1.0, 2.3, 0.5, "elements"),
    reduction=TF["reduction"],
    returns_tuple=(False, True),
)


# Of a generator: path lengths


class Synthesis(nn.Module):
    """Images (N, 3, 4, 5) of latents (N, L, d)."""

    def __init__(self, o: SimpleNamespace) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(o.seed + 3)
        weight = torch.randn(*o.latents, 60, generator=draw, dtype=torch.float64)
        self.weight = nn.Parameter(weight.to(getattr(torch, o.dtype)) / 3)

    def forward(self, w: Tensor) -> Tensor:
        """Return images."""
        return torch.tanh(torch.einsum("nld,ldk->nk", torch.sin(w), self.weight)).view(-1, 3, 4, 5)


PATH = {
    "seed": int, "dtype": ("float64", "float32"), "n": (4, 1, 3), "latents": ((3, 5), (1, 4), (2, 1)),
    "steps": (1, 3),
}  # fmt: skip


def paths(name: str, call: Callable[..., Any], /, digits: float | None = None, **space: Any) -> None:
    """List a penalty on path lengths: `call` gets the module, the options, a generator and latents."""
    trainer = name.partition(".")[0]

    def run(m: Any, o: SimpleNamespace) -> Any:
        net = Synthesis(o)
        draw = torch.Generator().manual_seed(o.seed)
        w = torch.randn(o.n, *o.latents, generator=draw, dtype=torch.float64).to(getattr(torch, o.dtype))
        w.requires_grad_()
        value = call(m, o, net, w)
        tensors = [v for v in adapters.flat(value) if isinstance(v, Tensor)]
        return {"value": value, "gradients": [gradients(v, [w, *net.parameters()]) for v in tensors]}

    SUBJECTS[name] = Subject(trainer, (trainer,), {"module": (trainer,)} | PATH | space, Same(run, digits), always)


MEAN = {"mean": (0, 0.0, 0.8, "tensor"), "decay": Number(0.01, 0.0, 1.0)}


def running(m: Any, o: SimpleNamespace, G: Any, w: Tensor) -> Any:
    """Call a function that takes and returns the running mean, some times."""
    mean = torch.tensor(0.3, dtype=w.dtype) if o.mean == "tensor" else o.mean
    found = []
    for _ in range(o.steps):
        found.append(m.g_path_regularize(G(w), w, mean, o.decay))
        mean = found[-1][1 if o.module == "stylegan2" else 2]
    return found


paths("stylegan2.g_path_regularize", running, **MEAN)
paths("basicsr.g_path_regularize", running, **MEAN)


def stylegan3_path(m: Any, o: SimpleNamespace, G: Any, w: Tensor) -> Any:
    """Call StyleGAN3's, which changes the mean in place."""
    mean = torch.tensor(o.mean, dtype=w.dtype)
    return [m.path_length_penalty(G(w), w, mean, pl_decay=o.decay) for _ in range(o.steps)], mean


paths("stylegan3.path_length_penalty", stylegan3_path, mean=Number(0.0, 0.0, 2.0), decay=Number(0.01, 0.0, 1.0))


def studiogan_path(m: Any, o: SimpleNamespace, G: Any, w: Tensor) -> Any:
    """Call StudioGAN's regularizer some times."""
    made = m.PathLengthRegularizer("cpu", o.decay, o.pl_weight, o.pl_no_weight_grad)
    return [made.cal_pl_reg(G(w), w) for _ in range(o.steps)], made.pl_mean


paths(
    "studiogan.PathLengthRegularizer",
    studiogan_path,
    digits=1e-6,  # the mean is a float32 number
    decay=Number(0.01, 0.0, 1.0),
    pl_weight=(2, 0.5),
    pl_no_weight_grad=(False, True),
)
SHRUNK = {"pl_batch_shrink": (1, 2, 8, 0), "pl_batch_size": (None, 2), "weight": (1.0, 4.0, 0.5)}
SHRUNK |= {"decay": Number(0.01, 0.0, 1.0), "mean": Number(0.0, 0.0, 2.0), "scaled": (False, True)}


def generated(G: Any, w: Tensor, calls: list[int]) -> Callable[..., Any]:
    """Return a generator as OpenMMLab's are called; `calls` is told for how many samples."""

    def generator(noise: Any, num_batches: int, return_latents: bool) -> dict[str, Any]:
        assert (noise, return_latents) == (None, True)
        calls.append(num_batches)
        chosen = w[:num_batches]
        return {"noise": None, "fake_img": G(chosen), "latent": chosen}

    return generator


def mm_path(m: Any, o: SimpleNamespace, G: Any, w: Tensor) -> Any:
    """Call OpenMMLab's function."""
    calls: list[int] = []
    mean = torch.tensor(o.mean, dtype=w.dtype)
    scaler = pictures.Scaler() if o.scaled else None
    options = kept(o, "pl_batch_shrink", "pl_batch_size", "weight", "decay")
    result = m.gen_path_regularizer(generated(G, w, calls), o.n, mean, loss_scaler=scaler, **options)
    return result, calls


def mm_regularizer(m: Any, o: SimpleNamespace, G: Any, w: Tensor) -> Any:
    """Call OpenMMLab's module some times, which keeps the mean."""
    calls: list[int] = []
    options = kept(o, "pl_batch_shrink", "pl_batch_size", "decay", "interval")
    made = getattr(m, o.name)(o.weight, **options, data_info={"generator": "gen", "num_batches": "n"})
    outputs = {"gen": generated(G, w, calls), "n": o.n}
    found = [made({**outputs, "iteration": k}) for k in range(o.steps)]
    return found, made.mean_path_length, calls, made.loss_name()


for trainer, name in (("mmagic", "GeneratorPathRegularizerComps"), ("mmgen", "GeneratorPathRegularizer")):
    paths(f"{trainer}.gen_path_regularizer", mm_path, **SHRUNK)
    space = {key: SHRUNK[key] for key in ("pl_batch_shrink", "pl_batch_size", "weight", "decay")}
    paths(f"{trainer}.{name}", mm_regularizer, digits=1e-6, name=(name,), interval=(1, 2), **space)


# ---------------------------------------------------------------------------------- subjects: what runs networks


def steps(
    name: str,
    run: Callable[[Any, SimpleNamespace], Any],
    /,
    *,
    digits: float | None = None,
    double: bool = False,
    fits: Callable[[SimpleNamespace], bool] = always,
    **space: Any,
) -> None:
    """List what is more than a loss: `run` returns everything that comes of it."""
    trainer = name.partition(".")[0]
    SUBJECTS[name] = Subject(
        trainer, (trainer,), {"module": (trainer,), "seed": int} | space, Same(run, digits, double), fits
    )


def state_of(*nets: nn.Module) -> list[Any]:
    """Return parameters, buffers and gradients."""
    found: list[Any] = []
    for net in nets:
        found += [p.detach() for p in net.parameters()] + [b.detach() for b in net.buffers()]
        found += [p.grad for p in net.parameters()]
    return found


# taming, MAGVIT2


def adopted(m: Any, o: SimpleNamespace) -> Any:
    """Call taming's `adopt_weight`."""
    return m.adopt_weight(o.weight, o.global_step, o.threshold, o.value)


steps(
    "taming.adopt_weight",
    adopted,
    weight=(0.7, 1, 0.0),
    global_step=(3, 0, 5, 6),
    threshold=(0, 5, 6),
    value=(0.0, -1.0, 1),
)


def adaptive(m: Any, o: SimpleNamespace) -> Any:
    """Call taming's adaptive weight, and go on with both losses."""
    draw = torch.Generator().manual_seed(o.seed)
    dtype = getattr(torch, o.dtype)
    layer, x = (torch.randn(s, generator=draw, dtype=torch.float64).to(dtype) for s in ((3, 4), (5, 3)))
    layer.requires_grad_()
    image = torch.tanh(x @ layer)
    nll, g = o.first * (image - 0.3).abs().mean(), o.second * image.square().sum()
    weight = m.calculate_adaptive_weight(nll, g, layer, o.discriminator_weight)
    (nll + weight * g).backward()
    return weight, layer.grad


SIZES = (1.0, 0.0, 1e-3, 1e6)
steps(
    "taming.calculate_adaptive_weight",
    adaptive,
    dtype=("float64", "float32"),
    first=SIZES,
    second=SIZES,
    discriminator_weight=(1.0, 0.8, 0.5),
)


def layers_gradient(m: Any, o: SimpleNamespace) -> Any:
    """Call MAGVIT2's gradient of a layer, and go backward."""
    draw = torch.Generator().manual_seed(o.seed)
    layer, x = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((3, 4), (5, 3)))
    layer.requires_grad_()
    loss_value = torch.tanh(x @ layer).square()
    loss_value = loss_value.sum() if o.scalar else loss_value.sum(1)
    found = m.grad_layer_wrt_loss(loss_value, layer)
    loss_value.sum().backward()
    return found, layer.grad


steps("magvit2.grad_layer_wrt_loss", layers_gradient, scalar=FLAGS)

# MMagic's masks and networks


def blurred(m: Any, o: SimpleNamespace) -> Any:
    """Call MMagic's blur."""
    draw = torch.Generator().manual_seed(o.seed)
    x = torch.randn(2, o.channels, 20, 17, generator=draw, dtype=torch.float64).to(getattr(torch, o.dtype))
    x.requires_grad_()
    y = m.GaussianBlur(o.kernel_size, o.sigma)(x)
    return y, gradients(y.square(), [x])


steps(
    "mmagic.GaussianBlur",
    blurred,
    digits=2e-6,  # one of the kernels is rounded to float32
    dtype=WIDE,
    channels=(1, 3),
    kernel_size=((5, 9), (1, 3), (71, 71)),
    sigma=((1.0, 2.5), (10.0, 10.0)),
)


def smgan(m: Any, o: SimpleNamespace) -> Any:
    """Call MMagic's GANLoss with a mask."""
    draw = torch.Generator().manual_seed(o.seed)
    dtype = getattr(torch, o.dtype)
    mask = (torch.rand(2, 1, 20, 24, generator=draw, dtype=torch.float64) > 0.5).to(dtype)
    x = torch.randn(2, 1, *o.size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    value = m.GANLoss("smgan", o.real, o.fake, o.loss_weight)(x, o.target_is_real, o.is_disc, mask=mask)
    return value, gradients(value, [x])


steps(
    "mmagic.GANLoss, smgan",
    smgan,
    digits=1e-5,
    dtype=WIDE,
    size=((20, 24), (10, 12)),
    loss_weight=WEIGHT,
    target_is_real=FLAGS,
    is_disc=FLAGS,
    **LABEL,
)


ADVERSARIAL = ("gan", "lsgan", "wgan-gp", "ragan", "ragan-ls")


def mmagic_adversarial(m: Any, o: SimpleNamespace) -> Any:
    """Call one of MMagic's adversarial losses some times, for the discriminator and then for the generator."""
    made, net = m.AdvLoss(o.of) if o.of in ADVERSARIAL else getattr(m, o.of)(), Critic(o, o.sample)
    found = []
    for k in range(o.steps):
        x, y = samples(o, k), samples(o, k + 50)
        value = made(net, x, y)
        found.append((value, gradients(value, [y, *net.parameters()])))
    value = made(net, x, y, model=o.model)
    return found, value, gradients(value, [x, y, *net.parameters()])


steps(
    "mmagic.AdvLoss",
    mmagic_adversarial,
    of=(*ADVERSARIAL, "DiscLoss", "DiscLossWGANGP", "RelativisticDiscLoss", "RelativisticDiscLossLS"),
    model=("generator", "discriminator", "G"),
    steps=(1, 3),
    **PENALTY | {"n": (4, 24, 2), "scores": ("numbers", "column", "maps")},
)

# R3GAN


def r3gan_step(m: Any, o: SimpleNamespace) -> Any:
    """Accumulate gradients of one of R3GAN's networks."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = torch.Generator().manual_seed(o.seed)
            self.weight = nn.Parameter(torch.randn(6, 60, generator=draw, dtype=torch.float64).to(x) / 3)

        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            return torch.tanh(z @ self.weight).view(-1, *o.sample) + c.view(-1, 1, 1, 1)

    x = samples(o, 0)
    critic, draw = Critic(o, o.sample), torch.Generator().manual_seed(o.seed)
    noise = torch.randn(o.n, 6, generator=draw, dtype=torch.float64).to(x)
    conditions = torch.rand(o.n, generator=draw, dtype=torch.float64).to(x)
    generator = Generator()
    training = m.AdversarialTraining(generator, critic)
    before = {"none": {}, "square": {"Preprocessor": lambda t: t.square() + 0.5 * t}}
    before["noise"] = {"Preprocessor": lambda t: t + 0.1 * torch.randn_like(t)}
    options = before[o.preprocessor] | {"Scale": o.scale}
    found = []
    for _ in range(o.steps):
        if o.role == "generator":
            found.append(training.AccumulateGeneratorGradients(noise, x, conditions, **options))
        else:
            found.append(training.AccumulateDiscriminatorGradients(noise, x, conditions, o.gamma, **options))
    return found, state_of(generator, critic), x.grad, x.requires_grad


steps(
    "r3gan.AdversarialTraining",
    r3gan_step,
    role=("discriminator", "generator"),
    scale=(1, 0.25, 3),
    gamma=(2.0, 0.5, 5, 0.0),
    preprocessor=("none", "square", "noise"),
    steps=(1, 2),
    **PENALTY | {"scores": ("numbers", "column", "gated"), "sample": ((3, 4, 5),)},
)

# AudioCraft


def audiocraft_step(m: Any, o: SimpleNamespace) -> Any:
    """Train an adversary some steps, and call the generator's losses."""
    adversary = audio.Adversary().double()
    adversary.other.bias.requires_grad_(not o.frozen)
    made = m.AdversarialLoss(
        adversary,
        getattr(torch.optim, o.optimizer)(adversary.parameters(), lr=0.02),
        loss=m.get_adv_criterion(o.loss),
        loss_real=m.get_real_criterion(o.loss),
        loss_fake=m.get_fake_criterion(o.loss),
        loss_feat=m.FeatureMatchingLoss(normalize=o.normalize_features) if o.features else None,
        normalize=o.normalize,
    )
    draw = torch.Generator().manual_seed(o.seed)
    fake, real = torch.randn(2, o.n, 1, 20, generator=draw, dtype=torch.float64)
    fake, real = fake.clone().requires_grad_(), real.clone().requires_grad_(o.wants)
    values = [made.train_adv(fake, real).detach() for _ in range(o.steps)]
    made.optimizer.zero_grad()
    losses = made(fake, real)
    (losses[0] + 3 * losses[1]).backward()
    flags = [p.requires_grad for p in adversary.parameters()]
    return values, losses, fake.grad, real.grad, state_of(adversary), flags, list(made.state_dict())


steps(
    "audiocraft.AdversarialLoss",
    audiocraft_step,
    digits=1e-6,  # its losses are float32 whatever the logits are
    loss=("mse", "hinge", "hinge2"),
    features=FLAGS,
    normalize=FLAGS,
    normalize_features=FLAGS,
    optimizer=("SGD", "Adam"),
    frozen=(False, True),
    wants=(False, True),
    n=(2, 1, 3),
    steps=(1, 3),
)


def balanced(m: Any, o: SimpleNamespace) -> Any:
    """Balance three losses some times."""
    dtype = getattr(torch, o.dtype)
    weights = {"l1": o.l1, "spectrum": 2.0, "adv": 4.0}
    balancer = m.Balancer(
        weights, **kept(o, "balance_grads", "total_norm", "ema_decay", "per_batch_item", "epsilon", "monitor")
    )
    draw = torch.Generator().manual_seed(o.seed)
    layer = torch.randn(3, 4, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    found = []
    for k in range(o.steps):
        x = torch.tanh(torch.randn(2 + k, 5, 3, generator=draw, dtype=torch.float64).to(dtype) @ layer)
        losses = {"l1": x.abs().mean(), "spectrum": 30 * (k + 1) * x.square().mean(), "adv": -x.sin().sum()}
        if o.lost and k == 1:
            del losses["adv"]
        layer.grad = None
        found.append((balancer.backward(losses, x), layer.grad, dict(balancer.metrics)))
    return found


steps(
    "audiocraft.Balancer",
    balanced,
    digits=1e-10,
    dtype=("float64", "float32"),
    l1=(0.1, 1, 0.0),
    balance_grads=FLAGS,
    total_norm=(1.0, 3.0, 0.0),
    ema_decay=(0.999, 0.5, 0.0),
    per_batch_item=FLAGS,
    epsilon=(1e-12, 0.1),
    monitor=(False, True),
    lost=(False,),
    steps=(2, 1, 4),
)

# torchgan's steps

PLAIN_STEPS = {
    "MinimaxGeneratorLoss": {"nonsaturating": FLAGS},
    "LeastSquaresGeneratorLoss": {"c": Number(1.0, -1, 2)},
    "WassersteinGeneratorLoss": {},
    "EnergyBasedGeneratorLoss": {},
    "BoundaryEquilibriumGeneratorLoss": {},
    "MinimaxDiscriminatorLoss": {"label_smoothing": Number(0.0, 0.0, 1.0)},
    "LeastSquaresDiscriminatorLoss": {"a": Number(0.0, -1, 1), "b": Number(1.0, -1, 2)},
    "WassersteinDiscriminatorLoss": {"clip": (None, (-0.1, 0.2), (-0.01, 0.01))},
    "EnergyBasedDiscriminatorLoss": {"margin": (80.0, 0.5, 2)},
    "BoundaryEquilibriumDiscriminatorLoss": {
        "init_k": Number(0.0, 0.0, 1.0), "lambd": (0.001, 0.3), "gamma": Number(0.75, 0.1, 1.0),
    },
    "WassersteinGradientPenalty": {"lambd": (10.0, 2.0)},
    "DraganGradientPenalty": {"lambd": (10.0, 2.0), "k": Number(1.0, 0.0, 2.0)},
    "FeatureMatchingGeneratorLoss": {},
}  # fmt: skip


def world_step(m: Any, o: SimpleNamespace) -> Any:
    """Take steps in a world of small networks, and return what was called and what it came to."""
    here = worlds.World(**worlds.WORLDS[o.world], **o.more)
    loss_module = getattr(m, o.loss)(**{key: getattr(o, key) for key in o.names})
    torch.manual_seed(o.seed)
    values = [here.call(loss_module) for _ in range(o.steps)]
    attributes = [getattr(loss_module, name, None) for name in ("k", "convergence_metric", "reduction", "lambd")]
    log = [[*entry[:2], *map(str, entry[3:])] if entry[0] == "D" else list(map(str, entry)) for entry in here.log]
    return values, log, here.state(), attributes


for name, space in PLAIN_STEPS.items():
    options = {"reduction": ("mean", "sum"), **space}
    steps(
        f"torchgan.{name}.train_ops",
        world_step,
        double=True,
        loss=(name,),
        names=(tuple(options),),
        more=({},),
        world=tuple(worlds.WORLDS),
        steps=(1, 3),
        **options,
    )
EMBEDDED = ({"returns": "hidden", "embeddings": True},)
for name, more, space in (
    ("EnergyBasedPullingAwayTerm", EMBEDDED, {"pt_ratio": Number(0.1, 0.0, 1.0)}),
    ("AuxiliaryClassifierGeneratorLoss", ({},), {"reduction": ("mean", "sum")}),
    ("AuxiliaryClassifierDiscriminatorLoss", ({},), {"reduction": ("mean", "sum")}),
    ("HistoricalAverageGeneratorLoss", ({},), {"lambd": (1.0, 0.3)}),
    ("HistoricalAverageDiscriminatorLoss", ({},), {"lambd": (1.0, 0.3)}),
):
    world = ("labels for the generator",) if name.startswith("Auxiliary") else ("none",)
    steps(
        f"torchgan.{name}.train_ops",
        world_step,
        double=True,
        loss=(name,),
        names=(tuple(space),),
        more=more,
        world=world,
        steps=(1, 3),
        **space,
    )


def informed(m: Any, o: SimpleNamespace) -> Any:
    """Call torchgan's mutual information, as a function or a module."""
    draw = torch.Generator().manual_seed(o.seed)
    logits, mean, codes = (torch.randn(6, k, generator=draw) for k in (3, 2, 2))
    arguments = torch.arange(6) % 3, codes, Categorical(logits=logits), Normal(mean, 1.5)
    if o.as_module:
        return m.MutualInformationPenalty(o.lambd, o.reduction)(*arguments)
    return m.mutual_information_penalty(*arguments, reduction=o.reduction)


steps(
    "torchgan.mutual_information_penalty",
    informed,
    digits=1e-5,
    reduction=("mean", "sum", "none"),
    lambd=(1.0, 3.0),
    as_module=(False, True),
)
