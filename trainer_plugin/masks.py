"""Attention masks of a decoder: for all its layers, or for each kind of them; as the base model built them, or still to be drawn."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask, create_masks_for_generate

from .families import MASKED_LAYERS, window
from .packing import Layout

# Each [B, S], [B or 1, 1, S, S], or None where a kind of layer needs none.
Mask: TypeAlias = Tensor | dict[str, Tensor | None] | None


def is_built(mask: Mask) -> bool:
    """Whether a mask says for each pair of tokens who sees whom; else the decoder finds out from a [B, S] one."""
    masks = mask.values() if isinstance(mask, dict) else [mask]
    return any(isinstance(square, Tensor) and square.dim() == 4 for square in masks)


def rows_of(mask: Mask, rows: Tensor) -> Mask:
    """The part for some rows of the batch."""
    return _each_square(mask, lambda square: square if len(square) == 1 else square[rows])


def windowed(decoder: Any, padding: Tensor) -> Mask:
    """The mask of a decoder whose layers see less than a row [B, S], drawn where the tokens stand; None where all see everything.

    A window counts tokens: without the image the text would see further back. Flash attention draws its window itself, from
    the tokens it is given, so that there is nothing to draw for it.
    """
    limit = window(decoder.config)
    if limit is None or limit >= padding.shape[1]:
        return None
    mask = create_masks_for_generate(decoder.config, _embeds(decoder, padding), padding, None)
    return mask if is_built(mask) else None


def laid_out(mask: Mask, layout: Layout, decoder: Any) -> Mask:
    """A built mask [B or 1, 1, S, S], or none, to what the tokens need where they stand now: each sees those before it of its own text."""
    if mask is None and layout.shared:
        return _causal(layout, decoder)
    mask = _each_square(mask, layout.square)
    return restricted(mask, layout.allowed() if mask is not None else layout.filled[:, None], layout.filled)


def restricted(mask: Mask, allowed: Tensor, seen: Tensor) -> Mask:
    """A mask without the pairs that are not allowed [B, S or 1, S]; [B, S] of what is seen where there is none, or none is needed.

    Never None, even where everything is seen: without a mask, gaps in the positions are taken for packed sequences.
    """
    if mask is None:
        return seen.long()
    if isinstance(mask, dict):
        return {kind: _entry(kind, entry, allowed, seen) for kind, entry in mask.items()}
    return _without(mask, allowed)


def _causal(layout: Layout, decoder: Any) -> Tensor:
    allowed = layout.allowed()
    embeds = _embeds(decoder, layout.rows)
    mask: Tensor = create_causal_mask(
        decoder.config,
        embeds,
        None,
        past_key_values=None,  # by name: transformers before 5.8 has another argument in its place
        and_mask_function=lambda batch, head, query, key: allowed[batch, query, key],
    )
    return mask


def _embeds(decoder: Any, like: Tensor) -> Tensor:
    """What masks are drawn for: only its shape and type are read."""
    return torch.empty(*like.shape, 0, dtype=decoder.dtype, device=like.device)


def _each_square(mask: Mask, change: Callable[[Tensor], Tensor]) -> Mask:
    """Change what is [B, 1, S, S], leave the rest."""
    if isinstance(mask, dict):
        return {kind: change(entry) if entry is not None and entry.dim() == 4 else entry for kind, entry in mask.items()}
    return change(mask) if mask is not None and mask.dim() == 4 else mask


def _entry(kind: str, mask: Tensor | None, allowed: Tensor, seen: Tensor) -> Tensor:
    if mask is None and kind in MASKED_LAYERS:
        # Left out where it is plainly causal, for a faster kernel.
        mask = torch.ones(1, 1, seen.shape[1], seen.shape[1], dtype=torch.bool, device=seen.device).tril()
    return seen.long() if mask is None or mask.dim() == 2 else _without(mask, allowed)


def _without(square: Tensor, allowed: Tensor) -> Tensor:
    if square.dtype == torch.bool:
        return square & allowed[:, None]
    return square.masked_fill(~allowed[:, None], torch.finfo(square.dtype).min)
