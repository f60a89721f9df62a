"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_plugins import bring, plugins_with

from backprop_core.checkpoints.choice import checkpoint_given, newest_valid, recollected
from backprop_core.checkpoints.places import Whereabouts
from backprop_core.checkpoints.validity import what_is_wrong
from backprop_core.checkpoints.watching import look
from backprop_core.errors import NotFoundError
from backprop_core.plugins import Plugins
from backprop_core.records import CheckpointSaved, RunRecord, Script
from backprop_core.states import RunState


def saved(path: Path) -> Path:
    """Write what torch.save, Keras and Lightning write: a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"weights")
    return path


def record(*checkpoints: Path | str) -> RunRecord:
    paths = tuple(map(str, checkpoints))
    return RunRecord(
        id="r", script_path="/p/t.py", status=RunState.TIMEBOXED, start_time=1, checkpoints=paths
    )


def chosen(run: RunRecord, plugins: Plugins, tell: Callable[[str], None]) -> Path | None:
    """Choose as `resume` does, with a look at the disk and an empty ledger."""
    cwd = Path(run.cwd or "/")
    where = Whereabouts(
        cwd=cwd,
        folder=cwd / "none",
        script=Script(path=Path(run.script_path)),
        since_ms=run.start_time,
        pattern=run.settings.get("checkpointGlob"),
    )
    return newest_valid(run, recollected(run, {}, look(where, {}).news), plugins, tell)


def test_whole_files_and_folders_are_fine(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    (folder / "weights").write_bytes(b"x")
    old_format = tmp_path / "old.pt"
    old_format.write_bytes(b"\x80\x02pickled long ago")
    link = tmp_path / "last.pt"
    link.symlink_to(saved(tmp_path / "a.pt"))
    for path in (tmp_path / "a.pt", folder, old_format, link):
        assert what_is_wrong(path) is None


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".tar", ".keras"])
def test_an_archive_that_was_cut_short_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"model{suffix}")
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        assert what_is_wrong(path) == "was cut short", length
    path.write_bytes(whole)
    assert what_is_wrong(path) is None


def test_files_of_other_kinds_are_not_judged_by_their_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"PK\x03\x04 is how these weights begin")
    assert what_is_wrong(path) is None


def test_what_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        "empty.pt": "is empty",
        "folder": "is an empty folder",
        "dangling": "does not exist",
        "gone": "does not exist",
        "a\0b": "does not exist",
        "pipe": "is no file or folder",
        "empty.pt/x": "does not exist",
        "x" * 300: "cannot be read (File name too long)",
    }
    assert {name: what_is_wrong(tmp_path / name) for name in wrong} == wrong


def test_a_checkpoint_that_a_person_named_is_found_from_their_folder(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt")
    assert checkpoint_given(Path("x/../a.pt"), tmp_path) == tmp_path / "a.pt"
    assert checkpoint_given(tmp_path / "a.pt", Path("/")) == tmp_path / "a.pt"


def test_a_checkpoint_that_a_person_named_must_be_fine(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.pt does not exist") as raised:
        checkpoint_given(Path("gone.pt"), tmp_path)
    assert raised.value.exit_code == 66


def test_the_newest_that_is_whole_is_taken_and_those_passed_over_are_told(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "1.pt"), saved(tmp_path / "2.pt")
    cut, gone = tmp_path / "3.pt", tmp_path / "4.pt"
    cut.write_bytes(first.read_bytes()[:-1])
    told: list[str] = []
    assert chosen(record(first, second, cut, gone), Plugins(), told.append) == second
    assert told == [
        f"passing over the checkpoint {gone}: it does not exist",
        f"passing over the checkpoint {cut}: it was cut short",
    ]


def test_starting_afresh_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    assert chosen(record(), Plugins(), told.append) is None
    assert chosen(record(tmp_path / "gone"), Plugins(), told.append) is None
    assert [told[0], told[-1]] == [
        "no checkpoint was announced or found: starting afresh",
        "no checkpoint can be used: starting afresh",
    ]


def test_of_the_plugins_the_last_step_wins_and_is_newer_than_what_was_recorded(tmp_path: Path) -> None:
    recorded, late, early, plain = (saved(tmp_path / f"{name}.pt") for name in "abcd")
    plugins = plugins_with(backprop_find_checkpoint=lambda: CheckpointSaved(path=str(early), step=3))
    bring(plugins, "two", backprop_find_checkpoint=lambda: CheckpointSaved(path=str(late), step=20))
    bring(plugins, "three", backprop_find_checkpoint=lambda: str(plain))
    bring(plugins, "four", backprop_find_checkpoint=lambda: recorded)
    bring(plugins, "five", backprop_find_checkpoint=lambda: None)
    found = []
    for path in (late, early, plain, recorded):
        found.append(chosen(record(recorded), plugins, lambda _: None))
        path.unlink()
    assert found == [late, early, plain, recorded]
    assert plugins.failures == []


@pytest.mark.parametrize(
    "answer",
    [lambda: 1 // 0, lambda: 7, lambda: CheckpointSaved(path="/x", step="1")],  # type: ignore[arg-type]
)
def test_a_plugin_that_names_no_checkpoint_is_passed_over_and_named(
    tmp_path: Path, answer: Callable[[], object]
) -> None:
    path = saved(tmp_path / "a.pt")
    plugins = plugins_with(backprop_find_checkpoint=answer)
    assert chosen(record(path), plugins, lambda _: None) == path
    assert [(failure.plugin, failure.hook) for failure in plugins.failures] == [
        ("one", "backprop_find_checkpoint")
    ]


def test_what_the_glob_names_and_this_run_has_written_is_found_newest_first(tmp_path: Path) -> None:
    announced, older, newer = (saved(tmp_path / name) for name in ("said.pt", "a.pt", "b.pt"))
    before_the_run = saved(tmp_path / "c.pt")
    for path, when_s in ((announced, 1500), (older, 2000), (newer, 3000), (before_the_run, 10)):
        os.utime(path, (when_s, when_s))
    run = RunRecord(
        id="r",
        script_path="/p/t.py",
        status=RunState.TIMEBOXED,
        start_time=1_000_000,
        cwd=str(tmp_path),
        checkpoints=(str(announced),),
        settings={"checkpointGlob": "?.pt"},
    )
    told: list[str] = []
    assert chosen(run, Plugins(), told.append) == newer
    newer.write_bytes(newer.read_bytes()[:20])
    os.utime(newer, (3000, 3000))
    assert chosen(run, Plugins(), told.append) == older
    older.unlink()
    assert chosen(run, Plugins(), told.append) == announced
