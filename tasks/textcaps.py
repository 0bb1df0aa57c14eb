"""TextCaps: captions that quote the text in the picture.

Paper   https://arxiv.org/abs/2003.12462
Split   val, 3,166 pictures with five captions each
Score   CIDEr
Note    as for coco_caption: a subset has another scale, and the tokenizer needs Java
"""

from .base import Benchmark
from .captions import cider

BENCHMARK = Benchmark(
    name="textcaps",
    column="TextCaps",
    lmms_task="cal_textcaps",
    metric="textcaps_CIDEr",
    scale=100,
    size=3166,
    file="textcaps",
    columns=("image", "image_id", "caption_str"),
    lists=("caption_str",),
    sample_score=None,
    unit="CIDEr",
    needs_java=True,
    set_scores=lambda marks: cider([mark.result["textcaps_CIDEr"] for mark in marks]),
)
