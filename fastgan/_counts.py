"""How often something was called, for each discriminator by itself."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ._callables import identity, modules_in, within


class CallCounts:
    """Counts of calls, one for each discriminator, of which one is at hand.

    Attributes:
        current: the count of the discriminator at hand.
    """

    def __init__(self) -> None:
        self.current = 0
        self._owners: list[Any] = []  # for each discriminator a tuple of weak references
        self._counts = [0]
        self._at = 0

    def follow(self, discriminator: Any) -> None:
        """Turn to the count of a discriminator. A graph of torch.compile stays with the one at hand."""
        if torch.compiler.is_compiling():
            return
        if not callable(discriminator):
            raise TypeError(f"discriminator: expected a module or function, got {type(discriminator).__name__}")
        owner = _owner(discriminator)
        self._counts[self._at] = self.current
        self._at = self._find(owner)
        self.current = self._counts[self._at]

    def _find(self, owner: tuple[Any, ...]) -> int:
        """Return the number of a discriminator, a new one where it was not seen."""
        for k, known in enumerate(self._owners):
            if len(known) == len(owner) and all(a is b for a, b in zip(known, owner, strict=True)):
                return k
        self._owners.append(owner)
        if len(self._owners) > len(self._counts):
            self._counts.append(0)
        return len(self._owners) - 1

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: counts, which discriminators claim in the order in which they come."""
        return {**vars(self), "_owners": []}

    def state(self) -> dict[str, Any]:
        """Return the counts in the order in which their discriminators came."""
        counts = list(self._counts)
        counts[self._at] = self.current
        return {"calls": counts[0]} if len(counts) == 1 else {"calls": counts[0], "others": counts[1:]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take counts, for discriminators that come in the same order as before."""
        self._counts = [state["calls"], *state.get("others", [])]
        del self._owners[len(self._counts) :]
        self._at = min(self._at, len(self._counts) - 1)
        self.current = self._counts[self._at]


def _owner(discriminator: Any) -> tuple[Any, ...]:
    """Return weak references to what makes a discriminator itself, whatever wraps it.

    For a function they are the modules that it refers to, since a lambda in a loop is a new one each time. Where
    there are none, they are its code and the objects that it refers to.
    """
    found: list[Any] = [within(m) for m in modules_in(discriminator)]
    return tuple([weakref.ref(value) for value in found or identity(discriminator)])
