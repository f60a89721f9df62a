"""Options that a plugin declares once: a flag, a setting, a variable, and what the plugin is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit import Project

NOTIFY = """
    import json
    from pathlib import Path
    from backprop_core import PluginOption, hookimpl

    @hookimpl
    def backprop_options():
        return [
            PluginOption(name="notify-url", help="Where to [post]."),
            PluginOption(name="patience", help="How many seconds to wait.", type=int, default=3),
            PluginOption(name="shout", help="Say it loudly.", type=bool, default=False),
        ]

    @hookimpl
    def backprop_configure(settings):
        Path(__file__).with_name("told.json").write_text(json.dumps(settings.plugin))
"""
OTHER = """
    from backprop_core import PluginOption, hookimpl

    @hookimpl
    def backprop_options():
        return [PluginOption(name={!r}, help="Something else.")]
"""


@pytest.fixture
def notifying(project: Project) -> Project:
    """A project whose settings name a plugin with options."""
    project.write("notify.py", NOTIFY)
    project.write("backprop.toml", 'plugins = ["notify"]\n[plugin.notify]\npatience = 4\n')
    project.write("train.py", "raise SystemExit(1)")
    return project


def told(project: Project) -> dict[str, Any]:
    """What the plugin was given by the last command."""
    settings: dict[str, Any] = json.loads((project.folder / "told.json").read_text())
    return dict(settings["notify"])


def test_flag_variable_and_file_reach_the_plugin_and_stay_with_the_run(notifying: Project) -> None:
    env = {"BACKPROP_PLUGIN_NOTIFY_NOTIFY_URL": "http://variable"}
    assert notifying.run("run", "--patience", "5", "train.py", "--shout", env=env).code == 1
    given = {"notify-url": "http://variable", "patience": 5, "shout": True}
    assert told(notifying) == given == notifying.record()["settings"]["plugin"]["notify"]
    assert notifying.run("resume", "last", "--no-shout", "--notify-url=http://flag").code == 1
    assert told(notifying) == {**given, "notify-url": "http://flag", "shout": False}
    assert notifying.run("resume", "last", "--detach").code == 0
    notifying.wait_for_state("failed")
    assert told(notifying) == {**given, "notify-url": "http://flag", "shout": False}
    assert notifying.record()["settings"]["plugin"]["notify"] == told(notifying)


def test_the_help_of_run_has_a_panel_for_each_plugin_and_runs_no_file_beside_a_script(
    notifying: Project,
) -> None:
    notifying.write("backprop_plugins.py", "1 / 0")
    done = notifying.run("run", "train.py", "--help")
    assert (done.code, done.err) == (0, "")
    panel = done.out.partition("Options of the plugin notify")[2]
    for text in (
        "--notify-url",
        "TEXT",
        "Where to [post].",
        "--no-shout",
        "How many seconds to wait. [default: 3]",
    ):
        assert text in panel


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["--patience", "many"], {}, ['patience is "many" in the flag --patience', "must be a whole number"]),
        ([], {"BACKPROP_PLUGIN_NOTIFY_SHOUT": "x"}, ["BACKPROP_PLUGIN_NOTIFY_SHOUT", "must be true or false"]),
        (["--set", "plugin.notify.patiense=1"], {}, ["plugin.notify.patiense", 'mean "plugin.notify.patience"?']),
        (["--patiense", "1"], {}, ["No such option: --patiense", "--patience"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_two_lines_before_anything_happens(
    notifying: Project, words: list[str], env: dict[str, str], said: list[str]
) -> None:
    done = notifying.run("run", "train.py", *words, env=env)
    assert (done.code, len(done.err.splitlines())) == (2, 2)
    assert [text for text in said if text not in done.err] == []
    assert notifying.records() == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("name", "plugin other ({other}) declares --name, which is an option of Backprop's own"),
        ("patience", "two plugins declare --patience: other ({other}) and notify ({notify})"),
    ],
)
def test_a_flag_with_two_meanings_is_an_error_that_names_both_but_takes_nobodys_stop_away(
    notifying: Project, option: str, said: str
) -> None:
    other = notifying.write("other.py", OTHER.format(option))
    text = said.format(other=other, notify=notifying.folder / "notify.py")
    words = ["--plugin", "other"]
    done = notifying.run(*words, "run", "train.py")
    first, second = done.err.splitlines()
    assert (done.code, text in first) == (2, True)
    assert "--no-plugin" in second
    assert notifying.records() == []
    helped = notifying.run(*words, "run", "--help")
    assert (helped.code, "Usage" in helped.out, text in helped.err) == (0, True, True)
    assert notifying.run(*words, "list").code == 0


def test_config_knows_the_options_of_installed_plugins(notifying: Project) -> None:
    file = notifying.folder / "backprop.toml"
    shown = json.loads(notifying.run("config", "show", "--json").out)
    assert shown["plugin.notify.patience"] == {"value": 4, "origin": str(file)}
    assert shown["plugin.notify.shout"] == {"value": False, "origin": "default"}
    assert notifying.run("config", "set", "plugin.notify.notify_url", "http://set").code == 0
    wrong = notifying.run("config", "set", "plugin.notify.patience", "many")
    assert (wrong.code, "it must be a whole number" in wrong.err) == (2, True)
    assert '[plugin.notify]\npatience = 4\nnotify-url = "http://set"\n' in file.read_text()


def test_a_plugin_that_fails_to_declare_is_named_where_its_option_is_missed(project: Project) -> None:
    project.write("train.py", "")
    local = project.write("backprop_plugins.py", OTHER.format("Not A Flag"))
    done = project.run("run", "train.py", "--not-a-flag")
    assert done.code == 2
    assert f"plugin {local} failed in backprop_options: ValueError: the option name 'Not A Flag'" in done.err
    assert "No such option: --not-a-flag" in done.err
    assert project.run("run", "train.py").code == 0


def test_a_file_beside_the_script_declares_options_wherever_the_script_is_named(project: Project) -> None:
    project.write("deep/train.py", "raise SystemExit(1)")
    project.write("deep/backprop_plugins.py", NOTIFY)
    given: Path = project.folder / "deep" / "told.json"
    for words in (
        ["run", "--notify-url", "u", "deep/train.py"],
        ["run", "deep/train.py", "--notify-url", "u"],
        ["run", "--notify-url=u", "--shout", "deep/train.py"],
        ["resume", "--notify-url", "u", "last"],
    ):
        assert project.run(*words).code == 1, words
        assert json.loads(given.read_text())["backprop_plugins"]["notify-url"] == "u"
        given.unlink()
