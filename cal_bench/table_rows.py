"""The rows of a table: what runs and arms of studies are called in it, and what of the paper is put beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cal_bench.compare import arm_sums
from cal_bench.errors import UserError, as_typed
from cal_bench.evidence import RECORDS, Rows, read_rows
from cal_bench.published import published_model, published_models
from cal_bench.records import TaskResult
from cal_bench.stats import Plan, score_interval
from cal_bench.tables import Arms, Beside
from cal_bench.tasks import BENCHMARKS


def named_rows(folders: Sequence[Path]) -> Rows:
    """The arms of one study by their own names. Otherwise a run is called as its folder, and study x has the rows x, x+cal, …:

    a name that is one of the paper's, such as llava-next-7b+cal, has the paper's labels in the table.
    """
    if len(folders) == 1 and folders[0].resolve().name.lower() not in published_models():
        return read_rows(folders)
    names = [folder.resolve().name for folder in folders]
    arms: dict[str, Mapping[str, TaskResult]] = {}
    for place, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise UserError(f"{folder} is given twice. Give every run once.")
        arms.update(_rows_of(folder, names[place] if names.count(names[place]) == 1 else str(folder)))
    return Rows(arms, as_typed("table", *folders))


def beside(name: str, arms: Arms) -> Beside:
    """The paper's model of this name, and the sampling interval of every score that keeps what it is made of."""
    model = published_model(name)
    intervals = {arm: {one: _interval(result) for one, result in results.items() if result.makeup} for arm, results in arms.items()}
    return Beside(model, intervals, {benchmark.name: benchmark.size for benchmark in BENCHMARKS})


def _rows_of(folder: Path, name: str) -> dict[str, Mapping[str, TaskResult]]:
    found = read_rows([folder]).arms
    if not (folder / RECORDS).is_file():
        return {name: next(iter(found.values()))}
    first = next(iter(found))
    return {name if arm == first else f"{name}+{arm}": results for arm, results in found.items()}


def _interval(result: TaskResult) -> tuple[float, float]:
    found = score_interval(arm_sums([result]), Plan())
    return found.low, found.high
