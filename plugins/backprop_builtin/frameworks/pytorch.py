"""PyTorch, and what is built on it."""

from __future__ import annotations

from pathlib import Path

from backprop_core import Framework, Script, hookimpl

from ._forms import torch_forms
from ._on_pytorch import OnPyTorch
from ._resume import resume_arguments

WEIGHTS = {
    "torch": 1.0,
    "lightning": 0.8,
    "pytorch_lightning": 0.8,
    "accelerate": 0.8,
    "deepspeed": 0.8,
    "diffusers": 0.8,
    "fastai": 0.8,
    "peft": 0.8,
    "sentence_transformers": 0.8,
    "timm": 0.8,
    "torchvision": 0.8,
    "trl": 0.8,
    "ultralytics": 0.8,
    "transformers": 0.6,
}
"""What importing a module says about PyTorch. Transformers ran on TensorFlow too before version 5."""

RESUMES = frozenset(
    {"load_state_dict", "load_checkpoint", "set_state_dict", "torch.load", "resume_from_checkpoint"}
)
"""What a script names that goes on from a checkpoint."""
LINE = 'model.load_state_dict(torch.load(path)) before the loop, with path = os.environ.get("BACKPROP_RESUME_FROM")'


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="pytorch",
        order=100,
        weights=WEIGHTS,
        checkpoint_forms=torch_forms(),
        resumes=RESUMES,
        call="save",
        line=LINE,
        arguments=arguments,
    )


def arguments(script: Script, checkpoint: Path) -> tuple[str, ...]:
    """Give scripts what they spell, and those that are made like nanoGPT what they take."""
    if spelt := resume_arguments(script, checkpoint):
        return spelt
    return ("--init_from=resume",) if is_like_nanogpt(script) else ()


def is_like_nanogpt(script: Script) -> bool:
    """Tell whether a script takes `--init_from=resume`, as karpathy/nanoGPT and what came of it do.

    Its configurator.py turns `--name=value` into global variables, so that the source spells no option.
    """
    from backprop_core import read_source

    source = read_source(script)
    return "init_from" in source.names and {"resume", "configurator.py"} <= source.texts
