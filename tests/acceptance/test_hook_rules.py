"""Every hook is called by a public command, and what happens when one raises is what its docstring says."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from kit import Project, wait_for

from backprop_core import hookspecs

HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("backprop_")}

# What `:on error:` promises of each hook, by a phrase of it.
NAMED = "named in a warning"
CHOSEN = "Exit 2, for a"
REFUSED = "The run is refused and the plugin named"
OBSERVED = "Recorded, shown once"
RULES = {
    "backprop_options": NAMED,
    "backprop_commands": NAMED,
    "backprop_configure": NAMED,
    "backprop_storage_backend": CHOSEN,
    "backprop_launcher": CHOSEN,
    "backprop_framework": CHOSEN,
    "backprop_gpu_probe": CHOSEN,
    "backprop_event_parser": "named and its parser left out",
    "backprop_find_checkpoint": "named and passed over",
    "backprop_admit": REFUSED,
    "backprop_select_gpu": REFUSED,
    "backprop_environment": "named and its variables are left out",
    "backprop_run_started": OBSERVED,
    "backprop_run_events": OBSERVED,
    "backprop_govern": OBSERVED,
    "backprop_run_paused": OBSERVED,
    "backprop_run_continued": OBSERVED,
    "backprop_run_finished": OBSERVED,
    "backprop_status_report": "named instead of its lines",
    "backprop_unconfigure": NAMED,
}
TRAIN = """
    import pathlib, sys, time
    print('{"step": 1}', flush=True)
    while not pathlib.Path("leave").exists():
        time.sleep(0.01)
    sys.exit(1)
"""


def plugin(body: str, but: tuple[str, ...] = ()) -> str:
    """Write a plugin that implements every hook, the same way each."""
    lines = ["from pathlib import Path", "from backprop_core import hookimpl", ""]
    for name, spec in HOOKS.items():
        if name not in but:
            arguments = ", ".join(inspect.signature(spec).parameters)
            lines += ["@hookimpl", f"def {name}({arguments}):", f"    {body.format(name)}", ""]
    return "\n".join(lines)


@pytest.mark.parametrize("name", HOOKS)
def test_what_a_hook_promises_on_an_error_is_what_is_tested_here(name: str) -> None:
    promised = " ".join((inspect.getdoc(HOOKS[name]) or "").partition(":on error: ")[2].split())
    assert RULES[name] in promised


def through_a_life(project: Project, *words: str) -> str:
    """Run, pause, continue and end a script, resume it, and return what was said on stderr."""
    project.gpus({"index": 0})
    project.settings(monitor_seconds=0.1)
    project.write("train.py", TRAIN)
    running = project.start("run", "train.py", *words)
    project.wait_for_state("running")
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and "step" in log.read_text(), "the first step")
    project.call("pause", "last")
    project.wait_for_state("paused")
    project.call("unpause", "last")
    project.wait_for_state("running")
    (project.folder / "leave").touch()
    done = project.end(running)
    assert done.code == 1, done
    resumed = project.run("resume", "last", *words)
    assert resumed.code == 1, resumed
    assert (project.record()["status"], project.record()["lastStep"]) == ("failed", 1)
    return done.err + resumed.err


def test_every_hook_is_called_by_a_command_that_people_type(project: Project) -> None:
    project.write("every.py", plugin("Path(__file__).with_name('called').open('a').write('{}\\n')"))
    through_a_life(project, "--plugin", "every")
    assert project.run("--plugin", "every", "status").code == 0
    assert project.run("--plugin", "every", "--help").code == 0
    assert project.run("--plugin", "every", "run", "train.py", "--detach").code == 0
    called = (project.folder / "called").read_text().split()
    assert set(called) == set(HOOKS)


def test_what_raises_is_named_once_with_its_file_and_the_run_is_not_touched(project: Project) -> None:
    refusing = tuple(name for name, rule in RULES.items() if rule == REFUSED)
    path: Path = project.write("raising.py", plugin("raise ValueError('{}')", but=refusing))
    said = through_a_life(project, "--plugin", "raising")
    other = {*refusing, "backprop_commands", "backprop_launcher", "backprop_status_report"}
    for name in set(HOOKS) - other:
        line = f"backprop: plugin raising ({path}) failed in {name}: ValueError: {name}\n"
        times = (
            1 if name in ("backprop_find_checkpoint", "backprop_run_paused", "backprop_run_continued") else 2
        )
        assert said.count(line) == times, (name, said)
    assert "backprop_commands: ValueError" in project.run("--plugin", "raising", "--help").err
    status = project.run("--plugin", "raising", "status")
    assert (status.code, status.out.count("backprop_status_report: ValueError")) == (0, 1)


@pytest.mark.parametrize("hook", [name for name, rule in RULES.items() if rule == REFUSED])
def test_a_decision_that_raises_refuses_and_is_named_with_its_file(project: Project, hook: str) -> None:
    project.gpus({"index": 0})
    project.write("train.py", "")
    others = tuple(name for name in HOOKS if name != hook)
    path = project.write("deciding.py", plugin("raise ValueError('{}')", but=others))
    done = project.run("run", "train.py", "--plugin", "deciding")
    assert done.code == 75
    first, *rest = done.err.splitlines()
    assert first == f"backprop: not started: plugin deciding ({path}) failed in {hook}: ValueError: {hook}"
    assert len(rest) == 1
    assert project.records() == []


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("backprop_storage_backend", ["--storage", "mine"]),
        ("backprop_launcher", ["--launcher", "mine"]),
        ("backprop_framework", ["--framework", "mine"]),
        ("backprop_gpu_probe", ["--gpu-probe", "mine"]),
    ],
)
def test_a_part_that_was_chosen_and_raises_ends_the_command_with_its_name(
    project: Project, hook: str, words: list[str]
) -> None:
    project.write("train.py", "")
    others = tuple(name for name in HOOKS if name != hook)
    path = project.write("parts.py", plugin("raise ValueError('{}')", but=others))
    done = project.run("run", "train.py", "--plugin", "parts", *words)
    assert done.code == 2
    assert f"plugin parts ({path}) failed in {hook}: ValueError: {hook}" in done.err
    assert "installed: " in done.err
    assert len(done.err.splitlines()) == 3
    assert project.records() == []


# What a plugin may do at its worst, where it is installed and nobody has asked for it by name.
WORST = {
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "takes-a-name": ("NAME = 'ram'", "two plugins are named 'ram'"),
}


@pytest.mark.parametrize("how", WORST)
def test_a_broken_installed_plugin_is_one_line_with_its_file_and_the_run_goes_on(
    project: Project, how: str
) -> None:
    source, said = WORST[how]
    site = project.place / "site"
    metadata = site / "worst-1.0.dist-info"
    metadata.mkdir(parents=True)
    name = "ram" if how == "takes-a-name" else "worst"
    (metadata / "entry_points.txt").write_text(f"[backprop]\n{name} = worst_plugin\n")
    (site / "worst_plugin.py").write_text(source)
    project.write("train.py", "print('trained')")
    env = {"PYTHONPATH": str(site), "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": "0"}
    done = project.run("run", "train.py", env=env)
    assert (done.code, done.out) == (0, "trained\n")
    [line] = [line for line in done.err.splitlines() if "plugin" in line]
    assert said in line
    assert str(site / "worst_plugin.py") in line


def test_a_plugin_that_keeps_a_command_waiting_is_named_while_it_does(project: Project) -> None:
    project.write("train.py", "")
    slow = project.write(
        "slow.py",
        """
        import time
        from backprop_core import hookimpl
        @hookimpl
        def backprop_environment(request):
            time.sleep(3.5)
        """,
    )
    done = project.run("run", "train.py", "--plugin", "slow")
    assert done.code == 0
    assert f"still waiting for plugin slow ({slow}) in backprop_environment after 3 s" in done.err


def test_who_has_a_hook_that_will_go_is_named_with_what_takes_its_place(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hookspecs.DEPRECATED, "backprop_run_started", "use backprop_run_events")
    project.write("train.py", "")
    source = "from backprop_core import hookimpl\n@hookimpl\ndef backprop_run_started(): ...\n"
    file = project.write("backprop_plugins.py", source)
    done = project.call("run", "train.py")
    assert done.code == 0
    said = f"backprop: plugin {file} has backprop_run_started, which will go: use backprop_run_events\n"
    assert done.err.count(said) == 1
    assert said in project.call("plugins").err
    assert "which will go" not in project.call("list").err
