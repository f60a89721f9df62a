"""Ultralytics YOLO: `model.train`, and the weights that it saves.

`weights/last.pt` is written after every epoch and holds all that resuming needs; `best.pt` is a copy.
"""

from __future__ import annotations

from backprop_core import CheckpointForm, Framework, hookimpl

from ._on_pytorch import OnPyTorch

WEIGHTS = {"ultralytics": 1.0}
"""What importing a name says about it."""
FORMS = (
    CheckpointForm(name="weights/best.pt", is_second_choice=True),
    CheckpointForm(name="weights/last.pt"),
    CheckpointForm(name="weights/epoch*.pt"),
)
RESUMES = frozenset({"resume"})
"""What a script names that goes on from a checkpoint."""
LINE = '$ = YOLO(os.environ.get("BACKPROP_RESUME_FROM", ...)), and $.train(resume="BACKPROP_RESUME_FROM" in os.environ)'


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="ultralytics",
        order=25,
        weights=WEIGHTS,
        checkpoint_forms=FORMS,
        resumes=RESUMES,
        call="train",
        line=LINE,
    )
