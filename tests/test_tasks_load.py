"""Opening a benchmark: names, sources of data, questions and limits."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cal_bench.tasks as tasks
from cal_bench.tasks import BenchmarkError
from cal_bench.tasks.lmms import read_definition
from tests import tasks_rows
from tests.hub import Hub, serving, use
from tests.shared import SHARED, needs_shared

# What a user reads of each benchmark: picture first, then this. A change here changes every number.
PROMPTS = {
    "ocrbench": "What is written in 0?",
    "docvqa": "What is line 0?\nAnswer the question using a single word or phrase.",
    "chartqa": "How many in 0?\nAnswer the question with a single word.",
    "textvqa": "What does sign 0 say?\nAnswer the question using a single word or phrase.",
    "scienceqa_img": (
        "Context: A hint.\nWhich is 0?\nA. one\nB. two\nC. three\nD. four\nAnswer with the option's letter from the given choices directly."
    ),
    "mmstar": "Which? 0\nOptions: A: a, B: b, C: c, D: d\nAnswer with the option's letter from the given choices directly",
    "mmt": (
        "Question: Which of these is 0?\nA: thing A0\nB: thing B0\nC: thing C0\nD: thing D0\n"
        "Answer the question using a single character from the given options."
    ),
    "coco_caption": "Provide a one-sentence caption for the provided image.",
    "textcaps": "Provide a one-sentence caption for the provided image.",
    "refcocog_val": (
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
        "All values are floating point numbers bounded between 0 and 1. "
        "Please provide the bounding box coordinate of the region this sentence describes: the thing 0"
    ),
    "mme": "Is it 0?\nAnswer the question using a single word or phrase.",
    "pope": "Is there a 0 in the image?\nAnswer the question using a single word or phrase.",
    "seed_img": "Which is 0?\nA. a 0\nB. b 0\nC. c 0\nD. d 0\nAnswer with the option's letter from the given choices directly.",
    "textvqa_ocr": "What does sign 0 say?\nReference OCR token: STOP, 0\nAnswer the question using a single word or phrase.",
}
PROMPTS["refcocog_test"] = PROMPTS["refcocog_val"]

LONGEST = {"docvqa": 32, "chartqa": 16, "scienceqa_img": 16, "mme": 16, "mmt": 8, "ocrbench": 128, "pope": 128}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tasks_rows.write_all(tmp_path_factory.mktemp("data")))


def open_one(data: str, name: str) -> tasks.Task:
    return tasks.open_task(tasks.get(name), data)


# Names.


def test_there_are_15_columns_in_the_papers_order() -> None:
    assert tasks.names() == (
        *("ocrbench", "docvqa", "chartqa", "textvqa", "scienceqa_img", "mmstar", "mmt"),
        *("coco_caption", "textcaps", "refcocog_val", "refcocog_test"),
        *("mme", "pope", "seed_img", "textvqa_ocr"),
    )


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(BenchmarkError, match=r"no benchmark 'chartq'\. Did you mean 'chartqa'\? Known benchmarks: ocrbench, docvqa"):
        tasks.get("chartq")


def test_listing_benchmarks_imports_nothing_heavy() -> None:
    code = "import sys, cal_bench.tasks as t; t.names(); t.get('mme'); t.check_java(t.BENCHMARKS); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lmms_eval", "datasets", "pyarrow", "numpy", "PIL", "yaml"} & set(loaded)
    assert not [name for name in loaded if name.startswith("cal_bench.") and not name.startswith("cal_bench.tasks")]


# Questions.


@pytest.mark.parametrize("name", tasks.names())
def test_the_prompt_is_the_stored_one(name: str, data: str) -> None:
    sample = open_one(data, name).samples()[0]
    assert sample.prompt == PROMPTS[name]
    assert sample.generation.max_new_tokens == LONGEST.get(name, 64)
    assert sample.generation.until in (("\n\n",), ("ASSISTANT:",))


@pytest.mark.parametrize("name", tasks.names())
def test_a_bound_of_ours_stands_only_where_lmms_eval_has_none(name: str) -> None:
    benchmark = tasks.get(name)
    assert ("max_new_tokens" in read_definition(benchmark).config.generation_kwargs) == (benchmark.max_new_tokens is None)


def test_a_placeholder_in_a_question_is_taken_out(tmp_path: Path) -> None:
    """Processors count placeholders and pictures, and stop when they differ."""
    row = tasks_rows.rows("chartqa", 1)[0] | {"question": "What does <image> show?"}
    assert "<image>" not in open_one(str(tasks_rows.write(tmp_path, "chartqa", [row])), "chartqa").samples()[0].prompt


def test_the_prompt_hash_tells_questions_and_limits_apart(data: str) -> None:
    first, second = open_one(data, "chartqa").samples()[:2]
    assert first.prompt_hash != second.prompt_hash
    assert first.prompt_hash == open_one(data, "chartqa").samples()[0].prompt_hash
    captions = [open_one(data, name).samples()[0] for name in ("coco_caption", "textcaps")]
    assert captions[0].prompt_hash == captions[1].prompt_hash
    pair = [open_one(data, name).samples()[0].prompt_hash for name in ("textvqa", "textvqa_ocr")]
    assert pair[0] != pair[1]


def test_every_expression_of_refcocog_is_a_sample(data: str) -> None:
    samples = open_one(data, "refcocog_val").samples()
    assert [sample.id for sample in samples] == list(range(18))
    assert [sample.prompt.rsplit(": ", 1)[1] for sample in samples[:4]] == ["the thing 0", "the thing 1", "object 1", "the thing 2"]
    assert samples[1].cluster == samples[2].cluster != samples[0].cluster


def test_an_expression_that_is_no_list_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "answer": "the thing"} for row in tasks_rows.rows("refcocog_val")]
    with pytest.raises(BenchmarkError, match=r"row 0 of .*refcocog_val.parquet: 'answer' is 'the thing'\. Expected a list"):
        open_one(str(tasks_rows.write(tmp_path, "refcocog_val", rows)), "refcocog_val")


def test_videos_of_seed_bench_are_left_out(tmp_path: Path) -> None:
    rows = tasks_rows.rows("seed")
    rows[3]["data_type"] = "video"
    task = open_one(str(tasks_rows.write(tmp_path, "seed", rows)), "seed_img")
    assert [sample.id for sample in task.samples()] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(BenchmarkError, match="seed_img: no row has data_type 'image'"):
        open_one(str(tasks_rows.write(tmp_path, "seed", [row | {"data_type": "video"} for row in rows])), "seed_img")


def test_samples_that_share_a_picture_share_a_cluster(data: str) -> None:
    clusters = [sample.cluster for sample in open_one(data, "mme").samples()]
    assert clusters[0::2] == clusters[1::2]
    assert len(set(clusters)) == 6
    assert len({sample.cluster for sample in open_one(data, "seed_img").samples()}) == 12


def test_clusters_tell_pictures_of_one_length_apart(tmp_path: Path) -> None:
    rows = tasks_rows.rows("chartqa", 2)
    content = rows[0]["image"]["bytes"]
    rows[1]["image"] = {"bytes": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:], "path": "0.png"}
    first, second = open_one(str(tasks_rows.write(tmp_path, "chartqa", rows)), "chartqa").samples()
    assert first.cluster != second.cluster


def test_a_question_without_a_picture_has_none(tmp_path: Path) -> None:
    rows = tasks_rows.rows("scienceqa_img", 2)
    rows[1]["image"] = None
    first, second = open_one(str(tasks_rows.write(tmp_path, "scienceqa_img", rows)), "scienceqa_img").samples()
    assert len(first.load_images()) == 1
    assert second.load_images() == []
    assert second.cluster is None


# Limits.


@pytest.mark.parametrize("name", tasks.names())
def test_a_limit_draws_the_same_samples_each_time(name: str, data: str) -> None:
    drawn = [sample.id for sample in open_one(data, name).samples(4)]
    assert len(drawn) == 4
    assert drawn == sorted(drawn) != list(range(4))
    assert drawn == [sample.id for sample in open_one(data, name).samples(4)]
    assert set(drawn) <= {sample.id for sample in open_one(data, name).samples(8)}


def test_a_limit_keeps_the_two_questions_of_mme_together(data: str) -> None:
    task = open_one(data, "mme")
    drawn = [sample.id for sample in task.samples(5)]
    assert len(drawn) == 6
    assert [i // 2 for i in drawn[0::2]] == [i // 2 for i in drawn[1::2]]
    assert task.score(dict.fromkeys(drawn, "yes")).metrics


def test_a_limit_above_the_size_is_everything(data: str) -> None:
    assert len(open_one(data, "pope").samples(1000)) == 12


def test_a_limit_of_nothing_is_refused(data: str) -> None:
    with pytest.raises(BenchmarkError, match="limit of 0 leaves nothing"):
        open_one(data, "pope").samples(0)


# Sources.


def test_a_file_a_folder_and_a_folder_of_parts_are_the_same_data(tmp_path: Path) -> None:
    rows = tasks_rows.rows("chartqa", 10)
    tasks_rows.write(tmp_path, "chartqa", rows)
    parts = tmp_path / "split" / "chartqa"
    parts.mkdir(parents=True)
    for number, part in enumerate((rows[:6], rows[6:])):
        tasks_rows.write_as(parts / f"test-{number}.parquet", "chartqa", part)
    opened = [open_one(str(source), "chartqa") for source in (tmp_path, tmp_path / "chartqa.parquet", tmp_path / "split")]
    questions = [[sample.prompt for sample in task.samples()] for task in opened]
    assert questions[0] == questions[1] == questions[2]
    assert opened[0].data_fingerprint == opened[1].data_fingerprint


def test_other_splits_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "chartqa"
    folder.mkdir()
    for split, count in (("train", 5), ("test", 3)):
        tasks_rows.write_as(folder / f"{split}-00000-of-00001.parquet", "chartqa", tasks_rows.rows("chartqa", count))
    assert len(open_one(str(tmp_path), "chartqa").samples()) == 3
    (folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(BenchmarkError, match=r"Expected .*chartqa.parquet or .*/chartqa/test-\*.parquet"):
        open_one(str(tmp_path), "chartqa")


def test_a_path_may_hold_any_characters(tmp_path: Path) -> None:
    folder = tmp_path / "my [data] * x"
    folder.mkdir()
    tasks_rows.write(folder, "pope")
    assert len(open_one(str(folder), "pope").samples()) == 12


def test_new_content_under_an_old_name_and_time_is_read_anew(tmp_path: Path) -> None:
    """datasets keeps a copy of what it has read and knows it by path and time."""
    path = tasks_rows.write(tmp_path, "chartqa")
    old, fingerprint = path.stat(), open_one(str(path), "chartqa").data_fingerprint
    rows = tasks_rows.rows("chartqa")
    rows[0]["question"] = "Something else?"
    tasks_rows.write(tmp_path, "chartqa", rows)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    again = open_one(str(path), "chartqa")
    assert again.samples()[0].prompt.startswith("Something else?")
    assert again.data_fingerprint != fingerprint


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tasks_rows.write(tmp_path / folder, "chartqa")
    assert open_one(str(tmp_path / "a"), "chartqa").data_fingerprint == open_one(str(tmp_path / "b"), "chartqa").data_fingerprint


def test_the_hub_is_asked_for_lmms_evals_data(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the split that is evaluated and of nothing else; the data are the same as from a folder."""
    content = Path(data, "docvqa.parquet").read_bytes()
    hub = Hub(tmp_path / "hub")
    hub.add("datasets", "lmms-lab-encoder/DocVQA", {"README.md": b"Documents", "DocVQA/validation-00000-of-00001.parquet": content})
    hub.add("datasets", "lmms-lab-encoder/DocVQA", {"DocVQA/train-00000-of-00001.parquet": b"", "Other/validation-0.parquet": b""})
    hub.add("datasets", "lmms-lab-encoder/ChartQA", {"data/test-00000-of-00001.parquet": content})
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert open_one("hub", "docvqa").data_fingerprint == open_one(data, "docvqa").data_fingerprint
        assert hub.asked == ["README.md", "validation-00000-of-00001.parquet"]
        with pytest.raises(BenchmarkError, match=r"chartqa: .*ChartQA.*test-00000-of-00001.parquet lacks 'answer', 'type'"):
            open_one("hub", "chartqa")
        with pytest.raises(BenchmarkError, match=r"pope: lmms-lab-encoder/POPE \(test\) cannot be had from the Hugging Face hub: 404"):
            open_one("hub", "pope")
    assert len(open_one("hub", "docvqa").samples()) == 12  # without the hub


def test_without_the_hub_a_folder_is_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use("http://127.0.0.1:1", tmp_path, monkeypatch)
    with pytest.raises(BenchmarkError, match=r"ConnectError.*cal-bench fetch mme\. Without one, give a folder that holds mme.parquet"):
        open_one("hub", "mme")


@pytest.mark.parametrize("name", ["chartqa", "refcocog_val", "coco_caption"])
def test_local_data_needs_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network")

    for call in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, call, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    tasks_rows.write(tmp_path, tasks.get(name).file)
    task = open_one(str(tmp_path), name)
    assert task.samples()[0].load_images()
    assert task.score({0: "x"}).samples


# The real pictures, and time.


@needs_shared
def test_the_real_rows_open_in_a_moment() -> None:
    read_definition(tasks.get("mme"))  # imports lmms-eval
    started = time.perf_counter()
    opened = [open_one(str(SHARED / "real" / "bench"), name) for name in tasks.names()]
    counts = [len(task.samples()) for task in opened]
    assert time.perf_counter() - started < 10
    assert counts == [19, 16, 18, 16, 12, 12, 14, 8, 8, 18, 19, 20, 20, 12, 16]


@needs_shared
def test_the_real_pictures_load() -> None:
    for name in tasks.names():
        for sample in open_one(str(SHARED / "real" / "bench"), name).samples():
            assert [picture.mode for picture in sample.load_images()] == ["RGB"]


def test_nouns_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tasks.get("mme").scale = 2  # type: ignore[misc]
