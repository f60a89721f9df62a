"""What every command that deals with runs works with: settings, plugins, storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from .chosen import guarded_storage
from .errors import BackpropError, PluginError, StorageError, UsageError
from .interfaces import Storage, StorageBackend, named
from .plugin_options import declared, refuse_clashes
from .plugin_sources import LOCAL_NAME, Wanted
from .plugin_sources import load as load_plugins
from .plugins import Call, Plugins, translating
from .records import EMPTY, Record
from .settings import Resolved, Setting, home_folder, resolve


class Loaded(Record, frozen=True):
    """Plugins, and what they were loaded for."""

    wanted: Wanted
    plugins: Plugins


class Settled(Record, frozen=True):
    """The settings that hold, and the plugins that they ask for."""

    resolved: Resolved
    loaded: Loaded

    @property
    def plugins(self) -> Plugins:
        """The plugins."""
        return self.loaded.plugins


class Ask(Record, frozen=True):
    """What the command line asks for. None and empty mean that nothing was said.

    `flags` maps dotted settings to values; `assignments` are the texts of `--set`. `same_code` forbids to resume with
    other code than the last attempt's. `loaded` are plugins that had to be asked for their options before the command
    line could be read. `tell` is told of a plugin that keeps the command waiting, `trace` of every call of a hook.
    """

    script: Path | None = None
    module: str | None = None
    arguments: tuple[str, ...] = ()
    name: str | None = None
    run_id: str | None = None
    resume_from: Path | None = None
    flags: Mapping[str, Any] = EMPTY
    assignments: tuple[str, ...] = ()
    config: Path | None = None
    plugins: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    with_local_plugins: bool = True
    force: bool = False
    detach: bool = False
    same_code: bool = False
    loaded: Loaded | None = None
    tell: Callable[[str], None] | None = None
    trace: Callable[[Call], None] | None = None


class Opened(Record, frozen=True):
    """What every command that deals with runs works with."""

    resolved: Resolved
    plugins: Plugins
    storage: Storage
    home: Path


def open_all(
    ask: Ask,
    environ: Mapping[str, str],
    *,
    script: Path | None = None,
    recorded: Mapping[str, Any] = EMPTY,
) -> Opened:
    """Resolve the settings, load the plugins, and open the storage.

    :param script: Where a project file and a `backprop_plugins.py` may stand beside; None for commands
        that run nothing, which then load no local plugins.
    """
    settled = settle(ask, environ, script=script, recorded=recorded)
    resolved, plugins = settled.resolved, settled.plugins
    try:
        _refuse_broken_file(plugins)
        if script or ask.module:
            refuse_clashes(plugins)
        plugins.ask("backprop_configure", settings=resolved.settings)
        storage, home = open_storage(plugins, resolved, environ)
    except BackpropError:  # which a plugin that failed may be the cause of
        plugins.tell_failures()
        raise
    return Opened(resolved=resolved, plugins=plugins, storage=storage, home=home)


def settle(
    ask: Ask,
    environ: Mapping[str, str],
    *,
    script: Path | None = None,
    recorded: Mapping[str, Any] = EMPTY,
) -> Settled:
    """Resolve the settings and load the plugins; then, where these declare options, resolve again with them."""
    place = Path.cwd() / script if script else None
    resolved = _resolve(ask, environ, place, recorded)
    loaded = _load(resolved, ask, environ, place.parent if place else None)
    if options := declared(loaded.plugins):
        resolved = _resolve(ask, environ, place, recorded, options)
    return Settled(resolved=resolved, loaded=loaded)


def _resolve(
    ask: Ask,
    environ: Mapping[str, str],
    place: Path | None,
    recorded: Mapping[str, Any],
    options: Mapping[str, Setting] = EMPTY,
) -> Resolved:
    """Resolve the settings; what `--plugin` and `--no-plugin` add is kept with them, for `resume` and the agent."""
    resolved = resolve(
        environ=environ,
        cwd=Path.cwd(),
        script=place,
        config=ask.config,
        recorded=recorded,
        flags=ask.flags,
        assignments=ask.assignments,
        options=options,
    )
    chosen = (*resolved.settings.plugins, *ask.plugins, *(f"no:{name}" for name in ask.blocked))
    settings = msgspec.structs.replace(resolved.settings, plugins=tuple(dict.fromkeys(chosen)))
    return msgspec.structs.replace(resolved, settings=settings)


def _refuse_broken_file(plugins: Plugins) -> None:
    """Go no further without a person's own `backprop_plugins.py`: what it was to guard would not be guarded."""
    for failure in plugins.failures:
        if failure.hook is None and failure.path and Path(failure.path).name == LOCAL_NAME:
            plugins.told.add(str(failure))
            raise PluginError(
                f"{failure.path} does not load: {failure.error}",
                "mend it, or leave it out with --no-local-plugins",
            )


def _load(resolved: Resolved, ask: Ask, environ: Mapping[str, str], script_folder: Path | None) -> Loaded:
    """Load the plugins that the settings ask for, unless they are loaded."""
    chosen = resolved.settings.plugins
    folders = [folder for folder in (resolved.project_root, script_folder) if folder]
    wants_local = ask.with_local_plugins and script_folder is not None
    wanted = Wanted(
        modules=tuple(name for name in chosen if not name.startswith("no:")),
        blocked=frozenset(name.removeprefix("no:") for name in chosen if name.startswith("no:")),
        folders=tuple(folders) if wants_local else (),
        search=(*folders, Path.cwd()),
        with_others=environ.get("BACKPROP_DISABLE_PLUGIN_AUTOLOAD") != "1",
    )
    if ask.loaded and ask.loaded.wanted == wanted:
        return ask.loaded
    return Loaded(wanted=wanted, plugins=load_plugins(wanted, tell=ask.tell, trace=ask.trace))


def open_storage(plugins: Plugins, resolved: Resolved, environ: Mapping[str, str]) -> tuple[Storage, Path]:
    """Open the storage that the `storage` setting names, by name or by URL scheme."""
    home = home_folder(environ)
    backend, url = _chosen_backend(plugins, resolved.settings.storage)
    origin = plugins.origin(backend)
    with translating(f"storage {backend.name!r}", "open", StorageError, origin):
        storage = backend.open(url, home)
    return guarded_storage(storage, backend.name, origin), home


def _chosen_backend(plugins: Plugins, wanted: str) -> tuple[StorageBackend, str | None]:
    """Find the backend, and the URL to give it where the setting holds one."""
    backends: list[StorageBackend] = plugins.parts("backprop_storage_backend")
    scheme, is_url, _ = wanted.partition(":")
    if not is_url:
        return named(backends, wanted, "storage", "storage"), None
    for backend in backends:
        if scheme in backend.schemes:
            return backend, wanted
    known = sorted(scheme for backend in backends for scheme in backend.schemes)
    raise UsageError(f"no storage for {scheme!r} URLs is installed", f"installed: {', '.join(known)}")


def close(opened: Opened) -> None:
    """Let go of the storage and tell the plugins that the command is over."""
    try:
        opened.storage.close()
    finally:
        opened.plugins.ask("backprop_unconfigure", settings=opened.resolved.settings)
        opened.plugins.tell_failures()


@contextmanager
def configured(settled: Settled) -> Iterator[Plugins]:
    """Let a command that needs no storage use the plugins."""
    settled.plugins.ask("backprop_configure", settings=settled.resolved.settings)
    try:
        yield settled.plugins
    finally:
        settled.plugins.ask("backprop_unconfigure", settings=settled.resolved.settings)
        settled.plugins.tell_failures()
