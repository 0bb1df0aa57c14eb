"""A run's results for other places: the Hugging Face hub, a model card, and what experiments are logged with."""

import contextlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from cal_bench.errors import UserError
from cal_bench.page.origin import origin_of
from cal_bench.progress import say
from cal_bench.records import RunRecord, TaskResult
from cal_bench.runs import explained, read_results, read_run, write_atomically
from cal_bench.table_text import tables_markdown
from cal_bench.tasks import get

HUB_FOLDER, CARD = ".eval_results", "card.md"
TASK = "image-text-to-text"
# The packages that scores are logged with, and what of them is imported.
PACKAGES = {"wandb": "wandb", "trackio": "trackio", "tensorboard": "torch.utils.tensorboard"}


@dataclass(frozen=True)
class Exported:
    """A run: its name, its record, its results, those of whole benchmarks, and why the others do not count as such."""

    name: str
    record: RunRecord
    results: Mapping[str, TaskResult]
    whole: tuple[TaskResult, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Doors:
    """Where to: files for the hub, a card, TensorBoard; projects of Weights & Biases and of trackio."""

    hub: bool
    card: bool
    tensorboard: bool
    wandb: str | None
    trackio: str | None


def export_run(folder: Path, out: Path, doors: Doors) -> list[str]:
    """Go through every door that was asked for; what was written, a line each."""
    if not any((doors.hub, doors.card, doors.tensorboard, doors.wandb, doors.trackio)):
        raise UserError("Say where to: --hub-eval-results, --card, --tensorboard, --wandb PROJECT or --trackio PROJECT.")
    exported = read_export(folder)
    modules = {name: _installed(name) for name in PACKAGES if getattr(doors, name)}
    if exported.others and (doors.card or (doors.hub and exported.whole)):
        say(f"Not given as results of the benchmark: {', '.join(exported.others)}")
    lines = [str(path) for path in write_hub_results(exported, out)] if doors.hub else []
    lines += [str(write_card(exported, out))] if doors.card else []
    for name, project in (("wandb", doors.wandb), ("trackio", doors.trackio)):
        if project:
            try:
                log_to(modules[name], exported, project)
            except Exception as error:  # each tracker has kinds of its own, such as for a login that is missing
                raise UserError(f"{name} did not take the scores: {error}") from error
            lines.append(f"{len(scalars(exported))} scores in project {project} of {name}")
    if doors.tensorboard:
        log_tensorboard(modules["tensorboard"], exported, out)
        lines.append(f"{len(scalars(exported))} scores in {out}: tensorboard --logdir {out}")
    return lines


def read_export(folder: Path) -> Exported:
    """The complete benchmarks of a run folder; a UserError if there is none."""
    record, results = read_run(folder), read_results(folder)
    if not results:
        raise UserError(f"{folder} holds no complete benchmark. Give the folder of a run that cal-bench eval has finished.")
    faults = {name: _fault(result) for name, result in results.items()}
    whole = tuple(result for name, result in results.items() if not faults[name])
    return Exported(folder.resolve().name, record, results, whole, tuple(f"{name} ({fault})" for name, fault in faults.items() if fault))


def _fault(result: TaskResult) -> str:
    """Why a score must not stand under the name of a benchmark on the hub; empty where it may."""
    if result.limit is not None:
        return f"limited to {result.limit:,} samples"
    size = get(result.benchmark).size
    if result.n < size:
        return f"{result.n:,} samples, the benchmark has {size:,}"
    return "approximate, without Java" if result.approximate else ""


def write_hub_results(exported: Exported, out: Path) -> list[Path]:
    """A file for each whole benchmark, as the hub reads them from the folder .eval_results of a model's repository.

    Format: https://huggingface.co/docs/hub/eval-results
    """
    from huggingface_hub import eval_result_entries_to_yaml

    if not exported.whole:
        others = ", ".join(exported.others)
        raise UserError(f"No result of {exported.name} is that of a whole benchmark: {others}. Evaluate without --limit on all data.")
    _make_folder(out / HUB_FOLDER)
    paths = []
    for result in exported.whole:
        entry = _hub_entry(result)
        paths.append(out / HUB_FOLDER / f"{result.benchmark}.yaml")
        write_atomically(paths[-1], yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True))
    return paths


def _hub_entry(result: TaskResult) -> Any:
    from huggingface_hub import EvalResultEntry

    origin = origin_of(get(result.benchmark))
    notes = f"{result.unit}; {result.n:,} samples of split {result.split}; {result.scorer}; data {result.data_fingerprint[:12]}"
    return EvalResultEntry(dataset_id=origin.repository, task_id=origin.name or "default", value=_rounded(result), notes=notes)


def write_card(exported: Exported, out: Path) -> Path:
    """A model card: the results of whole benchmarks as metadata, all of them as tables, and what they were made with."""
    _make_folder(out)
    content = {"pipeline_tag": TASK, "tags": ["cal-bench"], **_model_index(exported)}
    head = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    tables = tables_markdown({exported.name: exported.results}, f"cal-bench export {exported.name} --card")
    versions = "\n".join(f"- {package} {version}" for package, version in exported.record.versions.items())
    parts = [f"---\n{head}---\n", "## Results\n", tables, f"## Versions\n\n{versions}\n"]
    write_atomically(out / CARD, "\n".join(parts))
    return out / CARD


def _model_index(exported: Exported) -> dict[str, Any]:
    """The results of whole benchmarks as the metadata of a model card: https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    entries = [_index_entry(result) for result in exported.whole]
    return {"model-index": eval_results_to_model_index(exported.name, entries)} if entries else {}


def _index_entry(result: TaskResult) -> Any:
    from huggingface_hub import EvalResult

    benchmark = get(result.benchmark)
    origin = origin_of(benchmark)
    return EvalResult(
        task_type=TASK,
        dataset_type=origin.repository,
        dataset_config=origin.name,
        dataset_split=result.split,
        dataset_name=result.column,
        metric_type=benchmark.metric,
        metric_name=f"{benchmark.metric} ({result.unit})",
        metric_value=_rounded(result),
    )


def _rounded(result: TaskResult) -> float:
    return round(result.score, 4)


def scalars(exported: Exported) -> dict[str, float]:
    """Every score by the name of its benchmark, and every further metric that has a value."""
    found = {f"eval/{name}": result.score for name, result in exported.results.items()}
    for name, result in exported.results.items():
        found |= {f"eval/{name}/{metric}": value for metric, value in result.metrics.items() if value is not None}
    return found


def log_to(tracker: ModuleType, exported: Exported, project: str) -> None:
    """Log the scores as one run of a project with wandb, or with trackio, which has the same functions."""
    identity = exported.record.identity
    config = {"model": identity.model, "weights": identity.weights, "dtype": identity.dtype, "versions": dict(exported.record.versions)}
    # Standard output carries the answer of the command.
    with contextlib.redirect_stdout(sys.stderr):
        tracker.init(project=project, name=exported.name, config=config)
        tracker.log(scalars(exported))
        tracker.finish()


def log_tensorboard(tensorboard: ModuleType, exported: Exported, out: Path) -> None:
    """Write the scores as scalars of step 0 into an event file."""
    with tensorboard.SummaryWriter(log_dir=str(out)) as writer:
        for name, value in scalars(exported).items():
            writer.add_scalar(name, value, 0)


def _installed(package: str) -> ModuleType:
    try:
        return importlib.import_module(PACKAGES[package])
    except ImportError as error:
        raise UserError(f"{package} is not installed. Type: pip install {package}") from error


def _make_folder(folder: Path) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
