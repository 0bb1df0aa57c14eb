"""MMT-Bench: multiple choice over 32 kinds of visual task.

Paper   https://arxiv.org/abs/2404.16006
Split   val, 3,127 questions
Score   accuracy, already in percent
Note    lmms-eval draws an option at random where it cannot read the answer. Here the draw depends on the row number alone, so it is the
        same for every model, order and limit; such answers are counted, and `accuracy_unreadable_wrong` gives them nothing.
        `official_accuracy` is the rule of the benchmark's own toolkit (VLMEvalKit), which gives nothing where it cannot read
"""

from collections.abc import Sequence

from .base import Benchmark, Marked, mean

OPTIONS = "ABCDEFGHI"


def without_guesses(marks: Sequence[Marked]) -> dict[str, float]:
    """Accuracy in percent when an unreadable answer is a wrong one, by lmms-eval's reading and by the toolkit's."""
    return {
        "accuracy_unreadable_wrong": 100 * mean([0.0 if mark.guessed else mark.result["accuracy"]["overall"] for mark in marks]),
        "official_accuracy": 100 * mean([float(official_reading(mark) == mark.row["answer"]) for mark in marks]),
    }


def official_reading(mark: Marked) -> str | None:
    """The one option whose letter stands alone in the answer, else the one whose text occurs in it, else none."""
    options = {letter: mark.row[letter].lower() for letter in OPTIONS if mark.row.get(letter)}
    words = mark.text.translate(str.maketrans(".()[],:;!*#{}", " " * 13)).split()
    letters = [letter for letter in options if letter in words]
    texts = [letter for letter, text in options.items() if text in mark.text.lower()]
    return letters[0] if len(letters) == 1 else texts[0] if len(texts) == 1 else None


BENCHMARK = Benchmark(
    name="mmt",
    column="MMT.",
    lmms_task="cal_mmt",
    metric="accuracy",
    scale=1,
    size=3127,
    file="mmt",
    columns=("image", "question", "answer", "A", "B", "l2-category"),
    sample_score=lambda result: float(result["accuracy"]["overall"]),
    unreadable=lambda mark: mark.guessed,
    second_rules=without_guesses,
    shares=lambda marks: [(100 * float(mark.result["accuracy"]["overall"]), 1.0) for mark in marks],
)
