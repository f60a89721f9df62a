"""PyTorch Lightning: its `Trainer.fit`, and what ModelCheckpoint saves.

Lightning writes a temporary file and renames it, so that a file is whole; sharded states are folders.
"""

from __future__ import annotations

from pathlib import Path

from backprop_core import CheckpointForm, Framework, Script, hookimpl

from ._on_pytorch import OnPyTorch
from ._resume import resume_arguments

WEIGHTS = {"lightning": 1.0, "pytorch_lightning": 1.0}
"""What importing a name says about it."""
FORMS = (
    CheckpointForm(name="*.ckpt", step=r"step=(\d+)"),
    CheckpointForm(name="*.ckpt", is_folder=True, holds=("meta.pt",), step=r"step=(\d+)"),
    CheckpointForm(name="*.ckpt", is_folder=True, holds=("checkpoint",), step=r"step=(\d+)"),
)
"""A file; the folders of FSDP (strategies/fsdp.py) and of DeepSpeed (strategies/deepspeed.py)."""
RESUMES = frozenset({"ckpt_path", "LightningCLI"})
"""What a script names that goes on from a checkpoint."""
LINE = '$.fit(..., ckpt_path=os.environ.get("BACKPROP_RESUME_FROM"))'

CLI = ("lightning.pytorch.cli.LightningCLI", "pytorch_lightning.cli.LightningCLI")
"""Has the option `--ckpt_path` although no script spells it."""


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="lightning",
        order=10,
        weights=WEIGHTS,
        checkpoint_forms=FORMS,
        resumes=RESUMES,
        call="fit",
        line=LINE,
        arguments=arguments,
    )


def arguments(script: Script, checkpoint: Path) -> tuple[str, ...]:
    """Give LightningCLI its own option, and other scripts what they spell."""
    if "--ckpt_path" not in script.options and any(name in script.imports for name in CLI):
        return ("--ckpt_path", str(checkpoint))
    return resume_arguments(script, checkpoint)
