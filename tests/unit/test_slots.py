"""Slots, the queue and GPU reservations, as one process sees them; many processes are in tests/faults."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_core.errors import RefusedError, StorageError
from backprop_core.locks import is_on_network
from backprop_core.records import Gpu
from backprop_core.slots import (
    GpuReservation,
    Holder,
    Slots,
    after_reservations,
    allocated_mb,
    host_folder,
    unallocated_mb,
)

NFS_HOME = "/dev/sda1 / ext4 rw 0 0\nserver:/home {mount} nfs4 rw 0 0\n"


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


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


# ---------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def nfs_home(tmp_path: Path) -> tuple[Path, Path]:
    """Make a home that a file of mounts says is on NFS; return both."""
    home, mounts = tmp_path / "home", tmp_path / "mounts"
    home.mkdir()
    mounts.write_text(NFS_HOME.format(mount=home))
    return home, mounts


@pytest.mark.parametrize(
    ("hostname", "folder"),
    [
        ("box", "box"),
        ("gpu 1/a\n", "gpu-1-a-"),
        ("../..", "localhost"),
        ("é", "localhost"),
        ("n" * 300, "n" * 128),
    ],
)
def test_each_host_has_a_folder_whose_name_is_harmless(tmp_path: Path, hostname: str, folder: str) -> None:
    assert host_folder(tmp_path, hostname) == tmp_path / "hosts" / folder
    assert host_folder(tmp_path, hostname).is_dir()


def test_this_host_is_the_one_unless_told_otherwise(tmp_path: Path) -> None:
    assert host_folder(tmp_path).parent == tmp_path / "hosts"
    assert host_folder(tmp_path) == host_folder(tmp_path, os.uname().nodename)


def test_home_on_a_network_disk_has_its_slots_on_this_machine(
    nfs_home: tuple[Path, Path], tmp_path: Path
) -> None:
    home, mounts = nfs_home
    folder = host_folder(home, mounts=mounts, machine_temp=tmp_path)
    assert folder.parent == tmp_path
    assert folder.name.startswith("backprop-")
    assert mode(folder) == 0o700
    assert host_folder(home, mounts=mounts, machine_temp=tmp_path) == folder
    other = home / "other"
    other.mkdir()
    assert host_folder(other, mounts=mounts, machine_temp=tmp_path) != folder
    assert list(home.iterdir()) == [other]


def test_runtime_directory_serves_where_there_is_no_local_var_tmp(
    nfs_home: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, mounts = nfs_home
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for useless in (tmp_path / "missing", home):
        with pytest.raises(StorageError, match="network file system"):
            host_folder(home, mounts=mounts, machine_temp=useless)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert host_folder(home, mounts=mounts, machine_temp=tmp_path / "missing").parent == tmp_path


@pytest.mark.parametrize("planted", ["link", "file", "open to all"])
def test_folder_that_somebody_else_could_have_planted_is_refused(
    nfs_home: tuple[Path, Path], tmp_path: Path, planted: str
) -> None:
    home, mounts = nfs_home
    folder = host_folder(home, mounts=mounts, machine_temp=tmp_path)
    folder.rmdir()
    if planted == "link":
        folder.symlink_to(home)
    elif planted == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(StorageError, match="this user alone"):
        host_folder(home, mounts=mounts, machine_temp=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(nfs_home: tuple[Path, Path], tmp_path: Path) -> None:
    home, mounts = nfs_home
    os.chown(host_folder(home, mounts=mounts, machine_temp=tmp_path), 12345, 12345)
    with pytest.raises(StorageError, match="this user alone"):
        host_folder(home, mounts=mounts, machine_temp=tmp_path)


def test_home_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="hosts"):
        host_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("", False),
        ("/dev/sda1 / ext4 rw 0 0\n", False),
        ("srv:/ / nfs rw 0 0\n", True),
        ("srv:/ / nfs rw 0 0\n/dev/sda1 {place} xfs rw 0 0\n", False),
        ("/dev/sda1 {place} xfs rw 0 0\nsrv:/ / nfs rw 0 0\n", False),
        ("/dev/sda1 / ext4 rw 0 0\nsrv:/ {place}with-a-longer-name nfs rw 0 0\n", False),
        ("/dev/sda1 {place} ext4 rw 0 0\nme@srv: {place} fuse.sshfs rw 0 0\n", True),
        ("auto.home {place} autofs rw 0 0\nsrv:/ {place} nfs4 rw 0 0\n", True),
        ("\n/dev/sda1 / ext4 rw 0 0\nsrv:/ {place}/a\\040b nfs4 rw 0 0\n", False),
    ],
)
def test_file_system_is_that_of_the_deepest_and_newest_mount(
    tmp_path: Path, mounts: str, *, expected: bool
) -> None:
    (tmp_path / "mounts").write_text(mounts.format(place=tmp_path))
    assert is_on_network(tmp_path / "home", tmp_path / "mounts") is expected


def test_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"srv:/ {tmp_path}/a\\040b nfs4 rw 0 0\n")
    assert is_on_network(tmp_path / "a b" / "home", tmp_path / "mounts")
    assert not is_on_network(tmp_path / "a b", tmp_path / "no-mounts")


# ---------------------------------------------------------------------------------------------
# GPU memory that was promised and not yet taken
# ---------------------------------------------------------------------------------------------


def holder(
    run_id: str, reserved_mb: float, baseline_mb: float | None, *, since: int = 0, index: int = 0
) -> Holder:
    promise = GpuReservation(
        uuid=f"GPU-{index}", index=index, reserved_mb=reserved_mb, baseline_free_mb=baseline_mb
    )
    return Holder(run_id=run_id, since_ms=since, gpus=(promise,))


def gpu(free_mb: float | None, *, index: int = 0, processes: Mapping[int, float] | None = None) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        vram_total_mb=10_000,
        vram_free_mb=free_mb,
        process_vram_mb=processes,
    )


def left(reading: Gpu, *holders: Holder, pids: Mapping[str, set[int]] | None = None) -> float | None:
    (result,) = after_reservations([reading], holders, pids or {})
    return result.vram_free_mb


def test_run_that_has_taken_nothing_yet_keeps_its_promise_reserved() -> None:
    assert left(gpu(10_000), holder("a", 4000, 10_000)) == 6000


def test_memory_gone_since_the_promise_is_not_subtracted_twice() -> None:
    assert left(gpu(7000), holder("a", 4000, 10_000)) == 6000
    assert left(gpu(6000), holder("a", 4000, 10_000)) == 6000
    assert left(gpu(5000), holder("a", 4000, 10_000)) == 5000


def test_two_runs_that_started_together_share_what_has_gone() -> None:
    first, second = holder("a", 4000, 10_000, since=1), holder("b", 4000, 10_000, since=2)
    assert left(gpu(10_000), first, second) == 2000
    assert left(gpu(6000), second, first) == 2000
    assert left(gpu(2000), first, second) == 2000


def test_memory_gone_before_a_run_came_is_not_counted_as_its_own() -> None:
    first, second = holder("a", 4000, 10_000, since=1), holder("b", 4000, 6000, since=2)
    assert left(gpu(6000), first, second) == 2000
    assert left(gpu(2000), first, second) == 2000


def test_memory_that_an_ended_run_gave_back_makes_no_promise_vanish() -> None:
    assert left(gpu(9000), holder("a", 4000, 5000)) == 5000


def test_promise_without_a_baseline_stays_reserved_until_others_came() -> None:
    unknown = holder("a", 4000, None, since=1)
    assert left(gpu(6000), unknown) == 2000
    assert left(gpu(3000), unknown, holder("b", 1000, 6000, since=2)) == 1000


def test_driver_knows_better_than_the_drop() -> None:
    first, second = holder("a", 4000, 10_000, since=1), holder("b", 4000, 10_000, since=2)
    pids = {"a": {11, 12}, "b": {21}}
    reading = gpu(3000, processes={11: 6000.0, 12: 1000.0, 99: 5.0})
    assert allocated_mb(reading, [first, second], pids) == {"a": 7000, "b": 0}
    assert left(reading, first, second, pids=pids) == 0
    assert left(reading, second) == 3000  # without the pids, the drop since 10000 is b's own


def test_run_the_driver_knows_of_uses_up_its_part_of_the_drop() -> None:
    seen, unseen = holder("a", 2000, 10_000, since=1), holder("b", 2000, 10_000, since=2)
    reading = gpu(5000, processes={11: 5000.0})
    assert left(reading, seen, unseen, pids={"a": {11}}) == 3000


@pytest.mark.parametrize("processes", [None, {}, {77: 4000.0}, {11: 0.0}])
def test_driver_that_does_not_see_our_processes_is_not_believed(
    processes: Mapping[int, float] | None,
) -> None:
    reading = gpu(6000, processes=processes)
    run = holder("a", 4000, 10_000)
    assert allocated_mb(reading, [run], {"a": {11}}) == {"a": None}
    assert left(reading, run, pids={"a": {11}}) == 6000


def test_promise_on_one_gpu_leaves_the_others_alone() -> None:
    free = after_reservations([gpu(8000), gpu(8000, index=1)], [holder("a", 3000, 8000, index=1)])
    assert [reading.vram_free_mb for reading in free] == [8000, 5000]


def test_promise_without_a_uuid_goes_by_the_index() -> None:
    promise = GpuReservation(uuid=None, index=1, reserved_mb=3000, baseline_free_mb=8000)
    free = after_reservations([gpu(8000), gpu(8000, index=1)], [Holder(run_id="a", gpus=(promise,))])
    assert [reading.vram_free_mb for reading in free] == [8000, 5000]


def test_unknown_free_memory_stays_unknown() -> None:
    assert left(gpu(None), holder("a", 3000, 8000)) is None
    assert unallocated_mb(gpu(None), [holder("a", 3000, 8000)], {}) == 3000


AMOUNTS = st.floats(0, 1e5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(AMOUNTS, st.none() | AMOUNTS, st.integers(0, 9)), max_size=6),
    st.none() | AMOUNTS,
    st.dictionaries(st.sampled_from("012345"), st.none() | AMOUNTS),
)
def test_what_is_still_owed_is_never_more_than_promised_nor_less_than_nothing(
    runs: list[tuple[float, float | None, int]], free_mb: float | None, used_mb: dict[str, float | None]
) -> None:
    holders = [holder(str(i), reserved, base, since=since) for i, (reserved, base, since) in enumerate(runs)]
    owed = unallocated_mb(gpu(free_mb), holders, used_mb)
    assert 0 <= owed <= sum(reserved for reserved, _, _ in runs) + 1e-6
    assert (left(gpu(free_mb), *holders) is None) == (free_mb is None)
