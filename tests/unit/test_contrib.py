"""The plugins in contrib/ are what a stranger could have written."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import backprop_core

CONTRIB = Path(__file__).parents[2] / "contrib"
FOLDERS = sorted(
    path.parent
    for path in CONTRIB.glob("*/pyproject.toml")
    if "[project.entry-points.backprop]" in path.read_text()
)
EACH = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def imports_from_backprop(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each module of Backprop's that a file imports from, with the name; "" for the module itself."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (
                (name.name, "")
                for name in node.names
                if name.name.startswith(("backprop_core", "backprop_b"))
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("backprop_core", "backprop_b")
        ):
            yield from ((node.module or "", name.name) for name in node.names)


def test_there_are_four() -> None:
    assert [folder.name for folder in FOLDERS] == [
        "backprop-notify",
        "backprop-rocm",
        "backprop-schedule",
        "backprop-tensorboard",
    ]


@EACH
def test_plugin_imports_nothing_but_the_names_that_backprop_exports(folder: Path) -> None:
    found = {each for path in (folder / "src").rglob("*.py") for each in imports_from_backprop(path)}
    assert found
    assert {module for module, _ in found} == {"backprop_core"}
    assert {name for _, name in found} <= set(backprop_core.__all__)


@EACH
def test_tests_use_the_kit_and_nothing_private(folder: Path) -> None:
    found = {each for path in (folder / "tests").rglob("*.py") for each in imports_from_backprop(path)}
    assert {module for module, _ in found} <= {"backprop_core", "backprop_core.testing"}


@EACH
def test_distribution_says_what_it_is(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == folder.name
    assert list(project["entry-points"]["backprop"].values()) == [folder.name.replace("-", "_")]
    assert "backprop-core>=0.1" in project["dependencies"]
    readme = (folder / "README.md").read_text("utf-8")
    assert readme.startswith(f"# {folder.name}\n")
    assert f"pip install {folder.name}\n" in readme
    assert "(../../LICENSE)" in readme
