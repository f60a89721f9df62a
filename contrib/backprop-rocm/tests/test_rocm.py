"""AMD GPUs as amd-smi and rocm-smi tell of them, through programs that print what those do."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import backprop_rocm.asking
from backprop_core import Gpu, GpuProbe, ProbeError
from backprop_core.testing import GpuProbeContract, Project, wait_for
from backprop_rocm import Rocm

NEW = [
    {
        "gpu": 0,
        "usage": {"gfx_activity": {"value": 12, "unit": "%"}, "umc_activity": {"value": 3, "unit": "%"}},
        "temperature": {
            "edge": "N/A",
            "hotspot": {"value": 61, "unit": "C"},
            "mem": {"value": 55, "unit": "C"},
        },
        "mem_usage": {
            "total_vram": {"value": 65520, "unit": "MB"},
            "used_vram": {"value": 1520, "unit": "MB"},
            "free_vram": {"value": 64000, "unit": "MB"},
        },
    },
    {
        "gpu": 1,
        "usage": "N/A",
        "temperature": {"edge": 40, "hotspot": "N/A"},
        "mem_usage": {"total_vram": 65520, "used_vram": 65000},
    },
]
STATIC = [
    {"gpu": 0, "asic": {"market_name": "AMD Instinct MI210", "asic_serial": "0x18F68E602B8A790F"}},
    {"gpu": 1, "asic": {"market_name": "N/A", "asic_serial": "0x01"}},
]
CARDS = {
    "card0": {
        "Temperature (Sensor edge) (C)": "45.0",
        "Temperature (Sensor junction) (C)": "61.0",
        "GPU use (%)": "7",
        "VRAM Total Memory (B)": "21458059264",
        "VRAM Total Used Memory (B)": "1073741824",
        "Card Series": "Radeon RX 7900 XT",
        "Unique ID": "0x6a3f4b1c2d5e7f80",
    },
    "card1": {"VRAM Total Memory (B)": "0", "VRAM Total Used Memory (B)": "N/A", "card series": "N/A"},
    "system": {"Driver version": "6.7"},
}
READINGS = [
    Gpu(
        index=0,
        uuid="GPU-18f68e602b8a790f",
        name="AMD Instinct MI210",
        vram_total_mb=65520,
        vram_free_mb=64000,
        temp_c=61,
        utilization_pct=12,
    ),
    Gpu(index=1, uuid="GPU-0000000000000001", vram_total_mb=65520, vram_free_mb=520, temp_c=40),
]

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a program that prints a text for each first argument, "" standing for any other, and put it on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def made(tool: str, answers: dict[str, Any], code: int = 0) -> Path:
        cases = "".join(
            f"  {word or '*'}) printf '%s\\n' {shlex.quote(text if isinstance(text, str) else json.dumps(text))} ;;\n"
            for word, text in answers.items()
        )
        program = folder / tool
        program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\nexit {code}\n')
        program.chmod(0o755)
        return program

    return made


class TestContract(GpuProbeContract):
    @pytest.fixture
    def probe(self, install: Install) -> GpuProbe:
        install("amd-smi", {"metric": NEW, "static": STATIC})
        return Rocm()

    @pytest.fixture
    def broken_probe(self, install: Install) -> GpuProbe:
        install("amd-smi", {"": "ERROR: amdgpu driver is not loaded"}, code=255)
        return Rocm()


class TestContractThroughRocmSmi(GpuProbeContract):
    @pytest.fixture
    def probe(self, install: Install) -> GpuProbe:
        install("rocm-smi", {"": CARDS})
        return Rocm()


@pytest.mark.parametrize("metrics", [NEW, {"gpu_data": NEW}], ids=["bare list", "gpu_data"])
@pytest.mark.parametrize("static", [STATIC, {"gpu_data": STATIC}], ids=["bare list", "gpu_data"])
def test_both_dialects_of_amd_smi_tell_the_same(install: Install, metrics: Any, static: Any) -> None:
    install("amd-smi", {"metric": metrics, "static": static})
    assert list(Rocm().read()) == READINGS


def test_amounts_may_be_numbers_texts_or_objects_in_any_unit(install: Install) -> None:
    memory = {"total_vram": {"value": "16", "unit": "GB"}, "used_vram": {"value": 1024, "unit": "KB"}}
    install("amd-smi", {"metric": [{"gpu": 3, "mem_usage": memory, "temperature": {"edge": "38.5"}}]})
    assert list(Rocm().read()) == [Gpu(index=3, vram_total_mb=16384, vram_free_mb=16383, temp_c=38.5)]


def test_what_is_unknown_is_none_and_never_zero(install: Install) -> None:
    told = {
        "gpu": 0,
        "usage": None,
        "temperature": "N/A",
        "mem_usage": {"total_vram": "N/A", "used_vram": -1},
    }
    install("amd-smi", {"metric": [told], "static": "no JSON"})
    assert list(Rocm().read()) == [Gpu(index=0)]


def test_warnings_before_the_json_are_passed_over(install: Install) -> None:
    text = "WARNING: User is missing the following required groups: render\n[note]\n" + json.dumps(
        NEW, indent=4
    )
    install("amd-smi", {"metric": text, "static": STATIC})
    assert list(Rocm().read()) == READINGS


def test_rocm_smi_is_read_with_its_texts_for_numbers(install: Install) -> None:
    install("rocm-smi", {"": CARDS})
    assert list(Rocm().read()) == [
        Gpu(
            index=0,
            uuid="GPU-6a3f4b1c2d5e7f80",
            name="Radeon RX 7900 XT",
            vram_total_mb=21458059264 / 2**20,
            vram_free_mb=(21458059264 - 1073741824) / 2**20,
            temp_c=61,
            utilization_pct=7,
        ),
        Gpu(index=1),
    ]


def test_rocm_smi_is_asked_where_amd_smi_fails(install: Install) -> None:
    install("amd-smi", {"": "amd-smi: cannot load libamd_smi.so"}, code=1)
    install("rocm-smi", {"": CARDS})
    assert [gpu.name for gpu in Rocm().read()] == ["Radeon RX 7900 XT", None]


def test_without_a_driver_the_sentence_with_exit_code_0_is_the_failure(install: Install) -> None:
    install(
        "rocm-smi",
        {
            "": "cat: /sys/module/amdgpu/initstate: No such file or directory\nERROR:root:Driver not initialized"
        },
    )
    with pytest.raises(ProbeError, match="rocm-smi: cat: /sys/module/amdgpu/initstate"):
        Rocm().read()


@pytest.mark.parametrize("answer", ["[]", '{"gpu_data": []}', '{"gpu_data": 5}', "[1, null]", "{}"])
def test_no_gpu_is_a_failure_that_is_told(install: Install, answer: str) -> None:
    install("amd-smi", {"": answer})
    with pytest.raises(ProbeError, match="amd-smi: it lists no GPU"):
        Rocm().read()


@pytest.mark.parametrize(
    "answer", ["[" * 100_000, '{"gpu_data": [', "[NaN]", '[{"gpu": 0, "mem_usage": {"total_vram": 1e999}}]']
)
def test_nonsense_is_survived(install: Install, answer: str) -> None:
    install("amd-smi", {"": answer})
    with suppress(ProbeError):
        assert list(Rocm().read()) == [Gpu(index=0)]


def test_program_that_hangs_is_ended_with_what_it_started(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = install("amd-smi", {})
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path / 'child'}\nwait\n")
    monkeypatch.setattr(backprop_rocm.asking, "LIMIT_S", 2.0)
    with pytest.raises(ProbeError, match=r"did not answer within 2 s"):
        Rocm().read()
    status = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    wait_for(
        lambda: not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z", "its end"
    )


@pytest.mark.parametrize("place", ["folder", "file"])
def test_program_that_others_may_write_is_not_run(install: Install, tmp_path: Path, place: str) -> None:
    program = install("amd-smi", {"metric": NEW})
    (program.parent if place == "folder" else program).chmod(0o777)
    assert not Rocm().is_available()
    with pytest.raises(ProbeError, match="neither amd-smi nor rocm-smi"):
        Rocm().read()


def test_relative_entries_of_path_are_not_looked_into(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(install("amd-smi", {"metric": NEW}).parent)
    monkeypatch.setenv("PATH", ":.:")
    assert not Rocm().is_available()


@pytest.mark.parametrize(
    ("environment", "selectable", "variables"),
    [
        ({}, [True, True], {"ROCR_VISIBLE_DEVICES": "1"}),
        ({"ROCR_VISIBLE_DEVICES": "1"}, [False, True], {"ROCR_VISIBLE_DEVICES": "1"}),
        ({"ROCR_VISIBLE_DEVICES": "GPU-18f68e602b8a790f, 7"}, [True, False], {"ROCR_VISIBLE_DEVICES": "1"}),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, [True, True], {"HIP_VISIBLE_DEVICES": "1"}),
        (
            {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0"},
            [False, False],
            {"ROCR_VISIBLE_DEVICES": "1"},
        ),
        ({"ROCR_VISIBLE_DEVICES": ""}, [False, False], {"ROCR_VISIBLE_DEVICES": "1"}),
    ],
)
def test_list_in_the_environment_is_what_is_chosen_from_and_narrowed(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    selectable: list[bool],
    variables: dict[str, str],
) -> None:
    install("amd-smi", {"metric": NEW, "static": STATIC})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    gpus = Rocm().read()
    assert [gpu.is_selectable for gpu in gpus] == selectable
    assert all(gpu.note for gpu in gpus if not gpu.is_selectable)
    assert Rocm().visible_devices(gpus[1]) == variables


def test_run_is_confined_to_the_gpu_with_the_most_free_memory(install: Install, backprop: Project) -> None:
    install("amd-smi", {"metric": {"gpu_data": list(reversed(NEW))}, "static": STATIC})
    backprop.env |= {"PATH": os.environ["PATH"], "BACKPROP_GPU_PROBE": "auto"}
    backprop.write("train.py", "import os; print(os.environ['ROCR_VISIBLE_DEVICES'])")
    done = backprop.run("run", "train.py", "--python", sys.executable)
    assert (done.code, done.out) == (0, "0\n"), done.err
    assert backprop.run("status", "--json").json["probe"] == "rocm"
    assert backprop.record()["gpu"]["name"] == "AMD Instinct MI210"


def test_hot_gpu_is_refused_with_its_temperature(install: Install, backprop: Project) -> None:
    hot = [{**NEW[0], "temperature": {"hotspot": {"value": 97, "unit": "C"}}}]
    install("amd-smi", {"metric": hot})
    backprop.env |= {"PATH": os.environ["PATH"], "BACKPROP_GPU_PROBE": "rocm"}
    backprop.write("train.py", "")
    done = backprop.run("run", "train.py")
    assert done.code == 75
    assert "97" in done.err
