"""`backprop init`: a commented settings file to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backprop_core.errors import BackpropError, UsageError
from backprop_core.settings import DECLARED, Setting
from backprop_core.settings_files import JSON_NAMES, TOML_NAME

from .app import say
from .declared import Command, Given


def init(_given: Given) -> int:
    folder = Path.cwd()
    for name in (*JSON_NAMES, TOML_NAME):
        if (folder / name).exists():
            raise UsageError(
                f"there is a settings file already: {folder / name}",
                "change it, or use `backprop config set`",
            )
    path = folder / TOML_NAME
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starting_text())
    except OSError as error:
        raise BackpropError(f"{path} cannot be written: {error.strerror}") from error
    say(f"wrote {path}")
    return 0


COMMAND = Command(init)


def starting_text() -> str:
    """Write every setting with its meaning and its default (an example where there is none), commented out."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Settings for Backprop. Remove a leading # to change a value; what is no example is the default."
    for setting in DECLARED.values():
        if not setting.key.startswith("gpu."):
            yield from _entry(setting, setting.snake)
    yield ""
    yield "[gpu]"
    for setting in DECLARED.values():
        if setting.key.startswith("gpu."):
            yield from _entry(setting, setting.snake.removeprefix("gpu."))


def _entry(setting: Setting, name: str) -> Iterator[str]:
    yield ""
    yield f"# {setting.help}"
    yield f"# {name} = {_toml(setting)}" + ("  # an example" if setting.default is None else "")


_EXAMPLES = {
    "slices": 5,
    "totalMinutes": 600,
    "until": "18:00",
    "stallMinutes": 30,
    "gpuMemoryLimit": "80%",
    "checkpointEveryMinutes": 5,
    "through": "torchrun --nproc-per-node 2",
    "python": ".venv/bin/python",
    "checkpointGlob": "checkpoints/*.pt",
}


def _toml(setting: Setting) -> str:
    import tomli_w

    value: Any = _EXAMPLES.get(setting.key) if setting.default is None else setting.default
    value = list(value) if isinstance(value, tuple) else value
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")
