"""What every parser of output keeps, as tests to inherit."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from backprop_core.interfaces import EventParser
from backprop_core.records import CheckpointSaved, Event, Progress

FOREIGN = (
    " ",
    "\t",
    "Loading the data ...",
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "UserWarning: this may be slow",
    "{not json}",
    "[1, 2, 3]",
    "=" * 40,
    "-> done.",
    "\U0001f680 off we go",
)
"""Lines that nobody's trainer reports by."""

HOSTILE = (
    "\x00\x01\x7f",
    "\ud800",
    "{" * 5_000,
    "[" * 5_000 + "1" + "]" * 5_000,
    '{"step": NaN, "loss": Infinity}',
    '{"step": 1e999, "loss": -1e999}',
    '{"step": true, "loss": "0.5"}',
    '{"step": 99999999999999999999999999, "loss": 1}',
    '{"event": "checkpoint_saved", "path": 5}',
    '{"event": "checkpoint_saved", "path": ""}',
    "step: " + "9" * 4_000,
    "loss=" + "." * 4_000,
    "0.1e" * 2_000,
    " " * 60_000 + "x",
    "1 " * 30_000,
    "|" * 60_000,
)
"""Lines that take parsers down, or that take them very long."""

AMOUNTS = ("nan", "inf", "-1", "1e999", "9" * 400, "", "0x1F", "½")
LONG_S = 5.0
_NUMBER = re.compile(r"\d+(\.\d+)?")


class EventParserContract:
    """What every parser keeps: inherit from this, override `parser` and `told`.

    ::

        class TestMyParser(EventParserContract):
            @pytest.fixture
            def parser(self):
                return parse_line

            @pytest.fixture
            def told(self):
                return {"round 3: err 0.25": [Progress(step=3, loss=0.25)]}
    """

    @pytest.fixture
    def parser(self) -> EventParser:
        """Return a fresh parser."""
        raise NotImplementedError("override parser")

    @pytest.fixture
    def told(self) -> Mapping[str, Sequence[Event]]:
        """Return lines of the parser's own, in the order of a run, with what each tells."""
        raise NotImplementedError("override told")

    def test_parser_reads_its_own_lines(
        self, parser: EventParser, told: Mapping[str, Sequence[Event]]
    ) -> None:
        assert told
        assert {line: list(parser(line) or ()) for line in told} == {
            line: list(events) for line, events in told.items()
        }

    @pytest.mark.parametrize("line", FOREIGN)
    def test_line_of_nobodys_is_left_to_others(self, parser: EventParser, line: str) -> None:
        assert parser(line) is None

    @pytest.mark.parametrize("line", HOSTILE, ids=lambda line: ascii(line[:20]))
    def test_hostile_line_is_survived_in_time(self, parser: EventParser, line: str) -> None:
        began_s = time.perf_counter()
        assert_events(parser(line))
        assert time.perf_counter() - began_s < LONG_S

    @pytest.mark.parametrize("amount", AMOUNTS, ids=lambda amount: amount[:10] or "nothing")
    def test_own_line_with_an_impossible_number_is_survived(
        self, parser: EventParser, told: Mapping[str, Sequence[Event]], amount: str
    ) -> None:
        for line in told:
            for found in _NUMBER.finditer(line):
                assert_events(parser(line[: found.start()] + amount + line[found.end() :]))

    def test_own_line_that_was_cut_or_goes_on_for_ever_is_survived_in_time(
        self, parser: EventParser, told: Mapping[str, Sequence[Event]]
    ) -> None:
        began_s = time.perf_counter()
        for line in told:
            for cut in range(len(line)):
                assert_events(parser(line[:cut]))
            assert_events(parser(line * (60_000 // max(len(line), 1))))
        assert time.perf_counter() - began_s < LONG_S

    def test_one_of_its_signs_is_in_every_line_of_its_own(
        self, parser: EventParser, told: Mapping[str, Sequence[Event]]
    ) -> None:
        for line in told:  # what its signs are may depend on what it has read
            signs = getattr(parser, "signs", ())
            assert all(isinstance(sign, bytes) and sign for sign in signs)
            assert not signs or any(sign in line.encode() for sign in signs), line
            parser(line)

    def test_chunk_of_lines_tells_what_the_lines_do(
        self, parser: EventParser, told: Mapping[str, Sequence[Event]]
    ) -> None:
        parse_chunk = getattr(parser, "parse_chunk", None)
        if parse_chunk is None:
            pytest.skip("this parser reads one line at a time")
        events = parse_chunk("\n".join(told).encode())
        assert events is None or list(events) == [event for each in told.values() for event in each]
        for line in HOSTILE:
            assert_storable(parse_chunk(line.encode("utf-8", "surrogatepass")))


def assert_events(answer: Any) -> None:
    """Hold an answer to what a parser may answer."""
    assert answer is None or (
        isinstance(answer, list | tuple)
        and all(isinstance(event, Progress | CheckpointSaved) for event in answer)
    )


def assert_storable(answer: Any) -> None:
    """Hold the answer for a chunk to what is then not checked event by event."""
    assert_events(answer)
    for event in answer or ():
        if isinstance(event, Progress):
            amounts = (event.epoch, event.loss, *event.metrics.values())
            assert all(amount is None or math.isfinite(amount) for amount in amounts)
            assert all(-(2**63) <= (step or 0) < 2**63 for step in (event.step, event.total_steps))
