"""The framework that a script uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from backprop_core.errors import UsageError
from backprop_core.interfaces import Framework
from backprop_core.plugins import guarded
from backprop_core.records import PluginFailure, Script


def choose_framework(
    frameworks: Sequence[Framework],
    script: Script,
    wanted: str,
    note: Callable[[PluginFailure], None] = lambda _: None,
) -> tuple[Framework | None, dict[str, float]]:
    """Choose the framework that a script uses, and give the scores of all that recognise it.

    A script that uses a framework built on another often imports both, and the lower one more visibly. So
    the lowest `order` with at least half of the best score wins; between equal orders, which stand beside
    each other, the score decides, then the name.

    :param wanted: A name, or "auto".
    :param note: Is given the failure of a framework that cannot tell its score.
    :returns: None for the framework where nothing recognises the script.
    :raises UsageError: when `wanted` is not installed.
    """
    # Of two with one name the first counts: plugins are asked from the user's own to the built-in ones.
    known = {each.name: each for each in reversed(frameworks)}
    scores = {
        name: min(1.0, score) for name, each in known.items() if (score := _score(each, script, note)) > 0
    }
    if wanted != "auto":
        if wanted not in known:
            raise _unknown(wanted, known)
        return known[wanted], scores
    best = max(scores.values(), default=0.0)
    candidates = [known[name] for name, score in scores.items() if score >= best / 2]
    candidates.sort(key=lambda each: (each.order, -scores[each.name], each.name))
    return (candidates[0] if candidates else None), scores


def _score(framework: Framework, script: Script, note: Callable[[PluginFailure], None]) -> float:
    """Ask for the score; a framework that fails does not recognise the script."""
    score, failure = guarded(framework.name, "score", framework.score, script)
    if failure is None and isinstance(score, int | float):
        return float(score)
    error = f"it answered {type(score).__name__}, not a number"
    note(failure or PluginFailure(plugin=framework.name, hook="score", error=error))
    return 0.0


def _unknown(wanted: str, known: Iterable[str]) -> UsageError:
    from difflib import get_close_matches

    names = ["auto", *sorted(known)]
    close = get_close_matches(wanted, names, n=1)
    installed = f"installed: {', '.join(names)}"
    return UsageError(
        f"there is no framework {wanted}", f"did you mean {close[0]}? {installed}" if close else installed
    )
