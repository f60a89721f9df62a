"""Whether a checkpoint is whole is told from its bytes, by the kind of each file and the form of each folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import archive, cut, hdf5, hf_checkpoint, safetensors

from backprop_core.checkpoints.validity import what_is_wrong
from backprop_core.records import CheckpointForm

TRAINER = CheckpointForm(
    name="checkpoint-[0-9]*",
    is_folder=True,
    written_last=("trainer_state.json",),
    unfinished=("checkpoint-is-incomplete.txt",),
)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: safetensors(path / "model.safetensors"),
        *(lambda path, v=version: hdf5(path / "model.weights.h5", v) for version in range(4)),
    ],
)
def test_a_file_that_was_cut_short_anywhere_is_refused(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    assert what_is_wrong(path) is None
    for length in [*range(1, 100), *range(100, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert what_is_wrong(path) == "was cut short", length


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.safetensors", (7).to_bytes(8, "little") + b"nothing", "is no safetensors file"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "is no safetensors file"),
        (
            "a.safetensors",
            (18).to_bytes(8, "little") + b'{"w": {"data_of":0}}'[:18],
            "is no safetensors file",
        ),
        ("a.h5", b"x" * 100, "is no HDF5 file"),
        ("a.json", b'{"a": [1, 2', "was cut short"),
        ("a.json", b'{"loss": NaN}', None),
        ("a.json", b"", "is empty"),
    ],
)
def test_what_is_none_of_its_kind_is_said(
    tmp_path: Path, name: str, content: bytes, problem: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert what_is_wrong(path) == problem


def test_an_hdf5_file_with_addresses_of_another_size_is_not_judged(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5")
    content = bytearray(path.read_bytes())
    content[13] = 4
    path.write_bytes(content[:100])
    assert what_is_wrong(path) is None


def test_a_folder_is_whole_with_what_is_written_last_and_every_file_in_it(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path, 8)
    assert what_is_wrong(folder, [TRAINER]) is None
    (folder / "trainer_state.json").unlink()
    assert what_is_wrong(folder, [TRAINER]) == "was not finished: it has no trainer_state.json"
    assert what_is_wrong(folder) is None, "nothing is known of folders of no form"


def test_a_folder_that_is_marked_as_unfinished_is_refused(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path, 8)
    (folder / "checkpoint-is-incomplete.txt").touch()
    problem = "was not finished: it holds checkpoint-is-incomplete.txt"
    assert what_is_wrong(folder, [TRAINER]) == problem


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_folder_with_a_file_that_was_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    folder = hf_checkpoint(tmp_path, 8)
    cut(folder / name)
    assert what_is_wrong(folder) == f"holds {name}, which was cut short"
    (folder / name).write_bytes(b"")
    assert what_is_wrong(folder) == f"holds {name}, which is empty"


def test_marks_and_logs_in_a_folder_may_be_empty(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path, 8)
    for name in ("latest", "notes.txt", ".done"):
        (folder / name).touch()
    assert what_is_wrong(folder, [TRAINER]) is None


def test_files_deep_in_a_folder_are_looked_at_and_links_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    archive(folder / "shards" / "rank0.pt")
    (folder / "elsewhere.pt").symlink_to(cut(archive(tmp_path / "other.pt")))
    assert what_is_wrong(folder) is None
    cut(folder / "shards" / "rank0.pt")
    assert what_is_wrong(folder) == "holds shards/rank0.pt, which was cut short"


def test_a_shard_that_an_index_names_is_missed(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path, 8)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert what_is_wrong(folder) == "lacks model-00002-of-00002.safetensors"
    safetensors(folder / "model-00002-of-00002.safetensors")
    assert what_is_wrong(folder) is None
