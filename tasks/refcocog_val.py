"""RefCOCOg, validation: find what an expression describes and give its box.

Paper   https://arxiv.org/abs/1511.02283
Split   val, 7,573 rows with one or more expressions each; every expression is a sample
Score   mean overlap (IoU) of the answered and the true box
Note    boxes are shares of the picture as stored; an answer without a box is worth 0. Where lmms-eval divides by zero (a box that
        mirrors the true one) the answer is worth 0. lmms-eval sets no bound on the answer; ours is 64 tokens.
        `plain_` also reads a box with a space before its commas, and gives a box with exchanged corners no area; `robust_` reads round
        brackets and other separators too; `padded_` and `robust_padded_` take the answer for shares of the picture padded to a square,
        as LLaVA is trained
"""

import math
from collections.abc import Sequence
from typing import Any

from .base import Benchmark, Marked
from .boxes import measures, read_plain, read_robust, true_box


def iou(result: dict[str, Any]) -> float:
    """IoU by lmms-eval's own function; 0 where it has no value."""
    from lmms_eval.tasks.refcocog.utils_rec import compute_iou

    answer = result["refcoco_IoU"]
    try:
        value = float(compute_iou(answer["bbox"], answer["pred"]))
    except ZeroDivisionError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def frames_and_readings(marks: Sequence[Marked]) -> dict[str, float]:
    """All measures again, by a plain and a robust reading, on the picture as stored and padded to a square."""
    as_stored = [true_box(mark) for mark in marks]
    padded = [box.in_square(mark.picture) for box, mark in zip(as_stored, marks, strict=True) if mark.picture]
    plain, robust = ([read(mark.text) for mark in marks] for read in (read_plain, read_robust))
    rules = {
        "plain": measures(as_stored, plain),
        "padded": measures(padded, plain),
        "robust": measures(as_stored, robust),
        "robust_padded": measures(padded, robust),
    }
    return {f"{rule}_{name}": value for rule, values in rules.items() for name, value in values.items()}


def unreadable(mark: Marked) -> bool:
    """No box was found; lmms-eval then takes four zeros."""
    return not any(mark.result["refcoco_IoU"]["pred"])


BENCHMARK = Benchmark(
    name="refcocog_val",
    column="Refcocog-val",
    lmms_task="cal_refcocog_val",
    metric="refcoco_IoU",
    scale=100,
    size=7573,
    file="refcocog_val",
    columns=("image", "bbox", "answer", "question_id"),
    sample_score=iou,
    unit="IoU",
    max_new_tokens=64,
    expressions=True,
    row_by_row=True,
    unreadable=unreadable,
    second_rules=frames_and_readings,
)
