"""Keep run records in `experiments.db`, a SQLite file, for people with very many runs.

`storage = "sqlite"` keeps it in Backprop's folder. `storage = "sqlite:///path/file.db"` keeps the records in
that file, and `runs/<id>/run.json` and `metrics.jsonl` in a `runs` folder beside it.

The table `runs` holds each record as the line of JSON that `experiments.json` would hold, its checksum
included, so that `SELECT json_extract(record, '$.lastLoss') FROM runs` works. Metrics are a line appended to
a file of the run's own, which no other run waits for; requests to a live run are rows of `requests`.
"""

from __future__ import annotations

from pathlib import Path

from backprop_core import Storage, StorageBackend, hookimpl

FILE_NAME = "experiments.db"


@hookimpl
def backprop_storage_backend() -> StorageBackend:
    return SqliteBackend()


class SqliteBackend:
    """Records in a SQLite file."""

    name = "sqlite"
    schemes: tuple[str, ...] = ("sqlite",)

    def open(self, url: str | None, home: Path) -> Storage:
        """Open the store, and make its folder where it is missing.

        :raises StorageError: when the folder is another user's or may be written to by others, or
            when the URL is not that of a file.
        """
        from ._places import place_of
        from ._sqlite_store import SqliteStorage

        return SqliteStorage(*place_of(url, home, self.name, FILE_NAME))
