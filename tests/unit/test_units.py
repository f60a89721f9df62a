"""Amounts as people type and read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_core.units import (
    duration_s,
    escape,
    format_amount,
    format_duration,
    format_size,
    memory_limit_mb,
)


@pytest.mark.parametrize(
    ("text", "total_mb", "limit_mb"),
    [
        ("80%", 10_000, 8000),
        ("100%", 10_000, 10_000),
        ("12.5 %", 8000, 1000),
        ("80%", None, None),
        ("8", 10_000, 8192),
        ("8", None, 8192),
        ("0.5", None, 512),
        (" 8GB ", None, 8192),
        ("8 gb", None, 8192),
        ("8G", None, 8192),
    ],
)
def test_a_memory_limit_is_a_share_or_gb(text: str, total_mb: float | None, limit_mb: float | None) -> None:
    assert memory_limit_mb(text, total_mb) == limit_mb


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0%",
        "0.0",
        "101%",
        "-1",
        "8MB",
        "8 9",
        "1e3",
        "nan",
        "inf",
        "%",
        "80%%",
        "9" * 400,
        "8\n9",
    ],
)
def test_anything_else_is_no_memory_limit(text: str) -> None:
    with pytest.raises(ValueError, match="neither a share such as '80%' nor GB"):
        memory_limit_mb(text, 10_000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.4, "0s"),
        (45, "45s"),
        (59.6, "1m 00s"),
        (570, "9m 30s"),
        (3599.7, "1h 00m"),
        (7500, "2h 05m"),
        (86_399, "23h 59m"),
        (86_400, "1d 0h"),
        (273_600, "3d 4h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_an_unknown_amount_stays_unknown() -> None:
    assert format_amount(None, "GB") == "unknown"
    assert format_amount(3.14159, "GB") == "3.1 GB"
    assert format_amount(0, "MB", 0) == "0 MB"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("büro ✓ 日本", "büro ✓ 日本"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("evil\u202etxt", r"evil\u202etxt"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028end\u2029", r"line\u2028end\u2029"),
        ("no-break\xa0space", r"no-break\xa0space"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_text_from_elsewhere_is_shown_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text())
def test_escaped_text_can_always_be_printed(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    shown.encode()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", shown)
    assert escape(shown) == shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("45m", 2700), ("12h", 43_200), ("30d", 2_592_000), ("1.5w", 907_200), ("0s", 0)]
)
def test_ages_are_read_as_people_type_them(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1 d", "30days", "nan d", "1e9d", "٣d", "1d\n"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time such as"):
        duration_s(text)


@pytest.mark.parametrize(
    ("size", "written"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_000_000_000_000, "2000.0 GB")],
)
def test_sizes_are_written_shortly(size: int, written: str) -> None:
    assert format_size(size) == written
