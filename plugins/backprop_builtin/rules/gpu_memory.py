"""Start only on a GPU with enough free memory; stop a run that takes much more than its limit."""

from __future__ import annotations

from collections.abc import Sequence

from backprop_core import (
    Gpu,
    Limits,
    Machine,
    Passed,
    Refusal,
    RunRecord,
    RunRequest,
    Stop,
    Warn,
    hookimpl,
    memory_limit_mb,
)

OVER_FACTOR = 1.1
CONTEXT_MB = 512.0
"""What a CUDA context and its libraries take beside the framework's allocator, on each GPU; it depends on the GPU."""

WATCHED_ONLY = "watched only"
SAMPLES = 3


@hookimpl
def backprop_admit(request: RunRequest, machine: Machine) -> Refusal | Passed | None:
    gpus = [gpu for gpu in machine.gpus or () if gpu.is_selectable]
    if not gpus:
        return None
    needed = needed_mb(request.limits)
    short = [gpu for gpu in gpus if gpu.vram_free_mb is not None and gpu.vram_free_mb < needed]
    text = f"GPU memory: {describe(short or gpus)}, {needed:.0f} MB needed"
    return Refusal(text, gpus=tuple(gpu.id for gpu in short)) if short else Passed(text)


@hookimpl
def backprop_govern(run: RunRecord, machine: Machine) -> Stop | Warn | None:
    used, limit = machine.run_vram_mb, total_limit_mb(run.limits, machine.gpus or ())
    if used is None or limit is None or used <= limit:
        return None
    reason = f"GPU memory: the run holds {used:.0f} MB, its limit is {limit:.0f} MB"
    if used > limit + tolerated_mb(limit, run, len(machine.gpus or ())):
        return Stop(reason, samples=SAMPLES)
    return Warn(reason, samples=SAMPLES)


def tolerated_mb(limit_mb: float, run: RunRecord, gpu_count: int) -> float:
    """Return how far over its limit a run is left alone, in MiB.

    A framework that holds the limit itself bounds its allocator, and the context comes on top of that: with a small
    limit it would be more than a tenth, and a run that keeps to its limit would be stopped for it.
    """
    is_held = run.memory_layer not in (None, WATCHED_ONLY)
    return max((OVER_FACTOR - 1) * limit_mb, CONTEXT_MB * gpu_count if is_held else 0.0)


def needed_mb(limits: Limits) -> float:
    """Return what must be free on a GPU, in MiB: an absolute memory limit counts where it is larger.

    A share is no need but a cap: "100%" would otherwise refuse every GPU that shows a desktop.
    """
    limit = limits.gpu_memory_limit
    absolute = memory_limit_mb(limit, None) if limit and "%" not in limit else None
    return max(limits.gpu_min_vram_mb, absolute or 0.0)


def describe(gpus: Sequence[Gpu]) -> str:
    """Name each GPU with what it has free."""
    return ", ".join(
        f"GPU {gpu.index} has "
        + ("unknown memory" if gpu.vram_free_mb is None else f"{gpu.vram_free_mb:.0f} MB")
        + " free"
        for gpu in gpus
    )


def total_limit_mb(limits: Limits, gpus: tuple[Gpu, ...]) -> float | None:
    """Return the limit over all GPUs of the run, in MiB; None without one or where a total is unknown."""
    if not limits.gpu_memory_limit or not gpus:
        return None
    each = [memory_limit_mb(limits.gpu_memory_limit, gpu.vram_total_mb) for gpu in gpus]
    known = [limit for limit in each if limit is not None]
    return sum(known) if len(known) == len(each) else None
