"""Processes are more than their number."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import msgspec
import pytest
from kit import wait_for

from backprop_core.identity import (
    RUN_ID,
    boot_id,
    descendants,
    descendants_among,
    has_variable,
    host_name,
    is_alive,
    look_at,
    parent_of,
    pid_namespace,
    processes,
    send,
    start_ticks,
)

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"
# Its name, field 2 of /proc/PID/stat, is made to look like the fields behind it.
ODD_NAME = "open('/proc/self/comm', 'w').write('a) Z 1 (b c'); " + WAIT
SPAWNER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}])"


@contextmanager
def child(source: str, **variables: str) -> Iterator[int]:
    """Run a process that has come up and ends with the block, with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize(
    ("found", "name"),
    [("gpu-box.lab", "gpu-box.lab"), ("a b/../c", "a_b_.._c"), ("..", "localhost"), ("été", "t_")],
)
def test_a_host_name_is_made_fit_for_a_folder(found: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=found))
    assert host_name() == name


@pytest.mark.parametrize("run_id", ["a", "0", "r-1_2.3", "x" * 128])
def test_run_ids_have_an_alphabet_of_their_own(run_id: str) -> None:
    assert RUN_ID.fullmatch(run_id)


@pytest.mark.parametrize("run_id", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "x" * 129])
def test_everything_else_is_no_run_id(run_id: str) -> None:
    assert not RUN_ID.fullmatch(run_id)


def test_the_boot_and_the_pid_namespace_are_told_and_stay() -> None:
    boot = boot_id()
    assert boot is not None
    assert re.fullmatch(r"[0-9a-f-]{36}", boot)
    assert boot_id() == boot
    assert pid_namespace() == os.readlink("/proc/self/ns/pid")


def test_start_ticks_and_parent_are_read_behind_a_name_that_imitates_them() -> None:
    with child(ODD_NAME) as pid:
        assert parent_of(pid) == os.getpid()
        ticks = start_ticks(pid)
        own = start_ticks(os.getpid())
        assert ticks is not None
        assert own is not None
        assert ticks >= own > 1  # what the name says would be read as 1 or not as a number
        assert start_ticks(pid) == ticks


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    with child(WAIT) as pid:
        assert pid in processes()
    assert start_ticks(pid) is None
    assert parent_of(pid) is None
    assert look_at(pid) is None
    assert not has_variable(pid, "HOME=/")
    assert pid not in processes()


def test_a_zombie_has_no_parent_any_more() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert parent_of(process.pid) is None
    assert start_ticks(process.pid) is not None  # its number is still taken
    assert process.pid not in descendants(os.getpid())
    assert process.wait() == 0


def test_descendants_are_found_over_generations() -> None:
    with child(SPAWNER) as pid:
        (below,) = wait_for(lambda: descendants(pid), "the child's child")
        assert parent_of(below) == pid
        assert {pid, below} <= set(descendants(os.getpid()))
        assert os.getpid() not in descendants(os.getpid())
        assert [look_at(each).session for each in (pid, below)] == [pid, pid]  # type: ignore[union-attr]


def test_of_some_processes_those_below_one_are_picked_out() -> None:
    with child(SPAWNER) as pid, child(WAIT) as other:
        (below,) = wait_for(lambda: descendants(pid), "the child's child")
        asked = [below, other, pid, os.getpid(), os.getppid(), 1, 2**22 + 1]
        assert descendants_among(asked, pid) == [below]
        assert descendants_among(asked, os.getpid()) == [below, other, pid]
    assert descendants_among([below, pid], os.getpid()) == []


def test_a_variable_is_found_by_its_whole_assignment() -> None:
    with child(WAIT, BACKPROP_MARK="abc") as pid:
        assert has_variable(pid, "BACKPROP_MARK=abc")
        for other in ("BACKPROP_MARK=ab", "BACKPROP_MARK=", "MARK=abc", "BACKPROP_MARK=abcd"):
            assert not has_variable(pid, other)


def test_a_signal_reaches_the_process_that_was_seen_and_no_heir_of_its_number() -> None:
    with child(WAIT) as pid:
        seen = look_at(pid)
        assert seen is not None
        assert is_alive(pid, seen.ticks)
        assert not is_alive(pid, seen.ticks - 1)
        assert not is_alive(pid, None)
        assert not send(msgspec.structs.replace(seen, ticks=seen.ticks - 1), signal.SIGKILL)
        assert is_alive(pid, seen.ticks)
        assert send(seen, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid, seen.ticks), "it to end")
    assert not send(seen, signal.SIGKILL)
