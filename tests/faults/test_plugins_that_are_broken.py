"""A broken plugin, installed or beside the script, is named with its file in one or two lines, and harms no more."""

from __future__ import annotations

import signal

import pytest
from kit import Done, Project, wait_for

INSTALLED, BESIDE = "installed", "beside the script"
EACH = pytest.mark.parametrize("how", [INSTALLED, BESIDE])
HOOK = "from backprop_core import hookimpl\n@hookimpl\n"
ALWAYS = HOOK + "def backprop_run_finished(run):\n    "
OWN = "class Odd(BaseException): pass\n"
HANGS = "import time\ntime.sleep(600)"


class Broken:
    """A project with one plugin; `name` is how it is called, `file` where it is."""

    def __init__(self, project: Project, source: str, how: str) -> None:
        self.project = project
        self.env: dict[str, str | None] = {}
        project.write("train.py", "print('{\"step\": 1}')")
        if how == INSTALLED:
            project.write("site/broken_plugin.py", source)
            project.write(
                "site/broken-1.0.dist-info/entry_points.txt", "[backprop]\nbroken = broken_plugin\n"
            )
            site = project.folder / "site"
            self.env = {"PYTHONPATH": str(site), "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": None}
            self.name, self.file = "broken", str(site / "broken_plugin.py")
        else:
            project.write("backprop_plugins.py", source)
            self.name = self.file = str(project.folder / "backprop_plugins.py")

    @property
    def called(self) -> str:
        return self.name if self.name == self.file else f"{self.name} ({self.file})"

    def run(self, *words: str) -> Done:
        return self.project.run("run", "train.py", *words, env=self.env, timeout=90)


@EACH
@pytest.mark.parametrize(
    ("source", "error"),
    [("1 / 0", "ZeroDivisionError: division by zero"), (f"{OWN}raise Odd('x')", "Odd: x")],
    ids=["raises", "raises what is no Exception"],
)
def test_one_that_fails_at_import_is_left_out_or_where_it_is_ones_own_mended_first(
    project: Project, source: str, error: str, how: str
) -> None:
    broken = Broken(project, source, how)
    done = broken.run()
    if how == INSTALLED:
        assert done.code == 0
        assert done.err.splitlines()[0] == f"backprop: plugin {broken.called} failed: {error}"
        assert project.record()["status"] == "completed"
    else:
        assert done.code == 2
        assert done.err.splitlines()[0] == f"backprop: {broken.file} does not load: {error}"
        assert project.records() == []
    assert len(done.err.splitlines()) == 2


@EACH
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise Odd('x')", "Odd: x"),
        pytest.param("raise GeneratorExit", "GeneratorExit: ", marks=pytest.mark.soak),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
    ],
)
def test_whatever_a_hook_raises_is_told_in_one_line_and_the_run_ends_as_without_it(
    project: Project, body: str, error: str, how: str
) -> None:
    broken = Broken(project, OWN + ALWAYS + body, how)
    done = broken.run()
    assert (done.code, project.record()["status"]) == (0, "completed")
    [line] = [line for line in done.err.splitlines() if "completed" not in line]
    assert line.rstrip() == (
        f"backprop: plugin {broken.called} failed in backprop_run_finished: {error}".rstrip()
    )


def test_a_parser_that_raises_keyboard_interrupt_is_no_ctrl_c(project: Project) -> None:
    source = (
        HOOK + "def backprop_event_parser():\n    def parse(line): raise KeyboardInterrupt\n    return parse"
    )
    broken = Broken(project, source, BESIDE)
    done = broken.run()
    assert (done.code, project.record()["status"]) == (0, "completed")
    assert done.err.count("failed in backprop_event_parser: KeyboardInterrupt") == 1


@EACH
def test_a_misspelled_hook_is_told_with_the_right_spelling(project: Project, how: str) -> None:
    broken = Broken(project, HOOK + "def backprop_admitt(): ...", how)
    done = broken.run()
    assert (done.code, project.record()["status"]) == (0, "completed")
    said = "there is no hook backprop_admitt; did you mean backprop_admit?"
    where = f"plugin {broken.called} failed" if how == INSTALLED else broken.file
    assert done.err.splitlines()[0] == f"backprop: {where}: {said}"


@EACH
@pytest.mark.parametrize(
    "what", ["async def", pytest.param("def", marks=pytest.mark.soak)], ids=["async", "a yield"]
)
def test_a_hook_whose_call_does_nothing_is_told(project: Project, what: str, how: str) -> None:
    body = "yield" if what == "def" else "..."
    broken = Broken(project, f"{HOOK}{what} backprop_run_finished(run): {body}", how)
    done = broken.run()
    assert done.code == (0 if how == INSTALLED else 2)
    assert "backprop_run_finished is async, or has a yield, so that a call of it does nothing" in done.err
    assert broken.file in done.err.splitlines()[0]
    assert len(done.err.splitlines()) == 2


@EACH
def test_one_that_shadows_an_option_ends_the_command_before_anything_happens_and_is_named(
    project: Project, how: str
) -> None:
    source = (
        HOOK + "def backprop_options():\n"
        "    from backprop_core import PluginOption\n"
        "    return [PluginOption(name='max-run-minutes', help='Mine.')]"
    )
    broken = Broken(project, source, how)
    done = broken.run()
    assert (done.code, project.records()) == (2, [])
    first, hint = done.err.splitlines()
    assert first == (
        f"backprop: plugin {broken.called} declares --max-run-minutes, which is an option of Backprop's own"
    )
    assert f"leave it out with --no-plugin {broken.name}" in hint


@pytest.mark.parametrize("how", [INSTALLED, pytest.param(BESIDE, marks=pytest.mark.soak)])
def test_an_import_that_hangs_is_told_and_ctrl_c_is_heard(project: Project, how: str) -> None:
    broken = Broken(project, HANGS, how)
    process = project.start("run", "train.py", env=broken.env)
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    assert line.startswith("backprop: still waiting for the import of ")
    assert (broken.name if how == BESIDE else "plugin broken (broken_plugin)") in line
    process.send_signal(signal.SIGINT)
    done = project.end(process)
    assert (done.code, project.records()) == (130, [])
    wait_for(lambda: project.processes() == [], "everybody to be gone")


@pytest.mark.soak
@EACH
def test_an_import_that_hangs_is_given_up_as_one_that_fails(project: Project, how: str) -> None:
    broken = Broken(project, HANGS, how)
    done = broken.run()
    assert "it did nothing for 30 s" in done.err
    assert broken.file in done.err
    assert done.code == (0 if how == INSTALLED else 2)
    if how == INSTALLED:
        assert project.record()["status"] == "completed"
