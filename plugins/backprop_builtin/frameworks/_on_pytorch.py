"""What trainers that are built on PyTorch have in common: its memory limit, and how they are described."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from backprop_core import CheckpointForm, Gpu, RunRequest, Script

from . import _allocator
from ._resume import missing_line, resume_arguments


class OnPyTorch:
    """A framework on PyTorch.

    :param weights: What importing a name says about it.
    :param resumes: What a script names that goes on from a checkpoint.
    :param call: For a script that does not: the method in whose call something is missing.
    :param line: What to write instead, with `$` for what the method is called on.
    """

    def __init__(
        self,
        name: str,
        order: int,
        *,
        weights: Mapping[str, float],
        checkpoint_forms: tuple[CheckpointForm, ...],
        resumes: frozenset[str],
        call: str,
        line: str,
        arguments: Callable[[Script, Path], tuple[str, ...]] = resume_arguments,
    ) -> None:
        self.name = name
        self.order = order
        self.checkpoint_forms = checkpoint_forms
        self._weights = weights
        self._resumes = resumes
        self._call = call
        self._line = line
        self._arguments = arguments

    def score(self, script: Script) -> float:
        return max(weight * script.imports.get(name, 0.0) for name, weight in self._weights.items())

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        return _allocator.environment(request, gpu)

    def memory_layer(self, request: RunRequest, gpu: Gpu | None) -> str:
        return _allocator.memory_layer(request, gpu)

    def resume_arguments(self, script: Script, checkpoint: Path) -> tuple[str, ...]:
        return self._arguments(script, checkpoint)

    def missing_line(self, script: Script) -> str | None:
        return missing_line(script, self._resumes, self._call, self._line)
