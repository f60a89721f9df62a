"""Records are read as they were written, by this version, an older one or somebody else's program."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_core.errors import StorageError
from backprop_core.records import (
    SCHEMA_VERSION,
    Attempt,
    Gpu,
    GpuIdentity,
    Limits,
    PauseSpan,
    PluginFailure,
    ProcessExit,
    RunRecord,
    Script,
    finite,
)
from backprop_core.settings import DECLARED, Settings, to_dict
from backprop_core.states import RunState

MINIMAL = {"id": "a", "scriptPath": "/x.py", "status": "completed", "startTime": 1}
KEYS = (  # those this format has always had, then ours
    "id name scriptPath status startTime endTime lastStep lastLoss checkpoints lastCheckpoint "
    "scriptArgs cwd python framework exitCode reason gpus gpu host attempts settings metrics"
).split()

FULL = RunRecord(
    id="a-1",
    name="büro \u2028",
    script_path="/x y.py",
    status=RunState.TIMEBOXED,
    start_time=1,
    end_time=2,
    last_step=2**53 + 1,
    last_loss=0.1 + 0.2,
    checkpoints=("/a.pt", "/b.pt"),
    last_checkpoint="/b.pt",
    script_args=("--lr", "", "1e-3"),
    gpus=(GpuIdentity(uuid="GPU-1", index=0, name="H"),),
    gpu=GpuIdentity(uuid="GPU-1", index=0, name="H"),
    attempts=(
        Attempt(start=1, end=2, status=RunState.LOST, exit_code=1, resumed_from="/a.pt", reason="gone"),
        Attempt(start=3, pauses=(PauseSpan(begin=4, end=5, cause="heat"), PauseSpan(begin=6))),
    ),
    settings={"maxRunMinutes": 5, "gpu": {"probe": "none"}},
    metrics={"acc": 0.5},
    extra={"note": [1, {"deep": None}]},
)


def test_a_record_comes_back_as_it_went() -> None:
    assert RunRecord.from_json(FULL.to_json()) == FULL
    assert b"\n" not in FULL.to_json()


def test_the_keys_are_those_of_the_format_in_camel_case() -> None:
    values = json.loads(FULL.to_json())
    assert set(KEYS) <= set(values)
    assert (values["schemaVersion"], values["note"]) == (SCHEMA_VERSION, [1, {"deep": None}])
    assert "extra" not in values
    assert values["attempts"][0] == {
        "start": 1,
        "end": 2,
        "status": "lost",
        "exitCode": 1,
        "resumedFrom": "/a.pt",
        "reason": "gone",
        "pauses": [],
        "cause": None,
        "firstStep": None,
        "lastStep": None,
        "firstEpoch": None,
        "lastEpoch": None,
        "saves": 0,
        "lostWrites": 0,
    }


@pytest.mark.parametrize("more", [{}, {key: None for key in KEYS if key not in MINIMAL}])
def test_only_four_keys_are_needed_and_null_means_absent(more: dict[str, Any]) -> None:
    record = RunRecord.from_dict({**MINIMAL, **more})
    assert record == RunRecord(id="a", script_path="/x.py", status=RunState.COMPLETED, start_time=1)
    assert record.limits == Limits()


def test_keys_of_others_are_kept_and_never_replace_ours() -> None:
    record = RunRecord.from_dict({**MINIMAL, "color": "blue", "extra": {"id": "x"}, "module": "pkg.mod"})
    assert record.extra == {"color": "blue", "extra": {"id": "x"}}
    again = msgspec.structs.replace(record, last_step=7).to_dict()
    assert (again["color"], again["extra"], again["id"], again["lastStep"]) == ("blue", {"id": "x"}, "a", 7)
    assert msgspec.structs.replace(record, extra={"id": "forged"}).to_dict()["id"] == "a"


def test_numbers_that_other_programs_wrote_as_text_or_float_are_understood() -> None:
    record = RunRecord.from_dict({**MINIMAL, "startTime": 5.0, "lastStep": "7", "lastLoss": "0.5"})
    assert (record.start_time, record.last_step, record.last_loss) == (5, 7, 0.5)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 10**30, "2", None, 1.5, []])
def test_a_record_of_a_newer_version_is_not_guessed_at(version: Any) -> None:
    with pytest.raises(StorageError, match="schema version") as caught:
        RunRecord.from_dict({**MINIMAL, "schemaVersion": version})
    assert caught.value.hint == "upgrade Backprop to read it"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"5",
        b"{",
        b"\xff",
        json.dumps({**MINIMAL, "status": "exploded"}).encode(),
        json.dumps({**MINIMAL, "startTime": "soon"}).encode(),
        json.dumps({**MINIMAL, "attempts": [1]}).encode(),
        json.dumps({key: value for key, value in MINIMAL.items() if key != "scriptPath"}).encode(),
        b'{"a":' * 10_000,
    ],
    ids=lambda raw: raw[:20],
)
def test_what_is_no_record_is_a_storage_error(raw: bytes) -> None:
    with pytest.raises(StorageError):
        RunRecord.from_json(raw)


numbers = st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1))
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    record=st.builds(
        RunRecord,
        id=texts,
        script_path=texts,
        status=st.sampled_from(RunState),
        start_time=st.integers(0, 2**60),
        last_step=st.none() | st.integers(-(2**63), 2**63 - 1),
        last_loss=st.none() | st.floats(),
        script_args=st.lists(texts).map(tuple),
        metrics=st.dictionaries(texts, st.floats()),
        extra=st.dictionaries(texts.filter(lambda key: key not in {*KEYS, "module", "memoryLayer"}), numbers),
    )
)
def test_whatever_a_record_holds_it_is_written_as_strict_json(record: RunRecord) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(record.to_json(), parse_constant=refuse)
    again = RunRecord.from_json(record.to_json())
    assert again.last_step == record.last_step
    assert again.last_loss == finite(record.last_loss)
    assert again.metrics == {name: value for name, value in record.metrics.items() if math.isfinite(value)}
    assert again.script_args == record.script_args


# Limits ----------------------------------------------------------------------------------------


def test_limits_are_picked_out_of_settings() -> None:
    settings = {
        **to_dict(Settings()),
        "maxRunMinutes": 5,
        "gpus": "all",
        "gpuMemoryLimit": "80%",
        "checkpointEveryMinutes": 2.5,
        "gpu": {"maxTempC": 70, "minFreeVramMB": 1},
        "plugin": {"x": {"y": 1}},
        "unknown": 1,
    }
    assert Limits.from_settings(settings) == Limits(
        max_run_minutes=5,
        gpus="all",
        gpu_memory_limit="80%",
        checkpoint_every_minutes=2.5,
        gpu_max_temp_c=70,
        gpu_min_vram_mb=1,
    )
    assert Limits.from_settings({}) == Limits()


def test_each_limit_is_a_setting_of_the_same_name() -> None:
    assert set(Limits.__struct_encode_fields__) <= set(DECLARED)


# Small ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exited", "status"),
    [(ProcessExit(code=0), 0), (ProcessExit(code=3), 3), (ProcessExit(signal=9), 137), (ProcessExit(), 128)],
)
def test_a_process_that_a_signal_ended_has_the_status_a_shell_would_show(
    exited: ProcessExit, status: int
) -> None:
    assert exited.status == status


def test_a_gpu_is_told_from_others_by_its_uuid_else_its_index() -> None:
    assert Gpu(index=3, uuid="GPU-7").id == "GPU-7"
    assert Gpu(index=3).id == "3"


def test_a_failure_names_the_plugin_its_file_and_the_hook() -> None:
    failure = PluginFailure(plugin="p", hook="backprop_admit", error="ValueError: x", path="/p.py")
    assert str(failure) == "plugin p (/p.py) failed in backprop_admit: ValueError: x"
    assert str(PluginFailure(plugin="p", hook=None, error="x")) == "plugin p failed: x"


def test_a_script_can_be_used_as_its_path() -> None:
    from pathlib import Path

    script = Script(path=Path("/a/train.py"))
    assert str(script) == "/a/train.py"
    assert Path(script) == script.path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, [1]])
def test_what_is_no_finite_number_is_none(value: object) -> None:
    assert finite(value) is None
    assert finite(1.5) == 1.5
    assert finite(0) == 0


def test_records_are_fixed_once_made() -> None:
    with pytest.raises(AttributeError):
        FULL.name = "other"  # type: ignore[misc]
