"""Storage as it is on a network file system, in whatever process it is opened."""

from __future__ import annotations

from pathlib import Path

from backprop_builtin.storage import _database
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Storage


def is_on_network(path: Path) -> bool:
    return True


def open_sqlite(home: Path) -> Storage:
    vars(_database).update(is_on_network=is_on_network)
    return SqliteBackend().open(None, home)
