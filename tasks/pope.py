"""POPE: is this object in the picture?

Paper   https://arxiv.org/abs/2305.10355
Split   test, 9,000 questions: random, popular and adversarial objects
Score   F1 of yes, over all questions together
Note    lmms-eval wants exactly yes or no, and its `pope_yes_ratio` counts the labels. The authors' script takes everything without a
        no for a yes: `official_f1_score`, with the share of yes among its readings in `official_yes_ratio`
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def unreadable(mark: Marked) -> bool:
    """Anything but a bare yes or no."""
    return mark.answer.lower() not in ("yes", "no")


def official(marks: Sequence[Marked]) -> dict[str, float]:
    """The authors' script: F1 of yes and the share of answers that it reads as yes."""
    said = [official_reading(mark.answer) == "yes" for mark in marks]
    true = [mark.row["answer"].lower().strip() == "yes" for mark in marks]
    both = sum(a and b for a, b in zip(said, true, strict=True))
    either = sum(said) + sum(true)
    return {"official_f1_score": 2 * both / either if either else 0.0, "official_yes_ratio": mean([float(a) for a in said])}


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
)
