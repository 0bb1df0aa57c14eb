"""ScienceQA, the questions with a picture.

Paper   https://arxiv.org/abs/2209.09513
Split   test, 2,017 questions with two to five choices
Score   accuracy of the letter
Note    `strict_accuracy` is lmms-eval's rule when the CAL paper appeared, which also wants the letter in upper case
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def unreadable(mark: Marked) -> bool:
    """Neither a bare letter nor a letter followed by a full stop."""
    letters = "ABCDE"[: len(mark.row["choices"])]
    bare = len(mark.answer) == 1 and mark.answer.upper() in letters
    return not (bare or (mark.answer[:1] in tuple(letters) and mark.answer[1:2] == "."))


def strict(marks: Sequence[Marked]) -> dict[str, float]:
    """lmms-eval's rule of May 2024."""
    return {"strict_accuracy": mean([float(_strictly_right(mark)) for mark in marks])}


def _strictly_right(mark: Marked) -> bool:
    gold = "ABCDEFGHIJ"[mark.row["answer"]]
    return mark.answer == gold or mark.answer.startswith(f"{gold}.")


BENCHMARK = Benchmark(
    name="scienceqa_img",
    column="SQA-I",
    lmms_task="cal_scienceqa_img",
    metric="exact_match",
    scale=100,
    size=2017,
    file="scienceqa_img",
    columns=("image", "question", "choices", "answer", "hint"),
    sample_score=lambda result: float(result["exact_match"]),
    unreadable=unreadable,
    second_rules=strict,
)
