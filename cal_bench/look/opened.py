"""A checkpoint opened to be looked into, and conversations as it was trained to read them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cal_bench.checkpoints import weight_files
from cal_bench.errors import UserError
from cal_bench.loading import load_processor, load_weights
from cal_bench.models import checkpoint_folder
from cal_bench.systems.llava import as_original, fill_square, share_grids
from cal_bench.systems.register import register
from cal_bench.train import RECORD
from cal_bench.trainer_plugin.data import Collator, ConversationDataset, DataOptions

UNCUT = 1 << 30  # longest conversation, in tokens: what stands behind the picture is what is looked at


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be asked, with its processor, what plots call it, and the template it was trained with."""

    name: str
    model: Any
    processor: Any
    template: str = "v1"


@dataclass(frozen=True)
class Talks:
    """Where conversations lie (LLaVA's JSON, and the folder of its pictures), and the template that renders them, if not the model's."""

    data: Path
    images: Path
    template: str | None


def open_model(name: str, called: str) -> Opened:
    """A folder or a name of the hub; bfloat16 on a GPU.

    Pictures and prompts are as in the stage that trained it, or else as the original code makes them. UserError for what is no whole
    checkpoint.
    """
    register()
    folder = checkpoint_folder(name)
    weight_files(folder)
    processor = load_processor(folder)
    stage = _trained(folder)
    if stage.get("processing", "original") == "original":
        as_original(processor)
        if stage:
            fill_square(processor, stage["image_aspect_ratio"] == "pad")
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    model = load_weights(folder, device, dtype)
    share_grids(model, processor)
    return Opened(called, model, processor, stage.get("template", Opened.template))


def _trained(folder: Path) -> dict[str, Any]:
    """The settings of the stage that made the checkpoint; empty for one from elsewhere."""
    record = folder / RECORD
    stage: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["config"] if record.is_file() else {}
    return stage


def short_names(names: list[str]) -> dict[str, str]:
    """What plots call each: the last two parts of its path (arm and stage, or owner and model), or as many as tell all of them apart.

    UserError for a model that is named twice.
    """
    parts = {name: Path(name).parts for name in names}
    for depth in range(2, max(3, *map(len, parts.values())) + 1):
        short = {name: "/".join(path[-depth:]) for name, path in parts.items()}
        if len(set(short.values())) == len(names):
            return short
    raise UserError(f"A model is named twice: {', '.join(names)}. Name each once.")


def read_talks(opened: Opened, talks: Talks) -> ConversationDataset:
    """The conversations as features for this model; CALError for data that does not fit."""
    return ConversationDataset([talks.data], talks.images, DataOptions(talks.template or opened.template, UNCUT), opened.processor)


def pictured(dataset: ConversationDataset) -> list[int]:
    """The numbers of the records with a picture; UserError if there are none."""
    found = [number for number, record in enumerate(dataset.records) if record.images]
    if not found:
        raise UserError("None of the conversations has a picture, so there is nothing to look at. Give --data with pictures.")
    return found


def chosen(dataset: ConversationDataset, wanted: int | None) -> int:
    """The number of the wanted record, or of the first with a picture; UserError if it is not there or has no picture, or several."""
    with_picture = pictured(dataset)
    number = with_picture[0] if wanted is None else wanted
    if number >= len(dataset):
        raise UserError(f"There is no sample {number}: the data has {len(dataset)}, numbered from 0.")
    if number not in with_picture:
        raise UserError(f"Sample {number} has no picture. The first with one is --sample {with_picture[0]}.")
    if len(dataset.records[number].images) > 1:
        raise UserError(
            f"Sample {number} has {len(dataset.records[number].images)} pictures; give the number of one with a single picture."
        )
    return number


def batched(opened: Opened, features: list[dict[str, Any]]) -> dict[str, Any]:
    """Features as one batch, where the model is and in its precision."""
    from cal_bench.features import on_device_of

    return on_device_of(opened.model, Collator.of(opened.processor.tokenizer)(features))
