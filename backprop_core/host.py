"""The machine without its GPUs: RAM, load, disk and the processor's name.

On Linux everything is read from /proc and the cgroup file systems, of version 1 and 2: psutil knows no
cgroups, so that in a container it tells the whole machine's memory, and importing it costs about 17 ms.
Elsewhere psutil is what measures. What cannot be read is None and makes what depends on it None.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec

from .clock import now_ms, now_s
from .errors import SettingsError
from .locks import open_private
from .records import Host
from .units import MB_PER_GB

PROC = Path("/proc")
CGROUP_ROOT = Path("/sys/fs/cgroup")
SIMULATION_VARIABLE = "BACKPROP_TEST_HOST"
PRESSURES = ("cpu", "memory", "io")

_BYTES_PER_MB = 1024**2
_BYTES_PER_GB = _BYTES_PER_MB * MB_PER_GB
_CHUNK_BYTES = 1 << 16
_LIMITS_EVERY_S = 10.0
_UNLIMITED_B = 2.0**62  # cgroup v1 writes "no limit" as the largest multiple of the page size
_RETRY_MS = 24 * 3600 * 1000
_FILL_LIMIT_S = 60


def read_host(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> Host:
    """Measure RAM and load as far as this process may use them.

    Free RAM is the smaller of MemAvailable and the tightest headroom among this process's cgroups, from
    its own up to the root; a cgroup's page cache that the kernel would drop first (`inactive_file`)
    counts as free. Cores are the smaller of the CPU affinity and the tightest cgroup quota. Limits and quotas
    that are changed while this process runs count within ten seconds.

    The simulation door for tests: where the environment variable `BACKPROP_TEST_HOST` names a JSON file
    with keys of Host, its values replace the measured ones (null: unknown). The file is read at every
    call, so that a test can let RAM run short while a process runs; replace it by a rename, whole.

    :raises SettingsError: when that file cannot be read or holds something else.
    """
    measured = _host_from_proc(proc, cgroup_root) if sys.platform == "linux" else _host_from_psutil()
    simulation = os.environ.get(SIMULATION_VARIABLE)
    return _simulated(measured, Path(simulation)) if simulation else measured


def read_pressure(proc: Path = PROC) -> Mapping[str, float] | None:
    """Share of the last 10 s in which something waited for "cpu", "memory" or "io", in percent.

    :returns: What the kernel tells; None where it keeps no such account.
    :source: /proc/pressure/*, the line "some", avg10.
    """
    found = {}
    for resource in PRESSURES:
        words = _text(f"{proc}/pressure/{resource}", "").replace("=", " ").split()
        share = _number(words[2]) if words[:2] == ["some", "avg10"] and len(words) > 2 else None
        if share is not None:
            found[resource] = share
    return MappingProxyType(found) if found else None


def disk_free_mb(path: Path) -> float | None:
    """MiB that this user may still write at `path`, or at the nearest folder above it that exists."""
    for place in (path, *path.absolute().parents):
        try:
            disk = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        # File systems that keep no account of their blocks say 0 of 0.
        return disk.f_bavail * disk.f_frsize / _BYTES_PER_MB if disk.f_blocks else None
    return None


def cpu_model(cache_file: Path, proc: Path = PROC) -> str | None:
    """The processor's name, at once.

    py-cpuinfo takes a second to find it, so that a process of its own does it in the background and
    leaves the answer in `cache_file`; until then, and where it finds none (it is asked again a day
    later), this is the "model name" of /proc/cpuinfo.
    """
    name, is_due = _cached_model(cache_file)
    if name is None and is_due:
        _start_filling(cache_file)
    return name or _model_in_proc(proc)


# ---------------------------------------------------------------------------------------------
# RAM and load
# ---------------------------------------------------------------------------------------------


class _Limits(msgspec.Struct, frozen=True):
    """What cgroups allow this process: bytes of memory for each that may limit it, and cores; None is unknown."""

    memory_b: tuple[tuple[Path, float | None], ...]
    cores: float | None


def _host_from_proc(proc: Path, cgroup_root: Path) -> Host:
    names = ("MemAvailable", "MemTotal")
    known = _amounts(f"{proc}/meminfo", *names)
    free_b, total_b = (_times(known.get(name), 1024) for name in names)
    limits = _limits(proc, cgroup_root, int(now_s() // _LIMITS_EVERY_S))
    for group, limit_b in limits.memory_b:
        total_b = _least(total_b, limit_b)
        free_b = _least(free_b, _headroom_b(group, limit_b))
    load = _number(_text(f"{proc}/loadavg", "").partition(" ")[0])
    return _host(free_b, total_b, load, _least(len(os.sched_getaffinity(0)), limits.cores))


@lru_cache(maxsize=8)
def _limits(proc: Path, cgroup_root: Path, period: int) -> _Limits:  # noqa: ARG001 - the cache's
    """Read what may be used: once in a period, because that seldom changes, unlike what is used."""
    own = _text(f"{proc}/self/cgroup", "")
    memory_b = tuple((group, _memory_limit_b(group)) for group in _groups(own, cgroup_root, "memory"))
    cores: float | None = math.inf
    for group in _groups(own, cgroup_root, "cpu"):
        cores = _least(cores, _quota_cores(group))
    return _Limits(memory_b, cores)


def _host_from_psutil() -> Host:
    import psutil

    memory = psutil.virtual_memory()
    return _host(memory.available, memory.total, os.getloadavg()[0], os.cpu_count())


def _host(free_b: float | None, total_b: float | None, load: float | None, cores: float | None) -> Host:
    return Host(
        ram_free_gb=_times(free_b, 1 / _BYTES_PER_GB),
        ram_total_gb=_times(total_b, 1 / _BYTES_PER_GB),
        cpu_load_per_core=load / cores if load is not None and cores else None,
        cpu_count=cores,
    )


def _simulated(measured: Host, file: Path) -> Host:
    try:
        values = msgspec.json.decode(file.read_bytes(), type=dict[str, float | None])
        return msgspec.structs.replace(measured, **values)
    except (OSError, msgspec.MsgspecError, TypeError) as error:
        raise SettingsError(
            f"{SIMULATION_VARIABLE} names {file}, which cannot be used: {error}",
            f"a JSON object with keys of {', '.join(Host.__struct_fields__)}",
        ) from error


def _groups(own: str, cgroup_root: Path, controller: str) -> tuple[Path, ...]:
    """Every cgroup of this process that may limit `controller`, as a folder; its own comes first.

    In a container the path in /proc may be the machine's, of which the mounted tree shows the lower end
    alone; the folders that are not there are passed over, and the walk up ends at the container's own.

    :param own: What /proc/self/cgroup says.
    :source: cgroups(7): lines "number:controllers:path", without controllers for version 2.
    """
    found: dict[Path, None] = {}
    for line in own.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            mounts = (cgroup_root, cgroup_root / "unified")
        elif controller in controllers.split(","):
            mounts = (cgroup_root / controllers, cgroup_root / controller)
        else:
            continue
        # A path through ".." lies outside of what this cgroup namespace shows.
        inside = Path("." if ".." in path.split("/") else path.strip("/"))
        found.update(dict.fromkeys(mount / level for mount in mounts for level in (inside, *inside.parents)))
    return tuple(group for group in found if group.is_dir())


def _memory_limit_b(group: Path) -> float | None:
    """The limit in bytes; infinite where there is none. Beyond `memory.high` a group crawls, so it counts."""
    limit_b: float | None = math.inf
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        limit_b = _least(limit_b, _number(_text(f"{group}/{name}", "max")))
    return math.inf if limit_b is not None and limit_b >= _UNLIMITED_B else limit_b


def _headroom_b(group: Path, limit_b: float | None) -> float | None:
    """What the group may still take, in bytes, without its droppable page cache."""
    if limit_b is None or limit_b == math.inf:
        return limit_b
    used_b = _number(_text(f"{group}/memory.current", "") or _text(f"{group}/memory.usage_in_bytes", ""))
    # In version 1 `inactive_file` leaves out the groups below, whose use is in the usage.
    cache = _amounts(f"{group}/memory.stat", "total_inactive_file", "inactive_file")
    cache_b = cache.get("total_inactive_file", cache.get("inactive_file"))
    if used_b is None or cache_b is None:
        return None
    return max(0.0, limit_b - max(0.0, used_b - cache_b))


def _quota_cores(group: Path) -> float | None:
    """How many cores' time the group may use; infinite where there is no quota."""
    quota, _, period = _text(f"{group}/cpu.max", "").partition(" ")
    if not quota:
        quota = _text(f"{group}/cpu.cfs_quota_us", "max")
        period = _text(f"{group}/cpu.cfs_period_us", "")
    if quota in {"max", "-1"}:
        return math.inf
    quota_us, period_us = _number(quota), _number(period)
    return quota_us / period_us if quota_us and period_us else None


def _text(file: str, absent: str) -> str:
    """The file's text; `absent` where there is none, and "unreadable", which is no number, where it hides."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except OSError:
        return "unreadable"
    try:
        content = b""
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            content += chunk
    except OSError:
        return "unreadable"
    finally:
        os.close(descriptor)
    return content.decode(errors="replace").strip()


def _amounts(file: str, *names: str) -> dict[str, float]:
    """The numbers behind these names, in lines such as "MemTotal:  123 kB" or "inactive_file 123"."""
    text = f"\n{_text(file, '')}\n"
    found = {}
    for name in names:
        words = text.partition(f"\n{name}")[2].partition("\n")[0]
        number = _number(words[1:].split()[0]) if words[:1] in (":", " ") and words[1:].strip() else None
        if number is not None:
            found[name] = number
    return found


def _number(text: str) -> float | None:
    """A number of bytes, microseconds or percent; "max" is infinite, anything else unknown."""
    if text == "max":
        return math.inf
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _least(one: float | None, other: float | None) -> float | None:
    """The smaller of two, unknown when either is: what cannot be seen may be the smaller."""
    return None if one is None or other is None else min(one, other)


def _times(amount: float | None, factor: float) -> float | None:
    return None if amount is None else amount * factor


# ---------------------------------------------------------------------------------------------
# The processor's name
# ---------------------------------------------------------------------------------------------


def _cached_model(cache_file: Path) -> tuple[str | None, bool]:
    """Return the name in the cache, and whether it is time to look for it (again)."""
    try:
        name = msgspec.json.decode(cache_file.read_bytes(), type=dict[str, str | None])["cpu_model"]
        age_ms = now_ms() - cache_file.stat().st_mtime * 1000
    except (OSError, msgspec.MsgspecError, KeyError):
        return None, True
    return name, not -_FILL_LIMIT_S * 1000 < age_ms < _RETRY_MS


def _start_filling(cache_file: Path) -> None:
    """Start the process that fills the cache and forget it; where nothing can be written, do nothing."""
    # posix_spawn, because a Popen complains when it is dropped unwaited; -P, because -m would
    # otherwise import whatever lies in the working directory.
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    command = [sys.executable, "-P", "-m", "backprop_core.host", str(cache_file.absolute())]
    try:
        # Written first, so that others who look meanwhile do not start one each.
        _save_model(cache_file, None)
        os.posix_spawn(sys.executable, command, os.environ, file_actions=nowhere, setsid=True)
    except (OSError, NotImplementedError):
        return


def _fill_cache(cache_file: Path) -> None:
    signal.alarm(_FILL_LIMIT_S)
    import cpuinfo

    _save_model(cache_file, cpuinfo.get_cpu_info().get("brand_raw"))


def _save_model(cache_file: Path, name: str | None) -> None:
    cache_file.parent.mkdir(mode=0o700, exist_ok=True)
    new = cache_file.with_name(f".{cache_file.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    fd = open_private(new, os.O_WRONLY | os.O_EXCL)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode({"cpu_model": name}))
    new.replace(cache_file)


def _model_in_proc(proc: Path) -> str | None:
    for line in _text(f"{proc}/cpuinfo", "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or None
    return None


if __name__ == "__main__":
    _fill_cache(Path(sys.argv[1]))
