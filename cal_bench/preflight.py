"""What is looked at before a study begins, so that a typing error does not cost an hour."""

import shutil
from pathlib import Path
from typing import Any

from cal_bench.checkpoints import weight_files
from cal_bench.config import HUB, StudyConfig
from cal_bench.doctor import nearest
from cal_bench.errors import UserError
from cal_bench.memory import checkpoint_bytes, result_bytes
from cal_bench.parts import prepare_parts
from cal_bench.stage_arguments import check_begins
from cal_bench.train import StageConfig, data_options
from cal_bench.trainer_plugin import ConversationDataset
from cal_bench.trainer_plugin.messages import is_dataset
from cal_bench.trainer_plugin.records import image_roots


def missing_files(study: StudyConfig) -> list[str]:
    """What the config names and is not there, each with where it is named."""
    named = {f"stages.{name}.data": stage.data for name, stage in study.stages.items()}
    named |= {f"stages.{name}.images": _image_folders(stage) for name, stage in study.stages.items()}
    if study.evaluate.data != HUB:
        named["evaluate.data"] = (study.evaluate.data,)
    return [f"{where}: {path}" for where, paths in named.items() for path in dict.fromkeys(paths) if not Path(path).exists()]


def _image_folders(stage: StageConfig) -> tuple[str, ...]:
    """Of the files whose pictures lie beside them; datasets hold their own."""
    roots = image_roots(stage.data, stage.images)
    return tuple(str(root) for file, root in zip(stage.data, roots, strict=True) if not is_dataset(Path(file)))


def check_files(study: StudyConfig) -> None:
    """Every file and folder that the config names is there; missing ones are told together."""
    if missing := missing_files(study):
        listed = "\n".join(f"  {line}" for line in missing)
        raise UserError(f"These files of the config are not there:\n{listed}\nRelative paths start at the config's own folder.")


def check_stages(study: StudyConfig, base: Path, model: Any) -> dict[str, int]:
    """Every stage can begin: its records, whose numbers are given, can be read, its pictures are there, and it names parameters that
    the base has."""
    from transformers import AutoProcessor

    weight_files(base)  # refuses weights that are cut short
    processor = AutoProcessor.from_pretrained(base)
    samples = {}
    for name, stage in study.stages.items():
        samples[name] = len(ConversationDataset([Path(file) for file in stage.data], stage.images, data_options(stage), processor))
        prepare_parts(model, stage.train, stage.learning_rate_factors)
        check_begins(stage)
    return samples


def check_disk(model: Any, waiting: dict[Path, StageConfig]) -> None:
    """There is room for the stages that are not trained yet, by the folder that each of them will fill."""
    if not waiting:
        return
    folder = next(iter(waiting))
    needed = disk_bytes(model, list(waiting.values()))
    free = shutil.disk_usage(nearest(folder)).free
    if free < needed:
        raise UserError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free, and {len(waiting)} stages need about {needed / 1e9:.1f} GB for "
            "their checkpoints. Free some space, or give --out on another disk."
        )


def disk_bytes(model: Any, stages: list[StageConfig]) -> int:
    """What the stages need on the disk at their worst: all results, and the checkpoints of the one that keeps the most."""
    most = 0
    for stage in stages:
        counts = prepare_parts(model, stage.train, stage.learning_rate_factors)
        trained, frozen = (sum(counts[kind].values()) for kind in ("trainable", "frozen"))
        most = max(most, checkpoint_bytes(trained + frozen, trained) if stage.save_steps else 0)
    return result_bytes(sum(parameter.numel() for parameter in model.parameters())) * len(stages) + most


def outline(base: Path) -> Any:
    """The model of a folder without its weights: names and shapes of its parameters."""
    from transformers import AutoConfig

    from cal_bench.systems.register import register

    register()
    return outlined(AutoConfig.from_pretrained(base))


def outlined(config: Any) -> Any:
    """The same for a config."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
