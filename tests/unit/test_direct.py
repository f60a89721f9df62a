from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_core.cli.app import COMMANDS
from backprop_core.cli.declared import Command, Given, Option
from backprop_core.cli.direct import values_of
from backprop_core.cli.typed import UsageProblem, in_typers_words

GROUPS = {"config", "storage", "plugins"}
DIRECT = {
    name: import_module(f"backprop_core.cli.{name}_").COMMAND for name in COMMANDS if name not in GROUPS
}


class Recording(Command):
    """A command that keeps what it is called with."""

    def __init__(self, like: Command) -> None:
        self.function = like.function
        self.parameters = like.parameters
        self.values: dict[str, Any] | None = None

    def __call__(self, given: Given, values: Mapping[str, Any]) -> int:
        self.values = dict(values)
        return 0


def as_typer_reads(command: Command, words: Sequence[str]) -> dict[str, Any] | None:
    """Return the values that typer finds in the words; None where it finds a mistake."""
    recording = Recording(command)
    app = typer.Typer(add_completion=False)
    app.command("it")(in_typers_words(recording))
    try:
        typer.main.get_command(app).main(args=list(words), standalone_mode=False, obj=Given())
    except UsageProblem:
        return None
    return recording.values


def complete(command: Command, values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Fill in defaults; an option that may be given several times and was not is None or empty."""
    if values is None:
        return None
    defaults = {parameter.name: parameter.default for parameter in command.parameters}
    return {name: value or None for name, value in {**defaults, **values}.items()}


VALUES = (
    "train.py",
    "5",
    "0",
    "007",
    "0.5",
    "-1",
    "",
    "a=b",
    "--",
    "-m",
    "--plain",
    "²",
    "1_0",
    " 3",
    "café",
    "\udcff",
)


def words_for(command: Command) -> st.SearchStrategy[list[str]]:
    names = [
        name
        for each in command.parameters
        if isinstance(each.declared, Option)
        for name in each.declared.names
    ]
    value = st.sampled_from(VALUES)
    name = st.sampled_from(names or ["--none"])
    piece = st.one_of(
        value.map(lambda text: [text]),
        name.map(lambda text: [text]),
        st.tuples(name, value).map(list),
        st.tuples(name, value).map(lambda pair: ["=".join(pair)]),
        st.tuples(name, value).map(lambda pair: ["".join(pair)]),
        name.map(lambda text: [text[:-1]]),
    )
    return st.lists(piece, max_size=5).map(lambda pieces: [word for each in pieces for word in each])


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_what_is_called_directly_is_called_as_typer_would(name: str) -> None:
    command = DIRECT[name]

    @settings(max_examples=60, deadline=None)
    @given(words_for(command))
    def check(words: list[str]) -> None:
        found = values_of(command, words)
        if found is not None:
            assert complete(command, found) == complete(command, as_typer_reads(command, words))

    check()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("list", {}),
        ("list --limit 5 --json", {"limit": 5, "json_": True}),
        ("list --state failed --state=lost", {"state": ["failed", "lost"]}),
        ("run train.py", {"script": Path("train.py")}),
        (
            "run -m 5 train.py --name night --plain",
            {"setting_max_run_minutes": "5", "script": Path("train.py"), "name": "night", "plain": True},
        ),
        (
            "run train.py --set gpus=2 --verbose",
            {"script": Path("train.py"), "set_": ["gpus=2"], "verbose": True},
        ),
        ("status", {}),
        ("stop last", {"run": "last"}),
        ("logs last -f", {"run": "last", "follow": True}),
    ],
)
def test_what_is_typed_plainly_needs_no_typer(line: str, expected: dict[str, Any]) -> None:
    name, *words = line.split()
    assert values_of(DIRECT[name], words) == expected
    assert complete(DIRECT[name], as_typer_reads(DIRECT[name], words)) == complete(DIRECT[name], expected)


@pytest.mark.parametrize(
    "line",
    [
        "run --help",
        "run train.py extra",
        "run train.py --no-such-option",
        "run train.py --colour red",
        "run train.py -m5",
        "run train.py --max-run-minutes",
        "run train.py --max-run-minutes -5",
        "run train.py --max-run 5",
        "run train.py --name one --name two",
        "run train.py --plain=yes",
        "list --limit 0",
        "list --limit five",
        "list --limit",
        "stop",
        "stop --",
    ],
)
def test_anything_else_is_left_to_typer(line: str) -> None:
    name, *words = line.split()
    assert values_of(DIRECT[name], words) is None
