"""A trainer with one loss changed. `CALMixin` goes in front of any trainer class that ends in transformers' Trainer."""

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from .config import CALConfig, CALError
from .families import placeholders
from .loss import without_image_labels
from .patch import Handle, apply
from .reference import adapters

if TYPE_CHECKING:
    from transformers import Trainer as Stock
else:
    Stock = object  # whichever trainer class comes after the mixin

Batch = dict[str, Any]
# What a checkpoint keeps of CAL, where it has anything to keep.
STATE = "cal_state.json"


class CALMixin(Stock):
    """Trains with CAL: patches the model, passes the right count of tokens, logs what the weights did."""

    def __init__(self, *args: Any, cal: CALConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_arguments(self)
        self.cal = self._apply_cal(cal)
        if self.cal.config.reference == "adapters_off":
            adapters(self.cal.model)  # refuses a model that has none before the first step does
        else:
            _warn_of_adapter_dropout(self.model)
        # The stock rule fits the modes that count tokens; the others give a mean, to be divided by the accumulation steps.
        self._counts_tokens = self.cal.config.normalize in ("tokens", "global")
        if not self._counts_tokens:
            _check_division(self)
            self.loss_is_scaled_for_ga = False
        self._paced: tuple[int, float] | None = None

    def _apply_cal(self, config: CALConfig | None) -> Handle:
        return apply(self.model, config)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: list[str] | None = None
    ) -> Any:
        """Stock, but a checkpoint's weights really are loaded.

        Checkpoints of LLaVA are saved under the names of its first release. transformers 5.23 resumes without translating them:
        it warns of missing keys and goes on from whatever weights the model has. Sharded trainings do load theirs.
        """
        folder = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        if folder:
            self._load_weights(Path(folder))
            if self.cal.quantile is not None:
                self.cal.quantile.load(_state(Path(folder) / STATE))
        self._paced = None
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint:
            self._load_weights(Path(self.state.best_model_checkpoint))

    def _load_weights(self, folder: Path) -> None:
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if not sharded and (folder / "config.json").is_file():
            self.model.load_state_dict(type(self.model).from_pretrained(folder).state_dict())

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """Stock, except that a mean per micro-batch is not given the count of tokens of the accumulated batch."""
        self._paced = self._paced or (self.state.global_step, time.perf_counter())
        self.cal.step, before = self.state.global_step, self.cal.forwards
        self.cal.measure_logp = self._logs_before_the_next_contrast()
        items = num_items_in_batch if self._counts_tokens or not model.training else None
        loss = super().compute_loss(model, inputs, return_outputs, items)
        if model.training and self.cal.forwards == before:
            raise CALError(
                "the model trained without CAL: its forward was replaced after this trainer was made, as libraries of fused kernels do,"
                " or the batch has no labels; patch the model before the trainer is made, and only its layers, not its forward"
            )
        return loss

    def _logs_before_the_next_contrast(self) -> bool:
        step, every = self.state.global_step + 1, self.cal.config.every
        return bool(-step % max(self.state.logging_steps, 1) < every or step > self.state.max_steps - every)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Here, because the trainer's own state, which makes a checkpoint whole, is written after.
        if self.cal.quantile is not None and self.args.should_save:
            (Path(output_dir) / STATE).write_text(json.dumps(self.cal.quantile.state()) + "\n", encoding="utf-8")

    def prediction_step(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        """Stock, but labels on image placeholders are gone, from the loss and from the count that it is divided by."""
        return super().prediction_step(model, self._clean(inputs), *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device) -> Any:
        """Stock, but labels on image placeholders are gone before label tokens are counted."""
        return super().get_batch_samples(map(self._clean, epoch_iterator), num_batches, device)

    def _clean(self, batch: Batch) -> Batch:
        if batch.get("labels") is None:
            return batch
        image = placeholders(self.model.config, batch["input_ids"])
        return {**batch, "labels": without_image_labels(batch["labels"], image)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stock, with cal/… and the seconds per step beside every training loss."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.cal.stats.take(self.args.device), reduction="sum")
            means = self.cal.stats.means(sums)
            if self.cal.quantile is not None and self.cal.quantile.bound is not None:
                means["beta"] = self.cal.quantile.bound
            logs = {**logs, **{f"cal/{name}": value for name, value in means.items()}, **self._pace()}
        super().log(logs, start_time)

    def _pace(self) -> dict[str, float]:
        step, now = self.state.global_step, time.perf_counter()
        (step_before, before), self._paced = self._paced or (step, now), (step, now)
        return {"seconds_per_step": (now - before) / max(step - step_before, 1)}


def _state(file: Path) -> Any:
    """What a checkpoint keeps of CAL; CALError if it is not there."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CALError(
            f"{file} can't be read ({error}), so the bound of CALConfig(quantile=…) is not known; go on from a checkpoint that was saved"
            " whole, by a training with the same CALConfig"
        ) from error


def _check_arguments(trainer: Any) -> None:
    problems = []
    if trainer.model_init is not None:
        problems.append("model_init makes a new model, without CAL, when training begins; pass model")
    if trainer.args.label_smoothing_factor != 0:
        problems.append("label_smoothing_factor takes the labels away from the model; set it to 0")
    if trainer.compute_loss_func is not None:
        problems.append("compute_loss_func takes the labels away from the model; leave it out")
    if trainer.args.n_gpu > 1:
        problems.append("nn.DataParallel is not supported; use one process per device (accelerate launch, torchrun)")
    # Without the setting, Liger's own default for the model decides, which is to fuse.
    if trainer.args.use_liger_kernel and (trainer.args.liger_kernel_config or {}).get("fused_linear_cross_entropy") is not False:
        problems.append(
            "use_liger_kernel replaces model.forward, and CAL with it; set it to False, or liger_kernel_config to"
            " {'fused_linear_cross_entropy': False}, which keeps the kernels of the layers"
        )
    parallel = trainer.accelerator.parallelism_config
    if parallel is not None and (parallel.cp_enabled or parallel.sp_enabled):
        problems.append(
            "context and sequence parallelism cut samples into pieces that no longer hold image and answer together;"
            " set cp_size and sp_size to 1"
        )
    if problems:
        raise CALError(f"{type(trainer).__name__} can't run with these arguments: " + "; ".join(problems))


def _check_division(trainer: Any) -> None:
    """Older trainers divide by the accumulation steps only what is no sum over the tokens of the accumulated batch."""
    if trainer.model_accepts_loss_kwargs and not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise CALError(
            f"normalize={trainer.cal.config.normalize!r} under {type(trainer).__name__} needs transformers 5.19 or newer, which divides"
            " its loss by the accumulation steps; use normalize='tokens'"
        )


def _warn_of_adapter_dropout(model: nn.Module) -> None:
    active = (module.p for name, module in model.named_modules() if ".lora_dropout." in name and isinstance(module, nn.Dropout))
    if any(probability > 0 for probability in active):
        warnings.warn(
            "lora_dropout is above 0: the passes with and without the image draw different masks, so that CAL's weights are partly noise;"
            " set lora_dropout=0",
            stacklevel=3,
        )


class CALTrainer(CALMixin, Trainer):
    """transformers' Trainer with the CAL loss: `CALTrainer(model, args, train_dataset=…, cal=CALConfig())`."""
