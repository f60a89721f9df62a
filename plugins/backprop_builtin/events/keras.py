"""Read what Keras prints while it fits: `verbose=1`, `verbose=2`, and ModelCheckpoint's `verbose=1`.

Epochs are counted from 1, as Keras prints them, and steps over all epochs. Bars of `evaluate()` and `predict()`
look like those of `fit()` and tell of no training: they are told apart by standing outside of an epoch. A saved
checkpoint is told with the next bar, for only that one shows the step at which it was saved.
"""

from __future__ import annotations

from collections.abc import Sequence

from backprop_core import CheckpointSaved, Event, EventParser, Progress, hookimpl, pattern

from ._epochs import total_epochs
from ._values import named_numbers, take_training_loss

_EPOCH = pattern(r"Epoch ([0-9]{1,9})/([0-9]{1,9})\s{0,200}$")
_BAR = pattern(r"\s{0,20}([0-9]{1,12})/([0-9]{1,12}|Unknown) (.*)")
_SAVING = pattern(
    r"Epoch [0-9]{1,9}: (?:\S{1,200} improved from \S{1,60} to \S{1,60}, )?(finished )?saving model to (.{1,4096})$"
)


@hookimpl(trylast=True)
def backprop_event_parser() -> EventParser:
    return KerasLines()


class KerasLines:
    """Reads the output of one attempt."""

    signs = (b"Epoch ", b"/step", b"ETA: ")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._epochs: int | None = None
        self._length: int | None = None
        self._n = 0
        self._is_open = False
        self._saved: str | None = None

    def __call__(self, line: str) -> Sequence[Event] | None:
        if line.startswith("Epoch "):
            return self._read_epoch(line)
        if "/step" in line or "- ETA:" in line:
            return self._read_bar(line)
        return None

    def _read_epoch(self, line: str) -> Sequence[Event] | None:
        if begun := _EPOCH.match(line):
            self._epoch, self._epochs = int(begun[1]), int(begun[2])
            self._n, self._is_open = 0, True
            return [*self._tell_saved(None), Progress(epoch=self._epoch, metrics=total_epochs(self._epochs))]
        if (saving := _SAVING.match(line)) is None:
            return None
        path = saving[2].strip()
        told = self._tell_saved(None) if self._saved != path else []
        self._saved = path
        # Before version 3.11 Keras does not print that it has finished; by the next line it has.
        return self._tell_saved(None) if saving[1] and self._epoch is None else told

    def _tell_saved(self, step: int | None) -> list[Event]:
        path, self._saved = self._saved, None
        return [] if path is None else [CheckpointSaved(path=path, step=step)]

    def _read_bar(self, line: str) -> Sequence[Event] | None:
        if (bar := _BAR.match(line)) is None:
            return None
        n, total = int(bar[1]), None if bar[2] == "Unknown" else int(bar[2])
        is_one_line = bar[3].startswith("- ")
        if not self._belongs(n, total):
            return self._tell_saved(None)
        self._n = n
        self._length = total or self._length
        self._is_open = not (is_one_line and n == total)
        values = named_numbers(bar[3].split(" - ")[0 if is_one_line else 1 :])
        step = self._step()
        steps = None if not self._epochs or not self._length else self._epochs * self._length
        progress = Progress(
            step=step,
            total_steps=steps,
            epoch=self._epoch,
            loss=take_training_loss(values),
            metrics=values,
        )
        return [progress, *self._tell_saved(step)]

    def _belongs(self, n: int, total: int | None) -> bool:
        """Tell whether a bar is that of the epoch going on; the first that is not ends the epoch."""
        is_finished = self._n > 0 and self._n == self._length
        is_of_same = total in {None, self._length} if is_finished else True
        self._is_open = self._is_open and n >= self._n and is_of_same
        return self._is_open

    def _step(self) -> int | None:
        assert self._epoch is not None
        if self._epoch == 1:
            return self._n
        return None if self._length is None else (self._epoch - 1) * self._length + self._n
