"""Put a benchmark to a model: answer, record, score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cal_bench.progress import progress, unseen
from cal_bench.ranks import ALONE, Ranks
from cal_bench.records import Makeup, Questions, TaskResult, Unanswered, finite
from cal_bench.runs import Run, versions

if TYPE_CHECKING:
    from cal_bench.models import Model
    from cal_bench.tasks.base import Sample, Scores
    from cal_bench.tasks.load import Task


# Whose rules a score depends on.
SCORERS = ("lmms-eval", "cal-bench")


@dataclass(frozen=True)
class Evaluation:
    """How a benchmark went: its summary, or none where samples could not be answered, with the reason for each, or its data be used."""

    benchmark: str
    result: TaskResult | None
    unanswered: Mapping[int, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def complete(self) -> bool:
        return self.result is not None


def evaluate(model: Model, task: Task, run: Run, limit: int | None = None, ranks: Ranks = ALONE) -> Evaluation:
    """Answer what is still unanswered, score everything, record both; of several processes each does a share of the answering."""
    samples = task.samples(limit)
    done = ranks.once(lambda: _begun(task, run, samples, limit))
    if done is not None:
        return done
    unanswered = _answer(model, samples, _Place(run, task.benchmark.name), ranks)
    return ranks.once(lambda: _finished(task, run, samples, limit, unanswered))


@dataclass(frozen=True)
class _Place:
    """Where answers go."""

    run: Run
    benchmark: str


def _begun(task: Task, run: Run, samples: Sequence[Sample], limit: int | None) -> Evaluation | None:
    """How it went, where nothing is left to do."""
    name = task.benchmark.name
    run.begin(name, questions(task, samples, limit))
    done = run.result(name)
    # An approximate score is made again where it can be made as published ones are.
    if done is None or (done.approximate and not task.approximate):
        return None
    run.close(name)
    return Evaluation(name, done)


def _answer(model: Model, samples: Sequence[Sample], place: _Place, ranks: Ranks) -> dict[int, str]:
    """Put the samples that are still open to the model; gives those that could not be put to it."""
    shown = progress if ranks.rank == 0 else unseen
    label = place.benchmark if ranks.count == 1 else f"{place.benchmark} (first of {ranks.count} processes)"
    with place.run.appending(place.benchmark, ranks.rank, ranks.count) as append:
        kept = ranks.once(lambda: set(place.run.answered(place.benchmark)))
        waiting = ranks.share([sample for sample in samples if sample.id not in kept])

        def ask() -> dict[int, str]:
            unanswered: dict[int, str] = {}
            with shown(label, len(kept) + len(waiting), len(kept)) as advance:
                for reply in model.answer(waiting):
                    if isinstance(reply, Unanswered):
                        unanswered[reply.id] = reply.reason
                    else:
                        append(reply)
                    advance(1)
            return unanswered

        # The first process holds the benchmark's file, and with it other commands off, until all are done.
        reasons = ranks.each(ask)
    return {number: reason for own in reasons for number, reason in own.items()}


def _finished(task: Task, run: Run, samples: Sequence[Sample], limit: int | None, unanswered: dict[int, str]) -> Evaluation:
    name = task.benchmark.name
    run.gather(name)
    if unanswered:
        run.leave_open(name, unanswered)
        return Evaluation(name, None, unanswered)
    return Evaluation(name, run.finish(scored(task, run, samples, limit)))


def questions(task: Task, samples: Sequence[Sample], limit: int | None) -> Questions:
    """What a run's answers to these samples belong to."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.id):
        digest.update(f"{sample.id} {sample.prompt_hash}\n".encode())
    settings = {(sample.generation.max_new_tokens, sample.generation.until) for sample in samples}
    spoken = tuple(f"{tokens} tokens, until {list(until)}" for tokens, until in sorted(settings))
    return Questions(task.data_fingerprint, digest.hexdigest(), spoken, len(samples), limit)


def scored(task: Task, run: Run, samples: Sequence[Sample], limit: int | None) -> TaskResult:
    """The summary of the run's answers to these samples."""
    answers = run.answered(task.benchmark.name)
    scores = task.score({sample.id: answers[sample.id].text for sample in samples})
    benchmark = task.benchmark
    return TaskResult(
        benchmark=benchmark.name,
        column=benchmark.column,
        score=scores.headline,
        unit=benchmark.unit,
        decimals=benchmark.decimals,
        n=len(samples),
        limit=limit,
        unreadable=scores.unreadable,
        empty=scores.empty,
        data_fingerprint=task.data_fingerprint,
        prompts=questions(task, samples, limit).prompts,
        metrics=finite(scores.metrics),
        samples=tuple(sorted(scores.samples.items())),
        split=task.split,
        scorer=_scorer(scores),
        truncated=sum(answers[sample.id].truncated for sample in samples),
        makeup=_makeup(scores, samples),
        approximate=scores.approximate,
    )


def _scorer(scores: Scores) -> str:
    used = [f"{package} {version}" for package, version in versions().items() if package in SCORERS]
    return ", ".join([*used, "tokenizer without Java"] if scores.approximate else used)


def _makeup(scores: Scores, samples: Sequence[Sample]) -> Makeup | None:
    """What the score is made of, as it is kept: pictures by number, and nothing that every sample has alike."""
    if scores.makeup is None:
        return None
    numbers: dict[str, int] = {}
    ordered = sorted(samples, key=lambda sample: sample.id)
    parts = [scores.makeup.parts[sample.id] for sample in ordered]
    plain = all((part.numerator, part.denominator) == (scores.samples[sample.id], 1.0) for sample, part in zip(ordered, parts, strict=True))
    return Makeup(
        scale=scores.makeup.scale,
        pictures=tuple(numbers.setdefault(sample.cluster or f"none: {sample.id}", len(numbers)) for sample in ordered),
        categories=() if all(part.category == "" for part in parts) else tuple(part.category for part in parts),
        numerators=() if plain else tuple(part.numerator for part in parts),
        denominators=() if plain else tuple(part.denominator for part in parts),
        summed=scores.makeup.summed,
        of_the_set=scores.makeup.of_the_set,
    )
