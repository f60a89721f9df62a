"""What happens to a running attempt's output, requests and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import holding, registry
from .admission import Admitted
from .causes import TAIL_BYTES
from .checkpoints.ledger import Known, in_order
from .checkpoints.neighbours import disputed_in_words
from .checkpoints.search import SEARCH_CUT_SHORT
from .checkpoints.watching import CheckpointWatch
from .clock import now_ms, now_s
from .description import code_of
from .errors import StorageError
from .events import EventReader
from .governor import Watch
from .identity import descendants_among
from .machine import Monitor
from .observers import Observers
from .output_log import OutputLog
from .plugins import Plugins
from .records import CheckpointSaved, Event, Intent, Machine, ProgressBatch, RunRecord, Script
from .states import RunState
from .supervisor import Control
from .view import Snapshot, View

UNTIL_SLACK_MS = 1000
"""The time box ends first where no pause and no extension has moved it."""
PERSON = "person"
GOVERNOR, STALLED, UNTIL = "governor", "stalled", "until"
"""What we stop a run for of our own accord, as `Control.stop` is told."""
_CAUSES = {PERSON: "paused by `backprop pause`", "Ctrl-Z": "Ctrl-Z"}


class Following:
    """The sink of one running attempt: keeps the record, the log and the display, and serves requests."""

    def __init__(  # the parts of an attempt
        self,
        *,
        journal: registry.Journal,
        plugins: Plugins,
        observers: Observers,
        events: EventReader,
        log: OutputLog,
        checkpoints: CheckpointWatch,
        view: View,
        admitted: Admitted,
        monitor_s: float,
        lock: int,
        home: Path,
        script: Script,
        stall_s: float | None = None,
        ends_at_ms: int | None = None,
    ) -> None:
        self._journal = journal
        self._plugins = plugins
        self._observers = observers
        self._events = events
        self._log = log
        self._checkpoints = checkpoints
        self._view = view
        self._admitted = admitted
        self._monitor_s = monitor_s
        self._lock = lock
        self._home = home
        self._script = script
        self._stall_s = stall_s
        self._ends_at_ms = ends_at_ms
        self._watch = Watch()
        self._monitor: Monitor | None = None
        self._next_sample_s = 0.0
        self._phase = ""
        self._deadline_s = 0.0
        self._started_s = 0.0
        self._quiet_since_s = 0.0
        self.tail = b""
        self._machine: Machine | None = admitted.machine
        self._reasons: dict[str, str] = dict(_CAUSES)
        self._paused_at_s: float | None = None
        self._pause_causes: dict[str, str] = {}
        self.stop_reasons: dict[str, str] = {}
        self.wake: Callable[[], None] = lambda: None

    @property
    def _record(self) -> RunRecord:
        return self._journal.record

    # --- what the supervisor reports ---

    def started(self, control: Control, keeper: int, pid: int, deadline_s: float) -> None:  # noqa: ARG002 - a sink
        self._control = control
        self._deadline_s = deadline_s
        self._started_s = self._quiet_since_s = now_s()
        self._name_keeper(keeper)
        self._monitor = Monitor(
            self._plugins,
            self._admitted.reader,
            [gpu.id for gpu in self._admitted.gpus],
            self._home,
            lambda pids: descendants_among(pids, keeper),
            patience_s=self._monitor_s,
        )
        if self._record.code is None:  # now, while the script starts: nothing waits for it
            self._journal.runs_code(code_of(self._script))
        self._observers.tell("backprop_run_started", run=self._record)

    def _name_keeper(self, keeper: int) -> None:
        """Leave word of the keeper where others look for it; the locks are held all the same."""
        try:
            holding.sign(self._lock, keeper, pipe=self._control.pipe)
            self._admitted.slot.update(pid=keeper)
        except StorageError as error:
            self._view.tell(f"{error.message}; the run goes on, unknown to `status` and to a later clean-up")

    def output(self, data: bytes) -> None:
        self._quiet_since_s = now_s()
        self.tail = (self.tail + data if len(data) < TAIL_BYTES else data)[-TAIL_BYTES:]
        self._log.write(data)
        self._view.output(data)
        self._take_in(self._events.feed(data))

    def is_behind(self) -> bool:
        if not self._view.is_behind():
            return False
        self._quiet_since_s = now_s()  # it is we who do not listen
        return True

    def paused(self, causes: Sequence[str]) -> None:
        """Take in what holds the script now; called again when a cause joins or leaves."""
        now_holding = {cause: self._reasons.get(cause, cause) for cause in causes}
        reason = "; ".join(now_holding.values())
        is_first = self._record.status is not RunState.PAUSED
        if not is_first and reason == self._record.reason:
            return
        self._pause_causes = now_holding if is_first else {**self._pause_causes, **now_holding}
        self._journal.paused("; ".join(self._pause_causes.values()), reason)
        self._view.tell(f"{'paused' if is_first else 'still paused'}: {reason}")
        if is_first:
            self._paused_at_s = now_s()
            self._observers.tell("backprop_run_paused", run=self._record, reason=reason)

    def continued(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        if self._record.status is not RunState.PAUSED:
            return
        self._quiet_since_s += now_s() - (self._paused_at_s or now_s())
        self._paused_at_s = None
        self._journal.continued()
        self._view.tell("continued")
        self._observers.tell("backprop_run_continued", run=self._record)

    def stopping(self, why: str, rung: str) -> None:
        steps = {"interrupt": "stopping", "terminate": "terminating", "kill": "killing"}
        self._phase = steps.get(rung, rung)
        if rung != "interrupt":
            self._view.tell(f"{self._phase} it: it did not end in time" if why else self._phase)
        if self._record.status is RunState.PAUSED:
            self.continued(self._deadline_s)

    def suspended(self) -> None:
        self._admitted.slot.close()  # the keeper has it, and may end the run while we stand still
        self._view.suspend()

    def resumed(self) -> None:
        self._view.resume()

    def tick(self) -> float:
        while intent := self._journal.asked():
            self._serve(intent)
        now = now_s()
        if self._monitor and now >= self._next_sample_s:
            self._next_sample_s = now + self._monitor_s
            self._monitor.begin(self._record, self.wake, is_calm=self._watch.is_calm)
        self._weigh_sample()
        self._take_in_found(self._checkpoints.look_if_due(self.wake))
        self._look_at_clocks(now)
        self.say_failures()
        self._view.show(
            Snapshot(
                record=self._record,
                deadline_s=self._deadline_s,
                machine=self._machine,
                phase=self._phase,
                started_s=self._started_s,
                paused_s=self._paused_at_s,
            )
        )
        return min(self._view.every_s, max(0.0, self._next_sample_s - now_s()))

    def end(self) -> None:
        """Take in what stands after the last line end, and say what was lost on the way."""
        self._take_in(self._events.end())
        self._take_in_found(self._checkpoints.last_look())
        if self._checkpoints.is_cut:
            self._view.tell(SEARCH_CUT_SHORT)
        if self._checkpoints.neighbour:
            self._view.tell(disputed_in_words(self._checkpoints.neighbour))
        if dropped := self._events.dropped_lines:
            self._view.tell(
                f"{dropped} line{'s were' if dropped > 1 else ' was'} too long to be read for progress"
            )
        if rejected := self._events.rejected:
            self._view.tell(
                f"{rejected} value{'s' * (rejected > 1)} that the script printed cannot be recorded and "
                f"{'were' if rejected > 1 else 'was'} left out: not finite, beyond 64 bits, or of another type"
            )
        if self._log.lost_bytes:
            self._view.tell(
                f"{self._log.lost_bytes} bytes of output are missing in {self._log.path}: {self._log.error}"
            )

    # --- what is done about it ---

    def _take_in(self, events: Sequence[Event]) -> None:
        if events:
            self._quiet_since_s = now_s()
            self._journal.events(events)
            if not isinstance(events, ProgressBatch):
                self._checkpoints.announced(event for event in events if isinstance(event, CheckpointSaved))
            self._observers.tell("backprop_run_events", run=self._record, events=events)

    def _take_in_found(self, found: Sequence[Known]) -> None:
        """Record checkpoints that lie on disk; a broken one is remembered in the ledger alone."""
        whole = [entry for entry in found if entry.problem is None]
        if not whole:
            return
        paths = dict.fromkeys([*self._record.checkpoints, *(entry.path for entry in whole)])
        self._quiet_since_s = now_s()
        self._journal.checkpoints(in_order(paths, self._checkpoints.ledger))
        events = tuple(CheckpointSaved(path=entry.path, step=entry.step) for entry in whole)
        self._observers.tell("backprop_run_events", run=self._record, events=events)

    def _serve(self, intent: Intent) -> None:
        match intent.kind:
            case "stop":
                self._control.stop("backprop stop")
            case "pause":
                self._control.pause(PERSON)
            case "unpause":
                self._control.release(PERSON)
            case "extend":
                self._extend(intent.minutes or 0.0)

    def _extend(self, minutes: float) -> None:
        if self._phase:
            self._view.tell("it is too late to extend the time box: the run is ending")
            return
        self._control.extend(minutes * 60)
        self._view.tell(f"the time box is extended by {minutes:g} minutes")

    def _look_at_clocks(self, now: float) -> None:
        """Stop a run that says nothing any more, and one whose end on the wall clock pauses have put off."""
        if self._phase or self.stop_reasons:
            return
        quiet_s = 0.0 if self._paused_at_s is not None else now - self._quiet_since_s
        if self._ends_at_ms is not None and now_ms() >= self._ends_at_ms + UNTIL_SLACK_MS:
            self._stop(UNTIL, "its last moment (--until) has come")
        elif self._stall_s is not None and quiet_s >= self._stall_s:
            self._stop(STALLED, f"stalled: no output for {self._stall_s / 60:g} minutes")

    def _stop(self, why: str, reason: str) -> None:
        self.stop_reasons[why] = reason
        self._view.tell(f"stopping: {reason}")
        self._control.stop(why)

    def _weigh_sample(self) -> None:
        if self._monitor is None:
            return
        if problem := self._monitor.news():
            self._view.tell(problem)
        if (sample := self._monitor.take()) is None:
            return
        self._machine = sample.machine
        decision = self._watch.judge(sample.answers, sample.at_s, is_repeat=sample.is_repeat)
        for text in decision.warnings:
            self._view.tell(text)
        for cause, reason in decision.pauses.items():
            self._reasons[cause] = reason
            self._control.pause(cause)
        for cause in decision.releases:
            self._control.release(cause)
        if decision.stop and not self.stop_reasons and not self._phase:
            self._stop(GOVERNOR, decision.stop)

    def say_failures(self) -> None:
        """Tell of each plugin's failure once."""
        for text in [str(failure) for failure in (*self._plugins.failures, *self._events.failures)]:
            if text not in self._plugins.told:
                self._plugins.told.add(text)
                self._view.tell(text)
