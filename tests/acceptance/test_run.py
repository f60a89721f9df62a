"""`backprop run`: what the script is given, what comes of it, and what is remembered."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from kit import Project, mode

RECORD_KEYS = set(
    "id name scriptPath status startTime endTime lastStep lastLoss checkpoints lastCheckpoint scriptArgs cwd "
    "python framework exitCode reason gpus gpu host attempts settings metrics".split()
)
TRAINING = """
    import json, pathlib
    for step in (1, 2):
        print(json.dumps({"step": step, "loss": 1 / step, "accuracy": step / 2}))
        pathlib.Path("model.bin").write_text(str(step))
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin"}))
    print("good bye")
"""
SAVES_WHEN_INTERRUPTED = """
    import json, pathlib, time
    print(json.dumps({"step": 7, "loss": 0.5}))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pathlib.Path("model.bin").write_text("7")
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin"}))
"""


def test_a_script_that_ends_well_is_completed_and_remembered(project: Project) -> None:
    script = project.write("train.py", TRAINING)
    done = project.run("run", "train.py", "-n", "first", "--", "--lr", "0.1")
    record = project.record()
    assert done.code == 0
    assert set(record) >= RECORD_KEYS
    model = str(project.folder / "model.bin")
    assert {key: record[key] for key in RECORD_KEYS & {
        "name", "scriptPath", "status", "lastStep", "lastLoss", "checkpoints", "lastCheckpoint", "scriptArgs",
        "cwd", "exitCode", "reason", "gpus", "gpu", "framework", "metrics",
    }} == {
        "name": "first", "scriptPath": str(script), "status": "completed", "lastStep": 2, "lastLoss": 0.5,
        "checkpoints": [model], "lastCheckpoint": model, "scriptArgs": ["--lr", "0.1"],
        "cwd": str(project.folder), "exitCode": 0, "reason": None, "gpus": [], "gpu": None, "framework": None,
        "metrics": {"accuracy": 1.0},
    }  # fmt: skip
    (attempt,) = record["attempts"]
    assert record["startTime"] <= attempt["start"] <= attempt["end"] == record["endTime"]
    assert (attempt["status"], attempt["exitCode"], attempt["resumedFrom"]) == ("completed", 0, None)


def test_a_run_leaves_its_metrics_and_its_output_for_this_user_alone(project: Project) -> None:
    project.write("train.py", TRAINING)
    done = project.run("run", "train.py")
    folder = project.run_folder()
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(point["step"], point["loss"]) for point in points] == [(1, 1.0), (2, 0.5)]
    assert done.out.endswith("good bye\n")
    assert (folder / "output.log").read_text() == done.out
    assert json.loads((folder / "run.json").read_text())["id"] == folder.name
    assert {mode(path) for path in (project.home, folder)} == {0o700}
    assert {mode(path) for path in (project.home / "experiments.json", *folder.iterdir())} == {0o600}


def test_one_sentence_on_stderr_says_how_it_ended_and_how_far_it_came(project: Project) -> None:
    project.write("train.py", TRAINING)
    (sentence,) = project.run("run", "train.py", "-n", "first").err.splitlines()
    assert sentence.startswith("backprop: run first (")
    assert sentence.endswith("at step 2, loss 0.5, 1 checkpoint")
    assert " completed after " in sentence


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [
        ("sys.exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL (often the kernel's out-of-memory killer)"),
        ("signal.signal(15, 0); os.kill(os.getpid(), 15)", 143, "killed by SIGTERM"),
    ],
)
def test_a_script_that_fails_passes_its_code_on(
    project: Project, ending: str, code: int, reason: str
) -> None:
    project.write("train.py", f"import os, signal, sys\nprint('here', flush=True)\n{ending}")
    done = project.call("run", "train.py")
    record = project.record()
    assert done.code == code
    assert (record["status"], record["exitCode"], record["reason"]) == ("failed", code, reason)
    assert f"failed ({reason})" in done.err
    assert f"`backprop resume {record['id']}` would start afresh" in done.err


def test_the_end_of_the_time_box_is_no_failure_and_the_last_save_is_recorded(project: Project) -> None:
    project.write("train.py", SAVES_WHEN_INTERRUPTED)
    done = project.call("run", "train.py", "-m", "0.02", "-n", "boxed")
    record = project.record()
    assert done.code == 0
    assert (record["status"], record["lastStep"]) == ("timeboxed", 7)
    assert record["checkpoints"] == [str(project.folder / "model.bin")]
    assert record["settings"]["maxRunMinutes"] == 0.02
    assert "reached the end of its time box" in done.err
    assert done.err.endswith("go on with: backprop resume boxed\n")
    spent_s = (record["endTime"] - record["attempts"][0]["start"]) / 1000
    assert 1.2 <= spent_s < 20


def test_output_reaches_a_pipe_byte_for_byte_and_in_order(project: Project) -> None:
    script = r"""
        import os
        os.write(1, b"\x1b[31mred\x1b[0m \xff\xfe\r 1%\r 2%\n")
        os.write(2, b"to stderr\n")
        os.write(1, b'{"step": 1, "lo')
        os.write(1, b'ss": 2}\nno line end')
    """
    project.write("train.py", script)
    done = project.run("run", "train.py")
    printed = b'\x1b[31mred\x1b[0m \xff\xfe\r 1%\r 2%\nto stderr\n{"step": 1, "loss": 2}\nno line end'
    assert done.raw == printed
    assert (project.run_folder() / "output.log").read_bytes() == printed
    assert project.record()["lastLoss"] == 2


def test_output_reaches_a_file_and_a_socket_whole(project: Project) -> None:
    project.write("train.py", "for number in range(40_000): print('line', number)")
    expected = b"".join(b"line %d\n" % number for number in range(40_000))
    ours, theirs = socket.socketpair()
    with ours, theirs, (project.place / "out").open("wb") as file:
        running = project.start("run", "train.py", stdout=theirs.fileno())
        theirs.close()
        with ours.makefile("rb") as read:
            assert read.read() == expected
        assert project.end(running).code == 0
        assert project.end(project.start("run", "train.py", stdout=file.fileno())).code == 0
    assert (project.place / "out").read_bytes() == expected


def test_what_is_no_number_is_never_stored_as_one(project: Project) -> None:
    script = """
        print('{"step": 1, "loss": 0.25}')
        print('{"step": true, "loss": NaN, "speed": Infinity}')
        print('{"step": 99999999999999999999, "loss": 1e999}')
        print('{"step": 2, "loss": "3"}')
        print("[" * 5000, "{" * 5000)
        print('{"step": 3, "loss": 4, "x": "' + "y" * 1_000_000 + '"}')
        print('{"event": "checkpoint_saved", "path": 5}')
    """
    project.write("train.py", script)
    assert project.call("run", "train.py").code == 0
    record = project.record()
    assert (record["lastStep"], record["lastLoss"], record["metrics"]) == (2, 0.25, {})
    assert record["checkpoints"] == []
    metrics = (project.run_folder() / "metrics.jsonl").read_text()
    assert not any(word in metrics for word in ("NaN", "Infinity", "true", "e999", "null, 3"))


def test_the_script_reads_nothing_and_finds_signals_as_they_are_by_default(project: Project) -> None:
    script = """
        import os, signal, sys
        print(os.readlink("/proc/self/fd/0"), repr(sys.stdin.read()))
        print(os.path.samestat(os.fstat(1), os.fstat(2)), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        print([number.name for number in signal.Signals if signal.getsignal(number) == signal.SIG_IGN])
    """
    project.write("train.py", script)
    ignoring = ["sh", "-c", 'trap "" HUP QUIT USR1 TSTP; exec "$@"', "sh"]
    done = project.run("run", "train.py", before=ignoring)
    # Python itself ignores the last two.
    assert done.out.splitlines() == ["/dev/null ''", "True set()", "['SIGPIPE', 'SIGXFSZ']"]


def test_arguments_after_the_dashes_reach_the_script_as_they_are(project: Project) -> None:
    project.write("train.py", "import json, sys; print(json.dumps(sys.argv[1:]))")
    given = ["--help", "-m", "5", "", "two words", "--", "$HOME", "ünïcödé", "--resume-from=x"]
    done = project.call("run", "train.py", "-m", "5", "--", *given)
    assert json.loads(done.out) == given
    assert project.record()["scriptArgs"] == given


def test_a_module_runs_as_python_runs_it(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/train.py", "import sys; print(__name__, __spec__.name, sys.argv[1:])")
    done = project.call("run", "--module", "pkg.train", "--", "a")
    assert done.out == "__main__ pkg.train ['a']\n"
    assert project.record()["scriptPath"] == str(project.folder / "pkg" / "train.py")


def test_a_launcher_command_comes_between_the_environment_and_the_script(project: Project) -> None:
    project.write("train.py", "print('never run by itself')")
    wrapper = project.write("wrap", '#!/bin/sh\necho "$BACKPROP_ATTEMPT $@"\n')
    wrapper.chmod(0o755)
    done = project.call("run", "train.py", "--through", f"{wrapper} --ranks 2", "--", "a b")
    assert done.out == f"1 --ranks 2 {project.folder / 'train.py'} a b\n"


def test_a_dry_run_shows_what_would_be_launched_and_starts_nothing(project: Project) -> None:
    project.write("train.py", "open('ran', 'w')")
    for words in (["--dry-run", "run", "train.py"], ["run", "train.py", "--dry-run"]):
        done = project.call(*words, "--", "--api-key", "s3cret", "--epochs", "2")
        assert done.code == 0
        assert "verdict: the run may start" in done.out
        assert f"{project.folder / 'train.py'} --api-key '***' --epochs 2" in done.out
        assert "BACKPROP_MAX_RUN_SECONDS=600" in done.out
        assert "s3cret" not in done.out
    assert project.records() == []
    assert not (project.home / "runs").exists()
    assert not (project.folder / "ran").exists()


def test_a_dry_run_tells_a_refusal_by_its_code(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=0.5)
    done = project.call("run", "train.py", "--dry-run")
    assert done.code == 75
    assert "verdict: the run would be refused\n  - " in done.out


def test_a_refusal_names_every_reason_with_value_and_limit_and_leaves_no_trace(project: Project) -> None:
    project.write("train.py", "open('ran', 'w')")
    project.machine(ram_free_gb=0.5, cpu_load_per_core=9.0)
    done = project.call("run", "train.py", "--min-free-ram", "2", "--max-cpu-load", "3")
    reasons = [line for line in done.err.splitlines() if line.startswith("  - ")]
    assert done.code == 75
    assert len(reasons) == 2
    assert any("0.5" in reason and "2" in reason for reason in reasons)
    assert any("9" in reason and "3" in reason for reason in reasons)
    assert project.records() == []
    assert list((project.home / "runs").iterdir()) == []
    assert not (project.folder / "ran").exists()


def test_unknown_is_not_free_but_lets_a_single_run_start(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=None)
    assert project.call("run", "train.py").code == 75
    alone = project.call("run", "train.py", "-p", "1")
    assert alone.code == 0
    assert "RAM" in alone.err


def test_force_starts_in_spite_of_the_governor_and_says_so(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=3.5)
    done = project.call("run", "train.py", "--force")
    assert done.code == 0
    assert "in spite of" in done.err
    assert project.record()["status"] == "completed"


def test_a_run_whose_machine_runs_short_of_memory_is_paused_and_continued(project: Project) -> None:
    script = """
        import json, time
        for step in range(10_000):
            print(json.dumps({"step": step}))
            time.sleep(0.02)
    """
    project.write("train.py", script)
    running = project.start("run", "train.py", "--set", "monitorSeconds=0.1")
    project.wait_for_state("running")
    project.machine(ram_free_gb=0.01)
    paused = project.wait_for_state("paused")
    assert "RAM" in paused["reason"]
    project.machine()
    project.wait_for_state("running")
    running.send_signal(signal.SIGTERM)
    assert project.end(running).code == 143
    ((pause,),) = (attempt["pauses"] for attempt in project.record()["attempts"])
    assert pause["begin"] <= pause["end"]


def test_a_script_that_cannot_be_started_is_failed_and_says_why(project: Project) -> None:
    project.write("train.py", "")
    python = project.write("python", "#!/nowhere/at/all\n")
    os.chmod(python, 0o755)
    done = project.call("run", "train.py", "--python", python)
    assert done.code == 127
    assert project.record()["status"] == "failed"
    assert f"cannot run {python}" in done.err
