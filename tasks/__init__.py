"""What a benchmark is: one YAML over lmms-eval's own task, and one short module, for each column of the paper."""

if __name__ == "tasks":
    raise ImportError("import cal_bench.tasks, not tasks: one file under two names is two modules")

import difflib
import importlib
import inspect

from . import (
    chartqa,
    coco_caption,
    docvqa,
    mme,
    mmstar,
    mmt,
    ocrbench,
    pope,
    refcocog_test,
    refcocog_val,
    scienceqa_img,
    seed_img,
    textcaps,
    textvqa,
    textvqa_ocr,
)
from .base import Benchmark, BenchmarkError, Generation, Sample, Scores
from .load import Task, check_java, open_task

# In the order of the paper's tables 1, 2 and 7.
BENCHMARKS: tuple[Benchmark, ...] = (
    ocrbench.BENCHMARK,
    docvqa.BENCHMARK,
    chartqa.BENCHMARK,
    textvqa.BENCHMARK,
    scienceqa_img.BENCHMARK,
    mmstar.BENCHMARK,
    mmt.BENCHMARK,
    coco_caption.BENCHMARK,
    textcaps.BENCHMARK,
    refcocog_val.BENCHMARK,
    refcocog_test.BENCHMARK,
    mme.BENCHMARK,
    pope.BENCHMARK,
    seed_img.BENCHMARK,
    textvqa_ocr.BENCHMARK,
)

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "Generation",
    "Sample",
    "Scores",
    "Task",
    "about",
    "check_java",
    "get",
    "names",
    "open_task",
]


def names() -> tuple[str, ...]:
    """All benchmarks, in the order of the paper's tables."""
    return tuple(benchmark.name for benchmark in BENCHMARKS)


def get(name: str) -> Benchmark:
    """The benchmark of this name; an unknown name is a BenchmarkError that suggests the nearest one."""
    by_name = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name.lower(), by_name, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    raise BenchmarkError(f"There is no benchmark '{name}'.{guess} Known benchmarks: {', '.join(by_name)}.")


def about(benchmark: Benchmark) -> str:
    """What the module of a benchmark says of it: paper, split, score, and what to know."""
    return inspect.cleandoc(importlib.import_module(f"{__package__}.{benchmark.name}").__doc__ or "")
