"""Train a small convolutional network on scikit-learn's handwritten digits, over as many runs as it takes.

It trains for a number of seconds in all, however many attempts they are spread over, so that it does not
depend on the machine how often it is interrupted. A checkpoint holds the network, the optimizer and the
state of the random numbers: an interrupted training goes on as if it had not been interrupted.

    pip install torch scikit-learn
    backprop run examples/train_digits_torch.py -m 0.5
    backprop resume last
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

try:
    from backprop_core.script import checkpoint, report, resume_path, should_checkpoint, should_stop
except ImportError:  # without Backprop the same lines are for the person who reads them

    def report(**values: float) -> None:
        print(json.dumps(values), flush=True)

    def checkpoint(path: Path) -> None:
        report(event="checkpoint_saved", path=str(path))

    def resume_path() -> str | None:
        return None

    def should_checkpoint() -> bool:
        return False

    def should_stop() -> bool:
        return False


BATCH = 64
LEARNING_RATE = 1e-3
SAVE_EVERY_EPOCHS = 10
INTERRUPTED = 130


class Digits(NamedTuple):
    """Images from 0 to 1, of shape (n, 1, 8, 8), and what they show, of shape (n,)."""

    images: Tensor
    labels: Tensor


class Training:
    """A network, its optimizer, and how far they have come."""

    def __init__(self, device: torch.device) -> None:
        self.network = small_network().to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE)
        self.epoch = 0
        self.step = 0
        self.spent_s = 0.0

    def state(self) -> dict[str, Any]:
        """Return a copy of everything the next epoch depends on."""
        return copy.deepcopy(
            {
                "epoch": self.epoch,
                "step": self.step,
                "spent_s": self.spent_s,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.spent_s = state["epoch"], state["step"], state["spent_s"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])

    def run_epoch(self, digits: Digits) -> float:
        """Learn from every image once; return the mean loss."""
        began_s = time.monotonic()
        self.network.train()
        losses = []
        for chosen in torch.randperm(len(digits.labels)).split(BATCH):
            images, labels = shifted(digits.images[chosen]), digits.labels[chosen]
            loss = functional.cross_entropy(self.network(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
            self.step += 1
        mean = torch.stack(losses).mean().item()
        self.epoch += 1
        self.spent_s += time.monotonic() - began_s
        return mean

    @torch.no_grad()
    def accuracy(self, digits: Digits) -> float:
        """Return the share of images, from 0 to 1, that are read rightly."""
        self.network.eval()
        return (self.network(digits.images).argmax(1) == digits.labels).float().mean().item()


def main() -> int:
    options = parse_arguments()
    torch.set_num_threads(1)  # on images of 8 x 8 more threads mostly wait for each other
    learned, validation, test = split(read_digits(options.device))
    torch.manual_seed(options.seed)
    training = Training(options.device)
    if options.resume_from:
        training.restore(torch.load(options.resume_from, map_location="cpu", weights_only=True))
    print(f"{len(learned.labels)} images to learn from, from step {training.step}", flush=True)

    safe = training.state()
    try:
        while training.spent_s < options.seconds and training.epoch < options.epochs:
            loss = training.run_epoch(learned)
            safe = training.state()
            report(
                step=training.step, epoch=training.epoch, loss=loss, accuracy=training.accuracy(validation)
            )
            if should_stop():  # the time box is about to end: nothing after this save would be kept
                save(safe, options.checkpoint)
                print(f"stopping in time; the next attempt goes on from step {training.step}")
                return 0
            if training.epoch % SAVE_EVERY_EPOCHS == 0 or should_checkpoint():
                save(safe, options.checkpoint)
    except KeyboardInterrupt:  # in the middle of an epoch; the end of the one before is safe
        save(safe, options.checkpoint)
        print(f"interrupted; --resume-from {options.checkpoint} goes on from step {safe['step']}")
        return INTERRUPTED
    save(safe, options.checkpoint)
    test_accuracy = training.accuracy(test)
    report(step=training.step, test_accuracy=test_accuracy)
    print(f"test accuracy {test_accuracy:.1%} after {training.epoch} epochs")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--seconds", type=float, default=26, help="of training in all (%(default)s)")
    parser.add_argument("--epochs", type=int, default=sys.maxsize, help="in all, if they come first")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda ... (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of a fresh start")
    place = Path(os.environ.get("BACKPROP_RUN_DIR", "."), "digits-checkpoint.pt")
    parser.add_argument("--checkpoint", type=Path, default=place, help="where to save (%(default)s)")
    parser.add_argument("--resume-from", type=Path, default=resume_path(), help="a checkpoint to go on from")
    return parser.parse_args()


def read_digits(device: torch.device) -> Digits:
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32) / bunch.images.max()
    return Digits(images.unsqueeze(1).to(device), torch.tensor(bunch.target).to(device))


def split(digits: Digits) -> tuple[Digits, Digits, Digits]:
    """Split into four fifths to learn from, a tenth to watch, and a tenth to test with, always the same."""
    count = len(digits.labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    parts = order.tensor_split([count * 8 // 10, count * 9 // 10])
    learned, validation, test = (Digits(digits.images[part], digits.labels[part]) for part in parts)
    return learned, validation, test


def small_network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
        nn.Linear(64 * 4 * 4, 10),
    )


def shifted(images: Tensor) -> Tensor:
    """Move each image by up to one pixel in any direction, so that the network never sees the same twice."""
    windows = functional.pad(images, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)
    every = torch.arange(len(images))
    return windows[every, :, torch.randint(3, (len(images),)), torch.randint(3, (len(images),))]


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint that is either wholly there or not there at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    checkpoint(path)


if __name__ == "__main__":
    sys.exit(main())
