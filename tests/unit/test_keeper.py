"""What the keeper starts, what it says of it, and what it keeps to itself."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from keeper_client import Agent, Command, child, covered, is_running, processes_of, stat, until, wait_for

from backprop_core import keeper


def python(text: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text]


def as_a_file(fd: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", keeper.__file__, str(fd)]


@pytest.mark.parametrize("command", [covered, keeper.command, as_a_file])
def test_keeper_tells_of_the_start_the_exit_and_the_end(tmp_path: Path, command: Command) -> None:
    before = time.monotonic()
    with Agent(python("print('hello')"), tmp_path, command=command) as agent:
        assert agent.hear_out() == ["started", "exited", "gone"]
        started, exited, _ = agent.heard
        assert agent.output == b"hello\n"
        assert before <= started["at"] <= time.monotonic()
        assert started["deadline"] == pytest.approx(started["at"] + 60)
        assert exited == {"is": "exited", "code": 0, "signal": None, "why": None, "paused_s": 0}


def test_started_names_the_process_by_pid_and_start_ticks(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        started = agent.hear("started")
        assert started["ticks"] == int(stat(started["pid"])[19])


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [
        ("raise SystemExit(0)", 0, None),
        ("raise SystemExit(7)", 7, None),
        ("raise SystemExit(255)", 255, None),
        ("import os; os.kill(os.getpid(), 9)", None, 9),
        ("import os; os.kill(os.getpid(), 15)", None, 15),
    ],
)
def test_exit_codes_and_signals_are_told_apart(
    tmp_path: Path, script: str, code: int | None, number: int | None
) -> None:
    with Agent(python(script), tmp_path) as agent:
        exited = agent.hear("exited")
        assert (exited["code"], exited["signal"], exited["why"]) == (code, number, None)


def test_script_gets_three_descriptors_one_pipe_and_an_empty_stdin(tmp_path: Path) -> None:
    script = """
import os, sys
print([os.path.realpath(f"/proc/self/fd/{n}") for n in (0, 1, 2)])
print(sorted(os.listdir("/proc/self/fd")), repr(sys.stdin.read()), flush=True)
print("from stderr", file=sys.stderr)
"""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with Agent(python(script), tmp_path, locks=[lock]) as agent:
        agent.hear_out()
        files, names, said = agent.output.decode().splitlines()
        null, out, err = eval(files)
        assert null == "/dev/null"
        assert out == err
        assert "pipe:" in out
        assert names == "['0', '1', '2', '3'] ''"  # 3 is the listing's own
        assert said == "from stderr"
    os.close(lock)


def test_keeper_that_was_started_without_standard_descriptors_gives_the_script_its_own(
    tmp_path: Path,
) -> None:
    def close_all() -> None:
        os.closerange(0, 3)

    script = python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    for command in (covered, keeper.command):
        with Agent(script, tmp_path, command=command, prepare=close_all) as agent:
            assert agent.hear_out() == ["started", "exited", "gone"]
            assert agent.output == b"['0', '1', '2', '3']\n"


def test_script_has_default_signals_whatever_was_inherited(tmp_path: Path) -> None:
    def be_awkward() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    command = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    with Agent(command, tmp_path, prepare=be_awkward) as agent:
        assert agent.hear_out() == ["started", "exited", "gone"]
        sets = dict(line.split(":\t") for line in agent.output.decode().splitlines())
        assert {name: int(value, 16) for name, value in sets.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_script_leads_a_process_group_in_the_keepers_session(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        main = agent.hear("started")["pid"]
        assert os.getpgid(main) == main
        assert os.getsid(main) == agent.process.pid == os.getsid(agent.process.pid)


def test_script_gets_the_folder_and_the_environment_of_the_plan_alone(tmp_path: Path) -> None:
    folder = tmp_path / "gr\u00fcn"
    folder.mkdir()
    env = {"PATH": os.environ["PATH"], "A": "x \u00e9 \udcff", "EMPTY": ""}
    with Agent(["/usr/bin/env", "-0"], folder, env=env) as agent:
        agent.hear_out()
        written = [os.fsencode(f"{name}={value}") for name, value in env.items()]
        assert sorted(agent.output.split(b"\0")) == sorted([b"", *written])
    with Agent(["pwd"], folder) as agent:
        agent.hear_out()
        assert os.fsdecode(agent.output).strip() == str(folder)


def test_program_is_not_looked_up_in_the_working_folder(tmp_path: Path) -> None:
    good = tmp_path / "good"
    for folder, said in ((tmp_path, "wrong"), (good, "right")):
        folder.mkdir(exist_ok=True)
        (folder / "tool").write_text(f"#!/bin/sh\necho {said}\n")
        (folder / "tool").chmod(0o700)
    with Agent(["tool"], tmp_path, env={"PATH": f":.:..:bin:/nowhere:{good}"}) as agent:
        agent.hear_out()
        assert agent.output == b"right\n"
    with Agent(["tool"], tmp_path, env={"PATH": ".::"}) as agent:
        assert agent.hear_out() == ["failed"]


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        ({"argv": ["/nowhere/python"]}, errno.ENOENT, "cannot run /nowhere/python: No such file"),
        ({"argv": ["no-such-tool"]}, errno.ENOENT, "cannot run no-such-tool: not found on PATH"),
        ({"argv": ["/etc/passwd"]}, errno.EACCES, "cannot run /etc/passwd: Permission denied"),
        ({"argv": ["./noise"]}, errno.ENOEXEC, "cannot run ./noise: Exec format error"),
        ({"argv": ["/bin/true", "a\0b"]}, errno.EINVAL, "null byte"),
        ({"env": {"A=B": "C"}}, errno.EINVAL, "cannot run /bin/true: illegal environment variable name"),
        ({"cwd": "/nowhere"}, errno.ENOENT, "cannot enter /nowhere: No such file"),
        ({"argv": []}, errno.EINVAL, "the plan cannot be used"),
        ({"argv": None}, errno.EINVAL, "the plan cannot be used"),
        ({"argv": ["/bin/true", 1]}, errno.EINVAL, "the plan cannot be used"),
        ({"env": ["A"]}, errno.EINVAL, "the plan cannot be used"),
        ({"limit_s": float("nan")}, errno.EINVAL, "not a number of seconds: nan"),
        ({"grace_s": -1}, errno.EINVAL, "not a number of seconds: -1"),
        ({"term_s": True}, errno.EINVAL, "not a number of seconds: True"),
        ({"max_pause_s": None}, errno.EINVAL, "the plan cannot be used"),
        ({"drain": 999}, errno.EBADF, "cannot start the script"),
    ],
)
def test_what_cannot_be_started_is_told_with_the_reason(
    tmp_path: Path, change: dict[str, Any], number: int, words: str
) -> None:
    (tmp_path / "noise").write_bytes(b"\x80\x81")
    (tmp_path / "noise").chmod(0o700)
    with Agent(["/bin/true"], tmp_path, **change) as agent:
        assert agent.hear_out() == ["failed"]
        assert agent.heard[0]["errno"] == number
        assert words in agent.heard[0]["message"]


def test_a_start_that_takes_long_is_told_of_when_it_is_known(tmp_path: Path) -> None:
    impatient = partial(covered, after="k.PATIENCE_S = 0")
    for argv, kinds in ((["true"], ["started", "exited", "gone"]), (["no-such-tool"], ["failed"])):
        with Agent(argv, tmp_path, command=impatient) as agent:
            assert agent.hear_out() == kinds


def test_a_plan_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with Agent(["true"], tmp_path, lines=b"[1, 2]\n") as agent:
        assert agent.hear_out() == ["failed"]


def test_keeper_leaves_when_the_agent_does_before_the_plan(tmp_path: Path) -> None:
    with Agent(["true"], tmp_path, lines=b'{"argv": ["true"]') as agent:
        agent.vanish()
        assert agent.process.wait(10) == 0


def test_requests_that_come_together_with_the_plan_are_heard(tmp_path: Path) -> None:
    lines = b'PLAN\n{"do": "stop", "why": "at once"}\n'
    with Agent(child("polite", tmp_path), tmp_path, lines=lines) as agent:
        assert agent.hear("exited")["why"] == "at once"


def test_locks_are_held_until_the_last_process_is_gone_and_by_the_keeper_alone(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with Agent(child("leaver", tmp_path), tmp_path, locks=[lock]) as agent:
        os.close(lock)
        other = os.open(tmp_path / "lock", os.O_RDWR)
        agent.hear("exited")
        assert processes_of(tmp_path)
        for pid in processes_of(tmp_path):
            held = [os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert str(tmp_path / "lock") not in held
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        agent.hear("gone")
        assert processes_of(tmp_path) == []
        assert agent.process.wait(10) == 0
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def test_orphans_are_buried_while_the_script_runs(tmp_path: Path) -> None:
    orphans = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
print("all born", flush=True)
time.sleep(20)
"""
    with Agent(python(orphans), tmp_path) as agent:
        main = agent.hear("started")["pid"]
        children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
        agent.hear_output(b"all born")
        until(lambda: children.read_text().split() == [str(main)], "the orphans' burial")
        agent.say("kill")
        agent.hear("gone")


def test_keeper_does_not_mind_what_a_terminal_sends(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        wait_for(tmp_path, "ready")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGUSR1):
            agent.process.send_signal(number)
        agent.say("extend", seconds=1)
        agent.hear("extended")


def test_sigterm_to_the_keeper_is_a_graceful_stop(tmp_path: Path) -> None:
    with Agent(child("polite", tmp_path), tmp_path) as agent:
        wait_for(tmp_path, "ready")
        agent.process.terminate()
        assert agent.hear_out() == ["started", "stopping", "exited", "gone"]
        assert agent.heard[2]["why"] == "request"
        wait_for(tmp_path, "saved")


def test_script_dies_with_a_keeper_that_is_killed(tmp_path: Path) -> None:
    with Agent(child("stubborn", tmp_path), tmp_path, command=keeper.command) as agent:
        main = agent.hear("started")["pid"]
        zoo = wait_for(tmp_path, "ready", 5)
        agent.process.kill()
        until(lambda: not is_running(main), "the script's end")
        for pid in set(zoo) - {main}:  # in a run the agent adopts and ends these
            os.kill(pid, signal.SIGKILL)


def test_an_idle_keeper_sleeps(tmp_path: Path) -> None:
    def switches() -> int:
        lines = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    with Agent(["sleep", "20"], tmp_path, command=keeper.command) as agent:
        agent.hear("started")
        until(lambda: stat(agent.process.pid)[0] == "S", "sleep")
        before = switches()
        time.sleep(0.5)
        assert switches() - before <= 1


def test_keeper_imports_nothing_that_costs(tmp_path: Path) -> None:
    names = "import sys; sys.path.append(sys.argv[1]); import keeper; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", names, str(Path(keeper.__file__).parent)]
    loaded = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert not {"json", "re", "enum", "signal", "ctypes", "socket", "subprocess", "typing", "pathlib"} & set(
        loaded
    )


def test_keeper_reads_and_writes_real_json() -> None:
    value = {"a": [1, 2.5, None, '\u00e9"\\\n\u2028\udcff'], "b": {"c": -1e-7}}
    assert json.loads(keeper.to_json(value)) == value
    assert keeper.from_json(json.dumps(value).encode()) == value
