"""Read GPUs through NVML, the library under `nvidia-smi`, inside this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backprop_core import Gpu, GpuProbe, ProbeError, hookimpl

from . import _cuda

LIBRARY = "libnvidia-ml.so.1"
UNINITIALIZED, NOT_SUPPORTED, GPU_LOST, RESET_REQUIRED = 1, 3, 15, 16
STALE = frozenset({UNINITIALIZED, GPU_LOST, RESET_REQUIRED})
"""Errors after which nothing more is to be had from a handle before NVML is initialised anew."""

CORE_TEMPERATURE = 0
"""NVML_TEMPERATURE_GPU: the sensor on the chip."""


@hookimpl
def backprop_gpu_probe() -> GpuProbe:
    return Nvml()


class Nvml:
    """The probe; it initialises NVML once and again only after NVML lost a GPU or itself."""

    name = "nvml"
    order = 10

    def __init__(self) -> None:
        self._is_ready = False

    def is_available(self) -> bool:
        try:
            from _ctypes import (
                dlopen,  # `ctypes` around it would be loaded by every run on a machine without GPUs
            )

            dlopen(LIBRARY, 0)
        except (ImportError, OSError):
            return False
        return True

    def read(self) -> Sequence[Gpu]:
        try:
            import pynvml
        except ImportError as error:
            raise ProbeError(
                "nvml: the package nvidia-ml-py is not installed", "pip install nvidia-ml-py"
            ) from error

        questions = [Questions(pynvml, index) for index in range(self._count(pynvml))]
        gpus = tuple(gpu for ask in questions for gpu in read_gpu(ask))
        if any(ask.stale for ask in questions):
            self._forget(pynvml)
        return gpus

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        return _cuda.visible_devices(gpu)

    def _count(self, nvml: Any, *, may_retry: bool = True) -> int:
        try:
            return self._count_once(nvml)
        except nvml.NVMLError as error:
            if error.value != UNINITIALIZED or not may_retry:
                raise _cuda.failure(self.name, error.value, str(error)) from error
        self._forget(nvml)
        return self._count(nvml, may_retry=False)

    def _count_once(self, nvml: Any) -> int:
        if not self._is_ready:
            nvml.nvmlInit()
            self._is_ready = True
        return int(nvml.nvmlDeviceGetCount())

    def _forget(self, nvml: Any) -> None:
        """Have the next reading initialise NVML anew: until then a lost GPU stays lost."""
        self._is_ready = False
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


class Questions:
    """What can be asked about one GPU or MIG instance; every answer may be missing without harm.

    `stale` keeps the error that says the whole GPU is gone, `last_error` the latest of any kind.
    """

    def __init__(self, nvml: Any, index: int, handle: Any = None) -> None:
        self.nvml = nvml
        self.index = index
        self.stale: Any = None
        self.last_error: Any = None
        self.handle = handle if handle is not None else self._guarded("nvmlDeviceGetHandleByIndex", index)

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Return NVML's answer, or None: not told, not known to this driver or to this pynvml."""
        return None if self.stale else self._guarded(function, self.handle, *arguments)

    def first(self, *functions: str) -> Any:
        """Return the first answer of functions that came after one another in NVML's history."""
        answers = (self(function) for function in functions)
        return next((answer for answer in answers if answer is not None), None)

    def _guarded(self, function: str, *arguments: Any) -> Any:
        call = getattr(self.nvml, function, None)
        if call is None:
            return None
        try:
            return call(*arguments)
        except self.nvml.NVMLError as error:
            self.last_error = error
            if error.value in STALE:
                self.stale = error
            return None


def read_gpu(ask: Questions) -> Iterator[Gpu]:
    """Read one GPU, and its instances where it is in MIG mode."""
    if ask.handle is None:
        yield _cuda.unreadable(ask.index, str(ask.last_error))
        return
    mig_mode = ask("nvmlDeviceGetMigMode")
    is_split = mig_mode is not None and mig_mode[0] == 1
    instances = read_instances(ask) if is_split else ()
    gpu = read_whole(ask, is_split=is_split)
    if ask.stale:
        yield _cuda.unreadable(ask.index, str(ask.stale), gpu.uuid, gpu.name)
        return
    yield gpu
    yield from instances


def read_whole(ask: Questions, *, is_split: bool) -> Gpu:
    """Read a GPU that is not a MIG instance. One in MIG mode is listed, its instances are what runs get."""
    total_mb, free_mb, note = read_memory(ask, may_be_unified=not is_split)
    utilization = ask("nvmlDeviceGetUtilizationRates")
    return Gpu(
        index=ask.index,
        uuid=ask("nvmlDeviceGetUUID"),
        name=ask("nvmlDeviceGetName"),
        vram_total_mb=total_mb,
        vram_free_mb=free_mb,
        temp_c=ask("nvmlDeviceGetTemperature", CORE_TEMPERATURE),
        utilization_pct=None if utilization is None else utilization.gpu,
        is_throttled_by_heat=read_heat_slowdown(ask),
        is_selectable=not is_split,
        note=_cuda.MIG_NOTE if is_split else note,
        process_vram_mb=read_processes(ask),
    )


def read_instances(ask: Questions) -> tuple[Gpu, ...]:
    """Read the MIG instances of a GPU. Heat is the chip's: NVML tells it of the whole GPU alone."""
    temp_c = ask("nvmlDeviceGetTemperature", CORE_TEMPERATURE)
    is_throttled = read_heat_slowdown(ask)
    handles = (
        ask("nvmlDeviceGetMigDeviceHandleByIndex", place)
        for place in range(ask("nvmlDeviceGetMaxMigDeviceCount") or 0)
    )
    return tuple(
        read_instance(Questions(ask.nvml, ask.index, handle), temp_c, is_throttled=is_throttled)
        for handle in handles
        if handle is not None
    )


def read_instance(ask: Questions, temp_c: float | None, *, is_throttled: bool | None) -> Gpu:
    """Read one MIG instance; without its UUID no process could be confined to it."""
    total_mb, free_mb, note = read_memory(ask, may_be_unified=False)
    uuid = ask("nvmlDeviceGetUUID")
    return Gpu(
        index=ask.index,
        uuid=uuid,
        name=ask("nvmlDeviceGetName"),
        vram_total_mb=total_mb,
        vram_free_mb=free_mb,
        temp_c=temp_c,
        is_throttled_by_heat=is_throttled,
        is_selectable=uuid is not None,
        note=note if uuid is not None else "a MIG instance without a UUID",
        process_vram_mb=read_processes(ask),
    )


def read_memory(ask: Questions, *, may_be_unified: bool) -> tuple[float | None, float | None, str | None]:
    """Read total and free MiB, and a note where they are not what they seem.

    `used` is left alone: version 1 counts what the driver reserves, version 2 does not, `free` is the same.
    """
    memory = ask("nvmlDeviceGetMemoryInfo", getattr(ask.nvml, "nvmlMemory_v2", None))
    if memory is None:
        memory = ask("nvmlDeviceGetMemoryInfo")
    is_told = memory is not None and memory.total > 0
    if is_told:
        return memory.total / _cuda.BYTES_PER_MB, memory.free / _cuda.BYTES_PER_MB, None
    if may_be_unified and (memory is not None or ask.last_error.value == NOT_SUPPORTED):
        return *_cuda.system_memory_mb(), _cuda.UNIFIED_NOTE
    return None, None, f"memory is not told: {ask.last_error if memory is None else '0 MB'}"


def read_heat_slowdown(ask: Questions) -> bool | None:
    """Tell whether the driver has slowed the GPU down because of heat."""
    reasons = ask.first("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if reasons is None else bool(reasons & _cuda.HEAT_SLOWDOWN)


def read_processes(ask: Questions) -> dict[int, float] | None:
    """Read which process holds how many MiB, as far as the driver tells."""
    processes = ask.first(
        "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"
    )
    if processes is None:
        return None
    return _cuda.told_memory(
        (process.pid, None if process.usedGpuMemory is None else process.usedGpuMemory / _cuda.BYTES_PER_MB)
        for process in processes
    )
