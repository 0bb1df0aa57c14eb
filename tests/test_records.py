import json
import math
from dataclasses import replace

import pytest

from cal_bench.records import (
    Answer,
    BenchmarkRecord,
    Identity,
    Questions,
    RunRecord,
    TaskResult,
    answer_from_json,
    answer_to_json,
    finite,
    result_from_json,
    run_from_json,
    to_json,
)

RESULT = TaskResult(
    benchmark="toy",
    column="TOY",
    score=62.5,
    unit="%",
    decimals=1,
    n=2,
    limit=None,
    unreadable=1,
    empty=0,
    data_fingerprint="d1",
    prompts="p1",
    metrics={"accuracy": 0.625, "f1": None},
    samples=((3, 1.0), (7, 0.25)),
)
QUESTIONS = Questions(data="d1", prompts="p1", generation=("16 tokens, until []",), samples=2, limit=None)
RUN = RunRecord(
    Identity("models/a", "w1", "x1", "float32"),
    config={"batch_size": 4},
    versions={"torch": "2.15.0"},
    benchmarks={"toy": BenchmarkRecord(QUESTIONS, complete=False, unanswered={7: "picture 7 is not an image"})},
)


def test_a_result_survives_its_json():
    assert result_from_json(to_json(RESULT)) == RESULT


def test_a_run_record_survives_its_json():
    assert run_from_json(to_json(RUN)) == RUN
    assert run_from_json(to_json(replace(RUN, benchmarks={}))) == replace(RUN, benchmarks={})


def test_json_has_one_line_per_field():
    lines = to_json(RESULT).splitlines()
    assert lines[0] == "{"
    assert lines[3] == '  "score": 62.5,'
    assert '  "samples": [[3, 1.0], [7, 0.25]],' in lines
    assert json.loads(to_json(RESULT))["samples"] == [[3, 1.0], [7, 0.25]]


@pytest.mark.parametrize("text", ["plain", "two\nlines", 'quote " and \\ back', "Zürich 数 \u2028", ""])
def test_an_answer_survives_its_line(text):
    line = answer_to_json(Answer(5, "p", text, 0.25))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert answer_from_json(line) == Answer(5, "p", text, 0.25)


def test_a_metric_without_a_value_is_null_and_never_nan():
    assert finite({"a": 0.5, "b": math.nan, "c": math.inf}) == {"a": 0.5, "b": None, "c": None}
    with pytest.raises(ValueError, match="JSON"):
        to_json(replace(RESULT, score=math.nan))
