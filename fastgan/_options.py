"""Options of a module as its attributes: `penalty.weight = 2.0` is checked, and holds from the next call on."""

from __future__ import annotations

from typing import Any, ClassVar


class WithOptions:
    """Reads and sets the entries of `options` as attributes.

    Attributes:
        options: those that were given.
        DEFAULTS: all that there are, with their defaults.
    """

    DEFAULTS: ClassVar[dict[str, Any]]
    options: dict[str, Any]

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise where options are unfit."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Return an option, or what the next class has under this name."""
        if name in type(self).DEFAULTS and "options" in self.__dict__:
            return self.__dict__["options"].get(name, type(self).DEFAULTS[name])
        parent = getattr(super(), "__getattr__", None)
        if parent is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return parent(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option, once it is checked beside the others, or any other attribute."""
        if name in type(self).DEFAULTS and "options" in self.__dict__:
            changed = {**self.options, name: value}
            self.check_options(changed)
            self.options = changed
        else:
            super().__setattr__(name, value)
