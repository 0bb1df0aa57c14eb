"""First training of the tiny projector: from what the tower makes of a patch to the sum of the vectors of its words."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .scene import LAYOUTS
from .tower import FIRST_SEED, WIDTH, WORD_WIDTH, Pictures, Reader, normalise, word_vectors

BATCH = 32


def train_projector(reader: Reader, steps: int, rate: float = 2e-3) -> nn.Sequential:
    """Two layers as LLaVA-1.5 has them, trained on `steps` x 32 pictures to give what the language model reads in lists."""
    projector = nn.Sequential(nn.Linear(WIDTH, WORD_WIDTH), nn.GELU(), nn.Linear(WORD_WIDTH, WORD_WIDTH))
    _begin_as_a_rotation(projector, reader.rotation)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    stream = iter(DataLoader(Pictures(FIRST_SEED + FIRST_SEED // 2, LAYOUTS), batch_size=BATCH, num_workers=1, prefetch_factor=8))
    for step in range(1, steps + 1):
        pixels, words, boxes, _ = next(stream)
        with torch.no_grad():
            features = reader.tower(pixel_values=normalise(pixels)).last_hidden_state[:, 1:]
        loss = unexplained(projector(features), words, boxes)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"projector step {step}/{steps}: {loss.item():.3f} of the variance unexplained", flush=True)
    return projector


def unexplained(tokens: Tensor, words: Tensor, boxes: Tensor) -> Tensor:
    """The share of the variance of the sums of word vectors that tokens [B, 64, hidden] do not explain."""
    wanted = (words > 0).float() @ word_vectors()
    care = torch.where(boxes[..., :1] >= 0, 1.0, 0.2)  # ground is most of a picture
    return (care * (tokens - wanted).square()).sum() / (care * wanted.square()).sum()


def _begin_as_a_rotation(projector: nn.Sequential, rotation: Tensor) -> None:
    """Small inputs, where GELU is nearly linear: from a random beginning the same steps get half as far."""
    with torch.no_grad():
        projector[0].weight.copy_(0.15 * rotation.T)
        projector[2].weight.copy_(0.9 * torch.eye(WORD_WIDTH))
        for layer in (projector[0], projector[2]):
            layer.bias.zero_()
