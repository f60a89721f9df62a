"""Trainers are recognised, tell what their checkpoints look like, and how a script goes on from one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import archive, hdf5, hf_checkpoint
from trainer_captures import built_ins

from backprop_builtin.frameworks import _xla
from backprop_builtin.frameworks.keras import backend_of
from backprop_core import Framework, Gpu, Limits, RunRequest, Script
from backprop_core.checkpoints import search
from backprop_core.checkpoints.forms import forms_for
from backprop_core.description import choose_framework, describe_script

FRAMEWORKS: dict[str, Any] = {each.name: each for each in built_ins().parts("backprop_framework")}
CHECKPOINT = Path("/c/5")


def described(folder: Path, source: str) -> Script:
    path = folder / "train.py"
    path.write_text(source)
    return describe_script(path, None, folder)


def chosen(folder: Path, source: str) -> str | None:
    framework, _ = choose_framework([*FRAMEWORKS.values()], described(folder, source), "auto")
    return None if framework is None else framework.name


def test_each_is_a_framework() -> None:
    assert set(FRAMEWORKS) == {
        *("accelerate", "huggingface", "jax", "keras", "lightning"),
        *("pytorch", "tensorflow", "timm", "ultralytics"),
    }
    assert all(isinstance(each, Framework) for each in FRAMEWORKS.values())


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch, lightning as L", "lightning"),
        ("import torch, pytorch_lightning as pl", "lightning"),
        ("import torch\nfrom transformers import Trainer, TrainingArguments", "huggingface"),
        ("import torch\nfrom trl import SFTTrainer", "huggingface"),
        ("from transformers import TrainingArguments\nfrom accelerate import Accelerator", "huggingface"),
        ("import transformers", "huggingface"),
        ("import torch\nfrom transformers import AutoTokenizer", "pytorch"),
        ("import torch\nfrom accelerate import Accelerator", "accelerate"),
        ("import torch\ntry:\n    import accelerate\nexcept ImportError:\n    pass", "pytorch"),
        ("import torch\nfrom ultralytics import YOLO", "ultralytics"),
        ("import torch, timm", "pytorch"),
        ("import torch\nfrom timm.utils import CheckpointSaver", "timm"),
        ("import torch, keras", "keras"),
        ("from tensorflow import keras\nimport tensorflow as tf", "keras"),
        ("import tensorflow as tf", "tensorflow"),
        ("import jax, keras", "keras"),
        ("import jax", "jax"),
        ("import jax, torch", "pytorch"),
        ("import jax, torch, orbax.checkpoint as ocp", "jax"),
        ("import torch", "pytorch"),
        ("import numpy", None),
    ],
)
def test_the_most_specific_wins(tmp_path: Path, source: str, name: str | None) -> None:
    assert chosen(tmp_path, source) == name


def found(name: str, folder: Path) -> list[tuple[str, int | None]]:
    """What is found with a framework's forms, the one to go on from last."""
    findings = search.search([folder], forms_for(FRAMEWORKS[name], built_ins()), 0)
    return [
        (str(find.path.relative_to(folder)), find.step)
        for find in sorted(findings.finds, key=lambda find: (not find.is_second_choice, str(find.path)))
    ]


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        (
            "lightning",
            ["lightning_logs/version_0/checkpoints/epoch=0-step=6.ckpt", "ckpts/last.ckpt", "weights.pt"],
            [("ckpts/last.ckpt", None), ("lightning_logs/version_0/checkpoints/epoch=0-step=6.ckpt", 6)],
        ),
        ("lightning", ["out/step=7.ckpt/meta.pt", "out/step=7.ckpt/.metadata"], [("out/step=7.ckpt", 7)]),
        (
            "ultralytics",
            ["yolov8n.pt", *(f"runs/detect/train/weights/{one}.pt" for one in ("best", "epoch5", "last"))],
            [
                ("runs/detect/train/weights/best.pt", None),
                ("runs/detect/train/weights/epoch5.pt", None),
                ("runs/detect/train/weights/last.pt", None),
            ],
        ),
        (
            "timm",
            [f"output/train/x/{one}.pth.tar" for one in ("model_best", "checkpoint-3", "last", "other")],
            [
                ("output/train/x/model_best.pth.tar", None),
                ("output/train/x/checkpoint-3.pth.tar", None),
                ("output/train/x/last.pth.tar", None),
            ],
        ),
        (
            "accelerate",
            [
                "out/checkpoints/checkpoint_3/random_states_0.pkl",
                "out/checkpoints/checkpoint_3/model.safetensors",
                "mine/step_40/random_states_0.pkl",
                "mine/loose.pt",
                "mine/other/model.safetensors",
            ],
            [("mine/loose.pt", None), ("mine/step_40", 40), ("out/checkpoints/checkpoint_3", None)],
        ),
        (
            "keras",
            ["backup/latest.weights.h5", "backup/training_metadata.json", "model.keras", "w.weights.h5"],
            [("model.keras", None), ("w.weights.h5", None), ("backup", None)],
        ),
        (
            "tensorflow",
            [
                "tf_ckpts/ckpt-7.index",
                "tf_ckpts/step-40.index",
                "tf_ckpts/ckpt-8_temp/part-00000-of-00001.index",
                "exported/variables/variables.index",
                *(f"{one}.data-00000-of-00001" for one in ("tf_ckpts/ckpt-7", "tf_ckpts/step-40")),
                "tf_ckpts/ckpt-8_temp/part-00000-of-00001.data-00000-of-00001",
                "exported/variables/variables.data-00000-of-00001",
                "experiments.json.index",
            ],
            [
                ("exported/variables/variables.index", None),
                ("tf_ckpts/ckpt-7.index", None),
                ("tf_ckpts/step-40.index", 40),
            ],
        ),
        (
            "jax",
            [
                "out/4/_CHECKPOINT_METADATA",
                "out/9/commit_success.txt",
                "out/12.orbax-checkpoint-tmp/_CHECKPOINT_METADATA",
            ],
            [("out/4", 4), ("out/9", 9)],
        ),
        (
            "pytorch",
            [
                "best_model.pt",
                "out/ckpt.pt",
                "out/iter_40.pth",
                "dcp/step-8/.metadata",
                "zero/global_step16/mp_rank_00_model_states.pt",
                "data/processed/cache.pt",
            ],
            [
                ("best_model.pt", None),
                ("dcp/step-8", 8),
                ("out/ckpt.pt", None),
                ("out/iter_40.pth", 40),
                ("zero/global_step16", 16),
            ],
        ),
    ],
)
def test_what_trainers_save_is_found(
    tmp_path: Path, name: str, files: list[str], told: list[tuple[str, int | None]]
) -> None:
    for file in files:
        archive(tmp_path / file)
    assert found(name, tmp_path) == told


def test_what_the_trainer_of_hugging_face_saves_is_found(tmp_path: Path) -> None:
    hf_checkpoint(tmp_path / "trainer_output", 500)
    hdf5(tmp_path / "trainer_output" / "runs" / "x.h5")
    assert found("huggingface", tmp_path) == [("trainer_output/checkpoint-500", 500)]


# How a script goes on ----------------------------------------------------------------------------

PARSE = "import argparse\nparser = argparse.ArgumentParser()\n"


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (PARSE + 'parser.add_argument("--resume", default="", type=str)', ("--resume", "/c/5")),
        (PARSE + 'parser.add_argument("-r", "--resume", nargs="?", const=True)', ("--resume", "/c/5")),
        (PARSE + 'parser.add_argument("--resume", action="store_true")', ("--resume",)),
        (PARSE + 'parser.add_argument("--resume", action=argparse.BooleanOptionalAction)', ("--resume",)),
        ('import click\n@click.option("--resume", is_flag=True)\ndef main(resume): ...', ("--resume",)),
        ('import click\n@click.option("--resume")\ndef main(resume): ...', ("--resume", "/c/5")),
        ('import sys\nprint("--resume" in sys.argv)', ()),
        (PARSE + 'parser.add_argument("--resume_from")', ("--resume_from", "/c/5")),
        (PARSE + 'parser.add_argument("--resume-checkpoint")', ("--resume-checkpoint", "/c/5")),
        (PARSE + 'parser.add_argument("--resume-from")', ()),
        (PARSE + 'parser.add_argument("--checkpoint")', ()),
    ],
)
def test_a_script_gets_the_option_that_it_declares(
    tmp_path: Path, source: str, arguments: tuple[str, ...]
) -> None:
    script = described(tmp_path, source)
    assert FRAMEWORKS["pytorch"].resume_arguments(script, CHECKPOINT) == arguments


def test_a_script_like_nanogpt_is_told_to_resume_by_its_own_word(tmp_path: Path) -> None:
    source = (
        "init_from = 'scratch'\nexec(open('configurator.py').read())\nif init_from == 'resume':\n    pass\n"
    )
    arguments = FRAMEWORKS["pytorch"].resume_arguments(described(tmp_path, source), CHECKPOINT)
    assert arguments == ("--init_from=resume",)


HF = "from transformers import HfArgumentParser, Trainer, TrainingArguments\n"


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (
            HF + "trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)",
            ("--resume_from_checkpoint", "/c/5"),
        ),
        (HF + "trainer.train()", ()),
        (HF.replace("HfArgumentParser, ", "") + "trainer.train(resume_from_checkpoint=True)", ()),
    ],
)
def test_training_arguments_are_passed_to_scripts_that_look_at_them(
    tmp_path: Path, source: str, arguments: tuple[str, ...]
) -> None:
    assert FRAMEWORKS["huggingface"].resume_arguments(described(tmp_path, source), CHECKPOINT) == arguments


def test_lightnings_command_line_takes_the_checkpoint(tmp_path: Path) -> None:
    script = described(tmp_path, "from lightning.pytorch.cli import LightningCLI\nLightningCLI(Model)")
    assert FRAMEWORKS["lightning"].resume_arguments(script, CHECKPOINT) == ("--ckpt_path", "/c/5")


LACKING = [
    (
        "huggingface",
        "my.train()",
        'train.py, line 1: my.train(resume_from_checkpoint=os.environ.get("BACKPROP_RESUME_FROM"))',
    ),
    (
        "lightning",
        "def main():\n    trainer.fit(model)",
        'train.py, line 2: trainer.fit(..., ckpt_path=os.environ.get("BACKPROP_RESUME_FROM"))',
    ),
    (
        "lightning",
        "Trainer().fit(model)",
        'train.py, line 1: trainer.fit(..., ckpt_path=os.environ.get("BACKPROP_RESUME_FROM"))',
    ),
    (
        "keras",
        "model.fit(x)",
        'train.py, line 1: model.fit(..., callbacks=[keras.callbacks.BackupAndRestore("backup")])',
    ),
]


@pytest.mark.parametrize(("name", "source", "told"), LACKING)
def test_the_one_missing_line_is_told_with_its_place(
    tmp_path: Path, name: str, source: str, told: str
) -> None:
    assert FRAMEWORKS[name].missing_line(described(tmp_path, source)) == told


@pytest.mark.parametrize("name", sorted(FRAMEWORKS))
def test_every_framework_tells_what_a_script_lacks_that_only_trains(tmp_path: Path, name: str) -> None:
    line = FRAMEWORKS[name].missing_line(described(tmp_path, "print('training')"))
    assert re.search(r"BACKPROP_RESUME_FROM|BackupAndRestore|latest_step", line)


@pytest.mark.parametrize("name", sorted(FRAMEWORKS))
@pytest.mark.parametrize(
    "source",
    [
        "import os\nsaved = os.environ.get('BACKPROP_RESUME_FROM')",
        "from backprop_core.script import resume_path\nsaved = resume_path()",
        PARSE + 'parser.add_argument("--resume-from")',
        PARSE + 'parser.add_argument("--resume", action="store_true")',
    ],
)
def test_nothing_is_missing_in_a_script_that_takes_what_it_is_told(
    tmp_path: Path, name: str, source: str
) -> None:
    assert FRAMEWORKS[name].missing_line(described(tmp_path, source)) is None


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("huggingface", "trainer.train(resume_from_checkpoint=True)"),
        ("huggingface", "last = get_last_checkpoint(out)"),
        ("lightning", "trainer.fit(model, ckpt_path='last')"),
        ("keras", "callbacks = [keras.callbacks.BackupAndRestore('b')]"),
        ("accelerate", "accelerator.load_state()"),
        ("ultralytics", "model.train(resume=True)"),
        ("timm", "resume_checkpoint(model, path)"),
        ("jax", "manager.restore(manager.latest_step())"),
        ("pytorch", "model.load_state_dict(saved)"),
        ("pytorch", "model = torch.load('all.pt')"),
    ],
)
def test_nothing_is_missing_in_a_script_that_goes_on_by_itself(
    tmp_path: Path, name: str, source: str
) -> None:
    assert FRAMEWORKS[name].missing_line(described(tmp_path, source)) is None


def test_a_local_module_may_hold_the_line(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text("def restore(model, saved):\n    model.load_state_dict(saved)\n")
    assert FRAMEWORKS["pytorch"].missing_line(described(tmp_path, "import loop")) is None


# Memory ------------------------------------------------------------------------------------------

GPU = Gpu(index=0, vram_total_mb=10_000)


def request(script: Script, limit: str | None = "80%") -> RunRequest:
    return RunRequest(script=script, limits=Limits(gpu_memory_limit=limit))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KERAS_BACKEND", "KERAS_HOME", *_xla.FRACTIONS, _xla.PREALLOCATE, _xla.OTHER_ALLOCATOR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_jax_takes_its_share_with_need(monkeypatch: pytest.MonkeyPatch) -> None:
    jax, asked = FRAMEWORKS["jax"], request(Script(path=Path("train.py")))
    assert jax.environment(asked, GPU) == {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.8000",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    assert jax.memory_layer(asked, GPU) == "allocator"
    assert jax.environment(request(asked.script, None), GPU) == {}
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert list(jax.environment(asked, GPU)) == ["XLA_PYTHON_CLIENT_MEM_FRACTION"]


@pytest.mark.parametrize("name", [*_xla.FRACTIONS, _xla.OTHER_ALLOCATOR])
def test_what_a_person_set_for_jax_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0.5")
    asked = request(Script(path=Path("train.py")))
    assert FRAMEWORKS["jax"].environment(asked, GPU) == {}
    assert FRAMEWORKS["jax"].memory_layer(asked, GPU) == "watched only"


def test_keras_runs_on_what_the_script_the_environment_or_its_file_say(tmp_path: Path) -> None:
    plain = described(tmp_path, "import keras")
    on_torch = described(
        tmp_path, 'import os\nos.environ["KERAS_BACKEND"] = "torch"\nimport keras\nprint("jaxes")'
    )
    assert backend_of(plain, {}) == "tensorflow"
    assert backend_of(plain, {"KERAS_BACKEND": "jax"}) == "jax"
    assert backend_of(plain, {"KERAS_BACKEND": "nonsense"}) == "tensorflow"
    assert backend_of(on_torch, {"KERAS_BACKEND": "jax"}) == "torch"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert backend_of(plain, {"KERAS_HOME": str(tmp_path)}) == "torch"
    (tmp_path / "keras.json").write_text("[")
    assert backend_of(plain, {"KERAS_HOME": str(tmp_path)}) == "tensorflow"


@pytest.mark.parametrize(
    ("backend", "variable"),
    [("tensorflow", "TF_FORCE_GPU_ALLOW_GROWTH"), ("jax", "XLA_PYTHON_CLIENT_MEM_FRACTION")],
)
def test_keras_is_limited_in_the_words_of_its_backend(
    monkeypatch: pytest.MonkeyPatch, backend: str, variable: str
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    assert variable in FRAMEWORKS["keras"].environment(request(Script(path=Path("train.py"))), GPU)
