"""COCO captions: one sentence for a photograph.

Paper   https://arxiv.org/abs/1504.00325
Split   val 2017, 5,000 pictures with five captions each
Score   CIDEr
Note    CIDEr weighs words by how rare they are in the captions of the scored pictures: a subset has another scale, one picture scores 0.
        The tokenizer needs Java
"""

from .base import Benchmark
from .captions import cider

BENCHMARK = Benchmark(
    name="coco_caption",
    column="COCO Caption",
    lmms_task="cal_coco_caption",
    metric="coco_CIDEr",
    scale=100,
    size=5000,
    file="coco_cap",
    columns=("image", "question_id", "answer", "id"),
    lists=("answer",),
    sample_score=None,
    unit="CIDEr",
    needs_java=True,
    set_scores=lambda marks: cider([mark.result["coco_CIDEr"] for mark in marks]),
)
