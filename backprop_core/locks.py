"""Files that the processes of one user share on one machine: flock(2), and where it can be trusted.

The lock belongs to an open file, not to a process: whoever inherits the descriptor holds it too, and the
kernel gives it back with the last of them, however it ends. Whether somebody holds one is found out by a
momentary shared lock, which nobody takes for a holder's exclusive one.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .clock import now_s
from .errors import RefusedError, StorageError

GLANCE_S = 0.02  # far longer than anybody's momentary shared lock lasts
MOUNTS = Path("/proc/self/mounts")
NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs beegfs ceph cifs coda fuse.ceph fuse.glusterfs fuse.juicefs fuse.s3fs fuse.sshfs glusterfs gpfs "
    "lustre ncpfs nfs nfs4 ocfs2 orangefs panfs pvfs2 smb3 smbfs vboxsf virtiofs wekafs".split()
)

PRIVATE = 0o600
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_READ_LIMIT = 64 * 1024


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the file's lock; the file tells others which process does.

    :raises RefusedError: when somebody else keeps it for `timeout_s`; it names that process.
    """
    fd = open_lock_file(path)
    try:
        if not try_lock(fd, timeout_s):
            pid = os.pread(fd, 20, 0).decode(errors="replace").strip()
            who = f"process {pid}" if pid.isdecimal() else "another process"
            raise RefusedError(
                [f"{who} has held {path} for more than {timeout_s:g} s"],
                "try again; a process that hangs there or is stopped has to be ended first",
            )
        with suppress(StorageError):  # a full disk is no reason to refuse what the lock protects
            write_line(fd, str(os.getpid()).encode())
        yield
        with suppress(OSError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def open_lock_file(path: Path) -> int:
    """Open the file afresh, made with mode 0600 where there is none, not through a link."""
    with _storage_error(path):
        return open_private(path, os.O_RDWR)


def open_private(path: str | Path, flags: int) -> int:
    """Open a file, made where there is none, for this user alone whatever the umask, and not through a link.

    :param flags: As os.open takes them, such as os.O_WRONLY | os.O_APPEND.
    :raises OSError: when it cannot be opened.
    """
    fd = os.open(path, flags | os.O_CREAT | _FLAGS, PRIVATE)
    if stat.S_IMODE(os.fstat(fd).st_mode) != PRIVATE:
        with suppress(OSError):  # another user's, which root may open
            os.fchmod(fd, PRIVATE)
    return fd


def try_lock(fd: int, timeout_s: float = GLANCE_S) -> bool:
    """Take the exclusive lock if it is free, or becomes so in time."""
    end_s, pause_s = now_s() + timeout_s, 0.001
    while not _flock(fd, fcntl.LOCK_EX):
        left_s = end_s - now_s()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(0.02, pause_s * 2)
    return True


def is_held(path: Path) -> bool:
    """Tell whether somebody holds the file's lock; a file that is not there is nobody's."""
    with _opened_to_look(path) as fd:
        return fd is not None and not _flock(fd, fcntl.LOCK_SH)


def write_line(fd: int, line: bytes) -> None:
    """Replace what the locked file says."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, line + b"\n", 0)
    except OSError as error:
        raise StorageError(f"a lock file cannot be written: {error.strerror}") from error


def read_held(path: Path) -> bytes | None:
    """Read what the holder of the file's lock wrote into it; None when nobody holds it.

    :returns: b"" for a holder who wrote no whole line.
    """
    with _opened_to_look(path) as fd:
        end_s = now_s() + GLANCE_S
        while fd is not None and not _flock(fd, fcntl.LOCK_SH):
            # A line is being written for as long as its end is missing.
            line, end, _ = os.pread(fd, _READ_LIMIT, 0).partition(b"\n")
            if end or now_s() >= end_s:
                return line if end else b""
            time.sleep(0.001)
        return None


def private_folder(folder: Path) -> Path:
    """Make the folder with mode 0700, or make sure that this user alone may write in the one there."""
    with _storage_error(folder):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)  # a umask may have taken from it
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StorageError(
            f"{folder} is no folder that this user alone may write in",
            "move it out of the way, or set BACKPROP_HOME to another folder",
        )
    return folder


def is_on_network(path: Path, mounts: Path = MOUNTS) -> bool:
    """Tell whether the path is on one of NETWORK_FILE_SYSTEMS; where the system lists no mounts, no.

    :source: proc_pid_mounts(5): device, mount point with octal escapes, type; later mounts hide earlier ones.
    """
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    place = path.resolve()
    depth, kind = 0, ""
    for fields in (line.split() for line in lines if line.strip()):
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        if place.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), fields[2]
    return kind in NETWORK_FILE_SYSTEMS


def _flock(fd: int, kind: int) -> bool:
    """Take the lock unless somebody is in the way; where nothing can be locked is an error, never a yes."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"a lock cannot be taken: {error.strerror}", "set BACKPROP_HOME to a folder on a local disk"
        ) from error
    return True


@contextmanager
def _opened_to_look(path: Path) -> Iterator[int | None]:
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be used: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be used: {error.strerror}") from error
