"""Intervals and tests for scores and for differences of scores; numpy alone, arrays in and small records out.

A score is put together from sums over clusters, the samples that share a picture: they are right or wrong together, so they are drawn
together. Every benchmark fits: an accuracy is one category with a denominator of 1 per sample, F1 is twice the hits over hits and errors,
a mean over categories has several.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

LEVEL = 0.05
# A difference as wide as this many standard errors is found in four repetitions of five: 1.96 for the level, 0.84 for the power.
_DETECTABLE = 2.80
# McNemar's test says nothing below six changed samples; where this many are expected, there are six or more four times in five.
_LEAST_CHANGED = 7.9
_HALF_WIDTH = 1.96  # of a 95 % interval, in standard errors
_ALONE, _FEW = 3, 10  # clusters in a category, in a stratum; fewer tell too little of how much they vary

_DISTINCT = 64
_STEPS = 4


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators of an arm's runs, summed by cluster: [runs, clusters]; category of each cluster, 0, 1, …: [clusters].

    The score of a run is `weight` times the sum over categories of numerators over denominators.
    """

    numerators: Array
    denominators: Array
    categories: Labels
    weight: float = 1.0

    def runs(self) -> int:
        return int(self.numerators.shape[0])

    def scores(self) -> Array:
        """The score of each run: [runs]."""
        total: Array = self.weight * _ratios(self).sum(1)
        return total

    def strata(self) -> Labels:
        """The category of each cluster; the small ones are one stratum, since a cluster alone in its category would seem not to vary."""
        sizes = np.bincount(self.categories)
        smallest = np.argsort(sizes, kind="stable")
        merged = np.arange(len(sizes))
        together = max(int((sizes < _ALONE).sum()), int(np.searchsorted(np.cumsum(sizes[smallest]), _FEW)) + 1)
        merged[smallest[:together]] = smallest[0]
        labels: Labels = merged[self.categories]
        return labels

    def influence(self) -> Array:
        """What each cluster adds to the score of its run, compared with one that is as good as its stratum: [runs, clusters]."""
        strata = self.strata()
        own = _ratios(replace(self, categories=strata))[:, strata]
        total = _by_category(self, self.denominators)[:, self.categories]
        added: Array = self.weight * _divided(self.numerators - own * self.denominators, total)
        return added


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and standard error."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Test:
    """How probable a difference at least as large is where before and after are alike, and by which test."""

    p: float
    name: str


@dataclass(frozen=True)
class Plan:
    """How often to draw, and from which seed."""

    rounds: int = 10_000
    seed: int = 0


def sum_clusters(values: Array, clusters: Labels) -> Array:
    """Sums of `values` [runs, samples] by cluster, which are numbered 0, 1, …: [runs, clusters]."""
    size = int(clusters.max()) + 1
    return np.stack([np.bincount(clusters, weights=row, minlength=size) for row in values])


def score_interval(arm: Sums, plan: Plan) -> Interval:
    """The mean score of an arm with the interval that drawing other pictures gives."""
    value = float(arm.scores().mean())
    return _interval(value, value + _drawn(arm.influence().mean(0), arm, plan))


def gain(before: Sums, after: Sums, plan: Plan) -> Interval:
    """After minus before. With several runs on both sides the interval covers other seeds as well as other pictures."""
    found = _interval(_difference(before, after), _gain_draws(before, after, plan))
    if not _several(before, after):
        return found
    # Draws from a t of one or two degrees of freedom have no deviation to speak of; their interval stands.
    return replace(found, error=(found.high - found.low) / (2 * _HALF_WIDTH))


def paired_test(before: Sums, after: Sums, plan: Plan) -> Test:
    """McNemar's exact test where every cluster is one sample of 0 or 1, for several seeds the interval turned round, else sign flips."""
    if _several(before, after):
        draws = _gain_draws(before, after, plan)
        tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
        return Test(min(1.0, 2 * (1 + tail) / (1 + plan.rounds)), "seeds and samples")
    if _single_bits(before, after):
        change = after.numerators[0] - before.numerators[0]
        return Test(mcnemar(int((change > 0).sum()), int((change < 0).sum())), "McNemar")
    return Test(_sign_flips(before, after, plan), "sign flips")


def detectable(before: Sums, after: Sums, found: Interval, test: Test) -> float:
    """The true difference that would be found four times in five; McNemar's test can't find one that changes too few samples."""
    least = 0.0
    if test.name == "McNemar":
        worth = max(float(arm.numerators.max()) for arm in (before, after))
        least = _LEAST_CHANGED * before.weight * worth / before.numerators.shape[1]
    return max(_DETECTABLE * found.error, least)


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p of a fair coin's falling as unevenly as `fixed` to `broken`."""
    count = fixed + broken
    term = total = 1
    for heads in range(min(fixed, broken)):
        term = term * (count - heads) // (heads + 1)
        total += term
    return min(1.0, total / 2 ** (count - 1)) if count else 1.0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's adjustment: calling those under the level real, the chance of even one false call stays under the level."""
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    adjusted, least = [0.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, probabilities[place] * (len(probabilities) - rank)))
        adjusted[place] = least
    return adjusted


def _interval(value: float, draws: Array) -> Interval:
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(value, float(low), float(high), float(draws.std()))


def _several(before: Sums, after: Sums) -> bool:
    """Several runs on both sides: other seeds can be told of."""
    return min(before.runs(), after.runs()) > 1


def _difference(before: Sums, after: Sums) -> float:
    return float(after.scores().mean() - before.scores().mean())


def _divided(numerators: Array, denominators: Array) -> Array:
    # F1 without a single yes is 0, as lmms-eval has it.
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def _by_category(arm: Sums, values: Array) -> Array:
    """Sums of `values` [runs, clusters]: [runs, categories]."""
    return sum_clusters(values, arm.categories)


def _ratios(arm: Sums) -> Array:
    """Numerators over denominators: [runs, categories]."""
    return _divided(_by_category(arm, arm.numerators), _by_category(arm, arm.denominators))


def _gain_draws(before: Sums, after: Sums, plan: Plan) -> Array:
    """Differences that other pictures, and where there are several runs other seeds, would have given: [rounds]."""
    samples = _drawn(after.influence().mean(0) - before.influence().mean(0), before, plan)
    if _several(before, after):
        # The noise of single runs is in the spread of their scores as well; counted once.
        noise = _noise(before) + _noise(after)
        kept = max(0.0, 1 - noise / max(float(samples.var()), noise, 1e-300))
        both = math.sqrt(kept) * samples + _other_seeds(before, after, plan)
        # Scores of few runs may agree by luck; other pictures would still have given others.
        samples = max(samples, both, key=_width)
    return _difference(before, after) + samples


def _width(draws: Array) -> float:
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(high - low)


def _other_seeds(before: Sums, after: Sums, plan: Plan) -> Array:
    """What other seeds would add. Three seeds drawn with replacement are ten triples and too narrow; Welch's t is what they estimate."""
    parts = [float(arm.scores().var(ddof=1)) / arm.runs() for arm in (before, after)]
    variance = sum(parts)
    if variance == 0:
        return np.zeros(plan.rounds)
    freedom = variance**2 / sum(part**2 / (arm.runs() - 1) for part, arm in zip(parts, (before, after), strict=True))
    return math.sqrt(variance) * np.random.default_rng([plan.seed, 1]).standard_t(freedom, plan.rounds)


def _noise(arm: Sums) -> float:
    """The variance of an arm's mean score that comes from its runs' disagreeing picture by picture."""
    return float(arm.influence().var(axis=0, ddof=1).sum()) / arm.runs()


def _drawn(influence: Array, arm: Sums, plan: Plan) -> Array:
    """Bootstrap of the sum of `influence` [clusters] about it, drawn with replacement within each category.

    The sizes of categories are the benchmark's choice. For a mean this is the plain bootstrap; for a ratio such as F1 its linear part,
    all but a few per cent of it for a hundred pictures. Small categories draw from their common stratum.
    """
    rng = np.random.default_rng([plan.seed, 0])
    strata, sizes, total = arm.strata(), np.bincount(arm.categories), np.zeros(plan.rounds)
    evened = influence * sizes[arm.categories]  # a cluster of a small category moves the score more
    for stratum in np.unique(strata):
        own = evened[strata == stratum]
        values, counts = _distinct(own - own.mean())
        # n clusters drawn with replacement vary too little, by the factor (n - 1) / n.
        values = values * math.sqrt(len(own) / max(len(own) - 1, 1))
        for size in sizes[np.unique(arm.categories[strata == stratum])]:
            # Drawing how often each distinct value occurs is the same bootstrap as drawing clusters, without the clusters x rounds array.
            total += rng.multinomial(size, counts / len(own), size=plan.rounds) @ values / size
    return total


def _distinct(values: Array) -> tuple[Array, Labels]:
    """The distinct values and how often each occurs; where there are many, rounded, and stretched to the same mean and deviation."""
    deviation = float(values.std())
    found, counts = np.unique(values, return_counts=True)
    if len(found) <= _DISTINCT or deviation == 0:
        return found, counts
    rounded, counts = np.unique(np.round((values - values.mean()) / deviation * _STEPS), return_counts=True)
    shares = counts / len(values)
    centred = rounded - shares @ rounded
    return values.mean() + deviation * centred / math.sqrt(shares @ centred**2), counts


def _single_bits(before: Sums, after: Sums) -> bool:
    """Every cluster is one sample of 0 or 1 in one category; 1 may be worth more, such as 100 %."""
    if before.categories.any() or not (before.denominators == 1).all() or not (after.denominators == 1).all():
        return False
    return len(np.unique(np.concatenate([[0.0], before.numerators[0], after.numerators[0]]))) <= 2


def _sign_flips(before: Sums, after: Sums, plan: Plan) -> float:
    """Two-sided p of the difference when each cluster's before and after could as well have changed places."""
    tops, bottoms = after.numerators[0] - before.numerators[0], after.denominators[0] - before.denominators[0]
    if not (tops.any() or bottoms.any()):
        return 1.0
    rng = np.random.default_rng([plan.seed, 2])
    uneven = np.unique(before.categories[bottoms != 0])
    flipped = _flipped_means(before, tops * ~np.isin(before.categories, uneven), rng, plan)
    for category in uneven:
        flipped += _flipped_ratio(before, after, before.categories == category, rng, plan)
    # Sums of the same numbers in another order differ in their last bits.
    reached = int((np.abs(flipped) >= abs(_difference(before, after)) * (1 - 1e-9)).sum())
    return (1 + reached) / (1 + plan.rounds)


def _flipped_means(arm: Sums, changes: Array, rng: np.random.Generator, plan: Plan) -> Array:
    """Differences of scores when `changes` [clusters] of numerators have random signs, over denominators that are the arm's: [rounds]."""
    total = _by_category(arm, arm.denominators)[0, arm.categories]
    sizes, counts = np.unique(np.abs(arm.weight * _divided(changes, total)[changes != 0]), return_counts=True)
    if len(sizes) > _DISTINCT:
        sizes, counts = _root_mean_squares(np.repeat(sizes, counts))
    flipped: Array = _signed(counts, rng, plan) @ sizes
    return flipped


def _flipped_ratio(before: Sums, after: Sums, chosen: npt.NDArray[np.bool_], rng: np.random.Generator, plan: Plan) -> Array:
    """The same for one category whose denominators change as well: the ratios themselves, [rounds]."""
    first, last = (np.stack([arm.numerators[0, chosen], arm.denominators[0, chosen]]) for arm in (before, after))
    changes, counts = np.unique(last - first, axis=1, return_counts=True)
    both, moved = (first + last).sum(1), _signed(counts, rng, plan) @ changes.T
    ratios = [_divided(*((both + sign * moved) / 2).T) for sign in (-1, 1)]
    difference: Array = before.weight * (ratios[1] - ratios[0])
    return difference


def _signed(counts: Labels, rng: np.random.Generator, plan: Plan) -> Array:
    """The sum of `counts` [kinds] random signs: [rounds, kinds]. Of m equal changes a binomial number keeps its sign."""
    kept = rng.binomial(counts, 0.5, size=(plan.rounds, len(counts)))
    return (2 * kept - counts).astype(np.float64)


def _root_mean_squares(sizes: Array) -> tuple[Array, Labels]:
    """Ascending sizes in groups of neighbours, each with its root mean square: sums with random signs keep their variance."""
    groups = np.array_split(sizes, _DISTINCT)
    return np.array([math.sqrt(float(np.mean(group**2))) for group in groups]), np.array([len(group) for group in groups])
