"""NVIDIA's own nvidia-smi over the stub of its library: both probes must see the same machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stub_nvml.build import (
    GPU_IS_LOST,
    NO_PERMISSION,
    RESET_REQUIRED,
    Call,
    StubGpu,
    StubNvml,
)

from backprop_core import Gpu, ProbeError

DEBIANS = Path("/usr/lib/nvidia/current/nvidia-smi")
INSTALL = "Debian has it in the package nvidia-smi of non-free"


def healthy(number: int, **changes: Any) -> StubGpu:
    usual: dict[str, Any] = {
        "uuid": f"GPU-0000000{number}-1111-2222-3333-444444444444",
        "name": "NVIDIA H200, rev 2",
        "total": 143771,
        "free": 143166 - number,
        "reserved": 604,
        "temp": 30 + number,
        "util": number,
        "throttle": 0x1,
        "mig": 0,
    }
    return StubGpu(**{**usual, **changes})


INSTANCES = (
    StubGpu(
        uuid="MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", name="A100 MIG 3g.20gb", total=20096, free=20085
    ),
    StubGpu(uuid="MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", name="A100 MIG 2g.10gb", total=9984, free=9980),
)
NO_MEMORY = tuple(
    Call(function=f"nvmlDeviceGetMemoryInfo{version}", code=NO_PERMISSION) for version in ("", "_v2")
)
MACHINES: dict[str, list[StubGpu]] = {
    "no GPU": [],
    "two idle": [healthy(0), healthy(1)],
    "one hot": [healthy(0, temp=91, throttle=0x68, util=100), healthy(1)],
    "hardly anything told": [StubGpu(name="NVIDIA GeForce GT 730", total=2004, free=2004)],
    "memory not permitted": [healthy(0, calls=NO_MEMORY)],
    "in MIG mode": [healthy(0, mig=1, name="A100", util=None, instances=INSTANCES), healthy(1)],
}
BROKEN = {
    "lost when opened": Call(function="nvmlDeviceGetHandleByIndex_v2", code=GPU_IS_LOST),
    "lost when read": Call(function="nvmlDeviceGetTemperature", code=GPU_IS_LOST),
    "to be reset": Call(function="nvmlDeviceGetHandleByIndex_v2", code=RESET_REQUIRED),
}
StartReader = Callable[[str, Mapping[str, str]], Any]


@pytest.fixture(scope="module")
def real_nvidia_smi(stub_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PATH entry with NVIDIA's program."""
    program = str(DEBIANS) if DEBIANS.exists() else shutil.which("nvidia-smi")
    if program is None or Path(program).read_bytes()[:4] != b"\x7fELF":
        pytest.skip(f"NVIDIA's nvidia-smi is not installed ({INSTALL})")
    stub = StubNvml(stub_library, tmp_path_factory.mktemp("machine") / "machine.txt")
    stub.set(healthy(0))
    tried = subprocess.run(
        [program, "-L"], env={**os.environ, **stub.environment}, capture_output=True, text=True, check=False
    )
    if "GPU 0: NVIDIA H200, rev 2" not in tried.stdout and not DEBIANS.exists():
        pytest.skip(f"this nvidia-smi does not go with the stub of its library: {tried.stdout.strip()}")
    folder = tmp_path_factory.mktemp("real")
    folder.chmod(0o755)
    (folder / "nvidia-smi").symlink_to(program)
    return folder


@pytest.fixture
def readers(real_nvidia_smi: Path, stub_nvml: StubNvml, start_reader: StartReader) -> tuple[Any, Any]:
    """Return one process with each probe, both over the stub."""
    environment = {**stub_nvml.environment, "PATH": f"{real_nvidia_smi}:/usr/bin:/bin"}
    return start_reader("nvml", environment), start_reader("nvidia-smi", environment)


def compared(gpu: Gpu) -> dict[str, Any]:
    """What both must agree on: nvidia-smi asks for processes in a private way that the stub does not know."""
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "vram_total_mb": gpu.vram_total_mb,
        "vram_free_mb": gpu.vram_free_mb,
        "temp_c": gpu.temp_c,
        "utilization_pct": gpu.utilization_pct,
        "is_throttled_by_heat": gpu.is_throttled_by_heat,
        "is_selectable": gpu.is_selectable,
        "note": gpu.note,
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_both_probes_see_the_same_machine(
    machine: str, readers: tuple[Any, Any], stub_nvml: StubNvml
) -> None:
    nvml, nvidia_smi = readers
    stub_nvml.set(*MACHINES[machine])
    seen = [compared(gpu) for gpu in nvml.read()]
    assert len(seen) == sum(1 + len(gpu.instances) for gpu in MACHINES[machine])
    assert [compared(gpu) for gpu in nvidia_smi.read()] == seen


@pytest.mark.parametrize("trouble", BROKEN)
def test_both_probes_see_past_the_same_broken_gpu(
    trouble: str, readers: tuple[Any, Any], stub_nvml: StubNvml
) -> None:
    stub_nvml.set(healthy(0), healthy(1, calls=(BROKEN[trouble],)), healthy(2))
    for reader in readers:
        first, broken, last = reader.read()
        assert (first.vram_free_mb, last.vram_free_mb) == (143166, 143164)
        assert (broken.index, broken.is_selectable, broken.vram_free_mb) == (1, False, None)
        assert broken.note.startswith("unreadable: ")


def test_both_probes_give_unified_memory_the_systems(readers: tuple[Any, Any], stub_nvml: StubNvml) -> None:
    stub_nvml.set(healthy(0, total=None, free=None))
    [[through_nvml], [through_nvidia_smi]] = (reader.read() for reader in readers)
    assert through_nvml.vram_total_mb == through_nvidia_smi.vram_total_mb > 0
    assert through_nvml.note == through_nvidia_smi.note


@pytest.mark.parametrize("code", [4, 9, 12, 18, 999])
def test_both_probes_name_a_failed_start_alike(
    code: int, readers: tuple[Any, Any], stub_nvml: StubNvml
) -> None:
    stub_nvml.set(init=code)
    named = []
    for reader in readers:
        with pytest.raises(ProbeError) as caught:
            reader.read()
        named.append(caught.value.message.split(": ")[1])
    assert named[0] == named[1]
