"""Which code a run executes: the script's digest, and the commit of the repository that it is in."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from backprop_core.patterns import pattern
from backprop_core.records import Code, Script

_COMMIT = pattern(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHOWN = 10


def code_of(script: Script) -> Code:
    """Read which code this is; what cannot be read is unknown."""
    digest = None
    with suppress(OSError):
        digest = _sha256()(script.path.read_bytes()).hexdigest()
    return Code(script_sha256=digest, commit=commit_at(script.path.parent))


def _sha256() -> Callable[[bytes], Any]:
    """Return what hashlib has, too, which loads the whole of OpenSSL first and takes 5 ms for it."""
    for module in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        with suppress(ImportError):
            return cast("Callable[[bytes], Any]", import_module(module).sha256)
    from hashlib import sha256

    return sha256


def differences(then: Code, now: Code, script: Script) -> Sequence[str]:
    """Say in words what is not as it was; what is unknown then or now is no difference."""
    found = []
    if None not in (then.script_sha256, now.script_sha256) and then.script_sha256 != now.script_sha256:
        found.append(f"the script {script.path} has changed since the last attempt")
    if then.commit and now.commit and then.commit != now.commit:
        found.append(
            f"the repository is at commit {now.commit[:_SHOWN]}, "
            f"the last attempt ran at {then.commit[:_SHOWN]}"
        )
    return found


def commit_at(folder: Path) -> str | None:
    """Read the commit that is checked out around a folder, without starting git; None outside a repository.

    :source: gitrepository-layout(5): HEAD, refs, packed-refs, and `commondir` of a worktree.
    """
    for place in (folder, *folder.parents):
        mark = place / ".git"
        if not mark.exists():
            continue
        if mark.is_dir():
            return _commit_in(mark)
        linked = (_read(mark) or "").removeprefix("gitdir:").strip()
        return _commit_in(Path(os.path.normpath(place / linked))) if linked else None
    return None


def _commit_in(git: Path) -> str | None:
    head = _read(git / "HEAD") or ""
    if not head.startswith("ref:"):
        return head if _COMMIT.fullmatch(head) else None
    reference = head.removeprefix("ref:").strip()
    common = Path(os.path.normpath(git / (_read(git / "commondir") or ".")))
    for folder in (git, common):
        if (found := _read(folder / reference)) and _COMMIT.fullmatch(found):
            return found
    return _packed(common, reference)


def _packed(git: Path, reference: str) -> str | None:
    for line in (_read(git / "packed-refs") or "").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.fullmatch(commit):
            return commit
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
