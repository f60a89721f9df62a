"""What was measured, against what, and whether it keeps its budget."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .measuring import Samples


class Budget(msgspec.Struct, frozen=True):
    """The most (or with `is_least` the least) that a value may be, and in which words it is promised.

    `of` says what the limit is held against: the value itself, or its ratio to the reference.
    """

    limit: float
    text: str
    is_ratio: bool = False
    is_least: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. The spread is the lowest and the highest repetition."""

    benchmark: str
    case: str
    unit: str
    median: float
    low: float
    high: float
    repetitions: int
    reference: str | None = None
    reference_median: float | None = None
    budget: Budget | None = None
    note: str | None = None

    @property
    def ratio(self) -> float | None:
        """The median over the reference's."""
        return self.median / self.reference_median if self.reference_median else None

    @property
    def is_kept(self) -> bool | None:
        """Whether the budget is kept; None without one."""
        if self.budget is None:
            return None
        value = self.ratio if self.budget.is_ratio else self.median
        if value is None:
            return None
        return value >= self.budget.limit if self.budget.is_least else value <= self.budget.limit


class Skipped(msgspec.Struct, frozen=True):
    """What was not measured, and why."""

    benchmark: str
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one call measured."""

    machine: str
    python: str
    load_before: float
    results: tuple[Result, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def row(
    benchmark: str,
    case: str,
    samples: Samples,
    unit: str,
    *,
    scale: float = 1.0,
    reference: tuple[str, Samples] | None = None,
    budget: Budget | None = None,
    note: str | None = None,
) -> Result:
    """Make a row of samples, in a unit that is `scale` times theirs."""
    return Result(
        benchmark=benchmark,
        case=case,
        unit=unit,
        median=samples.median * scale,
        low=samples.low * scale,
        high=samples.high * scale,
        repetitions=len(samples.values),
        reference=reference[0] if reference else None,
        reference_median=reference[1].median * scale if reference else None,
        budget=budget,
        note=note,
    )


HEADINGS = ("what", "median", "spread", "against", "ratio", "budget", "")


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Lay results out as rows of cells, headings first."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for each in results:
        against = (
            f"{each.reference} {amount(each.reference_median)} {each.unit}"
            if each.reference and each.reference_median is not None
            else ""
        )
        verdict = {True: "kept", False: "missed", None: ""}[each.is_kept]
        rows.append(
            (
                each.case,
                f"{amount(each.median)} {each.unit}",
                f"{amount(each.low)} to {amount(each.high)}",
                against,
                f"{each.ratio:.2f}" if each.ratio is not None else "",
                each.budget.text if each.budget else "",
                verdict,
            )
        )
    return rows


def amount(value: float | None) -> str:
    """Write a number with three figures."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
