"""The content of tables as markdown, as LaTeX and as CSV."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cal_bench.tables import APPROXIMATE, LIMITED, MISSING, ODD, SCALE_NOTE, Arms, Wanted, tables_json

WITHIN = "≈"
BLOCKS = {"low": "Low resolution", "high": "High resolution"}
PAPER = {"paper": "paper", "official": "official"}


@dataclass(frozen=True)
class Cell:
    """A cell of a row, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Block:
    """Rows under a heading of their own; no heading where there is but one block."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A table as it is shown: how many of its columns name the row, its head, its blocks and its notes."""

    title: str
    names: int
    head: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    wins: bool


def tables_markdown(arms: Arms, command: str, wanted: Wanted | None = None) -> str:
    """The tables as markdown."""
    content = tables_json(arms, command, wanted)
    return "\n".join([*(markdown(grid(table)) for table in content["tables"]), f"Made by {code(command)}.", ""])


def tables_latex(arms: Arms, command: str, wanted: Wanted | None = None) -> str:
    """The tables as LaTeX, with the rules of booktabs."""
    content = tables_json(arms, command, wanted)
    head = [f"% Made by: {one_line(command)}", r"% Needs \usepackage{booktabs}", ""]
    return "\n".join([*head, *(_latex(grid(table)) for table in content["tables"])])


def tables_csv(arms: Arms, command: str, wanted: Wanted | None = None) -> str:
    """One line per table, row and benchmark, with the unrounded score."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("benchmark", "column", "unit", "n", "split", "limit", "data_fingerprint")
    writer.writerow(["table", "row", "kind", "setting", "method", "llm", *columns, "score", "printed", "best", "win_all"])
    for table in tables_json(arms, command, wanted)["tables"]:
        for row in (*table["rows"], *table.get("published", ())):
            labels = [row.get(label, "") for label in ("setting", "method", "llm")]
            for column in (column for column in table["columns"] if column["benchmark"] in row["scores"]):
                name = column["benchmark"]
                # What the data of the paper's numbers was is not known: no data, no number of samples.
                own = [column[key] if key in ("benchmark", "column", "unit") or "arm" in row else None for key in columns]
                values = [row["scores"][name], row["printed"][name], int(name in row.get("best", ())), row["win_all"]]
                writer.writerow([table["table"], row.get("arm", row.get("model")), row.get("kind", "run"), *labels, *own, *values])
    return stream.getvalue()


def tables_as_json(arms: Arms, command: str, wanted: Wanted | None = None) -> str:
    """The content of the tables with the unrounded scores."""
    return json.dumps(tables_json(arms, command, wanted), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS = {"markdown": tables_markdown, "latex": tables_latex, "csv": tables_csv, "json": tables_as_json}


def grid(table: Mapping[str, Any]) -> Grid:
    """A table of `tables_json` as it is shown."""
    columns, wins = table["columns"], table["counts_wins"]
    labelled = all("method" in row for row in table["rows"])
    headings = [column["column"] + marks(column["limit"], column["approximate"]) for column in columns]
    head = [*(("Method", "LLM") if labelled else ("Arm",)), *headings, *(["Win/All"] if wins else [])]
    blocks = _blocks(table, labelled)
    names = 2 if labelled else 1
    return Grid(f"Table {table['table']}. {table['title']}", names, tuple(head), tuple(blocks), tuple(_notes(table)), wins)


def marks(limit: int | None, approximate: bool) -> str:
    """The signs behind the name of a column that is not the whole benchmark, or not its exact score."""
    return (LIMITED if limit is not None else "") + (APPROXIMATE if approximate else "")


def _blocks(table: Mapping[str, Any], labelled: bool) -> list[Block]:
    settings = BLOCKS if labelled else {"": ""}
    parts = {title: [row for row in table["rows"] if not labelled or row["setting"] == setting] for setting, title in settings.items()}
    blocks = [Block(title, tuple(_row(table, row, labelled) for row in part)) for title, part in parts.items() if part]
    if table.get("published"):
        beside = [_published_row(table, row, labelled) for row in table["published"]]
        beside += [_difference_row(table, row, labelled) for row in table["differences"]]
        blocks.append(Block("Published", tuple(beside)))
    return blocks


def _row(table: Mapping[str, Any], row: Mapping[str, Any], labelled: bool) -> tuple[Cell, ...]:
    names = [row["method"], row["llm"]] if labelled else [row["arm"]]
    return _cells(table, names, row["printed"], row["win_all"], row["best"])


def _published_row(table: Mapping[str, Any], row: Mapping[str, Any], labelled: bool) -> tuple[Cell, ...]:
    method, llm, kind = row["method"], row["llm"], PAPER[row["kind"]]
    names = [f"{method} ({kind})", llm] if labelled else [f"{method} {llm} ({kind})"]
    return _cells(table, names, row["printed"], row["win_all"])


def _difference_row(table: Mapping[str, Any], row: Mapping[str, Any], labelled: bool) -> tuple[Cell, ...]:
    shown = {name: text + (WITHIN if row["within"][name] else "") for name, text in row["printed"].items()}
    return _cells(table, [f"{row['arm']} − {PAPER[row['from']]}", *([""] if labelled else [])], shown, "")


def _cells(
    table: Mapping[str, Any], names: Sequence[str], shown: Mapping[str, str], wins: str, best: Sequence[str] = ()
) -> tuple[Cell, ...]:
    benchmarks = [column["benchmark"] for column in table["columns"]]
    scores = [Cell(shown.get(name, MISSING), name in best) for name in benchmarks]
    return (*map(Cell, names), *scores, *([Cell(wins)] if table["counts_wins"] else []))


def _notes(table: Mapping[str, Any]) -> list[str]:
    columns, rows = table["columns"], table["rows"]
    bases = {row["compared_with"] for row in rows}
    with_whom = next(iter(bases)) if len(bases) == 1 else "the row without the +"
    notes = ["Best in bold." if len(bases) == 1 else "Best of those compared in bold."]
    if table["counts_wins"] and len(rows) > 1:
        notes[0] += f" Win/All: columns that are strictly better than {with_whom} at the printed precision, of all."
    if table.get("published"):
        notes += _published_notes(table)
    for limit in sorted({column["limit"] for column in columns if column["limit"] is not None}):
        notes.append(f"{LIMITED} Limited to at most {limit:,} random samples, the same for every arm.")
    if any(column["approximate"] for column in columns):
        notes.append(SCALE_NOTE)
    if any(column["limit"] is not None and column["unit"] == "CIDEr" for column in columns):
        notes.append("CIDEr over a part of the pictures has another scale than over all of them.")
    notes += [_odd(rows, kind) for kind in ODD if _odd(rows, kind)]
    notes.append("Samples: " + ", ".join(f"{column['benchmark']} {column['n']:,}{_split(column)}" for column in columns) + ".")
    notes.append("Data: " + ", ".join(f"{column['benchmark']} {column['data_fingerprint'][:8]}" for column in columns) + ".")
    scorers = sorted({column["scorer"] for column in columns} - {""})
    return notes + ([f"Scored by {'; '.join(scorers)}."] if scorers else [])


def _published_notes(table: Mapping[str, Any]) -> list[str]:
    sources = f"Published: X. Xiao et al., arXiv 2405.17871, Table {table['table']}."
    mark = f"{WITHIN} the published number lies in the 95 % sampling interval of the run's."
    unknown = {name for row in table["differences"] for name, within in row["within"].items() if within is None}
    notes = [f"{sources} {mark}" + (f" No interval is known of {', '.join(sorted(unknown))}." if unknown else "")]
    if table["parts"]:
        whole = ", ".join(f"{name} {size:,}" for name, size in table["parts"].items())
        notes.append(f"Not the same samples: the published numbers are of whole benchmarks ({whole}), these runs have fewer samples.")
    return notes


def _split(column: Mapping[str, Any]) -> str:
    return f" ({column['split']})" if column["split"] else ""


def _odd(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Answers that were scored as the benchmark says but hold no answer."""
    counts = [f"{row['arm']} {', '.join(f'{name} {count:,}' for name, count in row[kind].items() if count)}" for row in rows]
    told = [text for text, row in zip(counts, rows, strict=True) if any(row[kind].values())]
    return f"{kind.capitalize()} answers: {'; '.join(told)}." if told else ""


def markdown(shown: Grid) -> str:
    """A table as markdown."""
    scores = len(shown.head) - shown.names - shown.wins
    ruler = [*(["---"] * shown.names), *(["---:"] * scores), *([":---:"] if shown.wins else [])]
    lines = [f"### {escape(shown.title)}", "", _line([escape(text) for text in shown.head]), _line(ruler)]
    for block in shown.blocks:
        if len(shown.blocks) > 1 and block.title:
            lines.append(_line([f"*{block.title}*", *([""] * (len(shown.head) - 1))]))
        lines += [_line([_markdown_cell(cell) for cell in row]) for row in block.rows]
    return "\n".join([*lines, "", "\\\n".join(map(escape_note, shown.notes))]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    return f"**{escape(cell.text)}**" if cell.best else escape(cell.text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """The text as markdown shows it literally in one cell of a table."""
    return re.sub(r"[\\|*`\[\]<>~&]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found.group(), one_line(text))


def one_line(text: str) -> str:
    """The text without line breaks and characters that steer a terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def escape_note(text: str) -> str:
    """The same for a note: outside a table a bar is a bar."""
    return escape(text).replace("\\|", "|")


def code(text: str) -> str:
    """The text as markdown shows it literally within a line."""
    shown = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`"


def _latex(shown: Grid) -> str:
    scores = len(shown.head) - shown.names - shown.wins
    aligned = "l" * shown.names + "r" * scores + "c" * shown.wins
    lines = [r"\begin{table}[t]", r"\centering", rf"\caption{{{_tex(shown.title.partition('. ')[2])}.}}"]
    lines += [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", _tex_line(shown.head, _tex)]
    for block in shown.blocks:
        lines.append(r"\midrule")
        if len(shown.blocks) > 1 and block.title:
            lines.append(rf"\multicolumn{{{len(shown.head)}}}{{c}}{{\emph{{{block.title}}}}} \\")
        lines += [_tex_line(row, _tex_cell) for row in block.rows]
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\footnotesize"]
    return "\n".join([*lines, *(rf"{_tex(note)}\\" for note in shown.notes[:-1]), _tex(shown.notes[-1]), r"\end{table}", ""])


def _tex_line(cells: Sequence[Any], shown: Callable[[Any], str]) -> str:
    return " & ".join(map(shown, cells)) + r" \\"


def _tex_cell(cell: Cell) -> str:
    return rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)


def _tex(text: str) -> str:
    """The text as LaTeX shows it literally."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "≈": r"$\approx$",
        "−": "$-$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        "–": "--",
        "<": "$<$",
        ">": "$>$",
    }
    return re.sub(r"[\\~^≈−†‡–<>]|[#$%&_{}]", lambda found: special.get(found.group(), "\\" + found.group()), one_line(text))
