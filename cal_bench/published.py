"""The paper's tables as data."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class PublishedRow:
    """One row: what it is called, its scores as printed (None where the paper prints a dash), and its Win/All cell."""

    labels: dict[str, str]
    scores: dict[str, float | None]
    win_all: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper, with its source and how many decimals each column is printed with."""

    table: int
    source: str
    caption: str
    decimals: dict[str, int]
    rows: tuple[PublishedRow, ...]


@cache
def published_tables() -> dict[int, PublishedTable]:
    """All tables of numbers in the paper, by their number there."""
    folder = resources.files("cal_bench.results") / "published"
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".json")]
    tables = [_table(json.loads(text)) for text in texts]
    return {table.table: table for table in sorted(tables, key=lambda table: table.table)}


def _table(raw: dict[str, object]) -> PublishedTable:
    rows = raw.pop("rows")
    assert isinstance(rows, list)
    return PublishedTable(rows=tuple(PublishedRow(**row) for row in rows), **raw)  # type: ignore[arg-type]
