"""RefCOCOg, validation: find what an expression describes and give its box.

Paper   https://arxiv.org/abs/1511.02283
Split   val, 7,573 rows with one or more expressions each; every expression is a sample
Score   mean overlap (IoU) of the answered and the true box
Note    boxes are shares of the picture as stored, not padded to a square; an answer without a box is worth 0. Where lmms-eval divides
        by zero (a box that mirrors the true one) the answer is worth 0. lmms-eval sets no bound on the answer; ours is 64 tokens
"""

from typing import Any

from .base import Benchmark, Marked


def overlap(result: dict[str, Any]) -> float:
    """IoU by lmms-eval's own function."""
    from lmms_eval.tasks.refcocog.utils_rec import compute_iou

    answer = result["refcoco_IoU"]
    try:
        return float(compute_iou(answer["bbox"], answer["pred"]))
    except ZeroDivisionError:
        return 0.0


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
    sample_score=overlap,
    unit="IoU",
    max_new_tokens=64,
    expressions=True,
    row_by_row=True,
    unreadable=unreadable,
)
