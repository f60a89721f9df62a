"""A small disk of its own, ext4 on a loop device, that loses power: what was not yet written to it is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_MB = 24


def require_loop_devices() -> None:
    """Skip the test where no disk can be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    missing = [tool for tool in ("losetup", "mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"there is no loop device: {found.stderr.strip()}")


def made(image: Path) -> None:
    """Make a disk's image, which no other disk shares a block with."""
    with image.open("wb") as file:
        file.truncate(SIZE_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image while the block runs; the journal of one that was cut off is replayed, as after a crash."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a loop device cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def cut(image: Path, copy: Path) -> None:
    """Copy what has reached the disk by now, which is what a power cut would leave of it.

    Writes that the kernel still holds in memory are not in the image; those that a disk's own cache would hold are.
    """
    shutil.copyfile(image, copy)
