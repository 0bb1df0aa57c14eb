"""A two-layer LLaVA with its processor, and pictures with conversations, small enough to build in every test."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "<start_of_turn>", "<end_of_turn>", "<eos>")
IMAGE_ID = SPECIAL.index("<image>")
SIDE, PATCH = 28, 14


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and a begin token in front, as Vicuna has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )


def tiny_model(next_family: bool = False, seed: int = 0, dropout: float = 0.0) -> Any:
    """Random weights, scaled up so that the image changes what is predicted."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
    )
    text = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tiny_tokenizer()), pad_token_id=3,
        attention_dropout=dropout, initializer_range=0.3,
    )  # fmt: skip
    shared = {"vision_config": vision, "text_config": text, "image_token_index": IMAGE_ID, "vision_feature_layer": -2}
    if next_family:
        config = LlavaNextConfig(**shared, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]])
        model: Any = LlavaNextForConditionalGeneration(config)
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**shared))
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.mul_(20)
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
        model.lm_head.weight.mul_(4)
    return model


def tiny_processor(next_family: bool = False) -> Any:
    """Pictures of 2 x 2 patches for LLaVA-1.5; up to five tiles of them for LLaVA-NeXT."""
    tokens = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    tokens |= {"chat_template": CHAT_TEMPLATES["v1"]}
    if next_family:
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]]
        )
        return LlavaNextProcessor(images, tiny_tokenizer(), **tokens)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(images, tiny_tokenizer(), **tokens)


def save_tiny(folder: Path, next_family: bool = False, dropout: float = 0.0) -> Path:
    """A checkpoint folder as transformers saves it."""
    tiny_model(next_family, dropout=dropout).save_pretrained(folder)
    tiny_processor(next_family).save_pretrained(folder)
    return folder


def conversation(number: int, question: str, answer: str, image: str | None = None) -> dict[str, Any]:
    """A record of one exchange."""
    asked = f"<image>\n{question}" if image else question
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", **({"image": image} if image else {}), "conversations": turns}


def write_data(folder: Path, rows: int = 12, text_only_every: int = 4) -> Path:
    """train.json and images/: a coloured picture and its colour; every fourth row is text alone (0: none)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(rows):
        if text_only_every and number % text_only_every == text_only_every - 1:
            records.append(conversation(number, f"What is {number}?", f"A number {number}."))
            continue
        Image.new("RGB", (40, 30), (20 * number, 255 - 20 * number, 90)).save(folder / "images" / f"{number}.png")
        records.append(conversation(number, "Which colour?", f"Shade {number}" * (1 + number % 3), f"{number}.png"))
    (folder / "train.json").write_text(json.dumps(records), encoding="utf-8")
    return folder / "train.json"


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], relative: float = 1e-6) -> None:
    """Every gradient, to a share of its own size, or of what rounding leaves where it is zero by construction (key biases)."""
    assert expected
    rounding = relative / 10 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        tolerance = relative * gradient.abs().max().item() + rounding
        torch.testing.assert_close(found[name], gradient, rtol=relative, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
