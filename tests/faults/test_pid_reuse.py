"""The number of a process that was ours is given to an innocent one, which is never signalled.

In a pid namespace of its own, where `ns_last_pid` says which number comes next, an ordinary user can do that at will.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures import Figures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pid namespaces are Linux")

# Each round: a process of ours dies, and its number is given to an innocent one, which leads a session as the keeper
# does and ends at any signal. Then everybody looks who might signal the number: a command that finds the run lost (with
# the dead one as keeper, or as agent of a run that a stranger holds), `backprop stop`, which wakes the agent, and the
# keeper itself, which remembers the processes it has seen.
ROUNDS = r"""
import json, os, select, signal, sys, time
from contextlib import suppress
from pathlib import Path

import msgspec
from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import holding, identity, keeper, recovery
from backprop_core.records import Attempt, RunRecord
from backprop_core.states import RunState

home, rounds = Path(sys.argv[1]), int(sys.argv[2])
storage = JsonBackend().open(None, home)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
CATCHABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def born(number=None):
    '''Fork a process, under that number if one is given; it ends at any signal, and answers as long as it lives.'''
    if number is not None:
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
    (said, says), (heard, asks) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for each in CATCHABLE - {signal.SIGPIPE}:
            signal.signal(each, lambda *_: os._exit(99))
        os.close(said), os.close(asks)
        os.write(says, b"x")
        while os.read(heard, 1):
            os.write(says, b"x")
        os._exit(0)
    os.close(says), os.close(heard)
    os.read(said, 1)
    return pid, said, asks


def answers(said, asks):
    '''Whether it lives: a signal that was sent before is served before the answer.'''
    with suppress(BrokenPipeError):
        os.write(asks, b"x")
    ready, _, _ = select.select([said], [], [], 5)
    return bool(ready) and os.read(said, 1) == b"x"


def end(pid, said, asks):
    os.close(said), os.close(asks)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


reused = spared = 0
for number in range(rounds):
    ours, *pipes = born()
    seen, held = identity.look_at(ours), keeper.look_at(ours)
    end(ours, *pipes)
    while time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") < seen.ticks + 2:
        pass  # two that start in one tick would be one to anybody
    innocent, *pipes = born(ours)
    assert innocent == ours, (innocent, ours)
    reused += 1
    here = {"boot": identity.boot_id(), "namespace": identity.pid_namespace()}
    dead = {"agent": ours, "agent_ticks": seen.ticks, "keeper": ours, "keeper_ticks": seen.ticks}
    for run_id, is_held in (("lost", False), ("orphaned", True)):
        record = RunRecord(id=run_id, script_path="/x.py", start_time=1, status=RunState.RUNNING, host="here",
                           attempts=(Attempt(start=1),))
        storage.save(record)
        folder = holding.make_folder(home, run_id)
        stranger = holding.hold(folder) if is_held else None
        (folder / "lock").write_bytes(msgspec.json.encode(holding.Holder(**here, **dead)) + b"\n")
        holding.wake(folder)
        assert len(recovery.mark_lost(storage, home, "here")) == 1
        if stranger is not None:
            os.close(stranger)
    assert not identity.send(seen, signal.SIGKILL)
    held.parent = 0  # no child of ours any more, as far as the keeper can see
    held.send(signal.SIGTERM, signal.SIGKILL)
    spared += answers(*pipes)
    end(innocent, *pipes)
print(json.dumps({"reused": reused, "spared": spared}))
"""
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork"]


def can_choose_pids() -> str | None:
    """Say why not; None if so."""
    try:
        tried = subprocess.run(
            [*IN_A_NAMESPACE, "sh", "-c", "echo 4000 > /proc/sys/kernel/ns_last_pid"],
            capture_output=True,
            check=False,
            timeout=30,
        )
    except FileNotFoundError:
        return "unshare is not installed"
    return None if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip()


@pytest.mark.parametrize("rounds", [2, pytest.param(200, marks=pytest.mark.soak)])
def test_who_inherits_a_number_is_never_signalled(tmp_path: Path, figures: Figures, rounds: int) -> None:
    if reason := can_choose_pids():
        pytest.skip(f"pids cannot be chosen here: {reason}")
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, "-c", ROUNDS, str(tmp_path / "home"), str(rounds)],
        capture_output=True,
        check=False,
        timeout=600,
        env={**os.environ, "BACKPROP_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert json.loads(done.stdout) == {"reused": rounds, "spared": rounds}
    figures(reused=rounds, innocents_signalled=0)
