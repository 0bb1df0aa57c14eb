"""What is looked at before a study begins, so that a typing error does not cost an hour."""

import shutil
from pathlib import Path
from typing import Any

from cal_bench.checkpoints import weight_files
from cal_bench.config import HUB, StudyConfig
from cal_bench.doctor import nearest
from cal_bench.errors import UserError
from cal_bench.parts import prepare_parts
from cal_bench.train import data_options
from cal_bench.trainer_plugin import ConversationDataset

# What a training needs on the disk at its worst, in copies of the weights: its result, and a checkpoint with two moments of Adam.
_COPIES_KEPT, _COPIES_WHILE_TRAINING = 1, 4


def check_files(study: StudyConfig) -> None:
    """Every file and folder that the config names is there; missing ones are told together."""
    named = {f"stages.{name}.data": stage.data for name, stage in study.stages.items()}
    named |= {f"stages.{name}.images": (stage.images,) for name, stage in study.stages.items()}
    if study.evaluate.data != HUB:
        named["evaluate.data"] = (study.evaluate.data,)
    missing = [f"  {where}: {path}" for where, paths in named.items() for path in paths if not Path(path).exists()]
    if missing:
        listed = "\n".join(missing)
        raise UserError(f"These files of the config are not there:\n{listed}\nRelative paths start at the config's own folder.")


def check_stages(study: StudyConfig, base: Path) -> None:
    """Every stage can begin: its records can be read, its pictures are there, and it names parameters that the base has."""
    from transformers import AutoProcessor

    from cal_bench.systems.register import register

    register()
    processor, model = AutoProcessor.from_pretrained(base), _outline(base)
    for stage in study.stages.values():
        ConversationDataset([Path(file) for file in stage.data], stage.images, data_options(stage), processor)
        prepare_parts(model, stage.train, stage.learning_rate_factors)


def check_disk(base: Path, folders: set[Path]) -> None:
    """There is room for the checkpoints of the stages in `folders` that are not trained yet."""
    weights = sum(file.stat().st_size for file in weight_files(base))
    waiting = [folder for folder in folders if not folder.exists()]
    if not waiting:
        return
    needed = weights * (_COPIES_KEPT * len(waiting) + _COPIES_WHILE_TRAINING)
    free = shutil.disk_usage(nearest(waiting[0])).free
    if free < needed:
        raise UserError(
            f"The disk of {waiting[0]} has {free / 1e9:.1f} GB free, and {len(waiting)} stages need about {needed / 1e9:.1f} GB for "
            "their checkpoints. Free some space, or give --out on another disk."
        )


def _outline(base: Path) -> Any:
    """The model without its weights: names and shapes of its parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(base))
