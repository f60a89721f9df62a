"""How the keeper pauses a run, and what the script is told about its time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from keeper_client import (
    Agent,
    Command,
    child,
    covered,
    cpu_ticks,
    processes_of,
    signs,
    stat,
    until,
    wait_for,
)

from backprop_core import keeper


def pause(agent: Agent, cause: str = "person") -> list[str]:
    agent.say("pause", cause=cause)
    causes: list[str] = agent.hear("paused")["causes"]
    return causes


def states(folder: Path) -> set[str]:
    return {stat(pid)[0] for pid in processes_of(folder)}


@pytest.mark.parametrize("command", [covered, keeper.command])
def test_paused_workers_in_sessions_of_their_own_use_no_processor(tmp_path: Path, command: Command) -> None:
    with Agent(child("ranks", tmp_path, 3), tmp_path, command=command) as agent:
        pids = list(wait_for(tmp_path, "ready", 4))
        until(lambda: sum(map(cpu_ticks, pids)) > 10, "work")
        assert pause(agent) == ["person"]
        assert states(tmp_path) == {"T"}
        before = [cpu_ticks(pid) for pid in pids]
        time.sleep(0.4)
        assert [cpu_ticks(pid) for pid in pids] == before
        agent.say("continue", cause="person")
        agent.hear("continued")
        until(lambda: sum(map(cpu_ticks, pids)) > sum(before), "work again")
        agent.say("kill")
        agent.hear("gone")


def test_processes_that_are_being_born_do_not_slip_through(tmp_path: Path) -> None:
    with Agent(child("spawner", tmp_path), tmp_path) as agent:
        beat = tmp_path / "beat"
        for round_ in range(1, 6):
            until(lambda: beat.exists() and beat.stat().st_size > 50 * round_, "births")  # noqa: B023
            pause(agent)
            until(lambda: states(tmp_path) <= {"T", "D"}, "everybody's rest")  # D waits for what it vforked
            before = beat.stat().st_size
            time.sleep(0.1)
            assert beat.stat().st_size == before
            agent.say("continue", cause=None)
            agent.hear("continued")
        agent.say("kill")
        agent.hear("gone")


def test_somebody_who_was_woken_during_a_pause_is_stopped_again(tmp_path: Path) -> None:
    with Agent(child("ranks", tmp_path, 1), tmp_path) as agent:
        wait_for(tmp_path, "ready", 2)
        pause(agent)
        pid = processes_of(tmp_path)[-1]
        os.kill(pid, signal.SIGCONT)
        until(lambda: stat(pid)[0] != "T", "being awake")
        until(lambda: stat(pid)[0] == "T", "being stopped again", limit_s=3)


def test_paused_time_does_not_count(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, limit_s=0.5) as agent:
        first = agent.hear("started")["deadline"]
        wait_for(tmp_path, "ready")
        pause(agent)
        time.sleep(0.6)
        agent.say("continue", cause="person")
        second = agent.hear("continued")["deadline"]
        exited = agent.hear("exited")
        assert exited["why"] == "time box"
        assert exited["paused_s"] >= 0.6
        assert second == pytest.approx(first + exited["paused_s"])
        (saved_at,) = signs(tmp_path, "saved").values()
        assert second <= saved_at < second + 0.25


def test_a_run_continues_when_the_last_cause_is_gone(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        wait_for(tmp_path, "ready")
        assert pause(agent, "person") == ["person"]
        assert pause(agent, "heat") == ["person", "heat"]
        assert pause(agent, "heat") == ["person", "heat"]
        agent.say("continue", cause="person")
        assert agent.hear("paused")["causes"] == ["heat"]
        assert states(tmp_path) == {"T"}
        agent.say("continue", cause="person")
        assert agent.hear("paused")["causes"] == ["heat"]
        agent.say("continue", cause="heat")
        agent.hear("continued")
        assert "T" not in states(tmp_path)
        pause(agent, "person")
        pause(agent, "heat")
        agent.say("continue", cause=None)
        agent.hear("continued")
        agent.say("continue", cause=None)  # nothing to continue, nothing to say
        agent.say("stop")
        assert agent.hear_out()[-4:] == ["continued", "stopping", "exited", "gone"]


def test_each_pause_is_bounded(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, max_pause_s=0.3) as agent:
        wait_for(tmp_path, "ready")
        for _ in range(3):  # together longer than the bound
            pause(agent)
            time.sleep(0.15)
            agent.say("continue", cause="person")
            agent.hear("continued")
        pause(agent, "heat")
        pause(agent, "person")  # one pause with two causes
        agent.hear("gone")
        exited = next(message for message in agent.heard if message["is"] == "exited")
        assert exited["why"] == "pause limit"
        assert 0.75 <= exited["paused_s"] < 2
        assert signs(tmp_path, "saved")


def test_a_script_that_is_stopped_while_paused_saves(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, grace_s=10.0) as agent:
        wait_for(tmp_path, "ready")
        pause(agent)
        agent.say("stop")
        assert agent.hear_out() == ["started", "paused", "stopping", "exited", "gone"]
        assert signs(tmp_path, "saved")


def test_workers_that_are_terminated_while_paused_can_still_end_well(tmp_path: Path) -> None:
    with Agent(child("leaver", tmp_path, 0, "wait"), tmp_path, term_s=1.0) as agent:
        wait_for(tmp_path, "waiting")
        pause(agent)
        agent.say("terminate")
        wait_for(tmp_path, "terminated", 2)
        agent.hear("gone")


def test_pauses_and_extensions_come_too_late_once_the_end_has_begun(tmp_path: Path) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path) as agent:
        wait_for(tmp_path, "ready", 5)
        agent.say("stop")
        agent.hear("stopping")
        agent.say("pause", cause="person")
        agent.say("extend", seconds=100)
        kinds = agent.hear_out()
        assert "paused" not in kinds
        assert "extended" not in kinds
        assert processes_of(tmp_path) == []


def test_a_paused_script_that_is_killed_from_outside_has_exited(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        main = agent.hear("started")["pid"]
        pause(agent)
        os.kill(main, signal.SIGKILL)
        exited = agent.hear("exited")
        assert (exited["signal"], exited["why"]) == (signal.SIGKILL, None)
        assert exited["paused_s"] > 0


def test_extensions_move_the_end(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, limit_s=0.4) as agent:
        first = agent.hear("started")["deadline"]
        agent.say("extend", seconds=0.3)
        second = agent.hear("extended")["deadline"]
        assert second == pytest.approx(first + 0.3)
        assert agent.hear("exited")["why"] == "time box"
        assert time.monotonic() >= second


def test_an_extension_during_a_pause_holds_after_it(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, limit_s=5.0) as agent:
        first = agent.hear("started")["deadline"]
        pause(agent)
        agent.say("extend", seconds=100)
        assert agent.hear("extended")["deadline"] >= first + 100
        agent.say("continue", cause="person")
        assert agent.hear("continued")["deadline"] > first + 100


NO_REQUESTS = [
    b"\n\n \n",
    b"not json\n",
    b'{"do": "stop"\n',
    b'{"do": "stop"} trailing\n',
    b'"stop"\n["stop"]\nnull\n3\n',
    b"\xff\xfe\x00\n",
    b'{"do": "stop\xff"}\n',
    b"[" * 100_000 + b"\n",
    b'{"a":' * 100_000 + b"\n",
    b"9" * 5000 + b"\n",
    b'{"do": "fly"}\n{"do": null}\n{"is": "stop"}\n{}\n',
    b'{"do": "pause"}\n{"do": "pause", "cause": 3}\n{"do": "pause", "cause": null}\n',
    b'{"do": "continue"}\n{"do": "continue", "cause": 3}\n',
    b'{"do": "extend"}\n{"do": "extend", "seconds": "9"}\n{"do": "extend", "seconds": true}\n',
    b'{"do": "extend", "seconds": NaN}\n{"do": "extend", "seconds": 1e999}\n{"do": "extend", "seconds": -1}\n',
    b'{"do": "extend", "seconds": 1' + b"0" * 400 + b"}\n",
    b'{"do": ["stop"], "why": {}}\n',
]


def test_what_is_no_request_changes_nothing(tmp_path: Path) -> None:
    with Agent(["sleep", "20"], tmp_path) as agent:
        for line in NO_REQUESTS:
            agent.write(line)
            agent.say("extend", seconds=1)
            agent.hear("extended")
        agent.say("kill")
        extensions = ["extended"] * len(NO_REQUESTS)
        assert agent.hear_out() == ["started", *extensions, "stopping", "exited", "gone"]


def test_a_line_beyond_all_measure_is_dropped_to_its_end(tmp_path: Path) -> None:
    with Agent(["sleep", "20"], tmp_path) as agent:
        for _ in range(40):
            agent.write(b" " * (1 << 20))
        agent.write(b'{"do": "kill"}\n')
        agent.say("extend", seconds=1)
        agent.hear("extended")


def test_requests_may_arrive_in_pieces(tmp_path: Path) -> None:
    with Agent(["sleep", "20"], tmp_path) as agent:
        agent.hear("started")
        for byte in b'{"do": "kill", "why": "b\\u00e9"}\n':
            agent.write(bytes([byte]))
        assert agent.hear("exited")["why"] == "b\u00e9"


def test_json_is_read_without_the_c_scanner(tmp_path: Path) -> None:
    def without_c(fd: int) -> list[str]:
        return covered(fd, before="import sys; sys.modules['_json'] = None")

    with Agent(["sleep", "20"], tmp_path, command=without_c) as agent:
        agent.write(b'garbage\n{"do": \n{"do": "kill"}\n')
        assert agent.hear_out() == ["started", "stopping", "exited", "gone"]


def test_script_is_told_its_time_box_before_it_can_look(tmp_path: Path) -> None:
    told = tmp_path / "time-box"

    def read() -> dict[str, Any]:
        box: dict[str, Any] = json.loads(told.read_text())
        return box

    script = ["sh", "-c", "cat time-box && exec sleep 20"]
    with Agent(script, tmp_path, time_box_file=str(told), limit_s=30.0) as agent:
        started = agent.hear("started")
        agent.hear_output(b"}")
        assert json.loads(agent.output) == {"deadline": started["deadline"], "limit_s": 30}
        assert told.stat().st_mode & 0o777 == 0o600
        agent.say("extend", seconds=10)
        deadline = agent.hear("extended")["deadline"]
        assert read() == {"deadline": pytest.approx(deadline), "limit_s": 40}
        pause(agent)
        agent.say("continue", cause="person")
        deadline = agent.hear("continued")["deadline"]
        assert read() == {"deadline": pytest.approx(deadline), "limit_s": 40}
        agent.say("kill")
        agent.hear("gone")
        assert [path.name for path in tmp_path.iterdir()] == ["time-box"]


def test_a_script_that_wakes_up_is_told_its_new_time_box(tmp_path: Path) -> None:
    script = """
import os, signal, time
signal.signal(signal.SIGCONT, lambda *_: os.write(1, open("time-box", "rb").read() + b"\\n"))
os.write(1, b"ready\\n")
while True:
    time.sleep(1)
"""
    argv = [sys.executable, "-c", script]
    with Agent(argv, tmp_path, time_box_file=str(tmp_path / "time-box")) as agent:
        first = agent.hear("started")["deadline"]
        agent.hear_output(b"ready\n")
        pause(agent)
        agent.say("continue", cause="person")
        second = agent.hear("continued")["deadline"]
        agent.hear_output(b"}\n")
        told = json.loads(agent.output.splitlines()[1])["deadline"]
        assert told > first
        assert told == pytest.approx(second, abs=1e-6)


def test_a_time_box_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    with Agent(["true"], tmp_path, time_box_file=str(tmp_path / "no-such-folder" / "box")) as agent:
        assert agent.hear_out() == ["started", "exited", "gone"]
