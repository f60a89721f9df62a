"""Finding and loading plugins: entry points, then named modules, then the files beside a script."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import msgspec

from .alarm import Alarm
from .errors import PluginError
from .plugins import OWN_DISTRIBUTION, Call, Plugins, PluginState, guarded, said_when_slow
from .records import PluginFailure, Record

LOCAL_NAME = "backprop_plugins.py"
GROUP = "backprop"
FILE_MODULE = "backprop_plugins_"
IMPORTING = Alarm(idle_s=30.0, busy_s=120.0)
"""For an import, which may have to wait for a slow disk; every command waits for it."""


class EntryPoint(Record, frozen=True):
    """A line of a distribution's entry points in our group.

    `hooks` are those that it says its plugin implements, in brackets behind the module; without any, the plugin is
    loaded by every command.
    """

    name: str
    target: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()


class Wanted(Record, frozen=True):
    """Which plugins to load.

    `modules` come from the `plugins` setting and `--plugin`; `folders` may hold a `backprop_plugins.py`;
    `search` are folders to import modules from besides the interpreter's own.
    """

    modules: tuple[str, ...] = ()
    blocked: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    search: tuple[Path, ...] = ()
    with_others: bool = True


def load(
    wanted: Wanted,
    *,
    tell: Callable[[str], None] | None = None,
    trace: Callable[[Call], None] | None = None,
) -> Plugins:
    """Load entry points, then named modules, then local files.

    :param tell: Is told of a plugin that keeps the command waiting.
    :param trace: Is told of every call of a hook.
    :raises PluginError: for a named module or a local file that does not load.
    """
    plugins = Plugins(tell=tell, trace=trace)
    for point in find_entry_points():
        if point.distribution == OWN_DISTRIBUTION or wanted.with_others:
            _load_entry_point(plugins, point, wanted.blocked)
    for module in wanted.modules:
        _load_module(plugins, module, wanted)
    for folder in dict.fromkeys(wanted.folders):
        _load_local(plugins, folder / LOCAL_NAME, wanted.blocked)
    return plugins


def find_entry_points(path: Sequence[str] | None = None) -> list[EntryPoint]:
    """Scan the import path for entry points in our group, our own distribution's first.

    Reading the few files that name the group is 50 ms faster than importing importlib.metadata.
    """
    found: dict[str, list[EntryPoint]] = {}
    for folder in dict.fromkeys(sys.path if path is None else path):
        for name, metadata in _metadata_folders(folder or "."):
            text = _read(f"{metadata}/entry_points.txt")
            if text and f"[{GROUP}]" in text:
                written, _, version = name.partition("-")
                distribution = written.replace("_", "-").lower()
                found.setdefault(distribution, list(_parse_group(text, distribution, version)))
    points = [point for group in found.values() for point in group]
    return sorted(points, key=lambda point: point.distribution != OWN_DISTRIBUTION)


def _metadata_folders(folder: str) -> Iterator[tuple[str, str]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        for suffix in (".dist-info", ".egg-info"):
            if name.endswith(suffix):
                yield name.removesuffix(suffix), f"{folder}/{name}"


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def _parse_group(text: str, distribution: str, version: str) -> Iterator[EntryPoint]:
    section = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == GROUP and "=" in line and not line.startswith(("#", ";")):
            name, named = line.split("=", 1)
            target, hooks = read_target(named)
            yield EntryPoint(
                name=name.strip(), target=target, distribution=distribution, version=version, hooks=hooks
            )


def read_target(named: str) -> tuple[str, tuple[str, ...]]:
    """Take `module:attribute [hook, hook]` apart; hooks stand where the format of entry points has extras."""
    target, _, hooks = named.partition("[")
    return target.strip(), tuple(hooks.strip(" ]").replace(",", " ").split())


def _load_entry_point(plugins: Plugins, point: EntryPoint, blocked: frozenset[str]) -> None:
    state = PluginState(
        name=point.name,
        state="active",
        path=point.target,
        distribution=point.distribution,
        version=point.version,
        hooks=point.hooks,
    )
    load = partial(_take, plugins, state, point.target)
    if point.name in blocked:
        plugins.leave_out(state)
        return
    if point.hooks:
        _, failure = guarded(state.name, None, plugins.expect, state, load, path=point.target, alarm=None)
    else:
        failure = load()
    if failure:
        plugins.fail(state, failure)


def _load_module(plugins: Plugins, name: str, wanted: Wanted) -> None:
    state = PluginState(name=name, state="active", path=name)
    if name in wanted.blocked:
        plugins.leave_out(state)
        return
    before = list(sys.path)
    sys.path += [str(folder) for folder in wanted.search if untrusted(folder) is None]
    try:
        failure = _take(plugins, state, name)
    finally:
        sys.path[:] = before
    if failure:
        where = "" if failure.path in (None, name) else f" ({failure.path})"
        raise PluginError(
            f"plugin {name}{where} does not load: {failure.error}", "mend it, or block it with --no-plugin"
        )


def _take(
    plugins: Plugins, state: PluginState, target: str, place: int | None = None
) -> PluginFailure | None:
    """Import what an entry point or a person names, `module` or `module:attribute`, and register it."""

    def take() -> None:
        plugin, path = bring(target)
        plugins.add(plugin, msgspec.structs.replace(state, path=path), place=place)

    is_own = state.distribution == OWN_DISTRIBUTION
    with said_when_slow(None if is_own else plugins.tell, f"the import of plugin {state.name} ({target})"):
        alarm = None if is_own else IMPORTING
        _, failure = guarded(state.name, None, take, path=state.path, alarm=alarm)
    return msgspec.structs.replace(failure, path=_file_of(target.partition(":")[0])) if failure else None


def bring(target: str | None, file: str | None = None) -> tuple[object, str]:
    """Import `module` or `module:attribute`, or else run a file, and return the plugin with its path."""
    if target is None:
        assert file
        module = _run_file(Path(file))
        return module, file
    name, _, attribute = target.partition(":")
    imported = import_module(name)
    plugin = operator.attrgetter(attribute)(imported) if attribute else imported
    return plugin, getattr(imported, "__file__", None) or name


def _file_of(module: str) -> str:
    """Return the file of a module that may not be importable; its name where there is no such file."""
    from importlib.util import find_spec

    found, _ = guarded(module, None, find_spec, module)
    return getattr(found, "origin", None) or module


def _load_local(plugins: Plugins, path: Path, blocked: frozenset[str]) -> None:
    if not path.is_file():
        return
    state = PluginState(name=str(path), state="active", path=str(path))
    if blocked & {str(path), path.name, path.stem}:
        plugins.leave_out(state)
        return
    if problem := untrusted(path.parent) or untrusted(path):
        plugins.warnings.append(f"{path} is not loaded: {problem}")
        plugins.leave_out(state, problem)
        return

    def take() -> None:
        plugins.add(_run_file(path), state, is_local=True)

    with said_when_slow(plugins.tell, f"the import of {path}"):
        _, failure = guarded(state.name, None, take, path=state.path, alarm=IMPORTING)
    if failure:
        plugins.fail(state, failure)


def _run_file(path: Path) -> ModuleType:
    module = ModuleType(f"{FILE_MODULE}{abs(hash(str(path))):x}")
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)  # noqa: S102 - running the user's own file is the feature
    return module


def untrusted(path: Path) -> str | None:
    """Say why code at this path must not be loaded: another user owns it or may write it.

    A folder that others may write is fine with the sticky bit: there they cannot replace files of mine.
    """
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} cannot be looked at ({error.strerror})"
    if status.st_uid not in (os.geteuid(), 0):
        return f"another user owns {path}"
    is_sticky_folder = path.is_dir() and status.st_mode & 0o1000
    if status.st_mode & 0o022 and not is_sticky_folder:
        return f"other users may write {path} (chmod go-w it)"
    return None
