"""How fast samples are made ready for a model (decoded, cut into tiles, tokenized, left padded): in turn, by threads, by processes.

    python -m benchmarks.prepare_speed                  # pages of 1,024 px for LLaVA-NeXT in its real size
    python -m benchmarks.prepare_speed --system llava-1.5 --workers 4 --side 640

Each way makes all of the batches, in rounds; the best round of each counts. The processes are those of a DataLoader, started before,
which hands tensors back through shared memory. Every thread and process does arithmetic on one core.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.eval_speed import SHAPES, in_real_size
from cal_bench.inputs import Reader
from cal_bench.miniworld.draw import draw
from cal_bench.miniworld.scene import make_scene
from cal_bench.tasks.base import Generation, Sample

FIRST_SEED = 870_000_000


def page(seed: int, side: int) -> bytes:
    """A drawn picture as a JPEG file; every second one is half as high."""
    drawn = draw(make_scene(seed), -(-side // 128)).resize((side, side // (1 + seed % 2)))
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def decoded(content: bytes) -> list[Image.Image]:
    return [Image.open(io.BytesIO(content)).convert("RGB")]


def batches_of(count: int, size: int, side: int) -> list[list[Sample]]:
    files = [page(FIRST_SEED + number, side) for number in range(size * count)]
    samples = [
        Sample(number, "What does the page say?", partial(decoded, file), Generation(8, ()), "", str(number))
        for number, file in enumerate(files)
    ]
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def reader_of(system: str) -> Reader:
    config, processor = in_real_size(system)
    return Reader(processor, config.model_type)


def ways(read: Callable[[list[Sample]], object], batches: list[list[Sample]], workers: int) -> dict[str, Callable[[], Iterable[object]]]:
    threads = ThreadPoolExecutor(workers)
    processes = DataLoader(batches, batch_size=None, collate_fn=read, num_workers=workers, persistent_workers=True)
    return {
        "in turn": lambda: map(read, batches),
        f"{workers} threads": lambda: threads.map(read, batches),
        f"{workers} processes": lambda: processes,
    }


def seconds(way: Callable[[], Iterable[object]]) -> float:
    begun = time.perf_counter()
    for _ in way():
        pass
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=sorted({*SHAPES.values()}), default="llava-next")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=1024, help="pixels of the longer side (default 1024)")
    parser.add_argument("--batches", type=int, default=12, help="of 8 samples (default 12)")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batches = batches_of(arguments.batches, 8, arguments.side)
    tried = ways(reader_of(arguments.system).read, batches, arguments.workers)
    best = dict.fromkeys(tried, float("inf"))
    for _ in range(arguments.rounds):
        best = {name: min(best[name], seconds(way)) for name, way in tried.items()}
    for name, spent in best.items():
        print(f"{name:<14} {8 * len(batches) / spent:>7.1f} samples/s  {best['in turn'] / spent:>5.2f}x")


if __name__ == "__main__":
    main()
