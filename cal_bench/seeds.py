"""The same study, or list of studies, with several seeds: each in a folder of its own, then what was found over all of them.

A seed moves everything random in training; a miniature world has a seed of its own and stays as it is, so that it is drawn once.
"""

from collections.abc import Sequence
from pathlib import Path

from cal_bench.conclude import conclude_seeds
from cal_bench.errors import UserError, as_typed
from cal_bench.outlook import Work, left_line, merged
from cal_bench.processes import is_main, say_once
from cal_bench.progress import say
from cal_bench.several import Studies, load_studies, run_studies, share_world
from cal_bench.study import Outcome, works


def run_seeds(config: str, seeds: Sequence[int], out: Path | None, data_root: str | None = None, launcher: tuple[str, ...] = ()) -> Outcome:
    """Every seed in out/seed-N (default: results/<name in the config>); one that is done is kept. The tables are means over all seeds."""
    check_seeds(seeds)
    asked = load_studies(config, data_root=data_root)
    out = out or Path("results", asked.name)
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    share_world([study.world for study in asked.studies], out, list(folders.values()))
    typed = as_typed("study", Path(config).name if Path(config).is_absolute() else config)
    complete = True
    for number, (seed, folder) in enumerate(folders.items(), start=1):
        say_once(f"Seed {seed} ({number} of {len(seeds)})")
        outcome = run_studies(load_studies(config, seed, data_root), folder, f"{typed} --seed {seed}", launcher)
        complete &= outcome.complete
        if is_main() and (line := left_line(_works(asked, list(folders.values())))):
            say(f"All seeds: {line}")
    if not is_main():
        return Outcome("", complete)
    tables = conclude_seeds(out, list(folders.values()), f"{typed} --seeds {' '.join(map(str, seeds))}")
    return Outcome(tables, complete)


def check_seeds(seeds: Sequence[int]) -> None:
    """Every seed is given once."""
    if len(set(seeds)) < len(seeds):
        raise UserError(f"A seed is given twice in --seeds {' '.join(map(str, seeds))}. Give every seed once.")


def _works(asked: Studies, folders: Sequence[Path]) -> list[Work]:
    """The work of all seeds, each in its folder."""
    return merged(
        work for folder in folders for study, out in zip(asked.studies, asked.folders(folder), strict=True) for work in works(study, out)
    )
