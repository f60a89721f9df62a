"""Checkpoints: found on disk, judged, remembered, and chosen to go on from."""

from .choice import checkpoint_given, named_by_plugins, newest_valid, recollected
from .forms import forms_for
from .search import SEARCH_CUT_SHORT, measure
from .validity import what_is_wrong
from .watching import CheckpointWatch, Neighbour, Whereabouts, look, undisputed

__all__ = [
    "SEARCH_CUT_SHORT",
    "CheckpointWatch",
    "Neighbour",
    "Whereabouts",
    "checkpoint_given",
    "forms_for",
    "look",
    "measure",
    "named_by_plugins",
    "newest_valid",
    "recollected",
    "undisputed",
    "what_is_wrong",
]
