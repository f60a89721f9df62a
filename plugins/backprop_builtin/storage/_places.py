"""Where a store keeps its file: in Backprop's folder, or where a URL says."""

from __future__ import annotations

import os
from pathlib import Path

from backprop_core import StorageError

from ._files import explained, make_private_folder, refuse_shared_folder
from ._run_folders import RunFolders


def place_of(url: str | None, home: Path, scheme: str, file_name: str) -> tuple[Path, RunFolders]:
    """Name the store's file and the run folders beside it, with the folder made where it was missing.

    :raises StorageError: when the folder is another user's or may be written to by others, or
        when the URL is not that of a file.
    """
    path = Path(os.path.abspath(home / file_name)) if url is None else _path_in(url, scheme, file_name)
    with explained("make", path.parent):
        make_private_folder(path.parent)
    refuse_shared_folder(path.parent)
    return _followed(path), RunFolders(path.parent / "runs")


def _path_in(url: str, scheme: str, file_name: str) -> Path:
    from urllib.parse import unquote

    text = unquote(url.removeprefix(f"{scheme}:").removeprefix("//"))
    if not text.startswith("/") or text.endswith("/") or "\0" in text or Path(text).is_dir():
        raise StorageError(
            f"storage is {url!r}", f"name a file by its full path: {scheme}:///home/me/{file_name}"
        )
    return Path(os.path.normpath(text))


def _followed(path: Path) -> Path:
    """Follow a link that this user made to a file of their own: the file is written, not the link."""
    with explained("look at", path):
        if not path.is_symlink():
            return path
        target = Path(os.path.realpath(path))
        owners = {found.lstat().st_uid for found in (path, target) if os.path.lexists(found)}
    if owners != {os.geteuid()}:
        raise StorageError(f"{path} is a link that involves another user's file", "remove the link")
    refuse_shared_folder(target.parent)
    return target
