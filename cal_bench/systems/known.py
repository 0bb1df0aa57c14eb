"""The parts of the paper's systems as they are published: where they lie on the hub, and their shapes, known before anything is fetched."""

from typing import Any

from transformers import AutoConfig

from cal_bench.errors import UserError, suggest

from .anatomy import SYSTEMS, native_config
from .convert import ROWS

CLIP = "openai/clip-vit-large-patch14-336"
CONVNEXT = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"

_VICUNA_7B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
_GEMMA_2B: dict[str, Any] = {
    "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192,
}  # fmt: skip
LANGUAGE_MODELS = {
    "lmsys/vicuna-7b-v1.5": _VICUNA_7B,
    "lmsys/vicuna-13b-v1.5": _VICUNA_7B
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "google/gemma-2b-it": _GEMMA_2B,
}


def known_config(system: str, language: str) -> Any:
    """The configuration of an untrained system as `convert --from-scratch` makes it from published parts.

    UserError for a system or a language model whose shape is not known here.
    """
    _check("system", system, SYSTEMS)
    _check("language", language, LANGUAGE_MODELS)
    shape = LANGUAGE_MODELS[language]
    text = AutoConfig.for_model(**shape | {"vocab_size": -(-(shape["vocab_size"] + 1) // ROWS) * ROWS})
    config = native_config(SYSTEMS[system], text, None, None)
    config.image_token_index = shape["vocab_size"]
    return config


def _check(what: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise UserError(f"parts.{what}: '{name}' is not known.{suggest(name, known)} Known are {', '.join(known)}.")
