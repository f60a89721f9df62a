"""Train a small network on Fisher's iris flowers, with nothing but the standard library.

Four measures of a flower go in, eight tanh units look at them, three softmax units name the species;
backpropagation is written out below. What the script does for Backprop's sake: it reports its progress,
saves a checkpoint when asked to or interrupted, and goes on from one as if nothing had happened.

    backprop run examples/train_iris.py --name my-first-run
    python examples/train_iris.py --epochs 200
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import sys
from operator import mul
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

try:
    from backprop_core.script import checkpoint, report, resume_path, should_checkpoint
except ImportError:  # without Backprop the same lines are for the person who reads them

    def report(**values: float) -> None:
        print(json.dumps(values), flush=True)

    def checkpoint(path: Path) -> None:
        report(event="checkpoint_saved", path=str(path))

    def resume_path() -> str | None:
        return None

    def should_checkpoint() -> bool:
        return False


DATA = Path(__file__).with_name("iris.csv")
HELD_OUT_PER_SPECIES = 10
HIDDEN_UNITS = 8
LEARNING_RATE = 0.002
REPORT_EVERY_EPOCHS = 10
SAVE_EVERY_EPOCHS = 500
INTERRUPTED = 130

Layer = list[list[float]]  # a row for each unit: its weights, then its bias


class Flower(NamedTuple):
    """One row of the data: its measures (in cm, later scaled), and the number of its species."""

    measures: tuple[float, ...]
    species: int


class State(NamedTuple):
    """Everything the next epoch depends on, so all that a checkpoint has to hold."""

    epoch: int
    seed: int
    shuffler: tuple[Any, ...]
    hidden: Layer
    output: Layer
    loss: float | None = None


def main() -> int:
    options = parse_arguments()
    state = load(options.resume_from) if options.resume_from else first_state(options.seed)
    flowers, held_out = split(read_flowers(), state.seed)
    print(f"{len(flowers)} flowers to learn from, {len(held_out)} held out, from epoch {state.epoch}")
    try:
        while state.epoch < options.epochs:
            state = next_epoch(state, flowers)
            tell(state, flowers, options.epochs)
            is_due = state.epoch % SAVE_EVERY_EPOCHS == 0 or state.epoch == options.epochs
            if is_due or should_checkpoint():
                save(state, options.checkpoint)
                print(f"epoch {state.epoch} of {options.epochs}: loss {state.loss:.4f}, saved")
    except KeyboardInterrupt:
        save(state, options.checkpoint)
        print(f"interrupted after epoch {state.epoch}; --resume-from {options.checkpoint} goes on from there")
        return INTERRUPTED
    test_accuracy = accuracy(state, held_out)
    report(step=state.epoch, test_accuracy=test_accuracy)
    print(f"{test_accuracy:.1%} of the flowers it has never seen are named rightly")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small network on Fisher's iris flowers.")
    parser.add_argument("--epochs", type=int, default=2000, help="in all, over all attempts (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of a fresh start; a checkpoint brings its own")
    place = Path(os.environ.get("BACKPROP_RUN_DIR", "."), "iris-checkpoint.json")
    parser.add_argument("--checkpoint", type=Path, default=place, help="where to save (%(default)s)")
    parser.add_argument("--resume-from", type=Path, default=resume_path(), help="a checkpoint to go on from")
    return parser.parse_args()


def read_flowers() -> list[Flower]:
    with DATA.open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    names = sorted({name for *_, name in rows})
    return [Flower(tuple(map(float, measures)), names.index(name)) for *measures, name in rows]


def split(flowers: list[Flower], seed: int) -> tuple[list[Flower], list[Flower]]:
    """Hold out as many flowers of each species; the same ones for the same seed."""
    learned, held_out = [], []
    for species in sorted({flower.species for flower in flowers}):
        kind = [flower for flower in flowers if flower.species == species]
        random.Random(f"{seed} {species}").shuffle(kind)
        held_out += kind[:HELD_OUT_PER_SPECIES]
        learned += kind[HELD_OUT_PER_SPECIES:]
    return scaled(learned, learned), scaled(held_out, learned)


def scaled(flowers: list[Flower], known: list[Flower]) -> list[Flower]:
    """Give each measure mean 0 and deviation 1 among the known flowers, so that no centimetre counts more."""
    columns = list(zip(*(flower.measures for flower in known), strict=True))
    scales = [(fmean(column), pstdev(column)) for column in columns]

    def scale(measures: tuple[float, ...]) -> tuple[float, ...]:
        return tuple((value - mean) / spread for value, (mean, spread) in zip(measures, scales, strict=True))

    return [Flower(scale(measures), species) for measures, species in flowers]


def first_state(seed: int) -> State:
    chance = random.Random(seed)
    hidden = [[chance.gauss(0, 0.5) for _ in range(4)] + [0.0] for _ in range(HIDDEN_UNITS)]
    output = [[chance.gauss(0, 0.5) for _ in range(HIDDEN_UNITS)] + [0.0] for _ in range(3)]
    return State(0, seed, chance.getstate(), hidden, output)


def next_epoch(state: State, flowers: list[Flower]) -> State:
    """Learn from every flower once; the old state is left as it is, for an interrupt to fall back on."""
    chance = random.Random()
    chance.setstate(state.shuffler)
    hidden = [list(unit) for unit in state.hidden]
    output = [list(unit) for unit in state.output]
    losses = [learn(hidden, output, flower) for flower in chance.sample(flowers, len(flowers))]
    loss = math.fsum(losses) / len(losses)
    return State(state.epoch + 1, state.seed, chance.getstate(), hidden, output, loss)


def learn(hidden: Layer, output: Layer, flower: Flower) -> float:
    """Change both layers by one step of gradient descent; return the loss there was before it."""
    seen, odds = forward(hidden, output, flower.measures)
    output_errors = [chance - (species == flower.species) for species, chance in enumerate(odds)]
    hidden_errors = [
        (1 - value * value) * sum(error * unit[i] for error, unit in zip(output_errors, output, strict=True))
        for i, value in enumerate(seen)
    ]
    descend(output, output_errors, seen)
    descend(hidden, hidden_errors, flower.measures)
    return -math.log(max(odds[flower.species], 1e-300))


def forward(hidden: Layer, output: Layer, measures: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Return what the hidden units answer, and the odds of each species (softmax)."""
    seen = [math.tanh(weighted(unit, measures)) for unit in hidden]
    scores = [weighted(unit, seen) for unit in output]
    powers = [math.exp(score - max(scores)) for score in scores]
    return seen, [power / sum(powers) for power in powers]


def weighted(unit: list[float], inputs: tuple[float, ...] | list[float]) -> float:
    return sum(map(mul, unit, inputs), unit[-1])  # map ends with the inputs, before the bias


def descend(layer: Layer, errors: list[float], inputs: tuple[float, ...] | list[float]) -> None:
    for unit, error in zip(layer, errors, strict=True):
        step = LEARNING_RATE * error
        for i, value in enumerate(inputs):
            unit[i] -= step * value
        unit[-1] -= step


def accuracy(state: State, flowers: list[Flower]) -> float:
    """Return the share of flowers, from 0 to 1, whose species is given the best odds."""
    guesses = [forward(state.hidden, state.output, flower.measures)[1] for flower in flowers]
    right = [odds.index(max(odds)) == flower.species for odds, flower in zip(guesses, flowers, strict=True)]
    return sum(right) / len(right)


def tell(state: State, flowers: list[Flower], epochs: int) -> None:
    if state.epoch % REPORT_EVERY_EPOCHS == 0:
        report(step=state.epoch, loss=state.loss, accuracy=accuracy(state, flowers), total_steps=epochs)


def save(state: State, path: Path) -> None:
    """Write a checkpoint that is either wholly there or not there at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w") as file:
        json.dump(state._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    checkpoint(path)


def load(path: Path) -> State:
    values = json.loads(path.read_text())
    version, numbers, gauss = values.pop("shuffler")
    return State(**values, shuffler=(version, tuple(numbers), gauss))


if __name__ == "__main__":
    sys.exit(main())
