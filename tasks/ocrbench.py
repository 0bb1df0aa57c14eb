"""OCRBench: reading text, formulas and forms.

Paper   https://arxiv.org/abs/2305.07895
Split   test, 1,000 questions of ten types
Score   a question counts when an expected answer occurs in the model's; the sum is out of 1,000
Note    lmms-eval divides by 1,000 however many rows were scored; the headline is the share of the scored rows, times 1,000.
        `official_accuracy` is the authors' own script, which does not fold full-width characters
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def accuracies(marks: Sequence[Marked]) -> dict[str, float]:
    """The share of right answers among those scored, by lmms-eval's rule and by the authors'."""
    return {
        "accuracy": mean([float(mark.result["ocrbench_accuracy"]["score"]) for mark in marks]),
        "official_accuracy": mean([float(_officially_right(mark)) for mark in marks]),
    }


def _officially_right(mark: Marked) -> bool:
    expected = mark.row["answer"]
    return any(_occurs(gold, mark) for gold in (expected if isinstance(expected, list) else [expected]))


def _occurs(gold: str, mark: Marked) -> bool:
    if mark.row["dataset"] == "HME100k":
        return gold.strip().replace("\n", " ").replace(" ", "") in mark.answer.strip().replace("\n", " ").replace(" ", "")
    return gold.lower().strip().replace("\n", " ") in mark.answer.lower().strip().replace("\n", " ")


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
