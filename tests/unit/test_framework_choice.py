"""The framework is chosen by what a script imports, the more specific one first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from backprop_core import Gpu, RunRequest, Script, UsageError
from backprop_core.description import choose_framework

SCRIPT = Script(path=Path("train.py"))


class Scored:
    """A framework that recognises every script as surely as it is told."""

    def __init__(self, name: str, order: int, score: float) -> None:
        self.name = name
        self.order = order
        self._score = score

    def score(self, script: Script) -> float:
        return self._score

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        return {}

    def resume_arguments(self, script: Script, checkpoint: Path) -> Sequence[str]:
        return ()


def choice(wanted: str, *frameworks: tuple[str, int, float]) -> str | None:
    chosen, _ = choose_framework([Scored(*each) for each in frameworks], SCRIPT, wanted)
    return None if chosen is None else chosen.name


class TestFramework:
    def test_a_specific_framework_wins_with_half_of_the_best_score(self) -> None:
        assert choice("auto", ("pytorch", 100, 1.0), ("lightning", 50, 0.5)) == "lightning"
        assert choice("auto", ("pytorch", 100, 1.0), ("lightning", 50, 0.49)) == "pytorch"

    def test_between_equal_orders_the_score_decides_then_the_name(self) -> None:
        assert choice("auto", ("pytorch", 100, 0.6), ("tensorflow", 100, 1.0)) == "tensorflow"
        assert choice("auto", ("tensorflow", 100, 1.0), ("pytorch", 100, 1.0)) == "pytorch"

    def test_all_that_recognise_the_script_are_scored(self) -> None:
        frameworks = [
            Scored("a", 1, 0.2),
            Scored("b", 2, 7.0),
            Scored("c", 3, 0.0),
            Scored("d", 4, float("nan")),
        ]
        chosen, scores = choose_framework(frameworks, SCRIPT, "auto")
        assert scores == {"a": 0.2, "b": 1.0}
        assert chosen is frameworks[1]

    def test_a_script_that_nothing_recognises_has_no_framework(self) -> None:
        assert choose_framework([Scored("a", 1, 0.0)], SCRIPT, "auto") == (None, {})
        assert choose_framework([], SCRIPT, "auto") == (None, {})

    def test_a_framework_is_taken_by_name_whatever_its_score(self) -> None:
        assert choice("jax", ("pytorch", 100, 1.0), ("jax", 100, 0.0)) == "jax"

    def test_of_two_with_one_name_the_first_asked_counts(self) -> None:
        frameworks = [Scored("pytorch", 100, 0.5), Scored("pytorch", 1, 1.0)]
        for wanted in ("auto", "pytorch"):
            chosen, scores = choose_framework(frameworks, SCRIPT, wanted)
            assert chosen is frameworks[0]
            assert scores == {"pytorch": 0.5}

    def test_an_unknown_name_is_a_usage_error_with_the_known_ones(self) -> None:
        with pytest.raises(UsageError, match="no framework pytroch") as caught:
            choice("pytroch", ("pytorch", 100, 1.0), ("tensorflow", 100, 1.0))
        assert caught.value.hint == "did you mean pytorch? installed: auto, pytorch, tensorflow"
        with pytest.raises(UsageError) as caught:
            choice("mxnet", ("pytorch", 100, 1.0))
        assert caught.value.hint == "installed: auto, pytorch"
