"""Output becomes the same events however it is cut, and nothing passes that must not be stored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from event_reading import read, reader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backprop_builtin.events.json_lines import JsonLines, parse_line
from backprop_core.lines import LINE_CAP_BYTES, Lines
from backprop_core.records import CheckpointSaved, Event, Progress


def cut_up(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut at these places, as reads from a pipe do."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(places)]


def lines_of(*chunks: bytes) -> tuple[list[str], int]:
    lines = Lines()
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    found += [line for line in lines.end().decode("utf-8", "replace").split("\n") if line]
    return found, lines.dropped


def read_line(text: str) -> tuple[list[Event], int]:
    """The events in one line, and how many values were rejected."""
    one = reader(parse_line)
    return read(one, text.encode("utf-8", "surrogatepass")), one.rejected


# Lines -----------------------------------------------------------------------------------------

piece = st.one_of(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\0", b"\xff", "é€\U0001f600".encode(), b"\x1b[31m", b"x"]),
    st.binary(max_size=5),
    st.sampled_from([LINE_CAP_BYTES - 1, LINE_CAP_BYTES, LINE_CAP_BYTES + 1]).map(lambda size: b"y" * size),
)
cuts = st.lists(st.integers(0, 2**20), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(piece, max_size=12).map(b"".join), cuts)
@example(b"y" * LINE_CAP_BYTES + b"\n" + b"z" * (LINE_CAP_BYTES + 1) + b"\nend", [LINE_CAP_BYTES, 70_000])
def test_lines_are_the_same_however_output_is_cut(data: bytes, places: list[int]) -> None:
    expected = [part for part in data.replace(b"\r", b"\n").split(b"\n") if part]
    kept = [part.decode("utf-8", "replace") for part in expected if len(part) <= LINE_CAP_BYTES]
    for chunks in ([data], cut_up(data, places)):
        assert lines_of(*chunks) == (kept, len(expected) - len(kept))


def test_a_line_of_a_megabyte_is_dropped_and_counted_once_and_kept_out_of_memory() -> None:
    lines = Lines()
    for _ in range(64):
        assert lines.feed(b"x" * 16384) == []
        assert len(lines._rest) <= LINE_CAP_BYTES
    assert lines.dropped == 1
    assert lines.feed(b"tail\nnext\n") == ["next"]
    assert lines.dropped == 1


# Events ----------------------------------------------------------------------------------------

said = st.sampled_from(
    [
        '{"step": 1, "loss": 0.5}',
        '{"step": 2, "total_steps": 9}',
        '{"loss": 0.25}',
        '{"loss": null}',
        '{"step": true}',
        '{"step": 3, "accuracy": 1}',
        '{"step": 4}{"step": 5}',
        '{"step": 6} {"step": 7}',
        '{"metr\\u0069cs": {"a": 1}}',
        '{"at": 5}',
        "{}",
        "{ }",
        '{"event": "checkpoint_saved", "path": "a.pt"}',
        '{"loss": NaN}',
        '{"step":',
        "8}",
        "{",
        "}",
        "epoch done",
    ]
)
end = st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\n "])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(said, end).map("".join), max_size=8).map("".join), cuts)
@example('{\n"step":1}\n', [])
@example('\n{"step": 4}{"step": 5}\n', [])
@example('{"step": 4}{"step": 5}\n{"step":\n3}\n', [])
@example('{"step": 1}\n{"loss": 0.25}\n{"event": "checkpoint_saved", "path": "a.pt"}\n', [27])
def test_events_are_the_same_however_output_is_cut_and_whether_read_at_once_or_by_line(
    text: str, places: list[int]
) -> None:
    by_line, at_once, in_pieces = reader(parse_line), reader(JsonLines()), reader(JsonLines())
    expected = read(by_line, text.encode())
    assert read(at_once, text.encode()) == expected
    assert read(in_pieces, *cut_up(text.encode(), places)) == expected
    assert at_once.rejected == in_pieces.rejected == by_line.rejected


def test_colours_and_backspaces_are_taken_out_before_parsing() -> None:
    line = b'\x1b[1;31m{"step": \x1b[0m7}\x1b[K\b\b\x1b(B'
    assert read(reader(parse_line), line + b"\n") == []
    assert read(reader(parse_line), line.replace(b"\x1b(B", b"") + b"\n") == [Progress(step=7)]


def test_a_checkpoint_gets_its_absolute_path_and_the_last_step_unless_it_says_one() -> None:
    one = reader(parse_line)
    lines = [
        {"event": "checkpoint_saved", "path": "a.pt"},
        {"step": 5},
        {"loss": 1},
        {"event": "checkpoint_saved", "path": "x/../b.pt"},
        {"event": "checkpoint_saved", "path": "/c.pt", "step": 4},
    ]
    found = read(one, "\n".join(map(json.dumps, lines)).encode())
    assert [event for event in found if isinstance(event, CheckpointSaved)] == [
        CheckpointSaved(path="/work dir/a.pt"),
        CheckpointSaved(path="/work dir/b.pt", step=5),
        CheckpointSaved(path="/c.pt", step=4),
    ]


@pytest.mark.parametrize(
    ("text", "events", "rejected"),
    [
        ('{"step": 1, "loss": NaN}', [Progress(step=1)], 1),
        ('{"step": 1, "loss": -Infinity, "acc": Infinity}', [Progress(step=1)], 2),
        ('{"step": 1, "loss": 1e999}', [Progress(step=1)], 1),
        ('{"step": true, "loss": 1}', [Progress(loss=1.0)], 1),
        ('{"step": "5", "epoch": "x", "loss": 1}', [Progress(loss=1.0)], 2),
        ('{"step": 1.5}', [], 1),
        ('{"step": 2.0}', [Progress(step=2)], 0),
        ('{"step": 9223372036854775807}', [Progress(step=2**63 - 1)], 0),
        ('{"step": -9223372036854775808}', [Progress(step=-(2**63))], 0),
        ('{"step": 9223372036854775808}', [], 1),
        ('{"step": 18446744073709551616, "loss": 1}', [Progress(loss=1.0)], 1),
        ('{"step": ' + "9" * 400 + "}", [], 1),
        ('{"step": ' + "9" * 5000 + "}", [], 0),
        ('{"step": 1, "acc": ' + "9" * 400 + "}", [Progress(step=1)], 1),
        ('{"acc": true, "note": "x", "list": [1], "none": null}', [], 0),
        ("[" * 50_000, [], 0),
        ('{"a":' * 10_000, [], 0),
        ('{"step": 1, "\\ud800": 1, "a\\u0000": 2, "b": 3}', [Progress(step=1, metrics={"b": 3.0})], 2),
        ('{"event": "checkpoint_saved", "path": "a\\u0000b"}', [], 1),
        ('{"event": "checkpoint_saved", "path": "a\\udcff"}', [], 1),
        ('{"event": "checkpoint_saved", "path": ""}', [], 1),
        ('{"event": "checkpoint_saved", "path": ["a"]}', [], 1),
        ('{"event": "checkpoint_saved"}', [], 1),
        ('{"event": "checkpoint_saved", "path": "/a", "step": NaN}', [CheckpointSaved(path="/a")], 1),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_must_not_be_stored_is_left_out_and_counted(
    text: str, events: list[Event], rejected: int
) -> None:
    assert read_line(text) == (events, rejected)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.one_of(
    st.sampled_from(["step", "loss", "epoch", "total_steps", "totalSteps", "event", "path", "at", "metrics"]),
    st.text(max_size=4),
    st.just("\ud800"),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, values, max_size=6))
def test_whatever_a_script_prints_what_comes_out_is_strict_json_within_bounds(said: dict[str, Any]) -> None:
    one = reader(JsonLines())
    for event in read(one, json.dumps(said).encode() + b"\n"):
        if isinstance(event, CheckpointSaved):
            assert event.path.startswith("/")
            event.path.encode()
        else:
            numbers = [event.loss, event.epoch, *event.metrics.values()]
            assert all(
                type(number) is float and math.isfinite(number) for number in numbers if number is not None
            )
            "".join(event.metrics).encode()
        assert event.step is None or (type(event.step) is int and -(2**63) <= event.step < 2**63)
    assert one.failures == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xff\xfe{\0}\x1b")
@example(b'{"step": 1}\0')
def test_bytes_of_any_kind_do_no_harm(data: bytes) -> None:
    one = reader(JsonLines(), parse_line)
    read(one, data)
    assert one.failures == []
