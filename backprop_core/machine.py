"""Measuring the machine: the host, and the GPUs through the probe that was chosen."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from .answers import are_variables
from .clock import now_s
from .errors import ProbeError
from .host import disk_free_mb, read_host
from .interfaces import GpuProbe, named
from .plugins import Answer, Plugins, guarded
from .records import Gpu, Machine, Record, RunRecord

READ_LIMIT_S = 10.0
LONGEST_PATIENCE_S = 5.0


class Worker:
    """Does one job at a time on a thread of its own, so that a plugin that hangs delays nothing.

    A job that does not end leaves the thread behind; no other is begun before it has.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[], None]]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy_since_s: float | None = None

    def begin(self, job: Callable[[], Any], then: Callable[[], None]) -> bool:
        """Begin a job, unless one is going on; `then` is called on the thread when its result is there.

        :returns: False when one is going on, or its result was not taken yet.
        """
        if self.busy_since_s is not None:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"backprop-{self._name}", daemon=True)
            self._thread.start()
        self.busy_since_s = now_s()
        self._jobs.put((job, then))
        return True

    def take(self) -> Any | None:
        """Return the result of the job that has ended since, or None."""
        try:
            result = self._results.get_nowait()
        except queue.Empty:
            return None
        self.busy_since_s = None
        return result

    def is_late(self) -> bool:
        """Tell whether the job takes longer than a reading may."""
        return self.busy_since_s is not None and now_s() - self.busy_since_s > READ_LIMIT_S

    def _work(self) -> None:
        while True:
            job, then = self._jobs.get()
            self._results.put(job())
            then()


class Reading(Record, frozen=True):
    """What a probe read, or why it could not."""

    gpus: tuple[Gpu, ...] | None = None
    error: str | None = None
    taken_at: float = 0.0


class ProbeReader:
    """Reads a probe off the main thread; `latest` is the last reading that came."""

    def __init__(self, probe: GpuProbe) -> None:
        self.probe = probe
        self.latest = Reading()
        self._worker = Worker("probe")

    def begin(self, then: Callable[[], None]) -> bool:
        """Begin a reading; False when one is going on."""
        return self._worker.begin(self._read_now, then)

    def take(self) -> Reading | None:
        """Return the reading that has come since, or why there is none in time; None while there is no news."""
        if reading := self._worker.take():
            self.latest = reading
            return self.latest
        if self._worker.is_late():
            return Reading(
                error=f"{self.probe.name} did not answer within {READ_LIMIT_S:g} s", taken_at=now_s()
            )
        return None

    def read(self, limit_s: float = READ_LIMIT_S) -> tuple[Gpu, ...]:
        """Read once and wait for it; a probe that still hangs since an earlier reading is not waited for.

        :raises ProbeError: when the probe cannot read, or did not answer in time.
        """
        self.take()  # an answer that came too late for who asked
        there = threading.Event()
        has_begun = self.begin(there.set)
        reading = self.take() if has_begun and there.wait(limit_s) else None
        if reading is None:
            raise ProbeError(f"{self.probe.name} did not answer within {limit_s:g} s")
        if reading.gpus is None:
            raise ProbeError(reading.error or f"{self.probe.name} cannot read")
        return reading.gpus

    def _read_now(self) -> Reading:
        gpus, failure = guarded(self.probe.name, "read", _read_checked, self.probe)
        if failure is None:
            return Reading(gpus=gpus, taken_at=now_s())
        name, error = self.probe.name, failure.error
        return Reading(error=error if error.startswith(name) else f"{name}: {error}", taken_at=now_s())


def _read_checked(probe: GpuProbe) -> tuple[Gpu, ...]:
    """Read, and hold what a plugin's probe answers to its types before anybody calculates with it."""
    found: object = probe.read()
    gpus = cast("Sequence[object]", found) if isinstance(found, Sequence) else None
    if gpus is None or isinstance(gpus, str | bytes) or not all(isinstance(item, Gpu) for item in gpus):
        raise ProbeError(f"the probe answered {type(found).__name__}, not GPUs")
    try:
        return tuple(msgspec.convert([msgspec.structs.asdict(cast("Gpu", gpu)) for gpu in gpus], list[Gpu]))
    except msgspec.ValidationError as error:
        raise ProbeError(f"the probe answered GPUs of wrong types: {error}") from error


def measure(gpus: Sequence[Gpu] | None, folder: Path) -> Machine:
    """Measure the host now and put it together with a reading of the GPUs."""
    return Machine(
        host=read_host(),
        gpus=None if gpus is None else tuple(gpus),
        taken_at=now_s(),
        disk_free_mb=disk_free_mb(folder),
    )


class Sample(Record, frozen=True):
    """One look at the machine during a run, and what the rules say to it.

    `is_repeat` is set where the GPUs are as they were read for an earlier sample.
    """

    machine: Machine
    answers: tuple[Answer, ...]
    at_s: float
    is_repeat: bool = False


class Monitor:
    """Looks at the machine during a run and asks the rules, off the main thread.

    The host is measured afresh for every sample. The GPUs are, too, unless their probe is slow: then the last
    reading that came is used again, until it is stale and nothing is known of them.

    :param gpu_ids: The run's own GPUs; () where there is no `reader`.
    :param pick_own: Picks out of some pids those of the run's processes.
    :param patience_s: How long a sample waits for the probe; less than a reading may take.
    """

    def __init__(  # the parts of a sample
        self,
        plugins: Plugins,
        reader: ProbeReader | None,
        gpu_ids: Collection[str],
        folder: Path,
        pick_own: Callable[[Collection[int]], Collection[int]],
        patience_s: float = LONGEST_PATIENCE_S,
    ) -> None:
        self._plugins = plugins
        self._reader = reader
        self._gpu_ids = frozenset(gpu_ids)
        self._folder = folder
        self._pick_own = pick_own
        self._patience_s = min(patience_s, LONGEST_PATIENCE_S)
        self._worker = Worker("monitor")
        self._asked: tuple[str, float] | None = None
        self._good = Reading()
        self._is_silent = False
        self._problem: str | None = None
        self._said: set[str] = set()

    def begin(self, record: RunRecord, wake: Callable[[], None], *, is_calm: bool = False) -> None:
        """Begin a sample, unless one is going on.

        :param wake: Called on another thread when the sample is there; not where `is_calm`, and no rule says
            anything: then it can wait for the next look.
        """
        worker = self._worker
        worker.begin(
            lambda: self._sample(record, worker), lambda: None if is_calm and self._is_silent else wake()
        )

    def take(self) -> Sample | None:
        """Return the sample that has come since, or None."""
        sample: Sample | None = self._worker.take()
        return sample

    def news(self) -> str | None:
        """Say what is wrong with the measuring, each thing once."""
        asked = self._asked
        if asked and now_s() - asked[1] > READ_LIMIT_S:
            self._give_up(asked[0])
        if self._problem is None or self._problem in self._said:
            return None
        self._said.add(self._problem)
        return self._problem

    def _give_up(self, plugin: str) -> None:
        """Leave the thread to the rule that holds it, and go on with the other rules on a new one."""
        error = f"it did not answer within {READ_LIMIT_S:g} s, and is not asked again"
        self._plugins.give_up(self._plugins.failure(plugin, "backprop_govern", error))
        self._asked = None
        self._worker = Worker("monitor")

    def _sample(self, record: RunRecord, worker: Worker) -> Sample:
        def is_asked(plugin: str) -> bool:
            is_current = worker is self._worker
            if is_current:
                self._asked = (plugin, now_s())
            return is_current

        is_repeat = self._reader is not None and bool(self._gpu_ids) and not self._read_anew(self._reader)
        machine = measure(self._own_gpus(), self._folder)
        machine = msgspec.structs.replace(machine, run_vram_mb=self._run_vram_mb(machine.gpus or ()))
        answers = self._plugins.ask("backprop_govern", is_asked, run=record, machine=machine)
        if worker is self._worker:
            self._asked = None
            self._is_silent = not answers
        return Sample(machine=machine, answers=tuple(answers), at_s=now_s(), is_repeat=is_repeat)

    def _read_anew(self, reader: ProbeReader) -> bool:
        """Have the GPUs read; False when no new reading has come in a little while."""
        reading = reader.take()  # that was slower than the sample before this one
        there = threading.Event()
        if reading is None and reader.begin(there.set) and there.wait(self._patience_s):
            reading = reader.take()
        self._problem = reading.error if reading else None
        if reading is None or reading.gpus is None:
            return False
        self._good = reading
        return True

    def _own_gpus(self) -> tuple[Gpu, ...] | None:
        if not self._gpu_ids:
            return ()
        if self._good.gpus is None or now_s() - self._good.taken_at > READ_LIMIT_S:
            return None
        return tuple(gpu for gpu in self._good.gpus if gpu.id in self._gpu_ids)

    def _run_vram_mb(self, gpus: Sequence[Gpu]) -> float | None:
        tables = [gpu.process_vram_mb for gpu in gpus if gpu.process_vram_mb is not None]
        if not tables:
            return None
        own = self._pick_own({pid for table in tables for pid in table})
        return sum(table.get(pid, 0.0) for table in tables for pid in own)


def choose_probe(
    plugins: Plugins,
    wanted: str,
    tell: Callable[[str], None],
    readers: dict[str, ProbeReader] | None = None,
) -> tuple[ProbeReader, tuple[Gpu, ...]]:
    """Choose the GPU probe and take its first reading.

    :param wanted: A probe's name, or "auto" for the first by order that works; one that fails or hangs
        at its first reading is passed over, aloud.
    :param readers: Those of earlier choices, by name; a probe that hangs is then asked no second time.
    :raises UsageError: for a name that is not installed.
    :raises ProbeError: when a probe that was asked for by name does not work.
    """
    readers = {} if readers is None else readers
    if known := readers.get(wanted):
        return known, known.read()
    probes = sorted(plugins.parts("backprop_gpu_probe"), key=lambda probe: probe.order)
    if wanted != "auto":
        # Read even where it calls itself unavailable: that says why.
        probe = named(probes, wanted, "GPU probe", "gpu.probe")
        reader = readers[wanted] = ProbeReader(probe)
        return reader, reader.read()
    for probe in probes:
        available, failure = guarded(probe.name, "is_available", probe.is_available)
        if failure:
            plugins.note(failure)
        if not available:
            continue
        reader = readers.setdefault(probe.name, ProbeReader(probe))
        try:
            return reader, reader.read()
        except ProbeError as error:
            origin = plugins.origin(probe)
            tell(f"passing over the GPU probe {error.message}" + (f"; {origin}" if origin else ""))
    raise ProbeError("no GPU probe works here", "is the built-in probe `none` blocked?")


def visible_devices(probe: GpuProbe, gpus: Sequence[Gpu], origin: str | None = None) -> Mapping[str, str]:
    """Return the environment that confines a process to these GPUs, in this order.

    :param origin: Which plugin brought the probe, in words; None for one of Backprop's own.
    :raises ProbeError: when the probe fails: no run may see the GPUs of others because of that.
    """
    joined: dict[str, str] = {}
    for gpu in gpus:
        answer, failure = guarded(probe.name, "visible_devices", probe.visible_devices, gpu)
        if failure or not are_variables(answer):
            raise ProbeError(str(failure or f"{probe.name}: visible_devices answered no variables"), origin)
        for name, value in answer.items():
            is_list = name.endswith("_DEVICES") and name in joined
            joined[name] = f"{joined[name]},{value}" if is_list else value
    return joined
