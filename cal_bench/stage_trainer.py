"""What a stage asks of its trainer beside the loss: batches of one modality, and learning rates by part of the model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from cal_bench.parts import under
from cal_bench.trainer_plugin.borrow import tower_is_shared_out, with_an_image
from cal_bench.trainer_plugin.trainer import CALTrainer

if TYPE_CHECKING:
    from transformers import Trainer as Stock
else:
    Stock = object  # whichever trainer class comes after the mixin


class ModalityLengthSampler(Sampler[int]):
    """Every optimizer step takes samples with images or samples without, of like length, as LLaVA's group_by_modality_length.

    `lengths` counts words, negative for samples without an image; `step` is the number of samples in a step. What is left over of
    either kind comes last.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Another order for each epoch, the same in every process."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        whole: list[list[int]] = []
        rest: list[int] = []
        for text_only in (False, True):
            kind = [index for index, length in enumerate(self.lengths) if (length < 0) == text_only]
            shuffled = [kind[place] for place in torch.randperm(len(kind), generator=generator).tolist()]
            steps = [shuffled[start : start + self.step] for start in range(0, len(kind), self.step)]
            if steps and len(steps[-1]) < self.step:
                rest += steps.pop()
            whole += [sorted(indices, key=lambda index: -abs(self.lengths[index])) for indices in steps]
        for place in torch.randperm(len(whole), generator=generator).tolist():
            yield from whole[place]
        yield from rest


class StageMixin(Stock):
    """In front of a trainer class; `lengths` for the sampler above, `factors` of the learning rate by prefix of parameter names."""

    def __init__(self, *args: Any, lengths: Sequence[int] | None, factors: dict[str, float], **kwargs: Any) -> None:
        self.lengths, self.factors = lengths, factors
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return ModalityLengthSampler(self.lengths, step, self.args.seed)

    def create_optimizer(self, model: Any = None) -> Any:
        """Stock, with a group of its own for each part that has a factor."""
        optimizer = super().create_optimizer(model)
        named = [(name.removeprefix("module."), parameter) for name, parameter in (model or self.model).named_parameters()]
        for prefix, factor in self.factors.items():
            part = {id(parameter) for name, parameter in named if under(name, prefix)}
            for group in list(optimizer.param_groups):
                moved = [parameter for parameter in group["params"] if id(parameter) in part]
                if moved:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in part]
                    optimizer.add_param_group({**group, "params": moved, "lr": group["lr"] * factor})
        return optimizer


def with_images_everywhere(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch, with an image borrowed where another process has one and the vision tower is shared out; CAL does so by itself."""
    return with_an_image(model, inputs) if tower_is_shared_out(model) else inputs


class StockStageTrainer(StageMixin, Trainer):
    """Of the arm without CAL."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Stock, but a process whose micro-batch is text alone does not let the others wait for it at the vision tower."""
        return super().compute_loss(model, with_images_everywhere(self.model, inputs), *args, **kwargs)


class CALStageTrainer(StageMixin, CALTrainer):
    """Of the arm with CAL."""
