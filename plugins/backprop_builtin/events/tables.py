"""Read what Ultralytics and fastai print: rows of values under a header that names them.

Ultralytics counts epochs from 1 and prints the parts of its loss, which stay parts. fastai counts the epochs of
its bars from 1, those of its table from 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backprop_core import Event, EventParser, Progress, hookimpl, pattern

from ._values import NUMBER, take_training_loss

_YOLO_ROW = pattern(r"\s{0,40}([0-9]{1,9})/([0-9]{1,9})\s")
_YOLO_BATCH = pattern(r"\s{0,4}[0-9]{1,3}%[^0-9]{0,300}([0-9]{1,12})/([0-9]{1,12})")
_FASTAI_BAR = pattern(
    r"Epoch ([0-9]{1,9})/([0-9]{1,9}) : \|[^|]{0,300}\| [0-9.]{1,9}% \[([0-9]{1,12})/([0-9]{1,12}) [^ \]]{1,40}"
    rf"(?: ({NUMBER}))?\]"
)
_NUMBER = pattern(NUMBER)
_YOLO_NAMES = {"P": "precision", "R": "recall"}


@hookimpl(trylast=True)
def backprop_event_parser() -> EventParser:
    return Tables()


class Tables:
    """Reads the tables of one attempt."""

    def __init__(self) -> None:
        self._yolo: list[str] | None = None
        self._yolo_scores: list[str] | None = None
        self._fastai: list[str] | None = None
        self._length: int | None = None
        self._epochs: int | None = None
        self._step: int | None = None
        self._batch: tuple[int, int] | None = None
        self._is_validating = False

    @property
    def signs(self) -> tuple[bytes, ...]:
        """Under a header any line may be a row."""
        return (b"|", b"GPU_mem", b"train_loss") if self._yolo is None and self._fastai is None else ()

    def __call__(self, line: str) -> Sequence[Event] | None:
        if "GPU_mem" in line:
            self._yolo, self._yolo_scores = line.split(), None
            return () if self._yolo[0] == "Epoch" else None
        if line.startswith("epoch ") and "train_loss" in line:
            self._fastai = line.split()
            return ()
        if line.startswith("Epoch ") and (bar := _FASTAI_BAR.match(line)):
            return self._read_fastai_bar(bar)
        if self._yolo is not None:
            return self._read_yolo(line, self._yolo)
        return self._read_fastai_row(line, self._fastai) if self._fastai is not None else None

    # --- Ultralytics ---

    def _read_yolo(self, line: str, columns: Sequence[str]) -> Sequence[Event] | None:
        if "mAP50-95" in line:
            self._yolo_scores = _score_names(line.partition("):")[0].split())
            return ()
        if "epochs completed in" in line:
            self._yolo = None  # it scores the best checkpoint after that, which is not the last step's
            return ()
        if row := _YOLO_ROW.match(line):
            return self._read_yolo_row(line, int(row[1]), int(row[2]), columns)
        cells = line.split()
        if self._yolo_scores is None or len(cells) != len(self._yolo_scores) or cells[0] != "all":
            return None
        return [Progress(step=self._step, metrics=_numbers(self._yolo_scores, cells))]

    def _read_yolo_row(
        self, line: str, epoch: int, epochs: int, columns: Sequence[str]
    ) -> Sequence[Event] | None:
        head, _, tail = line.partition(": ")
        cells, batch = head.split(), _YOLO_BATCH.match(tail)
        if len(cells) != len(columns) or batch is None:
            return None
        n, length = int(batch[1]), int(batch[2])
        names = [name if name.endswith("loss") else "" for name in columns]
        values = _numbers(names, cells)
        self._step = (epoch - 1) * length + n if n else None
        return [
            Progress(
                step=self._step,
                total_steps=epochs * length if n else None,
                epoch=epoch,
                loss=take_training_loss(values),
                metrics=values,
            )
        ]

    # --- fastai ---

    def _read_fastai_bar(self, bar: re.Match[str]) -> Sequence[Event]:
        epoch, self._epochs, n, length = (int(text) for text in bar.group(1, 2, 3, 4))
        before, self._batch = self._batch, (epoch, n)
        if before is None or before[0] != epoch:
            self._is_validating = False
        elif n < before[1]:
            self._is_validating = True  # its bar has the training's label, and begins anew
        if self._is_validating or n == 0:
            return ()
        self._length = length
        return [
            Progress(
                step=(epoch - 1) * length + n,
                total_steps=self._epochs * length,
                epoch=epoch,
                loss=float(bar[5]) if bar[5] else None,
            )
        ]

    def _read_fastai_row(self, line: str, columns: Sequence[str]) -> Sequence[Event] | None:
        cells = line.split()
        if len(cells) != len(columns) or not _is_count(cells[0]) or ":" not in cells[-1]:
            return None
        values = _numbers(columns[1:-1], cells[1:-1])
        epoch = int(cells[0])
        is_known = self._length is not None and self._epochs is not None
        return [
            Progress(
                step=(epoch + 1) * self._length if self._length is not None else None,
                total_steps=self._epochs * self._length
                if is_known and self._epochs and self._length
                else None,
                epoch=epoch + 1 if self._length is not None else epoch,
                loss=take_training_loss(values),
                metrics=values,
            )
        ]


def _is_count(text: str) -> bool:
    return len(text) < 10 and text.isascii() and text.isdigit()


def _numbers(names: Sequence[str], cells: Sequence[str]) -> dict[str, float]:
    return {
        name: float(cell) for name, cell in zip(names, cells, strict=True) if name and _NUMBER.fullmatch(cell)
    }


def _score_names(header: Sequence[str]) -> list[str]:
    """Name the columns of `Class Images Instances Box(P R mAP50 mAP50-95) Mask(P ...`; "" is no score."""
    names, group = ["", "", ""], ""
    for cell in header[3:]:
        begun, bracket, score = cell.rpartition("(")
        group = begun.lower() if bracket else group
        name = _YOLO_NAMES.get(score.rstrip(")"), score.rstrip(")"))
        names.append(name if group == "box" else f"{group}_{name}")
    return names
