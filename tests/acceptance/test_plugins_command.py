"""Plugins as people use them: installed, named on the command line, or written beside the script."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from kit import Done, Project

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
# Says so where it is imported, in a file, because nobody may see its output.
MARKING = """
    from pathlib import Path
    with open(Path(__file__).with_name("imported"), "a") as file:
        file.write("x")
"""
HOOKS = """
    import json, os
    from pathlib import Path
    from backprop_core import Progress, Refusal, hookimpl

    HERE = Path(__file__).parent

    @hookimpl
    def backprop_admit(request, machine):
        if request.name == "refused":
            return Refusal(f"house rule: {machine.host.ram_free_gb:g} GB are not for {request.name}")

    @hookimpl
    def backprop_environment(request, gpu):
        return {"HOUSE": f"{request.script} on {gpu}"}

    @hookimpl
    def backprop_event_parser(run):
        def parse(line):
            word, _, number = line.partition(" is ")
            return [Progress(step=int(number))] if word == "progress" else None
        return parse

    @hookimpl
    def backprop_run_finished(run):
        (HERE / "finished").write_text(json.dumps([run.name, str(run.status), run.last_step, os.getpid()]))
"""


def by_name(done: Done) -> dict[str, dict[str, Any]]:
    """What `plugins --json` says."""
    assert done.code == 0, done
    return {state["name"]: state for state in json.loads(done.out)}


def plugins(project: Project, *words: object, **more: Any) -> dict[str, dict[str, Any]]:
    return by_name(project.call(*words, "plugins", "--json", **more))


def plugins_of_another_process(project: Project, *words: object, **more: Any) -> dict[str, dict[str, Any]]:
    """As a process says it that has not imported a module of that name yet."""
    return by_name(project.run(*words, "plugins", "--json", **more))


def test_the_built_in_plugins_are_listed_with_their_hooks(project: Project) -> None:
    found = plugins(project)
    assert set(found) >= {
        "json",
        "local",
        "nvml",
        "nvidia-smi",
        "none",
        "pytorch",
        "tensorflow",
        "ram",
        "cpu",
    }
    ram = found["ram"]
    assert set(ram) == {
        *("name", "distribution", "version", "path", "hooks", "state", "error"),
        *("parts", "options"),
    }
    assert (ram["distribution"], ram["state"], ram["error"]) == ("backprop-core", "active", None)
    assert ram["hooks"] == ["backprop_admit", "backprop_govern"]
    assert [found[name]["parts"] for name in ("ram", "sqlite", "nvml", "pytorch", "local")] == [
        [],
        [{"kind": "storage", "name": "sqlite"}],
        [{"kind": "probe", "name": "nvml"}],
        [{"kind": "framework", "name": "pytorch"}],
        [{"kind": "launcher", "name": "local"}],
    ]
    assert Path(ram["path"]).name == "ram.py"
    lines = project.run("plugins").out.splitlines()
    assert lines[0].split() == ["NAME", "DISTRIBUTION", "STATE", "PARTS", "HOOKS", "FILE"]
    assert len(lines) == 1 + len(found)


def test_a_file_beside_the_script_takes_part_in_the_run(project: Project) -> None:
    project.write("sub/train.py", "import os; print('progress is 7', os.environ['HOUSE'], sep='\\n')")
    local = project.write("sub/backprop_plugins.py", HOOKS)
    done = project.run("run", "sub/train.py", "-n", "mine")
    assert done.code == 0
    assert done.out == f"progress is 7\n{project.folder / 'sub' / 'train.py'} on None\n"
    assert project.record()["lastStep"] == 7
    finished = json.loads((project.folder / "sub" / "finished").read_text())
    assert finished[:3] == ["mine", "completed", 7]
    refused = project.run("run", "sub/train.py", "-n", "refused")
    assert (refused.code, "house rule: 64 GB are not for refused" in refused.err) == (75, True)
    state = plugins(project, cwd=local.parent)[str(local)]
    assert (state["state"], state["distribution"]) == ("active", None)
    assert "backprop_run_finished" in state["hooks"]


def test_the_detached_run_and_its_resume_have_the_same_plugins(project: Project) -> None:
    project.write("train.py", "import os; print('HOUSE' in os.environ); raise SystemExit(1)")
    project.write("backprop_plugins.py", HOOKS)
    project.run("run", "train.py", "--detach")
    project.wait_for_state("failed")
    assert project.run("resume", "last").out == "True\n"
    project.run("resume", "last", "--detach", "--no-local-plugins")
    project.wait_for_state("failed")
    assert project.run("resume", "last", "--no-local-plugins").out == "False\n"
    assert project.run("logs", "last").out.splitlines() == ["True", "True", "False", "False"]


def test_a_module_is_loaded_by_name_for_this_run_and_its_resumes(project: Project) -> None:
    project.write("train.py", "import os; print(os.environ.get('HOUSE')); raise SystemExit(1)")
    project.write("house_rules.py", HOOKS)
    for words in (
        ["--plugin", "house_rules", "run", "train.py"],
        ["run", "train.py", "--plugin", "house_rules"],
    ):
        assert project.run(*words).out == f"{project.folder / 'train.py'} on None\n"
    assert project.run("resume", "last").out == f"{project.folder / 'train.py'} on None\n"
    assert project.run("run", "train.py").out == "None\n"
    found = plugins_of_another_process(project, "--plugin", "house_rules")["house_rules"]
    assert (found["state"], found["path"]) == ("active", str(project.folder / "house_rules.py"))


def test_the_setting_loads_and_blocks_as_the_options_do(project: Project) -> None:
    project.write("train.py", "import os; print('HOUSE' in os.environ)")
    project.write("house_rules.py", HOOKS)
    project.write("backprop.toml", 'plugins = ["house_rules", "no:ram"]')
    project.machine(ram_free_gb=3.5)  # which the rule `ram` would refuse
    assert project.run("run", "train.py").out == "True\n"
    assert project.run("run", "train.py", "--no-plugin", "house_rules").out == "False\n"
    states = {name: state["state"] for name, state in plugins_of_another_process(project).items()}
    assert (states["ram"], states["house_rules"], states["cpu"]) == ("blocked", "active", "active")


def test_a_blocked_rule_does_not_refuse(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=3.5)
    assert project.call("run", "train.py").code == 75
    assert project.call("run", "train.py", "--no-plugin", "ram").code == 0
    assert plugins(project, "--no-plugin", "ram")["ram"]["state"] == "blocked"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import not_there", "No module named 'not_there'"),
        ("from backprop_core import hookimpl\n@hookimpl\ndef backprop_admit(request=None): ...", "default"),
    ],
)
def test_a_local_file_that_does_not_load_ends_a_run_at_once(project: Project, source: str, said: str) -> None:
    project.write("train.py", "")
    local = project.write("backprop_plugins.py", source)
    done = project.call("run", "train.py")
    assert done.code == 2
    assert (str(local) in done.err, said in done.err, len(done.err.splitlines()) <= 3) == (True, True, True)
    assert project.records() == []
    state = plugins(project)[str(local)]
    assert (state["state"], said in state["error"]) == ("failed", True)


def test_nothing_is_changed_by_a_resume_whose_local_file_does_not_load(project: Project) -> None:
    project.write("train.py", "raise SystemExit(1)")
    project.call("run", "train.py")
    project.write("backprop_plugins.py", "raise RuntimeError('on purpose')")
    before = project.records()
    for words in (["resume", "last"], ["resume", "last", "--detach"]):
        assert project.call(*words).code == 2
    assert project.records() == before
    assert project.call("resume", "last", "--no-local-plugins").code == 1


def test_an_unknown_hook_in_a_local_file_is_a_warning_with_a_hint(project: Project) -> None:
    project.write("train.py", "")
    project.write(
        "backprop_plugins.py",
        """
        from backprop_core import hookimpl
        @hookimpl
        def backprop_run_finnished(run): ...
        """,
    )
    done = project.call("run", "train.py")
    assert done.code == 0
    assert "did you mean backprop_run_finished?" in done.err


def test_a_rule_that_fails_refuses_and_is_named(project: Project) -> None:
    project.write("train.py", "")
    local = project.write(
        "backprop_plugins.py",
        """
        from backprop_core import hookimpl
        @hookimpl
        def backprop_admit(request): raise KeyError("oops")
        """,
    )
    done = project.call("run", "train.py")
    assert done.code == 75
    assert str(local) in done.err
    assert "KeyError: 'oops'" in done.err
    assert project.records() == []


def test_an_observer_or_a_parser_that_fails_is_told_once_and_the_run_goes_on(project: Project) -> None:
    project.write("train.py", "print('hello'); print('{\"step\": 1}')")
    project.write(
        "backprop_plugins.py",
        """
        from backprop_core import hookimpl
        @hookimpl
        def backprop_run_events(run, events): raise ValueError("observer")
        @hookimpl
        def backprop_event_parser(run):
            def parse(line): raise ValueError("parser")
            return parse
        @hookimpl
        def backprop_environment(request, gpu): raise ValueError("environment")
        """,
    )
    done = project.call("run", "train.py")
    assert done.code == 0
    assert [done.err.count(f"ValueError: {what}") for what in ("observer", "parser", "environment")] == [
        1,
        1,
        1,
    ]
    assert (project.record()["status"], project.record()["lastStep"]) == ("completed", 1)


def test_an_observer_that_hangs_delays_neither_output_nor_the_end_for_long(project: Project) -> None:
    project.write("train.py", "print('hello')")
    project.write(
        "backprop_plugins.py",
        """
        import time
        from backprop_core import hookimpl
        @hookimpl
        def backprop_run_started(run): time.sleep(600)
        """,
    )
    done = project.run("run", "train.py", timeout=25)
    assert (done.code, done.out) == (0, "hello\n")
    assert "did not finish within 5 s and is left behind" in done.err
    record = project.record()
    assert record["endTime"] - record["startTime"] < 5000


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_local_file_that_others_may_write_is_never_loaded(project: Project, mode: int) -> None:
    project.write("train.py", "")
    local = project.write("backprop_plugins.py", MARKING)
    local.chmod(mode)
    done = project.call("run", "train.py")
    assert done.code == 0
    assert f"{local} is not loaded: other users may write" in done.err
    state = plugins(project)[str(local)]
    assert state["state"] == "blocked"
    assert not (project.folder / "imported").exists()


def test_nor_is_one_in_a_folder_that_others_may_write(project: Project) -> None:
    project.write("train.py", "")
    project.write("backprop_plugins.py", MARKING)
    project.write("marking.py", MARKING)
    project.folder.chmod(0o777)
    assert project.call("run", "train.py").code == 0
    assert project.call("run", "train.py", "--plugin", "marking").code == 2
    assert not (project.folder / "imported").exists()


@NEEDS_ROOT
def test_nor_is_one_that_another_user_owns(project: Project) -> None:
    project.write("train.py", "")
    local = project.write("backprop_plugins.py", MARKING)
    os.chown(local, 65534, 65534)
    done = project.call("run", "train.py")
    assert (done.code, "another user owns" in done.err) == (0, True)
    assert not (project.folder / "imported").exists()


def test_local_files_are_loaded_for_run_resume_and_plugins_alone(project: Project) -> None:
    project.write("train.py", "raise SystemExit(1)")
    project.write("backprop.toml", "")  # which makes this the project's root
    project.run("run", "train.py", "-n", "it")
    project.write("backprop_plugins.py", MARKING)
    imported = project.folder / "imported"
    for words in (
        "list", "list --json", "status", "status it", "logs it", "stop it", "pause it", "config show", "--help",
        "run --help", "--version", "init", "config set maxParallel 3", "run train.py --no-local-plugins",
    ):  # fmt: skip
        project.call(*shlex.split(words))
        assert not imported.exists(), words
    for count, words in enumerate(("run train.py", "resume it", "plugins", "run train.py --dry-run"), 1):
        project.run(*shlex.split(words))
        assert imported.read_text() == "x" * count, words


def install(place: Path, name: str, source: str) -> dict[str, str]:
    """Put a distribution with one plugin on the import path, and return the environment that has it there."""
    site = place / "site"
    metadata = site / f"{name}-1.5.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text(f"[backprop]\nshouter = {name}\n")
    (site / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(site), "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": "0"}


def test_an_installed_plugin_is_found_and_can_be_left_out(project: Project) -> None:
    source = "from backprop_core import hookimpl\n@hookimpl\ndef backprop_status_report(settings): return 'HELLO'\n"
    env = install(project.place, "shouting", source)
    found = plugins_of_another_process(project, env=env)["shouter"]
    assert (found["distribution"], found["version"], found["state"]) == ("shouting", "1.5", "active")
    assert "HELLO" in project.run("status", env=env).out
    assert "shouter" not in plugins_of_another_process(
        project, env={**env, "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": "1"}
    )
    assert (
        plugins_of_another_process(project, "--no-plugin", "shouter", env=env)["shouter"]["state"]
        == "blocked"
    )


def test_an_installed_plugin_that_does_not_import_is_named_and_nothing_fails(project: Project) -> None:
    project.write("train.py", "")
    env = install(project.place, "broken", "import not_there\n")
    state = plugins_of_another_process(project, env=env)["shouter"]
    assert (state["state"], "not_there" in state["error"]) == ("failed", True)
    for words in (["run", "train.py"], ["list"]):
        done = project.run(*words, env=env)
        assert done.code == 0, done
    assert "shouter" in project.run("run", "train.py", env=env).err
    assert "shouter" in project.run("plugins", env=env).out
