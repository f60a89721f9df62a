"""Read AMD GPUs through `amd-smi`, or through `rocm-smi` where that is all there is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from backprop_core import Gpu, GpuProbe, ProbeError, hookimpl

VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""What confines a process; the later ones count among the GPUs that the earlier ones leave."""


@hookimpl
def backprop_gpu_probe() -> GpuProbe:
    return Rocm()


class Rocm:
    """AMD's GPUs, as the driver tells of them."""

    name = "rocm"
    order = 30

    def is_available(self) -> bool:
        from .asking import find

        return any(find(tool) for tool in ("amd-smi", "rocm-smi"))

    def read(self) -> Sequence[Gpu]:
        from .asking import find
        from .reading import TOOLS

        failures = []
        for tool, read in TOOLS.items():
            if program := find(tool):
                try:
                    return [allowed(gpu, os.environ) for gpu in read(program)]
                except ProbeError as error:
                    failures.append(error.message)
        raise ProbeError(
            "; ".join(failures)
            or "neither amd-smi nor rocm-smi is on PATH, in a folder that nobody else may write",
            "see what `amd-smi list` or `rocm-smi` says, or choose --gpu-probe none",
        )

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        chosen = [name for name in VARIABLES if name in os.environ] or [VARIABLES[0]]
        return {chosen[0]: str(gpu.index)}


def allowed(gpu: Gpu, environ: Mapping[str, str]) -> Gpu:
    """Hold a GPU to the list that the environment has, if it has one."""
    import msgspec

    lists = [name for name in VARIABLES if name in environ]
    if not lists:
        return gpu
    if len(lists) > 1:
        note = f"{' and '.join(lists)} are set; they count inside each other: set one"
    elif {str(gpu.index), gpu.uuid} & {entry.strip() for entry in environ[lists[0]].split(",")}:
        return gpu
    else:
        note = f"not in {lists[0]}"
    return msgspec.structs.replace(gpu, is_selectable=False, note=note)
