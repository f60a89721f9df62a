"""A run's GPU memory limit, and the import hook for frameworks that take no limit from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from backprop_core import Gpu, RunRequest, memory_limit_mb

HOOK_FOLDER = Path(__file__).parent / "import_hook"

ALLOCATOR = "allocator"
IMPORT_HOOK = "import hook"
WATCHED_ONLY = "watched only"


class MemoryLimit(msgspec.Struct, frozen=True):
    """The limit on one GPU, as MiB and as a share of it (up to 1); None where the GPU's total is unknown."""

    mb: float | None
    share: float | None


def memory_limit(request: RunRequest, gpu: Gpu | None) -> MemoryLimit | None:
    """Return the limit that the run was given; None without one, and without a GPU."""
    text = request.limits.gpu_memory_limit
    if text is None or gpu is None:
        return None
    total_mb = gpu.vram_total_mb or None
    mb = memory_limit_mb(text, total_mb)
    if mb is None:
        return MemoryLimit(None, memory_limit_mb(text, 1.0))
    return MemoryLimit(mb, None if total_mb is None else min(1.0, mb / total_mb))


def import_hook_environment(limit: MemoryLimit, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make the script's interpreter limit itself, before what PYTHONPATH holds."""
    folders = [
        folder for folder in environ.get("PYTHONPATH", "").split(os.pathsep) if folder != str(HOOK_FOLDER)
    ]
    if folders == [""]:
        folders = []
    told = {"PYTHONPATH": os.pathsep.join([str(HOOK_FOLDER), *folders])}
    if limit.mb is not None:
        told["BACKPROP_GPU_MEMORY_LIMIT_MB"] = f"{limit.mb:.0f}"
    if limit.share is not None:
        told["BACKPROP_GPU_MEMORY_LIMIT_SHARE"] = f"{limit.share:.4f}"
    return told
