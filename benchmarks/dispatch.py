"""What it costs to ask plugins, against calling the functions and against pluggy's own way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pluggy

from backprop_core import hookimpl, hookspecs
from backprop_core.plugins import Plugins, PluginState

from .bench import Bench
from .measuring import alternate
from .results import Result, row

NAME = "dispatch"
HOOK = "backprop_environment"


def measure(bench: Bench) -> Iterator[Result]:
    calls = 200 if bench.quick else 20_000
    for count in (0, 1, 3, 8):
        cases = {
            "backprop": lambda count=count: _asked_us(count, calls),
            "pluggy": lambda count=count: _called_us(count, calls),
            "functions": lambda count=count: _plain_us(count, calls),
        }
        found = alternate(cases, bench.repetitions(7))
        yield row(
            NAME, f"asking {count} plugins", found["backprop"], "us", reference=("pluggy", found["pluggy"])
        )
        if count:
            yield row(NAME, f"calling {count} functions", found["functions"], "us")


def _implementations(count: int) -> list[ModuleType]:
    def backprop_environment(request: object, gpu: object) -> None:  # noqa: ARG001 - as most plugins' do
        return None

    found = [ModuleType(f"plugin_{number}") for number in range(count)]
    for module in found:
        setattr(module, HOOK, hookimpl(backprop_environment))
    return found


def _asked_us(count: int, calls: int) -> float:
    plugins = Plugins()
    for number, each in enumerate(_implementations(count)):
        plugins.add(each, PluginState(name=str(number), state="active"))
    return _each_us(lambda: plugins.ask(HOOK, request=None, gpu=None), calls)


def _called_us(count: int, calls: int) -> float:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for number, each in enumerate(_implementations(count)):
        manager.register(each, name=str(number))
    hook = getattr(manager.hook, HOOK)
    return _each_us(lambda: hook(request=None, gpu=None), calls)


def _plain_us(count: int, calls: int) -> float:
    functions = [getattr(each, HOOK) for each in _implementations(count)]
    return _each_us(lambda: [function(None, None) for function in functions], calls)


def _each_us(call: Callable[[], object], calls: int) -> float:
    began_s = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began_s) / calls * 1e6
