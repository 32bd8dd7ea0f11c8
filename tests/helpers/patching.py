"""Trainers' formulas as modules that are loaded, for tests of fastgan.compat.patch."""

import functools
import importlib.util
import sys
import types

from fastgan import compat


def peer(trainer):
    """The trainer's formulas."""
    return importlib.import_module(f"bench.baselines.{trainer}")


def both(trainer, name):
    """The adapter's and the trainer's function of a name."""
    return getattr(getattr(compat, trainer), name), getattr(peer(trainer), name)


def own(name):
    """Return a trainer's own functions and classes by name, new ones at each call."""
    spec = importlib.util.find_spec(f"bench.baselines.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def loaded(monkeypatch):
    """Yields what makes modules that are loaded as long as the test; nothing is patched afterwards."""

    def make(name, **names):
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    yield make
    for trainer in list(compat.patched()):
        compat.unpatch(trainer)


def scaled(function):
    """A function or class of the same parameters whose result is 2% larger."""
    if isinstance(function, type):

        class Scaled(function):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs) * 1.02

        Scaled.__name__ = function.__name__
        return Scaled

    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs) * 1.02

    return call
