"""How much faster a checkpoint answers in batches than one by one, and whether it says the same.

    python benchmarks/eval_batching.py results/demo/arms/cal/it --data results/demo/data/bench

Both batch sizes answer the same samples in turns within one run; the ratio of their medians is what counts on a shared machine.
"""

import argparse
import statistics
import time

from cal_bench.models import HFModel
from cal_bench.records import Answer
from cal_bench.tasks import Sample, get, names, open_task


def timed(model: HFModel, samples: list[Sample]) -> tuple[float, dict[int, str]]:
    """Seconds, and the answers by sample."""
    begun = time.perf_counter()
    answers = {answer.id: answer.text for answer in model.answer(samples) if isinstance(answer, Answer)}
    return time.perf_counter() - begun, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--data", required=True, help="folder of parquet files")
    parser.add_argument("--benchmark", default="docvqa", choices=names())
    parser.add_argument("--limit", type=int, default=32, help="samples (default 32)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    samples = open_task(get(arguments.benchmark), arguments.data).samples(arguments.limit)
    single, batched = HFModel(arguments.model, batch_size=1), HFModel(arguments.model, batch_size=arguments.batch_size)
    rounds = [(timed(single, samples), timed(batched, samples)) for _ in range(arguments.rounds + 1)][1:]  # the first loads the weights
    one, many = (statistics.median(pair[side][0] for pair in rounds) for side in (0, 1))
    different = sum(rounds[0][0][1][sample.id] != rounds[0][1][1][sample.id] for sample in samples)
    print(f"{len(samples)} samples of {arguments.benchmark}, median of {arguments.rounds} rounds")
    print(f"one by one    {len(samples) / one:8.1f} samples/s")
    print(f"batches of {arguments.batch_size:<3}{len(samples) / many:8.1f} samples/s   {one / many:.1f} x")
    print(f"answers that differ: {different}")


if __name__ == "__main__":
    main()
