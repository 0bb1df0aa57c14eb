"""A trainer with one loss changed. `CALMixin` goes in front of any trainer class that ends in transformers' Trainer."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from .config import CALConfig, CALError
from .loss import without_image_labels
from .patch import apply

if TYPE_CHECKING:
    from transformers import Trainer as Stock
else:
    Stock = object  # whichever trainer class comes after the mixin

Batch = dict[str, Any]


class CALMixin(Stock):
    """Trains with CAL: patches the model, passes the right count of tokens, logs what the weights did."""

    def __init__(self, *args: Any, cal: CALConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_arguments(self)
        self.cal = apply(self.model, cal)
        # The stock rule fits the modes that count tokens; the others give a mean, to be divided by the accumulation steps.
        self._counts_tokens = self.cal.config.normalize in ("tokens", "global")
        if not self._counts_tokens:
            self.loss_is_scaled_for_ga = False
        self._paced: tuple[int, float] | None = None

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: list[str] | None = None
    ) -> Any:
        """Stock, but a checkpoint's weights really are loaded.

        Checkpoints of LLaVA are saved under the names of its first release. transformers 5.23 resumes without translating them:
        it warns of missing keys and goes on from whatever weights the model has.
        """
        folder = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        if folder and (Path(folder) / "config.json").is_file():
            self.model.load_state_dict(type(self.model).from_pretrained(folder).state_dict())
        self._paced = None
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """Stock, except that a mean per micro-batch is not given the count of tokens of the accumulated batch."""
        self._paced = self._paced or (self.state.global_step, time.perf_counter())
        step = self.state.global_step + 1
        self.cal.measure_logp = step % max(self.state.logging_steps, 1) == 0 or step == self.state.max_steps
        items = num_items_in_batch if self._counts_tokens or not model.training else None
        return super().compute_loss(model, inputs, return_outputs, items)

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device) -> Any:
        """Stock, but labels on image placeholders are gone before label tokens are counted."""
        return super().get_batch_samples(self._cleaned(epoch_iterator), num_batches, device)

    def _cleaned(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        image_token = self.model.config.image_token_id
        for batch in batches:
            yield {**batch, "labels": without_image_labels(batch["labels"], batch["input_ids"] == image_token)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Stock, with cal/… and the seconds per step beside every training loss."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.cal.stats.take(self.args.device), reduction="sum")
            means = self.cal.stats.means(sums)
            logs = {**logs, **{f"cal/{name}": value for name, value in means.items()}, **self._pace()}
        super().log(logs, start_time)

    def _pace(self) -> dict[str, float]:
        step, now = self.state.global_step, time.perf_counter()
        (step_before, before), self._paced = self._paced or (step, now), (step, now)
        return {"seconds_per_step": (now - before) / max(step - step_before, 1)}


def _check_arguments(trainer: Any) -> None:
    problems = []
    if trainer.args.label_smoothing_factor != 0:
        problems.append("label_smoothing_factor takes the labels away from the model; set it to 0")
    if trainer.compute_loss_func is not None:
        problems.append("compute_loss_func takes the labels away from the model; leave it out")
    if trainer.args.n_gpu > 1:
        problems.append("nn.DataParallel is not supported; use one process per device (accelerate launch, torchrun)")
    if trainer.args.use_liger_kernel:
        problems.append("use_liger_kernel replaces model.forward, and CAL with it; set it to False")
    if problems:
        raise CALError("CALTrainer can't run with these arguments: " + "; ".join(problems))


class CALTrainer(CALMixin, Trainer):
    """transformers' Trainer with the CAL loss: `CALTrainer(model, args, train_dataset=…, cal=CALConfig())`."""
