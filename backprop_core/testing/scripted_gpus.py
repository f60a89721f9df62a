"""A stand-in for the `nvidia-smi` command, with GPUs that a test changes while it is being asked.

It answers `--query-gpu` with the fields in `FakeGpu.cells`, `--query-compute-apps`, `-L` and `-i INDEX`, and
fails as NVIDIA's own does. It is a shell script that starts nothing else, so an answer takes about 2 ms.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Cell = int | float | str | None
LOST = "GPU is lost.  Reboot the system to recover this GPU"
SCRIPT = """\
#!/bin/sh
reject() { printf 'Field "%s" is not a valid field to query.\\n\\n' "$1"; exit 2; }
. STATE
[ -z "$log" ] || echo "$*" >> "$log"
fields= only= kind=
while [ $# -gt 0 ]; do
  case "$1" in
    --query-gpu=*) kind=gpus fields=${1#*=} ;;
    --query-compute-apps=*) kind=processes ;;
    -L) kind=list ;;
    -i) shift; only=$1 ;;
  esac
  shift
done
if [ -n "$hang_s" ]; then exec sleep "$hang_s"; fi
if [ -n "$code" ]; then printf '%s\\n' "$text"; exit "$code"; fi
if [ "$kind" = list ]; then
  for index in $all; do list_one "$index"; done
  [ -z "$lost" ] || exit 15
  exit 0
fi
for index in ${only:-$all}; do
  case " $lost " in *" $index "*)
    printf 'Unable to determine the device handle for GPU%s: %s\\n' "$index" "LOST_TEXT"
    exit 15 ;;
  esac
done
found=
for index in ${only:-$all}; do
  case " $all " in *" $index "*) found=yes ;; *) continue ;; esac
  if [ "$kind" = processes ]; then processes "$index"; fi
  if [ "$kind" = gpus ]; then
    row=
    IFS=,
    for field in $fields; do
      cell "$index" "$field" || reject "$field"
      row="$row, $answer"
    done
    unset IFS
    printf '%s\\n' "${row#, }"
  fi
done
[ -n "$found" ] || { echo 'No devices were found'; exit 6; }
""".replace("LOST_TEXT", LOST)


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """What the fake answers about one GPU, idle unless told otherwise.

    Memory in MiB, degrees Celsius, percent, a mask. None is printed as "[N/A]", text as it stands.
    """

    index: int
    uuid: Cell = ""
    name: Cell = "NVIDIA Fake 24"
    total: Cell = 24576
    free: Cell = 24576
    used: Cell = None
    temp: Cell = 40
    util: Cell = 0
    throttle: Cell = 0x1
    mig: Cell = "Disabled"
    processes: Mapping[int, float | None] = field(default_factory=dict)
    is_lost: bool = False

    @property
    def full_uuid(self) -> Cell:
        return f"GPU-{self.index + 1:08}-1111-2222-3333-444444444444" if self.uuid == "" else self.uuid

    @property
    def cells(self) -> dict[str, str]:
        """What each field of --query-gpu is answered with."""
        throttle = f"0x{self.throttle:016x}" if isinstance(self.throttle, int) else printed(self.throttle)
        return {
            "index": str(self.index),
            "uuid": printed(self.full_uuid),
            "name": printed(self.name),
            "memory.total": printed(self.total),
            "memory.used": printed(self.used),
            "memory.free": printed(self.free),
            "temperature.gpu": printed(self.temp),
            "utilization.gpu": printed(self.util),
            "clocks_throttle_reasons.active": throttle,
            "clocks_event_reasons.active": throttle,
            "mig.mode.current": printed(self.mig),
        }


class FakeNvidiaSmi:
    """An executable `nvidia-smi` in a folder of its own; put `path_entry` on PATH."""

    def __init__(self, folder: Path, *, keeps_log: bool = False) -> None:
        self._folder = folder
        self._log = folder / "asked.log" if keeps_log else None
        self._state = folder / "state.sh"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.executable = folder / "nvidia-smi"
        self.executable.write_text(SCRIPT.replace("STATE", shlex.quote(str(self._state))))
        self.executable.chmod(0o755)
        self.set(gpus=[{"index": 0}])

    @property
    def path_entry(self) -> str:
        return str(self._folder)

    def set(self, gpus: Iterable[FakeGpu | Mapping[str, Any]], unknown_fields: Collection[str] = ()) -> None:
        """Have these GPUs from now on, each a FakeGpu or a mapping with its keys.

        `unknown_fields` are rejected, as an older nvidia-smi does; "used_memory" is the one of processes.
        """
        fakes = [gpu if isinstance(gpu, FakeGpu) else FakeGpu(**gpu) for gpu in gpus]
        self._write(
            "code= hang_s=",
            f"all={shlex.quote(' '.join(str(gpu.index) for gpu in fakes))}",
            f"lost={shlex.quote(' '.join(str(gpu.index) for gpu in fakes if gpu.is_lost))}",
            in_case("cell", '"$1:$2"', cell_answers(fakes, unknown_fields), otherwise="return 1"),
            "processes() { reject used_memory; }"
            if "used_memory" in unknown_fields
            else in_case("processes", '"$1"', process_answers(fakes)),
            in_case("list_one", '"$1"', list_answers(fakes)),
        )

    def fail(self, code: int, text: str) -> None:
        """Print this text and exit with this code from now on, whatever is asked."""
        self._write(f"code={code} hang_s=", f"text={shlex.quote(text)}")

    def hang(self, seconds: float) -> None:
        """Take this long from now on, and then say nothing."""
        self._write(f"hang_s={seconds}")

    def asked(self) -> list[str]:
        """The arguments of every question since the last call, if they are kept."""
        if self._log is None or not self._log.exists():
            return []
        lines = self._log.read_text().splitlines()
        self._log.unlink()
        return lines

    def _write(self, *lines: str) -> None:
        fresh = self._state.with_suffix(".new")
        log = "" if self._log is None else shlex.quote(str(self._log))
        fresh.write_text("".join(f"{line}\n" for line in (f"log={log}", *lines)))
        fresh.replace(self._state)


def printed(value: Cell) -> str:
    return "[N/A]" if value is None else str(value)


def in_case(function: str, word: str, answers: Mapping[str, str], otherwise: str = ":") -> str:
    """Write a shell function that looks an answer up."""
    branches = "".join(f"  {pattern}) {command} ;;\n" for pattern, command in answers.items())
    return f"{function}() {{ case {word} in\n{branches}  *) {otherwise} ;;\nesac; }}"


def cell_answers(gpus: Iterable[FakeGpu], unknown_fields: Collection[str]) -> dict[str, str]:
    return {
        f"{gpu.index}:{name}": f"answer={shlex.quote(cell)}"
        for gpu in gpus
        for name, cell in gpu.cells.items()
        if name not in unknown_fields
    }


def process_answers(gpus: Iterable[FakeGpu]) -> dict[str, str]:
    rows = {
        gpu.index: [f"{printed(gpu.full_uuid)}, {pid}, {printed(mb)}" for pid, mb in gpu.processes.items()]
        for gpu in gpus
    }
    return {str(index): print_lines(lines) for index, lines in rows.items() if lines}


def list_answers(gpus: Iterable[FakeGpu]) -> dict[str, str]:
    return {
        str(gpu.index): print_lines(
            [
                f"Unable to determine the device handle for gpu {gpu.index}: {LOST}"
                if gpu.is_lost
                else f"GPU {gpu.index}: {gpu.name} (UUID: {gpu.full_uuid})"
            ]
        )
        for gpu in gpus
    }


def print_lines(lines: Iterable[str]) -> str:
    return f"printf '%s\\n' {' '.join(shlex.quote(line) for line in lines)}"
