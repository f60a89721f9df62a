"""The built-in parts keep what the test kit asks of every launcher, probe and parser."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from kit import wait_for

from backprop_builtin.events import hf_trainer, iter_loss, json_lines, keras, lightning, tables, tqdm
from backprop_builtin.gpu_probes.nvidia_smi import NvidiaSmi
from backprop_builtin.launchers.local import LocalLauncher
from backprop_core import CheckpointSaved, EngineState, Event, EventParser, GpuProbe, Launcher, Progress
from backprop_core.testing import (
    EventParserContract,
    FakeNvidiaSmi,
    GpuProbeContract,
    LauncherContract,
    make_record,
)
from backprop_core.testing.launcher_contract import MakePlan


class TestLocalLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Launcher:
        return LocalLauncher()

    def test_what_an_agent_said_is_known_after_its_log_was_closed(
        self, launcher: Launcher, make_plan: MakePlan
    ) -> None:
        says = "import sys; sys.exit('no room')"
        plan = msgspec.structs.replace(make_plan(), command=(sys.executable, "-S", "-c", says))
        log = os.path.realpath(plan.run_dir / "agent.log")
        handle = launcher.submit(plan)

        def gone() -> EngineState | None:
            state = launcher.state([handle])[handle]
            return state if state.phase == "gone" else None

        last = wait_for(gone, "its end")
        assert last == EngineState(phase="gone", exit_code=1, detail="no room")
        ours = [os.path.realpath(f"/dev/fd/{number}") for number in os.listdir("/dev/fd")]
        assert log not in ours
        assert launcher.state([handle])[handle] == last
        assert launcher.submit(plan) == handle, "no second agent for one attempt"


class TestNvidiaSmi(GpuProbeContract):
    @pytest.fixture
    def probe(self, fake_nvidia_smi: FakeNvidiaSmi) -> GpuProbe:
        lost = {"index": 2, "total": None, "free": None, "temp": "[GPU is lost]"}
        fake_nvidia_smi.set(gpus=[{"index": 0}, {"index": 1, "free": 5, "temp": 88}, lost])
        return NvidiaSmi()

    @pytest.fixture
    def broken_probe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuProbe:
        fake = FakeNvidiaSmi(tmp_path / "broken")
        fake.fail(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        monkeypatch.setenv("PATH", fake.path_entry)
        return NvidiaSmi()


RUN = make_record("r")


class ParserKeeps(EventParserContract):
    """Tests of one built-in parser.

    `make` gives a fresh parser; `lines` are its own, with what they tell.
    """

    make: ClassVar[Callable[[], EventParser]]
    lines: ClassVar[Mapping[str, Sequence[Event]]]
    __test__ = False

    @pytest.fixture
    def parser(self) -> EventParser:
        return type(self).make()

    @pytest.fixture
    def told(self) -> Mapping[str, Sequence[Event]]:
        return self.lines


class TestJsonLines(ParserKeeps):
    __test__ = True
    make = json_lines.backprop_event_parser
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        '{"step": 3, "loss": 0.5, "f1": 0.25}': [Progress(step=3, loss=0.5, metrics={"f1": 0.25})],
        '{"event": "checkpoint_saved", "path": "c.pt", "step": 3}': [CheckpointSaved(path="c.pt", step=3)],
    }


class TestHuggingFace(ParserKeeps):
    __test__ = True
    make = hf_trainer.backprop_event_parser
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        " 25%|##5       | 4/16 [00:01<00:03,  4.00it/s]": [],
        "{'loss': '0.6937', 'grad_norm': '1.5', 'epoch': '0.5'}": [],
        " 50%|#####     | 8/16 [00:02<00:02,  4.00it/s]": [
            Progress(step=8, total_steps=16, epoch=0.5, loss=0.6937, metrics={"grad_norm": 1.5})
        ],
    }


class TestLossLines(ParserKeeps):
    __test__ = True
    make = partial(iter_loss.backprop_event_parser, RUN)
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        "iter 10: loss 4.1912, time 12.50ms": [Progress(step=10, loss=4.1912, metrics={"time_ms": 12.5})],
        "Epoch 3 loss: 0.5": [Progress(epoch=3, loss=0.5)],
    }


class TestKeras(ParserKeeps):
    __test__ = True
    make = keras.backprop_event_parser
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        "Epoch 2/5": [Progress(epoch=2, metrics={"total_epochs": 5})],
        "4/10 ━━━━━━━━ 0s 2ms/step - accuracy: 0.5000 - loss: 0.6931": [
            Progress(step=14, total_steps=50, epoch=2, loss=0.6931, metrics={"accuracy": 0.5})
        ],
    }


class TestLightning(ParserKeeps):
    __test__ = True
    make = partial(lightning.backprop_event_parser, RUN)
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        "Epoch 1:  50%|#####     | 5/10 [00:00<00:00, 50.00it/s, v_num=0, train_loss=0.500]": [
            Progress(step=15, epoch=1, loss=0.5)
        ]
    }


class TestTables(ParserKeeps):
    __test__ = True
    make = tables.backprop_event_parser
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        "epoch     train_loss  valid_loss  accuracy  time": [],
        "0         0.500000    0.600000    0.750000  00:01": [
            Progress(epoch=0, loss=0.5, metrics={"valid_loss": 0.6, "accuracy": 0.75})
        ],
    }


class TestTqdm(ParserKeeps):
    __test__ = True
    make = partial(tqdm.backprop_event_parser, RUN)
    lines: ClassVar[Mapping[str, Sequence[Event]]] = {
        "train:  50%|#####     | 5/10 [00:00<00:00, 50.00it/s, loss=0.5]": [
            Progress(step=5, total_steps=10, loss=0.5)
        ]
    }
