"""Read progress from the bars that tqdm draws in scripts of any kind.

A bar labelled `Epoch 3` (or `Epoch 3/10`) counts within that epoch. Of all other bars one is followed: the
outermost that nothing tells to be of validation or preparation, or the first that shows a loss. Started anew
it goes on counting. A bar that stands at 0 tells no step: a resumed script has not yet moved it to its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backprop_core import Event, EventParser, Progress, RunRecord, hookimpl, pattern

from ._bars import Bar, parse_bar
from ._epochs import EpochCount, total_epochs
from ._values import NUMBER, named_numbers, take_training_loss

_EPOCH = pattern(
    r"\bepoch {0,2}[:=#]? {0,2}[\[(]?([0-9]{1,9})(?: {0,2}(?:/|of) {0,2}([0-9]{1,9}))?", re.IGNORECASE
)
_EPOCHS = pattern(r"epochs?$", re.IGNORECASE)
_TRAINING = pattern(r"(?:train|step|iter|batch|optimi|fit)", re.IGNORECASE)
_NOT_TRAINING = pattern(
    r"\b(?:val|valid|validat\w*|eval|evaluat\w*|test|testing|predict\w*)\b", re.IGNORECASE
)
_LOSS = pattern(rf"\bloss {{0,2}}[:=]? {{0,2}}({NUMBER})", re.IGNORECASE)
_CHANGING = pattern(r"[-+.0-9e]+")


@hookimpl(trylast=True)
def backprop_event_parser(run: RunRecord) -> EventParser:
    return TqdmBars(run)


class TqdmBars:
    """Reads the bars of one attempt."""

    signs = (b"|", b"it [")

    def __init__(self, run: RunRecord) -> None:
        self._epochs = EpochCount(run)
        self._followed = Followed()
        self._told: Progress | None = None

    def __call__(self, line: str) -> Sequence[Event] | None:
        if "%|" not in line and "it [" not in line:
            return None
        bar = parse_bar(line)
        if bar is None:
            return None
        progress = self._progress(bar)
        if progress is None or progress == self._told:
            return ()
        self._told = progress
        return [progress]

    def _progress(self, bar: Bar) -> Progress | None:
        values = named_numbers(bar.items)
        loss = take_training_loss(values)
        if loss is None and (found := _LOSS.search(bar.label)):
            loss = float(found[1])
        if _NOT_TRAINING.search(bar.label):
            return None
        epoch, step, total = self._place(bar, has_loss=loss is not None)
        if epoch is None and step is None:
            return None
        if bar.n == 0:
            step = total = None
            if loss is None and not values:
                return None
        values |= total_epochs(_epochs_of(bar))
        return Progress(step=step, total_steps=total, epoch=epoch, loss=loss, metrics=values)

    def _place(self, bar: Bar, *, has_loss: bool) -> tuple[int | None, int | None, int | None]:
        """Return the epoch, step and total that a bar tells; nothing for a bar that is not followed."""
        if named := _EPOCH.search(bar.label):
            self._followed.leave()
            epoch, epochs = int(named[1]), int(named[2]) if named[2] else None
            if bar.total is None:
                return epoch, None, None
            step = self._epochs.step(epoch, bar.n, bar.total)
            return epoch, step, self._epochs.steps(epochs, bar.total)
        if _EPOCHS.match(bar.label):
            self._followed.leave()
            return bar.n, None, None
        return (None, *self._followed.count(bar, has_loss=has_loss))


def _epochs_of(bar: Bar) -> int | None:
    """Return how many epochs there are, as far as a bar tells."""
    if named := _EPOCH.search(bar.label):
        return int(named[2]) if named[2] else None
    return bar.total if _EPOCHS.match(bar.label) else None


class Followed:
    """The one bar, of those that name no epoch, that counts the steps."""

    def __init__(self) -> None:
        self._bar: tuple[str, int | None] | None = None
        self._has_loss = False
        self._has_left = False
        self._n = 0
        self._before = 0
        self._is_total = True

    def leave(self) -> None:
        """Bars that name epochs tell it all: from now on only one with a loss is followed beside them."""
        self._has_left = True
        if not self._has_loss:
            self._bar = None

    def count(self, bar: Bar, *, has_loss: bool) -> tuple[int | None, int | None]:
        """Return the step and the total, both None where this bar is not followed."""
        # What changes in a label from one drawing to the next, a loss, must not make it another bar.
        name = (_CHANGING.sub("#", bar.label), bar.total)
        is_labelled_now = self._bar is not None and self._n == 0 and self._bar[1] == bar.total
        if name != self._bar and not is_labelled_now:
            if not self._is_better(bar, has_loss=has_loss):
                return None, None
            self._follow(has_loss=has_loss)
        elif bar.n < self._n:
            self._before += bar.total or self._n  # its last drawing is left out where it is to vanish
            self._is_total = False
        self._bar = name
        self._n = bar.n
        self._has_loss |= has_loss
        return self._before + bar.n, bar.total if self._is_total else None

    def _is_better(self, bar: Bar, *, has_loss: bool) -> bool:
        is_training = has_loss or not bar.label or _TRAINING.match(bar.label) is not None
        if not is_training:
            return False
        if self._bar is None:
            return has_loss or not self._has_left
        is_done = self._n == self._bar[1]
        if has_loss:
            return is_done or not self._has_loss
        return is_done and not self._has_loss and bool(bar.label)

    def _follow(self, *, has_loss: bool) -> None:
        """Follow another bar than so far."""
        if self._bar is not None and self._n != self._bar[1]:
            self._is_total = False  # it runs within the other, and so once more for each of its steps
        elif self._has_loss:
            self._before += self._n
            self._is_total = False
        self._has_loss = has_loss
