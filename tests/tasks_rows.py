"""Small parquet files in the layout of each benchmark, for the tests of `tasks`."""

import io
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

SIZE = (40, 30)
OCR_TYPES = ("Regular Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA", "Handwritten Mathematical Expression Recognition")
MMSTAR = {"math": ("geometry", "statistical reasoning"), "coarse perception": ("image emotion", "image scene and topic")}


def png(number: int, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """A picture of its own colour for each number."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, 50)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": f"{number}.png"}


def letter(i: int) -> str:
    return "ABCD"[i % 4]


ROWS: dict[str, Any] = {
    "chartqa": lambda i: {"question": f"How many in {i}?", "answer": str(10 * i), "type": "human_test" if i % 3 else "augmented_test"},
    "docvqa": lambda i: {"questionId": str(i), "question": f"What is line {i}?", "answers": [f"line number {i}", f"the line {i}"]},
    "textvqa": lambda i: {
        "question_id": i,
        "question": f"what Does sign {i} say?",
        "answers": ["Stop!"] * (i % 5) + [f"Go {i}"] * (10 - i % 5),
        "ocr_tokens": ["STOP", str(i)],
    },
    "ocrbench": lambda i: {
        "question": f" What is written in {i}? ",
        "answer": [f"Word {i}"],
        "dataset": "HME100k" if i % 4 == 3 else "IIIT5K",
        "question_type": OCR_TYPES[i % 4],
    },
    "mmstar": lambda i: {
        "index": i,
        "question": f"Which? {i}\nOptions: A: a, B: b, C: c, D: d",
        "answer": letter(i),
        "category": sorted(MMSTAR)[i % 2],
        "l2_category": MMSTAR[sorted(MMSTAR)[i % 2]][i // 2 % 2],
    },
    "mmt": lambda i: {
        "index": i,
        "question": f"Which of these is {i}?",
        "answer": letter(i),
        "split": "VAL",
        "l2-category": "ocr" if i % 2 else "counting",
        **{option: f"thing {option}{i}" for option in "ABCD"},
        **dict.fromkeys("EFGHI", None if i % 2 else ""),
    },
    "scienceqa_img": lambda i: {
        "question": f"Which is {i}?",
        "choices": ["one", "two", "three", "four"],
        "answer": i % 4,
        "hint": "" if i % 2 else "A hint.",
    },
    "coco_cap": lambda i: {"question_id": f"val_{i:012d}.jpg", "answer": captions(i), "id": i},
    "textcaps": lambda i: {"image_id": f"picture{i}", "caption_str": captions(i)},
    "refcocog_val": lambda i: {
        "question_id": str(i),
        "bbox": [4.0 + i % 7, 3.0, 20.0, 15.5],
        "answer": [f"the thing {i}", f"object {i}"][: 1 + i % 2],
    },
    "mme": lambda i: {
        "question_id": f"pictures/{i // 2}.png",
        "question": f"Is it {i}? Please answer yes or no.",
        "answer": "Yes" if i % 2 else "No",
        "category": ("existence", "code_reasoning", "OCR")[i // 2 % 3],
    },
    "pope": lambda i: {"question_id": str(i), "question": f"Is there a {i} in the image?", "answer": "yes" if i % 2 else "no"},
    "seed": lambda i: {
        "question_id": str(i),
        "question": f"Which is {i}?",
        **{f"choice_{name}": f"{name} {i}" for name in "abcd"},
        "answer": letter(i),
        "data_type": "image",
    },
}
ROWS["refcocog_test"] = ROWS["refcocog_val"]


def captions(i: int) -> list[str]:
    things = ["dog", "red bus", "clock tower", "plate of food", "man on a horse", "sign that says OPEN"]
    thing = things[i % len(things)]
    return [
        f"A {thing} near house number {i}.",
        f"there is a {thing} in the picture",
        f"The {thing}, seen from the {'left' if i % 2 else 'right'}",
    ]


def pictures(stem: str, i: int) -> Any:
    """MME has two questions for a picture; SEED-Bench has lists of pictures."""
    if stem == "seed":
        return [png(i)]
    return png(i // 2 if stem == "mme" else i)


def rows(stem: str, count: int = 12) -> list[dict[str, Any]]:
    return [{**ROWS[stem](i), "image": pictures(stem, i)} for i in range(count)]


def write(folder: Path, stem: str, contents: list[dict[str, Any]] | None = None) -> Path:
    """Writes <stem>.parquet, by default with the rows above."""
    return write_as(folder / f"{stem}.parquet", stem, rows(stem) if contents is None else contents)


def write_as(path: Path, stem: str, contents: list[dict[str, Any]]) -> Path:
    """Writes a parquet file with the column types of the real data set."""
    dataset = datasets.Dataset.from_list(contents)
    features = dataset.features.copy()
    features["image"] = datasets.List(datasets.Image()) if stem == "seed" else datasets.Image()
    if "bbox" in features:
        features["bbox"] = datasets.List(datasets.Value("float32"))
    dataset.cast(features).to_parquet(path)
    return path


def write_all(folder: Path) -> Path:
    for stem in ROWS:
        write(folder, stem)
    return folder


def right_answer(name: str, i: int) -> str:
    """The answer that the made-up data expects of sample i of benchmark `name`."""
    if name.startswith("refcocog"):
        row = [row for row in rows("refcocog_val") for _ in row["answer"]][i]
        x, y, width, height = row["bbox"]
        return f"[{x / SIZE[0]:.3f}, {y / SIZE[1]:.3f}, {(x + width) / SIZE[0]:.3f}, {(y + height) / SIZE[1]:.3f}]"
    stem = {"coco_caption": "coco_cap", "seed_img": "seed", "textvqa_ocr": "textvqa"}.get(name, name)
    row = ROWS[stem](i)
    if name in ("coco_caption", "textcaps"):
        return captions(i)[0]
    if name == "scienceqa_img":
        return letter(row["answer"])
    gold = row.get("answer", row.get("answers"))
    return str(gold[-1] if isinstance(gold, list) else gold)


def mixed_answers(name: str, ids: list[int]) -> dict[int, str]:
    """Right, wrong, chatty and empty answers in turn."""
    wrong = {"mme": "no", "pope": "yes", "refcocog_val": "[0.1, 0.1, 0.4, 0.9]", "refcocog_test": "[0.9, 0.9, 1.5, 1.5]"}.get(name, "B")
    turns = [
        lambda i: right_answer(name, i),
        lambda i: wrong,
        lambda i: "",
        lambda i: f" The answer is {right_answer(name, i)}.\n",
        lambda i: right_answer(name, i),
    ]
    return {i: turns[i % 5](i) for i in ids}
