"""How long the statistics take: 70,000 samples in fifteen benchmarks, then 70,000 in one, with 10,000 draws each.

    python benchmarks/stats_speed.py

The fifteen have the sizes, pictures, categories and kinds of score of the paper's columns; their answers are made up.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cal_bench.stats import Plan, Sums, gain, paired_test, sum_clusters


@dataclass(frozen=True)
class Shape:
    """Samples, pictures and categories of a benchmark; whether its scores are 0 or 1."""

    samples: int
    pictures: int
    categories: int = 1
    bits: bool = True


SHAPES = {
    "ocrbench": Shape(1_000, 1_000),
    "docvqa": Shape(5_349, 1_286, bits=False),
    "chartqa": Shape(2_500, 1_500),
    "textvqa": Shape(5_000, 3_166, bits=False),
    "scienceqa_img": Shape(2_017, 2_017),
    "mmstar": Shape(1_500, 1_500, categories=18),
    "mmt": Shape(3_127, 3_127),
    "coco_caption": Shape(5_000, 5_000, bits=False),
    "textcaps": Shape(3_166, 3_166, bits=False),
    "refcocog_val": Shape(5_000, 1_300, bits=False),
    "refcocog_test": Shape(7_500, 2_600, bits=False),
    "mme": Shape(2_374, 1_187, categories=10),
    "pope": Shape(9_000, 500),
    "seed_img": Shape(14_233, 10_000),
    "textvqa_ocr": Shape(5_000, 3_166, bits=False),
}
ONE = {
    "0 or 1": Shape(70_000, 70_000),
    "fractions": Shape(70_000, 70_000, bits=False),
    "fractions, pages": Shape(70_000, 20_000, bits=False),
}


def made_up(shape: Shape, seed: int) -> tuple[Sums, Sums]:
    """A before and an after of this shape."""
    rng = np.random.default_rng(seed)
    pictures = np.concatenate([np.arange(shape.pictures), rng.integers(0, shape.pictures, shape.samples - shape.pictures)])
    level = rng.random(shape.samples)
    arms = [np.clip(level + rng.normal(shift, 0.3, shape.samples), 0, 1) for shift in (0, 0.005)]
    scores = [np.round(arm) if shape.bits else arm for arm in arms]
    counts = sum_clusters(np.ones((1, shape.samples)), pictures)
    labels = np.arange(shape.pictures) % shape.categories
    before, after = (Sums(sum_clusters(score[None], pictures), counts, labels) for score in scores)
    return before, after


def compared(arms: tuple[Sums, Sums]) -> None:
    gain(*arms, Plan())
    paired_test(*arms, Plan())


def seconds(shapes: dict[str, Shape], threads: int) -> tuple[float, float]:
    """Seconds on the clock and seconds of a processor for an interval and a test of each."""
    data = [made_up(shape, seed) for seed, shape in enumerate(shapes.values())]
    begun, busy = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(compared, data))
    return time.perf_counter() - begun, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many counts (default 3)")
    arguments = parser.parse_args()
    families = {f"{len(SHAPES)} benchmarks": SHAPES} | {name: {name: shape} for name, shape in ONE.items()}
    for name, shapes in families.items():
        clock, busy = min(seconds(shapes, arguments.threads) for _ in range(arguments.repeat))
        count = sum(shape.samples for shape in shapes.values())
        print(f"{name:<18} {count:>7,} samples  {clock:6.2f} s on the clock, {busy:6.2f} s of a processor")


if __name__ == "__main__":
    main()
