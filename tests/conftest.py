"""What every test may use: figures, which are shown when all tests have run, and written down on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from figures import Figures

_FIGURES = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--figures", metavar="FILE", help="write the figures that tests tell into this JSON file"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = {}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    is_soak = request.node.get_closest_marker("soak") is not None  # what a quick version measures is no news
    told = request.config.stash[_FIGURES].setdefault(request.node.nodeid, {}) if is_soak else {}
    return lambda **values: told.update(values)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = {test: values for test, values in config.stash[_FIGURES].items() if values}
    if told:
        terminalreporter.section("figures")
    for test, values in told.items():
        shown = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())
        terminalreporter.write_line(f"{test.rpartition('/')[2]}: {shown}")
    if told and (path := config.getoption("--figures")):
        Path(path).write_text(json.dumps(told, indent=2) + "\n")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
