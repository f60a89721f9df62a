"""Files that the processes of one user share on one machine: flock(2), and where it can be trusted.

The lock belongs to an open file, not to a process: whoever inherits the descriptor holds it too, and the
kernel gives it back with the last of them, however it ends. Whether somebody holds one is found out by a
momentary shared lock, which nobody takes for a holder's exclusive one.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .clock import now_s
from .errors import RefusedError, StorageError
from .patterns import pattern

GLANCE_S = 0.02  # far longer than anybody's momentary shared lock lasts
MOUNTS = Path("/proc/self/mounts")
_ESCAPED = pattern(r"\\([0-7]{3})")
"""How /proc/mounts writes what would end a field."""
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
        with suppress(StorageError):
            write_line(fd, b"")
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
    if _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return True
    if timeout_s > GLANCE_S and _has_timer():
        return _wait_in_turn(fd, timeout_s)
    end_s, pause_s = now_s() + timeout_s, 0.001
    while (left_s := end_s - now_s()) > 0:
        time.sleep(min(pause_s, left_s))
        pause_s = min(0.02, pause_s * 2)
        if _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    return False


def unlock(fd: int) -> None:
    """Give the lock back; whoever inherited the open file has it no longer either."""
    fcntl.flock(fd, fcntl.LOCK_UN)


class _TooLateError(BaseException):
    """Raised by the timer that bounds a wait for a lock."""


def _has_timer() -> bool:
    """Whether this thread may use the process's one timer, and nobody else does."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def _wait_in_turn(fd: int, timeout_s: float) -> bool:
    """Wait in the kernel's queue, which wakes waiters when the lock is free: who looks now and then is passed by."""
    is_waiting = True

    def give_up(*_: object) -> None:
        if is_waiting:
            raise _TooLateError

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with suppress(_TooLateError):
            signal.setitimer(signal.ITIMER_REAL, timeout_s, timeout_s)
            _flock(fd, fcntl.LOCK_EX)
            is_waiting = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
    return not is_waiting or _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Tell whether somebody holds the file's lock; a file that is not there is nobody's."""
    with _opened_to_look(path) as fd:
        return fd is not None and not _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def write_line(fd: int, line: bytes) -> None:
    """Replace what the locked file says.

    The end of the old line goes first and that of the new one comes last, so that nobody reads a mixture. What is
    left of a longer one is overwritten, not cut off, which takes a file system a hundred times as long.
    """
    try:
        size = os.fstat(fd).st_size
        if size > _READ_LIMIT:  # none of ours
            os.ftruncate(fd, size := 0)
        if size:
            os.pwrite(fd, b" ", size - 1)
        filled = line.ljust(size - 1)
        os.pwrite(fd, filled, 0)
        os.pwrite(fd, b"\n", len(filled))
    except OSError as error:
        raise StorageError(f"a lock file cannot be written: {error.strerror}") from error


def read_line(fd: int) -> bytes:
    """Read what the file says, held or not; b"" where there is no whole line.

    :raises StorageError: when it cannot be read.
    """
    try:
        return (_whole_line(fd) or b"").strip()
    except OSError as error:
        raise StorageError(f"a lock file cannot be read: {error.strerror}") from error


def _whole_line(fd: int) -> bytes | None:
    line, end, _ = os.pread(fd, _READ_LIMIT, 0).partition(b"\n")
    return line if end else None


def read_held(path: Path) -> bytes | None:
    """Read what the holder of the file's lock wrote into it; None when nobody holds it.

    :returns: b"" for a holder who wrote no whole line.
    """
    with _opened_to_look(path) as fd:
        end_s = now_s() + GLANCE_S
        while fd is not None and not _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB):
            # A line is being written for as long as its end is missing.
            line = _whole_line(fd)
            if line is not None or now_s() >= end_s:
                return line or b""
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
        point = Path(
            _ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[1]) if "\\" in fields[1] else fields[1]
        )
        if place.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), fields[2]
    return kind in NETWORK_FILE_SYSTEMS


def _flock(fd: int, kind: int) -> bool:
    """Take the lock; False where somebody is in the way. Where nothing can be locked is an error, never a yes."""
    try:
        fcntl.flock(fd, kind)
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
