"""A machine with NVIDIA GPUs, shown by a stub of libnvidia-ml.so.1, and processes that read it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stub_nvml.build import StubNvml, build, compiler

from backprop_core import Gpu, ProbeError
from backprop_core.testing import FakeNvidiaSmi

READER = Path(__file__).parents[1] / "stub_nvml" / "read_gpus.py"
ANSWER_LIMIT_S = 30.0


class Reader:
    """A process of its own with one probe, which reads whenever it is asked to."""

    def __init__(self, probe: str, environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(READER), probe],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def is_available(self) -> bool:
        return bool(self._ask("available")["available"])

    def read(self) -> list[Gpu]:
        """Return what the probe reads.

        :raises ProbeError: with the probe's own message, as it does.
        """
        answer = self._ask("read")
        if "error" in answer:
            raise ProbeError(answer["error"])
        return msgspec.convert(answer["gpus"], list[Gpu], strict=False)

    def close(self) -> None:
        try:
            self._child.communicate(timeout=ANSWER_LIMIT_S)
        finally:
            self._child.kill()

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(request + "\n")
        self._child.stdin.flush()
        ready, _, _ = select.select([self._child.stdout], [], [], ANSWER_LIMIT_S)
        assert ready, f"no answer within {ANSWER_LIMIT_S} s"
        answer: dict[str, Any] = msgspec.json.decode(self._child.stdout.readline())
        return answer


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("no C compiler to build the stub of libnvidia-ml.so.1 with")
    return build(tmp_path_factory.mktemp("stub_nvml"))


@pytest.fixture
def stub_nvml(stub_library: Path, tmp_path: Path) -> StubNvml:
    return StubNvml(stub_library, tmp_path / "machine.txt")


@pytest.fixture
def start_reader() -> Iterator[Callable[[str, Mapping[str, str]], Reader]]:
    """Start a process that reads with the probe of this name, in this environment."""
    started: list[Reader] = []

    def start(probe: str, environment: Mapping[str, str]) -> Reader:
        started.append(Reader(probe, environment))
        return started[-1]

    yield start
    for reader in started:
        reader.close()


@pytest.fixture
def nvml(stub_nvml: StubNvml, start_reader: Callable[[str, Mapping[str, str]], Reader]) -> Reader:
    """Return a process that reads the stub's machine through NVML."""
    return start_reader("nvml", stub_nvml.environment)


@pytest.fixture
def fake_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidiaSmi:
    """Return a stand-in for nvidia-smi that is the first on PATH and keeps what it was asked."""
    fake = FakeNvidiaSmi(tmp_path / "bin", keeps_log=True)
    monkeypatch.setenv("PATH", f"{fake.path_entry}:/usr/bin:/bin")
    return fake
