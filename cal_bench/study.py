"""A study: train every arm, evaluate every arm, write the tables. Whatever is already done and unchanged is kept."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.config import MINIWORLD, StudyConfig, dump_study, in_world
from cal_bench.errors import UserError
from cal_bench.evaluation import Options, checked, evaluate_checkpoint, open_tasks
from cal_bench.evidence import TABLES, arm_record, write_evidence
from cal_bench.miniworld import assemble, draw_world
from cal_bench.models import checkpoint_folder
from cal_bench.preflight import check_disk, check_files, check_stages
from cal_bench.progress import say
from cal_bench.runner import Evaluation
from cal_bench.runs import write_atomically
from cal_bench.train import RECORD as TRAINING
from cal_bench.train import train_stage
from cal_bench.trainer_plugin import CALConfig

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Ready:
    """A study whose data and base are there and whole; its paths are those of this machine."""

    study: StudyConfig
    out: Path
    base: Path


@dataclass(frozen=True)
class Outcome:
    """The tables as markdown; complete if every sample of every benchmark that can be scored here was answered."""

    tables: str
    complete: bool


def run_study(study: StudyConfig, out: Path, command: str) -> Outcome:
    """Everything, from the config to the tables."""
    names = checked(study.evaluate.benchmarks)
    ready = prepare(study, out)
    tasks = open_tasks(names, ready.study.evaluate.data)
    options = Options(study.evaluate.batch_size, study.evaluate.limit, study.processing, ready.study.evaluate.data)
    done: list[Evaluation] = []
    for arm in study.arms:
        checkpoint = train_arm(ready, arm)
        say(f"{arm}: evaluating on {len(tasks)} benchmarks")
        done += evaluate_checkpoint(checkpoint, tasks, run_folder(out, arm), options)
    tables = write_evidence(out, command, {arm: _record(study, out, arm) for arm in study.arms})
    say(f"Tables: {out / TABLES}\nCheckpoints: {out / 'arms'}\nAnswers and scores: {out / 'runs'}")
    if rough := dict.fromkeys(result.benchmark for evaluation in done if (result := evaluation.result) and result.approximate):
        say(f"Not in the tables for want of Java: {', '.join(rough)}. Once it is there, the same command adds them.")
    say(f"Next: cal-bench table {out}")
    return Outcome(tables, all(evaluation.complete for evaluation in done))


def prepare(study: StudyConfig, out: Path) -> Ready:
    """Draw or find the data and the base, and look at everything that could fail an hour later."""
    _make_folder(out)
    write_atomically(out / CONFIG, dump_study(study, out))
    if study.world is not None:
        say(f"Drawing the miniature world in {out / 'data'} (kept for the next time)")
        draw_world(out / "data", study.world)
    study = in_world(study, out / "data")
    check_files(study)
    base = _base(study, out)
    check_stages(study, base)
    check_disk(base, {stage_folder(study, out, arm, stage) for arm in study.arms for stage in study.stages})
    return Ready(study, out, base)


def train_arm(ready: Ready, arm: str, last: str | None = None) -> Path:
    """Train the stages of one arm up to `last`, each from where the one before it ended; the folder of the last."""
    study = ready.study
    checkpoint = ready.base
    for stage in stages_until(study, last):
        folder = stage_folder(study, ready.out, arm, stage)
        cal = study.arms[arm].get(stage)
        say(f"{arm}: stage {stage}, {'with CAL' if cal else 'without CAL'}")
        train_stage(checkpoint, folder, study.stages[stage], cal)
        checkpoint = folder
    return checkpoint


def stages_until(study: StudyConfig, last: str | None) -> list[str]:
    """The stages in their order, up to and with `last`."""
    stages = list(study.stages)
    return stages if last is None else stages[: stages.index(last) + 1]


def stage_folder(study: StudyConfig, out: Path, arm: str, stage: str) -> Path:
    """Where a stage is trained. Arms with the same CAL settings up to it share it, in the folder of the first of them."""

    def settings(name: str) -> list[CALConfig | None]:
        return [study.arms[name].get(done) for done in stages_until(study, stage)]

    first = next(name for name in study.arms if settings(name) == settings(arm))
    return out / "arms" / first / stage


def _record(study: StudyConfig, out: Path, arm: str) -> dict[str, Any]:
    folders = {stage: stage_folder(study, out, arm, stage) for stage in study.stages}
    training = {stage: json.loads((folder / TRAINING).read_text(encoding="utf-8")) for stage, folder in folders.items()}
    return arm_record(training, run_folder(out, arm), out)


def run_folder(out: Path, arm: str) -> Path:
    """Where an arm's answers and scores are."""
    return out / "runs" / arm


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {out} cannot be made: {error.strerror}. Give another with --out.") from error


def _base(study: StudyConfig, out: Path) -> Path:
    """The folder of the checkpoint that every arm starts from."""
    if study.model != MINIWORLD:
        return checkpoint_folder(study.model)
    # No arm can have this name: names of arms start with a letter or a digit.
    base = out / "arms" / "_base"
    if not base.exists():
        assemble(base)
    return base
