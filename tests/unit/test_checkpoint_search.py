"""Checkpoints are found on disk: by their forms, since the run began, within bounds, never through links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkpoint_files import archive, cut, hf_checkpoint, written_at

from backprop_core.checkpoints import ledger, search
from backprop_core.checkpoints.places import Whereabouts, places_of
from backprop_core.checkpoints.search import Find, measure
from backprop_core.checkpoints.watching import look
from backprop_core.records import CheckpointForm, Script

TRAINER = CheckpointForm(name="checkpoint-[0-9]*", is_folder=True, step=r"checkpoint-(\d+)$")
BACKUP = CheckpointForm(name="*", is_folder=True, holds=("latest.weights.h5", "training_metadata.json"))
FILES = (
    CheckpointForm(name="*best*.pt", is_second_choice=True),
    CheckpointForm(name="*.pt", step=r"step-(\d+)"),
)


def found(*places: Path, forms: tuple[CheckpointForm, ...] = FILES, since_s: float = 0) -> list[Find]:
    findings = search.search(places, forms, since_s * 1000)
    assert not findings.is_cut
    return list(findings.finds)


def names(finds: list[Find]) -> list[str]:
    return [find.path.name for find in finds]


def test_files_are_found_with_step_size_and_time_the_oldest_first(tmp_path: Path) -> None:
    first, second = archive(tmp_path / "out" / "step-9.pt"), archive(tmp_path / "out" / "deep" / "step-10.pt")
    written_at({first: 3000, second: 2000})
    (tmp_path / "out" / "log.txt").write_text("step 10")
    assert found(tmp_path) == [
        Find(path=second, at_ms=2_000_000, size_bytes=second.stat().st_size, step=10),
        Find(path=first, at_ms=3_000_000, size_bytes=first.stat().st_size, step=9),
    ]


def test_a_folder_counts_as_one_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = hf_checkpoint(tmp_path / "out", 12)
    sizes = sum(file.stat().st_size for file in folder.iterdir())
    (find,) = found(tmp_path, forms=(TRAINER, *FILES))
    assert (find.path, find.step, find.size_bytes) == (folder, 12, sizes)


def test_a_folder_that_is_told_by_what_it_holds_may_have_any_name(tmp_path: Path) -> None:
    backup = tmp_path / "anywhere"
    for name in BACKUP.holds:
        archive(backup / name)
    archive(tmp_path / "half" / BACKUP.holds[0])
    assert [find.path for find in found(tmp_path, forms=(BACKUP,))] == [backup]
    assert [find.path for find in found(backup, forms=(BACKUP,))] == [backup], "named itself"


def test_what_was_there_before_the_run_is_not_its_own(tmp_path: Path) -> None:
    before, after = archive(tmp_path / "a.pt"), archive(tmp_path / "b.pt")
    written_at({before: 999, after: 1001})
    assert names(found(tmp_path, since_s=1000)) == ["b.pt"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = archive(tmp_path / "outside" / "theirs.pt")
    inside = tmp_path / "project"
    inside.mkdir()
    (inside / "folder").symlink_to(outside.parent)
    (inside / "link.pt").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    assert found(inside) == []
    assert names(found(inside / "folder")) == ["theirs.pt"], "a link that the person named is theirs"


@pytest.mark.parametrize("name", ["site-packages", ".cache", "wandb", "__pycache__"])
def test_folders_that_hold_copies_and_packages_are_passed_over(tmp_path: Path, name: str) -> None:
    archive(tmp_path / name / "a.pt")
    assert found(tmp_path) == []


def test_a_virtual_environment_is_passed_over(tmp_path: Path) -> None:
    archive(tmp_path / "env" / "lib" / "a.pt")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert found(tmp_path) == []


def test_a_search_ends_at_its_bounds_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        archive(tmp_path / f"run{number:02}" / "step-1.pt")
    monkeypatch.setattr(search, "MOST_ENTRIES", 40)
    findings = search.search([tmp_path], FILES, 0)
    assert findings.is_cut
    assert 0 < len(findings.finds) < 30
    monkeypatch.setattr(search, "MOST_ENTRIES", 50_000)
    monkeypatch.setattr(search, "MOST_S", -1.0)
    assert search.search([tmp_path], FILES, 0) == search.Findings((), is_cut=True)


def test_a_search_goes_only_so_deep(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdefghij")
    archive(deep / "a.pt")
    archive(tmp_path / "a" / "b.pt")
    assert names(found(tmp_path)) == ["b.pt"]


def test_a_folder_that_may_not_be_read_and_one_that_is_gone_hold_nothing(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt")
    locked = tmp_path / "locked"
    archive(locked / "b.pt")
    locked.chmod(0)
    try:
        expected = ["a.pt"] if os.geteuid() else ["a.pt", "b.pt"]
        assert sorted(names(found(tmp_path, tmp_path / "gone"))) == expected
    finally:
        locked.chmod(0o700)


def test_the_size_of_an_announced_folder_is_not_counted_for_ever(tmp_path: Path) -> None:
    find = measure(Path("/usr"), ())
    assert find is not None
    assert measure(tmp_path / "gone", ()) is None
    assert measure(Path("a\0b"), ()) is None


# Where to look -----------------------------------------------------------------------------------


def script(tmp_path: Path, *places: str) -> Script:
    return Script(path=tmp_path / "code" / "train.py", places=frozenset(places))


def test_arguments_come_before_the_source_and_both_before_the_working_directory(tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    for name in ("cwd/out", "cwd/named", "elsewhere", "code", "spaced out", "cwd/hydra"):
        (tmp_path / name).mkdir(parents=True)
    arguments = ("--out", "out", f"--to={tmp_path}/spaced out", "run.dir=hydra", "--lr", "0.1", "gone")
    places = places_of(script(tmp_path, "named", "../elsewhere", "no such"), arguments, cwd, tmp_path / "run")
    assert places.all == (
        cwd / "out",
        tmp_path / "spaced out",
        cwd / "hydra",
        tmp_path / "run",
        tmp_path / "elsewhere",
        cwd / "named",
        cwd,
        tmp_path / "code",
    )


def test_the_folders_above_are_too_much_to_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cwd = tmp_path / "a" / "b"
    cwd.mkdir(parents=True)
    above = (str(cwd), str(cwd.parent), "..", "/", "~", ".")
    assert places_of(script(tmp_path, *above), above, cwd, None).all == (cwd, tmp_path / "code")


def test_a_folder_of_data_that_the_source_names_is_not_searched_first(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert places_of(script(tmp_path, "data"), (), tmp_path, None).all[0] == tmp_path
    assert places_of(script(tmp_path), ("--out", "data"), tmp_path, None).all[0] == tmp_path / "data"


# What a look brings ------------------------------------------------------------------------------


def where(folder: Path, pattern: str | None = None) -> Whereabouts:
    return Whereabouts(
        cwd=folder,
        folder=folder / "run",
        since_ms=0,
        script=Script(path=folder / "train.py"),
        forms=(TRAINER, *FILES),
        pattern=pattern,
    )


def test_a_look_brings_what_is_new_and_judges_it(tmp_path: Path) -> None:
    whole, broken = archive(tmp_path / "step-1.pt"), cut(archive(tmp_path / "step-2.pt"))
    first = look(where(tmp_path), {})
    assert {entry.path: entry.problem for entry in first.news} == {
        str(whole): None,
        str(broken): "was cut short",
    }
    known = ledger.merged({}, first.news)
    assert look(where(tmp_path), known).news == ()
    archive(broken)
    assert [(entry.path, entry.problem) for entry in look(where(tmp_path), known).news] == [
        (str(broken), None)
    ]


def test_what_is_still_being_written_does_not_count_yet(tmp_path: Path) -> None:
    fresh, settled = archive(tmp_path / "step-2.pt"), archive(tmp_path / "step-1.pt")
    half = cut(archive(tmp_path / "step-3.pt"))
    written_at({settled: 5000, half: 5000})
    news = look(where(tmp_path), {}, settled_ms=60_000).news
    assert [entry.path for entry in news] == [str(settled)]
    assert len(look(where(tmp_path), {}).news) == 3
    assert fresh.exists()


def test_what_a_pattern_names_is_told_from_what_was_found(tmp_path: Path) -> None:
    archive(tmp_path / "step-1.pt")
    (tmp_path / "model.bin").write_bytes(b"weights")
    news = look(where(tmp_path, pattern="*.bin"), {}).news
    assert {Path(entry.path).name: entry.learned for entry in news} == {
        "step-1.pt": "found",
        "model.bin": "glob",
    }


# The ledger --------------------------------------------------------------------------------------


def known(path: str, **fields: object) -> ledger.Known:
    return ledger.Known(path=path, **{"learned": "found", **fields})  # type: ignore[arg-type]


def test_a_ledger_is_read_as_it_was_written_and_survives_what_is_no_line_of_it(tmp_path: Path) -> None:
    entries = {
        entry.path: entry
        for entry in (known("/a", step=3, size_bytes=5, at=7), known("/é", problem="was cut short"))
    }
    ledger.write(tmp_path, entries)
    assert ledger.read(tmp_path) == entries
    with (tmp_path / ledger.NAME).open("ab") as file:
        file.write(b'{"path": 3}\nnonsense\n{"path": "/b", "learned": "plugin", "new": 1}\n{"path"')
    assert list(ledger.read(tmp_path)) == ["/a", "/é", "/b"]
    assert ledger.read(tmp_path / "gone") == {}
    assert (tmp_path / ledger.NAME).stat().st_mode & 0o777 == 0o600


def test_how_a_path_was_first_learned_stays_and_its_step_until_it_is_saved_anew() -> None:
    before = {"/a": known("/a", learned="announced", step=3, at=100, size_bytes=5)}
    same = ledger.merged(before, [known("/a", at=100, size_bytes=5, is_second_choice=True)])["/a"]
    assert (same.learned, same.step, same.is_second_choice) == ("announced", 3, False)
    anew = ledger.merged(before, [known("/a", at=200, size_bytes=6)])["/a"]
    assert (anew.learned, anew.step, anew.at) == ("announced", None, 200)


def test_the_newest_comes_last_and_second_choices_first() -> None:
    entries = [known("/b", at=2), known("/best", at=9, is_second_choice=True), known("/a", at=1)]
    assert ledger.in_order(["/a", "/b", "/best", "/untimed"], {entry.path: entry for entry in entries}) == (
        "/best",
        "/untimed",
        "/a",
        "/b",
    )
    said = [known("/1", learned="announced", at=5), known("/2", at=4)]
    assert ledger.in_order(["/1", "/gone", "/2"], {entry.path: entry for entry in said}) == (
        "/2",
        "/1",
        "/gone",
    )
