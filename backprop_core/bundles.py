"""Checkpoints in several files of one name, as TensorFlow writes them: `ckpt-7.index` and its data beside it.

The data are renamed into place first; the index is then written where it stays, and a kill may cut it short.

:source: tensorflow/core/util/tensor_bundle (2.21): the index is a table whose last eight bytes are a fixed number, and
    the data of N shards are in `PREFIX.data-SSSSS-of-NNNNN`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

INDEX = ".index"
_END = (0xDB4775248B80FB57).to_bytes(8, "little")
_SHARD = re.compile(r"\.data-([0-9]{5})-of-([0-9]{5})")


def shards_of(path: Path) -> tuple[Path, ...]:
    """Return the files beside an index that hold its data; () for what is no index, or has none."""
    if path.suffix != INDEX:
        return ()
    prefix = path.name.removesuffix(INDEX)
    try:
        names = os.listdir(path.parent)
    except OSError:
        return ()
    found = (name for name in names if name.startswith(prefix) and _SHARD.fullmatch(name, len(prefix)))
    return tuple(path.parent / name for name in sorted(found))


def what_is_wrong_with_index(path: Path) -> str | None:
    """Say why an index or its data cannot be used, in words that follow its path; None where it is no such index.

    :raises OSError: when it cannot be read.
    """
    shards = shards_of(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END)))
        is_whole = file.read() == _END
    if not is_whole:
        return "was cut short" if shards else None
    prefix = path.name.removesuffix(INDEX)
    counts = {int(found[2]) for shard in shards if (found := _SHARD.fullmatch(shard.name, len(prefix)))}
    there = {shard.name for shard in shards if shard.stat().st_size}
    wanted = max(counts, default=1)
    missing = (f"{prefix}.data-{one:05}-of-{wanted:05}" for one in range(wanted))
    lacking = next((name for name in missing if name not in there), None)
    return f"lacks {lacking}" if lacking else None
