"""Options with which training scripts commonly take a checkpoint."""

from __future__ import annotations

from pathlib import Path

from backprop_core import Script

OPTIONS = ("--resume_from_checkpoint", "--resume-from-checkpoint", "--ckpt_path", "--ckpt-path")
"""Those that clearly take a path; of a plain `--resume` nobody knows whether it takes a value."""


def resume_arguments(script: Script, checkpoint: Path) -> tuple[str, ...]:
    """Use the first common option that the source spells; the core itself passes `--resume-from`."""
    if "--resume-from" in script.options:
        return ()
    for option in OPTIONS:
        if option in script.options:
            return (option, str(checkpoint))
    return ()
