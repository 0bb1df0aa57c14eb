"""Scores of answers that are there already: made elsewhere, or stored in a run."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.doctor import JAVA_HELP
from cal_bench.errors import UserError, suggest
from cal_bench.progress import say
from cal_bench.records import Answer, Identity, TaskResult
from cal_bench.runner import Evaluation, questions, scored
from cal_bench.runs import Run, read_run
from cal_bench.tasks import Sample, Task, get, open_task

HUB = "hub"
# Answers in a file say nothing of the weights they come from: the run folder is what keeps those of two models apart.
ELSEWHERE = Identity("answers made elsewhere", "not known")
NOTED = 0.01  # share of odd answers above which they are told of
_LISTED = 20
_LINE = '{"id": row number, "answer": text}'


@dataclass(frozen=True)
class Rescored:
    """A benchmark of a run before and after it was scored again; no `before` where it had no summary."""

    before: TaskResult | None
    after: Evaluation


def score_file(name: str, predictions: Path, data: str, folder: Path) -> TaskResult:
    """Score the answers in a JSONL file, and keep them as a run."""
    texts = read_predictions(predictions)
    task = open_task(get(name), data)
    samples = task.samples()
    _check_ids(predictions, set(texts), {sample.id for sample in samples})
    run = Run.open(folder, ELSEWHERE, {"data": seen_from(folder, data)})
    return keep(task, samples, texts, run)


def keep(task: Task, samples: Sequence[Sample], texts: Mapping[int, str], run: Run, limit: int | None = None) -> TaskResult:
    """Put the answers to these samples into a run and score them; other answers to one of them are refused."""
    name = task.benchmark.name
    run.begin(name, questions(task, samples, limit))
    with run.appending(name) as append:
        kept = run.answered(name)
        for sample in samples:
            if sample.id in kept and kept[sample.id].text != texts[sample.id]:
                raise UserError(
                    f"{run.folder} holds another answer to sample {sample.id} of {name}. "
                    f"Give another run folder, or delete {name}.jsonl and {name}.json in it."
                )
        for sample in samples:
            if sample.id not in kept:
                append(Answer(sample.id, sample.prompt_hash, texts[sample.id], 0.0))
    return run.finish(scored(task, run, samples, limit))


def rescore(folder: Path, data: str | None = None) -> list[Rescored]:
    """Score every benchmark of a run again from its stored answers; `data` where they no longer lie where the run found them."""
    record = read_run(folder)
    if not record.benchmarks:
        raise UserError(f"{folder} holds no answers yet. Give a run that cal-bench eval, score or import has filled.")
    found = data or seen_at(folder, str(record.config.get("data", HUB)))
    tasks = [open_task(get(name), found) for name in record.benchmarks]
    run = Run.open(folder, record.identity, record.config)
    return [_rescore(task, run) for task in tasks]


def _rescore(task: Task, run: Run) -> Rescored:
    name = task.benchmark.name
    asked, before = run.record.benchmarks[name].questions, run.result(name)
    if before is not None and task.approximate and not before.approximate:
        say(f"{name}: without Java there is only an approximate score, so the exact one stays. To get Java, type: {JAVA_HELP}")
        return Rescored(before, Evaluation(name, before))
    kept = run.answered(name)
    samples = [sample for sample in task.samples() if sample.id in kept]
    if len(kept) < asked.samples:
        reasons = run.record.benchmarks[name].unanswered
        waiting = [sample.id for sample in task.samples(asked.limit) if sample.id not in kept]
        return Rescored(before, Evaluation(name, None, {id: reasons.get(id, "not answered yet") for id in waiting}))
    run.begin(name, questions(task, samples, asked.limit))
    return Rescored(before, Evaluation(name, run.finish(scored(task, run, samples, asked.limit))))


def seen_from(folder: Path, data: str) -> str:
    """Where the data lies, as a run record says it: as seen from the run, so that it names no folder of this machine above both."""
    return data if data == HUB else os.path.relpath(Path(data).expanduser().resolve(), folder.resolve())


def seen_at(folder: Path, recorded: str) -> str:
    """The same from here."""
    return recorded if recorded == HUB else os.path.normpath(folder / recorded)


def read_predictions(path: Path) -> dict[int, str]:
    """The answers of a file with one {"id": row number, "answer": text} per line; a "row" takes the place of the id."""
    if not path.exists() or path.is_dir():  # a pipe will do
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"The file of answers {path} {kind}. Expected a file with one {_LINE} per line.")
    try:
        # Only \n ends a line of JSON: an answer may hold other separators.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}. Expected one {_LINE} per line.") from error
    texts: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, text = _prediction(f"{path}, line {number}", line)
        if key in texts:
            raise UserError(f"{path}, line {number}: id {key} has an answer already. Keep one answer per id.")
        texts[key] = text
    return texts


def result_line(evaluation: Evaluation) -> str:
    """How one benchmark went, for people."""
    result = evaluation.result
    if result is None:
        fault = evaluation.fault or f"{len(evaluation.unanswered)} samples could not be answered"
        return f"{evaluation.benchmark:<14} not complete: {fault}"
    limited = ", limited" if result.limit is not None else ""
    counts = ((result.unreadable, "unreadable"), (result.empty, "empty"), (result.truncated, "cut off"))
    odd = [f"{count} {word}" for count, word in counts if count > NOTED * result.n]
    rough = ["cider_approx"] if result.approximate else []
    notes = ", ".join([f"{result.n} samples{limited}", *rough, *odd])
    return f"{result.benchmark:<14} {result.column:<14} {result.score:8.{result.decimals}f} {result.unit:<7} ({notes})"


def change_line(rescored: Rescored) -> str:
    """How one benchmark went the second time, and what it was the first."""
    line, before, result = result_line(rescored.after), rescored.before, rescored.after.result
    if before is None or result is None:
        return line
    return f"{line}, {'as before' if before.score == result.score else f'was {before.score:.{before.decimals}f}'}"


def metric_lines(result: TaskResult) -> list[str]:
    """Every number under its own name: lmms-eval's, then those of the second rules."""
    width = max(map(len, result.metrics))
    return [f"  {name:<{width}}  {'no value' if value is None else f'{value:.4f}'}" for name, value in result.metrics.items()]


def _prediction(place: str, line: str) -> tuple[int, str]:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not whole JSON ({error}): {_shortened(line)}. Expected {_LINE}.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{place}: expected {_LINE}, got {_shortened(line)}.")
    if "answer" not in raw:
        raise UserError(f"{place} has no 'answer', only {', '.join(map(repr, raw)) or 'nothing'}. Expected {_LINE}.")
    if not isinstance(raw["answer"], str):
        raise UserError(f"{place}: the answer is {_shortened(json.dumps(raw['answer']))}. Expected text in quotes.")
    return _row(place, raw), raw["answer"]


def _row(place: str, raw: Mapping[str, Any]) -> int:
    name = "row" if "row" in raw else "id"
    if name not in raw:
        raise UserError(f"{place} has no 'id'.{suggest('id', raw)} Expected {_LINE}.")
    if type(raw[name]) is not int:
        raise UserError(
            f"{place}: the {name} is {_shortened(json.dumps(raw[name]))}. Expected the row number in the data, from 0. "
            'Where the id must stay as it is, add "row": row number.'
        )
    return int(raw[name])


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _check_ids(path: Path, given: set[int], wanted: set[int]) -> None:
    problems = [
        f"  {len(ids)} {what}: {_ranges(sorted(ids))}"
        for what, ids in (("missing", wanted - given), ("not in the benchmark", given - wanted))
        if ids
    ]
    if problems:
        raise UserError(f"The ids of {path} are not those of the benchmark ({len(wanted)} samples):\n" + "\n".join(problems))


def _ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_LISTED]]
    return ", ".join(shown) + (f" and {len(runs) - _LISTED} more stretches" if len(runs) > _LISTED else "")
