"""The last step of a study: what was found, written beside its tables."""

import json
from collections.abc import Sequence
from pathlib import Path

from cal_bench.evidence import TABLES, TABLES_JSON
from cal_bench.findings import Findings, find
from cal_bench.findings_text import comparisons_json, comparisons_markdown, seed_tables, seed_tables_markdown
from cal_bench.overhead import COSTS, costs_markdown
from cal_bench.progress import say
from cal_bench.runs import write_atomically

COMPARISONS, COMPARISONS_JSON, DIFFERENCES, SWAPS = "comparison.md", "comparison.json", "differences.png", "swaps.png"


def conclude(out: Path, command: str) -> None:
    """Of one study, or a list of studies, in `out`: comparison.md, comparison.json, costs.md and the plots."""
    _write(out, find([out], command))
    _write_costs(out, [out], command)


def conclude_seeds(out: Path, folders: Sequence[Path], command: str) -> str:
    """The same for one folder per seed, with the tables over all of them; gives the tables as markdown."""
    findings = find(folders, command)
    tables = seed_tables(findings)
    text = seed_tables_markdown(tables)
    write_atomically(out / TABLES_JSON, json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / TABLES, text)
    _write(out, findings)
    _write_costs(out, folders, command)
    return text


def _write(out: Path, findings: Findings) -> None:
    if not findings.pairs:
        return
    from cal_bench.plots import draw_differences, draw_swaps, is_over_swaps

    write_atomically(out / COMPARISONS, comparisons_markdown(findings))
    write_atomically(out / COMPARISONS_JSON, comparisons_json(findings))
    draw_differences(findings, out / DIFFERENCES)
    if is_over_swaps(findings):
        draw_swaps(findings, out / SWAPS)
    say(f"Comparisons: {out / COMPARISONS}, {out / DIFFERENCES}")


def _write_costs(out: Path, folders: Sequence[Path], command: str) -> None:
    if text := costs_markdown(folders, command):
        write_atomically(out / COSTS, text)
