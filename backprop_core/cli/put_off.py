"""Modules that libraries import at once and hardly use: put off until something of theirs is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType, MethodType, ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module where it was imported, and becomes of use with it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def put_off(modules: Mapping[str, Mapping[str, Callable[..., Any]]]) -> Iterator[None]:
    """While the block imports libraries, have them get stand-ins for these modules; others get the modules themselves.

    :param modules: What a stand-in answers by itself; for the rest it loads its module.
    """
    ours = {name: _Later(name) for name in modules if name not in sys.modules}
    for name, module in ours.items():
        vars(module).update(modules[name])
    sys.modules.update(ours)
    try:
        yield
    finally:
        for name, module in ours.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _unwrap(function: Any) -> Any:
    return _inspect().unwrap(function) if hasattr(function, "__wrapped__") else function


def _is_routine(thing: object) -> bool:
    return isinstance(thing, FunctionType | MethodType) or bool(_inspect().isroutine(thing))


def _getattr_static(thing: object, name: str, *default: object) -> object:
    if type(thing) is ModuleType and name in vars(thing):
        return vars(thing)[name]
    return _inspect().getattr_static(thing, name, *default)


def _inspect() -> Any:
    return import_module("inspect")


HARDLY_USED: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    # pluggy asks these of functions in modules, which our hooks and nearly all plugins are.
    "inspect": {
        "isclass": lambda thing: isinstance(thing, type),
        "isfunction": lambda thing: isinstance(thing, FunctionType),
        "ismethod": lambda thing: isinstance(thing, MethodType),
        "ismodule": lambda thing: isinstance(thing, ModuleType),
        "isroutine": _is_routine,
        "unwrap": _unwrap,
        "getattr_static": _getattr_static,
    },
    "platform": {"system": lambda: os.uname().sysname},  # of uuid, which msgspec imports
    "ipaddress": {},  # of urllib.parse, which pathlib imports
    "msgspec.inspect": {},  # of msgspec, and `textwrap` with it
    "textwrap": {},
}
"""What start-up would spend 40 million instructions on: a sixth of what `backprop list` executes."""
