"""Patch-info mining: every low-resolution token asks the high-resolution pixels of its own patch for what it has missed.

I tiles of N tokens with D channels; each token owns W pixels with C channels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeyProjection(nn.Module):
    """A linear layer of keys, applied to the queries instead: q · (W x + b) = (q W) · x + q · b.

    There are W times fewer queries than keys, and the keys need not be stored.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch does for nn.Linear."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [I, N, D] as directions [I, N, C] and offsets [I, N] in the space of x."""
        return queries @ self.weight, queries @ self.bias


class PatchInfoMining(nn.Module):
    """Attention with one query per patch over the pixels of that patch, one head, no positions."""

    def __init__(self, hidden_size: int, high_res_channels: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(hidden_size)
        self.query_proj = nn.Linear(hidden_size, hidden_size)
        self.key_norm = nn.LayerNorm(high_res_channels)
        self.key_proj = KeyProjection(high_res_channels, hidden_size)
        self.value_norm = nn.LayerNorm(high_res_channels)
        self.value_proj = nn.Linear(high_res_channels, hidden_size)

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """What tokens [I, N, D] find in their pixels [I, N, W, C]: [I, N, D].

        The same values as projecting every pixel to a key and a value, for all that is linear is moved to where there are N.
        """
        pixels = F.layer_norm(pixels, pixels.shape[-1:], eps=self.key_norm.eps)  # the part that both norms share
        queries = self.query_proj(self.query_norm(tokens)) / math.sqrt(tokens.shape[-1])
        direction, offset = self.key_proj(queries)
        # The offset moves all scores of a patch alike and so does not count; it keeps the biases in the graph, as DDP wants.
        offset = offset + direction @ self.key_norm.bias
        scores = torch.einsum("inc,inwc->inw", direction * self.key_norm.weight, pixels) + offset[..., None]
        shares = torch.nan_to_num(scores).softmax(dim=-1)
        found = torch.einsum("inw,inwc->inc", shares, pixels)
        value: Tensor = self.value_proj(found * self.value_norm.weight + self.value_norm.bias)
        return value


def windows(features: Tensor, tiles_per_side: int, patches_per_side: int) -> Tensor:
    """A feature map [B, C, S, S] cut into tiles, row by row, and these into the pixels of their patches: [I, N, W, C]."""
    images, channels, size, _ = features.shape
    width, rest = divmod(size, tiles_per_side * patches_per_side)
    if rest:
        raise ValueError(
            f"a high-resolution feature map of {size} x {size} can't be shared among {tiles_per_side * patches_per_side} patches per side;"
            " give high_res_pixel_values of another size"
        )
    cut = features.view(images, channels, *(tiles_per_side, patches_per_side, width) * 2)
    pixels = cut.permute(0, 2, 5, 3, 6, 4, 7, 1)
    return pixels.reshape(images * tiles_per_side**2, patches_per_side**2, width**2, channels)


def stacked_stages(stages: tuple[Tensor, ...]) -> Tensor:
    """The stages of a ConvNeXt tower at the size of the first, channels one after the other: [B, C, S, S]."""
    size = stages[0].shape[-2:]
    return torch.cat([stages[0], *(resized(stage, size) for stage in stages[1:])], dim=1)


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, in single precision whatever the model's own."""
    return F.interpolate(features.float(), size, mode="bilinear", align_corners=False).to(features.dtype)
