"""DocVQA: questions about scanned documents.

Paper   https://arxiv.org/abs/2007.00398
Split   validation, 5,349 questions; the test answers are not public
Score   ANLS: one minus the edit distance to the nearest expected answer, 0 below one half
Note    lmms-eval scores as the challenge server does, which keeps a similarity of exactly one half; the paper's definition does not
"""

from .base import Benchmark

BENCHMARK = Benchmark(
    name="docvqa",
    column="VQA-Doc",
    lmms_task="cal_docvqa",
    metric="anls",
    scale=100,
    size=5349,
    file="docvqa",
    columns=("image", "question", "answers"),
    sample_score=lambda result: float(result["anls"]),
)
