"""JAX, and what is built on it; Orbax saves its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backprop_core import CheckpointForm, Framework, Gpu, RunRequest, Script, hookimpl

from . import _xla
from ._resume import missing_line, resume_arguments

WEIGHTS = {"orbax": 1.0, "flax": 1.0, "optax": 1.0, "equinox": 1.0, "haiku": 1.0, "jax": 0.45}
"""What importing a name says about it. JAX alone beside PyTorch may only compute something for it."""
FORMS = (
    CheckpointForm(name="*.orbax-checkpoint-tmp*", is_folder=True, is_unfinished=True),
    CheckpointForm(name="[0-9]*", is_folder=True, holds=("_CHECKPOINT_METADATA",), step=r"^(\d+)$"),
    CheckpointForm(name="[0-9]*", is_folder=True, holds=("commit_success.txt",), step=r"^(\d+)$"),
    CheckpointForm(name="*", is_folder=True, holds=("_CHECKPOINT_METADATA",), step=r"(\d+)$"),
)
"""Orbax writes into a folder of another name and renames it (orbax-checkpoint 0.12); that has its metadata soon."""
RESUMES = frozenset({"restore", "latest_step", "restore_checkpoint", "tree_deserialise_leaves"})
"""What a script names that goes on from a checkpoint."""
LINE = "manager.restore(manager.latest_step()) before the loop, where there is a latest step"


@hookimpl
def backprop_framework() -> Framework:
    return Jax()


class Jax:
    """Limits memory by the share of the GPU that XLA's allocator may take."""

    name = "jax"
    order = 90
    checkpoint_forms = FORMS

    def score(self, script: Script) -> float:
        return max(weight * script.imports.get(name, 0.0) for name, weight in WEIGHTS.items())

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        return _xla.environment(request, gpu)

    def memory_layer(self, request: RunRequest, gpu: Gpu | None) -> str:
        return _xla.memory_layer(request, gpu)

    def resume_arguments(self, script: Script, checkpoint: Path) -> tuple[str, ...]:
        return resume_arguments(script, checkpoint)

    def missing_line(self, script: Script) -> str | None:
        return missing_line(script, RESUMES, "save", LINE)
