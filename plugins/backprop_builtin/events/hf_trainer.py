"""Read what the Trainer of Hugging Face Transformers prints: dicts of losses and evaluations.

Version 5 prints numbers as texts, `{'loss': '0.6926', ..., 'epoch': '0.5'}`, earlier ones as numbers. No step is
among them. The Trainer draws its training bar anew right after each dict, with the step that it belongs to; what
the bar showed before may be older, for it is not drawn at every step. So a dict waits for that drawing. Where no
bars are drawn (`disable_tqdm`), the step stays unknown and the epoch tells how far the training is.
"""

from __future__ import annotations

from collections.abc import Sequence

from backprop_core import Event, EventParser, Progress, hookimpl, pattern

from ._bars import Bar, parse_bar
from ._values import NUMBER

WAITING_AT_MOST = 64
"""Dicts that wait for a bar: output that is not unbuffered brings many at once."""
EPOCH_ROUNDING = 0.005
"""By how much a printed epoch may be wrong (trainer_callback.py prints at least two places)."""

_ENTRY = pattern(r"\s{0,2}'([^'\\]{1,200})': (?:'([^'\\]{0,200})'|([^,'{}\[\]()]{1,60}))(?:,|$)")
_NUMBER = pattern(NUMBER)


@hookimpl(trylast=True)
def backprop_event_parser() -> EventParser:
    return TrainerLogs()


class TrainerLogs:
    """Joins the dicts of one attempt with the training bar."""

    signs = (b"{'", b"%|")

    def __init__(self) -> None:
        self._waiting: list[dict[str, float]] = []
        self._forget()

    def _forget(self) -> None:
        self._total: int | None = None
        self._n: int | None = None
        self._is_sure = False
        self._per_epoch: float | None = None
        self._has_bars = True

    def __call__(self, line: str) -> Sequence[Event] | None:
        if "{'" in line:
            return self._read_dict(line)
        if "%|" in line:
            bar = parse_bar(line)
            return self._read_bar(bar) if bar else None
        return None

    def _read_dict(self, line: str) -> Sequence[Event] | None:
        before, _, rest = line.partition("{")
        bar = parse_bar(before) if "%|" in before else None
        if bar is None and before.strip():
            return None
        values = parse_dict(rest.partition("}")[0])
        if values is None or not values.keys() & {"loss", "epoch"}:
            return None
        if bar and not bar.label:
            self._total, self._n, self._is_sure = bar.total, bar.n, True  # stdout that is not unbuffered
        if self._n is None or not self._has_bars or "step" in values:
            return [self._progress(values, self._step_at(values))]
        self._waiting.append(values)
        is_done = self._n == self._total and len(self._waiting) > 1
        if not is_done and len(self._waiting) < WAITING_AT_MOST:
            return ()
        self._has_bars = False  # none is drawn between two dicts, so these wait for something else
        return self._release(None)

    def _read_bar(self, bar: Bar) -> Sequence[Event] | None:
        if bar.label or bar.total is None:
            return None
        self._notice(bar)
        if not self._waiting or bar.total != self._total or self._is_of_evaluation(bar):
            return None
        self._has_bars = True
        return self._release(bar.n)

    def _notice(self, bar: Bar) -> None:
        if not self._is_sure and any("loss" in values for values in self._waiting):
            self._is_sure = True  # there is no other bar while the Trainer logs a training loss
            self._total = bar.total
        elif self._total is None or (not self._is_sure and self._n == self._total and bar.n == 0):
            self._total = bar.total
        if bar.total == self._total:
            self._n = bar.n

    def _is_of_evaluation(self, bar: Bar) -> bool:
        """Tell a finished evaluation's bar from the training bar where both have the same total."""
        epoch = self._waiting[-1].get("epoch")
        if self._per_epoch is None or epoch is None or bar.n != bar.total:
            return False
        return epoch * self._per_epoch < 0.8 * bar.n

    def _release(self, n: int | None) -> list[Event]:
        """Turn what waits into events; `n` is the step of the last one, None where no bar tells."""
        waiting, self._waiting = self._waiting, []
        epoch = waiting[-1].get("epoch")
        if n and epoch:
            self._per_epoch = n / epoch
        events: list[Event] = [self._progress(values, self._step_at(values)) for values in waiting[:-1]]
        last = self._step_at(waiting[-1]) if n is None else n
        events.append(self._progress(waiting[-1], last))
        if "train_runtime" in waiting[-1]:
            self._forget()
        return events

    def _step_at(self, values: dict[str, float]) -> int | None:
        """Work the step out from the epoch; None where the epoch is too coarse for that."""
        epoch = values.get("epoch")
        if epoch is None or self._per_epoch is None or self._per_epoch * EPOCH_ROUNDING >= 0.5:
            return None
        step = epoch * self._per_epoch
        return round(step) if abs(step) < 2**53 else None

    def _progress(self, values: dict[str, float], step: int | None) -> Progress:
        metrics = {name: value for name, value in values.items() if name not in {"loss", "epoch", "step"}}
        named = values.get("step")
        if named is not None and named.is_integer():
            step = int(named)
        return Progress(
            step=step,
            total_steps=self._total if step is not None else None,
            epoch=values.get("epoch"),
            loss=values.get("loss"),
            metrics=metrics,
        )


def parse_dict(inside: str) -> dict[str, float] | None:
    """Read a printed dict's numbers, written as numbers or as texts, without evaluating anything.

    :param inside: What stands between the braces. None is returned where an entry is no text or number.
    """
    values, position = {}, 0
    while position < len(inside):
        entry = _ENTRY.match(inside, position)
        if entry is None:
            return None
        position = entry.end()
        text = (entry[2] if entry[2] is not None else entry[3]).strip()
        if _NUMBER.fullmatch(text):
            values[entry[1]] = float(text)
    return values
