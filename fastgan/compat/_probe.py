"""A probe of a trainer's own loss and the adapter's on small tensors, so that a look-alike is not replaced.

Arguments are chosen by the names of the adapter's parameters, which are the trainer's. An adapter with other
parameters, or other arguments by these names, has a function `samples(leaf)`. These cannot be probed, and are told
apart by their parameters alone:

- what runs networks and optimizers: audiocraft's AdversarialLoss, torchgan's `train_ops`, mmagic's AdvLoss;
- what reads a dict of outputs, and path lengths of a generator: OpenMMLab's `*Comps`, `gen_path_regularizer`;
- what takes distributions, or the name of a criterion: torchgan's mutual information, audiocraft's `get_*`.
"""

from __future__ import annotations

import inspect
import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Critic", "critic", "differences"]

# In 16 bits only dtypes and gross errors tell; the trainers' own values are rounded at each step.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_SHOWN = 3
# Arguments of which every value is tried, also where they have a default.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "gan_mode": ("lsgan", "vanilla", "wgangp"),
    "gan_type": ("lsgan", "vanilla", "wgan", "hinge"),
    "target_is_real": (True, False),
    "is_disc": (False, True),
    "for_discriminator": (True, False),
}
# Optional arguments that are passed all the same, by name.
_OPTIONS = {"is_disc", "last_layer"}
# Arguments of penalties. They are tried in float32 alone: with 16-bit data the trainers' own dtypes are accidental.
_DATA = {"real_images", "real_data", "fake_img", "fake_images"}


def _leaf(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Return numbers in -2.5 to 2.5 on both sides of the losses' kinks and on none, drawn from no generator."""
    count = torch.Size(shape).numel()
    values = (torch.arange(count, dtype=torch.float64) * 0.73 + seed).sin() * 2.5
    return values.view(shape).to(dtype).requires_grad_()


def critic(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return one number per sample, (N,), with a second derivative."""
    return (x + 0.3 * x.square()).flatten(1).sum(1) / 4


class Critic(torch.nn.Module):
    """`critic` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Return one number per sample."""
        return critic(x)


def _generate(latents: Tensor, *_: Any) -> Tensor:
    """Return images (N, 3, 2, 2) of latents (N, 3, 4)."""
    return (latents + 0.2 * latents.square()).reshape(-1, 3, 2, 2)


def _logits(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return logits, lists of them, and feature maps."""
    real, fake, maps = leaf(5, seed=1), leaf(5, seed=2), [leaf(2, 3, seed=k) for k in range(3, 11)]
    found: dict[str, Any] = dict.fromkeys(
        ("x", "real", "dx", "fx", "dis_real", "logits_real", "d_logit_real", "prediction", "input"), real
    )
    found |= dict.fromkeys(
        ("fake", "dgz", "fgz", "dis_fake", "logits_fake", "logit_fake", "d_logit_fake", "fake_pred", "pred"), fake
    )
    found |= {"disc_real_outputs": maps[:2], "disc_generated_outputs": maps[2:4], "disc_outputs": maps[:2]}
    found |= {"fmap_r": [maps[:2], maps[2:4]], "fmap_g": [maps[4:6], maps[6:]]}
    found |= {"feats_hat": [maps[:2], maps[2:4]], "feats": [maps[4:6], maps[6:]], "outputs_hat": maps[:2]}
    found |= {"fmap_fake": maps[:2], "fmap_real": maps[2:4], "real_embed": maps[0], "fake_embed": maps[1]}
    found |= {"d_hid": leaf(3, 2, seed=11), "logits": leaf(3, 2, seed=12), "labels": torch.tensor([0, 1, 1])}
    return found


def _data(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return images, latents and a layer, and what depends on them."""
    images, ws = leaf(2, 3, 2, 2, seed=13), leaf(2, 3, 4, seed=14)
    layer = torch.nn.Parameter(leaf(3, 2, seed=15).detach())
    names = ("images", "real_img", "real_images", "real_data", "inputs", "interpolate", "Samples", "RealSamples")
    found: dict[str, Any] = dict.fromkeys(names, images)
    found |= dict.fromkeys(("output", "outputs", "real_pred", "d_interpolate", "Critics"), critic(images))
    found |= dict.fromkeys(("discriminator", "netD", "Discriminator"), critic)
    found |= dict.fromkeys(("latents", "ws", "Noise"), ws)
    found |= dict.fromkeys(("fake_img", "fake_images"), _generate(ws))
    found |= {"fake_data": leaf(2, 3, 2, 2, seed=16), "Generator": _generate}
    found |= {"adv_output": images.square().sum((2, 3)), "label": torch.tensor([0, 2])}
    found |= {"last_layer": layer, "layer": layer, "loss": layer.square().sum()}
    found |= {"nll_loss": layer.square().sum(), "g_loss": (layer * 2).sum()}
    found["self"] = SimpleNamespace(discriminator_weight=0.7, last_layer=[layer])
    return found


def _samples(adapter: ModuleType, dtype: torch.dtype) -> dict[str, Any]:
    """Return an argument for each name of a parameter; tensors require grad, and are new at each call."""

    def leaf(*shape: int, seed: int) -> Tensor:
        return _leaf(*shape, seed=seed, dtype=dtype)

    found = _logits(leaf) | _data(leaf)
    found |= {"device": "cpu", "DDP": False, "Conditions": None, "real_labels": None}
    found |= {"weight": 0.5, "global_step": 3, "mean_path_length": 0.4, "margin": 2.0, "k": 0.5, "Gamma": 0.7}
    found["ema"] = SimpleNamespace(D_real=0.4, D_fake=-0.2)
    return found | (adapter.samples(leaf) if hasattr(adapter, "samples") else {})


# ---------------------------------------------------------------------------------- calls


def _named(thing: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments to pass, in order."""
    parameters = inspect.signature(thing).parameters.values()
    listed = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [p.name for p in listed if p.default is p.empty or p.name in _OPTIONS]


def _arguments(names: list[str], samples: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by name; KeyError where there is no sample of a name."""
    return {name: chosen[name] if name in chosen else samples[name] for name in names}


# The names of a constructor's arguments (None for a function), of the method to call, and of its arguments.
_Call = tuple[list[str] | None, str, list[str]]


def _calls(theirs: Any, ours: Any) -> Iterator[_Call]:
    """Yield the calls to make: of a function; of a class, its public methods; of a module, those that both have."""
    if not inspect.isclass(ours):
        yield None, "", _named(ours)
        return
    methods = [n for n, f in vars(ours).items() if n[0] != "_" and isinstance(f, (FunctionType, staticmethod))]
    if issubclass(ours, torch.nn.Module):
        methods = ["forward", *(n for n in methods if n != "forward" and hasattr(theirs, n))]
    for method in methods:
        names = _named(getattr(ours, method))
        yield _named(ours), method, names[1:] if names[:1] == ["self"] else names


def _run(thing: Any, call: _Call, samples: dict[str, Any], chosen: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return labelled results, and gradients of the tensors among the arguments (None where there is none)."""
    constructor, method, names = call
    if constructor is not None:
        made = thing(**_arguments(constructor, samples, chosen))
        thing = made if method == "forward" else getattr(made, method)
    arguments = _arguments(names, samples, chosen)
    torch.default_generator.manual_seed(0)
    options = {name: value for name, value in arguments.items() if name in _OPTIONS}
    results = thing(*[value for name, value in arguments.items() if name not in options], **options)
    found = [(f"result {i}", x) for i, x in enumerate(_flat(results))]
    wanted = [(name, x) for name, value in arguments.items() for x in _flat(value) if _needs_grad(x)]
    found += [(f"gradient left in {name}", x.grad) for name, x in wanted if x.is_leaf and x.grad is not None]
    total = [(x * _weights(x)).sum() for _, x in found if _needs_grad(x)]
    if total and wanted:
        grads = torch.autograd.grad(sum(total), [x for _, x in wanted], allow_unused=True)
        found += [(f"gradient of {name}", g) for (name, _), g in zip(wanted, grads, strict=True)]
    return found


def _needs_grad(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _weights(x: Tensor) -> Tensor:
    """Return different weights of a result's elements, so that a permutation shows."""
    return torch.arange(1, x.numel() + 1, dtype=x.dtype).view(x.shape)


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for x in tree for leaf in _flat(x)] if isinstance(tree, (list, tuple)) else [tree]


# ---------------------------------------------------------------------------------- comparison


def _unlike(theirs: Any, ours: Any, tolerance: float) -> str | None:
    """Return in what two results or gradients differ, or None."""
    if theirs is None and ours is None:
        return None
    if theirs is None or ours is None:
        return "none, where fastgan has one" if theirs is None else "one, where fastgan has none"
    if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
        return _unlike_tensors(theirs, ours, tolerance)
    if type(theirs) is not type(ours):
        return f"{type(theirs).__name__}, fastgan's {type(ours).__name__}"
    far = isinstance(theirs, float) and abs(theirs - ours) > tolerance * (1 + abs(ours))
    return f"{theirs:g}, fastgan's {ours:g}" if far else None


def _unlike_tensors(theirs: Tensor, ours: Tensor, tolerance: float) -> str | None:
    for what in ("dtype", "shape", "requires_grad"):
        a, b = getattr(theirs, what), getattr(ours, what)
        if a != b:
            return f"{what} {tuple(a) if what == 'shape' else a}, fastgan's {tuple(b) if what == 'shape' else b}"
    x, y = theirs.detach().double(), ours.detach().double()
    if torch.allclose(x, y, rtol=tolerance, atol=tolerance * (1 + y.abs().max().item())):
        return None
    worst = int((x - y).abs().argmax())
    return f"{x.flatten()[worst]:.4g}, fastgan's {y.flatten()[worst]:.4g}"


def _compared(adapter: ModuleType, theirs: Any, ours: Any, call: _Call, dtype: torch.dtype) -> Iterator[str]:
    """Yield the differences of one call, for each choice of its options, in one dtype."""
    names = [n for n in (call[0] or []) + call[2] if n in _CHOICES]
    for values in itertools.product(*(_CHOICES[n] for n in names)):
        chosen = dict(zip(names, values, strict=True))
        where = "".join(f", {n}={v!r}" for n, v in chosen.items())
        where = f"{call[1]} in {str(dtype).removeprefix('torch.')}{where}".strip()
        try:
            want = _run(ours, call, _samples(adapter, dtype), chosen)
        except Exception:
            continue  # not a function of these samples: told apart by its parameters alone
        try:
            got = _run(theirs, call, _samples(adapter, dtype), chosen)
        except Exception as error:
            if dtype is torch.float32:  # in 16 bits a CPU may lack an operator of theirs
                yield f"{where}: raises {type(error).__name__}: {error}"
            continue
        if len(got) != len(want):
            yield f"{where}: {len(got)} results and gradients, fastgan's {len(want)}"
        for (label, a), (_, b) in zip(got, want, strict=False):
            unlike = _unlike(a, b, _TOLERANCE[dtype])
            if unlike:
                yield f"{where}: {label}: {unlike}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Run a block in PyTorch's usual modes on the CPU; put generators, modes and default dtype back after it."""
    numpy = sys.modules.get("numpy")
    drawn, python, dtype = torch.get_rng_state(), random.getstate(), torch.get_default_dtype()
    state = numpy.random.get_state() if numpy else None
    with ExitStack() as stack:
        for mode in (torch.device("cpu"), torch.inference_mode(False)):  # the second enables gradients, too
            stack.enter_context(mode)
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_rng_state(drawn)
            random.setstate(python)
            if numpy:
                numpy.random.set_state(state)


def differences(adapter: ModuleType, theirs: Any, ours: Any) -> list[str]:
    """Return in what a trainer's own function or class differs from the adapter's; at most three, [] for none.

    Both are called on the same small CPU tensors, in float32 and bfloat16: results, dtypes, shapes and graphs are
    compared, and the gradients of all arguments. It takes milliseconds, and leaves random generators as they were.
    """
    with _undisturbed():
        found = (
            difference
            for call in _calls(theirs, ours)
            for dtype in ([torch.float32] if _DATA.intersection(call[2]) else _TOLERANCE)
            for difference in _compared(adapter, theirs, ours, call, dtype)
        )
        return list(dict.fromkeys(found))[:_SHOWN]
