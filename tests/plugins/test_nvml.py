"""The nvml probe through the real pynvml, over a stub of NVIDIA's library that a script file describes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from stub_nvml.build import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NO_PERMISSION,
    RESET_REQUIRED,
    UNKNOWN,
    Call,
    StubGpu,
    StubNvml,
)

from backprop_builtin.gpu_probes.nvml import Nvml, backprop_gpu_probe
from backprop_core import Gpu, GpuProbe, ProbeError

StartReader = Callable[[str, Mapping[str, str]], Any]
UUIDS = tuple(f"GPU-0000000{number}-1111-2222-3333-444444444444" for number in range(1, 4))
H200 = {"name": "NVIDIA H200", "total": 143771, "free": 143166, "reserved": 604, "temp": 31, "util": 7}


def h200(number: int = 0, **changes: Any) -> StubGpu:
    return StubGpu(**{**H200, "uuid": UUIDS[number], "throttle": 0x1, "mig": 0, **changes})


def test_nvml_is_a_probe_that_is_asked_first() -> None:
    probe = backprop_gpu_probe()
    assert isinstance(probe, GpuProbe)
    assert (probe.name, probe.order) == ("nvml", 10)


def test_everything_nvml_tells_is_read(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(processes={4211: 10725}), h200(1, free=20000, temp=88, util=100, throttle=0x64))
    assert nvml.read() == [
        Gpu(
            index=0,
            uuid=UUIDS[0],
            name="NVIDIA H200",
            vram_total_mb=143771,
            vram_free_mb=143166,
            temp_c=31,
            utilization_pct=7,
            is_throttled_by_heat=False,
            process_vram_mb={4211: 10725},
        ),
        Gpu(
            index=1,
            uuid=UUIDS[1],
            name="NVIDIA H200",
            vram_total_mb=143771,
            vram_free_mb=20000,
            temp_c=88,
            utilization_pct=100,
            is_throttled_by_heat=True,
            process_vram_mb={},
        ),
    ]


def test_a_machine_without_gpus_is_read_as_such(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set()
    assert nvml.read() == []


def test_each_reading_is_fresh(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(temp=60))
    first = nvml.read()
    stub_nvml.set(h200(temp=61))
    assert [gpu.temp_c for gpu in first + nvml.read()] == [60, 61]


def test_a_slow_driver_delays_a_reading_and_spoils_nothing(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(calls=(Call(function="nvmlDeviceGetTemperature", hang_s=0.3),)))
    nvml.is_available()  # the process has started
    begin_s = time.monotonic()
    [gpu] = nvml.read()
    assert time.monotonic() - begin_s >= 0.3
    assert gpu.temp_c == 31


def test_what_a_card_does_not_tell_is_none(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(StubGpu(name="NVIDIA GeForce GT 730", total=2004, free=2004))
    assert nvml.read() == [
        Gpu(
            index=0,
            name="NVIDIA GeForce GT 730",
            vram_total_mb=2004,
            vram_free_mb=2004,
            process_vram_mb={},
        )
    ]


def test_a_call_that_fails_loses_its_own_field_alone(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(calls=(Call(function="nvmlDeviceGetTemperature", code=UNKNOWN),)), h200(1))
    broken, healthy = nvml.read()
    assert broken.temp_c is None
    assert (broken.vram_free_mb, broken.utilization_pct, broken.is_selectable) == (143166, 7, True)
    assert healthy.temp_c == 31


def test_old_drivers_tell_memory_by_version_1(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(calls=(Call(function="nvmlDeviceGetMemoryInfo_v2", code=FUNCTION_NOT_FOUND),)))
    [gpu] = nvml.read()
    assert (gpu.vram_total_mb, gpu.vram_free_mb, gpu.note) == (143771, 143166, None)


@pytest.mark.parametrize("memory", [{"total": None, "free": None}, {"total": 0, "free": 0}])
def test_a_gpu_without_memory_of_its_own_has_the_systems(
    memory: dict[str, Any], stub_nvml: StubNvml, nvml: Any
) -> None:
    stub_nvml.set(h200(name="NVIDIA GB10", **memory))
    [gpu] = nvml.read()
    assert gpu.vram_total_mb == pytest.approx(psutil.virtual_memory().total / 2**20)
    assert 0 < gpu.vram_free_mb < gpu.vram_total_mb
    assert gpu.is_selectable
    assert "system's memory" in gpu.note


def test_memory_that_may_not_be_read_is_unknown_not_the_systems(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(
        h200(), calls=[Call(function=f"nvmlDeviceGetMemoryInfo{v}", code=NO_PERMISSION) for v in ("", "_v2")]
    )
    [gpu] = nvml.read()
    assert (gpu.vram_total_mb, gpu.vram_free_mb) == (None, None)
    assert gpu.note == "memory is not told: Insufficient Permissions"


@pytest.mark.parametrize(
    ("reasons", "is_hot"),
    [(0x0, False), (0x4, False), (0x8, False), (0x80, False), (0x20, True), (0x48, True)],
)
def test_only_thermal_slowdown_counts_as_heat(
    reasons: int,
    is_hot: object,
    stub_nvml: StubNvml,
    nvml: Any,
) -> None:
    stub_nvml.set(h200(throttle=reasons))
    assert nvml.read()[0].is_throttled_by_heat == is_hot


@pytest.mark.parametrize("missing", ["Event", "Throttle"])
def test_slowdown_is_read_by_the_name_that_the_driver_knows(
    missing: str, stub_nvml: StubNvml, nvml: Any
) -> None:
    call = Call(function=f"nvmlDeviceGetCurrentClocks{missing}Reasons", code=FUNCTION_NOT_FOUND)
    stub_nvml.set(h200(throttle=0x40), calls=[call])
    assert nvml.read()[0].is_throttled_by_heat is True


def test_the_memory_of_processes_is_told_as_far_as_the_driver_tells_it(
    stub_nvml: StubNvml, nvml: Any
) -> None:
    stub_nvml.set(
        h200(processes={11: 500, 12: None}),
        h200(1, processes={13: None}),
        h200(2),
    )
    assert [gpu.process_vram_mb for gpu in nvml.read()] == [{11: 500}, None, {}]


@pytest.mark.parametrize(("missing", "told"), [(("_v3",), {11: 500}), (("_v3", "_v2"), None)])
def test_old_drivers_tell_processes_by_version_2_or_not_at_all(
    missing: tuple[str, ...], told: dict[int, float] | None, stub_nvml: StubNvml, nvml: Any
) -> None:
    calls = [
        Call(function=f"nvmlDeviceGetComputeRunningProcesses{version}", code=FUNCTION_NOT_FOUND)
        for version in missing
    ]
    stub_nvml.set(h200(processes={11: 500}), calls=calls)
    assert nvml.read()[0].process_vram_mb == told


def test_of_a_gpu_in_mig_mode_the_instances_are_for_use(stub_nvml: StubNvml, nvml: Any) -> None:
    large = StubGpu(
        uuid="MIG-large", name="NVIDIA H200 MIG 3g.71gb", total=71000, free=70000, processes={9: 900}
    )
    small = StubGpu(uuid="MIG-small", name="NVIDIA H200 MIG 1g.18gb", total=18000, free=17000)
    stub_nvml.set(h200(mig=1, temp=55, throttle=0x20, instances=(large, small)), h200(1))
    parent, *instances, other = nvml.read()
    assert (parent.is_selectable, parent.note, parent.uuid) == (False, "in MIG mode", UUIDS[0])
    assert [(gpu.index, gpu.uuid, gpu.name, gpu.vram_total_mb, gpu.vram_free_mb) for gpu in instances] == [
        (0, "MIG-large", large.name, 71000, 70000),
        (0, "MIG-small", small.name, 18000, 17000),
    ]
    assert all(gpu.is_selectable and gpu.temp_c == 55 and gpu.is_throttled_by_heat for gpu in instances)
    assert [gpu.process_vram_mb for gpu in instances] == [{9: 900}, {}]
    assert (other.index, other.is_selectable) == (1, True)


def test_an_instance_without_a_uuid_cannot_be_chosen(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(mig=1, instances=(StubGpu(name="NVIDIA H200 MIG 1g.18gb", total=18000, free=17000),)))
    assert [gpu.is_selectable for gpu in nvml.read()] == [False, False]


def test_an_instance_is_never_given_the_systems_memory(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(mig=1, instances=(StubGpu(uuid="MIG-1"), StubGpu(uuid="MIG-2", total=0, free=0))))
    assert [(gpu.vram_total_mb, gpu.note) for gpu in nvml.read()[1:]] == [
        (None, "memory is not told: Not Supported"),
        (None, "memory is not told: 0 MB"),
    ]


@pytest.mark.parametrize("code", [GPU_IS_LOST, RESET_REQUIRED])
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2", "*"])
def test_a_lost_gpu_is_listed_as_unreadable_beside_the_others(
    function: str, code: int, stub_nvml: StubNvml, nvml: Any
) -> None:
    stub_nvml.set(h200(calls=(Call(function=function, code=code),)), h200(1))
    lost, healthy = nvml.read()
    assert (lost.index, lost.is_selectable, lost.vram_free_mb) == (0, False, None)
    assert re.fullmatch("unreadable: GPU (is lost|requires re.*)", lost.note)
    assert healthy.vram_free_mb == 143166


def test_nvml_is_initialised_anew_after_a_gpu_was_lost(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(calls=(Call(function="nvmlDeviceGetTemperature", code=GPU_IS_LOST),)))
    lost = nvml.read()
    stub_nvml.set(h200())  # to which the stub holds on until it is initialised anew
    assert [gpu.is_selectable for gpu in lost + nvml.read()] == [False, True]


def test_a_gpu_that_may_not_be_opened_is_listed_and_not_chosen(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(calls=(Call(function="nvmlDeviceGetHandleByIndex_v2", code=NO_PERMISSION),)), h200(1))
    closed, open_ = nvml.read()
    assert (closed.is_selectable, closed.note) == (False, "unreadable: Insufficient Permissions")
    assert open_.is_selectable


def test_nvml_is_initialised_anew_within_the_reading_that_finds_it_closed(
    stub_nvml: StubNvml, nvml: Any
) -> None:
    stub_nvml.set(h200(), epoch=1)
    first = nvml.read()
    stub_nvml.set(h200(temp=32), epoch=2)
    assert [gpu.temp_c for gpu in first + nvml.read()] == [31, 32]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (4, "nvml: no permission: Insufficient Permissions"),
        (9, "nvml: driver not loaded: Driver Not Loaded"),
        (12, "nvml: library missing: NVML Shared Library Not Found"),
        (18, "nvml: version mismatch: RM has detected an NVML/RM version mismatch."),
        (999, "nvml: unknown failure: Unknown Error"),
    ],
)
def test_a_failed_start_is_named_and_tried_again(
    code: int, named: str, stub_nvml: StubNvml, nvml: Any
) -> None:
    stub_nvml.set(init=code)
    with pytest.raises(ProbeError, match=f"^{re.escape(named)}$"):
        nvml.read()
    stub_nvml.set(h200())
    assert nvml.read()[0].vram_free_mb == 143166


def test_a_failed_count_is_named(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(h200(), calls=[Call(function="nvmlDeviceGetCount_v2", code=UNKNOWN)])
    with pytest.raises(ProbeError, match="nvml: unknown failure: Unknown Error"):
        nvml.read()


def test_availability_is_told_without_starting_nvml(stub_nvml: StubNvml, nvml: Any) -> None:
    stub_nvml.set(init=UNKNOWN)
    assert nvml.is_available()


def test_a_library_that_does_not_load_makes_the_probe_unavailable(
    tmp_path: Path, start_reader: StartReader
) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    reader = start_reader("nvml", {"LD_LIBRARY_PATH": str(tmp_path)})
    assert not reader.is_available()
    with pytest.raises(ProbeError, match="nvml: library missing"):
        reader.read()


def test_a_process_is_confined_to_a_gpu_by_index_and_to_an_instance_by_uuid() -> None:
    probe = Nvml()
    assert probe.visible_devices(Gpu(index=3, uuid="GPU-1")) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "3",
    }
    assert probe.visible_devices(Gpu(index=3, uuid="MIG-1"))["CUDA_VISIBLE_DEVICES"] == "MIG-1"
    assert probe.visible_devices(Gpu(index=3))["CUDA_VISIBLE_DEVICES"] == "3"
