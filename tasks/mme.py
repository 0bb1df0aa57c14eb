"""MME: yes or no, two questions for each picture, one of each answer.

Paper   https://arxiv.org/abs/2306.13394
Split   test, 2,374 questions in 14 categories
Score   perception: for each of ten categories the accuracy plus the share of pictures with both answers right, at most 2,000
Note    cognition (four categories, at most 800) is reported beside it. The two questions of a picture are drawn and scored together
"""

from typing import Any

from .base import Benchmark, Marked


def right(result: dict[str, Any]) -> float:
    """1 if the question is answered rightly; perception and cognition come under two names."""
    return float(next(iter(result.values()))["score"])


def unreadable(mark: Marked) -> bool:
    """Neither yes nor no among the first four characters."""
    from lmms_eval.tasks.mme.utils import parse_pred_ans

    return bool(parse_pred_ans(mark.answer) == "other")


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
)
