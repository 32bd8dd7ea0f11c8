"""Every public function and module with sound arguments, and the role of each argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastgan
from fastgan import probabilities
from fastgan.backends import nodes
from fastgan.ops.losses import TABLE

from .faults_of_roles import (  # isort: skip
    ALIASES, ARGUMENTS, BACKEND, BAD_DTYPES, BATCH_DIM, BOOLEAN, DATA, DISCRIMINATOR, DISTANCE, ENGINE, EPS,
    FORM, Fault, GENERATOR, GROUP, GROUPS, KIND, KINDS, LABEL, LOGITS, LOSS, MAPS, MASK, MEMBER_WEIGHTS, MODULE,
    NAMES_OF_TERMS, NEW_NAME, NORM_WEIGHTS, NOT_NEGATIVE, NO_FUNCTIONS, NO_MAPS, NO_TENSORS, NUMBER,
    NUMBER_OR_FUNCTION, OPTIONAL_NUMBER, OUTPUT, OVER, PAC, PERTURB, PHI, PROBABILITY, PSI, REDUCTION,
    RELATIVISTIC, Role, SOFT_LABEL, TARGETS, TERM, ZEROS, float_wanted, about, ahead, always, among_members,
    beside_a_tensor, counted, data_roles, from_nothing, half, logits, member, norm_masks, of_a_tensor,
    of_integers, of_type, of_value, pair_faults, quantized, sample_weights, without,
)  # fmt: skip


class Watched(nn.Module):
    """A discriminator that counts its calls, has a buffer that each moves, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Any, *_: Any) -> Tensor:
        """Return one logit per sample."""
        self.seen += 1
        return self.linear(self.drop(x))


@dataclass(frozen=True)
class Form:
    """A function with sound arguments.

    Attributes:
        name: its name, and which arguments are special.
        call: called with the arguments by name; "self" is the module of a forward.
        sound: makes the arguments.
        roles: the role of each argument.
        context: what the call is made in.
        keyword: what an unknown keyword is refused with; "" where it is for the discriminator.
    """

    name: str
    call: Callable[..., Any]
    sound: Callable[[], dict[str, Any]]
    roles: Mapping[str, Role] = field(default_factory=dict)
    context: Callable[[], Any] = nullcontext
    keyword: str = ""


CONTEXTS: dict[str, Callable[[], Any]] = {
    "": nullcontext, " by Python": nodes.off, " by the reference": lambda: fastgan.backend("reference"),
    " by the kernels": lambda: fastgan.backend("cpu"), " at first": lambda: Undecided(),
    " without gradients": torch.no_grad,
}  # fmt: skip


class Undecided:
    """Have the first logits of a process looked at, once more."""

    def __enter__(self) -> None:
        probabilities.watch.undecided, probabilities.watch.seen = True, 0

    def __exit__(self, *_: Any) -> None:
        probabilities.watch.undecided = False


_OF_LOSSES: dict[str, dict[str, Any]] = {
    "": {}, "hinge": {"loss": "hinge"}, "ranking": {"loss": "ranking"},
    "paired": {"relativistic": "paired", "loss": "wgan"}, "average": {"relativistic": "average", "loss": "lsgan"},
    "unreduced": {"reduction": "none"}, "statistics": {"return_stats": True},
    "masked": {"fake_mask": torch.ones(4, 1)},
}  # fmt: skip


def _names_of(role: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The logits that a loss looks at, in its order."""
    if role == "discriminator":
        return ("real_logits", "fake_logits")
    return ("fake_logits", "real_logits") if "relativistic" in options else ("fake_logits",)


def _logits_roles(role: str, form: str, options: Mapping[str, Any]) -> dict[str, Role]:
    names = _names_of(role, options)
    drop = ["NoneType"] if role == "discriminator" else []
    roles: dict[str, Role] = {name: without(LOGITS, *drop) for name in names}
    paired = form in ("paired", "unreduced") or (form == "ranking" and role == "discriminator")
    if len(names) == 2:
        roles = {name: {**r, **beside_a_tensor(names, k)} for k, (name, r) in enumerate(roles.items())}
        roles[names[1]] = {**roles[names[1]], **pair_faults(*names, shapes=paired)}
        if "relativistic" in options and role == "generator":
            roles["real_logits"] = {**roles["real_logits"]}
            text = f"{{n}}: expected logits for relativistic={options['relativistic']!r}, got None"
            roles["real_logits"]["NoneType"] = Fault(always(None), ValueError, text)
    if role == "discriminator" and form in ("ranking", "paired", "average"):
        kind = f"relativistic={options['relativistic']!r}" if "relativistic" in options else "loss 'ranking'"
        for name in names:
            missing = Fault(always(None), ValueError, f"{{n}}: expected logits for {kind}, got None")
            roles[name] = {**roles[name], "None": missing}
    return roles


def losses() -> Iterator[Form]:
    """Logits of losses, in all forms and ways of computing."""
    for role in ("discriminator", "generator"):
        call = getattr(fastgan, f"{role}_loss")
        for form, options in _OF_LOSSES.items():
            names, roles = _names_of(role, options), _logits_roles(role, form, options)
            for way, context in CONTEXTS.items():
                yield Form(
                    f"{role}_loss {form}{way}", call, lambda n=names, o=options: {**{k: logits() for k in n}, **o},
                    roles, context,
                )  # fmt: skip
            if form != "masked":
                yield Form(
                    f"{role}_loss {form} of members", call,
                    lambda n=names, o=options: {**{k: [logits()] * 2 for k in n}, **o}, _member_roles(names),
                )  # fmt: skip


def _member_roles(names: tuple[str, ...]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for k, name in enumerate(names):
        roles[name] = member(of_a_tensor()) | among_members(name)
        if len(names) == 2:
            a, b = names
            roles[name] = {**roles[name], **counted(a, b, k == 0)}
    return roles


def loss_options() -> Iterator[Form]:
    """The options of losses, as functions and as modules."""
    for role in ("discriminator", "generator"):
        call = getattr(fastgan, f"{role}_loss")
        both = ("real_logits", "fake_logits")

        def sound(names: Any = both, **o: Any) -> Callable[[], dict[str, Any]]:
            return lambda: {**{k: logits() for k in names}, **o}

        name = f"{role}_loss"
        yield Form(
            name, call, sound(),
            {
                "loss": LOSS, "relativistic": RELATIVISTIC, "real_target": SOFT_LABEL, "fake_target": SOFT_LABEL,
                "reduction": REDUCTION,
            },
            keyword=name,
        )  # fmt: skip
        yield Form(name, call, sound(loss="hinge"), {"margin": NUMBER})
        yield Form(name, call, sound(loss="lsgan", targets=(0.0, 1.0, 1.0)), {"targets": TARGETS})
        yield Form(
            name, call, lambda: {**{k: [logits()] * 2 for k in both}, "weights": [1.0, 1.0]},
            {"weights": about(MEMBER_WEIGHTS, "members")},
        )  # fmt: skip
        yield Form(name, call, sound(relativistic="average"), {"process_group": GROUP})
        yield from _per_element(name, call, sound)
        yield from _idle(name, call, sound)


def _per_element(name: str, call: Any, sound: Any) -> Iterator[Form]:
    mean = {"relativistic": "average"}
    for side in ("real", "fake"):
        role = {**about(MASK, f"{side}_logits"), **ZEROS}
        yield Form(name, call, sound(**{f"{side}_mask": torch.full((4, 3), 0.5), **mean}), {f"{side}_mask": role})
    used = {"discriminator_loss": ["real_target", "fake_target"], "generator_loss": ["real_target"]}[name]
    for label in used:
        beside = "real_logits" if label == "real_target" and name == "discriminator_loss" else "fake_logits"
        role = {n: f for n, f in about(LABEL, beside).items() if n not in ("str", "ndarray")}
        yield Form(f"{name} of labels", call, sound(**{label: torch.full((4, 3), 0.5)}), {label: role})


def _idle(name: str, call: Any, sound: Any) -> Iterator[Form]:
    """Options without an effect, which are refused."""
    text = "{n}: has no effect on loss '{loss}'; leave it at {default}"
    idle = {
        "hinge": {"real_target": (0.9, 1.0), "fake_target": (0.1, 0.0), "targets": ((0, 1, 2), (0.0, 1.0, 1.0))},
        "wasserstein": {"margin": (2.0, 1.0), "real_target": (0.9, 1.0), "targets": ((0, 1, 2), (0.0, 1.0, 1.0))},
        "nonsaturating": {"margin": (2.0, 1.0), "targets": ((0, 1, 2), (0.0, 1.0, 1.0))},
        "least_squares": {"margin": (2.0, 1.0), "fake_target": (0.1, 0.0)},
    }
    for loss, options in idle.items():
        for option, (value, default) in options.items():
            said = text.replace("{loss}", loss).replace("{default}", str(default))
            yield Form(
                f"{name} {loss}", call, sound(loss=loss), {option: {"idle": Fault(always(value), ValueError, said)}}
            )


def modules() -> Iterator[Form]:
    """The modules' options, when they are built."""
    for name in ("DiscriminatorLoss", "GeneratorLoss"):
        call = getattr(fastgan.nn, name)
        known = "unknown_option: unknown option (known: relativistic, margin, targets, real_target, fake_target,..."
        yield Form(
            f"nn.{name}",
            call,
            lambda: {"loss": "bce"},
            {
                "loss": LOSS,
                "relativistic": RELATIVISTIC,
                "real_target": SOFT_LABEL,
                "fake_target": SOFT_LABEL,
                "reduction": REDUCTION,
                "unknown_option": {"given": Fault(always(1), TypeError, known)},
                "weights": {
                    n: f
                    for n, f in MEMBER_WEIGHTS.items()
                    if n in ("float", "str", "dict", "[str 'a' (YAML reads 1e-2 as text, 1.0e-2 as a number)]")
                },
            },
        )
        yield Form(f"nn.{name}", call, lambda: {"loss": "hinge"}, {"margin": NUMBER})
        short = {
            n: f._replace(text=f.text.replace(" (fake, real, generator), got", ", got"))
            if n in ("float", "str", "NoneType", "dict")
            else f
            for n, f in TARGETS.items()
        }
        yield Form(f"nn.{name}", call, lambda: {"loss": "lsgan", "targets": (0.0, 1.0, 1.0)}, {"targets": short})
    for side, call in (("discriminator", fastgan.nn.DiscriminatorLoss), ("generator", fastgan.nn.GeneratorLoss)):
        names = _names_of(side, {"relativistic": "paired"})
        roles = _logits_roles(side, "paired", {"relativistic": "paired"})
        yield Form(
            f"nn.{call.__name__}.forward", lambda self, **a: self(**a),
            lambda c=call, n=names: {"self": c("wgan", relativistic="paired"), **{k: logits() for k in n}}, roles,
        )  # fmt: skip
    yield from penalty_modules()
    yield Form(
        "nn.LeCam", fastgan.nn.LeCam, dict,
        {"weight": NUMBER, "decay": PROBABILITY, "start": of_integers(0), "members": of_integers(1)},
        keyword="LeCam.__init__",
    )  # fmt: skip
    role = without(LOGITS, "a list of numbers", "a list of None")
    yield Form(
        "nn.LeCam.forward",
        lambda self, **a: self(**a),
        lambda: {"self": fastgan.nn.LeCam(), "real_logits": logits(), "fake_logits": logits()},
        {"real_logits": role, "fake_logits": role},
    )
    yield Form(
        "nn.AdaptiveWeight", fastgan.nn.AdaptiveWeight, dict,
        {
            "weight": NUMBER, "eps": NOT_NEGATIVE, "limit": NOT_NEGATIVE,
            "last_layer": of_type(
                "expected a weight, a function that returns it, or None",
                {"int": always(3), "str": always("w"), "Linear": always(nn.Linear(1, 1))},
            ),
        },
        keyword="AdaptiveWeight.__init__",
    )  # fmt: skip
    yield from balancers()


def balancers() -> Iterator[Form]:
    """EnCodec's balancer and VQGAN's weight."""
    positive = {
        n: f._replace(make=lambda v, f=f: {"l1": f.make(1.0)}, text=f.text.replace("{n}", "weights['l1']"))
        for n, f in NOT_NEGATIVE.items()
    }
    positive["0"] = Fault(always({"l1": 0.0}), ValueError, "weights: expected numbers above 0, got {'l1': 0.0}")
    for value in ({}, [1.0], "l1", 3.0, None):
        positive[repr(value)] = Fault(
            always(value), TypeError, f"weights: expected numbers by the names of losses, got {value!r}"
        )
    decay = {**PROBABILITY, "1": Fault(always(1.0), ValueError, "decay: expected a number in [0, 1), got 1")}
    yield Form(
        "nn.LossBalancer", fastgan.nn.LossBalancer, lambda: {"weights": {"l1": 1.0}},
        {
            "weights": positive, "total_norm": NOT_NEGATIVE, "decay": decay, "eps": NOT_NEGATIVE,
            "process_group": GROUP,
        },
        keyword="LossBalancer.__init__",
    )  # fmt: skip
    fakes = of_value(
        "expected a tensor that requires grad, at which losses are balanced",
        {"NoneType": always(None), "float": always(1.0), "one that requires none": lambda t: t.detach()},
    )
    unknown = {
        "none": Fault(always({}), ValueError, "losses: expected some of 'l1', 'adversarial', got no loss"),
        "unknown": Fault(
            lambda v: {"l2": v["l1"]}, ValueError, "losses: expected some of 'l1', 'adversarial', got 'l2'"
        ),
    }
    scalars = {
        f"{name}": Fault(
            lambda v, m=make: {**v, "l1": m(v["l1"])},
            ValueError,
            f"losses: expected scalars with a graph back to fake, got {name} as 'l1'...",
        )
        for name, make in {
            "float": always(1.0),
            "NoneType": always(None),
            "shape (2,)": lambda t: torch.stack([t, t]),
        }.items()
    }
    not_given = {
        n: Fault(always(v), TypeError, f"losses: expected scalars by the names of losses, got {n}")
        for n, v in {"list": [1.0], "NoneType": None, "float": 1.0}.items()
    }
    for module, more in (
        (lambda: fastgan.nn.LossBalancer({"l1": 1.0, "adversarial": 1.0}), unknown),
        (fastgan.nn.AdaptiveWeight, {}),
    ):

        def sound(module: Any = module) -> dict[str, Any]:
            fake = logits().requires_grad_()
            return {"self": module(), "losses": {"l1": fake.abs().mean(), "adversarial": fake.sum()}, "fake": fake}

        name = type(module()).__name__
        yield Form(
            f"nn.{name}.forward", lambda self, **a: self(**a), sound,
            {"losses": {**scalars, **more, **not_given}, "fake": fakes},
        )  # fmt: skip


def penalty_modules() -> Iterator[Form]:
    """GradientPenalty, when it is built and when it is called."""
    known = "{n}: unknown option (known: interval, part, weight, target, power, sigma, normalize, directions,..."
    unknown = {"given": Fault(always(1), TypeError, known)}
    part = {**PROBABILITY, "0": Fault(always(0.0), ValueError, "part: expected a number in (0, 1], got 0")}
    for kind, roles in options_of_kinds():
        yield Form(
            f"nn.GradientPenalty {kind}", fastgan.nn.GradientPenalty, lambda k=kind: {"kind": k},
            {
                **{n: r for n, r in roles.items() if n not in ("eps", "generator", "sample_weights", "groups")},
                "interval": of_integers(1), "part": part, "unknown_option": unknown, "eps": unknown,
                "sample_weights": unknown, "groups": unknown,
            },
        )  # fmt: skip
        inputs = inputs_of(kind)
        for options in ({}, {"interval": 4}, {"part": 0.5}):

            def sound(kind: Any = kind, options: Any = options, inputs: Any = inputs) -> dict[str, Any]:
                module = fastgan.nn.GradientPenalty(kind, **options)
                return {"self": module, "discriminator": Watched(), **{k: logits() for k in ("real", "fake")}}

            cut = "part" in options
            yield Form(
                f"nn.GradientPenalty.forward {kind} {options}", lambda self, **a: self(**a), sound,
                {
                    "discriminator": DISCRIMINATOR, **data_roles(inputs, cut), "sample_weights": sample_weights(),
                    **({} if cut else {"groups": from_nothing(GROUPS, lambda: torch.tensor([0, 0, 1, 1]))}),
                },
            )  # fmt: skip


# ---------------------------------------------------------------------------------- penalties


def inputs_of(kind: str) -> tuple[str, ...]:
    """Which batches a kind is evaluated at, or between."""
    if kind in ("r1", "r1-approx", "dragan"):
        return ("real",)
    return ("fake",) if kind in ("r2", "r2-approx") else ("real", "fake")


def _no_effect(kind: str, got: str, value: Any) -> dict[str, Fault]:
    return {"idle": Fault(always(value), ValueError, f"{{n}}: has no effect on kind {kind!r}, got {got}")}


def options_of_kinds() -> Iterator[tuple[str, dict[str, Role]]]:
    """For each kind the roles of its options, those without an effect among them."""
    for kind in KINDS:
        exact, norm = not kind.endswith("approx"), kind in ("wgan-gp", "wgan-lp", "dragan")
        drawn = norm or kind == "wgan-div"
        positive = {
            n: Fault(always(v), ValueError, f"sigma: expected a positive number, got {v}")
            for n, v in {"0": 0.0, "-1": -1.0}.items()
        }
        roles: dict[str, Role] = {
            "kind": KIND, "weight": OPTIONAL_NUMBER, "engine": ENGINE, "over": OVER,
            "return_stats": {} if exact else _no_effect(kind, "True", True), "output": OUTPUT,
            "batch_dim": without(BATCH_DIM, "of none"), "pac": without(PAC, "3"),
            "groups": from_nothing(without(GROUPS, "3", "5"), lambda: torch.tensor([0, 0, 1, 1])),
            "target": NUMBER if norm else _no_effect(kind, "0.5", 0.5),
            "power": of_integers(1, 16, none=True) if kind == "wgan-div" else _no_effect(kind, "3", 3),
            "sigma": _no_effect(kind, "0.1", 0.1) if exact else {**OPTIONAL_NUMBER, **positive},
            "normalize": _no_effect(kind, "True", True) if exact else BOOLEAN,
            "directions": _no_effect(kind, "2", 2) if exact else of_integers(1, 1024),
            "perturb": _no_effect(kind, "a function", abs_of) if exact else PERTURB,
            "eps": from_nothing(EPS, half) if drawn else _no_effect(kind, "a Tensor", half()),
            "generator": GENERATOR if drawn or not exact else _no_effect(kind, "a Generator", torch.Generator()),
            "sample_weights": sample_weights(),
        }  # fmt: skip
        yield kind, roles


def abs_of(x: Tensor) -> Tensor:
    """Return the absolute values."""
    return x.abs()


def gradient_penalties() -> Iterator[Form]:
    """All kinds, and the functions of R1 and R2."""
    for kind, roles in options_of_kinds():
        inputs = inputs_of(kind)

        def sound(kind: str = kind, **o: Any) -> dict[str, Any]:
            return {"discriminator": Watched(), "real": logits(), "fake": logits(), "kind": kind, **o}

        place = about({"of none": BATCH_DIM["of none"]}, "fake" if inputs == ("fake",) else "real")
        split = about({"3": PAC["3"]}, "fake" if inputs == ("fake",) else "real")
        more = {"batch_dim": {**roles["batch_dim"], **place}, "pac": {**roles["pac"], **split}}
        more["groups"] = from_nothing(GROUPS, lambda: torch.tensor([0, 0, 1, 1]))
        for way, context in {n: c for n, c in CONTEXTS.items() if n != " at first"}.items():
            yield Form(
                f"gradient_penalty {kind}{way}", fastgan.gradient_penalty, sound,
                {"discriminator": DISCRIMINATOR, **data_roles(inputs), **({} if way else roles | more)}, context,
            )  # fmt: skip
        if not kind.endswith("approx"):
            yield Form(
                f"gradient_penalty {kind} compiled", fastgan.gradient_penalty, lambda s=sound: s(engine="compiled"),
                {"discriminator": DISCRIMINATOR, **data_roles(inputs), "sample_weights": sample_weights()},
            )  # fmt: skip
    for name, at in (("r1_penalty", "real"), ("r2_penalty", "fake")):
        yield Form(
            name, getattr(fastgan, name), lambda at=at: {"discriminator": Watched(), at: logits()},
            {
                "discriminator": DISCRIMINATOR, at: DATA, "weight": OPTIONAL_NUMBER, "engine": ENGINE,
                "output": OUTPUT,
            },
        )  # fmt: skip


def given_outputs() -> Iterator[Form]:
    """The penalty of outputs that the caller has."""

    def sound(**o: Any) -> dict[str, Any]:
        x = logits().requires_grad_()
        return {"outputs": x.square().sum(1), "inputs": x, **o}

    data = {n: f._replace(make=lambda t, f=f: f.make(t.detach())) for n, f in DATA.items()}
    leaf = of_value(
        "expected tensors that required grad before the discriminator saw them",
        {"a constant": lambda t: t.detach()},
    )
    outputs = {
        "a constant": Fault(
            lambda t: t.detach(), RuntimeError, "discriminator: its output has no graph back to its input..."
        ),
        "int64": Fault(
            lambda t: t.long(), TypeError, "discriminator: expected floating-point tensors, got torch.int64..."
        ),
        "str": Fault(always("x"), TypeError, "discriminator: expected it to return a tensor..."),
        "3": Fault(lambda t: t[:3], ValueError, "discriminator: expected outputs for each of 4..."),
    }
    yield Form(
        "output_penalty", fastgan.output_penalty, sound,
        {
            "inputs": data | leaf, "outputs": outputs, "kind": KIND, "weight": OPTIONAL_NUMBER, "target": NUMBER,
            "over": OVER, "batch_dim": about(BATCH_DIM, "inputs"), "pac": about(PAC, "inputs"),
            "groups": from_nothing(GROUPS, lambda: torch.tensor([0, 0, 1, 1])), "output": OUTPUT,
            "sample_weights": sample_weights(),
        },
        keyword="output_penalty",
    )  # fmt: skip
    yield Form(
        "output_penalty wgan-div", fastgan.output_penalty, lambda: sound(kind="wgan-div"),
        {"power": of_integers(1, 16, none=True)},
    )  # fmt: skip


def norms() -> Iterator[Form]:
    """Gradients that the caller has, and points between samples."""
    groups = from_nothing(GROUPS, lambda: torch.tensor([0, 0, 1, 1]))
    where = {"batch_dim": about(BATCH_DIM, "grads"), "pac": about(PAC, "grads"), "groups": groups}
    shapes = "expected norms of one shape over each sample, got tensors of shapes (4, 3) and (2, 3)"
    grads = {
        **LOGITS,
        "()": Fault(lambda t: t.sum(), ValueError, "{n}: expected at least 1 dimensions for over='sample', got 0"),
    }
    grads["uneven"] = Fault(lambda t: (t, t[:2]), ValueError, f"{{n}}: {shapes}")
    grads |= {n: f._replace(make=lambda t, f=f: f.make([t, t])) for n, f in among_members("{n}").items()}
    for way, context in CONTEXTS.items():
        yield Form(
            f"gradient_norm{way}", fastgan.gradient_norm, lambda: {"grads": logits()},
            {"grads": grads, **({} if way else {"over": OVER, **where})}, context, "" if way else "gradient_norm",
        )  # fmt: skip
        yield Form(
            f"norm_penalty{way}", fastgan.norm_penalty, lambda: {"grads": logits()}, {"grads": grads}, context
        )
    yield Form(
        "norm_penalty", fastgan.norm_penalty, lambda: {"grads": logits()},
        {
            "kind": PSI, "target": NUMBER, "over": OVER, "reduction": REDUCTION, **where,
            "power": of_integers(1, 16), "weights": from_nothing(NORM_WEIGHTS, lambda: torch.ones(4)),
            "mask": norm_masks(),
        },
        keyword="norm_penalty",
    )  # fmt: skip
    yield Form(
        "norm_penalty power", fastgan.norm_penalty, lambda: {"grads": logits(), "kind": "power"},
        {
            "power": of_integers(1, 16),
            "target": {"idle": Fault(always(0.0), ValueError, "target: has no effect on kind 'power', got 0.0")},
        },
    )  # fmt: skip
    for way, context in CONTEXTS.items():
        where = {
            "batch_dim": about(BATCH_DIM, "real"), "pac": about(PAC, "real"), "groups": groups,
            "generator": GENERATOR,
        }  # fmt: skip
        roles = data_roles(("real", "fake")) | ({} if way else where)
        yield Form(
            f"interpolate{way}", fastgan.interpolate, lambda: {"real": logits(), "fake": logits()},
            {**roles, "eps": from_nothing(EPS, half)}, context, "" if way else "interpolate",
        )  # fmt: skip


# ---------------------------------------------------------------------------------- terms and auxiliary losses


def terms() -> Iterator[Form]:
    """Losses without a name."""
    numbers = dict.fromkeys(("scale", "shift", "linear", "weight"), NUMBER)
    yield Form("term", fastgan.term, lambda: {"phi": "relu"}, {"phi": PHI, **numbers}, keyword="term")
    square = fastgan.term("square")
    names = dict.fromkeys(("real", "fake", "generator"), TERM)

    def new() -> dict[str, Any]:
        TABLE.pop("own", None)  # of a cell that failed, as nothing was refused
        return {"name": "own", "real": square, "fake": square, "generator": square}

    yield Form(
        "register_loss", fastgan.register_loss, new, {"name": NEW_NAME, **names, "aliases": ALIASES},
        keyword="register_loss",
    )  # fmt: skip
    one = member(of_a_tensor())
    counts = {"one": "1, 2", "none": "0, 2"}
    many = "terms and tensors: expected as many of each, at least 1, got"
    of_terms: dict[str, Fault] = {
        **member(NAMES_OF_TERMS),
        "one": Fault(lambda v: v[:1], ValueError, f"{many} {counts['one']}"),
        "none": Fault(lambda v: [], ValueError, f"{many} {counts['none']}"),
        "NoneType": Fault(always(None), TypeError, "terms: expected a sequence, got NoneType"),
        "int": Fault(always(3), TypeError, "terms: expected a sequence, got int"),
    }
    of_operands: dict[str, Fault] = {
        **one,
        **among_members("tensors"),
        **{
            n: Fault(always(v), TypeError, f"tensors: expected a sequence, got {n}")
            for n, v in {"int": 3, "NoneType": None, "str": "ab"}.items()
        },
        "three": Fault(
            lambda v: [v[0], (v[0],) * 3], ValueError, "tensors: expected a tensor or a pair, got 3 tensors"
        ),
        **{
            f"pair: {n}": f._replace(make=lambda v, f=f: [v[0], (v[0], f.make(v[0]))])
            for n, f in pair_faults("tensors[1][0]", "tensors[1][1]", shapes=True).items()
            if n not in ("elsewhere", "wide")
        },
    }
    masks = {
        f"member: {n}": f._replace(make=lambda v, f=f: [None, f.make(torch.full((4, 3), 0.5))])
        for n, f in ahead(about({**MASK, **ZEROS}, "tensors[1]"), "masks[1]").items()
    }
    masks["one"] = Fault(always([None]), ValueError, "masks: expected one for each of 2 terms, got 1")
    masks["float"] = Fault(always(1.0), TypeError, "masks: expected a tensor or None for each term, got float")

    def sound(**o: Any) -> dict[str, Any]:
        return {"terms": [square, square], "tensors": [logits(), logits()], **o}

    for way, context in CONTEXTS.items():
        yield Form(
            f"reduce_terms{way}", fastgan.reduce_terms, sound, {"tensors": of_operands, "terms": of_terms}, context,
            "" if way else "reduce_terms",
        )  # fmt: skip
    yield Form(
        "reduce_terms centred", fastgan.reduce_terms, lambda: sound(centred=True),
        {"tensors": {n: f for n, f in of_operands.items() if not n.startswith("pair")}},
    )  # fmt: skip
    yield Form(
        "reduce_terms with a graph", fastgan.reduce_terms, lambda: sound(return_values=True, with_graph=True),
        {"tensors": of_operands},
    )  # fmt: skip
    yield Form(
        "reduce_terms", fastgan.reduce_terms, lambda: sound(weights=[1.0, 1.0]),
        {"reduction": REDUCTION, "weights": about(MEMBER_WEIGHTS, "terms")},
    )  # fmt: skip
    yield Form("reduce_terms", fastgan.reduce_terms, sound, {"masks": masks})


def auxiliary() -> Iterator[Form]:
    """What stands beside the adversarial loss."""
    both = ("real_logits", "fake_logits")
    for name in ("centering_penalty", "truncated_relativistic_loss"):
        call = getattr(fastgan, name)
        own: dict[str, Role] = (
            {"form": FORM, "weight": NUMBER} if name == "centering_penalty" else {"tau": NOT_NEGATIVE}
        )
        fits = pair_faults(*both, shapes=True)
        if name == "truncated_relativistic_loss":
            fits["elsewhere"] = fits["elsewhere"]._replace(
                text="real_logits and fake_logits: expected all on one device, got cpu and meta"
            )
            fits["wide"] = fits["wide"]._replace(text=among_members("real_logits and fake_logits")["wide"].text)
        yield Form(
            name, call, lambda: {k: logits() for k in both},
            {**own, "real_logits": LOGITS, "fake_logits": {**LOGITS, **fits}}, keyword=name,
        )  # fmt: skip
        lists = {k: without(r, "a tensor") for k, r in _member_roles(both).items()}
        yield Form(f"{name} of members", call, lambda: {k: [logits()] * 2 for k in both}, lists)
    each = {**LOGITS, **pair_faults(*both)}
    yield Form(
        "centering_penalty each", fastgan.centering_penalty,
        lambda: {"form": "each", **{k: logits() for k in both}}, {"real_logits": LOGITS, "fake_logits": each},
    )  # fmt: skip
    average = of_type("expected a number", {"NoneType": always(None), "ndarray": always(np.ones(1))})
    average |= of_value(
        "expected 1 numbers, one per member", {"shape (2,)": always(torch.ones(2)), "2": always([0.5, 1.0])}
    )
    average |= of_value("expected a finite number", {"nan": always(math.nan), "inf": always([math.inf])})
    average |= {n: Fault(m, TypeError, float_wanted(n)) for n, m in BAD_DTYPES.items()}
    average |= {n: LOGITS[n] for n in ("a sparse_coo one", "a nested one", "DTensor", "shape (0,)")}
    average["elsewhere"] = Fault(
        lambda t: t.to("meta"), ValueError, "{n}: expected it on cpu as the logits are, got meta"
    )
    yield Form(
        "lecam_penalty", fastgan.lecam_penalty,
        lambda: {**{k: logits() for k in both}, "real_average": torch.ones(1), "fake_average": torch.ones(1)},
        {
            "real_logits": LOGITS, "fake_logits": {**LOGITS}, "real_average": average, "fake_average": average,
            "weight": NUMBER,
        },
        keyword="lecam_penalty",
    )  # fmt: skip
    gradients = ("reconstruction_gradient", "adversarial_gradient")
    yield Form(
        "adaptive_weight", fastgan.adaptive_weight, lambda: {k: logits() for k in gradients},
        {**dict.fromkeys(gradients, LOGITS), "weight": NUMBER, "eps": NOT_NEGATIVE, "limit": NOT_NEGATIVE},
        keyword="adaptive_weight",
    )  # fmt: skip
    yield from features()


def features() -> Iterator[Form]:
    """Feature matching."""
    both = ("real_features", "fake_features")
    call = fastgan.feature_matching_loss
    yield Form(
        "feature_matching_loss", call, lambda: {k: logits() for k in both},
        {"real_features": MAPS, "fake_features": {**MAPS, **pair_faults(*both, shapes=True)}, "loss": DISTANCE},
        keyword="feature_matching_loss",
    )  # fmt: skip
    lists: dict[str, Role] = {}
    for k in both:
        tensors = {n: f for n, f in ahead(MAPS, f"{k}[1]").items() if n not in NO_TENSORS}
        lists[k] = member(tensors) | member(ahead({n: MAPS[n] for n in NO_MAPS}, k))
        lists[k] = {
            **lists[k],
            "[]": Fault(
                always([]),
                ValueError,
                "real_features and fake_features: expected as many maps, at least 1, got ...",
            ),
        }
    weights = {
        n: f
        for n, f in about(MEMBER_WEIGHTS, "pairs of maps").items()
        if n not in ("float", "tensor: shape () on cpu")
    }
    numbers = {
        f"number: {n}": f
        for n, f in NUMBER.items()
        if n in ("nan", "inf", "-inf", "huge", "with a graph", "of bool")
    }
    masks = {
        f"one: {n}": f._replace(make=lambda v, f=f: f.make(torch.full((4, 3), 0.5)))
        for n, f in about(MASK, "fake_features[0]").items()
        if n not in ("str", "ndarray")
    }
    masks |= {
        f"member: {n}": f._replace(make=lambda v, f=f: [None, f.make(torch.full((4, 3), 0.5))])
        for n, f in ahead(about(MASK, "fake_features[1]"), "mask[1]").items()
    }
    masks["zeros"] = Fault(always(torch.zeros(4, 1)), ValueError, "mask: expected an element above 0, got none")
    masks["one"] = Fault(always([None]), ValueError, "mask: expected one for each of 2 pairs of maps, got 1")
    yield Form(
        "feature_matching_loss of members",
        call,
        lambda: {**{k: [logits()] * 2 for k in both}, "weights": [1.0, 1.0]},
        {**lists, "weights": {**weights, **numbers}},
    )
    yield Form("feature_matching_loss of members", call, lambda: {k: [logits()] * 2 for k in both}, {"mask": masks})


def clipping() -> Iterator[Form]:
    """Weight clipping."""
    bound = {
        **NUMBER,
        **{
            f"{v}": Fault(always(v), ValueError, f"{{n}}: expected a positive number or (low, high), got {v}")
            for v in (0.0, -1.0, (1.0, 0.0))
        },
    }
    for odd in ((1.0,), (), (0.0, 1.0, 2.0)):
        bound[f"{odd}"] = Fault(
            always(odd), ValueError, f"{{n}}: expected a positive number or (low, high), got {odd}"
        )
    dtypes = {**BAD_DTYPES, "torch.qint8": quantized}
    parameters = {
        n: Fault(lambda v, m=make: [v, m(v)], TypeError, f"{{n}}: expected floating-point tensors, got {n}")
        for n, make in dtypes.items()
    }
    parameters |= {
        n: Fault(lambda v, m=make: [v, m(v)], TypeError, f"{{n}}: expected floating-point tensors, got {n}")
        for n, make in NO_TENSORS.items()
        if n in ("NoneType", "float", "str", "ndarray")
    }
    parameters |= {
        f"alone: {n}": Fault(always(v), TypeError, f"{{n}}: expected floating-point tensors, got {n}")
        for n, v in {"int": 3, "NoneType": None}.items()
    }
    parameters |= {
        n: LOGITS[n]._replace(make=lambda v, n=n: [v, LOGITS[n].make(v)])
        for n in ("a sparse_coo one", "a sparse_csr one")
    }
    yield Form(
        "clip_weights_", fastgan.clip_weights_, lambda: {"module_or_parameters": logits(), "bound": 1.0},
        {"module_or_parameters": parameters, "bound": bound}, keyword="clip_weights_",
    )  # fmt: skip
    yield Form(
        "clip_weights_ of a module", fastgan.clip_weights_,
        lambda: {"module_or_parameters": Watched(), "bound": 1.0}, {"bound": bound},
    )  # fmt: skip


def small() -> Iterator[Form]:
    """The rest."""
    yield Form(
        "curriculum_weights", fastgan.curriculum_weights, lambda: {"num_critics": 3, "progress": 0.5},
        {"num_critics": of_integers(1), "progress": PROBABILITY}, keyword="curriculum_weights",
    )  # fmt: skip
    yield Form("backend", fastgan.backend, lambda: {"name": "auto"}, {"name": BACKEND}, keyword="backend.__init__")
    yield Form(
        "compile_info", fastgan.compile_info, lambda: {"discriminator": Watched()}, {"discriminator": MODULE},
        keyword="compile_info",
    )  # fmt: skip
    yield Form("compiling", fastgan.compiling, dict, {}, keyword="compiling")
    frozen = of_type("expected modules or functions", NO_FUNCTIONS)
    frozen["a function of none"] = Fault(
        always(abs_of), ValueError, "discriminators: expected a function that refers to a module, got ..."
    )
    yield Form(
        "frozen", lambda discriminators: fastgan.frozen(discriminators).__enter__(),
        lambda: {"discriminators": Watched()}, {"discriminators": frozen},
    )  # fmt: skip
    target = of_type(
        "expected a class of Function or Module, or a function",
        {**NO_FUNCTIONS, "int": always(3), "Watched": lambda _: Watched(), "ndarray": always(np.ones(2))},
    )
    target["a class"] = Fault(
        always(int), TypeError, "target: expected a class of Function or Module, or a function, got int"
    )
    for base in (torch.autograd.Function, nn.Module):
        target[base.__name__] = Fault(
            always(base),
            TypeError,
            f"target: expected a class derived from {base.__name__}, got {base.__name__} itself",
        )
    yield Form(
        "declare_piecewise_linear", fastgan.declare_piecewise_linear, lambda: {"target": abs_of},
        {"target": target}, keyword="declare_piecewise_linear",
    )  # fmt: skip


# ---------------------------------------------------------------------------------- steps


def steps() -> Iterator[Form]:
    """The discriminator's step, with each penalty, and the generator's."""
    for penalty in (None, "r1", "wgan-gp", "r1-approx", ["r1", "r2"]):

        def sound(penalty: Any = penalty, **o: Any) -> dict[str, Any]:
            return {"discriminator": Watched(), "real": logits(), "fake": logits() + 1, "penalty": penalty, **o}

        fits = (
            data_roles(("real", "fake")) if penalty == "wgan-gp" else data_roles(("real",)) | data_roles(("fake",))
        )
        yield Form(
            f"discriminator_step {penalty}", fastgan.discriminator_step, sound,
            {"discriminator": DISCRIMINATOR, **fits},
        )  # fmt: skip
        yield Form(
            f"discriminator_step {penalty} without gradients", fastgan.discriminator_step, sound,
            {"discriminator": DISCRIMINATOR, **fits}, torch.no_grad,
        )  # fmt: skip
        if penalty:
            yield Form(
                f"discriminator_step {penalty}", fastgan.discriminator_step, sound,
                {"sample_weights": sample_weights()},
            )  # fmt: skip
    yield from step_options()
    yield from generator_steps()


def step_options() -> Iterator[Form]:
    """The options of a discriminator's step."""

    def sound(**o: Any) -> dict[str, Any]:
        return {"discriminator": Watched(), "real": logits(), "fake": logits() + 1, "penalty": "r1", **o}

    loss = {
        **without(LOSS, "3", "['x']", "2.5", "None"),
        **of_type(
            "expected a name or a function of real and fake logits",
            {"int": always(3), "NoneType": always(None), "list": always(["hinge"])},
        ),
    }
    loss["the other's"] = Fault(
        always(fastgan.nn.GeneratorLoss()),
        ValueError,
        "{n}: expected a loss of the discriminator, got a GeneratorLoss",
    )
    penalty = {n: f for n, f in KIND.items() if isinstance(f.make(None), str)}
    penalty |= of_type(
        "expected a kind, a fastgan.nn.GradientPenalty or a list of them",
        {"int": always(3), "dict": always({"r1": 1.0}), "Tensor": always(torch.ones(1))},
    )
    penalty |= of_type(
        "expected kinds of gradient_penalty or fastgan.nn.GradientPenalty",
        {"float": always([3.0]), "NoneType": always(["r1", None]), "ReLU": always(nn.ReLU())},
    )
    for name, instead in {
        "engine": "give engine to discriminator_step",
        "prune": "give prune to discriminator_step",
        "return_stats": "call gradient_penalty for its statistics",
    }.items():
        value = {"engine": "eager", "prune": False, "return_stats": True}[name]
        penalty[name] = Fault(
            always(fastgan.nn.GradientPenalty("r1", **{name: value})),
            ValueError,
            f"{{n}}: {name} has no effect within a step; {instead}",
        )
    groups = from_nothing(GROUPS, lambda: torch.tensor([0, 0, 1, 1]))
    yield Form(
        "discriminator_step", fastgan.discriminator_step, sound,
        {
            "loss": loss, "penalty": penalty, "fake_args": ARGUMENTS, "engine": ENGINE, "output": OUTPUT,
            "batch_dim": about(BATCH_DIM, "real"), "pac": about(PAC, "real"), "groups": groups,
            "fake_groups": ahead(groups, "fake_groups"),
        },
    )  # fmt: skip
    yield Form(
        "discriminator_step concat", fastgan.discriminator_step, lambda: sound(concat=True),
        {
            "groups": {
                "given": Fault(
                    always(torch.tensor([0, 0, 1, 1])), ValueError,
                    "concat: has no place beside groups, whose numbers are of one batch",
                ),
            },
        },
    )  # fmt: skip


def generator_steps() -> Iterator[Form]:
    """The generator's step."""

    def sound(**o: Any) -> dict[str, Any]:
        return {"discriminator": Watched(), "fake": logits().requires_grad_() * 1, "real": logits(), **o}

    loss = {
        **without(LOSS, "3", "['x']", "2.5", "None"),
        **of_type(
            "expected a name or a function of fake and real logits",
            {"int": always(3), "NoneType": always(None), "list": always(["hinge"])},
        ),
    }
    loss["the other's"] = Fault(
        always(fastgan.nn.DiscriminatorLoss()),
        ValueError,
        "{n}: expected a loss of the generator, got a DiscriminatorLoss",
    )
    balance = {
        f"{v!r}": Fault(always(v), TypeError, f"{{n}}: expected a fastgan.nn.AdaptiveWeight or the like, got {v!r}")
        for v in (3, "vqgan")
    }
    scalars = of_type(
        "expected a scalar tensor",
        {"float": always(1.0), "str": always("l1"), "list": always([]), "(4, 3)": always(logits())},
    )
    scalars["adversarial"] = Fault(
        always({"adversarial": torch.ones(())}),
        ValueError,
        "{n}: 'adversarial' is the name of the step's own loss; choose another",
    )
    scalars["by name"] = Fault(always({"l1": 1.0}), TypeError, "{n}: expected a scalar tensor, got float")
    idle = {"idle": Fault(always(1), ValueError, "{n}: has no effect without feature_matching, got 1")}
    yield Form(
        "generator_step", fastgan.generator_step, sound,
        {
            "discriminator": DISCRIMINATOR, "loss": loss, "balance": balance, "real_args": ARGUMENTS,
            "reconstruction": scalars, "features": idle, "output": OUTPUT,
            "feature_matching": {
                **NUMBER_OR_FUNCTION,
                "unsaid": Fault(
                    always(1.0), ValueError,
                    "features: expected which part of the discriminator's result are the maps, got None",
                ),
            },
        },
    )  # fmt: skip
    missing = {"None": Fault(always(None), ValueError, "{n}: expected samples for feature_matching, got None")}
    missing["with a graph"] = Fault(
        lambda t: t.requires_grad_() * 1,
        ValueError,
        "{n}: expected tensors that need no gradient, got one with a graph; detach it, as none flows through real",
    )
    yield Form(
        "generator_step of features", fastgan.generator_step, lambda: sound(feature_matching=1.0, features=0),
        {"real": missing, "features": OUTPUT, "feature_matching": NUMBER_OR_FUNCTION},
    )  # fmt: skip


def forms() -> Iterator[Form]:
    """All functions and modules."""
    for part in (
        losses,
        loss_options,
        modules,
        gradient_penalties,
        given_outputs,
        norms,
        terms,
        auxiliary,
        clipping,
        small,
        steps,
    ):
        yield from part()
