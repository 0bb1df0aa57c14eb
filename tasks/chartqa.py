"""ChartQA: questions about charts.

Paper   https://arxiv.org/abs/2203.10244
Split   test, 2,500 questions: 1,250 written by people, 1,250 by machine
Score   relaxed accuracy: numbers may be off by 5%, words must match
Note    the two halves differ a lot; the headline number is their plain mean. Years are numbers too: 2010 passes for 2014.
        `official_overall` is the same rule on the answer with the white space around it. `literal_overall` is the paper's sentence
        taken at its word: per cent signs and thousands commas do not count, 5 % is 5 % also of 0; `exact_years_overall` is that, and a
        year must be the year
"""

import math
import re
from collections.abc import Sequence

from .base import Benchmark, Marked, mean

YEARS = range(1800, 2101)


def other_rules(marks: Sequence[Marked]) -> dict[str, float]:
    """The share of right answers under each rule beside lmms-eval's."""
    rules = {"official": officially_right, "literal": literally_right, "exact_years": right_with_exact_years}
    return {f"{name}_overall": mean([rule(mark) for mark in marks]) for name, rule in rules.items()}


def officially_right(mark: Marked) -> float:
    """lmms-eval's function, which is that of the authors of pix2struct, on the answer as it came."""
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    return float(relaxed_correctness(mark.text, mark.row["answer"]))


def literally_right(mark: Marked) -> float:
    """Numbers within 5 % of the expected one, whatever their notation; other texts equal but for case."""
    said, gold = _number(mark.answer), _number(mark.row["answer"])
    if said is None or gold is None:
        return float(mark.answer.lower() == mark.row["answer"].strip().lower())
    # A value on the very edge counts, whatever binary fractions make of it.
    return float(abs(said - gold) <= 0.05 * abs(gold) * (1 + 1e-9))


def right_with_exact_years(mark: Marked) -> float:
    """The same, except that a whole number that can be a year must be met exactly."""
    gold = mark.row["answer"].strip()
    if re.fullmatch("[0-9]{4}", gold) and int(gold) in YEARS:
        return float(_number(mark.answer) == int(gold))
    return literally_right(mark)


def _number(text: str) -> float | None:
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip().rstrip("%").rstrip())
    if "_" in bare:
        return None
    try:
        number = float(bare)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


BENCHMARK = Benchmark(
    name="chartqa",
    column="VQA-Chart",
    lmms_task="cal_chartqa",
    metric="relaxed_overall",
    scale=100,
    size=2500,
    file="chartqa",
    columns=("image", "question", "answer", "type"),
    sample_score=lambda result: float(result["relaxed_overall"]),
    second_rules=other_rules,
)
