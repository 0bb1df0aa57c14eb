"""What a study found, over one seed or several: every arm against the one that it is held against. From records alone.

With several seeds the intervals cover other seeds and other pictures (see stats.py); with one, other pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cal_bench.alike import Source
from cal_bench.compare import Comparison, arm_sums, compare
from cal_bench.evidence import exact_only, read_rows, read_study_record
from cal_bench.records import TaskResult
from cal_bench.stats import Interval, Plan, Sums, gain, paired_test

Results = Mapping[str, TaskResult]  # benchmark -> summary

# Units of scores between 0 and 100, of which a mean says something.
HUNDREDTHS = ("%", "IoU")


@dataclass(frozen=True)
class Row:
    """A row of the tables: its arm's name within its study, the share of swapped images in its last stage, its summaries by seed."""

    name: str
    arm: str
    swap: float
    seeds: tuple[Results, ...]

    def common(self) -> dict[str, tuple[TaskResult, ...]]:
        """The summaries of each benchmark that is complete in all seeds."""
        shared = [name for name in self.seeds[0] if all(name in results for results in self.seeds)]
        return {name: tuple(results[name] for results in self.seeds) for name in shared}


@dataclass(frozen=True)
class Overall:
    """The difference of the mean over benchmarks whose scores lie between 0 and 100."""

    benchmarks: tuple[str, ...]
    before: float
    after: float
    gain: Interval
    p: float


@dataclass(frozen=True)
class Pair:
    """A row against the one that it is held against; no overall where no benchmark is scored from 0 to 100."""

    before: Row
    after: Row
    comparison: Comparison
    overall: Overall | None


@dataclass(frozen=True)
class Findings:
    """All rows of a study or of several, all differences, and the command that made them."""

    command: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]


def find(folders: Sequence[Path], command: str) -> Findings:
    """The findings of the same study, or list of studies, in one folder for each seed."""
    records = [read_study_record(folder)["arms"] for folder in folders]
    arms = [exact_only(read_rows([folder])).arms for folder in folders]
    first = records[0]
    rows = {name: Row(name, *_arm_and_swap(first[name]), tuple(results[name] for results in arms)) for name in first}
    seeds = tuple(_last_stage(record[next(iter(record))])["seed"] for record in records)
    pairs = [_pair(rows[before], rows[after], seeds) for after, before in held_against(list(rows)).items()]
    return Findings(command, seeds, tuple(rows.values()), tuple(pair for pair in pairs if pair))


def held_against(rows: Sequence[str]) -> dict[str, str]:
    """x+cal is held against x; where no row is called so, every row against the first."""
    named = {row: row.partition("+")[0] for row in rows if "+" in row and row.partition("+")[0] in rows}
    return named or dict.fromkeys(rows[1:], rows[0])


def score(results: Sequence[TaskResult]) -> Interval:
    """The mean score of a benchmark over seeds with its interval: its gain over nothing."""
    return gain_over_nothing(arm_sums(results))


def mean_score(row: Row, names: Sequence[str]) -> Interval | None:
    """The mean over these benchmarks with its interval; None where one of them is missing."""
    found = row.common()
    if not names or not found.keys() >= set(names):
        return None
    return gain_over_nothing(mean_of([arm_sums(found[name]) for name in names]))


def in_every_mean(rows: Sequence[Row]) -> tuple[str, ...]:
    """The benchmarks scored from 0 to 100 that every row has, so that means of rows can be compared; rows without any do not count."""
    names = [in_hundredths(found) for row in rows if (found := row.common())]
    return tuple(name for name in names[0] if all(name in others for others in names)) if names else ()


def gain_over_nothing(arm: Sums) -> Interval:
    """A score as a gain, so that its interval covers what that of a gain does."""
    return gain(replace(arm, numerators=np.zeros_like(arm.numerators)), arm, Plan())


def in_hundredths(found: Mapping[str, Sequence[TaskResult]]) -> tuple[str, ...]:
    """The benchmarks whose mean makes sense; of several on the same data the first, as no picture shall be drawn twice."""
    fitting = {name: results[0] for name, results in found.items() if results[0].unit in HUNDREDTHS}
    first = {result.data_fingerprint: name for name, result in reversed(fitting.items())}
    return tuple(name for name in fitting if name in first.values())


def mean_of(benchmarks: Sequence[Sums]) -> Sums:
    """The sums whose score is the mean of the benchmarks' scores; pictures are drawn within each benchmark."""
    offsets = np.cumsum([0, *(int(sums.categories.max()) + 1 for sums in benchmarks[:-1])])
    return Sums(
        np.concatenate([sums.numerators * sums.weight / len(benchmarks) for sums in benchmarks], axis=1),
        np.concatenate([sums.denominators for sums in benchmarks], axis=1),
        np.concatenate([sums.categories + offset for sums, offset in zip(benchmarks, offsets, strict=True)]),
    )


def _pair(before: Row, after: Row, seeds: Sequence[int]) -> Pair | None:
    """None where no benchmark is complete in both."""
    sides = before.common(), after.common()
    shared = [name for name in sides[0] if name in sides[1]]
    if not shared:
        return None
    comparison = compare(_sources(before, seeds), _sources(after, seeds))
    return Pair(before, after, comparison, _overall([{name: side[name] for name in shared} for side in sides]))


def _sources(row: Row, seeds: Sequence[int]) -> list[Source]:
    several = len(seeds) > 1
    return [Source(f"{row.name} seed {seed}" if several else row.name, results) for seed, results in zip(seeds, row.seeds, strict=True)]


def _overall(sides: Sequence[Mapping[str, Sequence[TaskResult]]]) -> Overall | None:
    names = in_hundredths(sides[0])
    if not names:
        return None
    before, after = (mean_of([arm_sums(side[name]) for name in names]) for side in sides)
    interval, test = gain(before, after, Plan()), paired_test(before, after, Plan())
    return Overall(names, float(before.scores().mean()), float(after.scores().mean()), interval, test.p)


def _last_stage(record: Mapping[str, Any]) -> Mapping[str, Any]:
    stages: list[Mapping[str, Any]] = list(record["training"].values())
    return stages[-1]


def _arm_and_swap(record: Mapping[str, Any]) -> tuple[str, float]:
    """The last stage lies in a folder of the arm's name, or of the first that shares it."""
    return Path(record["run"]["identity"]["model"]).parts[-2], float(_last_stage(record)["identity"]["stage"]["swap"])
