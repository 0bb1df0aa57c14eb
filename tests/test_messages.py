"""Hugging Face datasets with `images` and `messages` give the features of the same conversations as LLaVA's JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from cal_bench.trainer_plugin import CALError, ConversationDataset, DataOptions
from cal_bench.training_data import count_records, data_fingerprint
from tests.tiny import tiny_processor, write_data

ROLES = {"human": "user", "gpt": "assistant"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def as_dataset(rows: list[dict[str, Any]], folder: Path, parts: bool) -> datasets.Dataset:
    """The same conversations; a picture as a part of a message, or as a word in its text."""

    def content(text: str) -> Any:
        if not parts:
            return text
        words: list[dict[str, str | None]] = [{"type": "text", "text": text.replace("<image>\n", "")}]
        return ([{"type": "image", "text": None}] if "<image>" in text else []) + words

    columns = {
        "messages": [[{"role": ROLES[turn["from"]], "content": content(turn["value"])} for turn in row["conversations"]] for row in rows],
        "images": [[str(folder / row["image"])] if "image" in row else [] for row in rows],
    }
    return datasets.Dataset.from_dict(columns).cast_column("images", datasets.List(datasets.Image()))


def dataset_of(file: Path, images: Path, **options: Any) -> ConversationDataset:
    return ConversationDataset([file], images, DataOptions("v1", **options), tiny_processor())


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("form", ["file", "folder", "saved"])
def test_a_dataset_gives_the_features_of_the_same_json(tmp_path: Path, parts: bool, form: str) -> None:
    file = write_data(tmp_path)
    made = as_dataset(json.loads(file.read_text()), tmp_path / "images", parts)
    place = {"file": tmp_path / "rows.parquet", "folder": tmp_path / "rows", "saved": tmp_path / "saved"}[form]
    if form == "saved":
        made.save_to_disk(place)
    else:
        (tmp_path / "rows").mkdir()
        made.to_parquet(place if form == "file" else place / "part-0.parquet")
    wanted, found = dataset_of(file, tmp_path / "images"), dataset_of(place, tmp_path)
    assert len(found) == len(wanted) == 12
    assert found.lengths() == wanted.lengths()
    for index in range(12):
        mine, theirs = found[index], wanted[index]
        assert mine.keys() == theirs.keys()
        for name, values in theirs.items():
            torch.testing.assert_close(mine[name], values, rtol=0, atol=0)


def test_several_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    made = as_dataset(json.loads(file.read_text()), tmp_path / "images", True)
    (tmp_path / "rows").mkdir()
    for number in (2, 0, 1):
        made.shard(3, number, contiguous=True).to_parquet(tmp_path / "rows" / f"part-{number}.parquet")
    wanted, found = dataset_of(file, tmp_path / "images"), dataset_of(tmp_path / "rows", tmp_path)
    assert [record.segments for record in found.records] == [record.segments for record in wanted.records]
    torch.testing.assert_close(found[10]["pixel_values"], wanted[10]["pixel_values"], rtol=0, atol=0)


READ_ALL = """
import datasets, pyarrow, sys
from pathlib import Path
datasets.config.HF_DATASETS_CACHE = Path(sys.argv[2])
from cal_bench.trainer_plugin.messages import read_rows
rows = list(read_rows(Path(sys.argv[1])))
assert len(rows) == 800
assert sum(len(picture.open().read()) for row in rows for picture in row.images) == 800 * 2**15
print(pyarrow.default_memory_pool().max_memory(), pyarrow.total_allocated_bytes())
"""


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_pictures_are_not_held_in_memory_nor_copied_twice(tmp_path: Path, form: str) -> None:
    """25 MB in pieces of 1.3 MB, read in a process of its own, where what Arrow has ever held can be asked for."""
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    columns = {"messages": [talk] * 800, "images": [[{"bytes": bytes([number % 256]) * 2**15, "path": None}] for number in range(800)]}
    features = datasets.Dataset.from_dict({"messages": [talk]}).features | {"images": datasets.List(datasets.Image())}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    whole = 800 * 2**15
    if form == "saved":
        made.save_to_disk(tmp_path / "rows")
    else:
        made.to_parquet(tmp_path / "rows.parquet", batch_size=40)
    place = tmp_path / ("rows" if form == "saved" else "rows.parquet")
    command = [sys.executable, "-c", READ_ALL, str(place), str(tmp_path / "copy")]
    most, kept = map(int, subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split())
    assert most < whole / 2
    assert kept < whole / 20
    copies = sum(path.stat().st_size for path in (tmp_path / "copy").rglob("*.arrow"))
    assert copies < (1.1 * whole if form == "parquet" else 1)


def test_pictures_of_a_dataset_can_be_exchanged_and_named(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    as_dataset(json.loads(file.read_text()), tmp_path / "images", True).to_parquet(tmp_path / "rows.parquet")
    swapped = dataset_of(tmp_path / "rows.parquet", tmp_path, swap=0.5)
    (first, second), *_ = swapped.swapped
    plain = dataset_of(tmp_path / "rows.parquet", tmp_path)
    torch.testing.assert_close(swapped[first]["pixel_values"], plain[second]["pixel_values"])
    assert str(plain.records[1].images[0]).endswith("rows.parquet, row 1, image 0")


def test_a_broken_picture_in_a_dataset_is_named(tmp_path: Path) -> None:
    row = {"messages": [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]], "images": [[{"bytes": b"no picture"}]]}
    made = datasets.Dataset.from_dict(row, features=None).cast_column("images", datasets.List(datasets.Image(decode=False)))
    made.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(CALError, match=r"rows\.parquet, row 0, image 0 can't be read"):
        dataset_of(tmp_path / "rows.parquet", tmp_path)[0]


def test_a_picture_that_no_message_places_belongs_to_the_first_question(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    rows = [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "image": "a.png"}]
    as_dataset(rows, tmp_path, False).to_parquet(tmp_path / "rows.parquet")
    assert dataset_of(tmp_path / "rows.parquet", tmp_path).records[0].segments[0].text.endswith("USER: <image>\nQ ASSISTANT:")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"]}, "columns text; expected messages"),
        ({"messages": [[{"role": "system", "content": "Be kind."}]]}, "row 0: the role 'system' has no place"),
        ({"messages": [[{"role": "user", "content": "Q"}]]}, "row 0: human and gpt must take turns"),
        ({"messages": [[{"speaker": "user"}]]}, r"row 0: expected messages: \[\{role, content\}\]"),
        ({"messages": [[{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A"}]]}, r"row 0: 0 image\(s\), but"),
        ({"messages": [[{"role": "user", "content": "Q"}]], "images": ["a.png"]}, "images must hold lists of pictures"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(CALError, match=told):
        dataset_of(tmp_path / "rows.parquet", tmp_path)


def test_an_empty_folder_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(CALError, match="holds no dataset"):
        dataset_of(tmp_path / "rows", tmp_path)


def test_files_that_make_no_dataset_together_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    messages = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]]
    for name, columns in (("a", {}), ("b", {"more": [1]})):
        datasets.Dataset.from_dict({"messages": messages, **columns}).to_parquet(tmp_path / "rows" / f"{name}.parquet")
    with pytest.raises(CALError, match=r"rows cannot be read as one dataset.*column names don't match"):
        dataset_of(tmp_path / "rows", tmp_path)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows" / "a.parquet").read_bytes()[:-9])
    with pytest.raises(CALError, match=r"cut\.parquet cannot be read"):
        dataset_of(tmp_path / "cut.parquet", tmp_path)


def test_the_fingerprint_of_a_dataset_is_its_content(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    made = as_dataset(json.loads(file.read_text()), tmp_path / "images", True)
    for name, rows in (("a", made), ("b", made), ("c", made.select(range(11)))):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    first, second, other = (data_fingerprint((str(tmp_path / f"{name}.parquet"),), "images") for name in "abc")
    assert first == second != other
    assert [count_records(tmp_path / f"{name}.parquet") for name in "acx"] == [12, 11, None]
    assert count_records(file) == 12


def test_every_file_may_have_an_image_folder_of_its_own(tmp_path: Path) -> None:
    files = [write_data(tmp_path / name, rows=4) for name in ("one", "two")]
    Image.new("RGB", (40, 30), "white").save(tmp_path / "two" / "images" / "0.png")
    roots = [tmp_path / "one" / "images", tmp_path / "two" / "images"]
    found = ConversationDataset(files, roots, DataOptions("v1"), tiny_processor())
    assert not found[0]["pixel_values"].equal(found[4]["pixel_values"])
    torch.testing.assert_close(found[4]["pixel_values"], dataset_of(files[1], roots[1])[0]["pixel_values"])
    with pytest.raises(CALError, match="2 data files and 1 image folders"):
        ConversationDataset(files, roots[:1], DataOptions("v1"), tiny_processor())
    names = tuple(map(str, files))
    before = data_fingerprint(names, tuple(map(str, roots)))
    Image.new("RGB", (400, 300), "red").save(tmp_path / "two" / "images" / "0.png")
    assert data_fingerprint(names, tuple(map(str, roots))) != before
