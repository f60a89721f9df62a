"""The place where one call of the benchmarks measures: commands, homes, environments, past runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

CHILDREN = Path(__file__).with_name("children")
TRAPS = (
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "PYTHONHASHSEED",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
)
"""Variables that would slow every Python down, or change which one runs a script."""


class Skip(Exception):  # noqa: N818 - not an error
    """This benchmark cannot be run here; the text says why."""


class Bench:
    """Where and with what is measured.

    :param place: A folder of our own; homes and scripts go into it.
    :param original: The command of the TypeScript Backprop, None where it is not installed.
    :param guild: The command of Guild AI, None where it is not installed.
    """

    def __init__(
        self, place: Path, *, quick: bool, original: str | None = None, guild: str | None = None
    ) -> None:
        self.place = place
        self.quick = quick
        self.python = sys.executable
        self.backprop = [str(Path(sys.executable).with_name("backprop"))]
        self.original = shlex.split(original) if original else None
        self.guild = shlex.split(guild) if guild else None

    def repetitions(self, normal: int) -> int:
        """How often to repeat: once when it is to be quick."""
        return 1 if self.quick else normal

    def home(self, name: str) -> Path:
        """Make an empty home for Backprop."""
        home = self.place / "homes" / name
        home.mkdir(mode=0o700, parents=True)
        return home

    def environ(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of what is measured: without traps, with a home of its own, admitted on any machine."""
        kept = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("BACKPROP_") and name not in TRAPS
        }
        own = {
            "BACKPROP_HOME": str(home),
            "BACKPROP_MAX_CPU_LOAD": "1000",
            "BACKPROP_MIN_FREE_RAM_GB": "0.001",
            "BACKPROP_MAX_PARALLEL": "1000",
            "HOME": str(home),
            "GUILD_HOME": str(home / "guild"),
        }
        return {**kept, **own, **more}

    def environ_of_original(self, home: Path, past: Path | None = None) -> dict[str, str]:
        """The environment of the TypeScript Backprop, which starts `python` and keeps its records in `~/.backprop`.

        :param past: A home of ours whose records it is to find there.
        """
        if past is not None:
            (home / ".backprop").mkdir()
            shutil.copyfile(past / "experiments.json", home / ".backprop" / "experiments.json")
        environ = self.environ(home)
        return {**environ, "PATH": f"{Path(self.python).parent}{os.pathsep}{environ['PATH']}"}

    def run(self, script: Path, *options: str) -> list[str]:
        """The command line that runs a script under Backprop."""
        return [*self.backprop, "run", str(script), *options]

    def script(self, name: str, text: str) -> Path:
        """Write a script to measure with."""
        path = self.place / name
        path.write_text(text, "utf-8")
        return path

    def child(self, name: str) -> Path:
        """One of the scripts beside this module."""
        return CHILDREN / name


def fill(home: Path, count: int, storage: str, example: Mapping[str, object]) -> None:
    """Put runs that ended earlier into a home in which there is one, all after its example."""
    plain = {key: value for key, value in example.items() if key != "checksum"}
    records = [
        {**plain, "id": f"past-{number:06d}", "startTime": 1_700_000_000_000 + number}
        for number in range(count)
    ]
    if storage == "json":
        lines = ",\n".join(f"{json.dumps(each['id'])}: {json.dumps(each)}" for each in (*records, plain))
        (home / "experiments.json").write_text("{\n" + lines + "\n}\n", "utf-8")
        return
    with closing(sqlite3.connect(home / "experiments.db")) as database, database:
        database.executemany(
            "INSERT INTO runs (id, start_time, state, record) VALUES (?, ?, ?, ?)",
            ((each["id"], each["startTime"], plain["status"], json.dumps(each)) for each in records),
        )


def forget(home: Path) -> None:
    """Remove a home that is no longer needed."""
    shutil.rmtree(home, ignore_errors=True)
