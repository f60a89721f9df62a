"""What a check finds."""

from __future__ import annotations

from backprop_core.records import Record


class Target(Record, frozen=True):
    """A plugin to be checked: `module` or `module:attribute` to import, or a `file` to run.

    `search` are folders to import from besides the interpreter's own; `taken` are names of other plugins. `hooks` are
    those that its entry point names; empty where it names none.
    """

    name: str
    module: str | None = None
    file: str | None = None
    search: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()


class Problem(Record, frozen=True):
    """Something to mend; `where` names the hook, the part or the line, if there is one."""

    what: str
    mend: str
    where: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class Report(Record, frozen=True):
    """What was found out about one plugin; `import_s` is None where it does not import."""

    name: str
    path: str | None = None
    hooks: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    import_s: float | None = None
    problems: tuple[Problem, ...] = ()
