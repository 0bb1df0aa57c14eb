"""Conversations to features and batches."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from cal_bench.trainer_plugin import CHAT_TEMPLATES, CALError, Collator, ConversationDataset, DataOptions
from cal_bench.trainer_plugin.data import Record, TextEncoder, load_image, swap_images
from cal_bench.trainer_plugin.templates import SYSTEM, Segment, generation_prompt, render
from tests.shared import SHARED, needs_shared
from tests.tiny import IMAGE_ID, conversation, tiny_model, tiny_processor, tiny_tokenizer, write_data

PROMPTS = SHARED / "fixtures" / "prompts" / "prompts.json"


def golden() -> list[dict[str, Any]]:
    return json.loads(PROMPTS.read_text(encoding="utf-8"))["cases"] if PROMPTS.is_file() else []


def ids_of(cases: list[dict[str, Any]]) -> list[str]:
    return [case["conversation"]["id"] for case in cases]


@needs_shared
@pytest.mark.parametrize("case", golden(), ids=ids_of(golden()))
@pytest.mark.parametrize("template", ["plain", "v1", "gemma"])
def test_golden_prompts(case: dict[str, Any], template: str) -> None:
    turns, expected = case["conversation"]["conversations"], case["expected"][template]
    if expected is None:
        with pytest.raises(CALError, match="plain"):
            render(turns, template)
        return
    assert [{"text": segment.text, "labelled": segment.labelled} for segment in render(turns, template)] == expected
    if template in case["generation_prompt"]:
        assert generation_prompt(turns, template) == case["generation_prompt"][template]


@needs_shared
@pytest.mark.parametrize("case", golden(), ids=ids_of(golden()))
@pytest.mark.parametrize("template", ["v1", "gemma"])
def test_chat_templates_equal_the_golden_generation_prompts(case: dict[str, Any], template: str) -> None:
    if case["conversation"]["id"] in ("one_turn_image_twice", "gpt_speaks_first"):
        return  # an image named twice, and a first word of the assistant's, can't be said in messages
    messages = []
    for turn in case["conversation"]["conversations"][:-1]:
        said: list[dict[str, str]] = [{"type": "text", "text": turn["value"].replace("<image>", "")}]
        image: list[dict[str, str]] = [{"type": "image"}] if "<image>" in turn["value"] else []
        messages.append({"role": "user" if turn["from"] == "human" else "assistant", "content": image + said})
    processor = tiny_processor()
    text = processor.apply_chat_template(messages, chat_template=CHAT_TEMPLATES[template], add_generation_prompt=True)
    assert text == case["generation_prompt"][template]


def test_chat_template_without_generation_prompt_is_the_rendered_conversation() -> None:
    turns = conversation(0, "Q?", "A.", "a.png")["conversations"]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q?"}]}, {"role": "assistant", "content": "A."}]
    for template in ("v1", "gemma"):
        text = tiny_processor().apply_chat_template(messages, chat_template=CHAT_TEMPLATES[template])
        assert text == "".join(segment.text for segment in render(turns, template))


@pytest.mark.parametrize("template", ["v1", "gemma"])
def test_a_role_that_was_never_trained_on_is_refused(template: str) -> None:
    messages = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Hi"}]
    with pytest.raises(Exception, match="The roles are user and assistant, not system"):
        tiny_processor().apply_chat_template(messages, chat_template=CHAT_TEMPLATES[template])


def test_answering_asks_with_the_tokens_of_training(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    processor = tiny_processor()
    features = ConversationDataset([file], tmp_path / "images", DataOptions("v1"), processor)[0]
    prompt = features["input_ids"][features["labels"] == -100]
    picture = Image.open(tmp_path / "images" / "0.png").convert("RGB")
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Which colour?"}]}]
    asked = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    assert asked["input_ids"][0].tolist() == prompt.tolist()
    torch.testing.assert_close(asked["pixel_values"], features["pixel_values"])


def decoded(ids: torch.Tensor) -> str:
    return tiny_tokenizer().decode(ids)


def test_features_of_a_conversation(tmp_path: Path) -> None:
    dataset = ConversationDataset([write_data(tmp_path)], tmp_path / "images", DataOptions("v1"), tiny_processor())
    assert len(dataset) == 12
    seeing, text = dataset[1], dataset[3]
    assert decoded(seeing["input_ids"]) == f"<s>{SYSTEM} USER: {'<image>' * 4}\nWhich colour? ASSISTANT: Shade 1Shade 1</s>"
    assert decoded(seeing["labels"][seeing["labels"] != -100]) == " Shade 1Shade 1</s>"
    assert seeing["pixel_values"].shape == (1, 3, 28, 28)
    assert "pixel_values" not in text
    assert decoded(text["labels"][text["labels"] != -100]) == " A number 3.</s>"


def test_plain_labels_the_caption_and_its_line_break(tmp_path: Path) -> None:
    file = write_data(tmp_path, text_only_every=0)
    features = ConversationDataset([file], tmp_path / "images", DataOptions("plain"), tiny_processor())[0]
    assert decoded(features["input_ids"]) == f"<s>{'<image>' * 4}Shade 0\n"
    assert decoded(features["labels"][features["labels"] != -100]) == "Shade 0\n"


@pytest.mark.parametrize("next_family", [False, True])
def test_batches_run_through_the_model(tmp_path: Path, next_family: bool) -> None:
    file = write_data(tmp_path)
    Image.new("RGB", (20, 60)).save(tmp_path / "images" / "1.png")  # another grid of tiles
    dataset = ConversationDataset([file], tmp_path / "images", DataOptions("v1"), tiny_processor(next_family))
    batch = Collator.of(dataset.processor.tokenizer)([dataset[index] for index in (0, 1, 3)])
    lengths = [len(dataset[index]["input_ids"]) for index in (0, 1, 3)]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    padding = batch["attention_mask"] == 0
    assert batch["input_ids"][padding].eq(3).all()
    assert batch["labels"][padding].eq(-100).all()
    assert batch["labels"][batch["input_ids"] == IMAGE_ID].eq(-100).all()
    assert len(batch["pixel_values"]) == 2
    assert ("image_sizes" in batch) == next_family
    assert tiny_model(next_family)(**batch).loss.isfinite()


def test_a_batch_of_text_alone_has_no_pictures(tmp_path: Path) -> None:
    dataset = ConversationDataset([write_data(tmp_path)], tmp_path / "images", DataOptions("v1"), tiny_processor())
    batch = Collator.of(dataset.processor.tokenizer)([dataset[3], dataset[7]])
    assert batch.keys() == {"input_ids", "labels", "attention_mask"}


def test_truncation_keeps_images_whole_and_is_counted(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    whole = ConversationDataset([file], tmp_path / "images", DataOptions("v1"), tiny_processor())
    length = len(whole[0]["input_ids"])
    image_end = int((whole[0]["input_ids"] == IMAGE_ID).nonzero().max()) + 1
    assert whole.truncated == 0
    for limit, kept in ((length, length), (length - 3, length - 3), (image_end - 2, image_end)):
        cut = ConversationDataset([file], tmp_path / "images", DataOptions("v1", max_length=limit), tiny_processor())
        assert cut[0]["input_ids"].tolist() == whole[0]["input_ids"][:kept].tolist()
        assert cut[0]["labels"].tolist() == whole[0]["labels"][:kept].tolist()
        assert cut.truncated == (kept < length)
    assert (cut[0]["input_ids"] == IMAGE_ID).sum() == 4
    assert cut.truncated == 1, "asking twice counts once"


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Puts a space in front of every text it is given, as SentencePiece does for Llama."""
    pieces = (
        [("<unk>", 0.0), ("</s>", 0.0), ("<image>", 0.0)] + [(chr(code), -9.0) for code in range(33, 127)] + [("▁", -9.0), ("\n", -9.0)]
    )
    pieces += [("▁STOP", -1.0), ("▁Dog", -1.0), ("▁USER", -1.0), ("USER", -1.0), ("▁ASSISTANT", -1.0), ("▁Read", -1.0), ("Read", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", additional_special_tokens=["<image>"])


def test_llama_tokenizers_read_text_whole_between_images() -> None:
    encoder = TextEncoder(llama_tokenizer(), "v1")
    assert encoder.whole
    assert not TextEncoder(tiny_tokenizer(), "v1").whole
    segments = [Segment("USER: <image>\nRead ASSISTANT:", False), Segment(" STOP</s>", True), Segment("USER: ASSISTANT:", False)]
    ids, labels = encoder.encode(segments, [2], image_id=2)
    pieces = llama_tokenizer().convert_ids_to_tokens(ids)
    expected = [
        "▁USER",
        ":",
        "▁",
        "<image>",
        "<image>",
        "▁",
        "\n",
        "Read",
        "▁ASSISTANT",
        ":",
        "▁STOP",
        "</s>",
        "USER",
        ":",
        "▁ASSISTANT",
        ":",
    ]
    assert pieces == expected
    assert [label != -100 for label in labels] == [piece in ("▁STOP", "</s>") for piece in pieces]


def test_llama_tokenizers_label_a_caption_from_its_first_piece() -> None:
    encoder = TextEncoder(llama_tokenizer(), "plain")
    ids, labels = encoder.encode([Segment("<image>", False), Segment("Dog\n", True)], [3], image_id=2)
    assert llama_tokenizer().convert_ids_to_tokens(ids) == ["<image>"] * 3 + ["▁Dog", "\n"]
    assert labels == [-100] * 3 + ids[3:]


def record(number: int, *images: str) -> Record:
    return Record(f"r{number}", images, (Segment(f"text {number}", True),))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_swapping_exchanges_pictures_in_pairs(share: float) -> None:
    records = [record(number, f"{number}.png") if number % 4 else record(number) for number in range(80)]
    swapped, pairs = swap_images(records, share, seed=3)
    assert len(pairs) == round(share * 60 / 2)
    changed = {index for index, (old, new) in enumerate(zip(records, swapped, strict=True)) if old.images != new.images}
    assert changed == {index for pair in pairs for index in pair}
    for first, second in pairs:
        assert (swapped[first].images, swapped[second].images) == (records[second].images, records[first].images)
    assert [row.segments for row in swapped] == [row.segments for row in records]
    assert [row.id for row in swapped] == [row.id for row in records]


def test_swapping_is_the_same_for_the_same_seed_only() -> None:
    records = [record(number, f"{number}.png") for number in range(60)]
    assert swap_images(records, 0.3, seed=1) == swap_images(records, 0.3, seed=1)
    assert swap_images(records, 0.3, seed=1) != swap_images(records, 0.3, seed=2)


def test_swapping_never_exchanges_a_picture_for_itself() -> None:
    records = [record(number, "same.png") for number in range(9)] + [record(9, "other.png"), record(10, "a.png", "b.png")]
    swapped, pairs = swap_images(records, 1.0, seed=0)
    assert len(pairs) == 1
    assert Counter(row.images for row in swapped) == Counter(row.images for row in records)
    assert swapped[10].images == ("a.png", "b.png")


def test_pictures_become_rgb_without_blending(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


def dataset_of(folder: Path, rows: Any) -> ConversationDataset:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "bad.json").write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return ConversationDataset([folder / "bad.json"], folder / "images", DataOptions("v1"), tiny_processor())


TURN = {"from": "human", "value": "Hello"}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("{", "not JSON"),
        ([], "list of records"),
        ({"a": 1}, "list of records"),
        ([{"id": "x7", "conversations": "hello"}], "record x7"),
        ([{"id": "x7"}], "record x7"),
        (["text"], "record 0"),
        ([{"id": "x7", "conversations": [TURN]}], "record x7.*gpt have the last word"),
        ([{"id": "x7", "conversations": [TURN, TURN]}], "take turns"),
        ([{"id": "x7", "conversations": []}], "take turns"),
        ([conversation(7, "Q", "see <image>")], "record r7.*answer"),
        ([{**conversation(7, "Q", "A"), "image": "a.png"}], "record r7: 1 image"),
        ([{**conversation(7, "Q", "A", "a.png"), "image": None}], "record r7: 0 image"),
        ([conversation(7, "Q", "A", "gone.png")], r"gone\.png.*record r7"),
    ],
)
def test_bad_data_is_named(tmp_path: Path, rows: Any, named: str) -> None:
    with pytest.raises(CALError, match=named):
        dataset_of(tmp_path, rows)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CALError, match=r"nothing\.json does not exist"):
        ConversationDataset([tmp_path / "nothing.json"], tmp_path, DataOptions("v1"), tiny_processor())


def test_a_picture_cut_short_is_named(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    picture = tmp_path / "images" / "0.png"
    picture.write_bytes(picture.read_bytes()[:60])
    dataset = ConversationDataset([file], tmp_path / "images", DataOptions("v1"), tiny_processor())
    with pytest.raises(CALError, match=r"0\.png can't be read"):
        dataset[0]
    # Pillow says it otherwise of a picture whose comment unfolds to megabytes.
    comment = PngInfo()
    comment.add_text("comment", "a" * 2_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(picture, pnginfo=comment)
    with pytest.raises(CALError, match=r"0\.png can't be read"):
        dataset[0]


def test_missing_and_broken_pictures_may_be_skipped(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    pictures = sorted((tmp_path / "images").iterdir(), key=lambda path: int(path.stem))
    pictures[0].write_bytes(pictures[0].read_bytes()[:60])
    pictures[1].unlink()
    whole = len(json.loads(file.read_text()))
    dataset = ConversationDataset([file], tmp_path / "images", DataOptions("v1", skip_unreadable=True), tiny_processor())
    using = [index for index, record in enumerate(dataset.records) if record.images == (pictures[0].name,)]
    assert dataset.missing == [pictures[1].name]
    assert len(dataset) < whole
    assert dataset.unreadable == []
    for index in using:
        torch.testing.assert_close(dataset[index]["input_ids"], dataset[(using[-1] + 1) % len(dataset)]["input_ids"])
    assert set(dataset.unreadable) == {pictures[0].name}
    for picture in pictures[2:]:
        picture.write_bytes(b"")
    text_only = [index for index, record in enumerate(dataset.records) if not record.images]
    assert dataset[using[0]]["input_ids"].tolist() == dataset[text_only[0]]["input_ids"].tolist()
    dataset.records = [record for record in dataset.records if record.images]
    with pytest.raises(CALError, match=r"none of the \d+ records has an image that can be read"):
        dataset[0]


def test_processors_of_other_families_are_refused(tmp_path: Path) -> None:
    other = tiny_processor()
    other.image_processor = Qwen2VLImageProcessorPil()
    with pytest.raises(CALError, match="makes image_grid_thw of a picture, so its model is none of LLaVA"):
        ConversationDataset([write_data(tmp_path)], tmp_path / "images", DataOptions("v1"), other)


def test_wrong_options_and_tokenizers_are_refused() -> None:
    with pytest.raises(CALError, match=r"v2.*gemma"):
        DataOptions("v2")
    with pytest.raises(CALError, match=r"v2.*gemma"):
        render([TURN, {"from": "gpt", "value": "A"}], "v2")
    with pytest.raises(CALError, match="swap"):
        DataOptions("v1", swap=1.5)
    with pytest.raises(CALError, match="<start_of_turn>"):
        TextEncoder(llama_tokenizer(), "gemma")
    with pytest.raises(CALError, match="pad token"):
        Collator.of(llama_tokenizer())
    with pytest.raises(CALError, match="plain"):
        generation_prompt([TURN], "plain")


def test_extra_keys_are_ignored_and_an_open_question_makes_a_prompt(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [{**conversation(7, "Q", "A"), "source": "x"}])
    assert dataset.records[0].id == "r7"
    assert generation_prompt([{"from": "human", "value": "Q"}], "v1") == f"{SYSTEM} USER: Q ASSISTANT:"
