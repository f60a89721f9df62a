"""Of a run's checkpoints the newest stay; the others go only where they are the run's own, and nothing else goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import archive, hf_checkpoint, written_at
from fake_storage import FakeStorage

from backprop_core.checkpoints import ledger
from backprop_core.checkpoints.search import measure
from backprop_core.errors import UsageError
from backprop_core.holding import hold, make_folder
from backprop_core.keeping import Surplus, delete, surplus
from backprop_core.records import Attempt, RunRecord
from backprop_core.states import RunState


class Run:
    """A run that has ended in its folder, with checkpoints that it announced or that were found."""

    def __init__(self, place: Path) -> None:
        self.home, self.cwd = place / "home", place / "cwd"
        self.cwd.mkdir()
        self.folder = make_folder(self.home, "r")
        self.paths: list[str] = []
        self.storage = FakeStorage()

    def has(self, *paths: Path, learned: ledger.Learned) -> None:
        known = ledger.read(self.folder)
        for path in paths:
            find = measure(path, ())
            assert find
            known[str(path)] = ledger.Known(
                path=str(path), learned=learned, at=find.at_ms, size_bytes=find.size_bytes
            )
            self.paths.append(str(path))
        ledger.write(self.folder, known)
        self.storage.save(self.record())

    def record(self, **fields: object) -> RunRecord:
        values: dict[str, Any] = {
            "status": RunState.FAILED,
            "start_time": 1,
            "attempts": (Attempt(start=1, end=2),),
            **fields,
        }
        return RunRecord(
            id="r", script_path="/p/t.py", cwd=str(self.cwd), checkpoints=tuple(self.paths), **values
        )

    def keep(self, count: int) -> Surplus:
        others, newest = self.paths[:-count], self.paths[-count:]
        return surplus(self.storage, self.home, self.record(), newest, others)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def names(checkpoints: object) -> list[str]:
    return [each.path.name for each in checkpoints]  # type: ignore[attr-defined]


def test_what_was_announced_is_told_from_what_was_only_found(run: Run) -> None:
    run.has(archive(run.cwd / "1.pt"), hf_checkpoint(run.cwd, 2), learned="announced")
    run.has(archive(run.cwd / "3.pt"), archive(run.cwd / "4.pt"), learned="found")
    found = run.keep(1)
    assert (names(found.seen), names(found.unseen), found.kept) == (["1.pt", "checkpoint-2"], ["3.pt"], ())


def test_one_that_was_announced_and_has_changed_since_was_not_seen(run: Run) -> None:
    run.has(archive(run.cwd / "1.pt"), archive(run.cwd / "2.pt"), learned="announced")
    written_at({run.cwd / "1.pt": 1000})
    assert names(run.keep(1).unseen) == ["1.pt"]


def test_what_holds_is_or_lies_in_one_that_stays_is_left(run: Run) -> None:
    outer = hf_checkpoint(run.cwd, 1)
    inner, twin = outer / "optimizer.pt", run.cwd / "twin.pt"
    run.has(outer, learned="announced")
    run.has(inner, learned="announced")
    assert names(run.keep(1).kept) == ["checkpoint-1"]
    run.paths = [str(inner), str(outer)]
    assert names(run.keep(1).kept) == ["optimizer.pt"]
    twin.symlink_to(inner)
    run.paths = [str(inner), str(twin)]
    assert names(run.keep(1).kept) == ["optimizer.pt"]


def test_what_lies_elsewhere_is_a_link_or_is_older_than_the_run_is_left(run: Run, tmp_path: Path) -> None:
    elsewhere, link, old = (
        archive(tmp_path / "elsewhere.pt"),
        run.cwd / "link.pt",
        archive(run.cwd / "old.pt"),
    )
    link.symlink_to(elsewhere)
    run.has(elsewhere, link, old, archive(run.cwd / "new.pt"), learned="announced")
    os.utime(old, (0, 0))
    record = run.record(start_time=10_000)
    found = surplus(run.storage, run.home, record, run.paths[-1:], run.paths[:-1])
    assert (names(found.kept), found.seen, found.unseen) == (["elsewhere.pt", "link.pt", "old.pt"], (), ())
    assert all(each.why_kept for each in found.kept)


def test_deleted_ones_are_forgotten_and_the_others_stay(run: Run) -> None:
    run.has(
        archive(run.cwd / "1.pt"), hf_checkpoint(run.cwd, 2), archive(run.cwd / "3.pt"), learned="announced"
    )
    delete(run.storage, run.home, run.record(), run.keep(1).seen)
    assert [path.name for path in run.cwd.iterdir()] == ["3.pt"]
    saved = run.storage.get("r")
    assert saved
    assert (saved.checkpoints, saved.last_checkpoint) == ((run.paths[-1],), run.paths[-1])
    assert list(ledger.read(run.folder)) == run.paths[-1:]


def test_a_run_that_is_live_or_has_gone_on_meanwhile_keeps_all(run: Run) -> None:
    run.has(archive(run.cwd / "1.pt"), archive(run.cwd / "2.pt"), learned="announced")
    going = run.keep(1).seen
    with pytest.raises(UsageError, match="is running"):
        surplus(run.storage, run.home, run.record(status=RunState.RUNNING), run.paths[1:], run.paths[:1])
    before = run.record()
    run.storage.save(run.record(attempts=(Attempt(start=1, end=2), Attempt(start=3, end=4))))
    with pytest.raises(UsageError, match="has gone on meanwhile"):
        delete(run.storage, run.home, before, going)
    lock = hold(run.folder)
    with pytest.raises(UsageError):
        delete(run.storage, run.home, before, going)
    os.close(lock)
    assert (run.cwd / "1.pt").exists()
