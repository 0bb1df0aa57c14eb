"""CAL's arithmetic: tensors in, tensors out.

N is the number of label tokens of a batch in row order; B, T rows and positions. "Shifted" means that entry t belongs to the
label at t + 1, which the logits at t predict.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .config import CALConfig

# The released code divides by the sum of weights plus this.
PUBLISHED_EPSILON = 1e-6


@dataclass(frozen=True)
class LabelTokens:
    """The label tokens of a batch, each [N], in row order."""

    weights: Tensor
    rows: Tensor
    seeing: Tensor  # whether the token's row holds an image


def needed_positions(labelled: Tensor, config: CALConfig) -> Tensor:
    """Shifted positions whose delta the pooled weights depend on; labelled and result are [B, T-1] bool."""
    if config.pooling == "within_row":
        return labelled
    flat = labelled.flatten()
    near = torch.nn.functional.max_pool1d(flat[None].float(), config.window, stride=1, padding=config.window // 2)
    return near[0].bool().view_as(labelled)


def token_weights(delta: Tensor, labelled: Tensor, config: CALConfig) -> Tensor:
    """Clamp, then average over the window: [B, T-1] deltas and label mask to [N] weights."""
    clamped = delta.clamp(min=config.alpha, max=config.beta)
    if config.pooling == "published":
        flat = clamped.flatten()
        return window_mean(flat, torch.zeros_like(flat, dtype=torch.long), config.window)[labelled.flatten()]
    rows = labelled.nonzero()[:, 0]
    return window_mean(clamped[labelled], rows, config.window)


def window_mean(values: Tensor, groups: Tensor, window: int) -> Tensor:
    """Mean of each value and its neighbours, as far as they exist and belong to the same group; groups is sorted."""
    total, count = values.clone(), torch.ones_like(values)
    for step in range(1, min(window // 2, len(values) - 1) + 1):
        together = (groups[step:] == groups[:-step]).to(values.dtype)
        total[step:] += together * values[:-step]
        total[:-step] += together * values[step:]
        count[step:] += together
        count[:-step] += together
    return total / count


def loss_shares(tokens: LabelTokens, normalize: str, items: Tensor | int | None = None) -> Tensor:
    """What each label token's negative log-likelihood is multiplied by before all are summed to the loss: [N].

    `items` is the stock trainer's count of label tokens over the whole accumulated batch.
    """
    if normalize == "micro":
        return tokens.weights / (tokens.weights.sum() + PUBLISHED_EPSILON)
    if normalize == "sample":
        return _row_shares(tokens)
    return _token_shares(tokens, items, across_processes=normalize == "global")


def _row_shares(tokens: LabelTokens) -> Tensor:
    """A weighted mean within each row, and a plain mean over the rows; text alone is weighted evenly, also where alpha is 0."""
    rows, which = tokens.rows.unique(return_inverse=True)
    weights = torch.where(tokens.seeing, tokens.weights, 1.0)
    total = weights.new_zeros(len(rows)).index_add(0, which, weights)
    return _ratio(weights, total[which]) / max(len(rows), 1)


def _token_shares(tokens: LabelTokens, items: Tensor | int | None, across_processes: bool) -> Tensor:
    """As in the stock loss, one part in the number of label tokens, but image-bearing tokens are weighted to mean 1."""
    seeing = tokens.seeing.to(tokens.weights.dtype)
    # Number of label tokens, of image-bearing ones, and the sum of their weights.
    sums = torch.stack([seeing.new_tensor(len(seeing)), seeing.sum(), (tokens.weights * seeing).sum()])
    processes = 1
    if across_processes and dist.is_initialized():
        dist.all_reduce(sums)
        processes = dist.get_world_size()
    # Text-only samples owe nothing to an image. Were they averaged in with weight alpha, every micro-batch that mixes them
    # with images would push them down by up to beta, and the comparison with the stock trainer would measure that too.
    scale = torch.where(tokens.seeing, tokens.weights * _ratio(sums[1], sums[2]), 1.0)
    return scale / (items if items is not None else (sums[0] / processes).clamp(min=1))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Zero where nothing has weight: with alpha = 0 a sample can weigh nothing at all."""
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(below.dtype).tiny), 0.0)
