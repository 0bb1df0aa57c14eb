"""Several studies one after the other, and one table of them all: each study is a row, and so is each of its arms."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.conclude import conclude
from cal_bench.config import StudyConfig, load_several, load_study
from cal_bench.errors import UserError
from cal_bench.evidence import TABLES, read_study_record, write_evidence
from cal_bench.miniworld import WorldSizes, draw_world
from cal_bench.processes import is_main, say_once, wait_for_all
from cal_bench.progress import say
from cal_bench.study import Outcome, make_folder, run_study


@dataclass(frozen=True)
class Studies:
    """What a config asks for: one study, or a list of them."""

    name: str
    studies: tuple[StudyConfig, ...]
    listed: bool

    def folders(self, out: Path) -> list[Path]:
        """The folder of each study; those of a list have their own below `out`."""
        return [out / study.name if self.listed else out for study in self.studies]


def load_studies(source: str, seed: int | None = None, data_root: str | None = None) -> Studies:
    """The study or studies of a YAML file or of a recipe's name, as `load_study` reads each."""
    several = load_several(source)
    if several is None:
        study = load_study(source, seed, data_root)
        return Studies(study.name, (study,), listed=False)
    studies = tuple(load_study(one, seed, data_root) for one in several.studies)
    if len({study.name for study in studies}) < len(studies):
        raise UserError(
            f"Two studies of {several.name} have the same name. Each needs its own: it is the name of its folder and of its rows."
        )
    return Studies(several.name, studies, listed=True)


def run_studies(asked: Studies, out: Path, command: str, launcher: tuple[str, ...] = ()) -> Outcome:
    """One study in `out`, or every study of a list in a folder of its own there; those in the same miniature world share its pictures."""
    if not asked.listed:
        return run_study(asked.studies[0], out, command, launcher)
    share_world([study.world for study in asked.studies], out, asked.folders(out))
    outcomes = []
    for number, (study, folder) in enumerate(zip(asked.studies, asked.folders(out), strict=True), start=1):
        say_once(f"Study {number} of {len(asked.studies)}: {study.name}")
        outcomes.append(run_study(study, folder, command, launcher))
    complete = all(outcome.complete for outcome in outcomes)
    if not is_main():
        return Outcome("", complete)
    tables = write_evidence(out, command, {row: record for study in asked.studies for row, record in _rows(study, out).items()})
    say(f"Tables of all studies: {out / TABLES}")
    conclude(out, command)
    return Outcome(tables, complete)


def share_world(worlds: Sequence[WorldSizes | None], out: Path, folders: Sequence[Path]) -> None:
    """Draw the world that all studies are in once, in `out`, and lead there from the folder of each; nothing where they differ.

    Under a launcher every process calls this; the main one draws, and the others wait.
    """
    if is_main():
        _share_world(worlds[0] if len(set(worlds)) == 1 else None, out, folders)
    wait_for_all()


def _share_world(world: WorldSizes | None, out: Path, folders: Sequence[Path]) -> None:
    make_folder(out)
    if world is not None:
        say(f"Drawing the miniature world in {out / 'data'} (kept for the next time)")
        draw_world(out / "data", world)
    for folder in folders:
        make_folder(folder)
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
