"""The curves of one attempt, in an event file of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backprop_core import Progress

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FLUSH_S = 5


class Curves:
    """Writes points to the folder of a run.

    :param attempt: Its number, from 1. The file bears it: without, an attempt that begins in the second of the one
        before would write over its curve. Of a later attempt some steps may be those of earlier ones again.
    """

    def __init__(self, folder: Path, *, attempt: int) -> None:
        self._folder = folder
        self._attempt = attempt
        self._writer: SummaryWriter | None = None
        self._step = 0

    def add(self, points: Sequence[Progress]) -> None:
        """Write points, in their order; one without a step stands one after the last."""
        for point in points:
            self._step = self._step + 1 if point.step is None else point.step
            writer = self._open()
            at_s = time.time() if point.at is None else point.at / 1000
            for tag, value in amounts(point):
                writer.add_scalar(tag, value, self._step, at_s)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # Purging makes TensorBoard forget what earlier files say of this step and later ones.
            self._writer = SummaryWriter(
                str(self._folder),
                purge_step=self._step if self._attempt > 1 else None,
                flush_secs=FLUSH_S,
                filename_suffix=f".attempt-{self._attempt:04}",
            )
        return self._writer


def amounts(point: Progress) -> Iterator[tuple[str, float]]:
    """Yield what a point tells, by the name of its curve."""
    for tag, value in (("loss", point.loss), ("epoch", point.epoch), *point.metrics.items()):
        if value is not None and math.isfinite(value):
            yield tag, value
