"""Two ranks whose clocks differ stop at the same step, which the first one chooses, and go on from it together."""

from __future__ import annotations

import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from backprop_core.testing import Project

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT_S = 300


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize("trainer", ["huggingface", "lightning"])
def test_ranks_end_at_one_step_and_go_on_from_it(trainer: str, backprop: Project) -> None:
    for package in ("torch", "transformers" if trainer == "huggingface" else "lightning"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = f"ranks_{trainer}.py"
    for name in ("pacing.py", script):
        shutil.copy(SCRIPTS / name, backprop.folder / name)
    by = ("--through", f"torchrun --nproc-per-node 2 --master-port {free_port()}")
    done = backprop.run(
        "run", script, "--python", sys.executable, "--slices", 2, "-m", 10, *(by if trainer == "huggingface" else ()),
        env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}, timeout=LIMIT_S,
    )  # fmt: skip
    record = backprop.record()
    output = (backprop.run_folder() / "output.log").read_text()
    assert (done.code, record["status"]) == (0, "completed"), output
    assert [attempt["status"] for attempt in record["attempts"]] == ["timeboxed", "completed"], output
    ends = [
        [(backprop.folder / f"ended-{attempt}-{rank}").read_text() for rank in (0, 1)] for attempt in (1, 2)
    ]
    assert ends[0][0] == ends[0][1], "the same step, and the same weights"
    assert ends[1][0] == ends[1][1]
    assert [int(of_one.split()[0]) for of_one, _ in ends] == (
        [7, 12] if trainer == "huggingface" else [8, 12]
    )
    assert record["attempts"][1]["firstStep"] in {7, 8, 9}
    assert record["lastStep"] == 12
