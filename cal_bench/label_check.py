"""Does the weighting do what it claims? The miniature world knows which label tokens depend on the picture and which are invented.

While a stage trains with `label_check: N`, every N steps the deltas of held-out conversations are measured and how well they tell label
tokens apart is appended to labels.jsonl beside the training log. Nothing of the training changes: no random number is drawn, no gradient
is made, and the model is put back into train mode.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cal_bench.errors import UserError
from cal_bench.look.held_out import Wanted, hold_out, judge
from cal_bench.look.opened import Opened
from cal_bench.look.separation import separation
from cal_bench.miniworld.scene import SIDE
from cal_bench.train_log import read_log
from cal_bench.trainer_plugin.data import ConversationDataset

LABELS = "labels.jsonl"


def check_labels(opened: Opened, wanted: Wanted) -> dict[str, Any]:
    """The separation of a checkpoint's deltas (see `separation`), on conversations drawn for it."""
    return separation(judge(opened, hold_out(opened.processor, wanted)))


def label_check(out_dir: Path, every: int, dataset: ConversationDataset) -> "LabelCheck":
    """The check for a stage that trains on this data: in its template, with pictures of its size. UserError for a wrong number of steps."""
    if every < 1:
        raise UserError(f"label_check is {every}, but must be a number of steps, 1 or more; leave it out for no check.")
    return LabelCheck(out_dir / LABELS, every, dataset.processor, Wanted(template=dataset.options.template, scale=_scale(dataset)))


def _scale(dataset: ConversationDataset) -> int:
    """The side of the first picture in 128 px, as the miniature world has it."""
    first = next((name for record in dataset.records for name in record.images if isinstance(name, str)), None)
    if first is None:
        return Wanted.scale
    with Image.open(dataset.images / first) as picture:
        return max(1, picture.width // SIDE)


class LabelCheck(TrainerCallback):
    """Appends the separation at the first step, every so many, and the last."""

    def __init__(self, file: Path, every: int, processor: Any, wanted: Wanted) -> None:
        self.file, self.every, self.processor = file, every, processor
        self.held_out = hold_out(processor, wanted)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Forget what was measured after the checkpoint that this training goes on from."""
        kept = [line for line in read_log(self.file) if state.global_step > 0 and line["step"] <= state.global_step]
        if state.is_world_process_zero:
            self.file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        if state.global_step == 0:
            self._measure(state, rest["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Measure where it is time."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure(state, rest["model"])

    def _measure(self, state: TrainerState, model: Any) -> None:
        training = model.training
        model.eval()
        found = separation(judge(Opened(self.file.parent.name, model, self.processor), self.held_out))
        model.train(training)
        if state.is_world_process_zero:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": state.global_step, **found}) + "\n")
