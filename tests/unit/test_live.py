"""The live panel: what a person sees below, and around, the script's own output."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from backprop_core.cli.harmless import HarmlessStream, harmless
from backprop_core.cli.live import LiveView, Speed, gpu_lines, panel
from backprop_core.clock import now_s
from backprop_core.records import Gpu, GpuIdentity, Host, Machine, RunRecord
from backprop_core.states import RunState
from backprop_core.view import Snapshot

COLOUR = re.compile(r"\x1b\[[0-9:;]*m")
WIDTH = 100
_PIECES = [
    "\x1b",
    "[",
    "]",
    "m",
    "J",
    "0",
    ";",
    "?",
    ">",
    "!",
    " ",
    "\r",
    "\n",
    "\t",
    "\x07",
    "\x9b",
    "é",
    "31",
]


# What may reach the terminal ----------------------------------------------------------------------


@given(st.one_of(st.text(), st.lists(st.sampled_from(_PIECES)).map("".join)))
@example("\x1b\x1b[31m\x1b[>4;2m")
@example("\x1b\x1b[2J[2J")
@example("\x1b[\x1b[31m31m")
def test_only_text_colours_and_the_plain_movements_get_through(text: str) -> None:
    shown = harmless(text)
    rest = COLOUR.sub("", shown)
    assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]", rest), shown
    assert harmless(shown) == shown


@given(st.lists(st.sampled_from(["a", "é", "[2J", "\r", "\n", "\t", "\x1b[0m", "\x1b[1;38:5:9m", "\u2028"])))
def test_they_do_get_through_untouched(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert harmless(text) == text


@given(st.lists(st.sampled_from(_PIECES)).map("".join), st.lists(st.integers(0, 60)))
@example("a\x1b[31mé\x1b[2Jb", [2, 3, 4, 5, 6, 7, 8, 9, 10])
def test_a_stream_is_made_harmless_as_the_whole_would_be_however_it_is_cut(
    text: str, cuts: list[int]
) -> None:
    sent, stream = text.encode(), HarmlessStream()
    places = [0, *sorted(cuts), len(sent)]
    shown = b"".join(stream.feed(sent[begin:end]) for begin, end in pairwise(places))
    shown += stream.feed(b"", is_last=True)
    assert shown.decode() == harmless(text)


@given(st.text(alphabet="ab\x1b[\n\r"))
def test_no_line_end_is_lost(text: str) -> None:
    assert [c for c in harmless(text) if c in "\r\n"] == [c for c in text if c in "\r\n"]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a\x1b[2Jb", "ab"),  # clears the screen
        ("a\x1b[10;10Hb", "ab"),
        ("a\x1b[?1049hb", "ab"),  # another screen
        ("a\x1b[>4;2mb", "ab"),  # changes what keys send
        ("a\x1b[?4mb", "ab"),  # makes the terminal answer, as if typed
        ("a\x1bcb", "ab"),  # resets
        ("a\x1b]0;title\x07b", "a0;titleb"),
        ("a\x9b2Jb", "a2Jb"),
        ("a\x1b[12", "a12"),
        ("a\x1b", "a"),
        ("a\x1b\nb", "a\nb"),
    ],
)
def test_sequences_that_do_more_than_colour_are_taken_apart(sent: str, shown: str) -> None:
    assert harmless(sent) == shown


# Speed --------------------------------------------------------------------------------------------


def test_speed_is_taken_over_the_last_seconds_alone() -> None:
    speed = Speed()
    for second in range(20):
        speed.note(second * 2, float(second))
    assert speed.steps_per_s == pytest.approx(2)
    for second in range(20, 40):
        speed.note(40 + (second - 20) * 50, float(second))
    assert speed.steps_per_s == pytest.approx(50)


def test_speed_is_unknown_until_a_step_has_been_made() -> None:
    speed = Speed()
    speed.note(None, 0.0)
    speed.note(7, 1.0)
    speed.note(7, 2.0)
    speed.note(3, 3.0)  # counts from the beginning again
    assert speed.steps_per_s is None


def test_speed_stays_when_no_step_comes() -> None:
    speed = Speed()
    speed.note(0, 0.0)
    speed.note(10, 1.0)
    speed.note(10, 100.0)
    assert speed.steps_per_s == pytest.approx(10)


# The panel ----------------------------------------------------------------------------------------


def snapshot(*, left_s: float = 90.0, machine: Machine | None = None, **fields: Any) -> Snapshot:
    kept = {name: fields.pop(name) for name in ("phase", "paused_s") if name in fields}
    known = {"id": "r-1", "script_path": "/t.py", "status": RunState.RUNNING, "start_time": 1, **fields}
    now = now_s()
    return Snapshot(
        record=RunRecord(**known), deadline_s=now + left_s, started_s=now - 10, machine=machine, **kept
    )


def drawn(what: Snapshot, steps_per_s: float | None = None, *, width: int = WIDTH) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), color_system=None)
    console.print(panel(what, steps_per_s))
    return console.export_text()


BUSY: dict[str, Any] = {
    "name": "digits",
    "left_s": 90.3,
    "last_step": 50,
    "last_loss": 0.0123456,
    "metrics": {"totalSteps": 200.0},
    "checkpoints": ("/a", "/b"),
}


def test_the_panel_says_state_name_time_and_progress_in_one_line() -> None:
    (line,) = drawn(snapshot(**BUSY), 12.3456, width=120).splitlines()
    said = [part for part in re.split("  +", line) if part.strip("━╸╺ ")]
    assert said == "● running,digits,1m 30s left,step 50/200,loss 0.01235,12.3 steps/s,2 ckpt".split(",")
    assert "━" in line


@pytest.mark.parametrize("width", [80, 60, 40, 25])
def test_on_a_narrow_terminal_the_least_important_is_left_out_and_nothing_is_cut(width: int) -> None:
    (line,) = drawn(snapshot(**BUSY), 12.3456, width=width).splitlines()
    whole = "● running  digits  1m 30s left  step 50/200  loss 0.01235  12.3 steps/s  2 ckpt"
    assert len(line) <= width
    assert whole.startswith(line.rstrip())
    assert whole[len(line.rstrip()) :][:2] in ("", "  ")


def test_a_long_name_leaves_room_for_the_rest() -> None:
    (line,) = drawn(snapshot(name="n" * 200), width=60).splitlines()
    assert line.rstrip() == f"● running  {'n' * 29}…  1m 30s left"


def test_what_is_unknown_is_left_out_of_the_panel() -> None:
    (line,) = drawn(snapshot()).splitlines()
    assert "r-1" in line
    for part in ("step", "loss", "ckpt", "None", "GPU"):
        assert part not in line


def test_a_phase_stands_for_the_state_and_time_does_not_go_below_zero() -> None:
    shown = drawn(snapshot(phase="stopping", left_s=-5.0))
    assert "● stopping" in shown
    assert "running" not in shown
    assert "0s left" in shown


def test_the_time_left_stands_still_in_a_pause() -> None:
    what = snapshot(status=RunState.PAUSED, left_s=300.0, paused_s=now_s() - 100)
    assert "6m 40s left" in drawn(what)


def test_a_name_cannot_draw_on_the_terminal() -> None:
    shown = drawn(snapshot(name="a\x1b[2J[red]b"))
    assert r"a\x1b[2J[red]b" in shown


def test_the_gpus_of_the_run_are_shown_and_no_others() -> None:
    gpus = (
        Gpu(index=0, uuid="GPU-a", name="A\x1b[1", vram_total_mb=8192.0, vram_free_mb=2048.0, temp_c=61.0),
        Gpu(index=1, uuid="GPU-b", name="B", vram_total_mb=8192.0),
        Gpu(index=2, uuid="GPU-c", name="C"),
        Gpu(index=3),
    )
    own = (GpuIdentity(uuid="GPU-a"), GpuIdentity(uuid="GPU-b", index=1), GpuIdentity(index=3))
    machine = Machine(host=Host(), gpus=gpus)
    assert [line.plain for line in gpu_lines(snapshot(machine=machine, gpus=own))] == [
        r"  GPU 0 A\x1b[1: 6.0 of 8.0 GB, 61 °C",
        "  GPU 1 B: memory unknown",
        "  GPU 3 : memory unknown",
    ]
    assert gpu_lines(snapshot(machine=Machine(host=Host()), gpus=own)) == []
    assert gpu_lines(snapshot(gpus=own)) == []


# The view on a terminal ---------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that understands what the view needs: line ends, going up, and clearing a line."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for piece in re.findall(r"\x1b\[[0-?]*[ -/]*[@-~]|[\s\S]", COLOUR.sub("", self.getvalue())):
            if piece == "\n":
                row, column = row + 1, 0
                rows += [""] * (row == len(rows))
            elif piece == "\r":
                column = 0
            elif piece == "\x1b[2K":
                rows[row] = ""
            elif piece[0] == "\x1b" and piece[-1] == "A":
                row -= int(piece[2:-1] or 1)
            elif piece[0] != "\x1b":
                rows[row] = rows[row][:column].ljust(column) + piece + rows[row][column + 1 :]
                column += 1
            else:
                assert piece in ("\x1b[?25l", "\x1b[?25h"), piece  # hides and shows the cursor
        while rows and not rows[-1].strip():
            rows.pop()
        return [line.rstrip() for line in rows]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Screen()


def test_an_unfinished_line_stands_below_whole_ones_and_above_the_panel(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.output(b"one\ntwo\n 10%|#")
        view.show(snapshot())
        one, two, unfinished, status = screen.lines()
        assert (one, two, unfinished) == ("one", "two", " 10%|#")
        assert "● running" in status
        view.output(b"\r 20%|##")
        view.show(snapshot())
        assert screen.lines()[:-1] == ["one", "two", " 20%|##"]
        view.output(b"\r100%|####\nthree\n")
        view.show(snapshot())
        assert screen.lines()[:-1] == ["one", "two", "100%|####", "three"]
    assert screen.lines() == ["one", "two", "100%|####", "three"]


def test_an_unfinished_line_stays_when_the_view_ends_and_the_panel_does_not(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.output(b"whole\nhalf")
        view.show(snapshot())
        assert len(screen.lines()) == 3
    assert screen.lines() == ["whole", "half"]


def test_text_that_arrives_in_pieces_is_put_together(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        for byte in "é\x1b[31mr\x1b[0m [bold]\r\nß\n".encode():
            view.output(bytes([byte]))
            view.show(snapshot())
    assert screen.lines() == ["ér [bold]", "ß"]
    assert "\x1b[31mr\x1b[0m" in screen.getvalue()


def test_lines_longer_than_the_terminal_are_neither_cut_nor_broken(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.show(snapshot())
        view.output(b"x" * 3 * WIDTH + b"\n")
        view.output(b"y" * 3 * WIDTH)
        view.show(snapshot())
        assert screen.lines()[1:-1] == ["y" * WIDTH]  # the panel must know how many lines it takes
    assert screen.lines() == ["x" * 3 * WIDTH, "y" * 3 * WIDTH]


def test_control_sequences_of_the_script_do_not_reach_the_terminal(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.output(b"\x1b[2J\x1b]0;t\x07a\n\x1b[?1049hb")
        view.show(snapshot())
        view.tell("from a file\x1b[2J")
    assert "\x1b[2J" not in screen.getvalue()
    assert "1049" not in screen.getvalue()
    assert screen.lines() == ["0;ta", r"backprop: from a file\x1b[2J", "b"]


def test_reasons_to_wait_are_shown_as_long_as_there_are_any(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.waiting(["2 of 2 slots are taken", "[red] heat\x07"], 2, 3)
        assert screen.lines() == ["waiting, place 2 of 3", "  2 of 2 slots are taken", r"  [red] heat\x07"]
        view.waiting([], 1, 1)
        assert screen.lines() == []


def test_a_suspended_view_leaves_the_terminal_clean_and_comes_back(screen: Screen) -> None:
    with redirect_stdout(screen), LiveView() as view:
        view.output(b"one\n")
        view.show(snapshot())
        view.suspend()
        assert screen.lines() == ["one"]
        assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")
        view.resume()
        view.show(snapshot())
        assert "● running" in screen.lines()[-1]


@pytest.mark.parametrize(
    "use",
    [
        lambda view: view.output(b"x\n"),
        lambda view: view.show(snapshot()),
        lambda view: view.tell("x"),
        lambda view: view.waiting(["x"], 1, 1),
        lambda view: view.suspend(),
    ],
)
def test_a_terminal_that_goes_away_ends_nothing(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, use: Callable[[LiveView], None]
) -> None:
    attempts = []

    def fail(text: str) -> int:
        attempts.append(text)
        raise OSError(5, "Input/output error")

    with redirect_stdout(screen), LiveView() as view:
        monkeypatch.setattr(screen, "write", fail)
        use(view)
        assert attempts
        tried = len(attempts)
        view.output(b"more\n")
        view.show(snapshot())
    assert len(attempts) == tried
