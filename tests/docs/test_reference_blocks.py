"""The blocks of the generated reference are executed, and what they define is what the code has."""

from __future__ import annotations

import collections.abc
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from kit import Project
from snippets import REFERENCE, ROOT, blocks, name

from backprop_core import errors, hookspecs, interfaces, records, settings, states

FOLDER = ROOT / "docs" / "reference"
NAMES: Mapping[str, Any] = {
    each: value
    for module in (typing, collections.abc, pathlib, settings, states, records, interfaces, hookspecs)
    for each, value in vars(module).items()
}


def defined_by(text: str) -> dict[str, Any]:
    """Execute a block where everything that the reference speaks of is there, and return what it defines."""
    namespace = dict(NAMES)
    exec(compile(text, "<block>", "exec"), namespace)
    return {each: value for each, value in namespace.items() if NAMES.get(each, ...) is not value}


def signature(function: Any) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


def assert_same(shown: Any, real: Any) -> None:
    """Hold what a page shows of a function, a record, an enumeration or a Protocol to the code."""
    if isinstance(shown, types.FunctionType):
        shown_names, real_names = signature(shown), signature(real)
        assert shown_names == real_names or (
            {*shown_names} <= {*real_names} and hasattr(shown, "backprop_impl")
        )
    elif isinstance(real, type) and issubclass(real, msgspec.Struct):
        defaults = {field.name: field.default for field in msgspec.structs.fields(real)}
        assert list(shown.__annotations__) == list(defaults)
        for each, default in defaults.items():
            assert (default is msgspec.NODEFAULT) or not default or vars(shown)[each] == default
    elif isinstance(shown, type):
        for each, value in vars(shown).items():
            if isinstance(value, types.FunctionType):
                assert signature(value) == signature(getattr(real, each))
            elif not each.startswith("__"):
                assert value == getattr(real, each)
    else:
        assert shown == real


@pytest.mark.parametrize("page", [FOLDER / f"{each}.md" for each in ("hooks", "parts", "records")], ids=name)
def test_what_a_block_of_the_reference_defines_is_what_the_code_has(page: Any) -> None:
    found = [block for block in blocks(page) if block.kind == "python"]
    assert len(found) > 5
    for block in found:
        made = {each: value for each, value in defined_by(block.text).items() if each != "__builtins__"}
        assert made, block.text
        for each, shown in made.items():
            assert_same(shown, NAMES[each])


def test_the_tree_of_errors_is_the_codes() -> None:
    [tree] = [block for block in blocks(FOLDER / "records.md") if block.kind == "text"]
    shown = re.findall(r"(\w+Error)\s+\((\d+)\)", tree.text)
    assert {each for each, _ in shown} == {each for each in vars(errors) if each.endswith("Error")}
    for each, code in shown:
        assert int(getattr(errors, each).exit_code) == int(code)


def test_every_usage_that_the_reference_shows_is_a_command_with_these_arguments(
    tmp_path: pathlib.Path,
) -> None:
    project = Project(tmp_path)
    usages = [block.text.split() for block in blocks(FOLDER / "cli.md")]
    assert len(usages) > 15
    for first, *words in usages:
        command = []
        while words and re.fullmatch(r"[a-z]+", words[0]):
            command.append(words.pop(0))
        done = project.call(*command, "--help", env={"COLUMNS": "200"})
        assert (first, done.code) == ("backprop", 0)
        for word in re.findall(r"[A-Z]{2,}", " ".join(words).partition("[-- ")[0]):
            assert word in done.out, (command, word)


def test_no_other_page_of_the_reference_has_blocks() -> None:
    assert {page.name for page in REFERENCE if list(blocks(page))} == {
        "cli.md",
        "hooks.md",
        "parts.md",
        "records.md",
    }
