from backprop_builtin.gpu_probes.none import NoGpu, backprop_gpu_probe
from backprop_core import Gpu, GpuProbe


def test_none_is_a_probe_that_is_asked_last() -> None:
    probe = backprop_gpu_probe()
    assert isinstance(probe, GpuProbe)
    assert (probe.name, probe.order) == ("none", 1000)


def test_none_is_always_available_and_sees_no_gpu() -> None:
    assert NoGpu().is_available()
    assert NoGpu().read() == ()


def test_none_hides_no_gpu_from_a_script() -> None:
    assert NoGpu().visible_devices(Gpu(index=0)) == {}
