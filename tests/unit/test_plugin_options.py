"""What plugins declare is read, checked and spelled like any other setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from fake_plugins import bring, plugins_with

from backprop_core import PluginError, PluginOption, SettingsError
from backprop_core.cli.app import build_app
from backprop_core.cli.plugin_flags import read_first
from backprop_core.plugin_options import RESERVED, OptionSetting, declared, refuse_clashes, section_of
from backprop_core.settings import DECLARED, resolve


def options(*several: PluginOption) -> dict[str, OptionSetting]:
    return declared(plugins_with(backprop_options=lambda: several))


def test_no_flag_of_run_and_resume_is_left_to_plugins() -> None:
    group: Any = typer.main.get_command(build_app(None))
    commands = [group, group.commands["run"], group.commands["resume"]]
    ours = {
        name for each in commands for option in each.params for name in (*option.opts, *option.secondary_opts)
    }
    flags = {setting.flag for setting in DECLARED.values() if setting.flag}
    assert {name for name in ours if name.startswith("--")} | {"--help"} == RESERVED | flags
    assert not RESERVED & flags


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Url"}, "'Url' is not of small letters"),
        ({"name": "a--b"}, "'a--b'"),
        ({"name": "-x"}, "'-x'"),
        ({"name": "x", "type": list}, "is not str, int, float or bool"),
        ({"name": "x", "type": int, "default": True}, "is no int: True"),
        ({"name": "x", "default": 3}, "is no str: 3"),
    ],
)
def test_an_option_that_could_be_no_flag_is_refused_where_it_is_declared(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        PluginOption(help="", **fields)


def test_an_option_is_a_setting_with_a_key_a_variable_and_flags() -> None:
    found = options(PluginOption(name="dry-air", help="", type=bool))["plugin.one.dry-air"]
    assert (found.variable, found.flags) == ("BACKPROP_PLUGIN_ONE_DRY_AIR", ("--dry-air", "--no-dry-air"))
    assert (found.plugin, found.path) == ("one", "/one.py")


@pytest.mark.parametrize(
    ("plugin", "section"),
    [
        ("notify", "notify"),
        ("my.house_rules", "house_rules"),
        ("/x/y/backprop_plugins.py", "backprop_plugins"),
    ],
)
def test_options_are_set_under_the_last_part_of_their_plugins_name(plugin: str, section: str) -> None:
    assert section_of(plugin) == section


@pytest.mark.parametrize("spelling", ["dry-air", "dry_air", "dryAir"])
def test_each_spelling_means_the_same_option_and_later_sources_win(tmp_path: Path, spelling: str) -> None:
    known = options(PluginOption(name="dry-air", help="", type=float, default=1))
    config = tmp_path / "backprop.toml"
    config.write_text(f"[plugin.one]\n{spelling} = 2\n[plugin.absent]\nx = 7\n")

    def resolved(environ: dict[str, str], **more: Any) -> tuple[Any, str | None]:
        found = resolve(
            environ={"BACKPROP_HOME": str(tmp_path), **environ},
            cwd=tmp_path,
            config=config,
            options=known,
            **more,
        )
        assert found.settings.plugin["absent"] == {"x": 7}
        assert list(found.settings.plugin["one"]) == ["dry-air"]
        return found.settings.plugin["one"]["dry-air"], found.origins.get("plugin.one.dry-air")

    variable = {"BACKPROP_PLUGIN_ONE_DRY_AIR": "3"}
    assert resolved({}) == (2, str(config))
    assert resolved(variable) == (3, "the environment (BACKPROP_PLUGIN_ONE_DRY_AIR)")
    assert resolved(variable, assignments=[f"plugin.one.{spelling}=4"]) == (4, "--set")
    flags = {"plugin.one.dry-air": "5"}
    assert resolved(variable, assignments=["plugin.one.dry-air=4"], flags=flags) == (5, "the flag --dry-air")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, 1.5, "a whole number"),
        (int, "1.5", "a whole number"),
        (float, "nan", "a number"),
        (bool, 1, "true or false"),
        (str, 5, "text"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_says_what_is_expected(
    tmp_path: Path, kind: type, value: Any, said: str
) -> None:
    known = options(PluginOption(name="x", help="", type=kind))
    with pytest.raises(SettingsError, match=r"plugin\.one\.x is .* in the flag --x") as caught:
        resolve(environ={"BACKPROP_HOME": "/h"}, cwd=tmp_path, options=known, flags={"plugin.one.x": value})
    assert caught.value.hint == f"it must be {said}"


@pytest.mark.parametrize(
    ("words", "subject"),
    [
        ("run train.py --url x", "train.py"),
        ("run --url x train.py", "train.py"),
        ("run --loud train.py", "train.py"),
        ("run --url=x train.py", "train.py"),
        ("run -m 5 --url x train.py", "train.py"),
        ("run -m5 train.py --url", "train.py"),
        ("--plugin p run --url x", "x"),
        ("run --url", None),
    ],
)
def test_the_script_is_told_from_values_of_options_that_nobody_knows_yet(
    words: str, subject: str | None
) -> None:
    assert read_first("run", words.split()).subject == subject


def test_what_decides_about_plugins_is_read_wherever_it_stands() -> None:
    words = (
        "--config c.toml --plugin a run --url x train.py --plugin b --set k=v --no-local-plugins --storage=s"
    )
    given = read_first("run", words.split()).given
    assert given["--plugin"] == ["a", "b"]
    assert [given[name] for name in ("--config", "--set", "--storage")] == [["c.toml"], ["k=v"], ["s"]]
    assert "--no-local-plugins" in given


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            PluginOption(name="max-run-minutes", help=""),
            "plugin two (/two.py) declares --max-run-minutes, which is",
        ),
        (
            PluginOption(name="no-shout", help=""),
            "two plugins declare --no-shout: two (/two.py) and one (/one.py)",
        ),
        (PluginOption(name="quiet", help=""), None),
    ],
)
def test_every_flag_has_one_meaning(option: PluginOption, said: str | None) -> None:
    plugins = plugins_with(backprop_options=lambda: [PluginOption(name="shout", help="", type=bool)])
    bring(plugins, "two", backprop_options=lambda: [option])
    if said is None:
        refuse_clashes(plugins)
    else:
        with pytest.raises(PluginError) as caught:
            refuse_clashes(plugins)
        assert caught.value.message.startswith(said)
