"""Figure 2a: the text of a sample, each label token coloured by what it owes to the picture."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL.Image import Image

from cal_bench.figure import DPI, styled
from cal_bench.page.pictures import data_uri
from cal_bench.trainer_plugin.data import ConversationDataset, load_image, load_stored
from cal_bench.trainer_plugin.loss import IGNORED
from cal_bench.trainer_plugin.messages import Stored

from .deltas import deltas_of
from .opened import Opened
from .separation import SIGNALS

FULL = 5.0  # the delta of the strongest colour: the paper's upper bound
UP, DOWN = "#0072B2", "#D55E00"
STRONGEST = 0.7  # opacity of the strongest cell in the PNG, whose text stays black
CONTEXT = 8  # tokens in front of one, which say how it is written
COLUMNS = 88
# In inches: a 9-point monospaced letter, from line to line, the picture, and the space around a text.
LETTER, ROW, PICTURE, GAP = 0.0753, 0.2, 2.2, 0.32


@dataclass(frozen=True)
class Token:
    """A piece of text, and for a label token its delta by signal."""

    text: str
    deltas: dict[str, float] | None = None


@dataclass(frozen=True)
class Sample:
    """A conversation as a model reads it, without the placeholders of its picture."""

    model: str
    number: int
    picture: Image
    tokens: tuple[Token, ...]


def read_sample(opened: Opened, dataset: ConversationDataset, number: int) -> Sample:
    """The tokens of a record, and the deltas of those that are labels."""
    found = deltas_of(opened, dataset, [number]).by_signal
    deltas = ({signal: float(found[signal][place]) for signal in SIGNALS} for place in range(len(found["logit"])))
    features = dataset[number]
    kept = [pair for pair in _pairs(features) if pair[0] != opened.processor.image_token_id]
    texts = pieces(opened.processor.tokenizer, [id for id, _ in kept])
    tokens = tuple(Token(text, next(deltas) if label != IGNORED else None) for text, (_, label) in zip(texts, kept, strict=True))
    return Sample(opened.name, number, _picture(dataset, number), tokens)


def _pairs(features: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(features["input_ids"].tolist(), features["labels"].tolist(), strict=True))


def _picture(dataset: ConversationDataset, number: int) -> Image:
    (name,) = dataset.records[number].images
    return load_stored(name) if isinstance(name, Stored) else load_image(dataset.images / name)


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a letter of several tokens is given to the last of them."""
    found = []
    for place in range(len(ids)):
        before = tokenizer.decode(ids[max(0, place - CONTEXT) : place]).rstrip("\ufffd")
        found.append(tokenizer.decode(ids[max(0, place - CONTEXT) : place + 1]).rstrip("\ufffd")[len(before) :])
    return found


def heatmap_html(sample: Sample, command: str) -> str:
    """The text once for each signal, as one HTML file that needs nothing else."""
    stream = io.BytesIO()
    sample.picture.save(stream, "PNG")
    sections = "".join(
        f"<section><h2>{escape(name.capitalize())}</h2><p class=text>{_spans(sample.tokens, signal)}</p></section>"
        for signal, name in SIGNALS.items()
    )
    return _PAGE.format(
        picture=data_uri(stream.getvalue()), sections=sections, about=escape(_about(sample)), full=f"{FULL:g}", command=escape(command)
    )


def _about(sample: Sample) -> str:
    return f"{sample.model}, sample {sample.number}, n = {_labels(sample)} label tokens"


def _labels(sample: Sample) -> int:
    return sum(token.deltas is not None for token in sample.tokens)


def _spans(tokens: Sequence[Token], signal: str) -> str:
    return "".join(_span(token, signal) for token in tokens)


def _span(token: Token, signal: str) -> str:
    text = escape(token.text).replace("\n", "↵\n" if token.deltas else "\n")
    if token.deltas is None:
        return text
    value = token.deltas[signal]
    title = ", ".join(f"{name} {delta:+.2f}" for name, delta in token.deltas.items())
    share = 100 * _strength(value)
    return f'<span class={"up" if value >= 0 else "down"} style="--share:{share:.0f}%" title="{title}">{text}</span>'


def _strength(value: float) -> float:
    return min(abs(value) / FULL, 1.0)


@dataclass(frozen=True)
class Cell:
    """A word, or a part of one, at its place on a page of lines."""

    line: int
    column: int
    text: str
    deltas: dict[str, float] | None


def lay_out(tokens: Sequence[Token], columns: int) -> list[Cell]:
    """Tokens in lines of at most so many letters; a token of several words may be broken between them."""
    cells, line, column = [], 0, 0
    for token in tokens:
        for part in _parts(token, columns):
            text = part.rstrip("\n")
            if column and column + len(text.rstrip()) > columns:
                line, column = line + 1, 0
            # Lines begin with a word, but a token that is only space still has its colour.
            text = (text.lstrip() or text) if column == 0 else text
            cells.append(Cell(line, column, text, token.deltas))
            line, column = (line + 1, 0) if part.endswith("\n") else (line, column + len(text))
    return cells


def _parts(token: Token, columns: int) -> Iterator[str]:
    shown = token.text.replace("\n", "↵\n") if token.deltas else token.text
    for part in re.findall(r"[^\S\n]*[^\s]+\n?|[^\S\n]+\n?|\n", shown):
        yield from (part[start : start + columns] for start in range(0, len(part), columns))


def heatmap_figure(sample: Sample) -> Figure:
    """The picture, and beside it the text once for each signal."""
    cells = lay_out(sample.tokens, COLUMNS)
    lines = cells[-1].line + 1
    text_width, text_height = COLUMNS * LETTER, lines * ROW
    width, height = PICTURE + GAP + text_width, len(SIGNALS) * (text_height + GAP)
    with styled():
        # Placed by hand: letters have to lie on the cells behind them.
        figure = Figure(figsize=(width, height), dpi=DPI)
        picture = figure.add_axes((0, 0, PICTURE / width, 1 - GAP / height))
        picture.imshow(sample.picture)
        picture.set_anchor("N")
        picture.axis("off")
        for row, (signal, name) in enumerate(SIGNALS.items(), start=1):
            bottom = 1 - row * (text_height + GAP) / height
            axes = figure.add_axes(((PICTURE + GAP) / width, bottom, text_width / width, text_height / height))
            axes.set(xlim=(0, COLUMNS), ylim=(lines, 0), title=f"Delta, {name}")
            axes.axis("off")
            for cell in cells:
                _draw(axes, cell, None if cell.deltas is None else cell.deltas[signal])
    return figure


def _draw(axes: Any, cell: Cell, value: float | None) -> None:
    if value is not None:
        strength, colour = STRONGEST * _strength(value), UP if value >= 0 else DOWN
        axes.add_patch(Rectangle((cell.column, cell.line), len(cell.text), 0.92, facecolor=colour, alpha=strength, linewidth=0))
    ink = {"family": "DejaVu Sans Mono", "fontsize": 9, "color": "#777777" if value is None else "black"}
    axes.text(cell.column, cell.line + 0.5, cell.text, va="center_baseline", parse_math=False, **ink)


def heatmap_caption(sample: Sample, command: str) -> str:
    """What is drawn, of what, and how."""
    return (
        f"Score of each label token with the picture minus its score without. {_about(sample)}. Blue above 0, orange below; full colour"
        f" from {FULL:g} on, the paper's upper bound. Grey text is no label. Made by: {command}"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>What each word owes to the picture</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --quiet: #5d6670; --paper: #fff; --up: #4aa3df; --down: #f0894a; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8eaed; --quiet: #98a2ad; --paper: #16191d; --up: #1f74ad; --down: #b4521c; }}
}}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
body {{ color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1rem; margin-bottom: .3rem; }}
img {{ max-width: min(20rem, 100%); max-height: 20rem; border: 1px solid var(--quiet); }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; color: var(--quiet); margin: 0; }}
.text span {{ color: var(--ink); padding: .15em 0; border-radius: .15em; }}
.up {{ background: color-mix(in srgb, var(--up) var(--share), transparent); }}
.down {{ background: color-mix(in srgb, var(--down) var(--share), transparent); }}
.legend span {{ padding: .1em .5em; border-radius: .15em; }}
footer {{ margin-top: 2rem; color: var(--quiet); font-size: .85rem; overflow-wrap: anywhere; }}
</style></head><body>
<h1>What each word owes to the picture</h1>
<p>{about}</p>
<p class="legend"><span class="down" style="--share:100%">−{full} and below</span> <span>0</span>
<span class="up" style="--share:100%">{full} and above</span></p>
<img src="{picture}" alt="The picture of the sample">
{sections}
<footer><p>Delta: the score of a label token with the picture minus its score without. Grey text is no label. Point at a word to read its
deltas.</p><p>Made by <code>{command}</code></p></footer>
</body></html>
"""
