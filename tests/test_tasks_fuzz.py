"""No answer makes a scorer raise, whatever characters it holds, and every score is a number within its range."""

import math
import random
from pathlib import Path

import pytest

import cal_bench.tasks as tasks
from tests import tasks_rows

ROUNDS = 6  # times 12 to 18 answers; thousands were tried when a rule was new
# Pieces that scorers look for, or stumble over.
PIECES = (
    *("yes", "no", "No.", "YES", "A", "(B)", "C.", "D)", "The answer is A.", "option b", "[A]", "\\boxed{C}", "**D**", "answer: E", "Z"),
    *("[0.1, 0.2, 0.5, 0.6]", "(.1; .2; .5; .6)", "[0.5, 0, 0, 0.5]", "[1e999, -1e999, nan, inf]", "[0,0,0,0]", "[", "]", "[[[["),
    *(
        "1e309",
        "-1e309",
        "inf",
        "-inf",
        "nan",
        "NaN%",
        "1_000",
        "1,000",
        ",",
        "%",
        "%%",
        "0",
        "-0",
        "1/0",
        "٣",
        "１２",
        "½",
        "²",
        "9" * 400,
    ),
    *(
        "'s",
        "n't",
        "'",
        '"',
        "``",
        "<tag",
        "</s>",
        "<image>",
        "<think>",
        "\\",
        "\\frac{",
        "{}",
        "%s",
        "{0}",
        "$1",
        "\\1",
        "$",
        "#",
        "@",
        "&",
    ),
    *(
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\v",
        "\f",
        "\x00",
        "\x1b[31m",
        "\x85",
        "\u2028",
        "\u2029",
        "\u00a0",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u202e",
    ),
    *(
        "\ud800",
        "\udfff",
        "\ud83d\ude00",
        "😀",
        "👩‍👩‍👧",
        "é",
        "e\u0301",
        "ﬁ",
        "ß",
        "İ",
        "ı",
        "中文",
        "ไทย",
        "हिन्दी",
        "عربى",
        "\U0010ffff",
        "\ufffe",
    ),
)


def odd_answer(rng: random.Random) -> str:
    """Pieces, characters from anywhere in Unicode, and long stretches of one thing."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(PIECES)
    if kind == 1:
        return rng.choice(PIECES) * rng.choice((2, 50, 700))
    if kind == 2:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40)))
    if kind == 3:
        return "".join(chr(rng.randrange(0x250)) for _ in range(rng.randrange(40)))
    return rng.choice(("", " ", ", ")).join(rng.choice(PIECES) for _ in range(rng.randrange(12)))


def fuzz(task: tasks.Task, seed: int) -> None:
    rng = random.Random(f"{task.benchmark.name} {seed}")
    answers = {sample.id: odd_answer(rng) for sample in task.samples()}
    scores = task.score(answers)
    best = 10 if task.benchmark.needs_java else 1
    assert set(scores.samples) == set(answers)
    assert all(0 <= score <= best for score in scores.samples.values())
    assert all(math.isfinite(value) for value in (scores.headline, *scores.metrics.values()))


@pytest.mark.parametrize("name", tasks.names())
def test_no_answer_makes_a_scorer_raise(name: str, tmp_path: Path) -> None:
    benchmark = tasks.get(name)
    task = tasks.open_task(benchmark, str(tasks_rows.write(tmp_path, benchmark.file)))
    for seed in range(ROUNDS):
        fuzz(task, seed)


@pytest.mark.parametrize("name", ["coco_caption", "textcaps"])
def test_nor_without_java(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = tasks.get(name)
    task = tasks.open_task(benchmark, str(tasks_rows.write(tmp_path, benchmark.file)))
    monkeypatch.setenv("PATH", str(tmp_path))
    for seed in range(ROUNDS):
        fuzz(task, seed)
