"""The questions and pictures behind the samples of a page, wherever the benchmarks' data are: here, on the hub, or drawn again."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cal_bench.errors import UserError
from cal_bench.miniworld import draw_world
from cal_bench.progress import say
from cal_bench.records import TaskResult
from cal_bench.scoring import HUB
from cal_bench.tasks import Benchmark, BenchmarkError, get
from cal_bench.tasks.digests import hash_files
from cal_bench.tasks.rows import local_files

from .origin import origin_of
from .rows import Question, read_questions
from .sides import Pair

REDRAWN = "drawn again by other versions than the run's: questions and pictures may not be those that were answered."


@dataclass(frozen=True)
class Place:
    """Where the data is, and whether it was drawn again: its files then need not be those of the run byte for byte."""

    data: str
    redrawn: bool = False


@dataclass(frozen=True)
class Asked:
    """The questions of one benchmark's samples, and what a reader has to know of them."""

    questions: Mapping[int, Question] = field(default_factory=dict)
    note: str = ""


@contextmanager
def opened(pair: Pair, given: str | None) -> Iterator[Place]:
    """The data that is given, or lies where the runs found it, or is drawn again from the study's world."""
    if given is not None and given != HUB and not Path(given).exists():
        raise UserError(f"--data: there is no {given}. Give the folder of the benchmarks' parquet files, or '{HUB}'.")
    recorded = [arm.data for arm in (pair.before, pair.after) if arm.data == HUB or Path(arm.data).exists()]
    if given is None and not recorded and pair.world is not None:
        with tempfile.TemporaryDirectory() as folder:
            say("Drawing the benchmarks' pictures again, from the seed of the study's world")
            # The training pictures, which nobody looks at here, are as few as can be.
            draw_world(Path(folder, "data"), replace(pair.world, pretrain=1, train=1))
            yield Place(str(Path(folder, "data", "bench")), redrawn=True)
    else:
        yield Place(given or next(iter(recorded), pair.before.data))


def ask(place: Place, result: TaskResult, ids: Sequence[int]) -> Asked:
    """The questions of these samples, unless they are not at hand or others than the run had."""
    benchmark = get(result.benchmark)
    try:
        files = _files(benchmark, result.split, place.data)
        same = hash_files(files) == result.data_fingerprint
        # Only then read: other files may be of another benchmark, with other columns.
        if same or place.redrawn:
            return Asked(read_questions(benchmark, files, ids), "" if same else REDRAWN)
    except (BenchmarkError, UserError, OSError) as error:
        return Asked(note=f"No questions and pictures: {str(error).rstrip('.')}.")
    return Asked(note=f"No questions and pictures: the data at {place.data} is other than what the runs had.")


def _files(benchmark: Benchmark, split: str, data: str) -> list[Path]:
    if data != HUB:
        return local_files(benchmark, split, data)
    from cal_bench.tasks.hub import list_split

    origin = origin_of(benchmark)
    try:
        return list_split(origin.repository, origin.name, split, ask=False).paths
    except OSError as error:
        todo = f"Type cal-bench fetch {benchmark.name}, or give a folder with --data"
        raise BenchmarkError(f"its data were never fetched to this machine. {todo}") from error
