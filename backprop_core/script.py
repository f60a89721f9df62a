"""What a training script may import to talk with the run it is part of.

Every function is a silent no-op outside a run, so that the same script works with and without
Backprop::

    from backprop_core.script import checkpoint, report, resume_path, should_checkpoint, should_stop

    model, first = load(resume_path()) if resume_path() else (Model(), 0)
    for epoch in range(first, epochs):
        loss = train_one_epoch(model)
        report(step=epoch, loss=loss)
        if should_checkpoint() or should_stop():
            save(model, epoch + 1, "model.pt")
            checkpoint("model.pt")

At the end of its time box the script is interrupted like by Ctrl-C (SIGINT, KeyboardInterrupt).
Where several processes train together, ask `should_checkpoint` and `should_stop` in one of them and
tell the others: each has its own clock.

This module needs the standard library alone, of Python 3.8 or newer: it is also put in the way of
interpreters that do not have Backprop installed.
"""

from __future__ import annotations

import os
import sys
import time

__all__ = ["checkpoint", "report", "resume_path", "should_checkpoint", "should_stop", "time_left"]

LEAST_LEAD_S = 15.0
SAVES_PER_LEAD = 2.0
LARGEST_LEAD_SHARE = 0.25
REREAD_EVERY_S = 0.2


class _Memory:
    """What this process remembers of its run; moments are on the monotonic clock."""

    last_step: int | None = None
    started_at: float | None = None
    saved_at: float | None = None
    asked_to_save_at: float | None = None
    slowest_save_s: float | None = None
    has_said_stopping: bool = False
    box: tuple[float, float] | None = None
    box_file: tuple[int, int] | None = None
    box_looked_at: float | None = None


_memory = _Memory()


def report(step: object = None, loss: object = None, **metrics: object) -> None:
    """Report progress: one JSON line on standard output, in one write.

    Ranks that share the pipe do not tear each other's lines up to 4096 bytes (PIPE_BUF). Tensors and
    NumPy scalars of one element are taken as numbers, NaN and infinities are sent as null, and what
    is None is left out.

    :param loss: The training loss.
    :raises TypeError: for what is not one real number, and for a step that is not whole.
    """
    if not _in_run():
        return
    values: dict[str, float | None] = {}
    if step is not None:
        values["step"] = _memory.last_step = _whole("step", step)
    for name, value in (("loss", loss), *metrics.items()):
        if value is not None:
            values[name] = _finite(_number(name, value))
    if values:
        _print_line(values)


def checkpoint(path: str | os.PathLike[str]) -> None:
    """Announce a checkpoint that is now wholly written.

    How long saving took is measured from the last True of `should_checkpoint` or `should_stop`.
    """
    if not _in_run():
        return
    now = time.monotonic()
    if _memory.asked_to_save_at is not None:
        _note_save(now - _memory.asked_to_save_at)
    _memory.asked_to_save_at = None
    _memory.saved_at = now
    values: dict[str, object] = {"event": "checkpoint_saved", "path": os.path.abspath(os.fspath(path))}
    if _memory.last_step is not None:
        values["step"] = _memory.last_step
    _print_line(values)


def resume_path() -> str | None:
    """Return the checkpoint to go on from; None for a fresh start."""
    return os.environ.get("BACKPROP_RESUME_FROM") or None if _in_run() else None


def time_left() -> float | None:
    """Return the seconds until the time box ends, 0.0 when it is over; None outside a run.

    Pauses and extensions are counted in.
    """
    box = _time_box()
    return None if box is None else max(0.0, box[0] - time.monotonic())


def should_stop(ahead_s: float = 0.0) -> bool:
    """Tell whether the time box is about to end, so that it is time for a last checkpoint.

    True for the last 15 s, or twice the slowest save seen in any attempt of the run if that is longer, but at
    most for the last quarter of the time box. A script that then saves and exits with 0 has reached the end of its time
    box, and is not taken for completed: `backprop resume` goes on with it.

    :param ahead_s: How many seconds longer the next question will be in coming, where that is known: with the
        length of an epoch a script stops at the end of the last one that fits.
    """
    box = _time_box()
    if box is None:
        return False
    ends_at, limit_s = box
    lead_s = min(max(LEAST_LEAD_S, SAVES_PER_LEAD * _slowest_save_s()), LARGEST_LEAD_SHARE * limit_s)
    is_due = ends_at - time.monotonic() <= lead_s + ahead_s
    if is_due:
        _say_stopping()
    return _ask_to_save(is_due=is_due)


def _say_stopping() -> None:
    """Leave word, once an attempt, that an exit from now on is the end of the time box."""
    if _memory.has_said_stopping:
        return
    _memory.has_said_stopping = True
    try:
        path = os.path.join(os.environ["BACKPROP_RUN_DIR"], "stopping")
        with open(path, "w", encoding="ascii", opener=_privately) as file:
            file.write(os.environ.get("BACKPROP_ATTEMPT", ""))
    except (OSError, KeyError):
        pass  # the run is then recorded as completed, which is all that is lost


def _privately(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)  # a umask may have taken from it
    return fd


def _slowest_save_s() -> float:
    """Return the slowest save of the run, in seconds; one of an earlier attempt is read from the run's folder."""
    if _memory.slowest_save_s is None:
        try:
            with open(_slowest_save_file(), encoding="ascii") as file:
                seconds = float(file.read(32))
        except (OSError, KeyError, ValueError):
            seconds = 0.0
        _memory.slowest_save_s = seconds if 0.0 < seconds < float("inf") else 0.0
    return _memory.slowest_save_s


def _note_save(seconds: float) -> None:
    """Remember how long a save took, for this attempt and for those that follow."""
    if seconds <= _slowest_save_s():
        return
    _memory.slowest_save_s = seconds
    try:
        with open(_slowest_save_file(), "w", encoding="ascii", opener=_privately) as file:
            file.write(f"{seconds:.3f}")
    except (OSError, KeyError):
        pass  # the next attempt learns it anew


def _slowest_save_file() -> str:
    return os.path.join(os.environ["BACKPROP_RUN_DIR"], "slowest-save")


def should_checkpoint() -> bool:
    """Tell whether the checkpoint interval has passed since the last `checkpoint`, or since the start.

    Always False when no interval is set.
    """
    every_s = _seconds_from("BACKPROP_CHECKPOINT_EVERY_SECONDS") if _in_run() else None
    if every_s is None:
        return False
    since = _started_at() if _memory.saved_at is None else _memory.saved_at
    return _ask_to_save(is_due=time.monotonic() - since >= every_s)


def _in_run() -> bool:
    return bool(os.environ.get("BACKPROP_RUN_ID"))


def _ask_to_save(*, is_due: bool) -> bool:
    if is_due:
        _memory.asked_to_save_at = time.monotonic()
    return is_due


def _number(name: str, value: object) -> float:
    """Turn a number, or what holds exactly one, into an int or a float."""
    item = getattr(value, "item", None)
    try:
        if callable(item):
            value = item()
        elif not isinstance(value, (int, float)) and hasattr(type(value), "__float__"):
            value = float(value)  # type: ignore[arg-type]  # mypy does not follow hasattr on a type
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be one number: {error}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return value


def _whole(name: str, value: object) -> int:
    number = _number(name, value)
    if isinstance(number, float) and not number.is_integer():
        raise TypeError(f"{name} must be a whole number, not {number!r}")
    return int(number)


def _finite(number: float) -> float | None:
    """Strict JSON knows no NaN and no infinity."""
    is_finite = isinstance(number, int) or number - number == 0
    return number if is_finite else None


def _print_line(values: object) -> None:
    """Write one JSON line behind what was printed before, in one write where there is a descriptor."""
    import json

    line = json.dumps(values) + "\n"
    out = sys.stdout
    out.flush()
    try:
        descriptor = out.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by an object that is no file
        out.write(line)
        out.flush()
        return
    _write(descriptor, line.encode())


def _write(descriptor: int, line: bytes) -> None:
    while line:
        try:
            line = line[os.write(descriptor, line) :]
        except BlockingIOError:  # somebody made the pipe non-blocking, and it is full
            import select

            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _time_box() -> tuple[float, float] | None:
    """Return when the time box ends on the monotonic clock, and its length, both in seconds."""
    if not _in_run():
        return None
    now = time.monotonic()
    if _memory.box_looked_at is None or now - _memory.box_looked_at >= REREAD_EVERY_S:
        _memory.box_looked_at = now
        _look_at_time_box_file()
    if _memory.box is not None:
        return _memory.box
    limit_s = _seconds_from("BACKPROP_MAX_RUN_SECONDS")
    return None if limit_s is None else (_started_at() + limit_s, limit_s)


def _look_at_time_box_file() -> None:
    """Read what the supervisor wrote, if that has changed; what cannot be read changes nothing."""
    path = os.path.join(os.environ.get("BACKPROP_RUN_DIR", ""), "time-box.json")
    try:
        found = os.stat(path)
        identity = (found.st_mtime_ns, found.st_ino)
        if identity == _memory.box_file:
            return
        import json

        with open(path, encoding="utf-8") as file:
            told = json.load(file)
        _memory.box = (float(told["deadline"]), float(told["limit_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return
    _memory.box_file = identity


def _seconds_from(variable: str) -> float | None:
    try:
        seconds = float(os.environ.get(variable, ""))
    except ValueError:
        return None
    return seconds if seconds > 0 else None


def _started_at() -> float:
    """Return when this process started, on the monotonic clock; long imports may have come before us."""
    if _memory.started_at is None:
        _memory.started_at = time.monotonic() - _age_s()
    return _memory.started_at


def _age_s() -> float:
    """Return the age of this process in seconds; 0.0 where the system does not tell.

    :source: proc_pid_stat(5), field 22: clock ticks since boot.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
