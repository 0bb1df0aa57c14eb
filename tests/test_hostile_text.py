"""Questions, answers and names that try to break out of what is printed: `tasks NAME`, `compare`, `table`."""

import random
import re
from pathlib import Path

import pytest

from cal_bench.cli import main
from cal_bench.table_text import FORMATS, escape, one_line
from tests import tasks_rows
from tests.test_score import score
from tests.test_tables import COMMAND, arm, result
from tests.test_tasks_fuzz import odd_answer

HOSTILE = (
    *(
        "a|b",
        "x\ny",
        "\r\n# head",
        "<script>",
        "`` ``` `",
        "**b**",
        "\x1b[31mred",
        "\u2028|",
        "]( x )",
        "\\|",
        "&amp;",
        "| | |",
        "\x00",
        "$\\x",
    ),
)


def hostile(rng: random.Random) -> str:
    return "".join(rng.choice((*HOSTILE, odd_answer(rng)[:80])) for _ in range(rng.randrange(1, 5)))


def folder_name(text: str) -> str:
    """What a file system takes of it."""
    return re.sub("[/\0]", "", text.encode("ascii", "ignore").decode())[:40]


def table_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("|")]


def cells(line: str) -> int:
    """Bars that markdown takes for the edge of a cell: a backslash in front takes that from them, if it has none itself."""
    return len(re.sub(r"\\.", "", line).split("|")) - 2


def assert_plain(text: str) -> None:
    assert all(character.isprintable() for line in text.split("\n") for character in line)


def test_no_name_breaks_a_table() -> None:
    rng = random.Random(0)
    plain = FORMATS["markdown"]({"a": arm(result("docvqa", 1.0)), "b": arm(result("docvqa", 2.0))}, COMMAND)
    for number in range(300):
        arms = {f"{number} {hostile(rng)}": arm(result("docvqa", 1.0)), "b": arm(result("docvqa", 2.0))}
        text = FORMATS["markdown"](arms, f"cal-bench table {hostile(rng)}")
        assert len(text.split("\n")) == len(plain.split("\n")), ascii(text)
        assert [cells(line) for line in table_lines(text)] == [cells(line) for line in table_lines(plain)], ascii(text)
        assert_plain(text)
        assert "<script" not in re.sub(r"\\.", "", text).split("Made by")[0]
        assert_plain(FORMATS["latex"](arms, COMMAND))


def test_the_text_itself_stays() -> None:
    assert one_line("  two\nlines\x1b[0m \u2028 中文 é ") == "two lines [0m 中文 é"
    assert escape("a|b") == "a\\|b"


def test_no_answer_breaks_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in the scores, and not in the names of the run folders."""
    rng = random.Random(1)
    tasks_rows.write(tmp_path, "chartqa")
    right = {number: tasks_rows.right_answer("chartqa", number) for number in range(12)}
    for round in range(4):
        runs = [f"{round}{side} {folder_name(hostile(rng))}" for side in "ab"]
        for run in runs:
            odd = {number: hostile(rng) if rng.random() < 0.6 else text for number, text in right.items()}
            assert score(tmp_path, "chartqa", odd, tmp_path, run) == 0
        capsys.readouterr()
        for command in ("compare", "table"):
            assert main([command, *(str(tmp_path / run) for run in runs)]) == 0
            printed = capsys.readouterr().out
            assert_plain(printed)
            assert len({cells(line) for line in table_lines(printed)}) == 1, ascii(printed)


def test_a_hostile_question_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(2)
    rows = tasks_rows.rows("chartqa", 3)
    for row in rows:
        row["question"] = hostile(rng).encode("utf-8", "ignore").decode() + "\x1b]0;title\x07\r\u202eabc"
    tasks_rows.write(tmp_path, "chartqa", rows)
    assert main(["tasks", "chartqa", "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert_plain(printed)
    assert "\\x1b]0;title\\x07\\r\\u202eabc" in printed
    asked = printed.partition("Sample ")[2].split("\n")[1:]
    assert all(line.startswith(("  | ", "Sample ")) or not line for line in asked)
