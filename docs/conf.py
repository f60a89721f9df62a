"""How the pages become a site: `sphinx-build -W -n -c docs . build/site`, from the root of the repository.

The pages are plain Markdown, to be read on a code host as they are. What only a site needs is added here: the tree of
pages (a page lists its neighbours by hand, the tree finds them), and links to files that are no pages.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pygments.lexers import JsonLexer

project = "Backprop"
copyright = "The Backprop developers"  # noqa: A001 - the name that Sphinx reads
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/**/*.md",
    "README*.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "examples/*.md",
    "examples/**/*.md",
    "benchmarks/*.md",
    "contrib/*/README.md",
]
exclude_patterns = ["**/node_modules", "**/.venv", "build"]
myst_heading_anchors = 4
smartquotes = False
html_theme = "furo"
html_title = "Backprop"
html_logo = "logo.svg"
html_show_sphinx = False

ROOT = Path(__file__).parents[1]
TREE = {
    "Start": ["README", "docs/tutorials/*", "examples/*"],
    "How to": ["docs/how-to/*"],
    "Write a plugin": ["docs/how-to/plugins/*"],
    "Plugins of ours": ["contrib/*"],
    "Reference": ["docs/reference/*"],
    "Explanation": ["docs/explanation/*"],
    "Working on Backprop": ["CONTRIBUTING", "SECURITY", "CHANGELOG", "benchmarks/*", "README.fr"],
}
"""Caption to pages; a page that is added turns up by itself, under the last pattern that it fits."""

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s:]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def setup(app: Any) -> None:
    """Register what is added."""
    app.add_lexer("jsonl", JsonLexer)
    app.connect("source-read", add_what_a_site_needs)
    app.connect("build-finished", copy_pictures)


def add_what_a_site_needs(app: Any, page: str, source: list[str]) -> None:
    """Give the first page its tree, and unlink files that are no pages (their names stay readable)."""
    folder = (ROOT / page).parent
    parts = _FENCED.split(source[0])
    source[0] = "".join(part if part.startswith("```") else unlinked(part, folder, app) for part in parts)
    if page == root_doc:
        source[0] += "\n\n" + "\n\n".join(tree(caption, app.env.found_docs) for caption in TREE)


def unlinked(text: str, folder: Path, app: Any) -> str:
    def kept(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / found["path"])).relative_to(ROOT)
        is_page = target.suffix == ".md" and str(target.with_suffix("")) in app.env.found_docs
        is_picture = target.suffix in (".svg", ".png")
        return found[0] if is_page or is_picture else found["text"]

    return _LINK.sub(kept, text)


def tree(caption: str, pages: Iterable[str]) -> str:
    """Write one part of the tree."""
    fitting = {page: matching(page) for page in sorted(pages)}
    chosen = [
        f"/{page}" for pattern in TREE[caption] for page, fits in fitting.items() if fits[-1:] == [pattern]
    ]
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *chosen, "```"])


def matching(page: str) -> list[str]:
    return [pattern for patterns in TREE.values() for pattern in patterns if fnmatch(page, pattern)]


def copy_pictures(app: Any, error: Exception | None) -> None:
    """Copy the pictures that pages show by HTML of their own, which Sphinx does not see."""
    if error is None:
        target = Path(app.outdir) / "docs"
        target.mkdir(exist_ok=True)
        for picture in (ROOT / "docs").glob("*.svg"):
            shutil.copy(picture, target)
