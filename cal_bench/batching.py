"""Which samples are answered together, and work that is done ahead of its reader."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import TypeVar

from cal_bench.tasks.base import Sample

# Each thread holds a batch of pictures in memory. A CPU that also runs the model has few cores to spare: of two, none.
MOST_THREADS, CORES_TO_A_THREAD = 4, 4

T = TypeVar("T")
U = TypeVar("U")


def groups(samples: Iterable[Sample], length: Callable[[Sample], float]) -> list[list[Sample]]:
    """Samples that share their generation settings; within a group those that share a picture are neighbours.

    Those of the greatest `length` first: little padding, and memory runs out early or never.
    """

    def settings(sample: Sample) -> tuple[int, tuple[str, ...]]:
        return sample.generation.max_new_tokens, sample.generation.until

    ordered = sorted(samples, key=lambda sample: (settings(sample), sample.id))
    return [_neighbours(list(same), length) for _, same in groupby(ordered, key=settings)]


def by_picture(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples that share a picture together; a sample without a picture is by itself."""
    together: dict[str | int, list[Sample]] = {}
    for sample in samples:
        together.setdefault(sample.id if sample.cluster is None else sample.cluster, []).append(sample)
    return list(together.values())


def _neighbours(samples: list[Sample], length: Callable[[Sample], float]) -> list[Sample]:
    pictures = [sorted(shared, key=length, reverse=True) for shared in by_picture(samples)]
    return [sample for shared in sorted(pictures, key=lambda shared: length(shared[0]), reverse=True) for sample in shared]


class Batches:
    """A group of samples, cut into batches of at most `size`, which may be made smaller on the way."""

    def __init__(self, samples: Sequence[Sample], size: int) -> None:
        self.samples = samples
        self.size = size

    def __iter__(self) -> Iterator[Sequence[Sample]]:
        start = 0
        while start < len(self.samples):
            batch = self.samples[start : start + self.size]
            start += len(batch)
            yield batch


def reading_threads(on_gpu: bool) -> int:
    """How many threads make batches ready while the model is at work."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(int(on_gpu), min(MOST_THREADS, (os.cpu_count() or 1) // (CORES_TO_A_THREAD * beside)))


def ahead(prepare: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """`prepare` of each item, in order, done in threads a few items ahead of the reader; without threads when its turn comes."""
    if not threads:
        yield from map(prepare, items)
        return
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as workers:
        try:
            for item in items:
                waiting.append(workers.submit(prepare, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
