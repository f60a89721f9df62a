"""The run's GPU memory limit in words that PyTorch knows: its allocator's setting, or the import hook."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from backprop_core import Gpu, RunRequest, pattern

from ._memory_limit import ALLOCATOR, IMPORT_HOOK, WATCHED_ONLY, import_hook_environment, memory_limit

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""PyTorch reads the first of these that is set, and no other (c10/cuda/CUDAAllocatorConfig.h)."""

_FRACTION = pattern(r"(?:^|,)\s*per_process_memory_fraction\s*:\s*([^,]*)")
_OTHER_BACKEND = pattern(r"\bbackend\s*:\s*(?!native\b)")
_VERSION = pattern(r"(\d+)\.(\d+)(?:\.\d+)?(a|b|rc|\.?dev)?")


def environment(request: RunRequest, gpu: Gpu | None) -> dict[str, str]:
    """Limit through the allocator's setting, or through an import hook where PyTorch has none."""
    limit = memory_limit(request, gpu)
    if limit is None:
        return {}
    if limit.share is not None and allocator_takes_limit(request):
        return allocator_environment(limit.share, os.environ)
    return import_hook_environment(limit, os.environ)


def memory_layer(request: RunRequest, gpu: Gpu | None) -> str:
    """Say what holds the run to its memory limit: "allocator", "import hook" or "watched only"."""
    limit = memory_limit(request, gpu)
    if limit is None:
        return WATCHED_ONLY
    return ALLOCATOR if limit.share is not None and allocator_takes_limit(request) else IMPORT_HOOK


def allocator_takes_limit(request: RunRequest) -> bool:
    """Tell whether the PyTorch that the script will import reads a limit from the environment."""
    from backprop_core import versions_in

    if any(_OTHER_BACKEND.search(os.environ.get(name, "")) for name in ALLOCATOR_VARIABLES):
        return False  # only the native allocator reads the limit
    return is_since_2_10(versions_in(request.python or sys.executable, ["torch"])["torch"])


def is_since_2_10(version: str | None) -> bool:
    """Tell whether the allocator knows per_process_memory_fraction; before 2.10.0 unknown keys are fatal."""
    found = _VERSION.match(version or "")
    if found is None:
        return False
    release = (int(found[1]), int(found[2]))
    return release > (2, 10) or (release == (2, 10) and found[3] is None)


def allocator_environment(share: float, environ: Mapping[str, str]) -> dict[str, str]:
    """Add the limit to each allocator variable that the user has set, else to PyTorch's newest one."""
    names = [name for name in ALLOCATOR_VARIABLES if name in environ] or ["PYTORCH_ALLOC_CONF"]
    return {name: with_fraction(environ.get(name, ""), share) for name in names}


def with_fraction(settings: str, share: float) -> str:
    """Add the limit to allocator settings; a lower one among them stays.

    :param share: Of the GPU's memory; at least 0.0001 is written, since 0 would allow nothing.
    """
    found = _FRACTION.search(settings)
    fraction = max(share, 0.0001)
    if found is not None:
        fraction = min(fraction, _number(found[1], fraction))
        settings = settings[: found.start()] + settings[found.end() :]
    others = settings.strip(" ,")
    return ",".join(filter(None, [others, f"per_process_memory_fraction:{fraction:.4f}"]))


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise
