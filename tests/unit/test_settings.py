"""Settings come from five places, later ones win, and each says where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backprop_core.errors import ExitCode, SettingsError
from backprop_core.records import Limits
from backprop_core.settings import DECLARED, Resolved, Settings, home_folder, resolve, to_dict

KEYS = (  # as the reference lists them
    "maxRunMinutes slices untilDone totalMinutes until retries stallMinutes maxParallel minFreeRamGB maxCpuLoad "
    "gpuMemoryLimit checkpointEveryMinutes framework "
    "waitMinutes stopGraceSeconds maxPauseMinutes monitorSeconds gpus through unbuffered maxLogMB storage "
    "launcher python plugins checkpointGlob gpu.probe gpu.minFreeVramMB gpu.maxTempC gpu.cooldownC"
).split()


class Place:
    """A home folder, and in it a project with a script in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.project = self.home / "project"
        self.script = self.project / "src" / "train.py"
        self.script.parent.mkdir(parents=True)
        self.user_file = self.home / ".backprop" / "config.toml"

    def write(self, name: str, text: str) -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def write_user_file(self, text: str) -> None:
        self.user_file.parent.mkdir(exist_ok=True)
        self.user_file.write_text(text)

    def resolve(self, environ: Mapping[str, str] | None = None, **more: Any) -> Resolved:
        more = {"cwd": self.project, "script": self.script, **more}
        own = {"HOME": str(self.home), "BACKPROP_HOME": str(self.user_file.parent)}
        return resolve(environ={**own, **(environ or {})}, **more)

    def problem(self, environ: Mapping[str, str] | None = None, **more: Any) -> str:
        """What is said of settings that cannot be used, with the hint."""
        with pytest.raises(SettingsError) as caught:
            self.resolve(environ, **more)
        assert caught.value.exit_code == ExitCode.USAGE
        return f"{caught.value.message} | {caught.value.hint}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# The sources, and which wins -------------------------------------------------------------------


def test_without_any_source_the_defaults_hold(place: Place) -> None:
    resolved = place.resolve()
    assert resolved == Resolved(settings=Settings())
    assert resolved.limits == Limits()


def test_each_source_wins_over_those_before_it_and_is_named(place: Place) -> None:
    place.write_user_file("max_run_minutes = 1\n")
    file = place.write("backprop.config.json", '{"maxRunMinutes": 2}')
    recorded = {"maxRunMinutes": 1.5}
    environ = {"BACKPROP_MAX_RUN_MINUTES": "3"}
    layers: list[tuple[Resolved, float, str]] = [
        (place.resolve(), 2, str(file)),
        (place.resolve(recorded=recorded), 1.5, "the run's record"),
        (place.resolve(recorded=recorded, config=file), 2, str(file)),
        (place.resolve(environ), 3, "the environment (BACKPROP_MAX_RUN_MINUTES)"),
        (place.resolve(environ, recorded=recorded), 3, "the environment (BACKPROP_MAX_RUN_MINUTES)"),
        (place.resolve(environ, assignments=["max_run_minutes=4"]), 4, "--set"),
        (
            place.resolve(environ, assignments=["maxRunMinutes=4"], flags={"maxRunMinutes": "5"}),
            5,
            "the flag --max-run-minutes",
        ),
    ]
    for resolved, minutes, origin in layers:
        assert (resolved.settings.max_run_minutes, resolved.origins["maxRunMinutes"]) == (minutes, origin)
    file.unlink()
    assert place.resolve().origins == {"maxRunMinutes": str(place.user_file)}


def test_sources_are_merged_setting_by_setting_under_gpu_too(place: Place) -> None:
    place.write_user_file("max_parallel = 3\n[gpu]\nmax_temp_c = 70\n")
    place.write("backprop.toml", "gpus = 'all'\n[gpu]\nprobe = 'none'\n")
    settings = place.resolve({"BACKPROP_GPU_COOLDOWN_C": "2.5"}).settings
    assert (settings.max_parallel, settings.gpus) == (3, "all")
    assert (settings.gpu.max_temp_c, settings.gpu.probe, settings.gpu.cooldown_c) == (70, "none", 2.5)


def test_a_flag_that_was_not_given_sets_nothing(place: Place) -> None:
    assert place.resolve(flags={"maxRunMinutes": None}).origins == {}


def test_a_named_file_is_read_instead_of_the_one_that_would_be_found(place: Place, tmp_path: Path) -> None:
    place.write("backprop.toml", "max_parallel = 3\n")
    other = tmp_path / "other.toml"
    other.write_text("max_run_minutes = 4\n")
    resolved = place.resolve(config=other)
    assert (resolved.settings.max_run_minutes, resolved.settings.max_parallel) == (4, 2)
    assert (resolved.project_file, resolved.project_root) == (other, tmp_path)
    assert "does not exist" in place.problem(config=tmp_path / "none.toml")


def test_a_recorded_run_takes_nothing_from_files(place: Place) -> None:
    place.write_user_file("max_parallel = 3\n")
    place.write("backprop.toml", "max_parallel = 4\n")
    recorded = to_dict(place.resolve(assignments=["gpu.maxTempC=70", "plugin.notify.url=x"]).settings)
    place.user_file.write_text("broken =")
    resolved = place.resolve(recorded={**recorded, "maxParallel": 7})
    assert (resolved.settings.max_parallel, resolved.settings.gpu.max_temp_c) == (7, 70)
    assert resolved.settings.plugin == {"notify": {"url": "x"}}


# Inside a run ----------------------------------------------------------------------------------


def test_inside_a_run_the_variables_that_tell_the_script_are_no_settings(place: Place) -> None:
    told = {"BACKPROP_RUN_ID": "outer", "BACKPROP_FRAMEWORK": "pytorch", "BACKPROP_MAX_RUN_MINUTES": "3"}
    inside = place.resolve(told)
    assert inside.settings.framework == "auto"
    assert inside.settings.max_run_minutes == 3, "a person's own variable holds inside a run too"
    assert place.resolve({"BACKPROP_FRAMEWORK": "pytorch"}).settings.framework == "pytorch"


def test_unknown_variables_are_no_errors(place: Place) -> None:
    assert place.resolve({"BACKPROP_MAX_RUN_MINUTS": "3", "BACKPROP_X": ""}).origins == {}


# Where a project file is found -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["backprop.config.json", ".backprop.json", "backprop.toml"])
def test_the_project_file_is_found_above_the_script_and_makes_its_folder_the_root(
    place: Place, name: str
) -> None:
    file = place.write(name, '{"maxParallel": 3}' if name.endswith("json") else "max_parallel = 3")
    resolved = place.resolve(cwd=place.home)
    assert resolved.settings.max_parallel == 3
    assert (resolved.project_file, resolved.project_root) == (file, place.project)


def test_the_scripts_folder_comes_before_the_working_directory_which_is_searched_upwards_too(
    place: Place, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (tmp_path / "elsewhere" / "backprop.toml").write_text("max_parallel = 5")
    assert place.resolve(cwd=elsewhere).settings.max_parallel == 5
    assert place.resolve(cwd=elsewhere, script=None).settings.max_parallel == 5
    place.write("backprop.toml", "max_parallel = 3")
    assert place.resolve(cwd=elsewhere).settings.max_parallel == 3


@pytest.mark.parametrize("end", ["repository", "home"])
def test_the_search_ends_at_the_repository_root_and_at_home(place: Place, end: str) -> None:
    outside = place.home.parent if end == "home" else place.home
    (outside / "backprop.toml").write_text("max_parallel = 5")
    if end == "repository":
        (place.project / ".git").mkdir()
    assert place.resolve().project_file is None
    inside = place.home if end == "home" else place.project
    (inside / "backprop.toml").write_text("max_parallel = 6")
    assert place.resolve().settings.max_parallel == 6


def test_pyproject_counts_where_it_has_our_table_and_stands_behind_files_of_our_own(place: Place) -> None:
    (place.home / "backprop.toml").write_text("max_parallel = 5")
    file = place.write("pyproject.toml", "[project]\nname = 'x'\n[tool.backpropagate]\nx = 1\n")
    assert place.resolve().settings.max_parallel == 5, "a table with a longer name is not ours"
    file.write_text("[tool.backprop]\nmax_parallel = 3\n[tool.backprop.gpu]\nmax_temp_c = 70\n")
    resolved = place.resolve()
    assert (resolved.settings.max_parallel, resolved.settings.gpu.max_temp_c) == (3, 70)
    assert resolved.origins["gpu.maxTempC"] == str(file)
    file.write_text("[tool.backprop.gpu]\nmax_temp_c = 71\n")
    assert place.resolve().settings.gpu.max_temp_c == 71
    place.write("backprop.toml", "max_parallel = 4")
    assert place.resolve().settings.max_parallel == 4


# What cannot be used ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "line", "column"),
    [
        ("backprop.config.json", '{"maxParallel": 3,\n  "gpus": }', 2, 11),
        ("backprop.config.json", "", 1, 1),
        ("backprop.config.json", "[" * 100_000, 1, 1),
        ("backprop.config.json", '{"maxParallel": ' + "9" * 5000 + "}", 1, 17),
        ("backprop.toml", "max_parallel = 3\ngpus = \n", 2, 8),
        ("backprop.toml", "max_parallel = 'x", 1, 18),
        ("backprop.toml", "a = " + "[" * 5000, 1, 1),
        ("backprop.toml", "max_parallel = " + "9" * 5000, 1, 16),
        ("pyproject.toml", "[tool.backprop]\n= 3\n", 2, 1),
    ],
)
def test_a_file_that_does_not_parse_is_an_error_with_line_and_column(
    place: Place, name: str, text: str, line: int, column: int
) -> None:
    file = place.write(name, text)
    assert place.problem().startswith(f"{file}, line {line}, column {column}: ")


def test_a_file_of_another_shape_or_that_cannot_be_read_is_an_error(place: Place) -> None:
    file = place.write("backprop.config.json", "[1, 2]")
    assert f"{file} holds no object" in place.problem()
    file.write_bytes(b'{"python": "\xff"}')
    assert f"{file} cannot be read" in place.problem()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("backprop.config.json", '{\n "maxRunMinuts": 1}', ', line 2 | did you mean "maxRunMinutes"?'),
        ("backprop.toml", "\nmax_paralel = 1", ', line 2 | did you mean "max_parallel"?'),
        ("backprop.toml", "[gpu]\nmax_temp = 1", ', line 2 | did you mean "gpu.max_temp_c"?'),
        ("backprop.toml", "zzz = 1", ", line 1 | `backprop config show` lists every setting"),
        ("backprop.toml", "gpu = 1", ", line 1 | "),
    ],
)
def test_an_unknown_key_is_an_error_with_its_place_and_the_closest_known_key(
    place: Place, name: str, text: str, said: str
) -> None:
    file = place.write(name, text)
    problem = place.problem()
    assert problem.startswith("unknown setting ")
    assert f"in {file}{said}" in problem


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("maxRunMinutes", [0, -1, "ten", None, True, [], {}, "nan", "inf", 1e300, " "]),
        ("maxParallel", [0, 1.5, "x", "1.5", False, 10**30]),
        ("monitorSeconds", [0.05, 0]),
        ("waitMinutes", [-0.1]),
        ("gpus", [0, -1, "some", 1.5, "0"]),
        ("gpuMemoryLimit", ["", "0%", "101%", "-1", "lots", 0, -2.5, True, [8]]),
        ("unbuffered", ["perhaps", 1, None]),
        ("framework", [1, None, ["pytorch"]]),
        ("plugins", [1, [1], {"a": 1}]),
        ("through", ["torchrun 'x", " "]),
        ("gpu.maxTempC", ["hot", 0]),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_says_what_is_expected(
    place: Place, key: str, bad: list[Any]
) -> None:
    expected = f"it must be {DECLARED[key].expects}"
    for value in bad:
        file = place.write("backprop.config.json", json.dumps({"python": "x", key: value}, indent=1))
        problem = place.problem()
        assert problem.startswith(f"{key} is ")
        assert problem.endswith(f"in {file}, line 3 | {expected}")


def test_numbers_that_json_does_not_know_are_refused(place: Place) -> None:
    for word in ("NaN", "Infinity", "-Infinity"):
        place.write("backprop.config.json", f'{{"maxRunMinutes": {word}}}')
        assert "it must be a number above 0" in place.problem()


def test_values_in_variables_and_assignments_are_texts_of_the_settings_type(place: Place) -> None:
    settings = place.resolve(
        {"BACKPROP_UNBUFFERED": "false", "BACKPROP_GPUS": "2", "BACKPROP_PLUGINS": "a, no:b,"},
        assignments=["gpuMemoryLimit=80%", "through=torchrun --nproc-per-node 2", "python="],
    ).settings
    assert (settings.unbuffered, settings.gpus, settings.plugins) == (False, 2, ("a", "no:b"))
    assert (settings.gpu_memory_limit, settings.through) == ("80%", "torchrun --nproc-per-node 2")
    assert place.resolve({"BACKPROP_GPUS": "all"}).settings.gpus == "all"
    assert "in the environment (BACKPROP_GPUS)" in place.problem({"BACKPROP_GPUS": "0"})
    assert "in the flag --gpus" in place.problem(flags={"gpus": "x"})


def test_a_memory_limit_may_be_a_number_of_gb(place: Place) -> None:
    place.write("backprop.config.json", '{"gpuMemoryLimit": 8}')
    assert place.resolve().settings.gpu_memory_limit == "8"


@pytest.mark.parametrize("text", ["maxRunMinutes", "=1", "", "plugin.x=1"])
def test_an_assignment_without_key_or_value_is_refused(place: Place, text: str) -> None:
    assert "--set" in place.problem(assignments=[text])


# Options of plugins ----------------------------------------------------------------------------


def test_options_of_a_plugin_are_kept_whether_it_is_there_or_not(place: Place) -> None:
    place.write("backprop.toml", "[plugin.notify]\nurl = 'x'\nevery = 2\n")
    resolved = place.resolve(assignments=["plugin.notify.every=3", "plugin.a.b.c=4"])
    assert resolved.settings.plugin == {"notify": {"url": "x", "every": "3"}, "a": {"b.c": "4"}}
    assert resolved.origins["plugin.notify.every"] == "--set"


@pytest.mark.parametrize("text", ['{"plugin.notify": 1}', '{"plugin": {"notify": 1}}', '{"plugin": 1}'])
def test_options_of_a_plugin_that_are_no_table_are_an_error_with_the_file(place: Place, text: str) -> None:
    file = place.write("backprop.config.json", text)
    problem = place.problem()
    assert "plugin" in problem
    assert str(file) in problem


# One declaration -------------------------------------------------------------------------------


def test_the_declaration_has_exactly_the_documented_keys() -> None:
    assert list(DECLARED) == KEYS
    assert list(to_dict(Settings())) == [key for key in KEYS if "." not in key] + ["gpu", "plugin"]


@pytest.mark.parametrize("key", KEYS)
def test_each_setting_has_help_a_variable_and_says_what_it_expects(place: Place, key: str) -> None:
    setting = DECLARED[key]
    assert setting.help.endswith(".")
    assert setting.expects
    assert setting.flag is None or setting.flag.startswith("--")
    example = {
        "gpuMemoryLimit": "80%",
        "gpus": "all",
        "plugins": "a",
        "unbuffered": "false",
        "until": "18:00",
        "untilDone": "true",
    }
    text = example.get(key, "7" if "number" in setting.expects else "none")
    resolved = place.resolve({setting.variable: text})
    assert resolved.origins == {key: f"the environment ({setting.variable})"}
    by_snake = place.resolve(assignments=[f"{setting.snake}={text}"])
    assert by_snake.settings == resolved.settings == place.resolve(assignments=[f"{key}={text}"]).settings
    assert resolved.settings != Settings(), "the value has arrived"


def test_limits_have_the_defaults_of_the_settings_of_the_same_names() -> None:
    assert Limits.from_settings(to_dict(Settings())) == Limits()


# Home ------------------------------------------------------------------------------------------


def test_home_is_the_variable_else_a_folder_in_the_persons_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert home_folder({"BACKPROP_HOME": "here"}) == tmp_path / "here"
    assert home_folder({}) == tmp_path / ".backprop"
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(SettingsError, match="no home folder"):
        home_folder({})
