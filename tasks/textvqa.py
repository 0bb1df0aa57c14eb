"""TextVQA: questions about text in photographs, without OCR tokens in the prompt.

Paper   https://arxiv.org/abs/1904.08920
Split   validation, 5,000 questions with ten answers each
Score   VQA accuracy: agreement with the ten people, four of whom give full marks
Note    lmms-eval sets no bound on the answer; ours is 64 tokens. textvqa_ocr is the same with OCR tokens
"""

from .base import Benchmark

BENCHMARK = Benchmark(
    name="textvqa",
    column="VQA-Text",
    lmms_task="cal_textvqa",
    metric="exact_match",
    scale=100,
    size=5000,
    file="textvqa",
    columns=("image", "question", "answers", "question_id"),
    sample_score=lambda result: float(result["exact_match"]),
    max_new_tokens=64,
)
