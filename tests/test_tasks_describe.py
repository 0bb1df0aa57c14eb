"""`cal-bench tasks NAME`: all about one benchmark."""

from pathlib import Path

import pytest

import cal_bench.tasks as tasks
from cal_bench.cli import main
from tests import tasks_rows
from tests.test_cli import told


@pytest.mark.parametrize("name", tasks.names())
def test_every_benchmark_says_where_it_comes_from_and_how_it_is_scored(name: str) -> None:
    lines = tasks.about(tasks.get(name)).splitlines()
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][1:] == ["Paper", "Split", "Score", "Note"]


def test_without_data_there_are_no_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "chartqa"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "Column  VQA-Chart of the paper's tables",
        "Source  lmms-lab-encoder/ChartQA, split test, on the Hugging Face hub; here chartqa.parquet",
        "Size    2,500 rows",
        "Metric  relaxed_overall x 100, in %",
        "Answer  at most 16 tokens, up to '\\n\\n'",
        "Prompts give --data DIR to see three; --data hub fetches the data first",
    ):
        assert line in printed.splitlines()


def test_with_data_there_are_three_with_the_sizes_of_their_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks_rows.write(tmp_path, "mme")
    assert main(["tasks", "mme", "--data", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if line.startswith("Sample ")]
    assert len(shown) == 3
    assert all(line.endswith(", picture of 40 x 30:") for line in shown)
    assert lines.count("  | Answer the question using a single word or phrase.") == 3
    assert any(line.startswith("Data    12 samples, fingerprint ") for line in lines)


def test_a_question_without_a_picture_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "image": None} if number else row for number, row in enumerate(tasks_rows.rows("scienceqa_img", 2))]
    tasks_rows.write(tmp_path, "scienceqa_img", rows)
    assert main(["tasks", "scienceqa_img", "--data", str(tmp_path)]) == 0
    assert "Sample 1, no picture:" in capsys.readouterr().out


def test_an_unknown_benchmark_or_folder_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'pope'?" in told(capsys, ["tasks", "pop"])
    assert "the data folder nowhere does not exist" in told(capsys, ["tasks", "pope", "--data", "nowhere"])
