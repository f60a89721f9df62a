"""`backprop config`: show settings with their origins, change one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backprop_core.errors import BackpropError, PluginError
from backprop_core.locks import open_private, private_folder
from backprop_core.opening import settle
from backprop_core.plugin_options import OptionSetting, declared
from backprop_core.settings import (
    DECLARED,
    Resolved,
    canonical,
    check,
    home_folder,
    option_named,
    resolve,
    to_dict,
)
from backprop_core.settings_files import TOML_NAME, Origin, read_file

from .app import complain, say
from .declared import Command, Given, argument, option
from .list_ import print_json
from .options import Json, Set, base_ask
from .text import aligned
from .typed import in_typers_words


def register(app: typer.Typer, about: str) -> None:
    """Add the commands."""
    config = typer.Typer(help=about, invoke_without_command=True, rich_markup_mode="rich")
    config.callback(invoke_without_command=True)(config_alone)
    config.command("show", help="Show every setting with where it comes from.")(
        in_typers_words(Command(show))
    )
    config.command("set", help="Write a setting into the project's settings file.")(
        in_typers_words(Command(set_value))
    )
    app.add_typer(config, name="config")


def config_alone(context: typer.Context) -> int | None:
    """Show or change settings."""
    return show(context.obj) if context.invoked_subcommand is None else None


def _settle(given: Given, assignments: tuple[str, ...] = ()) -> tuple[Resolved, Mapping[str, OptionSetting]]:
    """Resolve the settings, and return the options that plugins declare.

    A plugin that does not load is told, and its options are as those of one that is absent.
    """
    ask = base_ask(given, assignments=assignments)
    try:
        settled = settle(ask, os.environ)
    except PluginError as error:
        complain(error)
        resolved = resolve(environ=os.environ, cwd=Path.cwd(), config=ask.config, assignments=assignments)
        return resolved, {}
    return settled.resolved, declared(settled.plugins)


def show(given: Given, json_: Json = False, set_: Set = None) -> int:
    resolved, _ = _settle(given, tuple(set_ or ()))
    if json_:
        print_json(
            {
                key: {"value": value, "origin": resolved.origins.get(key, "default")}
                for key, value in flat(resolved).items()
            }
        )
        return 0
    rows = [("SETTING", "VALUE", "FROM")]
    rows += [
        (key, "-" if value is None else _text(value), resolved.origins.get(key, "default"))
        for key, value in flat(resolved).items()
    ]
    for line in aligned(rows):
        print(line)
    return 0


def flat(resolved: Resolved) -> dict[str, Any]:
    """Return the settings under their dotted keys, plugins' options included."""
    values = to_dict(resolved.settings)
    found = {key: _at(values, key) for key in DECLARED}
    for name, options in values["plugin"].items():
        found.update({f"plugin.{name}.{option}": value for option, value in options.items()})
    return found


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def set_value(
    given: Given,
    key: Annotated[str, argument("For example maxRunMinutes or gpu.maxTempC.", metavar="KEY")],
    value: Annotated[str, argument(metavar="VALUE")],
    user: Annotated[bool, option("--user", help="Write into the user-wide file instead.")] = False,
) -> int:
    origin = Origin(label="`config set`")
    resolved, options = _settle(given)
    if key.startswith("plugin.") and key.count(".") > 1:
        setting = option_named(key, options, origin)
    else:
        setting = DECLARED[canonical(key, origin)]
    key, checked = (setting.key, check(setting, value, origin)) if setting else (key, value)
    path = _file_to_change(resolved, user=user)
    _, values = read_file(path) if path.is_file() else (origin, {})
    write(path, _with(values, key, checked, snake=path.suffix == ".toml"), is_private=user)
    say(f"set {key} to {_text(checked)} in {path}")
    return 0


def _file_to_change(resolved: Resolved, *, user: bool) -> Path:
    if user:
        home = home_folder(os.environ)
        home.parent.mkdir(parents=True, exist_ok=True)
        return private_folder(home) / "config.toml"
    found = resolved.project_file
    if found is None or found.name == "pyproject.toml":
        return Path.cwd() / TOML_NAME if found is None else found
    return found


def _with(values: dict[str, Any], key: str, value: Any, *, snake: bool) -> dict[str, Any]:
    """Return the file's values with one changed, whatever spelling the file uses for it."""
    value = list(value) if isinstance(value, tuple) else value
    names = [key, DECLARED[key].snake if key in DECLARED else key.replace("-", "_")]
    changed = dict(values)
    for name in names:
        _remove(changed, name)
    place = changed
    *folders, last = names[-1 if snake else 0].split(".") if key in DECLARED else key.split(".", 2)
    for folder in folders:
        place[folder] = dict(place.get(folder, {}))
        place = place[folder]
    place[last] = value
    return changed


def _remove(values: dict[str, Any], name: str) -> None:
    *folders, last = name.split(".")
    for folder in folders:
        values = values.get(folder, {})
    values.pop(last, None)


def write(path: Path, values: dict[str, Any], *, is_private: bool = False) -> None:
    """Write a settings file anew. The file it replaces is kept as `.bak` if it had comments, which are lost.

    :param is_private: It is for this user alone, as all that lies in Backprop's own folder.

    :raises BackpropError: when it cannot be written; the old file is then as it was.
    """
    import tomli_w

    old = path.read_text("utf-8") if path.is_file() else ""
    if path.suffix == ".json":
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    elif path.name == "pyproject.toml":
        import tomllib

        whole = tomllib.loads(old)
        whole["tool"]["backprop"] = values
        text = tomli_w.dumps(whole)
    else:
        text = tomli_w.dumps(values)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if "#" in old and path.suffix == ".toml":
            _put(path.with_name(path.name + ".bak"), old, is_private=is_private)
            say(f"comments are not carried over; the file as it was is {path.name}.bak")
        _put(fresh, text, is_private=is_private)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise BackpropError(f"{path} cannot be written: {error.strerror}") from error


def _put(path: Path, text: str, *, is_private: bool) -> None:
    how = open_private if is_private else None
    with open(path, "w", encoding="utf-8", opener=how) as file:
        file.write(text)
