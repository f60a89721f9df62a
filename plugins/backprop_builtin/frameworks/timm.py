"""PyTorch Image Models: the training script of timm, and what its CheckpointSaver saves.

A script that only takes a model from timm has a loop of its own, and is PyTorch's.
"""

from __future__ import annotations

from backprop_core import CheckpointForm, Framework, hookimpl

from ._on_pytorch import OnPyTorch

WEIGHTS = {"timm.utils.CheckpointSaver": 1.0, "timm.utils": 0.8}
"""What importing a name says about it."""
FORMS = (
    CheckpointForm(name="model_best.pth.tar", is_second_choice=True),
    CheckpointForm(name="last.pth.tar"),
    CheckpointForm(name="checkpoint-*.pth.tar"),
    CheckpointForm(name="milestone-*.pth.tar"),
    CheckpointForm(name="recovery-*.pth.tar"),
)
"""As timm/utils/checkpoint_saver.py names them; the numbers are epochs."""
RESUMES = frozenset({"resume_checkpoint", "load_state_dict"})
"""What a script names that goes on from a checkpoint."""
LINE = (
    'resume_checkpoint(model, os.environ["BACKPROP_RESUME_FROM"]) before the loop, where that variable is set'
)


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="timm",
        order=35,
        weights=WEIGHTS,
        checkpoint_forms=FORMS,
        resumes=RESUMES,
        call="create_model",
        line=LINE,
    )
