"""What is measured of the machine, from real files laid out as the kernel lays them out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from backprop_core import clock
from backprop_core import host as host_module
from backprop_core.errors import SettingsError
from backprop_core.host import _host_from_psutil, cpu_model, disk_free_mb, read_host, read_pressure
from backprop_core.records import Host

GB = 1024**3
MEMINFO = "MemTotal:       16777216 kB\nMemFree:          100000 kB\nMemAvailable:   12582912 kB\n"
NO_LIMIT_V1 = "9223372036854771712"

Lay = Callable[[Mapping[str, str]], Host]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Lay out a /proc with 12 of 16 GB free and load 2.0, then the given files, and read the host."""

    def read(files: Mapping[str, str]) -> Host:
        plain = {"proc/meminfo": MEMINFO, "proc/loadavg": "2.00 1.00 0.50 1/9 42\n"}
        for name, text in (plain | dict(files)).items():
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return read_host(tmp_path / "proc", tmp_path / "cgroup")

    return read


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def in_group(path: str) -> dict[str, str]:
    return {"proc/self/cgroup": f"0::{path}\n"}


def group(path: str, *, limit: object, used_gb: float, cache_gb: float = 0) -> dict[str, str]:
    return {
        f"cgroup/{path}/memory.max": f"{limit}\n",
        f"cgroup/{path}/memory.current": f"{int(used_gb * GB)}\n",
        f"cgroup/{path}/memory.stat": f"anon 1\ninactive_file {int(cache_gb * GB)}\nactive_file 7\n",
    }


def group_v1(path: str, *, limit: object, used_gb: float, cache_gb: float = 0) -> dict[str, str]:
    return {
        f"cgroup/{path}/memory.limit_in_bytes": f"{limit}\n",
        f"cgroup/{path}/memory.usage_in_bytes": f"{int(used_gb * GB)}\n",
        f"cgroup/{path}/memory.stat": f"inactive_file 5\ntotal_inactive_file {int(cache_gb * GB)}\n",
    }


def test_this_machine_can_be_read() -> None:
    host = read_host()
    assert host.ram_free_gb is not None
    assert host.ram_total_gb is not None
    assert 0 < host.ram_free_gb <= host.ram_total_gb
    assert host.cpu_count is not None
    assert 0 < host.cpu_count <= len(os.sched_getaffinity(0))
    assert host.cpu_load_per_core is not None


def test_psutil_serves_where_there_is_no_proc() -> None:
    host = _host_from_psutil()
    assert None not in (host.ram_free_gb, host.ram_total_gb, host.cpu_load_per_core, host.cpu_count)


def test_without_cgroups_ram_is_the_machines(lay: Lay) -> None:
    host = lay({})
    assert (host.ram_free_gb, host.ram_total_gb) == (12, 16)


def test_cgroup_headroom_counts_droppable_page_cache_as_free(lay: Lay) -> None:
    host = lay(in_group("/job") | group("job", limit=8 * GB, used_gb=6, cache_gb=1.5))
    assert (host.ram_free_gb, host.ram_total_gb) == (3.5, 8)


def test_machine_wins_where_it_has_less_than_the_cgroup(lay: Lay) -> None:
    host = lay(in_group("/job") | group("job", limit=15 * GB, used_gb=1))
    assert (host.ram_free_gb, host.ram_total_gb) == (12, 15)


def test_tightest_cgroup_on_the_way_up_counts(lay: Lay) -> None:
    host = lay(
        in_group("/lab/user/job")
        | group("lab/user/job", limit=10 * GB, used_gb=1)
        | group("lab/user", limit="max", used_gb=1)
        | group("lab", limit=6 * GB, used_gb=4)
    )
    assert (host.ram_free_gb, host.ram_total_gb) == (2, 6)


def test_what_is_used_counts_at_once_and_a_limit_that_was_changed_within_ten_seconds(
    lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = clock.now_s()
    assert lay(in_group("/job") | group("job", limit=8 * GB, used_gb=1)).ram_free_gb == 7
    monkeypatch.setattr(host_module, "now_s", lambda: before)
    assert lay(in_group("/job") | group("job", limit=8 * GB, used_gb=2)).ram_free_gb == 6
    monkeypatch.setattr(host_module, "now_s", lambda: before + 10)
    host = lay(in_group("/job") | group("job", limit=4 * GB, used_gb=3))
    assert (host.ram_free_gb, host.ram_total_gb) == (1, 4)


def test_memory_high_is_a_limit_too(lay: Lay) -> None:
    host = lay(
        in_group("/job") | group("job", limit=8 * GB, used_gb=1) | {"cgroup/job/memory.high": str(4 * GB)}
    )
    assert (host.ram_free_gb, host.ram_total_gb) == (3, 4)


def test_full_cgroup_has_zero_free_and_not_less(lay: Lay) -> None:
    assert lay(in_group("/job") | group("job", limit=2 * GB, used_gb=3)).ram_free_gb == 0


def test_version_1_counts_the_page_cache_of_groups_below(lay: Lay) -> None:
    host = lay(
        {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/lab/job\n0::/\n"}
        | group_v1("memory/lab/job", limit=4 * GB, used_gb=3, cache_gb=1)
        | group_v1("memory/lab", limit=NO_LIMIT_V1, used_gb=9)
    )
    assert (host.ram_free_gb, host.ram_total_gb) == (2, 4)


def test_container_reads_its_own_limit_though_proc_names_the_machines_path(lay: Lay) -> None:
    host = lay({"proc/self/cgroup": "4:memory:/docker/abc\n"} | group_v1("memory", limit=4 * GB, used_gb=1))
    assert (host.ram_free_gb, host.ram_total_gb) == (3, 4)


def test_path_outside_of_the_namespace_stands_for_its_root(lay: Lay) -> None:
    host = lay(
        in_group("/../../other") | group("", limit=4 * GB, used_gb=1) | group("../other", limit=1, used_gb=1)
    )
    assert host.ram_free_gb == 3


def test_hybrid_machine_finds_version_2_below_unified(lay: Lay) -> None:
    host = lay(in_group("/job") | group("unified/job", limit=4 * GB, used_gb=1))
    assert host.ram_free_gb == 3


@pytest.mark.parametrize("lost", ["memory.current", "memory.stat"])
def test_limit_whose_use_is_unknown_makes_free_ram_unknown(lay: Lay, lost: str) -> None:
    files = in_group("/job") | group("job", limit=8 * GB, used_gb=1)
    del files[f"cgroup/job/{lost}"]
    host = lay(files)
    assert (host.ram_free_gb, host.ram_total_gb) == (None, 8)


@pytest.mark.parametrize("nonsense", ["lots", "", "nan", "-5"])
def test_limit_that_is_no_number_makes_ram_unknown(lay: Lay, nonsense: str) -> None:
    host = lay(in_group("/job") | group("job", limit=nonsense, used_gb=1))
    assert (host.ram_free_gb, host.ram_total_gb) == (None, None)


def test_limit_that_cannot_be_opened_makes_ram_unknown(lay: Lay, tmp_path: Path) -> None:
    (tmp_path / "cgroup/job/memory.max").mkdir(parents=True)
    host = lay(in_group("/job"))
    assert (host.ram_free_gb, host.ram_total_gb) == (None, None)


@pytest.mark.parametrize("meminfo", ["", "MemTotal: 4194304 kB\n", "\x00\xff"])
def test_kernel_without_mem_available_makes_free_ram_unknown(lay: Lay, meminfo: str) -> None:
    assert lay({"proc/meminfo": meminfo}).ram_free_gb is None


def test_nothing_readable_is_all_unknown_but_the_cores(tmp_path: Path) -> None:
    host = read_host(tmp_path / "no-proc", tmp_path / "no-cgroup")
    assert host == Host(cpu_count=len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("one_core")
def test_cores_are_those_of_the_cpu_affinity(lay: Lay) -> None:
    host = lay({})
    assert (host.cpu_count, host.cpu_load_per_core) == (1, 2)


def test_quota_of_half_a_core_doubles_the_load_per_core(lay: Lay) -> None:
    host = lay(in_group("/job") | {"cgroup/job/cpu.max": "50000 100000\n"})
    assert (host.cpu_count, host.cpu_load_per_core) == (0.5, 4)


def test_quota_higher_up_counts_where_it_is_tighter(lay: Lay) -> None:
    quotas = {"cgroup/lab/job/cpu.max": "max 100000\n", "cgroup/lab/cpu.max": "20000 100000\n"}
    assert lay(in_group("/lab/job") | quotas).cpu_count == 0.2


def test_version_1_quota_counts(lay: Lay) -> None:
    quota = {"cgroup/cpu/job/cpu.cfs_quota_us": "25000\n", "cgroup/cpu/job/cpu.cfs_period_us": "100000\n"}
    none = {"cgroup/cpu/cpu.cfs_quota_us": "-1\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert lay({"proc/self/cgroup": "2:cpu,cpuacct:/job\n"} | quota | none).cpu_count == 0.25


@pytest.mark.parametrize("quota", ["often", "1000 0", "1000", "0 100000"])
def test_quota_that_makes_no_sense_makes_load_unknown(lay: Lay, quota: str) -> None:
    host = lay(in_group("/job") | {"cgroup/job/cpu.max": quota})
    assert (host.cpu_count, host.cpu_load_per_core) == (None, None)


@pytest.mark.parametrize("loadavg", ["", "high 1 1"])
def test_load_that_is_no_number_is_unknown_and_not_zero(lay: Lay, loadavg: str) -> None:
    assert lay({"proc/loadavg": loadavg}).cpu_load_per_core is None


def test_simulation_replaces_what_it_names_and_is_read_anew_each_time(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = tmp_path / "host.json"
    monkeypatch.setenv("BACKPROP_TEST_HOST", str(simulation))
    simulation.write_text('{"ram_free_gb": 0.25, "cpu_load_per_core": null}')
    host = lay({})
    assert (host.ram_free_gb, host.ram_total_gb, host.cpu_load_per_core) == (0.25, 16, None)
    simulation.write_text('{"ram_free_gb": 9}')
    assert lay({}).ram_free_gb == 9


@pytest.mark.parametrize("text", ['{"ram_fre_gb": 1}', '{"ram_free_gb": "1"}', "[]", "{", None])
def test_simulation_that_cannot_be_used_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    simulation = tmp_path / "host.json"
    monkeypatch.setenv("BACKPROP_TEST_HOST", str(simulation))
    if text is not None:
        simulation.write_text(text)
    with pytest.raises(SettingsError, match="BACKPROP_TEST_HOST"):
        read_host()


def test_pressure_is_the_share_of_the_last_ten_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "pressure"
    folder.mkdir()
    for name, share in (("cpu", "1.50"), ("memory", "0.00")):
        times = "avg60=9.00 avg300=9.00 total=7"
        (folder / name).write_text(f"some avg10={share} {times}\nfull avg10=8.00 {times}\n")
    assert read_pressure(tmp_path) == {"cpu": 1.5, "memory": 0.0}


def test_pressure_is_unknown_where_the_kernel_keeps_none(tmp_path: Path) -> None:
    assert read_pressure(tmp_path) is None
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text("some\n")
    assert read_pressure(tmp_path) is None


def test_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk_free_mb(tmp_path / "not" / "yet" / "there")
    assert free == pytest.approx(disk.f_bavail * disk.f_frsize / 1024**2, rel=0.05)
    (tmp_path / "file").write_text("")
    assert disk_free_mb(tmp_path / "file" / "below") == pytest.approx(free, rel=0.05)


def test_disk_without_an_account_of_blocks_is_unknown() -> None:
    if os.statvfs("/proc").f_blocks:
        pytest.skip("this /proc counts blocks")
    assert disk_free_mb(Path("/proc/self/nothing")) is None


def fake_cpuinfo(tmp_path: Path) -> Path:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n\nprocessor\t: 1\n")
    return tmp_path


def cached(cache_file: Path) -> object:
    return json.loads(cache_file.read_text())["cpu_model"]


def test_processor_name_is_found_in_the_background_and_kept(tmp_path: Path) -> None:
    proc, cache_file = fake_cpuinfo(tmp_path), tmp_path / "cache" / "cpu.json"
    assert cpu_model(cache_file, proc) == "Abacus 3000"
    assert cached(cache_file) is None  # py-cpuinfo needs a second: nobody waited for it

    end = time.monotonic() + 60
    while cached(cache_file) is None and time.monotonic() < end:
        time.sleep(0.05)
    found = cached(cache_file)
    assert isinstance(found, str)
    assert found != "Abacus 3000"
    assert cpu_model(cache_file, proc) == found
    assert cache_file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in cache_file.parent.iterdir()] == ["cpu.json"]


def test_processor_name_is_not_looked_for_again_on_the_same_day(tmp_path: Path) -> None:
    proc, cache_file = fake_cpuinfo(tmp_path), tmp_path / "cpu.json"
    cache_file.write_text('{"cpu_model": null}')
    before = cache_file.stat().st_ino
    assert cpu_model(cache_file, proc) == "Abacus 3000"
    assert cache_file.stat().st_ino == before  # a search begins by replacing the file


def test_processor_name_in_the_cache_wins(tmp_path: Path) -> None:
    cache_file = tmp_path / "cpu.json"
    cache_file.write_text('{"cpu_model": "Pascaline"}')
    assert cpu_model(cache_file, fake_cpuinfo(tmp_path)) == "Pascaline"


def test_processor_name_needs_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cpu_model(tmp_path / "file" / "cpu.json", fake_cpuinfo(tmp_path)) == "Abacus 3000"
    assert cpu_model(tmp_path / "file" / "cpu.json", tmp_path / "no-proc") is None
