"""Read GPUs on request: one JSON answer for each line on standard input ("available" or "read").

:usage: python read_gpus.py nvml|nvidia-smi
"""

from __future__ import annotations

import sys

import msgspec

from backprop_builtin.gpu_probes.nvidia_smi import NvidiaSmi
from backprop_builtin.gpu_probes.nvml import Nvml
from backprop_core import GpuProbe, ProbeError


def answer(probe: GpuProbe, request: str) -> object:
    if request == "available":
        return {"available": probe.is_available()}
    try:
        return {"gpus": probe.read()}
    except ProbeError as error:
        return {"error": error.message}


if __name__ == "__main__":
    chosen: GpuProbe = Nvml() if sys.argv[1] == "nvml" else NvidiaSmi()
    for line in sys.stdin:
        print(msgspec.json.encode(answer(chosen, line.strip())).decode(), flush=True)
