"""Several studies one after the other, and one table of them all: each study is a row, and so is each of its arms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cal_bench.conclude import conclude
from cal_bench.config import SeveralConfig, StudyConfig, load_study
from cal_bench.errors import UserError
from cal_bench.evidence import TABLES, read_study_record, write_evidence
from cal_bench.miniworld import WorldSizes, draw_world
from cal_bench.progress import say
from cal_bench.study import Outcome, run_study


def run_several(config: SeveralConfig, out: Path, command: str, seed: int | None = None) -> Outcome:
    """Every study in a folder of its own below `out`; studies in the same miniature world share its pictures."""
    studies = [load_study(name, seed) for name in config.studies]
    if len({study.name for study in studies}) < len(studies):
        raise UserError(
            f"Two studies of {config.name} have the same name. Each needs its own: it is the name of its folder and of its rows."
        )
    share_world([study.world for study in studies], out, [out / study.name for study in studies])
    outcomes = []
    for number, study in enumerate(studies, start=1):
        say(f"Study {number} of {len(studies)}: {study.name}")
        outcomes.append(run_study(study, out / study.name, command))
    tables = write_evidence(out, command, {row: record for study in studies for row, record in _rows(study, out).items()})
    say(f"Tables of all studies: {out / TABLES}")
    conclude(out, command)
    return Outcome(tables, all(outcome.complete for outcome in outcomes))


def share_world(worlds: Sequence[WorldSizes | None], out: Path, folders: Sequence[Path]) -> None:
    """Draw the world that all studies are in once, in `out`, and lead there from the folder of each; nothing where they differ."""
    world = worlds[0] if len(set(worlds)) == 1 else None
    if world is not None:
        say(f"Drawing the miniature world in {out / 'data'} (kept for the next time)")
        draw_world(out / "data", world)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "data"
        if data.is_symlink():
            data.unlink()
        if world is not None and not data.exists():
            data.symlink_to(Path("..", "data"))


def _rows(study: StudyConfig, out: Path) -> dict[str, Any]:
    """The records of a study's arms by the names of their rows: x for the first, x+cal for another; paths as seen from `out`."""
    arms = read_study_record(out / study.name)["arms"]
    first = next(iter(arms))
    for record in arms.values():
        identity = record["run"]["identity"]
        identity["model"] = str(Path(study.name, identity["model"]))
    return {study.name if arm == first else f"{study.name}+{arm}": record for arm, record in arms.items()}
