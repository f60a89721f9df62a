"""Settings files: where they are looked for, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import SettingsError
from .patterns import pattern
from .records import Record

JSON_NAMES = ("backprop.config.json", ".backprop.json")
TOML_NAME = "backprop.toml"
_OUR_TABLE = pattern(r"^\s*\[\s*tool\s*\.\s*backprop\s*[.\]]", re.MULTILINE)
_LONG_NUMBER = pattern(r"\d{1000,}")


class Origin(Record, frozen=True):
    """Where a value came from, as `config show` prints it. `text` is the file's, for finding lines."""

    label: str
    text: str | None = None

    def at(self, key: str) -> str:
        """Name the place, with the line where the key stands if that can be told."""
        last = re.escape(key.rsplit(".", maxsplit=1)[-1])
        found = (
            re.search(rf'^[^\n#]*?(?<![\w-])["\']?{last}["\']?\s*[:=\]]', self.text, re.MULTILINE)
            if self.text
            else None
        )
        if not found or not self.text:
            return self.label
        return f"{self.label}, line {self.text.count(chr(10), 0, found.end()) + 1}"


def find_project_file(script: Path | None, cwd: Path, environ: Mapping[str, str]) -> Path | None:
    """Find the project's settings file: from the script's folder upwards, else from the working directory.

    The search ends at the repository root (a folder with `.git`), at the home folder, or at the top.
    """
    home = environ.get("HOME")
    starts = [script.parent] if script else []
    for start in [*starts, cwd]:
        for folder in (start, *start.parents):
            if found := _settings_file_in(folder):
                return found
            if (folder / ".git").exists() or str(folder) == home:
                break
    return None


def _settings_file_in(folder: Path) -> Path | None:
    for name in (*JSON_NAMES, TOML_NAME):
        if (folder / name).is_file():
            return folder / name
    project = folder / "pyproject.toml"
    if project.is_file() and _OUR_TABLE.search(project.read_text("utf-8", "replace")):
        return project
    return None


def read_file(path: Path) -> tuple[Origin, dict[str, Any]]:
    """Read a settings file.

    :raises SettingsError: naming the file, the line and the column, when it does not parse.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error}") from error
    values = _parse_json(path, text) if path.suffix == ".json" else _parse_toml(path, text)
    if not isinstance(values, dict):
        raise SettingsError(
            f"the settings file {path} holds no object", 'it must look like {"maxRunMinutes": 10}'
        )
    return Origin(label=str(path), text=text), values


def _parse_json(path: Path, text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise SettingsError(
            f"{place}: {error.msg}", "correct the file, or check it with a JSON tool"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _beyond_reading(path, text, error) from None


def _beyond_reading(path: Path, text: str, error: Exception) -> SettingsError:
    """Say of text whose syntax may be right why it is too much: nested too deeply, or a number too long."""
    found = _LONG_NUMBER.search(text) if isinstance(error, ValueError) else None
    before = text[: found.start()] if found else ""
    place = f"{path}, line {before.count(chr(10)) + 1}, column {len(before.rpartition(chr(10))[2]) + 1}"
    what = "a number that is too long" if isinstance(error, ValueError) else "nested too deeply"
    return SettingsError(f"{place}: {what}", "correct the file")


def _parse_toml(path: Path, text: str) -> Any:
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        message, line, column = found.groups() if found else (str(error), None, None)
        lines = text.splitlines() or [""]
        place = f"{path}, line {line or len(lines)}, column {column or len(lines[-1]) + 1}"
        raise SettingsError(f"{place}: {message}", "correct the file: it must be TOML") from None
    except (ValueError, RecursionError) as error:
        raise _beyond_reading(path, text, error) from None
    return values.get("tool", {}).get("backprop", {}) if path.name == "pyproject.toml" else values
