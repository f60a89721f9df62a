"""The state of the random numbers, as plain values that a checkpoint can hold."""

from __future__ import annotations

import random
import sys
from typing import Any


def state() -> dict[str, Any]:
    """Return the states of Python's generator, and of NumPy's and PyTorch's where they are in use."""
    version, numbers, gauss = random.getstate()
    found: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        found["numpy"] = [kind, [int(key) for key in keys], *rest]
    if torch := sys.modules.get("torch"):
        found["torch"] = _as_text(torch.get_rng_state())
        if torch.cuda.is_available():
            found["cuda"] = [_as_text(one) for one in torch.cuda.get_rng_state_all()]
    return found


def restore(found: dict[str, Any]) -> None:
    """Go on with the random numbers where they were."""
    version, numbers, gauss = found["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "numpy" in found and "numpy" in sys.modules:
        sys.modules["numpy"].random.set_state(tuple(found["numpy"]))
    if torch := sys.modules.get("torch"):
        if "torch" in found:
            torch.set_rng_state(_from_text(torch, found["torch"]))
        if torch.cuda.is_available() and len(found.get("cuda", ())) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([_from_text(torch, one) for one in found["cuda"]])


def _as_text(state: Any) -> str:
    return bytes(state.tolist()).hex()


def _from_text(torch: Any, text: str) -> Any:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
