"""What a page is made of: the two arms of a study, or two run folders."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cal_bench.alike import Source
from cal_bench.compare import read_sides
from cal_bench.errors import UserError
from cal_bench.evidence import RECORDS, read_details, read_study_record
from cal_bench.miniworld import WorldSizes
from cal_bench.runs import CONFIG, Run
from cal_bench.scoring import HUB, seen_at

DEMO = "demo"
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Arm:
    """One side: its name, its summaries, what it answered (benchmark -> sample -> text), and what is known of its making."""

    name: str
    source: Source
    answers: Mapping[str, Mapping[int, str]]
    data: str  # where the run found its benchmarks, as seen from here; or "hub"
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    logs: Mapping[str, Log]  # by stage


@dataclass(frozen=True)
class Pair:
    """Both sides; of a study also its config as text, and the miniature world that its benchmarks were drawn from."""

    title: str
    before: Arm
    after: Arm
    config: str = ""
    world: WorldSizes | None = None


def read_pair(given: Sequence[str]) -> Pair:
    """BEFORE and AFTER, or a study of two arms, or the demo that is shipped; a UserError for anything else."""
    folders = [_demo_folder()] if list(given) == [DEMO] and not Path(DEMO).exists() else [Path(run) for run in given]
    if len(folders) not in (1, 2):
        raise UserError(f"Give two run folders, BEFORE and AFTER, or one study; {len(folders)} were given.")
    (before,), (after,) = read_sides(folders, [], [])
    return _study(folders[0], before, after) if len(folders) == 1 else _runs(before, after)


def _demo_folder() -> Path:
    """The demo's results: those made here, or else those that came with the package."""
    here = Path("results", DEMO)
    return here if (here / RECORDS).is_file() else Path(str(resources.files("cal_bench.results") / DEMO))


def _study(folder: Path, before: Source, after: Source) -> Pair:
    arms, details = read_study_record(folder)["arms"], read_details(folder)
    sides = []
    for source, (name, record) in zip((before, after), arms.items(), strict=True):
        run = record["run"]
        data = seen_at(folder / "runs" / name, str(run["config"].get("data", HUB)))
        training = {stage: {"parameters": made.get("parameters"), "steps": made.get("steps")} for stage, made in record["training"].items()}
        config = {"model": run["identity"], "evaluation": run["config"], "training": training}
        logs, answers = details.logs.get(name, {}), details.answers.get(name, {})
        sides.append(Arm(name, source, answers, data, config, run["versions"], logs))
    text = (folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).is_file() else ""
    return Pair(folder.resolve().name, sides[0], sides[1], text, _world(text))


def _world(config: str) -> WorldSizes | None:
    try:
        world = (yaml.safe_load(config) or {}).get("world")
        return None if world is None else WorldSizes(**world)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"The {CONFIG} of the study cannot be read: {error}. Give the study command again.") from error


def _runs(before: Source, after: Source) -> Pair:
    names = [Path(source.name).resolve().name for source in (before, after)]
    if names[0] == names[1]:
        names = [before.name, after.name]
    first, second = (_run_arm(name, source) for name, source in zip(names, (before, after), strict=True))
    return Pair(f"{names[0]} and {names[1]}", first, second)


def _run_arm(name: str, source: Source) -> Arm:
    run = source.run
    assert isinstance(run, Run)
    answers = {one: {id: answer.text for id, answer in run.answered(one).items()} for one in source.results}
    record = run.record
    data = seen_at(run.folder, str(record.config.get("data", HUB)))
    config = {"model": asdict(record.identity), "evaluation": record.config}
    return Arm(name, source, answers, data, config, record.versions, {})
