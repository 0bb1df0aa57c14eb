"""Streamed datasets give the features of the same rows read from their files, and train to the same losses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from cal_bench.trainer_plugin import CALConfig, CALError, CALTrainer, Collator, ConversationDataset, DataOptions, streamed
from tests.test_messages import as_dataset
from tests.tiny import tiny_model, tiny_processor, write_data

OPTIONS = DataOptions("v1", max_length=210)
ORIENTATION = 0x0112


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve rows in three parquet files; one picture says that it should be turned."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = write_data(tmp_path)
    turned = Image.new("RGB", (40, 30), "red")
    turned.paste("blue", (0, 0, 20, 30))
    exif = turned.getexif()
    exif[ORIENTATION] = 6
    turned.save(tmp_path / "images" / "1.png", exif=exif)
    rows = as_dataset(json.loads(file.read_text()), tmp_path / "images", True)
    (tmp_path / "rows").mkdir()
    for number in range(3):
        rows.shard(3, number, contiguous=True).to_parquet(tmp_path / "rows" / f"part-{number}.parquet")
    return tmp_path / "rows"


def stream(folder: Path) -> datasets.IterableDataset:
    return datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)


def test_streamed_rows_have_the_features_of_their_files(shards: Path) -> None:
    wanted = ConversationDataset([shards], shards, OPTIONS, tiny_processor())
    found = list(streamed(stream(shards), OPTIONS, tiny_processor()))
    assert len(found) == len(wanted) == 12
    for mine, place in zip(found, range(12), strict=True):
        assert_same(mine, wanted[place])
    assert wanted.truncated > 0


def losses(folder: Path, dataset: Any, **arguments: Any) -> list[float]:
    """Of every step; the model is the same each time."""
    trainer = CALTrainer(
        model=tiny_model(),
        args=TrainingArguments(
            output_dir=str(folder), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True, **arguments,
        ),
        train_dataset=dataset,
        data_collator=Collator.of(tiny_processor().tokenizer),
        cal=CALConfig(alpha=0, beta=None),
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_training_has_the_losses_of_one_from_files(shards: Path, tmp_path: Path, workers: int) -> None:
    processor = tiny_processor()
    files = ConversationDataset([shards], shards, OPTIONS, processor)
    wanted = losses(tmp_path, files, train_sampling_strategy="sequential", remove_unused_columns=False)
    found = losses(tmp_path, streamed(stream(shards), OPTIONS, processor), dataloader_num_workers=workers)
    assert len(found) == 2
    assert found == wanted
    assert wanted[0] != wanted[1]


def test_a_stream_may_be_shuffled_first(shards: Path) -> None:
    ordered, other = (
        [row["labels"].tolist() for row in streamed(rows, OPTIONS, tiny_processor())]
        for rows in (stream(shards), stream(shards).shuffle(seed=0, buffer_size=4))
    )
    assert other != ordered
    assert sorted(other) == sorted(ordered)


def test_files_are_read_only_as_far_as_rows_are_asked_for(shards: Path) -> None:
    (shards / "part-2.parquet").write_bytes(b"not a parquet file")
    rows = iter(streamed(stream(shards), OPTIONS, tiny_processor()))
    assert len([next(rows) for _ in range(8)]) == 8
    with pytest.raises(Exception, match="Parquet magic bytes not found"):
        next(rows)


def test_rows_of_a_generator_may_hold_open_pictures(shards: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from stream(shards).take(4)

    made = datasets.IterableDataset.from_generator(rows)
    assert made.column_names is None
    wanted = ConversationDataset([shards], shards, OPTIONS, tiny_processor())
    for place, mine in enumerate(streamed(made, OPTIONS, tiny_processor())):
        features = {name: mine[name] for name in wanted[place]}
        if place != 1:  # which datasets has turned
            assert_same(features, wanted[place])


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"]}, "the streamed rows have the columns text; expected messages"),
        ({"messages": [[{"role": "system", "content": "Be kind."}]]}, "Be kind.*: the role 'system' has no place"),
        ({"messages": [None]}, r"expected messages: \[\{role, content\}\]"),
        ({"messages": [[{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A"}]]}, r"0 image\(s\), but"),
        (
            {
                "messages": [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]],
                "images": [[{"bytes": b"no picture"}]],
            },
            "image 0 of the streamed row with the messages .*Q.* can't be read",
        ),
    ],
)
def test_streamed_rows_that_do_not_fit_are_named(columns: dict[str, Any], told: str) -> None:
    with pytest.raises(CALError, match=told):
        next(iter(streamed(datasets.Dataset.from_dict(columns).to_iterable_dataset(), OPTIONS, tiny_processor())))


def test_what_cannot_be_streamed_is_refused(shards: Path) -> None:
    for options in (DataOptions("v1", swap=0.1), DataOptions("v1", skip_unreadable=True)):
        with pytest.raises(CALError, match="swap and skip_unreadable need all rows"):
            streamed(stream(shards), options, tiny_processor())
    with pytest.raises(CALError, match=r"load_dataset\(…, streaming=True\) gives, not a ConversationDataset"):
        streamed(ConversationDataset([shards], shards, OPTIONS, tiny_processor()), OPTIONS, tiny_processor())
