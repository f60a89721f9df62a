"""Parsers of several plugins read the same lines: who wins, who is interrupted, who is not asked again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from event_reading import read, reader, saying
from fake_plugins import bring, plugins_with
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backprop_builtin.events.json_lines import JsonLines, parse_line
from backprop_core.events import collect_parsers
from backprop_core.records import CheckpointSaved, Event, Progress, ProgressBatch

# Parsers ---------------------------------------------------------------------------------------


def test_per_line_the_first_parser_that_answers_wins() -> None:
    asked: list[str] = []

    def second(line: str) -> list[Event]:
        asked.append(line)
        return [Progress(step=2)]

    one = reader(lambda line: [Progress(step=1)] if line == "mine" else None, second)
    assert read(one, b"mine\nyours\n") == [Progress(step=1), Progress(step=2)]
    assert asked == ["yours"]
    assert read(reader(lambda _: (), second), b"a\n") == [], "an empty answer is one"


def test_a_parser_that_raises_is_named_and_not_asked_again_and_silences_no_other() -> None:
    asked: list[str] = []

    def broken(line: str) -> list[Event]:
        asked.append(line)
        if line == "two":
            raise SystemExit("enough")
        return [Progress(step=1)]

    one = reader(broken, saying(Progress(step=9)))
    assert read(one, b"one\ntwo\nthree\n", b"four\n") == [Progress(step=step) for step in (1, 9, 9, 9)]
    assert asked == ["one", "two"]
    (failure,) = one.failures
    assert (failure.plugin, failure.hook) == (__name__, "backprop_event_parser")
    assert failure.error == "SystemExit: enough"


@pytest.mark.parametrize(
    ("answer", "events", "rejected"),
    [
        ([Progress(step="5")], [], 1),  # type: ignore[arg-type]
        ([Progress(step=1, metrics=None)], [Progress(step=1)], 1),  # type: ignore[arg-type]
        ([Progress(step=1, metrics={5: 1.0, "a": 1})], [Progress(step=1, metrics={"a": 1.0})], 1),  # type: ignore[dict-item]
        ([Progress(step=1, at="now")], [Progress(step=1)], 1),  # type: ignore[arg-type]
        ([Progress(step=1, at=77)], [Progress(step=1, at=77)], 0),
        ([CheckpointSaved(path=Path("/a"))], [], 1),  # type: ignore[arg-type]
        (["step 5", None], [], 2),
        ([Progress()], [], 0),
    ],
)
def test_what_a_parser_answers_is_checked_too(answer: Any, events: list[Event], rejected: int) -> None:
    one = reader(lambda _: answer)
    assert (read(one, b"x\n"), one.rejected, one.failures) == (events, rejected, [])


@pytest.mark.parametrize("answer", ["step 5", 7, object()])
def test_a_parser_that_answers_something_else_than_events_is_named_and_the_next_one_reads(
    answer: Any,
) -> None:
    one = reader(lambda _: answer, saying(Progress(step=1)))
    assert read(one, b"a\nb\n") == [Progress(step=1)] * 2
    assert [failure.error for failure in one.failures] == [
        f"TypeError: it answered {type(answer).__name__}, not events"
    ]


class Chunks:
    """A parser that reads many lines at once as it is told, and one line never."""

    def __init__(self, answer: Callable[[bytes], Any]) -> None:
        self.parse_chunk = answer

    def __call__(self, line: str) -> None:
        return None


@pytest.mark.parametrize("answer", [lambda _: 1 // 0, lambda _: [1], lambda _: 7, lambda _: "step"])
def test_a_parser_that_fails_on_many_lines_at_once_is_named_and_the_next_one_reads_them(
    answer: Callable[[bytes], Any],
) -> None:
    one = reader(Chunks(answer), saying(Progress(step=1)))
    assert read(one, b"a\nb\n", b"c\n") == [Progress(step=1)] * 3
    assert len(one.failures) == 1


class Hanging:
    """A parser that does not come back from its second line."""

    def __init__(self, hang: Callable[[], object]) -> None:
        self.asked: list[str] = []
        self._hang = hang

    def __call__(self, line: str) -> list[Event]:
        self.asked.append(line)
        if len(self.asked) == 2:
            self._hang()
        return [Progress(step=1)]


ENDLESS = re.compile(r"(a+)+$")


@pytest.mark.parametrize(
    "hang",
    [lambda: time.sleep(60), lambda: ENDLESS.match("a" * 60 + "b")],
    ids=["sleep", "regular expression"],
)
def test_a_parser_that_hangs_is_interrupted_named_and_not_asked_again(hang: Callable[[], object]) -> None:
    hanging = Hanging(hang)
    one = reader(hanging, saying(Progress(step=9)))
    began_s = time.monotonic()
    assert read(one, b"one\ntwo\nthree\n", b"four\n") == [Progress(step=step) for step in (1, 9, 9, 9)]
    assert time.monotonic() - began_s < 30
    assert hanging.asked == ["one", "two"]
    assert [failure.plugin for failure in one.failures] == [__name__]


class Signs:
    """A parser whose signs are as given."""

    def __init__(self, signs: Any) -> None:
        self.signs = signs

    def __call__(self, line: str) -> list[Event]:
        return [Progress(step=5)]


@pytest.mark.parametrize("signs", [("text",), 7, [None]])
def test_a_parser_with_signs_of_a_wrong_kind_is_named_and_the_next_one_reads(signs: Any) -> None:
    one = reader(Signs(signs), saying(Progress(step=1)))
    assert read(one, b"a\nb\n") == [Progress(step=1)] * 2
    assert len(one.failures) == 1


class Words:
    """A parser of the lines with a word, which it is told to look for or not."""

    def __init__(self, word: str, *, has_sign: bool) -> None:
        self._word = word
        self.signs = (word.encode(),) if has_sign else ()

    def __call__(self, line: str) -> list[Event] | None:
        return [CheckpointSaved(path=line)] if self._word in line else None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    '{"step": %d}',
                    '{"step": %d, "lr": 1}',
                    "saved %d",
                    "nothing %d",
                    "{%d",
                    "",
                    "{'saved': %d}",
                ]
            ),
            st.sampled_from([1, 2, 3, 5, 12, 80]),
        ),
        max_size=12,
    ),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@example(
    [('{"step": %d}', 1), ("saved %d", 1), ("nothing %d", 50), ('{"step": %d}', 3)], (True, False, False)
)
@example([("nothing %d", 40), ('{"step": %d}', 40), ("saved %d", 30)], (True, True, True))
def test_events_are_in_the_order_of_their_lines_whoever_reads_them(
    runs: list[tuple[str, int]], who: tuple[bool, bool, bool]
) -> None:
    has_sign, has_first, is_first_taking = who
    kinds = [kind for kind, count in runs for _ in range(count)]
    lines = [kind % number if "%" in kind else kind for number, kind in enumerate(kinds)]
    first = Words("nothing 7" if is_first_taking else "never", has_sign=False)
    ahead = [first] if has_first else []
    at_once = reader(*ahead, JsonLines(), Words("saved", has_sign=has_sign))
    one_by_one = reader(*ahead, JsonLines(), Words("saved", has_sign=has_sign))
    expected = [event for line in lines for event in one_by_one.feed(line.encode() + b"\n")]
    assert list(at_once.feed("\n".join(lines).encode() + b"\n")) == expected


def test_a_text_that_nobody_looks_for_is_not_even_cut_into_lines() -> None:
    asked: list[str] = []

    class Sought(Words):
        def __call__(self, line: str) -> list[Event] | None:
            asked.append(line)
            return super().__call__(line)

    one = reader(Sought("saved", has_sign=True))
    assert read(one, b"loading\n" * 1000, b"now saved\nloading\n") == [
        CheckpointSaved(path="/work dir/now saved")
    ]
    assert asked == ["now saved", "loading"]


def test_lines_around_an_odd_one_are_still_read_many_at_once() -> None:
    sizes: list[int] = []

    class Watched(JsonLines):
        def __call__(self, line: str) -> Sequence[Event] | None:
            sizes.append(1)
            return super().__call__(line)

        def parse_chunk(self, lines: bytes) -> Sequence[Event] | None:
            events = super().parse_chunk(lines)
            sizes.append(len(events or ()))
            return events

    lines = [json.dumps({"step": step, "loss": 0.5}) for step in range(4000)]
    lines[1234] = '{"event": "checkpoint_saved", "path": "/c.pt"}'
    found = read(reader(Watched()), "\n".join(lines).encode() + b"\n")
    assert [event.step for event in found] == [*range(1234), 1233, *range(1235, 4000)]
    assert found[1234] == CheckpointSaved(path="/c.pt", step=1233)
    assert sizes.count(1) < 200


def test_what_is_read_at_once_tells_the_last_of_each_field_and_is_written_as_it_came() -> None:
    lines = b'{"step": 1, "loss": 0.5, "epoch": 1}\n{"step": 2, "total_steps": 9}\n{"loss": 0.25}\n'
    batch = reader(JsonLines()).feed(lines)
    assert isinstance(batch, ProgressBatch)
    assert batch.latest == Progress(step=2, loss=0.25, epoch=1, total_steps=9)
    batch.stamp(7)
    assert batch[-1] == Progress(loss=0.25, at=7)
    assert [msgspec.json.decode(line, type=Progress) for line in batch.text.splitlines()] == batch


def test_parsers_come_from_plugins_one_or_several_and_others_than_callables_are_left_out() -> None:
    several = [saying(), JsonLines()]
    plugins = plugins_with(backprop_event_parser=lambda: several)
    bring(plugins, "wrong", backprop_event_parser=lambda: ["text"])
    bring(plugins, "newest", backprop_event_parser=lambda: parse_line)
    found = collect_parsers(plugins, run=None)
    assert found == [parse_line, *several], "the newest plugin is asked first"
    assert [failure.plugin for failure in plugins.failures] == ["wrong"]
