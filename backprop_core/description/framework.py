"""The framework that a script uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from backprop_core.answers import is_name, is_number, is_text_or_none
from backprop_core.errors import UsageError
from backprop_core.interfaces import Framework
from backprop_core.plugins import Plugins, guarded
from backprop_core.records import Gpu, PluginFailure, RunRequest, Script


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
    if failure is None and is_number(score) and score >= 0:
        return float(score)
    error = f"it answered {score!r:.80}, not a number from 0 to 1"
    note(failure or PluginFailure(plugin=framework.name, hook="score", error=error))
    return 0.0


def answer_of(
    framework: Framework,
    plugins: Plugins,
    method: str,
    is_right: Callable[[object], bool],
    *arguments: object,
) -> list[Any]:
    """Ask a framework, and return its one answer.

    :returns: An empty list where it has no such method, fails, or answers what is not right; the latter two are told.
    """

    def call() -> list[Any]:
        ask = getattr(framework, method, None)
        return [] if ask is None else [ask(*arguments)]

    answer, failure = guarded(framework.name, method, call)
    if failure is None and all(map(is_right, answer)):
        return list(answer)
    error = f"it answered {type(answer[0]).__name__}, which is left out" if answer else ""
    plugins.note(failure or PluginFailure(plugin=framework.name, hook=method, error=error))
    return []


def memory_layer(
    framework: Framework | None, plugins: Plugins, request: RunRequest, gpus: Sequence[Gpu]
) -> str | None:
    """Name what holds the GPU memory limit, "watched only" where nothing better does; None without a limit."""
    if not request.limits.gpu_memory_limit or not gpus:
        return None
    named = answer_of(framework, plugins, "memory_layer", is_name, request, gpus[0]) if framework else []
    return str(named[0]) if named else "watched only"


def missing_line(
    framework: Framework | None, plugins: Plugins, script: Script, arguments: Sequence[str]
) -> str | None:
    """Say which line the script lacks to go on from a checkpoint; None where nothing is known to be missing."""
    if framework is None or any("{resume_from}" in argument for argument in arguments):
        return None
    lines = answer_of(framework, plugins, "missing_line", is_text_or_none, script)
    return lines[0] if lines else None


def _unknown(wanted: str, known: Iterable[str]) -> UsageError:
    from difflib import get_close_matches

    names = ["auto", *sorted(known)]
    close = get_close_matches(wanted, names, n=1)
    installed = f"installed: {', '.join(names)}"
    return UsageError(
        f"there is no framework {wanted}", f"did you mean {close[0]}? {installed}" if close else installed
    )
