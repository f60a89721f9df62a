"""Start only on a GPU that is cool enough; pause a run whose GPU overheats until it has cooled down."""

from __future__ import annotations

from collections.abc import Sequence

from backprop_core import Gpu, Machine, Passed, Pause, Refusal, RunRecord, RunRequest, Warn, hookimpl

SAMPLES = 3
AT_LEAST_S = 10.0
NEAR_C = 3.0


@hookimpl
def backprop_admit(request: RunRequest, machine: Machine) -> Refusal | Warn | Passed | None:
    most = request.limits.gpu_max_temp_c
    gpus = [gpu for gpu in machine.gpus or () if gpu.is_selectable]
    if not gpus:
        return None
    hot = [gpu for gpu in gpus if is_hot(gpu, most)]
    near = [gpu for gpu in gpus if gpu.temp_c is not None and gpu.temp_c >= most - NEAR_C]
    text = f"GPU temperature: {describe(hot or near or gpus)}, {most:g} C is the limit"
    if hot:
        return Refusal(text, gpus=tuple(gpu.id for gpu in hot))
    return Warn(text) if near else Passed(text)


@hookimpl
def backprop_govern(run: RunRecord, machine: Machine) -> Pause | None:
    limits, gpus = run.limits, machine.gpus
    if gpus is None:
        return Pause("GPU temperature: unknown", starts=False)
    if hot := [gpu for gpu in gpus if is_hot(gpu, limits.gpu_max_temp_c)]:
        reason = f"GPU temperature: {describe(hot)}, {limits.gpu_max_temp_c:g} C is the limit"
        return Pause(reason, samples=SAMPLES, at_least_s=AT_LEAST_S)
    cool = limits.gpu_max_temp_c - limits.gpu_cooldown_c
    if warm := [gpu for gpu in gpus if gpu.temp_c is not None and gpu.temp_c > cool]:
        return Pause(f"GPU temperature: {describe(warm)}, waiting for {cool:g} C", starts=False)
    return None


def is_hot(gpu: Gpu, most_c: float) -> bool:
    """Tell whether a GPU is too hot; an unknown temperature is not."""
    return bool(gpu.is_throttled_by_heat) or (gpu.temp_c is not None and gpu.temp_c >= most_c)


def describe(gpus: Sequence[Gpu]) -> str:
    """Name each GPU with what was measured."""
    return ", ".join(
        f"GPU {gpu.index} is at {'unknown heat' if gpu.temp_c is None else f'{gpu.temp_c:g} C'}"
        + (" and slowed down by its driver" if gpu.is_throttled_by_heat else "")
        for gpu in gpus
    )
