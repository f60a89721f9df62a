"""Finding, ordering, blocking and guarding plugins: the one place where a plugin's exceptions end.

Implementations are called one by one, so that a plugin that fails silences no other.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from . import hookspecs
from .clock import now_s
from .errors import BackpropError, PluginError
from .hookspecs import PROJECT
from .records import PluginFailure, PluginOption, Record

LOCAL_NAME = "backprop_plugins.py"
GROUP = "backprop"
_OWN_DISTRIBUTION = "backprop-core"


class EntryPoint(Record, frozen=True):
    """A line of a distribution's entry points in our group."""

    name: str
    target: str
    distribution: str
    version: str


class PluginState(Record, frozen=True):
    """What `backprop plugins` says of one plugin."""

    name: str
    state: str
    path: str | None = None
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    error: str | None = None


class Answer(Record, frozen=True):
    """What one implementation of a hook returned, or how it failed."""

    plugin: str
    value: Any = None
    failure: PluginFailure | None = None


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


class Plugins:
    """The plugins of one command."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.states: list[PluginState] = []
        self.failures: list[PluginFailure] = []
        self.warnings: list[str] = []

    def add(self, plugin: object, state: PluginState, *, is_local: bool = False) -> None:
        """Register a loaded plugin under its name.

        :raises PluginError: for a taken name, an unknown hook (only a warning where `is_local`), a wrapper,
            or a signature that no caller can serve.
        """
        if other := self._manager.get_plugin(state.name):
            where = getattr(other, "__file__", "?")
            raise PluginError(f"two plugins are named {state.name!r}: {where} and {state.path}")
        hooks = tuple(self._checked(plugin, state, is_local=is_local))
        self._manager.register(plugin, name=state.name)
        self.states.append(PluginState(**{**_fields(state), "hooks": hooks}))

    def _checked(self, plugin: object, state: PluginState, *, is_local: bool) -> Iterator[str]:
        for attribute in dir(plugin):
            options = getattr(getattr(plugin, attribute, None), f"{PROJECT}_impl", None)
            if not isinstance(options, Mapping):
                continue
            name = options.get("specname") or attribute
            problem = _problem_with(name, getattr(plugin, attribute), options)
            if problem and is_local and name not in _SPECS:
                self.warnings.append(f"{state.path}: {problem}")
            elif problem:
                raise PluginError(f"plugin {state.name} ({state.path}): {problem}")
            else:
                yield name

    def fail(self, state: PluginState, error: BaseException) -> None:
        """Note that a plugin did not load; the command goes on without it."""
        failure = PluginFailure(plugin=state.name, hook=None, error=_in_words(error), path=state.path)
        self.failures.append(failure)
        self.states.append(PluginState(**{**_fields(state), "state": "failed", "error": failure.error}))

    def ask(self, hook: str, **arguments: Any) -> list[Answer]:
        """Call every implementation of a hook, the newest plugin first; None answers are left out."""
        answers = []
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            given = [arguments[name] for name in implementation.argnames]
            path = getattr(implementation.plugin, "__file__", None)
            value, failure = guarded(
                implementation.plugin_name, hook, implementation.function, *given, path=path
            )
            if failure:
                self.note(failure)
            if failure or value is not None:
                answers.append(Answer(plugin=implementation.plugin_name, value=value, failure=failure))
        return answers

    def note(self, failure: PluginFailure) -> None:
        """Remember a failure, once: one that comes with every event of a long run must not fill the memory."""
        if failure not in self.failures:
            self.failures.append(failure)

    def has(self, hook: str) -> bool:
        """Tell whether any plugin implements the hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def parts(self, hook: str, needs: Sequence[str], **arguments: Any) -> list[Any]:
        """Collect the parts that plugins bring; one without the attributes in `needs` is a failure."""
        found = []
        for answer in self.ask(hook, **arguments):
            if answer.failure:
                continue
            for part in answer.value if isinstance(answer.value, list | tuple) else [answer.value]:
                missing = [name for name in needs if not hasattr(part, name)]
                if missing:
                    error = f"{type(part).__name__} lacks {', '.join(missing)}"
                    self.note(PluginFailure(plugin=answer.plugin, hook=hook, error=error))
                else:
                    found.append(part)
        return found

    def options(self) -> list[tuple[str, PluginOption]]:
        """Collect the options that plugins declare, with the plugin's name."""
        found: list[tuple[str, PluginOption]] = []
        for answer in self.ask("backprop_options"):
            options = answer.value
            if answer.failure:
                continue
            if isinstance(options, list | tuple) and all(isinstance(one, PluginOption) for one in options):
                found += [(answer.plugin, option) for option in options]
            else:
                error = f"it answered {type(options).__name__}, not a list of PluginOption"
                self.note(PluginFailure(plugin=answer.plugin, hook="backprop_options", error=error))
        return found


_SPECS = {
    name: tuple(spec.__code__.co_varnames[: spec.__code__.co_argcount])
    for name, spec in vars(hookspecs).items()
    if name.startswith("backprop_")
}


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _problem_with(name: str, function: Any, options: Mapping[str, Any]) -> str | None:
    if name not in _SPECS:
        import difflib

        close = difflib.get_close_matches(name, _SPECS, 1)
        return f"there is no hook {name}" + (f"; did you mean {close[0]}?" if close else "")
    if options.get("wrapper") or options.get("hookwrapper"):
        return f"{name} is a hook wrapper, which Backprop does not call"
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{name} is not a function"
    if function.__defaults__ or code.co_kwonlyargcount:
        return f"{name} has arguments with defaults, or by keyword only, which hooks may not have"
    names = code.co_varnames[: code.co_argcount]
    unknown = [argument for argument in names if argument not in (*_SPECS[name], "self", "cls")]
    if unknown:
        return f"{name} takes {', '.join(unknown)}; it may take {', '.join(_SPECS[name]) or 'nothing'}"
    return None


def _in_words(error: BaseException) -> str:
    if isinstance(error, BackpropError):
        return error.message
    try:
        return f"{type(error).__name__}: {error}".split("\n", 1)[0][:500]
    except Exception:
        return type(error).__name__


def guarded(
    plugin: str, hook: str, function: Callable[..., Any], *arguments: Any, path: str | None = None
) -> tuple[Any, PluginFailure | None]:
    """Call a plugin's function; whatever it raises becomes a failure that names it.

    Errors of Backprop's own tree carry their message alone.
    """
    try:
        return function(*arguments), None
    except (Exception, SystemExit) as error:
        return None, PluginFailure(plugin=plugin, hook=hook, error=_in_words(error), path=path)


# --- finding ------------------------------------------------------------------------------------


def load(wanted: Wanted) -> Plugins:
    """Load entry points, then named modules, then local files.

    :raises PluginError: for a named module or a local file that does not load.
    """
    plugins = Plugins()
    for point in find_entry_points():
        if point.distribution == _OWN_DISTRIBUTION or wanted.with_others:
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
    return sorted(points, key=lambda point: point.distribution != _OWN_DISTRIBUTION)


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
            name, target = (part.strip() for part in line.split("=", 1))
            yield EntryPoint(name=name, target=target, distribution=distribution, version=version)


def _load_entry_point(plugins: Plugins, point: EntryPoint, blocked: frozenset[str]) -> None:
    state = PluginState(
        name=point.name,
        state="active",
        path=point.target,
        distribution=point.distribution,
        version=point.version,
    )
    if point.name in blocked:
        plugins.states.append(PluginState(**{**_fields(state), "state": "blocked"}))
        return
    module, _, attribute = point.target.partition(":")
    try:
        plugin: Any = import_module(module)
        state = PluginState(**{**_fields(state), "path": getattr(plugin, "__file__", module)})
        plugin = getattr(plugin, attribute) if attribute else plugin
        plugins.add(plugin, state)
    except (Exception, SystemExit) as error:
        plugins.fail(state, error)


def _load_module(plugins: Plugins, name: str, wanted: Wanted) -> None:
    state = PluginState(name=name, state="active", path=name)
    if name in wanted.blocked:
        plugins.states.append(PluginState(**{**_fields(state), "state": "blocked"}))
        return
    before = list(sys.path)
    sys.path += [str(folder) for folder in wanted.search if untrusted(folder) is None]
    try:
        plugin = import_module(name)
        plugins.add(plugin, PluginState(**{**_fields(state), "path": getattr(plugin, "__file__", name)}))
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin {name} does not load: {_in_words(error)}", "mend it, or block it with --no-plugin"
        ) from error
    finally:
        sys.path[:] = before


def _load_local(plugins: Plugins, path: Path, blocked: frozenset[str]) -> None:
    if not path.is_file():
        return
    state = PluginState(name=str(path), state="active", path=str(path))
    if blocked & {str(path), path.name, path.stem}:
        plugins.states.append(PluginState(**{**_fields(state), "state": "blocked"}))
        return
    if problem := untrusted(path.parent) or untrusted(path):
        plugins.warnings.append(f"{path} is not loaded: {problem}")
        plugins.states.append(PluginState(**{**_fields(state), "state": "blocked", "error": problem}))
        return
    module = ModuleType(f"backprop_plugins_{abs(hash(str(path))):x}")
    module.__file__ = str(path)
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        sys.modules[module.__name__] = module
        exec(code, module.__dict__)  # noqa: S102 - running the user's own file is the feature
        plugins.add(module, state, is_local=True)
    except (Exception, SystemExit) as error:
        plugins.fail(state, error)


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


# --- observers ----------------------------------------------------------------------------------


class Observers:
    """Tells observers on a thread of its own, so that a slow one delays nothing.

    `dropped` counts what did not fit into the queue.
    """

    def __init__(self, plugins: Plugins, capacity: int = 1000) -> None:
        self._plugins = plugins
        self._waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def tell(self, hook: str, **arguments: Any) -> None:
        """Queue a call of every implementation of a hook."""
        if not self._plugins.has(hook):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="backprop-observers", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((hook, arguments))
        except queue.Full:
            self.dropped += 1

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything queued was told; False when time ran out."""
        if self._thread is None:
            return True
        end_s = now_s() + timeout_s
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(max(0.0, end_s - now_s()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while call := self._waiting.get():
            hook, arguments = call
            self._plugins.ask(hook, **arguments)
