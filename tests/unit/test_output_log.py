"""A run's output.log stays under its limit by leaving out the middle, and says so."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import mode

from backprop_core.output_log import MARK, OutputLog

LIMIT_BYTES = 1000
MARK_BYTES = len(MARK % 0)
_MARK = re.compile(rb"\n\[backprop left out (\d{20}) bytes here\]\n")


def numbered(size: int) -> bytes:
    """Make bytes of which no two places look alike, and none like a mark."""
    return b"".join(b"%07d," % number for number in range(size // 8 + 1))[:size]


def write(path: Path, chunks: Sequence[bytes], limit: int = LIMIT_BYTES) -> OutputLog:
    log = OutputLog(path, limit)
    for chunk in chunks:
        log.write(chunk)
    log.close()
    return log


def check_middle_left_out(found: bytes, output: bytes) -> None:
    """Assert that head, count and tail are exactly those of the output, and nothing else is there."""
    if len(output) <= LIMIT_BYTES:
        assert found == output
        return
    head, count, tail = _MARK.split(found)
    assert head == output[: LIMIT_BYTES // 2]
    assert output.endswith(tail)
    assert len(head) + int(count) + len(tail) == len(output)
    assert len(found) <= LIMIT_BYTES
    assert len(tail) >= (LIMIT_BYTES // 2 - MARK_BYTES) // 2


@settings(max_examples=60)
@given(
    chunks=st.lists(st.integers(0, 1700), max_size=12), reopen_after=st.lists(st.integers(0, 12), max_size=3)
)
def test_the_first_half_and_the_newest_stay_and_the_mark_counts_the_rest(
    chunks: list[int], reopen_after: list[int]
) -> None:
    output = numbered(sum(chunks))
    with tempfile.TemporaryDirectory() as folder:
        path, place = Path(folder, "output.log"), 0
        log = OutputLog(path, LIMIT_BYTES)
        for number, size in enumerate(chunks):
            log.write(output[place : place + size])
            place += size
            if number in reopen_after:  # as a resumed run does
                log.close()
                log = OutputLog(path, LIMIT_BYTES)
        log.close()
        assert (log.lost_bytes, log.error) == (0, None)
        check_middle_left_out(path.read_bytes(), output)


def test_large_logs_are_moved_piece_by_piece(tmp_path: Path) -> None:
    limit, output = 6 << 20, numbered(7 << 20)
    write(tmp_path / "log", [output], limit)
    head, count, tail = _MARK.split((tmp_path / "log").read_bytes())
    assert len(tail) > 1 << 20  # more than is moved at once
    assert output.startswith(head)
    assert output.endswith(tail)
    assert len(head) + int(count) + len(tail) == len(output)


def test_a_limit_too_small_for_the_mark_still_keeps_something(tmp_path: Path) -> None:
    output = numbered(5000)
    write(tmp_path / "log", [output], 1)
    found = (tmp_path / "log").read_bytes()
    _, count, tail = _MARK.split(found)
    assert tail
    assert output.endswith(tail)
    assert int(count) + len(tail) == len(output)
    assert len(found) <= 4 * MARK_BYTES


def test_a_lower_limit_holds_for_a_log_that_is_longer_already(tmp_path: Path) -> None:
    output = numbered(5000)
    write(tmp_path / "log", [output[:4000]], 10_000)
    write(tmp_path / "log", [output[4000:]])
    check_middle_left_out((tmp_path / "log").read_bytes(), output)


def test_output_that_imitates_the_mark_is_not_counted_by(tmp_path: Path) -> None:
    first = (b"x" * (LIMIT_BYTES // 2) + (MARK % 77).encode().replace(b"7", b"?")).ljust(LIMIT_BYTES, b".")
    write(tmp_path / "log", [first])
    write(tmp_path / "log", [b"y"])
    found = (tmp_path / "log").read_bytes()
    (count,) = _MARK.findall(found)
    assert len(found) - MARK_BYTES + int(count) == LIMIT_BYTES + 1


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "log", [b"x"])
    assert mode(tmp_path / "log") == 0o600


def test_a_full_disk_loses_output_counts_it_and_nothing_else() -> None:
    log = OutputLog(Path("/dev/full"), LIMIT_BYTES)
    log.write(b"x" * 300)
    log.write(b"x" * 3000)
    assert log.lost_bytes == 3300
    assert log.error == "No space left on device"
    log.close()


@pytest.mark.parametrize("what", ["missing/log", "link"])
def test_a_log_that_cannot_be_opened_loses_everything_aloud(tmp_path: Path, what: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    log = write(tmp_path / what, [b"abc", b"de"])
    assert log.lost_bytes == 5
    assert log.error
    assert os.listdir(tmp_path) == ["link"]


def test_what_comes_after_the_end_is_counted_as_lost(tmp_path: Path) -> None:
    log = write(tmp_path / "log", [b"abc"])
    log.write(b"late")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"abc"
    assert log.lost_bytes == 4
