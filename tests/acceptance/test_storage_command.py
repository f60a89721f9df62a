"""`backprop storage copy`: records move between storages, both ways, and nothing is left out in silence."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from kit import Project, wait_for

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Progress, RunState, Storage, StorageBackend
from backprop_core.testing import ids, make_record

SAYS = """
    import json, sys
    for step in range(1, 4):
        print(json.dumps({"step": step, "loss": 1 / step}))
"""


def store(project: Project, name: str) -> Storage:
    """Open one of the home's storages, as the command does."""
    backend: StorageBackend = SqliteBackend() if name == "sqlite" else JsonBackend()
    return backend.open(None, project.home)


def listed(project: Project, storage: str) -> list[dict[str, Any]]:
    done = project.call("list", "--json", "--storage", storage)
    assert done.code == 0, done.err
    return list(json.loads(done.out))


@pytest.mark.parametrize(("source", "target"), [("json", "sqlite"), ("sqlite", "json")])
def test_runs_move_to_another_storage_and_back_unchanged(project: Project, source: str, target: str) -> None:
    project.write("train.py", SAYS)
    for name in ("a", "b"):
        assert project.call("run", "train.py", "--name", name, "--storage", source).code == 0
    before = listed(project, source)
    assert [record["name"] for record in before] == ["b", "a"]
    assert listed(project, target) == []
    done = project.call("storage", "copy", source, target)
    assert (done.code, done.out) == (0, "")
    assert f"2 runs copied to {target}; 2 compared and found alike" in done.err
    assert listed(project, target) == before
    again = project.call("storage", "copy", source, target)
    assert again.code == 0
    assert f"0 runs copied to {target}, 2 there already; 2 compared and found alike" in again.err
    assert project.call("run", "train.py", "--name", "c", "--storage", target).code == 0
    back = project.call("storage", "copy", target, source)
    assert back.code == 0
    assert f"1 run copied to {source}, 2 there already; 3 compared and found alike" in back.err
    assert listed(project, source) == listed(project, target)
    assert len(listed(project, source)) == 3


def test_copy_to_a_url_brings_metrics_along(project: Project, tmp_path: Path) -> None:
    project.write("train.py", SAYS)
    assert project.run("run", "train.py").code == 0
    url = f"sqlite://{tmp_path}/else%20where/runs.db"
    assert project.run("storage", "copy", "json", url).code == 0
    (record,) = listed(project, url)
    there = SqliteBackend().open(url, project.home)
    assert [(point.step, point.loss) for point in there.metrics(record["id"])] == [
        (1, 1),
        (2, 0.5),
        (3, 1 / 3),
    ]
    there.close()
    assert (tmp_path / "else where" / "runs" / record["id"] / "metrics.jsonl").exists()


def test_live_run_is_left_out_aloud_and_copied_once_it_has_ended(project: Project) -> None:
    project.write("train.py", "import time; print('up', flush=True); time.sleep(60)")
    process = project.start("run", "train.py", "--name", "busy", "--stop-grace", "5")
    project.wait_for_state("running", "busy")
    done = project.call("storage", "copy", "json", "sqlite")
    assert done.code == 1
    assert "run busy (" in done.err
    assert "has not ended and was left out" in done.err
    assert listed(project, "sqlite") == []
    process.send_signal(signal.SIGTERM)
    project.end(process)
    assert project.call("storage", "copy", "json", "sqlite").code == 0
    assert [record["status"] for record in listed(project, "sqlite")] == ["stopped"]


def test_run_whose_supervisor_is_gone_is_copied_as_lost(project: Project) -> None:
    from backprop_core.identity import host_name

    store(project, "json").save(make_record("gone", host=host_name()))
    done = project.call("storage", "copy", "json", "sqlite")
    assert done.code == 0, done.err
    assert [record["status"] for record in listed(project, "sqlite")] == ["lost"]


def test_run_that_has_come_further_in_the_target_stays_and_is_named(project: Project) -> None:
    source, target = store(project, "json"), store(project, "sqlite")
    source.save(make_record("r", status=RunState.STOPPED))
    target.save(make_record("r", status=RunState.STOPPED, last_step=5))
    target.close()
    done = project.call("storage", "copy", "json", "sqlite")
    assert done.code == 1
    assert "run r has come further in sqlite, where it stays as it is" in done.err
    assert listed(project, "sqlite")[0]["lastStep"] == 5


def test_record_that_cannot_be_read_makes_the_copy_incomplete(project: Project) -> None:
    store(project, "json").save(make_record("good", status=RunState.COMPLETED))
    file = project.home / "experiments.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "torn": {"id": "torn"}}))
    done = project.call("storage", "copy", "json", "sqlite")
    assert done.code == 1
    assert "run torn cannot be read" in done.err
    assert "1 run copied" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("json", "nope"), 'no storage named "nope" is installed'),
        (("nope", "json"), "no storage named"),
        (("json", "ftp://x"), "no storage for 'ftp' URLs is installed"),
        (("json", "sqlite://x"), "storage is 'sqlite://x'"),
        (("json", "json"), "json and json are the same storage"),
        (("sqlite", "sqlite://{home}/experiments.db"), "are the same storage"),
        (("json",), "Missing argument"),
    ],
)
def test_wrong_names_are_usage_errors(project: Project, words: tuple[str, ...], message: str) -> None:
    done = project.call("storage", "copy", *(word.format(home=project.home) for word in words))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) <= 3


def test_killed_copy_is_taken_up_where_it_was(project: Project) -> None:
    source = store(project, "json")
    for number in range(60):
        source.save(make_record(f"r{number}", number, status=RunState.COMPLETED))
        source.append_metrics(f"r{number}", [Progress(step=step) for step in range(50)])
    url = f"sqlite://{project.place}/there/runs.db"
    series = project.place / "there" / "runs"
    process = project.start("storage", "copy", "json", url)
    wait_for(
        lambda: any(series.glob("*/metrics.jsonl")) or process.poll() is not None, "the copy to be under way"
    )
    process.kill()
    process.communicate()
    done = project.run("storage", "copy", "json", url)
    assert done.code == 0
    assert "60 compared and found alike" in done.err
    there = SqliteBackend().open(url, project.home)
    assert ids(there) == ids(source)
    assert all(
        [point.step for point in there.metrics(f"r{number}")] == list(range(50)) for number in range(60)
    )
    there.close()


def test_long_copy_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from backprop_core.cli import storage_

    said: list[str] = []
    times_s = iter([0.0, 1.9, 2.0, 2.0, 3.9])
    monkeypatch.setattr(storage_, "say", said.append)
    monkeypatch.setattr(storage_, "now_s", lambda: next(times_s))
    teller = storage_._Teller()
    for done in (500, 1500, 2000):
        teller(done, 2000)
    assert said == ["1,500 of 2,000 runs"]
