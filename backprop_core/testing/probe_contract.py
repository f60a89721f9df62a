"""What every GPU probe keeps, as tests to inherit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from backprop_core.errors import ProbeError
from backprop_core.interfaces import GpuProbe
from backprop_core.records import Gpu

CHEAP_S = 2.0
"""What asking whether a probe is available may take: it is done at the start of every run."""


class GpuProbeContract:
    """What every probe keeps: inherit from this, override `probe` and, best, `broken_probe`.

    ::

        class TestMyProbe(GpuProbeContract):
            @pytest.fixture
            def probe(self, monkeypatch, tmp_path):
                monkeypatch.setenv("PATH", str(a_tool_that_answers(tmp_path)))
                return MyProbe()
    """

    @pytest.fixture
    def probe(self) -> GpuProbe:
        """Return the probe, on a machine where it reads at least one GPU."""
        raise NotImplementedError("override probe")

    @pytest.fixture
    def broken_probe(self) -> GpuProbe:
        """Return the probe, on a machine where it can read nothing."""
        pytest.skip("broken_probe is not overridden")

    @pytest.fixture
    def gpus(self, probe: GpuProbe) -> Sequence[Gpu]:
        """What the probe reads."""
        return probe.read()

    def test_probe_has_every_method_a_name_and_a_place_in_the_order(self, probe: GpuProbe) -> None:
        assert isinstance(probe, GpuProbe)
        assert probe.name.strip() == probe.name != ""
        assert probe.name != "auto"
        assert isinstance(probe.order, int)

    def test_probe_is_available_where_it_can_read_and_says_so_at_once(self, probe: GpuProbe) -> None:
        began_s = time.perf_counter()
        assert probe.is_available() is True
        assert time.perf_counter() - began_s < CHEAP_S

    def test_gpus_are_told_apart(self, gpus: Sequence[Gpu]) -> None:
        assert gpus
        assert all(isinstance(gpu, Gpu) for gpu in gpus)
        assert len({gpu.id for gpu in gpus}) == len(gpus)

    def test_what_is_read_is_possible_and_what_is_unknown_is_none(self, gpus: Sequence[Gpu]) -> None:
        for gpu in gpus:
            assert gpu.index >= 0
            assert gpu.uuid != ""
            assert gpu.name != ""
            assert gpu.vram_total_mb is None or 0 < gpu.vram_total_mb < math.inf
            assert gpu.vram_free_mb is None or 0 <= gpu.vram_free_mb <= (gpu.vram_total_mb or math.inf)
            assert gpu.temp_c is None or -60 < gpu.temp_c < 200
            assert gpu.utilization_pct is None or 0 <= gpu.utilization_pct <= 100
            assert gpu.process_vram_mb is None or all(mb >= 0 for mb in gpu.process_vram_mb.values())

    def test_gpu_that_must_not_be_chosen_says_why(self, gpus: Sequence[Gpu]) -> None:
        assert all(gpu.note for gpu in gpus if not gpu.is_selectable)

    def test_reading_again_and_from_another_thread_tells_of_the_same_gpus(
        self, probe: GpuProbe, gpus: Sequence[Gpu]
    ) -> None:
        with ThreadPoolExecutor(1) as thread:
            readings = [probe.read(), thread.submit(probe.read).result(timeout=60), probe.read()]
        identity = [(gpu.index, gpu.id, gpu.name) for gpu in gpus]
        assert [[(gpu.index, gpu.id, gpu.name) for gpu in reading] for reading in readings] == [identity] * 3

    def test_each_gpu_can_be_confined_to_by_an_environment_of_its_own(
        self, probe: GpuProbe, gpus: Sequence[Gpu]
    ) -> None:
        chosen = [dict(probe.visible_devices(gpu)) for gpu in gpus if gpu.is_selectable]
        for variables in chosen:
            assert all(
                isinstance(name, str) and isinstance(text, str) and name for name, text in variables.items()
            )
        assert all(chosen.count(variables) == 1 for variables in chosen)

    def test_probe_that_cannot_read_says_so_by_its_own_error_alone(self, broken_probe: GpuProbe) -> None:
        assert broken_probe.is_available() in (True, False)
        with pytest.raises(ProbeError) as caught:
            broken_probe.read()
        assert caught.value.message.strip()
