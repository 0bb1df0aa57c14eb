"""The miniature world: its pictures, its texts, its benchmark files, and the shipped base."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cal_bench.config import load_study
from cal_bench.miniworld import WorldSizes, draw_world, texts
from cal_bench.miniworld.bench import FILES
from cal_bench.miniworld.conversations import TEXT_ONLY, caption_turn, image_turns, record, text_turns
from cal_bench.miniworld.draw import draw
from cal_bench.miniworld.markup import Span, parse
from cal_bench.miniworld.scene import SIDE, make_scene, patch_letters, patch_owner, writings
from cal_bench.miniworld.vocabulary import COLOURS, CONTENT, KIND_OF, NOUNS, WORDS
from cal_bench.miniworld.world import BLOCK, INSTRUCT, PER_FILE, TEST


def test_records_do_not_depend_on_the_process_that_draws_them():
    code = (
        "import random; from cal_bench.miniworld.conversations import image_turns; from cal_bench.miniworld.scene import make_scene;"
        "print([image_turns(make_scene(seed), random.Random(seed)) for seed in range(60)])"
    )
    # Python orders sets of words by a number that it draws at its start.
    said = [subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}) for seed in "12"]
    assert said[0] == said[1] != b""


def test_a_seed_is_a_picture():
    assert draw(make_scene(5)).tobytes() == draw(make_scene(5)).tobytes()
    hashes = {hashlib.sha256(draw(make_scene(seed)).tobytes()).digest() for seed in range(60)}
    assert len(hashes) == 60


def test_pictures_are_128_px_and_entities_lie_inside():
    for seed in range(200):
        scene = make_scene(seed)
        for entity in scene.entities:
            x1, y1, x2, y2 = entity.box
            assert 0 <= x1 < x2 <= SIDE
            assert 0 <= y1 < y2 <= SIDE
    assert draw(make_scene(0)).size == (SIDE, SIDE)


def test_the_vocabulary_is_large_and_every_noun_has_a_kind():
    assert len(NOUNS) >= 40
    assert len(COLOURS) >= 10
    assert len(set(WORDS)) == len(WORDS) >= 200
    assert set(KIND_OF) == set(NOUNS)
    assert len(set(CONTENT)) == len(CONTENT)


def test_letters_stand_where_they_are_drawn():
    """Ink is where patch_letters says that a letter is: such patches hold dark and light pixels on a page."""
    scene = next(scene for scene in map(make_scene, range(100)) if scene.layout == "page")
    grey = np.asarray(draw(scene).convert("L"), dtype=float)
    owners = patch_owner(scene)
    for (patch, half), _ in patch_letters(scene).items():
        y, x = patch // 8 * 16, patch % 8 * 16 + half * 8
        assert grey[y : y + 16, x : x + 8].std() > 10
    owned = [owners[patch] >= 0 for patch, _ in patch_letters(scene)]
    assert sum(owned) >= 0.7 * len(owned)  # the ends of a line may just reach into patches that it does not own
    written = sum(letter.isalnum() for entity in scene.entities for line in writings(entity) for letter in line.text)
    assert len(patch_letters(scene)) >= 0.7 * written


def test_colour_histograms_do_not_give_the_answers_away():
    """The nearest neighbour by colour histogram finds the word of a sign no better than a few times chance (1 in 60)."""
    scenes = [make_scene(seed, ("sign",)) for seed in range(400)]
    pixels = [np.asarray(draw(scene)).reshape(-1, 3) for scene in scenes]
    histograms = np.array([np.histogramdd(colours, bins=(6, 6, 6), range=[(0, 256)] * 3)[0].ravel() for colours in pixels])
    train, test = histograms[:300], histograms[300:]
    nearest = np.abs(test[:, None] - train[None]).sum(-1).argmin(1)
    right = np.mean([scenes[300 + i].of("sign")[0].word == scenes[int(j)].of("sign")[0].word for i, j in enumerate(nearest)])
    assert right < 0.1


def test_marks_become_spans():
    text = parse("A {red} {ball} and a <blue> hat.")
    assert text.plain == "A red ball and a blue hat."
    assert text.spans == (Span(2, 5, "visual"), Span(6, 10, "visual"), Span(17, 21, "invented"))
    assert [text.plain[span.start : span.end] for span in text.spans] == ["red", "ball", "blue"]


def test_answers_are_true_and_spans_name_their_words():
    for seed in range(300):
        scene, rng = make_scene(seed), random.Random(seed)
        known = {word for entity in scene.entities for word in entity.words} | {scene.ground, "Yes", "No", "A", "B", "C", "D"}
        known |= {KIND_OF[thing.noun] for thing in scene.of("thing")} | {str(len(scene.of(kind))) for kind in ("thing", "bar")}
        row = record("x", "x.png", image_turns(scene, rng))
        for answer, spans in zip(row["conversations"][1::2], row["spans"], strict=True):
            for start, end, kind in spans:
                word = answer["value"][start:end]
                if kind == "visual" and not re.fullmatch(r"[01]\.\d\d", word):
                    assert word in known
                if kind == "invented":
                    assert word in COLOURS or word not in {thing.noun for thing in scene.of("thing")}


def test_yes_and_no_are_as_asked():
    for seed in range(200):
        scene, rng = make_scene(seed), random.Random(seed)
        things = {thing.noun: thing for thing in scene.of("thing")}
        for truth in (True, False):
            question = texts.claim(scene, rng, truth)
            assert question.answer == ("{Yes}" if truth else "{No}")
            asked = re.fullmatch(r"Is there a (\w+) in the image\?", question.text)
            if asked:
                assert (asked.group(1) in things) is truth


def test_boxes_are_parts_of_the_picture():
    assert texts.number_box((0, 32, 64, 128)) == "[0.00, 0.25, 0.50, 1.00]"
    assert parse(texts.mark_box((0, 32, 64, 128))).plain == "[0.00, 0.25, 0.50, 1.00]"


def test_captions_hold_words_that_the_picture_does_not_decide_and_some_that_contradict_it():
    marked = [caption_turn(make_scene(seed), random.Random(seed))[1] for seed in range(400)]
    visual = sum(len(span_words(text, "visual")) for text in marked)
    total = sum(len(parse(text).plain.split()) for text in marked)
    assert visual < 0.6 * total
    assert 0.05 < np.mean(["<" in text for text in marked]) < 0.3


def span_words(marked: str, kind: str) -> list[str]:
    text = parse(marked)
    return [text.plain[span.start : span.end] for span in text.spans if span.kind == kind]


def test_text_only_records_have_no_image():
    row = record("t", None, text_turns(random.Random(0)))
    assert "image" not in row
    assert "<image>" not in json.dumps(row)
    assert 0.1 <= TEXT_ONLY <= 0.2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    draw_world(folder, WorldSizes(pretrain=30, train=40, test=12, seed=3))
    return folder


def test_a_world_is_complete_and_drawn_only_once(world: Path):
    assert {path.stem for path in (world / "bench").glob("*.parquet")} == set(FILES)
    train = json.loads((world / "train.json").read_text())
    assert len(train) == 40
    assert all((world / "images" / row["image"]).is_file() for row in train if "image" in row)
    before = (world / "train.json").stat().st_mtime_ns
    draw_world(world, WorldSizes(pretrain=30, train=40, test=12, seed=3))
    assert (world / "train.json").stat().st_mtime_ns == before


def test_no_test_picture_occurs_in_training():
    """The demo's own sizes: every picture's content differs, so no (picture, question) pair can be shared either."""
    study = load_study("demo")
    assert study.world is not None
    sizes, first = study.world, study.world.seed * BLOCK
    training = {make_scene(first + i).entities for i in range(sizes.pretrain)}
    training |= {make_scene(first + INSTRUCT + i).entities for i in range(sizes.train)}
    for index, (_, layouts, _) in enumerate(FILES.values()):
        start = first + TEST + index * PER_FILE
        assert not training & {make_scene(start + i, layouts).entities for i in range(sizes.test)}


def test_sizes_that_would_run_into_each_other_are_refused():
    with pytest.raises(ValueError, match="300000"):
        WorldSizes(pretrain=300_001, train=1, test=1)


def test_pictures_of_a_world_test_set_are_not_among_its_training_images(world: Path):
    from datasets import load_dataset

    seen = {hashlib.sha256(path.read_bytes()).digest() for path in (world / "images").iterdir()}
    for path in sorted((world / "bench").glob("*.parquet")):
        column = load_dataset("parquet", data_files=str(path), split="train").data.column("image").to_pylist()
        cells = [cell for value in column for cell in (value if isinstance(value, list) else [value])]
        assert not seen & {hashlib.sha256(cell["bytes"]).digest() for cell in cells}


def test_the_right_answers_get_full_marks_from_the_real_scorers(world: Path):
    """The parquet files are read and scored by the same task code as the real benchmarks."""
    from cal_bench.tasks import get, names
    from cal_bench.tasks.load import open_task

    for name in names():
        task = open_task(get(name), str(world / "bench"))
        samples = task.samples()
        assert samples
        assert samples[0].load_images()[0].size == (SIDE, SIDE)
        assert "<image>" not in samples[0].prompt


def test_the_tokenizer_keeps_any_text_and_knows_every_word():
    from cal_bench.miniworld.base import BASE, STOCK, build_tokenizer

    tokenizer = build_tokenizer()
    assert (BASE / "tokenizer" / "chat_template.jinja").read_text() == tokenizer.chat_template
    for text in ("the red ball [0.12, 1.00]", "wörld 日本 \t x=12345\n  two", " leading", "a</b> & é", texts.SHORT):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    for word in CONTENT:
        assert len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1
    for sentence in STOCK:
        assert len(tokenizer(sentence, add_special_tokens=False).input_ids) == 1


def test_the_shipped_base_is_safe_and_assembles(tmp_path: Path):
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from cal_bench.miniworld import assemble
    from cal_bench.miniworld.base import BASE

    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}
    assemble(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    content = [{"type": "image"}, {"type": "text", "text": "What colour is the ball?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = processor(images=[draw(make_scene(1))], text=prompt, return_tensors="pt")
    assert int((batch.input_ids == processor.image_token_id).sum()) == 64
    assert torch.isfinite(model(**batch).logits).all()
