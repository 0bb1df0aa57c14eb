"""The page as text: a template filled with what the comparison says; everything that came from data is escaped."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from cal_bench.compare import Comparison, Row, compare
from cal_bench.compare_text import HEADINGS, cells, explanation_lines, verdict_lines
from cal_bench.records import TaskResult
from cal_bench.tasks.boxes import read_plain

from .charts import Line, Mark, chart, forest, forest_axis, points_of, reach
from .data import Asked, Place, ask, opened
from .pictures import Album, album
from .rows import Question
from .samples import Change, Selection, select
from .sides import Arm, Pair

# Characters of pictures in a page. It is one file: people mail it, and phones open it.
BUDGET = 20_000_000
LOSS, PACE = "loss", "seconds_per_step"
CURVES = {
    LOSS: "Training loss",
    "cal/weight_mean": "CAL: mean weight of a label token",
    "cal/delta_mean": "CAL: mean gain of a label's logit from the picture",
    "cal/logp_delta_mean": "CAL: mean gain of a label's log-probability from the picture",
    "cal/clamped_low": "CAL: share of label tokens at the lower bound",
    "cal/clamped_high": "CAL: share of label tokens at the upper bound",
    PACE: "Seconds per step",
}


@dataclass(frozen=True)
class Part:
    """What a page shows of one benchmark below its row."""

    row: Row
    selection: Selection
    asked: Asked
    album: Album


def page_html(pair: Pair, command: str, data: str | None = None) -> str:
    """The whole page. `data` is where the benchmarks' data is, if not where the runs found it."""
    comparison = compare([pair.before.source], [pair.after.source])
    with opened(pair, data) as place:
        parts = [_part(pair, row, place, BUDGET // len(comparison.rows)) for row in comparison.rows]
    script = _asset("page.js")
    content = {
        "title": escape(pair.title),
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_hash(script)}'",
        "style": _asset("page.css"),
        "script": script,
        "before": escape(pair.before.name),
        "after": escape(pair.after.name),
        "verdict": _paragraphs(verdict_lines(comparison)),
        "summary": _summary(pair, comparison),
        "explanation": _paragraphs("\n".join(explanation_lines([comparison])).split("\n")),
        "notes": _notes(comparison, parts),
        "curves": _curves(pair),
        "making": _making(pair),
        "command": escape(command),
        "data": _embedded(_samples(pair, parts)),
    }
    text = Template(_asset("page.html")).substitute(content)
    # A folder's name may hold bytes that are no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _paragraphs(lines: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def _part(pair: Pair, row: Row, place: Place, budget: int) -> Part:
    before, after = (arm.source.results[row.benchmark] for arm in (pair.before, pair.after))
    selection = select(before, after)
    asked = ask(place, before, [change.id for change in selection.changes])
    shown = [(change.id, asked.questions[change.id].pictures) for change in selection.changes if change.id in asked.questions]
    return Part(row, selection, asked, album(shown, budget))


def _summary(pair: Pair, comparison: Comparison) -> str:
    """The table of the comparison, with the intervals as a forest plot in its second column."""
    marks = [_mark(pair, row) for row in comparison.rows]
    span = reach(marks)
    head = [HEADINGS[0], "", *HEADINGS[1:]]
    titles = "".join(f"<th>{forest_axis(span) if not heading else escape(heading)}</th>" for heading in head)
    rows = "".join(_summary_row(row, forest(mark, span)) for row, mark in zip(comparison.rows, marks, strict=True))
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"


def _summary_row(row: Row, plot: str) -> str:
    name, *rest = map(escape, cells(row))
    link = f'<a href="#samples" data-benchmark="{escape(row.benchmark)}">{name}</a>'
    return f'<tr><th scope="row">{link}</th><td>{plot}</td>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def _mark(pair: Pair, row: Row) -> Mark:
    full = full_mark([arm.source.results[row.benchmark] for arm in (pair.before, pair.after)])
    return Mark(row.gain.value / full, row.gain.low / full, row.gain.high / full, row.beyond_chance)


def full_mark(results: Sequence[TaskResult]) -> float:
    """What stands for 100 in the plot: 100, but for a score in points the most that its samples can give together."""
    makeup = results[0].makeup
    if results[0].unit != "points" or makeup is None:
        return 100.0
    most = max([value for result in results if result.makeup for value in result.makeup.numerators], default=1.0)
    categories = len(set(makeup.categories) - {None}) if makeup.summed else 1
    return makeup.scale * (most or 1.0) * categories


def _notes(comparison: Comparison, parts: Sequence[Part]) -> str:
    notes = [*comparison.notes]
    for part in parts:
        notes += [f"{part.row.benchmark}: {note}" for note in _part_notes(part)]
    return _paragraphs(notes)


def _part_notes(part: Part) -> list[str]:
    shown = {kind: sum(change.kind == kind for change in part.selection.changes) for kind in part.selection.counts}
    cut = [f"{shown[kind]:,} of {count:,} {kind}" for kind, count in part.selection.counts.items() if shown[kind] < count]
    notes = [part.asked.note] if part.asked.note else []
    notes += [f"shows {', '.join(cut)}."] if cut else []
    notes += [f"{part.album.left_out:,} pictures left out to keep the page small."] if part.album.left_out else []
    return notes + ([f"{part.album.unreadable:,} pictures cannot be read."] if part.album.unreadable else [])


def _curves(pair: Pair) -> str:
    stages = dict.fromkeys([*pair.before.logs, *pair.after.logs])
    drawn = [(stage, _stage_curves(pair, stage)) for stage in stages]
    sections = [f'<h3>Stage {escape(stage)}</h3><div class="charts">{charts}</div>' for stage, charts in drawn if charts]
    none = "<p>No training logs: they are kept by <code>cal-bench study</code>. Give the study's folder to see them.</p>"
    return "".join(sections) or none


def _stage_curves(pair: Pair, stage: str) -> str:
    charts = []
    for key, title in CURVES.items():
        lines = [Line(arm.name, place, points_of(arm.logs.get(stage, ()), key)) for place, arm in enumerate((pair.before, pair.after))]
        if drawn := [line for line in lines if line.points]:
            charts.append(chart(title, drawn))
    return "".join(charts)


def _making(pair: Pair) -> str:
    """The resolved configs and the versions."""
    names = dict.fromkeys([*pair.before.versions, *pair.after.versions])
    rows = [[name, pair.before.versions.get(name, "–"), pair.after.versions.get(name, "–")] for name in names]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("version of", pair.before.name, pair.after.name))
    body = "".join(f'<tr><th scope="row">{escape(row[0])}</th><td>{escape(row[1])}</td><td>{escape(row[2])}</td></tr>' for row in rows)
    versions = f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    study = _unfolding("Config of the study", pair.config) if pair.config else ""
    return versions + study + "".join(_unfolding(f"Config of {arm.name}", _config(arm)) for arm in (pair.before, pair.after))


def _config(arm: Arm) -> str:
    return json.dumps(arm.config, indent=1, ensure_ascii=False)


def _unfolding(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def _samples(pair: Pair, parts: Sequence[Part]) -> dict[str, Any]:
    """What the script of the page reads."""
    pictures = {name: uri for part in parts for name, uri in part.album.pictures.items()}
    samples = [_sample(pair, part, change) for part in parts for change in part.selection.changes]
    return {"arms": [pair.before.name, pair.after.name], "samples": samples, "pictures": pictures}


def _sample(pair: Pair, part: Part, change: Change) -> dict[str, Any]:
    name = part.row.benchmark
    question = part.asked.questions.get(change.id)
    answers = [_answer(arm.answers, name, change.id) for arm in (pair.before, pair.after)]
    return {
        "benchmark": name,
        "id": change.id,
        "kind": change.kind,
        "scores": [change.before, change.after],
        "answers": answers,
        "question": question.text if question else None,
        "options": list(question.options) if question else [],
        "references": list(question.references) if question else [],
        "pictures": list(part.album.names.get(change.id, ())),
        "boxes": _boxes(question, answers),
    }


def _boxes(question: Question | None, answers: Sequence[str | None]) -> dict[str, list[float]]:
    """The expected box and those answered, as left, top, right and bottom in shares of the picture."""
    if question is None or question.box is None:
        return {}
    before, after = (read_plain(answer or "") for answer in answers)
    found = {"expected": question.box, "arm0": before, "arm1": after}
    return {name: [box.left, box.top, box.right, box.bottom] for name, box in found.items() if box}


def _answer(answers: Mapping[str, Mapping[int, str]], benchmark: str, id: int) -> str | None:
    return answers.get(benchmark, {}).get(id)


def _embedded(content: Mapping[str, Any]) -> str:
    """JSON inside HTML: nothing in it ends the element that it lies in."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
