"""TensorFlow and Keras."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from backprop_core import Framework, Gpu, RunRequest, Script, hookimpl

from ._memory_limit import IMPORT_HOOK, WATCHED_ONLY, import_hook_environment, memory_limit
from ._resume import resume_arguments

WEIGHTS = {"tensorflow": 1.0, "tf_keras": 0.9, "keras": 0.7}
"""What importing a module says about TensorFlow. Keras runs on PyTorch and JAX too."""


@hookimpl
def backprop_framework() -> Framework:
    return TensorFlow()


class TensorFlow:
    """Lets memory grow with need instead of being taken whole, and limits it through an import hook.

    TensorFlow stands beside PyTorch, so both have one order: the score decides, and a script that imports
    both at its top is taken for PyTorch's, which TensorFlow then feeds or logs for.
    """

    name = "tensorflow"
    order = 100

    def score(self, script: Script) -> float:
        return max(weight * script.imports.get(module, 0.0) for module, weight in WEIGHTS.items())

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        told = {} if "TF_FORCE_GPU_ALLOW_GROWTH" in os.environ else {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        limit = memory_limit(request, gpu)
        if limit is not None and limit.mb is not None:
            told |= import_hook_environment(limit, os.environ)
        return told

    def memory_layer(self, request: RunRequest, gpu: Gpu | None) -> str:
        """Say what holds the run to its memory limit: "import hook" or "watched only".

        TensorFlow takes its limit in MB alone: a share of a GPU of unknown size is only watched.
        """
        limit = memory_limit(request, gpu)
        return WATCHED_ONLY if limit is None or limit.mb is None else IMPORT_HOOK

    def resume_arguments(self, script: Script, checkpoint: Path) -> tuple[str, ...]:
        return resume_arguments(script, checkpoint)
