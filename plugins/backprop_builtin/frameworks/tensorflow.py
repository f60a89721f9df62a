"""TensorFlow, with Keras inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backprop_core import Framework, Gpu, RunRequest, Script, hookimpl

from . import _growth
from ._forms import keras_forms
from ._resume import KERAS_LINE, KERAS_RESUMES, missing_line, resume_arguments

WEIGHTS = {"tensorflow": 1.0, "tf_keras": 0.9, "keras": 0.7}
"""What importing a module says about TensorFlow. Keras runs on PyTorch and JAX too."""


LINE = "$.restore_or_initialize() before the loop"


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
    checkpoint_forms = keras_forms()

    def score(self, script: Script) -> float:
        return max(weight * script.imports.get(module, 0.0) for module, weight in WEIGHTS.items())

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        return _growth.environment(request, gpu)

    def memory_layer(self, request: RunRequest, gpu: Gpu | None) -> str:
        return _growth.memory_layer(request, gpu)

    def resume_arguments(self, script: Script, checkpoint: Path) -> tuple[str, ...]:
        return resume_arguments(script, checkpoint)

    def missing_line(self, script: Script) -> str | None:
        from backprop_core import read_source

        if "CheckpointManager" in read_source(script).names:
            return missing_line(script, KERAS_RESUMES, "save", LINE)
        return missing_line(script, KERAS_RESUMES, "fit", KERAS_LINE)
