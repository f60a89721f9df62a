"""How scripts take a checkpoint, told from their options and from what they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backprop_core import Script

if TYPE_CHECKING:
    from backprop_core import Source

_NAMES = (
    "resume from checkpoint",
    "ckpt path",
    "resume from",
    "resume path",
    "resume checkpoint",
    "resume ckpt",
    "restore from",
)
OPTIONS = tuple("--" + name.replace(" ", sign) for name in _NAMES for sign in "_-")
"""Options that clearly take a path, in both spellings."""
SWITCH = "--resume"
"""Takes a path in some scripts, and nothing in others: only what its source declares tells."""

KERAS_RESUMES = frozenset(
    {"BackupAndRestore", "initial_epoch", "load_model", "load_weights"}
    | {"restore", "restore_or_initialize", "latest_checkpoint"}
)
"""What a script names that goes on from a checkpoint of Keras or TensorFlow."""
KERAS_LINE = '$.fit(..., callbacks=[keras.callbacks.BackupAndRestore("backup")])'


def resume_arguments(script: Script, checkpoint: Path) -> tuple[str, ...]:
    """Use the first common option that the source spells; the core itself passes `--resume-from`."""
    if "--resume-from" in script.options:
        return ()
    for option in OPTIONS:
        if option in script.options and option not in script.switches:
            return (option, str(checkpoint))
    if SWITCH in script.switches:
        return (SWITCH,)
    if SWITCH in script.valued:
        return (SWITCH, str(checkpoint))
    return ()


def takes_checkpoint(script: Script, source: Source) -> bool:
    """Tell whether the script takes a checkpoint in a way that does not depend on its framework."""
    is_told = "BACKPROP_RESUME_FROM" in source.texts or "resume_path" in source.names
    return is_told or "--resume-from" in script.options or bool(resume_arguments(script, Path("x")))


def missing_line(script: Script, names: frozenset[str], call: str, line: str) -> str | None:
    """Say which line lets the script go on from a checkpoint; None where it does, as far as its source tells.

    :param names: What a script of this framework names that goes on by itself.
    :param call: The method whose call the line stands in for.
    """
    from backprop_core import read_source

    source = read_source(script)
    if takes_checkpoint(script, source) or names & source.names:
        return None
    calls = [each for each in source.calls if each.name == call]
    where = f"{calls[0].path.name}, line {calls[0].line}: " if calls else ""
    receiver = calls[0].receiver if calls and calls[0].receiver else None
    return where + (line.replace("$", receiver) if receiver else line.replace("$", "trainer"))
