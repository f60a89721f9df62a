"""The frozen records that travel between the rooms of the house.

None always means unknown, never 0. Memory is in MiB (`_mb`) or GiB (`_gb`), temperatures in degrees
Celsius (`_c`), shares in percent from 0 to 100 (`_pct`), moments in milliseconds since 1970 (UTC)
where a record is written to a file.
"""

# No `from __future__ import annotations`: msgspec would compile and evaluate each one, one by one.
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import msgspec

from .errors import StorageError
from .states import RunState

SCHEMA_VERSION = 1
EMPTY: Mapping[str, Any] = MappingProxyType({})
RUN_FILES = frozenset(
    "lock output.log agent.log time-box.json time-box.json.new stopping checkpoints.jsonl".split()
)
"""What Backprop writes into a run's folder, besides what a storage keeps there."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What all records share: fixed once made, built by keyword."""


class Script(Record, frozen=True):
    """A training script, described without running it.

    `imports` maps dotted module names to how surely the script uses them, from 0 to 1: a module
    imported at the top of the script is 1, one imported by a local module or inside a function less.
    Every prefix is there too ("torch" and "torch.nn"), and so are imported names
    ("transformers.Trainer"). `options` holds the long options that its source spells out
    ("--resume-from"), `valued` those of them that it declares as taking a value, `switches` those that take
    none, and `places` the texts in it that may name a folder. `module` is the dotted name when it is to be run
    as `python -m`.
    """

    path: Path
    imports: Mapping[str, float] = EMPTY
    options: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    module: str | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


class Limits(
    Record,
    frozen=True,
    rename={
        "max_run_minutes": "maxRunMinutes",
        "max_parallel": "maxParallel",
        "min_free_ram_gb": "minFreeRamGB",
        "max_cpu_load": "maxCpuLoad",
        "gpu_memory_limit": "gpuMemoryLimit",
        "gpu_min_vram_mb": "gpu.minFreeVramMB",
        "gpu_max_temp_c": "gpu.maxTempC",
        "gpu_cooldown_c": "gpu.cooldownC",
        "checkpoint_every_minutes": "checkpointEveryMinutes",
        "max_pause_minutes": "maxPauseMinutes",
        "stop_grace_seconds": "stopGraceSeconds",
    },
):
    """What a run was given, in the units of the settings of the same names."""

    max_run_minutes: float = 10.0
    max_parallel: int = 2
    min_free_ram_gb: float = 4.0
    max_cpu_load: float = 1.5
    gpus: int | Literal["all"] = 1
    gpu_memory_limit: str | None = None
    gpu_min_vram_mb: float = 2500.0
    gpu_max_temp_c: float = 85.0
    gpu_cooldown_c: float = 5.0
    checkpoint_every_minutes: float | None = None
    max_pause_minutes: float = 15.0
    stop_grace_seconds: float = 30.0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Pick the limits out of settings as a settings file holds them."""
        gpu = {f"gpu.{key}": value for key, value in (settings.get("gpu") or {}).items()}
        return msgspec.convert({**settings, **gpu}, cls)


class RunRequest(Record, frozen=True):
    """What a person asked for.

    `python` is the interpreter that will run the script; `resume_from` the checkpoint it is to go on
    from, None for a fresh start; `run_dir` the run's own folder.
    """

    script: Script
    arguments: tuple[str, ...] = ()
    name: str | None = None
    run_id: str = ""
    limits: Limits = Limits()
    python: str | None = None
    cwd: Path | None = None
    run_dir: Path | None = None
    resume_from: Path | None = None


class Host(Record, frozen=True):
    """The machine without its GPUs.

    RAM is what this process may use: the smaller of the machine's and its cgroup's. The load is the
    1-minute average divided by the cores this process may use.
    """

    ram_free_gb: float | None = None
    ram_total_gb: float | None = None
    cpu_load_per_core: float | None = None
    cpu_count: float | None = None


class Gpu(Record, frozen=True):
    """One reading of one GPU (or MIG instance).

    `is_throttled_by_heat` is the driver's own thermal slowdown flag. `is_selectable` is False for what is
    listed but must not be given to a run, with the reason in `note`. `process_vram_mb` maps pids to
    the memory each holds, None where the driver does not tell.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    vram_total_mb: float | None = None
    vram_free_mb: float | None = None
    temp_c: float | None = None
    utilization_pct: float | None = None
    is_throttled_by_heat: bool | None = None
    is_selectable: bool = True
    note: str | None = None
    process_vram_mb: Mapping[int, float] | None = None

    @property
    def id(self) -> str:
        """What tells it from others: the UUID, else the index."""
        return self.uuid or str(self.index)


class Machine(Record, frozen=True):
    """One measurement of everything. `gpus` is None when nothing is known of GPUs, () when there is none.

    `taken_at` is on the monotonic clock, in seconds. `run_vram_mb` is what the processes of the run being
    watched hold on its GPUs, None where the driver does not tell.
    """

    host: Host
    gpus: tuple[Gpu, ...] | None = None
    taken_at: float = 0.0
    run_vram_mb: float | None = None
    disk_free_mb: float | None = None


Samples = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Reason(msgspec.Struct, frozen=True):
    """What a rule answers with; the reason holds the measured value and the limit.

    :raises TypeError: for a field of another type, at the plugin that makes it rather than where it is used.
    """

    reason: str

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            try:
                msgspec.convert(getattr(self, field.name), field.type)
            except msgspec.ValidationError as error:
                raise TypeError(f"{type(self).__name__}.{field.name}: {error}") from None


class Refusal(Reason, frozen=True, kw_only=True):
    """Do not start this run now.

    `gpus` narrows the objection to GPUs, by their `id`: the run is then refused only when too few others
    are left. None objects to the start as such.
    """

    gpus: tuple[str, ...] | None = None


class Passed(Reason, frozen=True, kw_only=True):
    """Nothing against starting this run: what `status` shows of a rule that does not object."""


class Pause(Reason, frozen=True, kw_only=True):
    """Pause this run, or keep it paused.

    The rule answers so for as long as the cause lasts. `samples` answers in a row are needed before
    the run is paused, it then stays paused for at least `at_least_s`, and a cause that lasts longer
    than `stop_after_s` stops the run (None: only `maxPauseMinutes` bounds it). An answer with `starts`
    False keeps a pause of the same rule going and never begins one: the room between two thresholds.
    """

    samples: Samples = 1
    at_least_s: Seconds = 0.0
    stop_after_s: Seconds | None = None
    starts: bool = True


class Stop(Reason, frozen=True, kw_only=True):
    """Stop this run gracefully, once `samples` answers in a row ask for it."""

    samples: Samples = 1


class Warn(Reason, frozen=True, kw_only=True):
    """Tell the person, once, and go on."""

    samples: Samples = 1


Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Progress(
    Record,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"total_steps": "totalSteps"},
    gc=False,  # a million of them a second are made; they hold numbers, and can be part of no cycle
):
    """A step that a script reported; `loss` is the training loss, `at` the moment it was read.

    `at` may be None for all but the last of a large batch, whose points were read at one moment. As JSON it
    is a line of `metrics.jsonl`.
    """

    step: Int64 | None = None
    total_steps: Int64 | None = None
    epoch: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = EMPTY
    at: int | None = None


class CheckpointSaved(Record, frozen=True):
    """A checkpoint that a script announced, or that was found."""

    path: str
    step: int | None = None


Event = Progress | CheckpointSaved


class CheckpointForm(Record, frozen=True):
    """What a trainer's checkpoints look like on disk, and what makes one whole.

    `name` is a pattern for the name of a file, or of a folder where `is_folder` is set; with slashes it takes in
    the folders above, too ("weights/last.pt"). A folder of this form holds all that `holds` names. It is whole
    when it has one of `written_last`, and nothing of `unfinished`. `step` is a regular expression for the name,
    whose group is the step. A checkpoint that `is_second_choice` is resumed from when there is no other: one that
    is kept for use rather than for going on, such as the best model so far. What has a form that `is_unfinished` is
    no checkpoint: its trainer writes it under this name and renames it when it is whole.
    """

    name: str
    is_folder: bool = False
    holds: tuple[str, ...] = ()
    written_last: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    step: str | None = None
    is_second_choice: bool = False
    is_unfinished: bool = False


class ProgressBatch(list[Progress]):
    """Many steps that were read at once, with what would cost a look at each of them to find out.

    :param latest: The last known value of each field over all of them.
    :param text: The same as JSON lines, each as a `Progress` is written as JSON.
    """

    __slots__ = ("latest", "text")

    def __init__(self, points: Iterable[Progress], latest: Progress, text: bytes) -> None:
        super().__init__(points)
        self.latest = latest
        self.text = text

    @classmethod
    def read(cls, text: bytes, *, is_alike: bool = False) -> Self:
        """Read JSON lines, each as a `Progress` is written as JSON.

        :param is_alike: Whether all of them hold the same names, so that the last one tells the latest of all.
        :raises msgspec.DecodeError: for lines of another kind; a ValueError for text that is no UTF-8.
        """
        points = _points_decoder().decode_lines(text)
        return cls(points, points[-1] if is_alike and points else latest_of(points), text)

    def stamp(self, at: int) -> None:
        """Note on the last one when they were read; `text` has an end after its last line from then on."""
        self[-1] = msgspec.structs.replace(self[-1], at=at)
        earlier = memoryview(self.text)[: self.text.rfind(b"\n", 0, -1) + 1]
        self.text = b"".join((earlier, msgspec.json.encode(self[-1]), b"\n"))


@cache
def _points_decoder() -> msgspec.json.Decoder[Progress]:
    return msgspec.json.Decoder(Progress)


def latest_of(points: Sequence[Progress]) -> Progress:
    """Return the last known value of each field."""
    metrics: dict[str, float] = {}
    for point in points:
        metrics.update(point.metrics)
    return Progress(
        step=_last("step", points),
        total_steps=_last("total_steps", points),
        epoch=_last("epoch", points),
        loss=_last("loss", points),
        metrics=metrics,
    )


def _last(name: str, points: Sequence[Progress]) -> Any:
    """Return the last value of a field that is known; a plain loop, because there may be many."""
    return next((value for value in map(attrgetter(name), reversed(points)) if value is not None), None)


class Intent(Record, frozen=True):
    """What somebody asks of a live run, from any terminal. `minutes` belongs to "extend"."""

    kind: Literal["stop", "pause", "unpause", "extend"]
    minutes: float | None = None
    reason: str | None = None


class ProcessExit(Record, frozen=True):
    """How a process ended: with an exit code, or by a signal."""

    code: int | None = None
    signal: int | None = None

    @property
    def status(self) -> int:
        """The exit code a shell would show: 128 + N when signal N ended it."""
        return self.code if self.code is not None else 128 + (self.signal or 0)


class EngineState(Record, frozen=True):
    """What a launcher's engine says of a job. `detail` is what it (or the job's log) told, in words."""

    phase: Literal["queued", "running", "gone", "unknown"]
    exit_code: int | None = None
    detail: str | None = None


class LaunchPlan(Record, frozen=True):
    """What a launcher is to start: a run's agent, which begins with this attempt.

    `command` is the agent's argument list; it supervises the script wherever it runs. `limits` are those of one time
    box; `job_minutes` is how long the agent may take over all time boxes that it is to run, without pauses and waits
    between them; None where nothing bounds it.
    """

    run_id: str
    attempt: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    run_dir: Path
    limits: Limits
    job_minutes: float | None = None


class PluginFailure(Record, frozen=True):
    """One way in which a plugin failed; the run goes on unless the hook's rule says otherwise.

    `is_hung` is set where it did not come back in time, so that it is not asked again.
    """

    plugin: str
    hook: str | None
    error: str
    path: str | None = None
    is_hung: bool = False

    def __str__(self) -> str:
        where = f" ({self.path})" if self.path and self.path != self.plugin else ""
        what = f" in {self.hook}" if self.hook else ""
        return f"plugin {self.plugin}{where} failed{what}: {self.error}"


class PluginOption(Record, frozen=True):
    """An option that a plugin declares once.

    `notify-url` of plugin `notify` becomes the flag `--notify-url`, the setting `plugin.notify.notify-url`
    and the variable `BACKPROP_PLUGIN_NOTIFY_NOTIFY_URL`. `type` is str, int, float or bool; a bool also gets a flag
    `--no-...`. `default` is of that type, or None for "not set".

    :raises ValueError: for a name that is no flag, another type, or a default that is not of the type.
    """

    name: str
    help: str
    type: type = str
    default: str | int | float | bool | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name):
            raise ValueError(
                f"the option name {self.name!r} is not of small letters, digits and single dashes"
            )
        if self.type not in (str, int, float, bool):
            raise ValueError(f"the type of the option {self.name} is not str, int, float or bool")
        is_whole = self.type is float and type(self.default) is int
        if self.default is not None and type(self.default) is not self.type and not is_whole:
            raise ValueError(
                f"the default of the option {self.name} is no {self.type.__name__}: {self.default!r}"
            )


class PauseSpan(Record, frozen=True):
    """One pause of an attempt, in ms since 1970. `end` is None while it lasts."""

    begin: int
    end: int | None = None
    cause: str = ""


class Attempt(Record, frozen=True, rename="camel"):
    """One execution of the script: one time box.

    `lost_writes` counts what the storage could not take while the script ran: metrics, and states in between.
    `cause` tells a failure or the Governor's stop apart from others of its kind (`causes.Cause`), None for any
    other end. `first_step` and `last_step` are what it reported first and last, and so are `first_epoch` and
    `last_epoch`; `saves` is how many checkpoints.
    """

    start: int
    end: int | None = None
    status: RunState = RunState.RUNNING
    exit_code: int | None = None
    resumed_from: str | None = None
    reason: str | None = None
    pauses: tuple[PauseSpan, ...] = ()
    lost_writes: int = 0
    cause: str | None = None
    first_step: int | None = None
    last_step: int | None = None
    first_epoch: float | None = None
    last_epoch: float | None = None
    saves: int = 0


class Code(Record, frozen=True, rename="camel"):
    """Which code an attempt ran; None for what could not be read, and for a script outside a git repository."""

    script_sha256: str | None = None
    commit: str | None = None


class GpuIdentity(Record, frozen=True):
    """Which GPU a run was given."""

    uuid: str | None = None
    index: int | None = None
    name: str | None = None


class RunRecord(Record, frozen=True, rename="camel"):
    """What the registry remembers of a run, over all its attempts.

    The JSON keys are the camelCase forms. `start_time` is the first attempt's, `end_time` the last one's;
    `checkpoints` are paths, oldest first, and `left_out_checkpoints` how many older ones the record does not hold.
    `settings` are the resolved settings, as in a settings file.
    `memory_layer` is what holds the run to its GPU memory limit; None where it has none. `code` is what the
    newest attempt ran, `environment` those variables of an allow-list that were set when the run began.
    `extra` carries keys this version does not know through every backend.
    """

    id: str
    script_path: str
    status: RunState
    start_time: int
    name: str | None = None
    end_time: int | None = None
    last_step: int | None = None
    last_loss: float | None = None
    checkpoints: tuple[str, ...] = ()
    left_out_checkpoints: int = 0
    last_checkpoint: str | None = None
    script_args: tuple[str, ...] = ()
    module: str | None = None
    cwd: str | None = None
    python: str | None = None
    framework: str | None = None
    memory_layer: str | None = None
    code: Code | None = None
    environment: dict[str, str] = {}
    exit_code: int | None = None
    reason: str | None = None
    gpus: tuple[GpuIdentity, ...] = ()
    gpu: GpuIdentity | None = None
    host: str | None = None
    attempts: tuple[Attempt, ...] = ()
    settings: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    extra: dict[str, Any] = {}

    @property
    def limits(self) -> Limits:
        """The limits among its settings."""
        return Limits.from_settings(self.settings)

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints became known, those that the record does not hold included."""
        return self.left_out_checkpoints + len(self.checkpoints)

    @property
    def standing(self) -> tuple[int, ...]:
        """How far the run has come: of two records of one run the one with the larger standing is newer.

        Attempts count first, then the state (any end that was witnessed is worth more than `lost`, which is
        a conclusion), then pauses, checkpoints and steps of the newest attempt.
        """
        pauses = self.attempts[-1].pauses if self.attempts else ()
        ended = sum(pause.end is not None for pause in pauses)
        step = -1 if self.last_step is None else self.last_step
        return (
            len(self.attempts),
            _STAGES.get(self.status, _LAST_STAGE),
            len(pauses) + ended,
            self.checkpoint_count,
            step,
            self.end_time or 0,
        )

    def to_json(self) -> bytes:
        """Encode as one line of strict JSON, without a line end."""
        return msgspec.json.encode(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain JSON values; unknown keys that came with the record come out again."""
        known = msgspec.to_builtins(self)
        extra = known.pop("extra")
        known["lastLoss"] = finite(self.last_loss)
        known["metrics"] = {name: value for name, value in self.metrics.items() if finite(value) is not None}
        return {
            **known,
            "schemaVersion": SCHEMA_VERSION,
            **{k: v for k, v in extra.items() if k not in known},
        }

    @classmethod
    def from_json(cls, raw: bytes | str) -> Self:
        """Decode one record, as this or an older version wrote it.

        :raises StorageError: when it is no record, or a newer version wrote it.
        """
        try:
            return cls.from_dict(msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise StorageError(f"a run record cannot be read: {error}") from error

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Decode one record from plain JSON values; absent and null keys take their defaults."""
        if not isinstance(values, dict):
            raise StorageError("a run record is not a JSON object")
        version = values.get("schemaVersion", SCHEMA_VERSION)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise StorageError(
                f"a run record has schema version {version}, this Backprop knows {SCHEMA_VERSION}",
                "upgrade Backprop to read it",
            )
        known = {k: v for k, v in values.items() if k in _RECORD_KEYS and v is not None}
        extra = {k: v for k, v in values.items() if k not in _RECORD_KEYS and k != "schemaVersion"}
        try:
            return msgspec.convert({**known, "extra": extra}, cls, strict=False)
        except msgspec.ValidationError as error:
            raise StorageError(f"a run record cannot be read: {error}") from error


class Flaw(Record, frozen=True):
    """Something that is wrong with what a storage keeps.

    `repair` says what saving to the storage (`save_many(())`, if nothing else is to be saved) does about it; None
    where that does nothing. `hint` says what a person can do.
    """

    where: str
    what: str
    repair: str | None = None
    hint: str | None = None


_STAGES = {RunState.QUEUED: 0, RunState.RUNNING: 1, RunState.PAUSED: 1, RunState.LOST: 2}
_LAST_STAGE = 3
_RECORD_KEYS = frozenset(RunRecord.__struct_encode_fields__) - {"extra"}


def finite(value: object) -> float | None:
    """Return a number as it is, and None for NaN, infinities, booleans and everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
