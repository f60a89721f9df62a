"""Lightning under Backprop: `fit(trainer, model, ...)` in place of `trainer.fit(model, ...)`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer

from . import _randomness
from ._pace import Pace, numbers_in
from ._places import Kept, folder_for
from ._told import checkpoint, report, resume_path, should_checkpoint, should_stop


def fit(trainer: Trainer, model: LightningModule, *data: Any, **options: Any) -> None:
    """Train, reporting, saving in time, and going on from the run's checkpoint if there is one.

    :param data: What `Trainer.fit` takes, and `options` too; a `ckpt_path` among them comes before Backprop's.
    """
    trainer.callbacks.append(BackpropCallback())
    options.setdefault("ckpt_path", resume_path())
    trainer.fit(model, *data, **options)


class BackpropCallback(Callback):  # type: ignore[misc]  # mypy does not need the library
    """Reports steps and logged metrics, saves when Backprop asks, and ends the training in time.

    It stops at the end of an epoch where another one would not fit, for that is where Lightning goes on
    exactly; within an epoch that is long for its time box it stops after a batch. To go on from a checkpoint is
    what `fit` is for: a callback cannot tell a Trainer where to begin.

    :param folder: Where to save; None is the run's own folder. Without either, nothing is saved.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder_for("lightning", folder)
        self._pace = Pace()
        self._kept = Kept()
        self._total: int | None = None
        self._is_over = False

    # --- its own state, in every checkpoint that Lightning makes ---

    def state_dict(self) -> dict[str, Any]:
        return {"random": _randomness.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _randomness.restore(state_dict["random"])

    # --- what Lightning tells ---

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self._total = int(total) if math.isfinite(total) else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.begin_epoch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._pace.is_due():
            self._report(trainer, outputs)
        if self._folder is None or trainer.is_last_batch:
            return  # the end of the epoch decides
        self._save_or_stop(trainer, 0.0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer, None)
        if self._folder is None or self._is_over:
            return
        self._save_or_stop(trainer, self._pace.end_epoch())

    # --- what is done about it ---

    def _save_or_stop(self, trainer: Trainer, ahead_s: float) -> None:
        """Do what the first rank was told: each has a clock of its own."""
        is_over, is_due = trainer.strategy.broadcast((should_stop(ahead_s), should_checkpoint()))
        if is_over:
            self._stop(trainer)
        elif is_due:
            self._save(trainer)

    def _report(self, trainer: Trainer, outputs: Any) -> None:
        if trainer.is_global_zero:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            report(
                step=trainer.global_step,
                total_steps=self._total,
                epoch=trainer.current_epoch,
                loss=loss,
                **numbers_in(trainer.callback_metrics),
            )

    def _stop(self, trainer: Trainer) -> None:
        self._is_over = True
        self._save(trainer)
        trainer.should_stop = True

    def _save(self, trainer: Trainer) -> None:
        assert self._folder is not None
        path = Path(self._folder, f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt")
        trainer.save_checkpoint(path)  # every rank takes part in it
        if trainer.is_global_zero:
            checkpoint(path)
            self._kept.add(path)
