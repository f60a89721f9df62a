"""Read the lines of losses that training scripts print: nanoGPT's, those of the PyTorch examples, and their kin.

Such as `iter 10: loss 4.19, time 1363.90ms, mfu 0.00%`, `step 10: train loss 4.18, val loss 4.18`,
`Train Epoch: 1 [640/60000 (1%)] Loss: 0.12`, `Epoch: [0][ 10/5005] ... Loss 6.9 (7.0)`, `epoch 0: loss 1.34`,
timm's `Train: 0 [ 1/4 ( 50%)]  Loss: 0.687 (0.703)`, and `saved ckpt.pt`. A step counts what the line counts:
iterations, batches or, in the form with percentages, samples; positions within an epoch are summed up over epochs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backprop_core import CheckpointSaved, Event, EventParser, Progress, RunRecord, hookimpl, pattern

from ._bars import parse_bar
from ._epochs import EpochCount, total_epochs
from ._values import NUMBER

_COUNT = r"([0-9]{1,18})(?: {0,3}/ {0,3}([0-9]{1,18}))?"
_STEP = pattern(
    rf"(?:iter|iteration|step|global[_ ]step) {{0,3}}[:=#]? {{0,3}}\[? {{0,9}}{_COUNT}\b", re.IGNORECASE
)
_EPOCH = pattern(rf"\[?epoch {{0,3}}[:=#]? {{0,3}}\[? {{0,9}}{_COUNT}\b\]?", re.IGNORECASE)
_IN_EPOCH = pattern(rf"[\s,:;|-]{{0,8}}\[ {{0,9}}{_COUNT}\]")
_SEPARATOR = pattern(r"[\s,:;|\]\[-]{0,8}")
_SAMPLES = pattern(rf"Train Epoch: ([0-9]{{1,9}}) \[{_COUNT} \([0-9]{{1,3}}%\)\]")
_TIMM_TRAIN = pattern(r"Train: ([0-9]{1,9}) \[ {0,9}([0-9]{1,12})/([0-9]{1,12}) ")
_TIMM_TEST = pattern(r"Test(?: \([A-Za-z0-9]{1,20}\))?: \[ {0,9}([0-9]{1,12})/([0-9]{1,12})\]")
_AVERAGE = pattern(rf"(Loss|Acc@[15]): {{0,12}}{NUMBER} \( {{0,12}}({NUMBER})\)")
_TEST_SET = pattern(
    rf"Test set: Average loss: ({NUMBER})(?:, Accuracy: ([0-9]{{1,12}})/([1-9][0-9]{{0,11}}))?"
)
_LOSS = pattern(
    r"(?<![A-Za-z_])(?:(train|training|val|valid|validation|eval|test)[ _/-])?(?:(?:avg|average|mean)[ _])?loss"
    rf" {{0,3}}[:=]? {{0,3}}({NUMBER})(?!(?-i:[a-z]))",  # what another rank prints may stand right behind it
    re.IGNORECASE,
)
_TIME = pattern(r", time ([0-9]{1,12}(?:\.[0-9]{1,9})?)ms")
_MFU = pattern(r", mfu ([0-9]{1,4}(?:\.[0-9]{1,9})?)%")
_MAX_ITERS = pattern(r"Overriding: max_iters = ([0-9]{1,18})$")
_RANK = pattern(r"\[(?:default|rank)([0-9]{1,6})\]:? ?")
_FILLERS = (
    "the|a|new|best|last|latest|final|current|model|checkpoint|ckpt|weights|state|dict|training|snapshot|file"
    "|to|at|in|as|into|under"
)
_SAVED = pattern(
    rf"\bsav(?:ed|ing) {{1,3}}(?:(?:{_FILLERS}):? {{1,3}}){{0,6}}['\"`]?"
    r"([^\s'\"`,;()]{1,1024}\.(?:pt|pth|ckpt|tar|npz|pkl|safetensors))(?=[\s'\"`,;.!)]|$)",
    re.IGNORECASE,
)
_SAVED_IN_FOLDER = pattern(
    r"\bsav(?:ed|ing) (?:model )?checkpoint (?:to|at|in):? ([^\s'\"]{1,1024})$", re.IGNORECASE
)
_NOT_SAVED = frozenset("not be never if when failed error without".split())


@hookimpl(trylast=True)
def backprop_event_parser(run: RunRecord) -> EventParser:
    return LossLines(run)


class LossLines:
    """Reads the lines of one attempt."""

    signs = (b"oss", b"av", b"Overriding: max_iters")

    def __init__(self, run: RunRecord) -> None:
        self._epochs = EpochCount(run)
        self._max_iters: int | None = None
        self._is_nanogpt = False

    def __call__(self, line: str) -> Sequence[Event] | None:
        if "oss" in line or "sav" in line or "Sav" in line:
            return self._read(line)
        if line.startswith("Overriding: max_iters") and (found := _MAX_ITERS.match(line)):
            self._max_iters = int(found[1])
            return ()
        return None

    def _read(self, line: str) -> Sequence[Event] | None:
        if "%|" in line:
            bar = parse_bar(line)
            line = bar.behind if bar else ""
        if "it/s" in line or (line.startswith("Epoch ") and "saving model to" in line):
            return None  # Lightning's bars, and what Keras and Lightning say of checkpoints
        rank = _RANK.match(line)
        if rank and rank[1] != "0":
            return ()
        text = (line[rank.end() :] if rank else line).lstrip()
        events: list[Event] = []
        if (progress := self._progress(text)) is not None:
            events.append(progress)
        if "sav" in text or "Sav" in text:
            events += self._saved(text)
        return events or None

    def _progress(self, text: str) -> Progress | None:
        match text[:1].lower():
            case "i" | "s" | "g":
                return self._by_step(text)
            case "e" | "[":
                return self._by_epoch(text)
            case "t" if text.startswith(("Train", "Test")):
                return self._by_sample(text) or self._timm(text) or _test_set(text)
        return None

    def _by_step(self, text: str) -> Progress | None:
        if (place := _STEP.match(text)) is None:
            return None
        loss, metrics = _losses(text[place.end() :])
        if loss is None and not metrics:
            return None
        for name, found in (("time_ms", _TIME.search(text)), ("mfu_pct", _MFU.search(text))):
            if found:  # before it is known, mfu is printed as -100
                metrics[name] = float(found[1])
        self._is_nanogpt |= "val_loss" in metrics and text.startswith("step ")
        total = int(place[2]) if place[2] else self._max_iters
        return Progress(step=int(place[1]), total_steps=total, loss=loss, metrics=metrics)

    def _by_epoch(self, text: str) -> Progress | None:
        if (named := _EPOCH.match(text)) is None:
            return None
        rest = text[named.end() :]
        loss, metrics = _losses(rest)
        if loss is None and not metrics:
            return None
        epoch, epochs = int(named[1]), int(named[2]) if named[2] else None
        step, total = self._step_in(epoch, epochs, rest)
        told = {**metrics, **total_epochs(epochs)}
        return Progress(step=step, total_steps=total, epoch=epoch, loss=loss, metrics=told)

    def _step_in(self, epoch: int, epochs: int | None, rest: str) -> tuple[int | None, int | None]:
        place = _IN_EPOCH.match(rest)
        if place is None:
            separator = _SEPARATOR.match(rest)
            place = _STEP.match(rest, separator.end() if separator else 0)
        if place is None:
            return None, None
        if not place[2]:
            return int(place[1]), None
        length = int(place[2])
        return self._epochs.step(epoch, int(place[1]), length), self._epochs.steps(epochs, length)

    def _by_sample(self, text: str) -> Progress | None:
        if (place := _SAMPLES.match(text)) is None or not place[3]:
            return None
        loss, metrics = _losses(text[place.end() :])
        epoch = int(place[1])
        step = self._epochs.step(epoch, int(place[2]), int(place[3]))
        return Progress(step=step, epoch=epoch, loss=loss, metrics=metrics)

    def _timm(self, text: str) -> Progress | None:
        if place := _TIMM_TRAIN.match(text):
            epoch, done, length = int(place[1]), int(place[2]) + 1, int(place[3])
            loss, metrics = _losses(text[place.end() :])
            return Progress(step=epoch * length + done, epoch=epoch, loss=loss, metrics=metrics)
        place = _TIMM_TEST.match(text)
        if place is None or place[1] != place[2]:
            return None  # averages over the batches so far are no evaluation
        averages = _AVERAGE.findall(text)
        metrics = {f"test_{name.lower().replace('@', '')}": float(value) for name, value in averages}
        return Progress(metrics=metrics)

    def _saved(self, text: str) -> list[Event]:
        found = _SAVED.search(text) or _SAVED_IN_FOLDER.search(text)
        if found is None or not _NOT_SAVED.isdisjoint(text[: found.start()].lower().split()[-2:]):
            return []
        is_file = found.re is _SAVED
        # nanoGPT names the folder, and writes one file in it over and over.
        is_in_folder = self._is_nanogpt and not is_file and text.startswith("saving checkpoint to ")
        return [CheckpointSaved(path=f"{found[1]}/ckpt.pt" if is_in_folder else found[1])]


def _losses(text: str) -> tuple[float | None, dict[str, float]]:
    """Return the training loss and what other losses a line names, as `val_loss`."""
    loss: float | None = None
    metrics: dict[str, float] = {}
    for kind, value in _LOSS.findall(text):
        if kind.lower() in {"", "train", "training"}:
            loss = float(value) if loss is None else loss
        else:
            metrics.setdefault(f"{kind.lower()}_loss", float(value))
    return loss, metrics


def _test_set(text: str) -> Progress | None:
    if (found := _TEST_SET.match(text)) is None:
        return None
    metrics = {"test_loss": float(found[1])}
    if found[2]:
        metrics["test_accuracy"] = int(found[2]) / int(found[3])
    return Progress(metrics=metrics)
