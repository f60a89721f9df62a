"""Hold one training process tree: its time box, its pauses, its end.

The agent starts `python -I -S -B keeper.py FD`, FD being a connected stream socket that both ends write
JSON objects to, one a line. The first line from the agent is the plan:

    {"argv": [..], "env": {..}, "cwd": "..", "output": FD, "drain": FD, "locks": [FD, ..],
     "limit_s": 600.0, "grace_s": 30.0, "term_s": 5.0, "max_pause_s": 900.0, "time_box_file": ".." or null}

`output` is the write end of the pipe for the script's stdout and stderr, `drain` a read end of it that is
touched only when the agent is gone, `locks` are held until this process ends. The agent is gone when its end of the
socket is closed, or when the process that started this one has ended. Later lines are requests:

    {"do": "pause", "cause": ".."}     {"do": "continue", "cause": ".." or null for every cause}
    {"do": "stop", "why": ".."}        {"do": "terminate"}     {"do": "kill"}
    {"do": "extend", "seconds": 300}

The agent is told (times are seconds on CLOCK_MONOTONIC; `why` is "time box", "pause limit", "lost agent" or
what came with the request; "paused" comes again when its causes change; a deadline told during a pause moves
on with it):

    {"is": "started", "pid", "ticks", "at", "deadline"}     {"is": "failed", "errno", "message"}
    {"is": "paused", "causes"}     {"is": "continued", "deadline"}     {"is": "extended", "deadline"}
    {"is": "stopping", "why", "rung": "interrupt" | "terminate" | "kill"}
    {"is": "exited", "code", "signal", "why", "paused_s"}     {"is": "gone"}

The end is a ladder: SIGINT to the script's main process, `grace_s` later SIGTERM to the whole tree, `term_s`
later SIGKILL. Once on it, pauses and extensions come too late and are passed over. The tree is every
descendant: this process is their subreaper, so what left the process group or lost its parent comes back
here, and only `waitpid` can say that nobody is left. Without /proc and subreapers (macOS) it is the script's
process group alone, and a process that leaves that is out of reach.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, Never
else:
    # A run waits for this process to start. `signal`, `json` and `ctypes` would double that time (they bring
    # `enum` and `re`); the C modules that they wrap are there at once.
    import _signal as signal

try:
    from _json import encode_basestring_ascii as quoted
    from _json import make_scanner
except ImportError:  # not every Python has it in C
    from json import JSONDecoder
    from json import dumps as quoted

    scan: Callable[[str, int], tuple[Any, int]] = JSONDecoder().raw_decode
else:

    class JsonRules:
        """What the scanner asks its decoder for."""

        strict = True
        object_hook = object_pairs_hook = array_hook = None
        parse_float, parse_int, parse_constant = float, int, float

    scan = make_scanner(JsonRules)  # type: ignore[arg-type]  # any object with these attributes

PROC = "/proc"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
RUNGS = ("interrupt", "terminate", "kill")
# What a terminal, a batch system or a stray `kill` sends must not end the keeper; SIGTERM asks it to stop.
IGNORED = ("HUP", "INT", "QUIT", "PIPE", "ALRM", "USR1", "USR2", "TSTP", "TTIN", "TTOU", "VTALRM", "PROF")
AT_REST = b"TtZX"  # states in /proc: stopped, held by a debugger, dead
SETTLE_S = 0.25  # for a tree to come to rest, or to its feet; who hangs on a disk may take longer
LOOK_S = 0.0005  # between two looks meanwhile
TICK_S = 0.5  # between looks at a paused tree; longer where they would take more than a hundredth of the time
LONGEST_TICK_S = 5.0
LINE_LIMIT = 16 << 20  # bytes; the largest environment that Linux takes makes a plan of a third of it
QUEUE_LIMIT = 256  # lines for an agent that does not read; the oldest are dropped
LINGER_S = 1.0  # for the last of them
PATIENCE_S = 2.0  # with an exec, before anything else is looked after
A_DAY_S = 86_400.0
UNENDING_S = 1e10


def to_json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return repr(value)  # a finite number


def from_json(line: bytes) -> dict[str, Any] | None:
    """Return the object that the line holds; None for anything else."""
    try:
        text = line.decode().strip()
        value, end = scan(text, 0)
    except (ValueError, StopIteration, RecursionError, SystemError):
        return None  # the last is the scanner's when `json`, whose error it would raise, was never imported
    return value if end == len(text) and isinstance(value, dict) else None


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, where the system has such a thing."""
    if sys.platform == "linux":
        try:
            from _ctypes import call_function, dlopen, dlsym
        except ImportError:  # built without libffi
            return
        libc = dlopen(None, 0)  # type: ignore[arg-type]  # None is this very program
        call_function(dlsym(libc, "prctl"), (option, value, 0, 0, 0))


class Channel:
    """The control socket: objects in, a bounded queue of objects out; it blocks for the plan alone.

    `agent_fd` can be read once the agent has ended, whose end of the socket somebody may hold whom it forked; -1 where
    the system has no such thing.
    """

    def __init__(self, fd: int, agent_fd: int = -1) -> None:
        self.fd = fd
        self.agent_fd = agent_fd
        self.is_open = True
        self._received = bytearray()  # a line that has not ended
        self._lines: list[bytes] = []
        self._leaving = b""  # the rest of a line that has begun to leave
        self._queue: list[bytes] = []

    def plan(self) -> dict[str, Any] | None:
        """Wait for the first line; None where the agent left, empty where it is no object."""
        poll = select.poll()
        for fd in self.awaited():
            poll.register(fd, select.POLLIN)
        while self.is_open and not self._lines:
            self.hear({fd for fd, _ in poll.poll()})
        os.set_blocking(self.fd, False)
        return from_json(self._lines.pop(0)) or {} if self._lines else None

    def awaited(self) -> tuple[int, ...]:
        """Return the descriptors that have something when the agent has."""
        return (self.fd,) if self.agent_fd < 0 else (self.fd, self.agent_fd)

    def hear(self, ready: set[int]) -> None:
        """Take in what the agent says; the last of it where it has ended."""
        if self.fd in ready:
            self._receive()
        if self.agent_fd in ready:
            self.is_open = False

    def read(self) -> list[dict[str, Any]]:
        """Return what the agent has said since; what is no object is passed over."""
        lines, self._lines = self._lines, []
        return [message for message in map(from_json, lines) if message is not None]

    def _receive(self) -> None:
        try:
            chunk = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self.is_open = bool(chunk)
        first, *more = chunk.split(b"\n")
        self._received += first
        for line in more:
            self._lines.append(bytes(self._received))
            self._received = bytearray(line)
        if len(self._received) > LINE_LIMIT:
            self._received = bytearray(b"?")  # so that the rest of this line is no object either

    def send(self, what: str, **more: Any) -> None:
        self._queue.append(to_json({"is": what, **more}).encode() + b"\n")
        del self._queue[:-QUEUE_LIMIT]
        self.flush()

    def flush(self) -> bool:
        """Write what the socket takes; False while something is left."""
        if not self.is_open:
            self._leaving = b""
            self._queue.clear()
        try:
            while self._leaving or self._queue:
                self._leaving = self._leaving or self._queue.pop(0)
                self._leaving = self._leaving[os.write(self.fd, self._leaving) :]
        except BlockingIOError:
            return False
        except OSError:  # nobody will read it
            self._leaving = b""
            self._queue.clear()
        return True


class Plan:
    """What to run and within what bounds; raises KeyError, TypeError, ValueError or OSError."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.argv = [os.fsencode(argument) for argument in message["argv"]]
        self.env = {os.fsencode(name): os.fsencode(value) for name, value in message["env"].items()}
        self.cwd = os.fsencode(message["cwd"])
        self.output = int(message["output"])
        self.drain = int(message["drain"])
        for fd in (self.output, self.drain):
            os.fstat(fd)  # it is open
        self.limit_s = seconds_of(message["limit_s"])
        self.grace_s = seconds_of(message["grace_s"])
        self.term_s = seconds_of(message["term_s"])
        self.max_pause_s = seconds_of(message["max_pause_s"])
        path = message["time_box_file"]
        self.time_box_file = None if path is None else os.fsencode(path)
        if not self.argv:
            raise ValueError("argv is empty")


def seconds_of(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= value < UNENDING_S:
        raise ValueError(f"not a number of seconds: {value!r}")
    return float(value)


class Process:
    """One descendant as /proc shows it; pid and ticks together are its identity."""

    __slots__ = ("identity", "parent", "pid", "state")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split()  # the name before it may hold anything
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.identity = (pid, int(fields[19]))

    def send(self, *numbers: int) -> None:
        if self.parent == os.getpid():  # our own child keeps its pid until we reap it
            kill(self.pid, numbers)
            return
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # an older Linux or Python, or it is gone
            pidfd = None
        now = look_at(self.pid)
        if now is not None and now.identity == self.identity:
            kill(self.pid, numbers, pidfd)
        if pidfd is not None:
            os.close(pidfd)


def kill(pid: int, numbers: tuple[int, ...], pidfd: int | None = None) -> None:
    try:
        for number in numbers:
            if pidfd is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(pidfd, number)
    except OSError:  # it has ended, or is another user's
        return


def look_at(pid: int) -> Process | None:
    stat = contents(f"{PROC}/{pid}/stat")
    return Process(pid, stat) if stat else None


def contents(path: str) -> bytes:
    """Return what a file in /proc holds; nothing where its process is gone."""
    content = b""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            while chunk := os.read(fd, 1 << 16):
                content += chunk
        finally:
            os.close(fd)
    except OSError:
        return b""
    return content


def names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


class Tree:
    """Every descendant of this process, read from /proc."""

    look_s = A_DAY_S  # the system says when one of them ends

    def __init__(self) -> None:
        self._root = os.getpid()
        self._has_children_files = os.path.exists(f"{PROC}/{self._root}/task/{self._root}/children")
        self._frozen: set[tuple[int, int]] = set()
        self._killed: set[tuple[int, int]] = set()

    @staticmethod
    def is_here() -> bool:
        """Tell whether there is a /proc that speaks of process ids as we see them."""
        try:
            return os.readlink(f"{PROC}/self") == str(os.getpid())
        except OSError:
            return False

    def members(self) -> list[Process]:
        children_of = children_by_task if self._has_children_files else children_by_sweep()
        found: list[Process] = []
        parents = [self._root]
        for parent in parents:  # it grows meanwhile
            for pid in children_of(parent):
                process = look_at(pid)
                if process is not None:
                    found.append(process)
                    parents.append(pid)
        return found

    def terminate(self) -> None:
        for process in self.members():
            process.send(signal.SIGTERM, signal.SIGCONT)

    def kill(self) -> bool:
        """Send SIGKILL to everybody; True where that met somebody new."""
        members = self.members()
        for process in members:
            process.send(signal.SIGKILL)
        before, self._killed = self._killed, {process.identity for process in members}
        return not self._killed <= before

    def wake(self) -> None:
        """Let everybody run who was stopped, by us or by somebody else."""
        self._frozen.clear()
        woken: set[tuple[int, int]] = set()
        until = time.monotonic() + SETTLE_S
        asleep = self.members()
        while asleep and time.monotonic() < until:
            for process in asleep:
                process.send(signal.SIGCONT)
                woken.add(process.identity)
            asleep = [p for p in self.members() if p.state == b"T" and p.identity not in woken]

    def freeze(self, limit_s: float) -> None:
        """Stop everybody; look again until a look finds nobody new and nobody awake, or the time is up."""
        until = time.monotonic() + limit_s
        while True:
            awake = [p for p in self.members() if p.state not in AT_REST or p.identity not in self._frozen]
            for process in awake:
                process.send(signal.SIGSTOP)
                self._frozen.add(process.identity)
            if not awake or time.monotonic() >= until:
                return
            time.sleep(LOOK_S)

    def is_left(self) -> bool:
        """Tell whether somebody is left of whom waitpid does not know."""
        return False


def children_by_task(pid: int) -> list[int]:
    lists = [contents(f"{PROC}/{pid}/task/{task}/children") for task in names_in(f"{PROC}/{pid}/task")]
    return [int(child) for children in lists for child in children.split()]


def children_by_sweep() -> Callable[[int], list[int]]:
    """Ask every process for its parent: what is left for a kernel without lists of children."""
    children: dict[int, list[int]] = {}
    for name in names_in(PROC):
        process = look_at(int(name)) if name.isdigit() else None
        if process is not None:
            children.setdefault(process.parent, []).append(process.pid)
    return lambda pid: children.get(pid, [])


class Group:
    """The script's process group: all of its tree that can be reached without /proc."""

    look_s = 0.1  # nobody tells us when the last of a group ends whose leader is gone

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def terminate(self) -> None:
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)

    def kill(self) -> bool:
        self._send(signal.SIGKILL)
        return False

    def wake(self) -> None:
        self._send(signal.SIGCONT)

    def freeze(self, limit_s: float) -> None:  # noqa: ARG002 - once is enough for a group
        self._send(signal.SIGSTOP)

    def is_left(self) -> bool:
        return self._send(0)

    def _send(self, number: int) -> bool:
        try:
            os.killpg(self._leader, number)
        except OSError:
            return False
        return True


def spawn(plan: Plan) -> tuple[int, int]:
    """Fork the script; return its pid, and a descriptor that ends when it runs, or says why it does not."""
    report, tell = os.pipe()
    keeper = os.getpid()
    # A signal that comes between fork and exec waits, and then meets the default disposition.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            become_script(plan, tell, keeper)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.close(tell)
        os.close(plan.output)
    return pid, report


def become_script(plan: Plan, tell: int, keeper: int) -> Never:  # pragma: no cover - ends with exec
    task = "prepare"
    try:
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:  # else it died too early to take us along
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(plan.output, 1)
            os.dup2(plan.output, 2)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            task = f"enter {os.fsdecode(plan.cwd)}"
            os.chdir(plan.cwd)
            task = f"run {os.fsdecode(plan.argv[0])}"
            execute(plan.argv, plan.env)
    except OSError as error:
        report_failure(tell, error.errno, f"cannot {task}: {error.strerror}")
    except ValueError as error:  # a NUL in an argument, a = in a variable's name
        report_failure(tell, errno.EINVAL, f"cannot {task}: {error}")
    finally:
        os._exit(127)


def report_failure(tell: int, number: int | None, text: str) -> None:  # pragma: no cover - its process exits
    os.write(tell, f"{number or 0} {text}".encode(errors="replace")[: select.PIPE_BUF])


def execute(argv: list[bytes], env: dict[bytes, bytes]) -> Never:  # pragma: no cover - ends with exec
    """Become `argv`, looked up on the PATH of `env` unless it names a folder; raises OSError, ValueError."""
    program = argv[0]
    folders = env.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    # A relative entry would run what lies in the working folder.
    places = [program] if b"/" in program else [f + b"/" + program for f in folders if f.startswith(b"/")]
    failure: OSError = FileNotFoundError(errno.ENOENT, "not found on PATH")
    for place in places:
        try:
            os.execve(place, argv, env)  # noqa: S606 - no shell is what we want
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            # As execvp: look further, and tell of the place that forbade it rather than of those without it.
            if isinstance(error, PermissionError) or place == program:
                failure = error
    raise failure


class Keeper:
    """A script, from its start until nobody of its tree is left."""

    def __init__(self, plan: Plan, channel: Channel) -> None:
        self.plan = plan
        self.channel = channel
        self.limit_s = plan.limit_s
        self.paused_s = 0.0
        self.paused_at: float | None = None  # None: not paused
        self.causes: list[str] = []
        self.rung: str | None = None  # one of RUNGS; None: nothing ends it yet
        self.why: str | None = None  # our first reason to end it; None: it ends by itself
        self.next_at = 0.0  # of the next look at a paused tree, or of the next step down
        self.kill_pause_s = 0.0
        self.has_failed = False
        self.has_exited = False
        self.is_asked_to_stop = False
        self.wake_fd = self._listen()
        self.started_at = time.monotonic()
        self._write_time_box()
        self.main, self.report_fd = spawn(plan)
        self.tree = Tree() if Tree.is_here() else Group(self.main)
        self.poll = select.poll()
        for fd in (*self.channel.awaited(), self.wake_fd, self.report_fd):
            self.poll.register(fd, select.POLLIN)

    def hold(self) -> None:
        """Serve the agent and the clock until nobody is left."""
        start = select.poll()
        start.register(self.report_fd, select.POLLIN)
        if start.poll(PATIENCE_S * 1000):  # else a disk hangs, and the rest must go on
            self._begin()
        self._obey(set())  # what came together with the plan
        while True:
            ready = self._sleep()
            if self.wake_fd in ready:
                discard(self.wake_fd)
            if self.report_fd in ready:
                self._begin()
            if not self._reap():
                break
            if self.channel.is_open and not ready.isdisjoint(self.channel.awaited()):
                self._obey(ready)
            if self.plan.drain in ready and not discard(self.plan.drain):
                self.poll.unregister(self.plan.drain)
            if self.is_asked_to_stop:
                self._descend("interrupt", "request")
            self._look_at_clock(time.monotonic())
        if not self.has_failed:
            self.channel.send("gone")

    def _listen(self) -> int:
        """Let signals end the sleep; a number written to this pipe is all that they do."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        return read_end

    def _on_sigterm(self, *_: object) -> None:
        self.is_asked_to_stop = True

    def _sleep(self) -> set[int]:
        """Wait for the next thing to do; return the descriptors that have something."""
        now = time.monotonic()
        if self.rung is not None:
            wake_at = self.next_at
        elif self.paused_at is not None:
            wake_at = min(self.next_at, self.paused_at + self.plan.max_pause_s)
        else:
            wake_at = self._deadline(now)
        sleep_s = min(max(wake_at - now, 0), self.tree.look_s if self.has_exited else A_DAY_S)
        if self.channel.is_open:
            awaited = select.POLLIN if self.channel.flush() else select.POLLIN | select.POLLOUT
            self.poll.modify(self.channel.fd, awaited)
        return {fd for fd, _ in self.poll.poll(sleep_s * 1000)}  # it rounds up, to at most 1 ms late

    def _begin(self) -> None:
        """Learn from the child whether the script runs."""
        said = os.read(self.report_fd, select.PIPE_BUF)
        self.poll.unregister(self.report_fd)
        os.close(self.report_fd)
        self.report_fd = -1
        if said:
            self.has_failed = True
            number, _, message = said.decode(errors="replace").partition(" ")
            self.channel.send("failed", errno=int(number), message=message)
            return
        main = look_at(self.main) if isinstance(self.tree, Tree) else None
        self.channel.send(
            "started",
            pid=self.main,
            ticks=None if main is None else main.identity[1],
            at=self.started_at,
            deadline=self._deadline(time.monotonic()),
        )

    def _reap(self) -> bool:
        """Bury the dead; False when nobody is left."""
        is_left = True
        while is_left:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                is_left = self.tree.is_left()
                break
            if pid == 0:
                break
            if pid == self.main and not self.has_exited:
                self._on_exit(os.waitstatus_to_exitcode(status))
        if is_left and self.has_exited and self.rung in (None, "interrupt"):
            self._enter("terminate")
        return is_left

    def _on_exit(self, code: int) -> None:
        if self.report_fd >= 0:  # it was quicker than our look at its report
            self._begin()
        self.has_exited = True
        self._end_pause()
        if not self.has_failed:
            self.channel.send(
                "exited",
                code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                why=self.why,
                paused_s=self.paused_s,
            )

    def _obey(self, ready: set[int]) -> None:
        self.channel.hear(ready)
        for message in self.channel.read():
            match message:
                case {"do": "pause", "cause": str(cause)}:
                    self._pause(cause)
                case {"do": "continue", "cause": str() | None as cause}:
                    self._continue(cause)
                case {"do": "extend", "seconds": int() | float() as seconds}:
                    self._extend(seconds)
                case {"do": "stop" | "terminate" | "kill" as rung}:
                    why = message.get("why")
                    self._descend(
                        "interrupt" if rung == "stop" else rung, why if isinstance(why, str) else "request"
                    )
        if not self.channel.is_open:
            for fd in self.channel.awaited():
                self.poll.unregister(fd)
            os.set_blocking(self.plan.drain, False)
            self.poll.register(self.plan.drain, select.POLLIN)
            self._descend("interrupt", "lost agent")

    def _pause(self, cause: str) -> None:
        if self.rung is not None:
            return
        if cause not in self.causes:
            self.causes.append(cause)
        if self.paused_at is None:
            self.paused_at = time.monotonic()
            self._freeze(SETTLE_S)
        self.channel.send("paused", causes=self.causes)

    def _freeze(self, limit_s: float) -> None:
        began_s = time.process_time()
        self.tree.freeze(limit_s)
        busy_s = time.process_time() - began_s
        self.next_at = time.monotonic() + min(max(TICK_S, 100 * busy_s), LONGEST_TICK_S)

    def _continue(self, cause: str | None) -> None:
        if self.paused_at is None:
            return
        self.causes = [] if cause is None else [other for other in self.causes if other != cause]
        if self.causes:
            self.channel.send("paused", causes=self.causes)
            return
        self._end_pause()
        self.tree.wake()
        self.channel.send("continued", deadline=self._deadline(time.monotonic()))

    def _end_pause(self) -> None:
        """Close the account of the pause, before anybody runs again who reads it."""
        if self.paused_at is not None:
            self.paused_s += time.monotonic() - self.paused_at
            self.paused_at = None
            self.causes = []
            self._write_time_box()

    def _extend(self, seconds: float) -> None:
        if self.rung is None and not isinstance(seconds, bool) and 0 < seconds < UNENDING_S:
            self.limit_s += seconds
            self._write_time_box()
            self.channel.send("extended", deadline=self._deadline(time.monotonic()))

    def _deadline(self, now: float) -> float:
        this_pause_s = 0.0 if self.paused_at is None else now - self.paused_at
        return self.started_at + self.limit_s + self.paused_s + this_pause_s

    def _write_time_box(self) -> None:
        """Let the script know how long it may run; a disk that refuses is no reason to end it."""
        path = self.plan.time_box_file
        if path is None:
            return
        text = to_json({"deadline": self._deadline(time.monotonic()), "limit_s": self.limit_s})
        try:
            fd = os.open(path + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                os.fchmod(fd, 0o600)  # a umask may have taken from it
                os.write(fd, text.encode())
            finally:
                os.close(fd)
            os.replace(path + b".new", path)
        except OSError:
            return

    def _look_at_clock(self, now: float) -> None:
        if self.rung is not None:
            if now >= self.next_at:
                self._enter("terminate" if self.rung == "interrupt" else "kill")
        elif self.paused_at is not None:
            if now >= self.paused_at + self.plan.max_pause_s:
                self._descend("interrupt", "pause limit")
            elif now >= self.next_at:
                self._freeze(0)
        elif now >= self._deadline(now):
            self._descend("interrupt", "time box")

    def _descend(self, rung: str, why: str) -> None:
        """Go down the ladder to `rung`, never up; the first reason stays."""
        if self.rung is not None and RUNGS.index(rung) <= RUNGS.index(self.rung):
            return
        if self.why is None and not self.has_exited:
            self.why = why
        self._enter(rung)

    def _enter(self, rung: str) -> None:
        is_new, self.rung = rung != self.rung, rung
        if rung == "interrupt":
            kill(self.main, (signal.SIGINT,))  # our child until we reap it; it waits there if it is stopped
        self._end_pause()
        if is_new and self.why is not None:
            self.channel.send("stopping", why=self.why, rung=rung)
        if rung == "interrupt":
            self.tree.wake()
            self.next_at = time.monotonic() + self.plan.grace_s
        elif rung == "terminate":
            self.tree.terminate()
            self.next_at = time.monotonic() + self.plan.term_s
        else:  # who forks as fast as it is killed gets no time to
            self.kill_pause_s = 0.0 if self.tree.kill() else min(2 * self.kill_pause_s + 0.001, TICK_S)
            self.next_at = time.monotonic() + self.kill_pause_s


def discard(fd: int) -> bool:
    """Read and drop what is there; False at the end of it."""
    try:
        return bool(os.read(fd, 1 << 16))
    except BlockingIOError:
        return True
    except OSError:
        return False


def stand_apart() -> None:
    """Leave the terminal, become whom orphans come back to, and keep to ourselves what we inherited."""
    if os.getpgrp() != os.getpid():  # else the agent has seen to it
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Until there is something to stop, who would stop us means the agent, which was sent the same and tells us.
    for name in (*IGNORED, "TERM"):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDWR)
    while nothing <= 2:  # started without some standard descriptor
        nothing = os.dup(nothing)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    for name in names_in("/dev/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:  # the one that the listing itself used
                continue


def watch(pid: int) -> int:
    """Return a descriptor that can be read once the process has ended; -1 where the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def unlock(fds: list[int]) -> None:
    """Give back what the agent no longer can, and somebody whom it forked may hold for as long as it likes."""
    from fcntl import LOCK_UN, flock

    for fd in fds:
        try:
            flock(fd, LOCK_UN)
        except (OSError, TypeError, ValueError):  # no descriptor of ours
            continue


def command(fd: int) -> list[str]:
    """Return what starts a keeper, half as slowly as this file's name would: an import finds it compiled."""
    folder = os.path.dirname(os.path.abspath(__file__))  # at the end of the path, so that it shadows nothing
    start = f"import os, sys; sys.path.append({folder!r}); import keeper; os._exit(keeper.main({fd}))"
    return [sys.executable, "-I", "-S", "-B", "-c", start]


def main(fd: int) -> int:
    """Hold the run that the agent at the other end of `fd` describes."""
    stand_apart()
    channel = Channel(fd, watch(os.getppid()))
    message = channel.plan()
    if message is None:
        return 0
    try:
        keeper = Keeper(Plan(message), channel)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        channel.send("failed", errno=errno.EINVAL, message=f"the plan cannot be used: {error!r}")
    except OSError as error:
        channel.send("failed", errno=error.errno, message=f"cannot start the script: {error}")
    else:
        keeper.hold()
        if not channel.is_open:
            unlock(message.get("locks", ()))
    patience = select.poll()
    patience.register(fd, select.POLLOUT)
    until = time.monotonic() + LINGER_S
    while not channel.flush() and time.monotonic() < until:
        patience.poll(100)
    return 0


if __name__ == "__main__":  # pragma: no cover - the tests that measure enter through main
    os._exit(main(int(sys.argv[1])))
