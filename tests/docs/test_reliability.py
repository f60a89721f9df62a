"""The page on reliability names tests that exist, and says which of them run only on request."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "reliability.md"
LINK = re.compile(r"\[([^\]]+)\]\(\.\./\.\./(tests/[\w/]+\.py)\)( \(\*soak\*\))?")
LINKS = LINK.findall(PAGE.read_text())


@cache
def decorators_in(path: str) -> dict[str, str]:
    """The tests of a file, each with its decorators as they are written."""
    tree = ast.parse((ROOT / path).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in functions}


@pytest.mark.parametrize(("claim", "path", "soak"), LINKS, ids=lambda text: text[:60])
def test_a_test_that_the_page_names_is_there_and_runs_when_the_page_says(
    claim: str, path: str, soak: str
) -> None:
    name = "test_" + claim.replace(" ", "_").replace("-", "_")
    assert name in decorators_in(path)
    decorators = decorators_in(path)[name]
    is_soak_alone = re.search(r"(^|\s)(pytest\.mark\.soak|SOAK)(\s|$)", decorators) is not None
    assert is_soak_alone == bool(soak)
