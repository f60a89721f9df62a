"""`backprop rm` and `backprop prune`: what goes, what stays, and what is never touched."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from kit import Project, command
from terminal import Terminal

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import RunState, Storage, StorageBackend
from backprop_core.holding import hold
from backprop_core.testing import ids, make_record

SAVES = """
    import json, os
    print(json.dumps({"step": 1, "loss": 0.5}))
    for name in ("a.pt", "b.pt"):
        open(name, "w").write("weights")
        print(json.dumps({"event": "checkpoint_saved", "path": name}))
"""
DAY_MS = 86_400_000


def store(project: Project, name: str = "json") -> Storage:
    backend: StorageBackend = SqliteBackend() if name == "sqlite" else JsonBackend()
    return backend.open(None, project.home)


def listed(project: Project, storage: str = "json") -> list[str]:
    with closing(store(project, storage)) as opened:
        return ids(opened)


def trained(project: Project, *names: str, source: str = SAVES, storage: str = "json") -> list[str]:
    """Run a script to its end under each name, and return the runs' ids."""
    project.write("train.py", source)
    for name in names:
        assert project.call("run", "train.py", "--name", name, "--storage", storage).code == 0
    with closing(store(project, storage)) as opened:
        by_name = {record.name: record.id for record in opened.runs()}
    return [by_name[name] for name in names]


def fill(project: Project, ages_days: Sequence[float], storage: str = "json", **fields: object) -> None:
    """Make records of runs that ended so long ago, `r0` first."""
    now = time.time_ns() // 1_000_000
    opened = store(project, storage)
    for number, days in enumerate(ages_days):
        end = now - round(days * DAY_MS)
        values = {"status": RunState.COMPLETED, "end_time": end, **fields}
        opened.save(make_record(f"r{number}", end - 1000, **values))
    opened.close()


@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_removed_run_leaves_nothing_behind_and_takes_no_other_with_it(project: Project, storage: str) -> None:
    gone, stays = trained(project, "gone", "stays", storage=storage)
    done = project.call("rm", "gone", "--storage", storage)
    assert (done.code, done.out) == (0, "")
    assert f"run gone ({gone}) removed" in done.err
    assert listed(project, storage) == [stays]
    assert sorted(path.name for path in (project.home / "runs").iterdir()) == [stays]
    assert project.call("status", "gone", "--storage", storage).code == 66
    left = b"".join(path.read_bytes() for path in project.home.rglob("*") if path.is_file())
    assert gone.encode() not in left
    assert {path.name for path in project.folder.glob("*.pt")} == {"a.pt", "b.pt"}, "checkpoints stay unasked"
    assert "checkpoints stay where they are" in done.err


def test_several_runs_go_at_once_by_id_name_prefix_and_last(project: Project) -> None:
    fill(project, [5, 4, 3, 2, 1])
    done = project.run("rm", "r0", "r3", "last", "r0")
    assert done.code == 0
    assert "3 runs removed" in done.err
    assert listed(project) == ["r2", "r1"]


def test_a_run_of_a_machine_that_is_gone_is_removed_once_a_person_has_said_so(project: Project) -> None:
    with closing(JsonBackend().open(None, project.home)) as storage:
        storage.save(make_record("r0", status=RunState.RUNNING, host="far"))
    refused = project.call("rm", "r0")
    assert refused.code == 2
    assert "run r0 is running" in refused.err
    assert "if that machine is gone: backprop doctor --gone far\n" in refused.err
    assert project.call("resume", "r0").err.endswith("backprop doctor --gone far\n")
    done = project.call("doctor", "--gone", "far")
    assert (done.code, "done: mark it lost, without a signal to anybody" in done.out) == (0, True)
    assert project.record("r0")["status"] == "lost"
    assert project.call("rm", "r0").code == 0
    assert listed(project) == []
    this = project.call("doctor", "--gone", socket.gethostname())
    assert (this.code, "which is not gone" in this.err) == (2, True)


def test_one_run_that_is_not_there_or_live_keeps_all_of_them(project: Project) -> None:
    project.write("train.py", "import time\nprint('here', flush=True)\ntime.sleep(60)")
    process = project.start("run", "train.py", "--name", "live")
    live = str(project.wait_for_state("running", "live")["id"])
    fill(project, [1])
    assert project.call("rm", "r0", "nobody").code == 66
    done = project.call("rm", "r0", "live")
    assert (done.code, done.out) == (2, "")
    assert f"run {live} is running" in done.err
    assert f"stop it first: backprop stop {live}" in done.err
    pruned = project.call("prune", "--older", "0s")
    assert pruned.code == 0
    assert "run r0 removed" in pruned.err
    assert listed(project) == [live]
    process.send_signal(signal.SIGTERM)
    project.end(process)
    assert project.record()["status"] == "stopped", "its record was left alone"


def test_run_that_somebody_takes_up_meanwhile_stays(project: Project) -> None:
    (run,) = trained(project, "mine")
    lock = hold(project.home / "runs" / run)
    done = project.call("rm", "mine")
    os.close(lock)
    assert done.code == 1
    assert "another process has taken it up" in done.err
    assert project.record()["name"] == "mine"
    assert (project.home / "runs" / run / "output.log").exists()


def test_what_a_script_keeps_in_its_folder_stays_and_is_said(project: Project) -> None:
    source = (
        SAVES
        + """
    folder = os.environ["BACKPROP_RUN_DIR"]
    open(os.path.join(folder, "notes.txt"), "w").write("mine")
    path = os.path.join(folder, "c.pt")
    open(path, "w").write("weights")
    print(json.dumps({"event": "checkpoint_saved", "path": path}))
"""
    )
    (run,) = trained(project, "mine", source=source)
    folder = project.home / "runs" / run
    done = project.call("rm", "mine")
    assert done.code == 0
    assert f"{folder} stays: its script keeps c.pt, notes.txt there" in done.err
    assert sorted(path.name for path in folder.iterdir()) == ["c.pt", "notes.txt"]
    assert project.records() == []


def test_checkpoints_go_only_when_asked_for_and_confirmed(project: Project) -> None:
    trained(project, "mine")
    refused = project.call("rm", "mine", "--checkpoints")
    assert refused.code == 2
    assert "add --yes" in refused.err
    assert f"remove  {project.folder}/a.pt (7 bytes)" in refused.out
    assert len(project.records()) == 1
    done = project.call("rm", "mine", "--checkpoints", "--yes")
    assert done.code == 0
    assert f"remove  {project.folder}/b.pt" in done.out
    assert list(project.folder.glob("*.pt")) == []
    assert project.records() == []


@pytest.mark.parametrize(("answer", "is_gone"), [("n", False), ("", False), ("y", True)])
def test_at_a_terminal_the_person_is_asked_and_believed(
    project: Project, answer: str, *, is_gone: bool
) -> None:
    trained(project, "mine")
    argv = [*command(), "rm", "mine", "--checkpoints"]
    with Terminal(argv, cwd=project.folder, env=project.environ()) as terminal:
        terminal.wait_for("Remove 1 run and these 2 checkpoints?")
        terminal.press(answer + "\r")
        code = terminal.end()
    assert code == (0 if is_gone else 1)
    assert (project.folder / "a.pt").exists() != is_gone
    assert (project.records() == []) == is_gone


def test_no_word_of_a_script_removes_what_the_run_did_not_save(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.pt").write_text("weights")
    (project.folder / "old").mkdir()
    (project.folder / "old" / "data.csv").write_text("data")
    long_ago = time.time() - 3600
    os.utime(project.folder / "old" / "data.csv", (long_ago, long_ago))
    says = [
        str(outside / "a.pt"),
        "train.py",
        "old",
        ".",
        "..",
        "link.pt",
        "/",
        str(project.home),
        "shared.pt",
    ]
    source = f"""
        import json, os
        os.symlink({str(outside / "a.pt")!r}, "link.pt") if not os.path.lexists("link.pt") else None
        open("shared.pt", "w").write("weights")
        os.makedirs("ckpt-1", exist_ok=True)
        open("ckpt-1/weights", "w").write("weights")
        for path in {[*says, "ckpt-1"]!r}:
            print(json.dumps({{"event": "checkpoint_saved", "path": path}}))
    """
    project.write("train.py", source)
    os.utime(project.folder / "train.py", (long_ago, long_ago))
    assert project.call("run", "train.py", "--name", "mine").code == 0
    opened = store(project)
    opened.save(
        make_record(
            "other", 1, status=RunState.COMPLETED, cwd=str(project.folder), checkpoints=("shared.pt",)
        )
    )
    done = project.call("rm", "mine", "--checkpoints", "--yes")
    assert done.code == 0, done.err
    kept = {line.split()[1].rstrip(":"): line for line in done.out.splitlines() if line.startswith("  keep")}
    removed = [line for line in done.out.splitlines() if line.startswith("  remove")]
    assert len(removed) == 1
    assert "ckpt-1" in removed[0]
    assert "is older than the run" in kept[f"{project.folder}/train.py"]
    assert "is older than the run" in kept[f"{project.folder}/old"]
    assert "is a checkpoint of run other" in kept[f"{project.folder}/shared.pt"]
    assert "is a link" in kept[f"{project.folder}/link.pt"]
    assert "outside" in kept[f"{outside}/a.pt"]
    for path in ("train.py", "old/data.csv", "shared.pt", "link.pt"):
        assert (project.folder / path).exists()
    assert (outside / "a.pt").read_text() == "weights"
    assert not (project.folder / "ckpt-1").exists()


def test_nothing_is_removed_through_a_link_in_place_of_a_runs_folder(
    project: Project, tmp_path: Path
) -> None:
    (run,) = trained(project, "mine")
    folder = project.home / "runs" / run
    elsewhere = tmp_path / "elsewhere"
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    done = project.call("rm", "mine")
    assert done.code == 2
    assert "is no folder of its own" in done.err
    assert sorted(path.name for path in elsewhere.iterdir()) == before


@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_prune_removes_what_ended_long_ago_and_shows_it_before(project: Project, storage: str) -> None:
    fill(project, [40, 31, 29, 1], storage)
    dry = project.call("prune", "--older", "30d", "--dry-run", "--storage", storage)
    assert dry.code == 0
    assert [line.split()[0] for line in dry.out.splitlines()] == ["r1", "r0"]
    assert "2 runs would be removed; nothing was" in dry.err
    assert len(listed(project, storage)) == 4
    done = project.call("prune", "--older", "30d", "--storage", storage)
    assert (done.code, done.out) == (0, "")
    assert "2 runs removed" in done.err
    assert listed(project, storage) == ["r3", "r2"]
    again = project.call("prune", "--older", "30d", "--storage", storage)
    assert again.code == 0
    assert "0 runs removed" in again.err


def test_prune_takes_only_the_states_it_is_told(project: Project) -> None:
    fill(project, [9, 9])
    opened = store(project)
    opened.save(make_record("bad", 1, status=RunState.FAILED, end_time=2))
    assert project.run("prune", "--older", "1w", "--state", "failed").code == 0
    assert sorted(ids(opened)) == ["r0", "r1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "backprop prune --older 30d"),
        (["--older", "30"], "'30' is no time such as"),
        (["--older", "-1d"], ""),
        (["--older", "1d", "--state", "running"], "runs that are running have not ended"),
        (["--older", "1d", "--state", "nope"], "there is no state 'nope'"),
    ],
)
def test_prune_that_is_not_understood_removes_nothing(
    project: Project, words: Sequence[str], said: str
) -> None:
    fill(project, [100])
    done = project.call("prune", *words)
    assert done.code == 2
    assert said in done.err
    assert listed(project) == ["r0"]
