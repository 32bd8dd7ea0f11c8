"""Every private name of torch that eager calls rely on, each under a plain name.

What torch.compile traces (traced.py, compile.py, dynamo.py in fastgan/discriminator) reads more of them, by nature.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.autograd import Function, Variable, forward_ad
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.autograd.graph import GradientEdge
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _push_mode
from torch.utils import _pytree, checkpoint
from torch.utils._python_dispatch import _disable_current_modes

tree_leaves, tree_map_only = _pytree.tree_leaves, _pytree.tree_map_only
tree_flatten, tree_unflatten = _pytree.tree_flatten, _pytree.tree_unflatten

# ---------------------------------------------------------------------------- transforms and modes

# Called at every loss, and therefore without a Python function around them:
# - whether a torch.func transform is active;
# - whether a tensor is batched by is_grads_batched;
# - whether torch.jit.trace records operations;
# - whether torch.export does, from torch 2.7 on;
# - the level of forward-mode AD, -1 where it is not active;
# - the mode by which make_fx traces operations, or None;
# - the modes that replace functions.
is_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active
is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
is_tracing: Callable[[], bool] = torch._C._is_tracing
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", bool)
forward_level: Callable[[], int] = partial(getattr, forward_ad, "_current_level")
proxy_mode: Callable[[], Any] = partial(torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.PROXY)
function_modes: Callable[[], list[TorchFunctionMode]] = _get_current_function_mode_stack
function_mode_depth: Callable[[], int] = torch._C._len_torch_function_stack
push_function_mode: Callable[[TorchFunctionMode], None] = _push_mode
pop_function_mode: Callable[[], TorchFunctionMode] = torch._C._pop_torch_function_stack


def compiler_is_loaded() -> bool:
    """Return whether torch.compile may have compiled anything: its import takes seconds, and is never made here."""
    return "torch._dynamo" in sys.modules


def has_static_value(number: Any) -> bool:
    """Return whether a number is a constant of the graph that is traced; Dynamo knows the function inside."""
    from torch.fx.experimental import symbolic_shapes

    known = getattr(symbolic_shapes, "has_static_value", None)  # from torch 2.8 on
    return True if known is None else known(number)


def caches_parametrized(modules: Iterable[nn.Module]) -> bool:
    """Return whether `torch.nn.utils.parametrize.cached` keeps the weights of one of these modules."""
    return bool(getattr(parametrize, "_cache_enabled", 0)) and any(map(parametrize.is_parametrized, modules))


_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # in newer releases of torch


def in_checkpoint() -> bool:
    """Return whether a non-reentrant torch.utils.checkpoint is at work, by the hooks that it sets.

    With a torch that does not tell: by the functions that are running.
    """
    if _top_hooks is None:
        return runs_in_checkpoint()
    hooks = _top_hooks(True)
    return hooks is not None and "checkpoint" in getattr(hooks[0], "__qualname__", "")


def runs_in_checkpoint() -> bool:
    """Return whether any torch.utils.checkpoint is at work, by the functions that are running."""
    return any(frame.f_code.co_filename == checkpoint.__file__ for frame, _ in traceback.walk_stack(None))


class _Within:
    """What a checkpoint runs again, by a function that makes settings for it."""

    def __init__(self, recompute: Callable[..., Any], around: Callable[[Callable[[], Any]], Any]) -> None:
        self.recompute, self.around = recompute, around

    def __call__(self, *args: Any) -> Any:
        around = self.around
        if compiler_is_loaded():  # in whose function this may run; newer checkpoints disable it themselves
            around = sys.modules["torch._dynamo"].disable(around)
        return around(partial(self.recompute, *args))


def _running_checkpoints() -> Iterator[Any]:
    """Yield the frames, as PyTorch calls them, of the non-reentrant checkpoints that run in this thread."""
    for frame, _ in traceback.walk_stack(None):
        generator = frame.f_locals.get("gen") if frame.f_code.co_filename == checkpoint.__file__ else None
        if generator is not None and generator.gi_frame is not None:
            yield generator.gi_frame.f_locals["new_frame"]


def recompute_by(around: Callable[[Callable[[], Any]], Any]) -> bool:
    """Have the checkpoints that run in this thread recompute inside of a function.

    Return whether there are any; with a torch that does not tell whether there are others, True.
    """
    found = list(_running_checkpoints())
    for frame in found:
        if not isinstance(frame.recompute_fn, _Within):
            frame.recompute_fn = _Within(frame.recompute_fn, around)
    return bool(found) or _top_hooks is None


def stance_as_it_is() -> Callable[[], Any]:
    """Return what sets torch.compile's stance as it is now, in a process that has loaded it."""
    frames = sys.modules["torch._dynamo"].eval_frame
    return partial(frames._set_stance, frames._stance)


def set_compiler_stance(stance: str) -> None:
    """Set the stance for the process; torch.compiler.set_stance might be cut short between setting and returning.

    Raises:
        RuntimeError: the parts of a graph are running.
    """
    frames = sys.modules["torch._dynamo"].eval_frame
    frames._set_stance(frames.DynamoStance(stance))


def hide_from_compiler(*functions: Any) -> None:
    """Have Dynamo, which is loaded, leave the backwards of Functions alone.

    For its guards it would read their saved tensors again, and a checkpoint hands them out once.
    """
    for function in functions:
        if not hasattr(function.backward, "_torchdynamo_disable"):
            function.backward = staticmethod(sys.modules["torch._dynamo"].disable(function.backward))


def close_torchs_generators(error: BaseException) -> None:
    """Let go of the frames of PyTorch's that an interrupt has cut short while a mode was put aside."""
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename in (overrides.__file__, contextlib.__file__):
            with suppress(RuntimeError):  # one that still runs
                at.tb_frame.clear()
        at = at.tb_next


@contextmanager
def no_modes() -> Iterator[None]:
    """Hide tensors from the caller's transforms and modes."""
    with torch._C._DisableFuncTorch(), torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


# ---------------------------------------------------------------------------- tensors and autograd


def version(t: Tensor) -> int:
    """Return how often a tensor was modified in place; 0 for an inference tensor, which does not count."""
    return 0 if t.is_inference() else t._version


def is_view(t: Tensor) -> bool:
    """Return whether autograd knows a tensor as a view of another."""
    return t._is_view()


def bare_apply(function: type[Function]) -> Callable[..., Any]:
    """Return Function.apply without its Python part, which only prepares for torch.func transforms.

    It saves a third of the cost of an empty Function. Operations never run under a transform.
    """
    return super(Function, function).apply  # type: ignore[misc]


_ONCE = once_differentiable(lambda ctx: None).__code__


# The type of the nodes of Functions written in Python.
PythonNode = BackwardCFunction


def is_python_node(node: Any) -> bool:
    """Return whether a node of the graph belongs to a Function written in Python."""
    return isinstance(node, BackwardCFunction)


def python_function(node: Any) -> type[Function]:
    """Return the Function of such a node."""
    return type(node)._forward_cls


def is_once_differentiable(function: Any) -> bool:
    """Return whether a Function's backward is marked so, also under further decorators."""
    for name in ("backward", "vjp"):
        step = getattr(function, name, None)
        while step is not None:
            if getattr(step, "__code__", None) is _ONCE:
                return True
            step = getattr(step, "__wrapped__", None)
    return False


def lacks_formula(function: type[Function]) -> bool:
    """Return whether a Function stands for a registered operator (torch.library) that has no derivative."""
    backward: Any = getattr(function, "backward", None)
    names = getattr(getattr(backward, "__code__", None), "co_freevars", ())
    held = dict(zip(names, getattr(backward, "__closure__", None) or (), strict=False))
    return "info" in held and getattr(held["info"].cell_contents, "_backward_fn", True) is None


def current_backward() -> int:
    """Return the number of the backward pass that runs in this thread, or -1."""
    return torch._C._current_graph_task_id()


def owner(t: Tensor) -> Any:
    """Return what keeps the node of a tensor alive, which a GradientEdge does only in newer releases of torch."""
    return None if "ownership_token" in GradientEdge._fields or t.grad_fn is None else t.view_as(t).grad_fn


def keeps_graph() -> bool:
    """Return whether the backward pass that runs in this thread keeps its graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def is_older(node: Any, other: Any) -> bool:
    """Return whether a node of the graph was made before another one, in this thread."""
    return node._sequence_nr() < other._sequence_nr()


def after_backward(callback: Callable[[], None]) -> None:
    """Call back when the running backward pass is over."""
    Variable._execution_engine.queue_callback(callback)


# ---------------------------------------------------------------------------- parameters sharded by FSDP2

_FSDP = "torch.distributed.fsdp._fully_shard"


def fsdp_is_used() -> bool:
    """Return whether fully_shard was called in this process; its import takes long, and is never made here."""
    found = getattr(sys.modules.get(f"{_FSDP}._fully_shard"), "FSDPModule", None)
    return found is not None and bool(found.__subclasses__())  # it gives each sharded class one of its own


def knows_sharding() -> bool:
    """Return whether this torch has the parts of FSDP2 that the functions below rely on."""
    state = getattr(sys.modules.get(f"{_FSDP}._fsdp_state"), "FSDPState", None)
    group = getattr(sys.modules.get(f"{_FSDP}._fsdp_param_group"), "FSDPParamGroup", None)
    steps = ("_pre_backward", "_root_post_backward_final_callback")
    return all(hasattr(state, name) for name in steps) and hasattr(group, "post_backward")


def sharding(modules: Iterable[nn.Module]) -> list[Any]:
    """Return FSDP's states of those modules that it has sharded and that have been called, each once."""
    state_of = sys.modules[f"{_FSDP}._fsdp_state"]._get_module_fsdp_state
    found = dict.fromkeys([state_of(m) for m in modules])
    return [state for state in found if state is not None and state._is_root is not None]


def parameter_groups(state: Any) -> list[Any]:
    """Return the groups of a module's parameters that FSDP gathers together: several in newer releases only."""
    several = getattr(state, "_fsdp_param_groups", None)
    return [g for g in ([state._fsdp_param_group] if several is None else several) if g is not None]


def gathered_parameters(group: Any) -> list[Tensor]:
    """Return the gathered parameters of a group, which are leaves of the graph; their memory may be given back."""
    return [p._unsharded_param for p in group.fsdp_params if hasattr(p, "_unsharded_param")]


def groups_above(nodes: Iterable[Any]) -> list[Any]:
    """Return the groups that FSDP gives back where a gradient comes to one of these nodes of the graph.

    They come in the order of the forward, the same on all ranks.
    """
    own = [n for n in nodes if is_python_node(n) and python_function(n).__module__.startswith(_FSDP)]
    found = [getattr(n, "param_group", None) for n in sorted(own, key=lambda n: n._sequence_nr())]
    return [g for g in dict.fromkeys(found) if g is not None]


def gather_for_backward(state: Any, grad: Tensor) -> None:
    """Gather a module's parameters, and have FSDP's own callback queued, as a gradient of its outputs does."""
    state._pre_backward(grad)


def finish_sharded_backward(states: Iterable[Any]) -> None:
    """Reduce the gradients that are left over, and give parameters back, as FSDP's own callback does.

    To be called after that one, which passes over a module whose gradients it has reduced before. It works on all
    modules under one root, and is called once for these.
    """
    for state in {id(s._state_ctx): s for s in states}.values():
        state._root_post_backward_final_callback()


def has_backward_hooks(modules: Iterable[nn.Module]) -> bool:
    """Return whether modules, or all modules, have backward hooks."""
    everywhere = nn.modules.module
    return bool(everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks) or any(
        m._backward_hooks or m._backward_pre_hooks for m in modules
    )


# ---------------------------------------------------------------------------- operations

# In-place and plain activations without the Python around them.
leaky_relu, leaky_relu_ = torch._C._nn.leaky_relu, torch._C._nn.leaky_relu_
hardtanh, softshrink, avg_pool2d = torch._C._nn.hardtanh, torch._C._nn.softshrink, torch._C._nn.avg_pool2d


# The kernels of scaled_dot_product_attention: whether each may be used, and what sets that.
ATTENTION_KERNELS = {
    name: (getattr(torch._C, f"_get_{name}_sdp_enabled"), getattr(torch._C, f"_set_sdp_use_{name}"))
    for name in ("math", "flash", "mem_efficient", "cudnn", "overrideable")
    if hasattr(torch._C, f"_get_{name}_sdp_enabled") and hasattr(torch._C, f"_set_sdp_use_{name}")
}


def softmax_backward(g: Tensor, p: Tensor) -> Tensor:
    """Return the gradient by the input of p = softmax(x, -1), of that by p: p * (g - sum(p * g))."""
    return torch.ops.aten._softmax_backward_data(g, p, -1, p.dtype)


def multi_head_attention_by(attention: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return PyTorch's multi_head_attention_forward with another function in scaled_dot_product_attention's place.

    It does not ask modes and subclasses about itself, which its caller has done.
    """
    own = F.multi_head_attention_forward
    names = {
        **own.__globals__,
        "scaled_dot_product_attention": attention,
        "has_torch_function": lambda tensors: False,
    }
    found = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    found.__kwdefaults__ = own.__kwdefaults__
    return found


def clamp_(tensors: list[Tensor], low: float, high: float) -> None:
    """Clamp tensors in place, by two multi-tensor operations."""
    torch._foreach_clamp_min_(tensors, low)
    torch._foreach_clamp_max_(tensors, high)


def current_stream(device: int) -> int:
    """Return the handle of the current CUDA stream of a device."""
    return torch._C._cuda_getCurrentRawStream(device)
