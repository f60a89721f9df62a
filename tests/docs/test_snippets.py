"""Every fenced block of the documentation is executed, here or in `test_pages`, or says why not.

The pages in docs/tutorials and docs/how-to/plugins are stories: each is played from its first block to its last in a
project of its own. A line of its own before a block says what it is:

    `NAME`:                      the block is written to this file (`NAME`, added: it is added to it)
    <!-- exit: 75 -->            the commands end with this code and not with 0
    <!-- not run: the reason --> the block is not executed

Blocks of `sh` are run by bash, those of `python` without a file as scripts; the lines of a `text` block are in the
output of the commands before it. On all other pages, which `test_pages` executes, blocks are also held to quick rules:
Python compiles and what it imports of Backprop is exported, JSON and TOML parse, TOML that is no pyproject.toml holds
settings that are valid, and command lines are understood.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from kit import Project
from snippets import OTHERS, PAGES, STORIES, Block, blocks, name

import backprop_core
from backprop_core.cli.app import build_app, split_arguments
from backprop_core.settings import resolve

KINDS = {"python", "sh", "json", "jsonl", "toml", "text"}
NOTES = {"exit", "exits", "each line", "given", "from the script", "tested", "not run"}
LIMIT_S = 120.0
SLOW_IN_CONTRACTS = "threads_and_processes or concurrent_saves"
"""What the everyday tests leave out of the contracts that pages have tested: tests with pools of processes."""

_COMMAND = re.compile(r"(?:^|[;|(]|&&|\n)\s*(?:[A-Z_]+=\S+ )*backprop (?P<rest>[^;|&>\n#)]*)")


# --- stories -------------------------------------------------------------------------------------


class Story:
    """Plays a page in a project; pytest is told to leave tests out whose names match."""

    def __init__(self, project: Project, left_out: str = "") -> None:
        self.project = project
        self.shown: str | None = None
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environ = project.environ(
            {"PATH": path, "PYTEST_ADDOPTS": f"-k 'not ({left_out})'" if left_out else None}
        )

    def play(self, block: Block) -> None:
        if block.file is not None:
            self.write(block.file, block)
        elif block.kind == "sh":
            self.run(["bash", "-e", "-o", "pipefail", "-c", block.text], int(block.notes.get("exit", 0)))
        elif block.kind == "python":
            self.run([sys.executable, "-c", block.text], 0)
        elif block.kind == "text" and self.shown is not None:
            missing = [line for line in block.text.splitlines() if line not in self.shown.splitlines()]
            assert missing == [], self.shown

    def write(self, file: str, block: Block) -> None:
        check(block)
        path = self.project.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() + "\n\n" if block.is_added else ""
        path.write_text(before + block.text)

    def run(self, command: list[str], code: int) -> None:
        done = subprocess.run(
            command,
            cwd=self.project.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        self.shown = done.stdout + done.stderr
        assert done.returncode == code, self.shown


SLOW_STORIES = {"test-a-plugin.md"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.soak) if page.name in SLOW_STORIES else page for page in STORIES],
    ids=name,
)
@pytest.mark.parametrize(
    "left_out", [SLOW_IN_CONTRACTS, pytest.param("", marks=pytest.mark.soak)], ids=["quick", "whole"]
)
def test_story_goes_as_the_page_tells_it(page: Path, left_out: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    story = Story(project, left_out)
    try:
        for block in blocks(page):
            if "not run" not in block.notes:
                story.play(block)
        assert story.shown is not None, "it runs nothing"
    finally:
        project.clean_up()


# --- all other pages -----------------------------------------------------------------------------


def check(block: Block) -> None:
    """Hold a block to the rule of its kind."""
    if block.kind == "python":
        check_python(block.text)
    elif block.kind == "json":
        json.loads(block.text)
    elif block.kind == "jsonl":
        [json.loads(line) for line in block.text.splitlines()]
    elif block.kind == "toml":
        tomllib.loads(block.text)
    elif block.kind == "sh":
        subprocess.run(["bash", "-n", "-c", block.text], check=True, timeout=LIMIT_S)


def check_python(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "backprop_core":
            assert {alias.name for alias in node.names} <= set(backprop_core.__all__)


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_block_keeps_the_rule_of_its_kind(page: Path) -> None:
    for block in blocks(page):
        check(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_block_says_what_it_is_and_how_it_is_executed(page: Path) -> None:
    for block in blocks(page):
        assert block.kind in KINDS, f"line {block.line}: {block.kind or 'no kind'}"
        assert set(block.notes) <= NOTES, f"line {block.line}: {block.notes}"


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_settings_that_a_page_shows_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page)):
        if block.kind == "toml" and "[project" not in block.text and "[tool." not in block.text:
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "backprop.toml").write_text(block.text)
            resolve(environ={"BACKPROP_HOME": str(tmp_path)}, cwd=folder)


@pytest.fixture(scope="module")
def command_line() -> Any:
    return typer.main.get_command(build_app(None))


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_command_line_that_a_page_shows_is_understood(page: Path, command_line: Any) -> None:
    for block in blocks(page):
        if block.kind != "sh":
            continue
        for found in _COMMAND.finditer(block.text):
            words, _ = split_arguments(without_plugin_options(shlex.split(found["rest"]), page))
            with command_line.make_context("backprop", words, resilient_parsing=True) as context:
                word, command, rest = command_line.resolve_command(context, words)
                command.make_context(word, rest, parent=context).close()


def without_plugin_options(words: list[str], page: Path) -> list[str]:
    """Take out the options, with their values, that the plugin which the page is about declares."""
    source = "".join(path.read_text() for path in (page.parent / "src").rglob("*.py"))
    declared = {f"--{option}" for option in re.findall(r'name="([a-z-]+)"', source)} - {"--name"}
    kept: list[str] = []
    for word in words:
        is_value = bool(kept) and kept[-1] in declared
        if is_value:
            kept.pop()
        else:
            kept.append(word)
    return [word for word in kept if word not in declared]
