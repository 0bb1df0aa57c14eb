"""Words without Java: as the Java tokenizer splits them, wherever both are here."""

import json
import shutil
import time

import pyarrow.parquet as pq
import pytest

from cal_bench.miniworld import texts
from cal_bench.miniworld.markup import parse
from cal_bench.miniworld.scene import make_scene
from cal_bench.tasks import captions
from cal_bench.tasks.ptb import words
from tests.shared import SHARED, needs_shared

# What the Java tokenizer makes of them; the reference implementation then drops punctuation.
SPLIT = {
    "A man's dog doesn't like it.": "a man 's dog does n't like it",
    "It’s the players' “best” play-off": "it 's the players best play-off",
    "I'd've said they can't, won't and cannot!": "i 'd 've said they ca n't wo n't and can not",
    "Open 24/7 at 5:30pm on the 1st, 10 a.m. to 5 p.m.": "open 24/7 at 5:30 pm on the 1st 10 a.m. to 5 p.m.",
    "$5.00, 50% off, £3 and €4 (or 1,000)": "$ 5.00 50 % off # 3 and $ 4 -lrb- or 1,000 -rrb-",
    "Mr. Smith on Main St. in the sun.": "mr. smith on main st. in the sun",
    "AT&T, R&B, S. & W., www.a-b.com": "at&t r&b s. & w. www.a-b.com",
    "the letter A. The end, and No. 5 of no. Then": "the letter a the end and no. 5 of no then",
    "½ cup, 1½ cups, 98°F": "1/2 cup 1 1/2 cups 98 ° f",
    "one -- two — three... four…": "one two three four",
    "what?! really!!! :)": "what ?! really !!! :-rrb-",
    'a 12" x 14" sign, 5\'10" tall': "a 12 x 14 sign 5 10 tall",
    "naïve café 中文字 😀 ❤": "naïve café 中文字 ❤",
    "": "",
}


@pytest.mark.parametrize("caption", SPLIT)
def test_words_are_split_as_java_does(caption: str) -> None:
    assert words(caption) == SPLIT[caption]


@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_the_list_above_is_java_s_own() -> None:
    # The caption behind a single letter decides about its full stop, so each stands before one that begins with none.
    assert java([line for caption in SPLIT for line in (caption, "x")])[::2] == list(SPLIT.values())


def java(texts: list[str]) -> list[str]:
    return [line for [line] in captions.java_words([[captions.one_line(text)] for text in texts]).values()]


def agreement(texts: list[str]) -> float:
    """The share of captions that are split alike, word for word."""
    pairs = zip(java(texts), [words(captions.one_line(text)) for text in texts], strict=True)
    return sum(one == other for one, other in pairs) / len(texts)


@needs_shared
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_real_and_made_captions_are_split_alike() -> None:
    real = SHARED / "real" / "bench"
    references = [
        caption
        for file, column in (("coco_cap", "answer"), ("textcaps", "caption_str"))
        for row in pq.read_table(real / f"{file}.parquet", columns=[column]).to_pylist()
        for caption in row[column]
    ]
    golden = json.loads((SHARED / "fixtures" / "metrics" / "coco_cap.json").read_text())
    made = [caption for row in golden for caption in (row["prediction"], *row["reference"]["captions"])]
    assert len(references) == 80
    assert agreement(references) == agreement(made) == 1
    assert [words(row["prediction"]) for row in golden] == [row["tokens"]["prediction"] for row in golden]


@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_captions_of_the_miniature_world_are_split_alike() -> None:
    import random

    spoken = [parse(texts.caption(make_scene(seed), random.Random(seed))).plain for seed in range(300)]
    assert len(set(spoken)) > 100
    assert agreement(spoken) == 1


def test_long_and_odd_answers_take_no_time() -> None:
    begun = time.process_time()
    for text in (
        "a" * 4000,
        "a." * 2000,
        "a.1." * 1000,
        "a-" * 2000,
        "_" * 4000,
        "<a " * 1300,
        "'s" * 2000,
        "@a" * 2000,
        " " * 4000,
        "1," * 2000,
    ):
        words(text)
    assert time.process_time() - begun < 5
