"""The same study, or list of studies, with several seeds: each in a folder of its own, then what was found over all of them.

A seed moves everything random in training; a miniature world has a seed of its own and stays as it is, so that it is drawn once.
"""

from collections.abc import Sequence
from pathlib import Path

from cal_bench.conclude import conclude_seeds
from cal_bench.config import StudyConfig, load_several, load_study
from cal_bench.errors import UserError
from cal_bench.outlook import Work, left_line, merged
from cal_bench.processes import is_main, say_once, wait_for_all
from cal_bench.progress import say
from cal_bench.several import run_several, share_world
from cal_bench.study import Outcome, run_study, works


def run_seeds(config: str, seeds: Sequence[int], out: Path | None, data_root: str | None = None, launcher: tuple[str, ...] = ()) -> Outcome:
    """Every seed in out/seed-N (default: results/<name in the config>); one that is done is kept. The tables are means over all seeds."""
    if len(set(seeds)) < len(seeds):
        raise UserError(f"A seed is given twice in --seeds {' '.join(map(str, seeds))}. Give every seed once.")
    several = load_several(config)
    studies = [load_study(one, data_root=data_root) for one in (several.studies if several else (config,))]
    out = out or Path("results", several.name if several else studies[0].name)
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    if is_main():
        share_world([study.world for study in studies], out, list(folders.values()))
    wait_for_all()
    typed = f"cal-bench study {Path(config).name if Path(config).is_absolute() else config}"
    complete = True
    for number, (seed, folder) in enumerate(folders.items(), start=1):
        say_once(f"Seed {seed} ({number} of {len(seeds)})")
        if several:
            outcome = run_several(several, folder, f"{typed} --seed {seed}", seed)
        else:
            outcome = run_study(load_study(config, seed, data_root), folder, f"{typed} --seed {seed}", launcher)
        complete &= outcome.complete
        if is_main() and (line := left_line(_works(studies, list(folders.values()), bool(several)))):
            say(f"All seeds: {line}")
    if not is_main():
        return Outcome("", complete)
    tables = conclude_seeds(out, list(folders.values()), f"{typed} --seeds {' '.join(map(str, seeds))}")
    return Outcome(tables, complete)


def _works(studies: Sequence[StudyConfig], folders: Sequence[Path], listed: bool) -> list[Work]:
    """The work of all seeds; each study of a list has a folder of its own."""
    places = [(study, folder / study.name if listed else folder) for study in studies for folder in folders]
    return merged(work for study, out in places for work in works(study, out))
