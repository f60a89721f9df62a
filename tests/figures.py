"""What a test measures and tells: the fixture `figures` of tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable

Figures = Callable[..., None]
"""`figures(kills=100, survivors=0)`: shown when all tests have run. A figure that is told again is replaced."""
