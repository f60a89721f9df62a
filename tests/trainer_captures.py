"""What trainers print, in tests/fixtures/trainers, cut as it was read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backprop_core.events import EventReader, collect_parsers
from backprop_core.plugin_sources import Wanted, load
from backprop_core.plugins import Plugins
from backprop_core.records import CheckpointSaved, Event, Progress, RunRecord
from backprop_core.states import RunState

FIXTURES = Path(__file__).parent / "fixtures" / "trainers"
NAMES = sorted({path.name.partition(".")[0] for path in FIXTURES.iterdir()} - {"index"})
CWD = Path("/where/it/runs")


def reads(name: str) -> list[bytes]:
    """Return what one pipe carries, read by read; all at once where the reads were not noted."""
    timeline = FIXTURES / f"{name}.pipe.timeline.json"
    if not timeline.exists():
        return [(FIXTURES / f"{name}.merged").read_bytes()]
    pieces = json.loads(timeline.read_text())["timeline"]
    left = {channel: (FIXTURES / f"{name}.{channel}").read_bytes() for _, channel, _ in pieces}
    chunks = []
    for _, channel, length in pieces:
        chunks.append(left[channel][:length])
        left[channel] = left[channel][length:]
    assert not any(left.values())
    return chunks


def run(**fields: Any) -> RunRecord:
    return RunRecord(id="one", script_path="/train.py", status=RunState.RUNNING, start_time=0, **fields)


def built_ins() -> Plugins:
    return load(Wanted(with_others=False))


def read(chunks: Iterable[bytes], record: RunRecord | None = None) -> list[Event]:
    """Read with all built-in parsers; none may fail, and nothing may be dropped."""
    reader = EventReader(collect_parsers(built_ins(), record or run()), CWD)
    events = [event for chunk in chunks for event in reader.feed(chunk)] + reader.end()
    assert not reader.failures
    assert not reader.rejected
    return events


def read_lines(*lines: str, record: RunRecord | None = None) -> list[Event]:
    return read([line.encode() + b"\n" for line in lines], record)


def points(events: Iterable[Event]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def losses(events: Iterable[Event]) -> list[tuple[int | None, float]]:
    return [(point.step, point.loss) for point in points(events) if point.loss is not None]


def metric(events: Iterable[Event], name: str) -> list[tuple[int | None, float]]:
    return [(point.step, point.metrics[name]) for point in points(events) if name in point.metrics]


def steps(events: Iterable[Event]) -> list[int]:
    return [point.step for point in points(events) if point.step is not None]


def totals(events: Iterable[Event]) -> set[int | None]:
    return {point.total_steps for point in points(events) if point.step is not None}


def epochs(events: Iterable[Event]) -> list[float]:
    """The epochs that are told, each once, in order."""
    return list(dict.fromkeys(point.epoch for point in points(events) if point.epoch is not None))


def saved(events: Iterable[Event]) -> list[tuple[str, int | None]]:
    return [
        (str(Path(event.path).relative_to(CWD)), event.step)
        for event in events
        if isinstance(event, CheckpointSaved)
    ]
