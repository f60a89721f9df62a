"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import NotFoundError
from .plugins import Plugins
from .records import CheckpointSaved, PluginFailure, RunRecord

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".keras")


def checkpoint_given(path: Path, cwd: Path) -> Path:
    """Return the absolute path of a checkpoint that a person named.

    :raises NotFoundError: when it does not exist or is broken.
    """
    full = Path(os.path.abspath(cwd / path))
    if problem := what_is_wrong(full):
        raise NotFoundError(f"the checkpoint {full} {problem}", "check the path after -r")
    return full


def newest_valid(record: RunRecord, plugins: Plugins, tell: Callable[[str], None]) -> Path | None:
    """Find the newest checkpoint that can be used; those passed over are told, and so is a fresh start."""
    known = [Path(path) for path in record.checkpoints]
    known += [path for path in _from_plugins(record, plugins) if path not in known]
    known += [path for path in _from_glob(record) if path not in known]
    for path in reversed(known):
        problem = what_is_wrong(path)
        if problem is None:
            return path
        tell(f"passing over the checkpoint {path}: it {problem}")
    tell(
        "no checkpoint can be used: starting afresh"
        if known
        else "no checkpoint was recorded: starting afresh"
    )
    return None


def _from_plugins(record: RunRecord, plugins: Plugins) -> list[Path]:
    """Ask the plugins; the one with the last step comes last."""
    found: list[tuple[int, Path]] = []
    for answer in plugins.ask("backprop_find_checkpoint", run=record):
        if answer.failure:
            continue
        value = answer.value
        saved = CheckpointSaved(path=str(value)) if isinstance(value, str | Path) else value
        if _is_checkpoint(saved):
            found.append((saved.step or 0, Path(saved.path)))
        else:
            error = f"it answered {type(value).__name__}, no checkpoint with a path"
            plugins.note(PluginFailure(plugin=answer.plugin, hook="backprop_find_checkpoint", error=error))
    return [path for _, path in sorted(found)]


def _from_glob(record: RunRecord) -> list[Path]:
    """Find what the setting `checkpointGlob` names and this run has written, the newest last."""
    pattern = record.settings.get("checkpointGlob")
    if not pattern:
        return []
    import glob

    places = (
        Path(record.cwd or ".", found) for found in glob.glob(pattern, root_dir=record.cwd, recursive=True)
    )
    written = sorted((when, path) for path in places if (when := _changed_ms(path)) >= record.start_time)
    return [path for _, path in written]


def _changed_ms(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns / 1e6
    except OSError:
        return 0.0


def _is_checkpoint(value: object) -> bool:
    return (
        isinstance(value, CheckpointSaved)
        and isinstance(value.path, str)
        and isinstance(value.step, int | None)
    )


def what_is_wrong(path: Path) -> str | None:
    """Say why a checkpoint cannot be used, in words that follow its path; None when it looks whole.

    :source: torch.save, Keras and Lightning write zip archives, whose directory stands at the end: a file
        that was cut short does not have it.
    """
    try:
        if path.is_dir():
            return None if any(path.iterdir()) else "is an empty folder"
        if not path.is_file():
            return "is no file or folder" if path.exists() else "does not exist"
        with path.open("rb") as file:
            magic = file.read(len(_ZIP_MAGIC))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not magic:
        return "is empty"
    return "was cut short" if _is_cut_short(path, magic) else None


def _is_cut_short(path: Path, magic: bytes) -> bool:
    if not _ZIP_MAGIC.startswith(magic) or path.suffix not in _ZIP_SUFFIXES:
        return False
    import zipfile

    return not zipfile.is_zipfile(path)
