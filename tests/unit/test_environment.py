"""What a script is told, by its command line and by its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import bring, plugins_with

from backprop_core.environment import (
    Told,
    build,
    command_line,
    contract,
    from_plugins,
    helper_folder,
    kept,
    restored,
)
from backprop_core.records import Gpu, RunRequest, Script
from backprop_core.settings import RUN_VARIABLES

ALL_OPTIONS = frozenset(
    "--resume-from --run-id --max-minutes --framework --checkpoint-every-seconds --lr".split()
)


def request(*arguments: str, options: frozenset[str] = frozenset(), **fields: Any) -> RunRequest:
    script = Script(path=Path("/p/train.py"), options=options, module=fields.pop("module", None))
    return RunRequest(script=script, arguments=arguments, **{"python": "/env/bin/python", **fields})


def told(**fields: Any) -> Told:
    return Told(**{"run_id": "r", "attempt": 1, "run_dir": Path("/h/runs/r"), "max_minutes": 10.0, **fields})


FULL = told(checkpoint_every_s=90.5, resume_from=Path("/c k.pt"), framework="pytorch")


# The command line ------------------------------------------------------------------------------


def test_a_script_is_run_by_its_interpreter_with_the_persons_arguments() -> None:
    assert command_line(request("--lr", "1e-3", ""), told()) == (
        "/env/bin/python",
        "/p/train.py",
        "--lr",
        "1e-3",
        "",
    )
    assert command_line(request(python=None), told())[0] == "python3"


def test_a_module_is_run_as_one() -> None:
    assert command_line(request("x", module="pkg.train"), told()) == (
        "/env/bin/python",
        "-m",
        "pkg.train",
        "x",
    )


def test_options_that_the_source_names_are_given_and_no_others() -> None:
    given = command_line(request("a", options=ALL_OPTIONS), FULL)[3:]
    assert given == (
        *("--resume-from", "/c k.pt"),
        *("--run-id", "r"),
        *("--max-minutes", "10"),
        *("--framework", "pytorch"),
        *("--checkpoint-every-seconds", "90.5"),
    )
    assert command_line(request(options=frozenset({"--lr"})), FULL)[2:] == ()
    assert "--resume-from" not in command_line(request(options=ALL_OPTIONS), told()), "nothing to tell"


@pytest.mark.parametrize("arguments", [("--resume-from", "/mine"), ("--resume-from=/mine",)])
def test_an_option_that_the_person_gave_is_not_given_again(arguments: tuple[str, ...]) -> None:
    line = command_line(request(*arguments, options=frozenset({"--resume-from"})), FULL)
    assert line[2:] == arguments


def test_the_checkpoint_takes_its_place_in_arguments_or_nothing_does() -> None:
    arguments = ("--init={resume_from}", "{resume_from}", "{other}")
    assert command_line(request(*arguments), FULL)[2:] == ("--init=/c k.pt", "/c k.pt", "{other}")
    assert command_line(request(*arguments), told())[2:] == ("--init=", "", "{other}")


def test_what_the_framework_needs_to_resume_stands_behind_the_persons_own_and_not_beside_a_place_for_it() -> (
    None
):
    saying = told(resume_from=Path("/c.pt"))
    own = command_line(request("--resume", "base.pt"), saying, resume_arguments=["--resume", "/c.pt"])
    assert own[-4:] == ("--resume", "base.pt", "--resume", "/c.pt")
    placed = command_line(request("--load={resume_from}"), saying, resume_arguments=["--resume", "/c.pt"])
    assert placed[-1] == "--load=/c.pt"


def test_what_is_recorded_of_the_environment_is_on_the_list_and_can_be_stored() -> None:
    environ = {"KERAS_BACKEND": "torch", "TOKEN": "secret", "PYTHONPATH": "a\nb", "HF_HOME": "\udcff"}
    assert kept(environ) == {"KERAS_BACKEND": "torch"}


def test_what_is_missing_now_is_restored_and_what_differs_stays_aloud() -> None:
    recorded = {"KERAS_BACKEND": "torch", "PYTHONPATH": "/then", "HF_HOME": "/hf", "LD_PRELOAD": "/evil.so"}
    said: list[str] = []
    now = restored(recorded, {"PYTHONPATH": "/now", "HF_HOME": "/hf"}, said.append)
    assert now == {"PYTHONPATH": "/now", "HF_HOME": "/hf", "KERAS_BACKEND": "torch"}
    assert said == [
        "set as when the run began: KERAS_BACKEND",
        "PYTHONPATH is '/now' now, it was '/then' when the run began",
    ]


def test_what_the_framework_needs_to_resume_comes_last() -> None:
    line = command_line(request("a"), FULL, resume_arguments=["--ckpt_path", "x"])
    assert line[2:] == ("a", "--ckpt_path", "x")


class TestThrough:
    @pytest.fixture
    def python(self, tmp_path: Path) -> str:
        folder = tmp_path / "env"
        folder.mkdir()
        return str(folder / "python")

    def test_a_launcher_beside_the_interpreter_is_that_environments(self, python: str) -> None:
        beside = Path(python).with_name("torchrun")
        beside.touch()
        line = command_line(request("a", python=python), told(), through="torchrun --nproc-per-node '2 x'")
        assert line == (str(beside), "--nproc-per-node", "2 x", "/p/train.py", "a")

    def test_a_path_is_taken_as_it_is(self, python: str) -> None:
        Path(python).with_name("torchrun").touch()
        line = command_line(request(python=python, module="m"), told(), through="./torchrun")
        assert line == ("./torchrun", "-m", "m")

    @pytest.mark.parametrize(
        ("first_line", "is_run_by_python"),
        [("#!/other/bin/python3", True), ("#!/bin/sh", False), ("\x7fELF", False)],
    )
    def test_a_python_script_elsewhere_on_the_path_is_run_by_the_runs_interpreter(
        self,
        python: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        first_line: str,
        is_run_by_python: bool,  # noqa: FBT001 - what is expected
    ) -> None:
        elsewhere = tmp_path / "bin" / "accelerate"
        elsewhere.parent.mkdir()
        elsewhere.write_text(first_line + "\n")
        elsewhere.chmod(0o755)
        monkeypatch.setenv("PATH", str(elsewhere.parent))
        line = command_line(request(python=python), told(), through="accelerate launch")
        start = (python, str(elsewhere)) if is_run_by_python else ("accelerate",)
        assert line == (*start, "launch", "/p/train.py")

    def test_one_that_is_nowhere_is_left_to_fail_by_its_name(
        self, python: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "")
        assert command_line(request(python=python), told(), through="nowhere x")[:2] == ("nowhere", "x")


# The environment -------------------------------------------------------------------------------


def test_the_contract_tells_what_there_is_to_tell() -> None:
    assert contract(FULL) == {
        "BACKPROP_RUN_ID": "r",
        "BACKPROP_ATTEMPT": "1",
        "BACKPROP_RUN_DIR": "/h/runs/r",
        "BACKPROP_MAX_RUN_SECONDS": "600",
        "BACKPROP_CHECKPOINT_EVERY_SECONDS": "90.5",
        "BACKPROP_RESUME_FROM": "/c k.pt",
        "BACKPROP_FRAMEWORK": "pytorch",
    }
    assert set(contract(FULL)) == RUN_VARIABLES
    assert set(RUN_VARIABLES) - set(contract(told())) == {
        "BACKPROP_CHECKPOINT_EVERY_SECONDS",
        "BACKPROP_RESUME_FROM",
        "BACKPROP_FRAMEWORK",
    }


@pytest.mark.parametrize(
    ("minutes", "seconds"), [(0.1, "6"), (1 / 3, "20"), (1e9, "60000000000"), (12_345.678, "740740.68")]
)
def test_seconds_are_written_without_an_exponent_and_without_noise(minutes: float, seconds: str) -> None:
    assert contract(told(max_minutes=minutes))["BACKPROP_MAX_RUN_SECONDS"] == seconds


def built(inherited: Mapping[str, str], **more: Any) -> dict[str, str]:
    return build(inherited, **{"told": told(), "unbuffered": False, "confined_to": {}, **more})


def test_inherited_variables_stay_but_none_of_an_outer_run() -> None:
    outer = dict.fromkeys(RUN_VARIABLES, "outer")
    environment = built({"PATH": "/bin", "BACKPROP_HOME": "/h", **outer})
    assert "outer" not in environment.values()
    assert environment == {"PATH": "/bin", "BACKPROP_HOME": "/h", **contract(told())}


def test_the_more_important_answer_wins_then_the_gpu_and_nobody_changes_the_contract() -> None:
    environment = built(
        {"A": "inherited", "B": "inherited", "C": "inherited", "D": "inherited"},
        answers=[
            {"A": "first", "CUDA_VISIBLE_DEVICES": "7", "BACKPROP_RUN_ID": "forged"},
            {"A": "second", "B": "second", "BACKPROP_RESUME_FROM": "/forged"},
        ],
        confined_to={"CUDA_VISIBLE_DEVICES": "GPU-1", "C": "gpu"},
    )
    assert [environment[name] for name in "ABCD"] == ["first", "second", "gpu", "inherited"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert {name: environment.get(name) for name in RUN_VARIABLES} == {
        name: contract(told()).get(name) for name in RUN_VARIABLES
    }


def test_output_is_unbuffered_unless_a_plugin_says_otherwise() -> None:
    assert built({}, unbuffered=True)["PYTHONUNBUFFERED"] == "1"
    assert built({}, unbuffered=True, answers=[{"PYTHONUNBUFFERED": ""}])["PYTHONUNBUFFERED"] == ""
    assert "PYTHONUNBUFFERED" not in built({})


def test_the_helper_stands_behind_everything_else_on_the_import_path() -> None:
    helper = Path("/helper")
    assert built({}, helper=helper)["PYTHONPATH"] == "/helper"
    assert built({"PYTHONPATH": "/a:/b"}, helper=helper)["PYTHONPATH"] == "/a:/b:/helper"
    assert (
        built({"PYTHONPATH": "/a"}, answers=[{"PYTHONPATH": "/p:/a"}], helper=helper)["PYTHONPATH"]
        == "/p:/a:/helper"
    )
    assert "PYTHONPATH" not in built({})


def test_plugins_variables_are_collected_and_one_that_answers_no_texts_is_named() -> None:
    gpu = Gpu(index=3)
    plugins = plugins_with(backprop_environment=lambda gpu: {"GPU": str(gpu.index)})
    wrong: list[Any] = [{"A": 1}, {1: "x"}, ["A"], {"A": "x\0"}, {"A=B": "x"}, {"": "x"}]
    for number, answer in enumerate(wrong):
        bring(plugins, f"wrong{number}", backprop_environment=answering(answer))
    bring(plugins, "fails", backprop_environment=lambda: 1 // 0)
    bring(plugins, "none", backprop_environment=lambda: None)
    assert from_plugins(plugins, request(), gpu) == [{"GPU": "3"}]
    named = {failure.plugin for failure in plugins.failures}
    assert named == {"fails", *(f"wrong{number}" for number in range(len(wrong)))}


def answering(value: Any) -> Any:
    return lambda: value


# The script helper -----------------------------------------------------------------------------


def test_the_helper_folder_lets_any_interpreter_import_the_script_helper_and_nothing_more(
    tmp_path: Path,
) -> None:
    folder = helper_folder(tmp_path)
    assert {path.name for path in (folder / "backprop_core").iterdir()} == {"__init__.py", "script.py"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", "from backprop_core.script import report; report(step=1)"],
        env={"PYTHONPATH": str(folder), "BACKPROP_RUN_ID": "r", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == b'{"step": 1}\n'


def test_a_helper_of_another_version_is_replaced_and_one_that_is_right_left_alone(tmp_path: Path) -> None:
    script = helper_folder(tmp_path) / "backprop_core" / "script.py"
    good = script.read_bytes()
    before = os.stat(script)
    helper_folder(tmp_path)
    assert os.stat(script).st_ino == before.st_ino
    script.write_text("old")
    helper_folder(tmp_path)
    assert script.read_bytes() == good
