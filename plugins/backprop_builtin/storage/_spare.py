"""A big file that is replaced again and again, of which each version differs little from the one before.

The version that was replaced stays beside it as `.NAME.spare`, and becomes the next: only what differs is written
into it, durably, before it takes the name. To write and flush all of 7 MB, and to free what they replace, takes some
25 ms; to compare them and write a few lines takes 3. Nothing is taken from the spare unseen, so that it may hold
anything: what a writer that was killed has left of it, for instance.

Somebody may have opened the file when the spare was it, and read it still. A lease tells (`fcntl(2)`, F_SETLEASE): the
kernel gives it to nobody while others have a file open or mapped, and lets nobody open the file until it is given
back. Without one (other systems, overlayfs, another owner) the file is written anew, as any other is.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ._files import (
    NO_LINKS,
    OURS_ALONE,
    PIECE,
    Stamp,
    Written,
    make_durable,
    marked,
    put_in_place,
    write_all,
    write_beside,
)


def put_in_turn(path: Path, content: Iterable[bytes]) -> Stamp | None:
    """Give the file new content as `put_in_place` does, and keep what it had as its spare; for the holder of its lock.

    :param content: Pieces, asked for once; what they raise passes through, and leaves the file as it was.
    :returns: The stamp of just this content; None where the file system tells too little of a file.
    :raises OSError: with the old content intact.
    """
    over = _written_over(path, content)
    written = over or write_beside(path, content)
    old = _old_of(path)
    try:
        if over or _can_be_leased(written):
            with suppress(OSError):  # nothing to keep, or a file system on which a file has one name only
                os.link(path, old, follow_symlinks=False)
        stamp = written.take_the_name_of(path)
        with suppress(OSError):
            os.rename(old, spare_of(path))
    finally:
        with suppress(OSError):
            os.unlink(old)
    return stamp


def put_alone(path: Path, content: Iterable[bytes]) -> Stamp | None:
    """Give the file new content as `put_in_place` does, and leave nothing of what it had."""
    for kept in (spare_of(path), _old_of(path)):
        with suppress(FileNotFoundError):
            os.unlink(kept)
    return put_in_place(path, content)


def spare_of(path: Path) -> Path:
    """Name the file that the next version is made of."""
    return path.with_name(f".{path.name}.spare")


def _old_of(path: Path) -> Path:
    """Name what is to be the spare while another file takes its name; swept up where a writer was killed."""
    return path.with_name(f".{path.name}.old.tmp")


def _written_over(path: Path, content: Iterable[bytes]) -> Written | None:
    """Make the spare the next version; None where there is none that may be written to."""
    spare = spare_of(path)
    with _ours_alone(spare) as descriptor:
        if descriptor is None:
            return None
        try:
            os.ftruncate(descriptor, _write_what_differs(descriptor, content))
            stamp = marked(descriptor)
            make_durable(descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(spare)  # a full disk has room again
            raise
    return Written(spare, stamp)


def _write_what_differs(descriptor: int, content: Iterable[bytes]) -> int:
    """Give the file this content, and return where it ends."""
    end = 0
    for piece in content:
        for begin in range(0, len(piece), PIECE):
            chunk = piece[begin : begin + PIECE]
            if os.pread(descriptor, len(chunk), end) != chunk:
                os.lseek(descriptor, end, os.SEEK_SET)
                write_all(descriptor, chunk)
            end += len(chunk)
    return end


@contextmanager
def _ours_alone(path: Path) -> Iterator[int | None]:
    """Open a file of ours which nobody else has open, and which has no other name; None where it is not such a one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | NO_LINKS)
    except OSError:
        yield None
        return
    try:
        yield descriptor if _is_a_spare(os.fstat(descriptor)) and _is_leased(descriptor) else None
    finally:
        os.close(descriptor)  # and the lease with it


def _is_a_spare(found: os.stat_result) -> bool:
    is_private = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == OURS_ALONE
    return stat.S_ISREG(found.st_mode) and is_private and found.st_nlink == 1


def _is_leased(descriptor: int) -> bool:
    try:
        # Who wants to open it meanwhile has us told: by SIGIO, unless another is set, which ends who has no handler.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except (OSError, AttributeError):
        return False
    return True


def _can_be_leased(written: Written) -> bool:
    """Tell whether there are leases where a new file lies, so that a spare is worth its room."""
    with _ours_alone(written.path) as descriptor:
        return descriptor is not None
