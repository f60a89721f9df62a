"""Where experiments.db lies, who may read it, and what lies beside it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Progress, StorageError
from backprop_core.testing import ids, make_record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.db"


@pytest.fixture
def storage(home: Path) -> Iterator[SqliteStorage]:
    storage = opened(home)
    yield storage
    storage.close()


def opened(home: Path, url: str | None = None) -> SqliteStorage:
    storage = SqliteBackend().open(url, home)
    assert isinstance(storage, SqliteStorage)
    return storage


def run_ids(file: Path) -> list[tuple[object, ...]]:
    """Ask the file as anyone's SQLite tools would."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT id FROM runs").fetchall()


def test_url_names_the_file_and_runs_lie_beside_it(tmp_path: Path, home: Path) -> None:
    place = tmp_path / "a ?#%b" / "store.db"
    storage = opened(home, f"sqlite://{tmp_path}/a%20%3F%23%25b/store.db")
    storage.save(make_record("r"))
    storage.close()
    assert run_ids(place) == [("r",)]
    assert (place.parent / "runs" / "r" / "run.json").exists()
    assert list(home.iterdir()) == []
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://here.db", "sqlite:///x%00.db"])
def test_url_that_names_no_file_is_refused(url: str, home: Path) -> None:
    with pytest.raises(StorageError, match="storage is") as caught:
        SqliteBackend().open(url, home)
    assert "sqlite:///" in str(caught.value.hint)


def test_folder_that_others_may_write_to_is_refused(home: Path) -> None:
    home.chmod(0o770)
    with pytest.raises(StorageError, match="other users"):
        SqliteBackend().open(None, home)


def test_link_to_an_own_file_is_followed_and_stays_a_link(tmp_path: Path, home: Path, file: Path) -> None:
    target = tmp_path / "disk" / "mine.db"
    target.parent.mkdir(0o700)
    file.symlink_to(target)
    storage = opened(home)
    storage.save(make_record("new"))
    storage.close()
    assert file.is_symlink()
    assert run_ids(target) == [("new",)]
    assert (home / "runs" / "new" / "run.json").exists()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".lock"])
def test_planted_links_are_not_written_through(
    storage: SqliteStorage, file: Path, tmp_path: Path, ending: str
) -> None:
    storage.save(make_record("r"))
    storage.close()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    planted = Path(f"{file}{ending}")
    planted.unlink(missing_ok=True)
    planted.symlink_to(precious)
    with pytest.raises(StorageError):
        storage.save(make_record("r"))
    assert planted.is_symlink()
    assert precious.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(storage: SqliteStorage, file: Path) -> None:
    storage.save(make_record("r"))
    storage.close()
    os.chown(file, 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        storage.runs()


def test_file_and_its_log_are_for_this_user_alone(storage: SqliteStorage, file: Path) -> None:
    before = os.umask(0)
    try:
        storage.save(make_record("r"))
        storage.append_metrics("r", [Progress(step=1)])
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in file.parent.glob("**/*")}
    finally:
        os.umask(before)
    assert {f"experiments.db{ending}" for ending in ("", "-wal", "-shm", ".lock")} <= {p.name for p in found}
    assert {path: oct(mode) for path, mode in found.items() if mode & 0o077} == {}


def test_file_that_was_open_to_others_is_closed_to_them(storage: SqliteStorage, file: Path) -> None:
    storage.save(make_record("r"))
    storage.close()
    file.chmod(0o644)
    storage.save(make_record("s"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(f"{file}-wal").stat().st_mode) == 0o600


def test_two_stores_in_one_folder_do_not_take_each_others_runs_for_their_own(home: Path) -> None:
    json_store, sqlite_store = JsonBackend().open(None, home), opened(home)
    json_store.save(make_record("j"))
    assert ids(sqlite_store) == []
    sqlite_store.save(make_record("s"))
    assert ids(sqlite_store) == ["s"]
    assert ids(json_store) == ["j"]
    assert (json_store.problems, sqlite_store.problems) == ([], [])
    (home / "experiments.json").unlink()
    assert ids(json_store) == ["s", "j"], "what is lost is put together again from all there is"


def test_delete_removes_what_backprop_made_and_nothing_else(storage: SqliteStorage, home: Path) -> None:
    for run_id in ("tidy", "mixed"):
        storage.save(make_record(run_id))
        storage.append_metrics(run_id, [Progress(step=1)])
    (home / "runs/mixed/notes.txt").write_text("mine")
    storage.delete("tidy")
    storage.delete("mixed")
    assert [str(path.relative_to(home)) for path in home.glob("runs/**/*")] == [
        "runs/mixed",
        "runs/mixed/notes.txt",
    ]
