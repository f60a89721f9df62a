"""What only a real NVIDIA GPU can show: the limit inside PyTorch, both probes on one driver, memory by process."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from kit import Project

from backprop_builtin.gpu_probes.nvidia_smi import NvidiaSmi
from backprop_builtin.gpu_probes.nvml import Nvml
from backprop_core import Gpu, GpuProbe

PROBES: dict[str, Callable[[], GpuProbe]] = {"nvml": Nvml, "nvidia-smi": NvidiaSmi}
READINGS = 20


def has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout.startswith(b"GPU ")


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="there is no NVIDIA GPU here")]


@pytest.fixture(scope="module")
def needs_cuda() -> None:
    """Skip where the tests' interpreter has no PyTorch that reaches the GPU."""
    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed in the tests' interpreter")
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
        pytest.skip("the PyTorch of the tests' interpreter has no CUDA")


GREEDY = """
    import torch

    total = torch.cuda.get_device_properties(0).total_memory

    def take(share):
        return torch.empty(int(total * share), dtype=torch.uint8, device="cuda")

    small = take(0.05)
    print("a twentieth fits", flush=True)
    large = take(0.2)
    print("a fifth fits", flush=True)
"""


@pytest.mark.usefixtures("needs_cuda")
@pytest.mark.parametrize("probe", PROBES)
def test_pytorch_under_a_tenth_of_the_gpu_cannot_allocate_a_fifth(project: Project, probe: str) -> None:
    project.write("greedy.py", GREEDY)
    done = project.run("run", "greedy.py", "-g", "10%", "--gpu-probe", probe, timeout=120)
    assert "a twentieth fits" in done.out
    assert "a fifth fits" not in done.out
    assert "OutOfMemoryError: CUDA out of memory" in done.out
    assert (done.code, project.record()["status"]) == (1, "failed")
    assert project.record()["memoryLayer"] in {"allocator", "import hook"}
    free = project.run("run", "greedy.py", "-g", "50%", "--gpu-probe", probe, timeout=120)
    assert free.code == 0, free.out


def test_both_probes_read_the_same_memory(project: Project) -> None:
    read = {}
    for probe in PROBES:
        done = project.run("status", "--json", "--gpu-probe", probe)
        assert done.code == 0, done.err
        read[probe] = json.loads(done.out)["gpus"]
    for one, other in zip(read["nvml"], read["nvidia-smi"], strict=True):
        assert (one["index"], one["uuid"], one["name"]) == (other["index"], other["uuid"], other["name"])
        for amount in ("vram_total_mb", "vram_free_mb"):
            assert one[amount] == pytest.approx(other[amount], rel=0.01)


@pytest.mark.parametrize("probe", PROBES)
def test_a_reading_takes_a_fraction_of_the_time_between_two(
    probe: str, record_property: Callable[[str, object], None]
) -> None:
    reader = PROBES[probe]()
    reader.read()  # the first one loads the driver's state
    took_s = []
    for _ in range(READINGS):
        began = time.perf_counter()
        assert reader.read()
        took_s.append(time.perf_counter() - began)
    latency = {"median_ms": statistics.median(took_s) * 1000, "max_ms": max(took_s) * 1000}
    record_property(probe, latency)
    print(probe, latency)
    assert statistics.median(took_s) < 0.5


# No framework: the allocation is the driver's own, so that nothing but the watch holds the limit.
DRIVER = """
    import ctypes, os, sys, time

    cuda = ctypes.CDLL("libcuda.so.1")

    def must(code):
        if code:
            sys.exit(f"CUDA error {code}")

    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    must(cuda.cuInit(0))
    must(cuda.cuDeviceGet(ctypes.byref(device), 0))
    must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    must(cuda.cuCtxSetCurrent(context))
    must(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(2 << 30)))
    print(os.getpid(), flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("saving")
"""


def held_mb(gpus: list[Gpu], pid: int) -> float | None:
    """What the driver says that a process holds; None where it names processes in another way, or none."""
    return next((table[pid] for gpu in gpus if pid in (table := gpu.process_vram_mb or {})), None)


@pytest.mark.parametrize("probe", PROBES)
def test_a_process_that_takes_more_than_its_limit_from_the_driver_is_stopped(
    project: Project, probe: str
) -> None:
    project.write("driver.py", DRIVER)
    words: tuple[Any, ...] = (
        "run",
        "driver.py",
        "-g",
        1,
        "--gpu-probe",
        probe,
        "--set",
        "monitorSeconds=0.5",
    )
    running = project.start(*words)
    assert running.stdout
    pid = running.stdout.readline().strip()
    assert pid.isdigit(), pid
    if not held_mb(list(PROBES[probe]().read()), int(pid)):
        pytest.skip("the driver does not tell what processes in this container hold")
    done = project.end(running)
    assert (done.code, project.record()["status"]) == (75, "stopped")
    assert "GPU memory: the run holds 2" in project.record()["reason"]
    assert "saving" in done.out
