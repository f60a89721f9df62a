"""What every fault test starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project folder, a home and a machine with room; nobody that a test started outlives it."""
    made = Project(tmp_path)
    yield made
    made.clean_up()
