"""MME: yes or no, two questions for each picture, one of each answer.

Paper   https://arxiv.org/abs/2306.13394
Split   test, 2,374 questions in 14 categories
Score   perception: for each of ten categories the accuracy plus the share of pictures with both answers right, at most 2,000
Note    cognition (four categories, at most 800) is reported beside it. The two questions of a picture are drawn and scored together.
        The authors' script (`official_`) reads no single letters, keeps full stops, and looks for the words in the first four
        characters, blanks included
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .base import Benchmark, Marked, mean


def right(result: dict[str, Any]) -> float:
    """1 if the question is answered rightly; perception and cognition come under two names."""
    return float(next(iter(result.values()))["score"])


def unreadable(mark: Marked) -> bool:
    """Neither yes nor no among the first four characters."""
    from lmms_eval.tasks.mme.utils import parse_pred_ans

    return bool(parse_pred_ans(mark.answer) == "other")


def official(marks: Sequence[Marked]) -> dict[str, float]:
    """Perception and cognition by the authors' reading; a kind without a question has no number."""
    kinds = {name: [mark for mark in marks if f"mme_{name}_score" in mark.result] for name in ("perception", "cognition")}
    return {f"official_{name}_score": _points(own) for name, own in kinds.items() if own}


def officially_right(mark: Marked) -> float:
    """1 if the authors' script reads the right word."""
    return float(official_reading(mark.text) == mark.row["answer"].lower())


def official_reading(text: str) -> str:
    """The authors' rule: yes or no as the whole answer or among its first four characters; yes comes first."""
    return next((word for word in ("yes", "no") if word in text.lower()[:4]), "other")


def _points(marks: Sequence[Marked]) -> float:
    """For each category the accuracy and the share of pictures with both answers right, in percent, added up."""
    rights: dict[str, dict[Any, list[float]]] = {}
    for mark in marks:
        rights.setdefault(mark.row["category"], {}).setdefault(mark.row["question_id"], []).append(officially_right(mark))
    return sum(mean([100 * mean(pair) + 100 * (sum(pair) == 2) for pair in pictures.values()]) for pictures in rights.values())


def perception(mark: Marked) -> str | None:
    """The category of a perception question; cognition is not in the headline."""
    return str(mark.row["category"]) if "mme_perception_score" in mark.result else None


def worths(marks: Sequence[Marked]) -> list[tuple[float, float]]:
    """100 for a right answer, and 100 more where the other question on the picture is answered rightly too."""
    pictures = [(mark.row["category"], mark.row["question_id"]) for mark in marks]
    rights = Counter[tuple[Any, Any]]()
    for picture, mark in zip(pictures, marks, strict=True):
        rights[picture] += int(right(dict(mark.result)))
    return [(100 * right(dict(mark.result)) + 100 * (rights[picture] == 2), 1.0) for picture, mark in zip(pictures, marks, strict=True)]


BENCHMARK = Benchmark(
    name="mme",
    column="MME",
    lmms_task="cal_mme",
    metric="mme_perception_score",
    scale=1,
    size=2374,
    file="mme",
    columns=("image", "question", "answer", "category", "question_id"),
    sample_score=right,
    unit="points",
    decimals=0,
    pair=("category", "question_id"),
    unreadable=unreadable,
    second_rules=official,
    category=perception,
    sums_categories=True,
    shares=worths,
)
