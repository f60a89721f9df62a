"""Letting a run start: measure, decide and reserve under one lock, or refuse, or wait for one's turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from .clock import now_s
from .errors import ProbeError, RefusedError
from .governor import Finding, Verdict, judge, ranked, reserved_vram_mb, visible_gpus
from .identity import descendants_among
from .interfaces import GpuProbe
from .machine import ProbeReader, choose_probe, measure
from .plugins import Plugins
from .records import Gpu, Machine, Record, RunRequest
from .settings import Settings
from .slots import GpuReservation, Holder, Slot, Slots, after_reservations, host_folder

LOOK_EVERY_S = 2.0
LOOK_SOON_S = 0.25  # after a slot was freed, whose GPU memory the driver may give back a moment later
HOW_TO_GET_IN = "wait for room with --wait MINUTES, or start anyway with --force"


def is_about_turn(reasons: Sequence[str]) -> bool:
    """Tell whether nothing but other runs, that have a slot or came first, stands in the way."""
    return all(reason.startswith(("slots:", "queue:")) for reason in reasons)


class Admitted(Record, frozen=True):
    """A run that may start: its slot, its GPUs (best first), and the probe to watch them with."""

    slot: Slot
    gpus: tuple[Gpu, ...]
    reader: ProbeReader | None
    machine: Machine
    warnings: tuple[str, ...] = ()


class Weighed(Record, frozen=True):
    """A verdict, with what it was based on; `held` names the slots in use, and who holds them."""

    verdict: Verdict
    machine: Machine
    held: Mapping[str, Holder]


class Admission:
    """The door of this machine for one run."""

    def __init__(  # what the decision is made of
        self,
        request: RunRequest,
        settings: Settings,
        plugins: Plugins,
        home: Path,
        environ: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self._request = request
        self._settings = settings
        self._plugins = plugins
        self._home = home
        self._environ = environ
        self._tell = tell
        self._probe_error: str | None = None
        self._reader: ProbeReader | None = None
        self._readers: dict[str, ProbeReader] = {}
        self._refused: tuple[str, ...] = ()
        self.slots = Slots(host_folder(home))

    @property
    def probe(self) -> GpuProbe | None:
        """The probe that was chosen at the first look."""
        return self._reader.probe if self._reader else None

    def look(self) -> Weighed:
        """Measure and judge without taking anything, for --dry-run and `status`."""
        return self._weigh(self._gpus())

    def try_now(self, *, force: bool = False, may_pass_queue: bool = False) -> Admitted:
        """Take a slot and GPUs if nothing objects.

        :param force: Start in spite of objections; the slot is then taken beyond the limit.
        :param may_pass_queue: For the run whose turn it is.
        :raises RefusedError: with every reason.
        """
        gpus = self._gpus()
        with self.slots.lock():
            weighed = self._weigh(gpus, may_pass_queue=may_pass_queue)
            reasons = list(weighed.verdict.reasons)
            chosen = () if reasons and not force else self.choose(weighed, reasons)
            if not reasons or force:
                most = 1_000_000 if force else self._settings.max_parallel
                reservations = [self._reservation(gpu, gpus or ()) for gpu in chosen]
                run_id, name = self._request.run_id, self._request.name
                slot = self.slots.take(run_id, name, most, reservations, weighed.held)
                if slot is not None:
                    return self._admitted(slot, chosen, weighed, reasons)
                reasons.append(self._slots_finding(weighed.held.values()).reason)
        self._refused = tuple(reasons)
        raise RefusedError(reasons, HOW_TO_GET_IN)

    def wait(
        self, limit_s: float, show: Callable[[Sequence[str], int, int], None], check: Callable[[], None]
    ) -> Admitted:
        """Queue in order of arrival and start when it is this run's turn and nothing objects.

        :param show: Called with the reasons, the place in the queue and its length, when they change.
        :param check: Called a few times a second; what it raises ends the wait.
        :raises RefusedError: when the time is over, with the last reasons.
        """
        end_s = now_s() + limit_s
        look_s = LOOK_EVERY_S
        reason = "; ".join(self._refused) or None
        ticket = self.slots.join(self._request.run_id, self._request.name, reason)
        try:
            while now_s() < end_s:
                before = self.slots.snapshot()
                place = ticket.place()
                if place == 1:
                    with suppress(RefusedError):
                        return self.try_now(may_pass_queue=True)
                show(self._why(place), place, len(self.slots.waiting()))
                is_changed = self._sleep(before, min(look_s, end_s - now_s()), check)
                look_s = LOOK_SOON_S if is_changed else min(2 * look_s, LOOK_EVERY_S)
        finally:
            ticket.leave()
        reasons = [f"waited {limit_s / 60:g} minutes in vain", *self._refused]
        raise RefusedError(reasons, "give it longer with --wait MINUTES, or start anyway with --force")

    def _why(self, place: int) -> tuple[str, ...]:
        """What stood in the way at the last look; who is not first does not look."""
        before = (f"queue: {place - 1} before this run",) if place > 1 else ()
        return (*before, *(reason for reason in self._refused if not reason.startswith("queue:")))

    def _sleep(self, before: frozenset[str], limit_s: float, check: Callable[[], None]) -> bool:
        """Sleep until a slot or a place in the queue changes hands; False when none did in time."""
        end_s = now_s() + limit_s
        while now_s() < end_s:
            check()
            if self.slots.wait_for_change(min(0.5, end_s - now_s()), before):
                return True
        return False

    def _gpus(self) -> tuple[Gpu, ...] | None:
        """Read the GPUs; None when nothing looks at GPUs. A probe that fails is a reason to refuse."""
        self._probe_error = None
        try:
            if self._reader is None:
                self._reader, read = choose_probe(
                    self._plugins, self._settings.gpu.probe, self._tell, self._readers
                )
            else:
                read = self._reader.read()
        except ProbeError as error:
            self._probe_error = error.message
            return None
        return None if self._reader.probe.name == "none" else visible_gpus(read, self._environ)

    def _weigh(self, gpus: Sequence[Gpu] | None, *, may_pass_queue: bool = False) -> Weighed:
        held = self.slots.held()
        holders = tuple(held.values())
        pids = {pid for gpu in gpus or () for pid in gpu.process_vram_mb or ()}
        trees = {
            holder.run_id: descendants_among(pids, holder.pid)
            for holder in holders
            if holder.pid and holder.gpus
        }
        free = None if gpus is None else after_reservations(gpus, holders, trees)
        machine = measure(free, self._home)
        answers = self._plugins.ask("backprop_admit", request=self._request, machine=machine)
        others = [self._slots_finding(holders)]
        if not may_pass_queue and (waiting := self.slots.waiting()):
            text = f"queue: {len(waiting)} waiting before this run (first: {waiting[0].run_id})"
            others.append(Finding(kind="refused", reason=text))
        if self._probe_error:
            others.append(Finding(kind="refused", reason=self._probe_error))
        # The newest plugin answers first; read from top to bottom, Backprop's own rules come first.
        verdict = judge(self._request.limits, machine, answers[::-1], others)
        return Weighed(verdict=verdict, machine=machine, held=held)

    def _slots_finding(self, held: Collection[Holder]) -> Finding:
        names = ", ".join(holder.name or holder.run_id for holder in islice(held, 4))
        most = self._settings.max_parallel
        text = f"slots: {len(held)} of {most} in use{f' ({names})' if held else ''}, maxParallel is the limit"
        return Finding(kind="refused" if len(held) >= most else "passed", reason=text)

    def choose(self, weighed: Weighed, reasons: list[str] | None = None) -> tuple[Gpu, ...]:
        """Take as many GPUs as wanted, best first; plugins may put another one first.

        :param reasons: Is given what a plugin's failure amounts to.
        """
        reasons = [] if reasons is None else reasons
        candidates = weighed.verdict.gpus or ranked(weighed.machine.gpus or ())
        for answer in self._plugins.ask("backprop_select_gpu", request=self._request, gpus=candidates):
            if answer.failure or answer.value not in candidates:
                failure = answer.failure or self._plugins.failure(
                    answer.plugin, "backprop_select_gpu", "its GPU is not among the candidates"
                )
                reasons.append(str(failure))
            else:
                candidates = (answer.value, *(gpu for gpu in candidates if gpu is not answer.value))
            break
        wanted = self._request.limits.gpus
        return candidates if wanted == "all" else candidates[:wanted]

    def _reservation(self, gpu: Gpu, measured: Sequence[Gpu]) -> GpuReservation:
        free = next((other.vram_free_mb for other in measured if other.id == gpu.id), None)
        reserved = reserved_vram_mb(self._request.limits, gpu)
        return GpuReservation(uuid=gpu.uuid, index=gpu.index, reserved_mb=reserved, baseline_free_mb=free)

    def _admitted(
        self, slot: Slot, gpus: tuple[Gpu, ...], weighed: Weighed, forced: Sequence[str]
    ) -> Admitted:
        warnings = (*weighed.verdict.warnings, *(f"in spite of {reason}" for reason in forced))
        return Admitted(slot=slot, gpus=gpus, reader=self._reader, machine=weighed.machine, warnings=warnings)
