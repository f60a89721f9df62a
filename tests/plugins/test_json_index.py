"""`experiments.json.index` saves reading; whatever becomes of it, no answer and no file is other than without it."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backprop_builtin.storage import _index
from backprop_builtin.storage._contents import Parsed
from backprop_builtin.storage._files import stamp_of
from backprop_builtin.storage._index import Columns
from backprop_builtin.storage._records import parse
from backprop_builtin.storage._spare import spare_of
from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core import RunState
from backprop_core.testing import ids, make_record

COUNT = 15
EVERY = [f"r{number}" for number in reversed(range(COUNT))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "experiments.json"


@pytest.fixture
def index(file: Path) -> Path:
    return file.with_name("experiments.json.index")


@pytest.fixture
def storage(file: Path) -> Iterator[JsonStorage]:
    with closing(JsonBackend().open(None, file.parent)) as storage:
        storage.save_many([make_record(f"r{number}", number) for number in range(COUNT)])
        yield storage


def fresh(file: Path) -> JsonStorage:
    return JsonBackend().open(None, file.parent)


def read_bytes(work: Callable[[], object]) -> int:
    """Count what this process reads meanwhile, in bytes."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    began = so_far()
    idle = so_far() - began
    began = so_far()
    work()
    return so_far() - began - idle


def test_few_of_many_are_read_without_the_rest(storage: JsonStorage, file: Path) -> None:
    long = {f"metric-{number}": 0.5 for number in range(400)}
    storage.save_many([make_record(f"r{number}", number, metrics=long) for number in range(COUNT)])
    with closing(fresh(file)) as reader:
        assert read_bytes(lambda: reader.runs(limit=2)) < file.stat().st_size / 5
        assert read_bytes(lambda: reader.get("r7")) < file.stat().st_size / 5
        assert ids(reader, limit=2) == EVERY[:2]


@pytest.mark.parametrize("seed", range(2))
def test_file_that_is_written_piecewise_is_the_one_that_would_be_written_whole(
    storage: JsonStorage, file: Path, seed: int
) -> None:
    chance = random.Random(seed)
    kept = {run_id: make_record(run_id, int(run_id[1:])) for run_id in reversed(EVERY)}
    for turn in range(12):
        chosen = [f"r{chance.randrange(COUNT + 10)}" for _ in range(chance.randrange(1, 4))]
        if chance.random() < 0.4:
            storage.delete_many(chosen)
            kept = {run_id: record for run_id, record in kept.items() if run_id not in chosen}
        else:
            state = chance.choice([RunState.RUNNING, RunState.COMPLETED])
            new = {run_id: make_record(run_id, turn, status=state, last_step=turn) for run_id in chosen}
            storage.save_many(list(new.values()))
            kept.update(new)
        text = Parsed(parse(file.read_bytes())).changed({})
        assert file.read_bytes() == b"".join(text.pieces)
        assert _index.of_file(file, stamp_of(file.stat())) == text.columns
        assert list(json.loads(file.read_bytes())) == list(kept)
        assert {record.id: record for record in storage.runs()} == kept
    assert storage.problems == []


def test_store_that_is_emptied_and_filled_again_is_whole(storage: JsonStorage, file: Path) -> None:
    storage.delete_many(EVERY)
    assert json.loads(file.read_bytes()) == {}
    assert ids(storage) == []
    storage.save(make_record("new"))
    assert ids(storage) == ids(fresh(file)) == ["new"]


def test_edit_that_leaves_size_and_time_as_they_were_is_seen(storage: JsonStorage, file: Path) -> None:
    storage.save(make_record("r3", 3, last_step=1500))
    before = file.stat()
    with file.open("r+b") as opened:
        text = opened.read().replace(b":1500,", b":9500,")
        opened.seek(0)
        opened.write(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_ino, file.stat().st_size) == (before.st_ino, before.st_size)
    record = storage.get("r3")
    assert record is not None
    assert record.last_step == 9500
    storage.save(make_record("new"))
    assert b":9500," in file.read_bytes()


def test_restored_file_is_read_and_not_the_index_of_the_one_it_replaced(
    storage: JsonStorage, file: Path
) -> None:
    old, before = file.read_bytes(), file.stat()
    storage.save(make_record("r3", 3, name="newer"))
    file.unlink()
    file.write_bytes(old)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert {record.name for record in storage.runs()} == {make_record("r3").name}
    storage.save(make_record("r3", 3, name="newest"))
    assert ids(fresh(file)) == EVERY


def removed(index: Path) -> None:
    index.unlink()


def emptied(index: Path) -> None:
    index.write_bytes(b"")


def zeroed(index: Path) -> None:
    index.write_bytes(bytes(index.stat().st_size))


def halved(index: Path) -> None:
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


def a_folder(index: Path) -> None:
    index.unlink()
    index.mkdir()


def a_pipe(index: Path) -> None:
    index.unlink()
    os.mkfifo(index)


def a_link(index: Path) -> None:
    index.rename(index.with_name("elsewhere"))
    index.symlink_to(index.with_name("elsewhere"))


def longer(index: Path) -> None:
    index.write_bytes(index.read_bytes() + bytes(10_000))


@pytest.mark.parametrize("damage", [removed, emptied, zeroed, halved, longer, a_folder, a_pipe, a_link])
def test_without_a_whole_index_everything_is_as_with_it(
    storage: JsonStorage, file: Path, index: Path, damage: Callable[[Path], None]
) -> None:
    damage(index)
    with closing(fresh(file)) as other:
        assert ids(other) == EVERY
        other.save(make_record("new"))
        assert ids(other) == sorted(["new", *EVERY], key=["new", *EVERY].index)
        assert list(json.loads(file.read_bytes())) == [*reversed(EVERY), "new"]
        assert other.problems == []
    assert index.is_dir() if damage is a_folder else stat.S_ISREG(index.lstat().st_mode)


def test_index_is_written_where_it_lies_and_through_no_link(storage: JsonStorage, index: Path) -> None:
    before = index.stat()
    storage.save(make_record("new"))
    assert index.stat().st_ino == before.st_ino
    a_link(index)
    elsewhere = index.resolve()
    kept = elsewhere.read_bytes()
    storage.save(make_record("newer"))
    assert elsewhere.read_bytes() == kept
    assert index.stat().st_ino != before.st_ino


def test_flipped_bits_of_the_index_change_no_answer(storage: JsonStorage, file: Path, index: Path) -> None:
    whole = index.read_bytes()
    for place in range(0, len(whole), 7):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with closing(fresh(file)) as other:
            assert ids(other, limit=3) == EVERY[:3]
            assert other.problems == []


def exchanged(columns: Columns) -> Columns:
    """Name two lines of other lengths each by the other's id."""
    found = list(columns.ids)
    found[3], found[12] = found[12], found[3]
    return Columns(found, columns.starts, columns.states, columns.lengths)


def shifted(columns: Columns) -> Columns:
    lengths = list(columns.lengths)
    lengths[3], lengths[4] = lengths[3] - 5, lengths[4] + 5
    return Columns(columns.ids, columns.starts, columns.states, lengths)


@pytest.mark.parametrize("forge", [exchanged, shifted])
def test_index_that_points_elsewhere_is_found_out_and_nothing_is_written_by_it(
    storage: JsonStorage, file: Path, forge: Callable[[Columns], Columns]
) -> None:
    def mislead() -> None:
        stamp = stamp_of(file.stat())
        columns = _index.of_file(file, stamp)
        assert columns is not None
        _index.keep(file, stamp, forge(columns))

    mislead()
    with closing(fresh(file)) as other:
        assert [record.id for record in other.runs()] == EVERY
        assert other.get("r3") == make_record("r3", 3)
    mislead()
    with closing(fresh(file)) as other:
        other.save(make_record("r3", 3, last_step=7))
        assert ids(other) == EVERY
        assert list(json.loads(file.read_bytes())) == list(reversed(EVERY))
        assert other.problems == []


def test_index_is_for_its_user_alone(storage: JsonStorage, index: Path) -> None:
    assert stat.S_IMODE(index.stat().st_mode) == 0o600


def test_store_in_a_place_where_no_index_can_be_written_is_kept_all_the_same(
    storage: JsonStorage, file: Path, index: Path
) -> None:
    a_folder(index)
    (index / "in the way").touch()
    storage.save(make_record("new"))
    assert ids(storage) == ["new", *EVERY]
    assert [path.name for path in file.parent.glob(".*")] == [spare_of(file).name]


def test_file_of_another_program_is_read_whole_and_has_an_index_once_it_was_saved_to(file: Path) -> None:
    file.parent.mkdir(0o700)
    kept = {
        f"old-{n}": {"id": f"old-{n}", "scriptPath": "/x", "status": "completed", "startTime": n}
        for n in range(9)
    }
    file.write_text(json.dumps(kept, indent=2))
    with closing(fresh(file)) as storage:
        assert storage.get("old-4") is not None
        storage.save(make_record("new", 99))
    with closing(fresh(file)) as storage:
        assert read_bytes(lambda: storage.get("old-4")) < file.stat().st_size
        assert ids(storage) == ["new", *reversed(kept)]
        assert storage.problems == []
