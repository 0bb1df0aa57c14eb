"""What a stage asks of transformers' trainer, on however many processes it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cal_bench.errors import UserError, suggest
from cal_bench.processes import count

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from cal_bench.train import StageConfig

STEPS_PER_LOG = 10


def accumulation_steps(stage: "StageConfig", processes: int) -> int:
    """How many micro-batches of every process make the stage's batch, which is the same on any number of them."""
    accumulation, rest = divmod(stage.batch_size, stage.per_device_batch_size * processes)
    if accumulation == 0 or rest:
        raise UserError(
            f"batch_size {stage.batch_size} is not a multiple of per_device_batch_size {stage.per_device_batch_size}"
            f" x {processes} process(es). Take a number of processes that divides it, or another per_device_batch_size in the config."
        )
    return accumulation


def check_begins(stage: "StageConfig") -> None:
    """The stage's batch can be made on the processes there are, and what it reports to is here."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    accumulation_steps(stage, count())
    for name in stage.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f"report_to: transformers knows no '{name}'.{suggest(name, INTEGRATION_TO_CALLBACK)}")
        if name not in get_available_reporting_integrations():
            raise UserError(f"report_to: the package behind {name} is not installed here. Install it, or leave the name out.")


def training_arguments(stage: "StageConfig", folder: Path) -> "TrainingArguments":
    """Those of transformers' trainer for the stage, whose checkpoints go into `folder`, in this process of the launcher's."""
    import torch
    from transformers import TrainingArguments

    processes, beside = count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    accumulation = accumulation_steps(stage, processes)
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=stage.per_device_batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=stage.epochs,
        max_steps=stage.max_steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup,
        weight_decay=0.0,
        seed=stage.seed,
        bf16=cuda,
        use_cpu=not cuda,
        activation_checkpointing=stage.gradient_checkpointing,
        logging_steps=STEPS_PER_LOG,
        report_to=list(stage.report_to) or "none",
        save_strategy="no" if stage.save_steps is None else "steps",
        save_steps=stage.save_steps or 1,
        save_total_limit=2,
        disable_tqdm=True,
        remove_unused_columns=False,
        # Images are decoded ahead of the step that needs them, without taking the cores away from it. (Workers that outlive an epoch
        # would draw from the random stream at another moment in a resumed training than in one that was never stopped.)
        dataloader_num_workers=max(1, min(8, (os.cpu_count() or 1) // (2 * beside))),
        dataloader_prefetch_factor=4,
        dataloader_pin_memory=cuda,
        # A micro-batch of text alone leaves the projector without a gradient.
        ddp_find_unused_parameters=True if processes > 1 else None,
    )
