"""Read what Lightning prints while it fits: its tqdm bar, its rich bar, and ModelCheckpoint's `verbose=True`.

Epochs are counted from 0, as Lightning prints them. Steps are batches over all epochs: with gradients accumulated
over several batches Lightning's own `global_step` is smaller. A bar repeats the metrics of earlier steps until
there are new ones; they are told once.

The rich bar, which is the default where rich is installed, prints nothing into a pipe until the training is over,
unless rich takes the pipe for a terminal. So scripts that import Lightning get `TTY_COMPATIBLE=1`. The price is
that what such a script prints through rich holds colours and cursor movements. They are part of its output and are
passed on with it, into a pipe and into `output.log`. Who would rather have plain output and no live progress sets
`TTY_COMPATIBLE=0`: a value that is set is left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from backprop_core import (
    CheckpointSaved,
    Event,
    EventParser,
    Progress,
    RunRecord,
    RunRequest,
    hookimpl,
    pattern,
)

from ._bars import Bar, parse_bar
from ._epochs import total_epochs
from ._values import NUMBER, take_training_loss

_LABELS = ("Epoch ", "Validation", "Sanity Checking", "Training:", "Testing", "Predicting")
_BESIDE = _LABELS[1:]
_SIGNS = (b"Epoch ", b"it/s")
_EPOCH = pattern(r"Epoch ([0-9]{1,9})$")
_RICH = pattern(
    r"Epoch ([0-9]{1,9})(?:/(-?[0-9]{1,9}))? {1,20}[━╸╺ ]{0,400}([0-9]{1,12})/([0-9]{1,12}|--)"
    r" [-:0-9]{1,20} • [-:0-9]{1,20} [0-9.]{1,20}it/s(.{0,4000})"
)
_RICH_BESIDE = pattern(r"(?:Validation|Sanity Checking|Testing|Predicting)[^━╸╺]{0,40}[━╸╺]")
_METRIC = pattern(rf"(?<![\w./@-])([\w./@-]{{1,200}}): ({NUMBER})(?!\w)")
_SAVING = pattern(
    r"Epoch [0-9]{1,9}, global step ([0-9]{1,18}): .{1,500}saving model to (['\"])(.{1,4096})\2 as top"
)
_MARGIN = " " * 10


@hookimpl
def backprop_environment(request: RunRequest) -> Mapping[str, str]:
    is_lightning = request.script.imports.keys() & {"lightning", "pytorch_lightning"}
    return {"TTY_COMPATIBLE": "1"} if is_lightning and "TTY_COMPATIBLE" not in os.environ else {}


@hookimpl(trylast=True)
def backprop_event_parser(run: RunRecord) -> EventParser:
    return LightningBars(run)


class LightningBars:
    """Reads the bars of one attempt."""

    def __init__(self, run: RunRecord) -> None:
        self._is_lightning = False
        # An epoch has at least as many batches as this: in so many epochs the run has come so far.
        self._least = (run.last_step or 0) / (run.metrics.get("epoch", 0.0) + 1)
        self._frame: Place | None = None
        self._begin()

    @property
    def signs(self) -> tuple[bytes, ...]:
        """Within a frame of the rich bar a line may hold anything."""
        return () if self._frame is not None else _SIGNS

    def _begin(self) -> None:
        """A training begins: what was shown before says nothing of it."""
        self._step: int | None = None
        self._shown: dict[str, str] = {}
        self._has_trained = False
        self._epoch = 0
        self._n = 0
        self._length: int | None = None
        self._total: int | None = None

    def __call__(self, line: str) -> Sequence[Event] | None:
        if self._frame is not None:
            if line.startswith(_MARGIN) and (found := _METRIC.match(line.lstrip())):
                return self._tell(self._frame, {found[1]: found[2]})
            self._frame = None
        if not line.startswith(_LABELS):
            return None
        if "%|" in line or "/? [" in line:
            return self._read_tqdm(line)
        if rich := _RICH.match(line):
            return self._read_rich(rich)
        return _saved(line) or (() if _RICH_BESIDE.match(line) else None)

    def _read_tqdm(self, line: str) -> Sequence[Event] | None:
        bar = parse_bar(line)
        if bar is None:
            return None
        texts = dict(_pairs(bar))
        # Nobody else draws a bar of unknown length so, and few others say v_num.
        self._is_lightning |= "/? [" in line or "v_num" in texts
        if not self._is_lightning:
            return None
        if epoch := _EPOCH.match(bar.label):
            place = self._place(int(epoch[1]), bar.n, bar.total, None)
            return [*self._tell(place, texts), *_saved(bar.behind)]
        if line.startswith(("Training:", "Sanity")):
            self._begin()
        elif line.startswith("Validation"):
            self._shown.clear()  # an evaluation that comes out as the last one did is one nevertheless
        return () if line.startswith(_BESIDE) else None

    def _read_rich(self, rich: re.Match[str]) -> Sequence[Event]:
        last = int(rich[2]) if rich[2] else -1
        total = None if rich[4] == "--" else int(rich[4])
        self._frame = self._place(int(rich[1]), int(rich[3]), total, last + 1 if last >= 0 else None)
        return self._tell(self._frame, dict(_METRIC.findall(rich[5])))

    def _place(self, epoch: int, n: int, total: int | None, epochs: int | None) -> Place:
        if epoch != self._epoch:
            self._length = self._total or self._n or self._length
            self._epoch, self._n = epoch, 0
        self._n = max(self._n, n)  # after its last batch the bar is set back to 0
        self._total = total
        length = self._length or total  # with `max_steps` the last epoch's total is smaller than the others'
        if length is not None and length < self._least:
            length = None  # resumed in such an epoch, whose total is then what was left of it
        step = epoch * length + n if length else n if epoch == 0 else None
        return Place(epoch, n, step, epochs * total if epochs and total else None, epochs)

    def _tell(self, place: Place, texts: Mapping[str, str]) -> Sequence[Event]:
        """Return what is new: a step, or metrics that were not shown before."""
        new = {name: text for name, text in texts.items() if self._shown.get(name) != text}
        self._shown.update(new)
        if place.step is not None and self._step is not None and place.step < self._step:
            return ()  # a bar that is set back to 0 before the next epoch
        self._has_trained |= place.n > 0
        values = {name: float(text) for name, text in new.items() if name != "v_num"}
        is_new_step = place.n > 0 and place.step != self._step
        if not self._has_trained or not (values or is_new_step):
            return ()  # what is shown before the first batch comes from the sanity check
        self._step = place.step
        loss = take_training_loss(values)
        values |= total_epochs(place.epochs)
        return [
            Progress(
                step=place.step, total_steps=place.total_steps, epoch=place.epoch, loss=loss, metrics=values
            )
        ]


class Place:
    """Where a training stands: `n` batches into an epoch."""

    def __init__(
        self, epoch: int, n: int, step: int | None, total_steps: int | None, epochs: int | None
    ) -> None:
        self.epoch = epoch
        self.n = n
        self.step = step
        self.total_steps = total_steps
        self.epochs = epochs


def _saved(line: str) -> list[Event]:
    saving = _SAVING.match(line)
    return [CheckpointSaved(path=saving[3], step=int(saving[1]))] if saving else []


_NUMBER = pattern(rf"{NUMBER}$")


def _pairs(bar: Bar) -> list[tuple[str, str]]:
    pairs = [item.strip().partition("=") for item in bar.items]
    return [(name, text) for name, _, text in pairs if _NUMBER.match(text)]
