"""The fenced blocks of the documentation, and what a comment before each says of how it is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", "contrib/*/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
STORIES = [path for path in PAGES if path.parent.name in ("tutorials", "plugins") and "docs" in path.parts]
REFERENCE = [path for path in PAGES if path.parent == ROOT / "docs" / "reference"]
OTHERS = [path for path in PAGES if path not in STORIES]

_BLOCK = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`(?P<added>, added)?:\n\n)?(?P<notes>(?:^<!-- [^\n]* -->\n)*)"
    r"^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- (?P<word>[a-z ]+)(?:: (?P<rest>.*))? -->")


class Block(NamedTuple):
    """A fenced block, with what the comments before it say: word to text."""

    kind: str
    text: str
    notes: dict[str, str]
    line: int
    file: str | None = None
    is_added: bool = False

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        notes = {note["word"]: note["rest"] or "" for note in _NOTE.finditer(found["notes"])}
        line = text.count("\n", 0, found.start("kind")) + 1
        yield Block(found["kind"], found["text"], notes, line, found["file"], found["added"] is not None)
