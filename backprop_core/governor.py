"""The Governor: pure decisions. Measurements and objections go in, a verdict comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from .errors import UsageError
from .plugins import Answer
from .records import Gpu, Limits, Machine, Passed, Pause, Record, Refusal, Stop, Warn
from .units import MB_PER_GB, memory_limit_mb


class Finding(Record, frozen=True):
    """What one rule says to a start, with the measured value and the limit.

    "narrowed" is an objection to some GPUs where enough others are left.
    """

    kind: Literal["passed", "narrowed", "warned", "refused"]
    reason: str


class Verdict(Record, frozen=True):
    """Whether a run may start now, why not, and on which GPUs (best first); `findings` are all that was said."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether nothing objects."""
        return not self.reasons


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Keep the GPUs that `CUDA_VISIBLE_DEVICES` allows, all where it is not set.

    :source: CUDA C++ Programming Guide, environment variables: an empty value hides all, an invalid entry
        hides itself and everything after it; UUIDs may be abbreviated.
    """
    if (listed := environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return tuple(gpus)
    kept: list[Gpu] = []
    for entry in map(str.strip, listed.split(",")):
        matching = [gpu for gpu in gpus if _names(entry, gpu)]
        if not matching:
            break
        kept += [gpu for gpu in matching if gpu not in kept]
    return tuple(kept)


def _names(entry: str, gpu: Gpu) -> bool:
    if entry.isdecimal():
        return gpu.index == int(entry) and not (gpu.uuid or "").startswith("MIG-")
    return bool(entry) and (gpu.uuid or "").startswith(entry) and entry.startswith(("GPU-", "MIG-"))


def reserved_vram_mb(limits: Limits, gpu: Gpu) -> float:
    """Return how much memory a run sets aside on a GPU, in MiB: its limit, else what it must find free."""
    return gpu_limit_mb(limits, gpu) or limits.gpu_min_vram_mb


def gpu_limit_mb(limits: Limits, gpu: Gpu) -> float | None:
    """Return the run's memory limit on a GPU in MiB; None without one, or for a share of an unknown total."""
    return memory_limit_mb(limits.gpu_memory_limit, gpu.vram_total_mb) if limits.gpu_memory_limit else None


def judge(
    limits: Limits, machine: Machine, answers: Sequence[Answer], others: Sequence[Finding] = ()
) -> Verdict:
    """Weigh the rules' objections and rank the GPUs that are left.

    :param machine: With the GPUs this run may see, their free memory after reservations; None or () when
        there is none, in which case no GPU is looked for.
    :param answers: What `backprop_admit` returned; a rule that failed is no permission.
    :param others: What was found without asking a rule.
    :raises UsageError: when no GPU is large enough for the memory limit, however long one waits.
    """
    excluded: dict[str, list[str]] = {}
    for value in (answer.value for answer in answers if not answer.failure):
        for gpu_id in (value.gpus or ()) if isinstance(value, Refusal) else ():
            excluded.setdefault(gpu_id, []).append(value.reason)
    candidates, objections = _candidates(limits, machine.gpus or (), excluded)
    findings = [*others, *(_finding(answer, objections) for answer in answers)]
    told = {finding.reason for finding in findings}
    findings += [Finding(kind="refused", reason=text) for text in objections if text not in told]
    return Verdict(
        reasons=tuple(_of_kind("refused", findings)),
        warnings=tuple(_of_kind("warned", findings)),
        gpus=() if objections else candidates,
        findings=tuple(findings),
    )


def _of_kind(kind: str, findings: Iterable[Finding]) -> list[str]:
    return [finding.reason for finding in findings if finding.kind == kind]


def _finding(answer: Answer, objections: Sequence[str]) -> Finding:
    value = answer.value
    if answer.failure:
        return Finding(kind="refused", reason=str(answer.failure))
    match value:
        case Refusal(gpus=None):
            return Finding(kind="refused", reason=value.reason)
        case Refusal():
            return Finding(kind="refused" if value.reason in objections else "narrowed", reason=value.reason)
        case Warn():
            return Finding(kind="warned", reason=value.reason)
        case Passed():
            return Finding(kind="passed", reason=value.reason)
    text = f"{answer.plugin}: the rule answered {type(value).__name__}, not a Refusal"
    return Finding(kind="refused", reason=text)


def _candidates(
    limits: Limits, gpus: Sequence[Gpu], excluded: Mapping[str, Sequence[str]]
) -> tuple[tuple[Gpu, ...], list[str]]:
    """Rank the GPUs that pass, best first; with too few of them, say why."""
    usable = [gpu for gpu in gpus if gpu.is_selectable]
    wanted = max(1, len(usable)) if limits.gpus == "all" else limits.gpus
    if not gpus and wanted > 1:
        return (), [f"{wanted} GPUs wanted, none found"]
    if not gpus:
        return (), []
    _check_size(limits, usable, wanted)
    passing = [gpu for gpu in usable if gpu.id not in excluded]
    if len(passing) < wanted:
        notes = [f"GPU {gpu.index}: {gpu.note}" for gpu in gpus if not gpu.is_selectable and gpu.note]
        reasons = list(dict.fromkeys(text for texts in excluded.values() for text in texts))
        if wanted > 1 or not reasons:
            there = f"{len(usable)} there" if len(usable) < wanted else f"{len(passing)} free to use"
            reasons.insert(0, f"{wanted} GPU{'s' * (wanted > 1)} wanted, {there}")
        return (), reasons + notes
    return ranked(passing), []


def ranked(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Sort the GPUs that may be given away, best first."""
    return tuple(sorted((gpu for gpu in gpus if gpu.is_selectable), key=_worth))


def _worth(gpu: Gpu) -> tuple[bool, float, int]:
    """Sort key: the most free memory first, unreadable GPUs last."""
    return gpu.vram_free_mb is None, -(gpu.vram_free_mb or 0.0), gpu.index


def _check_size(limits: Limits, gpus: Sequence[Gpu], wanted: int) -> None:
    """See whether enough GPUs have as much as the memory limit says; one of unknown size may have it."""
    limit = limits.gpu_memory_limit
    if not limit or "%" in limit:
        return
    limit_mb = memory_limit_mb(limit, None) or 0.0
    totals = [gpu.vram_total_mb for gpu in gpus if gpu.vram_total_mb is not None]
    too_small = [total for total in totals if total < limit_mb]
    if too_small and len(gpus) - len(too_small) < min(wanted, len(gpus)):
        whose = "any GPU has" if len(too_small) == len(gpus) else f"{wanted} GPUs have"
        raise UsageError(
            f"the GPU memory limit {limit_mb / MB_PER_GB:g} GB is more than {whose} "
            f"(the largest has {max(totals) / MB_PER_GB:.1f} GB)",
            "ask for less with -g",
        )


class Decision(Record, frozen=True):
    """What watching asks for: rules that pause or no longer do, a reason to stop, things to say."""

    pauses: Mapping[str, str] = {}
    releases: frozenset[str] = frozenset()
    stop: str | None = None
    warnings: tuple[str, ...] = ()


def _watching(answer: Answer) -> Pause | Stop | Warn:
    """Return what a rule said, or say that it said something else."""
    if isinstance(answer.value, Pause | Stop | Warn):
        return answer.value
    return Warn(
        f"{answer.plugin}: the rule answered {type(answer.value).__name__}, not a Pause, Stop or Warn"
    )


class _Cause(Record, frozen=True):
    reason: str
    since_s: float
    at_least_s: float
    stop_after_s: float | None


class Watch:
    """Turns the rules' answers, sample by sample, into pauses with hysteresis and dwell."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, type[Any]], int] = {}
        self._causes: dict[str, _Cause] = {}
        self._warned: set[tuple[str, type[Any]]] = set()

    @property
    def is_calm(self) -> bool:
        """Whether nothing is counted and nothing holds, so that a sample without answers changes nothing."""
        return not self._counts and not self._causes

    def judge(self, answers: Sequence[Answer], now_s: float, *, is_repeat: bool = False) -> Decision:
        """Weigh one sample.

        :param answers: What `backprop_govern` returned; failures are passed over here.
        :param now_s: The moment of the sample, on the monotonic clock.
        :param is_repeat: The GPUs were not read anew for it, so that nothing counts twice for them.
        """
        values = [(answer.plugin, _watching(answer)) for answer in answers if not answer.failure]
        spoken = {(plugin, type(value)): value for plugin, value in values}
        self._counts = {
            key: self._count(key, is_repeat=is_repeat) if getattr(value, "starts", True) else 0
            for key, value in spoken.items()
        }
        ripe = {
            key: value
            for key, value in spoken.items()
            if getattr(value, "starts", True) and self._counts[key] >= value.samples
        }
        warnings = [v.reason for key, v in ripe.items() if isinstance(v, Warn) and key not in self._warned]
        self._warned |= {key for key in ripe if key[1] is Warn}
        stops = [value.reason for value in ripe.values() if isinstance(value, Stop)]
        pauses = self._begin(ripe, now_s)
        releases = self._end({plugin for plugin, kind in spoken if kind is Pause}, now_s)
        stops += [
            f"{cause.reason}, for longer than {cause.stop_after_s:g} s"
            for cause in self._causes.values()
            if cause.stop_after_s is not None and now_s - cause.since_s >= cause.stop_after_s
        ]
        return Decision(
            pauses=pauses, releases=releases, stop="; ".join(stops) or None, warnings=tuple(warnings)
        )

    def _count(self, key: tuple[str, type[Any]], *, is_repeat: bool) -> int:
        """Count the samples in a row in which a rule has said this."""
        before = self._counts.get(key, 0)
        return max(1, before) if is_repeat else before + 1

    def _begin(self, ripe: Mapping[tuple[str, type[Any]], Any], now_s: float) -> dict[str, str]:
        begun = {}
        for (plugin, _), value in ripe.items():
            if isinstance(value, Pause) and plugin not in self._causes:
                self._causes[plugin] = _Cause(
                    reason=value.reason,
                    since_s=now_s,
                    at_least_s=value.at_least_s,
                    stop_after_s=value.stop_after_s,
                )
                begun[plugin] = value.reason
        return begun

    def _end(self, lasting: set[str], now_s: float) -> frozenset[str]:
        over = frozenset(
            plugin
            for plugin, cause in self._causes.items()
            if plugin not in lasting and now_s - cause.since_s >= cause.at_least_s
        )
        for plugin in over:
            del self._causes[plugin]
        return over
