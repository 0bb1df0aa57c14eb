"""Bare exercises for the tiny language model: a list, and what is asked about it in a word or two.

A dialogue holds one option letter or one yes per question, which is too little for a small model to find out how either is told;
a drill asks for nothing else.
"""

import random
from collections.abc import Sequence

from cal_bench.trainer_plugin.templates import IMAGE, Segment

from .conversations import listed
from .vocabulary import COLOURS, CONTENT, KEYS, NOUNS, NUMBERS, WORDS

Items = list[tuple[str, ...]]

FIELDS: dict[str, Sequence[str]] = {"colour": tuple(COLOURS), "thing": NOUNS, "word": WORDS, "number": NUMBERS, "item": tuple(KEYS)}


def drill(rng: random.Random) -> tuple[list[Segment], Items]:
    """One exercise, and the words of the items that stand in it as <image>."""
    return rng.choice((_letters, _present, _pairs, _records, _records, _records))(rng)


def _letters(rng: random.Random) -> tuple[list[Segment], Items]:
    options = tuple(rng.sample(CONTENT, 4))
    segments = [Segment(listed(options, rng.choice((". ", ": "))), False)]
    for index in rng.choices(range(4), k=4):
        segments += _ask(f"says {options[index]}", "ABCD"[index])
    return segments, []


def _present(rng: random.Random) -> tuple[list[Segment], Items]:
    words = rng.sample(CONTENT, rng.randint(8, 14))
    there, absent = words[4:], words[:4]
    lead, items = _shown([(word,) for word in there], rng)
    segments = [Segment(lead, False)]
    for word in absent:
        # Each question by itself is a coin's throw: nothing can be told from the answers before.
        segments += rng.choice((_ask(f"any {word}", "No"), _ask(f"any {rng.choice(there)}", "Yes")))
    return segments, items


def _pairs(rng: random.Random) -> tuple[list[Segment], Items]:
    count = rng.randint(3, 5)
    colours, nouns = rng.sample(list(COLOURS), count), rng.sample(NOUNS, count)
    lead, items = _shown(list(zip(colours, nouns, strict=True)), rng)
    segments = [Segment(lead, False)]
    for index in rng.sample(range(count), 3):
        segments += rng.choice(
            (
                _ask(nouns[index], colours[index]),
                _ask(f"any {colours[index]} {nouns[index]}", "Yes"),
                _ask(f"any {colours[index - 1]} {nouns[index]}", "No"),
            )
        )
    return segments, items


def _records(rng: random.Random) -> tuple[list[Segment], Items]:
    """One field of a record by another. Of words of all kinds: those of few kinds are learned one by one, without how to look up."""
    count, names = rng.randint(2, 5), rng.sample(list(FIELDS), rng.choice((2, 3, 3)))
    columns = [rng.sample(FIELDS[name], count) for name in names]
    lead, items = _shown(list(zip(*columns, strict=True)), rng)
    segments = [Segment(lead, False)]
    for index in rng.choices(range(count), k=4):
        wanted, given = rng.sample(range(len(names)), 2)
        segments += _ask(f"{names[wanted]} {columns[given][index]}", columns[wanted][index])
    return segments, items


def _ask(question: str, answer: str) -> list[Segment]:
    return [Segment(f"\n {question}", False), Segment(f" {answer}", True)]


def _shown(things: Items, rng: random.Random) -> tuple[str, Items]:
    """A list of things, written out or as items."""
    if rng.random() < 0.5:
        return "\n " + ", ".join(" ".join(words) for words in things), []
    items = [words for words in things for _ in range(rng.randint(1, 3))]
    rng.shuffle(items)
    return "\n" + IMAGE * len(items), items
