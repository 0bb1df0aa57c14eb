"""The rules beside lmms-eval's: row by row against the golden numbers, on the answers as they came, and as a whole."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cal_bench.tasks as tasks
from cal_bench.tasks import boxes, chartqa, docvqa, mme, mmstar, mmt, ocrbench, pope, scienceqa_img
from cal_bench.tasks.base import Marked
from tests import tasks_rows
from tests.shared import SHARED, needs_shared
from tests.test_tasks_scores import GOLDEN, as_row, golden, open_on


def marked(text: str, row: dict[str, Any]) -> Marked:
    """An answer that only rules of our own look at."""
    return Marked(0, row, text.strip(), text, {}, False)


def of_options(mark: Marked) -> float:
    return float(mmt.official_reading(mark) == mark.row["answer"])


def plain_overlap(mark: Marked) -> float:
    said = boxes.read_plain(mark.text)
    return boxes.overlap(boxes.Box(*mark.row["bbox"]), said) if said else 0.0


# Each rule, and where a row of the golden file holds what it must give.
ROW_BY_ROW: list[tuple[str, str, Callable[[Marked], Any]]] = [
    ("docvqa", "official", docvqa.by_the_server),
    ("docvqa", "anls_as_defined", docvqa.by_definition),
    ("chartqa", "official", chartqa.officially_right),
    ("chartqa", "paper_read_literally", chartqa.literally_right),
    ("chartqa", "paper_with_exact_years", chartqa.right_with_exact_years),
    ("ocrbench", "official", ocrbench.officially_right),
    ("ocrbench", "lmms_eval_2024_05_28", ocrbench.right_in_2024_05),
    ("mmstar", "official", mmstar.officially_right),
    ("mmstar", "lmms_eval_2024_10_30", mmstar.officially_right),
    ("mmt", "official", of_options),
    ("scienceqa_img", "official", scienceqa_img.right_by_llava),
    ("scienceqa_img", "lmms_eval_2024_05_28", scienceqa_img.strictly_right),
    ("seed_img", "official", lambda mark: float(mark.answer == mark.row["answer"])),
    ("pope", "official_parsed", lambda mark: pope.official_reading(mark.text)),
    ("mme", "official", mme.officially_right),
    ("mme", "official_parsed", lambda mark: mme.official_reading(mark.text)),
    ("refcocog_val", "official", plain_overlap),
]


@needs_shared
@pytest.mark.parametrize(("name", "key", "rule"), ROW_BY_ROW, ids=[f"{name}-{key}" for name, key, _ in ROW_BY_ROW])
def test_a_second_rule_gives_each_row_its_golden_score(name: str, key: str, rule: Callable[[Marked], Any]) -> None:
    rows = golden(name)
    expected = [row[key] if key in row else row["others"][key] for row in rows]
    given = [rule(marked(row["prediction"], row["reference"])) for row in rows]
    assert given == [pytest.approx(value, abs=1e-9) if isinstance(value, float) else value for value in expected]
    assert len(set(expected)) > 1


# What the golden aggregates are called here, and by how much a number there is multiplied.
WHOLE_FILES = {
    "docvqa": {"official_anls": ("anls", 1)},
    "chartqa": {"official_overall": ("overall", 1)},
    "mmstar": {"official_accuracy": ("final_score_is_plain_mean", 1)},
    "mmt": {"official_accuracy": ("accuracy", 100)},
    "scienceqa_img": {"llava_accuracy": ("accuracy", 1)},
    "seed_img": {"letter_accuracy": ("accuracy", 1)},
    "pope": {
        "official_f1_score": (("pooled", "f1"), 1),
        "official_yes_ratio": (("pooled", "yes_ratio"), 1),
        "official_mean_f1_score": ("mean_of_three_f1", 1),
    },
    "mme": {"official_perception_score": ("perception", 1), "official_cognition_score": ("cognition", 1)},
    "refcocog_val": {"plain_IoU": ("mean_iou", 1), "plain_ACC@0.5": ("acc_0.5", 1)},
    "textvqa": {"exact_match": ("accuracy", 1)},
    "coco_caption": {"coco_CIDEr": ("CIDEr", 1)},
}


@needs_shared
@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_second_rule_gives_the_whole_file_its_golden_score(name: str, tmp_path: Path) -> None:
    rows = golden(name)
    data = [as_row(name, number, row["reference"]) for number, row in enumerate(rows)]
    metrics = open_on(tmp_path, name, data).score({number: row["prediction"] for number, row in enumerate(rows)}).metrics
    official = json.loads((SHARED / "fixtures" / "metrics" / "aggregates.json").read_text())[GOLDEN[name]]["official"]
    for metric, (key, scale) in WHOLE_FILES[name].items():
        value = official[key[0]][key[1]] if isinstance(key, tuple) else official[key]
        # Boxes of the data are in single precision.
        assert metrics[metric] == pytest.approx(scale * value, abs=1e-6 if name == "refcocog_val" else 1e-9), metric


@pytest.mark.parametrize(
    ("said", "gold", "server", "definition", "package"),
    [
        ("ab", "abcd", 0.5, 0, 0),  # a similarity of exactly one half
        ("97's", "97", 0.5, 0, 0),
        ("x          0.28", "0.28", 13 / 15, 0, 2 / 3),  # white space that only some of them count
        ("56.75\n\n\nx", "56.75", 7 / 9, 5 / 9, 5 / 7),
        ("", "", 1, 1, 1),
    ],
)
def test_three_readings_of_anls_differ_where_they_should(said: str, gold: str, server: float, definition: float, package: float) -> None:
    mark = marked(said, {"answers": [gold]})
    rules = (docvqa.by_the_server, docvqa.by_definition, docvqa.by_the_package)
    assert [rule(mark) for rule in rules] == pytest.approx([server, definition, package])


def test_mmstar_by_question_and_by_category(tmp_path: Path) -> None:
    """Three questions of four are right, but the wrong one is alone in its sub-category."""
    rows = [{**row, "category": "math", "l2_category": kind} for row, kind in zip(tasks_rows.rows("mmstar", 4), "aaab", strict=True)]
    metrics = open_on(tmp_path, "mmstar", rows).score({0: "A", 1: "(B)", 2: "c", 3: "A"}).metrics
    assert (metrics["average"], metrics["micro_accuracy"], metrics["official_accuracy"]) == (pytest.approx(1 / 3), 0.5, 0.75)


def test_pope_counts_answers_that_hold_neither_word(tmp_path: Path) -> None:
    metrics = open_on(tmp_path, "pope").score({0: "Yes.", 1: "No, there is none", 2: "Nope", 3: ""}).metrics
    assert metrics["neither_word_ratio"] == 0.5
    assert metrics["official_yes_ratio"] == 0.75


# Boxes.


def test_a_square_picture_is_its_own_padded_square() -> None:
    box = boxes.Box(0.125, 0.25, 0.5, 0.75)
    assert box.in_square((64, 64)) == box


@pytest.mark.parametrize(
    ("size", "expected"),
    [((40, 20), (0, 0.25, 1, 0.75)), ((20, 40), (0.25, 0, 0.75, 1)), ((40, 21), (0, 9 / 40, 1, 30 / 40))],
)
def test_the_whole_picture_is_the_middle_of_its_padded_square(size: tuple[int, int], expected: tuple[float, ...]) -> None:
    assert boxes.Box(0, 0, 1, 1).in_square(size) == boxes.Box(*expected)


def test_an_answer_in_the_padded_frame_is_right_there_and_not_in_the_other(tmp_path: Path) -> None:
    row = tasks_rows.rows("refcocog_val", 1)[0] | {"bbox": [0.0, 0.0, 40.0, 30.0], "answer": ["all of it", "all of it"]}  # 40 x 30
    metrics = open_on(tmp_path, "refcocog_val", [row]).score({0: "[0, 0.125, 1, 0.875]", 1: "( 0 ; .125 ; 1 ; .875 )"}).metrics
    assert metrics["refcoco_IoU"] == pytest.approx(0.375)  # one of two is read, and three quarters of it are met
    assert metrics["plain_IoU"] == pytest.approx(0.375)
    assert metrics["padded_IoU"] == metrics["padded_ACC@0.9"] == 0.5
    assert metrics["robust_IoU"] == pytest.approx(0.75)
    assert metrics["robust_padded_IoU"] == metrics["robust_padded_Center_ACC"] == 1


@pytest.mark.parametrize(
    ("answer", "plain", "robust"),
    [
        ("[0.1, 0.2, 0.5, 0.6]", True, True),
        ("[0.1 , 0.2 , 0.5 , 0.6]", True, True),
        ("The box is ( .1; +0.2; 5e-1; 0.6 ).", False, True),
        ("[0.1 0.2 0.5 0.6]", False, True),
        ("0.1, 0.2, 0.5, 0.6", False, False),
        ("[0.1, 0.2, 0.5]", False, False),
        ("[0.1, 0.2, 0.5, 0.6, 0.7]", False, False),
        ("", False, False),
    ],
)
def test_which_boxes_each_reading_reads(answer: str, plain: bool, robust: bool) -> None:
    box = boxes.Box(0.1, 0.2, 0.5, 0.6)
    assert boxes.read_plain(answer) == (box if plain else None)
    assert boxes.read_robust(answer) == (box if robust else None)


def test_a_reading_takes_no_time_that_grows_with_digits() -> None:
    begun = time.monotonic()
    assert boxes.read_robust("[" + ", ".join(["1" * 200] * 4) + ",") is None
    assert time.monotonic() - begun < 1  # it was an hour


@pytest.mark.parametrize(
    "answer", ["[0.5, 0, 0, 0.5]", "[0, 0, 0, 0]", "[9e999, 0, 1, 1]", f"[{'9' * 400}, 0, 1, 1]", "[1e308, 0, 1e309, 1]"]
)
def test_no_box_is_a_number_that_is_none(answer: str, tmp_path: Path) -> None:
    row = tasks_rows.rows("refcocog_val", 1)[0] | {"bbox": [0.0, 0.0, 20.0, 15.0]}
    scores = open_on(tmp_path, "refcocog_val", [row]).score({0: answer})
    assert scores.samples == {0: 0.0}
    assert {name: value for name, value in scores.metrics.items() if value and "Center" not in name} == {}


def test_golden_names_are_benchmarks() -> None:
    assert set(WHOLE_FILES) < set(tasks.names())
