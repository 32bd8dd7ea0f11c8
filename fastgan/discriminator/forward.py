"""One call of a discriminator, and its gradient by the input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._callables import modules_in
from .._torch_internals import (
    compiler_is_loaded,
    function_modes,
    has_backward_hooks,
    is_transformed,
    tree_leaves,
    tree_map_only,
)
from .double_backward import ReachedParameters, check, gradients_of
from .outputs import read
from .prune import Prune, with_zeros


class _PlainArithmetic:
    """Run compiled networks as they were before compilation, and attention in plain arithmetic.

    Both settings are the process's: the first of several threads makes them and the last takes them back. PyTorch
    refuses to run a compiled step under them. One of another thread therefore waits until they are taken back.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.own = threading.local()  # its `depth` is this thread's part of the whole
        self.depth = 0
        self.barred = 0
        self.stack = ExitStack()

    def is_mine(self) -> bool:
        """Return whether this thread is among those that have made the settings."""
        return getattr(self.own, "depth", 0) > 0

    def __enter__(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self.barred)
            if self.depth == 0:
                with ExitStack() as settings:
                    settings.enter_context(sdpa_kernel(SDPBackend.MATH))
                    if compiler_is_loaded():  # else nothing has been compiled
                        try:
                            settings.enter_context(torch.compiler.set_stance("force_eager"))
                        except RuntimeError as error:  # PyTorch sets none while it runs the parts of a graph
                            raise RuntimeError(_IN_PARTS) from error
                    self.stack = settings.pop_all()
            self.depth += 1
        self.own.depth = getattr(self.own, "depth", 0) + 1

    def __exit__(self, *exception: Any) -> None:
        self.own.depth -= 1
        with self.changed:
            self.depth -= 1
            if self.depth == 0:
                self.stack.close()
                self.changed.notify_all()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Keep these settings out of all threads, for a compiled step."""
        with self.changed:
            self.changed.wait_for(lambda: self.depth == 0)
            self.barred += 1
        try:
            yield
        finally:
            with self.changed:
                self.barred -= 1
                self.changed.notify_all()


_IN_PARTS = (
    "a penalty under fastgan.compiling() could not be traced as a whole; compile with fullgraph=True to see why, or"
    " call it where fastgan.compiling() is off"
)
plain_arithmetic = _PlainArithmetic()


@contextmanager
def differentiable() -> Iterator[None]:
    """Make the settings under which a discriminator can be differentiated twice, if it can be at all."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(plain_arithmetic)
        yield


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


def prunable(discriminator: Any) -> bool:
    """Return whether zero second derivatives may be skipped in this discriminator.

    Not where something could tell zeros from nothing, as backward hooks and sparse gradients do, and not where
    somebody else replaces functions.
    """
    return _functions_are_torchs() and tells_no_zeros(list(modules_of(discriminator)))


def tells_no_zeros(modules: list[nn.Module]) -> bool:
    """Return whether nothing in these modules could tell a gradient of zeros from none."""
    sparse = any([getattr(m, "sparse", None) is True for m in modules])
    return not sparse and not has_backward_hooks(modules)


def _functions_are_torchs() -> bool:
    """Return whether nobody else replaces functions, who would see others than were called."""
    return all([type(mode).__name__ in _HARMLESS_MODES for mode in function_modes()])


# torch.device as a context, and make_fx's.
_HARMLESS_MODES = ("DeviceContext", "TorchFunctionMetadataMode")


def as_given(given: Any, tensors: Sequence[Tensor]) -> Any:
    """Return tensors in the container that the discriminator is called with."""
    if isinstance(given, Tensor):
        return tensors[0]
    return type(given)(*tensors) if hasattr(given, "_fields") else type(given)(tensors)


def tensors_of(x: Any) -> tuple[Tensor, ...]:
    """Return an input, a tensor or a container of them, as a tuple."""
    return (x,) if isinstance(x, Tensor) else tuple(x)


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
        self._pruning: Any = self._prune() if prune and create_graph else None
        with self._pruning or nullcontext():
            self.result = discriminator(self.x, *args, **kwargs)

    def _leaf(self, t: Tensor) -> Tensor:
        """Return a leaf on the memory of `t`."""
        return (t.clone() if t.is_inference() else t.detach()).requires_grad_()

    def _prune(self) -> Any:
        """Return what skips zero second derivatives, or None."""
        return Prune() if _functions_are_torchs() else None

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
            pruned = self._pruning.inputs() if self._pruning else ()
            self._parameters[output] = check(outputs, grads, inputs, pruned, self.created, self._name_of)
        return grads

    def _name_of(self, parameter: Tensor) -> str | None:
        """Return the name of a parameter in its module, where it can be found."""
        modules = [m for m in (self.discriminator, *modules_of(self.discriminator)) if isinstance(m, nn.Module)]
        return next((name for m in modules for name, p in m.named_parameters() if p is parameter), None)
