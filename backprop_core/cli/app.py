"""Putting the command line together, and turning errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from backprop_core.errors import BackpropError, ExitCode, RefusedError

from .declared import Given
from .direct import values_of
from .text import presentable

if TYPE_CHECKING:
    import typer

    from backprop_core.plugin_options import OptionSetting

COMMANDS = {
    "run": "Run a training script: governed, time-boxed, recorded.",
    "resume": "Go on with a run from its last checkpoint.",
    "list": "List runs, newest first.",
    "status": "Show the machine and whether a run may start, or one run.",
    "checkpoints": "Show a run's checkpoints: whole or not, and how they were learned of.",
    "logs": "Show what a run printed.",
    "stop": "Stop a run gracefully.",
    "pause": "Pause a run.",
    "unpause": "Continue a paused run.",
    "extend": "Give a live run's time box more minutes.",
    "rm": "Remove runs: their records, output and metrics.",
    "prune": "Remove runs that ended long ago.",
    "init": "Write a commented settings file into this folder.",
    "config": "Show or change settings.",
    "plugins": "List the plugins, check one.",
    "storage": "Copy records from one storage to another.",
    "doctor": "Explain and repair what crashes, kills and accidents have left.",
    "agent": "Supervise a run that was handed over.",
}
HIDDEN = frozenset({"agent"})
_GLOBAL_WITH_VALUE = {"--config", "--plugin", "--no-plugin"}
_TAKES_SCRIPT_ARGS = {"run", "resume"}
TAKES_PLUGIN_OPTIONS = {"run", "resume"}
_HELP = {"--help", "-h"}


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is told on stderr."""
    words, script_arguments = split_arguments(arguments)
    try:
        code = _run(words, Given(script_arguments=script_arguments))
    except BackpropError as error:
        complain(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _run(words: Sequence[str], given: Given) -> object:
    """Call the command directly where it is typed plainly, else have typer find out what is meant."""
    if words and words[0] in COMMANDS:
        command = getattr(import_module(f"backprop_core.cli.{words[0]}_"), "COMMAND", None)
        values = values_of(command, words[1:]) if command else None
        if command and values is not None:
            return command(given, values)
    from .typed import Interrupted, UsageProblem

    try:
        return _have_it_read(words, given)
    except UsageProblem as error:
        return _usage_problem(error, words)
    except Interrupted:
        return int(ExitCode.INTERRUPTED)


def _have_it_read(words: Sequence[str], given: Given) -> object:
    """Have typer read the command line and call the command.

    Which options plugins bring, only plugins can tell. They are asked where help is wanted and where an option is
    none of ours; then the line is read a second time.
    """
    from .typed import UsageProblem, invoke, is_unknown_option

    command = command_in(words)
    if command not in COMMANDS:
        from .extensions import invoke_with_commands

        return invoke_with_commands(command, words, given)
    may_have_more = command in TAKES_PLUGIN_OPTIONS
    wants_help = bool(_HELP & {*words})
    if not (may_have_more and wants_help):
        try:
            return invoke(build_app(command), words, given)
        except UsageProblem as error:
            if not (may_have_more and is_unknown_option(error)):
                raise
    from .plugin_flags import ask_plugins

    options, loaded = ask_plugins(command, words, is_help=wants_help)
    try:
        return invoke(build_app(command, options), words, msgspec.structs.replace(given, loaded=loaded))
    except UsageProblem:
        for failure in loaded.plugins.failures if loaded else ():
            say(str(failure))
        raise


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Cut the script's arguments off at the first `--`."""
    words = list(arguments)
    if "--" not in words or command_in(words) not in _TAKES_SCRIPT_ARGS:
        return words, ()
    cut = words.index("--")
    return words[:cut], tuple(words[cut + 1 :])


def command_in(words: Sequence[str]) -> str | None:
    """Return the command among the words typed: the first that is no option and no option's value."""
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = word in _GLOBAL_WITH_VALUE
            continue
        return word
    return None


def build_app(wanted: str | None, options: Sequence[OptionSetting] = ()) -> typer.Typer:
    """Build the command line; of the commands only the wanted one is loaded, all of them for help.

    :param options: What plugins declare, for the wanted command.
    """
    from . import typed

    app = typed.build_app([wanted] if wanted in COMMANDS else [*COMMANDS], COMMANDS, HIDDEN, options)
    if wanted not in COMMANDS:
        from backprop_core.opening import Ask

        from .extensions import add_commands

        add_commands(app, Ask())
    return app


def complain(error: BackpropError) -> None:
    """Say on stderr what went wrong and what to do, in one line each."""
    if isinstance(error, RefusedError):
        say("not started: " + error.reasons[0] if len(error.reasons) == 1 else "not started:")
        if len(error.reasons) > 1:
            for reason in error.reasons:
                say_more(f"- {reason}")
    else:
        say(error.message)
    if error.hint:
        say_more(error.hint)


def say(text: str) -> None:
    """Print a line of ours on stderr; no run ends because nobody is there to read it."""
    with suppress(OSError):
        print(f"backprop: {presentable(text)}", file=sys.stderr)


def say_more(text: str) -> None:
    """Print a further line on what was just said."""
    with suppress(OSError):
        print(f"  {presentable(text)}", file=sys.stderr)


def _usage_problem(error: Any, words: Sequence[str]) -> int:
    text = error.format_message()
    if not text:  # no command was given: typer has printed the help
        return int(ExitCode.USAGE)
    say(text.rstrip(".").replace("\n", " "))
    command = command_in(words)
    if command in _TAKES_SCRIPT_ARGS and ("extra argument" in text or "No such option" in text):
        say_more("what belongs to the script goes after `--`")
    else:
        say_more(f"see `backprop {command + ' ' if command in COMMANDS else ''}--help`")
    return int(ExitCode.USAGE)
