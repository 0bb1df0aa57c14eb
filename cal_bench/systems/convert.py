"""Original checkpoints, and the parts that a training starts from, made into folders that transformers loads."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GemmaTokenizer,
    GenerationConfig,
    LlamaTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from cal_bench.checkpoints import check_folder
from cal_bench.errors import UserError
from cal_bench.trainer_plugin.templates import IMAGE

from . import llava, names, weights
from .anatomy import System, native_config, processor, system_of, text_config
from .mgm_mining import PatchInfoMining
from .register import register
from .weights import Weight

Weights = Mapping[str, Weight]
TOWER, HIGH_RES_TOWER = "model.vision_tower.", "model.high_res_vision_tower."
EMBEDDINGS, HEAD, NEWLINE = "model.language_model.embed_tokens.weight", "lm_head.weight", "model.image_newline"
# Rows of the embeddings are added in such numbers: matrices of other sizes multiply slowly.
ROWS = 64


@dataclass(frozen=True)
class Parts:
    """Folders of what a training starts from.

    `adapter` has projector and mining from an earlier stage; without it they are new, drawn by `seed`. MGM-HD takes MGM's.
    The tokenizer is with the language model if no other folder is named; `layer` is the one of CLIP's whose features are read.
    """

    language: Path
    clip: Path
    convnext: Path | None = None
    adapter: Path | None = None
    seed: int = 0
    tokenizer: Path | None = None
    layer: int = -2


def convert(source: Path, destination: Path, clip: Path | None = None) -> Path:
    """An original LLaVA-1.5, LLaVA-NeXT, MGM or MGM-HD checkpoint as a native folder.

    `clip` is the folder of the vision tower, for checkpoints that do not hold their own (LLaVA-1.5).
    """
    flat = _read_config(source)
    text = text_config(flat)
    own = weights.stored(source, names.official)
    found = (weights.stored(clip, names.clip) if clip else {}) | own
    _require(found, TOWER, f"{source} does not hold its vision tower. Fetch {flat['mm_vision_tower']} and give its folder: --clip FOLDER")
    vision = _clip_config(clip) if clip else None
    system = system_of(flat, vision.image_size if vision else llava.SIDE)
    if system.high_res_size:
        _require(found, HIGH_RES_TOWER, f"{source} does not hold its high-resolution tower: no weight begins with model.vision_tower_aux.")
    config = native_config(system, text, vision, _convnext_config(found), flat.get("mm_vision_select_layer", -2))
    return _write(_Outcome(source, system, config, found), destination)


def from_scratch(system: System, parts: Parts, destination: Path) -> Path:
    """An untrained system from a language model, CLIP and, for MGM, ConvNeXt; what joins them starts as in the original."""
    language, vision = _native(parts.language), _clip_config(parts.clip)
    found = weights.stored(parts.language, names.text) | weights.stored(parts.clip, names.clip)
    if system.high_res_size:
        found |= weights.stored(parts.convnext, names.convnext) if parts.convnext else {}
        _require(
            found, HIGH_RES_TOWER, "MGM has a second vision tower: give the folder of a ConvNeXt as OpenCLIP, timm or transformers save it"
        )
    config = native_config(system, language, vision, _convnext_config(found), parts.layer)
    dtype = found[EMBEDDINGS].read(weights.Files()).dtype
    new = {name: Weight.of(tensor.to(dtype)) for name, tensor in new_weights(config, parts.seed).items()}
    if parts.adapter:
        # A projector of LLaVA-1.5 brings no token between rows; all else that is missing is told.
        new = {name: weight for name, weight in new.items() if name == NEWLINE} | weights.stored(parts.adapter, names.adapter)
    return _write(_Outcome(parts.tokenizer or parts.language, system, config, found | new), destination)


def _require(found: Weights, prefix: str, message: str) -> None:
    if not any(name.startswith(prefix) for name in found):
        raise UserError(message)


def new_weights(config: Any, seed: int) -> dict[str, Tensor]:
    """What no part brings with it: projector, mining and the token between rows, drawn as the original draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = _named("model.multi_modal_projector.", LlavaMultiModalProjector(config))
        if config.model_type == "cal_mgm":
            found |= _named("model.patch_info_mining.", PatchInfoMining(config.vision_config.hidden_size, config.high_res_channels))
        if config.model_type == "llava_next":
            hidden = config.text_config.hidden_size
            found[NEWLINE] = torch.randn(hidden) / hidden**0.5
    return found


def _named(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


@dataclass(frozen=True)
class _Outcome:
    """A system that is ready to be checked and written; `source` is where its tokenizer lies."""

    source: Path
    system: System
    config: Any
    weights: Weights


def _write(outcome: _Outcome, destination: Path) -> Path:
    """Check the weights, then write beside the destination and move there as the last step."""
    config = outcome.config
    found = {name: weight for name, weight in outcome.weights.items() if not (config.tie_word_embeddings and name == HEAD)}
    weights.check(found, _expected(config), outcome.source)
    if destination.exists():
        raise UserError(f"{destination} already exists. Give another folder, or remove it.")
    tokenizer = _tokenizer(outcome.source, config)
    widened = _with_image_token(found, config, tokenizer)
    partial = destination.with_name(f".{destination.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        weights.write(widened, partial)
        _write_settings(outcome, tokenizer, partial)
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return destination


def _write_settings(outcome: _Outcome, tokenizer: Any, folder: Path) -> None:
    outcome.config.save_pretrained(folder)
    processor(outcome.system, outcome.config, tokenizer).save_pretrained(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(**ends).save_pretrained(folder)


def _expected(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights; its class is noted in the config, as transformers does when it saves a model."""
    register()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    config.architectures = [type(model).__name__]
    tied = {HEAD} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def _tokenizer(folder: Path, config: Any) -> Any:
    """The folder's tokenizer, with the image token and one to pad with."""
    kind: Any = GemmaTokenizer if config.text_config.model_type == "gemma" else LlamaTokenizer
    if _tells_all(folder):
        kind = PreTrainedTokenizerFast
    try:
        # Not the "legacy" of some files, which puts a space behind every special token.
        tokenizer = kind.from_pretrained(folder, legacy=False, padding_side="right")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no tokenizer that can be read: {error}") from error
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def _tells_all(folder: Path) -> bool:
    """Whether its tokenizer.json is used as it stands, as Llama 3's is, rather than made anew from a vocabulary."""
    settings = folder / "tokenizer_config.json"
    named = settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
    return named in ("PreTrainedTokenizerFast", "TokenizersBackend")


def _with_image_token(found: Weights, config: Any, tokenizer: Any) -> Weights:
    """A row for the image token, set in the config too.

    New rows are the mean of the old ones: their score is then the mean score, which is never the highest.
    """
    text = config.text_config
    config.image_token_index = tokenizer.convert_tokens_to_ids(IMAGE)
    config.dtype = found[EMBEDDINGS].read(weights.Files()).dtype
    if config.image_token_index < text.vocab_size:
        return found
    text.vocab_size = -(-(config.image_token_index + 1) // ROWS) * ROWS
    return {name: weight.widened(text.vocab_size) if name in (EMBEDDINGS, HEAD) else weight for name, weight in found.items()}


def _checked(folder: Path) -> Path:
    check_folder(folder)
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        flat = json.loads((_checked(folder) / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(flat, dict):
        raise UserError(f"{folder / 'config.json'} is not a config: expected names with their values.")
    return flat


def _native(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(_checked(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"The config.json of {folder} is not one that transformers knows: {error}") from error


def _clip_config(folder: Path) -> PreTrainedConfig:
    config = _native(folder)
    if config.model_type == "clip":
        return config.vision_config
    if config.model_type != "clip_vision_model":
        raise UserError(f"{folder} holds a model of type {config.model_type!r}, but the vision tower must be a CLIP.")
    return config


def _convnext_config(found: Weights) -> dict[str, Any]:
    """The shape of the high-resolution tower, which its files do not all tell, from its weights."""
    tower = {name.removeprefix(HIGH_RES_TOWER): weight.shape for name, weight in found.items() if name.startswith(HIGH_RES_TOWER)}
    depths: list[int] = []
    widths: list[int] = []
    while (layer := f"encoder.stages.{len(depths)}.layers.0.dwconv.bias") in tower:
        widths.append(tower[layer][0])
        stage = layer.removesuffix("0.dwconv.bias")
        depths.append(sum(name.startswith(stage) and name.endswith(".dwconv.bias") for name in tower))
    return {"model_type": "convnext", "depths": depths, "hidden_sizes": widths, "drop_path_rate": 0.1}
