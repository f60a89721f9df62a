"""What a person does wrong: the exit code and one to three lines that say what, where and what to do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from kit import Done, Project


def files_in(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below, with its modification time and its content, but this machine's locks."""
    return {
        str(path.relative_to(place)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(place.rglob("*"))
        if path.is_file() and "hosts" not in path.parts
    }


def complaint(project: Project, *words: object, code: int, env: dict[str, str | None] | None = None) -> str:
    """Run a command that must fail; return what it says, having seen that nothing was written or printed."""
    before = files_in(project.place)
    done = project.call(*words, env=env)
    assert (done.code, done.out) == (code, ""), done
    assert files_in(project.place) == before
    assert is_brief(done), done.err
    return done.err


def is_brief(done: Done) -> bool:
    lines = done.err.splitlines()
    return lines[0].startswith("backprop: ") and len(lines) <= 3 and all(map(str.strip, lines))


USAGE = {
    "no script": ("run", "give either a script or --module, and not both"),
    "script and module": ("run train.py --module pkg", "give either a script or --module, and not both"),
    "a folder": ("run .", "did you mean train.py?"),
    "arguments without dashes": ("run train.py extra", "what belongs to the script goes after `--`"),
    "a script's option without dashes": ("run train.py --lr 3", "what belongs to the script goes after `--`"),
    "no such command": ("rum train.py", "No such command 'rum'"),
    "no such option": ("list --nope", "No such option: --nope"),
    "a value is missing": ("run train.py -m", "'-m' requires an argument"),
    "no number of minutes": ("run train.py -m abc", 'maxRunMinutes is "abc" in the flag --max-run-minutes'),
    "no minutes": ("run train.py -m 0", "it must be a number above 0"),
    "endless minutes": ("run train.py -m inf", 'maxRunMinutes is "inf"'),
    "a banana": ("run train.py -g banana", 'it must be a share such as "80%" or GB such as "8"'),
    "no slot": ("run train.py -p 0", "it must be a whole number from 1"),
    "no GPU": ("run train.py --gpus 0", 'it must be a whole number from 1, or "all"'),
    "an open quote": ("run train.py --through \"torchrun 'x\"", "through is "),
    "a run id that climbs": ("run train.py --run-id ../../x", "'../../x' is not a run id"),
    "a run id with an end of line": ("run train.py --run-id 'x\n'", "is not a run id"),
    "an empty run id": ("run train.py --run-id ''", "is not a run id"),
    "a framework": ("run train.py -f pytorhc", "pytorch"),
    "a probe": ("run train.py --gpu-probe nvm", 'did you mean "nvml"?'),
    "a storage": ("run train.py --storage jason", 'no storage named "jason" is installed'),
    "a launcher": ("run train.py --launcher lokal", 'did you mean "local"?'),
    "an interpreter": ("run train.py --python python9", "--python python9: there is no such command on PATH"),
    "an interpreter by path": ("run train.py --python ./x", "there is no executable file"),
    "a plugin": ("run train.py --plugin nope", "plugin nope does not load"),
    "a setting without a value": ("run train.py --set maxRunMinutes", "is not KEY=VALUE"),
    "an unknown setting": ("run train.py --set maxRunMinuts=3", 'did you mean "maxRunMinutes"?'),
    "a nested setting": ("run train.py --set gpu.maxTempC=hot", 'gpu.maxTempC is "hot" in --set'),
    "a settings file": ("run train.py --config nope.toml", "the settings file nope.toml does not exist"),
    "a settings file for list": ("--config nope.toml list", "the settings file nope.toml does not exist"),
    "a state": ("list --state zombie", "there is no state 'zombie'"),
    "a setting to set": ("config set maxRunMinuts 3", 'did you mean "maxRunMinutes"?'),
    "a value to set": ("config set maxRunMinutes abc", 'maxRunMinutes is "abc" in `config set`'),
    "a resume without a run": ("resume", "Missing argument 'RUN'"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), USAGE.values(), ids=USAGE)
def test_wrong_usage_exits_2_and_writes_nothing(project: Project, words: str, said: str) -> None:
    project.write("train.py", "open('ran', 'w')")
    assert said in complaint(project, *shlex.split(words), code=2)


MISSING = {
    "script": ("run tarin.py", "did you mean train.py?"),
    "folder": ("run nowhere/train.py", "there is no script nowhere/train.py"),
    "module": ("run --module pkg.nope", "there is no module pkg.nope"),
    "checkpoint": ("run train.py -r nope.pt", "nope.pt does not exist"),
    "run to resume": ("resume nope", "there is no run 'nope'"),
    "run for status": ("status nope", "`backprop list --all` shows every run"),
    "run for logs": ("logs nope", "there is no run 'nope'"),
    "run to stop": ("stop nope", "there is no run 'nope'"),
    "run to pause": ("pause ../../x", "there is no run '../../x'"),
    "run to unpause": ("unpause nope", "there is no run 'nope'"),
    "last run": ("resume last", "there are no runs yet"),
    "agent's run": ("agent nope", "there is no run 'nope'"),
}


@pytest.mark.parametrize(("words", "said"), MISSING.values(), ids=MISSING)
def test_what_does_not_exist_exits_66_and_writes_nothing(project: Project, words: str, said: str) -> None:
    project.write("train.py", "open('ran', 'w')")
    assert said in complaint(project, *words.split(), code=66)


FILES = {
    "json that does not parse": (
        "backprop.config.json", '{\n  "maxRunMinutes": 5,\n  oops\n}', "backprop.config.json, line 3, column 3",
    ),
    "json that ends early": ("backprop.config.json", '{"maxRunMinutes": 5', "line 1, column 20"),
    "json that is no object": ("backprop.config.json", "[1]", "holds no object"),
    "json that is too deep": ("backprop.config.json", "[" * 100_000, "line 1, column 1: nested too deeply"),
    "hidden json": (".backprop.json", "nope", ".backprop.json, line 1, column 1"),
    "toml that does not parse": ("backprop.toml", "max_parallel = 1\nx = = 2\n", "backprop.toml, line 2, column 5"),
    "toml in pyproject": ("pyproject.toml", "[tool.backprop]\nmax_parallel = 0\n", "pyproject.toml"),
    "no text": ("backprop.toml", "\0\1\2", "backprop.toml, line 1, column 1"),
    "unknown key": ("backprop.toml", "# x\n\nmax_runn_minutes = 1\n", "backprop.toml, line 3"),
    "unknown key in gpu": ("backprop.config.json", '{"gpu": {"maxTemp": 80}}', 'did you mean "gpu.maxTempC"?'),
    "bad value": ("backprop.toml", 'max_parallel = "many"\n', 'maxParallel is "many" in'),
    "value of a wrong kind": ("backprop.toml", "unbuffered = 3\n", "it must be true or false"),
    "not finite": ("backprop.toml", "max_run_minutes = inf\n", "it must be a number above 0"),
    "plugin options that are none": ("backprop.toml", "[plugin]\nwandb = 3\n", '"plugin.wandb" is no table of options'),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), FILES.values(), ids=FILES)
def test_a_bad_settings_file_exits_2_and_names_the_place(
    project: Project, name: str, text: str, said: str
) -> None:
    project.write("train.py", "open('ran', 'w')")
    (project.folder / name).write_text(text)
    shown = complaint(project, "run", "train.py", code=2)
    assert said in shown
    assert str(project.folder / name) in shown


def test_a_bad_file_of_the_users_own_and_a_bad_variable_are_errors_too(project: Project) -> None:
    project.write("train.py", "")
    variable: dict[str, str | None] = {"BACKPROP_MAX_RUN_MINUTES": "soon"}
    said = complaint(project, "run", "train.py", code=2, env=variable)
    assert 'maxRunMinutes is "soon" in the environment (BACKPROP_MAX_RUN_MINUTES)' in said
    project.home.mkdir(mode=0o700)
    (project.home / "config.toml").write_text("nonsense")
    for command in ("list", "status", "resume"):
        words = [command, *(["last"] if command == "resume" else [])]
        assert f"{project.home / 'config.toml'}, line 1" in complaint(project, *words, code=2)


def test_variables_that_nobody_knows_are_no_error(project: Project) -> None:
    done = project.run("list", env={"BACKPROP_FLUX_CAPACITOR": "1.21", "BACKPROP_MAX_RUN_MINUTE": "x"})
    assert (done.code, done.err) == (0, "")


def test_installed_names_that_do_not_work_here_are_75(project: Project) -> None:
    project.write("train.py", "")
    (project.place / "empty").mkdir()
    done = project.run(
        "run", "train.py", "--gpu-probe", "nvidia-smi", env={"PATH": str(project.place / "empty")}
    )
    assert done.code == 75
    assert "nvidia-smi" in done.err
    assert is_brief(done)


def test_a_home_that_cannot_be_used_is_an_error(project: Project) -> None:
    project.write("train.py", "open('ran', 'w')")
    project.home.mkdir()
    os.chmod(project.home, 0o777)
    done = project.call("run", "train.py")
    assert done.code == 2
    assert is_brief(done)
    project.home.rmdir()
    project.home.write_text("a file")
    assert "backprop-home" in complaint(project, "run", "train.py", code=2)
    assert not (project.folder / "ran").exists()


def test_a_name_with_escape_characters_is_shown_escaped_in_errors(project: Project) -> None:
    done = project.run("run", "\x1b[31mred.py", env={"LC_ALL": "C"})
    assert done.code == 66
    assert "\\x1b[31mred.py" in done.err
    assert "\x1b" not in done.err


def test_help_and_version_work_beside_a_broken_project(project: Project) -> None:
    (project.folder / "backprop.toml").write_text("nonsense")
    project.write("backprop_plugins.py", "raise SystemExit(9)")
    for words in (["--version"], ["--help"], ["config", "--help"]):
        done = project.run(*words)
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
    done = project.run("run", "--help")  # it tells which file keeps it from showing plugins' options
    assert done.code == 0
    assert "--max-run-minutes" in done.out
    assert done.err.splitlines()[0].startswith(f"backprop: {project.folder / 'backprop.toml'}, line 1")
    assert not project.home.exists()


def test_every_documented_option_of_run_is_in_its_help(project: Project) -> None:
    shown = project.call("run", "--help", env={"COLUMNS": "200"}).out
    options = (
        "-m --max-run-minutes -f --framework -c --checkpoint-every-minutes -r --resume-from --run-id -n --name -g "
        "--gpu-memory-limit -p --max-parallel --min-free-ram --gpu-probe --gpu-min-vram --gpu-max-temp --gpus "
        "--through --max-cpu-load --wait --force --stop-grace --max-pause --storage --launcher --python --set --plain "
        "--detach --config --verbose --dry-run --plugin --no-plugin --no-local-plugins"
    )
    words = shown.split()
    assert [option for option in options.split() if option not in words] == []
