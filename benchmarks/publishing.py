"""From what was measured to the page that tells of it: the table between two marks, and the plots beside it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from .plots import Bar, bars, lines
from .results import Report, Result, amount, table

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def publish(reports: Sequence[Report], page: Path = PAGE) -> None:
    """Write the table into the page and draw the plots into the folder of the same name.

    Of several calls each row shows the median of their medians, and the whole spread.
    """
    results = together(result for report in reports for result in report.results)
    text = page.read_text("utf-8")
    between = f"{BEGIN}\n\n{head(reports)}\n\n{markdown(results)}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: between, text, flags=re.DOTALL), "utf-8")
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, drawing in plots(results).items():
        (folder / f"{name}.svg").write_text(drawing, "utf-8")


def together(results: Iterable[Result]) -> list[Result]:
    """Join the rows of several calls that are about the same."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.benchmark, result.case), []).append(result)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Result]) -> Result:
    references = [each.reference_median for each in group if each.reference_median is not None]
    return msgspec.structs.replace(
        group[0],
        median=statistics.median(each.median for each in group),
        low=min(each.low for each in group),
        high=max(each.high for each in group),
        repetitions=sum(each.repetitions for each in group),
        reference_median=statistics.median(references) if references else None,
    )


def head(reports: Sequence[Report]) -> str:
    """Say on what and how often it was measured."""
    first = reports[0]
    calls = "one call" if len(reports) == 1 else f"{len(reports)} calls"
    where = f"Measured in {calls} on {first.machine}, Python {first.python}"
    return f"{where}: the median, and the lowest and highest of all repetitions."


def markdown(results: Sequence[Result]) -> str:
    """Write a table for each benchmark."""
    parts = []
    for name in dict.fromkeys(each.benchmark for each in results):
        rows = table([each for each in results if each.benchmark == name])
        cells = [" | ".join(cell or " " for cell in row) for row in rows]
        parts.append(
            f"### {name[0].upper()}{name[1:]}\n\n| {cells[0]} |\n|{' --- |' * len(rows[0])}\n"
            + "".join(f"| {row} |\n" for row in cells[1:])
        )
    return "\n".join(parts)


def plots(results: Sequence[Result]) -> dict[str, str]:
    """Draw what there are results for."""
    of = {
        name: [each for each in results if each.benchmark == name]
        for name in ("start-up", "ingestion", "history", "storage")
    }
    drawn = {}
    if of["start-up"]:
        drawn["start-up"] = bars("Start-up, ms (red: the budget)", [_bar(each) for each in of["start-up"]])
    felt = [each for each in of["ingestion"] if "feels it" in each.case]
    if felt:
        drawn["felt"] = bars(
            "What the script feels, in times of writing into cat (red: the budget)",
            [_ratio_bar(each) for each in felt],
        )
    if of["history"]:
        drawn["history"] = lines(
            "A progress line, as the past grows",
            "microseconds of processor time",
            _series(of["history"], r"a progress line after ([\d,]+) runs?, (\w+)"),
        )
    newest = [each for each in of["storage"] if each.case.startswith("the newest")]
    if newest:
        drawn["storage"] = lines(
            "The newest 20 runs, as the past grows",
            "milliseconds",
            _series(newest, r"the newest 20, ([\d,]+) runs, (\w+)"),
        )
    return drawn


def _bar(result: Result) -> Bar:
    budget = result.budget.limit if result.budget else None
    if result.budget and result.budget.is_ratio and budget is not None:
        budget *= result.reference_median or 0.0
    return Bar(
        label=result.case,
        value=result.median,
        low=result.low,
        high=result.high,
        text=amount(result.median),
        budget=budget,
        is_other=not result.case.startswith("backprop"),
    )


def _ratio_bar(result: Result) -> Bar:
    base = result.reference_median or 1.0
    return Bar(
        label=result.case.removesuffix(", as the script feels it"),
        value=result.median / base,
        low=result.low / base,
        high=result.high / base,
        text=f"{result.median / base:.2f}",
        budget=result.budget.limit if result.budget else None,
    )


def _series(results: Sequence[Result], pattern: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for each in results:
        if match := re.fullmatch(pattern, each.case):
            found.setdefault(match[2], []).append((float(match[1].replace(",", "")), each.median))
    return found
