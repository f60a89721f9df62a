from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.measuring import Samples, alternate
from benchmarks.publishing import BEGIN, END, publish, together
from benchmarks.results import Budget, Report, Result, row

ROOT = Path(__file__).parents[2]


def measured(*arguments: str, report: Path) -> Report:
    """Run the benchmarks as a person would."""
    command = [sys.executable, "-m", "benchmarks", "--quick", *arguments, "--json", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(report.read_bytes(), type=Report)
    assert all(each.case in done.stdout for each in found.results)
    return found


def test_quick_benchmarks_measure_each_case_against_its_reference(tmp_path: Path) -> None:
    found = measured("dispatch", report=tmp_path / "report.json")
    assert {each.benchmark for each in found.results} == {"dispatch"}
    assert all(0 < each.low <= each.median <= each.high for each in found.results)
    assert any(each.reference == "pluggy" and each.ratio for each in found.results)
    assert not found.skipped


@pytest.mark.soak
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_works(name: str, tmp_path: Path) -> None:
    found = measured(name, report=tmp_path / "report.json")
    assert found.results or found.skipped


def test_a_name_that_is_no_benchmark_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "ingestoin"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no benchmark 'ingestoin'" in done.stderr


def test_repetitions_alternate_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def case(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = alternate({"one": lambda: case("one"), "other": lambda: case("other")}, 2)
    assert order == ["one", "other"] * 3
    assert found == {"one": Samples((3.0, 5.0)), "other": Samples((4.0, 6.0))}


@pytest.mark.parametrize(
    ("values", "budget", "is_kept"),
    [
        ((3.0,), Budget(3.0, "<= 3"), True),
        ((3.1,), Budget(3.0, "<= 3"), False),
        ((3.1,), Budget(3.0, ">= 3", is_least=True), True),
        ((4.0,), Budget(2.0, "<= 2 x", is_ratio=True), True),
        ((4.1,), Budget(2.0, "<= 2 x", is_ratio=True), False),
        ((4.1,), None, None),
    ],
)
def test_a_budget_is_held_against_the_median_or_its_ratio(
    *, values: tuple[float, ...], budget: Budget | None, is_kept: bool | None
) -> None:
    result = row("it", "a case", Samples(values), "s", reference=("other", Samples((2.0,))), budget=budget)
    assert result.is_kept is is_kept


def report(median: float) -> Report:
    spread = Samples((median, median * 2))
    results = [
        row("start-up", "python empty.py", spread, "ms"),
        row("start-up", "backprop list, <5>", spread, "ms", budget=Budget(99.0, "<= 99")),
        row("ingestion", "9 print() calls, as the script feels it", spread, "ms", reference=("cat", spread)),
        *(row("history", f"a progress line after {n:,} runs, json", spread, "us") for n in (1, 10_000)),
        *(row("storage", f"the newest 20, {n:,} runs, sqlite", spread, "ms") for n in (100, 100_000)),
    ]
    return Report(machine="a machine", python="3.11", load_before=0.0, results=tuple(results))


def test_several_calls_become_one_row_with_the_median_of_medians_and_the_whole_spread() -> None:
    found: list[Result] = together(
        each for call in (report(1.0), report(5.0), report(2.0)) for each in call.results
    )
    first = found[0]
    assert (first.median, first.low, first.high, first.repetitions) == (3.0, 1.0, 10.0, 6)
    assert len(found) == len(report(1.0).results)


def test_what_was_measured_is_published_as_tables_and_plots(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish([report(1.0)], page)
    text = page.read_text()
    assert re.match(rf"before\n{BEGIN}\n.*<= 99 \| kept \|.*\n{END}\nafter\n$", text, re.DOTALL)
    assert "old" not in text
    plots = sorted(path.name for path in (tmp_path / "performance").iterdir())
    assert plots == ["felt.svg", "history.svg", "start-up.svg", "storage.svg"]
    for name in plots:
        assert ET.parse(tmp_path / "performance" / name).getroot().tag.endswith("svg")
    assert "&lt;5&gt;" in (tmp_path / "performance" / "start-up.svg").read_text()
