"""A study's findings as pictures: differences with their intervals, and scores over the share of swapped images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cal_bench.figure import COLOURS, new_figure, save, styled
from cal_bench.findings import HUNDREDTHS, Findings, Pair, Row, in_every_mean, mean_score, score
from cal_bench.stats import LEVEL, Interval

COLUMNS = 4
WIDTH = 7.6  # inches, about that of a page
MARKERS = ("s", "o", "^", "D", "v", "P")
_GREY = "#666666"


def draw_differences(findings: Findings, path: Path) -> None:
    """A panel for each benchmark and one for their mean; in each a dot with its interval for every arm."""
    pairs = findings.pairs
    panels = _benchmarks(findings)
    height = 0.42 + 0.17 * len(pairs)
    with styled():
        figure, axes = _panels(len(panels) + 1, height, sharey=True)
        for axis, name in zip(axes, panels, strict=False):
            _dots(axis, [_difference(pair, name) for pair in pairs])
            axis.set_title(_title(findings, name))
        most = max((len(pair.overall.benchmarks) for pair in pairs if pair.overall), default=0)
        _dots(axes[len(panels)], [_overall(pair, most) for pair in pairs])
        axes[len(panels)].set_title(f"mean of {most}")
        for axis in axes[::COLUMNS]:
            axis.set_yticks(range(len(pairs)), [pair.after.name for pair in pairs])
        axes[0].set_ylim(len(pairs) - 0.4, -0.6)
        bases = {pair.before.name for pair in pairs}
        against = pairs[0].before.name if len(bases) == 1 else "the first arm of the same study"
        filled = "filled: more than chance (p by Holm; that of the mean as it is)"
        save(figure, path, f"Difference to {against} with 95 % intervals; {filled}. {_about(findings)}")


def draw_swaps(findings: Findings, path: Path) -> None:
    """A panel for each benchmark and one for their mean; in each a line over the share of swapped images for every arm."""
    arms = _by_arm(findings)
    panels = _benchmarks(findings)
    mean_of = in_every_mean(findings.rows)
    with styled():
        figure, axes = _panels(len(panels) + 1, 1.35, sharey=False)
        for axis, name in zip(axes, [*panels, None], strict=False):
            for place, rows in enumerate(arms.values()):
                _line(axis, place, rows, [_score(row, name) if name else mean_score(row, mean_of) for row in rows])
            axis.set_title(_title(findings, name) if name else f"mean of {len(mean_of)}")
            _keep_possible(axis, name is None or _row(findings, name).unit in HUNDREDTHS)
            axis.yaxis.set_major_locator(MaxNLocator(4))
            axis.set_xticks(sorted({100 * row.swap for row in findings.rows}))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(arms))
        figure.supxlabel("samples whose images were exchanged in training, %", fontsize=8)
        save(figure, path, f"Scores with 95 % intervals, drawn as far as scores can go. {_about(findings)}")


def is_over_swaps(findings: Findings) -> bool:
    """Whether the rows are the same arms at several shares of swapped images."""
    shares = [tuple(sorted(row.swap for row in rows)) for rows in _by_arm(findings).values()]
    return len(set(shares)) == 1 and len(set(shares[0])) == len(shares[0]) > 1


def _panels(count: int, height: float, sharey: bool) -> tuple[Figure, list[Any]]:
    rows = -(-count // COLUMNS)
    figure = new_figure(WIDTH, rows * height + 0.3)
    grid = figure.subplots(rows, COLUMNS, sharey=sharey, squeeze=False)
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes:
        axis.tick_params(labelsize=7)
    return figure, axes


def _benchmarks(findings: Findings) -> list[str]:
    return list(dict.fromkeys(row.benchmark for pair in findings.pairs for row in pair.comparison.rows))


def _title(findings: Findings, benchmark: str) -> str:
    row = _row(findings, benchmark)
    return row.column if row.unit in HUNDREDTHS else f"{row.column} ({row.unit})"


def _row(findings: Findings, benchmark: str) -> Any:
    return next(row for pair in findings.pairs for row in pair.comparison.rows if row.benchmark == benchmark)


def _difference(pair: Pair, benchmark: str) -> tuple[Interval, bool] | None:
    row = next((row for row in pair.comparison.rows if row.benchmark == benchmark), None)
    return (row.gain, bool(row.beyond_chance)) if row else None


def _overall(pair: Pair, benchmarks: int) -> tuple[Interval, bool] | None:
    """None where it is a mean over fewer."""
    # One number, whose p needs no adjusting.
    return (pair.overall.gain, pair.overall.p <= LEVEL) if pair.overall and len(pair.overall.benchmarks) == benchmarks else None


def _dots(axis: Any, found: Sequence[tuple[Interval, bool] | None]) -> None:
    axis.axvline(0, color=_GREY, linewidth=0.8)
    reach = max((max(abs(one[0].low), abs(one[0].high)) for one in found if one), default=0)
    axis.set_xlim(-1.1 * (reach or 1), 1.1 * (reach or 1))  # zero in the middle of every panel
    for place, one in enumerate(found):
        if one is not None:
            interval, beyond = one
            axis.plot([interval.low, interval.high], [place, place], color=COLOURS[0], linewidth=1.3)
            axis.plot(interval.value, place, "o", markersize=4.5, color=COLOURS[0], markerfacecolor=COLOURS[0] if beyond else "white")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=False))


def _by_arm(findings: Findings) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in sorted(findings.rows, key=lambda row: row.swap):
        found.setdefault(row.arm, []).append(row)
    return found


def _line(axis: Any, place: int, rows: Sequence[Row], found: Sequence[Interval | None]) -> None:
    """Scores of an arm over shares of swaps, a little beside those of the arm before it."""
    points = [(100 * row.swap + 0.8 * place, one) for row, one in zip(rows, found, strict=True) if one is not None]
    shares, scores = [share for share, _ in points], [one.value for _, one in points]
    # Where all samples have the same score, an interval misses its own middle by a rounding.
    errors = [[max(0.0, one.value - one.low) for _, one in points], [max(0.0, one.high - one.value) for _, one in points]]
    look = {"color": COLOURS[(1 - place) % len(COLOURS)], "linestyle": ("--", "-")[place % 2], "marker": MARKERS[place % len(MARKERS)]}
    axis.errorbar(shares, scores, errors, label=rows[0].arm, linewidth=1.2, markersize=3.5, elinewidth=0.8, capsize=1.5, **look)


def _keep_possible(axis: Any, to_hundred: bool) -> None:
    """Cut an axis where no score can be: intervals of few seeds reach far beyond, and leave nothing to be seen."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 0.0), min(high, 100.0) if to_hundred else high)


def _score(row: Row, benchmark: str) -> Interval | None:
    found = row.common()
    return score(found[benchmark]) if benchmark in found else None


def _about(findings: Findings) -> str:
    sizes = [row.n for pair in findings.pairs for row in pair.comparison.rows]
    n = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    seeds = findings.seeds
    covered = "other pictures" if len(seeds) == 1 else "other seeds and other pictures"
    named = f"Seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"
    mean = "The mean is of the benchmarks scored from 0 to 100, each picture once."
    return f"{mean} {named}, {n} samples in each benchmark; intervals cover {covered}. Made by {findings.command}."
