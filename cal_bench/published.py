"""The paper's tables as data, and its models by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from cal_bench.errors import UserError, suggest

OFFICIAL, CAL = "†", "+CAL"
MINIATURE = "Miniature"


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


@dataclass(frozen=True)
class PublishedModel:
    """One model of the paper: how its tables call it, and its row in each of them that has one; Table 6 also has official numbers."""

    name: str
    setting: str
    method: str
    llm: str
    rows: Mapping[int, PublishedRow]
    official: Mapping[str, float | None]


@cache
def published_tables() -> dict[int, PublishedTable]:
    """All tables of numbers in the paper, by their number there."""
    folder = resources.files("cal_bench.results") / "published"
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".json")]
    tables = [_table(json.loads(text)) for text in texts]
    return {table.table: table for table in sorted(tables, key=lambda table: table.table)}


@cache
def published_models() -> dict[str, PublishedModel]:
    """The models of tables 1, 2, 6 and 7 by short names such as llava-next-7b and llava-next-7b+cal."""
    rows: dict[str, dict[int, PublishedRow]] = {}
    official: dict[str, dict[str, float | None]] = {}
    for number in (1, 2, 6, 7):
        for row in published_tables()[number].rows:
            name = _short(row.labels)
            if row.labels["method"].endswith(OFFICIAL):
                official[name] = row.scores
            else:
                rows.setdefault(name, {})[number] = row
    return {name: _model(name, found, official.get(name, {})) for name, found in rows.items()}


def published_model(name: str) -> PublishedModel:
    """The model of this name; a UserError that lists all names if there is none."""
    models = published_models()
    if name.lower() in models:
        return models[name.lower()]
    raise UserError(f"The paper has no model '{name}'.{suggest(name, models)} It has {', '.join(models)}.")


def row_labels(name: str) -> dict[str, str]:
    """What the paper's tables call a row of this name: one of its models, an arm of one, or a miniature; nothing for any other.

    Miniatures are called as their recipes: mini-llava15, mini-mgm-hd+cal.
    """
    models = published_models()
    base, plus, arm = name.partition("+")
    variant = CAL if f"+{arm}".lower() == CAL.lower() else plus + arm
    if model := models.get(name.lower()):
        return {"setting": model.setting, "method": model.method, "llm": model.llm}
    if model := models.get(base.lower()):
        return {"setting": model.setting, "method": model.method + variant, "llm": model.llm}
    for model in models.values():
        if base.lower() == f"mini-{_recipe(model.method)}":
            return {"setting": model.setting, "method": model.method + variant, "llm": MINIATURE}
    return {}


def _recipe(method: str) -> str:
    """LLaVA-1.5 as llava15."""
    return method.lower().replace("-1.5", "15")


def _model(name: str, rows: dict[int, PublishedRow], official: dict[str, float | None]) -> PublishedModel:
    labels = rows[1].labels
    return PublishedModel(name, labels["setting"], labels["method"], labels["llm"], rows, official)


def _short(labels: Mapping[str, str]) -> str:
    method = labels["method"].removesuffix(OFFICIAL)
    size = labels["llm"].split("-")[-1]
    return f"{method.removesuffix(CAL)}-{size}{CAL if method.endswith(CAL) else ''}".lower()


def _table(raw: dict[str, object]) -> PublishedTable:
    rows = raw.pop("rows")
    assert isinstance(rows, list)
    return PublishedTable(rows=tuple(PublishedRow(**row) for row in rows), **raw)  # type: ignore[arg-type]
