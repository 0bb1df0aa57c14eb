"""The paper's tables from the summaries of runs; pure functions of records. What they look like is in `table_text.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cal_bench.errors import UserError
from cal_bench.published import PublishedModel, row_labels
from cal_bench.records import TaskResult

Arms = Mapping[str, Mapping[str, TaskResult]]  # arm -> benchmark -> summary

MISSING, LIMITED, APPROXIMATE = "–", "†", "‡"
SCALE_NOTE = f"{APPROXIMATE} CIDEr without the Java tokenizer: near to published scores, and not to be held against them."
OFFICIAL_TABLE = 6
# Answers that were scored but should be looked at; the names of their counts in the summaries.
ODD = ("unreadable", "empty", "truncated")


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
# The columns of three other tables once more, to hold baselines against the official numbers.
BASELINES = Layout(
    OFFICIAL_TABLE,
    "Baselines; VQA-Text* is given OCR tokens",
    ("docvqa", "chartqa", "textvqa", "textvqa_ocr", "scienceqa_img", "mme", "pope", "seed_img", "coco_caption", "textcaps"),
    False,
)
NUMBERS = tuple(sorted(layout.number for layout in (*LAYOUTS, BASELINES)))


@dataclass(frozen=True)
class Wins:
    """In how many columns a row is better, of how many that both rows have."""

    won: int
    all: int

    def __str__(self) -> str:
        return f"{self.won}/{self.all}"


@dataclass(frozen=True)
class Beside:
    """A model of the paper to be put beside the runs; the 95 % sampling interval of each run's score: arm -> benchmark -> interval;
    and the size of each whole benchmark, which is what the paper's numbers are of."""

    model: PublishedModel
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Wanted:
    """Which tables, by their numbers in the paper, and what beside the runs."""

    numbers: tuple[int, ...] = tuple(layout.number for layout in LAYOUTS)
    beside: Beside | None = None


def printed(score: float, decimals: int) -> str:
    """A score as the tables show it."""
    return f"{score:.{decimals}f}"


def signed(number: float, decimals: int) -> str:
    """A difference with its sign; no sign where it is 0 as printed."""
    text = f"{number:+.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def count_wins(before: Mapping[str, float], after: Mapping[str, float], decimals: Mapping[str, int]) -> Wins:
    """The paper's Win/All: a win is a strictly better score at the precision printed; a tie is none."""
    shared = [name for name in before if name in after]
    won = [name for name in shared if _shown(after[name], decimals[name]) > _shown(before[name], decimals[name])]
    return Wins(len(won), len(shared))


def tables_json(arms: Arms, command: str, wanted: Wanted | None = None) -> dict[str, Any]:
    """Everything the tables show and the unrounded scores behind it; results that cannot be compared are refused."""
    _check_comparable(arms)
    wanted = wanted or Wanted()
    layouts = [layout for layout in (*LAYOUTS, BASELINES) if layout.number in wanted.numbers and _columns(arms, layout)]
    if not layouts:
        numbers = ", ".join(map(str, wanted.numbers))
        raise UserError(
            f"There is nothing to put into a table: no run holds a complete benchmark of the tables {numbers}. Run cal-bench eval first."
        )
    return {"command": command, "tables": [_table(arms, layout, wanted.beside) for layout in layouts]}


def _table(arms: Arms, layout: Layout, beside: Beside | None) -> dict[str, Any]:
    columns = _columns(arms, layout)
    decimals = {result.benchmark: result.decimals for result in columns}
    scores = {arm: _scores(results, layout) for arm, results in arms.items()}
    rows = []
    for group in _groups(list(arms)):
        best = {name: _best([scores[arm][name] for arm in group if name in scores[arm]], decimals[name]) for name in decimals}
        for arm in group:
            shown = {name: printed(score, decimals[name]) for name, score in scores[arm].items()}
            wins = str(count_wins(scores[group[0]], scores[arm], decimals)) if layout.counts_wins and arm != group[0] else ""
            counts = {kind: {name: getattr(arms[arm][name], kind) for name in shown} for kind in ODD}
            bold = [name for name in shown if shown[name] == best[name]]
            row = {"arm": arm, "scores": scores[arm], "printed": shown, "best": bold, "win_all": wins, "compared_with": group[0]}
            rows.append({**row, **row_labels(arm), **counts})
    head = {"table": layout.number, "title": layout.title, "compared_with": rows[0]["arm"], "counts_wins": layout.counts_wins}
    published = _published(beside, rows, columns, layout) if beside else {}
    return {**head, "columns": [_column(result) for result in columns], "rows": rows, **published}


def _groups(arms: Sequence[str]) -> list[list[str]]:
    """Arms that are compared with each other, the first being the one that the others are compared with.

    "x+cal" and "x+other" belong to "x". Without such names all arms are one group.
    """
    groups: dict[str, list[str]] = {}
    for arm in sorted(arms, key=lambda name: name not in {other.partition("+")[0] for other in arms}):
        base = arm.partition("+")[0]
        groups.setdefault(base if base in arms else arm, []).append(arm)
    if all(len(group) == 1 for group in groups.values()):
        return [list(arms)]
    return list(groups.values())


def _published(beside: Beside, rows: Sequence[Mapping[str, Any]], columns: Sequence[TaskResult], layout: Layout) -> dict[str, Any]:
    """The paper's row, in Table 6 also the official one, and for each run the differences from it and whether they are sampling."""
    model, decimals = beside.model, {result.benchmark: result.decimals for result in columns}
    row = model.rows.get(layout.number)
    found = {"paper": row.scores if row else {}}
    if layout.number == OFFICIAL_TABLE:
        found["official"] = dict(model.official)
    wins = row.win_all if row and layout.counts_wins else ""
    published = [_published_row(kind, model, scores, decimals) | {"win_all": wins} for kind, scores in found.items()]
    differences = [_differences(one, other, beside, decimals) for one in rows for other in published if other["scores"]]
    parts = {result.benchmark: beside.sizes[result.benchmark] for result in columns if result.n < beside.sizes[result.benchmark]}
    return {"published": [row for row in published if row["scores"]], "differences": differences, "parts": parts}


def _published_row(kind: str, model: PublishedModel, scores: Mapping[str, float | None], decimals: Mapping[str, int]) -> dict[str, Any]:
    known = {name: score for name, score in scores.items() if score is not None and name in decimals}
    shown = {name: printed(score, decimals[name]) for name, score in known.items()}
    labels = {"setting": model.setting, "method": model.method, "llm": model.llm}
    return {"model": model.name, "kind": kind, **labels, "scores": known, "printed": shown}


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], beside: Beside, decimals: Mapping[str, int]) -> dict[str, Any]:
    shared = [name for name in ours["scores"] if name in theirs["scores"]]
    apart = {name: ours["scores"][name] - theirs["scores"][name] for name in shared}
    within = {name: _within(theirs["scores"][name], beside.intervals[ours["arm"]].get(name)) for name in shared}
    shown = {name: signed(number, decimals[name]) for name, number in apart.items()}
    return {"arm": ours["arm"], "from": theirs["kind"], "differences": apart, "printed": shown, "within": within}


def _within(score: float, interval: tuple[float, float] | None) -> bool | None:
    return None if interval is None else interval[0] <= score <= interval[1]


def _column(result: TaskResult) -> dict[str, Any]:
    names = ("benchmark", "column", "unit", "decimals", "n", "split", "limit", "data_fingerprint", "prompts", "scorer", "approximate")
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
    words = {"limit": "limits", "n": "numbers of samples", "data_fingerprint": "data", "prompts": "prompts or samples", "scorer": "scorers"}
    for field, word in words.items():
        old, new = getattr(before[1], field), getattr(after[1], field)
        if old != new:
            raise UserError(
                f"{before[0]} and {after[0]} cannot be put into one table: their {before[1].benchmark} has different {word} "
                f"({_brief(old, field)} and {_brief(new, field)}). Evaluate both with the same data and limit."
            )


def _brief(value: int | str | None, field: str) -> str:
    if value in (None, ""):
        return "none"
    return str(value) if field == "scorer" else str(value)[:12]
