"""The storage and the launcher that were chosen, guarded: whatever a plugin's code raises has a name.

Before a run starts such an error is fatal; while its script runs it is a loss that is said once and counted,
as every other failure of a storage is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from .answers import are_texts
from .errors import BackpropError, LauncherError, StorageError
from .interfaces import Launcher, Storage
from .plugins import translating
from .records import EngineState, Intent, RunRecord

STORAGE_NEEDS = ("get", "save", "runs", "delete", "append_metrics", "metrics", "post", "take", "close")
_ANSWERS: Mapping[str, tuple[type, ...]] = {
    "get": (RunRecord, type(None)),
    "runs": (Sequence,),
    "meant_by": (Sequence,),
    "metrics": (Iterable,),
    "take": (Intent, type(None)),
    "preflight": (Sequence,),
    "render": (str,),
    "submit": (str,),
    "state": (Mapping,),
}
"""What a method must answer with to be of use; those that are not named may answer anything."""


_MISSING = object()


class _Guarded:
    """Has every attribute of a part; its methods raise nothing but errors of Backprop's own tree."""

    def __init__(self, part: object, called: str, as_error: type[BackpropError], origin: str | None) -> None:
        self._part = part
        self._called = called
        self._as_error = as_error
        self._origin = origin

    def __getattr__(self, name: str) -> Any:
        with translating(self._called, name, self._as_error, self._origin):
            found = getattr(self._part, name, _MISSING)
        if found is _MISSING:
            raise AttributeError(name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            with translating(self._called, name, self._as_error, self._origin):
                answer = found(*arguments, **named)
            if not _is_of_use(name, answer):
                raise self._as_error(
                    f"{self._called} answers {name} with {type(answer).__name__}", self._origin
                )
            return self._iterated(name, answer) if isinstance(answer, Iterator) else answer

        return call

    def _iterated(self, name: str, answer: Iterator[Any]) -> Iterator[Any]:
        with translating(self._called, name, self._as_error, self._origin):
            yield from answer


def _is_of_use(name: str, answer: object) -> bool:
    kinds = _ANSWERS.get(name)
    if kinds is None or not isinstance(answer, kinds):
        return kinds is None
    if name in {"runs", "meant_by"}:
        return all(isinstance(record, RunRecord) for record in cast(Sequence[object], answer))
    if name == "preflight":
        return are_texts(answer)
    if name == "state":
        return all(isinstance(state, EngineState) for state in cast(Mapping[str, object], answer).values())
    return str in kinds or not isinstance(answer, str)


def guarded_storage(storage: object, name: str, origin: str | None = None) -> Storage:
    """Guard an open storage.

    :param origin: Which plugin brought it, in words; None for one of Backprop's own.
    :raises StorageError: when it lacks a method that a storage has.
    """
    with translating(f"storage {name!r}", "what it opened", StorageError, origin):
        missing = [method for method in STORAGE_NEEDS if not callable(getattr(storage, method, None))]
    if missing:
        raise StorageError(f"storage {name!r} opened something without {', '.join(missing)}", origin)
    return cast(Storage, _Guarded(storage, f"storage {name!r}", StorageError, origin))


def guarded_launcher(launcher: Launcher, origin: str | None = None) -> Launcher:
    """Guard a launcher; `origin` is as of a storage."""
    return cast(Launcher, _Guarded(launcher, f"launcher {launcher.name!r}", LauncherError, origin))
