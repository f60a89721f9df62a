"""What both NVIDIA probes know: NVML's error codes and heat flags, unified memory, CUDA's variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backprop_core import Gpu, ProbeError

BYTES_PER_MB = 1024 * 1024
HEAT_SLOWDOWN = 0x20 | 0x40
"""Software and hardware thermal slowdown, among the reasons why clocks are lowered (nvml.h)."""

MIG_NOTE = "in MIG mode"
UNIFIED_NOTE = "shares the system's memory, which is what is shown"

OTHER_FAILURE = ("unknown failure", "see what `nvidia-smi` says, or choose --gpu-probe none")
FAILURES = {
    4: ("no permission", "/dev/nvidia* must be readable and writable for this user"),
    9: ("driver not loaded", "load the NVIDIA driver (modprobe nvidia), or choose --gpu-probe none"),
    12: (
        "library missing",
        "install the NVIDIA driver with its libnvidia-ml.so.1, or choose --gpu-probe none",
    ),
    15: ("GPU lost", "a GPU has fallen off the bus: reboot the machine"),
    18: ("version mismatch", "the driver was upgraded: reload it or reboot the machine"),
}
"""What an error of NVML means and what helps. nvidia-smi exits with the same numbers."""


def failure(probe: str, code: int, detail: str) -> ProbeError:
    """Name the failure that stands for an error code."""
    what, hint = FAILURES.get(code, OTHER_FAILURE)
    return ProbeError(f"{probe}: {what}: {detail}", hint)


def visible_devices(gpu: Gpu) -> Mapping[str, str]:
    """Give the variables that confine CUDA to this GPU.

    NVML counts in the order of the PCI bus, CUDA the fastest first unless it is told. MIG instances have
    no index of their own and go by UUID.
    """
    is_instance = gpu.uuid is not None and gpu.uuid.startswith("MIG-")
    chosen = gpu.uuid if is_instance and gpu.uuid else str(gpu.index)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": chosen}


def system_memory_mb() -> tuple[float, float]:
    """Total and available system memory: the GPU's own where both share it."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total / BYTES_PER_MB, memory.available / BYTES_PER_MB


def told_memory(processes: Iterable[tuple[int | None, float | None]]) -> dict[int, float] | None:
    """Keep the processes of which the driver told pid and memory; None when it told of none of them."""
    found = list(processes)
    told = {pid: mb for pid, mb in found if pid is not None and mb is not None}
    return told if told or not found else None


def unreadable(index: int, why: str, uuid: str | None = None, name: str | None = None) -> Gpu:
    """A GPU that is there and cannot be used."""
    return Gpu(index=index, uuid=uuid, name=name, is_selectable=False, note=f"unreadable: {why}")
