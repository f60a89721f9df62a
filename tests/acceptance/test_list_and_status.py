"""`backprop list` and `backprop status`: what is remembered and how the machine stands, for people and programs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kit import Project, command
from terminal import Terminal

ONCE = 1_700_000_000_000  # ms since 1970, in November 2023


def remember(project: Project, records: Sequence[dict[str, Any]]) -> Path:
    """Write experiments.json as an older version or another program would."""
    project.home.mkdir(mode=0o700, exist_ok=True)
    file = project.home / "experiments.json"
    file.write_text(json.dumps({record["id"]: record for record in records}, indent=2))
    file.chmod(0o600)
    return file


def old_record(run_id: str, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": run_id, "scriptPath": "/gone/train.py", "status": status, "startTime": ONCE, **more}


def listed(project: Project, *words: object) -> list[str]:
    """The ids that `list --json` shows, in its order."""
    done = project.call("list", "--json", *words)
    assert done.code == 0
    return [record["id"] for record in json.loads(done.out)]


def test_a_list_in_a_pipe_is_aligned_plain_text(project: Project) -> None:
    project.write("train.py", 'print(\'{"step": 12, "loss": 0.25}\')')
    project.run("run", "train.py", "-n", "mine")
    done = project.run("list")
    heading, line = done.out.splitlines()
    record = project.record()
    assert done.err == ""
    assert heading.split() == "ID NAME STATE TIME STEP LOSS CHECKPOINTS LEFT STARTED".split()
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(record["startTime"] / 1000))
    assert line.split(maxsplit=8) == [
        record["id"],
        "mine",
        "completed",
        "0s",
        "12",
        "0.25",
        "0",
        "-",
        started,
    ]
    assert heading.index("STATE") == line.index("completed")
    assert done.out.isascii()
    assert done.out.replace("\n", "").isprintable()


def test_a_list_on_a_terminal_is_a_table_with_colours(project: Project) -> None:
    remember(project, [old_record("one", name="mine\x1b]0;owned\x07")])
    with Terminal([*command(), "list"], cwd=project.folder, env=project.environ()) as terminal:
        assert terminal.end() == 0
    assert "\x1b[" in terminal.shown
    assert "mine\\x1b]0;owned\\x07" in terminal.shown
    assert "\x1b]0;" not in terminal.shown


def test_list_json_is_one_document_of_whole_records(project: Project) -> None:
    project.write("train.py", "")
    for name in ("first", "second"):
        project.call("run", "train.py", "-n", name)
    done = project.call("list", "--json")
    without = ("checksum",)  # which guards the file, and nothing else
    kept = [{k: v for k, v in one.items() if k not in without} for one in reversed(project.records())]
    assert [{k: v for k, v in one.items() if k not in without} for one in json.loads(done.out)] == kept
    assert project.call("list", "--json", "--state", "failed").out == "[]\n"
    one = json.loads(project.call("status", "first", "--json").out)
    assert one["id"] == project.record("first")["id"]


def test_list_shows_the_newest_20_unless_told_otherwise_and_with_json_all(project: Project) -> None:
    states = ["completed", "failed", "stopped", "timeboxed", "lost"]
    remember(project, [old_record(f"r{n:02}", states[n % 5], startTime=ONCE + n) for n in range(30)])
    assert len(project.call("list").out.splitlines()) == 1 + 20
    assert len(project.call("list", "--all").out.splitlines()) == 1 + 30
    assert listed(project) == [f"r{n:02}" for n in reversed(range(30))]
    assert listed(project, "--limit", 2) == ["r29", "r28"]
    assert listed(project, "--state", "lost", "--limit", 3) == ["r29", "r24", "r19"]
    assert listed(project, "--state", "lost", "--state", "failed", "--limit", 3) == ["r29", "r26", "r24"]


def test_names_and_paths_with_escape_characters_are_shown_escaped(project: Project) -> None:
    project.write("\x1b[31mtrain.py", "import sys; sys.exit(1)")
    name = "evil\x1b[2Jname\u202e\n"
    done = project.run("run", "\x1b[31mtrain.py", "-n", name, "--", "\x1b]0;title\x07")
    shown = [done.err, project.run("list").out, project.run("status", "last").out]
    assert project.record()["name"] == name
    for text in shown:
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert "evil\\x1b[2Jname\\u202e\\n" in shown[1]
    assert len(shown[1].splitlines()) == 2


def test_secrets_among_the_arguments_are_kept_and_not_shown(project: Project) -> None:
    project.write("train.py", "")
    project.call("run", "train.py", "--", "--api-key", "s3cret", "--token=s3cret", "--lr", "0.1")
    shown = project.call("status", "last").out
    assert "--api-key '***' '--token=***' --lr 0.1" in shown
    assert "s3cret" not in shown
    assert project.record()["scriptArgs"] == ["--api-key", "s3cret", "--token=s3cret", "--lr", "0.1"]


def test_records_of_the_oldest_kind_are_listed_kept_and_resumed(project: Project) -> None:
    script = project.write("train.py", "import os; print('attempt', os.environ['BACKPROP_ATTEMPT'])")
    strange = {"hyperparameters": {"lr": 0.1}, "tags": ["a"]}
    file = remember(
        project,
        [
            old_record("old", "failed", scriptPath=str(script), endTime=None, name=None, **strange),
            old_record("older", startTime=ONCE - 1, notes="keep me"),
        ],
    )
    assert listed(project) == ["old", "older"]
    assert "/gone/train.py" in project.call("status", "older").out
    done = project.call("resume", "old")
    assert (done.code, done.out) == (0, "attempt 2\n"), done
    records = json.loads(file.read_text())
    assert records["older"] == old_record("older", startTime=ONCE - 1, notes="keep me")
    assert {key: records["old"][key] for key in strange} == strange
    assert (records["old"]["status"], records["old"]["startTime"]) == ("completed", ONCE)
    assert [attempt["status"] for attempt in records["old"]["attempts"]] == ["failed", "completed"]


def test_an_old_record_whose_resume_is_refused_is_not_lost(project: Project) -> None:
    script = project.write("train.py", "")
    file = remember(project, [old_record("old", "failed", scriptPath=str(script))])
    before = json.loads(file.read_text())
    project.machine(ram_free_gb=0.5)
    assert project.call("resume", "old").code == 75
    assert json.loads(file.read_text()) == before
    for words in (["--detach"], ["--detach", "--wait", "0.005"], ["--wait", "0.005"]):
        assert project.call("resume", "old", *words).code == 75
        (record,) = json.loads(file.read_text()).values()
        assert record["status"] == "failed"


def test_an_old_record_of_a_run_that_nobody_holds_is_lost(project: Project) -> None:
    remember(project, [old_record("gone", "running")])
    assert listed(project, "--state", "lost") == ["gone"]
    assert project.record("gone")["status"] == "lost"


def test_what_another_machine_has_recorded_is_shown_with_a_doubt_and_left_alone(project: Project) -> None:
    project.write("train.py", "")
    project.call("run", "train.py", "--run-id", "far")
    store = project.home / "experiments.json"
    record = {**project.record("far"), "status": "running", "host": "elsewhere"}
    record.pop("checksum")
    store.write_text(json.dumps({"far": record}))
    listed = project.call("list")
    assert listed.out.splitlines()[1].split()[2] == "running?"
    assert "another machine or container" in listed.err
    assert project.call("list", "--json").json[0]["status"] == "running"
    assert "held by    machine elsewhere: " in project.call("status", "far").out
    resumed = project.call("resume", "far")
    assert resumed.code == 2
    assert "it is held by machine elsewhere" in resumed.err
    assert json.loads(store.read_text())["far"] == record


def test_a_corrupt_file_is_kept_aside_and_rebuilt_aloud(project: Project) -> None:
    project.write("train.py", "print('{\"step\": 1}')")
    for name in ("first", "second"):
        project.call("run", "train.py", "-n", name)
    before = project.records()
    file = project.home / "experiments.json"
    damaged = file.read_bytes()[:-200] + b"\0\0\0"
    file.write_bytes(damaged)
    done = project.call("list", "--json")
    assert [record["name"] for record in json.loads(done.out)] == ["second", "first"]
    (aside,) = project.home.glob("experiments.json.corrupt-*")
    assert aside.read_bytes() == damaged
    assert aside.name in done.err
    assert project.records() == before
    assert project.call("list").err == ""


def test_a_record_of_a_newer_version_hides_no_other(project: Project) -> None:
    remember(project, [old_record("future", schemaVersion=99), old_record("mine")])
    done = project.call("list", "--json")
    assert [record["id"] for record in json.loads(done.out)] == ["mine"]
    assert "upgrade Backprop" in done.err or "version" in done.err
    assert done.code == 0


def test_status_json_has_the_documented_shape(project: Project) -> None:
    project.write("train.py", "import time; time.sleep(60)")
    running = project.start("run", "train.py")
    project.wait_for_state("running")
    project.machine(cpu_load_per_core=None)
    document = json.loads(project.call("status", "--json", "-p", "3", "--max-cpu-load", "2").out)
    running.send_signal(signal.SIGTERM)
    project.end(running)
    assert set(document) == {"host", "gpus", "probe", "slots", "verdict"}
    host = document["host"]
    assert set(host) == {"ram_free_gb", "ram_total_gb", "cpu_load_per_core", "cpu_count", "cpu_model"}
    assert (host["ram_free_gb"], host["cpu_count"], host["cpu_load_per_core"]) == (64, 8, None)
    assert (document["gpus"], document["probe"], document["slots"]) == ([], "none", {"used": 1, "max": 3})
    verdict = document["verdict"]
    assert set(verdict) == {"allowed", "reasons"}
    assert verdict["allowed"] is False
    (reason,) = verdict["reasons"]
    assert "load" in reason


@pytest.mark.parametrize(
    ("free_gb", "options", "allowed"),
    [(3.0, [], False), (3.0, ["--min-free-ram", "2"], True), (3.0, ["--set", "minFreeRamGB=2"], True)],
)
def test_status_judges_by_the_limits_that_it_is_given(
    project: Project,
    free_gb: float,
    options: list[str],
    allowed: bool,  # noqa: FBT001 - a column of the table
) -> None:
    project.machine(ram_free_gb=free_gb)
    verdict = json.loads(project.call("status", "--json", *options).out)["verdict"]
    assert (verdict["allowed"], len(verdict["reasons"])) == (allowed, 0 if allowed else 1)


def test_status_in_a_pipe_is_plain_text_with_values_and_limits(project: Project) -> None:
    project.machine(ram_free_gb=3.0)
    done = project.run("status")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "3.0 GB of 128.0 GB available, 4 GB needed" in done.out
    assert "slots      0 of 2 in use" in done.out
    assert "no run starts now" in done.out


def test_status_of_a_run_tells_of_its_attempts_and_checkpoints(project: Project) -> None:
    script = """
        import json, pathlib, sys
        pathlib.Path("model.bin").write_text("weights")
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin"}))
        sys.exit(4)
    """
    project.write("train.py", script)
    project.call("run", "train.py", "-n", "it")
    project.call("resume", "it")
    shown = project.call("status", "it").out
    model = project.folder / "model.bin"
    rows = [line.split(maxsplit=1) for line in shown.splitlines()]
    assert ["state", "failed (exit code 4)"] in rows
    assert ["checkpoint", str(model)] in rows
    assert [row[1].split(",")[0] for row in rows if row[0] == "attempt"] == [
        "1   failed (exit code 4)",
        "2   failed (exit code 4)",
    ]
    assert f"from {model}" in shown


def test_logs_show_what_was_printed_and_nothing_else(project: Project) -> None:
    project.write("train.py", "import os; os.write(1, b'raw \\x1b[31m\\xff\\n')")
    project.run("run", "train.py")
    done = project.run("logs", "last")
    assert (done.code, done.raw, done.err) == (0, b"raw \x1b[31m\xff\n", "")
    with Terminal([*command(), "logs", "last"], cwd=project.folder, env=project.environ()) as terminal:
        assert terminal.end() == 0
    assert "\x1b[31m" in terminal.shown


def test_logs_on_a_terminal_let_colours_pass_and_nothing_that_acts(project: Project) -> None:
    project.write("train.py", "print('\\x1b[32mgreen\\x1b[0m \\x1b]0;owned\\x07 \\x1b[2J\\x1b[6n end')")
    project.call("run", "train.py")
    for words in (["logs", "last"], ["run", "train.py"]):
        with Terminal([*command(), *words], cwd=project.folder, env=project.environ()) as terminal:
            assert terminal.end() == 0
        line = next(line for line in terminal.shown.splitlines() if "green" in line)
        assert "\x1b[32mgreen\x1b[0m" in line
        assert not any(escape in terminal.shown for escape in ("\x1b]0;", "\x1b[6n", "\x07"))
        assert "\x1b[2J" not in line
