"""A study: train every arm, evaluate every arm, write the tables. Whatever is already done and unchanged is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cal_bench.conclude import conclude
from cal_bench.config import StudyConfig, dump_study, in_world, load_study
from cal_bench.errors import UserError, as_typed
from cal_bench.evaluation import Options, checked, evaluate_checkpoint, open_tasks
from cal_bench.evidence import TABLES, arm_record, write_details, write_evidence
from cal_bench.launch import launch
from cal_bench.miniworld import MINIATURES, assemble, draw_world
from cal_bench.models import checkpoint_folder
from cal_bench.outlook import Work, evaluation_work, left_line, plan_lines, training_work
from cal_bench.preflight import check_disk, check_files, check_stages, outline
from cal_bench.processes import is_main, say_once, wait_for_all
from cal_bench.progress import say
from cal_bench.runner import Evaluation
from cal_bench.runs import CONFIG, write_atomically
from cal_bench.train import LOG, check_settings, finished, train_stage
from cal_bench.train import RECORD as TRAINING
from cal_bench.trainer_plugin import CALConfig


@dataclass(frozen=True)
class Ready:
    """A study whose data and base are there and whole; its paths are those of this machine.

    `launcher` is the command that trains each stage in several processes; empty to train in this one. `samples` is how many records
    each stage has, told to the main process alone.
    """

    study: StudyConfig
    out: Path
    base: Path
    launcher: tuple[str, ...] = ()
    samples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The tables as markdown; complete if every sample of every benchmark that can be scored here was answered."""

    tables: str
    complete: bool


def run_study(study: StudyConfig, out: Path, command: str, launcher: tuple[str, ...] = ()) -> Outcome:
    """Everything, from the config to the tables. Under a launcher every process calls this, and the main one writes."""
    names = checked(study.evaluate.benchmarks)
    ready = replace(prepare(study, out), launcher=launcher)
    tasks = open_tasks(names, ready.study.evaluate.data)
    options = Options(study.evaluate.batch_size, study.evaluate.limit, study.processing, ready.study.evaluate.data)
    done: list[Evaluation] = []
    if is_main():
        _say_plan(ready)
    for arm in study.arms:
        checkpoint = train_arm(ready, arm)
        _say_left(study, out)
        say_once(f"{arm}: evaluating on {len(tasks)} benchmarks")
        done += evaluate_checkpoint(checkpoint, tasks, run_folder(out, arm), options)
        _say_left(study, out)
    complete = all(evaluation.complete for evaluation in done)
    if not is_main():
        return Outcome("", complete)
    # First what there is in any case: without a benchmark that is complete and exact there are no tables.
    write_details(out, {arm: run_folder(out, arm) for arm in study.arms}, {arm: _logs(study, out, arm) for arm in study.arms})
    if rough := dict.fromkeys(result.benchmark for evaluation in done if (result := evaluation.result) and result.approximate):
        say(f"Not in the tables for want of Java: {', '.join(rough)}. Once it is there, the same command adds them.")
    tables = write_evidence(out, command, {arm: _record(study, out, arm) for arm in study.arms})
    conclude(out, command)
    say(f"Tables: {out / TABLES}\nCheckpoints: {out / 'arms'}\nAnswers and scores: {out / 'runs'}")
    if len(study.arms) > 1:
        say(f"Next: {as_typed('page', *_to_page(study, out))}")
    return Outcome(tables, complete)


def _to_page(study: StudyConfig, out: Path) -> list[Path]:
    """A page holds two arms: of more, the first and the last."""
    first, *_, last = study.arms
    return [out] if len(study.arms) == 2 else [run_folder(out, first), run_folder(out, last)]


def prepare(study: StudyConfig, out: Path) -> Ready:
    """Draw or find the data and the base, and look at everything that could fail an hour later; the other processes wait."""
    samples = _prepare(study, out) if is_main() else {}
    wait_for_all()
    return Ready(in_world(study, out / "data"), out, _base(study, out), samples=samples)


def check_trained(study: StudyConfig, out: Path) -> None:
    """Refuse other settings than those of trainings that are there, before the config and the data that belong to them are replaced."""
    trained = [
        check_settings(folder, study.stages[stage], study.arms[arm].get(stage))
        for stage, folders in _trainings(study, out).items()
        for folder, arm in folders.items()
    ]
    if any(trained) and (out / CONFIG).is_file() and (before := load_study(str(out / CONFIG)).world) != study.world:
        raise UserError(f"{out} holds trainings in another world: {before}. Give another folder, or delete it to train again.")


def _write_config(study: StudyConfig, path: Path) -> None:
    text = dump_study(study, path.parent)
    # Arms that are trained side by side would else write the same file at the same time.
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def _prepare(study: StudyConfig, out: Path) -> dict[str, int]:
    """Gives how many records each stage has."""
    make_folder(out)
    check_trained(study, out)
    _write_config(study, out / CONFIG)
    if study.world is not None:
        say(f"Drawing the miniature world in {out / 'data'} (kept for the next time)")
        draw_world(out / "data", study.world)
    located = in_world(study, out / "data")
    check_files(located)
    base = _base(study, out)
    model = outline(base)
    samples = check_stages(located, base, model)
    trainings = _trainings(study, out).items()
    check_disk(model, {folder: study.stages[stage] for stage, folders in trainings for folder in folders if not folder.exists()})
    return samples


def _say_plan(ready: Ready) -> None:
    study = ready.study
    stages = plan_lines(study.stages, ready.samples, _trainings(study, ready.out))
    answering = f"  then {len(study.evaluate.benchmarks)} benchmarks for each arm"
    say("\n".join([f"Plan of {study.name}, seed {study.seed}:", *stages, answering]))


def _trainings(study: StudyConfig, out: Path) -> dict[str, dict[Path, str]]:
    """The folders of each stage, with the arm whose they are."""
    folders = {stage: {stage_folder(study, out, arm, stage): arm for arm in reversed(study.arms)} for stage in study.stages}
    return {stage: dict(reversed(found.items())) for stage, found in folders.items()}


def works(study: StudyConfig, out: Path) -> list[Work]:
    """What of the study is done in `out`, and what waits."""
    trainings = [training_work(stage, folders) for stage, folders in _trainings(study, out).items()]
    runs = [run_folder(out, arm) for arm in study.arms]
    return [*trainings, evaluation_work(runs, len(study.evaluate.benchmarks))]


def _say_left(study: StudyConfig, out: Path) -> None:
    if is_main() and (line := left_line(works(study, out))):
        say(line)


def train_arm(ready: Ready, arm: str, last: str | None = None) -> Path:
    """Train the stages of one arm up to `last`, each from where the one before it ended; the folder of the last."""
    study = ready.study
    checkpoint = ready.base
    for stage in stages_until(study, last):
        folder = stage_folder(study, ready.out, arm, stage)
        training = (checkpoint, folder, study.stages[stage], study.arms[arm].get(stage))
        say_once(f"{arm}: stage {stage}, {'with CAL' if study.arms[arm].get(stage) else 'without CAL'}")
        if not ready.launcher:
            train_stage(*training)
        elif not finished(*training):
            launch(ready.launcher, ["train", str(ready.out / CONFIG), "--arm", arm, "--stage", stage, "--out", str(ready.out)])
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


def _logs(study: StudyConfig, out: Path, arm: str) -> dict[str, list[dict[str, float]]]:
    from cal_bench.train_log import read_log

    return {stage: read_log(stage_folder(study, out, arm, stage) / LOG) for stage in study.stages}


def run_folder(out: Path, arm: str) -> Path:
    """Where an arm's answers and scores are."""
    return out / "runs" / arm


def make_folder(out: Path) -> None:
    """The folder that a study writes into; UserError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {out} cannot be made: {error.strerror}. Give another with --out.") from error


def _base(study: StudyConfig, out: Path) -> Path:
    """The folder of the checkpoint that every arm starts from."""
    if study.model not in MINIATURES:
        return checkpoint_folder(study.model)
    # No arm can have this name: names of arms start with a letter or a digit.
    base = out / "arms" / "_base"
    if not base.exists():
        assemble(base, MINIATURES[study.model])
    return base
