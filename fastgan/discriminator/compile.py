"""A step of a discriminator - forward, both backwards, all gradients - as one compiled graph.

torch.compile cannot differentiate twice. Here autograd runs the step once, `make_fx` records the operations of all
its passes, and the record is compiled. It is a function from parameters, buffers and inputs to the value and the
gradients. The gradients wait in an autograd node, so that to the caller it is a loss like any other.

Such a graph does what the step did when it was traced. Whatever else the step may depend on is part of the key
under which the graph is kept (snapshot.py), or refused. The first call of each graph is the eager one, with
which the graph is compared.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from .. import backends, requirements
from .._torch_internals import has_backward_hooks
from . import double_backward, snapshot
from .ddp import watch
from .forward import plain_arithmetic
from .snapshot import Parts, Reader, State, UnfitError

LIMIT = 8  # graphs of one discriminator, after which it runs eagerly
_log = logging.getLogger("fastgan")
_lock = threading.RLock()  # tracing exchanges the discriminator's parameters for a while

# What a step does: given the discriminator and the inputs, a value to be differentiated, further results that are
# not, and the leaves that it made itself.
Body = Callable[[Callable[..., Any], Any], tuple[Tensor, Any, list[Tensor]]]


class CompileInfo(NamedTuple):
    """What engine "compiled" has done for a discriminator.

    Attributes:
        graphs: how many graphs were compiled: one for each batch size, dtype, mode, option and so on.
        calls: how many calls ran as one of them.
        seconds: what tracing, compiling and comparing took.
        refused: why it runs eagerly after all, or None.
    """

    graphs: int = 0
    calls: int = 0
    seconds: float = 0.0
    refused: str | None = None


class _Given(Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*grads)
        return value.clone()  # no view, so that it may be changed in place

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "engine='compiled' gives gradients that have no derivative; create_graph=True needs engine='eager'"
            )
        return None, None, *[g * upstream.to(g.dtype) for g in ctx.saved_tensors]


class _Step:
    """A step, its inputs' structure, and how its flat list of results is to be read."""

    def __init__(
        self, discriminator: nn.Module, body: Body, state: State, inputs: Parts, facts: Callable[[], Any]
    ) -> None:
        self.discriminator = discriminator
        self.facts = facts  # what else it depends on, now
        self.body = body
        self.state = state
        self.inputs = inputs
        self.extras = inputs  # then the further results
        self.reached: list[bool] = []  # which parameters and inputs get a gradient

    def compute(
        self, params: Sequence[Tensor], buffers: Sequence[Tensor], tensors: Sequence[Tensor]
    ) -> list[Tensor]:
        """Run the step by autograd: return the value, further results, and the gradients that there are."""
        leaves = [p.detach().requires_grad_(p.requires_grad) for p in params]
        given = [t.detach().requires_grad_(t.requires_grad) for t in tensors]

        def discriminator(*args: Any, **kwargs: Any) -> Any:
            exchanged = dict(zip(self.state.names, (*leaves, *buffers), strict=True))
            result = torch.func.functional_call(self.discriminator, exchanged, args, kwargs)
            for (name, now), before in zip(exchanged.items(), (*leaves, *buffers), strict=True):
                if now is not before:
                    raise UnfitError(f"its forward replaces {name} where it should change it in place")
            return result

        total, extras, made = self.body(discriminator, self.inputs.filled(given))
        needed = [t for t in (*leaves, *given) if t.requires_grad]
        known = {id(t) for t in (*needed, *made)}
        if any(id(t) not in known for t in double_backward.leaves_below(total)):
            raise UnfitError("it uses a parameter that is not its own")
        grads = torch.autograd.grad(total, needed, allow_unused=True)
        self.reached = [g is not None for g in grads]
        self.extras = Parts.of(extras)
        if not all(type(v) in snapshot.VALUES for v in self.extras.others):
            raise UnfitError("it returns more than tensors, numbers and strings in containers")
        # A gradient may be the memory of a parameter, which may change before the backward.
        memory = {t.untyped_storage().data_ptr() for t in (*leaves, *buffers, *given)}
        own = [
            g.detach().clone() if g.untyped_storage().data_ptr() in memory else g for g in grads if g is not None
        ]
        return [total.detach(), *[t.detach() for t in self.extras.tensors], *own]


class _Graph(NamedTuple):
    """A compiled step; `held` is what its key knows by identity alone."""

    run: Callable[..., list[Tensor]]
    extras: Parts
    reached: list[bool]
    held: list[Any]


class _Graphs:
    """The graphs of one discriminator."""

    def __init__(self) -> None:
        self.by_key: dict[Any, _Graph] = {}
        self.latest: Any = None  # the key of the newest one
        self.said: set[str] = set()  # what has been warned of
        self.info = CompileInfo()

    def warn(self, discriminator: nn.Module, what: str) -> None:
        """Warn of each thing once."""
        if what not in self.said:
            self.said.add(what)
            name = type(_within(discriminator)).__name__
            warnings.warn(f"engine='compiled': {name} {what}", stacklevel=_depth_of_caller())

    def refuse(self, discriminator: nn.Module, why: Exception) -> None:
        """Compile no graphs from here on."""
        text = str(why) if isinstance(why, UnfitError) else f"{type(why).__name__}: {why}"
        self.by_key.clear()
        self.info = self.info._replace(refused=text)
        self.warn(discriminator, f"runs eagerly from here on: {text}")


def _depth_of_caller() -> int:
    """Return how many calls up the caller of this package stands."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fastgan."):
        depth, frame = depth + 1, frame.f_back
    return depth


_all: weakref.WeakKeyDictionary[nn.Module, _Graphs] = weakref.WeakKeyDictionary()


def compile_info(discriminator: nn.Module) -> CompileInfo:
    """Return what engine "compiled" has done for this discriminator: graphs, calls, seconds, or why none."""
    if not isinstance(discriminator, nn.Module):
        raise TypeError(f"discriminator: expected a torch.nn.Module, got {type(discriminator).__name__}")
    found = _all.get(_within(discriminator))
    return found.info if found else CompileInfo()


# ------------------------------------------------------------------------- running


def run(discriminator: Any, body: Body, inputs: Any, key: Any, eager: Callable[[], Any]) -> tuple[Any, str]:
    """Return a step's (value, further results) and the engine that computed it, "compiled" or "eager".

    `key` says what the body depends on beside its arguments. `eager` is the same step by autograd, for one that
    cannot be compiled.
    """
    if not isinstance(discriminator, nn.Module):
        raise TypeError(
            "discriminator: expected a torch.nn.Module for engine='compiled', whose parameters and attributes tell"
            f" when to compile anew, got {type(discriminator).__name__}"
        )
    graphs = _all.setdefault(_within(discriminator), _Graphs())
    if graphs.info.refused is None and (lacking := requirements.lacking("engine='compiled'")):
        graphs.refuse(discriminator, UnfitError(f"the engine {lacking}"))
    if graphs.info.refused is not None:
        return eager(), "eager"
    try:
        if isinstance(discriminator, DistributedDataParallel):
            found = _run_parallel(graphs, discriminator, body, Parts.of(inputs), key)
        else:
            found = _run(graphs, discriminator, body, Parts.of(inputs), key)
        return (eager(), "eager") if found is None else found
    except UnfitError as error:  # of this call; another may do
        if graphs.info.refused is None:
            graphs.warn(discriminator, f"runs eagerly where {error}")
        return eager(), "eager"
    except Exception as error:
        result = eager()  # where the caller is at fault, this is what says so
        graphs.refuse(discriminator, error)
        return result, "eager"


def _within(discriminator: nn.Module) -> nn.Module:
    """Return the network that DistributedDataParallel and torch.compile were given."""
    while True:
        if isinstance(discriminator, DistributedDataParallel):
            discriminator = discriminator.module
        elif "_orig_mod" in discriminator._modules:
            discriminator = discriminator._orig_mod  # type: ignore[assignment]
        else:
            return discriminator


def _run_parallel(graphs: _Graphs, ddp: DistributedDataParallel, body: Body, inputs: Parts, key: Any) -> Any:
    """Run a step with what DDP does before and after a forward, so that it expects the gradients."""
    if ddp.static_graph or ddp.mixed_precision is not None:
        raise UnfitError("DistributedDataParallel has a static graph or a mixed precision of its own")
    ddp._pre_forward()
    found = _run(graphs, ddp, body, inputs, key)
    if found is None:
        return None
    (value, extras), by = found
    value = ddp._post_forward(value)
    reached = double_backward.leaves_below(value)
    known = {id(t) for t in reached}
    unreached = [p for p in ddp.parameters() if p.requires_grad and id(p) not in known]
    watch(ddp, value, reached, unreached)
    return (value, extras), by


def _run(graphs: _Graphs, discriminator: nn.Module, body: Body, inputs: Parts, key: Any) -> Any:
    """Return the results and the engine; None where nothing needs a gradient."""
    discriminator = _within(discriminator)
    if isinstance(discriminator, torch.jit.ScriptModule):
        raise UnfitError("it is a scripted module")
    with _lock:  # while another thread traces, the parameters are not the discriminator's own
        reader = Reader()
        state = State.of(discriminator, reader)
        device = (*inputs.tensors, *state.params)[0].device
        needed = [t for t in (*state.params, *inputs.tensors) if t.requires_grad]
        if not needed:
            return None
        others = reader.plain((key, inputs.others))
        whole = (others, snapshot.surroundings(device), state.facts, snapshot.signature(state, inputs))
        found = graphs.by_key.get(whole)
        if found is None:
            if graphs.info.graphs >= LIMIT:
                raise UnfitError(f"none of its {LIMIT} graphs fits; give it few batch sizes and modes")
            _check(discriminator, state, inputs, device)
            step = _Step(discriminator, body, state, inputs, lambda: _facts(discriminator, key, inputs))
            flat = _first(graphs, step, whole, reader.held, device)
            return _results(flat, step.extras, step.reached, needed), "eager"
        # Under the lock too: while another thread traces, PyTorch refuses to enter a compiled graph.
        with _as_traced(device):
            flat = found.run(state.params, state.buffers, inputs.tensors)
        graphs.info = graphs.info._replace(calls=graphs.info.calls + 1)
    return _results(flat, found.extras, found.reached, needed), "compiled"


def _facts(discriminator: nn.Module, key: Any, inputs: Parts) -> Any:
    """Return the parts of a step's key that are no tensors."""
    reader = Reader()
    return State.of(discriminator, reader).facts, reader.plain((key, inputs.others))


def _results(flat: list[Tensor], extras: Parts, reached: list[bool], needed: list[Tensor]) -> tuple[Tensor, Any]:
    """Return the value, with a node that has the gradients, and the further results."""
    count = sum(extras.is_tensor)
    leaves = [t for t, wanted in zip(needed, reached, strict=True) if wanted]
    value = _Given.apply(flat[0], flat[1 + count :], *leaves)
    return value, extras.filled(flat[1 : 1 + count])


def _check(discriminator: nn.Module, state: State, inputs: Parts, device: torch.device) -> None:
    """Raise where it shows without running it that a discriminator cannot be compiled."""
    if has_backward_hooks(discriminator.modules()):
        raise UnfitError("its modules have backward hooks, which a compiled graph does not call")
    of_all = nn.modules.module
    if of_all._global_forward_hooks or of_all._global_forward_pre_hooks:
        raise UnfitError("there are global forward hooks")
    if nn.utils.parametrize._cache_enabled:
        raise UnfitError("its parametrizations are cached")
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
    for t in (*state.params, *state.buffers, *inputs.tensors):
        if type(t) not in (Tensor, nn.Parameter, nn.Buffer):
            raise UnfitError(f"it has a tensor of type {type(t).__name__}")
        if t.layout is not torch.strided or t.is_conj() or t.is_neg() or t.is_inference():
            raise UnfitError("it has a tensor that is sparse, conjugate, negative or made in inference mode")
        if t.device != device:
            raise UnfitError(f"it has tensors on {device} and {t.device}")
        half = half or (t.dtype == torch.float16 and t.requires_grad)
    if half:
        raise UnfitError("gradients in float16 would underflow before a GradScaler's factor comes")


# ------------------------------------------------------------------------- tracing and comparing


class _Before:
    """What a forward may change, as it stood: tensors, attributes and generators of random numbers."""

    def __init__(self, step: _Step, held: list[Any], device: torch.device) -> None:
        self.device = device
        self.step = step
        self.facts = step.facts()
        self.buffers = [b.clone() for b in step.state.buffers]
        self.attributes = [(vars(m), dict(vars(m))) for m in step.discriminator.modules()]
        constants = [*step.state.params, *step.inputs.tensors, *[v for v in held if isinstance(v, Tensor)]]
        self.constants = [(t, t.detach().clone(), t._version) for t in constants if not t.is_inference()]
        self.drawn = self.generators()
        self.of_python = random.getstate()
        numpy = sys.modules.get("numpy")
        self.of_numpy = numpy.random.get_state() if numpy else None

    def generators(self) -> tuple[Tensor, Tensor]:
        """Return the states of PyTorch's generators: the CPU's, and the device's."""
        on_cpu = torch.get_rng_state()
        return on_cpu, torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else on_cpu

    def set_generators(self, to: tuple[Tensor, Tensor] | None = None) -> None:
        """Set PyTorch's generators, by default to their states before the step."""
        on_cpu, on_device = to or self.drawn
        torch.set_rng_state(on_cpu)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(on_device, self.device)

    def copies(self) -> list[Tensor]:
        """Return copies of the buffers."""
        return [b.clone() for b in self.buffers]

    def check_unchanged(self) -> None:
        """Raise where a forward has changed something that a graph would not."""
        numpy = sys.modules.get("numpy")
        if random.getstate() != self.of_python or (numpy and str(numpy.random.get_state()) != str(self.of_numpy)):
            raise UnfitError("its forward draws from Python's or NumPy's random numbers")
        if any(t._version != version for t, _, version in self.constants):
            raise UnfitError("its forward modifies a tensor that is not a buffer in place")
        if self.step.facts() != self.facts:
            raise UnfitError("its forward changes attributes, or what they hold")

    def take_back_attributes(self) -> None:
        """Restore attributes that tracing changes, as the weight of weight norm by hooks."""
        for now, old in self.attributes:
            now.clear()
            now.update(old)

    def take_back(self) -> None:
        """Restore everything."""
        self.take_back_attributes()
        self.set_generators()
        random.setstate(self.of_python)
        if self.of_numpy is not None:
            sys.modules["numpy"].random.set_state(self.of_numpy)
        changed = [(t, old) for t, old, version in self.constants if t._version != version]
        with torch.no_grad():
            for t, old in (*zip(self.step.state.buffers, self.buffers, strict=True), *changed):
                t.copy_(old)


@contextlib.contextmanager
def _as_traced(device: torch.device) -> Iterator[None]:
    """Switch autograd and autocast off: a traced graph has their work in it already."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def _first(graphs: _Graphs, step: _Step, key: Any, held: list[Any], device: torch.device) -> list[Tensor]:
    """Run the step eagerly; if its values are finite, compile it too, and compare.

    Where the eager step itself raises, everything stands as before.
    """
    state = step.state
    before = _Before(step, held, device)
    try:
        want = step.compute(state.params, state.buffers, step.inputs.tensors)
    except BaseException as error:
        before.take_back()
        if isinstance(error, UnfitError):
            graphs.refuse(step.discriminator, error)
        raise
    after = before.generators()
    begin = time.perf_counter()
    try:
        before.check_unchanged()
        if all(t.isfinite().all() for t in want):
            made = _compiled(step, before)
            _compare(made, step, before, [*want, *state.buffers], after)
            graphs.by_key[key] = made._replace(held=held)
            _count(graphs, step, key, time.perf_counter() - begin)
    except Exception as error:
        graphs.refuse(step.discriminator, error)  # what the eager step computed holds all the same
    finally:
        before.set_generators(after)
    return want


def _compiled(step: _Step, before: _Before) -> _Graph:
    """Trace and compile the step."""
    import torch._dynamo
    from torch.fx.experimental.proxy_tensor import make_fx

    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # a cast that is traced is no other call's
    before.set_generators()
    # Compiled parts of the discriminator run as they were, and their operations are traced.
    nested = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    try:
        # Kernels cannot be traced: the reference's operations are, whichever backend the caller has named.
        with nested, backends.backend("reference"):
            traced = make_fx(lambda *given: step.compute(*given))(  # noqa: PLW0108 (make_fx reads its code)
                step.state.params, before.copies(), step.inputs.tensors
            )
    finally:
        torch.set_autocast_cache_enabled(cached)
        before.take_back_attributes()
    compiled = torch.compile(traced, dynamic=False, fullgraph=True, options={"fallback_random": True})

    def run(*given: Sequence[Tensor]) -> list[Tensor]:
        with plain_arithmetic.elsewhere():
            return compiled(*given)

    return _Graph(run, step.extras._replace(tensors=[]), step.reached, [])


def _compare(made: _Graph, step: _Step, before: _Before, want: list[Tensor], after: tuple[Tensor, Tensor]) -> None:
    """Raise unless the compiled step computes what the eager one did: `want`, with the buffers at its end."""
    copies = before.copies()
    before.set_generators()
    with _as_traced(before.device):
        got = [*made.run(step.state.params, copies, step.inputs.tensors), *copies]
    if not all(torch.equal(a, b) for a, b in zip(before.generators(), after, strict=True)):
        raise UnfitError("compiled, it draws other random numbers")
    rough = torch.is_autocast_enabled(before.device.type) or any(t.dtype.itemsize == 2 for t in step.state.params)
    values, gradients = 1 + sum(step.extras.is_tensor), len(want) - len(copies)
    for what, part in (
        ("values", slice(values)), ("gradients", slice(values, gradients)), ("buffers", slice(gradients, None)),
    ):  # fmt: skip
        if _agree(got[part], want[part], rough):
            continue
        exact = None if rough else _in_double(step, before)
        if exact is None or not _no_worse(got[part], want[part], exact[part]):
            raise UnfitError(f"compiled, its {what} are not those of the eager step")


def _agree(got: list[Tensor], want: list[Tensor], rough: bool) -> bool:
    """Return whether results agree up to rounding; small ones up to the rounding of the largest."""
    largest = max([float(w.double().norm()) for w in want if w.is_floating_point()], default=0.0)
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape or g.dtype != w.dtype:
            return False
        if not w.is_floating_point():
            if not torch.equal(g, w):
                return False
            continue
        relative = 0.1 if rough else 1e-8 if w.dtype == torch.float64 else 2e-3
        if not (g.double() - w.double()).norm() <= relative * (float(w.double().norm()) + 1e-2 * largest):
            return False
    return True


def _in_double(step: _Step, before: _Before) -> list[Tensor] | None:
    """Return the eager step's results in float64, with the buffers at its end, if it can be run so."""

    def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [
            t.detach().double().requires_grad_(t.requires_grad) if t.dtype == torch.float32 else t for t in tensors
        ]

    buffers = wide(before.copies())
    before.set_generators()
    try:
        return [*step.compute(wide(step.state.params), buffers, wide(step.inputs.tensors)), *buffers]
    except Exception:
        return None
    finally:
        before.take_back_attributes()


def _no_worse(got: list[Tensor], want: list[Tensor], exact: list[Tensor]) -> bool:
    """Return whether float32 results are as near to those in float64 as the eager ones, which must be near.

    PyTorch's double backward of batch norm, say, is off by a thousandth in float32.
    """
    largest = max([float(e.norm()) for e in exact if e.is_floating_point()], default=0.0)
    for g, w, e in zip(got, want, exact, strict=True):
        if not (g.shape == w.shape == e.shape and g.dtype == w.dtype):
            return False
        if not e.is_floating_point():
            if not torch.equal(g, e):
                return False
            continue
        size = float(e.norm()) + 1e-2 * largest
        theirs, ours = float((w.double() - e).norm()), float((g.double() - e).norm())
        if not (theirs <= 5e-2 * size and ours <= 2 * theirs + 1e-4 * size):
            return False
    return True


_PARTS = ("options or arguments", "settings", "modules, modes or attributes", "tensors")


def _count(graphs: _Graphs, step: _Step, key: Any, seconds: float) -> None:
    """Count a graph, and report it: the first as information, the others as warnings of the log "fastgan"."""
    info = graphs.info._replace(graphs=graphs.info.graphs + 1, seconds=graphs.info.seconds + seconds)
    graphs.info, latest, graphs.latest = info, graphs.latest, key
    differ = [name for name, a, b in zip(_PARTS, key, latest or key, strict=True) if a != b]
    _log.log(
        logging.INFO if info.graphs == 1 else logging.WARNING,
        "engine='compiled': graph %d of at most %d for %s, inputs %s, took %.1f s%s",
        info.graphs, LIMIT, type(step.discriminator).__name__, [tuple(t.shape) for t in step.inputs.tensors],
        seconds, f"; since the one before there changed: {', '.join(differ)}" if differ else "",
    )  # fmt: skip
