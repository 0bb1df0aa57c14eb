"""Drawings for a page as SVG: the forest plot of a comparison, and curves of a training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 240, 26
CHART_WIDTH, CHART_HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 8, 24
TICKS = 4


@dataclass(frozen=True)
class Mark:
    """A difference with its interval, in shares of the benchmark's full mark, and whether it is better or worse beyond chance."""

    value: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Line:
    """A curve: the arm's name, its place (0 before, 1 after), and points of step and value."""

    name: str
    place: int
    points: tuple[tuple[float, float], ...]


def reach(marks: Sequence[Mark]) -> float:
    """How far from zero the plots of these go, to either side: a round number."""
    return nice(max([abs(end) for mark in marks for end in (mark.low, mark.high, mark.value)], default=0.0) or 0.01)


def nice(number: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= number * (1 - 1e-9))


def forest(mark: Mark, span: float) -> str:
    """One row of a forest plot: the difference as a point, its interval as a bar, zero as a line."""
    low, value, high, zero = (f"{WIDTH / 2 * (1 + 0.96 * number / span):.1f}" for number in (mark.low, mark.value, mark.high, 0))
    middle = HEIGHT / 2
    kind = mark.verdict or "even"
    return (
        f'<svg class="forest {kind}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{HEIGHT}"/>'
        f'<line class="bar" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{value}" cy="{middle}" r="4.5"/></svg>'
    )


def forest_axis(span: float) -> str:
    """The scale over the rows, in points of 100."""
    ends = [(-span, "start", 0), (0.0, "middle", WIDTH / 2), (span, "end", WIDTH)]
    texts = "".join(f'<text x="{x:g}" y="12" text-anchor="{anchor}">{_points(value)}</text>' for value, anchor, x in ends)
    return f'<svg class="axis" viewBox="0 0 {WIDTH} 16" width="{WIDTH}" height="16" aria-hidden="true">{texts}</svg>'


def _points(share: float) -> str:
    return f"{100 * share:+g}".replace("-", "−") if share else "0"


def chart(title: str, lines: Sequence[Line]) -> str:
    """Curves over the steps of a training."""
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    low, high, ticks = _scale(min(values), max(values))
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(step: float) -> float:
        return LEFT + (CHART_WIDTH - LEFT - RIGHT) * (step - first) / (last - first)

    def y(value: float) -> float:
        return CHART_HEIGHT - BOTTOM - (CHART_HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:.6g}</text>'
        for tick in ticks
    )
    base = CHART_HEIGHT - 8
    ends = f'<text x="{LEFT}" y="{base}">{first:,.0f}</text>'
    ends += f'<text x="{CHART_WIDTH - RIGHT}" y="{base}" text-anchor="end">step {last:,.0f}</text>'
    drawn = "".join(_curve(line, [(x(step), y(value)) for step, value in line.points]) for line in lines)
    label = escape(title)
    return (
        f'<figure><figcaption>{label}</figcaption><svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img"'
        f' aria-label="{label}">{grid}{ends}{drawn}</svg></figure>'
    )


def _curve(line: Line, points: Sequence[tuple[float, float]]) -> str:
    name = escape(line.name)
    if len(points) == 1:
        return f'<circle class="arm{line.place}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"><title>{name}</title></circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="arm{line.place}" points="{path}"><title>{name}</title></polyline>'


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round ends that hold all values, and the ticks between them."""
    step = nice((high - low) / TICKS or abs(high) / TICKS or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return first * step, last * step, [tick * step for tick in range(first, last + 1)]


def points_of(log: Sequence[Mapping[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    """Step and value of every line of a log that has a finite value of this name."""
    return tuple((line["step"], line[key]) for line in log if _number(line.get("step")) and _number(line.get(key)))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
