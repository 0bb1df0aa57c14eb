"""What weights are called: the names of original checkpoints and of their parts, made into those of the native models."""

import re
from collections.abc import Callable

Rename = Callable[[str], str | None]

_MINING = {"query": "query", "aux": "key", "val": "value"}
_BLOCK = {
    "gamma": "layer_scale_parameter",
    "conv_dw": "dwconv",
    "norm": "layernorm",
    "mlp.fc1": "pwconv1",
    "mlp.fc2": "pwconv2",
}  # fmt: skip

# Buffers that old checkpoints carry and that models compute themselves.
_COMPUTED = re.compile(r"\.(inv_freq|position_ids)$")
_TEXT = re.compile(r"model\.((?:embed_tokens|layers|norm)\..+)$")
_PROJECTOR = re.compile(r"model\.mm_projector\.([02])\.(\w+)$")
_MINER = re.compile(r"model\.vlm_uni_(query|aux|val)_projector\.([01])\.(\w+)$")


def official(name: str) -> str | None:
    """The native name of a weight of an original LLaVA or MGM checkpoint; None for what a model has no use for.

    A name that is not known stays as it is, and so is found to be left over.
    """
    if _COMPUTED.search(name):
        return None
    if found := _PROJECTOR.match(name):
        return f"model.multi_modal_projector.linear_{1 + int(found[1]) // 2}.{found[2]}"
    if found := _MINER.match(name):
        return f"model.patch_info_mining.{_MINING[found[1]]}_{('norm', 'proj')[int(found[2])]}.{found[3]}"
    if name.startswith("model.vision_tower_aux."):
        return convnext(name.removeprefix("model.vision_tower_aux.").replace("vision_", "", 1)) or name
    if name.startswith("model.vision_tower.vision_tower."):
        return clip(name.removeprefix("model.vision_tower.vision_tower."))
    return text(name)


def adapter(name: str) -> str | None:
    """The native name of a weight between the parts, as the original's mm_projector.bin or a trained folder calls it; None for others."""
    if name.startswith(("multi_modal_projector.", "image_newline")):
        return f"model.{name}"
    native = official(name)
    return (
        native
        if native and native.startswith(("model.multi_modal_projector.", "model.patch_info_mining.", "model.image_newline"))
        else None
    )


def text(name: str) -> str | None:
    """The native name of a weight of a Llama or Gemma."""
    if _COMPUTED.search(name):
        return None
    found = _TEXT.match(name)
    return f"model.language_model.{found[1]}" if found else name


def clip(name: str) -> str | None:
    """The native name of a weight of a CLIP; its text half is not used."""
    if _COMPUTED.search(name) or name.startswith(("text_model.", "text_projection.", "visual_projection.", "logit_scale")):
        return None
    return f"model.vision_tower.{name.removeprefix('vision_model.')}"


def convnext(name: str) -> str | None:
    """The native name of a weight of a ConvNeXt as OpenCLIP, timm or transformers call it; only stem and stages are used."""
    own = "model.high_res_vision_tower."
    name = name.removeprefix("visual.trunk.").removeprefix("convnext.")
    if name.startswith(("embeddings.", "encoder.")):
        return own + name
    if found := re.match(r"stem\.([01])\.(\w+)$", name):
        return f"{own}embeddings.{('patch_embeddings', 'layernorm')[int(found[1])]}.{found[2]}"
    if found := re.match(r"stages\.(\d+)\.downsample\.([01]\.\w+)$", name):
        return f"{own}encoder.stages.{found[1]}.downsampling_layer.{found[2]}"
    if found := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.(gamma|conv_dw|norm|mlp\.fc1|mlp\.fc2)(\.\w+)?$", name):
        return f"{own}encoder.stages.{found[1]}.layers.{found[2]}.{_BLOCK[found[3]]}{found[4] or ''}"
    return None
