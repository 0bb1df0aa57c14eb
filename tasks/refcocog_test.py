"""RefCOCOg, test: find what an expression describes and give its box.

Paper   https://arxiv.org/abs/1511.02283
Split   test, 5,023 rows with one or more expressions each; every expression is a sample
Score   mean overlap (IoU) of the answered and the true box
Note    as for refcocog_val
"""

from dataclasses import replace

from . import refcocog_val

BENCHMARK = replace(
    refcocog_val.BENCHMARK,
    name="refcocog_test",
    column="Refcocog-test",
    lmms_task="cal_refcocog_test",
    size=5023,
    file="refcocog_test",
)
