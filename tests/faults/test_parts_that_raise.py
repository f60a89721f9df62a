"""A plugin's storage or launcher raises what it should not, hangs, or answers nonsense: it is named, the run lives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures
from kit import Project, wait_for

FRAIL = """
    import os, time
    from backprop_builtin.storage.json_file import JsonBackend
    from backprop_builtin.launchers.local import LocalLauncher
    from backprop_core import hookimpl

    def fails(method):
        '''Whether the method is named in the file that the test writes.'''
        try:
            with open(os.environ["FAILS"]) as file:
                return method in file.read().split()
        except FileNotFoundError:
            return False

    class Frail:
        def __init__(self, part):
            self._part = part

        def __getattr__(self, name):
            found = getattr(self._part, name)
            if not callable(found):
                return found
            def call(*arguments, **named):
                if fails(name):
                    raise KeyError("no such table")
                if fails(f"{name}=nonsense"):
                    return 7
                if fails(f"{name}=hang"):
                    time.sleep(600)
                return found(*arguments, **named)
            return call

    class FrailBackend:
        name, schemes = "frail", ("frail",)

        def open(self, url, home):
            if fails("open"):
                raise KeyError("no such table")
            return object() if fails("open=nonsense") else Frail(JsonBackend().open(None, home))

    class FrailLauncher(Frail):
        name = "frail"

    @hookimpl
    def backprop_storage_backend():
        return FrailBackend()

    @hookimpl
    def backprop_launcher():
        return FrailLauncher(LocalLauncher())
"""

WAITS = """
    import json, os, time
    print(json.dumps({"step": 1, "loss": 0.5}), flush=True)
    open("started", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    print(json.dumps({"step": 2, "loss": 0.25}))
    print(json.dumps({"event": "checkpoint_saved", "path": "a.pt"}))
"""


class Frail:
    """A project whose storage and launcher fail in the methods that the test names."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.list = project.place / "fails"
        self.env = {"FAILS": str(self.list)}
        project.write("frail.py", FRAIL)
        project.write("backprop.toml", 'plugins = ["frail"]\nstorage = "frail"')
        project.write("train.py", WAITS)
        project.write("quick.py", "print('done')")

    def fail(self, *methods: str) -> None:
        fresh = self.list.with_suffix(".new")
        fresh.write_text(" ".join(methods))
        fresh.replace(self.list)


@pytest.fixture
def frail(tmp_path: Path) -> Iterator[Frail]:
    project = Project(tmp_path)
    yield Frail(project)
    project.clean_up()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("open", "storage 'frail' failed in open: KeyError: 'no such table'"),
        ("save", "storage 'frail' failed in save: KeyError: 'no such table'"),
        ("open=nonsense", "storage 'frail' opened something without get, save, runs"),
    ],
)
def test_storage_that_raises_before_the_start_is_named_and_nothing_starts(
    frail: Frail, methods: str, said: str
) -> None:
    frail.fail(methods)
    done = frail.project.call("run", "quick.py", env=frail.env)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) <= 3
    assert frail.project.records() == []


@pytest.mark.parametrize("methods", ["runs", "runs=nonsense", "get=nonsense"])
def test_commands_name_a_storage_that_raises_or_answers_nonsense(frail: Frail, methods: str) -> None:
    assert frail.project.call("run", "quick.py", env=frail.env).code == 0
    run_id = frail.project.record()["id"]
    frail.fail(methods)
    done = frail.project.call(*(("list",) if "runs" in methods else ("status", run_id)), env=frail.env)
    assert done.code == 2
    assert f"storage 'frail' {'failed in' if methods == 'runs' else 'answers'}" in done.err


def test_storage_that_raises_while_the_script_runs_is_told_once_and_counted_in_the_record(
    frail: Frail,
) -> None:
    process = frail.project.start("run", "train.py", env=frail.env)
    wait_for((frail.project.folder / "started").exists, "the script to start")
    frail.fail("save", "append_metrics", "take")
    (frail.project.folder / "go").touch()
    done = frail.project.end(process)
    assert done.code == 0, "what the script did is what counts"
    assert done.err.count("no such table") == 1 + done.err.count("hears no `backprop stop`")
    assert "completed" in done.err
    assert "its end could not be recorded, nor " in done.err
    assert "`backprop list` will take the run for lost" in done.err
    frail.fail()
    (found,) = json.loads(frail.project.call("list", "--json", env=frail.env).out)
    assert found["status"] == "lost"


def test_storage_that_recovers_before_the_end_keeps_the_end_and_the_count_of_what_it_lost(
    frail: Frail,
) -> None:
    frail.project.write(
        "train.py",
        WAITS.rstrip() + "\n    while not os.path.exists('end'): time.sleep(0.01)\n",
    )
    process = frail.project.start("run", "train.py", env=frail.env, stdout=-1)
    wait_for((frail.project.folder / "started").exists, "the script to start")
    frail.fail("save", "append_metrics")
    (frail.project.folder / "go").touch()
    log = frail.project.run_folder() / "output.log"
    wait_for(lambda: "a.pt" in log.read_text(), "the checkpoint to be announced")
    assert process.stderr is not None
    assert b"the run goes on, what cannot be written is lost" in process.stderr.readline()
    frail.fail()
    (frail.project.folder / "end").touch()
    done = frail.project.end(process)
    record = frail.project.record()
    lost = record["attempts"][-1]["lostWrites"]
    assert (record["status"], record["lastStep"], len(record["checkpoints"])) == ("completed", 2, 1)
    assert lost >= 1, "steps and the checkpoint may be read, and lost, at once or one after the other"
    assert f"its end is recorded; {lost} writes of metrics and states before it are lost" in done.err


@pytest.mark.soak
def test_storage_that_hangs_while_the_script_runs_is_told_once_and_the_run_goes_on(
    frail: Frail, figures: Figures
) -> None:
    process = frail.project.start("run", "train.py", env=frail.env)
    wait_for((frail.project.folder / "started").exists, "the script to start")
    frail.fail("save=hang", "append_metrics=hang", "take=hang")
    began_s = time.monotonic()
    (frail.project.folder / "go").touch()
    done = frail.project.end(process, timeout=90.0)
    took_s = time.monotonic() - began_s
    assert done.code == 0, "what the script did is what counts"
    assert done.err.count("storage 'frail' hangs in ") <= 3, (
        "once of writes, once of requests, and of the end"
    )
    assert "hangs in " in done.err
    assert "its end could not be recorded" in done.err
    assert took_s < 60.0
    frail.fail()
    (found,) = json.loads(frail.project.run("list", "--json", env=frail.env).out)
    assert found["status"] == "lost"
    figures(over_after_s=took_s)


@pytest.mark.soak
def test_storage_that_hangs_before_the_start_is_named_and_nothing_starts(frail: Frail) -> None:
    frail.fail("save=hang")
    done = frail.project.run("run", "quick.py", env=frail.env)
    assert (done.code, done.out) == (2, "")
    assert "storage 'frail' hangs in save: it did nothing for 15 s" in done.err
    assert len(done.err.splitlines()) <= 3


@pytest.mark.parametrize("method", ["preflight", "submit", "preflight=nonsense", "submit=nonsense"])
def test_launcher_that_raises_is_named_and_leaves_no_record(frail: Frail, method: str) -> None:
    frail.fail(method)
    done = frail.project.run("run", "quick.py", "--launcher", "frail", env=frail.env)
    assert done.code == 2
    assert "launcher 'frail' " in done.err
    assert frail.project.records() == []


def test_launcher_that_cannot_be_asked_for_a_while_costs_no_run_its_record(frail: Frail) -> None:
    frail.fail("state")
    process = frail.project.start("run", "train.py", "--launcher", "frail", env=frail.env)
    wait_for((frail.project.folder / "started").exists, "the script to start")
    frail.project.wait_for_state("running")
    (frail.project.folder / "go").touch()
    done = frail.project.end(process)
    assert done.code == 0, done.err
    assert done.err.count("launcher 'frail' failed in state: KeyError") == 1
    assert frail.project.record()["status"] == "completed"
