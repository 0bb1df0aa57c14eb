"""POPE: is this object in the picture?

Paper   https://arxiv.org/abs/2305.10355
Split   test, 9,000 questions: random, popular and adversarial objects
Score   F1 of yes, over all questions together
Note    lmms-eval wants exactly yes or no, and its `pope_yes_ratio` counts the labels. The authors' script takes everything without a
        no for a yes: `official_f1_score`, with the share of yes among its readings in `official_yes_ratio`, and that of answers with
        neither word in `neither_word_ratio`. LLaVA prints the mean of the three kinds' F1, `official_mean_f1_score`, where the data
        says which row is of which kind
"""

import re
from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def unreadable(mark: Marked) -> bool:
    """Anything but a bare yes or no."""
    return mark.answer.lower() not in ("yes", "no")


def counts(marks: Sequence[Marked]) -> list[tuple[float, float]]:
    """F1 is the sum of the first numbers over the sum of the second: twice the hits, over hits, false alarms and misses."""
    results = [mark.result["pope_f1_score"] for mark in marks]
    return [_count(result["prediction"], result["ground_truth"]) for result in results]


def _count(said: str, true: str) -> tuple[float, float]:
    # As lmms-eval counts: an answer that is neither yes nor no is no miss.
    hit, alarm, miss = (said, true) == ("yes", "yes"), (said, true) == ("yes", "no"), (said, true) == ("no", "yes")
    return 2.0 * hit, 2.0 * hit + alarm + miss


def official(marks: Sequence[Marked]) -> dict[str, float]:
    """The authors' script: F1 of yes, over all and by kind; the shares of answers that it reads as yes, and that hold neither word."""
    scores = {
        "official_f1_score": _official_f1(marks),
        "official_yes_ratio": mean([float(official_reading(mark.text) == "yes") for mark in marks]),
        "neither_word_ratio": mean([float(not {"yes", "no"} & set(re.findall("[a-z]+", mark.text.lower()))) for mark in marks]),
    }
    kinds: dict[str, list[Marked]] = {}
    for mark in marks:
        kinds.setdefault(str(mark.row.get("category", "")), []).append(mark)
    if "" not in kinds:
        scores["official_mean_f1_score"] = mean([_official_f1(own) for own in kinds.values()])
    return scores


def _official_f1(marks: Sequence[Marked]) -> float:
    said = [official_reading(mark.text) == "yes" for mark in marks]
    true = [mark.row["answer"].lower().strip() == "yes" for mark in marks]
    both = sum(a and b for a, b in zip(said, true, strict=True))
    either = sum(said) + sum(true)
    return 2 * both / either if either else 0.0


def official_reading(answer: str) -> str:
    """The authors' rule: no, not or No as a word of the first sentence means no; all else means yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


BENCHMARK = Benchmark(
    name="pope",
    column="POPE",
    lmms_task="cal_pope",
    metric="pope_f1_score",
    scale=100,
    size=9000,
    file="pope",
    columns=("image", "question", "answer", "question_id"),
    sample_score=lambda result: float(result["pope_accuracy"]["score"]),
    unreadable=unreadable,
    second_rules=official,
    shares=counts,
)
