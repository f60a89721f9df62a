"""The reference pages say what the code says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def generate(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(docs / "generate_reference.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_reference_pages_are_what_the_code_says() -> None:
    done = generate(DOCS, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("page", ["cli.md", "settings.md", "hooks.md", "parts.md", "records.md"])
def test_a_page_that_is_out_of_date_is_named_and_written_anew(page: str, tmp_path: Path) -> None:
    for generator in ("generate_reference.py", "reference_from_code.py"):
        shutil.copy(DOCS / generator, tmp_path)
    shutil.copytree(DOCS / "reference", tmp_path / "reference")
    stale = tmp_path / "reference" / page
    stale.write_text(
        stale.read_text("utf-8").replace("Backprop", "Backdrop").replace("backprop", "backdrop"), "utf-8"
    )
    checked = generate(tmp_path, "--check")
    assert checked.returncode == 1
    assert str(stale) in checked.stdout
    assert "python docs/generate_reference.py" in checked.stdout
    assert generate(tmp_path).returncode == 0
    assert "backdrop" not in stale.read_text("utf-8")
    assert generate(tmp_path, "--check").returncode == 0
