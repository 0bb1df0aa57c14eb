"""A checkpoint opened to be looked into, and conversations as it was trained to read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cal_bench.checkpoints import weight_files
from cal_bench.errors import UserError
from cal_bench.loading import load_processor, load_weights
from cal_bench.models import checkpoint_folder
from cal_bench.systems.llava import as_original
from cal_bench.systems.register import register
from cal_bench.trainer_plugin.data import Collator, ConversationDataset, DataOptions


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be asked, with its processor, and what plots call it."""

    name: str
    model: Any
    processor: Any


@dataclass(frozen=True)
class Talks:
    """Where conversations lie (LLaVA's JSON, and the folder of its pictures), and the template that renders them."""

    data: Path
    images: Path
    template: str


def open_model(name: str, called: str) -> Opened:
    """A folder or a name of the hub, with pictures and prompts as the original code makes them; bfloat16 on a GPU.

    UserError for what is no whole checkpoint.
    """
    register()
    folder = checkpoint_folder(name)
    weight_files(folder)
    processor = load_processor(folder)
    as_original(processor)
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    return Opened(called, load_weights(folder, device, dtype), processor)


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
    return ConversationDataset([talks.data], talks.images, DataOptions(talks.template), opened.processor)


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
