"""What the arms of a study cost in training, as in the paper's Table 10, from their training logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cal_bench.evidence import read_details
from cal_bench.progress import duration
from cal_bench.table_text import code, escape

COSTS = "costs.md"
_NOTE = """\
Seconds per step: median over the lines of the training log, each the mean of ten steps. Whole: that times the steps, without loading and
saving. The arms were trained one after the other: their ratios are worth as much as the machine was quiet. Side by side, with peak memory
and the released code's own head: python benchmarks/train_step.py"""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """Of a stage of an arm: seconds per step, each the mean of some steps, and how many steps there were."""

    paces: tuple[float, ...]
    steps: int

    def pace(self) -> float:
        """Seconds per step."""
        return median(self.paces)


def costs_markdown(folders: Sequence[Path], command: str) -> str:
    """A table for each stage of a study in one folder per seed; empty where no log was kept (as of a list of studies)."""
    logs = [read_details(folder).logs for folder in folders]
    if not all(logs):
        return ""
    arms, stages = list(logs[0]), list(next(iter(logs[0].values())))
    parts = ["# Cost of training"]
    for stage in stages:
        parts.append("\n".join([f"## Stage {escape(stage)}", "", *_table({arm: _cost([log[arm][stage] for log in logs]) for arm in arms})]))
    return "\n\n".join([*parts, _NOTE, f"Made by {code(command)}.\n"])


def _cost(logs: Sequence[Sequence[Line]]) -> Cost:
    lines = [line for log in logs for line in log if "seconds_per_step" in line]
    return Cost(tuple(float(line["seconds_per_step"]) for line in lines), max((int(line["step"]) for line in lines), default=0))


def _table(costs: Mapping[str, Cost]) -> list[str]:
    known = {arm: cost for arm, cost in costs.items() if cost.paces}
    lines = ["| arm | steps | seconds per step | ratio | whole |", "| --- | ---: | ---: | ---: | ---: |"]
    for arm, cost in known.items():
        ratio = cost.pace() / next(iter(known.values())).pace()
        whole = duration(cost.pace() * cost.steps)
        lines.append(f"| {escape(arm)} | {cost.steps:,} | {cost.pace():.3f} | {ratio:.2f} | {whole} |")
    return lines
