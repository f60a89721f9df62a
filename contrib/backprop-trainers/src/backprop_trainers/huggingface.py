"""Hugging Face's Trainer under Backprop: `train(trainer)` in place of `trainer.train()`."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ._pace import numbers_in
from ._told import checkpoint, report, resume_path, should_checkpoint, should_stop


def train(trainer: Any, **options: Any) -> Any:
    """Train, reporting, saving in time, and going on from the run's checkpoint if there is one.

    :param options: What `Trainer.train` takes; a `resume_from_checkpoint` among them comes before Backprop's.
    """
    trainer.add_callback(BackpropCallback())
    options.setdefault("resume_from_checkpoint", resume_path())
    return trainer.train(**options)


class BackpropCallback(TrainerCallback):  # type: ignore[misc]  # mypy does not need the library
    """Reports what the Trainer logs, has it save, and ends the training in time.

    Checkpoints are the Trainer's own, in its output folder. To go on from one is what `train` is for: a
    callback cannot tell a Trainer where to begin.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero:
            report(
                step=state.global_step,
                total_steps=state.max_steps if state.max_steps > 0 else None,
                epoch=state.epoch,
                loss=(logs or {}).get("loss"),
                **numbers_in(logs),
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        is_over, is_due = _agreed(should_stop(), should_checkpoint())
        control.should_training_stop = control.should_training_stop or is_over
        control.should_save = control.should_save or is_over or is_due

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero and args.output_dir:
            checkpoint(os.path.join(args.output_dir, f"checkpoint-{state.global_step}"))


def _agreed(*answers: bool) -> tuple[bool, ...]:
    """Have every process do what the first one was told: each has a clock of its own."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return answers
    told = [answers]
    distributed.broadcast_object_list(told, src=0)
    return told[0]
