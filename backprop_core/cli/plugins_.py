"""`backprop plugins`: what is installed, and what is wrong with a plugin."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from backprop_core.checking.findings import Problem
from backprop_core.checking.parts import names_of_parts
from backprop_core.opening import configured, settle
from backprop_core.plugin_sources import LOCAL_NAME
from backprop_core.plugins import Plugins, PluginState
from backprop_core.scaffold import KINDS, write
from backprop_core.units import escape

from .app import say
from .declared import Command, Given, argument, option
from .list_ import print_json
from .options import Json, base_ask
from .text import aligned
from .typed import in_typers_words, when_alone

Brought = Mapping[str, Sequence[tuple[str, str]]]


def register(app: typer.Typer, about: str) -> None:
    """Add the commands."""
    group = typer.Typer(help=about, invoke_without_command=True, rich_markup_mode="rich")
    group.callback(invoke_without_command=True)(when_alone(Command(plugins)))
    group.command("check", help="Say what is wrong with a plugin, and how it is mended.")(
        in_typers_words(Command(check))
    )
    group.command(
        "new", help="Start a plugin: a distribution that installs, passes its tests and does something."
    )(in_typers_words(Command(new)))
    app.add_typer(group, name="plugins")


def plugins(given: Given, json_: Json = False) -> int:
    """List the plugins, with their parts, their hooks and their state."""
    settled = settle(base_ask(given), os.environ, script=Path(LOCAL_NAME))
    with configured(settled) as loaded:
        parts = _parts(loaded)
        options: dict[str, list[str]] = {}
        for name, option in loaded.options():
            options.setdefault(name, []).append(f"--{option.name}")
    for warning in loaded.warnings:
        say(warning)
    if json_:
        print_json([as_json(state, parts, options) for state in loaded.states])
        return 0
    rows = [("NAME", "DISTRIBUTION", "STATE", "PARTS", "HOOKS", "FILE")]
    rows += [_row(state, parts) for state in loaded.states]
    for line in aligned(rows):
        print(line)
    return 0


def _parts(loaded: Plugins) -> Brought:
    found: dict[str, list[tuple[str, str]]] = {}
    for plugin, kind, name in names_of_parts(loaded):
        found.setdefault(plugin, []).append((kind, name))
    return found


def _row(state: PluginState, parts: Brought) -> tuple[str, str, str, str, str, str]:
    distribution = f"{state.distribution} {state.version}" if state.distribution else "-"
    brought = ", ".join(f"{kind} {name}" for kind, name in parts.get(state.name, ()))
    hooks = " ".join(hook.removeprefix("backprop_") for hook in state.hooks)
    what = state.error if state.state == "failed" else hooks
    return (state.name, distribution, state.state, brought or "-", what or "-", state.path or "-")


def as_json(state: PluginState, parts: Brought, options: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Build one item of `plugins --json`."""
    fields = ("name", "distribution", "version", "path", "hooks", "state", "error")
    return {
        **{field: getattr(state, field) for field in fields},
        "parts": [{"kind": kind, "name": name} for kind, name in parts.get(state.name, ())],
        "options": list(options.get(state.name, ())),
    }


def check(
    given: Given,  # noqa: ARG001 - every command is given the global options
    plugin: Annotated[
        str,
        argument(
            "A file, a distribution's folder, an installed plugin's name, or a module.", metavar="PATH|NAME"
        ),
    ],
    json_: Json = False,
) -> int:
    from backprop_core.checking.asking import check as examine

    reports = examine(plugin, Path.cwd())
    code = 1 if any(report.problems for report in reports) else 0
    if json_:
        import msgspec

        print_json(msgspec.to_builtins(reports))
        return code
    for report in reports:
        print(f"{escape(report.name)}: {_verdict(report.problems)}")
        for problem in report.problems:
            print(f"  - {escape(str(problem))}")
            print(f"    mend: {escape(problem.mend)}")
        if not report.problems:
            print(f"  hooks: {' '.join(report.hooks)}")
            print(f"  parts: {escape(', '.join(report.parts)) or 'none'}")
            print(f"  import: {(report.import_s or 0.0) * 1000:.0f} ms")
    return code


def new(
    given: Given,  # noqa: ARG001 - every command is given the global options
    name: Annotated[
        str, argument("What it is to be called; the distribution is backprop-NAME.", metavar="NAME")
    ],
    kind: Annotated[
        str, option("--kind", metavar="KIND", help=f"What it is to be: {', '.join(KINDS)}. [default: rule]")
    ] = "rule",
    into: Annotated[
        Path | None, option("--into", metavar="DIR", help="Where its folder is to be. [default: here]")
    ] = None,
) -> int:
    folder = write(name, kind, Path.cwd() if into is None else into)
    place = str(folder if into else Path(os.curdir, folder.name))
    shown = place if into else f"./{place}"
    print(f"wrote {folder}, a plugin of the kind {kind}: it {KINDS[kind]}")
    print(f"next: pip install -e {shlex.quote(f'{shown}[test]')} && pytest {shlex.quote(shown)}")
    return 0


def _verdict(problems: Sequence[Problem]) -> str:
    if not problems:
        return "nothing to mend"
    return "1 thing to mend" if len(problems) == 1 else f"{len(problems)} things to mend"
