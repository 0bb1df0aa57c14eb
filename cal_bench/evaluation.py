"""Several benchmarks on one checkpoint: what `eval`, `score` and `study` share."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cal_bench.doctor import JAVA_HELP
from cal_bench.errors import UserError
from cal_bench.models import HFModel
from cal_bench.progress import say
from cal_bench.records import Answer, Identity
from cal_bench.runner import Evaluation, evaluate
from cal_bench.runs import Run
from cal_bench.tasks import Sample, Task, check_java, get, open_task

_LISTED = 10


@dataclass(frozen=True)
class Options:
    """How a checkpoint is run on its benchmarks."""

    batch_size: int
    limit: int | None = None


@dataclass(frozen=True)
class Stored:
    """Answers that were made elsewhere, as a model."""

    texts: Mapping[int, str]

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer]:
        for sample in samples:
            yield Answer(sample.id, sample.prompt_hash, self.texts[sample.id], 0.0)


def without_java(names: Iterable[str]) -> tuple[str, ...]:
    """The benchmarks that can be scored here; says which cannot and why, before anything starts."""
    benchmarks = [get(name) for name in dict.fromkeys(names)]
    left_out = check_java(benchmarks)
    if left_out:
        say(f"No Java here: {' and '.join(left_out)} cannot be scored and will not be run; all others will. To get it, type: {JAVA_HELP}")
    return tuple(benchmark.name for benchmark in benchmarks if benchmark.name not in left_out)


def open_tasks(names: Iterable[str], data: str) -> list[Task]:
    """The benchmarks with their data, which is looked at before anything is answered."""
    return [open_task(get(name), data) for name in names]


def evaluate_checkpoint(checkpoint: Path, tasks: Sequence[Task], folder: Path, options: Options) -> list[Evaluation]:
    """Run the benchmarks one after the other; each is on disk when the next begins."""
    model = HFModel(checkpoint, batch_size=options.batch_size)
    run = Run.open(folder, model.identity(), asdict(options))
    return [_told(evaluate(model, task, run, options.limit)) for task in tasks]


def score_file(name: str, predictions: Path, data: str, folder: Path) -> Evaluation:
    """Score the answers in a JSONL file, and keep them as a run."""
    texts = read_predictions(predictions)
    task = open_task(get(name), data)
    _check_ids(predictions, set(texts), {sample.id for sample in task.samples()})
    content = hashlib.sha256(predictions.read_bytes()).hexdigest()
    run = Run.open(folder, Identity(predictions.name, content))
    return evaluate(Stored(texts), task, run)


def read_predictions(path: Path) -> dict[int, str]:
    """The answers of a file with one {"id": number, "answer": text} per line."""
    if not path.is_file():
        raise UserError(f'There is no file {path}. Expected one {{"id": row number, "answer": text}} per line.')
    texts: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        key, text = _prediction(path, number, line)
        if key in texts:
            raise UserError(f"{path}, line {number}: id {key} has an answer already. Keep one answer per id.")
        texts[key] = text
    return texts


def result_line(evaluation: Evaluation) -> str:
    """How one benchmark went, for people."""
    result = evaluation.result
    if result is None:
        return f"{evaluation.benchmark:<14} not complete: {len(evaluation.unanswered)} samples could not be answered"
    limited = ", limited" if result.limit is not None else ""
    odd = [f"{count} {word}" for count, word in ((result.unreadable, "unreadable"), (result.empty, "empty")) if count]
    notes = ", ".join([f"{result.n} samples{limited}", *odd])
    return f"{result.benchmark:<14} {result.column:<14} {result.score:8.{result.decimals}f} {result.unit:<7} ({notes})"


def _told(evaluation: Evaluation) -> Evaluation:
    say(result_line(evaluation))
    for number, reason in list(evaluation.unanswered.items())[:_LISTED]:
        say(f"  sample {number}: {reason}")
    return evaluation


def _prediction(path: Path, number: int, line: str) -> tuple[int, str]:
    expected = f'{path}, line {number}: expected {{"id": row number, "answer": text}}, got {line[:80]!r}'
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise UserError(expected) from error
    if not isinstance(raw, dict) or type(raw.get("id")) is not int or not isinstance(raw.get("answer"), str):
        raise UserError(expected)
    return raw["id"], raw["answer"]


def _check_ids(path: Path, given: set[int], wanted: set[int]) -> None:
    problems = [
        f"  {len(ids)} {what}: {', '.join(map(str, sorted(ids)))}"
        for what, ids in (("missing", wanted - given), ("not in the benchmark", given - wanted))
        if ids
    ]
    if problems:
        raise UserError(f"The ids of {path} are not those of the benchmark ({len(wanted)} samples):\n" + "\n".join(problems))
