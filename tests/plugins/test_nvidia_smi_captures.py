"""What NVIDIA's nvidia-smi prints, in tests/fixtures/nvidia-smi, and what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from backprop_builtin.gpu_probes.nvidia_smi import (
    NvidiaSmi,
    parse_instance_memory,
    parse_instances,
    parse_list,
    parse_processes,
    parse_rows,
    to_gpu,
)
from backprop_core import Gpu, ProbeError
from backprop_core.testing import FakeNvidiaSmi

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nvidia-smi"
UUID = "GPU-00000001-1111-2222-3333-444444444444"
SECOND_UUID = "GPU-00000002-1111-2222-3333-444444444444"
STD = (
    "index,uuid,memory.total,memory.used,memory.free,memory.reserved,temperature.gpu,utilization.gpu,power.draw,"
    "compute_mode,mig.mode.current,clocks_throttle_reasons.active,name"
)
LOST = "GPU is lost.  Reboot the system to recover this GPU"


def gpu(total: float | None, free: float | None, temp: float, name: str, **more: Any) -> Gpu:
    usual: dict[str, Any] = {"index": 0, "uuid": UUID, "utilization_pct": 0, "is_throttled_by_heat": False}
    return Gpu(vram_total_mb=total, vram_free_mb=free, temp_c=temp, name=name, **{**usual, **more})


READINGS: dict[str, Sequence[Gpu]] = {
    "h200_single_idle": [gpu(143771, 143166, 31, "NVIDIA H200")],
    "rtx4090_dual": [
        gpu(24564, 2096, 72, "NVIDIA GeForce RTX 4090", utilization_pct=99),
        gpu(24564, 23794, 41, "NVIDIA GeForce RTX 4090", utilization_pct=3, index=1, uuid=SECOND_UUID),
    ],
    "rtx3080_hot_throttled": [
        gpu(10240, 963, 90, "NVIDIA GeForce RTX 3080", utilization_pct=100, is_throttled_by_heat=True)
    ],
    "gtx1080_reserved_present": [gpu(8192, 7807, 44, "NVIDIA GeForce GTX 1080")],
    "gt730_most_na": [
        gpu(2004, 2004, 44, "NVIDIA GeForce GT 730", utilization_pct=None, is_throttled_by_heat=None)
    ],
    "a100_mig_container_noperm": [
        gpu(
            None,
            None,
            33,
            "NVIDIA A100-SXM4-40GB",
            utilization_pct=None,
            is_selectable=False,
            note="in MIG mode",
        )
    ],
    "fan_power_unknown_error": [gpu(8192, 8027, 48, "NVIDIA GeForce RTX 3080 Laptop GPU")],
    "gpu_requires_reset_cell": [
        Gpu(
            index=0,
            uuid=UUID,
            name="NVIDIA A100-SXM4-80GB",
            is_selectable=False,
            note="unreadable: GPU requires reset",
        )
    ],
    "name_with_comma": [gpu(8192, 7992, 40, "ACME GPU, rev 2")],
    "smi535_std": [gpu(81920, 81315, 30, "NVIDIA A100-SXM4-80GB")],
    "n1x_underreport": [
        gpu(
            8128,
            7929,
            41,
            "NVIDIA RTX Spark N1X",
            utilization_pct=3,
            uuid="GPU-11111111-2222-3333-4444-555555555555",
        )
    ],
    "old_driver_not_supported": [
        gpu(
            2004,
            2004,
            44,
            "GeForce GT 730",
            utilization_pct=None,
            is_throttled_by_heat=None,
            uuid="GPU-09cb2925-9d01-5ca4-810b-6cdebe86b71a",
        )
    ],
    "empty": [],
}
FAILURES = {
    "err_driver_not_loaded": (9, "driver not loaded: NVIDIA-SMI has failed because"),
    "err_library_not_found": (12, "library missing: NVIDIA-SMI couldn't find libnvidia-ml.so library"),
    "err_version_mismatch": (
        18,
        "version mismatch: Failed to initialize NVML: Driver/library version mismatch",
    ),
    "err_no_permission": (4, "no permission: Failed to initialize NVML: Insufficient Permissions"),
    "err_mismatch_smi_nvml": (255, "unknown failure: Mismatch in versions between nvidia-smi and NVML."),
    "err_bad_field": (2, 'bad field: Field "bogus" is not a valid field to query.'),
    "err_bad_format": (2, "bad field: Format modifier is not recognized."),
    "err_bad_option": (255, "unknown failure: ERROR: Option --bogus is not recognized."),
}
LOST_GPUS = {
    "err_gpu_lost": (15, LOST),
    "err_gpu_lost_old": (15, LOST),
    "err_gpu_handle_unknown": (255, "Unknown Error"),
}
NO_GPUS = {"err_no_devices": 6, "err_bad_id": 6}
OTHER_TESTS = {
    "err_no_devices_L",
    "jetson_orin_nvgpu",
    "list_gpus",
    "list_gpus_lost",
    "list_gpus_mig",
    "loop_stream_2x2",
    "mig_instances_xml",
    "query_compute_apps",
    "with_header_renamed",
    "with_units",
}


def printed(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text()


def readings(name: str, fields: str = STD) -> list[Gpu]:
    return [to_gpu(row) for row in parse_rows(printed(name), fields.split(","))]


def test_every_capture_is_held_against_what_it_should_mean() -> None:
    tested = READINGS.keys() | FAILURES.keys() | LOST_GPUS.keys() | NO_GPUS.keys() | OTHER_TESTS
    assert {path.stem for path in FIXTURES.glob("*.txt")} == tested


@pytest.mark.parametrize("name", READINGS)
def test_rows_become_readings(name: str) -> None:
    assert readings(name) == READINGS[name]


def test_units_behind_numbers_do_no_harm() -> None:
    fields = "index,memory.total,memory.free,temperature.gpu,utilization.gpu,power.draw,name"
    assert [
        (gpu.index, gpu.vram_total_mb, gpu.vram_free_mb, gpu.temp_c, gpu.utilization_pct, gpu.name)
        for gpu in readings("with_units", fields)
    ] == [
        (0, 81920, 81315, 30, 0, "NVIDIA A100-SXM4-80GB"),
        (1, 81920, 11320, 60, 97, "NVIDIA A100-SXM4-80GB"),
    ]


def test_a_header_is_no_reading_and_columns_go_by_position() -> None:
    [row] = parse_rows(
        printed("with_header_renamed"), ["index", "memory.free", "clocks_throttle_reasons.active", "name"]
    )
    assert row["clocks_throttle_reasons.active"] == "0x0000000000000001"
    assert row["memory.free"] == "81315"


def test_rows_of_a_stream_are_read_one_by_one() -> None:
    rows = parse_rows(printed("loop_stream_2x2"), ["timestamp", "index", "memory.free"])
    assert [(row["index"], row["memory.free"]) for row in rows] == [
        ("0", "143166"),
        ("1", "134167"),
    ] * 2


@pytest.mark.parametrize(
    "capture", [printed("jetson_orin_nvgpu"), printed("smi535_std").replace("81920", "0")]
)
def test_a_gpu_without_memory_of_its_own_has_the_systems(capture: str) -> None:
    [row] = parse_rows(capture, STD.split(","))
    unified = to_gpu(row)
    assert unified.vram_total_mb == pytest.approx(psutil.virtual_memory().total / 2**20)
    assert 0 < (unified.vram_free_mb or 0) < (unified.vram_total_mb or 0)
    assert unified.is_selectable
    assert "system's memory" in (unified.note or "")


def test_memory_that_may_not_be_read_is_unknown_not_the_systems() -> None:
    [row] = parse_rows(printed("a100_mig_container_noperm").replace("Enabled", "Disabled"), STD.split(","))
    closed = to_gpu(row)
    assert (closed.vram_total_mb, closed.vram_free_mb) == (None, None)
    assert closed.note == "memory is not told: Insufficient Permissions"


def test_a_gpu_in_mig_mode_is_never_given_the_systems_memory() -> None:
    capture = printed("a100_mig_container_noperm").replace("[Insufficient Permissions]", "[N/A]")
    [row] = parse_rows(capture, STD.split(","))
    assert (to_gpu(row).vram_total_mb, to_gpu(row).note) == (None, "in MIG mode")


def test_free_memory_is_reckoned_where_only_the_used_is_told() -> None:
    [row] = parse_rows(
        "0, 24000, 1000, [Unknown Error]", ["index", "memory.total", "memory.used", "memory.free"]
    )
    assert to_gpu(row).vram_free_mb == 23000


def test_the_list_tells_which_gpus_can_be_asked() -> None:
    assert parse_list(printed("list_gpus")) == [(0, None), (1, None)]
    assert parse_list(printed("list_gpus_mig")) == [(0, None)]
    assert parse_list(printed("list_gpus_lost")) == [(0, LOST), (1, None)]
    assert parse_list(printed("err_no_devices_L")) == []
    by_place_on_the_bus = printed("list_gpus").splitlines()[0] + "\n" + printed("err_gpu_handle_unknown")
    assert parse_list(by_place_on_the_bus) == [(0, None), (1, "Unknown Error")]


def test_the_list_and_the_xml_tell_of_mig_instances() -> None:
    assert parse_instances(printed("list_gpus_mig"), 0) == [
        ("3g.20gb", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"),
        ("2g.10gb", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"),
    ]
    assert parse_instances(printed("list_gpus_mig"), 1) == []
    assert parse_instance_memory(printed("mig_instances_xml")) == [(20096, 20085), (9984, 9980)]


def test_a_process_counts_as_far_as_its_memory_is_told() -> None:
    assert parse_processes(printed("query_compute_apps")) == {UUID: {4211: 10725}}
    assert parse_processes(f"{UUID}, 4388, [N/A]\n{SECOND_UUID}, [Unknown Error], 7\n") == {
        UUID: None,
        SECOND_UUID: None,
    }


@pytest.mark.parametrize("name", FAILURES)
def test_errors_are_named_by_the_exit_code(name: str, fake_nvidia_smi: FakeNvidiaSmi) -> None:
    code, named = FAILURES[name]
    fake_nvidia_smi.fail(code, printed(name))
    with pytest.raises(ProbeError, match=f"^nvidia-smi: {re.escape(named)}") as caught:
        NvidiaSmi().read()
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", LOST_GPUS)
def test_the_only_gpu_that_is_lost_is_listed_as_unreadable(name: str, fake_nvidia_smi: FakeNvidiaSmi) -> None:
    code, why = LOST_GPUS[name]
    fake_nvidia_smi.fail(code, printed(name))
    assert NvidiaSmi().read() == (Gpu(index=0, is_selectable=False, note=f"unreadable: {why}"),)


@pytest.mark.parametrize("name", NO_GPUS)
def test_a_machine_without_gpus_is_no_failure(name: str, fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.fail(NO_GPUS[name], printed(name))
    assert NvidiaSmi().read() == ()


def test_an_empty_answer_is_a_machine_without_gpus(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.fail(0, printed("empty"))
    assert NvidiaSmi().read() == ()
