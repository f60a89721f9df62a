"""Commands that a plugin adds to the command line."""

from __future__ import annotations

import pytest
from kit import Project

GREETING = """
    import typer
    from backprop_core import hookimpl

    app = typer.Typer()

    @app.command()
    def greet(name: str = "you") -> None:
        "Say hello."
        print("hello", name)

    @hookimpl
    def backprop_commands():
        return {"greet": app, "list": app}
"""


@pytest.fixture
def greeting(project: Project) -> Project:
    project.write("greeting.py", GREETING)
    project.write("backprop.toml", 'plugins = ["greeting"]')
    return project


def test_a_plugins_command_is_typed_like_any_other_and_stands_in_the_help(greeting: Project) -> None:
    done = greeting.run("greet", "--name", "me")
    assert (done.code, done.out) == (0, "hello me\n")
    assert "Say hello." in greeting.run("--help").out


def test_a_plugin_does_not_take_over_a_command_of_ours_and_is_told(greeting: Project) -> None:
    assert "the command 'list' is taken" in greeting.run("greet").err
    listed = greeting.run("list")
    assert "hello" not in listed.out
    assert listed.err == ""


def test_broken_settings_do_not_break_the_help(project: Project) -> None:
    project.write("backprop.toml", "not toml")
    done = project.run("--help")
    assert done.code == 0
    assert "Usage" in done.out
