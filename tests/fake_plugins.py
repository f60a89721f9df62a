"""Plugins that a test makes up on the spot."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from backprop_core import hookimpl
from backprop_core.plugins import Plugins, PluginState


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    """Make a plugin of these hooks' implementations."""
    module = ModuleType("made_up")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def bring(plugins: Plugins, name: str, **hooks: Callable[..., Any]) -> None:
    """Add a plugin of these hooks' implementations."""
    plugins.add(plugin(**hooks), PluginState(name=name, state="active", path=f"/{name}.py"))


def plugins_with(**hooks: Callable[..., Any]) -> Plugins:
    """Load one plugin, named "one", of these hooks' implementations."""
    plugins = Plugins()
    bring(plugins, "one", **hooks)
    return plugins
