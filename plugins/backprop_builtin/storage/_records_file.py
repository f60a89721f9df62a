"""experiments.json as a file: opened, put together again where it is damaged, and written anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import msgspec

from . import _index
from ._contents import Changes, Contents, Indexed, Parsed, StaleIndexError, Text
from ._files import (
    DamageError,
    Stamp,
    close_all,
    explained,
    has_a_name,
    keep_aside,
    open_plain_file,
    read_and_close,
    read_plain_file,
    remove_leftovers,
    stamp_of,
    sync_folder,
)
from ._index import Columns
from ._records import newest_first, parse, salvage
from ._run_folders import RunFolders, claim
from ._spare import put_alone, put_in_turn

Found = TypeVar("Found")


class RecordsFile:
    """The file of one store, which stays open from one look to the next while it is the same.

    :param locked: Holds the lock, under which damage is mended.
    :param note: Told, in a sentence for the person, what was found damaged.
    """

    def __init__(
        self,
        path: Path,
        folders: RunFolders,
        locked: Callable[[], AbstractContextManager[None]],
        note: Callable[[str], None],
    ) -> None:
        self.path = path
        self._folders = folders
        self._locked = locked
        self._note = note
        self._has_swept = False
        self._seen: tuple[Contents, Stamp | None] | None = None
        self._old: list[int] = []
        self._misled_by: Stamp | None = None
        self._left: tuple[Stamp, Columns] | None = None

    def ask(self, question: Callable[[Contents], Found], *, has_lock: bool = False) -> Found:
        """Answer from the file; nobody's lock is waited for, since a rename is seen whole or not at all."""
        try:
            return question(self._contents(has_lock=has_lock))
        except StaleIndexError:
            self._misled_by = self._seen[1] if self._seen else None
            self._put_away()
            return question(self._contents(has_lock=has_lock))

    def change(self, choose: Callable[[Contents], Changes | None]) -> None:
        """Write the file with the changes that are chosen, and not for None; for the holder of the lock.

        A power cut may undo it until `sync` returns.
        """

        def write(contents: Contents) -> None:
            changes = choose(contents)
            if changes is not None:
                self._write(contents.changed(changes), forgets=None in changes.values())

        self.ask(write, has_lock=True)

    def whole(self) -> Contents:
        """Read and check every record.

        :raises DamageError: when the file is not one JSON object.
        """
        with explained("read", self.path):
            text = read_plain_file(self.path)
        return self._none_yet() if text is None else Parsed(parse(text))

    def sync(self) -> None:
        """Make what was written durable; whoever is told that it is saved has to wait for it, and for no lock."""
        with explained("write", self.path):
            sync_folder(self.path.parent)

    def close_old(self) -> None:
        """Let go of files that were replaced and are nobody's spare; for who has no lock.

        What a file takes up is freed by it, which may take as long as writing it.
        """
        close_all(self._old)

    def close(self) -> None:
        """Let go of the file."""
        self._put_away()
        self.close_old()

    def _put_away(self) -> None:
        if self._seen is not None and (descriptor := self._seen[0].descriptor) is not None:
            if has_a_name(descriptor):
                close_all([descriptor])  # at once: the next writer may want to write it over
            else:
                self._old.append(descriptor)
        self._seen = None

    def _contents(self, *, has_lock: bool) -> Contents:
        stamp = self._stamp()
        if self._seen is not None and stamp is not None and stamp == self._seen[1]:
            return self._seen[0]
        if has_lock:
            self._put_away()
        else:
            self.close()
        try:
            self._seen = self._opened()
        except DamageError:
            with nullcontext() if has_lock else self._locked():
                self._seen = self._opened_or_mended()
        return self._seen[0]

    def _stamp(self) -> Stamp | None:
        try:
            return stamp_of(os.stat(self.path))
        except OSError:
            return None

    def _opened(self) -> tuple[Contents, Stamp | None]:
        with explained("read", self.path):
            descriptor = open_plain_file(self.path)
            if descriptor is None:
                return self._none_yet(), None
            stamp = stamp_of(os.fstat(descriptor))
            columns = self._columns_of(stamp)
            if columns is not None:
                return Indexed(self.path, descriptor, columns), stamp
            text = read_and_close(descriptor)
        return Parsed(parse(text)), stamp

    def _columns_of(self, stamp: Stamp) -> Columns | None:
        """Give what is known of where records lie; what this process itself has written it need not read."""
        if stamp == self._misled_by:
            return None
        if self._left is not None and self._left[0] == stamp:
            return self._left[1]
        return _index.of_file(self.path, stamp)

    def _none_yet(self) -> Contents:
        if self._folders.has_copies_of(self.path):
            raise DamageError("is missing")
        return Parsed({})

    def _opened_or_mended(self) -> tuple[Contents, Stamp | None]:
        try:
            return self._opened()  # somebody else may have mended it meanwhile
        except DamageError as damage:
            return Parsed(self._mend(str(damage))), None

    def _mend(self, what: str) -> dict[str, msgspec.Raw]:
        """Put the records together again; copies win, being written before the file is."""
        copies, unreadable = self._folders.copies()
        source = f"{self._folders.root}/*/run.json"
        kept = ""
        with explained("mend", self.path):
            found = {**salvage(self._damaged_text()), **copies}
            if os.path.lexists(self.path):
                kept = f"it is kept as {keep_aside(self.path).name}, and "
                source = f"what is whole in it and from {source}"
        records = {run_id: found[run_id] for run_id in reversed(newest_first(found))}
        self._write(Parsed(records).changed({}))
        self.sync()
        self._note(f"{self.path} {what}: {kept}{len(records)} runs were put together again from {source}")
        for problem in unreadable:
            self._note(problem)
        return records

    def _damaged_text(self) -> bytes:
        try:
            return read_plain_file(self.path) or b""
        except DamageError:
            return b""

    def _write(self, text: Text, *, forgets: bool = False) -> None:
        with explained("write", self.path):
            if not self._has_swept:
                remove_leftovers(self.path)
                claim(self.path)
                self._has_swept = True
            put = put_alone if forgets else put_in_turn
            stamp = put(self.path, text.pieces)
        self._put_away()
        if stamp is not None:
            self._left = stamp, text.columns
            _index.keep(self.path, stamp, text.columns)
