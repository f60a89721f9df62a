"""Read GPUs through the `nvidia-smi` command.

Its errors are told by the exit code, with the text on standard output. Cells in brackets ("[N/A]") are
unknown. The name comes last in a row, because a comma in it is not quoted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from backprop_core import Gpu, GpuProbe, ProbeError, hookimpl, pattern

from . import _cuda
from ._command import Answer, Questions, find_trusted

if TYPE_CHECKING:
    from subprocess import Popen

PROGRAM = "nvidia-smi"
LIMIT_S = 10.0
FIRST_LIMIT_S = 60.0
"""Without persistence mode the first question loads the driver's state, which takes seconds for each GPU."""

CORE_FIELDS = (
    "index",
    "uuid",
    "memory.total",
    "memory.used",
    "memory.free",
    "temperature.gpu",
    "utilization.gpu",
)
THROTTLE_FIELD = "clocks_throttle_reasons.active"
RENAMED_THROTTLE_FIELD = "clocks_event_reasons.active"
MIG_FIELD = "mig.mode.current"
NAME_FIELD = "name"
AS_CSV = "--format=csv,noheader,nounits"
PROCESS_QUERY = "--query-compute-apps=gpu_uuid,pid,used_memory"

OK, BAD_FIELD, NO_DEVICES, GPU_LOST, OTHER = 0, 2, 6, 15, 255
MAY_BE_ONE_GPU = frozenset({GPU_LOST, OTHER})
NOT_SUPPORTED = frozenset({"[N/A]", "[Not Supported]"})

_NUMBER = pattern(r"-?\d+(?:\.\d+)?")
_BRACKETS = pattern(r"\[(.*)\]")
_REJECTED = pattern(r'Field "([^"]+)"')
_GONE = pattern(r"\[(GPU is lost|GPU requires \w+)\]")
_LISTED = pattern(r"GPU (\d+): ")
_LISTED_UNREADABLE = pattern(r"Unable to determine the device handle for gpu ?(\S+): (.*)", re.IGNORECASE)
_LISTED_INSTANCE = pattern(r"\s+MIG (\S+).*\(UUID: (MIG-[^)]+)\)")
_XML_INSTANCE = pattern(r"<mig_device>(.*?)</mig_device>", re.DOTALL)
_XML_MEMORY = pattern(r"<fb_memory_usage>.*?<total>(.*?)</total>.*?<free>(.*?)</free>", re.DOTALL)


@hookimpl
def backprop_gpu_probe() -> GpuProbe:
    return NvidiaSmi()


class NvidiaSmi:
    """The probe; it remembers which fields this nvidia-smi knows, and a child that would not die."""

    name = PROGRAM
    order = 20

    def __init__(self, limit_s: float = LIMIT_S, first_limit_s: float = FIRST_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._next_limit_s = first_limit_s
        self._optional: tuple[str, ...] = (THROTTLE_FIELD, MIG_FIELD)
        self._tells_processes = True
        self._unkillable: Popen[str] | None = None

    def is_available(self) -> bool:
        return find_trusted(PROGRAM, os.environ.get("PATH", "")) is not None

    def read(self) -> Sequence[Gpu]:
        ask = self._questions()
        try:
            gpus = tuple(self._read(ask))
        finally:
            self._unkillable = ask.unkillable
        self._next_limit_s = self._limit_s
        return gpus

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        return _cuda.visible_devices(gpu)

    def _questions(self) -> Questions:
        stuck = self._unkillable
        if stuck is not None and stuck.poll() is None:
            raise ProbeError(
                f"{PROGRAM}: an earlier one (pid {stuck.pid}) hangs in the driver and cannot be killed",
                "the GPU or its driver hangs: see the kernel's log",
            )
        program = find_trusted(PROGRAM, os.environ.get("PATH", ""))
        if program is None:
            raise ProbeError(
                f"{PROGRAM}: not found in a trusted folder of PATH",
                "file and folder must belong to root or to you, and nobody else may write them",
            )
        return Questions(program, self._next_limit_s)

    def _read(self, ask: Questions) -> Iterator[Gpu]:
        answer = self._query(ask)
        if answer.code == NO_DEVICES:
            return
        gpus = self._one_by_one(ask, answer) if answer.code in MAY_BE_ONE_GPU else self._gpus(ask, answer)
        for gpu in gpus:
            yield gpu
            if gpu.note == _cuda.MIG_NOTE:
                yield from read_instances(ask, gpu)

    def _query(self, ask: Questions, *selection: str) -> Answer:
        """Ask about all GPUs, or one; a field that this nvidia-smi does not know is not asked for again."""
        while True:
            answer = ask(f"--query-gpu={','.join(self._fields)}", AS_CSV, *selection)
            if answer.code != BAD_FIELD or not self._optional:
                return answer
            self._optional = without_rejected(self._optional, answer.text)

    @property
    def _fields(self) -> tuple[str, ...]:
        return (*CORE_FIELDS, *self._optional, NAME_FIELD)

    def _gpus(self, ask: Questions, answer: Answer, *selection: str) -> Sequence[Gpu]:
        if answer.code != OK:
            raise failure(answer)
        rows = parse_rows(answer.text, self._fields)
        if not rows and answer.text.strip():
            raise failure(answer)
        processes = self._processes(ask, *selection) if rows else None
        return [to_gpu(row, processes) for row in rows]

    def _processes(self, ask: Questions, *selection: str) -> Processes | None:
        if not self._tells_processes:
            return None
        answer = ask(PROCESS_QUERY, AS_CSV, *selection)
        self._tells_processes = answer.code != BAD_FIELD
        return parse_processes(answer.text) if answer.code == OK else None

    def _one_by_one(self, ask: Questions, failed: Answer) -> Iterator[Gpu]:
        """Read what can be read: one lost GPU fails the question about all of them."""
        listed = parse_list(ask("-L").text)
        if not listed:
            raise failure(failed)
        for index, trouble in listed:
            selection = ("-i", str(index))
            answer = Answer(OTHER, trouble) if trouble else self._query(ask, *selection)
            if answer.code == OK:
                yield from self._gpus(ask, answer, *selection)
            else:
                yield _cuda.unreadable(index, answer.first_line)


Processes = Mapping[str, dict[int, float] | None]
"""GPU UUID to what each process holds, in MiB; a GPU that is not there has no processes."""


def read_instances(ask: Questions, gpu: Gpu) -> Sequence[Gpu]:
    """Read the MIG instances of a GPU: the list has the UUIDs, the XML the memory, in the same order."""
    names = parse_instances(ask("-L").text, gpu.index)
    memory = parse_instance_memory(ask("-q", "-x", "-i", str(gpu.index)).text)
    if len(names) != len(memory):
        return ()
    return [
        Gpu(
            index=gpu.index,
            uuid=uuid,
            name=f"{gpu.name} MIG {profile}",
            vram_total_mb=total_mb,
            vram_free_mb=free_mb,
            temp_c=gpu.temp_c,
            is_throttled_by_heat=gpu.is_throttled_by_heat,
        )
        for (profile, uuid), (total_mb, free_mb) in zip(names, memory, strict=True)
    ]


def failure(answer: Answer) -> ProbeError:
    """Name the failure; for most of them nvidia-smi exits with NVML's own error code."""
    if answer.code == BAD_FIELD:
        return ProbeError(
            f"{PROGRAM}: bad field: {answer.first_line}", "this nvidia-smi is too old to be read"
        )
    return _cuda.failure(PROGRAM, answer.code, answer.first_line)


def without_rejected(optional: Sequence[str], text: str) -> tuple[str, ...]:
    """Drop the field that nvidia-smi calls unknown, or use its newer name; drop all if it names none."""
    found = _REJECTED.search(text)
    rejected = found[1] if found else ""
    if rejected not in optional:
        return ()
    if rejected == THROTTLE_FIELD:
        return tuple(RENAMED_THROTTLE_FIELD if field == rejected else field for field in optional)
    return tuple(field for field in optional if field != rejected)


def parse_rows(text: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """Split the rows of a query into cells by field; headers and other lines without an index are left out.

    :source: nvidia-smi --query-gpu --format=csv,noheader,nounits (memory in MiB, temperature in Celsius)
    """
    lines = (line.split(", ", len(fields) - 1) for line in text.splitlines())
    rows = (dict(zip(fields, cells, strict=True)) for cells in lines if len(cells) == len(fields))
    return [row for row in rows if row["index"].isdecimal()]


def to_gpu(row: Mapping[str, str], processes: Processes | None = None) -> Gpu:
    """Turn a row into a reading; what it does not tell is None."""
    index, uuid, name = int(row["index"]), told(row.get("uuid")), told(row.get(NAME_FIELD))
    gone = [found[1] for cell in row.values() if (found := _GONE.fullmatch(cell))]
    if gone:
        return _cuda.unreadable(index, gone[0], uuid, name)
    is_split = row.get(MIG_FIELD) == "Enabled"
    total_mb, free_mb, note = memory_of(row, may_be_unified=not is_split)
    return Gpu(
        index=index,
        uuid=uuid,
        name=name,
        vram_total_mb=total_mb,
        vram_free_mb=free_mb,
        temp_c=number(row.get("temperature.gpu")),
        utilization_pct=number(row.get("utilization.gpu")),
        is_throttled_by_heat=heat_slowdown(row.get(THROTTLE_FIELD) or row.get(RENAMED_THROTTLE_FIELD)),
        is_selectable=not is_split,
        note=_cuda.MIG_NOTE if is_split else note,
        process_vram_mb=processes.get(uuid, {}) if uuid and processes is not None else None,
    )


def memory_of(
    row: Mapping[str, str], *, may_be_unified: bool
) -> tuple[float | None, float | None, str | None]:
    """Return total and free MiB, and a note where they are not what they seem."""
    cell = row.get("memory.total", "")
    total_mb, used_mb, free_mb = (number(row.get(f"memory.{key}")) for key in ("total", "used", "free"))
    if may_be_unified and (cell in NOT_SUPPORTED or total_mb == 0):
        return *_cuda.system_memory_mb(), _cuda.UNIFIED_NOTE
    if total_mb is None:
        return None, None, f"memory is not told: {cell.strip('[]')}"
    if free_mb is None and used_mb is not None:
        free_mb = total_mb - used_mb
    return total_mb, free_mb, None


def heat_slowdown(cell: str | None) -> bool | None:
    """Read the reasons for lowered clocks, a hexadecimal mask."""
    return bool(int(cell, 16) & _cuda.HEAT_SLOWDOWN) if cell and cell.startswith("0x") else None


def told(cell: str | None) -> str | None:
    """Return the text of a cell, None where it holds a reason in brackets instead."""
    return cell if cell and not _BRACKETS.fullmatch(cell) else None


def number(cell: str | None) -> float | None:
    """Return the number of a cell, with or without a unit behind it."""
    found = _NUMBER.match(cell or "")
    return float(found[0]) if found else None


def parse_processes(text: str) -> Processes:
    """Read the processes by GPU.

    :source: nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory (MiB)
    """
    rows = [cells for line in text.splitlines() if len(cells := line.split(", ")) == 3]
    return {
        uuid: _cuda.told_memory(
            (int(pid) if pid.isdecimal() else None, number(mb)) for owner, pid, mb in rows if owner == uuid
        )
        for uuid in {cells[0] for cells in rows}
    }


def parse_list(text: str) -> list[tuple[int, str | None]]:
    """Read which GPUs there are, with why nothing can be asked about one.

    An unreadable GPU is named by its index or, by newer versions, by its place on the bus; then the place in
    the list is its index.

    :source: nvidia-smi -L
    """
    found: list[tuple[int, str | None]] = []
    for line in text.splitlines():
        if readable := _LISTED.match(line):
            found.append((int(readable[1]), None))
        elif broken := _LISTED_UNREADABLE.match(line):
            found.append((int(broken[1]) if broken[1].isdecimal() else len(found), broken[2].strip()))
    return found


def parse_instances(text: str, index: int) -> list[tuple[str, str]]:
    """Read profile and UUID of a GPU's MIG instances.

    :source: nvidia-smi -L
    """
    found: list[tuple[str, str]] = []
    owner: int | None = None
    for line in text.splitlines():
        if gpu := _LISTED.match(line):
            owner = int(gpu[1])
        elif owner == index and (instance := _LISTED_INSTANCE.match(line)):
            found.append((instance[1], instance[2]))
    return found


def parse_instance_memory(text: str) -> list[tuple[float | None, float | None]]:
    """Read total and free MiB of a GPU's MIG instances.

    :source: nvidia-smi -q -x -i INDEX
    """
    memory = (_XML_MEMORY.search(instance) for instance in _XML_INSTANCE.findall(text))
    return [(number(found[1]), number(found[2])) if found else (None, None) for found in memory]
