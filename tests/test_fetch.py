"""`cal-bench fetch`: what it asks for, against a hub on this machine; and that everything works by the same names once the hub is gone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cal_bench.checkpoints import READ
from cal_bench.cli import main
from cal_bench.models import checkpoint_folder
from cal_bench.tasks.hub import split_files
from tests import tasks_rows
from tests.hub import Hub, serving, use
from tests.test_cli import told
from tests.tiny import save_tiny

NOWHERE = "http://127.0.0.1:1"
SHARDS = ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet", "data/train-00000-of-00001.parquet"]


def card(*configs: dict[str, Any]) -> bytes:
    return f"---\nconfigs: {json.dumps(configs)}\n---\nA data set.\n".encode()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """Two benchmarks, one of them in two files, and a model."""
    hub = Hub(tmp_path / "hub")
    rows = tasks_rows.rows("chartqa")
    parts = [tasks_rows.write_as(tmp_path / f"{i}.parquet", "chartqa", part) for i, part in enumerate((rows[:7], rows[7:]))]
    files = dict(zip(SHARDS, [*(part.read_bytes() for part in parts), b"x" * 5_000_000], strict=True))
    described = card(config("default", ("test", "data/test-*")))
    hub.add("datasets", "lmms-lab-encoder/ChartQA", {"README.md": described, **files})
    text = tasks_rows.write(tmp_path, "textvqa").read_bytes()
    hub.add("datasets", "lmms-lab-encoder/textvqa", {"data/validation-00000-of-00001.parquet": text})
    save_tiny(hub.folder("models", "lab/llava"))
    hub.add("models", "lab/llava", {"pytorch_model.bin": b"pickled"})
    return hub


def test_once_fetched_everything_works_by_the_same_names_without_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["fetch", "chartqa", "textvqa", "textvqa_ocr", "--models", "lab/llava"]
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert main([*wanted, "--dry-run"]) == 0
        assert set(hub.asked) <= {"README.md"}
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines[:3]] == ["chartqa", "textvqa, textvqa_ocr", "lab/llava"]
        assert "lmms-lab-encoder/ChartQA, split test" in lines[0]
        assert lines[0].endswith("2 of 2 files to fetch")
        read = [file for pattern in READ for file in hub.folder("models", "lab/llava").glob(pattern)]
        assert f"  {sum(file.stat().st_size for file in read) / 1e3:.3g} kB  {len(read)} of {len(read)} files to fetch" in lines[2]

        assert main(wanted) == 0
        assert "HF_HUB_OFFLINE=1 cal-bench eval chartqa textvqa textvqa_ocr --model lab/llava" in capsys.readouterr().err
        assert "train-00000-of-00001.parquet" not in hub.asked
        assert "pytorch_model.bin" not in hub.asked
        before = len(hub.asked)
        assert main(wanted) == 0
        assert [line.rsplit("  ", 1)[1] for line in capsys.readouterr().out.splitlines()[:3]] == ["here", "here", "here"]
        assert len(hub.asked) == before

    use(NOWHERE, tmp_path / "cache", monkeypatch, offline=True)
    run = tmp_path / "run"
    assert main(["eval", "chartqa", "textvqa_ocr", "--model", "lab/llava", "--limit", "2", "--out", str(run)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["chartqa", "textvqa_ocr"]
    assert (checkpoint_folder("lab/llava") / "model.safetensors").is_file()


def test_what_was_interrupted_goes_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert main(["fetch", "chartqa"]) == 0
        shard = next((tmp_path / "cache").rglob("test-00001-of-00002.parquet"))
        shard.resolve().unlink()
        shard.unlink()
        hub.asked.clear()
        assert main(["fetch", "chartqa", "--dry-run"]) == 0
        assert "1 of 2 files to fetch" in capsys.readouterr().out
    use(NOWHERE, tmp_path / "cache", monkeypatch, offline=True)
    assert "test-00001-of-00002.parquet" in told(capsys, ["tasks", "chartqa", "--data", "hub"])


def test_pickled_weights_are_fetched_where_there_are_no_others(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("models", "lab/vicuna", {"config.json": b"{}", "pytorch_model.bin": b"pickled", "tf_model.h5": b"other"})
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert main(["fetch", "--models", "lab/vicuna"]) == 0
    assert sorted(hub.asked) == ["config.json", "pytorch_model.bin"]


def test_without_a_connection_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for offline in (False, True):
        use(NOWHERE, tmp_path / "cache", monkeypatch, offline)
        for arguments in (["fetch", "chartqa"], ["fetch", "--models", "lab/llava"], ["fetch", "--models", "no name", "--dry-run"]):
            message = told(capsys, arguments)
            assert message.count("\n") == 1, message
            assert "cannot be had from the Hugging Face hub" in message
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10_000, 0, 9_000))
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert main(["fetch", "chartqa"]) == 2
    assert "has 9 kB free, and this needs " in capsys.readouterr().err
    assert not any(name.endswith(".parquet") for name in hub.asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is nothing to fetch. Name benchmarks (or all), a config, or a model"),
        (["charqa"], "There is no benchmark and no config 'charqa'. Did you mean 'chartqa'?"),
        (["dmo"], "Did you mean 'demo'?"),
    ],
)
def test_a_wrong_word_is_told_what_to_type(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in told(capsys, ["fetch", *arguments])


def test_a_config_names_what_it_reads(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "demo"]) == 0
    assert capsys.readouterr().out == "Nothing of this comes from the hub.\n"
    study = tmp_path / "study.yaml"
    stage = {"data": ["train.json"], "images": "images", "template": "v1", "train": ["lm_head"], "learning_rate": 1e-3}
    stage |= {"batch_size": 8, "per_device_batch_size": 8}
    evaluate = {"benchmarks": ["chartqa"]}
    study.write_text(json.dumps({"name": "s", "model": "lab/llava", "stages": {"it": stage}, "arms": {"a": {}}, "evaluate": evaluate}))
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert main(["fetch", str(study), "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["chartqa", "lab/llava", "Together"]


def config(name: str, *files: tuple[str, Any]) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files]}


@pytest.mark.parametrize(
    ("configs", "name", "split", "expected"),
    [
        ([], None, "test", SHARDS[:2]),
        ([config("default", ("train", "data/train-*"), ("test", "data/test-00000-*"))], None, "test", SHARDS[:1]),
        ([config("val", ("val", "mmstar.parquet"))], None, "val", ["mmstar.parquet"]),
        ([config("A", ("val", ["A/val-*", "mm*"]))], "A", "val", ["A/val-0.parquet", "mmstar.parquet"]),
        ([config("B", ("val", "B/val-*"))], "A", "val", ["A/val-0.parquet"]),
        ([{"config_name": "A", "data_files": "A/*"}], "A", "val", ["A/val-0.parquet"]),
        ([], "A", "val", ["A/val-0.parquet"]),
        ([], None, "validation", []),
    ],
)
def test_the_files_of_a_split_are_those_that_the_card_names(
    configs: list[dict[str, Any]], name: str | None, split: str, expected: list[str]
) -> None:
    every = [*SHARDS, "A/val-0.parquet", "B/val-0.parquet", "mmstar.parquet", "images/test-1.png", "README.md"]
    assert split_files(every, configs, name, split) == expected
