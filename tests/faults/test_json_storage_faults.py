"""experiments.json under kills, full disks, held locks and failing system calls."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from figures import Figures

from backprop_builtin.storage._locks import locked
from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core import Progress, StorageError
from backprop_core.testing import make_record

LIMIT_S = 60.0
SOAK_LIMIT_S = 1800.0
IDS = [f"r{number}" for number in range(5)]

CHILD = r"""
import json, os, resource, signal, sys, time
from pathlib import Path
from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import Intent, Progress, RunRecord, RunState, StorageError

home = Path(sys.argv[2])

def record(run_id, **fields):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1, **fields)

def say(text):
    os.write(1, text.encode() + b"\n")

def try_to_save(storage, run_id, **fields):
    try:
        storage.save(record(run_id, **fields))
    except StorageError as error:
        say("refused " + " ".join(str(error).split()))
    else:
        say("saved " + run_id)

def save_many(prefix, count):
    storage = JsonBackend().open(None, home)
    for number in range(int(count)):
        storage.save(record(f"{prefix}-{number}"))

def killed_again_and_again(rounds):
    # One process forks every writer, so that a kill costs no interpreter start.
    acknowledged, bad = [], []
    for turn in range(int(rounds)):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            storage = JsonBackend().open(None, home)
            number = 0
            while True:
                run_id = f"w{turn}-{number}"
                storage.save(record(run_id))
                os.write(writer, run_id.encode() + b"\n")
                number += 1
        os.close(writer)
        text = b""
        while text.count(b"\n") < 1 + turn % 3:
            more = os.read(reader, 4096)
            assert more, "a writer ended by itself"
            text += more
        time.sleep(turn * 7 % 30 / 10000)  # falls on another step of the save in every turn
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(reader, 4096):
            text += more
        os.close(reader)
        acknowledged += text.decode().split("\n")[:-1]
        try:
            there = json.loads((home / "experiments.json").read_text())
        except ValueError as error:
            bad.append(f"turn {turn}: {error}")
        else:
            bad += [f"turn {turn}: {run_id} is lost" for run_id in acknowledged if run_id not in there]
    say(json.dumps({"acknowledged": len(acknowledged), "bad": bad}))

def run_out_of_space(bytes_left):
    storage = JsonBackend().open(None, home)
    size = (home / "experiments.json").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(bytes_left), resource.RLIM_INFINITY))
    try_to_save(storage, "big", name="x" * 100_000)

def leave_no_mode_to_chance():
    os.umask(0)
    storage = JsonBackend().open(None, home)
    storage.save(record("r"))
    storage.append_metrics("r", [])
    storage.post("r", Intent(kind="stop"))
    (home / "experiments.json").write_text("{")
    storage.runs()

globals()[sys.argv[1]](*sys.argv[3:])
"""


def start(action: str, home: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, action, str(home), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finished(child: subprocess.Popen[str], told: str = "", limit_s: float = LIMIT_S) -> str:
    """Wait for a child and give what it said."""
    try:
        said, _ = child.communicate(told, timeout=limit_s)
    finally:
        child.kill()
    return said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.json"


@pytest.fixture
def storage(home: Path) -> JsonStorage:
    return JsonBackend().open(None, home)


@pytest.fixture
def filled(storage: JsonStorage) -> JsonStorage:
    for number, run_id in enumerate(IDS):
        storage.save(make_record(run_id, number))
    return storage


def ids(storage: JsonStorage) -> list[str]:
    return sorted(record.id for record in storage.runs())


def leftovers(home: Path) -> list[Path]:
    return list(home.rglob("*.tmp"))


@pytest.mark.parametrize("kills", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_killed_writers_lose_no_acknowledged_record(home: Path, kills: int, figures: Figures) -> None:
    child = start("killed_again_and_again", home, kills)
    report = json.loads(finished(child, limit_s=LIMIT_S if kills < 100 else SOAK_LIMIT_S))
    figures(kills=kills, acknowledged=report["acknowledged"], lost_or_unparsable=len(report["bad"]))
    assert report["bad"] == []
    assert report["acknowledged"] >= kills
    storage = JsonBackend().open(None, home)
    storage.save(make_record("after"))
    assert storage.problems == []
    assert list(home.glob(".*.tmp")) == [], "the next writer removes what the killed ones left"


# What the system refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("bytes_left", [-100, 0, 50_000])
def test_full_disk_is_told_and_leaves_the_old_file(
    filled: JsonStorage, home: Path, file: Path, bytes_left: int
) -> None:
    before = file.read_bytes()
    said = finished(start("run_out_of_space", home, bytes_left))
    assert re.match(rf"refused cannot write {home}\S*: File too large", said)
    assert file.read_bytes() == before
    assert leftovers(home) == []
    filled.save(make_record("after"))
    assert ids(filled) == ["after", *IDS]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_read_only_folder_can_be_read_and_refuses_to_save(
    filled: JsonStorage, home: Path, file: Path
) -> None:
    before = file.read_bytes()
    home.chmod(0o500)
    try:
        storage = JsonBackend().open(None, home)
        assert ids(storage) == IDS
        with pytest.raises(StorageError, match=f"cannot write {file}: Permission denied"):
            storage.save(make_record("new"))
    finally:
        home.chmod(0o700)
    assert file.read_bytes() == before


def test_series_on_a_full_disk_is_told_and_the_next_points_are_whole(
    filled: JsonStorage, home: Path, tmp_path: Path
) -> None:
    filled.append_metrics("r0", [Progress(step=1)])
    filled.close()
    series = home / "runs" / "r0" / "metrics.jsonl"
    with series.open("ab") as cut_short:
        cut_short.write(b'{"step":2,"los')
    filled.append_metrics("r0", [Progress(step=3)])
    assert [point.step for point in filled.metrics("r0")] == [1, 3]
    (home / "runs" / "r1" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot write .*r1/metrics\.jsonl"):
        filled.append_metrics("r1", [Progress(step=1)])


def test_umask_of_zero_opens_nothing_to_others(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b" / "home"
    child = start("leave_no_mode_to_chance", home)
    finished(child)
    assert child.returncode == 0
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("a/**/*")} | {
        tmp_path / "a": stat.S_IMODE((tmp_path / "a").stat().st_mode)
    }
    names = {path.name for path in found}
    assert {"experiments.json", "experiments.json.lock", "run.json", "metrics.jsonl", "control"} <= names
    assert {path for path, mode in found.items() if mode != (0o700 if path.is_dir() else 0o600)} == set()


def test_run_that_is_removed_while_another_process_saves_it_is_saved_whole(
    storage: JsonStorage, home: Path
) -> None:
    storage.save(make_record("r"))
    with locked(f"{home}/experiments.json.lock", 5.0):
        saver = threading.Thread(target=storage.save, args=(make_record("r", last_step=7),))
        saver.start()
        end_s = time.monotonic() + 30.0
        while not list((home / "runs" / "r").glob(".run.json.*.tmp")):
            assert time.monotonic() < end_s
        while not all(path.stat().st_size for path in (home / "runs" / "r").glob(".run.json.*.tmp")):
            assert time.monotonic() < end_s
        RunFolders(home / "runs").remove("r")
    saver.join(30.0)
    assert storage.get("r") == make_record("r", last_step=7)
    assert json.loads((home / "runs" / "r" / "run.json").read_text())["lastStep"] == 7


def test_planted_links_are_not_written_through(storage: JsonStorage, home: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = home / "runs" / "r"
    folder.mkdir(parents=True)
    for name in ("metrics.jsonl", "control", "run.json"):
        (folder / name).symlink_to(precious)
    with pytest.raises(StorageError):
        storage.append_metrics("r", [Progress(step=1)])
    with pytest.raises(StorageError):
        storage.take("r")
    storage.save(make_record("r"))
    (home / "experiments.json.lock").unlink()
    (home / "experiments.json.lock").symlink_to(precious)
    with pytest.raises(StorageError):
        storage.save(make_record("s"))
    assert precious.read_text() == "mine"
    assert not (folder / "run.json").is_symlink()
