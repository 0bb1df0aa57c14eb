"""Scores of answers that are there already: `score` against lmms-eval's own, `rescore`, and what a wrong file is told."""

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import cal_bench.tasks as tasks
from cal_bench.cli import main
from cal_bench.errors import UserError
from cal_bench.runs import read_results, read_run
from cal_bench.scoring import read_predictions
from tests import tasks_rows
from tests.shared import SHARED, needs_shared
from tests.test_cli import told
from tests.test_tasks_contract import lmms_evals_own, run_lmms_eval

REAL = SHARED / "real" / "bench"


def write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def score(folder: Path, name: str, answers: dict[int, str], data: Path, run: str = "run") -> int:
    predictions = write(folder / "answers.jsonl", ({"id": id, "answer": text} for id, text in answers.items()))
    return main(["score", name, "--predictions", str(predictions), "--data", str(data), "--out", str(folder / run)])


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    folder = tmp_path / "bench"
    folder.mkdir()
    for name in ("chartqa", "pope", "mme"):
        tasks_rows.write(folder, name)
    return folder


def right_answer(name: str, task: tasks.Task, id: int) -> str:
    """What the data expects of a sample."""
    place = task._places[id]
    row = task._rows.text(place.row)
    if name.startswith("refcocog"):
        (x, y, width, height), (across, down) = row["bbox"], task._rows.picture_size(place.row)
        return f"[{x / across:.3f}, {y / down:.3f}, {(x + width) / across:.3f}, {(y + height) / down:.3f}]"
    if name == "scienceqa_img":
        return "ABCDE"[row["answer"]]
    gold = row.get("caption_str") or row.get("answer") or row.get("answers")
    return str(gold[0] if isinstance(gold, list) else gold)


def mixed(name: str, task: tasks.Task) -> dict[int, str]:
    """Right answers, those of the next sample, right ones in a sentence, none, and what is odd."""
    ids = [sample.id for sample in task.samples()]
    right = {id: right_answer(name, task, id) for id in ids}
    turns = (
        lambda id: right[id],
        lambda id: right[ids[ids.index(id) - 1]],
        lambda id: f" It is {right[id]}.\n",
        lambda id: "",
        lambda id: f"({right[id].lower()}) ½ 1_000% [0.1 , 0.2, 0.9, 0.9] YES",
        lambda id: right[id],
    )
    return {id: turns[number % len(turns)](id) for number, id in enumerate(ids)}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers to all real rows, and what lmms-eval itself makes of them."""
    answers = {name: mixed(name, tasks.open_task(tasks.get(name), str(REAL))) for name in tasks.names()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setattr(random, "choice", lambda options: options[0])  # MMT-Bench's guess
        results, _ = run_lmms_eval(lmms_evals_own(tmp_path_factory.mktemp("yamls"), REAL), answers)
    return answers, results


@needs_shared
@pytest.mark.parametrize("name", tasks.names())
def test_score_gives_lmms_evals_number_on_real_rows(name: str, real: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, results = real
    monkeypatch.setattr(random, "choice", lambda options: options[0])
    benchmark = tasks.get(name)
    assert score(tmp_path, name, answers[name], REAL) == 0
    ours = read_results(tmp_path / "run")[name]
    theirs = results[benchmark.lmms_task]
    shared = [metric for metric in ours.metrics if f"{metric},none" in theirs]
    assert {metric: ours.metrics[metric] for metric in shared} == pytest.approx({metric: theirs[f"{metric},none"] for metric in shared})
    headline = "ocrbench_accuracy" if name == "ocrbench" else benchmark.metric
    assert headline in shared
    # OCRBench is out of 1,000 however many rows there are; ours out of those scored.
    scale = 1e6 / ours.n if name == "ocrbench" else benchmark.scale
    assert ours.score == pytest.approx(theirs[f"{headline},none"] * scale)
    assert 0 < ours.score < {"mme": 2000, "ocrbench": 1000}.get(name, 1000 if benchmark.needs_java else 100)


# What a run that `score` wrote is good for.


def test_every_number_is_printed_under_its_own_name(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(tmp_path, "pope", dict.fromkeys(range(12), "Yes."), bench) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["pope", "POPE", "0.0", "%", "(12", "samples,", "12", "unreadable)"]
    printed = dict(line.split() for line in lines[1:])
    assert printed["pope_f1_score"] == "0.0000"
    assert printed["official_f1_score"] == f"{2 / 3:.4f}"
    assert f"Next: cal-bench table {tmp_path / 'run'}" in captured.err


def test_odd_answers_are_told_of_above_one_per_cent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tasks_rows.rows("chartqa", 200)
    tasks_rows.write(tmp_path, "chartqa", rows)
    answers = {number: row["answer"] for number, row in enumerate(rows)}
    for run, empty in (("few", 2), ("many", 3)):
        assert score(tmp_path, "chartqa", answers | dict.fromkeys(range(empty), " "), tmp_path, run) == 0
        assert ("3 empty" in capsys.readouterr().out) == (empty == 3)
        assert read_results(tmp_path / run)["chartqa"].empty == empty


def test_benchmarks_come_together_in_one_run(tmp_path: Path, bench: Path) -> None:
    assert score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench) == 0
    assert score(tmp_path, "pope", dict.fromkeys(range(12), "yes"), bench) == 0
    assert list(read_results(tmp_path / "run")) == ["chartqa", "pope"]


def test_two_such_runs_feed_compare(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, answer in (("before", "10"), ("after", "20")):
        assert score(tmp_path, "chartqa", dict.fromkeys(range(12), answer), bench, run) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    assert "chartqa 12" in capsys.readouterr().out


def test_the_same_answers_again_change_nothing(tmp_path: Path, bench: Path) -> None:
    answers = dict.fromkeys(range(12), "10")
    assert score(tmp_path, "chartqa", answers, bench) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert score(tmp_path, "chartqa", answers, bench) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_other_answers_to_a_benchmark_of_the_run_are_refused(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench) == 0
    assert score(tmp_path, "chartqa", dict.fromkeys(range(12), "10") | {7: "11"}, bench) == 2
    assert "holds another answer to sample 7 of chartqa. Give another run folder" in capsys.readouterr().err


def test_the_run_says_where_its_data_lies_as_seen_from_itself(tmp_path: Path, bench: Path) -> None:
    assert score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench) == 0
    assert read_run(tmp_path / "run").config == {"data": "../bench"}


# Files of answers.


def test_a_row_takes_the_place_of_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": "q-17", "row": 1, "answer": "a"}, {"row": 0, "answer": "b", "model": "m"}])
    assert read_predictions(path) == {1: "a", 0: "b"}


def test_a_mark_at_the_beginning_and_empty_lines_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 0, "answer": "a"}\r\n\r\n{"id": 1, "answer": "b"}')
    assert read_predictions(path) == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 0, "answer": "a"}\n{"id": 1, "ans', "line 2 is not whole JSON (Unterminated string"),
        (b'{"id": 0, "prediction": "a"}', "line 1 has no 'answer', only 'id', 'prediction'. Expected"),
        (b'{"ID": 0, "answer": "a"}', "line 1 has no 'id'. Did you mean 'ID'?"),
        (b'{"id": "0", "answer": "a"}', 'the id is "0". Expected the row number in the data, from 0.'),
        (b'{"id": true, "answer": "a"}', "the id is true. Expected"),
        (b'{"id": 1.0, "answer": "a"}', "the id is 1.0. Expected"),
        (b'{"id": 0, "row": null, "answer": "a"}', "the row is null. Expected"),
        (b'{"id": 0, "answer": ["a"]}', 'the answer is ["a"]. Expected text in quotes'),
        (b'[{"id": 0, "answer": "a"}]', 'line 1: expected {"id": row number, "answer": text}, got'),
        (b'{"id": 3, "answer": "a"}\n{"id": 3, "answer": "b"}', "line 2: id 3 has an answer already"),
        (b'{"id": 0, "answer": "\xff"}', "is not UTF-8 text: invalid start byte at byte 21"),
    ],
)
def test_a_wrong_file_of_answers_is_told_what_is_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_predictions(path)
    assert message in str(refused.value)


def test_data_of_another_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = write(tmp_path / "a.jsonl", [{"id": 0, "answer": "a"}])
    assert "a.jsonl is no parquet file. Expected a folder that holds chartqa.parquet" in told(
        capsys, ["score", "chartqa", "--predictions", str(answers), "--data", str(answers)]
    )


def test_answers_may_come_through_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"id": 0, "answer": "a"}\n')
    os.close(writing)
    assert read_predictions(Path(f"/dev/fd/{reading}")) == {0: "a"}
    os.close(reading)


def test_a_folder_or_nothing_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_predictions(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_predictions(tmp_path / "nothing.jsonl")


def test_missing_and_surplus_ids_are_listed_in_stretches(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(tmp_path, "chartqa", dict.fromkeys([0, 3, 4, 12, 14, 15, 16], "a"), bench) == 2
    captured = capsys.readouterr()
    assert "  9 missing: 1-2, 5-11\n  4 not in the benchmark: 12, 14-16" in captured.err
    assert not (tmp_path / "run").exists()


def test_data_without_a_column_is_named(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = write(tmp_path / "a.jsonl", [{"id": 0, "answer": "a"}])
    message = told(capsys, ["score", "chartqa", "--predictions", str(answers), "--data", str(bench / "mme.parquet")])
    assert "lacks 'type'" in message


# Half of a surrogate pair is valid JSON, and no character.


def test_half_a_surrogate_pair_is_scored_and_kept(tmp_path: Path, bench: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("".join(f'{{"id": {id}, "answer": "\\ud800 a"}}\n' for id in range(12)))
    arguments = ["score", "chartqa", "--predictions", str(tmp_path / "answers.jsonl"), "--data", str(bench)]
    for _ in range(2):
        assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert b'"answer": "\\ud800 a"' in (tmp_path / "run" / "chartqa.jsonl").read_bytes()


# Scoring again.


def test_rescore_makes_the_same_summary_from_the_answers_alone(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench)
    score(tmp_path, "mme", dict.fromkeys(range(12), "Yes"), bench)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    (tmp_path / "run" / "mme.json").unlink()
    capsys.readouterr()
    assert main(["rescore", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["chartqa", "mme"]
    assert lines[0].endswith("(12 samples), as before")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_rescore_says_what_changed(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench)
    summary = tmp_path / "run" / "chartqa.json"
    right = json.loads(summary.read_text())["score"]
    summary.write_text(summary.read_text().replace(f'"score": {right}', '"score": 55.5'))
    assert main(["rescore", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.endswith("(12 samples), was 55.5\n")
    assert json.loads(summary.read_text())["score"] == right


def test_rescore_without_java_keeps_an_exact_score(tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    tasks_rows.write(bench, "textcaps")
    score(tmp_path, "textcaps", dict.fromkeys(range(12), "a dog"), bench)
    summary = (tmp_path / "run" / "textcaps.json").read_bytes()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["rescore", str(tmp_path / "run")]) == 0
    assert "the exact one stays" in capsys.readouterr().err
    assert (tmp_path / "run" / "textcaps.json").read_bytes() == summary


def test_rescore_finds_data_that_moved_only_when_told(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench)
    bench.rename(tmp_path / "moved")
    assert f"the data folder {bench} does not exist" in told_after(capsys, ["rescore", str(tmp_path / "run")])
    assert main(["rescore", str(tmp_path / "run"), "--data", str(tmp_path / "moved")]) == 0


def test_rescore_refuses_other_data(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench)
    tasks_rows.write(bench, "chartqa", tasks_rows.rows("chartqa")[::-1])
    assert "are to other data" in told_after(capsys, ["rescore", str(tmp_path / "run")])


def test_a_run_that_is_not_complete_stays_so(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "chartqa", dict.fromkeys(range(12), "10"), bench)
    answers = tmp_path / "run" / "chartqa.jsonl"
    answers.write_bytes(b"".join(answers.read_bytes().splitlines(keepends=True)[:-2]))
    (tmp_path / "run" / "chartqa.json").unlink()
    capsys.readouterr()
    assert main(["rescore", str(tmp_path / "run")]) == 1
    assert "not complete: 2 samples could not be answered" in capsys.readouterr().out
    assert not (tmp_path / "run" / "chartqa.json").exists()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run folder" in told(capsys, ["rescore", str(tmp_path)])
    assert "is not a run folder" in told(capsys, ["rescore", str(tmp_path / "nowhere")])


def told_after(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    return told(capsys, arguments)
