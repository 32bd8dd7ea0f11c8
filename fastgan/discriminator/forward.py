"""One call of a discriminator, and its gradient by the input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from .._callables import modules_in
from .._torch_internals import (
    ATTENTION_KERNELS,
    close_torchs_generators,
    compiler_is_loaded,
    fsdp_is_used,
    function_mode_depth,
    function_modes,
    has_backward_hooks,
    hide_from_compiler,
    is_exporting,
    is_transformed,
    pop_function_mode,
    push_function_mode,
    set_compiler_stance,
    stance_as_it_is,
    tree_leaves,
    tree_map_only,
)
from ..ops.attention import Attend, AttendGradients
from . import wrappers
from .attention import Attention
from .double_backward import ReachedParameters, check, gradients_of
from .outputs import read
from .prune import PiecewiseLinear, Prune, Zeros, with_zeros
from .sharded import gather_in_backward


class _PlainArithmetic:
    """Run compiled networks as they were before compilation, and attention in plain arithmetic.

    Both settings are the process's: the first of several uses makes them and the last takes them back. PyTorch
    refuses to run a compiled step under them. One of another thread therefore waits until they are taken back.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.uses: dict[int, int] = {}  # with the thread of each
        self.barred: set[int] = set()  # threads that run a compiled step
        self.kernels: Any = None  # of attention: their switches, as they were
        self.stance: Any = None  # what sets that of the compiler as it was

    def is_mine(self) -> bool:
        """Return whether this thread is among those that have made the settings."""
        return threading.get_ident() in self.uses.values()

    def enter(self, use: int) -> None:
        """Make the settings for a use."""
        me = threading.get_ident()
        with self.lock:
            if self.barred - {me}:
                self.changed.wait_for(lambda: not self.barred - {me})
            self.uses[use] = me
            if self.kernels is None:
                self.kernels = [(switch, enabled()) for enabled, switch in ATTENTION_KERNELS.values()]
                for name, (_, switch) in ATTENTION_KERNELS.items():
                    switch(name == "math")
            if self.stance is None and compiler_is_loaded():  # else nothing has been compiled
                hide_from_compiler(Attend, AttendGradients, PiecewiseLinear, Zeros)
                self.stance = stance_as_it_is()
                try:
                    set_compiler_stance("force_eager")
                except RuntimeError as error:  # PyTorch sets none while it runs the parts of a graph
                    self.stance = None
                    raise RuntimeError(_IN_PARTS) from error

    def leave(self, use: int) -> None:
        """Take the settings back after the last use; to be called again does no harm."""
        with self.lock:
            self.uses.pop(use, None)
            if self.uses:
                return
            if self.kernels is not None:
                for switch, enabled in self.kernels:
                    switch(enabled)
                self.kernels = None
            if self.stance is not None:
                self.stance()
                self.stance = None
            self.changed.notify_all()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Keep these settings out of all threads, for a compiled step."""
        me = threading.get_ident()
        with self.lock:
            self.changed.wait_for(lambda: not self.uses)
            self.barred.add(me)
        try:
            yield
        finally:
            with self.lock:
                self.barred.discard(me)
                self.changed.notify_all()


_IN_PARTS = (
    "a penalty under fastgan.compiling() could not be traced as a whole; compile with fullgraph=True to see why, or"
    " call it where fastgan.compiling() is off"
)
plain_arithmetic = _PlainArithmetic()


class _Use:
    """A use of the settings under which a discriminator can be differentiated twice, if it can be at all."""

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.modes = function_mode_depth()

    def enter(self) -> None:
        """Make the settings."""
        plain_arithmetic.enter(id(self))
        torch.set_grad_enabled(True)

    def leave(self) -> None:
        """Take them back, and what a mode left behind that was cut short."""
        torch.set_grad_enabled(self.grad)
        while function_mode_depth() > self.modes:
            pop_function_mode()
        plain_arithmetic.leave(id(self))


def differentiably(call: Callable[[], Any]) -> Any:
    """Call a function under settings in which a discriminator can be differentiated twice.

    Ctrl-C may arrive at any instruction, also of what takes the settings back. They are therefore taken back twice,
    and in functions, not in a context manager, whose own code may be cut short.
    """
    if is_exporting():
        raise RuntimeError("a gradient penalty cannot be exported, as it differentiates twice")
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return differentiably(call)
    use = _Use()
    try:
        try:
            use.enter()
            return call()
        finally:
            use.leave()
    finally:
        use.leave()


def _attention(alone: bool) -> Attention:
    """Return the mode that takes attention, in recomputations too."""
    return Attention(partial(_again, alone=alone), alone)


def _again(call: Callable[[], Any], alone: bool = True) -> Any:
    """Call what a checkpoint recomputes as the forward did."""

    def under_mode() -> Any:
        push_function_mode(_attention(alone))  # which is left with the settings
        try:
            return call()
        except KeyboardInterrupt as error:
            close_torchs_generators(error)
            raise

    return differentiably(under_mode)


@contextmanager
def differentiable() -> Iterator[None]:
    """Make the same settings for a block."""
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        use = _Use()
        try:
            use.enter()
            yield
        finally:
            use.leave()


def check_callable(caller: str, discriminator: Any) -> None:
    """Check that there is a discriminator that can be differentiated here."""
    if not callable(discriminator):
        raise TypeError(f"discriminator: expected a module or function, got {type(discriminator).__name__}")
    if is_transformed():
        raise RuntimeError(
            f"{caller}: cannot run under a torch.func transform; take torch.func's gradient of the"
            " discriminator there, and give it to norm_penalty"
        )


def is_parallel(discriminator: Any) -> bool:
    """Return whether a discriminator, compiled or not, is wrapped by DistributedDataParallel."""
    return isinstance(getattr(discriminator, "_orig_mod", discriminator), nn.parallel.DistributedDataParallel)


def modules_of(discriminator: Any) -> Iterator[nn.Module]:
    """Yield the modules of a discriminator, or those that a function, method or callable object refers to."""
    for root in (discriminator,) if isinstance(discriminator, nn.Module) else modules_in(discriminator):
        yield from root.modules()


def prunable(discriminator: Any, twice: bool = True) -> bool:
    """Return whether zero second derivatives may be skipped in this discriminator.

    Not where something could tell zeros from nothing, as backward hooks and sparse gradients do, and not where
    somebody else replaces functions.

    Raises:
        RuntimeError: it is differentiated `twice`, and wrapped by what does not let that through.
    """
    modules = list(modules_of(discriminator))
    if twice and not _PLAIN.issuperset({type(m) for m in modules}):
        _refuse_wrappers(modules)
    return _functions_are_torchs() and tells_no_zeros(modules)


_PLAIN: WeakSet[type] = WeakSet()  # types of modules that are no wrappers


def _refuse_wrappers(modules: list[nn.Module]) -> None:
    """Raise where one of these modules is a wrapper that a penalty cannot go through."""
    wrappers.refuse(modules)
    _PLAIN.update([type(m) for m in modules if not wrappers.named(type(m))])


def tells_no_zeros(modules: list[nn.Module]) -> bool:
    """Return whether nothing in these modules could tell a gradient of zeros from none."""
    sparse = any([getattr(m, "sparse", None) is True for m in modules])
    return not sparse and not has_backward_hooks(modules)


def _functions_are_torchs() -> bool:
    """Return whether nobody else replaces functions, who would see others than were called."""
    return all([type(mode).__name__ in _HARMLESS_MODES for mode in function_modes()])


# torch.device as a context, make_fx's, and that of frozen.py.
_HARMLESS_MODES = ("DeviceContext", "TorchFunctionMetadataMode", "_Apart")


def as_given(given: Any, tensors: Sequence[Tensor]) -> Any:
    """Return tensors in the container that the discriminator is called with."""
    if isinstance(given, Tensor):
        return tensors[0]
    return type(given)(*tensors) if hasattr(given, "_fields") else type(given)(tensors)


def tensors_of(x: Any) -> tuple[Tensor, ...]:
    """Return an input, a tensor or a container of them, as a tuple."""
    return (x,) if isinstance(x, Tensor) else tuple(x)


def differentiated(
    make: Callable[..., Forward], arguments: Any, options: Any, output: Any, numbers: Sequence[int]
) -> tuple[Forward, tuple[Tensor, ...]]:
    """Return a call of a discriminator, and its gradients by the input."""
    call = make(*arguments, **options)
    return call, call.gradients(output, numbers)


def _saveable(t: Tensor) -> Tensor:
    """Return `t`, or a copy of it that autograd may save."""
    return t.clone() if t.is_inference() else t


class Forward:
    """One call of a discriminator, made under `differentiable`, and its gradient by the input.

    Attributes:
        discriminator, args, kwargs: the call.
        x: the input; its tensors are leaves, or have a graph.
        created: the leaves that were made for it.
        create_graph: whether the gradient is to be differentiated in turn.
        result: what the discriminator returned.
    """

    def __init__(
        self, discriminator: Callable[..., Any], x: Any, args: Any, kwargs: Any, *, create_graph: bool, prune: bool
    ) -> None:
        given = tensors_of(x)
        inputs = tuple([t if create_graph and t.requires_grad else self._leaf(t) for t in given])
        self.discriminator, self.args, self.kwargs = discriminator, args, kwargs
        self.x = as_given(x, inputs)
        self.created = [t for t, own in zip(inputs, given, strict=True) if t is not own]
        self.create_graph = create_graph
        self._gradients: dict[Any, tuple[Tensor, ...]] = {}
        self._parameters: dict[Any, ReachedParameters] = {}
        args, kwargs = self._arguments(args, kwargs)
        self._pruning: Any = None
        self.result = self._call(args, kwargs, prune and create_graph)

    def _call(self, args: Any, kwargs: Any, prune: bool) -> Any:
        """Call the discriminator, pruning where that is wanted.

        By hand, since PyTorch's context manager fails where Ctrl-C came while the mode was put aside. What puts it
        back then would do so late, when the traceback is forgotten.
        """
        depth = function_mode_depth()
        try:
            replaces = prune and _functions_are_torchs()
            if self.create_graph:
                self._pruning = Prune(_again) if replaces else None
                push_function_mode(self._pruning or _attention(_functions_are_torchs()))
            return self.discriminator(self.x, *args, **kwargs)
        except KeyboardInterrupt as error:
            close_torchs_generators(error)
            raise
        finally:
            while function_mode_depth() > depth:
                pop_function_mode()

    def _leaf(self, t: Tensor) -> Tensor:
        """Return a leaf on the memory of `t`."""
        return (t.clone() if t.is_inference() else t.detach()).requires_grad_()

    def _arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return arguments that autograd may save."""
        if any(isinstance(t, Tensor) and t.is_inference() for t in tree_leaves((args, kwargs))):
            return tree_map_only(Tensor, _saveable, (args, kwargs))
        return args, kwargs

    def gradients(self, output: Any = None, numbers: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """Return the gradient of the sum of the outputs that count by each tensor of the input.

        Args:
            output: which outputs count, as `chosen` takes it.
            numbers: how many samples the input has, as `check_counts` takes it.

        Raises:
            RuntimeError: it cannot be differentiated, where it must be.
            ValueError: the number of outputs does not fit that of the samples.
        """
        if output not in self._gradients:
            first = self.x if isinstance(self.x, Tensor) else tensors_of(self.x)[0]
            outputs = read(self.result, output, first, numbers)
            self._gradients[output] = self._differentiate(output, outputs)
        return self._gradients[output]

    def parameters(self, output: Any = None) -> ReachedParameters:
        """Return which parameters the gradients depend on."""
        return self._parameters.get(output, ReachedParameters([], [], []))

    def with_zeros(self, t: Tensor, output: Any = None) -> Tensor:
        """Return what was made of the gradients, so that its backward sends zeros where PyTorch does.

        Leaves that were made here get them only where there is nothing else, so that there is a graph.
        """
        left_out = {id(p) for p in self.created} if t.requires_grad else set()
        return with_zeros(t, [p for p in self.parameters(output).zero_gradient if id(p) not in left_out])

    def _differentiate(self, output: Any, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        inputs = list(tensors_of(self.x))
        grads = gradients_of(outputs, inputs, self.create_graph, self._name_of if self.create_graph else None)
        if self.create_graph:
            pruned = self._pruning.replaced if self._pruning else ()
            self._parameters[output] = found = check(outputs, grads, inputs, pruned, self._name_of)
            if not found.reached and len(self.created) == len(inputs):
                self._refuse_frozen()
            if fsdp_is_used():
                gather_in_backward(modules_of(self.discriminator), outputs, grads)
        return grads

    def _refuse_frozen(self) -> None:
        """Raise where there are parameters and all of them are frozen; a function may well have none."""
        if any(True for m in modules_of(self.discriminator) for _ in m.parameters(False)):
            raise RuntimeError(
                "discriminator: all of its parameters are frozen (requires_grad is False), so that a penalty would"
                " train nothing; unfreeze them, or for the value alone call the penalty under torch.no_grad()"
            )

    def _name_of(self, parameter: Tensor) -> str | None:
        """Return the name of a parameter in its module, where it can be found."""
        modules = [m for m in (self.discriminator, *modules_of(self.discriminator)) if isinstance(m, nn.Module)]
        return next((name for m in modules for name, p in m.named_parameters() if p is parameter), None)
