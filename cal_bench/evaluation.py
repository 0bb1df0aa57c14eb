"""Several benchmarks on one checkpoint: what `eval` and `study` share."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cal_bench.doctor import JAVA_HELP
from cal_bench.models import HFModel, Model
from cal_bench.processes import say_once
from cal_bench.ranks import Ranks, joined
from cal_bench.records import Identity
from cal_bench.runner import Evaluation, evaluate
from cal_bench.runs import Run
from cal_bench.scoring import HUB, result_line, seen_from
from cal_bench.tasks import Task, check_java, get, open_task
from cal_bench.tasks.base import BenchmarkError
from cal_bench.train import Processing

_LISTED = 10


@dataclass(frozen=True)
class Options:
    """How a checkpoint is run on its benchmarks."""

    batch_size: int | None
    limit: int | None = None
    processing: Processing = "original"
    data: str = HUB


class Known(Model, Protocol):
    """A model that says whose answers it gives."""

    def identity(self) -> Identity:
        """Weights, processor and precision."""


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The benchmarks, each once; what can be scored only approximately here is said before anything starts."""
    benchmarks = [get(name) for name in dict.fromkeys(names)]
    if rough := check_java(benchmarks):
        say_once(
            f"No Java here: {' and '.join(rough)} will be scored with a tokenizer that is nearly the published one (cider_approx), "
            f"and kept out of tables. To get Java, type: {JAVA_HELP}"
        )
    return tuple(benchmark.name for benchmark in benchmarks)


def open_tasks(names: Iterable[str], data: str) -> list[Task]:
    """The benchmarks with their data, which is looked at before anything is answered."""
    return [open_task(get(name), data) for name in names]


def evaluate_checkpoint(checkpoint: Path, tasks: Sequence[Task], folder: Path, options: Options) -> list[Evaluation]:
    """Run the benchmarks on a folder of transformers."""
    return evaluate_model(HFModel(checkpoint, batch_size=options.batch_size, processing=options.processing), tasks, folder, options)


def evaluate_model(model: Known, tasks: Sequence[Task], folder: Path, options: Options) -> list[Evaluation]:
    """Run the benchmarks one after the other; each is on disk when the next begins. Processes of a launcher share the samples."""
    config = {**asdict(options), "data": seen_from(folder, options.data)}
    with joined() as ranks:
        run = ranks.once(lambda: Run.open(folder, model.identity(), config))
        return [_told(_evaluated(model, task, run, options.limit, ranks)) for task in tasks]


def _evaluated(model: Model, task: Task, run: Run, limit: int | None, ranks: Ranks) -> Evaluation:
    """A row that cannot be asked or scored spoils its own benchmark and no other."""
    try:
        return evaluate(model, task, run, limit, ranks)
    except BenchmarkError as error:
        return Evaluation(task.benchmark.name, None, fault=str(error))


def _told(evaluation: Evaluation) -> Evaluation:
    say_once(result_line(evaluation))
    for number, reason in list(evaluation.unanswered.items())[:_LISTED]:
        say_once(f"  sample {number}: {reason}")
    return evaluation
