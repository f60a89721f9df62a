"""The run's GPU memory limit in words that TensorFlow knows: growth with need, and the import hook."""

from __future__ import annotations

import os

from backprop_core import Gpu, RunRequest

from ._memory_limit import IMPORT_HOOK, WATCHED_ONLY, import_hook_environment, memory_limit


def environment(request: RunRequest, gpu: Gpu | None) -> dict[str, str]:
    """Let memory grow with need instead of being taken whole, and limit it through an import hook."""
    told = {} if "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ else {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    limit = memory_limit(request, gpu)
    if limit is not None and limit.mb is not None:
        told |= import_hook_environment(limit, os.environ)
    return told


def memory_layer(request: RunRequest, gpu: Gpu | None) -> str:
    """Say what holds the run to its memory limit: "import hook" or "watched only".

    TensorFlow takes its limit in MB alone: a share of a GPU of unknown size is only watched.
    """
    limit = memory_limit(request, gpu)
    return WATCHED_ONLY if limit is None or limit.mb is None else IMPORT_HOOK
