"""experiments.db damaged in every way: kept aside, put together again, and said."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_core import Intent, RunState
from backprop_core.testing import ids, make_record

IDS = [f"r{number}" for number in range(5)]
NEWEST_FIRST = IDS[::-1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.db"


def opened(home: Path) -> SqliteStorage:
    return SqliteStorage(home / "experiments.db", RunFolders(home / "runs"))


@pytest.fixture
def filled(home: Path) -> SqliteStorage:
    """Give a store that holds runs, all of them in the file itself, and has no connection open."""
    storage = opened(home)
    for number, run_id in enumerate(IDS):
        storage.save(make_record(run_id, number))
    storage.close()
    return storage


def empty(file: Path) -> None:
    file.write_bytes(b"")


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def headless(file: Path) -> None:
    file.write_bytes(b"\xff" * 100 + file.read_bytes()[100:])


def of_another_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA application_id = 7")


def without_its_runs(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE runs")


def text(file: Path) -> None:
    file.write_text("{}")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("kept")


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = [
    empty,
    halved,
    zeroed,
    headless,
    of_another_program,
    without_its_runs,
    text,
    a_folder,
    a_pipe,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_reader_that_meets_damage_keeps_it_aside_and_rebuilds_every_record(
    filled: SqliteStorage, home: Path, file: Path, damage: Callable[[Path], None]
) -> None:
    damage(file)
    broken = file.read_bytes() if file.is_file() else None
    assert ids(filled) == NEWEST_FIRST
    (kept,) = home.glob("experiments.db.corrupt-*")
    assert re.fullmatch(r"experiments\.db\.corrupt-\d{8}T\d{6}Z", kept.name)
    if broken is not None:
        assert kept.read_bytes() == broken
    if damage is a_folder:
        assert (kept / "inside").read_text() == "kept"
    (problem,) = filled.problems
    assert str(file) in problem
    assert kept.name in problem
    assert "5 runs" in problem
    filled.close()
    again = opened(home)
    assert ids(again) == NEWEST_FIRST
    assert again.problems == []
    again.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_writer_that_meets_damage_rebuilds_before_it_adds(
    filled: SqliteStorage, home: Path, file: Path, damage: Callable[[Path], None]
) -> None:
    damage(file)
    filled.save(make_record("new", 9))
    assert ids(filled) == ["new", *NEWEST_FIRST]
    assert len(filled.problems) == 1
    assert len(list(home.glob("experiments.db.corrupt-*"))) == 1
    filled.close()


def test_every_truncation_loses_nothing(filled: SqliteStorage, home: Path, file: Path) -> None:
    content = file.read_bytes()
    for length in range(0, len(content), 1021):
        file.write_bytes(content[:length])
        fresh = opened(home)
        assert ids(fresh) == NEWEST_FIRST, f"cut at {length}"
        fresh.post("r0", Intent(kind="stop"))
        fresh.save(make_record("new", 9))
        assert ids(fresh) == ["new", *NEWEST_FIRST], f"cut at {length}"
        fresh.delete("new")
        assert fresh.take("r0") == Intent(kind="stop")
        fresh.close()


def test_record_whose_copy_is_gone_is_saved_out_of_the_damaged_file(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_start'"
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    shutil.rmtree(home / "runs/r2")
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * size)
        damaged.write(b"\xff" * size)
    assert ids(filled) == NEWEST_FIRST
    assert "5 runs" in filled.problems[0]
    filled.close()


def test_copies_win_over_what_is_left_in_a_damaged_file(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    before = file.read_bytes()
    filled.save(make_record("r2", 2, last_step=7))
    filled.close()
    file.write_bytes(before[:-4096])
    found = filled.get("r2")
    assert found is not None
    assert found.last_step == 7
    filled.close()


def test_vanished_file_is_rebuilt_aloud(filled: SqliteStorage, file: Path) -> None:
    file.unlink()
    assert ids(filled) == NEWEST_FIRST
    (problem,) = filled.problems
    assert "is missing" in problem
    assert "5 runs" in problem
    filled.close()


def test_damaged_copy_is_named_and_hides_no_other(filled: SqliteStorage, home: Path, file: Path) -> None:
    for run_id, line in (("r1", b"{torn"), ("r3", b"[]"), ("r4", b"\xff")):
        (home / "runs" / run_id / "run.json").write_bytes(line)
    zeroed(file)
    assert ids(filled) == ["r2", "r0"]
    assert sorted(r for r in IDS if any(f"{r}/run.json" in problem for problem in filled.problems)) == [
        "r1",
        "r3",
        "r4",
    ]
    filled.close()


def test_log_of_the_damaged_file_never_reaches_its_successor(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    filled.save(make_record("r0", 0, status=RunState.COMPLETED))
    log = Path(f"{file}-wal").read_bytes()
    filled.close()
    zeroed(file)
    Path(f"{file}-wal").write_bytes(log)
    storage = opened(home)
    assert ids(storage) == NEWEST_FIRST
    assert len(storage.problems) == 1
    storage.save(make_record("new", 9))
    assert ids(storage) == ["new", *NEWEST_FIRST]
    storage.close()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_store_that_was_open_goes_on_in_the_file_that_another_one_rebuilt(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    live, other = opened(home), opened(home)
    live.post("r0", Intent(kind="stop"))
    assert ids(other) == NEWEST_FIRST
    broken = home / "broken"
    broken.write_text("not a database")
    broken.rename(file)
    fresh = opened(home)
    assert ids(fresh) == NEWEST_FIRST
    live.save(make_record("live", 9))
    assert ids(fresh) == ["live", *NEWEST_FIRST]
    assert ids(other) == ["live", *NEWEST_FIRST]
    other.post("live", Intent(kind="pause"))
    assert live.take("live") == Intent(kind="pause")
    for storage in (live, other, fresh):
        storage.close()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchall() == [(6,)]


def test_flipped_bits_never_change_or_hide_a_record_in_silence(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    content = file.read_bytes()
    before = {record.id: record for record in filled.runs()}
    filled.close()
    noticed = 0
    for position in range(0, len(content), 97):
        file.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        fresh = opened(home)
        found = {record.id: msgspec.structs.replace(record, extra={}) for record in fresh.runs()}
        fresh.close()
        noticed += bool(fresh.problems)
        assert found == before or fresh.problems, f"a changed bit in byte {position} passed for a record"
    assert noticed
