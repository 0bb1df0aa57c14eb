"""MMStar: multiple choice that cannot be answered without the picture.

Paper   https://arxiv.org/abs/2403.20330
Split   val, 1,500 questions, 250 in each of six categories
Score   accuracy; lmms-eval's `average` is the plain mean over 18 sub-categories
Note    the authors take the plain mean over questions and read only four forms of answer: `official_accuracy`.
        lmms-eval sets no bound on the answer; ours is 64 tokens
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def unreadable(mark: Marked) -> bool:
    """No letter from A to D was found in the answer."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    return not extract_mcq_answer(mark.answer, choices=["A", "B", "C", "D"])


def official(marks: Sequence[Marked]) -> dict[str, float]:
    """The authors' script: which answers it reads, and the plain mean over questions; and that mean by lmms-eval's reading."""
    return {
        "micro_accuracy": mean([mark.result["average"]["score"] for mark in marks]),
        "official_accuracy": mean([officially_right(mark) for mark in marks]),
    }


def officially_right(mark: Marked) -> float:
    """1 if the answer begins with the letter in one of the four forms that the authors' script reads."""
    answer = mark.answer.lower().replace("\n", " ")
    gold = mark.row["answer"].lower().strip()
    return float(any(answer.startswith(prefix + gold) for prefix in ("", "(", "option ", "the answer is ")))


BENCHMARK = Benchmark(
    name="mmstar",
    column="MMS.",
    lmms_task="cal_mmstar",
    metric="average",
    scale=100,
    size=1500,
    file="mmstar",
    columns=("image", "question", "answer", "category", "l2_category", "index"),
    sample_score=lambda result: float(result["average"]["score"]),
    max_new_tokens=64,
    unreadable=unreadable,
    second_rules=official,
    category=lambda mark: str(mark.row["l2_category"]),
)
