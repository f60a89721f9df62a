"""experiments.json damaged in every way: kept aside, put together again, and said."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core.testing import make_record

IDS = [f"r{number}" for number in range(5)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.json"


@pytest.fixture
def storage(home: Path) -> JsonStorage:
    return JsonBackend().open(None, home)


@pytest.fixture
def filled(storage: JsonStorage) -> JsonStorage:
    for number, run_id in enumerate(IDS):
        storage.save(make_record(run_id, number))
    return storage


def ids(storage: JsonStorage) -> list[str]:
    return sorted(record.id for record in storage.runs())


def empty(file: Path) -> None:
    file.write_bytes(b"")


def halved(file: Path) -> None:
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def garbage(file: Path) -> None:
    file.write_bytes(b"\x93\xff{{{ not json \x00" * 50)


def a_list(file: Path) -> None:
    file.write_text("[1, 2, 3]")


def a_bomb(file: Path) -> None:
    file.write_text('{"a":' + "[" * 100_000)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("kept")


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = [empty, halved, zeroed, garbage, a_list, a_bomb, a_folder, a_pipe]


@pytest.mark.parametrize("damage", DAMAGES)
def test_reader_that_meets_damage_keeps_it_aside_and_rebuilds_every_record(
    filled: JsonStorage, home: Path, file: Path, damage: Callable[[Path], None]
) -> None:
    damage(file)
    broken = None if damage in (a_folder, a_pipe) else file.read_bytes()
    assert ids(filled) == IDS
    (kept,) = home.glob("experiments.json.corrupt-*")
    assert re.fullmatch(r"experiments\.json\.corrupt-\d{8}T\d{6}Z", kept.name)
    if broken is not None:
        assert kept.read_bytes() == broken
    if damage is a_folder:
        assert (kept / "inside").read_text() == "kept"
    (problem,) = filled.problems
    assert str(file) in problem
    assert kept.name in problem
    assert "5 runs" in problem
    assert list(json.loads(file.read_text())) == IDS, "oldest first, as ever"
    again = JsonBackend().open(None, home)
    assert ids(again) == IDS
    assert again.problems == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_writer_that_meets_damage_rebuilds_before_it_adds(
    filled: JsonStorage, home: Path, file: Path, damage: Callable[[Path], None]
) -> None:
    damage(file)
    filled.save(make_record("new"))
    assert ids(filled) == ["new", *IDS]
    assert len(filled.problems) == 1
    assert len(list(home.glob("experiments.json.corrupt-*"))) == 1


def test_every_truncation_is_rebuilt_in_full(filled: JsonStorage, home: Path, file: Path) -> None:
    text = file.read_bytes()
    for length in range(0, len(text.rstrip()), 41):
        file.write_bytes(text[:length])
        assert ids(filled) == IDS, f"cut at {length}"
    kept = {path.name for path in home.glob("experiments.json.corrupt-*")}
    assert len(kept) == len(range(0, len(text.rstrip()), 41)), "none of the kept files replaces another"
    assert file.read_bytes() == text


@pytest.mark.parametrize("indent", [None, 2])
def test_whole_records_of_a_torn_file_without_copies_are_saved(
    storage: JsonStorage, file: Path, indent: int | None
) -> None:
    old = {
        run_id: {"id": run_id, "scriptPath": "/x.py", "status": "failed", "startTime": 1} for run_id in IDS
    }
    old["r1"]["gpu"] = {"id": "GPU-1"}
    text = json.dumps(old, indent=indent)
    file.write_text(text[: text.index('"r4"') + 20])
    assert ids(storage) == IDS[:4]
    assert json.loads(file.read_text()) == {run_id: old[run_id] for run_id in IDS[:4]}


def test_records_behind_the_damage_are_saved_too(storage: JsonStorage, file: Path) -> None:
    lines = [
        f'"{run_id}": {{"id":"{run_id}","scriptPath":"/x","status":"lost","startTime":1}}' for run_id in IDS
    ]
    file.write_text("{\n" + ",\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n}\n")
    assert ids(storage) == ["r0", "r2", "r3", "r4"]


def test_vanished_file_is_rebuilt_aloud(filled: JsonStorage, file: Path) -> None:
    file.unlink()
    assert ids(filled) == IDS
    (problem,) = filled.problems
    assert "is missing" in problem
    assert "5 runs" in problem


def test_deleted_runs_do_not_come_back_from_damage(filled: JsonStorage, file: Path) -> None:
    filled.delete("r2")
    halved(file)
    assert ids(filled) == ["r0", "r1", "r3", "r4"]


def test_damaged_copy_is_named_and_hides_no_other(filled: JsonStorage, home: Path, file: Path) -> None:
    for run_id, text in (("r1", b"{torn"), ("r3", b"[]"), ("r4", b"")):
        (home / "runs" / run_id / "run.json").write_bytes(text)
    garbage(file)
    assert ids(filled) == ["r0", "r2"]
    assert sorted(run_id for run_id in IDS if any(f"{run_id}/run.json" in p for p in filled.problems)) == [
        "r1",
        "r3",
        "r4",
    ]


def test_flipped_bits_never_change_a_record_in_silence(filled: JsonStorage, file: Path) -> None:
    text = file.read_bytes()
    before = filled.runs()
    for position in range(3, len(text) - 3, 29):
        file.write_bytes(text[:position] + bytes([text[position] ^ 4]) + text[position + 1 :])
        fresh = JsonBackend().open(None, file.parent)
        found = [msgspec.structs.replace(record, extra={}) for record in fresh.runs()]
        if found != before:
            assert fresh.problems, f"a changed bit in byte {position} passed for a record"
