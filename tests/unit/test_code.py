"""Which code a run executes is told from files, as git itself would tell it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from backprop_core.description import code_of, differences
from backprop_core.description.code import commit_at
from backprop_core.records import Code, Script

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print(1)\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@needs_git
def test_the_commit_is_that_of_the_branch_that_is_checked_out(repository: Path) -> None:
    assert commit_at(repository / "src") == git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-q", "-b", "feature/x")
    git(repository, "commit", "-q", "--allow-empty", "-m", "second")
    assert commit_at(repository / "src") == git(repository, "rev-parse", "HEAD")


@needs_git
def test_packed_and_detached_heads_and_worktrees_are_understood(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    git(repository, "pack-refs", "--all")
    head = git(repository, "rev-parse", "HEAD")
    assert (commit_at(repository), commit_at(tmp_path / "tree")) == (head, head)
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "second")
    assert commit_at(tmp_path / "tree") == git(tmp_path / "tree", "rev-parse", "HEAD") != head
    git(repository, "checkout", "-q", "--detach")
    assert commit_at(repository) == head


def test_outside_a_repository_and_in_a_broken_one_no_commit_is_known(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for content in ("gitdir: ../gone", "", "nonsense"):
        (tmp_path / "broken" / ".git").write_text(content)
        assert commit_at(tmp_path / "broken") is None


def test_a_script_is_known_by_its_bytes(tmp_path: Path) -> None:
    script = Script(path=tmp_path / "train.py")
    script.path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert code_of(script).script_sha256 == digest
    script.path.unlink()
    assert code_of(script).script_sha256 is None


def test_what_is_unknown_is_no_difference() -> None:
    script = Script(path=Path("/p/train.py"))
    then = Code(script_sha256="a", commit="c" * 40)
    assert differences(then, Code(), script) == differences(Code(), then, script) == []
    assert differences(then, then, script) == []
    assert differences(then, Code(script_sha256="b", commit="d" * 40), script) == [
        "the script /p/train.py has changed since the last attempt",
        f"the repository is at commit {'d' * 10}, the last attempt ran at {'c' * 10}",
    ]
