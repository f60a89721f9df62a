"""Look at no GPU: for machines without one, and for people who want none to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backprop_core import Gpu, GpuProbe, hookimpl


@hookimpl
def backprop_gpu_probe() -> GpuProbe:
    return NoGpu()


class NoGpu:
    """A probe that is always there and sees nothing."""

    name = "none"
    order = 1000

    def is_available(self) -> bool:
        return True

    def read(self) -> Sequence[Gpu]:
        return ()

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:  # noqa: ARG002 - there is none to name
        """Nothing: a process sees what it would see without Backprop."""
        return {}
