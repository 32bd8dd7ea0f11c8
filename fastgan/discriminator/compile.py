"""A step of a discriminator - forward, both backwards, all gradients - as one graph of torch.compile.

The graph is a function of the discriminator and its inputs, which gives the value and all gradients (traced.py).
The gradients wait in an autograd node, so that to the caller the value is a loss like any other. What a graph
depends on, and when it is recompiled, is Dynamo's affair.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel

from .. import requirements
from .._callables import within
from .._checks import depth_of_caller
from .._torch_internals import has_backward_hooks, tree_map_only
from ..ops.given import with_gradients
from . import double_backward
from .ddp import watch
from .dynamo import settings
from .forward import plain_arithmetic
from .wrappers import named

LIMIT = 8  # graphs of one discriminator, after which a call for which there is none runs eagerly
_log = logging.getLogger("fastgan")
_lock = threading.RLock()  # Dynamo's settings are the process's

# What a step does: given the discriminator, the inputs and options, a value to be differentiated, further results
# that are not, and the leaves that it made itself.
Body = Callable[..., tuple[Tensor, Any, list[Tensor]]]


class UnfitError(Exception):
    """A step cannot be compiled; the message says why."""


class CompileInfo(NamedTuple):
    """What engine "compiled" has done for a discriminator.

    Attributes:
        graphs: how many graphs were compiled: one for each batch size, dtype, mode, option and so on.
        calls: how many calls ran as one of them.
        seconds: what tracing and compiling took.
        refused: why it runs eagerly after all, or None.
    """

    graphs: int = 0
    calls: int = 0
    seconds: float = 0.0
    refused: str | None = None


_NO_SECOND = "engine='compiled' gives gradients that have no derivative; create_graph=True needs engine='eager'"


class _Graphs:
    """The graphs of one discriminator."""

    def __init__(self) -> None:
        self.said: set[str] = set()  # what has been warned of
        self.info = CompileInfo()
        self.step: Any = None

    def compiled(self) -> Callable[..., Any]:
        """Return the step as torch.compile compiles it."""
        if self.step is None:
            from . import traced

            # A code object of its own, as Dynamo keeps the graphs of one together, and not too many.
            code = traced.whole_step.__code__.replace()
            own = types.FunctionType(code, vars(traced), "whole_step")
            step = torch.compile(own, dynamic=False, fullgraph=True, options={"fallback_random": True})
            self.step = partial(step, traced)
        return self.step

    def warn(self, discriminator: nn.Module, what: str) -> None:
        """Warn of each thing once."""
        if what not in self.said:
            self.said.add(what)
            name = type(within(discriminator)).__name__
            warnings.warn(f"engine='compiled': {name} {what}", stacklevel=depth_of_caller())

    def refuse(self, discriminator: nn.Module, why: Exception) -> None:
        """Compile no graphs from here on."""
        text = str(why) if isinstance(why, UnfitError) else _in_short(why)
        self.info = self.info._replace(refused=text)
        self.warn(discriminator, f"runs eagerly from here on: {text}")


def _in_short(error: Exception) -> str:
    """Return the parts of an error of Dynamo's or of a compiler's that say what it is."""
    if found := re.search(r": got \w+\((['\"])(.*)\1\)\s*$", str(error), re.MULTILINE):  # raised by a node
        return found[2]
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    wanted = [line for line in lines[1:] if re.match(r"Explanation: |\w*Error: ", line)]
    return f"{type(error).__name__}: {' '.join(dict.fromkeys([lines[0], *wanted[:1]]))}"


_all: weakref.WeakKeyDictionary[nn.Module, _Graphs] = weakref.WeakKeyDictionary()


def compile_info(discriminator: nn.Module) -> CompileInfo:
    """Return what engine "compiled" has done for this discriminator: graphs, calls, seconds, or why none.

    Args:
        discriminator: the module that was given to a penalty or a step, wrapped or not.

    Returns:
        CompileInfo(graphs, calls, seconds, refused); of zeros and None for one that the engine has not seen.

    Raises:
        TypeError: it is no torch.nn.Module.
    """
    if not isinstance(discriminator, nn.Module):
        raise TypeError(f"discriminator: expected a torch.nn.Module, got {type(discriminator).__name__}")
    found = _all.get(within(discriminator))
    return found.info if found else CompileInfo()


def run(
    discriminator: Any, body: Body, inputs: Any, options: tuple[Any, ...], eager: Callable[[], Any]
) -> tuple[Any, str]:
    """Return a step's (value, further results) and the engine that computed it, "compiled" or "eager".

    `options` are what the body takes beside its inputs. `eager` is the same step by autograd, for one that cannot
    be compiled.
    """
    if not isinstance(discriminator, nn.Module):
        raise TypeError(
            "discriminator: expected a torch.nn.Module for engine='compiled', whose parameters and attributes tell"
            f" when to recompile, got {type(discriminator).__name__}"
        )
    graphs = _all.setdefault(within(discriminator), _Graphs())
    if graphs.info.refused is None and (lacking := requirements.lacking("engine='compiled'")):
        graphs.refuse(discriminator, UnfitError(f"the engine {lacking}"))
    if graphs.info.refused is not None:
        return eager(), "eager"
    try:
        if isinstance(discriminator, DistributedDataParallel):
            found = _run_parallel(graphs, discriminator, body, inputs, options)
        else:
            found = _run(graphs, discriminator, body, inputs, options)
        return (eager(), "eager") if found is None else (found, "compiled")
    except UnfitError as error:  # of this call; another may do
        if graphs.info.refused is None:
            graphs.warn(discriminator, f"runs eagerly where {error}")
        return eager(), "eager"
    except Exception as error:
        result = eager()  # where the caller is at fault, this is what says so
        if type(error).__name__.endswith("LimitHit"):  # of Dynamo; its name differs between versions
            graphs.warn(
                discriminator,
                f"runs eagerly where none of its {LIMIT} graphs fits; give it few batch sizes and modes",
            )
        else:
            graphs.refuse(discriminator, error)
        return result, "eager"


def _run_parallel(graphs: _Graphs, ddp: DistributedDataParallel, body: Body, inputs: Any, options: Any) -> Any:
    """Run a step with what DDP does before and after a forward, so that it expects the gradients."""
    if ddp.static_graph or ddp.find_unused_parameters or ddp.mixed_precision is not None:
        raise UnfitError(
            "DistributedDataParallel has a static graph, looks for unused parameters, or has a mixed precision"
        )
    ddp._pre_forward()
    found = _run(graphs, ddp, body, inputs, options)
    if found is None:
        return None
    value, extras = found
    value = ddp._post_forward(value)
    reached = double_backward.leaves_below(value)
    known = {id(t) for t in reached}
    unreached = [p for p in ddp.parameters() if p.requires_grad and id(p) not in known]
    watch(ddp, value, reached, unreached)
    return value, extras


class _Fresh:
    """Gives each tensor of the inputs its form for the graph: a leaf where it needs a gradient."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []  # those that need a gradient
        self.leaves: list[Tensor] = []
        self.known: dict[int, Tensor] = {}  # a tensor that comes twice is one in the graph too

    def __call__(self, t: Tensor) -> Tensor:
        """Return the form of a tensor."""
        if id(t) not in self.known:
            self.known[id(t)] = t.clone() if t.is_inference() else t.detach()
            if t.requires_grad:
                self.known[id(t)].requires_grad_()
                self.given.append(t)
                self.leaves.append(self.known[id(t)])
        return self.known[id(t)]


def _refuse_features(_: Tensor) -> None:
    """Raise where a gradient comes to an input's stand-in from elsewhere than the step's own gradients."""
    raise RuntimeError(
        "engine='compiled': a tensor that the discriminator's forward left behind leads to its input, which would"
        " get no gradient; use engine='eager'"
    )


def _check_related(given: Sequence[Tensor], params: Collection[int]) -> None:
    """Raise where an input is a parameter, or one is computed from another: their stand-ins would not be."""
    if any(id(t) in params for t in given):
        raise UnfitError("its input is one of its parameters")
    ends = {get_gradient_edge(t).node for t in given} if len(given) > 1 else set()
    for t in given if ends else ():
        if t.grad_fn is not None:
            seen: set[Any] = set()
            double_backward.walk([below for below, _ in t.grad_fn.next_functions], seen)
            if seen & ends:
                raise UnfitError("one of its inputs is computed from another")


def _run(graphs: _Graphs, discriminator: nn.Module, body: Body, inputs: Any, options: Any) -> Any:
    """Return the results; None where nothing needs a gradient."""
    discriminator = within(discriminator)
    modules = list(discriminator.modules())
    params = {id(p): p for m in modules for p in m._parameters.values() if p is not None}
    fresh = _Fresh()
    inputs = tree_map_only(Tensor, fresh, inputs)
    needed = [*[p for p in params.values() if p.requires_grad], *fresh.given]
    if not needed:
        return None
    _check_related(fresh.given, params.keys())
    buffers = [b for m in modules for b in m._buffers.values() if b is not None]
    _check(discriminator, modules, [*params.values(), *buffers, *fresh.known.values()])
    step, first = partial(_counted, graphs), not graphs.info.calls
    if first and os.environ.get("FASTGAN_CHECK_COMPILED") == "1":
        from .compare import beside_eager

        step = partial(beside_eager, step)
    value, extras, grads = step(body, discriminator, inputs, fresh.leaves, options)
    for leaf in fresh.leaves:  # only now, as the step's own gradients would call it too
        leaf.register_hook(_refuse_features)
    leaves = [t for t, g in zip(needed, grads, strict=True) if g is not None]
    return with_gradients(value, leaves, [g for g in grads if g is not None], _NO_SECOND), extras


def _counted(graphs: _Graphs, body: Body, discriminator: nn.Module, *arguments: Any) -> Any:
    """Run the compiled step, and count what Dynamo compiled for it."""
    from torch._dynamo import config, eval_frame
    from torch._dynamo.utils import counters

    with _lock, plain_arithmetic.elsewhere(), settings(recompile_limit=LIMIT, cache_size_limit=LIMIT):
        if config.disable or eval_frame._stance.stance != "default":
            raise UnfitError("torch.compile is switched off")
        before, begin = counters["stats"]["unique_graphs"], time.perf_counter()
        found = graphs.compiled()(body, discriminator, *arguments)
        made, seconds = counters["stats"]["unique_graphs"] - before, time.perf_counter() - begin
        info = graphs.info
        graphs.info = info._replace(calls=info.calls + 1)
        if made:
            graphs.info = graphs.info._replace(graphs=info.graphs + made, seconds=info.seconds + seconds)
            _log.log(
                logging.WARNING if info.graphs else logging.INFO,
                "engine='compiled': graph %d of at most %d for %s took %.1f s",
                graphs.info.graphs, LIMIT, type(discriminator).__name__, seconds,
            )  # fmt: skip
    return found


def _check(discriminator: nn.Module, modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> None:
    """Raise where it shows without running it that a discriminator cannot be compiled."""
    if isinstance(discriminator, torch.jit.ScriptModule):
        raise UnfitError("it is a scripted module")
    kind = type(discriminator)
    if any(getattr(kind, name) is not getattr(nn.Module, name) for name in ("parameters", "named_parameters")):
        raise UnfitError("it lists its parameters in a way of its own")
    if any(["FSDPModule" in named(type(m)) for m in modules]):
        raise UnfitError("it is sharded by fully_shard (FSDP2)")
    if plain_arithmetic.is_mine():
        raise UnfitError("it is called inside of another penalty")
    if torch.is_anomaly_enabled():
        raise UnfitError("autograd detects anomalies, which no graph does")
    if has_backward_hooks(modules):
        raise UnfitError("its modules have backward hooks, which a compiled graph does not call")
    of_all = nn.modules.module
    if of_all._global_forward_hooks or of_all._global_forward_pre_hooks:
        raise UnfitError("there are global forward hooks")
    if nn.utils.parametrize._cache_enabled:
        raise UnfitError("its parametrizations are cached")
    device = tensors[0].device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    for t in tensors:
        if type(t) not in (Tensor, nn.Parameter, nn.Buffer):
            raise UnfitError(f"it has a tensor of type {type(t).__name__}")
        half = half or (t.dtype == torch.float16 and t.requires_grad)
    if half:
        raise UnfitError("gradients in float16 would underflow before a GradScaler's factor comes")
