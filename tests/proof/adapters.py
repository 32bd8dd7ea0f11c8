"""Every adapter of fastgan.compat against its trainer's formulas (bench/baselines), over options that are drawn.

A case is data: what is called, and an option for each name, from which both sides get equal tensors and networks.
`check` runs a case; `find` draws cases, and makes one that fails smaller. A difference is printed as a test.

Losses are compared with the formula in float64, as in tests/compat. Penalties and training steps are compared with
the trainer's in the same dtype, to the digits that its own order of operations leaves.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from fastgan import compat
from tests.compat import test_compat_audio as audio
from tests.compat import test_compat_images as pictures
from tests.compat import test_compat_penalties as penalties
from tests.compat import test_compat_torchgan as worlds
from tests.helpers import adapters

from .claims import Batch, Claim, trying

DTYPES = ("float32", "float64", "bfloat16", "float16")
WIDE = ("float32", "float64")
ULP = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
LEAST = {torch.float64: 0.0, torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}
# How many of them a loss may be off; the formula in float64 is rounded at each step itself.
ULPS = {torch.float64: 500.0, torch.float32: 4.0, torch.float16: 4.0, torch.bfloat16: 4.0}
DIGITS = {"float64": 1e-10, "float32": 1e-4}  # of penalties and steps, of the largest element


# ---------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """What is called, and its options."""

    subject: str
    options: dict[str, Any]


class Number(NamedTuple):
    """A number that is drawn between two; the default, which is drawn as well, is the simplest."""

    default: float
    low: float
    high: float


class Subject(NamedTuple):
    """What of an adapter is compared.

    Attributes:
        trainer: the module of bench/baselines.
        modules: those of fastgan.compat that have it; the case says which.
        space: for each option the values to draw, the default first, or a Number.
        run: makes of a module and the options what is to be compared: see `Loss` and `same`.
        fits: whether options go together.
    """

    trainer: str
    modules: tuple[str, ...]
    space: dict[str, Any]
    run: Callable[[Any, Any, dict[str, Any]], None]
    fits: Callable[[SimpleNamespace], bool]


SUBJECTS: dict[str, Subject] = {}
# Options that decide which name is called.
NAMING = ("module", "of", "as_module", "criterion")


class Unfit(Exception):
    """Raised where the trainer's own code fails: nothing to compare with."""


def peer(trainer: str) -> Any:
    """Return the trainer's formulas."""
    return importlib.import_module(f"bench.baselines.{trainer}")


def drawn(name: str, draw: random.Random) -> Case:
    """Draw a case of a subject."""
    subject = SUBJECTS[name]
    while True:
        options = {key: value_of(values, draw) for key, values in subject.space.items()}
        if subject.fits(SimpleNamespace(**options)):
            return Case(name, options)


def each(name: str, keys: tuple[str, ...] = ()) -> Iterator[Case]:
    """Yield for each value of each option, or of those in `keys`, the case that is the simplest else."""
    space = SUBJECTS[name].space
    simple = {key: default_of(values) for key, values in space.items()}
    for key, values in space.items():
        if values is int or isinstance(values, Number) or (keys and key not in keys):
            continue
        for value in values:
            options = simple | {key: value}
            if SUBJECTS[name].fits(SimpleNamespace(**options)):
                yield Case(name, options)


def value_of(values: Any, draw: random.Random) -> Any:
    """Draw the value of an option."""
    if isinstance(values, Number):
        return values.default if draw.random() < 0.3 else round(draw.uniform(values.low, values.high), 3)
    return draw.randrange(1000) if values is int else draw.choice(values)


def default_of(values: Any) -> Any:
    """Return an option's simplest value."""
    return values.default if isinstance(values, Number) else 0 if values is int else values[0]


def check(case: Case) -> bool:
    """Compare a case, and return whether the trainer could run it; raise AssertionError where the two differ."""
    subject = SUBJECTS[case.subject]
    options = SimpleNamespace(**{key: default_of(values) for key, values in subject.space.items()} | case.options)
    mine, theirs = importlib.import_module(f"fastgan.compat.{options.module}"), peer(subject.trainer)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject.run(seen(mine), theirs, options)
    except Unfit:
        return False
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
    return True


def failure(case: Case) -> str:
    """Return in what a case fails, or nothing."""
    try:
        check(case)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def smaller(case: Case) -> Case:
    """Return a case that still fails, with as many defaults as can be."""
    subject = SUBJECTS[case.subject]
    for key, values in subject.space.items():
        options = {**case.options, key: default_of(values)}
        if (
            options != case.options
            and subject.fits(SimpleNamespace(**options))
            and failure(Case(case.subject, options))
        ):
            case = Case(case.subject, options)
    return case


def text(case: Case) -> str:
    """Return a case that fails, and how, as a test."""
    return f"{failure(case)}\n{lines(case)}"


def lines(case: Case) -> str:
    """Return a case as a test."""
    return f"from tests.proof.adapters import Case, check\ndef test_found():\n    check({case!r})\n"


def find(name: str, count: int, seed: int) -> int:
    """Try cases of a subject, and return how many could be compared; raise with one that fails, made small."""
    draw, compared = random.Random(f"{name}, {seed}"), 0
    for _ in range(count):
        case = drawn(name, draw)
        trying(lines(case))
        if failure(case):
            raise AssertionError(text(smaller(case)))
        compared += check(case)
    return compared


# ---------------------------------------------------------------------------------- which names were called

USED: dict[str, set[str]] = {}


class seen:
    """A module of fastgan.compat that notes which of its names were asked for."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        """Note the name, and give what the module has."""
        USED.setdefault(self.module.__name__.rpartition(".")[2], set()).add(name)
        return getattr(self.module, name)


# What has no formula to compare.
NOT_COMPARED = {
    "audiocraft": {"ADVERSARIAL_LOSSES": "a list", "AdvLossType": "a type", "FeatLossType": "a type"},
    "monai": {"AdversarialCriterions": "an enumeration"},
    "tfgan": {"BY_NONZERO_WEIGHTS": "a name"},
    "torchgan": {"GeneratorLoss": "a base without a loss", "DiscriminatorLoss": "a base without a loss"},
}


def wanted(trainer: str) -> set[str]:
    """Return the names that are to be compared."""
    module = getattr(compat, trainer)
    listed = getattr(module, "__all__", None) or adapters.public(module)
    return set(listed) - set(NOT_COMPARED.get(trainer, {}))


# ---------------------------------------------------------------------------------- data

SHAPES = ((6,), (1,), (6, 1), (2, 1, 5, 3), (3, 4, 2), (2, 3, 4, 5), (300,), (2500,))
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "channels last")
LOGITS = {
    "seed": int, "dtype": DTYPES, "shape": SHAPES, "layout": LAYOUTS, "edges": (False, True),
    "wants": ("all", "all", "first", "none"),
}  # fmt: skip


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return a tensor of equal numbers (but for "expanded") in another layout."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack([x, x.flip(0)], dim=-1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    if layout == "channels last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


def tensor(o: SimpleNamespace, k: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the k-th tensor of a case."""
    draw = torch.Generator().manual_seed(100 * o.seed + k)
    x = 3 * torch.randn(o.shape if shape is None else shape, generator=draw, dtype=torch.float64)
    if o.edges:
        edges = torch.tensor(adapters.EDGES, dtype=torch.float64).roll(o.seed + k)
        edges = edges.clamp(-200, 200) if o.dtype == "float16" else edges
        x.view(-1)[: len(edges)] = edges[: x.numel()]
    return laid_out(x.to(getattr(torch, o.dtype)), o.layout)


def one(o: SimpleNamespace) -> list[Any]:
    """Return one tensor."""
    return [tensor(o, 0)]


def two(o: SimpleNamespace) -> list[Any]:
    """Return two tensors."""
    return [tensor(o, 0), tensor(o, 1, getattr(o, "other", None))]


def listed(o: SimpleNamespace, start: int = 0) -> Any:
    """Return tensors in the container that is asked for, each of another shape; with "maps" among maps."""
    first = SHAPES.index(o.shape)
    found = [tensor(o, start + k, SHAPES[(first + k) % len(SHAPES)]) for k in range(o.members)]
    if o.container == "tensor":
        return found[0]
    if o.container == "maps":
        return [[tensor(o, start + 40 + k, (4,)), x] for k, x in enumerate(found)]
    return tuple(found) if o.container == "tuple" else found


def two_lists(o: SimpleNamespace) -> list[Any]:
    """Return two such containers, the second perhaps longer."""
    more = SimpleNamespace(**{**vars(o), "members": o.members + getattr(o, "longer", 0)})
    return [listed(o), listed(more, 20)]


def feature_maps(o: SimpleNamespace, start: int = 0) -> list[list[Tensor]]:
    """Return feature maps, of each discriminator several."""
    shapes = [(2, 3, 4), (2, 5), (2, 2, 3, 2), (7,)]
    return [[tensor(o, start + 5 * i + k, shapes[(i + k) % 4]) for k in range(o.maps)] for i in range(o.members)]


def two_sets_of_maps(o: SimpleNamespace) -> list[Any]:
    """Return feature maps of both sides."""
    return [feature_maps(o), feature_maps(o, 50)]


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
        size, leaves = self.size(o, inputs), adapters.flat(mine)
        for value, truth, theirs, has in zip(*map(adapters.flat, (got, want, plain)), reached, strict=True):
            agree("the value", value, truth, size * magnitude(inputs, value), leaves[0].dtype, self.digits)
            if not isinstance(value, Tensor):
                continue
            assert value.requires_grad == theirs.requires_grad, f"requires_grad is {value.requires_grad}"
            assert given(value, mine) == has, f"gradients for {given(value, mine)}, the trainer's for {has}"
            grads = zip(adapters.backward(value, mine), adapters.backward(truth, exactly), strict=True)
            for k, (g, w) in enumerate(grads):
                per_element = size if value.dim() else size / max(1, w.numel())
                agree(f"gradient {k}", g, w, most(w) + per_element, g.dtype, self.digits)


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


def agree(what: str, got: Any, want: Any, size: Any, dtype: torch.dtype, digits: float = 0.0) -> None:
    """Raise where two differ by more than some ulp of the larger of the number and `size`."""
    got = got.detach() if isinstance(got, Tensor) else torch.tensor(got, dtype=dtype)
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
)
loss(
    "parallelwavegan.DiscriminatorAdversarialLoss",
    two_lists,
    lambda m, o, x, y: m.DiscriminatorAdversarialLoss(**kept(o, *AVERAGE))(x, y),
    longer=(0, 1, -1),
    fits=lambda o: o.members + o.longer > 0,
    **AVERAGE,
    **CONTAINERS,
)
MATCHING = {"average_by_layers": FLAGS, "average_by_discriminators": FLAGS, "include_final_outputs": (False, True)}
loss(
    "parallelwavegan.FeatureMatchLoss",
    two_sets_of_maps,
    lambda m, o, x, y: m.FeatureMatchLoss(**kept(o, *MATCHING))(x, y),
    members=(2, 1, 3),
    maps=(2, 3, 5),
    **MATCHING,
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
    return weights.float().to(x.dtype)  # the same numbers for both dtypes


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
        mean = found[-1][2 if o.module == "basicsr" else 1]
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


def mmagic_adversarial(m: Any, o: SimpleNamespace) -> Any:
    """Call MMagic's AdvLoss some times, for the discriminator and then for the generator."""
    made, net = m.AdvLoss(o.loss_type), Critic(o, o.sample)
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
    loss_type=("gan", "lsgan", "wgan-gp", "ragan", "ragan-ls"),
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

# ---------------------------------------------------------------------------------- the claims


def subjects(trainer: str) -> list[str]:
    """Return the subjects of a trainer."""
    return [name for name, subject in SUBJECTS.items() if subject.trainer == trainer]


def work(seed: int, trainer: str = "") -> Batch:
    """Try cases of each subject, of one trainer or of all."""
    names = subjects(trainer) if trainer else list(SUBJECTS)
    return Batch(sum(find(name, 10, seed) for name in names), text=f"{len(names)} functions, classes and steps")


CLAIMS = [
    Claim(
        "adapters compute what their trainers do",
        work,
        "results, graphs, gradients, draws and states are those of the trainers' formulas, up to rounding",
        batches=2,
        endless=True,
    )
]
