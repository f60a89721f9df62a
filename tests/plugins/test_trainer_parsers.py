"""What trainers print, fed as it was read, becomes the steps, epochs, losses and evaluations it tells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from fake_plugins import bring
from trainer_captures import (
    CWD,
    NAMES,
    built_ins,
    epochs,
    losses,
    metric,
    points,
    read,
    read_lines,
    reads,
    run,
    saved,
    steps,
    totals,
)

from backprop_core.events import EventReader, collect_parsers
from backprop_core.interfaces import EventParser
from backprop_core.records import Event, Progress

OWNERS = {
    "hf": {"hf_trainer", "tqdm"},
    "lightning": {"lightning"},
    "keras": {"keras"},
    "ultralytics": {"tables"},
    "tqdm": {"tqdm"},
    "accelerate": {"tqdm", "iter_loss"},
}
"""Whose lines a capture holds, by the first word of its name; all others hold lines of losses alone."""


def owners(name: str) -> set[str]:
    return OWNERS.get(name.partition("_")[0], {"iter_loss"}) | ({"iter_loss"} if name == "tqdm" else set())


# Hugging Face ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf_trainer", [(4, 0.6937), (8, 0.6948), (12, 0.6945), (16, 0.6934)]),
        ("hf_trainer_u", [(4, 0.6939), (8, 0.6939), (12, 0.6944), (16, 0.6921)]),
        ("hf_resume", [(12, 0.6933), (16, 0.6931)]),
        ("hf_sigint", [(4, 0.693), (8, 0.6933), (12, 0.6931)]),
    ],
)
def test_hugging_face_losses_belong_to_the_step_of_the_bar(name: str, told: list[tuple[int, float]]) -> None:
    events = read(reads(name))
    assert losses(events) == told
    assert totals(events) == {160 if name == "hf_sigint" else 16}
    assert [point.epoch for point in points(events) if point.loss] == [step / 8 for step, _ in told]


def test_hugging_face_steps_are_right_where_the_bar_lags_behind() -> None:
    events = read(reads("hf_fast"))
    assert [step for step, _ in losses(events)] == [2, 4, 6, 8, 10, 12, 14, 16]


@pytest.mark.parametrize("name", ["hf_trainer", "hf_trainer_u", "hf_fast"])
def test_hugging_face_evaluations_belong_to_the_end_of_their_epoch(name: str) -> None:
    events = read(reads(name))
    assert [step for step, _ in metric(events, "eval_loss")] == [8, 16]
    assert [step for step, _ in metric(events, "train_runtime")] == [16]


@pytest.mark.parametrize("name", ["hf_trainer", "hf_trainer_u", "hf_fast", "hf_resume", "hf_sigint"])
def test_evaluation_bars_and_the_writing_of_shards_are_no_steps(name: str) -> None:
    events = read(reads(name))
    bare = [point for point in points(events) if point.epoch is None]
    assert all(early.step <= late.step for early, late in pairwise(bare) if early.step and late.step)
    assert {point.total_steps for point in bare} <= {16, 160}


def test_a_resumed_hugging_face_run_never_stands_at_0() -> None:
    assert steps(read(reads("hf_resume")))[0] == 9


def test_hugging_face_without_bars_tells_epochs_and_no_steps() -> None:
    events = read(reads("hf_quiet"))
    assert steps(events) == []
    assert epochs(events) == [0.5, 1.0, 1.5, 2.0]
    assert losses(events) == [(None, 0.6933), (None, 0.6927), (None, 0.6933), (None, 0.6931)]
    assert metric(events, "eval_loss") == [(None, 0.6932), (None, 0.6932)]


# Keras -------------------------------------------------------------------------------------------


def test_keras_tells_steps_over_all_epochs() -> None:
    events = read(reads("keras_v1"))
    assert list(dict.fromkeys(steps(events))) == list(range(1, 25))
    assert totals(events) == {24}
    assert epochs(events) == [1, 2, 3]
    assert (1, 3.9847) in losses(events)
    assert losses(events)[-1] == (24, 2.0902)
    assert metric(events, "val_loss") == [(8, 2.1819), (16, 1.7136), (24, 1.3948)]
    assert metric(events, "mae")[-1] == (24, 1.1739)


def test_keras_with_a_line_per_epoch() -> None:
    events = read(reads("keras_v2"))
    assert losses(events) == [(8, 1.5979), (16, 1.4411), (24, 1.3283)]
    assert metric(events, "val_loss") == [(8, 1.5829), (16, 1.4627), (24, 1.3741)]
    assert totals(events) == {24}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("keras_v2_ckpt", [(f"keras_out/model_0{epoch}.keras", 8 * epoch) for epoch in (1, 2, 3)]),
        ("keras_v1_ckpt", [("keras_out/best.keras", step) for step in (8, 16, 24)]),
        (
            "keras_v1_ckpt_batches",
            [(f"keras_out/b_0{4 if step % 8 else 8}.keras", step) for step in (4, 8, 12, 16, 20, 24)],
        ),
    ],
)
def test_keras_checkpoints_are_told_once_with_their_step(name: str, told: list[tuple[str, int]]) -> None:
    assert saved(read(reads(name))) == told


def test_keras_learns_the_total_in_the_first_epoch() -> None:
    told = [
        (point.step, point.total_steps) for point in points(read(reads("keras_unknown_steps"))) if point.step
    ]
    assert told[:4] == [(1, None), (4, None), (7, None), (8, 24)]
    assert told[4:] == [(step, 24) for step in (9, 12, 15, 16, 17, 20, 23, 24)]


def test_keras_that_goes_on_in_epoch_3_goes_on_with_its_steps() -> None:
    assert steps(read(reads("keras_v1_resume"))) == [17, 20, 23, 24]


# Lightning ---------------------------------------------------------------------------------------


def test_lightning_tells_each_loss_once_with_its_step() -> None:
    events = read(reads("lightning_tqdm"))
    first = [1.87, 0.938, 0.632, 0.509, 0.681, 0.676]
    assert losses(events)[:6] == list(enumerate(first, 1))
    assert list(dict.fromkeys(steps(events))) == list(range(1, 19))
    assert metric(events, "val_loss") == [(6, 0.862), (12, 0.843), (18, 0.828)]
    assert losses(events)[-1] == (18, 0.658)
    assert epochs(events) == [0, 1, 2]
    assert totals(events) == {None}
    assert not metric(events, "v_num")


def test_the_frames_of_the_rich_bar_tell_what_the_tqdm_bar_tells() -> None:
    events = read(reads("lightning_rich"))
    assert [step for step, _ in losses(events)] == list(range(1, 19))
    assert losses(events)[:2] == [(1, 5.005), (2, 7.258)]
    assert losses(events)[-1] == (18, 3.887)
    assert metric(events, "val_loss") == [(6, 4.685), (12, 3.711), (18, 2.944)]
    assert totals(events) == {18}
    assert epochs(events) == [0, 1, 2]


@pytest.mark.parametrize("name", ["lightning_tqdm", "lightning_rich", "lightning_unknown_steps"])
def test_lightning_steps_never_go_back(name: str) -> None:
    told = steps(read(reads(name)))
    assert told == sorted(told)


def test_lightning_counts_on_where_it_does_not_know_how_many_batches_there_are() -> None:
    events = read(reads("lightning_unknown_steps"))
    assert [step for step, _ in losses(events) if step] == [*range(1, 7), 6, *range(7, 13), 12]


def test_lightning_that_ends_at_max_steps_counts_the_last_epoch_behind_whole_ones() -> None:
    bar = "Epoch {}: 100%|██████████| {}/{} [00:00<00:00, 9.68it/s, v_num=0, train_loss={}]"
    places = [(0, 5, 6, 3.0), (0, 6, 6, 2.0), (1, 6, 6, 1.5), (2, 1, 3, 1.2), (2, 3, 3, 1.0)]
    events = read_lines(*(bar.format(*place) for place in places))
    assert losses(events) == [(5, 3.0), (6, 2.0), (12, 1.5), (13, 1.2), (15, 1.0)]


def test_lightning_that_is_resumed_in_an_epoch_cut_short_by_max_steps_tells_no_wrong_steps() -> None:
    bar = "Epoch 4: 100%|██████████| {}/24 [00:00<00:00, 9.68it/s, v_num=0, train_loss={}]"
    before = run(last_step=280, metrics={"epoch": 4.0})
    events = read_lines(*(bar.format(*place) for place in [(20, 3.0), (24, 2.0), (44, 1.0)]), record=before)
    assert losses(events) == [(None, 3.0), (None, 2.0), (None, 1.0)]
    assert epochs(events) == [4]


def test_a_resumed_lightning_run_goes_on_with_its_steps() -> None:
    told = steps(read(reads("lightning_resume")))
    assert (told[0], told[-1]) == (19, 30)


def test_lightning_tells_its_checkpoints_behind_a_bar() -> None:
    folder = "lit_out/lightning_logs/version_5/checkpoints"
    told = [(f"{folder}/epoch=0-step=6.ckpt", 6), (f"{folder}/epoch=1-step=12.ckpt", 12)]
    assert saved(read(reads("lightning_ckpt"))) == told


def test_lightning_that_is_ended_in_epoch_1_tells_how_far_it_came() -> None:
    assert losses(read(reads("lightning_sigterm")))[-1] == (7, 0.336)


# tqdm --------------------------------------------------------------------------------------------


def test_a_bar_labelled_with_the_epoch_tells_steps_over_all_epochs() -> None:
    events = read(reads("tqdm"))
    assert list(dict.fromkeys(steps(events))) == list(range(2, 41, 2))
    assert epochs(events) == [0, 1]
    assert losses(events)[:2] == [(None, 1.0), (None, 0.5)], "before the bar has moved no step is known"
    assert losses(events)[-1] == (40, 0.05)
    assert saved(events) == [("checkpoint.pt", 40)]


def test_of_bars_within_bars_the_one_with_the_loss_is_followed() -> None:
    assert list(dict.fromkeys(steps(read(reads("tqdm_loss_inside"))))) == [4, 8, 14, 18, 24, 28]


def test_bars_begun_anew_count_on_and_validation_is_passed_over() -> None:
    events = read(reads("tqdm_unlabelled"))
    assert list(dict.fromkeys(steps(events))) == list(range(5, 61, 5))
    assert losses(events)[-1] == (60, 0.0167)
    assert totals(events[:20]) == {20}
    assert points(events)[-1].total_steps is None


def test_preparation_is_no_progress() -> None:
    events = read(reads("tqdm_prepared"))
    assert losses(events)[0] == (None, 1.0)
    assert losses(events)[-1] == (30, 0.0333)
    assert metric(events, "lr")[-1] == (30, 0.001)


@pytest.mark.parametrize(
    ("name", "told"), [("accelerate", [1.3409, 1.258]), ("accelerate_u", [1.3261, 1.2883])]
)
def test_what_is_printed_behind_a_bar_is_read(name: str, told: list[float]) -> None:
    events = read(reads(name))
    assert [(point.epoch, point.loss) for point in points(events) if point.loss] == list(enumerate(told))
    assert steps(events)[-1] == 8
    assert totals(events) == {8}


# Lines of losses ---------------------------------------------------------------------------------


def test_nanogpt() -> None:
    events = read(reads("nanogpt"))
    assert totals(events) == {25}
    assert metric(events, "val_loss") == [(0, 4.1681), (10, 4.1811), (20, 4.176)]
    assert [step for step, _ in metric(events, "time_ms")] == list(range(26))
    assert [step for step, _ in metric(events, "mfu_pct")] == list(range(5, 26)), "-100 % is no measurement"
    assert (1, 4.1749) in losses(events)
    assert losses(events)[-1] == (25, 4.177)
    assert saved(events) == [("out-tiny/ckpt.pt", 10), ("out-tiny/ckpt.pt", 20)]


@pytest.mark.parametrize("name", ["plain_torch", "plain_torch_u"])
def test_the_pytorch_examples_count_samples(name: str) -> None:
    events = read(reads(name))
    assert steps(events) == list(range(0, 120, 8))
    assert epochs(events) == [1, 2, 3]
    assert len(losses(events)) == 15
    assert saved(events) == [("ckpt.pt", step) for step in (32, 72, 112)]


def test_steps_with_a_loss() -> None:
    assert losses(read(reads("orbax"))) == [(0, 1.0), (1, 0.5), (2, 0.3333), (3, 0.25), (4, 0.2)]


def test_torchrun() -> None:
    assert losses(read(reads("torchrun_sigterm"))) == [(0, 0.534234)]


def test_ultralytics() -> None:
    events = read(reads("ultralytics"))
    assert metric(events, "box_loss") == [(None, 6.933), (2, 4.621), (4, 5.649)]
    assert metric(events, "cls_loss") == [(None, 3.868), (2, 2.681), (4, 3.302)]
    assert metric(events, "dfl_loss") == [(None, 4.276), (2, 2.813), (4, 3.479)]
    assert metric(events, "mAP50-95") == [(2, 0.0), (4, 0.0)]
    assert epochs(events) == [1, 2]
    assert totals(point for point in points(events) if point.epoch) == {4}


# How many epochs there are -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [("keras_v1", 3), ("keras_v2", 3), ("keras_unknown_steps", 3), ("lightning_rich", 3)],
)
def test_how_many_epochs_there_are_is_told(name: str, count: int) -> None:
    assert {value for _, value in metric(read(reads(name)), "total_epochs")} == {count}


@pytest.mark.parametrize(
    ("line", "epoch", "count"),
    [
        ("Epoch [3/10], Loss: 0.4321", 3, 10),
        ("epoch 3/10: train loss 0.5, val loss 0.6", 3, 10),
        ("Epochs:  30%|###       | 3/10 [00:03<00:07,  1.00s/it, loss=0.5]", 3, 10),
        ("Epoch 3/10: 17it [00:03,  5.00it/s, loss=0.5]", 3, 10),
    ],
)
def test_lines_that_tell_no_steps_tell_how_many_epochs_there_are(line: str, epoch: int, count: int) -> None:
    (point,) = points(read_lines(line))
    assert (point.epoch, point.step, point.metrics["total_epochs"]) == (epoch, None, count)


# All of them -------------------------------------------------------------------------------------


class Watched:
    """A parser, and the lines that it answered."""

    def __init__(self, parser: EventParser) -> None:
        self._parser = parser
        self.name = type(parser).__module__.rpartition(".")[2]
        self.answered: list[str] = []

    def __call__(self, line: str) -> Sequence[Event] | None:
        answer = self._parser(line)
        if answer is not None:
            self.answered.append(line)
        return answer


def watched() -> list[Watched]:
    return [Watched(parser) for parser in collect_parsers(built_ins(), run())]


@pytest.mark.parametrize("name", NAMES)
def test_nobody_answers_for_the_lines_of_another(name: str) -> None:
    parsers = watched()
    reader = EventReader(parsers, CWD)
    for chunk in reads(name):
        reader.feed(chunk)
    reader.end()
    assert {parser.name for parser in parsers if parser.answered} == owners(name)


@pytest.mark.parametrize("name", NAMES)
def test_asked_alone_nobody_but_tqdm_answers_for_another(name: str) -> None:
    """Lightning draws its bars with tqdm, so only the order tells those apart."""
    for parser in watched():
        if parser.name in owners(name) | {"tqdm"}:
            continue
        reader = EventReader([parser], CWD)
        assert [event for chunk in reads(name) for event in reader.feed(chunk)] == []
        assert list(reader.end()) == []
        assert parser.answered == []


@pytest.mark.parametrize("name", NAMES)
def test_the_boundaries_of_the_reads_do_not_matter(name: str) -> None:
    whole = b"".join(reads(name))
    told = read(reads(name))
    assert read([whole]) == told
    assert read([whole[begin : begin + 7] for begin in range(0, len(whole), 7)]) == told


def test_json_lines_are_asked_first_of_the_built_ins_and_bars_last() -> None:
    assert [parser.name for parser in watched()] == [
        "json_lines",
        "hf_trainer",
        "iter_loss",
        "keras",
        "lightning",
        "tables",
        "tqdm",
    ]


def test_a_users_parser_is_asked_before_the_built_ins() -> None:
    plugins = built_ins()
    mine = [Progress(step=7)]
    bring(plugins, "mine", backprop_event_parser=lambda: lambda line: mine if "loss" in line else None)
    reader = EventReader(collect_parsers(plugins, run()), CWD)
    assert reader.feed(b'{"step": 1, "loss": 2}\niter 3: loss 4\nstep 5\n') == [*mine, *mine]
