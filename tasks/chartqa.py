"""ChartQA: questions about charts.

Paper   https://arxiv.org/abs/2203.10244
Split   test, 2,500 questions: 1,250 written by people, 1,250 by machine
Score   relaxed accuracy: numbers may be off by 5%, words must match
Note    the two halves differ a lot; the headline number is their plain mean. Years are numbers too: 2010 passes for 2014
"""

from .base import Benchmark

BENCHMARK = Benchmark(
    name="chartqa",
    column="VQA-Chart",
    lmms_task="cal_chartqa",
    metric="relaxed_overall",
    scale=100,
    size=2500,
    file="chartqa",
    columns=("image", "question", "answer", "type"),
    sample_score=lambda result: float(result["relaxed_overall"]),
)
