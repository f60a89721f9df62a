from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop_builtin.storage import json_file
from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core import Intent, Progress, RunState, Storage, StorageBackend, StorageError
from backprop_core.testing import Factory, StorageContract, full_record, ids, make_record


class TestJsonStorageKeepsTheContract(StorageContract):
    @pytest.fixture
    def storage_factory(self, tmp_path: Path) -> Factory:
        return partial(JsonBackend().open, None, tmp_path / "home")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.json"


@pytest.fixture
def storage(home: Path) -> Iterator[JsonStorage]:
    storage = JsonBackend().open(None, home)
    yield storage
    storage.close()


def old_record(run_id: str, start: int, **more: Any) -> dict[str, Any]:
    """What the format's first program wrote."""
    return {"id": run_id, "scriptPath": "/x.py", "status": "completed", "startTime": start, **more}


def test_plugin_brings_the_json_backend(home: Path) -> None:
    backend = json_file.backprop_storage_backend()
    assert isinstance(backend, StorageBackend)
    assert (backend.name, backend.schemes) == ("json", ("json",))
    assert isinstance(backend.open(None, home), Storage)


# The file ------------------------------------------------------------------------------------


def test_file_is_one_json_object_with_a_record_on_each_line_and_the_newest_last(
    storage: JsonStorage, file: Path
) -> None:
    for run_id in ("z", "a", "m"):
        storage.save(make_record(run_id))
    storage.save(make_record("z", last_step=3))
    lines = file.read_text().splitlines()
    assert lines[0] == "{"
    assert [line.split(":")[0] for line in lines[1:-1]] == ['"z"', '"a"', '"m"']
    assert lines[-1] == "}"
    values = json.loads(file.read_text())
    assert values["z"]["lastStep"] == 3
    assert values["z"]["scriptPath"] == "/home/me/train.py"


def test_run_folder_has_a_copy_of_the_record(storage: JsonStorage, home: Path) -> None:
    record = full_record()
    storage.save(record)
    copy = json.loads((home / "runs" / record.id / "run.json").read_text())
    assert copy == json.loads((home / "experiments.json").read_text())[record.id]


def test_file_that_another_program_reformatted_is_read_and_its_numbers_are_kept_to_the_digit(
    storage: JsonStorage, file: Path
) -> None:
    file.write_text(
        '{\n  "old": {\n    "id": "old",\n    "scriptPath": "/x.py",\n    "status": "completed",\n'
        '    "startTime": 1,\n    "precise": 1.00000000000000000000001\n  }\n}'
    )
    old = storage.get("old")
    assert old is not None
    assert old.status is RunState.COMPLETED
    storage.save(make_record("new"))
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    assert '"precise":1.00000000000000000000001' in lines[1]
    assert ids(storage) == ["new", "old"]
    assert storage.problems == []


@pytest.mark.parametrize("indent", [None, 2])
def test_records_of_the_first_programs_are_read_as_they_are(
    storage: JsonStorage, file: Path, indent: int | None
) -> None:
    minimal, more = old_record("a", 1), old_record("b", 2, lastLoss=None, checkpoints=["/c.pt"], color="blue")
    file.write_text(json.dumps({"a": minimal, "b": more}, indent=indent))
    second, first = storage.runs()
    assert (first.id, first.start_time, first.checkpoints) == ("a", 1, ())
    assert (second.checkpoints, second.extra) == (("/c.pt",), {"color": "blue"})
    storage.save(msgspec.structs.replace(second, last_step=7))
    values = json.loads(file.read_text())
    assert values["a"] == minimal
    assert values["b"]["color"] == "blue"
    assert values["b"]["lastStep"] == 7


def test_byte_order_mark_and_nan_of_other_programs_are_understood(storage: JsonStorage, file: Path) -> None:
    file.write_text("\ufeff" + json.dumps({"a": old_record("a", 1, lastLoss=float("nan"))}), encoding="utf-8")
    (record,) = storage.runs()
    assert record.last_loss is None
    assert storage.problems == []


def test_record_that_cannot_be_read_is_named_left_out_and_never_lost(
    storage: JsonStorage, file: Path
) -> None:
    bad = {"torn": {"id": "torn"}, "list": [1, 2], "state": old_record("state", 5, status="exploded")}
    file.write_text(json.dumps({**bad, "good": old_record("good", 1)}))
    assert ids(storage) == ["good"]
    assert len(storage.problems) == 3
    assert all(any(f"run {run_id} " in problem for problem in storage.problems) for run_id in bad)
    assert ids(storage) == ["good"]
    assert len(storage.problems) == 3, "each problem is told once"
    with pytest.raises(StorageError, match="torn"):
        storage.get("torn")
    storage.save(make_record("new"))
    values = json.loads(file.read_text())
    assert {run_id: values[run_id] for run_id in bad} == bad


def test_record_under_anothers_or_a_forged_id_is_left_out(storage: JsonStorage, file: Path) -> None:
    file.write_text(
        json.dumps({"a": old_record("../../x", 1), "../y": old_record("../y", 2), "b": old_record("b", 3)})
    )
    assert ids(storage) == ["b"]
    assert len(storage.problems) == 2
    storage.save(make_record("c"))
    assert set(json.loads(file.read_text())) == {"a", "../y", "b", "c"}


def test_record_of_a_newer_version_is_named_and_never_written_over(storage: JsonStorage, file: Path) -> None:
    newer = old_record("newer", 5, schemaVersion=2) | {"startTime": "2030-01-01", "status": ["v2"]}
    file.write_text(json.dumps({"newer": newer, "mine": old_record("mine", 1)}))
    assert ids(storage) == ["mine"]
    assert "version 2" in storage.problems[0]
    with pytest.raises(StorageError, match="version 2"):
        storage.get("newer")
    with pytest.raises(StorageError, match="newer Backprop"):
        storage.save(make_record("newer"))
    storage.save(make_record("mine", last_step=1))
    values = json.loads(file.read_text())
    assert values["newer"] == newer
    assert values["mine"]["lastStep"] == 1
    assert not (file.parent / "runs" / "newer").exists()


def test_record_that_is_not_needed_is_not_decoded(storage: JsonStorage, file: Path) -> None:
    file.write_text(json.dumps({"bad": {"startTime": 1}, "good": old_record("good", 2)}))
    assert ids(storage, limit=1) == ["good"]
    assert storage.problems == []


def test_record_changed_behind_its_checksum_is_shown_as_it_stands_and_named(
    storage: JsonStorage, file: Path
) -> None:
    storage.save(make_record("r", last_step=1500))
    storage.save(make_record("s"))
    file.write_text(file.read_text().replace(":1500,", ":9500,"))
    record = storage.get("r")
    assert record is not None
    assert record.last_step == 9500
    assert "checksum" not in record.extra
    (problem,) = storage.problems
    assert "record r does not match its checksum" in problem
    assert str(file.parent / "runs/r/run.json") in problem
    storage.save(record)
    assert storage.get("r") == record
    assert len(storage.problems) == 1


def test_reformatting_does_not_break_checksums(storage: JsonStorage, file: Path) -> None:
    storage.save(full_record())
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))
    assert storage.runs() == [full_record()]
    assert storage.problems == []


# Places --------------------------------------------------------------------------------------


def test_url_names_the_file_and_runs_lie_beside_it(tmp_path: Path, home: Path) -> None:
    place = tmp_path / "a b" / "store.json"
    storage = JsonBackend().open(f"json://{tmp_path}/a%20b/store.json", home)
    storage.save(make_record("r"))
    assert "r" in json.loads(place.read_text())
    assert (place.parent / "runs" / "r" / "run.json").exists()
    assert list(home.iterdir()) == []
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "url", ["json://", "json:///", "json://here.json", "json:here.json", "json:///x%00.json"]
)
def test_url_that_names_no_file_is_refused(url: str, home: Path) -> None:
    with pytest.raises(StorageError, match="storage is"):
        JsonBackend().open(url, home)


def test_url_that_names_a_folder_is_refused_and_the_folder_stays(tmp_path: Path, home: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    with pytest.raises(StorageError, match="storage is"):
        JsonBackend().open(f"json://{results}", home)
    assert results.is_dir()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_folder_that_others_may_write_to_is_refused(home: Path, mode: int) -> None:
    home.chmod(mode)
    with pytest.raises(StorageError, match="other users") as caught:
        JsonBackend().open(None, home)
    assert "chmod" in str(caught.value.hint)


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        JsonBackend().open(None, tmp_path / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(home: Path) -> None:
    os.chown(home, 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        JsonBackend().open(None, home)


def test_link_to_an_own_file_is_followed_and_stays_a_link(tmp_path: Path, home: Path, file: Path) -> None:
    target = tmp_path / "disk" / "mine.json"
    target.parent.mkdir(0o700)
    target.write_text(json.dumps({"old": old_record("old", 1)}))
    file.symlink_to(target)
    storage = JsonBackend().open(None, home)
    storage.save(make_record("new"))
    assert file.is_symlink()
    assert set(json.loads(target.read_text())) == {"old", "new"}
    assert (home / "runs" / "new" / "run.json").exists()


def test_link_into_a_folder_that_others_may_write_to_is_refused(
    tmp_path: Path, home: Path, file: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    file.symlink_to(shared / "mine.json")
    with pytest.raises(StorageError, match="other users"):
        JsonBackend().open(None, home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_link_to_another_users_file_is_refused(tmp_path: Path, home: Path, file: Path) -> None:
    target = tmp_path / "theirs.json"
    target.write_text("{}")
    os.chown(target, 65534, 65534)
    file.symlink_to(target)
    with pytest.raises(StorageError, match="another user"):
        JsonBackend().open(None, home)


def test_link_that_appears_later_is_not_written_through(
    storage: JsonStorage, tmp_path: Path, file: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("{}")
    file.symlink_to(target)
    with pytest.raises(StorageError, match="cannot read"):
        storage.save(make_record("r"))
    assert target.read_text() == "{}"


def test_looking_makes_no_files(storage: JsonStorage, home: Path) -> None:
    assert storage.runs() == []
    assert storage.get("r") is None
    assert storage.take("r") is None
    assert list(storage.metrics("r")) == []
    assert list(home.iterdir()) == []


# Run folders ---------------------------------------------------------------------------------


def test_delete_removes_what_backprop_made_and_nothing_else(storage: JsonStorage, home: Path) -> None:
    folders = [home / "runs" / run_id for run_id in ("tidy", "mixed")]
    for folder in folders:
        storage.save(make_record(folder.name))
        storage.append_metrics(folder.name, [Progress(step=1)])
        storage.post(folder.name, Intent(kind="stop"))
        for name in ("lock", "output.log", "agent.log", "time-box.json", ".run.json.0123456789ab.tmp"):
            (folder / name).write_text("x")
    (folders[1] / "notes.txt").write_text("mine")
    for folder in folders:
        storage.delete(folder.name)
    assert not folders[0].exists()
    assert [path.name for path in folders[1].iterdir()] == ["notes.txt"]


def test_series_is_a_line_of_json_for_each_point_without_absent_keys(
    storage: JsonStorage, home: Path
) -> None:
    storage.append_metrics(
        "r", [Progress(at=5, step=1, total_steps=9, epoch=0.5, loss=0.25, metrics={"lr": 0.1})]
    )
    storage.append_metrics("r", [Progress(step=2), Progress(loss=0.5)])
    lines = (home / "runs" / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"at": 5, "step": 1, "totalSteps": 9, "epoch": 0.5, "loss": 0.25, "metrics": {"lr": 0.1}},
        {"step": 2},
        {"loss": 0.5},
    ]


def test_torn_and_foreign_lines_of_a_series_are_passed_over(storage: JsonStorage, home: Path) -> None:
    storage.append_metrics("r", [Progress(step=1)])
    series = home / "runs" / "r" / "metrics.jsonl"
    with series.open("ab") as file:
        file.write(
            b'\n[]\n5\n{"step":"x"}\n\xff\xfe\n{"step":NaN}\n{"step":2,"new":{"key":1}}\n'
            + b"[" * 9000
            + b"\n"
        )
        file.write(b'{"step":3,"lo')
    storage.close()
    storage.append_metrics("r", [Progress(step=4)])
    assert [point.step for point in storage.metrics("r")] == [1, 2, 4]


def test_series_of_more_runs_than_stay_open_are_whole(storage: JsonStorage) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for step in range(2):
        for number in range(20):
            storage.append_metrics(f"r{number}", [Progress(step=step)])
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 8
    assert all([p.step for p in storage.metrics(f"r{number}")] == [0, 1] for number in range(20))


def test_long_series_is_read_in_pieces_and_in_order(storage: JsonStorage) -> None:
    for first in range(0, 60_000, 10_000):
        storage.append_metrics("r", [Progress(step=step, loss=0.5) for step in range(first, first + 10_000)])
    assert [point.step for point in storage.metrics("r")] == list(range(60_000))


def test_request_that_a_killed_poster_left_half_written_harms_no_other(
    storage: JsonStorage, home: Path
) -> None:
    storage.post("r", Intent(kind="pause"))
    with (home / "runs" / "r" / "control").open("ab") as file:
        file.write(b'{"kind":"explode"}\n\xff\n{"kind":"sto')
    storage.post("r", Intent(kind="stop"))
    taken: list[str] = []
    for _ in range(8):
        intent = storage.take("r")
        if intent is not None:
            taken.append(intent.kind)
    assert taken == ["pause", "stop"]
    assert (home / "runs" / "r" / "control").stat().st_size == 0


def test_polling_for_requests_opens_nothing(
    storage: JsonStorage, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.post("r", Intent(kind="stop"))
    assert storage.take("r") == Intent(kind="stop")
    opened: list[object] = []
    real = os.open

    def watched(path: str, *arguments: int) -> int:
        opened.append(path)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", watched)
    assert storage.take("r") is None
    assert storage.take("other") is None
    assert opened == []
    storage.post("r", Intent(kind="stop"))
    assert opened
