"""The paper's tables from the summaries of runs; pure functions of records."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cal_bench.errors import UserError
from cal_bench.records import TaskResult

Arms = Mapping[str, Mapping[str, TaskResult]]  # arm -> benchmark -> summary; the first arm is what the others are compared with

MISSING = "–"
LIMITED = "†"


@dataclass(frozen=True)
class Layout:
    """One table of the paper: its number and title there, its benchmarks in order, and whether it counts wins."""

    number: int
    title: str
    benchmarks: tuple[str, ...]
    counts_wins: bool


LAYOUTS = (
    Layout(1, "Visual question answering", ("ocrbench", "docvqa", "chartqa", "textvqa", "scienceqa_img", "mmstar", "mmt"), True),
    Layout(2, "Image captioning and visual grounding", ("coco_caption", "textcaps", "refcocog_val", "refcocog_test"), True),
    Layout(7, "Additional benchmarks; VQA-Text* is given OCR tokens", ("mme", "pope", "seed_img", "textvqa_ocr"), False),
)


@dataclass(frozen=True)
class Wins:
    """In how many columns a row is better, of how many that both rows have."""

    won: int
    all: int

    def __str__(self) -> str:
        return f"{self.won}/{self.all}"


def printed(score: float, decimals: int) -> str:
    """A score as the tables show it."""
    return f"{score:.{decimals}f}"


def count_wins(before: Mapping[str, float], after: Mapping[str, float], decimals: Mapping[str, int]) -> Wins:
    """The paper's Win/All: a win is a strictly better score at the precision printed; a tie is none."""
    shared = [name for name in before if name in after]
    won = [name for name in shared if _shown(after[name], decimals[name]) > _shown(before[name], decimals[name])]
    return Wins(len(won), len(shared))


def tables_json(arms: Arms, command: str) -> dict[str, Any]:
    """Everything the tables show and the unrounded scores behind it; results that cannot be compared are refused."""
    _check_comparable(arms)
    return {"command": command, "tables": [_table(arms, layout) for layout in LAYOUTS if _columns(arms, layout)]}


def tables_markdown(arms: Arms, command: str) -> str:
    """The tables of `tables_json` as markdown."""
    content = tables_json(arms, command)
    tables = [_table_markdown(table) for table in content["tables"]]
    if not tables:
        raise UserError("There is nothing to put into a table: no run holds a complete benchmark. Run cal-bench eval first.")
    return "\n".join([*tables, f"Made by {_code(command)}.", ""])


def _table(arms: Arms, layout: Layout) -> dict[str, Any]:
    columns = _columns(arms, layout)
    decimals = {result.benchmark: result.decimals for result in columns}
    scores = {arm: _scores(results, layout) for arm, results in arms.items()}
    best = {name: _best([row[name] for row in scores.values() if name in row], decimals[name]) for name in decimals}
    first = next(iter(scores))
    rows = []
    for arm, row in scores.items():
        shown = {name: printed(score, decimals[name]) for name, score in row.items()}
        wins = str(count_wins(scores[first], row, decimals)) if layout.counts_wins and arm != first else ""
        bold = [name for name in shown if shown[name] == best[name]]
        counts = {kind: {name: getattr(arms[arm][name], kind) for name in row} for kind in ("unreadable", "empty")}
        rows.append({"arm": arm, "scores": row, "printed": shown, "best": bold, "win_all": wins, **counts})
    head = {"table": layout.number, "title": layout.title, "compared_with": first, "counts_wins": layout.counts_wins}
    return {**head, "columns": [_column(result) for result in columns], "rows": rows}


def _column(result: TaskResult) -> dict[str, Any]:
    names = ("benchmark", "column", "unit", "decimals", "n", "limit", "data_fingerprint", "prompts")
    return {name: getattr(result, name) for name in names}


def _columns(arms: Arms, layout: Layout) -> list[TaskResult]:
    """A summary for each benchmark of the table that any arm has: what its column is called and made of."""
    found = {name: [results[name] for results in arms.values() if name in results] for name in layout.benchmarks}
    return [results[0] for results in found.values() if results]


def _scores(results: Mapping[str, TaskResult], layout: Layout) -> dict[str, float]:
    return {name: results[name].score for name in layout.benchmarks if name in results}


def _best(scores: Sequence[float], decimals: int) -> str | None:
    """The best score as printed; none where all rows are alike, be it that there is only one."""
    if len({_shown(score, decimals) for score in scores}) < 2:
        return None
    return printed(max(scores), decimals)


def _shown(score: float, decimals: int) -> float:
    return float(printed(score, decimals))


def _check_comparable(arms: Arms) -> None:
    """Scores of other samples, prompts or data are not put side by side."""
    for layout in LAYOUTS:
        for name in layout.benchmarks:
            have = [(arm, results[name]) for arm, results in arms.items() if name in results]
            for arm, result in have[1:]:
                _check_pair(have[0], (arm, result))


def _check_pair(before: tuple[str, TaskResult], after: tuple[str, TaskResult]) -> None:
    words = {"limit": "limits", "n": "numbers of samples", "data_fingerprint": "data", "prompts": "prompts or samples"}
    for field, word in words.items():
        old, new = getattr(before[1], field), getattr(after[1], field)
        if old != new:
            raise UserError(
                f"{before[0]} and {after[0]} cannot be put into one table: their {before[1].benchmark} has different {word} "
                f"({_brief(old)} and {_brief(new)}). Evaluate both with the same data and limit."
            )


def _brief(value: int | str | None) -> str:
    return "none" if value is None else str(value)[:12]


def _table_markdown(table: Mapping[str, Any]) -> str:
    columns, wins = table["columns"], table["counts_wins"]
    headings = [escape(column["column"]) + (LIMITED if column["limit"] is not None else "") for column in columns]
    lines = [
        f"### Table {table['table']}. {escape(table['title'])}",
        "",
        _line(["Arm", *headings, *(["Win/All"] if wins else [])]),
        _line(["---", *("---:" for _ in columns), *([":---:"] if wins else [])]),
        *(_line([escape(row["arm"]), *_cells(row, columns), *([row["win_all"]] if wins else [])]) for row in table["rows"]),
        "",
        *_footnotes(table),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = {name: f"**{text}**" if name in row["best"] else text for name, text in row["printed"].items()}
    return [shown.get(column["benchmark"], MISSING) for column in columns]


def _footnotes(table: Mapping[str, Any]) -> list[str]:
    columns = table["columns"]
    notes = ["Best in bold."]
    if table["counts_wins"] and len(table["rows"]) > 1:
        notes[0] += f" Win/All: columns that are strictly better than {escape(table['compared_with'])} at the printed precision, of all."
    for limit in sorted({column["limit"] for column in columns if column["limit"] is not None}):
        notes.append(f"{LIMITED} Limited to at most {limit:,} random samples, the same for every arm.")
    notes.append("Samples: " + ", ".join(f"{column['benchmark']} {column['n']:,}" for column in columns) + ".")
    notes.append("Data: " + ", ".join(f"{column['benchmark']} {column['data_fingerprint'][:8]}" for column in columns) + ".")
    return ["\\\n".join(notes)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """The text as markdown shows it literally in one cell of a table."""
    one_line = " ".join(text.split())
    return re.sub(r"[\\|*`\[\]<>~&]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found.group(), one_line)


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"
