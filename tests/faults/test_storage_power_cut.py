"""The power goes while runs are being saved: what was acknowledged is on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from block_disk import cut, made, mounted, require_loop_devices
from figures import Figures

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Storage, StorageBackend

QUICK, LONG = 4, 360

WRITER = r"""
import os, sys
from pathlib import Path
from backprop_builtin.storage import _files, _spare
from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import RunRecord, RunState

kind, home = sys.argv[1], Path(sys.argv[2])
if kind == "careless":  # what a program does that believes in rename alone
    _files.make_durable = _spare.make_durable = lambda descriptor: None
storage = (SqliteBackend() if kind == "sqlite" else JsonBackend()).open(None, home)
number = 0
while True:
    run = f"r{number}"
    storage.save(RunRecord(id=run, script_path="/x.py", status=RunState.RUNNING, start_time=number))
    os.write(1, run.encode() + b"\n")
    number += 1
"""


def opened(kind: str, home: Path) -> Storage:
    backend: StorageBackend = SqliteBackend() if kind == "sqlite" else JsonBackend()
    return backend.open(None, home)


def cut_again_and_again(kind: str, tmp_path: Path, cuts: int) -> tuple[int, list[str]]:
    """Let a writer save, cut the power so many times, and give how much was acknowledged and what was lost."""
    require_loop_devices()
    image, copy = tmp_path / "disk.img", tmp_path / "cut.img"
    acknowledged: list[str] = []
    bad: list[str] = []
    made(image)
    with mounted(image, tmp_path / "disk") as disk:
        command = [sys.executable, "-c", WRITER, kind, str(disk / "home")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            try:
                for turn in range(cuts):
                    acknowledged += read_some(writer.stdout.fileno(), at_least=1 + turn % 3)
                    time.sleep(turn * 7 % 30 / 10_000)  # falls on another step of the save in every turn
                    # The copy is of one moment, and what is saved while it is looked at would only fill the disk.
                    writer.send_signal(signal.SIGSTOP)
                    acknowledged += read_what_is_there(writer.stdout.fileno())
                    cut(image, copy)
                    bad += lost_in(kind, copy, tmp_path / "after", acknowledged, turn)
                    writer.send_signal(signal.SIGCONT)
            finally:
                writer.kill()
    return len(acknowledged), bad


def read_some(descriptor: int, at_least: int) -> list[str]:
    text = b""
    while text.count(b"\n") < at_least or not text.endswith(b"\n"):
        piece = os.read(descriptor, 65_536)
        assert piece, "the writer has ended"
        text += piece
    return text.decode().split()


def read_what_is_there(descriptor: int) -> list[str]:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 65_536).decode().split()
    except BlockingIOError:
        return []
    finally:
        os.set_blocking(descriptor, True)


def lost_in(kind: str, image: Path, place: Path, acknowledged: list[str], turn: int) -> list[str]:
    with mounted(image, place) as disk, closing(opened(kind, disk / "home")) as storage:
        there = {record.id for record in storage.runs()}
        problems = [f"cut {turn}: {problem}" for problem in getattr(storage, "problems", ())]
        return problems + [f"cut {turn}: {run} is lost" for run in acknowledged if run not in there]


@pytest.mark.parametrize("cuts", [QUICK, pytest.param(LONG, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["json", "sqlite"])
def test_power_cut_loses_nothing_acknowledged(kind: str, cuts: int, tmp_path: Path, figures: Figures) -> None:
    acknowledged, bad = cut_again_and_again(kind, tmp_path, cuts)
    figures(cuts=cuts, acknowledged=acknowledged, lost_or_damaged=len(bad))
    assert bad == []
    assert acknowledged >= cuts


def test_power_cut_is_noticed_where_nothing_is_synced(tmp_path: Path) -> None:
    _, bad = cut_again_and_again("careless", tmp_path, QUICK)
    assert bad, "a store that syncs nothing must fail the test above"
