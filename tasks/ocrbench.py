"""OCRBench: reading text, formulas and forms.

Paper   https://arxiv.org/abs/2305.07895
Split   test, 1,000 questions of ten types
Score   a question counts when an expected answer occurs in the model's; the sum is out of 1,000
Note    lmms-eval divides by 1,000 however many rows were scored; the headline is the share of the scored rows, times 1,000.
        `official_accuracy` is the authors' own script, which does not fold full-width characters. `accuracy_2024_05` is lmms-eval's
        rule when the CAL paper appeared: no handwritten formula (HME100k) whose expected text has a capital letter could be right
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def accuracies(marks: Sequence[Marked]) -> dict[str, float]:
    """The share of right answers among those scored: by lmms-eval's rule, by the authors', and by lmms-eval's of May 2024."""
    return {
        "accuracy": mean([float(mark.result["ocrbench_accuracy"]["score"]) for mark in marks]),
        "official_accuracy": mean([officially_right(mark) for mark in marks]),
        "accuracy_2024_05": mean([right_in_2024_05(mark) for mark in marks]),
    }


def officially_right(mark: Marked) -> float:
    """1 if an expected text occurs in the answer; formulas without regard to spaces, all else without regard to case."""
    return float(any(_occurs(gold, mark.answer, mark) for gold in _expected(mark)))


def right_in_2024_05(mark: Marked) -> float:
    """The same, except that a formula was looked for in the answer in lower case."""
    answer = mark.answer.lower()
    return float(any(_occurs(gold, answer, mark) for gold in _expected(mark)))


def _expected(mark: Marked) -> list[str]:
    expected = mark.row["answer"]
    return expected if isinstance(expected, list) else [expected]


def _occurs(gold: str, answer: str, mark: Marked) -> bool:
    if mark.row["dataset"] == "HME100k":
        return gold.strip().replace("\n", " ").replace(" ", "") in answer.strip().replace("\n", " ").replace(" ", "")
    return gold.lower().strip().replace("\n", " ") in answer.lower().strip().replace("\n", " ")


BENCHMARK = Benchmark(
    name="ocrbench",
    column="OCRB.",
    lmms_task="cal_ocrbench",
    metric="accuracy",
    scale=1000,
    size=1000,
    file="ocrbench",
    columns=("image", "question", "answer", "dataset", "question_type"),
    sample_score=lambda result: float(result["ocrbench_accuracy"]["score"]),
    unit="points",
    decimals=0,
    second_rules=accuracies,
)
