"""What is saved with `torch.save`, and with what distributed training adds to it."""

from __future__ import annotations

from backprop_core import CheckpointForm

STEP = r"(?:^|[^a-z])(?:step|steps|iter|iteration)[-_=]?(\d+)"
"""A number that says it is a step; what is merely a number may be an epoch."""
SUFFIXES = (".pt", ".pth", ".ckpt", ".pth.tar", ".pt.tar")


def torch_forms() -> tuple[CheckpointForm, ...]:
    """Give the forms of a training loop of one's own; the best model so far is not what it goes on from."""
    return (
        *(CheckpointForm(name=f"*best*{suffix}", step=STEP, is_second_choice=True) for suffix in SUFFIXES),
        *(CheckpointForm(name=f"*{suffix}", step=STEP) for suffix in SUFFIXES),
        CheckpointForm(name="*", is_folder=True, holds=(".metadata",), step=STEP),
        CheckpointForm(
            name="global_step*",
            is_folder=True,
            holds=("mp_rank_00_model_states.pt",),
            step=r"global_step(\d+)",
        ),
    )


def keras_forms() -> tuple[CheckpointForm, ...]:
    """Give what Keras and TensorFlow save: BackupAndRestore's folder, `tf.train.Checkpoint`, and models and weights.

    :source: keras/src/callbacks/backup_and_restore.py (3.15): the weights are written before the metadata. What
        TensorFlow's Checkpoint writes is in a folder `..._temp` first; a SavedModel has its variables in such files.
    """
    return (
        CheckpointForm(name="*_temp/part-*.index", is_unfinished=True),
        CheckpointForm(name="variables/variables.index", is_second_choice=True),
        CheckpointForm(name="*.index", step=STEP),
        CheckpointForm(name="*", is_folder=True, holds=("latest.weights.h5", "training_metadata.json")),
        CheckpointForm(name="*.keras", step=STEP, is_second_choice=True),
        CheckpointForm(name="*.h5", step=STEP, is_second_choice=True),
    )
