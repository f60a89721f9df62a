"""The reference pages say what the code says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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


def test_pages_that_are_out_of_date_are_named_and_written_anew(tmp_path: Path) -> None:
    for generator in ("generate_reference.py", "reference_from_code.py"):
        shutil.copy(DOCS / generator, tmp_path)
    shutil.copytree(DOCS / "reference", tmp_path / "reference")
    pages = [
        tmp_path / "reference" / f"{name}.md" for name in ("cli", "settings", "hooks", "parts", "records")
    ]
    for page in pages:
        text = page.read_text("utf-8")
        page.write_text(text.replace("Backprop", "Backdrop").replace("backprop", "backdrop"), "utf-8")
    checked = generate(tmp_path, "--check")
    assert checked.returncode == 1
    assert [str(page) for page in pages if str(page) not in checked.stdout] == []
    assert "python docs/generate_reference.py" in checked.stdout
    assert generate(tmp_path).returncode == 0
    written = [page.read_text("utf-8") for page in pages]
    assert written == [(DOCS / "reference" / page.name).read_text("utf-8") for page in pages]
