"""The run's GPU memory limit in words that JAX knows: the share of the GPU that its allocator may take."""

from __future__ import annotations

import os
from collections.abc import Mapping

from backprop_core import Gpu, RunRequest

from ._memory_limit import ALLOCATOR, WATCHED_ONLY, memory_limit

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""The new name and the old one; JAX refuses to start where both are set (jax 0.10.2)."""
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
OTHER_ALLOCATOR = "XLA_PYTHON_CLIENT_ALLOCATOR"


def environment(request: RunRequest, gpu: Gpu | None) -> dict[str, str]:
    """Take memory as it is needed, up to the limit; what the person has set stays."""
    limit = memory_limit(request, gpu)
    if limit is None or limit.share is None or not _is_free(os.environ):
        return {}
    told = {FRACTIONS[1]: f"{max(limit.share, 0.0001):.4f}"}
    return told if PREALLOCATE in os.environ else {**told, PREALLOCATE: "false"}


def memory_layer(request: RunRequest, gpu: Gpu | None) -> str:
    """Say what holds the run to its memory limit: "allocator" or "watched only"."""
    limit = memory_limit(request, gpu)
    is_held = limit is not None and limit.share is not None and _is_free(os.environ)
    return ALLOCATOR if is_held else WATCHED_ONLY


def _is_free(environ: Mapping[str, str]) -> bool:
    return not any(name in environ for name in (*FRACTIONS, OTHER_ALLOCATOR))
