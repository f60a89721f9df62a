"""The import hook limits GPU memory inside the script's process, and otherwise leaves no trace.

PyTorch and TensorFlow are stood in for by packages with the same few functions, which note what was asked of
them; the tests marked `torch` ask the real one.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from backprop_builtin.frameworks._memory_limit import HOOK_FOLDER, MemoryLimit, import_hook_environment

HOOK = HOOK_FOLDER / "sitecustomize.py"
LIMIT = MemoryLimit(mb=4000, share=None)

NOTE = """
import json, os

def note(*what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")
"""

TORCH_CUDA = """
import os
from note import note

_calls = []
_device = 0
_is_initialized = False

def _lazy_call(call):
    call() if _is_initialized else _calls.append(call)

def init():
    global _is_initialized
    if not _is_initialized:
        note("init")
        for call in _calls:
            call()
        _is_initialized = True

def device_count():
    return int(os.environ.get("GPUS", "1"))

def get_device_properties(device):
    return type("Properties", (), {"total_memory": 10000 * 1024**2})

def current_device():
    return _device

def set_device(device):
    global _device
    _device = device

def set_per_process_memory_fraction(fraction, device):
    set_device(device)
    if "BROKEN" in os.environ:
        raise RuntimeError("CUDA error:\\nout of luck")
    note("limit", device, fraction)
"""

TENSORFLOW = """
import os
from note import note

class OpError(Exception):
    pass

class errors:
    OpError = OpError

class config:
    limited = []

    def list_physical_devices(kind):
        if "BROKEN" in os.environ:
            raise OpError("no driver")
        return [f"{kind}:{index}" for index in range(2)]

    def LogicalDeviceConfiguration(memory_limit):
        return memory_limit

    def set_logical_device_configuration(device, limits):
        config.limited.append(device)
        note("limit", device, *limits)

    class experimental:
        def set_memory_growth(device, enable):
            if device in config.limited or device == "CPU:0":
                raise ValueError("Cannot set memory growth on device when virtual devices configured")
            note("growth", device)
"""

Run = Callable[..., tuple[list[list[Any]], str]]


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    folder = tmp_path / "libraries"
    for package, source in (("torch", "from torch import cuda"), ("tensorflow", TENSORFLOW)):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(source)
    (folder / "torch" / "cuda.py").write_text(TORCH_CUDA)
    (folder / "note.py").write_text(NOTE)
    return folder


@pytest.fixture
def run(tmp_path: Path, libraries: Path) -> Run:
    """Run a script with the hook; give what it noted, and its stderr."""

    def run_script(
        source: str, limit: MemoryLimit | None = LIMIT, more: Mapping[str, str] | None = None
    ) -> tuple[list[list[Any]], str]:
        script = tmp_path / "train.py"
        script.write_text(textwrap.dedent(source))
        notes = tmp_path / "notes"
        notes.unlink(missing_ok=True)
        plain = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "LOCAL_RANK")}
        environ = plain | {"NOTES": str(notes), "PYTHONPATH": str(libraries)} | dict(more or {})
        if limit is not None:
            environ |= import_hook_environment(limit, environ)
        child = subprocess.run(
            [sys.executable, str(script)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        return [
            json.loads(line) for line in notes.read_text().splitlines()
        ] if notes.exists() else [], child.stderr

    return run_script


class TestPyTorch:
    def test_the_limit_is_set_when_cuda_is_initialised_and_not_before(self, run: Run) -> None:
        script = "import torch; from note import note; note('imported'); torch.cuda.init(); torch.cuda.init()"
        assert run(script) == ([["imported"], ["init"], ["limit", 0, 0.4]], "")

    def test_a_limit_beyond_the_gpu_is_all_of_it(self, run: Run) -> None:
        notes, _ = run("import torch; torch.cuda.init()", MemoryLimit(mb=64_000, share=None))
        assert notes == [["init"], ["limit", 0, 1.0]]

    def test_a_share_needs_no_mb(self, run: Run) -> None:
        notes, _ = run("import torch; torch.cuda.init()", MemoryLimit(mb=None, share=0.25))
        assert notes == [["init"], ["limit", 0, 0.25]]

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_child_processes_are_limited_however_they_are_started(self, run: Run, method: str) -> None:
        notes, errors = run(
            f"""
            import multiprocessing
            import torch

            def train():
                torch.cuda.init()

            if __name__ == "__main__":
                child = multiprocessing.get_context("{method}").Process(target=train)
                child.start()
                child.join()
                assert child.exitcode == 0
            """
        )
        assert (notes, errors) == ([["init"], ["limit", 0, 0.4]], "")

    def test_every_gpu_is_limited_and_the_script_stays_on_its_own(self, run: Run) -> None:
        notes, _ = run(
            "import torch, note; torch.cuda.init(); note.note(torch.cuda.current_device())",
            more={"GPUS": "3"},
        )
        assert notes == [["init"], ["limit", 0, 0.4], ["limit", 1, 0.4], ["limit", 2, 0.4], [0]]

    @pytest.mark.parametrize(
        ("gpus", "rank", "limited"), [("2", "1", [1]), ("1", "1", [0]), ("2", "", [0, 1])]
    )
    def test_a_rank_touches_its_own_gpu_alone(
        self, run: Run, gpus: str, rank: str, limited: list[int]
    ) -> None:
        notes, _ = run("import torch; torch.cuda.init()", more={"GPUS": gpus, "LOCAL_RANK": rank})
        assert [note[1] for note in notes[1:]] == limited

    def test_a_failure_is_one_line_and_the_script_goes_on(self, run: Run) -> None:
        notes, errors = run(
            "import torch, note; torch.cuda.init(); note.note('trained')", more={"BROKEN": "1", "GPUS": "2"}
        )
        assert notes == [["init"], ["trained"]]
        assert errors == (
            "backprop: GPU memory is watched, but not limited, in this process "
            "(RuntimeError: CUDA error: out of luck)\n"
        )

    def test_a_pytorch_without_the_function_is_one_line(self, run: Run, libraries: Path) -> None:
        (libraries / "torch" / "cuda.py").write_text("")
        notes, errors = run("import torch, note; note.note('trained')")
        assert notes == [["trained"]]
        assert errors.count("\n") == 1
        assert "_lazy_call" in errors

    def test_a_closed_stderr_is_no_failure(self, run: Run) -> None:
        script = "import sys; sys.stderr.close(); import torch, note; torch.cuda.init(); note.note('trained')"
        assert run(script, more={"BROKEN": "1"})[0] == [["init"], ["trained"]]

    def test_a_pytorch_in_a_zip_file_is_limited(self, run: Run, libraries: Path) -> None:
        with zipfile.ZipFile(libraries / "torch.zip", "w") as archive:
            for name in ("__init__.py", "cuda.py"):
                archive.write(libraries / "torch" / name, f"torch/{name}")
            archive.writestr("torch/nn.py", "")
        shutil.rmtree(libraries / "torch")
        script = f"import sys; sys.path.insert(0, {str(libraries / 'torch.zip')!r})\nimport torch.nn; torch.cuda.init()"
        assert run(script) == ([["init"], ["limit", 0, 0.4]], "")

    def test_the_module_is_otherwise_as_it_was(self, run: Run) -> None:
        notes, _ = run(
            """
            import importlib, inspect, torch
            from importlib.machinery import SourceFileLoader
            from note import note
            note(type(torch.cuda.__loader__) is SourceFileLoader, "_lazy_call" in inspect.getsource(torch.cuda))
            importlib.reload(torch.cuda)
            torch.cuda.init()
            """
        )
        assert notes == [[True, True], ["init"]]


class TestTensorFlow:
    def test_every_gpu_is_limited_on_import(self, run: Run) -> None:
        assert run("import tensorflow") == ([["limit", "GPU:0", 4000], ["limit", "GPU:1", 4000]], "")

    def test_the_script_may_still_ask_for_growth(self, run: Run) -> None:
        notes, _ = run(
            """
            import tensorflow as tf
            from note import note
            for device in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(device, True)
            tf.config.experimental.set_memory_growth("GPU:9", True)
            try:
                tf.config.experimental.set_memory_growth("CPU:0", True)
            except ValueError:
                note("refused")
            """
        )
        assert notes[2:] == [["growth", "GPU:9"], ["refused"]]

    def test_a_share_of_unknown_size_is_left_to_the_watching(self, run: Run) -> None:
        assert run("import tensorflow", MemoryLimit(mb=None, share=0.5)) == ([], "")

    def test_an_error_of_tensorflows_own_is_one_line_and_the_script_goes_on(self, run: Run) -> None:
        notes, errors = run("import tensorflow, note; note.note('trained')", more={"BROKEN": "1"})
        assert notes == [["trained"]]
        assert errors.endswith("(OpError: no driver)\n")
        assert errors.count("\n") == 1

    def test_looking_a_module_up_does_not_use_the_limit_up(self, run: Run) -> None:
        look = "from importlib.util import find_spec; find_spec('tensorflow'); find_spec('tensorflow')"
        assert len(run(f"{look}; import tensorflow")[0]) == 2

    def test_a_module_that_is_not_installed_is_missing_as_ever(self, run: Run, libraries: Path) -> None:
        shutil.rmtree(libraries / "tensorflow")
        notes, errors = run(
            """
            from note import note
            try:
                import tensorflow
            except ModuleNotFoundError as error:
                note(error.name)
            """
        )
        assert (notes, errors) == ([["tensorflow"]], "")

    def test_a_folder_of_that_name_is_no_tensorflow(self, run: Run, libraries: Path) -> None:
        (libraries / "tensorflow" / "__init__.py").unlink()
        assert run("import tensorflow") == ([], "")


class TestWhatItLeavesAlone:
    @pytest.mark.parametrize("value", ["", "no number", "-1", "0", "inf", "nan"])
    def test_without_a_usable_limit_nothing_is_watched(self, run: Run, value: str) -> None:
        script = "import sys, torch; from note import note; torch.cuda.init(); note(type(sys.meta_path[0]).__name__)"
        told = {"BACKPROP_GPU_MEMORY_LIMIT_MB": value, "BACKPROP_GPU_MEMORY_LIMIT_SHARE": value}
        notes, errors = run(script, MemoryLimit(None, None), more=told)
        assert notes[0] == ["init"]
        assert notes[1] != ["_AfterImport"]
        assert errors == ""

    def test_the_sitecustomize_it_shadows_runs_and_takes_its_place(self, run: Run, libraries: Path) -> None:
        (libraries / "sitecustomize.py").write_text("from note import note; note('shadowed')")
        notes, errors = run(
            "import sitecustomize, torch, note; torch.cuda.init(); note.note(sitecustomize.__file__)"
        )
        shadowed = str(libraries / "sitecustomize.py")
        assert (notes, errors) == ([["shadowed"], ["init"], ["limit", 0, 0.4], [shadowed]], "")

    def test_an_error_in_the_shadowed_one_is_shown_as_ever_and_the_limit_holds(
        self, run: Run, libraries: Path
    ) -> None:
        (libraries / "sitecustomize.py").write_text("raise RuntimeError('not mine')")
        notes, errors = run("import torch; torch.cuda.init()")
        _, errors_without_hook = run("", limit=None)
        assert notes == [["init"], ["limit", 0, 0.4]]
        assert errors == errors_without_hook
        assert "not mine" in errors

    def test_two_such_hooks_run_once_each(self, run: Run, tmp_path: Path, libraries: Path) -> None:
        other = tmp_path / "other-installation"
        other.mkdir()
        shutil.copy(HOOK, other)
        (libraries / "sitecustomize.py").write_text("from note import note; note('shadowed')")
        path = os.pathsep.join([str(other), str(libraries)])
        notes, errors = run("import torch; torch.cuda.init()", more={"PYTHONPATH": path})
        assert notes.count(["shadowed"]) == 1
        assert notes.count(["limit", 0, 0.4]) == 2
        assert errors == ""

    def test_it_loads_nothing_that_costs(self, run: Run) -> None:
        script = "import sys; names = sorted(sys.modules); from note import note; note(*names)"
        with_hook, without_hook = run(script)[0][0], run(script, limit=None)[0][0]
        assert set(with_hook) - set(without_hook) <= {
            "sitecustomize",
            "__future__",
            "importlib",
            "importlib._bootstrap",
            "importlib._bootstrap_external",
            "importlib.machinery",
            "warnings",
        }

    def test_an_older_python_of_the_script_can_read_it(self) -> None:
        ast.parse(HOOK.read_bytes(), feature_version=(3, 8))


REAL_TORCH = """
import json, multiprocessing, os, sys
import torch
from note import note

def pretend_a_gpu():
    torch._C._cuda_getDeviceCount = lambda: 1
    torch._C._cuda_init = lambda: note("init")
    torch.cuda._cudart = object()
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *device: (9, 0)
    torch.cuda.get_device_properties = lambda device: type(
        "Properties", (), {"total_memory": 10000 * 1024**2, "major": 9, "minor": 0, "name": "pretended"}
    )
    torch.cuda.set_per_process_memory_fraction = lambda share, device: note("limit", device, share)

def train():
    pretend_a_gpu()
    torch.cuda.init()
    torch.cuda.init()

if __name__ == "__main__":
    assert not torch.cuda.is_initialized()
    method = os.environ["METHOD"]
    if method == "none":
        train()
    else:
        child = multiprocessing.get_context(method).Process(target=train)
        child.start()
        child.join()
        assert child.exitcode == 0
"""


@pytest.mark.torch
@pytest.mark.parametrize("method", ["none", "spawn", "fork", "forkserver"])
def test_the_real_pytorch_runs_the_limit_once_when_it_initialises_cuda(
    run: Run, libraries: Path, method: str
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU, and this pretends one")
    shutil.rmtree(libraries / "torch")
    assert run(REAL_TORCH, more={"METHOD": method}) == ([["init"], ["limit", 0, 0.4]], "")
