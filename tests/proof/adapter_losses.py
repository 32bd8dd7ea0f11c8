"""Adapters of losses and their trainers' formulas, which are in float64, as in tests/compat."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers import adapters
from tests.proof.adapter_cases import (
    LEAST,
    LOGITS,
    SUBJECTS,
    ULP,
    ULPS,
    WIDE,
    Number,
    Subject,
    Unfit,
    listed,
    one,
    two,
    two_lists,
    two_sets_of_maps,
)

# ---------------------------------------------------------------------------------- losses


def asking(tree: Any, wants: str, double: bool = False) -> Any:
    """Return new leaves, of which all, the first or none require grad."""
    leaves = adapters.leaves(tree, double)
    for k, x in enumerate(adapters.flat(leaves)):
        x.requires_grad_(wants == "all" or (wants == "first" and k == 0))
    return leaves


class Loss(NamedTuple):
    """A loss of tensors.

    Attributes:
        inputs: makes the tensors.
        call: calls the loss of a module.
        size: how many times a mean's summand the sum is, and numbers that it is multiplied by.
        accident: whether the trainer's result has by accident another dtype.
        digits: what float32 may be off besides, where plain PyTorch computes on both sides; float64 a millionth.
    """

    inputs: Callable[[SimpleNamespace], list[Any]]
    call: Callable[..., Any]
    size: Callable[[SimpleNamespace, list[Tensor]], float]
    accident: Callable[[SimpleNamespace], bool]
    digits: float = 0.0

    def __call__(self, mine: Any, theirs: Any, o: SimpleNamespace) -> None:
        """Compare the two modules' losses."""
        tree = self.inputs(o)
        kept = adapters.mapped(tree, torch.clone)
        ours, peers, exactly = (asking(tree, o.wants, double) for double in (False, False, True))
        form = self.theirs(theirs, o, peers, exactly)
        torch.manual_seed(o.seed)
        got = self.call(mine, o, *ours)
        drawn_next = torch.rand(1)
        torch.manual_seed(o.seed)
        assert torch.equal(drawn_next, torch.rand(1)), "random numbers were drawn"
        self.compare(o, (got, ours), form, exactly)
        for before, after in zip(adapters.flat(kept), adapters.flat(tree), strict=True):
            assert torch.equal(before, after), "an input was changed"

    def theirs(self, module: Any, o: SimpleNamespace, peers: Any, exactly: Any) -> tuple[Any, Any, Any]:
        """Return the trainer's results, the same in float64, and which gradients it has."""
        try:
            plain = self.call(module, o, *peers)
            with adapters.exact():
                want = adapters.widened(self.call)(module, o, *exactly)
            return plain, want, [given(value, peers) for value in adapters.flat(plain)]
        except Exception as error:
            raise Unfit(str(error)) from error

    def compare(self, o: SimpleNamespace, ours: Any, form: Any, exactly: Any) -> None:
        """Compare results: containers, dtypes, shapes, graphs, values, and gradients."""
        (got, mine), (plain, want, reached) = ours, form
        a, b = adapters.skeleton(got), adapters.skeleton(plain)
        if self.accident(o):
            a, b = untyped(a), untyped(b)
        assert a == b, f"the result is {a}, the trainer's {b}"
        inputs = [x.detach() for x in adapters.flat(exactly) if isinstance(x, Tensor)]
        size = self.size(o, inputs)
        for value, truth, theirs, has in zip(*map(adapters.flat, (got, want, plain)), reached, strict=True):
            number = adapters.tensor_of(value, got, mine)
            agree("the value", number, truth, size * magnitude(inputs, value), self.digits)
            if not isinstance(value, Tensor):
                continue
            assert value.requires_grad == theirs.requires_grad, f"requires_grad is {value.requires_grad}"
            assert given(value, mine) == has, f"gradients for {given(value, mine)}, the trainer's for {has}"
            grads = zip(adapters.backward(value, mine), adapters.backward(truth, exactly), strict=True)
            for k, (g, w) in enumerate(grads):
                per_element = size if value.dim() else size / max(1, w.numel())
                agree(f"gradient {k}", g, w, most(w) + per_element, self.digits)


def given(value: Any, tree: Any) -> list[bool]:
    """Return which tensors get a gradient of a value."""
    leaves = [x for x in adapters.flat(tree) if isinstance(x, Tensor) and x.requires_grad]
    if not isinstance(value, Tensor) or not value.requires_grad or not leaves:
        return []
    grads = torch.autograd.grad(value, leaves, torch.ones_like(value), retain_graph=True, allow_unused=True)
    return [g is not None for g in grads]


def most(t: Tensor) -> float:
    """Return the size of the largest element."""
    return float(t.abs().max()) if t.numel() else 0.0


def untyped(form: Any) -> Any:
    """Return a skeleton without dtypes."""
    if isinstance(form, tuple) and isinstance(form[0], torch.dtype):
        return form[1]
    return (form[0], [untyped(part) for part in form[1]]) if isinstance(form, tuple) else form


def magnitude(inputs: list[Tensor], value: Any) -> Any:
    """Return the size of a summand: element by element where the result has the inputs' shape, else on average."""
    if isinstance(value, Tensor) and value.dim() and all(x.shape == value.shape for x in inputs):
        return 1 + sum(x.abs() for x in inputs)
    return float(sum((1 + x.abs()).mean() for x in inputs if x.numel()))


def agree(what: str, got: Tensor, want: Any, size: Any, digits: float = 0.0) -> None:
    """Raise where two differ by more than some ulp of the larger of the number and `size`."""
    got = got.detach()
    want = torch.as_tensor(want, dtype=torch.float64).detach()
    bound = ULPS[got.dtype] * (ULP[got.dtype] * (want.abs() + size) + LEAST[got.dtype])
    bound = bound + digits * (1.0 if got.dtype is torch.float32 else 1e-6)
    right = (got.double() - want).abs() <= bound
    right |= (got == want.to(got.dtype)) | (got.isnan() & want.isnan())
    if right.all():
        return
    k = int((~right).flatten().int().argmax())
    a, b, allowed = (
        got.flatten()[k].item(),
        want.flatten()[k].item(),
        bound.flatten()[min(k, bound.numel() - 1)].item(),
    )
    raise AssertionError(
        f"{what}, element {k} of {got.numel()}, is {a!r}, exactly {b!r}; {allowed:.2g} are allowed"
    )


def always(o: SimpleNamespace) -> bool:
    """Return True."""
    return True


def never(o: SimpleNamespace) -> bool:
    """Return False."""
    return False


def single(o: SimpleNamespace, inputs: list[Tensor]) -> float:
    """Return the size of a mean: a summand's, times the weights among the options."""
    numbers = [
        abs(v) for k, v in vars(o).items() if isinstance(v, (int, float)) and k not in ("seed", "members", "maps")
    ]
    factor = max([1.0, *map(float, numbers)])
    summed = str(getattr(o, "reduction", "")) in ("sum", "weighted_sum", "batchmean")
    return factor * (sum(x.numel() for x in inputs) if summed else 1.0)


def loss(
    name: str,
    inputs: Callable[[SimpleNamespace], list[Any]],
    call: Callable[..., Any],
    *,
    also: tuple[str, ...] = (),
    fits: Callable[[SimpleNamespace], bool] = always,
    accident: Callable[[SimpleNamespace], bool] = never,
    size: Callable[[SimpleNamespace, list[Tensor]], float] = single,
    digits: float = 0.0,
    **space: Any,
) -> None:
    """List a loss of tensors as a subject; `also` names modules of the same names."""
    trainer = name.partition(".")[0]
    modules = (trainer, *also)
    SUBJECTS[name] = Subject(
        trainer, modules, {"module": modules} | LOGITS | space, Loss(inputs, call, size, accident, digits), fits
    )


def functions(
    trainer: str, names: tuple[str, ...], inputs: Any, *, arguments: Any = lambda o: {}, **more: Any
) -> None:
    """List functions of the same arguments."""
    for name in names:

        def call(m: Any, o: SimpleNamespace, *tensors: Any, name: str = name) -> Any:
            return getattr(m, name)(*tensors, **arguments(o))

        loss(f"{trainer}.{name}", inputs, call, **more)


def kept(o: SimpleNamespace, *names: str) -> dict[str, Any]:
    """Return options by name, as keyword arguments."""
    return {name: getattr(o, name) for name in names}


# ---------------------------------------------------------------------------------- subjects: losses

FLAGS = (True, False)
LABEL = {"real": Number(1.0, -1.0, 2.0), "fake": Number(0.0, -1.0, 1.0)}
WEIGHT = (1.0, 0.1, 5e-3, 2, 0.0, -0.5)
OTHER = (None, (7,), (3, 2), (1,))
LISTS = {"members": (2, 1, 3, 5), "container": ("list", "tuple", "maps")}


def gan_loss(name: str) -> Callable[..., Any]:
    """Return a call of a GANLoss of a type, labels and a weight."""

    def call(m: Any, o: SimpleNamespace, x: Any) -> Any:
        made = getattr(m, name)(o.gan_type, o.real, o.fake, o.loss_weight)
        return made(x, o.target_is_real, is_disc=o.is_disc)

    return call


for trainer, name, types in (
    ("basicsr", "GANLoss", ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")),
    ("mmagic", "GANLoss", ("vanilla", "lsgan", "wgan", "hinge", "l1")),
    ("mmagic", "GANLossComps", ("vanilla", "lsgan", "wgan", "hinge", "wgan-logistic-ns")),
    ("mmgen", "GANLoss", ("vanilla", "lsgan", "wgan", "hinge", "wgan-logistic-ns")),
):
    gan_options = {"gan_type": types, **LABEL, "loss_weight": WEIGHT, "target_is_real": FLAGS, "is_disc": FLAGS}
    loss(f"{trainer}.{name}", one, gan_loss(name), **gan_options)
loss(
    "basicsr.MultiScaleGANLoss",
    lambda o: [listed(o)],
    gan_loss("MultiScaleGANLoss"),
    **{"gan_type": ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"), **LABEL, "loss_weight": WEIGHT},
    target_is_real=FLAGS,
    is_disc=FLAGS,
    members=(2, 1, 3, 5),
    container=("list", "maps", "tensor"),
)


def cyclegan_loss(m: Any, o: SimpleNamespace, x: Tensor) -> Any:
    """Call CycleGAN's loss."""
    real, fake = (float(np.float32(label)) for label in (o.real, o.fake))  # as its buffers hold them
    return m.GANLoss(o.gan_mode, real, fake)(x, o.target_is_real)


loss(
    "cyclegan.GANLoss",
    one,
    cyclegan_loss,
    also=("pix2pix", "cut"),
    gan_mode=("lsgan", "vanilla", "wgangp", "nonsaturating"),
    **LABEL,
    target_is_real=FLAGS,
    accident=lambda o: (o.gan_mode, o.dtype) == ("vanilla", "float64"),
)

functions("biggan", ("loss_dcgan_dis", "loss_hinge_dis", "discriminator_loss"), two, other=OTHER)
functions("biggan", ("loss_dcgan_gen", "loss_hinge_gen", "generator_loss"), one)
functions("stylegan2", ("d_logistic_loss",), two, other=OTHER)
functions("stylegan2", ("g_nonsaturating_loss",), one)
functions("stylegan3", ("loss_gmain", "loss_dgen", "loss_dreal"), one)
functions("magvit2", ("hinge_discr_loss",), two)
functions("magvit2", ("hinge_gen_loss",), one)
functions("gigagan", ("discriminator_hinge_loss", "aux_matching_loss"), two)
functions("gigagan", ("generator_hinge_loss",), one)
functions("taming", ("hinge_d_loss", "vanilla_d_loss"), two, other=OTHER)
functions("taming", ("hinge_gen_loss",), one)
functions(
    "hifigan",
    ("discriminator_loss",),
    two_lists,
    also=("bigvgan",),
    longer=(0, 2, -1),
    **LISTS | {"container": ("list", "tuple")},
)
functions(
    "hifigan",
    ("generator_loss",),
    lambda o: [listed(o)],
    also=("bigvgan",),
    **LISTS | {"container": ("list", "tuple")},
)
functions("hifigan", ("feature_loss",), two_sets_of_maps, also=("bigvgan",), members=(2, 1, 3), maps=(2, 1, 4))

ROLES = ("hinge", "logistic", "ls", "vanilla", "wasserstein")
DDP = {"DDP": FLAGS}
functions("studiogan", tuple(f"d_{r}" for r in ROLES), two, arguments=lambda o: kept(o, "DDP"), **DDP)
functions("studiogan", tuple(f"g_{r}" for r in ROLES), one, arguments=lambda o: kept(o, "DDP"), **DDP)
functions(
    "studiogan",
    ("feature_matching_loss",),
    two,
    shape=((4, 6), (1, 3), (5, 2, 3), (3, 2, 2, 2)),
    dtype=WIDE,  # in 16 bits means are rounded, and where they are equal then the slope is 0
)
loss(
    "studiogan.crammer_singer_loss",
    one,
    lambda m, o, x: m.crammer_singer_loss(x, torch.arange(o.seed, o.seed + len(x)) % x.shape[1], o.DDP),
    shape=((5, 4), (1, 2), (7, 3)),
    **DDP,
)
loss(
    "studiogan.lecam_reg",
    two,
    lambda m, o, r, f: m.lecam_reg(r, f, SimpleNamespace(D_real=o.D_real, D_fake=o.D_fake)),
    D_real=Number(0.5, -2, 2),
    D_fake=Number(-0.25, -2, 2),
    other=OTHER,
)


# AudioCraft


def audiocraft_criterion(m: Any, o: SimpleNamespace, x: Tensor) -> Any:
    """Call a criterion by its name, or by its role and type."""
    role, _, kind = o.criterion.partition(" ")
    return getattr(m, f"get_{role}_criterion")(kind)(x) if kind else getattr(m, role)(x)


OF_X = (
    "mse_loss",
    "hinge_loss",
    "hinge2_loss",
    "mse_real_loss",
    "mse_fake_loss",
    "hinge_real_loss",
    "hinge_fake_loss",
)
ROLE = tuple(f"{role} {kind}" for role in ("adv", "real", "fake") for kind in ("mse", "hinge", "hinge2"))
loss("audiocraft.criteria", one, audiocraft_criterion, criterion=OF_X + ROLE, edges=(False, True))
loss(
    "audiocraft.criteria of nothing",
    one,
    audiocraft_criterion,
    criterion=OF_X[:3] + ROLE[:3],
    shape=((0,), (0, 3)),
    edges=(False,),
)
DISTANCES = {
    "default": None,
    "l1": nn.L1Loss(),
    "mse": nn.MSELoss(),
    "l1 sum": nn.L1Loss(reduction="sum"),
    "smooth": nn.SmoothL1Loss(),
}


def audiocraft_features(m: Any, o: SimpleNamespace, fake: Any, real: Any) -> Any:
    """Call AudioCraft's features' loss."""
    options = {} if o.distance == "default" else {"loss": DISTANCES[o.distance]}
    return m.FeatureMatchingLoss(**options, normalize=o.normalize)(fake, real)


loss(
    "audiocraft.FeatureMatchingLoss",
    two_lists,
    audiocraft_features,
    distance=tuple(DISTANCES),
    fits=lambda o: o.distance in ("default", "l1") or o.dtype == "float32",
    digits=1e-5,
    normalize=FLAGS,
    **LISTS | {"container": ("list", "tuple")},
    size=lambda o, xs: float(sum(x.numel() for x in xs)) if o.distance == "l1 sum" else 1.0,
)

# ParallelWaveGAN

AVERAGE = {"average_by_discriminators": FLAGS, "loss_type": ("mse", "hinge")}
CONTAINERS = {"members": (2, 1, 3, 5), "container": ("list", "tuple", "maps", "tensor")}
loss(
    "parallelwavegan.GeneratorAdversarialLoss",
    lambda o: [listed(o)],
    lambda m, o, x: m.GeneratorAdversarialLoss(**kept(o, *AVERAGE))(x),
    **AVERAGE,
    **CONTAINERS,
    also=("espnet",),
)
loss(
    "parallelwavegan.DiscriminatorAdversarialLoss",
    two_lists,
    lambda m, o, x, y: m.DiscriminatorAdversarialLoss(**kept(o, *AVERAGE))(x, y),
    longer=(0, 1, -1),
    fits=lambda o: o.members + o.longer > 0,
    **AVERAGE,
    **CONTAINERS,
    also=("espnet",),
)
MATCHING = {"average_by_layers": FLAGS, "average_by_discriminators": FLAGS, "include_final_outputs": (False, True)}
loss(
    "parallelwavegan.FeatureMatchLoss",
    two_sets_of_maps,
    lambda m, o, x, y: m.FeatureMatchLoss(**kept(o, *MATCHING))(x, y),
    members=(2, 1, 3),
    maps=(2, 3, 5),
    **MATCHING,
    also=("espnet",),
)

# MONAI, RelativisticGAN

MONAI = {
    "reduction": ("mean", "sum", "none"),
    "criterion": ("least_squares", "bce", "hinge"),
    "no_activation_leastsq": (False, True),
}
loss(
    "monai.PatchAdversarialLoss",
    lambda o: [listed(o)],
    lambda m, o, x: m.PatchAdversarialLoss(**kept(o, *MONAI))(x, o.target_is_real, o.for_discriminator),
    target_is_real=FLAGS,
    for_discriminator=FLAGS,
    members=(2, 1, 3),
    container=("list", "tensor"),
    **MONAI,
)
VECTORS = {"shape": ((6,), (1,), (300,), (37,)), "loss_D": (2, 3, 4, 5, 6, 7, 8)}
for name, turned in (("discriminator_loss", False), ("generator_loss", True)):

    def relativistic(
        m: Any, o: SimpleNamespace, r: Tensor, f: Tensor, name: str = name, turned: bool = turned
    ) -> Any:
        """Call a loss of RelativisticGAN, real or fake first."""
        return getattr(m, name)(*((f, r) if turned else (r, f)), loss_D=o.loss_D)

    loss(
        f"relativisticgan.{name}",
        two,
        relativistic,
        accident=lambda o: o.dtype == "float64" and o.loss_D in (5, 6),
        size=lambda o, xs: float(4 + 2 * max(x.abs().max() for x in xs)) if o.loss_D == 7 else 4.0,
        **VECTORS,
    )
loss(
    "relativisticgan.losses of probabilities",
    lambda o: [x.sigmoid() for x in two(o)],
    lambda m, o, r, f: (m.discriminator_loss(r, f, 1), m.generator_loss(f, loss_D=1)),
    shape=((6,), (1,), (37,)),
    dtype=WIDE,
    edges=(False,),
    digits=1e-5,
)

# MMagic and MMGeneration

REDUCED = {
    "reduction": ("mean", "sum", "none", "batchmean", "flatmean"),
    "weight": (None, 0.5, 2.0, 0.0),
    "avg_factor": (None, None, 7.0, 3),
}
functions("mmagic", ("disc_shift_loss",), one)
functions(
    "mmgen",
    ("disc_shift_loss",),
    one,
    arguments=lambda o: kept(o, *REDUCED),
    fits=lambda o: o.avg_factor is None or o.reduction in ("mean", "none"),
    dtype=WIDE,
    **REDUCED,
)
for trainer, name in (("mmagic", "DiscShiftLoss"), ("mmagic", "DiscShiftLossComps"), ("mmgen", "DiscShiftLoss")):

    def shift(m: Any, o: SimpleNamespace, x: Tensor, name: str = name) -> Any:
        """Call a module of the shift's loss, with the tensor or in a dict."""
        if o.in_dict:
            return getattr(m, name)(o.loss_weight, data_info={"pred": "scores"})({"scores": x, "more": 1})
        return getattr(m, name)(o.loss_weight)(x)

    plain_module = (trainer, name) == ("mmagic", "DiscShiftLoss")
    loss(
        f"{trainer}.{name}",
        one,
        shift,
        loss_weight=(1.0, 0.1, 2, 0.0),
        in_dict=(False,) if plain_module else (False, True),
    )

# TF-GAN

TF = {
    "reduction": (
        "weighted_sum_by_nonzero_weights", "weighted_sum", "weighted_mean", "weighted_sum_over_batch_size", "none",
    ),
    "dtype": WIDE,
}  # fmt: skip
TF_WEIGHTS = (1.0, 2.3, 0.5, 0.0, 3, "number", "scalar", "samples", "elements")
TF_LABELS = {
    "label_smoothing": Number(0.25, 0.0, 1.0), "real_label": Number(1, -1, 2), "fake_label": Number(0, -1, 1),
    "real_hinge": Number(1.0, -1, 3), "generated_hinge": Number(1.0, -1, 3),
}  # fmt: skip


def tf_weight(value: Any, x: Tensor, k: int) -> Any:
    """Return weights: a number, or a tensor that broadcasts to x; some are zero."""
    if not isinstance(value, str):
        return value
    draw = torch.Generator().manual_seed(k)
    shapes = {
        "number": (),
        "scalar": (1,) * x.dim(),
        "samples": (len(x), *[1] * (x.dim() - 1)),
        "elements": x.shape,
    }
    weights = torch.rand(shapes[value], generator=draw, dtype=torch.float64) + 0.5
    weights = weights.masked_fill(torch.rand(shapes[value], generator=draw, dtype=torch.float64) < 0.2, 0.0)
    weights.view(-1)[0] = 1.0  # there is a mean
    return weights.to(torch.float32).to(x.dtype)  # the same numbers for both dtypes


def tf_call(m: Any, o: SimpleNamespace, *tensors: Tensor) -> Any:
    """Call a function of TF-GAN by name."""
    options = kept(o, "reduction", *(name for name in TF_LABELS if hasattr(o, name)))
    for k, name in enumerate(("weights", "real_weights", "generated_weights")):
        if hasattr(o, name):
            options[name] = tf_weight(getattr(o, name), tensors[k == 2], k)
    return getattr(m, o.function)(*tensors, **options)


def tf_loss(name: str, inputs: Any, *labels: str, **more: Any) -> None:
    """List a function of TF-GAN."""
    weights = ("weights",) if inputs is one else ("real_weights", "generated_weights")
    loss(
        f"tfgan.{name}",
        inputs,
        tf_call,
        function=(name,),
        fits=lambda o: o.reduction != "weighted_mean" or all(getattr(o, w) != 0.0 for w in weights),
        size=lambda o, xs: 8.0 * single(o, xs),
        **TF,
        **{key: TF_LABELS[key] for key in labels},
        **dict.fromkeys(weights, TF_WEIGHTS),
        **more,
    )


for name in ("wasserstein", "wasserstein_hinge"):
    tf_loss(f"{name}_generator_loss", one)
for name in ("minimax", "modified"):
    tf_loss(f"{name}_generator_loss", one, "label_smoothing")
    tf_loss(f"{name}_discriminator_loss", two, "label_smoothing")
tf_loss("least_squares_generator_loss", one, "real_label")
tf_loss("least_squares_discriminator_loss", two, "real_label", "fake_label")
tf_loss("wasserstein_discriminator_loss", two)
tf_loss("wasserstein_hinge_discriminator_loss", two, "real_hinge", "generated_hinge")
tf_loss("relativistic_generator_loss", two, edges=(False,))
tf_loss("relativistic_discriminator_loss", two, edges=(False,))

# torchgan

REDUCTIONS = ("mean", "sum", "none")
TORCHGAN = {
    "minimax_generator_loss": (one, {"nonsaturating": FLAGS}),
    "minimax_discriminator_loss": (two, {"label_smoothing": Number(0.0, 0.0, 1.0)}),
    "least_squares_generator_loss": (one, {"c": Number(1.0, -2, 2)}),
    "least_squares_discriminator_loss": (two, {"a": Number(0.0, -2, 2), "b": Number(1.0, -2, 2)}),
    "wasserstein_generator_loss": (one, {}),
    "wasserstein_discriminator_loss": (two, {}),
    "energy_based_generator_loss": (one, {}),
    "energy_based_discriminator_loss": (two, {"margin": (1.0, 30, 0.0, 80.0)}),
    "boundary_equilibrium_generator_loss": (one, {}),
    "boundary_equilibrium_discriminator_loss": (two, {"k": Number(0.0, 0.0, 1.0)}),
}
for name, (inputs, more) in TORCHGAN.items():
    functions(
        "torchgan",
        (name,),
        inputs,
        arguments=lambda o, more=tuple(more): kept(o, "reduction", *more),
        reduction=REDUCTIONS,
        **more,
    )
MODULES = {
    "MinimaxGeneratorLoss": ("minimax_generator_loss", {}),
    "MinimaxDiscriminatorLoss": ("minimax_discriminator_loss", {}),
    "LeastSquaresGeneratorLoss": ("least_squares_generator_loss", {}),
    "LeastSquaresDiscriminatorLoss": ("least_squares_discriminator_loss", {}),
    "WassersteinGeneratorLoss": ("wasserstein_generator_loss", {}),
    "WassersteinDiscriminatorLoss": ("wasserstein_discriminator_loss", {}),
    "EnergyBasedGeneratorLoss": ("energy_based_generator_loss", {}),
    "EnergyBasedDiscriminatorLoss": ("energy_based_discriminator_loss", {}),
    "BoundaryEquilibriumGeneratorLoss": ("boundary_equilibrium_generator_loss", {}),
    "BoundaryEquilibriumDiscriminatorLoss": ("boundary_equilibrium_discriminator_loss", {"k": "init_k"}),
}
for name, (function, renamed) in MODULES.items():
    inputs, more = TORCHGAN[function]

    def torchgan_module(
        m: Any, o: SimpleNamespace, *tensors: Tensor, of: Any = (name, tuple(more), renamed)
    ) -> Any:
        """Make a module of torchgan, and call it."""
        options = {of[2].get(key, key): getattr(o, key) for key in of[1]}
        return getattr(m, of[0])(reduction=o.reduction, **options)(*tensors)

    loss(f"torchgan.{name}", inputs, torchgan_module, reduction=REDUCTIONS, **more)
loss(
    "torchgan.FeatureMatchingGeneratorLoss",
    two,
    lambda m, o, x, y: m.FeatureMatchingGeneratorLoss(reduction=o.reduction)(x, y),
    reduction=REDUCTIONS,
)
loss(
    "torchgan.energy_based_pulling_away_term",
    one,
    lambda m, o, x: (
        m.EnergyBasedPullingAwayTerm(pt_ratio=o.pt_ratio)(None, x)
        if o.as_module
        else m.energy_based_pulling_away_term(x)
    ),
    pt_ratio=Number(0.1, 0.0, 2.0),
    as_module=(False, True),
    shape=((5, 7), (4, 3, 2), (2, 1), (3, 4, 2, 2)),
    dtype=WIDE,
    edges=(False,),
    layout=("contiguous", "transposed", "strided"),  # of equal codes the gradient is zero but for rounding
    digits=1e-5,
)


def classified(m: Any, o: SimpleNamespace, x: Tensor) -> Any:
    """Call the classifier's losses, as a function or a module."""
    labels = torch.arange(o.seed, o.seed + len(x)) % x.shape[1]
    if o.of == "function":
        return m.auxiliary_classification_loss(x, labels, reduction=o.reduction)
    return getattr(m, f"AuxiliaryClassifier{o.of}Loss")(reduction=o.reduction)(x, labels)


loss(
    "torchgan.auxiliary_classification_loss",
    one,
    classified,
    of=("function", "Generator", "Discriminator"),
    shape=((5, 4), (1, 3), (7, 2)),
    reduction=REDUCTIONS,
    dtype=WIDE,
    edges=(False,),
    digits=1e-5,
)
