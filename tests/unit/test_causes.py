"""Why a script failed, from its exit and the end of its output."""

from __future__ import annotations

import signal

import pytest

from backprop_core.causes import Cause, cause_of, told
from backprop_core.records import ProcessExit

ONE = ProcessExit(code=1)
# As PyTorch 2, TensorFlow 2, JAX, Lightning, NumPy, argparse and the kernel word them.
SAYINGS = [
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...",
        Cause.GPU_MEMORY,
    ),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory.", Cause.GPU_MEMORY),
    ("RuntimeError: MPS backend out of memory (MPS allocated: 9 GB)", Cause.GPU_MEMORY),
    (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        Cause.GPU_MEMORY,
    ),
    ("tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating", Cause.GPU_MEMORY),
    ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", Cause.GPU_MEMORY),
    ("MemoryError", Cause.MEMORY),
    ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7 TiB", Cause.MEMORY),
    ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", Cause.MEMORY),
    ("OSError: [Errno 12] Cannot allocate memory", Cause.MEMORY),
    ("RuntimeError: DataLoader worker (pid 12) is killed by signal: Killed.", Cause.MEMORY),
    ("OSError: [Errno 28] No space left on device: 'model.pt'", Cause.DISK_FULL),
    ("OSError: [Errno 122] Disk quota exceeded", Cause.DISK_FULL),
    ("ValueError: The loss returned in `training_step` is nan.", Cause.NAN_LOSS),
    ("FloatingPointError: NaN loss at step 12", Cause.NAN_LOSS),
    ("AssertionError: loss is not finite", Cause.NAN_LOSS),
    ('{"step": 4, "loss": null}\nAssertionError', Cause.NAN_LOSS),
    ("       Signal 9 (SIGKILL) received by PID 4213", Cause.KILLED),
    ("ModuleNotFoundError: No module named 'torch'", Cause.UNUSABLE),
    ("SyntaxError: invalid syntax", Cause.UNUSABLE),
    ("train.py: error: unrecognized arguments: --lr", Cause.UNUSABLE),
    ("RuntimeError: boom", Cause.SCRIPT),
    ("KeyError: 'nan'", Cause.SCRIPT),
    ("ValueError: cannot import the financial closs", Cause.SCRIPT),
    ('{"step": 4, "loss": 0.5}\nValueError: boom', Cause.SCRIPT),
    ("the disk has space left\nRuntimeError: x", Cause.SCRIPT),
]


@pytest.mark.parametrize(("text", "cause"), SAYINGS)
def test_the_last_lines_tell_the_cause(text: str, cause: Cause) -> None:
    assert cause_of(ONE, f"step 1\r\n{text}\n".encode()) is cause


@pytest.mark.parametrize(
    ("exited", "cause", "words"),
    [
        (
            ProcessExit(signal=signal.SIGKILL),
            Cause.KILLED,
            "killed by SIGKILL (often the kernel's out-of-memory killer)",
        ),
        (ProcessExit(signal=signal.SIGTERM), Cause.KILLED, "killed by SIGTERM"),
        (ProcessExit(code=128 + signal.SIGKILL), Cause.KILLED, "exit code 137"),
        (ProcessExit(signal=signal.SIGSEGV), Cause.SCRIPT, "killed by SIGSEGV"),
        (ProcessExit(signal=64), Cause.SCRIPT, "killed by "),
        (ProcessExit(code=127), Cause.UNUSABLE, "exit code 127 (the script does not load"),
        (ProcessExit(code=3), Cause.SCRIPT, "exit code 3"),
        (None, Cause.UNUSABLE, "the script did not start"),
    ],
)
def test_the_exit_tells_the_rest(exited: ProcessExit | None, cause: Cause, words: str) -> None:
    assert cause_of(exited, b"\xff\xfe nothing to see") is cause
    assert told(exited, cause).startswith(words)


def test_a_memory_failure_is_told_beside_the_exit() -> None:
    assert told(ONE, Cause.GPU_MEMORY) == "exit code 1 (out of GPU memory)"
