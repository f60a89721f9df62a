"""Whether a checkpoint is whole, as far as its bytes tell without loading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from backprop_core.bundles import INDEX, what_is_wrong_with_index
from backprop_core.records import CheckpointForm, Record

from .forms import form_of

MOST_FILES = 2000
"""How many files of a folder are looked at; one that was cut short is rarely behind them."""
MOST_HEADER_BYTES = 100_000_000
"""What the safetensors format allows its header to be."""
MOST_JSON_BYTES = 50_000_000

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".keras", ".npz")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_SUFFIXES = (".h5", ".hdf5")
_NEVER_EMPTY = (*_ZIP_SUFFIXES, *_HDF5_SUFFIXES, ".safetensors", ".bin", ".json")
_CUT_SHORT = "was cut short"


class _Index(Record, frozen=True):
    """Which file holds which weight, as Transformers and Accelerate write it for models in several files."""

    weight_map: dict[str, str] = msgspec.field(default_factory=dict)


def what_is_wrong(path: Path, forms: Sequence[CheckpointForm] = ()) -> str | None:
    """Say why a checkpoint cannot be used, in words that follow its path; None when it looks whole.

    :param forms: What the frameworks of the run say their checkpoints look like.
    """
    try:
        if path.is_dir():
            return _what_is_wrong_with_folder(path, forms)
        if not path.exists() and path.with_name(path.name + INDEX).is_file():
            return what_is_wrong(path.with_name(path.name + INDEX), forms)  # named as TensorFlow names it
        if not path.is_file():
            return "is no file or folder" if path.exists() else "does not exist"
        if not path.stat().st_size:
            return "is empty"
        return _what_is_wrong_inside(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _what_is_wrong_with_folder(path: Path, forms: Sequence[CheckpointForm]) -> str | None:
    names = sorted(os.listdir(path))
    if not names:
        return "is an empty folder"
    form = form_of(path, names, forms)
    if form is not None and (problem := _what_is_unfinished(form, names)):
        return problem
    if missing := _missing_shard(path, names):
        return f"lacks {missing}"
    for file in _files_in(path):
        is_empty = not file.stat().st_size
        problem = "is empty" if is_empty else _what_is_wrong_inside(file)
        if problem and not (is_empty and file.suffix not in _NEVER_EMPTY):
            return f"holds {file.relative_to(path)}, which {problem}"
    return None


def _what_is_unfinished(form: CheckpointForm, names: Sequence[str]) -> str | None:
    if form.is_unfinished:
        return "was not finished: its trainer would have renamed it"
    if marks := [name for name in form.unfinished if name in names]:
        return f"was not finished: it holds {marks[0]}"
    if form.written_last and not any(name in names for name in form.written_last):
        return f"was not finished: it has no {' or '.join(form.written_last)}"
    return None


def _missing_shard(folder: Path, names: Sequence[str]) -> str | None:
    """Name a file that the index of a model in several files names, and that is not there."""
    for index in (name for name in names if name.endswith(".index.json")):
        try:
            shards = msgspec.json.decode((folder / index).read_bytes(), type=_Index).weight_map
        except msgspec.DecodeError:
            continue
        if missing := sorted(set(shards.values()) - set(names)):
            return missing[0]
    return None


def _files_in(folder: Path) -> Iterator[Path]:
    count = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                return
            if not os.path.islink(full := os.path.join(place, name)):
                yield Path(full)


def _what_is_wrong_inside(path: Path) -> str | None:
    """Judge a file by what its kind keeps at its beginning or its end."""
    if path.suffix == ".safetensors":
        return _what_is_wrong_with_safetensors(path)
    if path.suffix == ".json":
        return _what_is_wrong_with_json(path)
    if path.suffix == INDEX:
        return what_is_wrong_with_index(path)
    with path.open("rb") as file:
        head = file.read(64)
    if path.suffix in _HDF5_SUFFIXES:
        return _what_is_wrong_with_hdf5(head, path.stat().st_size)
    return _CUT_SHORT if _is_short_zip(path, head[: len(_ZIP_MAGIC)]) else None


def _is_short_zip(path: Path, magic: bytes) -> bool:
    """Tell whether an archive has lost its directory.

    :source: torch.save, Keras and Lightning write zip archives, whose directory stands at the end: a file
        that was cut short does not have it.
    """
    if not _ZIP_MAGIC.startswith(magic) or path.suffix not in _ZIP_SUFFIXES:
        return False
    import zipfile

    return not zipfile.is_zipfile(path)


def _what_is_wrong_with_safetensors(path: Path) -> str | None:
    """Compare the size with what the header promises.

    :source: 8 bytes little-endian length, a JSON header with the `data_offsets` of each tensor from the header's
        end on, the tensors (github.com/huggingface/safetensors, README, "Format").
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return _CUT_SHORT
        if length > MOST_HEADER_BYTES:
            return "is no safetensors file"
        header = file.read(length)
    try:
        tensors = msgspec.json.decode(header, type=dict[str, dict[str, object]])
        ends = [int(tensor["data_offsets"][1]) for tensor in tensors.values() if "data_offsets" in tensor]  # type: ignore[index]
    except (msgspec.DecodeError, TypeError, ValueError, IndexError, KeyError):
        return "is no safetensors file"
    return _CUT_SHORT if size < 8 + length + max(ends, default=0) else None


def _what_is_wrong_with_hdf5(head: bytes, size: int) -> str | None:
    """Compare the size with the end of file that the superblock holds.

    :source: HDF5 file format specification 3.0, "Disk Format: Level 0A": the end-of-file address stands at
        byte 40 in version 0, 44 in version 1 and 28 from version 2 on, where addresses take 8 bytes.
    """
    if not head.startswith(_HDF5_MAGIC[: len(head)]):
        return "is no HDF5 file"
    if len(head) < 64:
        return _CUT_SHORT
    version = head[8]
    address_bytes = head[13] if version < 2 else head[9]
    if address_bytes != 8 or version > 3:
        return None
    offset = {0: 40, 1: 44}.get(version, 28)
    end = int.from_bytes(head[offset : offset + 8], "little")
    return _CUT_SHORT if size < end else None


def _what_is_wrong_with_json(path: Path) -> str | None:
    if path.stat().st_size > MOST_JSON_BYTES:
        return None
    try:
        text = path.read_bytes()
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        # What the standard library writes for numbers that are not finite is no error here.
        return _CUT_SHORT if "truncated" in str(error) else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None
