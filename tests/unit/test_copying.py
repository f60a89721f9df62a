from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import (
    Attempt,
    Progress,
    RunRecord,
    RunState,
    Storage,
    StorageBackend,
    StorageError,
    copying,
)
from backprop_core.copying import Copied, copy_runs, differing
from backprop_core.testing import full_record, ids, make_record

BACKENDS: list[tuple[StorageBackend, StorageBackend]] = [
    (JsonBackend(), SqliteBackend()),
    (SqliteBackend(), JsonBackend()),
]


@pytest.fixture(params=BACKENDS, ids=["json to sqlite", "sqlite to json"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, Storage]:
    """Give two stores with folders of their own."""
    source, target = request.param
    return source.open(None, tmp_path / "source"), target.open(None, tmp_path / "target")


def ended(run_id: str, start_time: int = 1_700_000_000_000, **fields: object) -> RunRecord:
    return make_record(run_id, start_time, **{"status": RunState.COMPLETED, **fields})


def silent(done: int, total: int) -> None:
    pass


def copied(source: Storage, target: Storage) -> Copied:
    return copy_runs(source, target, silent)


def fill(storage: Storage, count: int, points: int = 3) -> None:
    for number in range(count):
        storage.save(ended(f"r{number}", number // 2))
        storage.append_metrics(
            f"r{number}", [Progress(step=step, loss=1 / (step + 1)) for step in range(points)]
        )


class Breaking:
    """A storage that fails after some writes, as a full disk or a kill would have it."""

    def __init__(self, storage: Storage, writes: int) -> None:
        self._storage = storage
        self._writes = writes

    def save_many(self, records: Sequence[RunRecord]) -> None:
        for record in records:
            self._count()
            self._storage.save(record)

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        self._count()
        half = points[: len(points) // 2] if self._writes < 3 else points
        self._storage.append_metrics(run_id, half)

    def _count(self) -> None:
        self._writes -= 1
        if self._writes < 0:
            raise StorageError("the disk is full")

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)


class Plain:
    """A storage that can do what the interface says, and no more."""

    def __init__(self, storage: Storage) -> None:
        self.get, self.save, self.runs, self.delete = storage.get, storage.save, storage.runs, storage.delete
        self.append_metrics, self.metrics = storage.append_metrics, storage.metrics
        self.post, self.take, self.close = storage.post, storage.take, storage.close


def test_everything_arrives_in_its_order_and_is_alike(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    fill(source, 7)
    source.save(full_record())
    source.append_metrics("full-1", [Progress(step=1, total_steps=9, epoch=0.5, metrics={"lr": 0.1}, at=5)])
    found = copied(source, target)
    assert found.is_complete
    assert len(found.copied) == 8
    assert list(target.runs()) == list(source.runs())
    for run_id in ids(source):
        assert list(target.metrics(run_id)) == list(source.metrics(run_id))
    assert differing(source, target, found) == []


def test_storage_without_save_many_is_written_run_by_run(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    fill(source, 3)
    assert copied(source, Plain(target)).is_complete
    assert ids(target) == ids(source)


def test_copying_again_writes_nothing(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    fill(source, 4)
    copied(source, target)
    again = copy_runs(source, Breaking(target, 0), silent)  # type: ignore[arg-type]
    assert (len(again.copied), len(again.equal)) == (0, 4)
    assert again.is_complete


@pytest.mark.parametrize("writes", [0, 1, 4, 6, 8])
def test_interrupted_copy_goes_on_where_it_was(stores: tuple[Storage, Storage], writes: int) -> None:
    source, target = stores
    fill(source, 5)
    with pytest.raises(StorageError, match="full"):
        copy_runs(source, Breaking(target, writes), silent)  # type: ignore[arg-type]
    found = copied(source, target)
    assert found.is_complete
    assert differing(source, target, found) == []
    assert all(list(target.metrics(f"r{n}")) == list(source.metrics(f"r{n}")) for n in range(5))


def test_live_runs_are_left_out(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    for state in (RunState.QUEUED, RunState.RUNNING, RunState.PAUSED, RunState.LOST):
        source.save(make_record(state, status=state))
    found = copied(source, target)
    assert sorted(record.id for record in found.live) == ["paused", "queued", "running"]
    assert not found.is_complete
    assert ids(target) == ["lost"]


def test_run_that_differs_is_replaced_only_by_one_that_has_come_further(
    stores: tuple[Storage, Storage],
) -> None:
    source, target = stores
    once = (Attempt(start=1, status=RunState.STOPPED),)
    twice = (*once, Attempt(start=2, status=RunState.COMPLETED))
    for storage, further in ((source, "behind"), (target, "ahead")):
        other = target if storage is source else source
        storage.save(ended(further, attempts=twice))
        other.save(ended(further, status=RunState.STOPPED, attempts=once))
    source.save(ended("clash", name="one"))
    target.save(ended("clash", name="two"))
    target.save(ended("theirs"))
    found = copied(source, target)
    assert [[record.id for record in kind] for kind in (found.copied, found.ahead, found.clashing)] == [
        ["behind"],
        ["ahead"],
        ["clash"],
    ]
    assert target.get("behind") == source.get("behind")
    assert target.get("ahead") == ended("ahead", attempts=twice)
    clash = target.get("clash")
    assert clash is not None
    assert clash.name == "two"
    assert target.get("theirs") is not None
    assert differing(source, target, found) == []


def test_series_that_goes_another_way_stays_and_is_named(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    for storage, steps in ((source, (1, 2, 3)), (target, (1, 7))):
        storage.save(ended("r"))
        storage.append_metrics("r", [Progress(step=step) for step in steps])
    found = copied(source, target)
    assert [record.id for record in found.split] == ["r"]
    assert not found.is_complete
    assert [point.step for point in target.metrics("r")] == [1, 7]


def test_what_did_not_arrive_is_found_out(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    fill(source, 4)
    found = copied(source, target)
    target.delete("r1")
    target.save(ended("r2", 1, last_step=9))
    target.append_metrics("r3", [Progress(step=9)])
    assert differing(source, target, found) == ["r1", "r2", "r3"]


def test_stores_that_share_their_run_folders_share_series_once(tmp_path: Path) -> None:
    source, target = (
        JsonBackend().open(None, tmp_path / "home"),
        SqliteBackend().open(None, tmp_path / "home"),
    )
    fill(source, 3)
    found = copied(source, target)
    assert differing(source, target, found) == []
    assert [point.step for point in target.metrics("r1")] == [0, 1, 2]
    assert ids(target) == ids(source)


def test_how_far_it_is_is_told(stores: tuple[Storage, Storage], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = stores
    fill(source, 8)
    monkeypatch.setattr(copying, "BATCH", 5)
    told: list[tuple[int, int]] = []
    copy_runs(source, target, lambda done, total: told.append((done, total)))
    assert told == [(5, 8), (8, 8), (5, 8)], "records first, then series"


def test_long_series_is_copied_in_pieces(stores: tuple[Storage, Storage]) -> None:
    source, target = stores
    source.save(ended("r"))
    for first in range(0, 25_000, 5_000):
        source.append_metrics("r", [Progress(step=step) for step in range(first, first + 5_000)])

    class Watching(Plain):
        def __init__(self, storage: Storage) -> None:
            super().__init__(storage)
            self.pieces: list[int] = []
            self._append, self.append_metrics = storage.append_metrics, self._watched

        def _watched(self, run_id: str, points: Sequence[Progress]) -> None:
            self.pieces.append(len(points))
            self._append(run_id, points)

    watching = Watching(target)
    copied(source, watching)
    assert watching.pieces == [10_000, 10_000, 5_000]
    assert _steps(target.metrics("r")) == list(range(25_000))


def _steps(points: Iterable[Progress]) -> list[int | None]:
    return [point.step for point in islice(points, 30_000)]
