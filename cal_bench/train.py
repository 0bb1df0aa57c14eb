"""One training stage: from a checkpoint and conversations to a checkpoint and a record of how it came about.

torch and transformers are imported where they are used: reading a config must not wait for them.
"""

import json
import os
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cal_bench.checkpoints import processor_fingerprint, weight_files, weights_fingerprint
from cal_bench.errors import UserError
from cal_bench.parts import describe, prepare_parts
from cal_bench.processes import is_main, over_all, say_once, wait_for_all
from cal_bench.runs import PARTIAL, versions, write_atomically
from cal_bench.stage_arguments import check_begins, training_arguments
from cal_bench.trainer_plugin.config import CALConfig, CALError
from cal_bench.training_data import data_fingerprint

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from cal_bench.train_log import TrainingLog
    from cal_bench.trainer_plugin.data import ConversationDataset, DataOptions

RECORD, LOG, SWAPPED, CHECKPOINTS = "train.json", "log.jsonl", "swapped.json", "checkpoints"
# What may differ between two runs of the same stage: paths, whose contents are fingerprinted, how it is watched and kept, and what
# only trades time for memory.
NOT_IDENTITY = ("data", "images", "report_to", "label_check", "save_steps", "gradient_checkpointing")

Record = dict[str, Any]
# Pictures and prompts as the original code of a system makes them, or as the checkpoint's own processor does.
Processing = Literal["original", "checkpoint"]


@dataclass(frozen=True)
class StageConfig:
    """What a stage trains, on what, and how. `train` lists name prefixes of the trainable parameters.

    `data` are LLaVA's JSON files, or Hugging Face datasets with `images` and `messages` (parquet files or folders); `images` is the
    folder of the pictures that JSON files name, or one folder for each file.
    batch_size is global: per_device_batch_size x processes x accumulation steps. `warmup` is a share of the steps, or a number
    of steps from 1 on. `swap` is the share of image-bearing samples whose images are exchanged in pairs. `image_aspect_ratio`
    is for systems with square pictures: pad fills them up with the mean colour, square (LLaVA-1.5's pre-training) crops them.
    `image_grid` lets a model of MGM's kind read pictures as MGM (1) or as MGM-HD (2) from this stage on.
    `learning_rate_factors` are for parts of the model by prefix of their parameters' names (LLaVA-NeXT: model.vision_tower 0.1).
    Every `label_check` steps it is measured how well deltas tell label tokens apart (see label_check.py).
    """

    data: tuple[str, ...]
    images: str | tuple[str, ...]
    template: str
    train: tuple[str, ...]
    learning_rate: float
    batch_size: int
    per_device_batch_size: int
    epochs: float = 1
    max_steps: int = -1
    learning_rate_factors: dict[str, float] = field(default_factory=dict)
    group_by_modality_length: bool = False
    warmup: float = 0.03
    max_length: int = 2048
    swap: float = 0
    image_aspect_ratio: Literal["pad", "square"] = "pad"
    image_grid: Literal[1, 2] | None = None
    unreadable_images: Literal["error", "skip"] = "error"
    seed: int = 0
    processing: Processing = "original"
    gradient_checkpointing: bool = False
    save_steps: int | None = None
    report_to: tuple[str, ...] = ()
    label_check: int | None = None


def train_stage(model_dir: Path, out_dir: Path, stage: StageConfig, cal: CALConfig | None) -> Record:
    """Train one stage, or go on with it, or find it done; the record, which is also out_dir/train.json.

    Without `cal` it is the stock trainer. A folder that holds a training of other inputs is refused. Under a launcher every process
    calls this, and all return when the record is written.
    """
    identity = _identity(model_dir, stage, cal)
    if done := _complete(out_dir, identity):
        return done
    check_begins(stage)  # before the record: a stage that cannot begin leaves nothing
    record = {"status": "running", "identity": identity, "config": _plain(stage), "cal": cal and _plain(cal), "seed": stage.seed}
    wait_for_all()  # every process has looked whether there was anything before
    if is_main():
        out_dir.mkdir(parents=True, exist_ok=True)
        _write(out_dir, record)
    record |= _train(model_dir, out_dir, stage, cal) | {"status": "complete"}
    if is_main():
        shutil.rmtree(out_dir / CHECKPOINTS, ignore_errors=True)
        _write(out_dir, record)
    wait_for_all()
    return _record_before(out_dir)


def finished(model_dir: Path, out_dir: Path, stage: StageConfig, cal: CALConfig | None) -> bool:
    """Whether this very training is complete; a folder that holds another is refused."""
    return bool(_complete(out_dir, _identity(model_dir, stage, cal)))


def check_settings(out_dir: Path, stage: StageConfig, cal: CALConfig | None) -> bool:
    """Whether the folder holds a training; UserError if it is one of other settings. Looks at neither weights nor data."""
    if before := _record_before(out_dir):
        _check_same(out_dir, before, _settings(stage, cal))
    return bool(before)


def _complete(out_dir: Path, identity: Record) -> Record:
    """The record of the training if it is complete, else empty."""
    before = _record_before(out_dir)
    _check_same(out_dir, before, identity)
    if before.get("status") != "complete":
        return {}
    weight_files(out_dir)  # refuses weights that are gone or cut short
    return before


def _identity(model_dir: Path, stage: StageConfig, cal: CALConfig | None) -> Record:
    """What makes two trainings the same training."""
    return {
        "weights": weights_fingerprint(model_dir),
        "processor": processor_fingerprint(model_dir),
        "data": data_fingerprint(stage.data, stage.images),
        **_settings(stage, cal),
    }


def _settings(stage: StageConfig, cal: CALConfig | None) -> Record:
    settings = {name: value for name, value in _plain(stage).items() if name not in NOT_IDENTITY}
    return {"stage": settings, "cal": cal and _plain(cal)}


def _plain(config: StageConfig | CALConfig) -> Record:
    """The config as it reads back from JSON."""
    plain: Record = json.loads(json.dumps(asdict(config)))
    return plain


def _record_before(out_dir: Path) -> Record:
    if not (out_dir / RECORD).is_file():
        return {}
    record: Record = json.loads((out_dir / RECORD).read_text(encoding="utf-8"))
    return record


def _check_same(out_dir: Path, before: Record, identity: Record) -> None:
    if not before:
        begun = RECORD + PARTIAL  # all that a training leaves which is killed at its first step
        if is_main() and out_dir.is_dir() and any(file.name != begun for file in out_dir.iterdir()):
            raise UserError(f"{out_dir} is not empty and holds no training of ours. Give another folder, or empty it.")
        return
    old = before["identity"]
    changed = [name for name in identity if name != "stage" and old[name] != identity[name]]
    changed += [f"stage.{name}" for name, value in identity["stage"].items() if old["stage"].get(name) != value]
    if changed:
        raise UserError(
            f"{out_dir} holds a training of other inputs: {', '.join(changed)} changed. Give another folder, or delete it to train again."
        )


def _write(out_dir: Path, record: Record) -> None:
    write_atomically(out_dir / RECORD, json.dumps(record, indent=1) + "\n")


def _train(model_dir: Path, out_dir: Path, stage: StageConfig, cal: CALConfig | None) -> Record:
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar, get_logger

    from cal_bench.trainer_plugin.data import ConversationDataset

    begun = time.perf_counter()
    disable_progress_bar()  # of reading and writing weights; the training has its own
    _use_all_cores()
    set_seed(stage.seed)
    resumed = newest_checkpoint(out_dir / CHECKPOINTS)
    # Before the model: they decide how its weights are spread over processes while they are read.
    arguments = training_arguments(stage, out_dir / CHECKPOINTS)
    # The trainer does not load the weights of a LLaVA checkpoint when it resumes (see CALMixin.train), only all the rest. A checkpoint
    # in pieces (FSDP) has no config, and its weights are what the trainer does load.
    whole = resumed is not None and (resumed / "config.json").is_file()
    model, processor = _load(resumed if resumed and whole else model_dir, stage)
    parameters = prepare_parts(model, stage.train, stage.learning_rate_factors)
    say_once(describe(parameters))
    dataset = ConversationDataset([Path(file) for file in stage.data], stage.images, data_options(stage), processor)
    if is_main():
        _write_swapped(dataset, out_dir)
    trainer, log = _trainer(model, dataset, arguments, stage, cal)
    if resumed is not None:
        get_logger("transformers.trainer").setLevel("ERROR")  # it warns of every weight that it did not load
        say_once(f"Going on from {resumed}")
    _run(trainer, log, resumed)
    _save(trainer, out_dir)
    dataset.merge(over_all)
    _tell_of_data(dataset, stage)
    return {
        "versions": versions() | {"accelerate": metadata.version("accelerate")},
        "parameters": parameters,
        **_counted(dataset),
        "steps": trainer.state.global_step,
        "resumed_at_step": int(resumed.name.rpartition("-")[2]) if resumed else None,
        # Only the main process keeps the log.
        "loss": {"first": log.losses[0], "last": log.losses[-1]} if is_main() else {},
        "wall_seconds": round(time.perf_counter() - begun, 2),
    }


def _write_swapped(dataset: "ConversationDataset", out_dir: Path) -> None:
    """Which records have each other's pictures."""
    pairs = [[dataset.records[index].id for index in pair] for pair in dataset.swapped]
    write_atomically(out_dir / SWAPPED, json.dumps({"rows": dataset.swapped, "ids": pairs}) + "\n")


def _counted(dataset: "ConversationDataset") -> Record:
    """What the data turned out to hold."""
    return {
        "samples": len(dataset),
        "swapped_samples": 2 * len(dataset.swapped),
        "truncated_samples": dataset.truncated,
        "missing_images": dataset.missing,
        "unreadable_images": dataset.unreadable,
    }


def data_options(stage: StageConfig) -> "DataOptions":
    """How the stage's conversations become features."""
    from cal_bench.trainer_plugin.data import DataOptions

    return DataOptions(stage.template, stage.max_length, stage.swap, stage.seed, stage.unreadable_images == "skip")


def _tell_of_data(dataset: "ConversationDataset", stage: StageConfig) -> None:
    if dataset.truncated:
        say_once(f"Warning: {dataset.truncated} of {len(dataset)} records were longer than {stage.max_length} tokens and were cut")
    for what, names in (("are missing", dataset.missing), ("could not be read", dataset.unreadable)):
        if names:
            say_once(f"{len(names)} image(s) {what}, and their records were skipped: {', '.join(names[:5])}{', …' if names[5:] else ''}")


def _use_all_cores() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    # The loader's workers are forked after the tokenizer was used; its own threads would only warn and stop.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _load(model_dir: Path, stage: StageConfig) -> tuple[Any, Any]:
    """Model in single precision (CUDA computes in bfloat16 on top) and processor, which will answer in the stage's template."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from cal_bench.systems.llava import as_original, chat_template, fill_square, share_grids
    from cal_bench.systems.mgm_processor import read_in_grid
    from cal_bench.systems.register import register

    register()
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(model_dir)
    if stage.processing == "original":
        as_original(processor)
        fill_square(processor, stage.image_aspect_ratio == "pad")
    share_grids(model, processor)
    if stage.image_grid is not None:
        read_in_grid(model.config, processor, stage.image_grid)
    processor.chat_template = chat_template(stage.template, processor) or processor.chat_template
    return model, processor


def _trainer(
    model: Any, dataset: "ConversationDataset", arguments: "TrainingArguments", stage: StageConfig, cal: CALConfig | None
) -> "tuple[Trainer, TrainingLog]":
    from transformers import PrinterCallback

    from cal_bench.stage_trainer import CALStageTrainer, StockStageTrainer
    from cal_bench.train_log import TrainingLog
    from cal_bench.trainer_plugin.data import Collator

    out_dir = Path(arguments.output_dir).parent
    log = TrainingLog(out_dir / LOG, "/".join(out_dir.parts[-2:]), sys.stderr.isatty())
    shared = {
        "model": model,
        "args": arguments,
        "train_dataset": dataset,
        "data_collator": Collator.of(dataset.processor.tokenizer),
        "processing_class": dataset.processor,
        "callbacks": [log, *_checks(out_dir, dataset, stage)],
        "lengths": dataset.lengths() if stage.group_by_modality_length else None,
        "factors": stage.learning_rate_factors,
    }
    trainer = StockStageTrainer(**shared) if cal is None else CALStageTrainer(**shared, cal=cal)
    trainer.remove_callback(PrinterCallback)
    return trainer, log


def _checks(out_dir: Path, dataset: "ConversationDataset", stage: StageConfig) -> "list[TrainerCallback]":
    from cal_bench.label_check import label_check

    return [] if stage.label_check is None else [label_check(out_dir, stage.label_check, dataset)]


def _run(trainer: "Trainer", log: "TrainingLog", resumed: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except CALError as error:
        # From a loader's worker it comes with that process's traceback; its last line is the message.
        raise CALError(re.sub(r"^cal_bench\.[\w.]+: ", "", str(error).strip().splitlines()[-1])) from error
    finally:
        log.close()


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole: the trainer writes its own state last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _save(trainer: "Trainer", out_dir: Path) -> None:
    trainer.model.config.use_cache = True  # the trainer switched it off, and the saved config would say so
    if trainer.is_fsdp_enabled:  # its checkpoints may be in pieces, but the result is one
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(out_dir))
    trainer.accelerator.wait_for_everyone()
    (out_dir / "training_args.bin").unlink(missing_ok=True)  # a pickle, and the record says more
