"""Figures that are readable in print: one look for all, colours that the colour-blind tell apart, a caption that says what was done."""

import os
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from cal_bench.runs import PARTIAL, explained

# Okabe and Ito's palette, without its yellow, which is too light for lines on white; told apart by dashes too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
DPI = 150
CAPTION_SIZE = 7.0  # points


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


@contextmanager
def styled() -> Iterator[None]:
    """What is drawn meanwhile has the look of all our figures."""
    with rc_context(dict(STYLE)):
        yield


def save(figure: Figure, path: Path, caption: str) -> None:
    """Write a PNG with the caption below the drawing; whole or not at all."""
    width = figure.get_figwidth()
    text = textwrap.fill(caption, int(width * 17.5), break_on_hyphens=False)
    figure.text(0.08 / width, -0.08 / figure.get_figheight(), text, fontsize=CAPTION_SIZE, va="top", color="#333333", parse_math=False)
    partial = path.with_name(path.name + PARTIAL)
    with explained(path):
        # The name of the program and its version would make the same drawing other bytes elsewhere.
        figure.savefig(partial, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
        os.replace(partial, path)


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of the line of this place."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
