"""Runs before and after a change become one comparison: how much each benchmark gained, and whether that is more than chance."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cal_bench.alike import Source, match
from cal_bench.errors import UserError
from cal_bench.evidence import RECORDS, read_rows
from cal_bench.records import TaskResult
from cal_bench.runs import CONFIG, Run, read_results, read_run
from cal_bench.stats import LEVEL, Array, Interval, Plan, Sums, detectable, gain, holm, paired_test, sum_clusters
from cal_bench.tables import LAYOUTS, Wins, count_wins

BETTER, WORSE = "better", "worse"
_ROUNDING = 1e-3  # lmms-eval rounds some of its totals
_CHANGE = 1e-9  # means over seeds of the same scores in another order differ by less


@dataclass(frozen=True)
class Row:
    """One benchmark: both scores, the difference with its interval and test, and how many samples went up and down."""

    benchmark: str
    column: str
    unit: str
    decimals: int
    n: int
    pictures: int
    limit: int | None
    approximate: bool
    before: float
    after: float
    spread_before: float | None  # deviation between seeds; none with one run
    spread_after: float | None
    gain: Interval
    test: str
    p: float
    p_holm: float
    fixed: int
    broken: int
    detectable: float

    @property
    def beyond_chance(self) -> str:
        """ "better" or "worse" where that is more than chance among all benchmarks compared, else empty."""
        return "" if self.p_holm > LEVEL else BETTER if self.gain.value > 0 else WORSE


@dataclass(frozen=True)
class Comparison:
    """All benchmarks of two sides, each of one or several runs, and what was left out."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    shared: bool

    def named(self, verdict: str) -> list[str]:
        """The benchmarks that are better, or worse, beyond chance."""
        return [row.benchmark for row in self.rows if row.beyond_chance == verdict]

    def wins(self) -> dict[int, Wins]:
        """The paper's Win/All of each table that counts wins and has a column here."""
        decimals = {row.benchmark: row.decimals for row in self.rows}
        counted = {}
        for layout in LAYOUTS:
            own = [row for row in self.rows if row.benchmark in layout.benchmarks]
            if own and layout.counts_wins:
                scores = {row.benchmark: row.before for row in own}, {row.benchmark: row.after for row in own}
                counted[layout.number] = count_wins(*scores, decimals)
        return counted

    def failed(self, points: float) -> list[Row]:
        """The benchmarks that are worse beyond chance, and by more than `points`."""
        return [row for row in self.rows if row.beyond_chance == WORSE and -row.gain.value > points]


def compare(before: Sequence[Source], after: Sequence[Source], shared: bool = False, plan: Plan | None = None) -> Comparison:
    """Compare the runs before with the runs after; runs to other questions are refused."""
    if (len(before) > 1) != (len(after) > 1):
        raise UserError(
            f"There are {len(before)} runs before and {len(after)} after. Give one on each side, or at least two on each: "
            "one run alone does not tell how far seeds lie apart."
        )
    matched = match([*before, *after], shared)
    ordered = [matched.results[name] for name in _in_order(matched.results)]
    if not shared:
        _check_scores(ordered)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda results: _row(results[: len(before)], results[len(before) :], plan or Plan()), ordered))
    adjusted = holm([row.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    return Comparison(_names(before), _names(after), tuple(rows), matched.notes, shared)


def _names(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(source.name for source in sources)


def read_sides(runs: Sequence[Path], before: Sequence[Path], after: Sequence[Path]) -> tuple[list[Source], list[Source]]:
    """The runs on each side: BEFORE and AFTER, or a study of two arms, or several runs with --before and --after."""
    if runs and (before or after):
        raise UserError(f"{' '.join(map(str, runs))} stands on neither side. Give all run folders behind --before and --after.")
    if bool(before) != bool(after):
        raise UserError(f"There is no --{'after' if before else 'before'}. Type: cal-bench compare --before RUN RUN --after RUN RUN")
    if len(runs) == 1:
        return read_study(runs[0])
    if not before and len(runs) != 2:
        raise UserError(
            f"compare takes two run folders, BEFORE and AFTER, or one study; {len(runs)} were given. "
            "For several seeds type: cal-bench compare --before RUN RUN --after RUN RUN"
        )
    sides = read_sources(before or runs[:1]), read_sources(after or runs[1:])
    _check_different([*(before or runs[:1]), *(after or runs[1:])])
    return sides


def _check_different(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice. Give every run once.")
        seen.add(folder.resolve())


def read_sources(folders: Sequence[Path]) -> list[Source]:
    """One source per run folder."""
    for folder in folders:
        if (folder / RECORDS).is_file():
            raise UserError(f"{folder} is {_what_study(folder)}")
    return [Source(str(folder), read_results(folder), Run(folder, read_run(folder))) for folder in folders]


def _what_study(folder: Path) -> str:
    """What to give instead of the folder of a study."""
    if listed := sorted(str(found.parent) for found in folder.glob(f"*/{CONFIG}")):
        return f"a list of studies, not a run: comparison.md there compares them. Give one of them alone: {', '.join(listed)}."
    runs = " ".join(str(folder / "runs" / arm) for arm in read_rows([folder]).arms)
    return f"a study, not a run. Give the folders of its runs, {runs}, or a study of two arms alone."


def read_study(folder: Path) -> tuple[list[Source], list[Source]]:
    """The two arms of a study, from its record."""
    if not (folder / RECORDS).is_file():
        if seeds := sorted(str(found.parent) for found in folder.glob(f"seed-*/{RECORDS}")):
            raise UserError(f"{folder} is a study over seeds: comparison.md there compares them. For a single seed give {seeds[0]}.")
        raise UserError(f"There is nothing to compare {folder} with. Give two run folders, BEFORE and AFTER, or the folder of a study.")
    arms = read_rows([folder]).arms
    if len(arms) != 2:
        runs = " ".join(str(folder / "runs" / arm) for arm in arms)
        raise UserError(f"Two arms are compared; those of {folder} are {', '.join(arms)}. Give the run folders of two: {runs}")
    before, after = (Source(f"{folder}: {arm}", results) for arm, results in arms.items())
    return [before], [after]


def arm_sums(results: Sequence[TaskResult]) -> Sums:
    """The sums behind the scores of an arm's runs on one benchmark, by picture within its category."""
    makeup = results[0].makeup
    assert makeup is not None
    labels = makeup.categories or ("",) * len(makeup.pictures)
    keys = [(label, picture) for label, picture in zip(labels, makeup.pictures, strict=True) if label is not None]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    clusters = np.array([numbers[key] for key in keys], dtype=np.int64)
    names = sorted({label for label, _ in numbers})
    categories = np.array([names.index(label) for label, _ in numbers], dtype=np.int64)
    counted = [place for place, label in enumerate(labels) if label is not None]
    numerators, denominators = _fractions(results, counted)
    weight = makeup.scale if makeup.summed else makeup.scale / len(names)
    return Sums(sum_clusters(numerators, clusters), sum_clusters(denominators, clusters), categories, weight)


def _fractions(results: Sequence[TaskResult], counted: Sequence[int]) -> tuple[Array, ...]:
    """Numerators and denominators of the samples that count: [runs, samples] each."""
    tops, bottoms = [], []
    for result in results:
        assert result.makeup is not None
        tops.append(result.makeup.numerators or [score for _, score in result.samples])
        bottoms.append(result.makeup.denominators or [1.0] * len(result.samples))
    return tuple(np.array(values, dtype=np.float64)[:, counted] for values in (tops, bottoms))


def _check_scores(compared: Sequence[Sequence[TaskResult]]) -> None:
    """A score that its own samples do not give is no basis for an interval."""
    for result in (result for results in compared for result in results):
        made = float(arm_sums([result]).scores()[0])
        if abs(made - result.score) > _ROUNDING:
            raise UserError(
                f"The summary of {result.benchmark} says {result.score}, its samples give {made}: it was changed. "
                "Type cal-bench rescore RUN to make it again from the answers."
            )


def _in_order(results: Mapping[str, Sequence[TaskResult]]) -> list[str]:
    """As in the paper's tables; what is in none of them last."""
    known = [name for layout in LAYOUTS for name in layout.benchmarks if name in results]
    return [*known, *(name for name in results if name not in known)]


def _row(before: Sequence[TaskResult], after: Sequence[TaskResult], plan: Plan) -> Row:
    sums = arm_sums(before), arm_sums(after)
    first, test, interval = before[0], paired_test(*sums, plan), gain(*sums, plan)
    assert first.makeup is not None
    change = _sample_scores(after) - _sample_scores(before)
    return Row(
        benchmark=first.benchmark,
        column=first.column,
        unit=first.unit,
        decimals=first.decimals,
        n=first.n,
        pictures=len(set(first.makeup.pictures)),
        limit=first.limit,
        approximate=first.approximate,
        before=float(sums[0].scores().mean()),
        after=float(sums[1].scores().mean()),
        spread_before=_spread(sums[0]),
        spread_after=_spread(sums[1]),
        gain=interval,
        test=test.name,
        p=test.p,
        p_holm=test.p,
        fixed=int((change > _CHANGE).sum()),
        broken=int((change < -_CHANGE).sum()),
        detectable=detectable(*sums, interval, test),
    )


def _sample_scores(results: Sequence[TaskResult]) -> Array:
    """The mean score of each sample that takes part in the headline."""
    makeup = results[0].makeup
    assert makeup is not None
    counted = [label is not None for label in makeup.categories] or [True] * len(makeup.pictures)
    scores = np.array([[score for _, score in result.samples] for result in results])
    mean: Array = scores.mean(axis=0)[counted]
    return mean


def _spread(arm: Sums) -> float | None:
    return float(arm.scores().std(ddof=1)) if arm.runs() > 1 else None
