"""Reading probes that are slow, hang, fail or come back, off the main thread and without being fooled by old news."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from fake_plugins import bring, plugins_with
from kit import wait_for

from backprop_core import Gpu, Pause, ProbeError
from backprop_core import machine as machine_module
from backprop_core.governor import Watch
from backprop_core.machine import Monitor, ProbeReader, Sample, choose_probe
from backprop_core.plugins import Answer, Plugins
from backprop_core.records import RunRecord
from backprop_core.states import RunState

RECORD = RunRecord(id="r", script_path="train.py", status=RunState.RUNNING, start_time=0)


class SlowProbe:
    """Reads one GPU that gets a degree hotter with each reading, once the gate is open."""

    name = "slow"
    order = 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked = self.readings = 0
        self.trouble: str | None = None

    def is_available(self) -> bool:
        return True

    def read(self) -> Sequence[Gpu]:
        self.asked += 1
        self.gate.wait(10)
        self.readings += 1
        if self.trouble:
            raise ProbeError(self.trouble)
        return [Gpu(index=0, uuid="GPU-1", temp_c=float(self.readings)), Gpu(index=1, temp_c=99.0)]

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        return {}


@pytest.fixture
def probe() -> Iterator[SlowProbe]:
    made = SlowProbe()
    yield made
    made.gate.set()


@pytest.fixture
def sample(probe: SlowProbe, tmp_path: Path) -> Callable[[], Sample]:
    """Take a sample and wait for it."""
    monitor = Monitor(Plugins(), ProbeReader(probe), ["GPU-1"], tmp_path, list, patience_s=0.2)

    def take() -> Sample:
        there = threading.Event()
        monitor.begin(RECORD, there.set)
        assert there.wait(10)
        taken = monitor.take()
        assert taken
        return taken

    return take


def temperatures(sample: Sample) -> list[float | None] | None:
    return None if sample.machine.gpus is None else [gpu.temp_c for gpu in sample.machine.gpus]


def test_each_sample_has_a_reading_of_its_own_and_of_the_runs_gpus_alone(
    sample: Callable[[], Sample],
) -> None:
    taken = [sample() for _ in range(3)]
    assert [temperatures(one) for one in taken] == [[1.0], [2.0], [3.0]]
    assert not any(one.is_repeat for one in taken)


def test_a_slow_probe_holds_no_sample_up_for_long_and_its_last_reading_is_used_again(
    probe: SlowProbe, sample: Callable[[], Sample]
) -> None:
    sample()
    probe.gate.clear()
    began = time.monotonic()
    repeated = [sample() for _ in range(3)]
    assert time.monotonic() - began < 1  # the first of them waits, the others know better
    assert [(temperatures(one), one.is_repeat) for one in repeated] == [([1.0], True)] * 3
    probe.gate.set()
    wait_for(lambda: probe.readings == 2, "the slow reading", 10)

    def fresh() -> list[float | None] | None:
        taken = sample()
        return None if taken.is_repeat else temperatures(taken)

    assert wait_for(fresh, "it to be used", 10) == [2.0]


def test_a_reading_that_fails_leaves_the_last_good_one_until_that_is_stale(
    probe: SlowProbe, sample: Callable[[], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample()
    probe.trouble = "driver gone"
    failed = sample()
    assert (temperatures(failed), failed.is_repeat) == ([1.0], True)
    monkeypatch.setattr(machine_module, "READ_LIMIT_S", 0.0)
    assert temperatures(sample()) is None


def test_what_is_wrong_with_a_probe_is_told_once(probe: SlowProbe, tmp_path: Path) -> None:
    probe.trouble = "driver gone"
    monitor = Monitor(Plugins(), ProbeReader(probe), ["GPU-1"], tmp_path, list)
    said = []
    for _ in range(3):
        there = threading.Event()
        monitor.begin(RECORD, there.set)
        assert there.wait(10)
        assert monitor.take()
        said.append(monitor.news())
    assert said == ["slow: driver gone", None, None]


def test_a_reader_whose_probe_hung_works_again_when_the_probe_does(probe: SlowProbe) -> None:
    reader = ProbeReader(probe)
    probe.gate.clear()
    with pytest.raises(ProbeError, match="slow did not answer within"):
        reader.read(0.1)
    began = time.monotonic()
    with pytest.raises(ProbeError):
        reader.read(10)
    assert time.monotonic() - began < 1, "a probe known to hang is waited for again"
    probe.gate.set()
    wait_for(lambda: probe.readings == 1, "the late answer", 10)

    def read_again() -> Sequence[Gpu]:
        try:
            return reader.read()
        except ProbeError:
            return ()

    assert wait_for(read_again, "the reader", 10)[0].temp_c == 2.0  # not the late one, which is old


def test_a_probe_that_hangs_is_asked_no_second_time_by_who_waits(
    probe: SlowProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = Plugins()
    monkeypatch.setattr(plugins, "parts", lambda *_: [probe])
    monkeypatch.setattr(ProbeReader.read, "__defaults__", (0.1,))
    probe.gate.clear()
    readers: dict[str, ProbeReader] = {}
    for _ in range(3):
        with pytest.raises(ProbeError):
            choose_probe(plugins, "slow", print, readers)
    assert probe.asked == 1


def test_a_repeated_reading_is_no_further_sample_for_the_watch() -> None:
    hot = [Answer(plugin="heat", value=Pause("95 C", samples=3))]
    watch = Watch()
    assert not watch.judge(hot, 0.0).pauses
    assert not watch.judge(hot, 1.0, is_repeat=True).pauses
    assert not watch.judge(hot, 2.0, is_repeat=True).pauses
    assert not watch.judge(hot, 3.0).pauses
    assert watch.judge(hot, 4.0).pauses == {"heat": "95 C"}


def test_a_rule_that_hangs_is_named_and_the_others_go_on_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "READ_LIMIT_S", 0.3)
    gate = threading.Event()
    asked: list[str] = []

    def hang() -> Pause:
        asked.append("hanging")
        gate.wait(10)
        return Pause("at last")

    plugins = plugins_with(backprop_govern=lambda: Pause("hot"))
    bring(plugins, "hanging", backprop_govern=hang)
    monitor = Monitor(plugins, None, [], tmp_path, list)
    samples: list[Sample] = []

    def has_sample() -> bool:
        monitor.begin(RECORD, lambda: None)
        assert monitor.news() is None
        if taken := monitor.take():
            samples.append(taken)
        return len(samples) == 3

    wait_for(has_sample, "three samples")
    gate.set()
    assert asked == ["hanging"]
    (failure,) = plugins.failures
    assert str(failure) == (
        "plugin hanging (/hanging.py) failed in backprop_govern: "
        "it did not answer within 0.3 s, and is not asked again"
    )
    values = [[answer.value for answer in sample.answers if not answer.failure] for sample in samples]
    assert values == [[Pause("hot")]] * 3


@pytest.mark.parametrize(
    ("answer", "is_calm", "wakes"),
    [(None, True, False), (None, False, True), (Pause("hot"), True, True)],
)
def test_nobody_is_woken_for_a_sample_that_changes_nothing(
    tmp_path: Path, answer: Pause | None, *, is_calm: bool, wakes: bool
) -> None:
    monitor = Monitor(plugins_with(backprop_govern=lambda: answer), None, [], tmp_path, list)
    first, second = threading.Event(), threading.Event()
    for woken in (first, second):
        monitor.begin(RECORD, woken.set, is_calm=is_calm)
        wait_for(monitor.take, "the sample")
    assert first.is_set() is wakes  # one thread takes both, and is done with the first


def test_a_watch_is_calm_again_only_when_nothing_counts_and_nothing_holds() -> None:
    hot = [Answer(plugin="heat", value=Pause("95 C", samples=2, at_least_s=5.0))]
    watch = Watch()
    assert watch.is_calm
    watch.judge(hot, 0.0)
    assert not watch.is_calm
    watch.judge((), 1.0)
    assert watch.is_calm
    for now_s in (2.0, 3.0):
        watch.judge(hot, now_s)
    assert not watch.judge((), 4.0).releases
    assert not watch.is_calm, "the pause is not over"
    assert watch.judge((), 9.0).releases == {"heat"}
    assert watch.is_calm
