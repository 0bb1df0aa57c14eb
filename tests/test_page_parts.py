"""What a page is put together from: samples, plots, pictures, the rows of the data, and details of runs."""

import base64
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cal_bench.evidence import read_details, write_details
from cal_bench.page.build import full_mark
from cal_bench.page.charts import Line, Mark, chart, forest, nice, points_of, reach
from cal_bench.page.data import REDRAWN, Place, ask
from cal_bench.page.origin import origin_of
from cal_bench.page.pictures import MOST_BYTES, SIDES, album, data_uri, picture_size
from cal_bench.page.rows import read_questions
from cal_bench.page.samples import select
from cal_bench.records import Makeup
from cal_bench.tasks import BENCHMARKS, get
from tests import tasks_rows
from tests.test_compare import result
from tests.test_page import COUNT, chartqa, embedded, fingerprint, page, write_run


def test_the_largest_changes_come_first_and_what_both_got_wrong_last() -> None:
    before = result("docvqa", [0.0, 1.0, 0.5, 0.2, 0.0, 1.0, 0.9])
    after = result("docvqa", [0.4, 0.0, 1.0, 0.1, 0.0, 1.0, 0.0])
    selection = select(before, after)
    assert [(change.id, change.kind) for change in selection.changes] == [
        *[(1, "broken"), (2, "fixed"), (6, "broken"), (0, "fixed"), (3, "broken")],
        (4, "both wrong"),
    ]
    assert selection.counts == {"fixed": 2, "broken": 3, "both wrong": 1}


def test_counts_are_those_of_the_comparison_and_long_lists_are_cut() -> None:
    makeup = Makeup(100.0, tuple(range(3000)), categories=(None, *[""] * 2999))
    before, after = (result("mme", [value] * 3000, makeup=makeup) for value in (0.0, 1.0))
    selection = select(before, after)
    assert selection.counts["fixed"] == 2999
    assert [change.id for change in selection.changes] == list(range(1, 1001))


def test_scores_in_points_are_drawn_as_shares_of_what_can_be_had() -> None:
    assert full_mark([result("docvqa", [1.0])]) == 100
    assert full_mark([result("ocrbench", [1.0, 0.0], scale=1000.0, unit="points")]) == 1000
    makeup = Makeup(1.0, (0, 0, 1, 1), ("a", "a", "b", None), (200.0, 200.0, 0.0, 0.0), (1.0,) * 4, summed=True)
    assert full_mark([result("mme", [1.0] * 4, makeup=makeup, unit="points")]) == 400


def test_plots_share_a_round_scale() -> None:
    marks = [Mark(0.1, -0.02, 0.13, "better"), Mark(-0.3, -0.31, -0.2, "worse")]
    assert reach(marks) == 0.5
    assert reach([]) == 0.01
    assert [nice(number) for number in (0.013, 2.0, 2.2, 7.0, 1e-9)] == [0.02, 2.0, 2.5, 10.0, 1e-9]
    assert 'class="forest worse"' in forest(marks[1], 0.5)
    assert f'cx="{120 * (1 - 0.96 * 0.6):.1f}"' in forest(marks[1], 0.5)


def test_curves_leave_out_what_is_no_number_and_hold_a_flat_line() -> None:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": None}, {"step": 4, "loss": 2.0}, {"epoch": 1}]
    assert points_of(log, "loss") == ((1.0, 2.0), (4.0, 2.0))
    drawn = chart("Loss", [Line("a", 0, points_of(log, "loss"))])
    assert "nan" not in drawn
    assert "<polyline" in drawn


def png(size: tuple[int, int], noise: bool = False) -> bytes:
    stream = io.BytesIO()
    (Image.effect_noise(size, 200) if noise else Image.new("RGB", size, "red")).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_are_made_small_and_say_nothing_but_the_picture() -> None:
    small = base64.b64decode(data_uri(png((3000, 200))).partition(",")[2])
    assert Image.open(io.BytesIO(small)).size[0] == SIDES[0]
    assert len(base64.b64decode(data_uri(png((1500, 1500), noise=True)).partition(",")[2])) <= MOST_BYTES
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a secret place", 6
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    assert b"secret" in stream.getvalue()
    copy = base64.b64decode(data_uri(stream.getvalue()).partition(",")[2])
    assert b"secret" not in copy
    assert Image.open(io.BytesIO(copy)).size == picture_size(stream.getvalue()) == (20, 40)


def test_an_album_has_each_picture_once_and_ends_at_its_budget() -> None:
    one, two, three = (png((10 + number, 10)) for number in range(3))
    made = album([(0, [one]), (1, [one]), (2, [two]), (3, [b"no picture"]), (4, [three])], 10_000)
    assert len(made.pictures) == 3
    assert made.names[0] == made.names[1] != made.names[2]
    assert (made.left_out, made.unreadable, made.names[3]) == (0, 1, ())
    tight = album([(0, [one]), (1, [two]), (2, [one])], 1)
    assert (len(tight.pictures), tight.left_out, tight.names[1], tight.names[2]) == (1, 1, (), tight.names[0])


QUESTIONS = {
    "chartqa": ("How many in 3?", (), ("30",)),
    "docvqa": ("What is line 3?", (), ("line number 3", "the line 3")),
    "textvqa": ("what Does sign 3 say?", (), ("Stop!", "Go 3")),
    "ocrbench": ("What is written in 3?", (), ("Word 3",)),
    "mmt": ("Which of these is 3?", ("A. thing A3", "B. thing B3", "C. thing C3", "D. thing D3"), ("D",)),
    "scienceqa_img": ("Which is 3?", ("A. one", "B. two", "C. three", "D. four"), ("D",)),
    "seed_img": ("Which is 3?", ("A. a 3", "B. b 3", "C. c 3", "D. d 3"), ("D",)),
    "coco_caption": ("", (), tuple(tasks_rows.captions(3))),
    "textcaps": ("", (), tuple(tasks_rows.captions(3))),
    "refcocog_val": ("the thing 2", (), ("[0.150, 0.100, 0.650, 0.617]",)),
    "mme": ("Is it 3? Please answer yes or no.", (), ("Yes",)),
    "pope": ("Is there a 3 in the image?", (), ("yes",)),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_a_row_asks_and_expects(name: str, tmp_path: Path) -> None:
    file = tasks_rows.write(tmp_path, get(name).file)
    question = read_questions(get(name), [file], [3])[3]
    assert (question.text, question.options, question.references) == QUESTIONS[name]
    assert len(question.pictures) == 1


def test_boxes_are_shares_of_the_picture(tmp_path: Path) -> None:
    file = tasks_rows.write(tmp_path, "refcocog_val")
    run = [
        write_run(tmp_path / name, [result("refcocog_val", [value] * 18, data_fingerprint=fingerprint(file))], {0: text}, "..")
        for name, value, text in (("a", 0.0, "no box"), ("b", 1.0, "It is at [0.1, 0.2, 0.5, 1.5]."))
    ]
    sample = next(one for one in embedded(page(tmp_path, *run))["samples"] if one["id"] == 0)
    assert sample["boxes"] == {"expected": pytest.approx([0.1, 0.1, 0.6, 18.5 / 30]), "arm1": [0.1, 0.2, 0.5, 1.5]}


def test_data_of_another_benchmark_is_other_data_whatever_its_columns(tmp_path: Path) -> None:
    file = tasks_rows.write(tmp_path, "chartqa")
    asked = ask(Place(str(file)), result("refcocog_val", [1.0] * 3), [0])
    assert "is other than what the runs had" in asked.note


def test_a_world_that_is_drawn_otherwise_today_is_shown_with_a_warning(tmp_path: Path) -> None:
    tasks_rows.write(tmp_path, "chartqa")
    asked = ask(Place(str(tmp_path), redrawn=True), chartqa([1.0] * COUNT), [3])
    assert asked.questions[3].text == "How many in 3?"
    assert asked.note == REDRAWN


def test_rows_are_found_in_several_files(tmp_path: Path) -> None:
    rows = tasks_rows.rows("pope")
    files = [tasks_rows.write_as(tmp_path / f"{part}.parquet", "pope", rows[5 * part : 5 * part + 5]) for part in range(3)]
    asked = read_questions(get("pope"), files, [11, 0, 7])
    assert {id: question.text for id, question in asked.items()} == {id: f"Is there a {id} in the image?" for id in (0, 7, 11)}


def test_data_sets_on_the_hub_are_where_lmms_eval_says() -> None:
    from cal_bench.tasks.lmms import read_definition

    for benchmark in BENCHMARKS:
        definition, origin = read_definition(benchmark), origin_of(benchmark)
        assert (origin.repository, origin.name) == (definition.dataset_path, definition.dataset_name)


def test_details_keep_every_answer_and_log(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [chartqa([1.0, 0.0])], {0: "half \ud83d of a pair", 1: "\u2028\x00"})
    write_details(tmp_path, {"a": run}, {"a": {"pt": [{"step": 1, "loss": math.inf}]}})
    details = read_details(tmp_path)
    assert details.answers == {"a": {"chartqa": {0: "half \ud83d of a pair", 1: "\u2028\x00"}}}
    assert details.logs == {"a": {"pt": [{"step": 1.0, "loss": None}]}}


def test_a_page_holds_any_text_that_a_model_can_say(tmp_path: Path) -> None:
    texts = {0: "half \ud83d of a pair", 1: "\u2028\x00 $title ${x}"}
    made = [write_run(tmp_path / name, [replace(chartqa([value, value]))], texts) for name, value in (("$before", 0.0), ("b", 1.0))]
    content = embedded(page(tmp_path, *made))
    assert [sample["answers"][0] for sample in content["samples"]] == [texts[0], texts[1]]
