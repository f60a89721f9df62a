from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import network_disk
import pytest

from backprop_builtin.storage import _database, sqlite
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Intent, Progress, RunState, Storage, StorageBackend, StorageError
from backprop_core.testing import Factory, StorageContract, full_record, ids, make_record


class TestSqliteStorageKeepsTheContract(StorageContract):
    @pytest.fixture
    def storage_factory(self, tmp_path: Path) -> Factory:
        return partial(SqliteBackend().open, None, tmp_path / "home")


class TestSqliteStorageOnANetworkFileSystemKeepsTheContract(StorageContract):
    @pytest.fixture
    def storage_factory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
        monkeypatch.setattr(_database, "is_on_network", network_disk.is_on_network)  # put back in the end
        return partial(network_disk.open_sqlite, tmp_path / "home")


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


def asked(file: Path, question: str) -> list[tuple[object, ...]]:
    """Ask the file as anyone's SQLite tools would."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute(question).fetchall()


def changed(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def test_plugin_brings_the_sqlite_backend(home: Path) -> None:
    backend = sqlite.backprop_storage_backend()
    assert isinstance(backend, StorageBackend)
    assert (backend.name, backend.schemes) == ("sqlite", ("sqlite",))
    assert isinstance(backend.open(None, home), Storage)


def test_loading_the_plugin_does_not_load_sqlite() -> None:
    script = (
        "import sys, backprop_builtin.storage.sqlite as s; s.SqliteBackend(); print('sqlite3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_one_open_store_serves_several_threads(storage: SqliteStorage) -> None:
    def work(place: int) -> None:
        for number in range(10):
            storage.save(make_record(f"t{place}-{number}", number))
            assert storage.get(f"t{place}-{number}") is not None
            storage.post(f"t{place}-0", Intent(kind="stop"))
            assert storage.take(f"t{place}-0") == Intent(kind="stop")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(storage.runs()) == 40


# The file ------------------------------------------------------------------------------------


def test_file_holds_each_record_as_json_for_anyones_tools(storage: SqliteStorage, file: Path) -> None:
    storage.save(full_record())
    storage.save(make_record("r", last_loss=0.5))
    storage.close()
    assert asked(file, "SELECT id, json_extract(record, '$.lastLoss') FROM runs WHERE state = 'running'") == [
        ("r", 0.5)
    ]
    ((text,),) = asked(file, "SELECT record FROM runs WHERE id = 'full-1'")
    copy = (file.parent / "runs/full-1/run.json").read_text()
    assert json.loads(str(text)) == json.loads(copy)


@pytest.mark.parametrize(
    ("is_network", "mode", "synchronous"), [(False, "wal", 2), (True, "delete", 3)], ids=["local", "network"]
)
def test_every_commit_is_durable_with_the_journal_that_the_file_system_can_bear(
    storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch, *, is_network: bool, mode: str, synchronous: int
) -> None:
    monkeypatch.setattr(_database, "is_on_network", lambda _: is_network)
    storage.save(make_record("r"))
    assert storage._database is not None
    connection = storage._database.connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == (mode.encode(),)
    assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)


def test_database_that_moves_to_a_network_file_system_gives_its_write_ahead_log_up(
    storage: SqliteStorage, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.save(make_record("r"))
    storage.close()
    monkeypatch.setattr(_database, "is_on_network", lambda _: True)
    storage.save(make_record("s"))
    assert ids(storage) == ["s", "r"]
    assert not Path(f"{file}-wal").exists()
    assert asked(file, "PRAGMA journal_mode") == [("delete",)]


def test_series_is_a_file_of_its_own_that_costs_no_transaction(storage: SqliteStorage, home: Path) -> None:
    storage.append_metrics("r", [Progress(step=1, loss=0.5)])
    assert (home / "runs/r/metrics.jsonl").read_text() == '{"step":1,"loss":0.5}\n'
    assert not (home / "experiments.db").exists()


def test_start_beyond_64_bits_sorts_as_the_newest(storage: SqliteStorage) -> None:
    for run_id, start in (("late", 2**63), ("never", -(2**63) - 1), ("now", 1_700_000_000_000)):
        storage.save(make_record(run_id, start_time=start))
    assert ids(storage) == ["late", "now", "never"]
    assert storage.problems == []


def test_looking_makes_no_files(storage: SqliteStorage, home: Path) -> None:
    assert storage.runs() == []
    assert storage.get("r") is None
    assert storage.take("r") is None
    assert list(storage.metrics("r")) == []
    assert list(home.iterdir()) == []


def test_closing_leaves_one_file_without_a_log(storage: SqliteStorage, file: Path) -> None:
    storage.save(make_record("r"))
    storage.close()
    beside = [f"{file.name}.lock", f"{file.name}.lock.queue", "runs"]
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, *beside]


def test_polling_for_requests_takes_no_lock(storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.post("r", Intent(kind="stop"))
    assert storage.take("r") == Intent(kind="stop")
    locks: list[object] = []
    real = storage._locked

    def watched(wait_s: float | None = None) -> object:
        locks.append(wait_s)
        return real(wait_s)

    monkeypatch.setattr(storage, "_locked", watched)
    assert storage.take("r") is None
    assert locks == []
    storage.post("r", Intent(kind="stop"))
    assert storage.take("r") == Intent(kind="stop")
    assert len(locks) == 2


def test_request_that_is_none_is_taken_away_and_harms_no_other(storage: SqliteStorage, file: Path) -> None:
    storage.save(make_record("r"))
    changed(file, """INSERT INTO requests (run_id, request) VALUES ('r', '{"kind":"explode"}')""")
    storage.post("r", Intent(kind="stop"))
    assert [storage.take("r") for _ in range(3)] == [None, Intent(kind="stop"), None]


def test_listing_reads_no_more_than_it_is_asked_for(storage: SqliteStorage, file: Path) -> None:
    for number in range(9):
        storage.save(make_record(f"r{number}", number, status=[RunState.RUNNING, RunState.LOST][number % 2]))
    changed(file, "UPDATE runs SET record = 'x' WHERE id IN ('r0', 'r1')")
    assert ids(storage, limit=3) == ["r8", "r7", "r6"]
    assert ids(storage, limit=3, states={RunState.RUNNING, RunState.LOST}) == ["r8", "r7", "r6"]
    assert storage.problems == []


@pytest.mark.parametrize("states", [(), (RunState.RUNNING,), (RunState.RUNNING, RunState.LOST)])
def test_listing_follows_an_index_and_sorts_nothing_however_many_runs_there_are(
    storage: SqliteStorage, states: tuple[RunState, ...]
) -> None:
    storage.save(make_record("r"))
    assert storage._database is not None
    connection = storage._database.connection
    questions: list[str] = []
    connection.set_trace_callback(questions.append)
    storage.runs(states=states, limit=1)
    connection.set_trace_callback(None)
    asked_for = [question for question in questions if question.startswith("SELECT")]
    assert len(asked_for) == max(1, len(states))
    for question in asked_for:
        ((*_, plan),) = connection.execute(f"EXPLAIN QUERY PLAN {question}").fetchall()
        index = b"runs_by_state (state=?)" if states else b"runs_by_start"
        assert plan.endswith(b"USING INDEX " + index), plan


# Other versions, other hands -----------------------------------------------------------------


def test_database_of_a_newer_version_is_read_and_never_written(storage: SqliteStorage, file: Path) -> None:
    storage.save(make_record("r"))
    storage.close()
    changed(file, "PRAGMA user_version = 2", "ALTER TABLE runs ADD COLUMN color TEXT")
    before = file.read_bytes()
    assert ids(storage) == ["r"]
    assert storage.get("r") == make_record("r")
    (problem,) = storage.problems
    assert "newer Backprop" in problem
    writes: list[Callable[[], object]] = [
        lambda: storage.save(make_record("s")),
        lambda: storage.delete("r"),
        lambda: storage.post("r", Intent(kind="stop")),
    ]
    for write in writes:
        with pytest.raises(StorageError, match="only read"):
            write()
    storage.close()
    assert file.read_bytes() == before
    assert (file.parent / "runs/r/run.json").exists()


def test_record_of_a_newer_version_is_named_and_never_written_over(
    storage: SqliteStorage, file: Path
) -> None:
    storage.save(make_record("mine", 1))
    newer = json.dumps({"id": "newer", "schemaVersion": 2, "status": ["v2"]})
    changed(file, f"INSERT INTO runs (id, start_time, state, record) VALUES ('newer', 9, 'v2', '{newer}')")
    assert ids(storage) == ["mine"]
    assert "version 2" in storage.problems[0]
    with pytest.raises(StorageError, match="newer Backprop"):
        storage.save(make_record("newer"))
    with pytest.raises(StorageError, match="newer Backprop"):
        storage.save_many([make_record("other"), make_record("newer")])
    assert asked(file, "SELECT record FROM runs WHERE id = 'newer'") == [(newer,)]
    assert asked(file, "SELECT count(*) FROM runs") == [(2,)]


def test_database_of_another_program_is_refused_and_left_alone(storage: SqliteStorage, file: Path) -> None:
    changed(file, "CREATE TABLE photos (name TEXT)")
    before = file.read_bytes()
    for attempt in (storage.runs, lambda: storage.save(make_record("r"))):
        with pytest.raises(StorageError, match="another program"):
            attempt()
    assert file.read_bytes() == before
    assert "experiments.db.corrupt" not in " ".join(os.listdir(file.parent))


def test_record_changed_behind_its_checksum_is_shown_as_it_stands_and_named(
    storage: SqliteStorage, file: Path
) -> None:
    storage.save(make_record("r", last_step=1500))
    changed(file, "UPDATE runs SET record = replace(record, '1500', '9500')")
    record = storage.get("r")
    assert record is not None
    assert record.last_step == 9500
    (problem,) = storage.problems
    assert "record r does not match its checksum" in problem
    storage.save(record)
    assert storage.runs() == [record]
    assert len(storage.problems) == 1


@pytest.mark.parametrize("change", ["state = 'lost'", "start_time = 7"])
def test_row_that_lists_a_run_as_what_it_is_not_is_named(
    storage: SqliteStorage, file: Path, change: str
) -> None:
    storage.save(make_record("r"))
    changed(file, f"UPDATE runs SET {change}")
    assert storage.runs() == [make_record("r")]
    (problem,) = storage.problems
    assert "run r is listed by another state or start" in problem
    storage.save(make_record("r"))
    assert ids(opened(file.parent), states={RunState.RUNNING}) == ["r"]


def test_record_that_cannot_be_read_is_named_and_left_out(storage: SqliteStorage, file: Path) -> None:
    for number, run_id in enumerate(("torn", "null", "blob", "other", "../x", "good")):
        storage.save(make_record(f"t{number}"))
        changed(file, f"UPDATE runs SET id = '{run_id}' WHERE id = 't{number}'")
    changed(
        file,
        "UPDATE runs SET record = '{torn' WHERE id = 'torn'",
        "UPDATE runs SET record = 'null' WHERE id = 'null'",
        "UPDATE runs SET record = x'ff00' WHERE id = 'blob'",
        "UPDATE runs SET record = replace(record, '\"t5\"', '\"good\"') WHERE id = 'good'",
    )
    assert ids(storage) == ["good"]
    assert len(storage.problems) == 6
    with pytest.raises(StorageError, match="torn"):
        storage.get("torn")
