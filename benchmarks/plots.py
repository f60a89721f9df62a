"""Plots as SVG: bars against their budgets, and lines over a logarithmic axis.

A page of code in place of a drawing library: these are rectangles and lines, the same bytes for the same
numbers, and they follow the reader's dark or light scheme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import msgspec

WIDTH, LEFT, RIGHT, ROW, TOP, HEIGHT = 760, 330, 90, 30, 46, 260
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.faint { fill: #57606a; font-size: 12px }
.bar { fill: #2f6fde } .other { fill: #b6c2d1 } .line { fill: none; stroke-width: 2 } .axis { stroke: #8c959f }
.budget { stroke: #d1242f; stroke-width: 2 } .spread { stroke: #24292f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .faint { fill: #9198a1 } .bar { fill: #4c8dff } .other { fill: #4b5563 }
.spread { stroke: #e6edf3 } }
</style>"""
COLOURS = ("#2f6fde", "#d97706", "#16a34a", "#9333ea")


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar; `budget` is drawn as a red mark, `is_other` bars are what is compared with."""

    label: str
    value: float
    low: float
    high: float
    text: str
    budget: float | None = None
    is_other: bool = False


def bars(title: str, given: Sequence[Bar]) -> str:
    """Draw bars from zero, a line each."""
    most = max(max(bar.high, bar.budget or 0.0) for bar in given) or 1.0
    across = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        return LEFT + value / most * across

    parts = []
    for number, bar in enumerate(given):
        y = TOP + number * ROW
        kind = "other" if bar.is_other else "bar"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(
            f'<rect class="{kind}" x="{LEFT}" y="{y + 2}" width="{x(bar.value) - LEFT:.1f}" height="18" rx="2"/>'
        )
        parts.append(f'<path class="spread" d="M{x(bar.low):.1f} {y + 11}H{x(bar.high):.1f}"/>')
        if bar.budget is not None:
            parts.append(f'<path class="budget" d="M{x(bar.budget):.1f} {y - 1}v24"/>')
        parts.append(
            f'<text class="faint" x="{x(max(bar.high, bar.budget or 0)) + 6:.1f}" y="{y + 15}">{bar.text}</text>'
        )
    return _page(title, TOP + len(given) * ROW + 8, parts)


def lines(title: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines over a logarithmic horizontal axis, each from (how many, value)."""
    points = [point for each in series.values() for point in each]
    top = max(value for _, value in points) * 1.15 or 1.0
    least, most = (limit(math.log10(count) for count, _ in points) for limit in (min, max))
    left, bottom = 70, HEIGHT - 40

    def x(count: float) -> float:
        return left + (math.log10(count) - least) / ((most - least) or 1) * (WIDTH - left - 190)

    def y(value: float) -> float:
        return bottom - value / top * (bottom - TOP)

    parts = [f'<path class="axis" fill="none" d="M{left} {TOP}V{bottom}H{WIDTH - 180}"/>']
    parts += [
        f'<text class="faint" x="{x(count):.1f}" y="{bottom + 18}" text-anchor="middle">{count:,.0f}</text>'
        for count in sorted({count for count, _ in points})
    ]
    parts += [
        f'<text class="faint" x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in (top / 2, top)
    ]
    parts.append(f'<text class="faint" x="{left}" y="{HEIGHT - 4}">past runs; {escape(unit)}</text>')
    for colour, (name, each) in zip(COLOURS, series.items(), strict=False):
        path = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in each)
        last = each[-1]
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [
            f'<circle fill="{colour}" cx="{x(count):.1f}" cy="{y(value):.1f}" r="3"/>'
            for count, value in each
        ]
        parts.append(f'<text x="{x(last[0]) + 10:.1f}" y="{y(last[1]) + 4:.1f}">{escape(name)}</text>')
    return _page(title, HEIGHT, parts)


def _page(title: str, height: float, parts: Sequence[str]) -> str:
    about = f'role="img" aria-label="{escape(title)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" {about}>'
    return "\n".join(
        [head, STYLE, f'<text class="title" x="16" y="24">{escape(title)}</text>', *parts, "</svg>", ""]
    )
