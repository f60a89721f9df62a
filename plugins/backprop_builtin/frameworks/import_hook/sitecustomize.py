"""Hold a process to its GPU memory limit, for frameworks that take none from the environment.

Python imports this at its start where PYTHONPATH names its folder, and so in every child that spawn, fork
or forkserver makes. Nothing happens until PyTorch or TensorFlow is imported. The interpreter is the script's
own: standard library alone, no syntax newer than Python 3.8, and nothing here may take the script down.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own would cost every start of Python
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_HARMLESS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_BYTES_PER_MB = 1024 * 1024


def _positive(variable: str) -> float | None:
    try:
        value = float(os.environ.get(variable, ""))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


_limit_mb = _positive("BACKPROP_GPU_MEMORY_LIMIT_MB")
_limit_share = _positive("BACKPROP_GPU_MEMORY_LIMIT_SHARE")


def _attempt(action: Callable[..., object], *arguments: Any, also: tuple[type[Exception], ...] = ()) -> None:
    try:
        action(*arguments)
    except _HARMLESS + also as error:
        from contextlib import suppress

        text = " ".join(f"{type(error).__name__}: {error}".split())
        with suppress(AttributeError, OSError, ValueError):  # stderr is closed, or was never there
            sys.stderr.write(f"backprop: GPU memory is watched, but not limited, in this process ({text})\n")


class _AfterImport:
    """A finder that lets the others find, and acts once after a module was executed."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self.actions = actions

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.actions:
            return None
        # Those before this one were asked already, and may themselves be asking the others.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if spec.loader is not None:  # a folder without __init__.py has none
                    _attempt(self._follow, name, spec.loader)
                return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            # A module may be looked up and never loaded, and a zip file has one loader for all it holds.
            action = self.actions.pop(name, None) if module.__name__ == name else None
            if action is not None:
                action(module)

        loader.exec_module = exec_module


def _limit_torch(cuda: Any) -> None:
    # Queued until PyTorch initialises CUDA: doing so here would break every later fork.
    _attempt(lambda: cuda._lazy_call(lambda: _attempt(_limit_torch_devices, cuda)))  # noqa: SLF001 - no public way


def _limit_torch_devices(cuda: Any) -> None:
    count = cuda.device_count()
    rank = os.environ.get("LOCAL_RANK", "")
    if rank.isdigit() and int(rank) < count:
        # Setting the limit takes a context, hundreds of MB on the device: a rank does so on its own alone.
        _limit_torch_device(cuda, int(rank))
        return
    current = cuda.current_device()
    for device in range(count):
        _limit_torch_device(cuda, device)
    if count > 1:
        cuda.set_device(current)  # setting a device's limit moves to that device


def _limit_torch_device(cuda: Any, device: int) -> None:
    share = _limit_share
    if _limit_mb is not None:
        share = _limit_mb * _BYTES_PER_MB / cuda.get_device_properties(device).total_memory
    if share is not None:
        cuda.set_per_process_memory_fraction(min(1.0, share), device)


def _limit_tensorflow(tensorflow: Any) -> None:
    errors = getattr(tensorflow, "errors", None)
    _attempt(_limit_tensorflow_devices, tensorflow.config, also=(getattr(errors, "OpError", ValueError),))


def _limit_tensorflow_devices(config: Any) -> None:
    limited = config.list_physical_devices("GPU")
    for gpu in limited:
        limit = config.LogicalDeviceConfiguration(memory_limit=int(_limit_mb or 0))
        config.set_logical_device_configuration(gpu, [limit])
    set_growth = config.experimental.set_memory_growth

    def set_memory_growth(device: Any, enable: bool) -> None:  # noqa: FBT001 - TensorFlow's signature
        try:
            set_growth(device, enable)
        except ValueError:
            # TensorFlow sets no growth beside a limit; TF_FORCE_GPU_ALLOW_GROWTH gives both.
            if device not in limited:
                raise

    config.experimental.set_memory_growth = set_memory_growth


def _install() -> None:
    actions: dict[str, Callable[[ModuleType], None]] = {}
    if _limit_mb is not None or _limit_share is not None:
        actions["torch.cuda"] = _limit_torch
    if _limit_mb is not None:
        actions["tensorflow"] = _limit_tensorflow
    if actions:
        sys.meta_path.insert(0, _AfterImport(actions))


def _run_shadowed() -> None:
    """Run the sitecustomize that Python would have found without this one; its errors are its own."""
    from importlib.machinery import PathFinder

    here = os.path.realpath(os.path.dirname(__file__))
    folders = [os.path.realpath(folder) for folder in sys.path]
    # Only what comes after this folder: another hook of this kind before it would run this one again.
    after = folders.index(here) + 1 if here in folders else len(folders)
    spec = PathFinder.find_spec("sitecustomize", [folder for folder in folders[after:] if folder != here])
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    shadowed = module_from_spec(spec)
    sys.modules["sitecustomize"] = shadowed
    spec.loader.exec_module(shadowed)


_install()
_run_shadowed()
