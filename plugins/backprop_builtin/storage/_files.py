"""Files that survive a kill at any moment: whole replacement, folders of one's own."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from backprop_core import StorageError, open_private

OURS_ALONE = 0o600
NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC
PIECE = 0x20000  # what is copied and compared at once, in bytes: two fit a processor's cache
_TRIES, _PAUSE_S = 100, 0.002


class DamageError(Exception):
    """The file is there and is not what it should be; the message says how, to follow its name."""


@contextmanager
def explained(doing: str, path: str | Path) -> Iterator[None]:
    """Turn what the system refuses into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {doing} {path}: {error.strerror or error}") from error


class Stamp(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What tells a file from what replaces it, and from what it was before."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def stamp_of(found: os.stat_result) -> Stamp:
    """Give the stamp of a file that was looked at."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def open_plain_file(path: str | Path) -> int | None:
    """Open a file to read it; None when it does not exist.

    :raises DamageError: for a folder, a pipe or a device.
    :raises OSError: when it cannot be opened.
    """
    try:
        descriptor = _open_at_once(path)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamageError("is not a file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_at_once(path: str | Path) -> int:
    """Open what may be a named pipe, on whose writer a plain open would wait for ever.

    A file on which somebody has a lease cannot be opened so, as when its name is taken by another that very moment.
    """
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            return os.open(path, os.O_RDONLY | os.O_NONBLOCK | NO_LINKS)
        time.sleep(_PAUSE_S)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | NO_LINKS)


def read_plain_file(path: str | Path) -> bytes | None:
    """Read all of a file; None when it does not exist.

    :raises DamageError: for a folder, a pipe or a device.
    :raises OSError: when it cannot be read.
    """
    descriptor = open_plain_file(path)
    return None if descriptor is None else read_and_close(descriptor)


def read_and_close(descriptor: int) -> bytes:
    """Read all of an open file."""
    try:
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: Iterable[bytes]) -> None:
    """Give the file new content, all of it or none, whatever happens meanwhile; durable on return.

    :raises OSError: with the old content intact, or (from the last step, the folder's fsync) with the
        new content in place that a power cut may still undo.
    """
    put_in_place(path, content)
    sync_folder(path.parent)


def put_in_place(path: Path, content: Iterable[bytes]) -> Stamp | None:
    """Give the file new content, all of it or none; until its folder is flushed, a power cut may undo it.

    :returns: The stamp of just this content; None where the file system tells too little of a file.
    :raises OSError: with the old content intact.
    """
    return write_beside(path, content).take_the_name_of(path)


def overwrite_file(path: Path, content: bytes) -> None:
    """Write a file over where it lies, for those who can tell a torn one from a whole one.

    Nothing is made or freed on the disk, which is most of what replacing a small file costs. What is there and is no
    plain file makes way for one.
    """
    descriptor = _open_to_overwrite(path)
    try:
        write_all(descriptor, content)
        if os.fstat(descriptor).st_size > len(content):
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _open_to_overwrite(path: Path) -> int:
    with suppress(OSError):
        descriptor = open_private(path, os.O_WRONLY | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    os.unlink(path)
    return open_private(path, os.O_WRONLY | os.O_EXCL)


def hold(path: str | Path) -> list[int]:
    """Keep a file open whose name another is to take, until it may be closed; none where it cannot be opened.

    What a file takes up is freed when nobody has it any more, and the disk may be waited for: in the renaming,
    unless somebody has it open.
    """
    with suppress(OSError, DamageError):
        descriptor = open_plain_file(path)
        return [] if descriptor is None else [descriptor]
    return []


def has_a_name(descriptor: int) -> bool:
    """Tell whether an open file can be opened by others, too, so that closing it frees nothing."""
    with suppress(OSError):
        return os.fstat(descriptor).st_nlink > 0
    return False


def close_all(descriptors: list[int]) -> None:
    """Close files that were only read, and forget them."""
    while descriptors:
        descriptor = descriptors.pop()
        with suppress(OSError):
            os.close(descriptor)


class Written(msgspec.Struct, frozen=True):
    """A file under a name of its own, to be renamed into the place of another."""

    path: Path
    stamp: Stamp | None

    def take_the_name_of(self, path: Path) -> Stamp | None:
        """Rename it; return its stamp, None where the file system tells too little of a file.

        :raises OSError: when it cannot be, and is gone.
        """
        try:
            os.rename(self.path, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(self.path)
            raise
        return _stamp_once_renamed(path, self.stamp)


def write_beside(path: Path, content: Iterable[bytes]) -> Written:
    """Write what is to replace a file beside it, durably."""
    temporary = path.parent / f".{path.name}.{os.urandom(6).hex()}.tmp"
    try:
        descriptor = open_private(temporary, os.O_WRONLY | os.O_EXCL)
        try:
            for piece in content:
                write_all(descriptor, piece)
            stamp = marked(descriptor)
            make_durable(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return Written(temporary, stamp)


def marked(descriptor: int) -> Stamp | None:
    """Give a file a time of its own: the system's clock, which stands still for milliseconds, never tells it."""
    now_ns = time.time_ns()
    with suppress(OSError):
        os.utime(descriptor, ns=(now_ns, now_ns))
        stamp = stamp_of(os.fstat(descriptor))
        return stamp if stamp.modified_ns == now_ns else None
    return None


def _stamp_once_renamed(path: Path, written: Stamp | None) -> Stamp | None:
    """Give the file's stamp unless somebody else has written to it since."""
    if written is not None:
        with suppress(OSError):
            stamp = stamp_of(os.lstat(path))
            renamed = msgspec.structs.replace(written, changed_ns=stamp.changed_ns)
            return stamp if stamp == renamed else None
    return None


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte: a disk that fills up takes a part first and says so at the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def make_durable(descriptor: int) -> None:
    """Flush what was written into a file to the disk."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync stops at the disk's own cache there
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_durable(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; only for the holder of its lock."""
    for name in os.listdir(path.parent):
        if is_leftover(name, path.name):
            with suppress(FileNotFoundError):
                os.unlink(path.parent / name)


def is_leftover(name: str, of: str) -> bool:
    """Tell whether `name` is a temporary file of `replace_file` for a file called `of`."""
    return name.startswith(f".{of}.") and name.endswith(".tmp")


def keep_aside(path: Path) -> Path:
    """Give a damaged file a second name that says when it was found; for the holder of its lock.

    What is not a file cannot have two names and is moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 0
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    try:
        os.link(path, kept, follow_symlinks=False)
    except OSError:
        os.rename(path, kept)
    return kept


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone whatever the umask."""
    try:
        folder.mkdir(0o700)
        folder.chmod(0o700)  # a umask may have taken from it
    except FileExistsError:
        return
    except FileNotFoundError:
        make_private_folder(folder.parent)
        make_private_folder(folder)
        return
    sync_folder(folder.parent)


def refuse_shared_folder(folder: Path) -> None:
    """See that nobody else can swap files in this folder.

    :raises StorageError: when it is another user's, or others may write to it.
    """
    with explained("look at", folder):
        found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(
            f"{folder} is not a folder", "records need a folder of their own: move that file away"
        )
    if found.st_uid != os.geteuid():
        raise StorageError(
            f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}",
            "set BACKPROP_HOME to a folder of your own",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{folder} may be written to by other users", f"run: chmod go-w {folder}")
