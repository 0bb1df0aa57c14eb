"""One benchmark in words: where it comes from, how it is scored, and three of its questions."""

from collections.abc import Iterator

from cal_bench.tasks import Benchmark, Sample, Task, about, open_task
from cal_bench.tasks.lmms import read_definition

SHOWN = 3


def describe(benchmark: Benchmark, data: str | None) -> Iterator[str]:
    """Line by line; the questions only with data."""
    definition = read_definition(benchmark)
    generation = definition.generation(benchmark)
    yield about(benchmark)
    yield f"Column  {benchmark.column} of the paper's tables"
    name = f" ({definition.dataset_name})" if definition.dataset_name else ""
    yield f"Source  {definition.dataset_path}{name}, split {definition.split}, on the Hugging Face hub; here {benchmark.file}.parquet"
    yield f"Size    {benchmark.size:,} rows"
    yield f"Metric  {benchmark.metric} x {benchmark.scale:g}, in {benchmark.unit}"
    until = " or ".join(map(repr, generation.until))
    yield f"Answer  at most {generation.max_new_tokens} tokens, up to {until}"
    if data is None:
        yield "Prompts give --data DIR to see three; --data hub fetches the data first"
    else:
        yield from _questions(open_task(benchmark, data))


def _questions(task: Task) -> Iterator[str]:
    """The first of those that --limit draws."""
    yield f"Data    {len(task.samples()):,} samples, fingerprint {task.data_fingerprint[:8]}"
    for sample in task.samples(SHOWN)[:SHOWN]:
        yield ""
        yield f"Sample {sample.id}, {_pictures(sample)}:"
        yield from (f"  | {_printable(line)}" for line in sample.prompt.split("\n"))


def _printable(line: str) -> str:
    """A line in which other breaks, and what would steer a terminal, are seen as they are."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)


def _pictures(sample: Sample) -> str:
    sizes = [f"{picture.width} x {picture.height}" for picture in sample.load_images()]
    if not sizes:
        return "no picture"
    return f"{'picture' if len(sizes) == 1 else f'{len(sizes)} pictures'} of {', '.join(sizes)}"
