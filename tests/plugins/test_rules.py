"""The built-in rules, against measurements on both sides of every limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop_builtin.rules import cpu, disk, gpu_memory, gpu_temperature, ram
from backprop_core import (
    Gpu,
    Host,
    Limits,
    Machine,
    Passed,
    Pause,
    Refusal,
    RunRecord,
    RunRequest,
    RunState,
    Script,
    Stop,
    Warn,
)
from backprop_core.governor import Watch
from backprop_core.plugins import Answer, Plugins, PluginState
from backprop_core.settings import Settings, to_dict


def request(**limits: Any) -> RunRequest:
    return RunRequest(script=Script(path=Path("train.py")), limits=Limits(**limits))


def record(**settings: Any) -> RunRecord:
    return RunRecord(
        id="r",
        script_path="/x.py",
        status=RunState.RUNNING,
        start_time=1,
        settings={**to_dict(Settings()), **settings},
    )


def host(**measured: Any) -> Machine:
    return Machine(host=Host(**measured))


def gpus(*readings: Gpu, **more: Any) -> Machine:
    return Machine(host=Host(), gpus=readings, **more)


def gpu(index: int = 0, **reading: Any) -> Gpu:
    return Gpu(**{"index": index, "uuid": f"GPU-{index}", **reading})


def admit(rule: Any, machine: Machine, **limits: Any) -> Any:
    """Ask a rule as the core does, through the plugin manager."""
    plugins = Plugins()
    plugins.add(rule, PluginState(name="rule", state="active"))
    answers = plugins.ask("backprop_admit", request=request(**limits), machine=machine)
    assert plugins.failures == []
    return answers[0].value if answers else None


def kind(answer: Any) -> type[Any] | None:
    return None if answer is None else type(answer)


# RAM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "limits", "expected"),
    [
        (4.0, {}, Passed),
        (3.99, {}, Refusal),
        (3.99, {"min_free_ram_gb": 3.99}, Passed),
        (0.0, {}, Refusal),
        (None, {}, Refusal),
        (None, {"max_parallel": 1}, Warn),
    ],
)
def test_ram_must_be_free_and_what_is_unknown_is_not(
    free: float | None, limits: dict[str, Any], expected: type[Any]
) -> None:
    assert kind(admit(ram, host(ram_free_gb=free), **limits)) is expected


def test_a_refusal_names_what_was_measured_and_the_limit() -> None:
    assert admit(ram, host(ram_free_gb=1.26)).reason == "RAM: 1.3 GB available, 4 GB needed (minFreeRamGB)"
    assert (
        admit(cpu, host(cpu_load_per_core=1.512)).reason
        == "CPU: load 1.51 per core, 1.5 is the most (maxCpuLoad)"
    )
    assert "--max-parallel 1" in admit(ram, host()).reason
    assert "--max-parallel 1" in admit(cpu, host()).reason


@pytest.mark.parametrize(
    ("free", "total", "is_low"),
    [
        (0.26, 4.0, False),  # 256 MB where 2 % is less
        (0.24, 4.0, True),
        (1.29, 64.0, False),  # 2 % where that is more
        (1.27, 64.0, True),
        (None, 64.0, False),
        (0.0, None, False),
    ],
)
def test_ram_about_to_run_out_pauses_and_then_stops(
    free: float | None,
    total: float | None,
    is_low: bool,  # noqa: FBT001 - what is expected
) -> None:
    answer = ram.backprop_govern(machine=host(ram_free_gb=free, ram_total_gb=total))
    assert isinstance(answer, Pause) == is_low
    if answer is not None:
        assert (answer.samples, answer.stop_after_s, answer.starts) == (1, 30.0, True)


# CPU and disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "limits", "expected"),
    [
        (1.5, {}, Passed),
        (1.51, {}, Refusal),
        (1.51, {"max_cpu_load": 2.0}, Passed),
        (None, {}, Refusal),
        (None, {"max_parallel": 1}, Warn),
    ],
)
def test_load_must_be_low_and_what_is_unknown_is_not(
    load: float | None, limits: dict[str, Any], expected: type[Any]
) -> None:
    assert kind(admit(cpu, host(cpu_load_per_core=load), **limits)) is expected


@pytest.mark.parametrize(("free", "expected"), [(100.0, Passed), (99.9, Refusal), (None, None)])
def test_disk_must_have_room_unless_it_keeps_no_account(
    free: float | None, expected: type[Any] | None
) -> None:
    assert kind(admit(disk, Machine(host=Host(), disk_free_mb=free))) is expected


# GPU memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "limits", "expected"),
    [
        (gpu(vram_free_mb=2500), {}, Passed),
        (gpu(vram_free_mb=2499), {}, Refusal),
        (gpu(vram_free_mb=2499), {"gpu_min_vram_mb": 2000.0}, Passed),
        (gpu(vram_free_mb=8000), {"gpu_memory_limit": "8"}, Refusal),
        (gpu(vram_free_mb=8192), {"gpu_memory_limit": "8"}, Passed),
        (gpu(vram_free_mb=2499), {"gpu_memory_limit": "1"}, Refusal),
        (gpu(vram_free_mb=3000, vram_total_mb=8000), {"gpu_memory_limit": "100%"}, Passed),
        (gpu(), {}, Passed),
        (gpu(vram_free_mb=0, is_selectable=False), {}, None),
    ],
)
def test_gpu_memory_must_be_free_as_much_as_asked_for_or_the_absolute_limit(
    reading: Gpu, limits: dict[str, Any], expected: type[Any] | None
) -> None:
    assert kind(admit(gpu_memory, gpus(reading), **limits)) is expected


@pytest.mark.parametrize("rule", [gpu_memory, gpu_temperature])
def test_without_gpus_their_rules_say_nothing(rule: Any) -> None:
    assert admit(rule, gpus()) is None
    assert admit(rule, host()) is None


def test_only_the_gpus_that_are_short_are_objected_to() -> None:
    answer = admit(
        gpu_memory, gpus(gpu(0, vram_free_mb=10), gpu(1, vram_free_mb=9000), gpu(2), gpu(3, vram_free_mb=20))
    )
    assert answer == Refusal(
        "GPU memory: GPU 0 has 10 MB free, GPU 3 has 20 MB free, 2500 MB needed", gpus=("GPU-0", "GPU-3")
    )


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        (8192, "8", None),
        (8193, "8", Warn),
        (9011, "8", Warn),
        (9012, "8", Stop),
        (12_289, "50%", Warn),
        (13_600, "50%", Stop),
        (99_999, None, None),
        (None, "8", None),
    ],
)
def test_a_run_over_its_memory_limit_is_warned_and_ten_percent_over_stopped(
    used: float | None, limit: str | None, expected: type[Any] | None
) -> None:
    machine = gpus(gpu(vram_total_mb=24_576), run_vram_mb=used)
    answer = gpu_memory.backprop_govern(run=record(gpuMemoryLimit=limit), machine=machine)
    assert kind(answer) is expected
    assert answer is None or answer.samples == 3


@pytest.mark.parametrize(
    ("used", "layer", "expected"),
    [
        (2560, "allocator", Warn),  # 2 GB and a context
        (2561, "allocator", Stop),
        (2560, "import hook", Warn),
        (2560, "watched only", Stop),
        (2560, None, Stop),
    ],
)
def test_a_framework_that_holds_the_limit_itself_is_left_room_for_a_context(
    used: float, layer: str | None, expected: type[Any]
) -> None:
    run = msgspec.structs.replace(record(gpuMemoryLimit="2"), memory_layer=layer)
    machine = gpus(gpu(vram_total_mb=24_576), run_vram_mb=used)
    assert kind(gpu_memory.backprop_govern(run=run, machine=machine)) is expected


def test_the_limit_counts_for_each_gpu_and_a_share_of_an_unknown_total_is_not_watched() -> None:
    two = gpus(gpu(0, vram_total_mb=1000), gpu(1, vram_total_mb=3000), run_vram_mb=2001.0)
    assert kind(gpu_memory.backprop_govern(run=record(gpuMemoryLimit="50%"), machine=two)) is Warn
    assert gpu_memory.backprop_govern(run=record(gpuMemoryLimit="51%"), machine=two) is None
    unknown = gpus(gpu(0, vram_total_mb=1000), gpu(1), run_vram_mb=9999.0)
    assert gpu_memory.backprop_govern(run=record(gpuMemoryLimit="50%"), machine=unknown) is None
    assert gpu_memory.backprop_govern(run=record(gpuMemoryLimit="50%"), machine=host()) is None


# GPU temperature -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (gpu(temp_c=81.9), Passed),
        (gpu(temp_c=82), Warn),
        (gpu(temp_c=84.9), Warn),
        (gpu(temp_c=85), Refusal),
        (gpu(), Passed),
        (gpu(temp_c=40, is_throttled_by_heat=True), Refusal),
        (gpu(is_throttled_by_heat=True), Refusal),
        (gpu(temp_c=40, is_throttled_by_heat=False), Passed),
        (gpu(temp_c=99, is_selectable=False), None),
    ],
)
def test_a_hot_gpu_is_refused_a_warm_one_told_and_an_unknown_heat_no_objection(
    reading: Gpu, expected: type[Any] | None
) -> None:
    assert kind(admit(gpu_temperature, gpus(reading))) is expected


def test_only_the_gpus_that_are_hot_are_objected_to() -> None:
    answer = admit(
        gpu_temperature,
        gpus(gpu(0, temp_c=90), gpu(1, temp_c=84), gpu(2, temp_c=60, is_throttled_by_heat=True)),
    )
    assert answer == Refusal(
        "GPU temperature: GPU 0 is at 90 C, GPU 2 is at 60 C and slowed down by its driver, 85 C is the limit",
        gpus=("GPU-0", "GPU-2"),
    )


def watched(*temperatures: float | str | None, **settings: Any) -> list[str]:
    """What becomes of a run whose GPU is read so, every 2 s: each sample's number with what was decided.

    "hot" is the driver's own slowdown flag, "?" no reading at all.
    """
    watch, said = Watch(), []
    for number, temp in enumerate(temperatures):
        reading = gpu(temp_c=None if isinstance(temp, str) else temp, is_throttled_by_heat=temp == "hot")
        machine = Machine(host=Host(), gpus=None if temp == "?" else (reading,))
        value = gpu_temperature.backprop_govern(run=record(**settings), machine=machine)
        decision = watch.judge([Answer(plugin="heat", value=value)] if value else [], number * 2.0)
        said += [f"{number} pause"] * bool(decision.pauses) + [f"{number} continue"] * bool(decision.releases)
        assert decision.stop is None
    return said


def test_three_hot_samples_pause_until_it_has_cooled_down_by_the_margin() -> None:
    assert watched(85, 86, 85, 84, 80.1, 80, 80) == ["2 pause"], "10 s are not over"
    assert watched(85, 86, 85, 84, 83, 82, 81, 80.1, 80) == ["2 pause", "8 continue"]
    assert watched(85, 85, 84, 85, 85, 84) == []
    assert watched("hot", "hot", "hot", *[40] * 5) == ["2 pause", "7 continue"]
    assert watched(70, 70, 70, gpu={"maxTempC": 70}) == ["2 pause"]
    assert watched(70, 70, 70, *[66] * 6, 65, gpu={"maxTempC": 70, "cooldownC": 5}) == [
        "2 pause",
        "9 continue",
    ]


def test_an_unknown_temperature_begins_no_pause_and_no_reading_ends_none() -> None:
    assert watched(*[None] * 9) == []
    assert watched(*["?"] * 9) == []
    assert watched(90, 90, 90, *["?"] * 20) == ["2 pause"]
