"""What a discriminator returned: which of it counts, and whether it fits the samples of the input."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .._checks import FLOATS, warn_once
from .._torch_internals import tree_leaves

Output = Hashable | Callable[[Any], Any]  # a key, an index, an attribute's name, or a function of the result


def check_output(name: str, output: Any) -> None:
    """Check that it can be a key, an index or a function."""
    if isinstance(output, (bool, float, Tensor)) or not isinstance(output, Hashable):
        raise TypeError(f"{name}: expected a key, an index or a function, got {type(output).__name__}")


def chosen(result: Any, output: Output | None, name: str = "output") -> Any:
    """Return the part of a discriminator's result that counts: by key, index or attribute, or by a function."""
    if output is None:
        return result
    if callable(output):
        return output(result)
    if isinstance(result, Mapping):
        if output in result:
            return result[output]
        has = f"the keys {', '.join(map(repr, result))}"
    elif isinstance(result, (list, tuple)) and isinstance(output, numbers.Integral):
        if -len(result) <= output < len(result):
            return result[int(output)]
        has = f"{len(result)} outputs"
    elif isinstance(output, str) and not isinstance(result, Tensor) and hasattr(result, output):
        return getattr(result, output)
    else:
        has = f"a {type(result).__name__}"
    raise ValueError(f"{name}: the discriminator's result has {has}, got {output!r}")


def check_tree(name: str, result: Any) -> None:
    """Raise where a result has parts in which tensors cannot be found: what is no list, tuple or dict, say.

    Raises:
        TypeError: it has.
    """
    for leaf in tree_leaves(result):
        if not isinstance(leaf, (Tensor, str, int, float, type(None))):
            raise TypeError(
                f"{name}: expected the discriminator to return tensors in lists, tuples or dicts, got a"
                f" {type(leaf).__name__}"
            )


def read(result: Any, output: Any, x: Tensor, numbers: Sequence[int]) -> list[Tensor]:
    """Return the outputs that count and have a graph, checked as `check_counts` does."""
    outputs = outputs_of(result if output is None else chosen(result, output))
    check_counts(outputs, x, numbers)
    found = [o for o in outputs if o.requires_grad]
    if not found:
        raise RuntimeError(
            "discriminator: its output has no graph back to its input (was it computed under no_grad, or detached?)"
        )
    return found


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors in a discriminator's result: one, or a sequence or dict of them."""
    if isinstance(result, Tensor):
        named: list[tuple[Any, Any]] = [("its output", result)]
    elif isinstance(result, Mapping):
        named = [(f"output {k!r}", v) for k, v in result.items()]
    elif isinstance(result, (list, tuple)):
        named = [(f"output {i}", v) for i, v in enumerate(result)]
    else:
        raise TypeError(
            "discriminator: expected it to return a tensor, or a sequence or dict of tensors, got"
            f" {type(result).__name__}"
        )
    for name, value in named:
        if value is not None and not (isinstance(value, Tensor) and value.dtype in FLOATS):
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"discriminator: expected floating-point tensors, got {what} as {name}; say by output= (a key, an"
                " index or a function) which output is the critic's"
            )
    outputs = [v for _, v in named if v is not None]
    if not outputs:
        raise ValueError("discriminator: expected it to return at least one tensor, got none")
    return outputs


def check_counts(outputs: Sequence[Tensor], x: Tensor, numbers: Sequence[int]) -> None:
    """Raise where a discriminator's outputs show that the samples of x do not lie where they are said to.

    Args:
        outputs: those that count.
        x: its input.
        numbers: how many samples x is said to have, and entries where those are others; () where it has no samples.
    """
    for o in outputs if numbers else ():
        if all([o.numel() % n for n in numbers]):
            raise ValueError(
                f"discriminator: expected outputs for each of {numbers[0]} samples, got shape {tuple(o.shape)} for"
                f" an input of {tuple(x.shape)}. Where samples do not lie along dimension 0, say where: batch_dim=1"
                " for a recurrent network, pac= for several entries a sample, groups= for graphs. Where only one of"
                " several outputs is the critic's, say which: output=. A discriminator that returns a mean has to"
                " return its logits, and so has one that returns a sum, which looks the same"
            )
        if numbers[0] == x.shape[0] and x.dim() > 2 and o.dim() and o.shape[0] == x.shape[1] != numbers[0]:
            warn_once(
                "batch_dim",
                f"discriminator: its output of shape {tuple(o.shape)} looks as if samples lie along dimension 1 of"
                f" its input, of shape {tuple(x.shape)}, and not along dimension 0: then say batch_dim=1. Else"
                " reshape the output to samples first",
            )
    warn_of_mixed(outputs)


def _kind(o: Tensor) -> tuple[int, int]:
    """Return an output's dimensions and channels. Flattened maps of several scales, (N, L), are of one kind."""
    if o.dim() > 2:
        return o.dim(), o.shape[1]
    return o.dim(), int(o.dim() == 2 and o.shape[1] == 1)


def warn_of_mixed(outputs: Sequence[Tensor]) -> None:
    """Warn where outputs of different kinds count: a critic's and class logits or features, say."""
    if len(outputs) > 1 and len(set(map(_kind, outputs))) > 1:
        warn_once(
            "output",
            f"discriminator: outputs of shapes {', '.join(str(tuple(o.shape)) for o in outputs)} all count as the"
            " critic's; say by output= (a key, an index or a function) which of them do",
        )
