"""Hugging Face Accelerate: loops of one's own, and what `save_state` saves.

`save_state` writes a folder, and the random states last but for objects of the script's own.
"""

from __future__ import annotations

from backprop_core import CheckpointForm, Framework, hookimpl

from ._forms import STEP, torch_forms
from ._on_pytorch import OnPyTorch

WEIGHTS = {"accelerate": 1.0}
"""What importing a name says about it."""
FORMS = (
    CheckpointForm(name="checkpoint_[0-9]*", is_folder=True, written_last=("random_states_0.pkl",)),
    CheckpointForm(name="*", is_folder=True, holds=("random_states_0.pkl",), step=STEP),
    *torch_forms(),
)
"""What `automatic_checkpoint_naming` counts are saves, not steps (accelerate/accelerator.py, save_state)."""
RESUMES = frozenset({"load_state", "load_state_dict", "torch.load"})
"""What a script names that goes on from a checkpoint."""
LINE = '$.load_state(os.environ["BACKPROP_RESUME_FROM"]) before the loop, where that variable is set'


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="accelerate",
        order=30,
        weights=WEIGHTS,
        checkpoint_forms=FORMS,
        resumes=RESUMES,
        call="prepare",
        line=LINE,
    )
