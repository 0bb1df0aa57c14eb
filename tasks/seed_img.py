"""SEED-Bench, the questions about single pictures.

Paper   https://arxiv.org/abs/2307.16125
Split   test, 14,233 of the 17,990 questions; the others are about videos and are left out
Score   accuracy of the letter
Note    lmms-eval reads the first character only, so "Because" is a B; `letter_accuracy` wants the letter alone.
        lmms-eval sets no bound on the answer; ours is 64 tokens
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean


def unreadable(mark: Marked) -> bool:
    """The answer does not begin with a letter from A to D."""
    return mark.answer[:1].upper() not in ("A", "B", "C", "D")


def letter(marks: Sequence[Marked]) -> dict[str, float]:
    """Accuracy when the answer must be the letter and nothing else."""
    return {"letter_accuracy": mean([float(mark.answer == mark.row["answer"]) for mark in marks])}


BENCHMARK = Benchmark(
    name="seed_img",
    column="SEED-I",
    lmms_task="cal_seed_img",
    metric="seed_image",
    scale=100,
    size=14233,
    file="seed",
    columns=("image", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer", "data_type", "question_id"),
    sample_score=lambda result: float(result["seed_all"]["pred"].lower().strip() == result["seed_all"]["answer"].lower().strip()),
    max_new_tokens=64,
    only=("data_type", "image"),
    unreadable=unreadable,
    second_rules=letter,
)
