"""A comparison as text for people and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from cal_bench.compare import BETTER, WORSE, Comparison, Row
from cal_bench.table_text import marks, one_line
from cal_bench.tables import LIMITED, MISSING, SCALE_NOTE, signed

_SCORES = ("benchmark", "before", "after", "difference", "95 % interval")
HEADINGS = (*_SCORES, "p", "p (Holm)", "fixed", "broken", "detectable", "beyond chance")
_HOW = """\
Scores are in percent unless another unit is named.
Interval: paired bootstrap; samples that share a picture are drawn together. –: no score changed, which tells no width.
p: {tests}. Holm: adjusted for {count}; at most 0.05 is beyond chance.
Fixed, broken: samples whose score rose, fell.
Detectable: the true difference that would be found, in this benchmark alone, four times in five."""
_SEEDS = (
    "Means of {before} runs before and {after} after, ± the deviation between them. The intervals cover other seeds and other pictures."
)
_ONE_RUN = "One run each: how much another training seed would move the scores is not in the intervals."
_TESTS = {
    "McNemar": "McNemar's exact test",
    "sign flips": "sign flips by picture",
    "seeds and samples": "from the draws of the interval",
}


def comparison_text(comparison: Comparison, points: float | None = None) -> str:
    """Everything that the comparison says, with the gate's verdict where one was asked for."""
    parts = [_sides(comparison), _table(comparison), "\n".join(verdict_lines(comparison)), "\n".join(explanation_lines([comparison]))]
    if points is not None:
        parts.append(_gate(comparison, points))
    return "\n\n".join(parts) + "\n"


def comparison_json(comparison: Comparison, points: float | None = None) -> str:
    """The comparison with unrounded numbers."""
    content = {
        "before": comparison.before,
        "after": comparison.after,
        "shared": comparison.shared,
        "benchmarks": [{**asdict(row), "beyond_chance": row.beyond_chance} for row in comparison.rows],
        "win_all": {f"table {number}": str(wins) for number, wins in comparison.wins().items()},
        "better_beyond_chance": comparison.named(BETTER),
        "worse_beyond_chance": comparison.named(WORSE),
        "notes": comparison.notes,
    }
    if points is not None:
        failed = [row.benchmark for row in comparison.failed(points)]
        content["gate"] = {"points": points, "met": not failed, "failed": failed}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _sides(comparison: Comparison) -> str:
    sides = [f"{name} {', '.join(map(one_line, runs))}" for name, runs in (("Before:", comparison.before), ("After: ", comparison.after))]
    notes = [f"Note: {one_line(note)}" for note in comparison.notes]
    shared = ["Only the samples that all runs have with the same prompt are compared (--shared)."] if comparison.shared else []
    return "\n".join([*sides, *shared, *notes])


def _table(comparison: Comparison) -> str:
    lines = [list(HEADINGS), *(cells(row) for row in comparison.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    ruler = ["-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(_line(line, widths) for line in [lines[0], ruler, *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return f"| {' | '.join(padded)} |"


def cells(row: Row) -> list[str]:
    """One benchmark under HEADINGS, as printed."""
    unit = "" if row.unit == "%" else f" ({row.unit})"
    return [
        row.benchmark + marks(row.limit, row.approximate) + unit,
        _score(row.before, row.spread_before, row.decimals),
        _score(row.after, row.spread_after, row.decimals),
        signed(row.gain.value, row.decimals),
        f"{signed(row.gain.low, row.decimals)} to {signed(row.gain.high, row.decimals)}" if row.gain.error else MISSING,
        probability(row.p),
        probability(row.p_holm),
        f"{row.fixed:,}",
        f"{row.broken:,}",
        f"{row.detectable:.{row.decimals}f}" if row.gain.error else MISSING,
        row.beyond_chance,
    ]


def _score(score: float, spread: float | None, decimals: int) -> str:
    return f"{score:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")


def probability(p: float) -> str:
    """A p with three decimals; none is told to be nothing."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict_lines(comparison: Comparison) -> list[str]:
    """The paper's count of wins, and what is better and what is worse beyond chance."""
    count = len(comparison.rows)
    wins = ", ".join(f"Table {number} {wins}" for number, wins in comparison.wins().items())
    lines = [f"Win/All, as the paper counts (strictly better at the printed precision): {wins}."] if wins else []
    for verdict in (BETTER, WORSE):
        named = comparison.named(verdict)
        lines.append(f"{verdict.capitalize()} beyond chance: {len(named)} of {count}{': ' + ', '.join(named) if named else ''}.")
    return lines


def explanation_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """How to read the numbers of comparisons of like runs, and what they are of."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    tests = " and ".join(sorted({_TESTS[row.test] for row in rows}))
    lines = [_HOW.format(tests=tests, count=_counted(comparisons))]
    sizes = dict.fromkeys(f"{row.benchmark} {row.n:,}" + (f" ({row.pictures:,})" if row.pictures != row.n else "") for row in rows)
    lines.append(f"Samples (pictures, where fewer): {', '.join(sizes)}.")
    for limit in sorted({row.limit for row in rows if row.limit is not None}):
        lines.append(f"{LIMITED} Limited to at most {limit:,} random samples.")
    if any(row.approximate for row in rows):
        lines.append(SCALE_NOTE)
    runs = {"before": len(comparisons[0].before), "after": len(comparisons[0].after)}
    lines.append(_SEEDS.format(**runs) if runs["before"] > 1 else _ONE_RUN)
    return lines


def _counted(comparisons: Sequence[Comparison]) -> str:
    """What Holm's p are adjusted for; not for the number of comparisons, which is said where there are several."""
    counts = sorted({len(comparison.rows) for comparison in comparisons})
    benchmarks = f"{' or '.join(map(str, counts))} {'benchmark' if counts == [1] else 'benchmarks'}"
    return benchmarks if len(comparisons) == 1 else f"the {benchmarks} of a comparison, not for the {len(comparisons)} comparisons"


def _gate(comparison: Comparison, points: float) -> str:
    failed = [f"{row.benchmark} ({signed(row.gain.value, row.decimals)})" for row in comparison.failed(points)]
    rule = "worse beyond chance" + (f" by more than {points:g}" if points else "")
    if failed:
        return f"Gate not met: {rule}: {', '.join(failed)}."
    return f"Gate met: nothing is {rule}. A loss smaller than a benchmark's detectable difference can go unseen."
