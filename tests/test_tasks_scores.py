"""Scores: row by row against the golden numbers, and every trap that would change them without a word."""

import copy
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import cal_bench.tasks as tasks
from cal_bench.tasks import BenchmarkError, captions
from tests import tasks_rows
from tests.shared import SHARED, needs_shared

GOLDEN = {
    "textvqa": "textvqa",
    "docvqa": "docvqa",
    "chartqa": "chartqa",
    "ocrbench": "ocrbench",
    "mmstar": "mmstar",
    "mmt": "mmt",
    "scienceqa_img": "scienceqa_img",
    "seed_img": "seed_image",
    "pope": "pope",
    "mme": "mme",
    "refcocog_val": "refcocog",
    "coco_caption": "coco_cap",
}


def open_on(folder: Path, name: str, rows: list[dict[str, Any]] | None = None) -> tasks.Task:
    benchmark = tasks.get(name)
    return tasks.open_task(benchmark, str(tasks_rows.write(folder, benchmark.file, rows)))


def golden(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((SHARED / "fixtures" / "metrics" / f"{GOLDEN[name]}.json").read_text())
    return rows


def as_row(name: str, i: int, reference: dict[str, Any]) -> dict[str, Any]:
    """A whole row of the data around the fields that the golden file gives."""
    row = {**tasks_rows.rows(tasks.get(name).file, 1)[0], **reference}
    if name == "refcocog_val":
        left, top, right, bottom = reference["bbox"]
        row |= {"bbox": [left, top, right - left, bottom - top], "answer": [f"thing {i}"], "image": tasks_rows.png(0, (1, 1))}
    if name == "coco_caption":
        row |= {"question_id": f"val_{reference['image_id']}.jpg", "answer": reference["captions"]}
    if name == "ocrbench":
        row["answer"] = reference["answer"] if isinstance(reference["answer"], list) else [reference["answer"]]
    if name == "mmt":
        row |= {option: reference.get(option) for option in "ABCDEFGHI"}
    return {key: value for key, value in row.items() if key not in ("captions", "image_id") or name != "coco_caption"}


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The golden answers of a benchmark, scored by us; each benchmark once."""
    done: dict[str, tuple[list[dict[str, Any]], tasks.Scores]] = {}

    def score(name: str) -> tuple[list[dict[str, Any]], tasks.Scores]:
        if name not in done:
            rows = golden(name)
            task = open_on(tmp_path_factory.mktemp(name), name, [as_row(name, i, row["reference"]) for i, row in enumerate(rows)])
            done[name] = rows, task.score({i: row["prediction"] for i, row in enumerate(rows)})
        return done[name]

    return score


@needs_shared
@pytest.mark.parametrize("name", GOLDEN)
def test_every_row_scores_as_in_lmms_eval(name: str, marked: Any) -> None:
    rows, scores = marked(name)
    known = {i: row["lmms_eval_0_7_3"] for i, row in enumerate(rows) if row["lmms_eval_0_7_3"] is not None}
    assert len(known) > 70
    # Boxes are stored in single precision, as in the hub's data.
    assert {i: scores.samples[i] for i in known} == pytest.approx(known, abs=1e-6 if name == "refcocog_val" else 1e-9)


AGGREGATES = {
    "textvqa": ("exact_match", ("lmms_eval_0_7_3", "exact_match")),
    "docvqa": ("anls", ("lmms_eval_0_7_3", "anls")),
    "chartqa": ("relaxed_human_split", ("lmms_eval_0_7_3", "human")),
    "ocrbench": ("ocrbench_accuracy", ("lmms_eval_0_7_3", "score_divided_by_1000")),
    "mmstar": ("average", ("lmms_eval_0_7_3", "average_is_mean_of_l2_means")),
    "scienceqa_img": ("exact_match", ("lmms_eval_0_7_3", "exact_match")),
    "seed_img": ("seed_image", ("lmms_eval_0_7_3", "seed_image")),
    "pope": ("pope_f1_score", ("lmms_eval_0_7_3", "pope_f1_score")),
    "mme": ("mme_perception_score", ("lmms_eval_0_7_3", "mme_perception_score")),
    "coco_caption": ("coco_CIDEr", ("lmms_eval_0_7_3", "CIDEr")),
}


@needs_shared
@pytest.mark.parametrize("name", AGGREGATES)
def test_the_whole_file_scores_as_in_lmms_eval(name: str, marked: Any) -> None:
    metric, (source, key) = AGGREGATES[name]
    expected = json.loads((SHARED / "fixtures" / "metrics" / "aggregates.json").read_text())[GOLDEN[name]][source][key]
    _, scores = marked(name)
    assert scores.metrics[metric] == pytest.approx(expected, abs=1e-9)


# One rule per benchmark for what a right, a wrong and an empty answer are worth.


@pytest.mark.parametrize("name", [name for name in tasks.names() if not tasks.get(name).needs_java])
def test_right_answers_get_full_marks_and_empty_ones_none(name: str, tmp_path: Path) -> None:
    task = open_on(tmp_path, name)
    ids = [sample.id for sample in task.samples()]
    right = task.score({i: tasks_rows.right_answer(name, i) for i in ids})
    nothing = task.score(dict.fromkeys(ids, ""))
    best = {"mme": 400, "ocrbench": 1000}.get(name, 100)
    assert right.headline == pytest.approx(best, rel=0.01)
    assert right.empty == right.unreadable == 0
    assert nothing.empty == len(ids)
    if name == "mmt":  # guesses
        assert nothing.metrics["accuracy_unreadable_wrong"] == 0
    else:
        assert nothing.headline == 0
    assert set(right.samples) == set(ids)


@pytest.mark.parametrize("name", ["mmt", "mme", "pope", "seed_img", "scienceqa_img", "mmstar", "refcocog_val"])
def test_unreadable_answers_are_counted(name: str, tmp_path: Path) -> None:
    task = open_on(tmp_path, name)
    ids = [sample.id for sample in task.samples()]
    answers = {i: tasks_rows.right_answer(name, i) for i in ids} | dict.fromkeys(ids[:2], "~")
    assert task.score(answers).unreadable == 2


# Traps.


def test_ocrbench_scores_the_same_twice(tmp_path: Path) -> None:
    """lmms-eval keeps the points in a module and adds those of the next run to them."""
    task = open_on(tmp_path, "ocrbench")
    answers = {i: tasks_rows.right_answer("ocrbench", i) for i in range(6)}
    first = task.score(answers)
    assert task.score(answers) == first
    assert first.metrics["ocrbench_accuracy"] == 0.006
    assert open_on(tmp_path, "ocrbench").score(answers) == first


def test_ocrbench_is_in_points_of_1000_however_many_rows_are_scored(tmp_path: Path) -> None:
    task = open_on(tmp_path, "ocrbench")
    answers = {i: tasks_rows.right_answer("ocrbench", i) if i < 3 else "no" for i in range(4)}
    assert task.score(answers).headline == 750


def test_mmt_guesses_depend_on_the_row_alone(tmp_path: Path) -> None:
    task = open_on(tmp_path, "mmt", tasks_rows.rows("mmt", 40))
    silent = task.score(dict.fromkeys(range(40), ""))
    random.seed(99)
    some = task.score({i: "" if i % 3 else "A" for i in reversed(range(40))})
    assert {i: some.samples[i] for i in range(40) if i % 3} == {i: silent.samples[i] for i in range(40) if i % 3}
    assert task.score({17: "maybe"}).samples[17] == silent.samples[17]
    assert silent.unreadable == 40
    assert 0 < silent.headline < 100
    assert silent.metrics["accuracy_unreadable_wrong"] == 0


def test_scoring_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    task = open_on(tmp_path, "mmt")
    random.seed(3)
    before = random.getstate()
    task.score({0: ""})
    assert random.getstate() == before


def test_textvqa_answers_are_not_rewritten(tmp_path: Path) -> None:
    task = open_on(tmp_path, "textvqa")
    answers = {i: tasks_rows.right_answer("textvqa", i) for i in range(12)}
    before = copy.deepcopy(task._rows.texts)
    first = task.score(answers)
    assert task._rows.texts == before
    assert task.score(answers) == first


@pytest.mark.parametrize("name", tasks.names())
def test_scoring_writes_nothing_and_says_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """lmms-eval leaves submissions/ and results/ in the current folder, shared by all models."""
    (tmp_path / "data").mkdir()
    tasks_rows.write(tmp_path / "data", tasks.get(name).file)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    capfd.readouterr()
    task = tasks.open_task(tasks.get(name), str(tmp_path / "data"))
    task.score(tasks_rows.mixed_answers(name, [sample.id for sample in task.samples()]))
    assert os.listdir(tmp_path / "work") == []
    assert os.listdir(tmp_path / "data") == [f"{tasks.get(name).file}.parquet"]
    assert capfd.readouterr() == ("", "")


def test_caption_scores_average_to_the_corpus_score(tmp_path: Path) -> None:
    scores = open_on(tmp_path, "coco_caption").score({i: tasks_rows.right_answer("coco_caption", i) for i in range(12)})
    assert scores.headline == pytest.approx(100 * sum(scores.samples.values()) / 12)
    assert len({round(score, 6) for score in scores.samples.values()}) > 1


@pytest.mark.parametrize("character", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\r\n"])
def test_a_line_break_in_a_caption_moves_no_other_caption(character: str, tmp_path: Path) -> None:
    """The tokenizer reads a line per caption; one more line and every later caption is compared with its neighbour's references."""
    task = open_on(tmp_path, "textcaps")
    answers = {i: tasks_rows.right_answer("textcaps", i) for i in range(12)}
    clean = task.score(answers)
    broken = task.score(answers | {0: answers[0].replace(" ", character, 1)})
    assert broken.samples == pytest.approx(clean.samples)


def test_line_breaks_in_references_are_harmless_too(tmp_path: Path) -> None:
    rows = tasks_rows.rows("textcaps")
    (tmp_path / "clean").mkdir()
    clean = open_on(tmp_path / "clean", "textcaps", rows)
    broken = open_on(
        tmp_path, "textcaps", [{**row, "caption_str": [text.replace(" ", "\u2028", 1) for text in row["caption_str"]]} for row in rows]
    )
    answers = {i: tasks_rows.right_answer("textcaps", i) for i in range(12)}
    assert broken.score(answers).samples == pytest.approx(clean.score(answers).samples)


def test_a_broken_character_in_a_caption_is_no_error() -> None:
    assert captions.one_line("a \ud800 dog\n") == "a ? dog"


def test_two_rows_of_one_picture_are_two_captions(tmp_path: Path) -> None:
    """lmms-eval stops with an assertion when an image id comes twice."""
    rows = [{**row, "image_id": "same"} for row in tasks_rows.rows("textcaps")]
    scores = open_on(tmp_path, "textcaps", rows).score({i: tasks_rows.right_answer("textcaps", i) for i in range(12)})
    assert len(scores.samples) == 12


def test_a_mirrored_box_is_worth_nothing_and_stops_nothing(tmp_path: Path) -> None:
    """Its area is minus that of the true box: lmms-eval divides by zero, and the run is lost."""
    row = tasks_rows.rows("refcocog_val", 1)[0] | {"bbox": [0.0, 0.0, 20.0, 15.0], "answer": ["a", "b"]}
    scores = open_on(tmp_path, "refcocog_val", [row]).score({0: "[0.5, 0, 0, 0.5]", 1: "[0, 0, 0.5, 0.5]"})
    assert scores.samples == {0: 0.0, 1: 1.0}
    assert scores.metrics["refcoco_IoU"] == 0.5
    assert scores.metrics["refcoco_ACC@0.5"] == 0.5


def test_mme_counts_a_picture_only_with_both_answers(tmp_path: Path) -> None:
    task = open_on(tmp_path, "mme", tasks_rows.rows("mme", 6))
    scores = task.score({0: "No", 1: "Yes", 2: "Yes", 3: "Yes"})
    assert scores.metrics["mme_perception_score"] == scores.metrics["official_perception_score"] == 200
    assert scores.metrics["mme_cognition_score"] == scores.metrics["official_cognition_score"] == 50
    assert scores.samples == {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}
    with pytest.raises(BenchmarkError, match="sample 3 lacks an answer"):
        task.score({2: "Yes"})


def test_mme_without_a_row_on_perception_has_no_score_rather_than_zero(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"none of the 2 rows scored counts for mme_perception_score\. Raise the limit"):
        open_on(tmp_path, "mme").score({2: "Yes", 3: "Yes"})


def test_whole_numbers_as_boxes_are_not_rounded_to_whole_shares(tmp_path: Path) -> None:
    table = pq.read_table(
        tasks_rows.write(tmp_path, "refcocog_val", [tasks_rows.rows("refcocog_val", 1)[0] | {"bbox": [4.0, 3.0, 20.0, 15.0]}])
    )
    table = table.set_column(table.column_names.index("bbox"), "bbox", [[[4, 3, 20, 15]]]).replace_schema_metadata()
    pq.write_table(table, tmp_path / "whole.parquet")
    task = tasks.open_task(tasks.get("refcocog_val"), str(tmp_path / "whole.parquet"))
    assert task.score({0: "[0.1, 0.1, 0.6, 0.6]"}).samples == {0: pytest.approx(1)}


def test_a_box_of_three_numbers_is_named(tmp_path: Path) -> None:
    rows = [tasks_rows.rows("refcocog_val", 1)[0] | {"bbox": [4.0, 3.0, 20.0]}]
    with pytest.raises(BenchmarkError, match=r"refcocog_val: lmms-eval's code cannot score row 0 of"):
        open_on(tmp_path, "refcocog_val", rows).score({0: ""})


def test_half_a_picture_in_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"row 2 of .*mme.parquet is one of 1 rows for .* Expected two"):
        open_on(tmp_path, "mme", tasks_rows.rows("mme", 3))


@pytest.mark.parametrize("name", ["coco_caption", "textcaps"])
def test_without_java_a_score_is_approximate_and_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = open_on(tmp_path, name)
    answers = tasks_rows.mixed_answers(name, list(range(12)))
    exact = task.score(answers)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tasks.check_java([tasks.get(name), tasks.get("mme")]) == [name]
    near = task.score(answers)
    assert (exact.approximate, near.approximate) == (False, True)
    assert list(near.metrics) == ["cider_approx"]
    assert near.headline == pytest.approx(exact.headline)  # no hard words in these captions
    assert near.samples == pytest.approx(exact.samples)


def test_with_java_nothing_is_missing() -> None:
    assert tasks.check_java(map(tasks.get, tasks.names())) == []


def test_a_java_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BenchmarkError, match="could not tokenize the captions: no memory"):
        captions.cider([{"answer": ["a dog"], "pred": "a dog"}])


def test_answers_to_other_data_are_refused(tmp_path: Path) -> None:
    task = open_on(tmp_path, "chartqa")
    with pytest.raises(BenchmarkError, match="no sample 12"):
        task.score({0: "1", 12: "2"})
    with pytest.raises(BenchmarkError, match="no answers to score"):
        task.score({})


def test_a_row_that_lmms_eval_cannot_score_is_named(tmp_path: Path) -> None:
    rows = tasks_rows.rows("pope")
    rows[5]["answer"] = "perhaps"
    with pytest.raises(BenchmarkError, match=r"cannot score row 5 of .*pope.parquet"):
        open_on(tmp_path, "pope", rows).score({5: "yes"})


@pytest.mark.parametrize(("name", "column"), [("seed_img", "answer"), ("coco_caption", "answer")])
def test_an_expected_answer_that_is_missing_is_told(name: str, column: str, tmp_path: Path) -> None:
    rows = tasks_rows.rows(tasks.get(name).file)
    rows[5][column] = None
    with pytest.raises(BenchmarkError, match=rf"{name}: lmms-eval's code cannot (score row 5|add up the scores)"):
        open_on(tmp_path, name, rows).score({5: "A", 6: "B"})


def test_an_unknown_question_type_of_ocrbench_is_named(tmp_path: Path) -> None:
    rows = tasks_rows.rows("ocrbench")
    rows[2]["question_type"] = "Braille"
    with pytest.raises(BenchmarkError, match=r"ocrbench.*'Braille'"):
        open_on(tmp_path, "ocrbench", rows).score({2: "x"})


def test_one_caption_alone_scores_zero_by_definition(tmp_path: Path) -> None:
    scores = open_on(tmp_path, "coco_caption").score({4: tasks_rows.right_answer("coco_caption", 4)})
    assert scores.samples == {4: 0.0}
    assert not math.isnan(scores.headline)
