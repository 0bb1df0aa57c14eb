"""First training of what joins the two tiny towers of MGM: what a patch shows in both resolutions, as the sum of its words' vectors."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText

from cal_bench.systems.convert import Parts, from_scratch
from cal_bench.systems.mgm_images import low_resolution
from cal_bench.systems.mgm_model import MgmForConditionalGeneration

from .base import BASE, SYSTEMS
from .convnext import HIGH_RES_SEED, SCALE
from .scene import SIDE, Layout
from .tower import Pictures, normalise, unnamed, word_vectors

BATCH, STEPS = 16, 300
LAYOUTS: tuple[Layout, ...] = ("things", "things", "sign", "sign", "page", "chart")
JOINTS = ("multi_modal_projector", "patch_info_mining")


def train_mining(convnext: Path, steps: int = STEPS, rate: float = 2e-3) -> dict[str, dict[str, Tensor]]:
    """Mining, trained on `steps` x 16 pictures to help in naming words, and projector of MGM, which is LLaVA's."""
    torch.manual_seed(0)
    model = _mgm(convnext)
    loudness = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.AdamW([*model.model.patch_info_mining.parameters(), loudness], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    pictures = Pictures(HIGH_RES_SEED + HIGH_RES_SEED // 2, LAYOUTS, SCALE)
    stream = iter(DataLoader(pictures, batch_size=BATCH, num_workers=1, prefetch_factor=8))
    vectors = functional.normalize(word_vectors(), dim=-1)
    for step in range(1, steps + 1):
        batch = next(stream)
        named = loudness.exp() * visual_tokens(model, normalise(batch.pixels)) @ vectors.T
        loss = unnamed(named.log_softmax(-1), batch.words, batch.boxes)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"mining step {step}/{steps}: {loss.item():.3f} nats of the words of a patch unnamed", flush=True)
    return {name: dict(getattr(model.model, name).state_dict()) for name in JOINTS}


def _mgm(convnext: Path) -> MgmForConditionalGeneration:
    """MGM with the shipped tower and projector; only the mining takes a gradient."""
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(BASE / "language", BASE / "tower", convnext, tokenizer=BASE / "tokenizer", layer=-1)
        made = from_scratch(SYSTEMS["mgm"], parts, Path(folder, "mgm"))
        model: MgmForConditionalGeneration = AutoModelForImageTextToText.from_pretrained(made, dtype=torch.float32)
    model.load_state_dict(load_file(BASE / "projector" / "model.safetensors"), strict=False)
    nn.init.normal_(model.model.patch_info_mining.value_proj.weight, std=0.01)
    model.requires_grad_(False)
    model.model.patch_info_mining.requires_grad_(True)
    model.train()  # ConvNeXt drops paths while MGM trains
    return model


def visual_tokens(model: MgmForConditionalGeneration, high: Tensor) -> Tensor:
    """Normalised pictures [B, 3, 256, 256] as visual tokens [B, 64, hidden]."""
    low = torch.stack([low_resolution(picture, SIDE, 1, False) for picture in high])
    return torch.stack(model.get_image_features(low, high).pooler_output)
