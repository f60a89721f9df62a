"""PyTorch and TensorFlow are recognised, and told of the run's memory limit in words that they know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fake_python import python_with

from backprop_builtin.frameworks import _allocator, pytorch, tensorflow
from backprop_builtin.frameworks._memory_limit import HOOK_FOLDER
from backprop_core import Framework, Gpu, Limits, RunRequest, Script
from backprop_core.description import choose_framework, describe_script

GPU = Gpu(index=0, vram_total_mb=10_000)
CUDA, HIP, BOTH = _allocator.ALLOCATOR_VARIABLES
GROWTH = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_allocator.ALLOCATOR_VARIABLES, "PYTHONPATH", *GROWTH):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def torch_2_13(tmp_path: Path) -> str:
    return python_with(tmp_path / "new", {"torch": "2.13.0"})


@pytest.fixture
def torch_2_9(tmp_path: Path) -> str:
    return python_with(tmp_path / "old", {"torch": "2.9.1"})


def request(limit: str | None, python: str | None = None) -> RunRequest:
    return RunRequest(
        script=Script(path=Path("train.py")), limits=Limits(gpu_memory_limit=limit), python=python
    )


@pytest.mark.parametrize("module", [pytorch, tensorflow])
def test_each_plugin_brings_a_framework_named_as_people_type_it(module: object) -> None:
    framework = module.backprop_framework()  # type: ignore[attr-defined]
    assert isinstance(framework, Framework)
    assert framework.name == str(module.__name__).rpartition(".")[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", "pytorch"),
        ("import lightning as L", "pytorch"),
        ("from transformers import Trainer", "pytorch"),
        ("import tensorflow as tf", "tensorflow"),
        ("import keras", "tensorflow"),
        ("import keras, torch", "pytorch"),
        ("import tensorflow, torch", "pytorch"),
        ("import tensorflow as tf\ndef export():\n    import torch", "tensorflow"),
        ("import torch\ntry:\n    import tensorflow\nexcept ImportError:\n    pass", "pytorch"),
        ("from transformers import TFAutoModel\nimport tensorflow as tf", "tensorflow"),
        ("from keras.models import Sequential\ndef f():\n    import transformers", "tensorflow"),
        ("import numpy", None),
    ],
)
def test_a_script_is_recognised_by_what_it_imports(tmp_path: Path, source: str, expected: str | None) -> None:
    path = tmp_path / "train.py"
    path.write_text(source)
    script = describe_script(path, None, tmp_path)
    chosen, scores = choose_framework([tensorflow.TensorFlow(), pytorch.backprop_framework()], script, "auto")
    assert (None if chosen is None else chosen.name) == expected
    assert all(0 < score <= 1 for score in scores.values())


class TestPyTorchsMemory:
    framework: Any = pytorch.backprop_framework()

    @pytest.mark.parametrize(("limit", "gpu"), [(None, GPU), ("80%", None)])
    def test_without_a_limit_or_a_gpu_nothing_is_said(self, limit: str | None, gpu: Gpu | None) -> None:
        assert self.framework.environment(request(limit), gpu) == {}
        assert self.framework.memory_layer(request(limit), gpu) == "watched only"

    @pytest.mark.parametrize(
        ("limit", "fraction"), [("80%", "0.8000"), ("4", "0.4096"), ("100%", "1.0000"), ("64GB", "1.0000")]
    )
    def test_a_new_pytorch_is_limited_by_its_allocator(
        self, torch_2_13: str, limit: str, fraction: str
    ) -> None:
        asked = request(limit, torch_2_13)
        assert self.framework.environment(asked, GPU) == {BOTH: f"per_process_memory_fraction:{fraction}"}
        assert self.framework.memory_layer(asked, GPU) == "allocator"

    def test_an_old_pytorch_gets_no_setting_it_would_die_of_but_the_import_hook(self, torch_2_9: str) -> None:
        asked = request("4", torch_2_9)
        assert self.framework.environment(asked, GPU) == {
            "PYTHONPATH": str(HOOK_FOLDER),
            "BACKPROP_GPU_MEMORY_LIMIT_MB": "4096",
            "BACKPROP_GPU_MEMORY_LIMIT_SHARE": "0.4096",
        }
        assert self.framework.memory_layer(asked, GPU) == "import hook"

    def test_a_pytorch_of_unknown_version_gets_the_import_hook(self, tmp_path: Path) -> None:
        assert self.framework.memory_layer(request("4", str(tmp_path / "no-python")), GPU) == "import hook"

    def test_a_gpu_of_unknown_size_takes_a_share_through_the_allocator_and_gb_through_the_hook(
        self, torch_2_13: str
    ) -> None:
        unknown = Gpu(index=0)
        assert self.framework.environment(request("80%", torch_2_13), unknown) == {
            BOTH: "per_process_memory_fraction:0.8000"
        }
        told = self.framework.environment(request("4", torch_2_13), unknown)
        assert told == {"PYTHONPATH": str(HOOK_FOLDER), "BACKPROP_GPU_MEMORY_LIMIT_MB": "4096"}

    @pytest.mark.parametrize("variables", [(CUDA,), (HIP,), (BOTH,), (CUDA, BOTH)])
    def test_the_limit_is_added_to_every_variable_that_the_user_has_set(
        self, torch_2_13: str, monkeypatch: pytest.MonkeyPatch, variables: tuple[str, ...]
    ) -> None:
        for variable in variables:
            monkeypatch.setenv(variable, "expandable_segments:True")
        assert self.framework.environment(request("80%", torch_2_13), GPU) == dict.fromkeys(
            variables, "expandable_segments:True,per_process_memory_fraction:0.8000"
        )

    def test_another_allocator_backend_reads_no_limit_and_gets_the_import_hook(
        self, torch_2_13: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CUDA, "max_split_size_mb:64, backend : cudaMallocAsync")
        assert self.framework.memory_layer(request("80%", torch_2_13), GPU) == "import hook"
        assert CUDA not in self.framework.environment(request("80%", torch_2_13), GPU)
        monkeypatch.setenv(CUDA, "backend:native")
        assert self.framework.memory_layer(request("80%", torch_2_13), GPU) == "allocator"

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ("", "per_process_memory_fraction:0.8000"),
            (" , ", "per_process_memory_fraction:0.8000"),
            ("a:[256:1,512:2],", "a:[256:1,512:2],per_process_memory_fraction:0.8000"),
            ("per_process_memory_fraction:0.5", "per_process_memory_fraction:0.5000"),
            ("a:1,per_process_memory_fraction: 0.9,b:2", "a:1,b:2,per_process_memory_fraction:0.8000"),
            ("per_process_memory_fraction:all,b:2", "b:2,per_process_memory_fraction:0.8000"),
        ],
    )
    def test_the_lower_of_two_limits_stays(self, settings: str, expected: str) -> None:
        assert _allocator.with_fraction(settings, 0.8) == expected

    def test_a_tiny_share_is_not_rounded_to_none(self) -> None:
        assert _allocator.with_fraction("", 0.000001) == "per_process_memory_fraction:0.0001"

    def test_releases_since_2_10_know_the_setting(self) -> None:
        known = {"2.10.0", "2.10.0+cu126", "2.10.1", "2.13.0.dev20260101", "3.0", "10.0.0a0+git"}
        unknown = {"2.9.1", "2.10.0a0+b558c98", "2.10.0.dev20250901", "2.10.0rc1", "1.13.1", "nonsense", None}
        assert {version for version in known | unknown if _allocator.is_since_2_10(version)} == known


class TestTensorFlowsMemory:
    framework = tensorflow.TensorFlow()

    @pytest.mark.parametrize(
        ("limit", "gpu"), [(None, GPU), (None, None), ("80%", None), ("80%", Gpu(index=0))]
    )
    def test_memory_grows_with_need_and_what_cannot_be_limited_is_watched(
        self, limit: str | None, gpu: Gpu | None
    ) -> None:
        assert self.framework.environment(request(limit), gpu) == GROWTH
        assert self.framework.memory_layer(request(limit), gpu) == "watched only"

    def test_the_users_own_choice_of_growth_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
        assert self.framework.environment(request(None), GPU) == {}

    def test_a_limit_is_passed_to_the_import_hook(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/mine", str(HOOK_FOLDER), "/too"]))
        assert self.framework.environment(request("80%"), GPU) == GROWTH | {
            "PYTHONPATH": os.pathsep.join([str(HOOK_FOLDER), "/mine", "/too"]),
            "BACKPROP_GPU_MEMORY_LIMIT_MB": "8000",
            "BACKPROP_GPU_MEMORY_LIMIT_SHARE": "0.8000",
        }
        assert self.framework.memory_layer(request("80%"), GPU) == "import hook"


@pytest.mark.parametrize("framework", [pytorch.backprop_framework(), tensorflow.TensorFlow()])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"--resume_from_checkpoint"}, ("--resume_from_checkpoint", "/c/last.pt")),
        ({"--resume-from-checkpoint", "--lr"}, ("--resume-from-checkpoint", "/c/last.pt")),
        ({"--ckpt_path"}, ("--ckpt_path", "/c/last.pt")),
        ({"--ckpt-path"}, ("--ckpt-path", "/c/last.pt")),
        ({"--ckpt_path", "--resume_from_checkpoint"}, ("--resume_from_checkpoint", "/c/last.pt")),
        ({"--resume"}, ()),
        ({"--resume-from"}, ()),
        ({"--resume-from", "--ckpt_path"}, ()),
        (set(), ()),
    ],
)
def test_a_checkpoint_is_passed_only_by_an_option_that_the_source_spells_and_that_takes_a_path(
    framework: Framework, options: set[str], expected: tuple[str, ...]
) -> None:
    script = Script(path=Path("train.py"), options=frozenset(options))
    assert framework.resume_arguments(script, Path("/c/last.pt")) == expected
