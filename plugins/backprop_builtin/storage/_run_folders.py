"""The folders `runs/<id>/` beside the records: one for each run, with a copy of its record."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from backprop_core import RUN_FILES, StorageError, open_private

from ._files import (
    NO_LINKS,
    DamageError,
    close_all,
    explained,
    hold,
    is_leftover,
    make_private_folder,
    read_plain_file,
    replace_file,
    sync_folder,
    write_all,
    write_beside,
)
from ._records import UNREADABLE

COPY = "run.json"
SERIES = "metrics.jsonl"
REQUESTS = "control"
JOURNAL = "journal-"
HELD_AT_MOST = 8  # of many copies that are saved at once: a process may have only so many files open
KNOWN_FILES = RUN_FILES | {COPY, SERIES, REQUESTS}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_run_id(text: str) -> bool:
    """Tell whether a text may name a run, and so a folder."""
    return _RUN_ID.fullmatch(text) is not None


class RunFolders:
    """Where each run keeps its files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, run_id: str, name: str = "") -> str:
        """Name the run's folder, or a file in it.

        :raises StorageError: for what is no run id, before it becomes part of any path.
        """
        if not is_run_id(run_id):
            raise StorageError(
                f"{run_id!r} is not a run id",
                "give up to 128 letters, digits, dots, dashes and underscores, a letter or digit first",
            )
        return f"{self.root}/{run_id}/{name}" if name else f"{self.root}/{run_id}"

    def make(self, run_id: str) -> None:
        """Make the run's folder unless it is there."""
        folder = Path(self.path_of(run_id))
        with explained("make", folder):
            make_private_folder(folder)

    def save_copy(self, run_id: str, line: bytes) -> None:
        """Keep the record's copy; durable on return."""
        self.make(run_id)
        path = Path(self.path_of(run_id, COPY))
        with explained("write", path):
            replace_file(path, (line, b"\n"))

    @contextmanager
    def new_copies(self, lines: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
        """Write copies of records beside those that there are, and give what puts them in place; durable on leaving.

        What takes long is done before and behind the block, which may hold a lock. What is not put in place is removed
        again. A power cut behind the block may leave older copies beside a newer store: nobody was told by then that
        the records are saved.
        """
        written: dict[str, Path] = {}
        held: list[int] = []
        try:
            for run_id, line in lines.items():
                self.make(run_id)
                path = Path(self.path_of(run_id, COPY))
                with explained("write", path):
                    written[run_id] = write_beside(path, (line, b"\n")).path
                if len(held) < HELD_AT_MOST:
                    held += hold(path)
            yield lambda: self._put_in_place(written, lines)
            for run_id in lines:
                folder = Path(self.path_of(run_id))
                with (
                    explained("write", folder),
                    suppress(FileNotFoundError),
                ):  # removed again by somebody else
                    sync_folder(folder)
        finally:
            close_all(held)
            for temporary in written.values():
                with suppress(OSError):
                    os.unlink(temporary)
                    temporary.parent.rmdir()  # which was made for it, if there is nothing else in it

    def _put_in_place(self, written: dict[str, Path], lines: Mapping[str, bytes]) -> None:
        for run_id in list(written):
            path = Path(self.path_of(run_id, COPY))
            with explained("write", path):
                try:
                    os.rename(written[run_id], path)
                except FileNotFoundError:  # somebody has removed the run meanwhile
                    self.save_copy(run_id, lines[run_id])
            del written[run_id]

    def has_copies_of(self, store: Path) -> bool:
        """Tell whether there is anything to rebuild a missing store from.

        The folders may be another store's in the same place: then they are none of this one's, unless it was
        written to before, which its lock file tells.
        """
        if not any(os.path.lexists(self.path_of(run_id, COPY)) for run_id in self._ids()):
            return False
        with explained("look into", store.parent):
            users = {entry.name for entry in os.scandir(store.parent) if _is_claim(entry)}
        return f"{store.name}.lock" in users or not users

    def copies(self) -> tuple[dict[str, msgspec.Raw], list[str]]:
        """Read every copy, by run id; and name those that cannot be read."""
        found: dict[str, msgspec.Raw] = {}
        unreadable: list[str] = []
        for run_id in self._ids():
            path = self.path_of(run_id, COPY)
            try:
                line = read_plain_file(path)
                if line is not None:
                    found[run_id] = as_record(line)
            except (OSError, DamageError) as error:
                unreadable.append(f"{path} cannot be read: {error}")
        return found, unreadable

    def _ids(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.root) if is_run_id(name))
        except FileNotFoundError:
            return []

    def remove(self, run_id: str) -> None:
        """Remove the files that Backprop makes, and the folder if nothing else is in it.

        :raises StorageError: also when it is a link, for what it leads to is not ours to empty.
        """
        folder = Path(self.path_of(run_id))
        with explained("empty", folder), suppress(FileNotFoundError):
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NO_LINKS)
            try:
                for name in filter(_is_ours, os.listdir(opened)):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=opened)
            finally:
                os.close(opened)
            with suppress(OSError):  # somebody keeps files of their own in it
                folder.rmdir()


def _is_ours(name: str) -> bool:
    return name in KNOWN_FILES or name.startswith((JOURNAL, f".{JOURNAL}")) or is_leftover(name, COPY)


def _is_claim(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".lock") and entry.stat(follow_symlinks=False).st_size > 0


def claim(store: Path) -> None:
    """Write into a store's lock file that it has records here; for the holder of the lock.

    It is a hint for `has_copies_of`: nothing that fails because of it would be worth it.
    """
    with suppress(OSError):
        descriptor = open_private(f"{store}.lock", os.O_WRONLY)
        try:
            if os.fstat(descriptor).st_size == 0:
                write_all(descriptor, b"in use\n")
        finally:
            os.close(descriptor)


def as_record(line: bytes) -> msgspec.Raw:
    """Give a record's text on one line.

    :raises DamageError: for what is no JSON object.
    """
    try:
        line.decode()  # what is passed over unread may be no UTF-8
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        return msgspec.Raw(msgspec.json.format(line, indent=-1))
    except UNREADABLE as error:
        raise DamageError(f"is not a record ({error})") from error
