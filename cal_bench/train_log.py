"""What a training says while it runs, and the log it leaves."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cal_bench.progress import progress, say


class TrainingLog(TrainerCallback):
    """Appends every training loss to a JSONL file; shows a bar on a terminal, and a dated line per log anywhere else."""

    def __init__(self, file: Path, label: str, on_terminal: bool) -> None:
        self.file, self.label, self.on_terminal = file, label, on_terminal
        self.losses: list[float] = []
        self._shown = ExitStack()
        self._advance: Any = None
        self._paced = (0, time.perf_counter())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Forget what was logged after the checkpoint that this training goes on from."""
        self._paced = (state.global_step, time.perf_counter())
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_log(self.file) if line["step"] <= state.global_step]
        self.losses = [line["loss"] for line in kept if "loss" in line]
        self.file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        if self.on_terminal:
            self._advance = self._shown.enter_context(progress(self.label, state.max_steps, state.global_step))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Move the bar, and have the last steps logged too."""
        control.should_log |= state.global_step == state.max_steps
        if self._advance is not None:
            self._advance(1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Write the line, and say it where there is no bar."""
        logs: dict[str, float] = rest["logs"]
        if "loss" not in logs or not state.is_world_process_zero:
            return
        (step, before), self._paced = self._paced, (state.global_step, time.perf_counter())
        pace = (self._paced[1] - before) / max(state.global_step - step, 1)
        line = {**logs, "step": state.global_step, "seconds_per_step": pace}
        self.losses.append(logs["loss"])
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if not self.on_terminal:
            say(f"{self.label}: step {state.global_step} of {state.max_steps}, loss {logs['loss']:.4f}, {pace:.2f} s/step")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was, also when the training stops early."""
        self._shown.close()


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that was cut short is left out."""
    if not file.is_file():
        return []
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
