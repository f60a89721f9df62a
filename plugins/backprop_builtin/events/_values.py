"""Numbers with names in a line of output, and which of them is the training loss."""

from __future__ import annotations

from collections.abc import Iterable

from backprop_core import pattern

NUMBER = r"(?>[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|(?i:nan|inf(?:inity)?)(?![a-z])))"
"""A number as Python prints one, whole or not at all. The core counts and drops what is not finite."""

TRAINING_LOSSES = (
    "loss",
    "train_loss",
    "training_loss",
    "train/loss",
    "loss_step",
    "train_loss_step",
    "avg_loss",
    "running_loss",
)
"""What trainers call their training loss; the first of these that a line names is taken."""

# The amounts of white space are bounded throughout these parsers: a line of 64 KiB must not cost its square.
_ITEM = pattern(rf"\s{{0,4}}([^=:]{{1,80}}?)\s{{0,4}}[=:]\s{{0,4}}({NUMBER})(?=[\s%]|$)")


def named_numbers(items: Iterable[str]) -> dict[str, float]:
    """Read `name=number` or `name: number` from each item; items that are neither are left out.

    White space in a name becomes `_`.
    """
    found = {}
    for item in items:
        if match := _ITEM.match(item):
            found["_".join(match[1].split())] = float(match[2])
    return found


def take_training_loss(values: dict[str, float]) -> float | None:
    """Take the training loss out of the values; None when they name none."""
    for name in TRAINING_LOSSES:
        for written in (name, name.capitalize()):
            if written in values:
                return values.pop(written)
    return None
