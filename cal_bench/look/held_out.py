"""Conversations of the miniature world that no training and no benchmark holds, with the truth about every label token."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cal_bench.miniworld.conversations import DETAIL, caption_turn, image_turns, record
from cal_bench.miniworld.draw import draw
from cal_bench.miniworld.measure import FIRST_TEST_SEED
from cal_bench.miniworld.scene import make_scene
from cal_bench.miniworld.texts import description
from cal_bench.trainer_plugin.data import ConversationDataset, DataOptions, TextEncoder
from cal_bench.trainer_plugin.templates import IMAGE, Segment

from .deltas import deltas_of
from .opened import UNCUT, Opened
from .separation import OTHER, SIGNALS, SWAPPED, VISUAL, Judged

FIRST_SEED = FIRST_TEST_SEED + 1_000_000  # past those that the base is judged by
PLAIN = "plain"

Spans = Sequence[tuple[int, int, str]]


@dataclass(frozen=True)
class HeldOut:
    """The conversations with their own pictures, the same with each other's, and the kinds of each one's label tokens."""

    right: ConversationDataset
    swapped: ConversationDataset
    kinds: tuple[tuple[str, ...], ...]
    folder: TemporaryDirectory[str]  # goes, with the pictures, when nobody holds it any more


@dataclass(frozen=True)
class Wanted:
    """How many conversations: captions for template plain, else questions and a description; pictures of `scale` times 128 px."""

    count: int = 200
    template: str = "v1"
    scale: int = 1


def hold_out(processor: Any, wanted: Wanted) -> HeldOut:
    """Draw them. A swapped conversation has the picture of the next."""
    folder = TemporaryDirectory(prefix="cal-bench-labels-")
    rows = [_row(seed, Path(folder.name), wanted) for seed in range(FIRST_SEED, FIRST_SEED + wanted.count)]
    others = [{**row, "image": rows[(place + 1) % len(rows)]["image"]} for place, row in enumerate(rows)]
    right, swapped = (_dataset(Path(folder.name), name, own, processor, wanted) for name, own in (("right", rows), ("swapped", others)))
    kinds = tuple(kinds_of(right.encoder.text, one.segments, row["spans"]) for one, row in zip(right.records, rows, strict=True))
    return HeldOut(right, swapped, kinds, folder)


def _row(seed: int, folder: Path, wanted: Wanted) -> dict[str, Any]:
    scene, rng = make_scene(seed), random.Random(seed + 0.125)
    draw(scene, wanted.scale).save(folder / f"{seed}.png", compress_level=1)
    # Without a description to each, few conversations hold an invented word.
    turns = [caption_turn(scene, rng)] if wanted.template == PLAIN else [*image_turns(scene, rng), (DETAIL[0], description(scene, rng))]
    return record(str(seed), f"{seed}.png", turns)


def _dataset(folder: Path, name: str, rows: list[dict[str, Any]], processor: Any, wanted: Wanted) -> ConversationDataset:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return ConversationDataset([file], folder, DataOptions(wanted.template, UNCUT), processor)


def kinds_of(encoder: TextEncoder, segments: Sequence[Segment], spans: Sequence[Spans]) -> tuple[str, ...]:
    """For each label token that the encoder makes of the segments: visual, invented or other.

    `spans` are those of each answer, in its characters. A token is of a span's kind if it has a character of it.
    """
    marks = [mark for segment, own in _with_spans(segments, spans) for mark in _marks(segment, own)]
    text = "".join(segment.text for segment in segments)
    behind = text.rindex(IMAGE) + len(IMAGE)  # no label stands before the picture
    ends = [len(text)] if encoder.whole else _ends(segments, behind)
    found: list[str] = []
    for start, end in zip([behind, *ends[:-1]], ends, strict=True):
        found += [kind for kind in _kinds(encoder, text[start:end], marks[start:end]) if kind is not None]
    return tuple(found)


def _with_spans(segments: Sequence[Segment], spans: Sequence[Spans]) -> list[tuple[Segment, Spans]]:
    own = iter(spans)
    return [(segment, next(own) if segment.labelled else ()) for segment in segments]


def _marks(segment: Segment, spans: Spans) -> list[str | None]:
    """The kind of each character; None where nothing is learned."""
    marks: list[str | None] = [OTHER if segment.labelled else None] * len(segment.text)
    lead = len(segment.text) - len(segment.text.lstrip(" "))  # spans count from the first letter of the answer
    for start, end, kind in spans:
        marks[lead + start : lead + end] = [kind] * (end - start)
    return marks


def _ends(segments: Sequence[Segment], behind: int) -> list[int]:
    ends = np.cumsum([len(segment.text) for segment in segments]).tolist()
    return [end for end in ends if end > behind]


def _kinds(encoder: TextEncoder, text: str, marks: Sequence[str | None]) -> list[str | None]:
    offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # As the encoder has it, a token is learned if its last character is.
    return [_kind(marks[start:end]) if marks[max(end, 1) - 1] else None for start, end in offsets]


def _kind(marks: Sequence[str | None]) -> str:
    return next((mark for mark in marks if mark not in (None, OTHER)), OTHER) or OTHER


def judge(opened: Opened, held_out: HeldOut) -> Judged:
    """The deltas of all label tokens with the right picture, and of the visual ones with the wrong picture."""
    numbers = range(len(held_out.kinds))
    right, wrong = (deltas_of(opened, dataset, numbers) for dataset in (held_out.right, held_out.swapped))
    kinds = np.array([kind for own in held_out.kinds for kind in own])
    visual = kinds == VISUAL
    deltas = {signal: np.concatenate([right.by_signal[signal], wrong.by_signal[signal][visual]]) for signal in SIGNALS}
    return Judged(deltas, np.concatenate([kinds, np.full(visual.sum(), SWAPPED)]), np.concatenate([right.records, wrong.records[visual]]))
