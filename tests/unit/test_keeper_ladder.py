"""How the keeper ends a run: whom it asks, whom it makes, and that nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from keeper_client import (
    Agent,
    Command,
    child,
    covered,
    is_running,
    processes_of,
    signs,
    stat,
    until,
    wait_for,
)

from backprop_core import keeper

SLACK_S = 0.5  # on top of grace_s + term_s; in a run the promise is grace + 5.5 s with term_s = 5
LADDER = ["started", "stopping", "stopping", "stopping", "exited", "gone"]

without_children_files = partial(
    covered, after="k.os.path.exists = lambda path: not path.endswith('/children')"
)
without_pidfd = partial(covered, after="del k.os.pidfd_open")
without_proc = partial(covered, after="k.PROC = '/nowhere'")


def rungs(agent: Agent) -> list[str]:
    return [message["rung"] for message in agent.heard if message["is"] == "stopping"]


def test_time_box_kills_what_left_the_process_group(tmp_path: Path) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path, limit_s=0.6, command=keeper.command) as agent:
        deadline = agent.hear("started")["deadline"]
        assert len(wait_for(tmp_path, "ready", 5)) == 5
        assert agent.hear_out() == LADDER
        assert deadline + 0.4 <= time.monotonic() < deadline + 0.4 + SLACK_S
        assert processes_of(tmp_path) == []
        assert rungs(agent) == ["interrupt", "terminate", "kill"]
        exited = agent.heard[4]
        assert (exited["code"], exited["signal"], exited["why"]) == (None, signal.SIGKILL, "time box")


@pytest.mark.parametrize("command", [covered, without_children_files, without_pidfd])
def test_nobody_is_left_whatever_the_system_lacks(tmp_path: Path, command: Command) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path, command=command) as agent:
        wait_for(tmp_path, "ready", 5)
        agent.say("pause", cause="person")
        agent.hear("paused")
        assert [stat(pid)[0] for pid in processes_of(tmp_path)] == ["T"] * 5
        agent.say("stop")
        assert agent.hear_out()[2:] == LADDER[1:]
        assert processes_of(tmp_path) == []


def test_time_box_interrupts_on_time(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path, 3), tmp_path, limit_s=0.4) as agent:
        deadline = agent.hear("started")["deadline"]
        assert agent.hear_out() == ["started", "stopping", "exited", "gone"]
        (saved_at,) = signs(tmp_path, "saved").values()
        assert deadline <= saved_at < deadline + 0.25
        assert agent.heard[2] == {"is": "exited", "code": 3, "signal": None, "why": "time box", "paused_s": 0}


def test_a_flood_of_output_does_not_delay_the_time_box(tmp_path: Path) -> None:
    with Agent(child("chatter", tmp_path), tmp_path, limit_s=0.4, grace_s=5.0) as agent:
        deadline = agent.hear("started")["deadline"]
        assert agent.hear("stopping")["rung"] == "interrupt"
        assert deadline <= time.monotonic() < deadline + 0.25
        agent.hear("gone")
        assert signs(tmp_path, "saved")


def test_an_agent_that_does_not_read_does_not_delay_the_time_box(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, limit_s=0.6) as agent:
        wait_for(tmp_path, "ready")
        for _ in range(3000):  # ten times what the socket and the queue hold of answers
            agent.say("extend", seconds=1e-6)
        until(lambda: not processes_of(tmp_path), "the end of the time box")
        kinds = agent.hear_out()
        assert len(kinds) < 3000
        assert kinds[-3:] == ["stopping", "exited", "gone"]


def test_keeper_does_not_wait_for_long_for_an_agent_that_never_reads(tmp_path: Path) -> None:
    with Agent(
        child("polite", tmp_path), tmp_path, lines=b"PLAN\n" + b'{"do":"extend","seconds":1}\n' * 3000
    ) as agent:
        wait_for(tmp_path, "ready")
        agent.say("kill")
        assert agent.process.wait(10) == 0


def test_a_stop_interrupts_the_main_process_alone(tmp_path: Path) -> None:
    script = child("leaver", tmp_path, 4, "wait")
    with Agent(script, tmp_path, grace_s=20.0) as agent:
        wait_for(tmp_path, "waiting")
        agent.say("stop", why="enough")
        assert agent.hear("exited") == {
            "is": "exited",
            "code": 4,
            "signal": None,
            "why": "enough",
            "paused_s": 0,
        }
        assert agent.hear_out() == ["started", "stopping", "exited", "stopping", "stopping", "gone"]
        assert rungs(agent) == ["interrupt", "terminate", "kill"]  # the workers had ignored the interrupt
        assert len(signs(tmp_path, "terminated")) == 2
        assert processes_of(tmp_path) == []


@pytest.mark.parametrize(("command", "where"), [(covered, "outside"), (without_proc, "inside")])
def test_what_the_script_leaves_behind_is_asked_and_then_killed(
    tmp_path: Path, command: Command, where: str
) -> None:
    with Agent(child("leaver", tmp_path, 5, where), tmp_path, command=command) as agent:
        exited = agent.hear("exited")
        exited_at = time.monotonic()
        assert (exited["code"], exited["why"]) == (5, None)
        assert agent.hear_out() == ["started", "exited", "gone"]
        assert exited_at + 0.15 < time.monotonic() < exited_at + 0.2 + SLACK_S
        assert len(signs(tmp_path, "terminated")) == 2
        assert processes_of(tmp_path) == []


def test_without_proc_the_process_group_is_ended(tmp_path: Path) -> None:
    script = "import os, signal, time\nsignal.signal(2, signal.SIG_IGN)\nsignal.signal(15, signal.SIG_IGN)\n"
    script += "for _ in range(3): os.fork()\nprint('ready', flush=True)\ntime.sleep(20)"
    with Agent([sys.executable, "-c", script, str(tmp_path)], tmp_path, command=without_proc) as agent:
        started = agent.hear("started")
        assert started["ticks"] is None
        until(lambda: len(processes_of(tmp_path)) == 8, "eight processes")
        agent.hear_output(b"ready\n" * 8)
        agent.say("pause", cause="person")
        agent.hear("paused")
        agent.say("stop")
        assert agent.hear_out()[2:] == LADDER[1:]
        assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("do", "first"), [("stop", "interrupt"), ("terminate", "terminate"), ("kill", "kill")]
)
def test_requests_begin_at_their_rung(tmp_path: Path, do: str, first: str) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path) as agent:
        wait_for(tmp_path, "ready", 5)
        agent.say(do, why="so")
        agent.hear("gone")
        assert rungs(agent) == list(keeper.RUNGS[keeper.RUNGS.index(first) :])
        assert {message["why"] for message in agent.heard if message["is"] in ("stopping", "exited")} == {
            "so"
        }
        assert processes_of(tmp_path) == []


def test_each_request_goes_one_rung_further_and_the_first_reason_stays(tmp_path: Path) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path, grace_s=20.0, term_s=20.0) as agent:
        wait_for(tmp_path, "ready", 5)
        for do, rung in (("stop", "interrupt"), ("terminate", "terminate"), ("kill", "kill")):
            if rung != "interrupt":
                agent.say("stop", why="again")  # never up again
            agent.say(do, why=do)
            message = agent.hear("stopping")
            assert (message["rung"], message["why"]) == (rung, "stop")
        assert agent.hear("exited")["why"] == "stop"
        agent.hear("gone")
        assert rungs(agent) == ["interrupt", "terminate", "kill"]


def test_a_request_to_kill_shortens_the_wait_for_what_was_left_behind(tmp_path: Path) -> None:
    with Agent(child("leaver", tmp_path), tmp_path, term_s=20.0) as agent:
        assert agent.hear("exited")["why"] is None
        agent.say("kill")
        assert agent.hear_out() == ["started", "exited", "gone"]
        assert processes_of(tmp_path) == []


@pytest.mark.parametrize("command", [covered, keeper.command])
def test_a_process_that_forks_itself_away_is_caught(tmp_path: Path, command: Command) -> None:
    with Agent(child("hopper", tmp_path), tmp_path, command=command) as agent:
        wait_for(tmp_path, "ready")
        agent.say("stop")
        agent.hear("gone")
        assert processes_of(tmp_path) == []


def test_interrupt_reaches_a_script_that_somebody_else_stopped(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path, grace_s=10.0) as agent:
        main = agent.hear("started")["pid"]
        wait_for(tmp_path, "ready")
        os.kill(main, signal.SIGSTOP)
        agent.say("stop")
        agent.hear("gone")
        assert signs(tmp_path, "saved")


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("script", ["stubborn", "polite", "chatter"])
def test_nobody_trains_when_the_agent_is_lost(tmp_path: Path, script: str, *, is_paused: bool) -> None:
    with Agent(child(script, tmp_path), tmp_path, grace_s=0.2 if script == "stubborn" else 10.0) as agent:
        wait_for(tmp_path, "ready", 5 if script == "stubborn" else 1)
        if is_paused:
            agent.say("pause", cause="person")
            agent.hear("paused")
        agent.vanish()
        lost_at = time.monotonic()
        assert agent.process.wait(10) == 0
        assert processes_of(tmp_path) == []
        if script == "stubborn":
            assert time.monotonic() < lost_at + 0.4 + SLACK_S
        else:
            assert signs(tmp_path, "saved")


@pytest.mark.parametrize("is_paused", [False, True])
def test_nobody_trains_when_the_agent_is_killed(tmp_path: Path, *, is_paused: bool) -> None:
    agent = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
from keeper_client import Agent, child, wait_for
from pathlib import Path
from backprop_core import keeper
folder = Path({str(tmp_path)!r})
agent = Agent(child("stubborn", folder), folder, command=keeper.command)
wait_for(folder, "ready", 5)
if {is_paused}:
    agent.say("pause", cause="person")
    agent.hear("paused")
print(agent.process.pid, flush=True)
time.sleep(20)
"""
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held_by = int(process.stdout.readline())
        assert len(processes_of(tmp_path)) == 5
        process.kill()
    until(lambda: not is_running(held_by), "the keeper's end", limit_s=5)
    assert processes_of(tmp_path) == []


def test_a_signal_goes_to_the_process_that_was_seen_and_to_no_heir_of_its_number(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        main = agent.hear("started")["pid"]
        seen = keeper.look_at(main)
        assert seen is not None
        pid, start = seen.identity
        seen.identity = (pid, start - 1)  # as though another process had had the number before
        seen.send(signal.SIGKILL)
        seen.identity = (pid, start)
        seen.send(signal.SIGINT, signal.SIGCONT)
        assert agent.hear("exited")["signal"] != signal.SIGKILL


def test_nothing_is_taken_from_the_output_while_the_agent_lives(tmp_path: Path) -> None:
    script = "import os\nfor n in range(300): os.write(1, b'%4095d\\n' % n)"
    with Agent([sys.executable, "-c", script], tmp_path) as agent:
        agent.hear("gone")
        agent.hear_out()
        assert [int(line) for line in agent.output.split()] == list(range(300))
