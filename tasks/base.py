"""The nouns of a benchmark. Importing this is cheap: nothing here needs lmms-eval, torch or datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


class BenchmarkError(ValueError):
    """Says what is wrong with a benchmark, its data or its answers, what was expected, and what to type."""

    in_all = False  # whether each of several processes has it


@dataclass(frozen=True)
class Generation:
    """How long an answer may get, and the strings that end it."""

    max_new_tokens: int
    until: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One question: the pictures go first, then the prompt, which holds no placeholder for them."""

    id: int  # row number in the data; for RefCOCOg the row number after one row per expression
    prompt: str
    load_images: Callable[[], list[Image.Image]] = field(repr=False, compare=False)
    generation: Generation
    prompt_hash: str  # of the prompt and the generation settings, which both decide the answer
    cluster: str | None  # equal for samples that share a picture; None without a picture
    sizes: tuple[tuple[int, int], ...] = ()  # width and height of the pictures' files in pixels, where their headers can be read


@dataclass(frozen=True)
class Marked:
    """One answer after scoring: what the scoring rules read, and what lmms-eval made of it."""

    id: int
    row: Mapping[str, Any]
    answer: str  # stripped, as lmms-eval does before it scores
    text: str  # as the model gave it, which is what the benchmarks' own scripts read
    result: Mapping[str, Any]  # what lmms-eval's process_results returned
    guessed: bool  # lmms-eval could not read the answer and drew one at random
    picture: tuple[int, int] | None = None  # width and height, where boxes are shares of them


@dataclass(frozen=True)
class Part:
    """What one answer brings to the headline: a numerator and a denominator in one category; no category, no part in it."""

    category: str | None
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Makeup:
    """How the headline follows from its parts: `scale` times the mean over categories of numerators over denominators, or their sum."""

    scale: float
    parts: Mapping[int, Part]
    summed: bool = False  # the categories are added up instead
    of_the_set: bool = False  # what one answer is worth depends on which others are scored


@dataclass(frozen=True)
class Scores:
    """What a set of answers is worth. An unreadable or empty answer is scored as lmms-eval does, and counted."""

    headline: float  # in the paper's unit
    metrics: dict[str, float]  # lmms-eval's own numbers under its own names, then the second scoring rules
    samples: dict[int, float]  # 0 to 1 each; CIDEr 0 to 10
    unreadable: int
    empty: int
    makeup: Makeup | None = None
    approximate: bool = False  # made without the tokenizer that published scores are made with


def never_unreadable(mark: Marked) -> bool:
    """For free text: every answer can be compared with the expected one."""
    return False


def no_second_rule(marks: Sequence[Marked]) -> dict[str, float]:
    """For a benchmark whose paper and lmms-eval score alike."""
    return {}


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's tables, on top of the lmms-eval task that the YAML of the same name includes."""

    name: str
    column: str  # heading in the paper's table
    lmms_task: str  # tasks/<lmms_task>.yaml
    metric: str  # key in Scores.metrics
    scale: float  # metric * scale = the paper's unit
    size: int  # rows of the full benchmark
    file: str  # stem of the local parquet file
    columns: tuple[str, ...]  # columns that lmms-eval's code reads; `image` is the picture
    sample_score: Callable[[dict[str, Any]], float] | None  # from one process_results dict; None: see set_scores
    lists: tuple[str, ...] = ()  # columns among these that hold lists: a text would be taken for a list of its letters
    unit: str = "%"
    decimals: int = 1
    needs_java: bool = False  # for its own score; without Java there is an approximate one
    max_new_tokens: int | None = None  # where lmms-eval sets no bound: 1,024, the usual default, is useless for short answers
    pair: tuple[str, ...] = ()  # two rows that agree in these columns are drawn and scored together
    only: tuple[str, str] | None = None  # (column, value) of the rows that belong to the paper's column
    expressions: bool = False  # `answer` is a list of expressions, each a sample; `bbox` is in pixels
    row_by_row: bool = False  # aggregate row by row; a row to which lmms-eval gives no number is worth 0
    unreadable: Callable[[Marked], bool] = never_unreadable
    second_rules: Callable[[Sequence[Marked]], dict[str, float]] = no_second_rule
    set_scores: Callable[[Sequence[Marked]], list[float]] | None = None  # scores that only the whole set decides; `metric` is their mean
    category: Callable[[Marked], str | None] | None = None  # the headline is put together from these; None: not in the headline
    sums_categories: bool = False  # by adding them up, not by their plain mean
    shares: Callable[[Sequence[Marked]], list[tuple[float, float]]] | None = None  # numerators, denominators where the headline is no mean


def mean(values: Sequence[float]) -> float:
    """Plain mean, summed in order as lmms-eval does, so that equal answers give equal bits."""
    return sum(values) / len(values)
