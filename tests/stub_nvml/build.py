"""Build the stub of libnvidia-ml.so.1 and describe the machine it is to show."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

SOURCE = Path(__file__).with_name("stub_nvml.c")
NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, UNKNOWN = 3, 4, 13, 15, 16, 999


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one function answers: an error code, or the truth after a while.

    `function` is the exported name ("nvmlDeviceGetMemoryInfo_v2"); "*" is every function.
    """

    function: str
    code: int = 0
    hang_s: float = 0.0

    def __str__(self) -> str:
        return f"call {self.function} {self.code} {self.hang_s}"


@dataclass(frozen=True, kw_only=True)
class StubGpu:
    """A GPU, or a MIG instance of one; what is None is answered with "not supported".

    Memory in MiB, degrees Celsius, percent. `processes` maps pids to MiB, None where it is not told.
    """

    uuid: str | None = None
    name: str | None = None
    total: int | None = None
    free: int | None = None
    reserved: int | None = None
    temp: int | None = None
    util: int | None = None
    throttle: int | None = None
    mig: int | None = None
    calls: tuple[Call, ...] = ()
    processes: Mapping[int, int | None] = field(default_factory=dict)
    instances: tuple[StubGpu, ...] = ()

    def lines(self) -> list[str]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        own = [f"{key} {value}" for key, value in values.items() if isinstance(value, int | str)]
        told = [f"process {pid} {-1 if mb is None else mb}" for pid, mb in self.processes.items()]
        return own + told + [str(call) for call in self.calls]


class StubNvml:
    """The stub library with a machine of its own; child processes see it through `environment`."""

    def __init__(self, library: Path, script: Path) -> None:
        self._library = library
        self._script = script
        self.set()

    @property
    def environment(self) -> dict[str, str]:
        known = os.environ.get("LD_LIBRARY_PATH")
        return {
            "LD_LIBRARY_PATH": os.pathsep.join([str(self._library), *([known] if known else [])]),
            "STUB_NVML_SCRIPT": str(self._script),
        }

    def set(self, *gpus: StubGpu, init: int = 0, epoch: int = 0, calls: Iterable[Call] = ()) -> None:
        """Have these GPUs from now on, also for processes that run already.

        :param init: The error code of initialising the library; 0 is success.
        :param epoch: Another number than before makes the library forget that it was initialised.
        :param calls: What functions answer for every GPU.
        """
        lines = [f"init {init}", f"epoch {epoch}", *map(str, calls)]
        for index, gpu in enumerate(gpus):
            lines += [f"gpu {index} {line}" for line in gpu.lines()]
            for place, instance in enumerate(gpu.instances):
                lines += [f"instance {index} {place} {line}" for line in instance.lines()]
        fresh = self._script.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._script)


def compiler() -> str | None:
    """Find the system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """Compile the stub into a folder, which then belongs on LD_LIBRARY_PATH.

    :raises RuntimeError: with what the compiler said, when there is none or it fails.
    """
    program = compiler()
    if program is None:
        raise RuntimeError("no C compiler")
    library = folder / "libnvidia-ml.so.1"
    command = [
        program,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return folder
