"""Benchmark files of the miniature world: for each column the rows that lmms-eval's own task code reads."""

import io
import random
from collections.abc import Callable
from typing import Any

from . import texts
from .draw import draw
from .markup import parse
from .scene import Layout, Scene, make_scene

Row = dict[str, Any]
LETTERS = "ABCDEFGHI"


def image_cell(scene: Scene, scale: int) -> dict[str, Any]:
    """An image as the datasets library stores it in parquet."""
    buffer = io.BytesIO()
    draw(scene, scale).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": f"{scene.seed}.png"}


def _plain(marked: str) -> str:
    return parse(marked).plain


def _question(scene: Scene, rng: random.Random, topics: tuple[str, ...]) -> texts.Question:
    return rng.choice([question for question in texts.questions(scene, rng) if question.topic in topics])


def _textvqa(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    question = _question(scene, rng, ("word", "sign number"))
    sign = scene.of("sign")[0]
    answer = _plain(question.answer)
    tokens = texts.ocr_tokens(sign, rng)
    return [{"image_id": str(scene.seed), "question_id": index, "question": question.text, "answers": [answer] * 10, "ocr_tokens": tokens}]


def _docvqa(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    question = _question(scene, rng, ("value", "key"))
    return [{"questionId": str(index), "question": question.text, "docId": scene.seed, "answers": [_plain(question.answer)]}]


def _chartqa(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    human = index % 2 == 0
    topics = ("highest", "lowest", "most", "bar label") if human else ("bar value", "bar colour", "bars")
    question = _question(scene, rng, topics)
    return [{"type": "human_test" if human else "augmented_test", "question": question.text, "answer": _plain(question.answer)}]


def _ocrbench(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    if scene.layout == "sign":
        kind, question, answer = rng.choice(
            (
                ("Regular Text Recognition", "what is written in the image?", scene.of("sign")[0].word),
                ("Scene Text-centric VQA", "What word is on the sign?", scene.of("sign")[0].word),
            )
        )
    else:
        line = rng.choice(scene.of("line"))
        kind = rng.choice(("Doc-oriented VQA", "Key Information Extraction"))
        question, answer = f"What is the {line.key}?", line.word or line.number
        question += texts.SHORT if kind == "Doc-oriented VQA" else ""
    return [{"dataset": "miniworld", "question": question, "question_type": kind, "answer": [answer]}]


def _mmstar(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    groups = {
        "coarse perception": ("count", "bars", "kind"),
        "fine-grained perception": ("colour", "word", "value", "sign colour", "bar colour"),
        "instance reasoning": ("place", "at", "key", "bar label"),
        "logical reasoning": ("highest", "lowest", "most", "size"),
        "science & technology": ("kind", "bar value"),
        "math": ("count", "most", "bar value", "sign number"),
    }
    found = texts.questions(scene, rng)
    names = [name for name, topics in groups.items() if any(q.topic in topics and len(q.others) == 3 for q in found)]
    category = names[index % len(names)]
    question, options = texts.with_options(rng.choice([q for q in found if q.topic in groups[category] and len(q.others) == 3]), rng)
    listed = ", ".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=False))
    meta = {"source": "miniworld", "split": "test", "image_path": f"{scene.seed}.png"}
    text = f"{question.text}\nOptions: {listed}"
    return [
        {
            "index": index,
            "question": text,
            "answer": _plain(question.answer),
            "category": category,
            "l2_category": question.topic,
            "meta_info": meta,
        }
    ]


def _mmt(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    question, options = texts.with_options(rng.choice(texts.questions(scene, rng)), rng)
    columns = {letter: options[i] if i < len(options) else None for i, letter in enumerate(LETTERS)}
    row = {"index": index, "question": question.text, "answer": _plain(question.answer), "category": question.topic, "split": "VAL"}
    return [{**row, "l2-category": "visual_recognition", **columns}]


def _scienceqa(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    question, options = texts.with_options(_question(scene, rng, ("kind", "thing", "size")), rng)
    answer = "ABCD".index(_plain(question.answer))
    hint = rng.choice(("", "The picture shows one or more things on a wall."))
    return [{"question": question.text, "choices": list(options), "answer": answer, "hint": hint, "lecture": "", "solution": ""}]


def _captions(scene: Scene, rng: random.Random) -> list[str]:
    return [_plain(texts.caption(scene, rng)) for _ in range(5)]


def _coco(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    name = f"mini_val_{index + 1:012d}.jpg"
    return [
        {"question_id": name, "question": texts.CAPTION, "answer": _captions(scene, rng), "id": index + 1, "file_name": f"{scene.seed}.png"}
    ]


def _textcaps(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    captions = _captions(scene, rng)
    row = {"question_id": str(index), "question": texts.CAPTION, "image_id": str(scene.seed), "caption_str": captions}
    return [{**row, "reference_strs": captions}]


def _refcocog(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    entity = rng.choice(scene.of("thing") + scene.of("sign"))
    x1, y1, x2, y2 = (float(round(value, 2)) for value in entity.box)
    expressions = list(dict.fromkeys(texts.referring(scene, entity, rng) for _ in range(2)))
    row = {"question_id": str(index), "question": "", "answer": expressions, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
    return [{**row, "segmentation": [x1, y1, x2, y1, x2, y2, x1, y2], "file_name": f"{scene.seed}.png"}]


def _mme(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    kinds = ("OCR",) if scene.of("sign") else ("existence", "color", "position", "count")
    kind = kinds[index % len(kinds)]
    rows = []
    for truth in (True, False):
        question = texts.claim(scene, rng, truth, kind)
        text = f"{question.text} Please answer yes or no."
        rows.append({"question_id": f"{kind}/{scene.seed}.png", "question": text, "answer": "Yes" if truth else "No", "category": kind})
    return rows


def _pope(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    rows = []
    for truth in (True, False):
        question = texts.claim(scene, rng, truth, "existence")
        base = {"id": str(2 * index + truth), "question_id": str(2 * index + truth), "image_source": str(scene.seed), "category": "random"}
        rows.append({**base, "question": question.text, "answer": "yes" if truth else "no"})
    return rows


def _seed(scene: Scene, index: int, rng: random.Random) -> list[Row]:
    found = [question for question in texts.questions(scene, rng) if len(question.others) == 3]
    question, options = texts.with_options(rng.choice(found), rng)
    row = {"answer": _plain(question.answer), "data_id": f"{scene.seed}.png", "data_type": "image", "question": question.text}
    choices = {f"choice_{letter}": option for letter, option in zip("abcd", options, strict=True)}
    return [{**row, "question_id": str(index), "question_type_id": 1, **choices}]


Maker = Callable[[Scene, int, random.Random], list[Row]]
# File stem: who writes its rows, from which pictures, and how many rows a picture gives.
FILES: dict[str, tuple[Maker, tuple[Layout, ...], int]] = {
    "ocrbench": (_ocrbench, ("sign", "page"), 1),
    "docvqa": (_docvqa, ("page",), 1),
    "chartqa": (_chartqa, ("chart",), 1),
    "textvqa": (_textvqa, ("sign",), 1),
    "scienceqa_img": (_scienceqa, ("things",), 1),
    "mmstar": (_mmstar, ("things", "sign", "page", "chart"), 1),
    "mmt": (_mmt, ("things", "sign", "page", "chart"), 1),
    "coco_cap": (_coco, ("things",), 1),
    "textcaps": (_textcaps, ("sign",), 1),
    "refcocog_val": (_refcocog, ("things", "sign"), 1),
    "refcocog_test": (_refcocog, ("things", "sign"), 1),
    "mme": (_mme, ("things", "sign"), 2),
    "pope": (_pope, ("things",), 2),
    "seed": (_seed, ("things", "sign", "page", "chart"), 1),
}


def bench_rows(stem: str, first_seed: int, count: int, scale: int = 1) -> list[Row]:
    """About `count` rows for one file, from pictures with consecutive seeds."""
    make, layouts, per_picture = FILES[stem]
    rows: list[Row] = []
    for index in range(max(1, count // per_picture)):
        scene = make_scene(first_seed + index, layouts)
        image = image_cell(scene, scale)
        cell = [image] if stem == "seed" else image
        rows += [{**_scaled(row, scale), "image": cell} for row in make(scene, index, random.Random(scene.seed + 0.25))]
    return rows


def _scaled(row: Row, scale: int) -> Row:
    """The row with what it says in pixels made as large as its picture."""
    return {name: [scale * at for at in value] if name in ("bbox", "segmentation") else value for name, value in row.items()}
