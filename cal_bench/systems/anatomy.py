"""What the four systems are made of: their native configuration and processor, from their parts or from an original config."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, LlavaConfig, LlavaNextConfig, LlavaNextProcessor, LlavaProcessor, PreTrainedConfig

from cal_bench.errors import UserError

from . import llava
from .mgm_config import MgmConfig
from .mgm_images import MgmImageProcessor
from .mgm_processor import MgmProcessor

_LLAMA, _GEMMA = ("llava", "llava_llama", "mgm", "mini_gemini"), ("mgm_gemma", "mini_gemini_gemma")
_TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "hidden_activation", "max_position_embeddings", "initializer_range", "rms_norm_eps", "pad_token_id", "bos_token_id",
    "eos_token_id", "tie_word_embeddings", "rope_theta", "rope_scaling", "attention_bias", "attention_dropout", "mlp_bias",
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """How a system reads pictures: with high_res_size as MGM, with grids (rows and columns of tiles) as LLaVA-NeXT, else as LLaVA-1.5."""

    pad: bool = True
    grids: tuple[tuple[int, int], ...] = ()
    high_res_size: int | None = None
    image_grid: int = 1
    image_global: bool = False


SYSTEMS = {
    "llava-1.5": System(),
    "llava-next": System(grids=llava.GRIDS),
    "mgm": System(high_res_size=768),
    "mgm-hd": System(high_res_size=1536, image_grid=2, image_global=True),
}


def text_config(flat: Mapping[str, Any]) -> PreTrainedConfig:
    """The language model of an original config, which keeps its settings among its own."""
    kind = flat.get("model_type")
    if kind not in _LLAMA + _GEMMA or "mm_vision_tower" not in flat:
        raise UserError(
            f"config.json is not that of an original LLaVA or MGM checkpoint: its model_type is {kind!r}. Expected mm_vision_tower, and"
            f" one of {', '.join(_LLAMA + _GEMMA)}. A checkpoint that transformers loads itself needs no conversion."
        )
    fields = {name: flat[name] for name in _TEXT_FIELDS if name in flat}
    return AutoConfig.for_model("gemma" if kind in _GEMMA else "llama", **fields)


def system_of(flat: Mapping[str, Any], tile: int) -> System:
    """How the system of an original config reads pictures; `tile` is the side of what its vision tower reads."""
    _check_settings(flat)
    pad = flat.get("image_aspect_ratio") == "pad"
    if "image_size_aux" in flat:
        return System(pad, (), flat["image_size_aux"], flat.get("image_grid", 1), flat.get("image_global", False))
    if flat.get("image_aspect_ratio") == "anyres":
        # The original gives width and height.
        return System(grids=tuple((height // tile, width // tile) for width, height in _pinpoints(flat["image_grid_pinpoints"])))
    return System(pad)


def _pinpoints(given: Any) -> Any:
    """Widths and heights, which some configs hold as text."""
    try:
        return ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"config.json: image_grid_pinpoints is {given!r}, but only a list of widths and heights can be converted."
        ) from error


def _check_settings(flat: Mapping[str, Any]) -> None:
    if (ratio := flat.get("image_aspect_ratio")) not in (None, "square", "pad", "anyres"):
        raise UserError(f"config.json: image_aspect_ratio is {ratio!r}, but only 'square', 'pad' and 'anyres' can be converted.")
    wanted = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
    wanted |= {"mm_patch_merge_type": "spatial_unpad"} if flat.get("image_aspect_ratio") == "anyres" else {}
    for name, value in wanted.items():
        if flat.get(name, value) != value:
            raise UserError(f"config.json: {name} is {flat[name]!r}, but only {value!r} can be converted.")


def native_config(system: System, text: PreTrainedConfig, vision: Any, convnext: Any, layer: int = -2) -> LlavaConfig:
    """The configuration of a system; its image token comes with the tokenizer."""
    shared = {"text_config": text, "vision_feature_layer": layer} | ({"vision_config": vision} if vision else {})
    if system.high_res_size:
        return MgmConfig(**shared, high_res_vision_config=convnext, image_grid=system.image_grid, image_global=system.image_global)
    if not system.grids:
        return _with_length(LlavaConfig(**shared))
    config = LlavaNextConfig(**shared, tie_word_embeddings=text.tie_word_embeddings)
    tile = config.vision_config.image_size
    config.image_grid_pinpoints = [[rows * tile, columns * tile] for rows, columns in system.grids]
    return _with_length(config)


def _with_length(config: Any) -> Any:
    """With the number of visual tokens of one tile, which is 576 where nothing is said."""
    config.image_seq_length = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return config


def processor(system: System, config: LlavaConfig, tokenizer: Any) -> Any:
    """The processor of a system, for a tokenizer that knows the image token."""
    tile, patch = config.vision_config.image_size, config.vision_config.patch_size
    tokens = {"patch_size": patch, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if system.high_res_size:
        made: Any = MgmProcessor(_mgm_images(system, tile), tokenizer, patch_size=patch)
    elif system.grids:
        images = llava.tiling_image_processor(tile)
        images.image_grid_pinpoints = config.image_grid_pinpoints
        made = LlavaNextProcessor(images, tokenizer, **tokens)
    else:
        made = LlavaProcessor(llava.image_processor(tile, system.pad), tokenizer, **tokens)
    template = "gemma" if config.text_config.model_type == "gemma" else "v1"
    if template == "v1" and tokenizer.convert_tokens_to_ids("</s>") in (None, tokenizer.unk_token_id):
        raise UserError(
            "The language model's tokenizer has no </s>, with which an answer in Vicuna's conversation ends: a checkpoint on it was trained"
            " on another conversation, and can't be converted. A new language model needs it as a special token first."
        )
    made.chat_template = llava.chat_template(template, made)
    return made


def _mgm_images(system: System, tile: int) -> MgmImageProcessor:
    side = system.high_res_size
    return MgmImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_pad=system.pad, low_res_size=tile,
        image_grid=system.image_grid, image_global=system.image_global,
    )  # fmt: skip
