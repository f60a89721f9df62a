"""Draw docs/run.svg: a terminal in which a real run is time-boxed and resumed.

pip install pyte && python docs/make_run_picture.py

The command is run in a pseudo-terminal with a home of its own; pyte, a terminal emulator, turns what it writes
into the screen that a person would see. Nothing in the picture but the prompts and the breaks is made up here.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import pyte  # type: ignore[import-untyped,import-not-found,unused-ignore]  # for this page alone, see above

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "run.svg"
RUN = "backprop run examples/train_iris.py --name iris -m 0.05"
RESUME = "backprop resume iris -m 1"
WORDS = re.compile(r"\S+(?: \S+)*")
HALFWAY = re.compile(r"● running .* 1s left .*loss .*steps/s")  # of the 3 s that RUN has

COLUMNS, ROWS = 128, 16
SHOWN_ROWS = 9  # of the running script; of an ended one what is worth reading
ENDED_ROWS = 3

CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN = 8.4, 21.0, 14, 22.0
BACKGROUND, BORDER, TEXT, DIM = "#12141c", "#343a4a", "#d5d9e3", "#767f93"
COLOURS = {
    "green": "#34d399",
    "brown": "#f5b73b",
    "blue": "#7a9cf7",
    "red": "#f27878",
    "cyan": "#4cc9d8",
    "magenta": "#c792ea",
    "white": TEXT,
    "default": TEXT,
}
BARS = {"━": (0.0, 1.0), "╸": (0.0, 0.5), "╺": (0.5, 1.0)}  # which part of its cell each fills


SVG = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width:g}} {{height:g}}" width="{{width:g}}"
 height="{{height:g}}" role="img" aria-labelledby="title">
<title id="title">A training run in a terminal: its live line, the end of its time box, and how it is resumed</title>
<rect x="0.5" y="0.5" width="{{right:g}}" height="{{bottom:g}}" rx="10" fill="{BACKGROUND}" stroke="{BORDER}"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="{FONT_SIZE}">
{{shapes}}
</g>
</svg>
"""


class Run(NamedTuple):
    """Neighbouring cells of one look, from a column on."""

    column: int
    text: str
    colour: str
    is_bold: bool = False


Line = list[Run]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as home:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("BACKPROP_")}
        environ |= {"BACKPROP_HOME": home, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        running, timeboxed = watch(RUN, environ)
        _, completed = watch(RESUME, environ)
    if not running:
        sys.exit(f"the live line never matched {HALFWAY.pattern!r}")
    lines = [
        *(prompt(RUN), aside("⋮"), *running[-SHOWN_ROWS:]),
        *(aside("⋮"), *timeboxed[-ENDED_ROWS:], []),
        *(prompt(RESUME), aside("⋮"), *completed[-ENDED_ROWS:]),
    ]
    PICTURE.write_text(draw(lines), "utf-8")
    print(f"wrote {PICTURE}")
    return 0


def watch(command: str, environ: Mapping[str, str]) -> tuple[list[Line], list[Line]]:
    """Run a command in a terminal; return the screen when half of its time is over, and as it is at the end."""
    words = shlex.split(command)
    pid, terminal = pty.fork()
    if pid == 0:
        # the size is set before the command looks at it
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.chdir(ROOT)
        program = Path(sys.executable).with_name(words[0])
        os.execve(program, words, dict(environ))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    halfway: list[Line] = []
    while output := read(terminal):
        stream.feed(output)
        if not halfway and any(HALFWAY.search(row) for row in screen.display):
            halfway = lines_on(screen)
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{command} ended with {code}:\n" + "\n".join(screen.display))
    return halfway, lines_on(screen)


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


def lines_on(screen: pyte.Screen) -> list[Line]:
    """Turn the screen into lines, without the empty ones below the last."""
    lines = [line_at(screen, row) for row in range(ROWS)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def line_at(screen: pyte.Screen, row: int) -> Line:
    cells = [screen.buffer[row][column] for column in range(COLUMNS)]
    looks = [(COLOURS.get(cell.fg, f"#{cell.fg}"), cell.bold, cell.data in BARS) for cell in cells]
    runs: Line = []
    for (colour, is_bold, _), columns in groupby(range(COLUMNS), key=looks.__getitem__):
        first, *rest = columns
        text = "".join(cells[column].data for column in (first, *rest))
        # cut at wide gaps too, which SVG would close
        runs += [Run(first + word.start(), word[0], colour, is_bold) for word in WORDS.finditer(text)]
    return runs


def prompt(command: str) -> Line:
    return [Run(0, "$", COLOURS["green"], is_bold=True), Run(2, command, "#ffffff", is_bold=True)]


def aside(text: str) -> Line:
    return [Run(0, text, DIM)]


def draw(lines: Sequence[Line]) -> str:
    """Draw lines of a terminal as SVG that needs no font from elsewhere: each run is fitted to its cells."""
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, len(lines) * LINE_HEIGHT + 2 * MARGIN
    shapes = [shape for row, line in enumerate(lines) for run in line for shape in shapes_of(run, row)]
    return SVG.format(
        width=width, height=height, right=width - 1, bottom=height - 1, shapes="\n".join(shapes)
    )


def shapes_of(run: Run, row: int) -> Iterator[str]:
    left, top = MARGIN + run.column * CELL_WIDTH, MARGIN + row * LINE_HEIGHT
    if run.text[0] in BARS:
        begin, _ = BARS[run.text[0]]
        _, end = BARS[run.text[-1]]
        bar_width = (len(run.text) - 1 + end - begin) * CELL_WIDTH
        yield (
            f'<rect x="{left + begin * CELL_WIDTH:.1f}" y="{top + LINE_HEIGHT / 2 - 2:.1f}"'
            f' width="{bar_width:.1f}" height="4" rx="2" fill="{run.colour}"/>'
        )
        return
    weight = ' font-weight="bold"' if run.is_bold else ""
    yield (
        f'<text x="{left:.1f}" y="{top + LINE_HEIGHT * 0.7:.1f}" textLength="{len(run.text) * CELL_WIDTH:.1f}"'
        f' lengthAdjust="spacingAndGlyphs" fill="{run.colour}"{weight}>{escape(run.text)}</text>'
    )


if __name__ == "__main__":
    sys.exit(main())
