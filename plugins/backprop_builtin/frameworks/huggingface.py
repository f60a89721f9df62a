"""Hugging Face Transformers: its Trainer, and the trainers that are built on it.

The Trainer saves folders `checkpoint-STEP`, and `trainer_state.json` last.
"""

from __future__ import annotations

from pathlib import Path

from backprop_core import CheckpointForm, Framework, Script, hookimpl

from ._on_pytorch import OnPyTorch
from ._resume import resume_arguments

WEIGHTS = {
    "transformers.Trainer": 1.0,
    "transformers.TrainingArguments": 1.0,
    "transformers.Seq2SeqTrainer": 1.0,
    "transformers.Seq2SeqTrainingArguments": 1.0,
    "transformers.HfArgumentParser": 0.8,
    "trl": 1.0,
    "sentence_transformers.SentenceTransformerTrainer": 1.0,
    "setfit": 0.8,
    "transformers": 0.4,
}
"""What importing a name says about it."""
FORMS = (
    CheckpointForm(
        name="checkpoint-[0-9]*",
        is_folder=True,
        written_last=("trainer_state.json",),
        unfinished=("checkpoint-is-incomplete.txt",),
        step=r"checkpoint-(\d+)$",
    ),
)
"""The order of saving is that of Trainer._save_checkpoint, the mark that of trainer_jit_checkpoint.py (5.x)."""
RESUMES = frozenset({"resume_from_checkpoint", "get_last_checkpoint"})
"""What a script names that goes on from a checkpoint."""
LINE = '$.train(resume_from_checkpoint=os.environ.get("BACKPROP_RESUME_FROM"))'

PARSERS = ("transformers.HfArgumentParser", "trl.TrlParser")


@hookimpl
def backprop_framework() -> Framework:
    return OnPyTorch(
        name="huggingface",
        order=20,
        weights=WEIGHTS,
        checkpoint_forms=FORMS,
        resumes=RESUMES,
        call="train",
        line=LINE,
        arguments=arguments,
    )


def arguments(script: Script, checkpoint: Path) -> tuple[str, ...]:
    """Give scripts what they spell, and those that parse training arguments the one that they look at.

    Such a parser has an option for each training argument; the Trainer itself does not look at this one.
    """
    from backprop_core import read_source

    spelt = resume_arguments(script, checkpoint)
    if spelt or not any(name in script.imports for name in PARSERS):
        return spelt
    is_used = "resume_from_checkpoint" in read_source(script).names
    return ("--resume_from_checkpoint", str(checkpoint)) if is_used else ()
