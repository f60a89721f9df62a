"""Whatever a line holds, reading it raises nothing, gives up no parser, and records strict JSON within bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from figures import Figures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backprop_builtin.storage.json_file import JsonBackend
from backprop_core.events import EventReader, collect_parsers
from backprop_core.plugin_sources import Wanted, load
from backprop_core.records import CheckpointSaved, Event, Progress, RunRecord
from backprop_core.states import RunState

RUN = RunRecord(id="r", script_path="/train.py", status=RunState.RUNNING, start_time=0)
NASTY = [
    b"", b"{", b"}", b"{}", b"[]", b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b'"', b"\\", b'{"step"', b"\x00",
    b'{"step": 1', b'{"step": 1}}', b'{"step": 1}{"step": 2}', b'{"step": true}', b'{"step": "7"}', b'{"step": 1.5}',
    b'{"step": 9223372036854775808}', b'{"step": -9223372036854775809}', b'{"step": ' + b"9" * 4400 + b"}",
    b'{"step": 1e400}', b'{"loss": NaN}', b'{"loss": -Infinity, "step": 3}', b'{"loss": 1e308, "x": 1e309}',
    b"[" * 5000, b'{"a":' * 5000, b'{"a": ' + b"[" * 990 + b"]" * 990 + b"}", b'{"step": 1, "step": 2}',
    b'{"\\ud800": 1, "step": 1}', b'{"\\u0000": 1}', b'{"\\u001b[31m": 1}', b'{"": 1}', b'\xef\xbb\xbf{"step": 1}',
    b'{"step": 1, "note": "\xff"}', b'{"st\xc3ep": 1}', b'{"metrics": {"a": NaN}}', b'{"at": 1e30, "step": 2}',
    b'{"event": "checkpoint_saved"}', b'{"event": "checkpoint_saved", "path": null}',
    b'{"event": "checkpoint_saved", "path": "a\\u0000b"}',
    b'{"event": "checkpoint_saved", "path": "-x", "step": 1e999}',
    b'{"event": ["checkpoint_saved"], "path": {}}', b"{'loss': nan, 'epoch': 1.0}", b"{'loss': 1e999}",
    b"100%|#########| 99999999999999999999/99999999999999999999 [00:00<00:00, inf it/s, loss=nan]",
    b"Epoch 1/" + b"9" * 400, b"999/1 [====] - ETA: 0s - loss: nan", b"iter 1e5: loss nan", b"step -1: train loss 0.5",
    b"| epoch   1 |  1e999/0 batches | loss  nan | ppl inf", b'\x1b[2K\x1b[1A\r\x08\x08{\x08"step": 4}',
]  # fmt: skip
WORDS = [
    "step",
    "loss",
    "epoch",
    "total_steps",
    "totalSteps",
    "event",
    "path",
    "at",
    "metrics",
    "checkpoint_saved",
]

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
names = st.sampled_from(WORDS) | st.text(max_size=3)
objects = st.dictionaries(names, values, max_size=5).map(lambda said: json.dumps(said).encode())
lines = st.one_of(
    st.sampled_from(NASTY),
    objects,
    objects.flatmap(lambda line: st.integers(0, len(line)).map(lambda end: line[:end])),
    st.binary(max_size=40),
    st.lists(
        st.sampled_from([*NASTY[:20], *(word.encode() for word in WORDS), b" ", b":", b"%|", b"it ["])
    ).map(b"".join),
)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])


def check(events: Sequence[Event]) -> None:
    for event in events:
        assert event.step is None or (type(event.step) is int and -(2**63) <= event.step < 2**63)
        if isinstance(event, CheckpointSaved):
            assert event.path.startswith("/")
            assert "\0" not in event.path
            event.path.encode()
            continue
        numbers = [event.loss, event.epoch, *event.metrics.values()]
        assert all(math.isfinite(number) for number in numbers if number is not None)
        "".join(event.metrics).encode()


def no_constant(text: str) -> NoReturn:
    raise AssertionError(f"{text} is no JSON")


class Reading:
    """All built-in parsers, and a store that keeps what they read."""

    def __init__(self, home: Path) -> None:
        self.cases = 0
        self.home = home
        self.storage = JsonBackend().open(None, home)
        self.storage.save(RUN)
        self.plugins = load(Wanted(with_others=False))

    def read(self, data: bytes) -> None:
        self.cases += 1
        reader = EventReader(collect_parsers(self.plugins, RUN), Path("/work"))
        events = [*reader.feed(data), *reader.end()]
        assert reader.failures == []
        check(events)
        points = [event for event in events if isinstance(event, Progress)]
        if points:
            self.storage.append_metrics("r", points)

    def check_stored(self) -> int:
        stored: list[dict[str, Any]] = []
        with (self.home / "runs" / "r" / "metrics.jsonl").open(encoding="utf-8") as series:
            stored += [json.loads(line, parse_constant=no_constant) for line in series]
        assert all(stored)
        assert self.plugins.failures == []
        return len(stored)


def read_corpus(home: Path, cases: int) -> Reading:
    """Read lines alone and among others, until there were so many cases."""
    reading = Reading(home)
    for line in NASTY:
        reading.read(line + b"\n")
        reading.read(b'{"step": 1, "loss": 0.5}\n' + line + b'\n{"step": 2, "lr": 1}\n')

    @settings(
        max_examples=cases // 21 + 1, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(lines, min_size=20, max_size=20), ends)
    def read(said: list[bytes], end: bytes) -> None:
        reading.read(end.join(said))
        for line in said:
            reading.read(line + end)

    while reading.cases < cases:
        read()
    return reading


@pytest.mark.parametrize("cases", [500, pytest.param(100_000, marks=pytest.mark.soak)])
def test_whatever_a_line_holds_no_parser_fails_and_what_is_stored_is_strict_json(
    tmp_path: Path, cases: int, figures: Figures
) -> None:
    reading = read_corpus(tmp_path / "home", cases)
    points = reading.check_stored()
    assert points > len(NASTY)
    figures(cases=reading.cases, points_stored=points, failures=0)
