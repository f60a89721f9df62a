"""The nvidia-smi probe over a stand-in for NVIDIA's program that changes, fails and hangs as that does."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backprop_builtin.gpu_probes.nvidia_smi import NvidiaSmi, backprop_gpu_probe
from backprop_core import Gpu, GpuProbe, ProbeError
from backprop_core.testing import FakeNvidiaSmi

UUID = "GPU-00000001-1111-2222-3333-444444444444"
LOST = "GPU is lost.  Reboot the system to recover this GPU"


def test_nvidia_smi_is_a_probe_that_is_asked_second() -> None:
    probe = backprop_gpu_probe()
    assert isinstance(probe, GpuProbe)
    assert (probe.name, probe.order) == ("nvidia-smi", 20)


# How it fails


def test_an_answer_that_cannot_be_read_is_a_failure(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.fail(0, "All is well.")
    with pytest.raises(ProbeError, match="unknown failure: All is well"):
        NvidiaSmi().read()


def test_what_the_loader_says_on_standard_error_is_told(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.executable.write_text("#!/bin/sh\necho 'cannot open shared object file' >&2; exit 127\n")
    with pytest.raises(ProbeError, match="unknown failure: cannot open shared object file"):
        NvidiaSmi().read()


def test_one_that_dies_by_a_signal_is_told_of(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.executable.write_text("#!/bin/sh\nkill -SEGV $$\n")
    with pytest.raises(ProbeError, match="unknown failure: no text, exit code -11"):
        NvidiaSmi().read()


def test_one_that_is_no_program_is_told_of(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.executable.write_bytes(b"\x00\x01")
    with pytest.raises(ProbeError, match="nvidia-smi cannot be started"):
        NvidiaSmi().read()


# A machine that changes


def test_every_reading_is_fresh_and_complete(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    probe = NvidiaSmi()
    fake_nvidia_smi.set(gpus=[{"index": 0, "free": 24000, "temp": 60, "util": 5, "processes": {77: 500.0}}])
    first = probe.read()
    fake_nvidia_smi.set(gpus=[{"index": 0, "free": 100, "temp": 90, "util": 99, "throttle": 0x20}])
    idle, busy = *first, *probe.read()
    assert idle == Gpu(
        index=0,
        uuid=UUID,
        name="NVIDIA Fake 24",
        vram_total_mb=24576,
        vram_free_mb=24000,
        temp_c=60,
        utilization_pct=5,
        is_throttled_by_heat=False,
        process_vram_mb={77: 500},
    )
    assert (busy.vram_free_mb, busy.temp_c, busy.utilization_pct) == (100, 90, 99)
    assert (busy.is_throttled_by_heat, busy.process_vram_mb) == (True, {})


def test_one_lost_gpu_hides_no_other(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    probe = NvidiaSmi()
    fake_nvidia_smi.set(
        gpus=[
            {"index": 0, "free": 1000, "processes": {5: 50}},
            {"index": 1, "is_lost": True},
            {"index": 4, "free": 2000},  # indexes have gaps where a user may not see every GPU
        ]
    )
    healthy, lost, other = probe.read()
    assert (healthy.index, healthy.vram_free_mb, healthy.process_vram_mb) == (0, 1000, {5: 50})
    assert lost == Gpu(index=1, is_selectable=False, note=f"unreadable: {LOST}")
    assert (other.index, other.vram_free_mb, other.process_vram_mb) == (4, 2000, {})
    fake_nvidia_smi.set(gpus=[{"index": 0}, {"index": 1}])
    assert all(gpu.is_selectable for gpu in probe.read())


def test_a_field_with_a_newer_name_is_asked_for_by_that(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.set(
        gpus=[{"index": 0, "throttle": 0x40}], unknown_fields={"clocks_throttle_reasons.active"}
    )
    assert NvidiaSmi().read()[0].is_throttled_by_heat is True


def test_fields_that_an_old_one_does_not_know_are_tried_once(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    optional = {"clocks_throttle_reasons.active", "clocks_event_reasons.active", "mig.mode.current"}
    fake_nvidia_smi.set(gpus=[{"index": 0, "throttle": 0x40, "temp": 50}], unknown_fields=optional)
    probe = NvidiaSmi()
    [found] = probe.read()
    assert (found.temp_c, found.is_throttled_by_heat, found.is_selectable) == (50, None, True)
    assert len(fake_nvidia_smi.asked()) > 2
    probe.read()
    assert [question.split("=")[0] for question in fake_nvidia_smi.asked()] == [
        "--query-gpu",
        "--query-compute-apps",
    ]


def test_processes_that_an_old_one_cannot_query_are_asked_for_once(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.set(gpus=[{"index": 0}], unknown_fields={"used_memory"})
    probe = NvidiaSmi()
    assert [gpu.process_vram_mb for gpu in (*probe.read(), *probe.read())] == [None, None]
    assert len(fake_nvidia_smi.asked()) == 3


def test_mig_mode_is_still_seen_where_another_field_is_unknown(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    unknown = {"clocks_throttle_reasons.active", "clocks_event_reasons.active"}
    fake_nvidia_smi.set(gpus=[{"index": 0, "mig": "Enabled"}], unknown_fields=unknown)
    assert [(gpu.is_selectable, gpu.note) for gpu in NvidiaSmi().read()] == [(False, "in MIG mode")]


# One that hangs


def children() -> list[str]:
    return [child.name() for child in psutil.Process().children(recursive=True)]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_one_that_hangs_is_killed_and_reaped(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    fake_nvidia_smi.hang(60)
    before = children()
    with pytest.raises(ProbeError, match=r"^nvidia-smi did not answer within 0\.3 s$"):
        NvidiaSmi(limit_s=9, first_limit_s=0.3).read()
    assert children() == before


def test_what_a_hanging_one_started_does_not_hold_the_reading_up(
    fake_nvidia_smi: FakeNvidiaSmi, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    fake_nvidia_smi.executable.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > '{pid_file}'\nwait\n")
    with pytest.raises(ProbeError, match=r"did not answer within 0\.5 s"):
        NvidiaSmi(limit_s=9, first_limit_s=0.5).read()
    left = int(pid_file.read_text())
    deadline_s = time.monotonic() + 5
    while runs(left):
        assert time.monotonic() < deadline_s, f"process {left} was left running"
        time.sleep(0.01)


def test_the_first_answer_may_take_longer_than_the_later_ones(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    probe = NvidiaSmi(limit_s=0.3, first_limit_s=30)
    fake_nvidia_smi.hang(0.6)
    assert probe.read() == ()
    fake_nvidia_smi.hang(60)
    with pytest.raises(ProbeError, match=r"within 0\.3 s"):
        probe.read()
    fake_nvidia_smi.set(gpus=[{"index": 0}])
    assert len(probe.read()) == 1


def test_one_that_no_signal_reaches_is_not_joined_by_others(fake_nvidia_smi: FakeNvidiaSmi) -> None:
    probe = NvidiaSmi()
    with subprocess.Popen(["sleep", "60"], text=True) as stuck:
        probe._unkillable = stuck
        with pytest.raises(ProbeError, match=f"pid {stuck.pid}.* cannot be killed"):
            probe.read()
        assert fake_nvidia_smi.asked() == []
        stuck.kill()
    assert len(probe.read()) == 1


# Where it is found


def test_it_is_available_where_it_is_on_path(
    fake_nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NvidiaSmi().is_available()
    assert fake_nvidia_smi.asked() == []
    monkeypatch.setenv("PATH", f"{fake_nvidia_smi.path_entry}-not")
    assert not NvidiaSmi().is_available()
    monkeypatch.delenv("PATH")
    assert not NvidiaSmi().is_available()


def link_into_an_open_folder(fake: FakeNvidiaSmi) -> str:
    folder = Path(fake.path_entry).parent / "open"
    folder.mkdir()
    folder.chmod(0o777)
    fake.executable.rename(folder / "nvidia-smi")
    fake.executable.symlink_to(folder / "nvidia-smi")
    return fake.path_entry


def link_in_an_open_folder(fake: FakeNvidiaSmi) -> str:
    folder = Path(fake.path_entry).parent / "open"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "nvidia-smi").symlink_to(fake.executable)
    return str(folder)


def in_an_open_folder(fake: FakeNvidiaSmi) -> str:
    Path(fake.path_entry).chmod(0o777)
    return fake.path_entry


def writable_by_the_group(fake: FakeNvidiaSmi) -> str:
    fake.executable.chmod(0o775)
    return fake.path_entry


def not_executable(fake: FakeNvidiaSmi) -> str:
    fake.executable.chmod(0o644)
    return fake.path_entry


def a_folder_of_that_name(fake: FakeNvidiaSmi) -> str:
    fake.executable.unlink()
    fake.executable.mkdir()
    fake.executable.chmod(0o755)
    return fake.path_entry


def a_dot(fake: FakeNvidiaSmi) -> str:
    os.chdir(fake.path_entry)
    return "."


def an_empty_entry(fake: FakeNvidiaSmi) -> str:
    os.chdir(fake.path_entry)
    return "/nowhere::/nowhere"


def a_relative_entry(fake: FakeNvidiaSmi) -> str:
    os.chdir(Path(fake.path_entry).parent)
    return Path(fake.path_entry).name


def somebody_elses(fake: FakeNvidiaSmi) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    os.chown(fake.executable, 12345, -1)
    return fake.path_entry


def in_somebody_elses_folder(fake: FakeNvidiaSmi) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    os.chown(fake.path_entry, 12345, -1)
    return fake.path_entry


@pytest.mark.parametrize(
    "place",
    [
        a_dot,
        a_folder_of_that_name,
        a_relative_entry,
        an_empty_entry,
        in_an_open_folder,
        in_somebody_elses_folder,
        link_in_an_open_folder,
        link_into_an_open_folder,
        not_executable,
        somebody_elses,
        writable_by_the_group,
    ],
)
def test_one_that_others_may_have_put_there_is_never_run(
    place: Callable[[FakeNvidiaSmi], str], fake_nvidia_smi: FakeNvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path.cwd())  # so that the folder is restored afterwards
    monkeypatch.setenv("PATH", place(fake_nvidia_smi))
    assert not NvidiaSmi().is_available()
    with pytest.raises(ProbeError, match="not found in a trusted folder of PATH"):
        NvidiaSmi().read()
    assert fake_nvidia_smi.asked() == []


def test_an_untrusted_entry_is_passed_over_for_a_trusted_one(
    fake_nvidia_smi: FakeNvidiaSmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeNvidiaSmi(tmp_path / "other", keeps_log=True)
    entry = in_an_open_folder(other)
    monkeypatch.setenv("PATH", f"{entry}:.::{fake_nvidia_smi.path_entry}")
    assert len(NvidiaSmi().read()) == 1
    assert other.asked() == []


def test_a_link_to_a_trusted_place_is_followed(
    fake_nvidia_smi: FakeNvidiaSmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir(mode=0o755)
    (links / "nvidia-smi").symlink_to(fake_nvidia_smi.executable)
    monkeypatch.setenv("PATH", str(links))
    assert len(NvidiaSmi().read()) == 1


def test_a_process_is_confined_to_a_gpu_by_index_and_to_an_instance_by_uuid() -> None:
    probe = NvidiaSmi()
    assert probe.visible_devices(Gpu(index=3, uuid=UUID)) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "3",
    }
    assert probe.visible_devices(Gpu(index=3, uuid="MIG-1"))["CUDA_VISIBLE_DEVICES"] == "MIG-1"
