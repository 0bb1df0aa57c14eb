"""What is particular to a model family. All else follows from the config and from the decoder's real call.

A family needs no entry here when its config has image_token_id, its language model reads image features at those placeholders in
the text's own sequence, and its logits are what the head gives.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .config import CALError

# Model types that read the picture through cross-attention: nothing to leave out of the sequence, so the image-free pass
# is the same call without what these arguments carry, and the model skips its cross-attention layers.
CROSS_ATTENTION = {"mllama": ("cross_attention_states", "cross_attention_mask", "full_text_row_masked_out_mask")}

# Arguments of a decoder with one entry per token [B, S, ...]. What else a decoder gets beside mask and positions is about the
# image (DeepStack features, masks of where they belong, routing of image tokens) and stays out of the image-free pass.
PER_TOKEN = ("inputs_embeds", "input_ids", "per_layer_inputs", "ple_input_ids")

# Layers that read other tokens only through an attention mask. Any other kind (recurrence, convolution, top-k selection) is moved
# by tokens that are hidden, so that leaving them out is the only contrast.
MASKED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})

_QUERIES = "its image features are no tokens of the text's sequence, or stand in a language model that holds its own head"
_CODES = "its images are ordinary words of the vocabulary, which the model also learns to write"
_OWN_HEAD = "its language model holds its own head, so that hidden states do not leave it"
_CUT = "its hidden states are scaled and its vocabulary is cut after the head"
REFUSED = {
    "blip": _QUERIES,
    "blip-2": _QUERIES,
    "chameleon": _CODES,
    "diffusion_gemma": "it does not predict the next token",
    "emu3": _CODES,
    "evolla": "it reads proteins",
    "git": _QUERIES,
    "idefics": "it has no image_token_id, and each layer reads the picture through gates of its own",
    "inkling2": _CUT,
    "inkling_mm_model": _CUT,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "kosmos-2": "its image positions are an argument of their own, not tokens",
    "kosmos-2.5": "its image positions are an argument of their own, not tokens",
    "llama4": _OWN_HEAD,
    "nemotron_h_omni": _OWN_HEAD,
    "pi0": "it predicts actions",
}

# Families whose forward changes the head's logits; others ignore these settings even where their text config has them.
SOFT_CAPPED = ("gemma3n", "gemma4", "gemma4_unified", "mistral_large4", "muse_glimmer", "muse_spark", "paligemma")
MULTIPLIED = {
    "cohere_compass": "logit_scale",
    "hyperclovax_vision_v2": "logits_scaling",
    "muse_glimmer": "output_multiplier",
    "muse_spark": "output_multiplier",
}
DIVIDED = {"granite4_vision": "logits_scaling", "granite_docling": "logits_scaling"}


def refusal(config: Any) -> str | None:
    """Why models of this config have no contrast; None if they have one."""
    if config.model_type in REFUSED:
        return REFUSED[config.model_type]
    if config.is_encoder_decoder:
        return "the image is read by its encoder, not in the sequence of the text"
    if getattr(config, "image_token_id", None) is None:
        return "its config has no image_token_id, so that nothing tells where the image stands"
    return None


def check_family(model: nn.Module) -> None:
    """Raise CALError for a model whose image-free pass is not defined."""
    family = model.config.model_type
    reason = refusal(model.config)
    if reason is None and _contains(model.get_decoder(), model.get_output_embeddings()):
        reason = _OWN_HEAD
    if reason is not None:
        raise CALError(
            f"CAL can't contrast the model family {family!r}: {reason}."
            " It needs a decoder that reads image features at image_token_id, as those of llava, qwen2_5_vl or gemma3"
        )


def _contains(decoder: nn.Module, head: nn.Module) -> bool:
    return any(module is head for module in decoder.modules())


def placeholders(config: Any, input_ids: Tensor) -> Tensor:
    """Where image or video features stand: [B, S] bool."""
    found = input_ids == config.image_token_id
    video = getattr(config, "video_token_id", None)
    return found if video is None else found | (input_ids == video)


def only_drop(decoder: nn.Module) -> list[str]:
    """The decoder's kinds of layers that hidden tokens would still move; empty where drop and mask agree."""
    return sorted(set(getattr(decoder.config, "layer_types", None) or ()) - MASKED_LAYERS)


def window(config: Any) -> int | None:
    """How far the shortest-sighted layers of a decoder see, in tokens; None where all see everything."""
    kinds = getattr(config, "layer_types", None) or MASKED_LAYERS
    limits = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    lengths = [getattr(config, limit, None) for kind, limit in limits.items() if kind in kinds]
    return min((length for length in lengths if length), default=None)


def score_transform(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What the model does with its head's logits afterwards, element by element; None where nothing."""
    family, text = model.config.model_type, model.config.get_text_config()
    factor = 1.0
    if family in MULTIPLIED:
        factor = getattr(text, MULTIPLIED[family])
    if family in DIVIDED:
        factor = 1 / getattr(text, DIVIDED[family])
    cap = getattr(text, "final_logit_softcapping", None) if family in SOFT_CAPPED else None
    if factor == 1 and cap is None:
        return None
    return functools.partial(_scaled_and_capped, factor=factor, cap=cap)


def _scaled_and_capped(logits: Tensor, factor: float, cap: float | None) -> Tensor:
    scaled = logits * factor
    return scaled if cap is None else cap * torch.tanh(scaled / cap)
