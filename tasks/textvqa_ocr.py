"""TextVQA with the words that an OCR system read in the picture added to the prompt.

Paper   https://arxiv.org/abs/1904.08920
Split   validation, 5,000 questions with ten answers each
Score   VQA accuracy, as for textvqa
Note    the paper's VQA-Text with an asterisk (its Table 7); not comparable with textvqa
"""

from dataclasses import replace

from . import textvqa

BENCHMARK = replace(
    textvqa.BENCHMARK,
    name="textvqa_ocr",
    column="VQA-Text*",
    lmms_task="cal_textvqa_ocr",
    columns=(*textvqa.BENCHMARK.columns, "ocr_tokens"),
)
