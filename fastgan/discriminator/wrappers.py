"""Wrappers of a discriminator that a penalty cannot go through, or that may not be frozen: refused at the call."""

from __future__ import annotations

from torch import nn

from .._torch_internals import knows_sharding

_INSTEAD = "use kind='r1-approx' or 'r2-approx', which need one derivative"
_STATIC = (
    "discriminator: DistributedDataParallel(static_graph=True) does not average the first step's gradients over"
    " ranks where a penalty differentiates twice, so that ranks differ from then on; build it without static_graph,"
    f" or give its .module to the penalty; else {_INSTEAD}"
)
_SHARDED = (
    "discriminator: fully_shard (FSDP2) of this torch is not the one that penalties know: it gives parameters back"
    " after the penalty's first backward, so that the second one fails, or leaves gradients out silently; use"
    f" DistributedDataParallel, or where it must be sharded {_INSTEAD}"
)
_PER_SAMPLE = (
    "discriminator: Opacus' GradSampleModule keeps activations for one backward, and a penalty takes two; take the"
    " gradients of its ._module by torch.func.grad under torch.func.vmap, and give them to norm_penalty; else"
    f" {_INSTEAD}"
)
_FSDP1 = (
    "discriminator: FullyShardedDataParallel (FSDP1) gives parameters back after the penalty's first backward, and"
    " does not gather them for the second one, which fails; shard it by torch.distributed.fsdp.fully_shard (FSDP2)"
    f" instead, or {_INSTEAD}"
)
_STATIC_FROZEN = (
    "discriminator: DistributedDataParallel(static_graph=True) expects gradients of the same parameters in all"
    " steps, so that freezing them in a generator's step leaves gradients out; freeze and call its .module there,"
    " or build it without static_graph"
)

_WRAPPERS = ("DistributedDataParallel", "FSDPModule", "FullyShardedDataParallel", "GradSampleModule")


def named(kind: type) -> list[str]:
    """Return which wrappers a type of modules is."""
    return [base.__name__ for base in kind.__mro__ if base.__name__ in _WRAPPERS]


def refuse(modules: list[nn.Module]) -> None:
    """Raise where one of these modules is a wrapper that a penalty cannot go through.

    Raises:
        RuntimeError: it is one.
    """
    for module in modules:
        for name in named(type(module)):
            if name == "DistributedDataParallel" and getattr(module, "static_graph", False):
                raise RuntimeError(_STATIC)
            if name == "FSDPModule" and not knows_sharding():
                raise RuntimeError(_SHARDED)
            if name == "GradSampleModule":
                raise RuntimeError(_PER_SAMPLE)
            if name == "FullyShardedDataParallel":
                raise RuntimeError(_FSDP1)


def refuse_freezing(modules: list[nn.Module]) -> None:
    """Raise where one of these modules is a wrapper whose parameters may not be frozen for a while.

    Raises:
        RuntimeError: it is one.
    """
    for module in modules:
        if "DistributedDataParallel" in named(type(module)) and getattr(module, "static_graph", False):
            raise RuntimeError(_STATIC_FROZEN)
