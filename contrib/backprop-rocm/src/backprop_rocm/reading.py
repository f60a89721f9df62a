"""What AMD's two programs print, as readings.

`amd-smi` prints a list, newer versions an object that holds it as `gpu_data`; an amount is a number, an object
`{"value": 35, "unit": "C"}`, or "N/A". `rocm-smi` prints an object `{"card0": {...}}` with texts for numbers, whose
keys changed in case over time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from backprop_core import Gpu, ProbeError

from .asking import ask

MB_IN = {"B": 1 / 1024**2, "KB": 1 / 1024, "MB": 1.0, "GB": 1024.0, "TB": 1024.0**2}
Section = Mapping[str, Any]


def read_amd_smi(program: str) -> list[Gpu]:
    """Ask `amd-smi` for the readings, and for the names as far as it tells them."""
    metrics = entries(ask(program, "metric", "--mem-usage", "--temperature", "--usage", "--json"))
    if not metrics:
        raise ProbeError("amd-smi: it lists no GPU")
    names: dict[int, Section] = {}
    with suppress(ProbeError):
        names = {
            index: section(told, "asic")
            for index, told in entries(ask(program, "static", "--asic", "--json"))
        }
    return [from_amd_smi(index, told, names.get(index, {})) for index, told in metrics]


def entries(answer: Any) -> list[tuple[int, Section]]:
    """Return each GPU's index and what is told of it, in either form."""
    if isinstance(answer, dict):
        answer = answer.get("gpu_data", [])
    found: list[tuple[int, Section]] = []
    for place, told in enumerate(answer if isinstance(answer, list) else []):
        if isinstance(told, dict):
            index = told.get("gpu", place)
            found.append((index if isinstance(index, int) else place, told))
    return found


def from_amd_smi(index: int, told: Section, asic: Section) -> Gpu:
    """Turn what `amd-smi metric` and `amd-smi static` tell of one GPU into a reading."""
    memory, heat = section(told, "mem_usage"), section(told, "temperature")
    total, used = memory_mb(memory.get("total_vram")), memory_mb(memory.get("used_vram"))
    free = memory_mb(memory.get("free_vram"))
    return Gpu(
        index=index,
        uuid=unique_id(asic.get("asic_serial")),
        name=text(asic.get("market_name")),
        vram_total_mb=total or None,
        vram_free_mb=free if free is not None else left(total, used),
        temp_c=first(amount(heat.get(place)) for place in ("hotspot", "junction", "edge")),
        utilization_pct=share(amount(section(told, "usage").get("gfx_activity"))),
    )


def read_rocm_smi(program: str) -> list[Gpu]:
    """Ask `rocm-smi` for the readings."""
    wanted = ("--showmeminfo", "vram", "--showtemp", "--showuse", "--showproductname", "--showuniqueid")
    answer = ask(program, *wanted, "--json")
    cards = {
        int(found[1]): told
        for name, told in (answer.items() if isinstance(answer, dict) else ())
        if (found := re.fullmatch(r"card(\d{1,4})", name)) and isinstance(told, dict)
    }
    if not cards:
        raise ProbeError("rocm-smi: it lists no GPU")
    return [from_rocm_smi(index, told) for index, told in sorted(cards.items())]


def from_rocm_smi(index: int, told: Section) -> Gpu:
    """Turn what `rocm-smi` tells of one card into a reading."""
    by_name = {name.lower(): value for name, value in told.items()}
    total = scaled(amount(by_name.get("vram total memory (b)")), MB_IN["B"])
    used = scaled(amount(by_name.get("vram total used memory (b)")), MB_IN["B"])
    heat = (amount(by_name.get(f"temperature (sensor {place}) (c)")) for place in ("junction", "edge"))
    return Gpu(
        index=index,
        uuid=unique_id(by_name.get("unique id")),
        name=text(by_name.get("card series")) or text(by_name.get("card model")),
        vram_total_mb=total or None,
        vram_free_mb=left(total, used),
        temp_c=first(heat),
        utilization_pct=share(amount(by_name.get("gpu use (%)"))),
    )


TOOLS: Mapping[str, Callable[[str], Sequence[Gpu]]] = {"amd-smi": read_amd_smi, "rocm-smi": read_rocm_smi}
"""How each program is read, the preferred one first."""


def section(told: Section, name: str) -> Section:
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def amount(value: Any) -> float | None:
    """A number, a text that is one, or an object with a value; anything else, such as "N/A", is unknown."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with suppress(ValueError, OverflowError):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def memory_mb(value: Any) -> float | None:
    """An amount of memory in MiB, which is what "MB" means to amd-smi, and what a bare number is."""
    unit = value.get("unit", "MB") if isinstance(value, dict) else "MB"
    number, factor = amount(value), MB_IN.get(str(unit).upper())
    return None if number is None or factor is None or number < 0 else number * factor


def scaled(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor


def left(total: float | None, used: float | None) -> float | None:
    return None if not total or used is None else max(0.0, total - used)


def first(numbers: Any) -> float | None:
    return next((number for number in numbers if number is not None), None)


def share(percent: float | None) -> float | None:
    return percent if percent is not None and 0 <= percent <= 100 else None


def text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() not in ("", "N/A") else None


def unique_id(value: Any) -> str | None:
    """Spell a GPU's serial as ROCR_VISIBLE_DEVICES does: "GPU-" and 16 hexadecimal digits."""
    found = re.fullmatch(r"0x([0-9a-fA-F]{1,16})", str(value))
    return f"GPU-{found[1].lower():0>16}" if found and int(found[1], 16) else None
