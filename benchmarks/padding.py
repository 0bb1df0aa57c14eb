"""How many of the prompt tokens are padding, with samples in the order of their prompts alone and with their pictures counted too.

    python -m benchmarks.padding                                   # LLaVA-NeXT, 2,000 samples of made-up sizes
    python -m benchmarks.padding --data results/demo/data/bench    # the samples of a folder of parquet files

Nothing is answered: tokens are counted as the processor says them beforehand. Made-up pictures are photos, pages, slides and strips of
usual sizes; made-up prompts have 20 to 400 letters.
"""

import argparse
import random
from collections.abc import Callable, Sequence

from benchmarks.eval_speed import SHAPES
from benchmarks.prepare_speed import reader_of
from cal_bench.batching import groups
from cal_bench.tasks import get, names, open_task
from cal_bench.tasks.base import Generation, Sample

SIZES = (
    (640, 480), (480, 640), (640, 427), (427, 640), (640, 640), (1024, 768), (768, 1024), (1024, 683), (1700, 2200), (850, 600),
    (1280, 720), (1500, 300), (300, 1500), (512, 512), (320, 240), (2000, 1000),
)  # fmt: skip
BATCHES = (8, 16, 64)


def made_up(count: int) -> list[Sample]:
    chosen = random.Random(0)
    return [
        Sample(number, "a" * chosen.randint(20, 400), list, Generation(8, ()), "", str(number), (chosen.choice(SIZES),))
        for number in range(count)
    ]


def read(data: str) -> list[Sample]:
    return [sample for name in names() for sample in open_task(get(name), data).samples()]


def padding(samples: Sequence[Sample], order: Callable[[Sample], float], length: Callable[[Sample], float], size: int) -> float:
    """The share of padding in batches of `size`."""
    tokens = padded = 0.0
    for group in groups(samples, order):
        for start in range(0, len(group), size):
            lengths = [length(sample) for sample in group[start : start + size]]
            tokens += sum(lengths)
            padded += max(lengths) * len(lengths)
    return 1 - tokens / padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=sorted({*SHAPES.values()}), default="llava-next")
    parser.add_argument("--data", help="folder of parquet files (default: made-up sizes)")
    arguments = parser.parse_args()
    length = reader_of(arguments.system).length
    samples = read(arguments.data) if arguments.data else made_up(2000)
    print(f"{len(samples)} samples\n{'batches of':<12} {'by prompt':>10} {'and picture':>12}")
    for size in BATCHES:
        plain, counted = (padding(samples, order, length, size) for order in (lambda sample: len(sample.prompt), length))
        print(f"{size:<12} {plain:>10.1%} {counted:>12.1%}")


if __name__ == "__main__":
    main()
