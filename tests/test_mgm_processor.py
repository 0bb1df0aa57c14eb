"""Pictures and text for MGM: the original's pixels, the original's token ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoImageProcessor, AutoProcessor, LlamaTokenizer

from cal_bench.systems.mgm_images import MgmImageProcessor, low_resolution
from cal_bench.systems.mgm_processor import MgmProcessor
from cal_bench.systems.register import register
from cal_bench.trainer_plugin.data import Segment, TextEncoder, generation_prompt
from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES
from tests.shared import SHARED, needs_shared
from tests.tiny import tiny_tokenizer
from tests.tiny_mgm import HIGH, TILES, folder_of, sentencepiece_files, tiny_mgm, tiny_processor

both = pytest.mark.parametrize("hd", [False, True])
PIXELS = SHARED / "fixtures" / "preprocess"
PROMPTS = SHARED / "fixtures" / "prompts" / "prompts.json"


def images_like(group: str, size: int) -> MgmImageProcessor:
    hd = "hd" in group
    return MgmImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, low_res_size=42, do_pad="crop" not in group,
        image_grid=2 if hd else 1, image_global=hd,
    )  # fmt: skip


@needs_shared
@pytest.mark.parametrize(("group", "size", "pictures"), [("mgm", 96, 8), ("mgm_hd", 192, 2), ("mgm_crop", 96, 2)])
def test_both_resolutions_are_the_originals(group: str, size: int, pictures: int) -> None:
    files = json.loads((PIXELS / "expected.json").read_text(encoding="utf-8"))["images"]
    high, low = (load_file(PIXELS / f"{group}_{resolution}.safetensors") for resolution in ("high", "low"))
    assert len(high) == pictures
    processor = images_like(group, size)
    for name in high:
        with Image.open(PIXELS / files[name]["file"]) as image:
            found = processor(images=[image], return_tensors="pt")
        torch.testing.assert_close(found["high_res_pixel_values"][0], high[name], rtol=0, atol=1e-6)
        torch.testing.assert_close(found["pixel_values"][0], low[name], rtol=0, atol=1e-6)


@needs_shared
def test_the_fixtures_notice_padding() -> None:
    high = load_file(PIXELS / "mgm_high.safetensors")["rgb_landscape"]
    with Image.open(PIXELS / "images" / "rgb_landscape.png") as image:
        found = images_like("mgm_crop", 96)(images=[image], return_tensors="pt")["high_res_pixel_values"][0]
    assert (found - high).abs().max() > 0.5


def test_tiles_are_quarters_and_the_whole_is_last() -> None:
    quarters = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(8, 0).repeat_interleave(8, 1).expand(3, 16, 16)
    tiles = low_resolution(quarters, 4, 2, True)
    assert tiles.shape == (5, 3, 4, 4)
    assert [tile.unique().tolist() for tile in tiles[:4]] == [[1.0], [2.0], [3.0], [4.0]]
    assert tiles[4, 0, [0, 0, 3, 3], [0, 3, 0, 3]].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert low_resolution(quarters, 4, 1, False).shape == (3, 4, 4)
    assert low_resolution(quarters, 4, 2, False).shape == (4, 3, 4, 4)


def test_the_defaults_are_the_papers() -> None:
    images = MgmImageProcessor()
    assert MgmProcessor(images, tiny_tokenizer()).image_seq_length == 576
    found = images(images=[Image.new("RGB", (30, 20))], return_tensors="pt")
    assert found["pixel_values"].shape == (1, 3, 336, 336)
    assert found["high_res_pixel_values"].shape == (1, 3, 768, 768)
    images = MgmImageProcessor(size={"shortest_edge": 1536}, crop_size={"height": 1536, "width": 1536}, image_grid=2, image_global=True)
    assert MgmProcessor(images, tiny_tokenizer()).image_seq_length == 2880
    assert images(images=[Image.new("RGB", (30, 20))], return_tensors="pt")["pixel_values"].shape == (1, 5, 3, 336, 336)


def vicuna_like(folder: Path) -> Any:
    """A SentencePiece tokenizer with the image token added, as convert() makes it."""
    tokenizer = LlamaTokenizer.from_pretrained(sentencepiece_files(folder), legacy=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


@both
def test_text_around_the_image_is_tokenized_as_texts_of_their_own(hd: bool, tmp_path: Path) -> None:
    tokenizer = vicuna_like(tmp_path)
    pieces = SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    processor = tiny_processor(hd, tokenizer)
    picture = Image.new("RGB", (30, 20))
    for before, after in [("USER: ", "\nWhat is it? ASSISTANT:"), ("", "a red sign\n"), ("", "\n"), ("A chat.  ", "  it")]:
        found = processor(images=[picture], text=f"{before}<image>{after}", return_tensors="pt")
        places = [processor.image_token_id] * (4 * TILES[hd])
        assert found["input_ids"][0].tolist() == [1, *pieces.encode(before), *places, *pieces.encode(after)]


@needs_shared
@pytest.mark.parametrize(
    ("kind", "template"), [("sentencepiece", "v1"), ("sentencepiece", "plain"), ("bytes", "v1"), ("bytes", "plain"), ("bytes", "gemma")]
)
def test_what_is_trained_on_is_what_the_processor_writes(kind: str, template: str, tmp_path: Path) -> None:
    """Every conversation of the prompt fixtures: the processor's ids of the text are those of the training code's segments."""
    tokenizer = vicuna_like(tmp_path) if kind == "sentencepiece" else tiny_tokenizer()
    processor, seen = tiny_processor(False, tokenizer), 0
    for case in json.loads(PROMPTS.read_text(encoding="utf-8"))["cases"]:
        if case["expected"][template] is None:
            continue
        segments = [Segment(**segment) for segment in case["expected"][template]]
        text = "".join(segment.text for segment in segments)
        if kind == "sentencepiece" and "<image> " in text:
            continue  # the original writes a space more here, and so does the processor (the test above); the training code does not yet
        count = text.count("<image>")
        wanted, _ = TextEncoder(tokenizer, template).encode(segments, [4] * count, processor.image_token_id)
        found = processor(images=[Image.new("RGB", (30, 20))] * count or None, text=text, return_tensors="pt")
        assert found["input_ids"][0].tolist() == wanted
        seen += 1
    assert seen >= 3


@needs_shared
def test_the_chat_template_writes_the_generation_prompt(tmp_path: Path) -> None:
    processor = tiny_processor(False, vicuna_like(tmp_path))
    picture = Image.new("RGB", (30, 20))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    found = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = generation_prompt([{"from": "human", "value": "<image>\nWhat is it?"}], "v1")
    assert found["input_ids"].tolist() == processor(images=[picture], text=text, return_tensors="pt")["input_ids"].tolist()
    assert {"pixel_values", "high_res_pixel_values"} <= set(found)


@both
def test_saved_and_loaded_it_is_the_same(hd: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    register()
    processor = tiny_processor(hd, tiny_tokenizer())
    processor.save_pretrained(tmp_path)
    folder_of(tmp_path, tiny_mgm(hd))
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MgmProcessor
    assert type(loaded.image_processor) is type(AutoImageProcessor.from_pretrained(tmp_path)) is MgmImageProcessor
    assert loaded.chat_template == CHAT_TEMPLATES["v1"]
    assert "backend" not in caplog.text  # no word of another way to make the pixels
    given = {"images": [Image.effect_noise((50, 40), 90).convert("RGB")], "text": "USER: <image>\nWhat? ASSISTANT:"}
    one, two = processor(**given, return_tensors="pt"), loaded(**given, return_tensors="pt")
    assert set(one) == set(two) == {"input_ids", "attention_mask", "pixel_values", "high_res_pixel_values"}
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)


@both
def test_what_it_makes_can_be_read_and_answered(hd: bool) -> None:
    tokenizer = tiny_tokenizer()
    processor = tiny_processor(hd, tokenizer)
    text = tiny_mgm(hd).config.text_config.to_dict() | {"vocab_size": len(tokenizer)}
    model = tiny_mgm(hd, text)
    model.config.image_token_index = processor.image_token_id
    pictures = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    texts = ["USER: <image>\nWhat? ASSISTANT:", "USER: <image>\nWhich colour has it? ASSISTANT:"]
    inputs = processor(images=pictures, text=texts, return_tensors="pt", padding=True, padding_side="left")
    assert inputs["high_res_pixel_values"].shape == (2, 3, HIGH[hd], HIGH[hd])
    written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert written.shape[0] == 2
    assert inputs["input_ids"].eq(processor.image_token_id).sum().item() == 2 * model.config.image_seq_length


def test_a_server_can_plan_without_pictures() -> None:
    planned = tiny_processor(True, tiny_tokenizer())._get_num_multimodal_tokens(image_sizes=[(20, 30), (40, 40)])
    assert planned.num_image_tokens == [20, 20]


def test_more_pictures_than_places_are_refused() -> None:
    with pytest.raises(ValueError, match="<image>"):
        tiny_processor(False, tiny_tokenizer())(images=[Image.new("RGB", (9, 9))] * 2, text="<image> a", return_tensors="pt")
