"""Other runs that train in the same folder at the same time."""

from __future__ import annotations

from backprop_core.records import Record, RunRecord


class Neighbour(Record, frozen=True):
    """Another run that trains, or trained, in the same folder at the same time; its checkpoints lie there, too."""

    run_id: str
    has_same_script: bool


def as_neighbour(other: RunRecord | None, record: RunRecord) -> Neighbour | None:
    """Describe a run whose checkpoints may be taken for those of this one."""
    return (
        None
        if other is None
        else Neighbour(run_id=other.id, has_same_script=other.script_path == record.script_path)
    )


def disputed_in_words(neighbour: Neighbour) -> str:
    """Say why some of what was found is left out, and what to do about it."""
    return (
        f"checkpoints were found that may be those of run {neighbour.run_id}, which trained in the same folder at "
        "the same time: they are left out; give each run an output folder of its own, or name one with -r"
    )
