"""Checkpoints in several files, as TensorFlow 2.21 wrote those of tests/fixtures/tf_checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backprop_core.bundles import shards_of
from backprop_core.checkpoints.search import measure
from backprop_core.checkpoints.validity import what_is_wrong
from backprop_core.removing import remove_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tf_checkpoints"
DATA = "ckpt-100.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES, tmp_path / "tf_ckpts"))


def test_an_index_with_its_data_is_whole_under_both_of_its_names(folder: Path) -> None:
    assert what_is_wrong(folder / "ckpt-100.index") is None
    assert what_is_wrong(folder / "ckpt-100") is None, "as TensorFlow names it"
    assert what_is_wrong(folder / "ckpt-7") == "does not exist"


def test_an_index_that_was_cut_short_anywhere_is_refused(folder: Path) -> None:
    whole = (folder / "ckpt-100.index").read_bytes()
    for length in (1, 8, 100, len(whole) - 1):
        (folder / "ckpt-100.index").write_bytes(whole[:length])
        assert what_is_wrong(folder / "ckpt-100.index") == "was cut short"
    assert what_is_wrong(folder / "ckpt-3.index") is None


def test_data_that_are_missing_or_empty_are_missed(folder: Path) -> None:
    (folder / DATA).write_bytes(b"")
    assert what_is_wrong(folder / "ckpt-100.index") == f"lacks {DATA}"
    (folder / DATA).unlink()
    assert what_is_wrong(folder / "ckpt-100.index") == f"lacks {DATA}"


def test_every_shard_must_be_there(folder: Path) -> None:
    (folder / DATA).rename(folder / "ckpt-100.data-00001-of-00002")
    assert what_is_wrong(folder / "ckpt-100") == "lacks ckpt-100.data-00000-of-00002"
    (folder / "ckpt-100.data-00000-of-00002").write_bytes(b"x")
    assert what_is_wrong(folder / "ckpt-100") is None


def test_another_kind_of_index_is_not_judged(folder: Path) -> None:
    other = folder / "vectors.index"
    other.write_bytes(b"IxFI" + bytes(100))
    assert what_is_wrong(other) is None
    assert shards_of(folder / "vectors.idx") == ()


def test_its_size_is_that_of_all_its_files_and_all_are_removed(folder: Path) -> None:
    (folder / "ckpt-1000.data-00000-of-00001").write_bytes(b"another's")
    index = folder / "ckpt-100.index"
    found = measure(index, ())
    assert found
    assert found.size_bytes == index.stat().st_size + (folder / DATA).stat().st_size
    remove_checkpoint(index)
    left = {path.name for path in folder.iterdir()}
    assert left == {
        "checkpoint",
        "ckpt-3.index",
        "ckpt-3.data-00000-of-00001",
        "ckpt-1000.data-00000-of-00001",
    }
