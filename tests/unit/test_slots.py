"""Slots, the admission lock and the queue, as one process sees them; many processes are in tests/faults."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
from kit import mode

from backprop_core.errors import RefusedError, StorageError
from backprop_core.slots import (
    GpuReservation,
    Slots,
    host_folder,
)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


# ---------------------------------------------------------------------------------------------
# Slots
# ---------------------------------------------------------------------------------------------


def test_no_more_slots_are_given_than_allowed(slots: Slots) -> None:
    first, second = slots.take("a", "one", 2), slots.take("b", None, 2)
    assert first is not None
    assert second is not None
    assert slots.take("c", None, 2) is None
    assert [holder.run_id for holder in slots.holders()] == ["a", "b"]
    first.close()
    first.close()
    assert slots.take("c", None, 1) is None
    third = slots.take("c", None, 2)
    assert third is not None
    assert [holder.run_id for holder in slots.holders()] == ["c", "b"]
    second.close()
    third.close()


def test_holder_tells_the_run_its_process_and_its_reservations(slots: Slots) -> None:
    gpus = (GpuReservation(uuid="GPU-1", index=3, reserved_mb=2500, baseline_free_mb=8000),)
    slot = slots.take("a", "one", 1, gpus)
    assert slot is not None
    (holder,) = slots.holders()
    assert (holder.run_id, holder.name, holder.pid, holder.gpus) == ("a", "one", os.getpid(), gpus)
    assert holder.since_ms == pytest.approx(time.time() * 1000, abs=60_000)
    slot.update(pid=4242)
    assert slots.holders() == (slot.holder,)
    assert slot.holder.pid == 4242
    slot.close()


def test_what_an_ended_run_left_in_its_slot_means_nothing(slots: Slots) -> None:
    slot = slots.take("a-run-with-a-long-id", "and a long name", 1)
    assert slot is not None
    slot.close()
    assert slots.holders() == ()
    slot = slots.take("b", None, 1)
    assert slot is not None
    assert [holder.run_id for holder in slots.holders()] == ["b"]
    slot.close()


def test_holder_whose_file_was_spoilt_counts_all_the_same(slots: Slots, tmp_path: Path) -> None:
    slot = slots.take("a", None, 1)
    assert slot is not None
    for spoilt in ("", "{}\n", "not json\n", '{"run_id": "a"'):
        (tmp_path / "slots" / "1").write_text(spoilt)
        assert [holder.run_id for holder in slots.holders()] == ["?"]
        assert slots.take("b", None, 1) is None
    slot.close()


def test_somebody_stopped_while_looking_takes_no_slot_away(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "slots" / "1").touch()
    with (tmp_path / "slots" / "1").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        slot = slots.take("a", None, 1)
        assert slot is not None
        assert slots.take("b", None, 1) is None
        assert len(slots.holders()) == 1
    slot.close()


def test_folders_and_files_are_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        slots = Slots(host_folder(tmp_path, "box"))
        with slots.lock():
            slot = slots.take("a", None, 1)
        ticket = slots.join("b", None)
    finally:
        os.umask(before)
    assert slot is not None
    folders = [place for place in tmp_path.rglob("*") if place.is_dir()]
    files = [place for place in tmp_path.rglob("*") if place.is_file()]
    assert {mode(place) for place in folders} == {0o700}
    assert {mode(place) for place in files} == {0o600}
    assert len(files) == 4
    slot.close()
    ticket.leave()


# ---------------------------------------------------------------------------------------------
# The admission lock
# ---------------------------------------------------------------------------------------------


def test_admission_lock_that_is_not_given_up_is_a_refusal_that_names_the_process(slots: Slots) -> None:
    with (
        slots.lock(),
        pytest.raises(RefusedError, match=rf"process {os.getpid()} has held .*admission\.lock"),
        slots.lock(timeout_s=0.05),
    ):
        pass


def test_admission_lock_is_given_up_when_the_decision_raises(slots: Slots) -> None:
    with pytest.raises(ZeroDivisionError), slots.lock():
        raise ZeroDivisionError
    with slots.lock(timeout_s=0):
        pass


def test_admission_lock_is_waited_for(slots: Slots) -> None:
    inside, release = threading.Event(), threading.Event()

    def decide() -> None:
        with slots.lock():
            inside.set()
            release.wait(10)

    other = threading.Thread(target=decide)
    other.start()
    assert inside.wait(10)
    threading.Timer(0.1, release.set).start()
    with slots.lock(timeout_s=10):
        assert release.is_set()
    other.join()


def test_lock_file_that_is_a_link_is_not_followed(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "admission.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"admission\.lock"), slots.lock():
        pass
    assert not (tmp_path / "elsewhere").exists()


# ---------------------------------------------------------------------------------------------
# The queue
# ---------------------------------------------------------------------------------------------


def test_waiters_stand_in_order_of_arrival_and_move_up(slots: Slots) -> None:
    first, second, third = (slots.join(run_id, None, f"why {run_id}") for run_id in "abc")
    assert [ticket.place() for ticket in (first, second, third)] == [1, 2, 3]
    waiters = slots.waiting()
    assert [(waiter.run_id, waiter.reason) for waiter in waiters] == [
        ("a", "why a"),
        ("b", "why b"),
        ("c", "why c"),
    ]
    assert {waiter.pid for waiter in waiters} == {os.getpid()}
    second.leave()
    second.leave()
    assert (first.place(), third.place()) == (1, 2)
    first.leave()
    assert third.place() == 1
    third.leave()
    assert slots.waiting() == ()


def test_ticket_of_the_dead_is_passed_over_and_cleared_away(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "queue" / f"{7:020d}").write_text('{"run_id": "dead"}\n')
    ticket = slots.join("a", None)
    assert [waiter.run_id for waiter in slots.waiting()] == ["a"]
    assert ticket.place() == 1
    assert len(list((tmp_path / "queue").iterdir())) == 1
    ticket.leave()


def test_late_comer_stands_behind_even_when_the_clock_was_reset(slots: Slots, tmp_path: Path) -> None:
    early = tmp_path / "queue" / f"{10**19:020d}"
    with early.open("w") as file:
        file.write('{"run_id": "early"}\n')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        ticket = slots.join("late", None)
        assert ticket.place() == 2
        assert [waiter.run_id for waiter in slots.waiting()] == ["early", "late"]
    ticket.leave()


def test_what_a_joiner_left_when_it_was_killed_is_in_nobodys_way(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "queue.nascent").write_text('{"run_id": "killed"}\n')
    ticket = slots.join("a", None)
    assert [waiter.run_id for waiter in slots.waiting()] == ["a"]
    ticket.leave()


def test_waiting_ends_when_a_slot_is_freed(slots: Slots) -> None:
    slot = slots.take("a", None, 1)
    assert slot is not None
    freed_at: list[float] = []

    def free() -> None:
        freed_at.append(time.monotonic())
        slot.close()

    threading.Timer(0.3, free).start()
    assert slots.wait_for_change(20)
    assert time.monotonic() - freed_at[0] < 1


def test_change_from_before_the_wait_is_not_missed(slots: Slots) -> None:
    slot, ticket = slots.take("a", None, 1), slots.join("b", None)
    assert slot is not None
    seen = slots.snapshot()
    assert not slots.wait_for_change(0, seen)
    ticket.leave()
    assert slots.wait_for_change(0, seen)
    seen = slots.snapshot()
    slot.close()
    assert slots.wait_for_change(0, seen)
    assert not slots.wait_for_change(0.05)
