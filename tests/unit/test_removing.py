"""Removing many runs: in batches, repeatable after a failure, and never a live one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from fake_storage import FakeStorage

from backprop_core import RunRecord, RunState, StorageError, UsageError
from backprop_core.removing import BATCH, ended_before, removable, remove
from backprop_core.testing import make_record


class Counting(FakeStorage):
    """Deletes many at once, and notes how many."""

    def __init__(self, *records: RunRecord) -> None:
        super().__init__(*records)
        self.batches: list[int] = []

    def delete_many(self, run_ids: Collection[str]) -> None:
        self._fail()
        self.batches.append(len(run_ids))
        for run_id in run_ids:
            self.delete(run_id)


def ended(run_id: str, end_time: int = 1) -> RunRecord:
    return make_record(run_id, 0, status=RunState.COMPLETED, end_time=end_time)


def test_many_runs_take_few_writes(tmp_path: Path) -> None:
    storage = Counting(*(ended(f"r{number}") for number in range(2 * BATCH + 1)))
    removed = remove(storage, removable(tmp_path, storage.runs()))
    assert len(removed) == 2 * BATCH + 1
    assert storage.batches == [BATCH, BATCH, 1]
    assert storage.records == {}


def test_storage_that_deletes_one_at_a_time_will_do(tmp_path: Path) -> None:
    storage = FakeStorage(ended("a"), ended("b"), ended("c"))
    remove(storage, removable(tmp_path, [ended("a"), ended("c")]))
    assert list(storage.records) == ["b"]


def test_removal_that_failed_can_be_repeated(tmp_path: Path) -> None:
    storage = Counting(ended("r"))
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "output.log").write_text("secret")
    storage.error = "the disk is full"
    with pytest.raises(StorageError):
        remove(storage, removable(tmp_path, [ended("r")]))
    assert list(storage.records) == ["r"], "the record goes last, or nobody would find the rest again"
    storage.error = None
    (removed,) = remove(storage, removable(tmp_path, [ended("r")]))
    assert removed.left == ()
    assert storage.records == {}
    assert not folder.exists()


def test_run_that_was_resumed_meanwhile_stays(tmp_path: Path) -> None:
    storage = FakeStorage(make_record("r"))
    assert remove(storage, removable(tmp_path, [ended("r")])) == []
    assert list(storage.records) == ["r"]


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING, RunState.PAUSED])
def test_live_runs_are_refused_and_never_found_old(tmp_path: Path, state: RunState) -> None:
    live = make_record("r", 0, status=state)
    with pytest.raises(UsageError):
        removable(tmp_path, [live])
    assert ended_before(FakeStorage(live), 10**15, ()) == []


def test_age_is_counted_from_the_end_of_a_run() -> None:
    storage = FakeStorage(ended("old", 10), ended("new", 30), make_record("lost", 5, status=RunState.LOST))
    assert [record.id for record in ended_before(storage, 20, ())] == ["lost", "old"]
    assert [record.id for record in ended_before(storage, 20, (RunState.COMPLETED,))] == ["old"]
