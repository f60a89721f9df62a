"""Files as trainers save them, small, whole or cut short."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path


def archive(path: Path, content: bytes = b"weights") -> Path:
    """Write what torch.save, Keras and Lightning write: a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
    return path


def safetensors(path: Path, length: int = 64) -> Path:
    """Write one tensor of so many bytes in the safetensors format."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]},
        }
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(length))
    return path


def hdf5(path: Path, version: int = 0, length: int = 512) -> Path:
    """Write an HDF5 superblock that names the end of the file."""
    head = bytearray(64)
    head[:9] = b"\x89HDF\r\n\x1a\n" + bytes([version])
    head[13 if version < 2 else 9] = 8
    offset = {0: 40, 1: 44}.get(version, 28)
    head[offset : offset + 8] = length.to_bytes(8, "little")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(head) + bytes(length - len(head)))
    return path


def hf_checkpoint(output: Path, step: int) -> Path:
    """Write a folder as the Trainer of Transformers does."""
    folder = output / f"checkpoint-{step}"
    safetensors(folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        archive(folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def cut(path: Path) -> Path:
    """Leave two thirds of a file, as a kill in the midst of saving does."""
    os.truncate(path, path.stat().st_size * 2 // 3)
    return path


def written_at(when_s: Mapping[Path, float]) -> None:
    """Set when files, or all files of a folder, were last written, in seconds since 1970."""
    for path, moment in when_s.items():
        for each in [path, *(path.rglob("*") if path.is_dir() else [])]:
            os.utime(each, (moment, moment))
