"""Let PyPI's torchvision, which is built for CUDA, work beside a CPU build of PyTorch, whose tests import it.

Its operators do not load there, and it does not even import without two of them. One is written in Python here. Where
torchvision works, nothing happens.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
        left, kept = scores.argsort(descending=True), []
        while len(left):
            best, left = left[0], left[1:]
            kept.append(best)
            low = torch.maximum(boxes[best, :2], boxes[left, :2])
            high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
            shared = (high - low).clamp(min=0).prod(1)
            sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            left = left[shared / (sizes[best] + sizes[left] - shared) <= threshold]
        return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)

    library.impl("nms", nms, "CPU")
    import torchvision

    torchvision.extension._has_ops = lambda: True
