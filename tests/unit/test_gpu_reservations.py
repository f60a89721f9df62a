"""GPU memory that was promised to runs which have not taken it yet."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_core.records import Gpu
from backprop_core.slots import (
    GpuReservation,
    Holder,
    after_reservations,
    allocated_mb,
    unallocated_mb,
)


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
