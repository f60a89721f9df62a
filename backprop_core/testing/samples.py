"""Records to test with."""

from __future__ import annotations

from typing import Any

from backprop_core.records import Attempt, GpuIdentity, PauseSpan, RunRecord
from backprop_core.states import RunState


def make_record(run_id: str, start_time: int = 1_700_000_000_000, **fields: Any) -> RunRecord:
    """Make a record with the fewest fields, and those that are given."""
    fields.setdefault("status", RunState.RUNNING)
    return RunRecord(id=run_id, script_path="/home/me/train.py", start_time=start_time, **fields)


def full_record() -> RunRecord:
    """Make a record with every field, and with texts and numbers that are easily spoilt."""
    return make_record(
        "full-1",
        status=RunState.TIMEBOXED,
        name="büro \u2028 \x1b[31m",
        end_time=1_700_000_600_000,
        last_step=2**53 + 1,
        last_loss=0.1 + 0.2,
        checkpoints=("/home/me/a b.pt", '/home/me/"q".pt'),
        last_checkpoint='/home/me/"q".pt',
        script_args=("--lr", "1e-3", ""),
        cwd="/home/me",
        python="/usr/bin/python3",
        framework="pytorch",
        exit_code=0,
        reason="time box of 10 minutes",
        gpus=(GpuIdentity(uuid="GPU-1", index=0, name="H200"),),
        gpu=GpuIdentity(uuid="GPU-1", index=0, name="H200"),
        host="box",
        attempts=(
            Attempt(
                start=1,
                end=2,
                status=RunState.FAILED,
                exit_code=1,
                pauses=(PauseSpan(begin=1, end=2, cause="heat"),),
            ),
            Attempt(start=3, resumed_from="/home/me/a b.pt"),
        ),
        settings={"maxRunMinutes": 10.0, "gpu": {"probe": "auto"}},
        metrics={"accuracy": 0.5},
        extra={"note": "kept", "nested": {"list": [1, 2.5, None, True]}},
    )
