"""What the README shows works as it is written, in both languages."""

from __future__ import annotations

import ast
import json
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import typer
from kit import Project

from backprop_core import ExitCode, RunState
from backprop_core.cli.app import COMMANDS, HIDDEN, build_app, split_arguments
from backprop_core.settings import RUN_VARIABLES, Settings, resolve

ROOT = Path(__file__).parents[2]
README, FRENCH = ROOT / "README.md", ROOT / "README.fr.md"
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md")
    if path.name != "CHANGELOG.md"
]
BOTH = pytest.mark.parametrize("page", [README, FRENCH], ids=lambda page: page.name)

FIRST_COMMAND = "pip install . && backprop run examples/train_iris.py --name my-first-run"
TEST_COMMAND = "pip install -r requirements-dev.txt && pytest"
_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str | None = None) -> list[str]:
    """Return the code blocks of a page, those of one kind or all."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [block["text"] for block in found if kind in (None, block["kind"])]


def rows_under(page: Path, first_cell: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is this one."""
    lines = page.read_text("utf-8").splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    cells = re.compile(r"(?<!\\)\|")
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in cells.split(line)[1:-1]])
    return rows


def spelled(text: str) -> set[str]:
    """Return the options between backticks."""
    return set(re.findall(r"`(--?[a-z][a-z-]*)`", text))


def options_of(command: Any) -> set[str]:
    return {name for option in command.params if option.param_type_name == "option" for name in option.opts}


@pytest.fixture(scope="module")
def command_line() -> Any:
    return typer.main.get_command(build_app(None))


# --- the commands -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("command", [FIRST_COMMAND, TEST_COMMAND])
def test_the_two_commands_of_the_start_stand_alone_and_are_what_ci_runs(page: Path, command: str) -> None:
    assert f"{command}\n" in blocks(page, "sh")
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


@BOTH
def test_the_options_of_run_are_all_there_and_no_others(page: Path, command_line: Any) -> None:
    shown = {name for row in rows_under(page, "option") for name in spelled(row[0])}
    assert shown == options_of(command_line.commands["run"]) - {"-h", "--help"}


@BOTH
def test_the_options_that_resume_does_not_take_are_named(page: Path, command_line: Any) -> None:
    missing = options_of(command_line.commands["run"]) - options_of(command_line.commands["resume"])
    sentence = next(line for line in page.read_text("utf-8").splitlines() if line.startswith("`resume` "))
    assert spelled(sentence) == missing - {"-n"}


@BOTH
def test_the_defaults_are_the_ones_that_hold(page: Path, command_line: Any) -> None:
    helps = {
        option.opts[0]: option.help
        for option in command_line.commands["run"].params
        if option.param_type_name == "option"
    }
    for row in rows_under(page, "option"):
        long = next(name for name in spelled(row[0]) if name.startswith("--"))
        found = re.search(r"\[default: (.*)]", helps[long])
        assert row[1] == (found[1] if found else ""), long


@BOTH
def test_every_command_is_named(page: Path) -> None:
    head = "command" if page == README else "commande"
    named = {
        words.split()[0]
        for row in rows_under(page, head)
        for words in re.findall(r"`backprop ([^`]+)`", row[0])
    }
    assert named == set(COMMANDS) - HIDDEN


@BOTH
def test_every_command_line_is_understood(page: Path, command_line: Any) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    shown = [line.partition("backprop ")[2] for line in lines if "backprop " in line]
    assert len(shown) > 10
    for line in shown:
        words, _ = split_arguments(shlex.split(line))
        with command_line.make_context("backprop", words, resilient_parsing=True) as context:
            name, command, rest = command_line.resolve_command(context, words)
            command.make_context(name, rest, parent=context).close()


@BOTH
def test_every_exit_code_and_final_state_is_named(page: Path) -> None:
    text = page.read_text("utf-8").partition("--stop-grace` ")[2]
    assert {int(code) for code in re.findall(r"\b\d+\b", text)} >= set(map(int, ExitCode))
    states = {row[0].strip("`") for row in rows_under(page, "state" if page == README else "état")}
    assert states == {"completed", "timeboxed", "failed", "stopped", "lost"} <= set(RunState)


@BOTH
def test_the_variables_that_a_script_is_told_are_all_there(page: Path) -> None:
    assert {row[0].strip("`") for row in rows_under(page, "variable")} == RUN_VARIABLES


# --- the snippets -----------------------------------------------------------------------------------


def test_both_languages_show_the_same_code() -> None:
    assert blocks(FRENCH) == blocks(README)


def test_both_languages_link_to_the_same_places() -> None:
    links = [
        re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8").replace("README.fr.md", "README.md"))
        for page in (README, FRENCH)
    ]
    assert sorted(links[0]) == sorted(links[1])


def test_the_settings_files_say_the_same_in_json_and_toml(tmp_path: Path) -> None:
    [as_json], [as_toml] = blocks(README, "json"), blocks(README, "toml")
    resolved = []
    for name, text in (("backprop.config.json", as_json), ("backprop.toml", as_toml)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(text)
        resolved.append(resolve(environ={"BACKPROP_HOME": str(tmp_path)}, cwd=folder).settings)
    assert resolved[0] == resolved[1] != Settings()


def test_the_lines_that_a_script_prints_are_read(project: Project) -> None:
    [lines] = blocks(README, "jsonl")
    assert all(json.loads(line) for line in lines.splitlines())
    project.write("train.py", f"print({lines!r}, end='')")
    assert project.call("run", "train.py").code == 0
    record = project.record()
    assert (record["lastStep"], record["lastLoss"], record["metrics"]["accuracy"]) == (500, 0.015, 0.98)
    assert record["lastCheckpoint"] == str(project.folder / "checkpoints" / "step-500.pt")


def test_the_script_that_uses_the_helper_goes_on_where_its_time_box_ended(project: Project) -> None:
    [script] = [block for block in blocks(README, "python") if "backprop_core.script" in block]
    project.write("counter.py", script)
    assert project.run("run", "counter.py", "-m", "0.03").code == 0
    first = project.record()
    assert (first["status"], first["lastCheckpoint"]) == ("timeboxed", str(project.folder / "counter.json"))
    assert 0 < first["lastStep"] < 300
    assert project.run("resume", "last", "-m", "1").code == 0
    second = project.record()
    assert (second["status"], second["lastStep"]) == ("completed", 300)
    output = (project.run_folder() / "output.log").read_text().splitlines()
    steps = [json.loads(line).get("step") for line in output if line.startswith("{")]
    assert steps.count(1) == 1


def test_the_plugin_refuses_and_takes_note_as_it_says(project: Project) -> None:
    [plugin] = [block for block in blocks(README, "python") if "backprop_admit" in block]
    project.write("backprop_plugins.py", plugin)
    project.write("train.py", """print('{"step": 3}')""")
    refused = project.call("run", "train.py")
    assert refused.code == ExitCode.REFUSED
    assert "house rule: give the run a name with --name" in refused.err
    assert project.records() == []
    assert project.call("run", "train.py", "--name", "baseline").code == 0
    assert (project.folder / "diary.txt").read_text() == "baseline: completed at step 3\n"


def test_the_option_of_a_plugin_is_a_flag_a_setting_and_a_variable_as_it_says(project: Project) -> None:
    [plugin] = [block for block in blocks(README, "python") if "backprop_options" in block]
    project.write("backprop_plugins.py", plugin)
    project.write("train.py", "import os; print('posting to', os.environ['NOTIFY_URL']); raise SystemExit(1)")
    project.write("backprop.toml", '[plugin.backprop_plugins]\nnotify-url = "file"\n')
    words = ["run", "train.py"]
    variable = {"BACKPROP_PLUGIN_BACKPROP_PLUGINS_NOTIFY_URL": "variable"}
    assert project.call(*words).out == "posting to file\n"
    assert project.call(*words, env=variable).out == "posting to variable\n"
    assert project.call(*words, "--notify-url", "flag", env=variable).out == "posting to flag\n"
    assert project.call("resume", "last").out == "posting to flag\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_parses_and_links_lead_somewhere(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)
    text = _BLOCK.sub("", page.read_text("utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["run.svg", "logo.svg"])
def test_pictures_are_whole_and_fetch_nothing_from_elsewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    others = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert "://" not in others
    assert "@import" not in others


def test_the_picture_shows_the_live_line_and_both_endings() -> None:
    shown = ET.fromstring((ROOT / "docs" / "run.svg").read_text("utf-8")).itertext()
    text = "\n".join(shown)
    for words in (
        "running",
        " left",
        "steps/s",
        "reached the end of its time box",
        "go on with: backprop resume",
        "completed",
    ):
        assert words in text
