"""Keras under Backprop: `callbacks=[BackpropCallback()]` in `model.fit`, with any backend."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras

from . import _randomness
from ._pace import Pace, numbers_in
from ._places import Kept, folder_for, remove
from ._told import checkpoint, report, resume_path, should_checkpoint, should_stop

WEIGHTS, PROGRESS = "model.weights.h5", "progress.json"


class BackpropCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras brings no types
    """Reports steps and metrics, saves when Backprop asks, ends the training in time, and resumes it.

    It stops at the end of an epoch where another one would not fit; within an epoch that is long for its time
    box it stops after a batch, and that epoch begins anew with the weights that it had then. A checkpoint is a
    folder with the model's and the optimizer's weights, the epoch, and the state of the random numbers.

    :param folder: Where to save; None is the run's own folder. Without either, nothing is saved.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self._folder = folder_for("keras", folder)
        self._pace = Pace()
        self._kept = Kept()
        self._epoch = 0
        self._is_over = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        source = resume_path()
        if source is None:
            return
        progress = json.loads(Path(source, PROGRESS).read_text("utf-8"))
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.model.load_weights(Path(source, WEIGHTS))
        self.model._initial_epoch = progress["epoch"]
        _randomness.restore(progress["random"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        self._pace.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._pace.is_due():
            self._report(batch + 1, logs)
        if self._folder is None or batch + 1 == self.params.get("steps"):
            return  # the end of the epoch decides
        if should_stop():
            self._stop(f"epoch-{self._epoch}-batch-{batch + 1}", self._epoch)
        elif should_checkpoint():
            self._save(f"epoch-{self._epoch}-batch-{batch + 1}", self._epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._report(self.params.get("steps"), logs)
        if self._folder is None or self._is_over:
            return
        if should_stop(self._pace.end_epoch()):
            self._stop(f"epoch-{epoch + 1}", epoch + 1)
        elif should_checkpoint():
            self._save(f"epoch-{epoch + 1}", epoch + 1)

    def _report(self, batch: int | None, logs: dict[str, Any] | None) -> None:
        length, epochs = self.params.get("steps"), self.params.get("epochs")
        report(
            step=self._epoch * length + batch if length and batch else None,
            total_steps=length * epochs if length and epochs else None,
            epoch=self._epoch,
            loss=(logs or {}).get("loss"),
            **numbers_in(logs),
        )

    def _stop(self, name: str, next_epoch: int) -> None:
        self._is_over = True
        self._save(name, next_epoch)
        self.model.stop_training = True

    def _save(self, name: str, next_epoch: int) -> None:
        assert self._folder is not None
        path = self._folder / name
        unfinished = path.with_name(f"{name}.unfinished")
        for old in (path, unfinished):
            remove(old)
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / WEIGHTS)
        progress = {"epoch": next_epoch, "random": _randomness.state()}
        (unfinished / PROGRESS).write_text(json.dumps(progress), "utf-8")
        unfinished.rename(path)
        checkpoint(path)
        self._kept.add(path)
