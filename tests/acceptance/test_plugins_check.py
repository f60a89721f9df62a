"""`backprop plugins check`: what is wrong with a plugin, and how it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kit import Project

from backprop_core.checking import asking
from backprop_core.checking.findings import Target

GOOD = '''
    """Keep runs away from a full machine."""

    from backprop_core import Refusal, hookimpl

    @hookimpl
    def backprop_admit(machine):
        free_gb = machine.host.ram_free_gb
        if free_gb is not None and free_gb < 1:
            return Refusal(f"house: {free_gb:g} GB free")
'''
BAD = """
    import subprocess, time
    from subprocess import run as start
    from backprop_core import PluginOption, hookimpl

    time.sleep(0.15)
    print("hello")

    @hookimpl
    def backprop_admit(machine):
        subprocess.run(["true"])
        start(["true"], timeout=1)
        return machine.host.ram_free_gb < 4

    @hookimpl
    def backprop_select_gpu(gpus):
        return "the first"

    @hookimpl
    def backprop_status_report(settings):
        print("status")

    def backprop_environment(request):
        return {}

    @hookimpl
    def backprop_gpu_probe():
        class Half:
            name = "half"
        return Half()

    @hookimpl
    def backprop_event_parser(run):
        return lambda line: [line]

    @hookimpl
    def backprop_options():
        return [PluginOption(name="name", help=" ")]
"""


def test_every_problem_is_told_with_its_place_and_what_to_do(project: Project) -> None:
    project.write("bad.py", BAD)
    done = project.run("plugins", "check", "bad.py", "--json")
    assert (done.code, done.err) == (1, "")
    [report] = json.loads(done.out)
    told = {(problem["where"], problem["what"].partition(" (")[0]) for problem in report["problems"]}
    assert {
        ("bad.py", "nothing says what this plugin is for"),
        ("bad.py, line 10", "subprocess.run may wait for ever, and the run with it"),
        ("backprop_select_gpu", "it answers str"),
        ("backprop_environment", "backprop_environment is not marked, so that it is never called"),
        ("backprop_gpu_probe", "Half lacks order, is_available, read, visible_devices"),
        ("backprop_options", "the option name has no help"),
        (None, "it prints while it is imported: 'hello\\n'"),
    } <= told
    text = "\n".join(f"{problem['where']}: {problem['what']}" for problem in report["problems"])
    for part in (
        "backprop_admit: TypeError: '<' not supported",
        "line 20: backprop_status_report prints on stdout",
        "answers ['hello']",
        "declares --name, which is an option of Backprop's own",
        "ms, which every command pays",
    ):
        assert part in text
    assert all(problem["mend"] for problem in report["problems"])
    mends = {problem["where"]: problem["mend"] for problem in report["problems"]}
    assert mends["backprop_admit"].startswith("unknown amounts are None")
    assert "start" not in text


def test_a_plugin_with_nothing_to_mend_is_said_to_have_none(project: Project) -> None:
    project.write("good.py", GOOD)
    done = project.call("plugins", "check", "good")
    assert done.code == 0
    assert done.out.splitlines()[:3] == ["good: nothing to mend", "  hooks: backprop_admit", "  parts: none"]


@pytest.mark.parametrize(
    ("source", "said", "mend"),
    [
        ("backprop_run_finnished(run): ...", "did you mean backprop_run_finished?", "the hook reference"),
        ("backprop_govern(run, gpu): ...", "takes gpu; it may take run, machine", "only arguments"),
        ("backprop_govern(run=None): ...", "has arguments with defaults", "without defaults"),
    ],
)
def test_hooks_that_nobody_could_call_are_told(project: Project, source: str, said: str, mend: str) -> None:
    project.write("odd.py", f"from backprop_core import hookimpl\n\n@hookimpl\ndef {source}\n")
    done = project.call("plugins", "check", "odd.py")
    assert done.code == 1
    lines = done.out.splitlines()
    place = next(number for number, line in enumerate(lines) if said in line)
    assert mend in lines[place + 1]


def test_a_folder_is_checked_with_its_papers_and_its_names(project: Project) -> None:
    project.write("dist/src/mine.py", GOOD)
    project.write(
        "dist/pyproject.toml",
        '[project]\nname = "mine"\nversion = "1"\n[project.entry-points.backprop]\njson = "mine [backprop_govern]"\n',
    )
    done = project.call("plugins", "check", "dist")
    assert done.code == 1
    for said in (
        "another plugin is named json",
        "its entry point names backprop_govern",
        "there is no README",
        "it does not say that it needs backprop-core",
    ):
        assert said in done.out
    (project.folder / "dist" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    done = project.call("plugins", "check", "dist")
    assert (done.code, "declares no plugin" in done.err) == (2, True)


def test_a_name_that_means_nothing_is_a_usage_error_with_a_hint(project: Project) -> None:
    done = project.call("plugins", "check", "nvnl")
    assert (done.code, done.err.splitlines()[1]) == (2, '  did you mean "nvml"?')


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("while True: pass", "does not import, or answer, within 1.5 s"),
        ("import os; os._exit(7)", "it ends the process that loads it: exit code 7"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import not_there", "No module named 'not_there'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_takes_its_process_down_is_reported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.setattr(asking, "LIMIT_S", 1.5 if "while" in source else 30)
    file = tmp_path / "wild.py"
    file.write_text(source)
    [report] = asking.check(str(file), tmp_path)
    assert said in report.problems[0].what


def test_every_built_in_plugin_passes_the_check() -> None:
    from backprop_core.checking.child import examine
    from backprop_core.plugin_sources import find_entry_points

    points = [point for point in find_entry_points() if point.distribution == "backprop-core"]
    assert len(points) > 15
    reports = [examine(Target(name=point.name, module=point.target, hooks=point.hooks)) for point in points]
    assert {report.name: list(map(str, report.problems)) for report in reports if report.problems} == {}


def test_a_trace_shows_each_call_with_its_answer_and_hides_secrets(project: Project) -> None:
    project.write("train.py", "print('out')")
    project.write(
        "backprop_plugins.py",
        """
        from backprop_core import Refusal, hookimpl
        @hookimpl
        def backprop_environment(request):
            return {"MY_TOKEN": "very-secret", "COLOUR": "red"}
        @hookimpl
        def backprop_run_finished(run):
            1 / 0
        """,
    )
    local = project.folder / "backprop_plugins.py"
    done = project.run("run", "train.py", "--trace")
    assert (done.code, done.out) == (0, "out\n")
    traced = [line.removeprefix("backprop: trace: ") for line in done.err.splitlines() if "trace: " in line]
    assert any(line.startswith("backprop_admit: ram: Passed(reason='RAM:") for line in traced)
    assert any(
        line.startswith(f"backprop_environment: {local}: {{COLOUR=red, MY_TOKEN=***}} (") for line in traced
    )
    assert any(
        line.startswith(f"backprop_run_finished: {local}: raised ZeroDivisionError") for line in traced
    )
    assert all(line.endswith(" ms)") for line in traced)
    assert "very-secret" not in done.err
    assert "trace: backprop_storage_backend: json" in project.run("--trace", "list").err


PROBE = """
class Probe:
    name, order = "mine", 5
    def is_available(self): return True
    def read(self): return {read}
    def visible_devices(self, gpu): return {{"MINE": {device}}}
@hookimpl
def backprop_gpu_probe(): return {handed}
"""
FRAMEWORK = """
class Mine:
    name, order = "mine", 5
    def score(self, script): return script.imports["mine"]
    def environment(self, request, gpu): return {}
    def resume_arguments(self, script, checkpoint): return "--resume"
@hookimpl
def backprop_framework(): return Mine()
"""
OF_PYTEST = "import pluggy\n@pluggy.HookimplMarker('pytest')\ndef backprop_run_finished(run): ..."
IN_A_CLASS = "class Rules:\n    @hookimpl\n    def backprop_admit(self): ..."
MISTAKES = [
    (
        "from backprop_core.records import Gpu",
        "backprop_core.records may change",
        "from backprop_core itself",
    ),
    (IN_A_CLASS, "those of the class Rules are no object's", "plugin = Rules()"),
    (OF_PYTEST, "is marked for pytest and not for Backprop", "@hookimpl of backprop_core"),
    (PROBE.format(read="[]", device="'0'", handed="Probe"), "Probe is a class, not an object", "Probe()"),
    (PROBE.format(read="[{}]", device="'0'", handed="Probe()"), "read answers [{}]", "a list of Gpu"),
    (PROBE.format(read="[Gpu(vram=1)]", device="'0'", handed="Probe()"), "argument 'vram'", "a list of Gpu"),
    (PROBE.format(read="[]", device="gpu.index", handed="Probe()"), "{'MINE': 0}", "texts by their names"),
    (
        "@hookimpl\ndef backprop_environment(): return {'THREADS': 4}",
        "{'THREADS': 4}",
        "texts by their names",
    ),
    (FRAMEWORK, "score raises KeyError: 'mine'", "a number from 0 to 1"),
    (FRAMEWORK, "resume_arguments answers '--resume'", "a list of texts"),
    ("@hookimpl\nasync def backprop_run_finished(run): ...", "is async, or has a yield", "without async"),
]


@pytest.mark.parametrize(("source", "said", "mend"), MISTAKES)
def test_a_strangers_mistake_is_told_with_how_it_is_mended(
    tmp_path: Path, source: str, said: str, mend: str
) -> None:
    from backprop_core.checking.child import examine

    file = tmp_path / "mine.py"
    file.write_text(f"'''Mine.'''\nfrom backprop_core import Gpu, hookimpl\n{source}\n")
    report = examine(Target(name=str(file), file=str(file)))
    assert any(said in str(each) and mend in each.mend for each in report.problems), report.problems
