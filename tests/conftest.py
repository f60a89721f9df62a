"""What every test may use: a project; and figures, shown when all tests have run and written down on request.

And how many tests run at once: half as many again as there are cores, because most of a test's time is waiting.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import Figures
from kit import Project

_FIGURES = "figures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--figures", metavar="FILE", help="write the figures that tests tell into this JSON file"
    )


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    cores = yield
    return cores + cores // 2


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project folder, a home and a machine with room; nobody that a test started outlives it."""
    made = Project(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    told: dict[str, Any] = {}
    if request.node.get_closest_marker("soak") is not None:  # what a quick version measures is no news
        request.node.user_properties.append((_FIGURES, told))
    return lambda **values: told.update(values)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = {
        report.nodeid: values
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, values in report.user_properties
        if name == _FIGURES and values
    }
    if told:
        terminalreporter.section("figures")
    for test, values in told.items():
        shown = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())
        terminalreporter.write_line(f"{test.rpartition('/')[2]}: {shown}")
    if told and (path := config.getoption("--figures")):
        Path(path).write_text(json.dumps(told, indent=2) + "\n")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
