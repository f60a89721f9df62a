"""Steps over all epochs, from an epoch's number and a position within it."""

from __future__ import annotations

from backprop_core import RunRecord


class EpochCount:
    """Knows whether a script counts epochs from 0 or from 1.

    A script that begins with epoch 0 or 1 shows it. One that goes on in a later epoch does not: then the step
    and the epoch that the run's earlier attempts reached tell, and without those it is taken for 1.
    """

    def __init__(self, run: RunRecord) -> None:
        self._reached_epoch = run.metrics.get("epoch")
        self._reached_step = run.last_step
        self._first: int | None = None

    def step(self, epoch: int, position: int, length: int) -> int:
        """Return how many of the things that `length` counts were done since the first epoch began."""
        if self._first is None or epoch < self._first:
            self._first = self._first_epoch(epoch, length)
        return (epoch - self._first) * length + position

    def steps(self, epochs: int | None, length: int) -> int | None:
        """Return how many of them there are in so many epochs; None where that is not known."""
        return None if epochs is None else epochs * length

    def _first_epoch(self, epoch: int, length: int) -> int:
        if epoch == 0:
            return 0
        if self._reached_epoch is None or self._reached_step is None:
            return 1
        since_epoch_1 = self._reached_step - (self._reached_epoch - 1) * length
        # Beyond the epoch's end: there was one epoch more before it.
        return 0 if since_epoch_1 > length else 1


def total_epochs(epochs: int | None) -> dict[str, float]:
    """Return the metric that tells how many epochs there are; nothing where that is not known."""
    return {} if epochs is None else {"total_epochs": float(epochs)}
