"""Tiny random models of the families that CAL is tested on, and a batch for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from cal_bench.systems.register import register
from cal_bench.trainer_plugin.families import REFUSED, refusal

WORDS, IMAGE, VIDEO, PAD = 64, 5, 6, 0
WIDTH = 32

TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": WORDS, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
SQUARE = VISION | {"image_size": 28, "patch_size": 14}
CLIP = SQUARE | {"model_type": "clip_vision_model"}
SIGLIP = SQUARE | {"model_type": "siglip_vision_model", "vision_use_head": False}
# Vision towers of Qwen's kind: 4 x 4 patches of 4 x 4 pixels, 2 x 2 of which become a token.
GRID = {
    "depth": 2, "hidden_size": 16, "embed_dim": 16, "num_heads": 2, "intermediate_size": 32, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "out_hidden_size": WIDTH, "initializer_range": 0.3,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
# MGM's second tower: 4 x 4 of its pixels to a patch, for pictures of 32 px.
CONVNEXT = {
    "model_type": "convnext", "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1], "layer_scale_init_value": 1.0,
    "initializer_range": 0.3,
}  # fmt: skip
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 7, "vision_end_token_id": 8}


@dataclass(frozen=True)
class Batch:
    """What a family's image arguments are made from."""

    ids: Tensor  # [B, S]
    labelled: Tensor  # [B, S] bool
    pixels: torch.Generator

    @property
    def image(self) -> Tensor:
        """[B, S] bool: placeholders."""
        return self.ids == IMAGE

    @property
    def images(self) -> int:
        """How many rows hold an image."""
        return int(self.image.any(dim=1).sum())

    def noise(self, *shape: int) -> Tensor:
        """Pixels."""
        return 3 * torch.randn(*shape, generator=self.pixels)


@dataclass(frozen=True)
class Family:
    """One family: the config of its tiny model, and its arguments beside ids, mask and labels."""

    name: str
    config: dict[str, Any]
    images: Callable[[Batch], dict[str, Tensor]]
    note: str = ""  # what its users should know
    attentions: tuple[str, ...] = ("eager", "sdpa")
    text: dict[str, Any] = field(default_factory=dict)  # changes to TEXT
    places: int = 4  # placeholders of an image

    def model(self, attention: str = "sdpa", **text: Any) -> Any:
        """Random weights, large enough that the image changes what is predicted; `text` changes the language model's config."""
        torch.manual_seed(0)
        config = AutoConfig.for_model(self.name, text_config=TEXT | self.text | text, **self.config)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not torch.isfinite(parameter).all() or (parameter.dim() > 1 and parameter.std() == 0):
                    parameter.normal_(std=0.3)
                elif "attn_gate" in name or "mlp_gate" in name:
                    parameter.fill_(1)  # closed at first, they would let nothing of the image in
                elif "projector" in name or "merger" in name or "embed_vision" in name:
                    parameter.mul_(3)
            model.get_output_embeddings().weight.mul_(3)
        return model.train()

    def batch(self, rows: int = 2, text_rows: int = 1, left: bool = False, seed: int = 0) -> dict[str, Tensor]:
        """Rows of begin token, text, image, text, answer, then text-only rows; every second row is padded."""
        generator = torch.Generator().manual_seed(seed)
        length = 14 + self.places
        ids = torch.randint(10, WORDS, (rows + text_rows, length), generator=generator)
        ids[:, 0] = 1
        ids[:rows, 3 : 3 + self.places] = IMAGE
        labelled = torch.zeros_like(ids, dtype=torch.bool)
        labelled[:, 7 + self.places :] = True
        mask = torch.ones_like(ids)
        mask[1::2, -3:] = 0
        if left:
            ids[1::2], labelled[1::2], mask[1::2] = (values[1::2].roll(3, dims=1) for values in (ids, labelled, mask))
        ids, labelled = ids.where(mask.bool(), PAD), labelled & mask.bool()
        found = {"input_ids": ids, "attention_mask": mask, "labels": ids.where(labelled, -100)}
        return found | self.images(Batch(ids, labelled, generator))


def _square(batch: Batch) -> dict[str, Tensor]:
    return {"pixel_values": batch.noise(batch.images, 3, 28, 28)}


def _two_resolutions(batch: Batch) -> dict[str, Tensor]:
    return _square(batch) | {"high_res_pixel_values": batch.noise(batch.images, 3, 32, 32)}


def _tiles(batch: Batch) -> dict[str, Tensor]:
    pixels = batch.noise(batch.images, 2, 3, 28, 28)  # the whole, and its one tile
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[28, 28]] * batch.images)}


def _grid(batch: Batch) -> dict[str, Tensor]:
    grid = torch.tensor([[1, 4, 4]] * batch.images)
    types = {"mm_token_type_ids": batch.image.int()}
    return {"pixel_values": batch.noise(16 * batch.images, 3 * 2 * 4 * 4), "image_grid_thw": grid} | types


def _one_per_row(batch: Batch) -> dict[str, Tensor]:
    pixels = batch.noise(len(batch.ids), 1, 3, 32, 32)
    return {"pixel_values": pixels * batch.image.any(dim=1)[:, None, None, None, None]}


def _pixtral(batch: Batch) -> dict[str, Tensor]:
    return {"pixel_values": batch.noise(batch.images, 3, 16, 16), "image_sizes": torch.tensor([[16, 16]] * batch.images)}


def _prefix(batch: Batch) -> dict[str, Tensor]:
    # The answer reads itself from left to right, the rest reads all of the rest.
    start = batch.labelled.int().argmax(dim=1, keepdim=True)
    return _square(batch) | {"token_type_ids": (torch.arange(batch.ids.shape[1]) >= start).int()}


def _typed(batch: Batch) -> dict[str, Tensor]:
    return _square(batch) | {"token_type_ids": batch.image.int()}


def _patches(batch: Batch) -> dict[str, Tensor]:
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).expand(batch.images, -1, -1)
    pixels = torch.rand(batch.images, 16, 48, generator=batch.pixels)
    return {"pixel_values": pixels, "image_position_ids": places, "mm_token_type_ids": batch.image.int()}


def _naflex(batch: Batch) -> dict[str, Tensor]:
    pixels, shapes = batch.noise(batch.images, 16, 48), torch.tensor([[4, 4]] * batch.images)
    return {"pixel_values": pixels, "spatial_shapes": shapes, "pixel_attention_mask": torch.ones(batch.images, 16, dtype=torch.long)}


def _crossed(batch: Batch) -> dict[str, Tensor]:
    rows, length = batch.ids.shape
    seen = batch.image.cumsum(dim=1).clamp(max=1)
    mask = torch.zeros(rows, length, 1, 2, dtype=torch.long)
    mask[:, :, 0, 0] = seen
    return {
        "pixel_values": batch.noise(rows, 1, 2, 3, 28, 28),
        "aspect_ratio_ids": torch.ones(rows, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([1, 0]).expand(rows, 1, 2).clone(),
        "cross_attention_mask": mask,
    }


_LLAMA, _QWEN2 = {"model_type": "llama"}, {"model_type": "qwen2"}
_DROP_ONLY = "`drop` only: hidden tokens still move its recurrent or convolutional layers"
_WINDOW = "a window counts original positions (with flash attention: the tokens that are left)"

# fmt: off
FAMILIES = [
    Family("llava", {"vision_config": CLIP, "image_token_index": IMAGE}, _square, text=_LLAMA),
    Family(
        "llava_next",
        {"vision_config": CLIP, "image_token_index": IMAGE, "image_grid_pinpoints": [[28, 28]]},
        _tiles,
        text=_LLAMA,
        places=10,
    ),
    Family(
        "llava_onevision",
        {"vision_config": SIGLIP, "image_token_index": IMAGE, "video_token_index": VIDEO, "image_grid_pinpoints": [[28, 28]]},
        _tiles,
        text=_QWEN2,
        places=10,
    ),
    Family("qwen2_vl", {"vision_config": GRID | {"hidden_size": WIDTH}, **QWEN_IDS}, _grid, text={"rope_parameters": MROPE}),
    Family(
        "qwen2_5_vl",
        {"vision_config": GRID | {"window_size": 16, "fullatt_block_indexes": [1]}, **QWEN_IDS},
        _grid,
        text={"rope_parameters": MROPE},
    ),
    Family(
        "qwen3_vl",
        {"vision_config": GRID | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}, **QWEN_IDS},
        _grid,
        "features added in later layers (DeepStack) are left out too",
        text={"rope_parameters": MROPE},
    ),
    Family(
        "glm4v",
        {"vision_config": GRID | {"image_size": 16}, "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": 7,
         "image_end_token_id": 8, "video_start_token_id": 9, "video_end_token_id": 3},
        _grid,
        text={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
    ),
    Family(
        "idefics3",
        {"vision_config": VISION | {"image_size": 32, "patch_size": 8}, "image_token_id": IMAGE, "scale_factor": 2},
        _one_per_row,
        text=_LLAMA,
    ),
    Family(
        "smolvlm",
        {"vision_config": VISION | {"image_size": 32, "patch_size": 8}, "image_token_id": IMAGE, "scale_factor": 2},
        _one_per_row,
        text=_LLAMA,
    ),
    Family(
        "internvl",
        {"vision_config": SQUARE | {"image_size": [28, 28], "patch_size": [7, 7]}, "image_token_id": IMAGE, "image_seq_length": 4},
        _square,
        text=_QWEN2,
    ),
    Family(
        "mistral3",
        {"vision_config": VISION | {"model_type": "pixtral", "image_size": 16, "patch_size": 4}, "image_token_index": IMAGE},
        _pixtral,
        _WINDOW,
        text={"model_type": "mistral", "sliding_window": None},
    ),
    Family(
        "paligemma",
        {"vision_config": SIGLIP, "image_token_index": IMAGE, "projection_dim": WIDTH, "hidden_size": WIDTH},
        _prefix,
        "the prefix reads in both directions; without the image it still does",
        text={"model_type": "gemma"},
    ),
    Family(
        "gemma3",
        {"vision_config": SIGLIP | {"patch_size": 7}, "image_token_index": IMAGE, "mm_tokens_per_image": 4},
        _typed,
        _WINDOW,
        text={"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    Family(
        "gemma4",
        {"vision_config": VISION | {"head_dim": 8, "num_key_value_heads": 2, "patch_size": 4, "pooling_kernel_size": 2,
                                    "position_embedding_size": 16},
         "audio_config": None, "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": 7},
        _patches,
        _WINDOW + "; scores are soft-capped",
        text={"layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": WORDS,
              "final_logit_softcapping": 5.0, "use_bidirectional_attention": "vision", "global_head_dim": 16},
    ),
    Family(
        "qwen3_5",
        {"vision_config": GRID | {"num_position_embeddings": 16}, **QWEN_IDS},
        _grid,
        _DROP_ONLY,
        text={"layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
              "linear_num_key_heads": 2, "linear_num_value_heads": 2,
              "rope_parameters": MROPE | {"partial_rotary_factor": 1.0, "mrope_interleaved": True}},
    ),
    Family(
        "lfm2_vl",
        {"vision_config": VISION | {"model_type": "siglip2_vision_model", "patch_size": 4, "num_patches": 16, "vision_use_head": False},
         "image_token_id": IMAGE, "projector_hidden_size": 32},
        _naflex,
        _DROP_ONLY,
        text={"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    ),
    Family(
        "cal_mgm",
        {"vision_config": CLIP, "high_res_vision_config": CONVNEXT, "image_token_index": IMAGE},
        _two_resolutions,
        "MGM and MGM-HD, by cal_bench itself",
        text=_LLAMA,
    ),
    Family(
        "mllama",
        {"vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
                           "image_size": 28, "patch_size": 14, "max_num_tiles": 2, "intermediate_layers_indices": [0],
                           "vision_output_dim": 32, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "initializer_range": 0.3},
         "image_token_index": IMAGE},
        _crossed,
        "the same call without pixels: nothing to drop, `mask` is the same as `drop`",
        text={"cross_attention_layers": [1], "num_hidden_layers": 3,
              "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
]
# fmt: on
BY_NAME = {family.name: family for family in FAMILIES}
register()

INTRODUCTION = """# Models

Written by `python -m tests.vlm_zoo > docs/models.md`, from the families that `tests/test_cal_families.py` runs.

CAL compares a model's scores with the picture to its scores without. The pass without leaves the image's placeholders out and keeps all
positions (`drop`), or hides them from attention (`mask`, as the authors' code does). It needs no code per family where the config says
which token is the image (`image_token_id`, `video_token_id`): embeddings, positions and masks are those of the model's own call.

`cal-bench doctor --cal MODEL` checks a checkpoint of any family: pixels move the answer and leave the image-free pass as it is, dropping
equals masking, equal weights give the stock loss.
"""
TESTED = """
## Tested

On tiny random models in single precision: `drop` and `mask` agree to 1e-5, with eager and SDPA attention, padding on the left and on the
right, and a text-only row in the batch; every gradient of a step with equal weights is the stock step's.

| family | class | contrast | note |
| --- | --- | --- | --- |"""
UNTESTED = """
## Not tested

They give what the pass needs by the same names, but are not run here: run the doctor on your checkpoint.
"""
REFUSED_TEXT = """
## Refused

| family | class | reason |
| --- | --- | --- |"""


def document() -> str:
    """docs/models.md, for the transformers that is installed."""
    classes = {name: found if isinstance(found, str) else found[0] for name, found in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()}
    classes["cal_mgm"] = "MgmForConditionalGeneration"
    tested = [
        f"| `{family.name}` | {classes[family.name]} | {'drop' if family.note == _DROP_ONLY else 'drop, mask'} | {family.note} |"
        for family in sorted(FAMILIES, key=lambda family: family.name)
    ]
    reasons = {name: REFUSED.get(name) or refusal(AutoConfig.for_model(name)) for name in sorted(classes) if name not in BY_NAME}
    others = ", ".join(f"`{name}`" for name, reason in reasons.items() if reason is None)
    refused = [f"| `{name}` | {classes[name]} | {reason} |" for name, reason in reasons.items() if reason is not None]
    return "\n".join([INTRODUCTION + TESTED, *tested, UNTESTED, others, REFUSED_TEXT, *refused]) + "\n"


if __name__ == "__main__":
    print(document(), end="")
