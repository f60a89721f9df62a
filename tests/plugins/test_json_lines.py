"""JSON objects in a script's output, one a line, are progress and checkpoints; any other line is not."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from backprop_builtin.events.json_lines import JsonLines, backprop_event_parser, parse_line
from backprop_core import CheckpointSaved, Event, Progress, ProgressBatch
from backprop_core.events import collect_parsers
from backprop_core.plugin_sources import Wanted, load

PLAIN = b'{"step": 1, "loss": 0.5}\n{"step":2,"total_steps":10,"epoch":0.1}'


def test_plugin_brings_a_parser_that_is_asked_before_the_other_built_in_ones() -> None:
    assert isinstance(backprop_event_parser(), JsonLines)
    first, *_ = collect_parsers(load(Wanted(with_others=False)), run=None)
    assert isinstance(first, JsonLines)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"step": 500, "loss": 0.015}', Progress(step=500, loss=0.015)),
        ('  {"step": 5} ', Progress(step=5)),
        (
            '{"step": 1, "total_steps": 9, "epoch": 0.5, "lr": 1e-3, "top1": 7}',
            Progress(step=1, total_steps=9, epoch=0.5, metrics={"lr": 1e-3, "top1": 7}),
        ),
        ('{"totalSteps": 9, "loss": 1}', Progress(total_steps=9, loss=1)),
        ('{"val_loss": 0.5, "note": "x", "ok": true, "list": [1]}', Progress(metrics={"val_loss": 0.5})),
        ('{"event": "checkpoint_saved", "path": "/tmp/c.pt"}', CheckpointSaved(path="/tmp/c.pt")),
        (
            '{"event": "checkpoint_saved", "path": "c", "step": 3, "loss": 1}',
            CheckpointSaved(path="c", step=3),
        ),
        ('{"event": "epoch_end", "loss": 1}', Progress(loss=1)),
        ('{"metrics": {"a": 1}, "step": 1}', Progress(step=1)),
        ('{"at": 5, "step": 1}', Progress(step=1, metrics={"at": 5})),
    ],
)
def test_a_line_that_is_an_object_is_an_event(line: str, event: Event) -> None:
    assert parse_line(line) == [event]
    assert JsonLines()(line) == [event]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "epoch 1 loss 0.5",
        "[1, 2]",
        "5",
        "null",
        '"step"',
        "{",
        "{}",
        '{"step": null}',
        '{"note": "x"}',
        '{"step": 1} {"step": 2}',
        '{"step": 1}, ',
        "{'step': 1}",
        '{"a":' * 5000,
        '{"step": ' + "9" * 5000 + "}",
    ],
    ids=lambda line: line[:30],
)
def test_any_other_line_is_left_to_others(line: str) -> None:
    assert parse_line(line) is None
    assert not JsonLines().parse_chunk(line.encode())


def test_what_pythons_json_writes_beyond_the_standard_is_handed_on_to_be_counted() -> None:
    (event,) = parse_line(json.dumps({"step": 1, "loss": math.nan, "acc": math.inf})) or ()
    assert isinstance(event, Progress)
    assert (event.step, event.metrics) == (1, {"acc": math.inf})
    assert event.loss is not None
    assert math.isnan(event.loss)


def test_many_plain_lines_are_read_at_once() -> None:
    assert JsonLines().parse_chunk(PLAIN) == [
        Progress(step=1, loss=0.5),
        Progress(step=2, total_steps=10, epoch=0.1),
    ]


def test_many_lines_of_other_numbers_are_read_at_once_too_and_mean_what_each_means_alone() -> None:
    lines = [
        '{"step": 1, "loss": 2, "accuracy": 1, "lr": 1e-3}',
        '{"accuracy": 0.5}',
        '{"epoch": 3, "totalSteps": 7, "total_steps": 9, "at": 5, "metrics": 6}',
        '{"a": 1, "a": 2, "loss": 0.25}',
        '{"step": 9223372036854775807, "big": -9223372036854775808}',
    ]
    read = JsonLines().parse_chunk("\n".join(lines).encode())
    assert read == [event for line in lines for event in parse_line(line) or ()]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": %d, "loss": 0.5}',
        '{"step":%d,"epoch":1.5e-3,"total_steps":7}',
        '{"total_steps": 7, "lr": 1e-05, "acc@5": %d}',
        '{"lr": 1e-05, "at": 2, "metrics": 3, "step": %d, "total_steps": 9}',
        '{"step": %d, "lr": 0.1, "grad.norm-2": -2E+3, "loss": 0.5}',
        '{"loss": %d}',
        '{"": %d}',
        '{"big": 9223372036854775808, "loss": %d}',
    ],
)
def test_lines_with_the_same_names_mean_what_each_means_alone_in_memory_and_in_writing(line: str) -> None:
    lines, alone = three(line)
    batch = JsonLines().parse_chunk(lines)
    assert isinstance(batch, ProgressBatch)
    assert list(batch) == alone
    assert [msgspec.json.decode(each, type=Progress) for each in batch.text.splitlines()] == alone
    assert batch.latest == alone[-1]


@pytest.mark.parametrize(
    "line",
    [
        '{"lr": 0.1, "loss": 0.5, "acc": %d}',
        '{"totalSteps": 7, "total_steps": %d}',
        '{"a": 1, "a": %d}',
        '{"a}": 1, "loss": %d}',
        '{"path": 1, "loss": %d}',
        '{"lr":  %d}',
    ],
)
def test_lines_whose_writing_is_not_that_of_a_series_are_read_all_the_same(line: str) -> None:
    lines, alone = three(line)
    batch = JsonLines().parse_chunk(lines)
    assert not isinstance(batch, ProgressBatch)
    assert batch in (alone, None)


def three(line: str) -> tuple[bytes, list[Event]]:
    """Three lines with other steps, and what they mean one by one."""
    lines = [line % step for step in (5, 123456, 7)]
    return "\n".join(lines).encode(), [event for each in lines for event in parse_line(each) or ()]


@pytest.mark.parametrize(
    "odd",
    [
        '{"step": 2, "loss3": 0.5, "lr": 1}',
        '{"step": 2, "loss": 0.5, "lr2": 1}',
        '{"step": 2, "loss": 0.5, "lre": 1}',
        '{"steep": 2, "loss": 0.5, "lr": 1}',
        '{"step": 2, "loss": 0.5.5, "lr": 1}',
        '{"step": 2, "loss": -, "lr": 1}',
        '{"step": 2, "loss": , "lr": 1}',
        '{"step": 2, "loss": 1e999, "lr": 1}',
        '{"step": 2.5, "loss": 0.5, "lr": 1}',
        '{"step": 9223372036854775808, "loss": 0.5, "lr": 1}',
        '{"step": 2, "loss": 0.5, "lr": 1}5',
        '{"lr": 1, "loss": 0.5, "step": 2}',
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_a_line_that_only_looks_like_those_around_it_is_read_for_what_it_is(odd: str, place: int) -> None:
    lines = ['{"step": 1, "loss": 0.5, "lr": 1}', '{"step": 7, "loss": 0.25, "lr": 1e-3}']
    lines.insert(place, odd)
    batch = JsonLines().parse_chunk("\n".join(lines).encode())
    assert batch is None or list(batch) == [event for each in lines for event in parse_line(each) or ()]


@pytest.mark.parametrize(
    "line",
    [
        b"epoch done",
        b"",
        b'{"step": 3, "accuracy": true}',
        b'{"step": 3, "note": "x"}',
        b'{"event": 1}',
        b'{"path": 1, "loss": 2}',
        b'{"step": true}',
        b'{"step": 1.0}',
        b'{"step": 9223372036854775808}',
        b'{"loss": NaN}',
        b'{"loss": 1e999}',
        b'{"loss": null}',
        b"{}",
        b"{ }",
        b'{"step": 3} {"step": 4}',
        b'{"step":\n3}',
        b'{"metrics": {"a": 1}}',
        b'{"metr\\u0069cs": {"a": 1}}',
        b'{"lr": 1e999}',
        b'{"total_steps": 1.0, "lr": 1}',
        b'{"step": 1}\xff',
        b'{"step\xff": 1}',
        b'{"st\\u0065p": 1}',
    ],
)
def test_with_any_other_line_among_them_they_are_left_to_be_read_one_by_one(line: bytes) -> None:
    parser = JsonLines()
    for lines in (line, PLAIN + b"\n" + line, line + b"\n" + PLAIN):
        assert parser.parse_chunk(lines) is None
