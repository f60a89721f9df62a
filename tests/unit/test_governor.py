"""Measurements and objections go in, a verdict comes out; while watching, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_core.errors import UsageError
from backprop_core.governor import (
    Decision,
    Finding,
    Watch,
    gpu_limit_mb,
    judge,
    ranked,
    reserved_vram_mb,
    visible_gpus,
)
from backprop_core.plugins import Answer
from backprop_core.records import (
    Gpu,
    Host,
    Limits,
    Machine,
    Passed,
    Pause,
    PluginFailure,
    Progress,
    Reason,
    Refusal,
    Stop,
    Warn,
)


def gpu(index: int, free_mb: float | None = 10_000, **fields: Any) -> Gpu:
    return Gpu(
        **{
            "index": index,
            "uuid": f"GPU-{index}aa",
            "vram_free_mb": free_mb,
            "vram_total_mb": 24_576,
            **fields,
        }
    )


def machine(*gpus: Gpu) -> Machine:
    return Machine(host=Host(), gpus=gpus)


def says(plugin: str, value: Any) -> Answer:
    return Answer(plugin=plugin, value=value)


def fails(plugin: str) -> Answer:
    return Answer(plugin=plugin, failure=PluginFailure(plugin=plugin, hook="h", error="ValueError: no"))


def indices(gpus: tuple[Gpu, ...]) -> list[int]:
    return [gpu.index for gpu in gpus]


# Which GPUs a run may see ----------------------------------------------------------------------

MIG = Gpu(index=0, uuid="MIG-77")


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("0,0,1", [0, 1]),
        ("1,7,0", [1]),
        ("-1", []),
        ("0,-1,2", [0]),
        ("²", []),
        ("GPU-1aa", [1]),
        ("GPU-1", [1]),
        ("GPU-9,0", []),
        ("all", []),
        ("GPU-1aab", []),
    ],
)
def test_an_allow_list_keeps_its_own_order_and_ends_at_the_first_entry_that_names_nothing(
    listed: str | None, seen: list[int]
) -> None:
    environ: Mapping[str, str] = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert indices(visible_gpus([gpu(0), gpu(1), gpu(2)], environ)) == seen


def test_a_mig_instance_is_named_by_its_uuid_and_by_no_number() -> None:
    gpus = [gpu(0, is_selectable=False), MIG]
    assert visible_gpus(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-77"}) == (MIG,)
    assert visible_gpus(gpus, {"CUDA_VISIBLE_DEVICES": "0"}) == (gpus[0],)


@given(st.text(max_size=30))
def test_whatever_the_variable_holds_only_gpus_of_the_machine_are_kept_once(text: str) -> None:
    gpus = [gpu(0), gpu(1), MIG]
    kept = visible_gpus(gpus, {"CUDA_VISIBLE_DEVICES": text})
    assert len({one.id for one in kept}) == len(kept)
    assert all(one in gpus for one in kept)


# Admission -------------------------------------------------------------------------------------


def test_without_objections_a_run_may_start_on_the_gpu_with_the_most_free_memory() -> None:
    verdict = judge(Limits(), machine(gpu(0, 1), gpu(1, None), gpu(2, 9), gpu(3, 9), gpu(4, 0)), [])
    assert verdict.is_allowed
    assert indices(verdict.gpus) == [2, 3, 0, 4, 1], "unreadable ones last, the lower index first"


def test_a_machine_without_gpus_needs_none() -> None:
    for gpus in (None, ()):
        verdict = judge(Limits(gpu_memory_limit="8"), Machine(host=Host(), gpus=gpus), [])
        assert (verdict.is_allowed, verdict.gpus) == (True, ())
    assert judge(Limits(gpus="all"), machine(), []).is_allowed
    assert judge(Limits(gpus=2), machine(), []).reasons == ("2 GPUs wanted, none found",)


def test_every_refusal_is_a_reason_and_a_rule_that_fails_or_answers_something_else_is_no_permission() -> None:
    answers = [
        says("a", Refusal("RAM: 1 GB")),
        says("b", Warn("hot")),
        fails("c"),
        says("d", "no!"),
        says("e", Pause("x")),
        says("f", Passed("fine")),
    ]
    verdict = judge(Limits(), machine(gpu(0)), answers)
    assert not verdict.is_allowed
    assert verdict.reasons == (
        "RAM: 1 GB",
        "plugin c failed in h: ValueError: no",
        "d: the rule answered str, not a Refusal",
        "e: the rule answered Pause, not a Refusal",
    )
    assert verdict.warnings == ("hot",)
    assert [finding.kind for finding in verdict.findings] == [
        "refused",
        "warned",
        "refused",
        "refused",
        "refused",
        "passed",
    ]


def test_what_was_found_without_a_rule_counts_and_comes_first() -> None:
    other = Finding(kind="refused", reason="slots: 2 of 2")
    verdict = judge(Limits(), machine(), [says("a", Refusal("RAM"))], [other])
    assert verdict.reasons == ("slots: 2 of 2", "RAM")


def test_an_objection_to_some_gpus_refuses_only_when_too_few_others_are_left() -> None:
    hot = says("heat", Refusal("GPU 0 is hot", gpus=("GPU-0aa",)))
    full = says("memory", Refusal("GPU 1 is full", gpus=("GPU-1aa",)))
    one_left = judge(Limits(), machine(gpu(0), gpu(1)), [hot])
    assert (one_left.is_allowed, indices(one_left.gpus)) == (True, [1])
    assert one_left.findings == (Finding(kind="narrowed", reason="GPU 0 is hot"),)
    none_left = judge(Limits(), machine(gpu(0), gpu(1)), [hot, full])
    assert (none_left.reasons, none_left.gpus) == (("GPU 0 is hot", "GPU 1 is full"), ())
    two = judge(Limits(gpus=2), machine(gpu(0), gpu(1), gpu(2)), [hot])
    assert indices(two.gpus) == [1, 2]
    too_few = judge(Limits(gpus=2), machine(gpu(0), gpu(1)), [hot])
    assert set(too_few.reasons) == {"2 GPUs wanted, 1 free to use", "GPU 0 is hot"}
    assert not judge(Limits(gpus="all"), machine(gpu(0), gpu(1)), [hot]).is_allowed
    assert indices(judge(Limits(gpus="all"), machine(gpu(0), gpu(1)), []).gpus) == [0, 1]


def test_more_gpus_than_there_are_is_refused_with_what_is_there() -> None:
    verdict = judge(Limits(gpus=3), machine(gpu(0), gpu(1)), [])
    assert verdict.reasons == ("3 GPUs wanted, 2 there",)


def test_gpus_that_cannot_be_selected_are_not_given_away_and_their_notes_told() -> None:
    mig = gpu(0, is_selectable=False, note="in MIG mode")
    assert indices(judge(Limits(), machine(mig, gpu(1)), []).gpus) == [1]
    assert ranked([mig, gpu(1)]) == (gpu(1),)
    alone = judge(Limits(), machine(mig), [])
    assert not alone.is_allowed
    assert "GPU 0: in MIG mode" in alone.reasons


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        (Limits(gpu_memory_limit="25"), [gpu(0)]),
        (Limits(gpu_memory_limit="25"), [gpu(0), gpu(1, vram_total_mb=1000)]),
        (Limits(gpu_memory_limit="20", gpus=2), [gpu(0), gpu(1, vram_total_mb=1000)]),
        (Limits(gpu_memory_limit="20", gpus="all"), [gpu(0), gpu(1, vram_total_mb=1000)]),
    ],
)
def test_a_memory_limit_larger_than_any_gpu_is_a_mistake_not_a_refusal(
    limits: Limits, gpus: list[Gpu]
) -> None:
    with pytest.raises(UsageError, match="is more than") as caught:
        judge(limits, machine(*gpus), [])
    assert caught.value.hint == "ask for less with -g"


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        (Limits(gpu_memory_limit="24"), [gpu(0)]),
        (Limits(gpu_memory_limit="100%"), [gpu(0)]),
        (Limits(gpu_memory_limit="25"), [gpu(0), gpu(1, vram_total_mb=None)]),
        (Limits(gpu_memory_limit="20"), [gpu(0), gpu(1, vram_total_mb=1000)]),
    ],
)
def test_a_memory_limit_that_some_gpu_may_hold_is_none(limits: Limits, gpus: list[Gpu]) -> None:
    assert judge(limits, machine(*gpus), []).is_allowed


def test_a_run_sets_aside_its_limit_or_else_what_it_must_find_free() -> None:
    assert reserved_vram_mb(Limits(), gpu(0)) == 2500
    assert reserved_vram_mb(Limits(gpu_memory_limit="8"), gpu(0)) == 8192
    assert reserved_vram_mb(Limits(gpu_memory_limit="50%"), gpu(0)) == 12_288
    unknown = gpu(0, vram_total_mb=None)
    assert reserved_vram_mb(Limits(gpu_memory_limit="50%"), unknown) == 2500
    assert gpu_limit_mb(Limits(gpu_memory_limit="50%"), unknown) is None
    assert gpu_limit_mb(Limits(), gpu(0)) is None


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Refusal, {"reason": None}),
        (Refusal, {"reason": "x", "gpus": "GPU-1"}),
        (Pause, {"reason": "x", "samples": 0}),
        (Pause, {"reason": "x", "at_least_s": "10"}),
        (Stop, {"reason": "x", "samples": None}),
        (Warn, {"reason": 7}),
    ],
)
def test_an_answer_of_the_wrong_types_fails_where_the_plugin_makes_it(
    kind: type[Reason], fields: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=kind.__name__):
        kind(**fields)


# Watching --------------------------------------------------------------------------------------


def decisions(*samples: list[Answer], every_s: float = 2.0) -> list[Decision]:
    watch = Watch()
    return [watch.judge(sample, number * every_s) for number, sample in enumerate(samples)]


def paused(decision: Decision) -> list[str]:
    return list(decision.pauses)


HOT = [says("heat", Pause("hot", samples=3, at_least_s=10))]
WARM = [says("heat", Pause("warm", starts=False))]
COOL: list[Answer] = []


def test_a_pause_begins_after_its_samples_in_a_row_and_once() -> None:
    assert [paused(one) for one in decisions(HOT, HOT, HOT, HOT)] == [[], [], ["heat"], []]
    assert [paused(one) for one in decisions(HOT, HOT, COOL, HOT, HOT)] == [[]] * 5
    assert [paused(one) for one in decisions(HOT, HOT, WARM, HOT, HOT, HOT)] == [[]] * 5 + [["heat"]]


def test_the_room_between_two_thresholds_keeps_a_pause_and_begins_none() -> None:
    assert all(one == Decision() for one in decisions(*[WARM] * 9))
    samples = decisions(*[HOT] * 3, *[WARM] * 20, COOL)
    assert [number for number, one in enumerate(samples) if one.releases] == [23]
    assert samples[23].releases == {"heat"}


def test_a_pause_lasts_as_long_as_it_was_asked_to_at_least() -> None:
    samples = decisions(*[HOT] * 3, *[COOL] * 8)
    assert [number for number, one in enumerate(samples) if one.releases] == [7], (
        "10 s after the third sample"
    )


def test_causes_of_several_rules_begin_and_end_each_by_itself() -> None:
    ram = [says("ram", Pause("no RAM"))]
    samples = decisions(ram, ram + HOT, ram + HOT, ram + HOT, HOT, COOL, *[COOL] * 4)
    assert [paused(one) for one in samples[:4]] == [["ram"], [], [], ["heat"]]
    assert [set(one.releases) for one in samples[4:]] == [{"ram"}, set(), set(), set(), {"heat"}, set()]


def test_a_cause_that_lasts_too_long_stops_the_run() -> None:
    low = [says("ram", Pause("no RAM", stop_after_s=5))]
    samples = decisions(low, low, low, low)
    assert [one.stop for one in samples] == [None, None, None, "no RAM, for longer than 5 s"]
    assert [one.stop for one in decisions(low, low, COOL, low, low, low)] == [None] * 6


def test_stop_and_warn_need_their_samples_in_a_row_and_a_warning_is_said_once() -> None:
    over = [says("memory", Stop("far over", samples=3))]
    near = [says("memory", Warn("over", samples=2))]
    assert [one.stop for one in decisions(over, over, near, over, over, over)] == [None] * 5 + ["far over"]
    warned = [one.warnings for one in decisions(near, near, near, COOL, near, near)]
    assert warned == [(), ("over",), (), (), (), ()]


def test_all_reasons_to_stop_are_told_together() -> None:
    (decision,) = decisions([says("a", Stop("one")), says("b", Stop("two"))])
    assert decision.stop == "one; two"


def test_a_sample_that_repeats_an_earlier_reading_counts_nothing_twice() -> None:
    watch = Watch()
    assert watch.judge(HOT, 0) == Decision()
    for second in range(1, 9):
        assert watch.judge(HOT, second, is_repeat=True) == Decision()
    assert watch.judge(HOT, 9) == Decision()
    assert paused(watch.judge(HOT, 10)) == ["heat"]


def test_a_rule_that_fails_is_passed_over_and_one_that_answers_something_else_named_once() -> None:
    samples = decisions(
        *[[fails("a"), says("b", "stop!"), says("c", Refusal("x")), says("d", Progress())]] * 3
    )
    assert samples[0].warnings == (
        "b: the rule answered str, not a Pause, Stop or Warn",
        "c: the rule answered Refusal, not a Pause, Stop or Warn",
        "d: the rule answered Progress, not a Pause, Stop or Warn",
    )
    assert samples[1:] == [Decision()] * 2
    assert (samples[0].stop, samples[0].pauses) == (None, {})
