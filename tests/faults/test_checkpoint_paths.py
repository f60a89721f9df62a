"""A script announces a path that is a trap: it is passed over, refused or inert, and nothing waits on it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from kit import Project

ANNOUNCES = """
    import json, os, sys
    if "--resume-from" in sys.argv:
        print("went on from", json.dumps(sys.argv[sys.argv.index("--resume-from") + 1]))
        sys.exit(0)
    print(json.dumps({"step": 1}))
    for path in json.load(open("paths.json")):
        print(json.dumps({"event": "checkpoint_saved", "path": path}))
"""
QUICK_S = 20.0


def traps(project: Project) -> list[str]:
    """Paths of every kind that a script should better not name."""
    os.mkfifo(project.folder / "pipe.pt")
    secret = project.place / "secret"
    secret.write_text("not yours")
    (project.folder / "loop.pt").symlink_to("loop.pt")
    (project.folder / "zero.pt").symlink_to("/dev/zero")
    (project.folder / "nothing.pt").symlink_to("gone.pt")
    (project.folder / "empty.pt").touch()
    with (project.folder / "huge.pt").open("wb") as file:
        file.write(b"PK\x03\x04")  # begins as torch.save's archives do, and has no end
        file.truncate(1 << 40)
    return [
        "pipe.pt",
        "loop.pt",
        "zero.pt",
        "nothing.pt",
        "empty.pt",
        "huge.pt",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "/proc/kmsg",
        "a\0b",
        "x" * 5000,
        "/" + "y/" * 3000,
        "--resume-from=/etc/passwd",
        "-x",
        "$(touch owned)",
        "; touch owned",
        "a\nb",
    ]


def run_that_names(project: Project, paths: list[str]) -> None:
    (project.folder / "paths.json").write_text(json.dumps(paths))
    project.write("train.py", ANNOUNCES)
    done = project.run("run", "train.py", "-n", "trap")
    assert done.code == 0, done.err


def make_resumable(project: Project) -> None:
    """Have the record say that the run was stopped: a completed one is not gone on with."""
    store = project.home / "experiments.json"
    records = json.loads(store.read_text())
    for record in records.values():
        record["status"] = "stopped"
        record.pop("checksum", None)
        record["attempts"][-1]["status"] = "stopped"
    store.write_text(json.dumps(records))


def test_resume_waits_on_no_pipe_or_device_and_goes_on_from_the_one_that_is_whole(project: Project) -> None:
    paths = traps(project)
    (project.folder / "good.bin").write_bytes(b"weights")
    run_that_names(project, ["good.bin", *paths])
    make_resumable(project)
    began_s = time.monotonic()
    done = project.run("resume", "trap")
    assert time.monotonic() - began_s < QUICK_S
    assert done.code == 0, done.err
    assert f"went on from {json.dumps(str(project.folder / 'good.bin'))}" in done.out
    assert done.err.count("passing over the checkpoint") >= 5, "what is passed over is said"
    assert not (project.folder / "owned").exists()
    assert (project.place / "secret").read_text() == "not yours"


def test_with_nothing_but_traps_it_starts_afresh_aloud(project: Project) -> None:
    run_that_names(project, traps(project))
    make_resumable(project)
    done = project.run("resume", "trap")
    assert done.code == 0, done.err
    assert "starting afresh" in done.err
    assert "went on from" not in done.out
    shown = project.run("checkpoints", "trap")
    assert shown.code == 0, shown.err


def test_a_trap_given_by_a_person_is_an_error_that_says_what_it_is(project: Project) -> None:
    os.mkfifo(project.folder / "pipe.pt")
    project.write("train.py", "print('trained')")
    for path in ("pipe.pt", "/dev/zero", "gone.pt", str(Path("x" * 300))):
        began_s = time.monotonic()
        done = project.run("run", "train.py", "-r", path)
        assert (done.code, done.out) == (66, ""), (path, done)
        assert len(done.err.splitlines()) <= 3
        assert time.monotonic() - began_s < QUICK_S
    assert project.records() == []
