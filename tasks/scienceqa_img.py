"""ScienceQA, the questions with a picture.

Paper   https://arxiv.org/abs/2209.09513
Split   test, 2,017 questions with two to five choices
Score   accuracy of the letter
Note    `strict_accuracy` is lmms-eval's rule when the CAL paper appeared, which also wants the letter in upper case.
        `llava_accuracy` is the rule of LLaVA's own script: a bare letter, "A. text" or one "The answer is A." in the text
"""

import re
from collections.abc import Sequence

from .base import Benchmark, Marked, mean

LETTERS = "ABCDEFGHIJ"


def unreadable(mark: Marked) -> bool:
    """Neither a bare letter nor a letter followed by a full stop."""
    letters = "ABCDE"[: len(mark.row["choices"])]
    bare = len(mark.answer) == 1 and mark.answer.upper() in letters
    return not (bare or (mark.answer[:1] in tuple(letters) and mark.answer[1:2] == "."))


def older_rules(marks: Sequence[Marked]) -> dict[str, float]:
    """lmms-eval's rule of May 2024, and LLaVA's."""
    return {
        "strict_accuracy": mean([strictly_right(mark) for mark in marks]),
        "llava_accuracy": mean([right_by_llava(mark) for mark in marks]),
    }


def strictly_right(mark: Marked) -> float:
    """1 for the letter in upper case, alone or before a full stop."""
    gold = LETTERS[mark.row["answer"]]
    return float(mark.answer == gold or mark.answer.startswith(f"{gold}."))


def right_by_llava(mark: Marked) -> float:
    """1 if LLaVA's script reads the right letter; it sees the answer with the white space around it."""
    return float(_read_by_llava(mark.text) == LETTERS[mark.row["answer"]])


def _read_by_llava(text: str) -> str | None:
    if len(text) == 1 or text[1:3] == ". ":
        return text[0]
    named = re.findall(r"The answer is ([A-Z]).", text)  # one more character of any kind must follow
    return named[0] if len(named) == 1 else None


BENCHMARK = Benchmark(
    name="scienceqa_img",
    column="SQA-I",
    lmms_task="cal_scienceqa_img",
    metric="exact_match",
    scale=100,
    size=2017,
    file="scienceqa_img",
    columns=("image", "question", "choices", "answer", "hint"),
    lists=("choices",),
    sample_score=lambda result: float(result["exact_match"]),
    unreadable=unreadable,
    second_rules=older_rules,
)
