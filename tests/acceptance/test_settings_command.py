"""`backprop config`, `backprop init`, and where the settings of a run come from."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from kit import Project, mode


def shown(project: Project, *words: object, **more: Any) -> dict[str, tuple[Any, str]]:
    """Every setting's value and origin, as `config show --json` has them."""
    done = project.call("config", "show", "--json", *words, **more)
    assert (done.code, done.err) == (0, ""), done
    return {key: (entry["value"], entry["origin"]) for key, entry in json.loads(done.out).items()}


def test_later_sources_win_and_each_value_names_its_own(project: Project) -> None:
    project.home.mkdir(mode=0o700)
    (project.home / "config.toml").write_text("max_run_minutes = 1\nmax_parallel = 1\nmin_free_ram_gb = 1\n")
    file = project.write("backprop.toml", "max_run_minutes = 2\nmax_parallel = 2\n[gpu]\nmax_temp_c = 70\n")
    settings = shown(project, env={"BACKPROP_MAX_RUN_MINUTES": "3", "BACKPROP_MAX_LOG_MB": "9"})
    assert settings["maxRunMinutes"] == (3, "the environment (BACKPROP_MAX_RUN_MINUTES)")
    assert settings["maxParallel"] == (2, str(file))
    assert settings["minFreeRamGB"] == (1, str(project.home / "config.toml"))
    assert settings["gpu.maxTempC"] == (70, str(file))
    assert settings["maxLogMB"] == (9, "the environment (BACKPROP_MAX_LOG_MB)")
    assert settings["gpu.probe"] == ("none", "the environment (BACKPROP_GPU_PROBE)")
    assert settings["stopGraceSeconds"] == (30, "default")
    assert shown(project, "--set", "maxRunMinutes=4")["maxRunMinutes"] == (4, "--set")


def test_a_run_lives_by_the_same_sources_and_flags_win(project: Project) -> None:
    project.write("train.py", "")
    project.write("backprop.toml", 'max_run_minutes = 2\nmax_parallel = 3\n[plugin.absent]\ncolour = "red"\n')
    words = [
        "-m",
        "5",
        "--set",
        "gpu.maxTempC=77",
        "--set",
        "stop_grace_seconds=8",
        "--set",
        "plugin.mine.x=y",
    ]
    env = {"BACKPROP_MAX_RUN_MINUTES": "4", "BACKPROP_CHECKPOINT_EVERY_MINUTES": "6"}
    assert project.run("run", "train.py", *words, env=env).code == 0
    settings = project.record()["settings"]
    assert (settings["maxRunMinutes"], settings["maxParallel"], settings["stopGraceSeconds"]) == (5, 3, 8)
    assert (settings["gpu"]["maxTempC"], settings["checkpointEveryMinutes"]) == (77, 6)
    assert settings["plugin"] == {"absent": {"colour": "red"}, "mine": {"x": "y"}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("backprop.config.json", '{"maxRunMinutes": 7, "gpu": {"maxTempC": 60}}'),
        (".backprop.json", '{"maxRunMinutes": 7, "gpu": {"maxTempC": 60}}'),
        ("backprop.toml", "max_run_minutes = 7\n[gpu]\nmax_temp_c = 60"),
        (
            "pyproject.toml",
            "[project]\nname = 'x'\n[tool.backprop]\nmax_run_minutes = 7\ngpu.max_temp_c = 60",
        ),
    ],
)
def test_every_kind_of_settings_file_is_found_from_below(project: Project, name: str, text: str) -> None:
    file = project.write(name, text)
    below = project.write("src/deep/train.py", "").parent
    settings = shown(project, cwd=below)
    assert settings["maxRunMinutes"] == (7, str(file))
    assert settings["gpu.maxTempC"] == (60, str(file))


def test_the_file_beside_the_script_is_the_projects(project: Project) -> None:
    project.write("backprop.toml", "max_run_minutes = 1")
    project.write("other/backprop.toml", "max_run_minutes = 2")
    project.write("other/.git/HEAD", "")
    project.write("other/src/train.py", "")
    project.call("run", "other/src/train.py")
    assert project.record()["settings"]["maxRunMinutes"] == 2


def test_a_file_named_by_config_is_read_instead(project: Project) -> None:
    project.write("backprop.toml", "max_run_minutes = 1\nmax_parallel = 9")
    given = project.write("elsewhere.json", '{"maxRunMinutes": 3}')
    settings = json.loads(project.call("--config", given, "config", "show", "--json").out)
    assert settings["maxRunMinutes"] == {"value": 3, "origin": str(given)}
    assert settings["maxParallel"]["origin"] == "default"
    project.write("train.py", "")
    project.call("run", "train.py", "--config", "elsewhere.json")
    assert project.record()["settings"]["maxRunMinutes"] == 3


def test_config_show_is_aligned_text_for_people(project: Project) -> None:
    project.write("backprop.toml", "max_run_minutes = 2")
    for words in (["config", "show"], ["config"]):
        lines = project.run(*words).out.splitlines()
        assert lines[0].split() == ["SETTING", "VALUE", "FROM"]
        assert f"maxRunMinutes 2 {project.folder / 'backprop.toml'}".split() in [
            line.split() for line in lines
        ]
        assert "gpuMemoryLimit - default".split() in [line.split() for line in lines]


def test_config_set_writes_toml_and_keeps_what_had_comments(project: Project) -> None:
    done = project.run("config", "set", "maxRunMinutes", "30")
    file = project.folder / "backprop.toml"
    assert (done.code, done.out) == (0, "")
    assert tomllib.loads(file.read_text()) == {"max_run_minutes": 30}
    assert not file.with_name("backprop.toml.bak").exists()
    commented = '# mine\nmax_run_minutes = 30 # long\n[gpu]\nprobe = "none"\n[plugin.mine]\nx = [1, 2]\n'
    file.write_text(commented)
    assert "comments" in project.run("config", "set", "gpu.max_temp_c", "70").err
    assert tomllib.loads(file.read_text()) == {
        "max_run_minutes": 30, "gpu": {"probe": "none", "max_temp_c": 70}, "plugin": {"mine": {"x": [1, 2]}},
    }  # fmt: skip
    assert file.with_name("backprop.toml.bak").read_text() == commented
    project.run("config", "set", "plugin.mine.url", "http://x")
    assert shown(project)["plugin.mine.url"] == ("http://x", str(file))
    assert [path.name for path in project.folder.iterdir() if path.name.startswith(".")] == []


def test_config_set_changes_the_file_that_is_there_in_its_own_spelling(project: Project) -> None:
    file = project.write("backprop.config.json", '{"max_run_minutes": 5, "gpu": {"probe": "none"}}')
    project.call("config", "set", "max_run_minutes", "6")
    project.call("config", "set", "gpu.maxTempC", "70")
    assert json.loads(file.read_text()) == {"maxRunMinutes": 6, "gpu": {"probe": "none", "maxTempC": 70}}
    file.unlink()
    pyproject = project.write("pyproject.toml", "[project]\nname = 'x'\n[tool.backprop]\nmax_parallel = 3\n")
    project.call("config", "set", "maxRunMinutes", "9")
    assert tomllib.loads(pyproject.read_text()) == {
        "project": {"name": "x"}, "tool": {"backprop": {"max_parallel": 3, "max_run_minutes": 9}},
    }  # fmt: skip


def test_config_set_user_writes_the_users_own_file(project: Project) -> None:
    assert project.call("config", "set", "maxParallel", "5", "--user").code == 0
    file = project.home / "config.toml"
    assert tomllib.loads(file.read_text()) == {"max_parallel": 5}
    assert mode(project.home) == 0o700
    assert shown(project)["maxParallel"] == (5, str(file))
    assert list(project.folder.iterdir()) == []


def test_config_set_leaves_a_file_alone_that_it_cannot_change_rightly(project: Project) -> None:
    file = project.write("backprop.toml", "max_parallel = 3\n")
    for key, value in (("maxParallel", "many"), ("maxParalel", "3"), ("plugin.x", "3")):
        assert project.call("config", "set", key, value).code == 2
    assert file.read_text() == "max_parallel = 3\n"


def test_init_writes_every_setting_with_its_default_commented_out(project: Project) -> None:
    before = {key: value for key, (value, _) in shown(project).items()}
    assert project.run("init").code == 0
    file = project.folder / "backprop.toml"
    text = file.read_text()
    assert tomllib.loads(text) == {"gpu": {}}
    lines = [line[2:] if " = " in line and "# an example" not in line else line for line in text.splitlines()]
    file.write_text("\n".join(lines))
    after = shown(project)
    assert {key: value for key, (value, _) in after.items()} == before
    assert [origin for _, origin in after.values()].count(str(file)) > 15
    again = project.call("init")
    assert (again.code, "change it, or use `backprop config set`" in again.err) == (2, True)
