"""How records are written on a screen: short, aligned, and without secrets."""

from __future__ import annotations

import pytest

from backprop_core.cli.text import (
    LIST_COLUMNS,
    aligned,
    list_row,
    number,
    run_time_s,
    shown_environment,
)
from backprop_core.clock import now_ms
from backprop_core.records import Attempt, RunRecord
from backprop_core.states import RunState


def record(**fields: object) -> RunRecord:
    values = {
        "id": "r-1",
        "script_path": "/p/t.py",
        "status": RunState.COMPLETED,
        "start_time": 1000,
        **fields,
    }
    return RunRecord(**values)  # type: ignore[arg-type]


def test_environments_are_shown_in_order_with_secrets_hidden() -> None:
    environment = {
        "WANDB_API_KEY": "k9",
        "A": "1=2",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_TOKEN": "k9",
        "DB": "pg://me:k9@h",
    }
    assert list(shown_environment(environment)) == [
        "A=1=2",
        "DB=pg://me:***@h",
        "HF_TOKEN=***",
        "TOKENIZERS_PARALLELISM=false",
        "WANDB_API_KEY=***",
    ]


def test_columns_stand_below_each_other_without_spaces_at_the_end() -> None:
    assert list(aligned([("ID", "NAME"), ("long-id", ""), ("x", "é")])) == [
        "ID       NAME",
        "long-id",
        "x        é",
    ]


def test_cells_are_escaped_before_they_are_measured() -> None:
    assert list(aligned([("a\x1b[2Jb\n", "c"), ("d", "e")])) == [r"a\x1b[2Jb\n  c", "d            e"]


def test_no_cell_shows_a_secret() -> None:
    assert list(aligned([("pg://me:k9@h", "hf_0123456789")])) == ["pg://me:***@h  hf_***"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (0.0, "0"), (1234567, "1234567"), (0.0123456, "0.01235")]
)
def test_a_number_is_short_and_unknown_is_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


def test_the_time_of_a_run_is_that_of_its_attempts_without_what_lay_between() -> None:
    attempts = (Attempt(start=1000, end=3500), Attempt(start=100_000, end=101_000))
    assert run_time_s(record(end_time=101_000, attempts=attempts)) == 3.5
    assert run_time_s(record(end_time=5000)) == 4.0  # from before attempts were recorded
    assert run_time_s(record(start_time=now_ms() - 60_000)) == pytest.approx(60, abs=5)
    assert run_time_s(record(attempts=(Attempt(start=now_ms() - 60_000),))) == pytest.approx(60, abs=5)


def test_a_row_of_the_list_has_a_cell_for_each_column() -> None:
    row = list_row(record(end_time=62_000, last_step=0, last_loss=0.5, checkpoints=("/a", "/b")))
    assert len(row) == len(LIST_COLUMNS)
    assert row[:7] == ("r-1", "-", "completed", "1m 01s", "0", "0.5", "2")
