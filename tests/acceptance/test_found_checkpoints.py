"""Checkpoints that a script says nothing of are found on disk, remembered, and gone on from."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from checkpoint_files import archive, cut
from kit import Done, Project, wait_for

# Saves as torch.save does, without a word, at three steps; then does as it is told.
SILENT = """
    import os, pathlib, sys, time, zipfile
    source = os.environ.get("BACKPROP_RESUME_FROM")
    print("from", source and pathlib.Path(source).name, flush=True)
    first = int(pathlib.Path(source).stem.partition("-")[2]) if source else 0
    out = pathlib.Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    for step in range(first + 1, first + 4):
        with zipfile.ZipFile(out / f"step-{step}.pt", "w") as file:
            file.writestr("data", "weights" * 100)
        time.sleep(0.05)
    print("saved", flush=True)
    if len(sys.argv) > 2:
        time.sleep(60)
    sys.exit(5 if step < 6 else 0)
"""


def ledger(project: Project) -> dict[str, dict[str, Any]]:
    text = (project.run_folder() / "checkpoints.jsonl").read_text()
    return {Path(entry["path"]).name: entry for entry in map(json.loads, text.splitlines())}


def names(paths: list[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


def test_what_lies_on_disk_at_the_end_is_recorded_and_gone_on_from(project: Project) -> None:
    project.write("train.py", SILENT)
    archive(project.folder / "out" / "step-9.pt", b"of an earlier time")
    wait_for_the_clock(project)
    first = project.run("run", "train.py", "-f", "pytorch", "--", "out")
    record = project.record()
    assert names(record["checkpoints"]) == ["step-1.pt", "step-2.pt", "step-3.pt"]
    assert record["lastCheckpoint"] == str(project.folder / "out" / "step-3.pt")
    assert "at 3 checkpoints" in first.err
    known = ledger(project)
    size = (project.folder / "out" / "step-2.pt").stat().st_size
    assert known["step-2.pt"] == {
        "path": str(project.folder / "out" / "step-2.pt"),
        "learned": "found",
        "step": 2,
        "sizeBytes": size,
        "at": known["step-2.pt"]["at"],
        "problem": None,
        "isSecondChoice": False,
    }
    again = project.run("resume", "last")
    assert (again.code, again.out.splitlines()[0]) == (0, "from step-3.pt")
    assert names(project.record()["checkpoints"]) == [f"step-{step}.pt" for step in range(1, 7)]


def wait_for_the_clock(project: Project) -> None:
    """Wait until what is written now is younger than what was, by more than the kernel's tick."""
    old = max(path.stat().st_mtime_ns for path in project.folder.rglob("*"))

    def is_younger() -> bool:
        (project.folder / "clock").touch()
        return (project.folder / "clock").stat().st_mtime_ns > old + 50_000_000

    wait_for(is_younger, "the clock")


def test_a_newest_one_that_was_cut_short_is_passed_over_aloud(project: Project) -> None:
    project.write("train.py", SILENT)
    project.call("run", "train.py", "-f", "pytorch", "--", "out")
    broken = cut(project.folder / "out" / "step-3.pt")
    again = project.call("resume", "last")
    assert again.out.startswith("from step-2.pt\n")
    assert f"backprop: passing over the checkpoint {broken}: it was cut short\n" in again.err


def test_a_script_that_looks_for_its_checkpoint_itself_is_told_of_the_broken_one(project: Project) -> None:
    project.write("train.py", SILENT.replace('os.environ.get("BACKPROP_RESUME_FROM")', "None"))
    project.call("run", "train.py", "-f", "pytorch", "--", "out")
    broken = cut(project.folder / "out" / "step-3.pt")
    told = project.call("--dry-run", "resume", "last").err
    advice = "the script looks for one by itself: move this one away, or it may be taken"
    assert f"passing over the checkpoint {broken}: it was cut short; {advice}\n" in told


def test_with_all_of_them_broken_it_starts_afresh_aloud(project: Project) -> None:
    project.write("train.py", SILENT)
    project.call("run", "train.py", "-f", "pytorch", "--", "out")
    for path in (project.folder / "out").iterdir():
        cut(path)
    again = project.call("resume", "last")
    assert again.out.startswith("from None\n")
    assert again.err.count("it was cut short") == 3
    assert "no checkpoint can be used: starting afresh" in again.err


def test_one_that_was_cut_short_at_the_end_is_remembered_as_broken_and_not_counted(project: Project) -> None:
    script = SILENT.replace('print("saved"', 'os.truncate(out / f"step-{step}.pt", 100); print("saved"')
    project.write("train.py", script)
    project.call("run", "train.py", "-f", "pytorch", "--", "out")
    assert names(project.record()["checkpoints"]) == ["step-1.pt", "step-2.pt"]
    assert ledger(project)["step-3.pt"]["problem"] == "was cut short"


def test_what_a_lost_run_has_left_is_found_when_it_is_resumed(project: Project) -> None:
    project.write("train.py", SILENT)
    running = project.start("run", "train.py", "-f", "pytorch", "--", "out", "stay")
    wait_for(lambda: b"saved" in log(project), "three checkpoints")
    keeper = project.holder()["keeper"]
    running.kill()
    running.wait()
    wait_for(lambda: not Path(f"/proc/{keeper}").exists(), "the keeper to end the run")
    again = project.run("resume", "last", "--", "out")
    assert again.out.splitlines()[0] == "from step-3.pt"


def log(project: Project) -> bytes:
    if not project.records():
        return b""
    path = project.run_folder() / "output.log"
    return path.read_bytes() if path.exists() else b""


def test_what_is_announced_is_remembered_as_announced_with_its_size(project: Project) -> None:
    script = SILENT.replace(
        "        time.sleep(0.05)\n",
        '        print(\'{"event": "checkpoint_saved", "path": "out/step-%d.pt"}\' % step, flush=True)\n',
    )
    project.write("train.py", script)
    project.call("run", "train.py", "-f", "pytorch", "--", "out")
    assert names(project.record()["checkpoints"]) == ["step-1.pt", "step-2.pt", "step-3.pt"]
    known = ledger(project)
    assert {entry["learned"] for entry in known.values()} == {"announced"}
    assert all(entry["sizeBytes"] > 100 for entry in known.values())


def test_a_folder_elsewhere_that_the_script_makes_is_searched(project: Project) -> None:
    project.write("train.py", SILENT)
    elsewhere = project.place / "elsewhere"
    project.call("run", "train.py", "-f", "pytorch", "--", str(elsewhere))
    assert project.record()["lastCheckpoint"] == str(elsewhere / "step-3.pt")


def test_a_script_of_no_framework_is_not_searched_for(project: Project) -> None:
    project.write("train.py", SILENT)
    project.call("run", "train.py", "--", "out")
    assert project.record()["checkpoints"] == []


def test_a_stopped_run_tells_how_many_it_has_found(project: Project) -> None:
    project.write("train.py", SILENT)
    running = project.start("run", "train.py", "-f", "pytorch", "-n", "it", "--", "out", "stay")
    wait_for(lambda: b"saved" in log(project), "three checkpoints")
    running.send_signal(signal.SIGTERM)
    ended = project.end(running)
    assert "3 checkpoints" in ended.err
    assert "go on with: backprop resume it" in ended.err


# Two runs in one folder ----------------------------------------------------------------------------

BESIDE = """
    import os, pathlib, sys, time, zipfile
    def save(name):
        pathlib.Path(name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(name, "w") as file:
            file.writestr("data", name)
    save(sys.argv[1] if len(sys.argv) > 1 else "loose.pt")
    print("saved", flush=True)
    while not pathlib.Path("enough").exists():
        time.sleep(0.01)
    sys.exit(5)
"""


def side_by_side(project: Project, *runs: list[str]) -> list[Done]:
    """Run several at once, until all have saved."""
    started = [project.start("run", *words) for words in runs]

    def all_have_saved() -> bool:
        logs = list(project.home.glob("runs/*/output.log"))
        return len(logs) == len(runs) and all(b"saved" in path.read_bytes() for path in logs)

    wait_for(all_have_saved, "all to save")
    (project.folder / "enough").touch()
    return [project.end(running) for running in started]


def test_what_may_be_another_runs_is_left_out_aloud(project: Project) -> None:
    project.write("train.py", BESIDE)
    ended = side_by_side(
        project, ["train.py", "-f", "pytorch", "-n", "a"], ["train.py", "-f", "pytorch", "-n", "b"]
    )
    for name, other, done in (("a", "b", ended[0]), ("b", "a", ended[1])):
        assert project.record(name)["checkpoints"] == []
        assert f"may be those of run {project.record(other)['id']}" in done.err
    again = project.call("resume", "a")
    assert "may be those of run" in again.err
    assert "starting afresh" in again.err
    project.call("resume", "a", "-r", "loose.pt")
    assert project.record("a")["attempts"][-1]["resumedFrom"] == str(project.folder / "loose.pt")


def test_what_lies_where_a_runs_own_arguments_point_is_its_own(project: Project) -> None:
    project.write("train.py", BESIDE)
    words = [
        ["train.py", "-f", "pytorch", "-n", name, "--", f"out-{name}/1.pt", f"out-{name}"] for name in "ab"
    ]
    ended = side_by_side(project, *words)
    for name in "ab":
        assert names(project.record(name)["checkpoints"]) == ["1.pt"]
        assert f"out-{name}" in project.record(name)["lastCheckpoint"]
    assert all("may be those" in done.err for done in ended), "each has seen the other's"


def test_what_lies_where_another_scripts_source_points_is_its_own(project: Project) -> None:
    for name in "ab":
        source = BESIDE.replace('"loose.pt"', f'"out-{name}/1.pt"')
        project.write(f"{name}.py", source + f'    PLACE = "out-{name}"\n')
    side_by_side(project, *(([f"{name}.py", "-f", "pytorch", "-n", name]) for name in "ab"))
    assert [names(project.record(name)["checkpoints"]) for name in "ab"] == [["1.pt"], ["1.pt"]]
    assert "out-b" in project.record("b")["lastCheckpoint"]


def test_runs_of_one_folder_one_after_the_other_are_no_neighbours(project: Project) -> None:
    project.write("train.py", BESIDE)
    (project.folder / "enough").touch()
    for name in "ab":
        project.call("run", "train.py", "-f", "pytorch", "-n", name, "--", f"{name}.pt")
    assert [names(project.record(name)["checkpoints"]) for name in "ab"] == [["a.pt"], ["b.pt"]]


def test_a_script_that_announces_thousands_keeps_a_record_of_bounded_size_and_the_right_count(
    project: Project,
) -> None:
    project.write(
        "train.py",
        """
        import json
        for step in range(1, 3_001):
            print(json.dumps({"step": step}))
            print(json.dumps({"event": "checkpoint_saved", "path": f"step-{step}.pt"}), flush=step % 100 == 0)
        """,
    )
    done = project.call("run", "train.py")
    assert done.code == 0
    assert done.err.count("more than 1,000 checkpoints") == 1
    assert "3000 checkpoints" in done.err
    record = project.record()
    assert (record["lastStep"], record["leftOutCheckpoints"]) == (3_000, 2_000)
    assert names([record["checkpoints"][0], record["lastCheckpoint"]]) == ["step-2001.pt", "step-3000.pt"]
    assert len(ledger(project)) == 3_000
    assert "3000" in project.call("list").out.split()
