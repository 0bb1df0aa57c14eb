"""Checkpoints as the original projects write them, tiny."""

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, CLIPConfig, CLIPModel

from tests.tiny import tiny_model
from tests.tiny_mgm import GEMMA, HIGH, LLAMA, tiny_mgm

State = dict[str, Tensor]
KINDS = ("llava-1.5", "llava-next", "mgm", "mgm-hd", "mgm-gemma")
FORMS = ("safetensors", "sharded safetensors", "bin", "sharded bin")


def native(kind: str, words: int) -> Any:
    """A model of each kind, whose vocabulary is that of its tokenizer: no image token yet."""
    if kind.startswith("mgm"):
        model = tiny_mgm(kind == "mgm-hd", (GEMMA if kind == "mgm-gemma" else LLAMA) | {"vocab_size": words})
    else:
        model = tiny_model(kind == "llava-next")
        model.resize_token_embeddings(words)
    return model.eval()


# What the original calls the parts; the golden fixtures hold it too (test_mgm.py).
_TO_ORIGINAL = (
    (r"^model\.language_model\.", "model."),
    (r"^model\.multi_modal_projector\.linear_1", "model.mm_projector.0"),
    (r"^model\.multi_modal_projector\.linear_2", "model.mm_projector.2"),
    (r"^model\.patch_info_mining\.query_norm", "model.vlm_uni_query_projector.0"),
    (r"^model\.patch_info_mining\.query_proj", "model.vlm_uni_query_projector.1"),
    (r"^model\.patch_info_mining\.key_norm", "model.vlm_uni_aux_projector.0"),
    (r"^model\.patch_info_mining\.key_proj", "model.vlm_uni_aux_projector.1"),
    (r"^model\.patch_info_mining\.value_norm", "model.vlm_uni_val_projector.0"),
    (r"^model\.patch_info_mining\.value_proj", "model.vlm_uni_val_projector.1"),
    (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^model\.high_res_vision_tower\.embeddings\.patch_embeddings", "model.vision_tower_aux.vision_stem.0"),
    (r"^model\.high_res_vision_tower\.embeddings\.layernorm", "model.vision_tower_aux.vision_stem.1"),
    (r"^model\.high_res_vision_tower\.encoder\.", "model.vision_tower_aux.vision_"),
    (r"(vision_stages\.\d+)\.downsampling_layer", r"\1.downsample"),
    (r"(vision_stages\.\d+)\.layers\.(\d+)\.layer_scale_parameter", r"\1.blocks.\2.gamma"),
    (r"(vision_stages\.\d+)\.layers\.(\d+)\.dwconv", r"\1.blocks.\2.conv_dw"),
    (r"(vision_stages\.\d+)\.layers\.(\d+)\.layernorm", r"\1.blocks.\2.norm"),
    (r"(vision_stages\.\d+)\.layers\.(\d+)\.pwconv", r"\1.blocks.\2.mlp.fc"),
)


def original_names(state: State) -> State:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _TO_ORIGINAL:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.clone()
    return renamed


def flat_config(kind: str, model: Any) -> dict[str, Any]:
    """config.json as the original writes it."""
    text = model.config.text_config.to_dict()
    flat = {name: text[name] for name in text if name not in ("model_type", "dtype", "rope_parameters", "architectures")}
    flat |= {"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}
    flat |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad"}
    flat |= {
        "mm_hidden_size": 16,
        "mm_use_im_start_end": False,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "tune_mm_mlp_adapter": False,
    }
    if kind == "llava-next":
        # Width and height; the native config has height and width.
        flat |= {
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
        }
    if kind.startswith("mgm"):
        hd = kind == "mgm-hd"
        flat |= {"model_type": "mgm_gemma" if kind == "mgm-gemma" else "mgm", "image_size_aux": HIGH[hd], "mm_hidden_size_aux": 28}
        flat |= {"image_grid": 2 if hd else 1, "image_global": hd, "image_grid_pinpoints": None, "mm_vision_tower_aux": "convnext"}
    return flat


def write_form(folder: Path, state: State, form: str) -> None:
    """The weights as one file or three, pickled or not."""
    items, count = list(state.items()), 3 if "sharded" in form else 1
    shards = [dict(items[number::count]) for number in range(count)]
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{count:05}" if count > 1 else ""
        if "bin" in form:
            torch.save(shard, folder / f"pytorch_model{part}.bin")
        else:
            save_file(shard, folder / f"model{part}.safetensors", metadata={"format": "pt"})
    torch.save({"learning_rate": 1}, folder / "training_args.bin")


def clip_folder(folder: Path, model: Any) -> None:
    """The model's tower with CLIP's other half, as the hub has it: pickled, under the old names."""
    config = CLIPConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9},
    )
    state = CLIPModel(config).state_dict()
    state |= {f"vision_model.{name}": tensor.clone() for name, tensor in model.model.vision_tower.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")


def inputs_for(processor: Any, template: str = "USER: <image>\nWhat is it? ASSISTANT:") -> dict[str, Any]:
    pictures = [Image.effect_noise((50, 40), 90).convert("RGB"), Image.new("RGB", (30, 60), "red")]
    return processor(images=pictures, text=[template] * 2, return_tensors="pt", padding=True)


def load_strictly(folder: Path) -> Any:
    model, told = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert {name: keys for name, keys in told.items() if keys} == {}
    return model.eval()
