"""What `eval` would ask, of which data, and how much of it is answered: without a model, and without touching the run folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cal_bench.doctor import JAVA_HELP
from cal_bench.errors import UserError
from cal_bench.records import Identity
from cal_bench.runner import questions
from cal_bench.runs import RECORD, Run, check_identity, read_run
from cal_bench.scoring import HUB
from cal_bench.tasks import Benchmark, check_java, get, open_task
from cal_bench.tasks.hub import list_split
from cal_bench.tasks.lmms import read_definition

_HEADINGS = ("benchmark", "samples", "left", "answers", "data")


@dataclass(frozen=True)
class Asked:
    """One benchmark as it would be asked; `left` is not known where the data are not here yet."""

    name: str
    samples: int
    left: int | None
    answers: str
    data: str


def plan_lines(names: Sequence[str], data: str, folder: Path, limit: int | None, identity: Identity) -> list[str]:
    """The plan for people; UserError where `eval` itself would refuse the data or the run folder."""
    if folder.is_file():
        raise UserError(f"{folder} is a file. Give a folder with --out, for the answers.")
    run = Run(folder, read_run(folder)) if (folder / RECORD).is_file() else None
    if run is not None:
        check_identity(folder, run.record.identity, identity)
    rows = [_asked(get(name), data, run, limit) for name in names]
    state = "goes on" if run else "new"
    return [f"Model    {identity.model}", f"Answers  {folder} ({state})", *_java(names), "", *_table(rows)]


def _asked(benchmark: Benchmark, data: str, run: Run | None, limit: int | None) -> Asked:
    definition = read_definition(benchmark)
    generation = definition.generation(benchmark)
    answers = f"at most {generation.max_new_tokens:,} tokens, up to {' or '.join(map(repr, generation.until))}"
    source = f"{definition.dataset_path}, split {definition.split}"
    if data == HUB and not _is_here(definition.dataset_path, definition.dataset_name, definition.split):
        rows = benchmark.size if limit is None else min(limit, benchmark.size)
        return Asked(benchmark.name, rows, None, answers, f"{source}: not here yet, cal-bench fetch {benchmark.name}")
    task = open_task(benchmark, data)
    samples = task.samples(limit)
    kept = {}
    if run is not None:
        run.check(benchmark.name, questions(task, samples, limit))
        kept = run.answered(benchmark.name)
    left = sum(sample.id not in kept for sample in samples)
    return Asked(benchmark.name, len(samples), left, answers, f"{source if data == HUB else data}, fingerprint {task.data_fingerprint[:8]}")


def _is_here(repository: str, name: str | None, split: str) -> bool:
    try:
        return not list_split(repository, name, split, ask=False).missing
    except OSError:
        return False


def _java(names: Sequence[str]) -> list[str]:
    captions = [get(name) for name in names if get(name).needs_java]
    if not captions:
        return []
    rough = check_java(captions)
    return ["Java     " + (f"not found: {' and '.join(rough)} only approximately. To get it, type: {JAVA_HELP}" if rough else "found")]


def _table(rows: Sequence[Asked]) -> list[str]:
    cells = [_HEADINGS] + [
        (row.name, f"{row.samples:,}", "?" if row.left is None else f"{row.left:,}", row.answers, row.data) for row in rows
    ]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_HEADINGS))]
    right = (False, True, True, False, False)
    padded = [
        [cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(line, widths, right, strict=True)]
        for line in cells
    ]
    return ["  ".join(line).rstrip() for line in padded]
