"""Keeping track of a running attempt's checkpoints: those that are announced, and those that lie on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from backprop_core.clock import now_ms, now_s
from backprop_core.records import CheckpointForm, CheckpointSaved, Record

from . import ledger
from .ledger import Known
from .neighbours import Neighbour
from .places import Whereabouts, is_within
from .search import Find, measure, search
from .validity import what_is_wrong

FIRST_LOOK_S = 15.0
LOOK_EVERY_S = 30.0
COST_SHARE = 0.001
"""What part of the time searching may take; a search that takes longer is repeated less often."""
SETTLED_MS = 2000
"""How long a checkpoint must not have been written to before it counts, while the script may be writing it."""
LAST_LOOK_S = 3.0


class Looked(Record, frozen=True):
    """What one look at the disk has brought."""

    news: tuple[Known, ...] = ()
    is_cut: bool = False


def look(
    where: Whereabouts,
    known: ledger.Ledger,
    *,
    settled_ms: int = 0,
    is_needed: Callable[[], bool] = lambda: True,
) -> Looked:
    """Look at the disk, and return what the ledger does not know yet, judged.

    :param settled_ms: What was written to since so long ago does not count, nor does then what is broken: the
        script may be writing it.
    """
    findings = search(where.places().all, where.forms, where.since_ms, is_needed=is_needed)
    by_pattern = _from_pattern(where)
    found = {str(find.path): (find, "found") for find in findings.finds}
    found |= {str(find.path): (find, "glob") for find in by_pattern}
    latest = now_ms() - settled_ms
    news = []
    for path, (find, learned) in found.items():
        before = known.get(path)
        if (before and before.at == find.at_ms and before.size_bytes == find.size_bytes) or (
            settled_ms and find.at_ms > latest
        ):
            continue
        entry = _known(find, "glob" if learned == "glob" else "found", where.forms)
        if not (settled_ms and entry.problem):
            news.append(entry)
    return Looked(news=tuple(news), is_cut=findings.is_cut)


def _known(find: Find, learned: ledger.Learned, forms: Sequence[CheckpointForm]) -> Known:
    return Known(
        path=str(find.path),
        learned=learned,
        step=find.step,
        size_bytes=find.size_bytes,
        at=find.at_ms,
        problem=what_is_wrong(find.path, forms),
        is_second_choice=find.is_second_choice,
    )


def _from_pattern(where: Whereabouts) -> list[Find]:
    """Find what `checkpointGlob` names and this run has written."""
    if not where.pattern:
        return []
    import glob

    paths = (Path(where.cwd, name) for name in glob.iglob(where.pattern, root_dir=where.cwd, recursive=True))
    finds = (find for path in paths if (find := measure(path, where.forms)))
    return [find for find in finds if find.at_ms >= where.since_ms]


def undisputed(
    news: Sequence[Known], where: Whereabouts, known: ledger.Ledger, neighbour: Neighbour
) -> tuple[Known, ...]:
    """Leave out what may as well be the neighbour's.

    What lies where this run's arguments point is its own, and so is what lies where its source points, if the
    neighbour is of another script.
    """
    places = where.places()
    named = (*places.by_arguments, *(() if neighbour.has_same_script else places.by_source))
    return tuple(
        entry
        for entry in news
        if entry.learned != "found" or entry.path in known or is_within(Path(entry.path), named)
    )


class CheckpointWatch:
    """Keeps the ledger of one attempt, and looks at the disk now and then, on a thread of its own."""

    def __init__(
        self, where: Whereabouts, find_neighbour: Callable[[], Neighbour | None] = lambda: None
    ) -> None:
        self._where = where
        self._find_neighbour = find_neighbour
        self._ledger = ledger.read(where.folder)
        self._next_look_s = now_s() + FIRST_LOOK_S
        self._thread: threading.Thread | None = None
        self._looked: Looked | None = None
        self._is_over = False
        self.is_cut = False
        self.neighbour: Neighbour | None = None

    @property
    def ledger(self) -> ledger.Ledger:
        """What is known."""
        return self._ledger

    def announced(self, saved: Iterable[CheckpointSaved]) -> None:
        """Take in what the script said."""
        news = []
        for event in {event.path: event for event in saved}.values():
            find = measure(Path(event.path), self._where.forms)
            news.append(
                Known(
                    path=event.path,
                    learned="announced",
                    step=event.step,
                    size_bytes=find.size_bytes if find else None,
                    at=find.at_ms if find else now_ms(),
                )
            )
        ledger.add(self._ledger, news)

    def look_if_due(self, wake: Callable[[], None]) -> tuple[Known, ...]:
        """Begin a look when it is time for one, and return what the last one brought, once.

        :param wake: Called on the thread when the look is over.
        """
        if self._thread is None and now_s() >= self._next_look_s and self._has_somewhere_to_look:
            self._thread = threading.Thread(
                target=self._look, args=(wake,), name="backprop-checkpoints", daemon=True
            )
            self._thread.start()
        if self._looked is None:
            return ()
        self._thread = None
        return self._take_in()

    def last_look(self) -> tuple[Known, ...]:
        """Look once more, now that nothing writes any more; gives up after three seconds."""
        self._is_over = True
        if self._thread is not None:
            self._thread.join(LAST_LOOK_S)
        news = self._take_in()
        if self._has_somewhere_to_look:
            thread = threading.Thread(target=self._look, args=(lambda: None, 0), daemon=True)
            thread.start()
            thread.join(LAST_LOOK_S)
            self.is_cut = self.is_cut or thread.is_alive()
            news += self._take_in()
        with suppress(OSError):  # the record holds their paths
            ledger.write(self._where.folder, self._ledger)
        return news

    @property
    def _has_somewhere_to_look(self) -> bool:
        return bool(self._where.forms or self._where.pattern)

    def _look(self, wake: Callable[[], None], settled_ms: int = SETTLED_MS) -> None:
        began_s = now_s()
        is_needed = (lambda: not self._is_over) if settled_ms else (lambda: True)
        self._looked = look(self._where, self._ledger, settled_ms=settled_ms, is_needed=is_needed)
        self._next_look_s = now_s() + max(LOOK_EVERY_S, (now_s() - began_s) / COST_SHARE)
        wake()

    def _take_in(self) -> tuple[Known, ...]:
        looked, self._looked = self._looked, None
        if looked is None:
            return ()
        self.is_cut = self.is_cut or looked.is_cut
        news = looked.news
        if news and (neighbour := self._find_neighbour()):
            news = undisputed(news, self._where, self._ledger, neighbour)
            self.neighbour = neighbour if len(news) < len(looked.news) else self.neighbour
        self._ledger = ledger.merged(self._ledger, news)
        if news:
            with suppress(OSError):
                ledger.write(self._where.folder, self._ledger)
        return news
