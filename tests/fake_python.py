"""Interpreters in which a test has installed what it likes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def python_that(folder: Path, script: str) -> str:
    """Make an executable that does what a shell script says, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def python_with(folder: Path, versions: Mapping[str, str]) -> str:
    """Make a Python in which these distributions are installed beside its own, and return its path."""
    for name, version in versions.items():
        distribution = folder / "site" / f"{name}-{version}.dist-info"
        distribution.mkdir(parents=True)
        (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return python_that(folder, f'PYTHONPATH="{folder / "site"}" exec "{sys.executable}" "$@"')
