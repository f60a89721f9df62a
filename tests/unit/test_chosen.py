"""A chosen storage that does not come back is interrupted, named, and left in peace for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from fake_storage import FakeStorage

from backprop_core import Intent, Progress, registry
from backprop_core.alarm import Alarm, TookTooLongError
from backprop_core.chosen import guarded_storage
from backprop_core.errors import HangingStorageError, StorageError
from backprop_core.records import Attempt, CheckpointSaved, RunRecord
from backprop_core.registry import Journal
from backprop_core.states import RunState

IDLE_S = 0.3


class Hanging(FakeStorage):
    """Stands still in the methods that a test names, and counts how often it is asked."""

    def __init__(self, *hangs: str) -> None:
        super().__init__()
        self.hangs = set(hangs)
        self.asked: list[str] = []

    def _be_asked(self, method: str) -> None:
        self.asked.append(method)
        if method in self.hangs:
            time.sleep(30)

    def save(self, record: RunRecord) -> None:
        self._be_asked("save")
        super().save(record)

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        self._be_asked("append_metrics")
        super().append_metrics(run_id, points)

    def take(self, run_id: str) -> Intent | None:
        self._be_asked("take")
        return super().take(run_id)


def running() -> RunRecord:
    return RunRecord(
        id="r", script_path="/x.py", start_time=1, status=RunState.RUNNING, attempts=(Attempt(start=1),)
    )


@pytest.mark.parametrize("method", ["save", "take", "append_metrics"])
def test_storage_that_hangs_is_interrupted_and_named(method: str) -> None:
    storage = guarded_storage(Hanging(method), "mine", alarm=Alarm(IDLE_S, 5.0))
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: storage.save(running()),
        "take": lambda: storage.take("r"),
        "append_metrics": lambda: storage.append_metrics("r", [Progress(step=1)]),
    }
    began_s = time.monotonic()
    with pytest.raises(
        HangingStorageError, match=rf"storage 'mine' hangs in {method}: it did nothing for 0\.3 s"
    ):
        calls[method]()
    assert time.monotonic() - began_s < 5.0


def test_alarm_around_a_call_of_the_storage_is_not_taken_for_its_own() -> None:
    storage = guarded_storage(Hanging("save"), "mine", alarm=Alarm(20.0, 20.0))
    with pytest.raises(TookTooLongError), Alarm(IDLE_S, 5.0):
        storage.save(running())


def test_journal_leaves_a_hanging_storage_in_peace_and_writes_the_end_once_it_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, told = Hanging("save"), list[str]()
    journal = Journal(guarded_storage(storage, "mine", alarm=Alarm(IDLE_S, 5.0)), running(), told.append)
    journal.events([CheckpointSaved(path="a.pt")])
    assert storage.asked == ["save"]
    for step in range(5):
        journal.events([Progress(step=step), CheckpointSaved(path=f"{step}.pt")])
        assert journal.asked() is None
    assert storage.asked == ["save"], "it is not asked again while it rests"
    hangs, deaf = told
    assert "storage 'mine' hangs in save" in hangs
    assert "the run goes on" in hangs
    assert "hears no `backprop stop`" in deaf

    monkeypatch.setattr(registry, "now_s", lambda: time.monotonic() + registry.REST_S)
    storage.hangs.clear()
    journal.events([Progress(step=6)])
    assert storage.points == [Progress(step=6, at=storage.points[0].at)]
    monkeypatch.undo()
    journal.end(RunState.STOPPED, None, None)
    assert storage.records["r"].last_step == 6
    assert storage.records["r"].checkpoints[-1] == "4.pt"
    assert storage.records["r"].attempts[-1].lost_writes == journal.lost_writes == 11
    assert len(told) == 2


def test_end_is_written_even_while_the_storage_rests() -> None:
    storage = Hanging("save")
    journal = Journal(guarded_storage(storage, "mine", alarm=Alarm(IDLE_S, 5.0)), running(), lambda _: None)
    journal.events([CheckpointSaved(path="a.pt")])
    storage.hangs.clear()
    journal.end(RunState.COMPLETED, None, None)
    assert storage.records["r"].status is RunState.COMPLETED
    assert not journal.is_end_lost


def test_other_threads_wait_for_the_storage_as_long_as_it_takes() -> None:
    class Slow(FakeStorage):
        def get(self, run_id: str) -> RunRecord | None:
            time.sleep(2 * IDLE_S)
            return running()

    found: list[RunRecord | StorageError | None] = []
    storage = guarded_storage(Slow(), "mine", alarm=Alarm(IDLE_S, 5.0))
    thread = threading.Thread(target=lambda: found.append(storage.get("r")))
    thread.start()
    thread.join()
    assert found == [running()]
