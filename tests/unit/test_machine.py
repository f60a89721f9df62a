"""Probes are chosen, read with a limit and held to their word; rules are asked off the main thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from fake_plugins import bring, plugins_with
from kit import wait_for

from backprop_core import machine
from backprop_core.errors import ExitCode, ProbeError, UsageError
from backprop_core.interfaces import named
from backprop_core.machine import (
    Monitor,
    ProbeReader,
    Sample,
    Worker,
    choose_probe,
    measure,
    visible_devices,
)
from backprop_core.plugins import Plugins
from backprop_core.records import Gpu, Pause, RunRecord
from backprop_core.states import RunState

LIMIT_S = 10.0
RUN = RunRecord(id="r", script_path="/x.py", status=RunState.RUNNING, start_time=1)


def nothing() -> None:
    pass


def fail(error: BaseException) -> Callable[[], Any]:
    def raising() -> Any:
        raise error

    return raising


def gpu(**reading: Any) -> Gpu:
    """A reading, of the right types or not."""
    return Gpu(**reading)


class Probe:
    """A probe that does as it is told."""

    def __init__(
        self,
        name: str = "probe",
        order: int = 10,
        read: Callable[[], Any] = lambda: [Gpu(index=0)],
        is_available: Callable[[], Any] = lambda: True,
    ) -> None:
        self.name = name
        self.order = order
        self.read = read
        self.is_available = is_available

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": gpu.id, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs waits for it; opened at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def probes(*found: Probe) -> Plugins:
    return plugins_with(backprop_gpu_probe=lambda: list(found))


# The worker ------------------------------------------------------------------------------------


def test_a_worker_does_a_job_on_its_own_thread_and_tells_when_it_is_done() -> None:
    worker, done = Worker("test"), threading.Event()
    assert worker.take() is None
    assert worker.begin(threading.current_thread, done.set)
    assert done.wait(LIMIT_S)
    thread = worker.take()
    assert thread is not threading.current_thread()
    assert worker.take() is None
    assert worker.begin(threading.current_thread, nothing)
    assert wait_for(worker.take, "the second job") is thread, "one thread for all jobs"


def test_no_other_job_is_begun_while_one_is_going_on_or_its_result_not_taken(gate: threading.Event) -> None:
    worker, done = Worker("test"), threading.Event()
    worker.begin(lambda: gate.wait(LIMIT_S), done.set)
    assert not worker.begin(lambda: "second", nothing)
    gate.set()
    assert done.wait(LIMIT_S)
    assert not worker.begin(lambda: "third", nothing)
    assert worker.take() is True
    assert worker.begin(lambda: "fourth", nothing)
    assert wait_for(worker.take, "the fourth") == "fourth"


def test_a_job_that_takes_too_long_is_late_until_its_result_is_taken(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, done = Worker("test"), threading.Event()
    worker.begin(lambda: gate.wait(LIMIT_S), done.set)
    assert not worker.is_late()
    monkeypatch.setattr(machine, "now_s", lambda: time.monotonic() + machine.READ_LIMIT_S + 1)
    assert worker.is_late()
    gate.set()
    assert done.wait(LIMIT_S)
    worker.take()
    assert not worker.is_late()


# Reading a probe -------------------------------------------------------------------------------


def test_a_reading_is_taken_off_the_main_thread() -> None:
    threads = []

    def read() -> Sequence[Gpu]:
        threads.append(threading.current_thread())
        return (Gpu(index=1, process_vram_mb=MappingProxyType({7: 1.5})),)

    assert ProbeReader(Probe(read=read)).read() == (Gpu(index=1, process_vram_mb={7: 1.5}),)
    assert threads != [threading.current_thread()]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (fail(ProbeError("driver mismatch")), "probe: driver mismatch"),
        (fail(ProbeError("probe says no")), "probe says no"),
        (fail(ValueError("x")), "probe: ValueError: x"),
        (fail(SystemExit(3)), "probe: SystemExit: 3"),
        (lambda: None, "probe: the probe answered NoneType, not GPUs"),
        (lambda: "GPU", "probe: the probe answered str, not GPUs"),
        (lambda: [{"index": 0}], "probe: the probe answered list, not GPUs"),
        (lambda: (one for one in [Gpu(index=0)]), "probe: the probe answered generator, not GPUs"),
        (
            lambda: [gpu(index=0), gpu(index=1, temp_c="hot")],
            "wrong types: Expected `float | null`, got `str`",
        ),
        (lambda: [gpu(index=None)], "wrong types: Expected `int`, got `null`"),
        (lambda: [gpu(index=0, process_vram_mb={1: None})], "wrong types: Expected `float`, got `null`"),
    ],
)
def test_a_probe_that_fails_or_answers_something_else_is_a_probe_error_that_names_it(
    read: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ProbeError) as caught:
        ProbeReader(Probe(read=read)).read()
    assert message in caught.value.message
    assert caught.value.message.startswith("probe")
    assert caught.value.exit_code == ExitCode.REFUSED


def test_a_probe_that_hangs_is_given_up_and_not_waited_for_again_until_it_answers(
    gate: threading.Event,
) -> None:
    reads: list[int] = []

    def read() -> Sequence[Gpu]:
        reads.append(1)
        gate.wait(LIMIT_S)
        return [Gpu(index=len(reads))]

    reader = ProbeReader(Probe(read=read))
    with pytest.raises(ProbeError, match=r"probe did not answer within 0\.05 s"):
        reader.read(0.05)
    began_s = time.monotonic()
    with pytest.raises(ProbeError):
        reader.read(LIMIT_S)
    assert time.monotonic() - began_s < LIMIT_S / 2
    assert len(reads) == 1
    gate.set()

    def recovered() -> tuple[Gpu, ...]:
        try:
            return reader.read(LIMIT_S)
        except ProbeError:
            return ()

    assert wait_for(recovered, "the probe to be read again") == (Gpu(index=2),)


# Choosing a probe ------------------------------------------------------------------------------


def test_auto_takes_the_first_by_order_that_works_and_passes_over_the_others_aloud() -> None:
    told: list[str] = []
    plugins = probes(
        Probe("last", 30),
        Probe("works", 20, read=lambda: [Gpu(index=7)]),
        Probe("breaks", 5, read=fail(ProbeError("no driver"))),
        Probe("absent", 1, is_available=lambda: False),
        Probe("raises", 2, is_available=fail(ValueError("odd"))),
    )
    reader, gpus = choose_probe(plugins, "auto", told.append)
    assert (reader.probe.name, gpus) == ("works", (Gpu(index=7),))
    assert list(map(str, plugins.failures)) == [
        "plugin raises (/one.py) failed in is_available: ValueError: odd"
    ]
    assert told == ["passing over the GPU probe breaks: no driver; it is brought by plugin one (/one.py)"]


def test_auto_passes_over_a_probe_that_hangs(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ProbeReader.read
    monkeypatch.setattr(ProbeReader, "read", lambda self, _=None: original(self, 0.05))
    told: list[str] = []
    plugins = probes(Probe("hangs", 1, read=lambda: gate.wait(LIMIT_S)), Probe("works", 2))
    reader, _ = choose_probe(plugins, "auto", told.append)
    assert reader.probe.name == "works"
    assert told == [
        "passing over the GPU probe hangs did not answer within 0.05 s; it is brought by plugin one (/one.py)"
    ]


def test_when_none_works_that_is_a_probe_error() -> None:
    with pytest.raises(ProbeError, match="no GPU probe works here"):
        choose_probe(probes(), "auto", print)


def test_one_asked_for_by_name_is_read_or_says_why_not() -> None:
    plugins = probes(Probe("first", 1), Probe("second", 2, is_available=lambda: False))
    assert choose_probe(plugins, "second", print)[0].probe.name == "second"
    broken = probes(Probe("first", 1), Probe("second", 2, read=fail(ProbeError("no driver"))))
    with pytest.raises(ProbeError, match="second: no driver"):
        choose_probe(broken, "second", print)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("nvlm", 'did you mean "nvml"? installed: none, nvml'), ("amd", "installed: none, nvml")],
)
def test_one_that_is_not_installed_is_a_usage_error_with_the_closest(wanted: str, hint: str) -> None:
    with pytest.raises(
        UsageError, match=rf'no GPU probe named "{wanted}" is installed \(gpu.probe\)'
    ) as caught:
        choose_probe(probes(Probe("nvml"), Probe("none")), wanted, print)
    assert caught.value.hint == hint
    with pytest.raises(UsageError) as caught:
        named([], "x", "launcher", "launcher")
    assert caught.value.hint == "installed: none"


def test_a_probe_that_lacks_a_method_is_a_failure_of_its_plugin() -> None:
    class Half:
        name, order = "half", 1

    plugins = probes(Probe("whole"))
    bring(plugins, "wrong", backprop_gpu_probe=lambda: Half())  # noqa: PLW0108 - a hook is a function
    assert choose_probe(plugins, "auto", print)[0].probe.name == "whole"
    assert [failure.plugin for failure in plugins.failures] == ["wrong"]


# What confines a run to its GPUs ---------------------------------------------------------------


def test_several_gpus_are_listed_in_their_order_and_other_variables_set_once() -> None:
    two = [Gpu(index=1, uuid="GPU-b"), Gpu(index=0, uuid="GPU-a")]
    assert visible_devices(Probe(), two) == {
        "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert visible_devices(Probe(), []) == {}


@pytest.mark.parametrize("answer", [fail(ValueError("x")), lambda: None, lambda: ["A"]])
def test_a_probe_that_cannot_confine_a_run_refuses_it(
    answer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe()
    monkeypatch.setattr(probe, "visible_devices", lambda _: answer())
    with pytest.raises(ProbeError, match="visible_devices"):
        visible_devices(probe, [Gpu(index=0)])


# Measuring and watching ------------------------------------------------------------------------


def test_a_measurement_has_the_host_the_gpus_and_the_disk(tmp_path: Path) -> None:
    now = time.monotonic()
    measured = measure([Gpu(index=1)], tmp_path / "not" / "there" / "yet")
    assert measured.gpus == (Gpu(index=1),)
    assert measured.host.cpu_count
    assert measured.disk_free_mb is not None
    assert now <= measured.taken_at <= time.monotonic()
    assert measure(None, tmp_path).gpus is None


def watch(plugins: Plugins, folder: Path, gpus: Sequence[Gpu] = (), **more: Any) -> Monitor:
    reader = ProbeReader(Probe(read=lambda: gpus)) if gpus else None
    return Monitor(plugins, reader, [gpu.id for gpu in gpus[:2]], folder, more.pop("pick_own", list), **more)


def sample_of(monitor: Monitor) -> Sample:
    sample = wait_for(monitor.take, "a sample")
    assert sample is not None
    return sample


def test_a_sample_asks_every_rule_about_the_runs_own_gpus_and_what_it_holds_there(tmp_path: Path) -> None:
    plugins = plugins_with(backprop_govern=lambda run, machine: Pause(f"{run.id} {machine.run_vram_mb:g}"))
    bring(plugins, "fails", backprop_govern=lambda: 1 // 0)
    gpus = [
        Gpu(index=0, process_vram_mb={1: 100.0, 2: 10.0}),
        Gpu(index=1, process_vram_mb={2: 1.0}),
        Gpu(index=2, process_vram_mb={1: 9999.0}),
    ]
    monitor = watch(plugins, tmp_path, gpus, pick_own=lambda pids: pids)
    woken = threading.Event()
    monitor.begin(RUN, woken.set)
    assert woken.wait(LIMIT_S)
    sample = monitor.take()
    assert sample is not None
    assert [gpu.index for gpu in sample.machine.gpus or ()] == [0, 1]
    assert [answer.value for answer in sample.answers if not answer.failure] == [Pause("r 111")]
    assert [failure.plugin for failure in plugins.failures] == ["fails"]
    assert monitor.news() is None


def test_a_driver_that_tells_no_processes_leaves_what_the_run_holds_unknown(tmp_path: Path) -> None:
    monitor = watch(Plugins(), tmp_path, [Gpu(index=0)], pick_own=list)
    monitor.begin(RUN, nothing)
    assert sample_of(monitor).machine.run_vram_mb is None
    without = watch(Plugins(), tmp_path)
    without.begin(RUN, nothing)
    assert sample_of(without).machine.gpus == ()


def test_a_rule_that_hangs_delays_nobody_and_is_told_once(
    gate: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def hang() -> None:
        asked.set()
        gate.wait(LIMIT_S)

    plugins = plugins_with(backprop_govern=hang)
    monitor = watch(plugins, tmp_path)
    monitor.begin(RUN, nothing)
    assert monitor.take() is None
    assert asked.wait(LIMIT_S)
    assert (monitor.news(), plugins.failures) == (None, [])
    monkeypatch.setattr(machine, "now_s", lambda: time.monotonic() + machine.READ_LIMIT_S + 1)
    for _ in range(2):
        assert monitor.news() is None
    (failure,) = plugins.failures
    assert failure.error == "it did not answer within 10 s, and is not asked again"
    monitor.begin(RUN, nothing)
    (answer,) = sample_of(monitor).answers
    assert answer.failure == failure
