"""Whole steps of the zoo's discriminators: as one writes them in PyTorch, and the same of fastgan.

The only place with baselines of whole steps; `penalty_steps.py` times what is made here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo import ZOO, Case

import fastgan
from fastgan.nn import GradientPenalty

WEIGHT = 10.0
PARTS = (1.0, 0.5, 0.25)
ENGINES: dict[str, dict[str, Any]] = {
    "unpruned": {"prune": False},
    "pruned": {},
    "compiled": {"engine": "compiled"},
}
# What width and size are divided by on a CPU, where these take ten times as long as the others.
SMALLER = {"residual": (2, 2), "attention": (1, 2), "autocast": (2, 2)}
# How far gradients may be off, relative to their norms. A GPU's convolutions round to ten bits by default.
CLOSE = {"cpu": 1e-3, "cuda": 2e-2}
CLOSE_AUTOCAST = 0.1
# PyTorch's double backward of batch norm in float32 is itself some thousandths off float64's; a graph is not.
LOOSER = {"batch norm": 10}


class Made(NamedTuple):
    """A case on a device, and what its steps work on."""

    name: str
    case: Case
    width: int
    size: int
    device: str
    real: Tensor
    fake: Tensor
    eps: Tensor
    args: tuple[Any, ...]

    def net(self) -> nn.Module:
        """The discriminator, with the same weights each time."""
        return zoo.built(self.case, self.width, self.size).to(self.device)


Value = Callable[[nn.Module, Made], Tensor]
Work = Callable[[], Tensor]


def make(name: str, width: int, size: int, batch: int, device: str) -> Made:
    """The same for each contender."""
    by = SMALLER.get(name, (1, 1)) if device == "cpu" else (1, 1)
    width, size = max(8, width // by[0]), max(16, size // by[1])
    case = ZOO[name]
    real, fake, args = zoo.samples(case, batch, size)
    eps = torch.rand(batch, generator=torch.Generator().manual_seed(1))
    real, fake, eps = (t.to(device) for t in (real, fake, eps))
    args = tuple([a.to(device) for a in args])
    return Made(name, case, width, size, device, real, fake, eps, args)


# --- the usual recipes ----------------------------------------------------------------------------------


def twice(m: Made) -> AbstractContextManager[Any]:
    """What makes attention differentiable twice."""
    return sdpa_kernel(SDPBackend.MATH) if m.name == "attention" else nullcontext()


def input_gradient(out: Any, x: Tensor) -> Tensor:
    """The gradient of all outputs' sum."""
    outputs = list(out.values()) if isinstance(out, dict) else out if isinstance(out, list) else [out]
    (g,) = torch.autograd.grad(outputs, x, [torch.ones_like(o) for o in outputs], create_graph=True)
    return g


def recipe_penalty(net: nn.Module, m: Made) -> Tensor:
    """WGAN-GP's penalty, as in most trainers."""
    e = m.eps.view(-1, *[1] * (m.real.dim() - 1))
    x = (e * m.real + (1 - e) * m.fake).requires_grad_()
    with twice(m):
        g = input_gradient(net(x, *m.args), x)
    return WEIGHT * ((g.reshape(g.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def r1(g: Tensor) -> Tensor:
    """R1 given the gradient, as in most trainers."""
    return WEIGHT / 2 * g.pow(2).reshape(g.size(0), -1).sum(1).mean()


def recipe_r1(net: nn.Module, m: Made, part: float = 1.0) -> Tensor:
    """R1 by a forward of its own, on the first samples."""
    count = max(1, round(part * len(m.real)))
    x = m.real[:count].detach().requires_grad_()
    with twice(m):
        return r1(input_gradient(net(x, *[a[:count] for a in m.args]), x))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def recipe_loss(net: nn.Module, m: Made) -> Tensor:
    """The loss alone."""
    return hinge(net(m.real, *m.args), net(m.fake, *m.args))


def recipe_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, each by forwards of its own."""
    return recipe_loss(net, m) + recipe_r1(net, m)


def shared_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, as some trainers have it: R1 by the loss's forward on real."""
    x = m.real.detach().requires_grad_()
    with twice(m):
        out = net(x, *m.args)
        loss = hinge(out, net(m.fake, *m.args))
        return loss + r1(input_gradient(out, x))


def forward(net: nn.Module, m: Made) -> Tensor:
    """A forward, of which nothing is kept."""
    with torch.no_grad():
        return net(m.real, *m.args)


# --- fastgan --------------------------------------------------------------------------------------------


def our_penalty(engine: str) -> Value:
    """`gradient_penalty`."""

    def value(net: nn.Module, m: Made) -> Tensor:
        return fastgan.gradient_penalty(net, m.real, m.fake, *m.args, eps=m.eps, weight=WEIGHT, **ENGINES[engine])

    return value


def our_part(engine: str, part: float) -> Value:
    """The lazy module's R1, on a part of the batch."""
    penalty = GradientPenalty("r1", weight=WEIGHT, part=part, **ENGINES[engine])
    return lambda net, m: penalty(net, m.real, None, *m.args)


def separate_step(net: nn.Module, m: Made) -> Tensor:
    """Loss and R1, each by forwards of its own."""
    loss = fastgan.discriminator_loss(net(m.real, *m.args), net(m.fake, *m.args), "hinge")
    return loss + fastgan.r1_penalty(net, m.real, *m.args, weight=WEIGHT)


def our_step(engine: str) -> Value:
    """`discriminator_step`."""
    penalty = GradientPenalty("r1", weight=WEIGHT)

    def value(net: nn.Module, m: Made) -> Tensor:
        step = fastgan.discriminator_step(
            net, m.real, m.fake, *m.args, loss="hinge", penalty=penalty, **ENGINES[engine]
        )
        return step.total

    return value


# --- tables ---------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """What is timed for each of these cases.

    Attributes:
        values: the contenders, each a function of a discriminator and a case's samples.
        like: whose value and gradients a contender's are to be.
        base: whose time the others' are compared with.
        names: the zoo's cases.
    """

    values: dict[str, Value]
    like: dict[str, str]
    base: str
    names: tuple[str, ...]


_BY_PARTS = {f"{engine} {part:g}": our_part(engine, part) for engine in ("pruned", "compiled") for part in PARTS}
TABLES = {
    "penalty": Table(
        {"recipe": recipe_penalty} | {engine: our_penalty(engine) for engine in ENGINES},
        dict.fromkeys(ENGINES, "recipe"),
        "recipe",
        tuple(ZOO),
    ),
    "step": Table(
        {"recipe": recipe_step, "shared": shared_step, "separate": separate_step}
        | {"one graph": our_step("pruned"), "compiled": our_step("compiled")},
        # Spectral norm and batch statistics move at each forward, of which there are fewer in one graph.
        {"separate": "recipe", "one graph": "shared", "compiled": "shared"},
        "recipe",
        ("conv", "residual", "spectral norm", "batch norm", "vocoder", "projection", "attention"),
    ),
    "forwards": Table(
        {"forward": forward, "loss": recipe_loss}
        | {f"recipe {part:g}": partial(recipe_r1, part=part) for part in PARTS}
        | _BY_PARTS,
        {name: f"recipe {name.split()[1]}" for name in _BY_PARTS},
        "forward",
        ("conv", "residual"),
    ),
}


# --- steps ----------------------------------------------------------------------------------------------


def settings(net: nn.Module, m: Made) -> ExitStack:
    """What a trainer would set for this discriminator."""
    stack = ExitStack()
    if m.case.autocast is not None:
        stack.enter_context(torch.autocast(m.device, m.case.autocast))
    if m.device == "cuda" and any(isinstance(module, nn.RNNBase) for module in net.modules()):
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # cuDNN's have no second derivative
    return stack


def work(value: Value, net: nn.Module, m: Made) -> Work:
    """One step of a contender, from samples to the parameters' gradients: what is timed."""

    def step() -> Tensor:
        net.zero_grad(set_to_none=True)
        with settings(net, m):
            result = value(net, m)
        if result.requires_grad:
            result.backward()
        if m.device == "cuda":
            torch.cuda.synchronize()
        return result.detach()

    return step


def settle(net: nn.Module, step: Work) -> str | None:
    """Calls a compiled step until it has run as a graph, or returns why it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a refusal is told of in the report
        for _ in range(3):
            step()
            info = fastgan.compile_info(net)
            if info.calls or info.refused:
                return info.refused
    return "its values are not finite"


def outcome(net: nn.Module, step: Work, state: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """A step's value and gradients, beginning with these parameters and buffers."""
    net.load_state_dict(state)
    torch.manual_seed(0)  # dropout's masks
    return {"its value": step(), **{name: p.grad for name, p in net.named_parameters()}}


def check(table: Table, m: Made, nets: dict[str, nn.Module], works: dict[str, Work]) -> None:
    """Raises unless the contenders compute what their baselines do."""
    state = m.net().state_dict()
    wanted = {name: outcome(nets[name], works[name], state) for name in set(table.like.values())}
    close = (CLOSE[m.device] if m.case.autocast is None else CLOSE_AUTOCAST) * LOOSER.get(m.name, 1)
    for name in [n for n in table.like if n in works]:
        want = wanted[table.like[name]]
        norms = {key: float(w.double().norm()) for key, w in want.items() if w is not None}
        largest = max(norm for key, norm in norms.items() if key != "its value")
        for key, got in outcome(nets[name], works[name], state).items():
            w = want[key]
            if (got is None) is not (w is None):
                raise AssertionError(f"{m.name}, {name}: {key} is None for it or for {table.like[name]} only")
            if got is None or w is None:
                continue
            error = float((got.double() - w.double()).norm())
            # What is zero but for rounding, as of a bias before batch norm, is that of the largest.
            most = close * norms[key] + (0 if key == "its value" else 0.1 * close * largest)
            if not error <= most:
                like = table.like[name]
                raise AssertionError(f"{m.name}, {name}: {key} is {error:.2g} away from {like}'s, not {most:.2g}")
