"""Turning what a store holds into records, and remembering what was wrong with it."""

from __future__ import annotations

from pathlib import Path

from backprop_core import RunRecord, StorageError

from ._records import is_intact, read_record
from ._run_folders import RunFolders


class Reading:
    """Reads the records of one store. `problems` are sentences for the person, each once."""

    def __init__(self, path: Path, folders: RunFolders) -> None:
        self.problems: list[str] = []
        self._path = path
        self._folders = folders

    def decoded(self, run_id: str, raw: bytes) -> RunRecord:
        """Decode a record; one that changed behind its checksum is given as it stands, and noted.

        :raises StorageError: when it is no record, a newer version's, or another run's.
        """
        record = read_record(run_id, raw)
        if not is_intact(raw):
            self.note(
                f"{self._path}: record {run_id} does not match its checksum, it was edited or damaged; "
                f"what Backprop wrote last is in {self._folders.path_of(run_id)}/run.json"
            )
        return record

    def decoded_or_noted(self, run_id: str, raw: bytes) -> RunRecord | None:
        """Decode a record; one that cannot be read is noted and left out."""
        try:
            self._folders.path_of(run_id)
            return self.decoded(run_id, raw)
        except StorageError as error:
            self.note(f"{self._path}: {error.message}")
            return None

    def note(self, problem: str) -> None:
        """Keep a sentence for the person."""
        if problem not in self.problems:
            self.problems.append(problem)
