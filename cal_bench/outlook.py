"""What a study is going to do, and how long that will still take: asked of its config and of what lies in its folders."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.progress import duration
from cal_bench.runs import RECORD as RUN
from cal_bench.runs import Run, read_results, read_run
from cal_bench.train import RECORD as TRAINING
from cal_bench.train import StageConfig

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Work:
    """Pieces of one kind, a stage or the evaluation: the seconds that each of those done took, and how many wait."""

    kind: str
    seconds: tuple[float, ...]
    waiting: int

    def left(self) -> float:
        """Seconds for those that wait, if they take as long as those done."""
        return self.waiting * sum(self.seconds) / len(self.seconds)


def plan_lines(stages: Mapping[str, StageConfig], samples: Mapping[str, int], trainings: Mapping[str, Mapping[Path, str]]) -> list[str]:
    """A line for each stage; `trainings` are its folders and the arm that each belongs to, arms that share one being left out."""
    width = max(map(len, stages))
    return [
        f"  {name:<{width}}  {samples[name]:,} samples, {step_count(stage, samples[name]):,} steps; "
        f"{len(trainings[name])} x: {', '.join(trainings[name].values())}"
        for name, stage in stages.items()
    ]


def step_count(stage: StageConfig, samples: int) -> int:
    """Optimizer steps of a stage, on any number of processes."""
    return stage.max_steps if stage.max_steps > 0 else math.ceil(stage.epochs * math.ceil(samples / stage.batch_size))


def training_work(stage: str, folders: Iterable[Path]) -> Work:
    """What is done and what waits of a stage."""
    return _work(stage, [_training_seconds(folder) for folder in folders])


def evaluation_work(runs: Iterable[Path], benchmarks: int) -> Work:
    """What is done and what waits of the evaluations."""
    return _work(EVALUATION, [_evaluation_seconds(run, benchmarks) for run in runs])


def merged(works: Iterable[Work]) -> list[Work]:
    """The same work with one entry for each kind."""
    kinds: dict[str, list[Work]] = {}
    for work in works:
        kinds.setdefault(work.kind, []).append(work)
    return [
        Work(kind, tuple(one for work in same for one in work.seconds), sum(work.waiting for work in same)) for kind, same in kinds.items()
    ]


def left_line(works: Sequence[Work]) -> str:
    """How long it will still take, as far as it is known; empty where nothing waits."""
    waiting = [work for work in works if work.waiting]
    known, unknown = [work for work in waiting if work.seconds], [work for work in waiting if not work.seconds]
    parts = [f"about {duration(sum(work.left() for work in known))} for {_listed(known)}"] if known else []
    parts += [f"not known yet for {_listed(unknown)}"] if unknown else []
    return f"Time left: {'; '.join(parts)}" if parts else ""


def done_line(works: Iterable[Work]) -> str:
    """What is done of each kind; empty where nothing is."""
    return ", ".join(f"{len(work.seconds)} of {len(work.seconds) + work.waiting} x {work.kind}" for work in works if work.seconds)


def _listed(works: Iterable[Work]) -> str:
    return ", ".join(f"{work.waiting} x {work.kind}" for work in works)


def _work(kind: str, seconds: Sequence[float | None]) -> Work:
    done = tuple(one for one in seconds if one is not None)
    return Work(kind, done, len(seconds) - len(done))


def _training_seconds(folder: Path) -> float | None:
    """None while it is not complete. Of one that was stopped and went on, its last part stretched to all steps."""
    if not (folder / TRAINING).is_file():
        return None
    record: dict[str, Any] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    if record["status"] != "complete":
        return None
    steps = int(record["steps"])
    here = steps - int(record["resumed_at_step"] or 0)
    return float(record["wall_seconds"]) * steps / max(here, 1)


def _evaluation_seconds(run: Path, benchmarks: int) -> float | None:
    """None while a benchmark is missing."""
    if not (run / RUN).is_file():
        return None
    done = read_results(run)
    if len(done) < benchmarks:
        return None
    opened = Run(run, read_run(run))
    return sum(answer.seconds for name in done for answer in opened.answered(name).values())
