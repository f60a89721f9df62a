"""The life of a run as its record tells it: found, begun, followed and ended."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_storage import FakeStorage

from backprop_core import registry
from backprop_core.errors import NotFoundError, StorageError, UsageError
from backprop_core.holding import make_folder
from backprop_core.identity import RUN_ID
from backprop_core.records import (
    Attempt,
    CheckpointSaved,
    PauseSpan,
    ProcessExit,
    Progress,
    ProgressBatch,
    RunRecord,
)
from backprop_core.registry import Journal, find, new_attempt, new_id
from backprop_core.states import FINAL, RunState


def make(run_id: str = "r", start: int = 1, **fields: Any) -> RunRecord:
    fields.setdefault("status", RunState.RUNNING)
    return RunRecord(id=run_id, script_path="/x.py", start_time=start, **fields)


def running() -> RunRecord:
    return make(attempts=(Attempt(start=1),))


class Clock:
    """Stands in for both clocks of the registry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 1000.0
        monkeypatch.setattr(registry, "now_s", lambda: self.s)
        monkeypatch.setattr(registry, "now_ms", lambda: int(self.s * 1000))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def journal(clock: Clock, storage: FakeStorage, told: list[str]) -> Journal:
    return Journal(storage, running(), told.append)


# Finding ---------------------------------------------------------------------------------------


def test_a_run_is_found_by_id_name_prefix_or_as_the_last() -> None:
    storage = FakeStorage(
        make("20250101-a", 1, name="mnist"),
        make("20250101-b", 2, name="mnist"),
        make("20250202-c", 3, name="20250101-a"),
        make("mni", 4),
    )
    expected = {
        "20250101-a": "20250101-a",  # the id before the name
        "mnist": "20250101-b",  # the newest of the name
        "mni": "mni",
        "202502": "20250202-c",
        "last": "mni",
    }
    assert {reference: find(storage, reference).id for reference in expected} == expected


def test_a_prefix_of_several_runs_is_a_usage_error_that_shows_some() -> None:
    storage = FakeStorage(*(make(f"a-{number}", number) for number in range(5)))
    with pytest.raises(UsageError, match=r"'a-' fits 5 runs: a-4, a-3, a-2\.\.\."):
        find(storage, "a-")


@pytest.mark.parametrize("reference", ["", "x", "../x", "A", "last"])
def test_a_run_that_is_not_there_is_not_found(reference: str) -> None:
    with pytest.raises(NotFoundError):
        find(FakeStorage(), reference)
    if reference != "last":
        with pytest.raises(NotFoundError):
            find(FakeStorage(make("a")), reference)


def test_new_ids_are_ids_differ_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = {new_id() for _ in range(500)}
    assert len(at_once) == 500
    assert all(RUN_ID.fullmatch(one) for one in at_once)
    import time

    one = new_id()
    later = time.localtime(time.time() + 3600)
    original = time.strftime
    monkeypatch.setattr(time, "strftime", lambda form, *_: original(form, later))
    assert new_id() > one


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "-x", "x\n", "é", "x" * 129])
def test_no_path_is_built_from_what_is_no_id(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="is not a run id"):
        make_folder(tmp_path, run_id)
    assert list(tmp_path.iterdir()) == []


# The journal -----------------------------------------------------------------------------------


def test_the_record_is_saved_before_the_start_or_there_is_no_start(
    journal: Journal, storage: FakeStorage
) -> None:
    storage.error = "disk full"
    with pytest.raises(StorageError):
        journal.begin(running())
    storage.error = None
    begun = make("other", attempts=(Attempt(start=1),))
    journal.begin(begun)
    assert storage.saves == [begun]
    assert journal.record is begun


def test_progress_is_taken_in_and_every_point_kept_with_the_moment_it_was_read(
    journal: Journal, storage: FakeStorage
) -> None:
    journal.events(
        [
            Progress(step=1, loss=0.5, metrics={"acc": 0.1, "lr": 1.0}),
            Progress(step=2, epoch=0.5, total_steps=9, metrics={"acc": 0.2}),
            Progress(loss=0.25, at=7),
        ]
    )
    record = journal.record
    assert (record.last_step, record.last_loss) == (2, 0.25)
    assert record.metrics == {"acc": 0.2, "lr": 1.0, "epoch": 0.5, "totalSteps": 9}
    assert [point.at for point in storage.points] == [1_000_000, 1_000_000, 7]
    journal.events([Progress(metrics={"val": 1.0})])
    assert (journal.record.last_step, journal.record.metrics["acc"]) == (2, 0.2)
    journal.events([Progress(step=1)])
    assert journal.record.last_step == 1, "the last step, not the highest"


def test_from_where_to_where_an_attempt_has_come_is_kept_in_steps_and_in_epochs(journal: Journal) -> None:
    journal.events([Progress(loss=1), Progress(step=3), Progress(step=4, epoch=0.5)])
    journal.events([Progress(epoch=1.5), Progress(step=9)])
    newest = journal.record.attempts[-1]
    assert (newest.first_step, newest.last_step) == (3, 9)
    assert (newest.first_epoch, newest.last_epoch) == (0.5, 1.5)


def test_progress_is_saved_as_seldom_as_keeps_writing_under_a_hundredth_of_the_time(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    save_takes_s = 0.2

    def slowly() -> None:
        clock.s += save_takes_s

    storage.on_save = slowly
    began_s = clock.s
    for step in range(2000):
        clock.s += 0.05
        journal.events([Progress(step=step)])
    assert len(storage.points) == 2000
    assert len(storage.saves) == 4
    journal.end(RunState.COMPLETED, None, None)
    assert len(storage.saves) * save_takes_s <= 0.01 * (clock.s - began_s), "the end included"


def test_checkpoints_take_their_part_of_the_time_from_progress(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    storage.on_save = lambda: setattr(clock, "s", clock.s + 0.1)
    began_s = clock.s
    journal.begin(running())
    for step in range(600):
        clock.s += 0.1
        journal.events([Progress(step=step)])
        if step % 200 == 199:
            journal.events([CheckpointSaved(path=f"{step}.pt")])
            assert storage.saves[-1].last_checkpoint == f"{step}.pt"
    journal.end(RunState.COMPLETED, None, None)
    assert 5 <= len(storage.saves) <= 7, "the begin, the first progress, three checkpoints, the end"
    assert len(storage.saves) * 0.1 <= 0.012 * (clock.s - began_s)


def test_with_a_quick_storage_progress_is_saved_every_five_seconds(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    for step in range(100):
        clock.s += 1.0
        journal.events([Progress(step=step)])
    assert [record.last_step for record in storage.saves[:3]] == [4, 9, 14]


def test_checkpoints_are_saved_at_once_and_one_saved_again_moves_to_the_end(
    journal: Journal, storage: FakeStorage
) -> None:
    journal.events([CheckpointSaved(path="/a"), CheckpointSaved(path="/b")])
    journal.events([Progress(step=3), CheckpointSaved(path="/a"), CheckpointSaved(path="/c")])
    assert [record.checkpoints for record in storage.saves] == [("/a", "/b"), ("/b", "/a", "/c")]
    assert storage.saves[-1].last_checkpoint == "/c"
    assert storage.saves[-1].last_step == 3


def test_nothing_read_is_nothing_written(journal: Journal, storage: FakeStorage, clock: Clock) -> None:
    clock.s += 100
    journal.events([])
    assert (storage.saves, storage.points) == ([], [])


def test_pauses_are_kept_with_their_causes_and_an_open_one_ends_with_the_run(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    journal.paused("heat")
    assert (storage.saves[-1].status, storage.saves[-1].reason) == (RunState.PAUSED, "heat")
    assert storage.saves[-1].attempts[-1].status is RunState.PAUSED
    clock.s += 10
    journal.continued()
    assert (storage.saves[-1].status, storage.saves[-1].reason) == (RunState.RUNNING, None)
    clock.s += 10
    journal.paused("RAM")
    clock.s += 5
    journal.end(RunState.STOPPED, ProcessExit(signal=15), "no RAM")
    (attempt,) = storage.saves[-1].attempts
    assert attempt.pauses == (
        PauseSpan(begin=1_000_000, end=1_010_000, cause="heat"),
        PauseSpan(begin=1_020_000, end=1_025_000, cause="RAM"),
    )


@pytest.mark.parametrize(
    ("exited", "code"), [(ProcessExit(code=3), 3), (ProcessExit(signal=9), 137), (None, None)]
)
def test_the_end_is_told_of_the_run_and_of_its_newest_attempt(
    clock: Clock, storage: FakeStorage, exited: ProcessExit | None, code: int | None
) -> None:
    first = Attempt(start=1, end=2, status=RunState.LOST)
    journal = Journal(storage, make(attempts=(first, Attempt(start=3))), print)
    journal.end(RunState.FAILED, exited, "why")
    record = storage.saves[-1]
    assert (record.status, record.end_time, record.exit_code, record.reason) == (
        "failed",
        1_000_000,
        code,
        "why",
    )
    assert record.attempts == (
        first,
        Attempt(start=3, end=1_000_000, status=RunState.FAILED, exit_code=code, reason="why"),
    )


def test_a_storage_that_fails_while_the_script_runs_is_told_once_and_what_is_lost_counted(
    journal: Journal, storage: FakeStorage, told: list[str]
) -> None:
    storage.error = "the disk is full"
    journal.events([Progress(step=1), CheckpointSaved(path="/a")])
    journal.paused("heat")
    journal.continued()
    assert journal.lost_writes == 4
    assert told == ["the disk is full; the run goes on, what cannot be written is lost"]
    storage.error = None
    journal.end(RunState.COMPLETED, ProcessExit(code=0), None)
    record = storage.saves[-1]
    assert (record.last_step, record.checkpoints) == (1, ("/a",)), "the next save makes up for it"
    assert len(record.attempts[-1].pauses) == 1


def test_a_large_batch_notes_its_one_moment_on_the_last_point(journal: Journal, storage: FakeStorage) -> None:
    journal.events([Progress(step=step) for step in range(registry.STAMPED_POINTS + 1)])
    assert [point.at for point in storage.points] == [None] * registry.STAMPED_POINTS + [1_000_000]


@pytest.mark.parametrize(("count", "noted"), [(3, [1_000_000] * 3), (1000, [None] * 999 + [1_000_000])])
def test_what_a_parser_read_at_once_has_its_moment_on_each_point_of_a_small_batch(
    journal: Journal, storage: FakeStorage, count: int, noted: list[int | None]
) -> None:
    journal.events(ProgressBatch.read(b'{"step": 1, "metrics": {"sent": 2.5}}\n' * count))
    assert [point.at for point in storage.points] == noted


# Attempts --------------------------------------------------------------------------------------


def test_a_further_attempt_begins_afresh_and_keeps_what_was_reached(clock: Clock) -> None:
    old = make(
        status=RunState.FAILED,
        end_time=5,
        exit_code=1,
        reason="why",
        last_step=7,
        checkpoints=("/a",),
        attempts=(Attempt(start=1, end=5, status=RunState.FAILED),),
    )
    record = new_attempt(old, resumed_from="/a", host="here", state=RunState.RUNNING)
    assert (record.status, record.end_time, record.exit_code, record.reason) == (
        RunState.RUNNING,
        None,
        None,
        None,
    )
    assert (record.start_time, record.last_step, record.checkpoints, record.host) == (1, 7, ("/a",), "here")
    assert record.attempts == (*old.attempts, Attempt(start=1_000_000, resumed_from="/a"))


def test_an_attempt_that_was_handed_over_is_taken_up_not_added_to(clock: Clock) -> None:
    queued = new_attempt(make(), resumed_from="/a", host=None, state=RunState.QUEUED)
    taken = new_attempt(queued, resumed_from="/a", host="here", state=RunState.RUNNING)
    assert [attempt.status for attempt in taken.attempts] == [RunState.RUNNING]


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_record_without_attempts_tells_of_its_only_one(state: RunState) -> None:
    old = make(status=state, end_time=5, exit_code=1, reason="why")
    only = Attempt(start=1, end=5, status=state, exit_code=1, reason="why")
    assert registry.earlier_attempts(old) == (only,)
    queued = new_attempt(old, resumed_from=None, host=None, state=RunState.QUEUED)
    assert registry.before_queued(queued) == msgspec.structs.replace(old, attempts=(only,))


def test_before_a_new_run_was_queued_there_was_none() -> None:
    queued = new_attempt(make(status=RunState.QUEUED), resumed_from=None, host=None, state=RunState.QUEUED)
    assert registry.before_queued(queued) is None
    assert registry.earlier_attempts(make(status=RunState.RUNNING)) == ()


# Very many checkpoints --------------------------------------------------------------------------


def test_record_holds_the_newest_checkpoints_and_counts_the_others(
    journal: Journal, storage: FakeStorage, told: list[str]
) -> None:
    many = registry.KEPT_CHECKPOINTS + 250
    for number in range(many):
        journal.events([CheckpointSaved(path=f"{number}.pt")])
    journal.end(RunState.COMPLETED, None, None)
    record = storage.records["r"]
    assert record.checkpoints == tuple(f"{number}.pt" for number in range(250, many))
    assert (record.left_out_checkpoints, record.checkpoint_count) == (250, many)
    assert record.last_checkpoint == f"{many - 1}.pt"
    assert record.attempts[-1].saves == many
    assert record.standing > storage.saves[-2].standing
    (said,) = told
    assert "more than 1,000 checkpoints" in said


def test_resumed_run_goes_on_counting(clock: Clock, storage: FakeStorage, told: list[str]) -> None:
    paths = tuple(f"{number}.pt" for number in range(registry.KEPT_CHECKPOINTS))
    before = make(attempts=(Attempt(start=1),), checkpoints=paths, left_out_checkpoints=7)
    journal = Journal(storage, before, told.append)
    journal.checkpoints([*paths, "found.pt"])
    assert storage.records["r"].checkpoint_count == len(paths) + 8
    assert storage.records["r"].checkpoints[-1] == "found.pt"
    assert told == []


def test_flood_of_checkpoints_is_saved_within_its_share_of_the_time_and_none_is_late_for_long(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    cost_s = 0.5

    def save() -> None:
        clock.s += cost_s

    storage.on_save = save
    began_s = clock.s
    late_s = []
    for number in range(6_000):
        journal.events([CheckpointSaved(path=f"{number % 50}.pt")])
        clock.s += 0.1
        journal.asked()
        late_s.append(clock.s if storage.saves[-1].last_checkpoint == f"{number % 50}.pt" else 0.0)
    took_s = clock.s - began_s
    assert (
        cost_s * len(storage.saves)
        <= registry.SAVED_AT_ONCE_S + registry.PROGRESS_SHARE * took_s + 2 * cost_s
    )
    in_time = [began_s, *(moment for moment in late_s if moment)]
    assert max(after - before for before, after in pairwise(in_time)) <= 62.0


def test_checkpoints_of_an_ordinary_run_are_saved_at_once(
    journal: Journal, storage: FakeStorage, clock: Clock
) -> None:
    storage.on_save = lambda: setattr(clock, "s", clock.s + 0.05)
    for number in range(40):
        clock.s += 30
        journal.events([CheckpointSaved(path=f"{number}.pt")])
        assert storage.saves[-1].last_checkpoint == f"{number}.pt"
