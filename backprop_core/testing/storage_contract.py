"""What every storage keeps, as tests to inherit.

Five things are asked of a storage only if it has them: `save_many(records)`, which saves all of them or none
and is how `backprop storage copy` writes quickly; `delete_many(run_ids)`, which is how `backprop prune` removes
many; `meant_by(reference)`, the runs that a name or the beginning of an id may mean, by which one run is found
among very many; `problems`, sentences about damage that it found, which commands show; and `flaws()`, which
gives a Flaw for whatever is wrong without changing anything, and is what `backprop doctor` asks for.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from backprop_core.errors import StorageError
from backprop_core.interfaces import Storage
from backprop_core.records import Intent, Progress
from backprop_core.states import RunState

from .samples import full_record, make_record

Factory = Callable[[], Storage]

FORGED_IDS = ["", ".", "..", "../x", "a/b", "/etc/passwd", "-x", "x\n", "x y", "x\0", "é", "x" * 129]


def ids(storage: Storage, **choice: Any) -> list[str]:
    """List the ids of a store's runs, newest first."""
    return [record.id for record in storage.runs(**choice)]


def save_many(factory: Factory, prefix: str, count: int) -> None:
    storage = factory()
    for number in range(count):
        storage.save(make_record(f"{prefix}-{number}", start_time=number))
    storage.close()


def post_many(factory: Factory, run_id: str, first: int, count: int) -> None:
    storage = factory()
    for number in range(first, first + count):
        storage.post(run_id, Intent(kind="extend", minutes=float(number)))
    storage.close()


def take_many(factory: Factory, run_id: str, polls: int) -> list[float]:
    storage = factory()
    taken = [intent.minutes for _ in range(polls) if (intent := storage.take(run_id)) is not None]
    storage.close()
    return [minutes for minutes in taken if minutes is not None]


class StorageContract:
    """What every storage keeps: inherit from this, override `storage_factory`.

    ::

        class TestMyStorage(StorageContract):
            @pytest.fixture
            def storage_factory(self, tmp_path):
                return partial(MyBackend().open, None, tmp_path)

    `storage_factory` gives a callable without arguments; each call opens the same store anew. It must survive
    pickling, for it is also called in other processes: `functools.partial` of a method does, a lambda does not.
    Every test gets a store of its own, which is empty.
    """

    @pytest.fixture
    def storage_factory(self) -> Factory:
        """Return what opens the store that is tested; the one fixture to override."""
        raise NotImplementedError("override storage_factory")

    @pytest.fixture
    def storage(self, storage_factory: Factory) -> Iterator[Storage]:
        """Open the store."""
        storage = storage_factory()
        yield storage
        storage.close()

    @pytest.fixture
    def executors(self) -> Iterator[tuple[Executor, ...]]:
        """Two other processes, and two threads of this one."""
        with ExitStack() as stack:
            processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
            yield (stack.enter_context(processes), stack.enter_context(ThreadPoolExecutor(2)))

    def test_storage_has_every_method(self, storage: Storage) -> None:
        assert isinstance(storage, Storage)

    def test_record_comes_back_as_it_was_with_keys_that_nobody_knows(
        self, storage: Storage, storage_factory: Factory
    ) -> None:
        record = full_record()
        storage.save(record)
        assert storage.get(record.id) == record
        other = storage_factory()
        assert other.get(record.id) == record
        assert other.runs() == [record]
        other.close()

    def test_absent_run_is_none(self, storage: Storage) -> None:
        assert storage.get("nobody") is None
        assert list(storage.runs()) == []
        storage.save(make_record("somebody"))
        assert storage.get("nobody") is None

    def test_saving_again_replaces(self, storage: Storage) -> None:
        storage.save(make_record("r", last_step=1, name="old", extra={"gone": 1}))
        storage.save(make_record("r", last_step=2, status=RunState.COMPLETED))
        assert storage.runs() == [make_record("r", last_step=2, status=RunState.COMPLETED)]

    def test_numbers_that_json_has_no_word_for_are_never_stored_as_others(self, storage: Storage) -> None:
        storage.save(
            make_record("r", last_loss=math.nan, metrics={"bad": math.inf, "good": 1.5, "worse": math.nan})
        )
        found = storage.get("r")
        assert found is not None
        assert found.last_loss is None
        assert found.metrics == {"good": 1.5}

    def test_text_that_is_not_unicode_is_refused_and_harms_nothing(self, storage: Storage) -> None:
        storage.save(make_record("r"))
        with pytest.raises(StorageError):
            storage.save(make_record("s", name="\udcff"))
        assert storage.runs() == [make_record("r")]

    def test_large_numbers_come_back_to_the_digit(self, storage: Storage) -> None:
        record = make_record(
            "r", last_step=2**63 - 1, last_loss=5e-324, metrics={"m": 1.7976931348623157e308}
        )
        storage.save(record)
        assert storage.get("r") == record

    def test_start_beyond_64_bits_is_kept_or_refused_and_harms_nothing(self, storage: Storage) -> None:
        storage.save(make_record("r"))
        try:
            storage.save(make_record("s", start_time=2**63))
        except StorageError:
            assert ids(storage) == ["r"]
        else:
            assert [record.start_time for record in storage.runs()] == [2**63, 1_700_000_000_000]

    def test_many_are_saved_at_once_in_their_order_or_not_at_all(self, storage: Storage) -> None:
        save_many = getattr(storage, "save_many", None)
        if save_many is None:
            pytest.skip("this storage saves one record at a time")
        storage.save(make_record("b", last_step=1))
        save_many([make_record("c"), make_record("b", last_step=2), make_record("a")])
        assert ids(storage) == ["a", "c", "b"]
        assert storage.get("b") == make_record("b", last_step=2)
        with pytest.raises(StorageError):
            save_many([make_record("d"), make_record("e", name="\udcff")])
        save_many([])
        assert ids(storage) == ["a", "c", "b"]

    def test_newest_start_comes_first_whatever_the_order_of_saving(self, storage: Storage) -> None:
        for run_id, start in (("b", 20), ("d", 40), ("a", 10), ("c", 30)):
            storage.save(make_record(run_id, start_time=start))
        storage.save(make_record("a", start_time=10, last_step=1))
        assert ids(storage) == ["d", "c", "b", "a"]

    def test_of_two_that_started_together_the_one_saved_first_comes_last(self, storage: Storage) -> None:
        for run_id in ("first", "third", "second"):
            storage.save(make_record(run_id, start_time=7))
        storage.save(make_record("first", start_time=7, last_step=1))
        assert ids(storage) == ["second", "third", "first"]

    def test_limit_keeps_the_newest(self, storage: Storage) -> None:
        for number in range(6):
            storage.save(make_record(f"r{number}", start_time=number))
        assert ids(storage, limit=2) == ["r5", "r4"]
        assert ids(storage, limit=0) == []
        assert len(ids(storage, limit=100)) == 6

    def test_states_choose_and_limit_counts_what_was_chosen(self, storage: Storage) -> None:
        states = [RunState.RUNNING, RunState.COMPLETED, RunState.PAUSED]
        for number in range(9):
            storage.save(make_record(f"r{number}", start_time=number, status=states[number % 3]))
        assert ids(storage, states={RunState.PAUSED}) == ["r8", "r5", "r2"]
        assert ids(storage, states=[RunState.PAUSED, RunState.RUNNING], limit=3) == ["r8", "r6", "r5"]
        assert ids(storage, states=(RunState.LOST,)) == []
        assert len(ids(storage, states=())) == 9

    def test_deleted_run_is_forgotten_with_its_series_and_its_requests(self, storage: Storage) -> None:
        for run_id in ("gone", "stays"):
            storage.save(make_record(run_id))
            storage.append_metrics(run_id, [Progress(step=1)])
            storage.post(run_id, Intent(kind="stop"))
        storage.delete("gone")
        assert storage.get("gone") is None
        assert ids(storage) == ["stays"]
        assert list(storage.metrics("gone")) == []
        assert storage.take("gone") is None
        assert [point.step for point in storage.metrics("stays")] == [1]
        assert storage.take("stays") == Intent(kind="stop")

    def test_deleting_what_is_not_there_is_no_error(self, storage: Storage) -> None:
        storage.delete("nobody")
        storage.save(make_record("somebody"))
        storage.delete("nobody")
        assert ids(storage) == ["somebody"]

    def test_many_are_deleted_at_once_and_absent_ones_are_no_error(self, storage: Storage) -> None:
        delete_many = getattr(storage, "delete_many", None)
        if delete_many is None:
            pytest.skip("this storage deletes one record at a time")
        for run_id in ("a", "b", "c"):
            storage.save(make_record(run_id))
            storage.append_metrics(run_id, [Progress(step=1)])
        delete_many(["c", "nobody", "a"])
        assert ids(storage) == ["b"]
        assert [[point.step for point in storage.metrics(run_id)] for run_id in "abc"] == [[], [1], []]
        delete_many([])
        with pytest.raises(StorageError):
            delete_many(["b", "../b"])
        assert ids(storage) == ["b"]

    def test_what_a_name_or_the_beginning_of_an_id_may_mean_is_found_newest_first(
        self, storage: Storage
    ) -> None:
        meant_by = getattr(storage, "meant_by", None)
        if meant_by is None:
            pytest.skip("this storage is asked for all of its runs")
        assert list(meant_by("a")) == []
        for number, (run_id, name) in enumerate([("ab", None), ("b", "a_b%"), ("c", "ab"), ("abc", 'q"q')]):
            storage.save(make_record(run_id, number, name=name))
        for reference, least in (("ab", ["abc", "c", "ab"]), ("a_b%", ["b"]), ('q"q', ["abc"]), ("zz", [])):
            found = [record.id for record in meant_by(reference)]
            assert [run_id for run_id in found if run_id in least] == least
            assert set(found) <= set(ids(storage))

    def test_deleted_run_can_come_again(self, storage: Storage) -> None:
        storage.save(make_record("r", last_step=1))
        storage.append_metrics("r", [Progress(step=1)])
        storage.delete("r")
        storage.save(make_record("r", last_step=2))
        storage.append_metrics("r", [Progress(step=2)])
        assert storage.runs() == [make_record("r", last_step=2)]
        assert [point.step for point in storage.metrics("r")] == [2]

    def test_series_comes_back_in_order_and_at_once(self, storage: Storage, storage_factory: Factory) -> None:
        points = [
            Progress(
                step=n, total_steps=9, epoch=n / 4, loss=1 / (n + 1), metrics={"lr": 0.1, "f1": n / 7}, at=n
            )
            for n in range(5)
        ]
        storage.save(make_record("r"))
        storage.append_metrics("r", points[:3])
        storage.append_metrics("r", [])
        storage.append_metrics("r", points[3:])
        other = storage_factory()
        assert list(other.metrics("r")) == points
        other.close()

    def test_series_of_a_run_without_any_is_empty(self, storage: Storage) -> None:
        assert list(storage.metrics("nobody")) == []

    def test_series_leaves_out_what_is_not_finite(self, storage: Storage) -> None:
        storage.save(make_record("r"))
        storage.append_metrics("r", [Progress(step=1, loss=math.nan, metrics={"a": math.inf, "b": 2.0})])
        storage.append_metrics(
            "r", [Progress(step=2, loss=-math.inf, epoch=math.nan), Progress(step=3, loss=3.0)]
        )
        assert list(storage.metrics("r")) == [
            Progress(step=1, metrics={"b": 2.0}),
            Progress(step=2),
            Progress(step=3, loss=3.0),
        ]

    def test_requests_are_taken_in_the_order_they_were_posted(
        self, storage: Storage, storage_factory: Factory
    ) -> None:
        intents = [
            Intent(kind="pause", reason='for\nlunch "now"'),
            Intent(kind="unpause"),
            Intent(kind="extend", minutes=2.5),
            Intent(kind="stop"),
        ]
        storage.save(make_record("r"))
        terminal = storage_factory()
        assert storage.take("r") is None
        for intent in intents:
            terminal.post("r", intent)
        assert [storage.take("r") for _ in intents] == intents
        assert storage.take("r") is None
        terminal.post("r", intents[0])
        assert storage.take("r") == intents[0]
        assert storage.take("r") is None
        terminal.close()

    def test_request_that_is_not_unicode_is_refused_and_harms_no_other(self, storage: Storage) -> None:
        storage.save(make_record("r"))
        with pytest.raises(StorageError):
            storage.post("r", Intent(kind="pause", reason="\udcff"))
        storage.post("r", Intent(kind="stop"))
        assert storage.take("r") == Intent(kind="stop")

    def test_requests_belong_to_one_run(self, storage: Storage) -> None:
        for run_id in ("a", "ab"):
            storage.save(make_record(run_id))
        storage.post("a", Intent(kind="stop"))
        assert storage.take("ab") is None
        assert storage.take("a") == Intent(kind="stop")

    def test_each_request_is_taken_exactly_once_by_threads_and_processes(
        self, storage: Storage, storage_factory: Factory, executors: tuple[Executor, ...]
    ) -> None:
        storage.save(make_record("r"))
        post_many(storage_factory, "r", 0, 30)
        posters = [
            executor.submit(post_many, storage_factory, "r", 100 * place, 20)
            for place, executor in enumerate(executors, start=1)
        ]
        takers = [
            executor.submit(take_many, storage_factory, "r", 40) for executor in executors for _ in range(2)
        ]
        for poster in posters:
            poster.result(timeout=60)
        taken = [minutes for taker in takers for minutes in taker.result(timeout=60)]
        taken += take_many(storage_factory, "r", 100)
        assert sorted(taken) == [*range(30), *range(100, 120), *range(200, 220)]

    def test_concurrent_saves_lose_no_record(
        self, storage: Storage, storage_factory: Factory, executors: tuple[Executor, ...]
    ) -> None:
        jobs = [
            executor.submit(save_many, storage_factory, f"{place}-{half}", 15)
            for place, executor in enumerate(executors)
            for half in range(2)
        ]
        for job in jobs:
            job.result(timeout=60)
        assert sorted(ids(storage)) == sorted(
            f"{p}-{h}-{n}" for p in (0, 1) for h in (0, 1) for n in range(15)
        )

    @pytest.mark.parametrize("run_id", FORGED_IDS)
    def test_what_is_no_run_id_is_refused_everywhere(self, storage: Storage, run_id: str) -> None:
        attempts: list[Callable[[], object]] = [
            lambda: storage.get(run_id),
            lambda: storage.save(make_record(run_id)),
            lambda: storage.delete(run_id),
            lambda: storage.append_metrics(run_id, [Progress(step=1)]),
            lambda: list(storage.metrics(run_id)),
            lambda: storage.post(run_id, Intent(kind="stop")),
            lambda: storage.take(run_id),
        ]
        for attempt in attempts:
            with pytest.raises(StorageError):
                attempt()
        assert list(storage.runs()) == []

    def test_closing_twice_is_no_error(self, storage_factory: Factory) -> None:
        storage = storage_factory()
        storage.save(make_record("r"))
        storage.append_metrics("r", [Progress(step=1)])
        storage.close()
        storage.close()
        again = storage_factory()
        assert ids(again) == ["r"]
        again.close()
