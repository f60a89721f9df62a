"""Settings: defaults < user file < project file < environment < flags, with the origin of each kept.

One declaration, the `Settings` struct, feeds the files, the variables, the flags and the reference page.
"""

# No `from __future__ import annotations`: msgspec would compile and evaluate each of the forty annotations, one by one.
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from .clock import next_moment
from .errors import SettingsError
from .records import EMPTY, Limits, Record
from .settings_files import Origin, find_project_file, read_file
from .units import memory_limit_mb

_EXACT = {
    "min_free_ram_gb": "minFreeRamGB",
    "max_log_mb": "maxLogMB",
    "min_free_vram_mb": "minFreeVramMB",
}


def camel(name: str) -> str:
    """Turn a snake_case name into the key that JSON files use."""
    first, *rest = name.split("_")
    return _EXACT.get(name) or first + "".join(word.capitalize() for word in rest)


def _about(text: str, flag: str | None = None, **bounds: Any) -> Meta:
    return Meta(description=text, extra={"flag": flag}, **bounds)


_MOST = 1e9
Above0 = {"gt": 0, "le": _MOST}
From0 = {"ge": 0, "le": _MOST}
From1 = {"ge": 1, "le": 1_000_000}


class GpuSettings(Record, frozen=True, rename=camel, forbid_unknown_fields=True):
    """The settings under `gpu`."""

    probe: Annotated[
        str, _about("How GPUs are read: auto, nvml, nvidia-smi, none or any installed probe.", "--gpu-probe")
    ] = "auto"
    min_free_vram_mb: Annotated[
        float, _about("GPU memory in MB that must be free for a run to start.", "--gpu-min-vram", **Above0)
    ] = 2500
    max_temp_c: Annotated[
        float,
        _about(
            "GPU temperature in degrees Celsius at which no run starts and a run is paused.",
            "--gpu-max-temp",
            **Above0,
        ),
    ] = 85
    cooldown_c: Annotated[
        float, _about("How many degrees below gpu.maxTempC a paused run continues.", **Above0)
    ] = 5


class Settings(Record, frozen=True, rename=camel, forbid_unknown_fields=True):
    """Everything that can be set, with its default."""

    max_run_minutes: Annotated[
        float,
        _about(
            "The time box of an attempt, in minutes; paused time does not count.",
            "--max-run-minutes",
            **Above0,
        ),
    ] = 10
    slices: (
        Annotated[
            int,
            _about(
                "How many time boxes to run, one after the other, each from the checkpoint before.",
                "--slices",
                **From1,
            ),
        ]
        | None
    ) = None
    until_done: Annotated[
        bool, _about("Run time box after time box until the script has completed.", "--until-done")
    ] = False
    total_minutes: (
        Annotated[
            float,
            _about(
                "How long a run may take over all its attempts, in minutes; pauses do not count.",
                "--total-minutes",
                **Above0,
            ),
        ]
        | None
    ) = None
    until: Annotated[
        str | None,
        _about('When the run ends at the latest: "18:00", or a day and time, "2026-12-01 18:00".', "--until"),
    ] = None
    retries: Annotated[
        int,
        _about(
            "How often to go on after a failure, as long as the step advances from one to the next.",
            "--retries",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    stall_minutes: (
        Annotated[
            float,
            _about(
                "Minutes of silence, neither output nor checkpoint, after which a run is stopped.",
                "--stall",
                **Above0,
            ),
        ]
        | None
    ) = None
    max_parallel: Annotated[
        int, _about("How many runs of this user may run on this machine at once.", "--max-parallel", **From1)
    ] = 2
    min_free_ram_gb: Annotated[
        float, _about("RAM in GB that must be available for a run to start.", "--min-free-ram", **Above0)
    ] = 4
    max_cpu_load: Annotated[
        float,
        _about(
            "1-minute load average per usable core above which no run starts.", "--max-cpu-load", **Above0
        ),
    ] = 1.5
    gpu_memory_limit: Annotated[
        str | None,
        _about('How much GPU memory the run may use: a share ("80%") or GB ("8").', "--gpu-memory-limit"),
    ] = None
    checkpoint_every_minutes: (
        Annotated[
            float,
            _about(
                "How often the script is asked to save a checkpoint, in minutes.",
                "--checkpoint-every-minutes",
                **Above0,
            ),
        ]
        | None
    ) = None
    framework: Annotated[
        str, _about("The training framework: pytorch, tensorflow, auto or any installed one.", "--framework")
    ] = "auto"
    wait_minutes: Annotated[
        float, _about("How long to wait for free resources, in minutes, before giving up.", "--wait", **From0)
    ] = 0
    stop_grace_seconds: Annotated[
        float,
        _about(
            "Seconds a script has to save after it was interrupted, before it is terminated.",
            "--stop-grace",
            **Above0,
        ),
    ] = 30
    max_pause_minutes: Annotated[
        float,
        _about("The longest a pause may last, in minutes; then the run is stopped.", "--max-pause", **Above0),
    ] = 15
    monitor_seconds: Annotated[
        float, _about("Seconds between two measurements of the machine during a run.", ge=0.1, le=_MOST)
    ] = 2
    gpus: Annotated[
        int | Literal["all"], _about('How many GPUs the run is given: a number or "all".', "--gpus")
    ] = 1
    through: Annotated[
        str | None,
        _about(
            'A launcher command put before the script, such as "torchrun --nproc-per-node 2".', "--through"
        ),
    ] = None
    unbuffered: Annotated[
        bool, _about("Set PYTHONUNBUFFERED=1 for the script, so that its progress is seen at once.")
    ] = True
    max_log_mb: Annotated[float, _about("The most that a run's output.log may hold, in MB.", **Above0)] = 512
    storage: Annotated[
        str,
        _about("Where records are kept: the name or the URL of an installed storage backend.", "--storage"),
    ] = "json"
    launcher: Annotated[
        str, _about("What starts the run: local or any installed launcher.", "--launcher")
    ] = "local"
    python: Annotated[
        str | None,
        _about("The Python interpreter that runs the script: a path or a name on PATH.", "--python"),
    ] = None
    plugins: Annotated[tuple[str, ...], _about('Modules to load as plugins; "no:NAME" blocks one.')] = ()
    checkpoint_glob: Annotated[
        str | None,
        _about("Where the script's checkpoints are found, as a pattern relative to its working directory."),
    ] = None
    gpu: GpuSettings = GpuSettings()
    plugin: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class Setting(Record, frozen=True):
    """One row of the declaration, under its dotted key ("gpu.maxTempC")."""

    key: str
    snake: str
    type: Any
    default: Any
    help: str
    flag: str | None

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "BACKPROP_" + re.sub(r"\W", "_", self.snake, flags=re.ASCII).upper()

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        return _EXPECTS.get(self.key) or _in_words(self.type)


_EXPECTS = {
    "gpus": 'a whole number from 1, or "all"',
    "gpuMemoryLimit": 'a share such as "80%" or GB such as "8"',
    "monitorSeconds": "a number from 0.1",
    "waitMinutes": "a number from 0",
    "plugins": "a list of module names",
    "through": "a command line, with every quote closed",
    "retries": "a whole number from 0",
    "until": 'a time such as "18:00", or a day and a time such as "2026-12-01 18:00"',
}


def _in_words(kind: Any) -> str:
    inner = get_args(kind)[0] if get_origin(kind) in (Annotated, Literal) or get_args(kind) else kind
    while get_args(inner):
        inner = get_args(inner)[0]
    return {float: "a number above 0", int: "a whole number from 1", bool: "true or false"}.get(inner, "text")


def _declared(struct: type[msgspec.Struct], prefix: str = "", snake: str = "") -> Iterator[Setting]:
    for field in msgspec.structs.fields(struct):
        if field.name == "plugin":
            continue
        if field.name == "gpu":
            yield from _declared(GpuSettings, "gpu.", "gpu.")
            continue
        kind = field.type if get_origin(field.type) is Annotated else get_args(field.type)[0]
        meta = kind.__metadata__[0]
        yield Setting(
            key=prefix + field.encode_name,
            snake=snake + field.name,
            type=field.type,
            default=field.default,
            help=meta.description,
            flag=meta.extra["flag"],
        )


DECLARED: Mapping[str, Setting] = {setting.key: setting for setting in _declared(Settings)}
_BY_SPELLING = {**{s.snake: s.key for s in DECLARED.values()}, **{key: key for key in DECLARED}}

RUN_VARIABLES = frozenset(
    "BACKPROP_RUN_ID BACKPROP_ATTEMPT BACKPROP_RUN_DIR BACKPROP_MAX_RUN_SECONDS "
    "BACKPROP_CHECKPOINT_EVERY_SECONDS BACKPROP_RESUME_FROM BACKPROP_FRAMEWORK".split()
)
"""What a script is told (DESIGN 8); inside a run these are no settings."""


RECORDED = "the run's record"
"""The origin of what a run was started with; it holds every setting, defaults too."""


class Resolved(Record, frozen=True):
    """The settings that hold, where each came from, and the project they belong to."""

    settings: Settings
    origins: Mapping[str, str] = EMPTY
    project_root: Path | None = None
    project_file: Path | None = None

    @property
    def limits(self) -> Limits:
        """The limits among them."""
        return Limits.from_settings(to_dict(self.settings))


def to_dict(settings: Settings) -> dict[str, Any]:
    """Turn settings into plain values, as a JSON settings file would hold them."""
    values: dict[str, Any] = msgspec.to_builtins(settings)
    return values


def home_folder(environ: Mapping[str, str]) -> Path:
    """Return `$BACKPROP_HOME`, else `~/.backprop`.

    :raises SettingsError: when there is no home folder to be found.
    """
    if chosen := environ.get("BACKPROP_HOME"):
        return Path(chosen).absolute()
    home = os.path.expanduser("~")
    if environ.get("HOME") == "" or not os.path.isabs(home):
        raise SettingsError("there is no home folder (HOME is not set)", "set HOME or BACKPROP_HOME")
    return Path(home, ".backprop")


def resolve(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    script: Path | None = None,
    config: Path | None = None,
    recorded: Mapping[str, Any] = EMPTY,
    flags: Mapping[str, Any] = EMPTY,
    assignments: Sequence[str] = (),
    options: Mapping[str, Setting] = EMPTY,
) -> Resolved:
    """Merge every source into the settings that hold.

    :param script: The script's path, whose folder is searched first for a project file.
    :param config: A file to read instead of searching.
    :param recorded: The settings of a run that is being resumed; they take the place of the files.
    :param flags: Dotted key to value; None means that the flag was not given.
    :param assignments: `KEY=VALUE` texts of `--set`.
    :param options: What plugins declare, by dotted key; values under `plugin` that nobody declares are not checked.
    :raises SettingsError: for a file that cannot be parsed, an unknown key or a bad value, naming the place.
    """
    layers: list[tuple[Origin, dict[str, Any]]] = []
    user_file = home_folder(environ) / "config.toml"
    project_file = config or find_project_file(script, cwd, environ)
    if config and not config.is_file():
        raise SettingsError(f"the settings file {config} does not exist", "check the path after --config")
    if recorded:
        layers.append((Origin(label=RECORDED), dict(recorded)))
        layers += [read_file(config)] if config else []
    else:
        layers += [read_file(user_file)] if user_file.is_file() else []
        layers += [read_file(project_file)] if project_file else []
    known = {**DECLARED, **options}
    layers += _environment_layers(environ, known)
    layers += [_assignment(text) for text in assignments]
    layers += [
        (Origin(label=f"the flag {known[key].flag}"), {key: value})
        for key, value in flags.items()
        if value is not None and key in known
    ]
    merged, origins = _merge(layers, options)
    return Resolved(
        settings=msgspec.convert(merged, Settings),
        origins=origins,
        project_root=project_file.parent if project_file else None,
        project_file=project_file,
    )


def _merge(
    layers: Sequence[tuple[Origin, dict[str, Any]]], options: Mapping[str, Setting]
) -> tuple[dict[str, Any], dict[str, str]]:
    merged: dict[str, Any] = {"gpu": {}, "plugin": {}}
    origins: dict[str, str] = {}
    for key, setting in options.items():
        _put_option(merged, key, setting.default)
    for origin, values in layers:
        for key, value in _flatten(values, origin):
            if key.startswith("plugin."):
                declared = option_named(key, options, origin)
                own = declared.key if declared else key
                _put_option(merged, own, check(declared, value, origin) if declared else value)
                origins[own] = origin.label
                continue
            known = canonical(key, origin)
            checked = check(DECLARED[known], value, origin)
            if known.startswith("gpu."):
                merged["gpu"][known.removeprefix("gpu.")] = checked
            else:
                merged[known] = checked
            origins[known] = origin.label
    return merged, origins


def _put_option(merged: dict[str, Any], key: str, value: Any) -> None:
    _, name, option = key.split(".", 2)
    merged["plugin"].setdefault(name, {})[option] = value


def option_named(key: str, options: Mapping[str, Setting], origin: Origin) -> Setting | None:
    """Find the option of a plugin that a key means, in any spelling; None where its plugin declares none.

    :raises SettingsError: where the plugin declares others, with the closest one as the hint.
    """
    if known := options.get(key):
        return known
    section, own = {}, "plugin." + _spelled(key.split(".", 2)[1]) + "."
    for setting in options.values():
        spelled = _spelled(setting.key)
        if spelled == _spelled(key):
            return setting
        if spelled.startswith(own):
            section[setting.key] = setting
    if not section:
        return None
    import difflib

    close = difflib.get_close_matches(key, section, 1, 0.6)
    hint = f'did you mean "{close[0]}"?' if close else f"the plugin declares {', '.join(section)}"
    raise SettingsError(f'unknown setting "{key}" in {origin.at(key)}', hint)


def _spelled(key: str) -> str:
    return key.replace("-", "").replace("_", "").lower()


def _flatten(values: Mapping[str, Any], origin: Origin) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys; `gpu` is one level deep, `plugin` two."""
    for key, value in values.items():
        if key == "gpu" and isinstance(value, Mapping):
            yield from ((f"gpu.{inner}", item) for inner, item in value.items())
        elif key == "plugin" and isinstance(value, Mapping):
            for name, options in value.items():
                if not isinstance(options, Mapping):
                    raise _no_options(f"plugin.{name}", origin)
                yield from ((f"plugin.{name}.{option}", item) for option, item in options.items())
        elif key.startswith("plugin.") and key.count(".") < 2:
            raise _no_options(key, origin)
        else:
            yield key, value


def _no_options(key: str, origin: Origin) -> SettingsError:
    hint = f"for example {key}.OPTION = VALUE"
    return SettingsError(f'"{key}" is no table of options in {origin.at(key)}', hint)


def canonical(key: str, origin: Origin) -> str:
    """Turn any spelling of a key into the dotted camelCase one.

    :raises SettingsError: for an unknown key, with the closest known one as the hint.
    """
    if known := _BY_SPELLING.get(key):
        return known
    import difflib

    style = 0 if "_" in key or key.islower() else 1
    names = [(s.snake, s.key)[style] for s in DECLARED.values()]
    close = difflib.get_close_matches(key, names, 1, 0.6)
    hint = f'did you mean "{close[0]}"?' if close else "`backprop config show` lists every setting"
    raise SettingsError(f'unknown setting "{key}" in {origin.at(key)}', hint)


def check(setting: Setting, value: Any, origin: Origin) -> Any:
    """Convert a value to its setting's type.

    :raises SettingsError: when it does not fit, saying where it stands and what is expected.
    """
    key = setting.key
    if key == "gpuMemoryLimit" and isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}"
    if key == "plugins" and isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    try:
        converted = msgspec.convert(value, setting.type, strict=not isinstance(value, str))
        if key == "gpuMemoryLimit" and converted is not None:
            memory_limit_mb(converted, 1.0)
        if key == "gpus" and converted != "all" and converted < 1:
            raise ValueError(converted)
        if key == "through" and converted:
            import shlex

            if not shlex.split(converted):
                raise ValueError(converted)
        if key == "until" and converted is not None:
            next_moment(converted, 0)
    except ValueError:
        shown = repr(value) if isinstance(value, float) else msgspec.json.encode(value, enc_hook=str).decode()
        raise SettingsError(
            f"{key} is {shown} in {origin.at(key)}", f"it must be {setting.expects}"
        ) from None
    return converted


def _environment_layers(
    environ: Mapping[str, str], known: Mapping[str, Setting]
) -> list[tuple[Origin, dict[str, Any]]]:
    hidden = RUN_VARIABLES if "BACKPROP_RUN_ID" in environ else frozenset()
    return [
        (Origin(label=f"the environment ({setting.variable})"), {setting.key: environ[setting.variable]})
        for setting in known.values()
        if setting.variable in environ and setting.variable not in hidden
    ]


def _assignment(text: str) -> tuple[Origin, dict[str, Any]]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {text!r} is not KEY=VALUE", "for example --set gpu.maxTempC=80")
    if key.startswith("plugin.") and key.count(".") < 2:
        raise SettingsError(f"--set {text!r} names no option", "for example --set plugin.NAME.OPTION=VALUE")
    return Origin(label="--set"), {key: value}
