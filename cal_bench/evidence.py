"""What a study leaves behind: the records of all arms, the tables, which are a function of them, and every answer."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cal_bench.errors import UserError, as_typed
from cal_bench.records import TaskResult, finite, result_from_json
from cal_bench.runs import Run, read_results, read_run, write_atomically
from cal_bench.table_text import tables_markdown
from cal_bench.tables import tables_json

RECORDS, TABLES, TABLES_JSON, DETAILS = "records.json", "tables.md", "tables.json", "details.json"


@dataclass(frozen=True)
class Rows:
    """What a table is made of: the summaries of each arm by benchmark, and the command that made them."""

    arms: Mapping[str, Mapping[str, TaskResult]]
    command: str


@dataclass(frozen=True)
class Details:
    """What the arms of a study answered (arm -> benchmark -> sample -> text), and what their stages logged (arm -> stage -> lines)."""

    answers: Mapping[str, Mapping[str, Mapping[int, str]]]
    logs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def write_evidence(out: Path, command: str, arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Write records.json, tables.json and tables.md of a study; gives the tables as markdown."""
    records = {"command": command, "arms": arms}
    write_atomically(out / RECORDS, json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    rows = exact_only(read_rows([out]))
    write_atomically(out / TABLES_JSON, json.dumps(tables_json(rows.arms, rows.command), indent=1, ensure_ascii=False) + "\n")
    markdown = tables_markdown(rows.arms, rows.command)
    write_atomically(out / TABLES, markdown)
    return markdown


def write_details(out: Path, runs: Mapping[str, Path], logs: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> None:
    """Write details.json of a study: what a page shows beyond the records, for people who have not its run folders."""
    answers = {arm: _answers(run) for arm, run in runs.items()}
    kept = {arm: {stage: [finite(line) for line in lines] for stage, lines in stages.items()} for arm, stages in logs.items()}
    # Escaped: an answer may hold half of a character, which is no UTF-8.
    write_atomically(out / DETAILS, json.dumps({"answers": answers, "logs": kept}, indent=1, allow_nan=False) + "\n")


def read_details(out: Path) -> Details:
    """The details of a study; empty where an earlier version left none."""
    path = out / DETAILS
    if not path.is_file():
        return Details({}, {})
    with _readable(path):
        raw = json.loads(path.read_text(encoding="utf-8"))
        answers = {
            arm: {name: {int(id): str(text) for id, text in texts.items()} for name, texts in given.items()}
            for arm, given in raw["answers"].items()
        }
        return Details(answers, {arm: dict(stages) for arm, stages in raw["logs"].items()})


def _answers(folder: Path) -> dict[str, dict[int, str]]:
    run = Run(folder, read_run(folder))
    return {name: {id: one.text for id, one in sorted(run.answered(name).items())} for name in read_results(folder)}


def arm_record(training: Mapping[str, Mapping[str, Any]], run: Path, study: Path) -> dict[str, Any]:
    """One arm: how each stage was trained, whose answers the run holds, and the summary of every complete benchmark.

    Paths are told as seen from the study's folder, or not at all: the file is for people on other machines.
    """
    stages = {stage: {key: value for key, value in record.items() if key != "config"} for stage, record in training.items()}
    record = read_run(run)
    identity = replace(record.identity, model=os.path.relpath(record.identity.model, study))
    results = [asdict(result) for result in read_results(run).values()]
    return {"training": stages, "run": asdict(replace(record, identity=identity)), "results": results}


def read_rows(folders: Sequence[Path]) -> Rows:
    """A run folder is one row of a table, the folder of a study one for each arm."""
    if len(folders) == 1 and _is_study(folders[0]):
        return _study_rows(folders[0])
    arms: dict[str, Mapping[str, TaskResult]] = {}
    for folder in folders:
        found = _study_rows(folder).arms if _is_study(folder) else {folder.resolve().name: read_results(folder)}
        for name, results in found.items():
            arms[name if name not in arms else f"{folder}: {name}"] = results
    return Rows(arms, as_typed("table", *folders))


def exact_only(rows: Rows) -> Rows:
    """The rows without scores that are only near to those of published tables."""
    arms = {arm: {name: result for name, result in results.items() if not result.approximate} for arm, results in rows.arms.items()}
    return Rows(arms, rows.command)


def read_study_record(folder: Path) -> dict[str, Any]:
    """records.json of a study as it was written."""
    with _readable(folder / RECORDS):
        record: dict[str, Any] = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
        return record


def _is_study(folder: Path) -> bool:
    return (folder / RECORDS).is_file()


def _study_rows(folder: Path) -> Rows:
    raw = read_study_record(folder)
    with _readable(folder / RECORDS):
        return Rows({arm: _results(record["results"]) for arm, record in raw["arms"].items()}, str(raw["command"]))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A file of a study that was changed, or that another version wrote, is told by name."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a study's record that this version can read ({error}). Give the study command again.") from error


def _results(raw: Sequence[Mapping[str, Any]]) -> dict[str, TaskResult]:
    results = [result_from_json(json.dumps(result)) for result in raw]
    return {result.benchmark: result for result in results}
