"""Tiny MGM and MGM-HD models, and the golden ones under the original's names."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from cal_bench.systems import names
from cal_bench.systems.mgm_config import MgmConfig
from cal_bench.systems.mgm_images import MgmImageProcessor
from cal_bench.systems.mgm_model import MgmForConditionalGeneration
from cal_bench.systems.mgm_processor import MgmProcessor
from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES
from tests.shared import SHARED

WORDS, IMAGE, PAD = 64, 5, 0
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": WORDS, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
GEMMA = LLAMA | {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16}
# 2 x 2 patches of 14 px beside 4 x 4 high-resolution pixels of each patch: 2 * 4 * stride 4 = 32 px.
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "initializer_range": 0.3,
}  # fmt: skip
CONVNEXT = {
    "model_type": "convnext", "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1], "drop_path_rate": 0.1, "initializer_range": 0.3,
    "layer_scale_init_value": 1.0,
}  # fmt: skip
TILES = {False: 1, True: 5}
HIGH = {False: 32, True: 64}


def tiny_config(hd: bool = False, text: dict[str, Any] | None = None) -> MgmConfig:
    """A picture gives 4 tokens, or 20."""
    return MgmConfig(
        text_config=text or LLAMA, vision_config=CLIP, high_res_vision_config=CONVNEXT, image_token_index=IMAGE,
        image_grid=2 if hd else 1, image_global=hd,
    )  # fmt: skip


def tiny_mgm(hd: bool = False, text: dict[str, Any] | None = None, attention: str = "sdpa") -> MgmForConditionalGeneration:
    """Random weights, scaled up so that the image changes what is predicted."""
    torch.manual_seed(0)
    config = tiny_config(hd, text)
    config._attn_implementation = attention
    model = MgmForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in [*model.model.multi_modal_projector.parameters(), model.lm_head.weight]:
            parameter.mul_(3)
    return model.eval()


def tiny_batch(hd: bool = False, left: bool = False, rows: int = 2, text_rows: int = 1) -> dict[str, Tensor]:
    """Rows with an image each, then text-only rows; every second row is shorter."""
    generator = torch.Generator().manual_seed(0)
    places = 4 * TILES[hd]
    ids = torch.randint(10, WORDS, (rows + text_rows, 10 + places), generator=generator)
    ids[:, 0] = 1
    ids[:rows, 3 : 3 + places] = IMAGE
    labels = torch.where(torch.arange(ids.shape[1]) > 4 + places, ids, -100)
    mask = torch.ones_like(ids)
    mask[1::2, -3:] = 0
    if left:
        ids[1::2], labels[1::2], mask[1::2] = (values[1::2].roll(3, dims=1) for values in (ids, labels, mask))
    text = {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask, "labels": labels.where(mask.bool(), -100)}
    return text | tiny_pictures(hd, rows, generator)


def tiny_pictures(hd: bool, images: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise in both resolutions."""
    tiles = (TILES[hd],) if hd else ()
    return {
        "pixel_values": torch.randn(images, *tiles, 3, 28, 28, generator=generator),
        "high_res_pixel_values": torch.randn(images, 3, HIGH[hd], HIGH[hd], generator=generator),
    }


def golden_config(case: str) -> MgmConfig:
    """The native configuration of a golden case."""
    folder = SHARED / "fixtures" / "mgm" / case
    flat, towers = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", "towers.json"))
    text = {name: value for name, value in flat.items() if not name.startswith(("mm_", "image_", "architectures", "torch_dtype"))}
    text["model_type"] = "gemma" if flat["model_type"].endswith("gemma") else "llama"
    aux = towers["vision_tower_aux"]
    convnext = {"model_type": "convnext", "hidden_sizes": aux["dims"], "depths": aux["depths"], "drop_path_rate": aux["drop_path_rate"]}
    return MgmConfig(
        text_config=text, vision_config=towers["vision_tower"], high_res_vision_config=convnext, image_token_index=125,
        image_grid=flat["image_grid"], image_global=flat["image_global"],
    )  # fmt: skip


def golden_model(case: str) -> MgmForConditionalGeneration:
    """A golden case with its weights, every one of them renamed and none left over."""
    model = MgmForConditionalGeneration(golden_config(case))
    weights = {names.official(name): value for name, value in golden_tensors(case, "model").items()}
    found = model.load_state_dict(weights, strict=False)
    assert found.unexpected_keys == []
    assert found.missing_keys == (["lm_head.weight"] if case == "grid1_gemma" else [])
    model.tie_weights()
    return model.eval()


def golden_tensors(case: str, name: str) -> dict[str, Tensor]:
    """inputs, expected or model."""
    return load_file(SHARED / "fixtures" / "mgm" / case / f"{name}.safetensors")


def folder_of(path: Path, model: MgmForConditionalGeneration) -> Path:
    """The model as transformers saves it."""
    model.save_pretrained(path)
    return path


def sentencepiece_files(folder: Path) -> Path:
    """Files of a tokenizer as Vicuna ships it: tokenizer.model and its config, no tokenizer.json."""
    said = ["A chat between a curious user and an artificial intelligence assistant.", "USER: What is it? ASSISTANT: It is a red sign."]
    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=iter(said * 20), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=380, byte_fallback=True,
        add_dummy_prefix=True, remove_extra_whitespaces=False, normalization_rule_name="identity", hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "legacy": True, "padding_side": "right", "model_max_length": 2048,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def tiny_processor(hd: bool, tokenizer: Any) -> MgmProcessor:
    """Pictures as tiny_mgm reads them."""
    images = MgmImageProcessor(
        size={"shortest_edge": HIGH[hd]}, crop_size={"height": HIGH[hd], "width": HIGH[hd]}, low_res_size=28,
        image_grid=2 if hd else 1, image_global=hd,
    )  # fmt: skip
    return MgmProcessor(images, tokenizer, chat_template=CHAT_TEMPLATES["v1"])


def gemma_files(folder: Path) -> Path:
    """Files of a tokenizer as Gemma ships it: no space in front of a text, turns and padding among the words."""
    folder.mkdir(parents=True, exist_ok=True)
    SentencePieceTrainer.train(
        sentence_iterator=iter(["What is it?", "It is a red sign."] * 20), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=330, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>", minloglevel=2,
        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    settings: dict[str, Any] = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    settings |= {"add_bos_token": True, "add_eos_token": False, "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
