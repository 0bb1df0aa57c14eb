"""Table 5: the same pictures and questions, and what two checkpoints answered. Needs no torch."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cal_bench.compare import compare
from cal_bench.page.data import Asked, ask, opened
from cal_bench.page.pictures import data_uri
from cal_bench.page.rows import Question
from cal_bench.page.samples import BROKEN, FIXED, WRONG, Change, select
from cal_bench.page.sides import Pair, read_pair
from cal_bench.tasks import get

PICTURES = "pictures"
SAID = {FIXED: "better", BROKEN: "worse", WRONG: "both wrong"}


@dataclass(frozen=True)
class Shown:
    """The samples that are shown of one benchmark, and how many there are of each kind."""

    benchmark: str
    changes: Sequence[Change]
    counts: str
    asked: Asked


def answers_markdown(runs: Sequence[str], data: str | None, count: int, out: Path, command: str) -> str:
    """The largest changes of each benchmark, better and worse in turn, at most `count` each; pictures go to out/pictures."""
    pair = read_pair(runs)
    head = [
        f"# The same questions, answered by {_cell(pair.before.name)} and {_cell(pair.after.name)}",
        f"Of each benchmark at most {count} samples: the largest changes, worse and better in turn, then some that both got wrong."
        f" Made by `{command}`.",
    ]
    text = "\n\n".join([*head, *(block for shown in _shown(pair, data, count) for block in _blocks(pair, shown, out))]) + "\n"
    return text.encode(errors="backslashreplace").decode()  # an answer may end in half of a character's code


def _shown(pair: Pair, data: str | None, count: int) -> Iterator[Shown]:
    # Refuses runs whose samples differ.
    benchmarks = [row.benchmark for row in compare([pair.before.source], [pair.after.source]).rows]
    with opened(pair, data) as place:
        for name in benchmarks:
            before, after = (arm.source.results[name] for arm in (pair.before, pair.after))
            selection = select(before, after)
            changes = selection.changes[:count]
            counts = ", ".join(f"{number:,} {SAID[kind]}" for kind, number in selection.counts.items())
            yield Shown(name, changes, counts, ask(place, before, [change.id for change in changes]))


def _blocks(pair: Pair, shown: Shown, out: Path) -> Iterator[str]:
    yield f"## {get(shown.benchmark).column}\n\n{shown.counts}.{f' {_cell(shown.asked.note)}' if shown.asked.note else ''}"
    for change in shown.changes:
        yield f"### {shown.benchmark} {change.id}: {SAID[change.kind]}"
        question = shown.asked.questions.get(change.id)
        if question is not None:
            yield from _pictures(question, f"{shown.benchmark}-{change.id}", out)
        yield _table(pair, shown.benchmark, change, question)


def _pictures(question: Question, name: str, out: Path) -> Iterator[str]:
    for number, content in enumerate(question.pictures):
        small = base64.b64decode(data_uri(content).partition(",")[2])
        if small:
            file = out / PICTURES / f"{name}-{number}.webp"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(small)
            yield f"![picture of {name}]({PICTURES}/{file.name})"


def _table(pair: Pair, benchmark: str, change: Change, question: Question | None) -> str:
    rows = []
    if question is not None:
        rows.append(("Question", "\n".join([question.text, *question.options])))
        rows.append(("Expected", " / ".join(question.references)))
    for arm, score in ((pair.before, change.before), (pair.after, change.after)):
        rows.append((f"{arm.name} ({score:.3g})", arm.answers.get(benchmark, {}).get(change.id, "")))
    body = "\n".join(f"| **{_cell(name)}** | {_cell(text)} |" for name, text in rows)
    return f"| | |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    """Text in a table's cell: nothing in it is markup."""
    escaped = escape(text.strip(), quote=False)
    for mark in "\\`*_[]|~#":
        escaped = escaped.replace(mark, f"\\{mark}")
    return "<br>".join(escaped.splitlines())
