"""Keras, on whichever of its backends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from backprop_core import Framework, Gpu, RunRequest, Script, hookimpl

from . import _allocator, _growth, _xla
from ._forms import keras_forms
from ._resume import KERAS_LINE, KERAS_RESUMES, missing_line, resume_arguments

WEIGHTS = {"keras": 1.0, "tf_keras": 1.0, "tensorflow.keras": 1.0}
"""What importing a name says about it; `tf.keras` without an import of its own is TensorFlow's."""
BACKENDS = ("tensorflow", "torch", "jax")


@hookimpl
def backprop_framework() -> Framework:
    return Keras()


class Keras:
    """BackupAndRestore's folder is what a run goes on from; saved models are kept for use."""

    name = "keras"
    order = 40
    checkpoint_forms = keras_forms()

    def score(self, script: Script) -> float:
        return max(weight * script.imports.get(name, 0.0) for name, weight in WEIGHTS.items())

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        match backend_of(request.script, os.environ):
            case "torch":
                return _allocator.environment(request, gpu)
            case "jax":
                return _xla.environment(request, gpu)
        return _growth.environment(request, gpu)

    def memory_layer(self, request: RunRequest, gpu: Gpu | None) -> str:
        match backend_of(request.script, os.environ):
            case "torch":
                return _allocator.memory_layer(request, gpu)
            case "jax":
                return _xla.memory_layer(request, gpu)
        return _growth.memory_layer(request, gpu)

    def resume_arguments(self, script: Script, checkpoint: Path) -> tuple[str, ...]:
        return resume_arguments(script, checkpoint)

    def missing_line(self, script: Script) -> str | None:
        return missing_line(script, KERAS_RESUMES, "fit", KERAS_LINE)


def backend_of(script: Script, environ: Mapping[str, str]) -> str:
    """Tell which backend Keras will use: what the script sets, KERAS_BACKEND, its settings file, or its default.

    :source: keras/src/backend/config.py.
    """
    named = [backend for backend in BACKENDS if backend in script.places]
    if "KERAS_BACKEND" in script.places and len(named) == 1:
        return named[0]
    chosen = environ.get("KERAS_BACKEND") or _in_settings_file(environ)
    return chosen if chosen in BACKENDS else "tensorflow"


def _in_settings_file(environ: Mapping[str, str]) -> str | None:
    folder = environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        import json

        settings = json.loads(Path(folder, "keras.json").read_bytes())
    except (OSError, ValueError):
        return None
    backend = settings.get("backend") if isinstance(settings, dict) else None
    return backend if isinstance(backend, str) else None
