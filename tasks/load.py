"""Opening a benchmark: its questions, and the scores of answers to them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Benchmark, BenchmarkError, Generation, Makeup, Marked, Part, Sample, Scores, mean
from .captions import check_java

if TYPE_CHECKING:
    from .lmms import Definition
    from .rows import Rows

__all__ = ["Task", "check_java", "open_task"]

# One draw for all models and benchmarks; a smaller limit gives a part of what a larger one gives.
LIMIT_SEED = 0
# The name of a CIDEr that was made without Java's tokenizer.
APPROXIMATE = "cider_approx"
# What lmms-eval's functions raise on a row whose columns are there but hold something else than they expect.
UNFIT_ROW = (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError)


def open_task(benchmark: Benchmark, data: str) -> Task:
    """The benchmark on its data: "hub", a folder that holds <file>.parquet or <file>/*.parquet, or a parquet file."""
    from .lmms import read_definition
    from .rows import read_rows

    definition = read_definition(benchmark)
    return Task(benchmark, definition, read_rows(benchmark, definition, data))


@dataclass(frozen=True)
class _Place:
    """Where a sample lies in the data: its row, and for RefCOCOg which of the row's expressions it is."""

    row: int
    expression: int | None = None


class Task:
    """A benchmark with its data open."""

    def __init__(self, benchmark: Benchmark, definition: Definition, rows: Rows) -> None:
        self.benchmark = benchmark
        self.data_fingerprint = rows.fingerprint
        self.split = definition.split
        self._definition = definition
        self._rows = rows
        self._places = _places(benchmark, rows)
        self._pairs = _pairs(benchmark, rows, self._places)

    @property
    def approximate(self) -> bool:
        """Whether scores are approximate here, for want of Java."""
        return bool(check_java([self.benchmark]))

    @property
    def generation_settings(self) -> Mapping[str, Any]:
        """How lmms-eval has its models answer."""
        settings: Mapping[str, Any] = self._definition.config.generation_kwargs
        return settings

    def samples(self, limit: int | None = None) -> list[Sample]:
        """The questions in the order of the data; with a limit the same random ones for every model.

        The two questions of an MME picture stay together, so an odd limit is rounded up there.
        """
        generation = self._definition.generation(self.benchmark)
        return [self._sample(id, generation) for id in self._drawn(limit)]

    def score(self, answers: Mapping[int, str]) -> Scores:
        """The scores of exactly these answers; a question without an answer takes no part."""
        from .lmms import read_definition

        self._check_ids(answers)
        definition = read_definition(self.benchmark)
        marks = [self._mark(definition, id, answers[id]) for id in sorted(answers)]
        with _blame(self.benchmark, "add up the scores"):
            return self._scores(definition, marks)

    def _scores(self, definition: Definition, marks: Sequence[Marked]) -> Scores:
        samples, metrics = self._totals(definition, marks)
        metrics |= self.benchmark.second_rules(marks)
        metric = APPROXIMATE if self.approximate else self.benchmark.metric
        if metric not in metrics:
            name = self.benchmark.name
            raise BenchmarkError(f"{name}: none of the {len(marks)} rows scored counts for {metric}. Raise the limit.")
        return Scores(
            headline=metrics[metric] * self.benchmark.scale,
            metrics=metrics,
            samples=samples,
            unreadable=sum(self.benchmark.unreadable(mark) for mark in marks),
            empty=sum(not mark.answer for mark in marks),
            makeup=_makeup(self.benchmark, marks, samples),
            approximate=self.approximate,
        )

    def _drawn(self, limit: int | None) -> list[int]:
        if limit is None:
            return list(self._places)
        if limit < 1:
            raise BenchmarkError(f"{self.benchmark.name}: a limit of {limit} leaves nothing. Give 1 or more, or no limit.")
        groups = [*self._pairs] or [(id,) for id in self._places]
        random.Random(LIMIT_SEED).shuffle(groups)
        size = len(groups[0])
        return sorted(id for group in groups[: -(-limit // size)] for id in group)

    def _sample(self, id: int, generation: Generation) -> Sample:
        place = self._places[id]
        with self._blame(id, "make a question of"):
            prompt = self._definition.prompt(self._question(place))
        return Sample(
            id=id,
            prompt=prompt,
            load_images=functools.partial(self._load_images, place),
            generation=generation,
            prompt_hash=hashlib.sha256(repr((prompt, generation)).encode()).hexdigest()[:16],
            cluster=self._rows.cluster(place.row),
            sizes=self._rows.sizes(place.row),
        )

    def _load_images(self, place: _Place) -> list[Any]:
        row = {**self._question(place), "image": self._rows.decoded(place.row)}
        with _blame(self.benchmark, f"show the picture of {self._rows.place(place.row)}"):
            return self._definition.pictures(row)

    def _question(self, place: _Place) -> dict[str, Any]:
        row = self._rows.text(place.row)
        return row if place.expression is None else {**row, "answer": row["answer"][place.expression]}

    def _mark(self, definition: Definition, id: int, text: str) -> Marked:
        place, answer = self._places[id], text.strip()
        row = self._question(place)
        picture = None if place.expression is None else self._rows.picture_size(place.row)
        with self._blame(id, "score"):
            if picture is not None:
                row["bbox"] = _share_of_picture(row["bbox"], picture, self._rows.box_type)
            result, guessed = definition.mark(dict(row), answer, seed=f"{self.benchmark.name} {id}")
        return Marked(id, self._rows.text(place.row), answer, text, result, guessed, picture)

    def _totals(self, definition: Definition, marks: Sequence[Marked]) -> tuple[dict[int, float], dict[str, float]]:
        """The score of each sample, and lmms-eval's aggregates."""
        benchmark = self.benchmark
        if benchmark.set_scores is not None:
            scores = benchmark.set_scores(marks)
            metric = APPROXIMATE if self.approximate else benchmark.metric
            return {mark.id: score for mark, score in zip(marks, scores, strict=True)}, {metric: mean(scores)}
        assert benchmark.sample_score is not None, f"{benchmark.name} declares no score"
        return {mark.id: benchmark.sample_score(dict(mark.result)) for mark in marks}, _aggregates(benchmark, definition, marks)

    def _check_ids(self, answers: Mapping[int, str]) -> None:
        name = self.benchmark.name
        if not answers:
            raise BenchmarkError(f"{name}: there are no answers to score.")
        unknown = sorted(set(answers) - set(self._places))
        if unknown:
            raise BenchmarkError(f"{name}: the data has no sample {unknown[0]}. Are these answers to other data?")
        for pair in self._pairs:
            missing = [id for id in pair if id not in answers]
            if missing and len(missing) < len(pair):
                raise BenchmarkError(f"{name}: sample {missing[0]} lacks an answer, though the other question on its picture has one.")

    @contextlib.contextmanager
    def _blame(self, id: int, what: str) -> Iterator[None]:
        with _blame(self.benchmark, f"{what} {self._rows.place(self._places[id].row)}"):
            yield


@contextlib.contextmanager
def _blame(benchmark: Benchmark, what: str) -> Iterator[None]:
    try:
        yield
    except BenchmarkError:
        raise
    except UNFIT_ROW as error:
        kind = type(error).__name__
        raise BenchmarkError(f"{benchmark.name}: lmms-eval's code cannot {what}: {kind}: {error}. Check the data.") from error


def _places(benchmark: Benchmark, rows: Rows) -> dict[int, _Place]:
    if benchmark.expressions:
        every = [_Place(row, k) for row, text in enumerate(rows.texts) for k in range(len(_expressions(text, row, rows)))]
        if not every:
            raise BenchmarkError(f"{benchmark.name}: no row has an expression in 'answer'. Give data of this benchmark.")
        return dict(enumerate(every))
    if benchmark.only is None:
        return {row: _Place(row) for row in range(len(rows.texts))}
    column, value = benchmark.only
    found = {row: _Place(row) for row, text in enumerate(rows.texts) if text[column] == value}
    if not found:
        raise BenchmarkError(f"{benchmark.name}: no row has {column} {value!r}. Give data of this benchmark.")
    return found


def _expressions(text: Mapping[str, Any], row: int, rows: Rows) -> list[str]:
    answer = text["answer"]
    if not isinstance(answer, list):
        raise BenchmarkError(f"{rows.place(row)}: 'answer' is {answer!r}. Expected a list of expressions.")
    return answer


def _pairs(benchmark: Benchmark, rows: Rows, places: Mapping[int, _Place]) -> list[tuple[int, ...]]:
    """The ids that belong together, two by two; empty where samples are independent."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for id, place in places.items() if benchmark.pair else ():
        groups.setdefault(tuple(rows.texts[place.row][column] for column in benchmark.pair), []).append(id)
    for key, ids in groups.items():
        if len(ids) != 2:
            where = rows.place(ids[0])
            raise BenchmarkError(f"{benchmark.name}: {where} is one of {len(ids)} rows for {key}. Expected two for each picture.")
    return [tuple(ids) for ids in groups.values()]


def _share_of_picture(box: Sequence[float], size: tuple[int, int], box_type: Any) -> list[float]:
    """[x, y, width, height] in pixels as [left, top, right, bottom] in shares of the picture.

    lmms-eval stores these back into the column, which rounds them to its type.
    """
    (x, y, width, height), (across, down) = box, size
    return [float(box_type(share)) for share in (x / across, y / down, (x + width) / across, (y + height) / down)]


def _makeup(benchmark: Benchmark, marks: Sequence[Marked], samples: Mapping[int, float]) -> Makeup:
    """What the headline is made of; by default the plain mean of the samples' scores."""
    shares = benchmark.shares(marks) if benchmark.shares else [(samples[mark.id], 1.0) for mark in marks]
    categories = [benchmark.category(mark) if benchmark.category else "" for mark in marks]
    parts = {mark.id: Part(category, *share) for mark, category, share in zip(marks, categories, shares, strict=True)}
    return Makeup(benchmark.scale, parts, benchmark.sums_categories, of_the_set=benchmark.set_scores is not None)


def _aggregates(benchmark: Benchmark, definition: Definition, marks: Sequence[Marked]) -> dict[str, float]:
    from .lmms import quiet

    metrics: dict[str, float] = {}
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for metric in definition.aggregations():
            values = [mark.result[metric] for mark in marks if metric in mark.result]
            if values and benchmark.row_by_row:
                metrics[metric] = mean([_guarded(definition, metric, value, folder) for value in values])
            elif values:
                with _blame(benchmark, f"add up {metric}"):
                    metrics[metric] = definition.aggregate(metric, values, folder)
    return metrics


def _guarded(definition: Definition, metric: str, value: Any, folder: str) -> float:
    try:
        score = definition.aggregate(metric, [value], folder)
    except ZeroDivisionError:
        return 0.0
    return score if math.isfinite(score) else 0.0
