"""Intervals and tests, against values known without computing and against simulated data whose true difference is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from cal_bench.stats import Array, Interval, Plan, Sums, detectable, gain, holm, mcnemar, paired_test, score_interval, sum_clusters

PICTURES = 360
TRIALS = 1000
EFFECT = 0.05

Kind = Callable[[np.random.Generator, int, float], tuple[Sums, Sums]]


def samples(values: Array) -> Sums:
    """Runs of samples that each have a picture of their own: [runs, samples]."""
    values = np.atleast_2d(np.asarray(values, float))
    return Sums(values, np.ones_like(values), np.zeros(values.shape[1], dtype=np.int64))


def bits(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """Right or wrong, questions of different difficulty."""
    chance = rng.uniform(0.05, 0.9, count)
    return samples(rng.random(count) < chance), samples(rng.random(count) < chance + effect)


def fractions(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """Overlaps and the like: anything from 0 to 1, often 0."""
    level = rng.beta(0.8, 0.8, count)
    before, after = (np.clip(level + shift + rng.normal(0, 0.25, count), 0, 1) for shift in (0, effect))
    return samples(before), samples(after)


def captions(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """CIDEr: a few captions score many times the mean."""
    return samples(rng.gamma(0.8, 1.2, count)), samples(rng.gamma(0.8, 1.2 + effect, count))


def pages(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """One to eight questions to a page, which a model reads well or badly as a whole."""
    sizes = rng.integers(1, 9, count)
    clusters = np.repeat(np.arange(count), sizes)
    page = rng.normal(0, 1, count)[clusters]
    arms = []
    for shift in (0, 6 * effect):
        reading = page + rng.normal(0, 0.6, count)[clusters] + rng.normal(0, 1, len(clusters)) + shift
        right = (reading > 0).astype(float)[None]
        arms.append(Sums(sum_clusters(right, clusters), sum_clusters(np.ones_like(right), clusters), np.zeros(count, dtype=np.int64)))
    return arms[0], arms[1]


def yes_or_no(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """F1 of yes, six questions to a picture, three of each answer."""
    true = np.tile([1, 1, 1, 0, 0, 0], (count, 1))
    arms = []
    for shift in (0, 6 * effect):
        said = rng.normal(0, 0.7, (count, 1)) + rng.normal(0, 1, true.shape) + np.where(true == 1, 0.8 + shift, -0.8) > 0
        hits, wrong = (said & (true == 1)).sum(1), (said != (true == 1)).sum(1)
        arms.append(Sums(2.0 * hits[None], (2.0 * hits + wrong)[None], np.zeros(count, dtype=np.int64)))
    return arms[0], arms[1]


def pairs(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """MME: ten categories added up; 100 for a right answer and 100 more for each where both of a picture's are right."""
    categories = np.arange(count) % 10
    chance = 0.45 + categories * 0.04 + rng.normal(0, 0.1, count)
    rights = [(rng.random((2, count)) < chance + shift).sum(0) for shift in (0, effect)]
    before, after = (Sums(100.0 * (right + 2 * (right == 2))[None], np.full((1, count), 2.0), categories) for right in rights)
    return before, after


def categories(rng: np.random.Generator, count: int, effect: float) -> tuple[Sums, Sums]:
    """The plain mean over 18 categories of different sizes, each as hard as it is."""
    labels = np.sort(np.minimum(np.arange(count) % 36, 17))
    chance = np.clip(0.2 + labels * 0.03 + rng.normal(0, 0.1, count), 0.02, 0.9)
    rights = [(rng.random((1, count)) < chance + shift).astype(float) for shift in (0, effect)]
    before, after = (Sums(right, np.ones((1, count)), labels, weight=100 / 18) for right in rights)
    return before, after


KINDS: dict[str, Kind] = {kind.__name__: kind for kind in (bits, fractions, captions, pages, yes_or_no, pairs, categories)}


def true_gain(kind: Kind) -> float:
    before, after = kind(np.random.default_rng(99), 400_000 - 400_000 % 36, EFFECT)
    return float(after.scores()[0] - before.scores()[0])


@pytest.mark.parametrize("name", KINDS)
def test_intervals_cover_the_true_difference_in_95_of_100_samples(name: str) -> None:
    rng, true = np.random.default_rng(5), true_gain(KINDS[name])
    intervals = [gain(*KINDS[name](rng, PICTURES, EFFECT), Plan(600, trial)) for trial in range(TRIALS)]
    covered = np.mean([interval.low <= true <= interval.high for interval in intervals])
    assert abs(covered - 0.95) <= 0.02, covered


@pytest.mark.parametrize("name", KINDS)
def test_where_nothing_changed_one_test_in_twenty_says_otherwise(name: str) -> None:
    rng = np.random.default_rng(6)
    found = np.mean([paired_test(*KINDS[name](rng, PICTURES, 0.0), Plan(600, trial)).p <= 0.05 for trial in range(TRIALS)])
    assert found <= 0.07
    assert found >= (0.015 if name == "bits" else 0.03)  # McNemar's exact test errs on the safe side


def seeds(rng: np.random.Generator, effect: float, runs: int, spread: float) -> tuple[Sums, Sums]:
    """Runs whose training seeds move all of a run's scores by `spread`, on questions that are common to all."""
    chance = rng.uniform(0.25, 0.7, PICTURES)
    shifts = rng.normal(0, spread, (2, runs, 1)) + np.array([0.0, effect])[:, None, None]
    answers = (rng.random((2, runs, PICTURES)) < chance + shifts).astype(float)
    return samples(answers[0]), samples(answers[1])


@pytest.mark.parametrize(("runs", "spread"), [(2, 0.03), (3, 0.0), (3, 0.03), (5, 0.01)])
def test_intervals_of_several_seeds_cover_other_seeds_too(runs: int, spread: float) -> None:
    rng = np.random.default_rng(7)
    results = []
    for trial in range(TRIALS):
        before, after = seeds(rng, EFFECT, runs, spread)
        results.append(gain(before, after, Plan(600, trial)))
    covered = np.mean([result.low <= EFFECT <= result.high for result in results])
    # Welch's t of two seeds is known to be a little too wide, and never less than what other pictures give is more than 95 of 100 ask.
    assert 0.93 <= covered <= 0.99, covered


def test_seeds_that_agree_by_luck_leave_the_chance_of_the_pictures() -> None:
    right = np.zeros((2, 100))
    right[0, :60] = right[1, 40:] = 1  # two runs with the same score, and other pictures right
    better = right.copy()
    better[0, 60] = better[1, 39] = 1
    found = gain(samples(right), samples(better), Plan(600))
    assert found.high - found.low > 0.02


def test_seeds_that_nearly_agree_leave_the_chance_of_the_pictures_too() -> None:
    rng = np.random.default_rng(21)
    rights = [np.stack([rng.permutation(np.arange(100) < count) for count in counts]) for counts in ((50, 50, 51), (60, 60, 60))]
    before, after = (samples(right) for right in rights)
    found, pictures = gain(before, after, Plan()), gain(*(samples(right.mean(0)) for right in rights), Plan())
    assert before.scores().var() > 0
    assert found.high - found.low == pytest.approx(pictures.high - pictures.low)


@pytest.mark.parametrize(("runs", "spread"), [(3, 0.03), (5, 0.01)])
def test_several_seeds_keep_the_level(runs: int, spread: float) -> None:
    rng = np.random.default_rng(8)
    found = [paired_test(*seeds(rng, 0.0, runs, spread), Plan(600, trial)).p <= 0.05 for trial in range(TRIALS)]
    assert 0.01 <= np.mean(found) <= 0.07, np.mean(found)


def test_one_seed_alone_would_call_the_spread_of_seeds_a_gain() -> None:
    rng = np.random.default_rng(9)
    found = [paired_test(*seeds(rng, 0.0, 1, 0.06), Plan(600, trial)).p <= 0.05 for trial in range(500)]
    assert np.mean(found) > 0.2


def test_asking_the_same_twice_makes_nothing_surer() -> None:
    before, after = bits(np.random.default_rng(10), PICTURES, EFFECT)
    clusters = np.repeat(np.arange(PICTURES), 2)
    twice = [np.repeat(arm.numerators, 2, axis=1) for arm in (before, after)]
    labels = np.zeros(PICTURES, dtype=np.int64)
    together = [Sums(sum_clusters(values, clusters), sum_clusters(np.ones_like(values), clusters), labels) for values in twice]
    alone = [samples(values) for values in twice]
    error = gain(before, after, Plan()).error
    assert gain(together[0], together[1], Plan()).error == pytest.approx(error, rel=0.02)
    assert gain(alone[0], alone[1], Plan()).error == pytest.approx(error / math.sqrt(2), rel=0.02)


def close(found: Interval, draws: Array) -> None:
    low, high = np.quantile(draws, [0.025, 0.975])
    width = high - low
    assert (found.low - low) / width == pytest.approx(0, abs=0.03)
    assert (found.high - high) / width == pytest.approx(0, abs=0.03)


def naive(before: Sums, after: Sums, rounds: int = 10_000) -> Array:
    """Clusters drawn one by one, and both scores computed anew."""
    rng, count = np.random.default_rng(11), before.numerators.shape[1]
    drawn = rng.integers(0, count, (rounds, count))
    after_scores, before_scores = (arm.numerators[0][drawn].sum(1) / arm.denominators[0][drawn].sum(1) for arm in (after, before))
    return np.asarray(after_scores - before_scores)


@pytest.mark.parametrize("name", ["bits", "fractions", "captions", "pages", "yes_or_no"])
def test_the_short_way_gives_the_interval_of_the_plain_bootstrap(name: str) -> None:
    before, after = KINDS[name](np.random.default_rng(12), 120, EFFECT)
    close(gain(before, after, Plan()), naive(before, after))


def test_the_interval_of_one_score_is_that_of_its_mean() -> None:
    right = np.random.default_rng(13).random(1000) < 0.3
    found = score_interval(samples(right), Plan())
    half = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / 1000)
    assert found.value == pytest.approx(right.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    arms = fractions(np.random.default_rng(14), PICTURES, EFFECT)
    assert gain(*arms, Plan(seed=1)) == gain(*arms, Plan(seed=1)) != gain(*arms, Plan(seed=2))
    assert paired_test(*arms, Plan(seed=1)) == paired_test(*arms, Plan(seed=1))


def test_equal_runs_have_no_gain_and_no_doubt() -> None:
    for name, kind in KINDS.items():
        before, _ = kind(np.random.default_rng(15), 36, EFFECT)
        assert gain(before, before, Plan()) == Interval(0.0, 0.0, 0.0, 0.0), name
        assert paired_test(before, before, Plan()).p == 1.0, name


def test_turning_the_comparison_round_turns_the_sign() -> None:
    before, after = fractions(np.random.default_rng(16), PICTURES, EFFECT)
    there, back = gain(before, after, Plan()), gain(after, before, Plan())
    assert back.value == pytest.approx(-there.value)
    assert back.error == pytest.approx(there.error, rel=0.03)


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (1, 9, 22 / 1024), (7, 7, 1.0), (8, 2, 112 / 1024)],
)
def test_mcnemar_is_exact(fixed: int, broken: int, p: float) -> None:
    assert mcnemar(fixed, broken) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_thousands_is_a_number() -> None:
    assert 0 < mcnemar(7000, 8000) < 1e-15
    assert mcnemar(7500, 7500) == 1.0


def test_single_bits_go_to_mcnemar_and_all_else_to_sign_flips() -> None:
    rng = np.random.default_rng(17)
    tests = {name: paired_test(*kind(rng, 72, EFFECT), Plan(100)).name for name, kind in KINDS.items()}
    assert tests == {name: "McNemar" if name == "bits" else "sign flips" for name in KINDS}
    percent = [Sums(100 * arm.numerators, arm.denominators, arm.categories) for arm in bits(rng, 72, EFFECT)]
    assert paired_test(percent[0], percent[1], Plan(100)).name == "McNemar"


def test_sign_flips_agree_with_counting_all_of_them() -> None:
    before = samples(np.zeros(10))
    after = samples(np.array([0.3, 0.1, 0.4, 0.1, 0.5, 0.9, 0.2, 0.6, -0.5, -0.3]))
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    exact = np.mean(np.abs(signs @ after.numerators[0]) >= after.numerators.sum() - 1e-9)
    assert paired_test(before, after, Plan(100_000)).p == pytest.approx(exact, abs=0.003)


def test_an_arm_without_a_readable_answer_is_worse_beyond_chance() -> None:
    _, read = yes_or_no(np.random.default_rng(18), 50, 0.0)
    unread = Sums(np.zeros_like(read.numerators), np.zeros_like(read.denominators), read.categories)
    assert paired_test(unread, read, Plan()).p < 0.001
    assert paired_test(read, unread, Plan()).p < 0.001


def test_flips_of_an_f1_agree_with_counting_all_of_them() -> None:
    before, after = yes_or_no(np.random.default_rng(19), 10, 0.1)
    chosen = (np.arange(1024)[:, None] >> np.arange(10)) & 1
    tops, bottoms = (np.stack([getattr(arm, part)[0] for arm in (before, after)]) for part in ("numerators", "denominators"))
    scores = [tops[side, np.arange(10)].sum(1) / bottoms[side, np.arange(10)].sum(1) for side in (chosen, 1 - chosen)]
    observed = after.scores()[0] - before.scores()[0]
    exact = np.mean(np.abs(scores[0] - scores[1]) >= abs(observed) - 1e-9)
    assert 0.01 < exact < 0.99
    assert paired_test(before, after, Plan(100_000)).p == pytest.approx(exact, abs=0.006)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 2, 3, 30), (1, 40), (2, 2, 2, 40), (1,) * 20, (3, 4, 5, 5, 6, 6, 7, 8)])
def test_categories_of_a_picture_or_two_do_not_narrow_the_interval(sizes: tuple[int, ...]) -> None:
    """MME and MMStar with --limit: a picture alone in its category is its own mean, and would seem never to vary."""
    rng, labels = np.random.default_rng(20), np.repeat(np.arange(len(sizes)), sizes)
    covered = []
    for trial in range(TRIALS):
        arms = [rng.normal(shift, 1, (1, len(labels))) for shift in (0.0, 0.5)]
        found = gain(*(Sums(arm, np.ones_like(arm), labels, 1 / len(sizes)) for arm in arms), Plan(600, trial))
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98, np.mean(covered)


def test_where_few_samples_change_detectable_is_what_mcnemar_can_find() -> None:
    wrong = np.zeros(100)
    right = wrong.copy()
    right[0] = 1
    before, after = samples(wrong), samples(right)
    found = detectable(before, after, gain(before, after, Plan()), paired_test(before, after, Plan()))
    rng = np.random.default_rng(22)
    power = np.mean([mcnemar(rng.binomial(100, found), 0) <= 0.05 for _ in range(4000)])
    assert power == pytest.approx(0.8, abs=0.03)


def test_holm_is_the_textbook_s() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_one_picture_is_no_reason_to_divide_by_zero() -> None:
    one = samples(np.array([1.0]))
    assert gain(samples(np.array([0.0])), one, Plan()).value == 1.0


def test_f1_without_a_single_yes_is_zero() -> None:
    none = Sums(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros(4, dtype=np.int64))
    assert none.scores().tolist() == [0.0]
    some = Sums(np.array([[2.0, 0, 0, 2]]), np.array([[2.0, 1, 1, 2]]), none.categories)
    assert gain(none, some, Plan()).value == pytest.approx(4 / 6)


def test_the_standard_error_of_few_seeds_is_that_of_their_interval() -> None:
    """Two scores against two: Welch's t has one degree of freedom here, and its draws no deviation."""
    rng = np.random.default_rng(3)
    before, after = (samples(np.stack([rng.permutation(np.arange(100) < score) for score in scores])) for scores in ((60, 63), (66, 66)))
    found = [gain(before, after, Plan(seed=seed)) for seed in range(5)]
    assert all(one.error == pytest.approx((one.high - one.low) / 3.92) for one in found)
    assert max(one.error for one in found) < 1.5 * min(one.error for one in found)


def test_seeds_whose_means_over_categories_agree_do_not_take_the_other_pictures_away() -> None:
    """4 + 5 + 4 is 6 + 4 + 3, but as a mean of shares it is another number in the last bit."""

    def runs(*rights: tuple[int, int, int]) -> Sums:
        values = np.array([np.concatenate([np.arange(10) < right for right in run]) for run in rights], float)
        return Sums(values, np.ones_like(values), np.repeat(np.arange(3), 10), 100 / 3)

    before, after = runs((4, 5, 4), (6, 4, 3)), runs((7, 6, 4), (6, 5, 6))
    assert before.scores().var() + after.scores().var() < 1e-20
    found = gain(before, after, Plan())
    assert found.high - found.low > 10
