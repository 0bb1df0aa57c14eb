"""The nouns that are written to disk, and their JSON; needs nothing but the standard library."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a model said to one sample; `prompt` is the hash of what it was asked."""

    id: int
    prompt: str
    text: str
    seconds: float
    truncated: bool = False  # it was not at its end when it reached the longest length allowed


@dataclass(frozen=True)
class Unanswered:
    """A sample that could not be put to the model, and why; it has no score."""

    id: int
    reason: str


@dataclass(frozen=True)
class Identity:
    """Whose answers: of these weights, through this processor, in this precision. `model` says where they lay; it is not compared."""

    model: str
    weights: str
    processor: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class Questions:
    """What was asked of a benchmark: which data, prompts and generation settings, and how many samples of it."""

    data: str
    prompts: str
    generation: tuple[str, ...]
    samples: int
    limit: int | None


@dataclass(frozen=True)
class BenchmarkRecord:
    """How far one benchmark of a run is."""

    questions: Questions
    complete: bool = False
    unanswered: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """run.json: whose answers the folder holds, what the last command asked for, and every version that worked on them."""

    identity: Identity
    config: dict[str, Any]
    versions: dict[str, str]
    benchmarks: dict[str, BenchmarkRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class Makeup:
    """How a score follows from its samples; each tuple is in their order, or empty.

    It is `scale` times the mean over categories (or their sum) of numerators over denominators. Without numerators these are the samples'
    scores, each over 1; without categories there is one. A sample whose category is None takes no part.
    """

    scale: float
    pictures: tuple[int, ...]  # equal for samples that share a picture
    categories: tuple[str | None, ...] = ()
    numerators: tuple[float, ...] = ()
    denominators: tuple[float, ...] = ()
    summed: bool = False
    of_the_set: bool = False  # a sample's score depends on which others were scored


@dataclass(frozen=True)
class TaskResult:
    """A benchmark's summary: the score in the paper's unit, unrounded, and the score of each sample."""

    benchmark: str
    column: str
    score: float
    unit: str
    decimals: int
    n: int
    limit: int | None
    unreadable: int
    empty: int
    data_fingerprint: str
    prompts: str
    metrics: dict[str, float | None]
    samples: tuple[tuple[int, float], ...]
    split: str = ""  # empty, and no makeup: written before these were kept
    scorer: str = ""
    truncated: int = 0
    approximate: bool = False  # made without the tokenizer of published scores
    makeup: Makeup | None = None


def to_json(record: "RunRecord | TaskResult") -> str:
    """The record as JSON, one line per field: easy to read and to compare, and without a line per sample."""
    lines = [f"  {json.dumps(name)}: {_compact(value)}" for name, value in dataclasses.asdict(record).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def result_from_json(text: str) -> TaskResult:
    """The summary in a text that `to_json` wrote; ValueError, KeyError or TypeError for any other text."""
    raw = json.loads(text)
    samples = tuple((int(number), float(score)) for number, score in raw.pop("samples"))
    makeup = raw.pop("makeup", None)
    return TaskResult(samples=samples, makeup=None if makeup is None else _makeup_from(makeup), **raw)


def run_from_json(text: str) -> RunRecord:
    """The run record in a text that `to_json` wrote; ValueError, KeyError or TypeError for any other text."""
    raw = json.loads(text)
    benchmarks = {name: _benchmark_from(entry) for name, entry in raw.pop("benchmarks").items()}
    return RunRecord(identity=Identity(**raw.pop("identity")), benchmarks=benchmarks, **raw)


def answer_to_json(answer: Answer) -> str:
    """One line of a run's answers."""
    content = {"id": answer.id, "prompt": answer.prompt, "answer": answer.text, "seconds": round(answer.seconds, 4)}
    if answer.truncated:
        content["truncated"] = True
    # Half of a surrogate pair is no character: it stays the escape that it came as.
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def answer_from_json(line: str) -> Answer:
    """The answer in a line that `answer_to_json` wrote; ValueError, KeyError or TypeError for any other line."""
    raw = json.loads(line)
    return Answer(int(raw["id"]), str(raw["prompt"]), str(raw["answer"]), float(raw["seconds"]), bool(raw.get("truncated", False)))


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows neither NaN nor infinity: a metric that has no value on these samples is null."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _makeup_from(raw: dict[str, Any]) -> Makeup:
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Makeup(**tuples)  # type: ignore[arg-type]


def _benchmark_from(raw: dict[str, Any]) -> BenchmarkRecord:
    questions = dict(raw["questions"])
    questions["generation"] = tuple(questions["generation"])
    unanswered = {int(number): str(reason) for number, reason in raw["unanswered"].items()}
    return BenchmarkRecord(Questions(**questions), bool(raw["complete"]), unanswered)
