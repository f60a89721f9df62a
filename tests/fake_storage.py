"""A storage that keeps records in memory, and fails when a test tells it to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from backprop_core import Intent, Progress, RunRecord, RunState, StorageError


class FakeStorage:
    """Keeps records in the order in which they came; `on_save` is called before each save."""

    def __init__(self, *records: RunRecord) -> None:
        self.records = {record.id: record for record in records}
        self.saves: list[RunRecord] = []
        self.points: list[Progress] = []
        self.error: str | None = None
        self.on_save: Callable[[], None] = lambda: None

    def get(self, run_id: str) -> RunRecord | None:
        return self.records.get(run_id)

    def save(self, record: RunRecord) -> None:
        self._fail()
        self.on_save()
        self.records[record.id] = record
        self.saves.append(record)

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        found = [record for record in self.records.values() if not states or record.status in states]
        return sorted(found, key=lambda record: -record.start_time)[:limit]

    def delete(self, run_id: str) -> None:
        self._fail()
        self.records.pop(run_id, None)

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        self._fail()
        self.points += points

    def metrics(self, run_id: str) -> Iterable[Progress]:
        return self.points

    def post(self, run_id: str, intent: Intent) -> None:
        raise NotImplementedError

    def take(self, run_id: str) -> Intent | None:
        return None

    def close(self) -> None:
        pass

    def _fail(self) -> None:
        if self.error:
            raise StorageError(self.error)
