"""A run is given the GPUs that are best for it and no others, within its memory limit, or is refused with reasons."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_python import python_with
from governor_kit import GpuProject, NvmlProject, built_stub, standing
from kit import Done, wait_for
from stub_nvml.build import StubGpu

SEEING = """
    import json, os
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_ALLOC_CONF", "BACKPROP_GPU_MEMORY_LIMIT_SHARE")
    print(json.dumps({name: os.environ.get(name) for name in names}))
"""
HOLDING = """
    import pathlib, time
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[GpuProject]:
    made = GpuProject(tmp_path)
    made.write("see.py", SEEING)
    made.write("hold.py", HOLDING)
    yield made
    made.clean_up()


def seen(done: Done) -> dict[str, Any]:
    """What the script saw of its environment."""
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def given(done: Done) -> str | None:
    """The GPUs that the script saw, which must be counted as the probes count them."""
    environment = seen(done)
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    visible: str | None = environment["CUDA_VISIBLE_DEVICES"]
    return visible


# --- choosing -----------------------------------------------------------------------------------


def test_a_run_sees_the_gpu_with_the_most_free_memory_and_no_other(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "free": 9000}, {"index": 1, "free": 20000}, {"index": 2, "free": 19000}])
    assert given(project.run("run", "see.py")) == "1"
    record = project.record()
    assert record["gpu"] == {
        "uuid": "GPU-00000002-1111-2222-3333-444444444444",
        "index": 1,
        "name": "NVIDIA Fake 24",
    }
    assert record["gpus"] == [record["gpu"]]


def test_several_gpus_are_given_best_first(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "free": 9000}, {"index": 1, "free": 20000}, {"index": 2, "free": 19000}])
    assert given(project.call("run", "see.py", "--gpus", 2)) == "1,2"
    assert [gpu["index"] for gpu in project.record()["gpus"]] == [1, 2]
    assert given(project.call("run", "see.py", "--gpus", "all")) == "1,2,0"


def test_more_gpus_than_there_are_and_all_with_a_busy_one_are_refused(project: GpuProject) -> None:
    project.smi.set([{"index": 0}, {"index": 1, "free": 100}])
    assert "3 GPUs wanted, 2 there" in project.call("run", "see.py", "--gpus", 3).err
    done = project.call("run", "see.py", "--gpus", "all")
    assert done.code == 75
    assert "2 GPUs wanted, 1 free to use" in done.err
    assert "GPU memory: GPU 1 has 100 MB free, 2500 MB needed" in done.err


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [("0,2", "2"), ("0", "0"), ("GPU-00000001,GPU-00000003", "2"), ("0,nonsense,2", "0")],
)
def test_cuda_visible_devices_that_is_set_already_is_the_list_to_choose_from(
    project: GpuProject, allowed: str, chosen: str
) -> None:
    project.smi.set([{"index": 0, "free": 9000}, {"index": 1, "free": 20000}, {"index": 2, "free": 19000}])
    assert given(project.call("run", "see.py", env={"CUDA_VISIBLE_DEVICES": allowed})) == chosen


@pytest.mark.parametrize("nothing", ["", "-1"])
def test_who_hides_all_gpus_is_given_none_and_no_gpu_rule_applies(project: GpuProject, nothing: str) -> None:
    project.smi.set([{"index": 0, "free": 10, "temp": 99}])
    environment = seen(project.call("run", "see.py", env={"CUDA_VISIBLE_DEVICES": nothing}))
    assert environment["CUDA_VISIBLE_DEVICES"] == nothing
    assert project.record()["gpus"] == []


def test_a_hot_gpu_a_throttled_one_and_a_full_one_are_passed_over(project: GpuProject) -> None:
    slow, full, warm = {"throttle": 0x20}, {"free": 100}, {"free": 3000, "temp": 83}
    project.smi.set(
        [{"index": 0, "temp": 85}, {"index": 1, **slow}, {"index": 2, **full}, {"index": 3, **warm}]
    )
    assert given(project.call("run", "see.py")) == "3"
    project.smi.set([{"index": 0, "temp": 85}, {"index": 1, **slow}, {"index": 2, **full}])
    done = project.call("run", "see.py")
    assert done.code == 75
    assert (
        "GPU temperature: GPU 0 is at 85 C, GPU 1 is at 40 C and slowed down by its driver, 85 C is"
        in done.err
    )
    assert "GPU memory: GPU 2 has 100 MB free, 2500 MB needed" in done.err
    assert [record["gpu"]["index"] for record in project.records()] == [3]


def test_a_warm_gpu_is_warned_of(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "temp": 83}])
    done = project.call("run", "see.py")
    assert done.code == 0
    assert "backprop: GPU temperature: GPU 0 is at 83 C, 85 C is the limit\n" in done.err


def test_a_gpu_that_tells_nothing_is_chosen_last_and_a_lost_one_never(project: GpuProject) -> None:
    silent = {"total": "[Insufficient Permissions]", "free": None, "temp": None}
    project.smi.set([{"index": 0, "is_lost": True}, {"index": 1, **silent}, {"index": 2, "free": 3000}])
    assert given(project.call("run", "see.py")) == "2"
    project.smi.set([{"index": 0, "is_lost": True}, {"index": 1, **silent}])
    assert given(project.call("run", "see.py")) == "1"
    project.smi.set([{"index": 0, "is_lost": True}])
    done = project.call("run", "see.py")
    assert done.code == 75
    assert "GPU 0: unreadable: GPU is lost" in done.err


def test_a_mig_instance_is_given_by_its_uuid_and_the_split_gpu_never(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = built_stub(tmp_path_factory.mktemp("stub_nvml"))
    instances = (
        StubGpu(uuid="MIG-small", name="Split MIG 1g.10gb", total=9856, free=9000),
        StubGpu(uuid="MIG-large", name="Split MIG 3g.40gb", total=40448, free=30000),
    )
    split = StubGpu(uuid="GPU-0", name="Split", total=81920, free=70000, temp=40, mig=1, instances=instances)
    place = tmp_path / "mig"
    place.mkdir()
    machine = NvmlProject(place, library)
    machine.write("see.py", SEEING)
    machine.nvml.set(split)
    assert given(machine.run("run", "see.py")) == "MIG-large"
    assert machine.record()["gpu"]["uuid"] == "MIG-large"
    assert given(machine.run("run", "see.py", env={"CUDA_VISIBLE_DEVICES": "MIG-small"})) == "MIG-small"
    machine.nvml.set(StubGpu(uuid="GPU-0", name="Split", total=81920, free=70000, temp=40, mig=1))
    done = machine.run("run", "see.py")
    assert done.code == 75
    assert "GPU 0: in MIG mode" in done.err
    machine.clean_up()


# --- reservations -------------------------------------------------------------------------------


def test_two_runs_started_together_on_two_free_gpus_take_one_each(project: GpuProject) -> None:
    project.smi.set([{"index": 0}, {"index": 1}])
    started = [project.start("run", "hold.py", "-g", 14) for _ in range(2)]
    wait_for(lambda: [record["status"] for record in project.records()] == ["running"] * 2, "both to run")
    assert sorted(record["gpu"]["index"] for record in project.records()) == [0, 1]
    project.write("go", "")
    assert [project.end(process).code for process in started] == [0, 0]


def test_on_one_gpu_the_second_of_two_is_refused_if_the_sum_does_not_fit(project: GpuProject) -> None:
    started = [project.start("run", "hold.py", "-g", 14) for _ in range(2)]
    wait_for(lambda: [process.poll() for process in started].count(75) == 1, "one to be refused")
    project.wait_for_state("running")
    assert project.call("run", "see.py", "-g", 9).code == 0  # 14 + 9 of 24 GB
    too_much = project.call("run", "see.py", "-g", 11)
    assert too_much.code == 75
    assert "GPU memory: GPU 0 has 10240 MB free, 11264 MB needed" in too_much.err
    project.write("go", "")
    assert sorted(project.end(process).code for process in started) == [0, 75]
    assert project.call("run", "see.py", "-g", 14).code == 0


def test_memory_that_a_run_has_taken_is_not_counted_twice(project: GpuProject) -> None:
    running = project.start("run", "hold.py", "-g", 10)
    project.wait_for_state("running")
    project.smi.set([{"index": 0, "free": 24576 - 10240}])
    assert standing(project)["gpus"][0]["vram_free_mb"] == 24576 - 10240
    assert project.call("run", "see.py", "-g", 14).code == 0
    project.write("go", "")
    assert project.end(running).code == 0


def test_a_forced_run_gets_the_best_gpu_there_is_and_says_in_spite_of_what(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "free": 100}, {"index": 1, "free": 900}])
    done = project.call("run", "see.py", "--force")
    assert given(done) == "1"
    assert "in spite of GPU memory: GPU 0 has 100 MB free, GPU 1 has 900 MB free, 2500 MB needed" in done.err


# --- the memory limit and what holds it ---------------------------------------------------------


def test_a_limit_that_no_gpu_can_meet_is_an_error_however_long_one_waits(project: GpuProject) -> None:
    project.smi.set([{"index": 0}, {"index": 1, "total": 49152, "free": 100}])
    done = project.call("run", "see.py", "-g", 50, "--wait", 5)
    assert done.code == 2
    assert done.err == (
        "backprop: the GPU memory limit 50 GB is more than any GPU has (the largest has 48.0 GB)\n"
        "  ask for less with -g\n"
    )
    both = project.call("run", "see.py", "-g", 40, "--gpus", 2)
    assert both.code == 2
    assert "40 GB is more than 2 GPUs have" in both.err
    assert project.call("run", "see.py", "-g", 40).code == 75
    assert project.records() == []


@pytest.mark.parametrize(
    ("version", "layer"), [("2.13.0", "allocator"), ("2.9.1", "import hook"), (None, "import hook")]
)
def test_the_layer_that_holds_the_limit_depends_on_the_scripts_own_pytorch(
    project: GpuProject, tmp_path: Path, version: str | None, layer: str
) -> None:
    python = python_with(tmp_path / "env", {"torch": version} if version else {})
    words = ("run", "see.py", "-f", "pytorch", "-g", "50%", "--python", python)
    assert f"memory limit held by: {layer}\n" in project.call(*words, "--dry-run").out
    done = project.call(*words)
    environment = seen(done)
    record = project.record()
    assert record["memoryLayer"] == layer
    assert f"backprop: GPU memory limit 50%: {layer}\n" in done.err
    assert re.search(rf"^GPU limit +50%: {layer}$", project.call("status", "last").out, re.MULTILINE)
    if layer == "allocator":
        assert environment["PYTORCH_ALLOC_CONF"] == "per_process_memory_fraction:0.5000"
    else:
        assert environment["PYTORCH_ALLOC_CONF"] is None
        assert environment["BACKPROP_GPU_MEMORY_LIMIT_SHARE"] == "0.5000"


def test_a_limit_that_only_the_watch_holds_says_so(project: GpuProject) -> None:
    done = project.call("run", "see.py", "-g", 8)
    assert project.record()["memoryLayer"] == "watched only"
    assert "backprop: GPU memory limit 8: watched only\n" in done.err


def test_a_limit_without_a_gpu_holds_nothing_and_says_so(project: GpuProject) -> None:
    done = project.call("run", "see.py", "-g", 8, "--gpu-probe", "none")
    assert done.code == 0
    assert "backprop: GPU memory limit 8: no GPU to hold it on\n" in done.err
    assert project.record()["memoryLayer"] is None


def test_the_record_keeps_the_layer_through_a_resume(project: GpuProject) -> None:
    project.call("run", "hold.py", "-g", 8, "-m", 0.01, "-n", "kept")
    assert project.record("kept")["memoryLayer"] == "watched only"
    project.write("go", "")
    assert project.call("resume", "kept").code == 0
    assert project.record("kept")["memoryLayer"] == "watched only"
    assert "memoryLayer" not in json.dumps(project.record("kept")["settings"])


# --- probes -------------------------------------------------------------------------------------


def test_a_probe_that_was_asked_for_and_fails_is_a_refusal_that_says_why(project: GpuProject) -> None:
    project.smi.fail(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    failing = project.call("run", "see.py")
    assert failing.code == 75
    assert "not started: nvidia-smi: driver not loaded: NVIDIA-SMI has failed because" in failing.err
    project.smi.executable.chmod(0o777)
    untrusted = project.call("run", "see.py", env={"PATH": f"{project.smi.path_entry}:/nowhere"})
    assert untrusted.code == 75
    assert "not started: nvidia-smi: not found in a trusted folder of PATH" in untrusted.err
    assert project.records() == []


def test_auto_passes_over_a_failing_probe_aloud(project: GpuProject) -> None:
    project.smi.fail(9, "NVIDIA-SMI has failed")
    auto = {"BACKPROP_GPU_PROBE": "auto", "LD_LIBRARY_PATH": None}
    done = project.call("run", "see.py", env=auto)
    assert seen(done)["CUDA_VISIBLE_DEVICES"] is None
    assert (
        "backprop: passing over the GPU probe nvidia-smi: driver not loaded: NVIDIA-SMI has failed\n"
        in done.err
    )
    status = project.call("status", "--json", env=auto)
    assert json.loads(status.out)["probe"] == "none"
    assert "passing over" in status.err


def test_a_probe_that_is_not_installed_is_a_usage_error(project: GpuProject) -> None:
    done = project.call("run", "see.py", "--gpu-probe", "nvidiasmi")
    assert done.code == 2
    assert 'no GPU probe named "nvidiasmi" is installed' in done.err
    assert 'did you mean "nvidia-smi"?' in done.err


@pytest.mark.parametrize("what", ["ram_free_gb", "cpu_load_per_core"])
def test_an_amount_that_cannot_be_measured_lets_only_a_single_run_start(
    project: GpuProject, what: str
) -> None:
    project.machine(**{what: None})
    refused = project.call("run", "see.py")
    assert refused.code == 75
    assert "cannot be measured; start one run alone with --max-parallel 1" in refused.err
    alone = project.call("run", "see.py", "-p", 1)
    assert alone.code == 0
    assert "cannot be measured; starting because this run is to be alone" in alone.err


# --- what status says of it ---------------------------------------------------------------------


def test_status_lists_what_every_rule_measured_and_its_limit(project: GpuProject) -> None:
    project.smi.set([{"index": 0}, {"index": 1, "temp": 90}])
    running = project.start("run", "hold.py", "-g", 14, "-n", "holder")
    project.wait_for_state("running")
    shown = project.call("status", "-p", 3).out
    for line in (
        "verdict    a run may start now",
        "  ok: slots: 1 of 3 in use (holder), maxParallel is the limit",
        "  ok: RAM: 64.0 GB available, 4 GB needed (minFreeRamGB)",
        "  ok: CPU: load 0.10 per core, 1.5 is the most (maxCpuLoad)",
        "  ok: GPU memory: GPU 0 has 10240 MB free, GPU 1 has 24576 MB free, 2500 MB needed",
        "  ok on others: GPU temperature: GPU 1 is at 90 C, 85 C is the limit",
    ):
        assert f"\n{line}\n" in shown
    assert re.search(
        r"^  ok: disk: \d+ MB free where records are written, 100 MB needed$", shown, re.MULTILINE
    )
    assert re.search(r"^  held by  holder  \S+  for \d+s  GPU 0: 14336 MB$", shown, re.MULTILINE)
    refused = project.call("status", "-p", 1, "--gpu-min-vram", 30000).out
    assert "verdict    no run starts now\n  refused: slots: 1 of 1 in use (holder)" in refused
    assert "  refused: GPU memory: GPU 0 has 10240 MB free" in refused
    running.send_signal(signal.SIGTERM)
    project.end(running)


def test_status_says_no_while_somebody_waits(project: GpuProject) -> None:
    running = project.start("run", "hold.py", "-g", 14)
    project.wait_for_state("running")
    waiting = project.start("run", "hold.py", "-g", 14, "-n", "patient", "--wait", 5)
    project.wait_for_state("queued", "patient")
    verdict = standing(project)["verdict"]
    assert not verdict["allowed"]
    assert verdict["reasons"][0].startswith("queue: 1 waiting before this run")
    assert re.search(
        r"^  waiting  patient  \S+  for \d+s  GPU memory", project.call("status").out, re.MULTILINE
    )
    for process in (waiting, running):
        process.send_signal(signal.SIGTERM)
        project.end(process)


# --- through a launcher command -----------------------------------------------------------------


def test_a_launcher_command_of_another_environment_runs_in_the_scripts_interpreter(
    project: GpuProject, tmp_path: Path
) -> None:
    other = python_with(tmp_path / "other", {})
    launcher = tmp_path / "nvidia" / "launch"
    launcher.write_text(f"#!{other}\nimport os, sys\nprint(os.environ['WHOSE'], sys.argv[1:])\n")
    launcher.chmod(0o755)
    mine = tmp_path / "mine" / "python"
    mine.parent.mkdir()
    mine.write_text(f'#!/bin/sh\nWHOSE=mine exec "{Path(other).resolve()}" "$@"\n')
    mine.chmod(0o755)
    done = project.call("run", "see.py", "--through", "launch --ranks 2", "--python", mine)
    assert done.out == f"mine ['--ranks', '2', '{project.folder / 'see.py'}']\n"
    beside = mine.with_name("launch")
    beside.write_text('#!/bin/sh\necho beside "$@"\n')
    beside.chmod(0o755)
    done = project.call("run", "see.py", "--through", "launch --ranks 2", "--python", mine)
    assert done.out == f"beside --ranks 2 {project.folder / 'see.py'}\n"
