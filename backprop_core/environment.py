"""What a script is told: its command line and its environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .answers import are_variables
from .locks import open_private, private_folder
from .plugins import Plugins
from .records import Gpu, PluginFailure, Record, RunRequest
from .settings import RUN_VARIABLES

OPTION_OF = {
    "--resume-from": "resume_from",
    "--run-id": "run_id",
    "--max-minutes": "max_minutes",
    "--framework": "framework",
    "--checkpoint-every-seconds": "checkpoint_every_s",
}
"""Arguments that a script gets when its source names them and the person did not give them."""

KEPT = frozenset(
    "CUBLAS_WORKSPACE_CONFIG CUDA_VISIBLE_DEVICES HF_DATASETS_CACHE HF_DATASETS_OFFLINE HF_HOME HF_HUB_CACHE "
    "HF_HUB_OFFLINE HIP_VISIBLE_DEVICES JAX_ENABLE_X64 JAX_PLATFORMS KERAS_BACKEND KERAS_HOME LD_LIBRARY_PATH "
    "MKL_NUM_THREADS OMP_NUM_THREADS OPENBLAS_NUM_THREADS PYTHONHASHSEED PYTHONPATH PYTORCH_ALLOC_CONF "
    "PYTORCH_CUDA_ALLOC_CONF ROCR_VISIBLE_DEVICES TF_DETERMINISTIC_OPS TOKENIZERS_PARALLELISM TORCH_HOME "
    "TRANSFORMERS_OFFLINE WANDB_MODE WANDB_NAME WANDB_PROJECT WANDB_RUN_ID XLA_FLAGS".split()
)
"""The variables that a run is resumed with: they decide what is computed, and where things are found.

No other variable is recorded. None of these is where secrets are kept.
"""


class Told(Record, frozen=True):
    """What an attempt tells its script. None means that there is nothing to tell."""

    run_id: str
    attempt: int
    run_dir: Path
    max_minutes: float
    checkpoint_every_s: float | None = None
    resume_from: Path | None = None
    framework: str | None = None


def command_line(
    request: RunRequest, told: Told, *, through: str | None = None, resume_arguments: Sequence[str] = ()
) -> tuple[str, ...]:
    """Build the argument list that the keeper executes.

    `{resume_from}` in the person's arguments becomes the checkpoint's path, or nothing on a fresh start.
    """
    script = request.script
    place = ("-m", script.module) if script.module else (str(script.path),)
    python = request.python or "python3"
    start = _through(through, python) if through else (python,)
    checkpoint = str(told.resume_from or "")
    given = tuple(argument.replace("{resume_from}", checkpoint) for argument in request.arguments)
    is_placed = any("{resume_from}" in argument for argument in request.arguments)
    last = () if is_placed else resume_arguments
    return (*start, *place, *given, *_named_options(request, told), *last)


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is recorded of the environment that a run begins in."""
    return {name: environ[name] for name in sorted(KEPT) if environ.get(name, "\0").isprintable()}


def restored(
    recorded: Mapping[str, str], environ: Mapping[str, str], tell: Callable[[str], None]
) -> Mapping[str, str]:
    """Return the environment of now with what is missing of the recorded one; what is set now stays, aloud."""
    missing = {name: value for name, value in recorded.items() if name in KEPT and name not in environ}
    if missing:
        tell(f"set as when the run began: {', '.join(missing)}")
    for name, value in recorded.items():
        if name in KEPT and environ.get(name, value) != value:
            tell(f"{name} is {environ[name]!r} now, it was {value!r} when the run began")
    return {**environ, **missing}


def _through(through: str, python: str) -> tuple[str, ...]:
    """Take a launcher command from the interpreter's own folder where it is there.

    One that another folder of PATH holds, and that is a Python script, is run by the interpreter too: its own
    may be another environment's, in which the training script would then run.
    """
    program, *rest = shlex.split(through)
    if "/" in program:
        return (program, *rest)
    beside = Path(python).parent / program
    if beside.is_file():
        return (str(beside), *rest)
    from shutil import which

    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(place)]
    elsewhere = which(program, path=os.pathsep.join(places))
    return (python, elsewhere, *rest) if elsewhere and _is_python_script(elsewhere) else (program, *rest)


def _is_python_script(path: str) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        first = file.readline(256)
        return first.startswith(b"#!") and b"python" in first
    return False


def _named_options(request: RunRequest, told: Told) -> Iterable[str]:
    for option, field in OPTION_OF.items():
        value = getattr(told, field)
        is_given = any(word == option or word.startswith(f"{option}=") for word in request.arguments)
        if value is not None and option in request.script.options and not is_given:
            yield from (option, _text(value))


def _text(value: Any) -> str:
    # Never with an exponent: int() in Python and arithmetic in a shell do not take one.
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def contract(told: Told) -> dict[str, str]:
    """Return the variables of the environment contract."""
    values = {
        "BACKPROP_RUN_ID": told.run_id,
        "BACKPROP_ATTEMPT": told.attempt,
        "BACKPROP_RUN_DIR": told.run_dir,
        "BACKPROP_MAX_RUN_SECONDS": told.max_minutes * 60,
        "BACKPROP_CHECKPOINT_EVERY_SECONDS": told.checkpoint_every_s,
        "BACKPROP_RESUME_FROM": told.resume_from,
        "BACKPROP_FRAMEWORK": told.framework,
    }
    return {name: _text(value) for name, value in values.items() if value is not None}


def build(  # one argument a source
    inherited: Mapping[str, str],
    *,
    told: Told,
    unbuffered: bool,
    helper: Path | None = None,
    answers: Sequence[Mapping[str, str]] = (),
    confined_to: Mapping[str, str],
) -> dict[str, str]:
    """Build the script's environment: what Backprop inherited, then plugins' answers, GPUs, and the contract.

    :param helper: A folder to append to PYTHONPATH, that holds the script helper alone.
    :param answers: What the framework and the plugins add, the most important first.
    """
    # An outer run's variables must not reach an inner one.
    environment = {name: value for name, value in inherited.items() if name not in RUN_VARIABLES}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    for answer in reversed(answers):
        environment.update((name, value) for name, value in answer.items() if name not in RUN_VARIABLES)
    environment.update(confined_to)
    environment.update(contract(told))
    if helper:
        paths = [environment.get("PYTHONPATH"), str(helper)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def from_plugins(plugins: Plugins, request: RunRequest, gpu: Gpu | None) -> list[Mapping[str, str]]:
    """Ask the plugins for variables; one that answers anything but texts is left out and named."""
    answers = []
    for answer in plugins.ask("backprop_environment", request=request, gpu=gpu):
        if answer.failure:
            continue
        if are_variables(answer.value):
            answers.append(answer.value)
        else:
            error = "what it answered are no names and texts of variables, left out"
            plugins.note(PluginFailure(plugin=answer.plugin, hook="backprop_environment", error=error))
    return answers


def helper_folder(home: Path) -> Path:
    """Return a folder that holds `backprop_core.script` alone, for interpreters without the distribution."""
    source = Path(__file__).with_name("script.py").read_bytes()
    folder = home / "cache" / "script-helper"
    package = folder / "backprop_core"
    for path, content in ((package / "__init__.py", b""), (package / "script.py", source)):
        if not path.is_file() or path.read_bytes() != content:
            for part in (home / "cache", folder, package):
                private_folder(part)
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            with os.fdopen(open_private(fresh, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                file.write(content)
            fresh.replace(path)
    return folder
