"""What a script, a name, a path or a plugin contains is shown, and never obeyed by the terminal or by the table."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from kit import Project, command
from terminal import Terminal

# Clears the screen, sets its title, turns the writing around, begins a new line, and speaks rich's own language.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b2J\u202eb\u2028c\x7f\x08[bold red]d[/]:smile:\te"
RAW = ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e", "\u2028", "\x7f", "\x08")
SAYS = """
    import json, sys
    hostile = json.loads(sys.argv[1])
    print(json.dumps({"step": 1, "loss": 0.5, hostile: 1}))
    print(json.dumps({"event": "checkpoint_saved", "path": hostile}))
"""
RAISES = """
from backprop_core import hookimpl

@hookimpl
def backprop_run_started(run):
    raise ValueError(run.name)
"""
USUAL = [("list",), ("status", "last"), ("checkpoints", "last"), ("status", HOSTILE), ("run", HOSTILE)]
OTHERS = [
    ("list", "--all"),
    ("status",),
    ("plugins",),
    ("doctor", "--dry-run"),
    ("config", "show"),
    ("stop", HOSTILE),
    ("logs", HOSTILE),
    ("run", "train.py", "--framework", HOSTILE),
    ("run", "train.py", "--set", HOSTILE),
    ("config", "set", HOSTILE, "1"),
    (HOSTILE,),
]


def commands_that_obey(shown: str) -> list[str]:
    """Control, format and line-separating characters that have no business in a table or a sentence."""
    return [c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]


def hostile_run(project: Project) -> None:
    (project.folder / "backprop_plugins.py").write_text(RAISES)
    script = project.write(HOSTILE.replace("/", "") + ".py", SAYS)
    done = project.run("run", f"./{script.name}", "--name", HOSTILE, "--", json.dumps(HOSTILE), HOSTILE)
    assert done.code == 0, done.err
    assert commands_that_obey(done.err) == []
    assert "failed in backprop_run_started" in done.err
    record = project.record()
    assert (record["name"], record["lastStep"], len(record["checkpoints"])) == (HOSTILE, 1, 1), (
        "kept as it is"
    )


@pytest.mark.parametrize(
    "commands", [USUAL, pytest.param(OTHERS, marks=pytest.mark.soak)], ids=["usual", "others"]
)
def test_nothing_raw_from_names_paths_metrics_and_errors_is_shown_and_no_table_is_broken(
    project: Project, commands: list[tuple[str, ...]]
) -> None:
    hostile_run(project)
    for words in commands:
        done = project.call(*words)
        assert commands_that_obey(done.out + done.err) == [], (words, done)
    table = project.call("list").out.splitlines()
    assert len(table) == 2, table
    assert "[bold red]d[/]:smile:" in table[1]
    assert "a\\x1b[2J" in table[1]


def test_nothing_raw_is_shown_on_a_terminal_either(project: Project) -> None:
    hostile_run(project)
    shown = ""
    for words in [("list",), ("status", "last"), ("checkpoints", "last"), ("plugins",), ("status", HOSTILE)]:
        with Terminal(
            [*command(), *words], cwd=project.folder, env=project.environ(), columns=400
        ) as terminal:
            terminal.end()
            assert [raw for raw in RAW if raw in terminal.shown] == [], (words, terminal.shown)
            shown += terminal.shown
    assert "[bold red]d[/]:smile:" in shown, "markup is text"


PRINTS = r"""
    import os
    os.write(1, b"a\x1b[2Jb\x1b]0;owned\x07c\x9b2Jd\xc2\x9b2Je\x08\x1b[31mred\x1b[0m\x1b[?4mf 10%\r20%\n\xff\0\n")
"""


@pytest.mark.parametrize("flags", [(), ("--plain",), ("--verbose",)], ids=["live", "plain", "verbose"])
def test_a_script_colours_and_overwrites_its_line_on_a_terminal_and_does_nothing_else(
    project: Project, flags: tuple[str, ...]
) -> None:
    project.write("train.py", PRINTS)
    with Terminal(
        [*command(), "run", "train.py", *flags], cwd=project.folder, env=project.environ()
    ) as terminal:
        assert terminal.end() == 0
        assert "\x1b[31mred\x1b[0m" in terminal.shown
        assert "10%\r20%" in terminal.shown
        for raw in ("\x1b[2Jb", "\x1b]0;", "\x07", "\x9b", "\x08\x1b", "\x1b[?4m", "\0"):
            assert raw not in terminal.shown, (raw, terminal.shown)
    with Terminal([*command(), "logs", "last"], cwd=project.folder, env=project.environ()) as terminal:
        terminal.end()
        assert "\x1b[31mred" in terminal.shown
        assert [raw for raw in RAW if raw in terminal.shown] == []


def test_into_a_pipe_a_script_prints_what_it_prints(project: Project) -> None:
    project.write("train.py", PRINTS)
    done = project.call("run", "train.py")
    assert done.raw == (project.run_folder() / "output.log").read_bytes()
    assert b"\x1b[2Jb\x1b]0;owned\x07c\x9b2J" in done.raw
    assert done.raw.endswith(b"\xff\0\n")
    assert project.call("logs", "last").raw == done.raw
    assert os.fsencode(project.place) not in done.raw
