"""The pictures of a benchmark, and what is said about data that are bad."""

import io
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import pytest
from PIL import ImageFile

import cal_bench.tasks as tasks
from cal_bench.tasks import BenchmarkError
from tests import tasks_rows
from tests.test_tasks_load import open_one


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tasks_rows.write_all(tmp_path_factory.mktemp("data")))


# Pictures.


def test_pictures_are_decoded_only_when_asked_for(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: decoded.append(1) or load(picture))
    samples = open_one(data, "refcocog_val").samples()
    assert samples[3].sizes == (tasks_rows.SIZE,)
    assert not decoded
    assert samples[3].load_images()[0].size == tasks_rows.SIZE
    assert decoded


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_are_rgb(mode: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 7), (200, 10, 10)).convert(mode).save(stream, "tiff")
    rows = [row | {"image": {"bytes": stream.getvalue(), "path": None}} for row in tasks_rows.rows("chartqa", 1)]
    (picture,) = open_one(str(tasks_rows.write(tmp_path, "chartqa", rows)), "chartqa").samples()[0].load_images()
    assert (picture.mode, picture.size) == ("RGB", (5, 7))


def test_a_turned_picture_gives_its_upright_size(tmp_path: Path) -> None:
    """Boxes are shares of the picture as decoded, and decoding turns it as its camera says."""
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (60, 20)).save(stream, "jpeg", exif=exif)
    row = {"question_id": "1", "bbox": [5.0, 15.0, 10.0, 30.0], "answer": ["it"], "image": {"bytes": stream.getvalue(), "path": None}}
    task = open_one(str(tasks_rows.write(tmp_path, "refcocog_val", [row])), "refcocog_val")
    assert task.samples()[0].load_images()[0].size == (20, 60)
    assert task.score({0: "[0.25, 0.25, 0.75, 0.75]"}).samples == {0: pytest.approx(1)}


def spoilt(tmp_path: Path, spoil: Any) -> tasks.Task:
    rows = tasks_rows.rows("pope")
    rows[7]["image"] = {"bytes": spoil(tasks_rows.png(7, (300, 300))["bytes"]), "path": "7.png"}
    return open_one(str(tasks_rows.write(tmp_path, "pope", rows)), "pope")


@pytest.mark.parametrize(
    "spoil", [lambda content: content[:-60], lambda content: content[:20], lambda content: b"", lambda content: b"GIF"]
)
def test_a_truncated_picture_is_named_when_it_is_loaded(spoil: Any, tmp_path: Path) -> None:
    samples = spoilt(tmp_path, spoil).samples()
    assert samples[6].load_images()[0].size == samples[6].sizes[0]
    with pytest.raises(BenchmarkError, match=r"picture in row 7 of .*pope.parquet cannot be read: .*Replace the picture"):
        samples[7].load_images()


def test_a_truncated_picture_is_no_grey_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval tells Pillow, for the whole process, to fill truncated pictures with grey."""
    sample = spoilt(tmp_path, lambda content: content[:-60]).samples()[7]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BenchmarkError, match="truncated"):
        sample.load_images()


def test_the_row_of_a_bad_picture_is_counted_in_its_own_file(tmp_path: Path) -> None:
    rows = tasks_rows.rows("chartqa", 5)
    rows[4]["image"] = {"bytes": b"nothing", "path": None}
    folder = tmp_path / "chartqa"
    folder.mkdir()
    tasks_rows.write_as(folder / "0.parquet", "chartqa", rows[:3])
    tasks_rows.write_as(folder / "1.parquet", "chartqa", rows[3:])
    with pytest.raises(BenchmarkError, match=r"row 1 of .*1\.parquet"):
        open_one(str(tmp_path), "chartqa").samples()[4].load_images()


# Bad data.


def test_a_missing_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"chartqa: the data folder .*/nowhere does not exist\. Expected a folder that holds chartqa.parquet"
    ):
        open_one(str(tmp_path / "nowhere"), "chartqa")


def test_a_missing_file_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"coco_caption: no data at .*Expected .*/coco_cap.parquet or .*/coco_cap/val-\*.parquet, or 'hub'"
    ):
        open_one(str(tmp_path), "coco_caption")
    with pytest.raises(BenchmarkError, match=r"Expected .*/x.parquet, or 'hub'"):
        open_one(str(tmp_path / "x.parquet"), "coco_caption")


@pytest.mark.parametrize("name", tasks.names())
def test_every_missing_column_is_named(name: str, tmp_path: Path) -> None:
    benchmark = tasks.get(name)
    table = pq.read_table(tasks_rows.write(tmp_path, benchmark.file))
    for column in benchmark.columns:
        pq.write_table(table.drop_columns([column]), tmp_path / "short.parquet")
        with pytest.raises(BenchmarkError, match=rf"{name}: .*short.parquet lacks '{column}'\. Columns needed: image, "):
            open_one(str(tmp_path / "short.parquet"), name)


@pytest.mark.parametrize("name", tasks.names())
def test_the_columns_listed_are_enough(name: str, tmp_path: Path) -> None:
    """Nothing that lmms-eval reads is missing from the list."""
    benchmark = tasks.get(name)
    table = pq.read_table(tasks_rows.write(tmp_path, benchmark.file)).select(list(benchmark.columns))
    pq.write_table(table, tmp_path / "just.parquet")
    task = open_one(str(tmp_path / "just.parquet"), name)
    answers = {sample.id: tasks_rows.right_answer(name, sample.id) for sample in task.samples()}
    assert task.samples()[0].load_images()
    assert task.score(answers).headline > 0


def test_a_torn_parquet_file_is_named(tmp_path: Path) -> None:
    path = tasks_rows.write(tmp_path, "chartqa")
    content = path.read_bytes()
    for kept in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(BenchmarkError, match=r"chartqa.parquet is not a whole parquet file: .*Make or copy it again"):
            open_one(str(path), "chartqa")


def test_a_parquet_file_with_a_spoilt_middle_is_named(tmp_path: Path) -> None:
    path = tasks_rows.write(tmp_path, "chartqa")
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(BenchmarkError, match=r"chartqa.parquet cannot be read: .*Make or copy the file again"):
        open_one(str(path), "chartqa")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tasks_rows.write(tmp_path, "chartqa")
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(BenchmarkError, match="has no rows"):
        open_one(str(path), "chartqa")


def test_pictures_in_another_form_are_refused(tmp_path: Path) -> None:
    path = tasks_rows.write(tmp_path, "chartqa")
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("image"), "image", [["0.png"] * len(table)])
    pq.write_table(table, path)
    with pytest.raises(BenchmarkError, match=r"'image' in .*chartqa.parquet is string\. Expected pictures as datasets stores them"):
        open_one(str(path), "chartqa")


@pytest.mark.parametrize("nothing", [None, {"bytes": None, "path": None}])
def test_a_row_without_its_picture_is_named_when_it_is_shown(nothing: Any, tmp_path: Path) -> None:
    rows = tasks_rows.rows("pope")
    rows[2]["image"] = nothing
    samples = open_one(str(tasks_rows.write(tmp_path, "pope", rows)), "pope").samples()
    assert samples[2].cluster is None
    with pytest.raises(BenchmarkError, match=r"row 2 of .*pope.parquet"):
        samples[2].load_images()


@pytest.mark.parametrize(("name", "column"), [("docvqa", "answers"), ("coco_caption", "answer"), ("scienceqa_img", "choices")])
def test_a_text_in_place_of_a_list_is_refused(name: str, column: str, tmp_path: Path) -> None:
    path = tasks_rows.write(tmp_path, tasks.get(name).file)
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index(column), column, [["2014"] * len(table)])
    pq.write_table(table, path)
    with pytest.raises(BenchmarkError, match=rf"{name}: '{column}' in .* is string\. Expected a list"):
        open_one(str(path), name)


def test_a_row_that_makes_no_question_is_named(tmp_path: Path) -> None:
    rows = tasks_rows.rows("pope")
    rows[2]["question"] = None
    with pytest.raises(BenchmarkError, match=r"pope: lmms-eval's code cannot make a question of row 2 of .*pope.parquet"):
        open_one(str(tasks_rows.write(tmp_path, "pope", rows)), "pope").samples()
