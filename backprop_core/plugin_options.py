"""The options that plugins declare, as settings like any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from .errors import PluginError
from .plugins import Plugins
from .records import PluginOption
from .settings import DECLARED, Setting

RESERVED = frozenset(
    "--config --detach --dry-run --force --help --module --name --no-local-plugins --no-plugin --plain --plugin "
    "--resume-from --run-id --same-code --set --trace --verbose --version".split()
)
"""The flags of `run` and `resume` that are no settings."""

_EXPECTS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_FINITE = Annotated[float, Meta(ge=-1e308, le=1e308)]


class OptionSetting(Setting, frozen=True):
    """An option as a setting; `plugin` is who declares it, `path` its file."""

    plugin: str
    kind: type
    path: str | None = None

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        return _EXPECTS[self.kind]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that set it: `--x`, and `--no-x` where it is true or false."""
        assert self.flag
        return (self.flag, f"--no-{self.flag[2:]}") if self.kind is bool else (self.flag,)


def declared(plugins: Plugins) -> dict[str, OptionSetting]:
    """Return what the plugins declare, by dotted key, in the order of their names."""
    found = [_as_setting(name, option, plugins) for name, option in plugins.options()]
    return {each.key: each for each in sorted(found, key=lambda each: each.key)}


def _as_setting(plugin: str, option: PluginOption, plugins: Plugins) -> OptionSetting:
    kind: Any = _FINITE if option.type is float else option.type
    key = f"plugin.{section_of(plugin)}.{option.name}"
    return OptionSetting(
        key=key,
        snake=key.replace("-", "_"),
        type=kind | None if option.default is None else kind,
        default=option.default,
        help=option.help,
        flag=f"--{option.name}",
        plugin=plugin,
        kind=option.type,
        path=plugins.path(plugin),
    )


def section_of(plugin: str) -> str:
    """Return the name under which a plugin's options are set: its own, without folders and packages.

    So a `backprop_plugins.py` has `plugin.backprop_plugins`, and the module `my.house_rules` has
    `plugin.house_rules`.
    """
    return Path(plugin).stem if os.sep in plugin else plugin.rpartition(".")[2]


def refuse_clashes(plugins: Plugins) -> None:
    """See to it that every flag has one meaning.

    :raises PluginError: naming both who declare the same flag.
    """
    owners: dict[str, Setting | None] = dict.fromkeys(RESERVED)
    owners |= {setting.flag: None for setting in DECLARED.values() if setting.flag}
    for name, option in plugins.options():
        setting = _as_setting(name, option, plugins)
        for flag in setting.flags:
            if flag in owners:
                raise _clash(flag, setting, owners[flag])
            owners[flag] = setting


def _clash(flag: str, setting: OptionSetting, other: Setting | None) -> PluginError:
    hint = f"leave it out with --no-plugin {setting.plugin}, or have its option renamed"
    own = _called(setting)
    if not isinstance(other, OptionSetting):
        return PluginError(f"plugin {own} declares {flag}, which is an option of Backprop's own", hint)
    if other.plugin == setting.plugin:
        return PluginError(f"plugin {own} declares {flag} twice", hint)
    return PluginError(
        f"two plugins declare {flag}: {_called(other)} and {own}", hint.replace("it", "one", 1)
    )


def _called(setting: OptionSetting) -> str:
    return setting.plugin if setting.path in (None, setting.plugin) else f"{setting.plugin} ({setting.path})"
