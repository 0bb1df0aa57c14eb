"""What tiny systems are put together from: a language model, a CLIP and a ConvNeXt as their authors publish them."""

from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from transformers import LlamaConfig, LlamaForCausalLM

from cal_bench.systems.anatomy import System
from cal_bench.systems.convert import Parts
from tests.original_checkpoints import clip_folder, original_names
from tests.tiny_mgm import HIGH, LLAMA, sentencepiece_files, tiny_mgm

OUR_SYSTEM = {"mgm": System(high_res_size=HIGH[False]), "mgm-hd": System(high_res_size=HIGH[True], image_grid=2, image_global=True)}


def tiny_parts(folder: Path) -> Parts:
    """Folders below `folder`."""
    words = SentencePieceProcessor(str(sentencepiece_files(folder / "language") / "tokenizer.model")).vocab_size()
    LlamaForCausalLM(LlamaConfig(**LLAMA | {"vocab_size": words})).to(torch.bfloat16).save_pretrained(folder / "language")
    model = tiny_mgm()
    clip_folder(folder / "clip", model)
    (folder / "convnext").mkdir()
    trunk = {name: tensor for name, tensor in original_names(model.state_dict()).items() if "vision_tower_aux" in name}
    state = {name.replace("model.vision_tower_aux.vision_", "visual.trunk."): tensor for name, tensor in trunk.items()}
    state |= {
        "visual.trunk.norm_pre.weight": torch.ones(3),
        "visual.head.proj.weight": torch.ones(3),
        "text.x": torch.ones(3),
        "logit_scale": torch.ones(()),
    }
    torch.save(state, folder / "convnext" / "open_clip_pytorch_model.bin")
    return Parts(folder / "language", folder / "clip", folder / "convnext")
