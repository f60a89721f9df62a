"""The storage and the launcher that were chosen, guarded: whatever a plugin's code raises has a name.

So has one that does not come back: what the main loop of a run calls is interrupted. Before a run starts such an error
is fatal; while its script runs it is a loss that is said once and counted, as every other failure of a storage is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from .alarm import Alarm, TookTooLongError
from .answers import are_texts
from .errors import BackpropError, HangingStorageError, LauncherError, StorageError
from .interfaces import Launcher, Storage
from .plugins import translating
from .records import EngineState, Intent, Record, RunRecord

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

STORAGE_PATIENCE = Alarm(idle_s=15.0, busy_s=60.0)
"""For what a run asks of its storage again and again; to wait for a lock that is held takes ours 10 s."""

LAUNCHER_PATIENCE = Alarm(idle_s=60.0, busy_s=60.0)
"""A cluster's controller may be busy for a while."""

_ASKED_BY_RUNS = frozenset({"get", "save", "append_metrics", "post", "take", "close"})
"""What takes long with many runs, such as a listing, a removal or a copy, is for a person to interrupt."""

_LAUNCHER_NEEDS = frozenset({"preflight", "render", "submit", "state", "cancel"})

_MISSING = object()


class _Patience(Record, frozen=True):
    """How long which methods may take, and what it is to be called when they take longer."""

    alarm: Alarm
    methods: Collection[str]
    as_error: type[BackpropError]


class _Guarded:
    """Has every attribute of a part; its methods raise nothing but errors of Backprop's own tree."""

    def __init__(
        self,
        part: object,
        called: str,
        as_error: type[BackpropError],
        patience: _Patience,
        origin: str | None,
    ) -> None:
        self._part = part
        self._called = called
        self._as_error = as_error
        self._patience = patience
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
                answer = self._bounded(name, found, arguments, named)
            if not _is_of_use(name, answer):
                raise self._as_error(
                    f"{self._called} answers {name} with {type(answer).__name__}", self._origin
                )
            return self._iterated(name, answer) if isinstance(answer, Iterator) else answer

        return call

    def _bounded(
        self, name: str, method: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Any:
        patience = self._patience
        if name not in patience.methods:
            return method(*arguments, **named)
        try:
            with patience.alarm:
                return method(*arguments, **named)
        except TookTooLongError as error:
            if error.alarm is not patience.alarm:
                raise
            raise patience.as_error(f"{self._called} hangs in {name}: {error}", self._origin) from error

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


def guarded_storage(
    storage: object, name: str, origin: str | None = None, alarm: Alarm = STORAGE_PATIENCE
) -> Storage:
    """Guard an open storage.

    :param origin: Which plugin brought it, in words; None for one of Backprop's own.
    :param alarm: Goes off when one call of what runs ask for takes too long.
    :raises StorageError: when it lacks a method that a storage has.
    """
    with translating(f"storage {name!r}", "what it opened", StorageError, origin):
        missing = [method for method in STORAGE_NEEDS if not callable(getattr(storage, method, None))]
    if missing:
        raise StorageError(f"storage {name!r} opened something without {', '.join(missing)}", origin)
    patience = _Patience(alarm=alarm, methods=_ASKED_BY_RUNS, as_error=HangingStorageError)
    return cast(Storage, _Guarded(storage, f"storage {name!r}", StorageError, patience, origin))


def guarded_launcher(launcher: Launcher, origin: str | None = None) -> Launcher:
    """Guard a launcher; `origin` is as of a storage."""
    patience = _Patience(alarm=LAUNCHER_PATIENCE, methods=_LAUNCHER_NEEDS, as_error=LauncherError)
    return cast(Launcher, _Guarded(launcher, f"launcher {launcher.name!r}", LauncherError, patience, origin))
