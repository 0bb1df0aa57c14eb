"""What `cal-bench table` prints, and whether a file still says it."""

from argparse import Namespace
from pathlib import Path

from cal_bench.errors import UserError, as_typed
from cal_bench.evidence import exact_only
from cal_bench.progress import say
from cal_bench.table_rows import beside, named_rows
from cal_bench.table_text import FORMATS
from cal_bench.tables import LAYOUTS, Wanted


def table_text(arguments: Namespace) -> str:
    """What the command prints, in the format that was asked for."""
    found = named_rows([Path(run) for run in arguments.runs])
    rows = found if arguments.allow_approx else exact_only(found)
    if left_out := [f"{arm} {name}" for arm, results in found.arms.items() for name in results if name not in rows.arms[arm]]:
        say(
            f"Left out, being cider_approx: {', '.join(left_out)}. With Java, cal-bench rescore makes them exact; --allow-approx shows them"
        )
    numbers = tuple(sorted(set(arguments.tables))) or tuple(layout.number for layout in LAYOUTS)
    wanted = Wanted(numbers, beside(arguments.published, rows.arms) if arguments.published else None)
    chosen = [*(["--tables", *map(str, numbers)] if arguments.tables else [])]
    chosen += ["--published", arguments.published] if arguments.published else []
    chosen += ["--allow-approx"] if arguments.allow_approx else []
    chosen += ["--format", arguments.format] if arguments.format != "markdown" else []
    command = as_typed("table", *arguments.runs, *chosen) if chosen else rows.command
    return FORMATS[arguments.format](rows.arms, command, wanted)


def check(path: Path, text: str) -> bool:
    """Is the file on disk what the command would write?"""
    if not path.is_file():
        raise UserError(f"There is no file {path} to check. Give the same command without --check to write it.")
    if path.read_bytes() == text.encode():
        say(f"{path} is up to date")
        return True
    say(f"{path} is not what this command writes. Give it without --check, and look at what changes")
    return False
