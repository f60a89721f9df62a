"""Starting a plugin: a distribution that installs, passes its own tests and does something small but real."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import Template

from backprop_core.errors import BackpropError, UsageError

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "probe": "reads GPUs from a JSON file that another program keeps",
    "storage": "keeps each run's record in a JSON file of its own",
    "parser": "reads lines such as `step=3 loss=0.25`",
    "framework": "recognises scripts by what they import, and shares out the cores",
    "launcher": "starts runs with a lower priority",
    "rule": "lets no run start, and stops those that run, when the disk is nearly full",
    "observer": "adds a line to a CSV file for each attempt that has ended",
}
LONGEST = 30
_PREFIX = "backprop-"


def write(name: str, kind: str, into: Path) -> Path:
    """Write a new distribution into a folder, and return the folder of its own.

    :param name: With or without the prefix `backprop-`, which the distribution gets.
    :raises UsageError: for a name that is none, a kind that is none, or a folder that is there already.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind {kind!r} of plugin", f"the kinds are {', '.join(KINDS)}")
    short = name.removeprefix(_PREFIX)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", short) or len(short) > LONGEST:
        raise UsageError(
            f"{name!r} is no name for a plugin",
            f"small letters and digits with single dashes, at most {LONGEST}",
        )
    folder = into / f"{_PREFIX}{short}"
    if folder.exists():
        raise UsageError(f"{folder} is there already", "choose another name, or another folder with --into")
    try:
        for path, text in files(short, kind):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, "utf-8")
    except OSError as error:
        raise BackpropError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return folder


def files(short: str, kind: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of a new distribution, by their path in its folder."""
    module = f"backprop_{short.replace('-', '_')}"
    words = {
        "name": short,
        "distribution": f"{_PREFIX}{short}",
        "module": module,
        "imported": short.replace("-", "_"),
        "title": "".join(part.capitalize() for part in short.split("-")),
        "kind": kind,
        "about": KINDS[kind][0].upper() + KINDS[kind][1:],
    }
    words["usage"] = _filled(TEMPLATES / kind / "usage.md.tmpl", words).strip()
    places = {
        "pyproject.toml": Path("pyproject.toml"),
        "README.md": Path("README.md"),
        "LICENSE": Path("LICENSE"),
        "conftest.py": Path("tests/conftest.py"),
        "plugin.py": Path("src", module, "__init__.py"),
        "test_plugin.py": Path("tests", f"test_{short.replace('-', '_')}.py"),
    }
    for template in sorted((*TEMPLATES.glob("common/*"), *TEMPLATES.glob(f"{kind}/*"))):
        if place := places.get(template.name.removesuffix(".tmpl")):
            yield place, _filled(template, words)


def _filled(template: Path, words: dict[str, str]) -> str:
    return Template(template.read_text("utf-8")).substitute(words)
