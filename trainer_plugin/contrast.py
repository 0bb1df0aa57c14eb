"""The same batch without its images, for any family whose image features stand among the tokens of the text.

B rows of S positions; R of the rows hold an image; W positions are left of the longest of them; H hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.masking_utils import create_masks_for_generate

from .config import CALError
from .families import CROSS_ATTENTION, MASKED_LAYERS, PER_TOKEN, check_family, only_drop, placeholders, score_transform, window

__all__ = ["BlindPass", "Passes", "both_passes", "check_family", "score_transform"]

# What a caller may pass that the two passes decide themselves.
NOT_FOR_THE_BASE = ("labels", "logits_to_keep", "use_cache", "return_dict")
# A decoder's mask: one for all layers, or one per kind of layer.
Mask: TypeAlias = Tensor | dict[str, Tensor | None] | None


@dataclass
class DecoderCall:
    """What the language model was called with in the pass that sees the image."""

    tokens: dict[str, Tensor] = field(default_factory=dict)  # PER_TOKEN arguments, [B, S, ...]
    mask: Mask = None  # each [B, S], or [B, 1, S, S] where the base model built it
    positions: Tensor | None = None  # [B or 1, S], or [3 or 4, B or 1, S] where they have several axes


@contextmanager
def recorded(decoder: nn.Module) -> Iterator[DecoderCall]:
    """Note the arguments of the decoder's next call: the second pass must keep the positions of the first."""
    call = DecoderCall()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.tokens = {name: kwargs[name] for name in PER_TOKEN if kwargs.get(name) is not None}
        call.mask = kwargs.get("attention_mask")
        call.positions = kwargs.get("position_ids")

    hook = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield call
    finally:
        hook.remove()


@dataclass(frozen=True)
class BlindPass:
    """Hidden states of the image-free pass and where to find the predictor of each original position."""

    hidden: Tensor  # [R, W, H]
    index: Tensor  # [B], row of `hidden`, or -1 for a text-only row
    predictor: Tensor  # [R, S], position in `hidden` of the last token that is left at or before, or -1

    def at(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [N, H] for (row, position) pairs, and whether each exists; rows are image-bearing."""
        index = self.index[rows]
        column = self.predictor[index, positions]
        return self.hidden[index, column.clamp(min=0)], column >= 0


@dataclass(frozen=True)
class Passes:
    """One batch read with its images, and again without them."""

    hidden: Tensor  # [B, S, H]
    placeholders: Tensor  # [B, S] bool: where image features stand
    seeing: Tensor  # [B] bool: whether the row holds an image
    blind: BlindPass | None


def both_passes(model: nn.Module, inputs: dict[str, Any], contrast: str) -> Passes:
    """Read a batch twice; image features are computed once, and gradients flow through the first reading alone.

    Raises CALError for a batch or a contrast that the model can't be given.
    """
    if inputs.get("input_ids") is None:
        raise CALError("CAL needs input_ids, to see which tokens are the image")
    decoder = model.get_decoder()
    if contrast == "mask" and (kinds := only_drop(decoder)):
        raise CALError(
            f"contrast='mask' is not defined for {model.config.model_type!r}: hidden tokens still move its layers of kind"
            f" {', '.join(kinds)}; use contrast='drop'"
        )
    image = placeholders(model.config, inputs["input_ids"])
    mask = _padding(inputs.get("attention_mask"), image)
    arguments = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_BASE}
    with recorded(decoder) as call:
        hidden = model.base_model(**arguments, use_cache=False)[0]
    _check_call(call, image)
    hide = torch.zeros_like(image) if model.config.model_type in CROSS_ATTENTION else image
    rows = _rows_to_read(image)
    blind = None if rows is None else _blind_pass(decoder, _Rows(call, mask, hide, rows), contrast)
    return Passes(hidden, image, image.any(dim=1), blind)


def _padding(mask: Tensor | None, image: Tensor) -> Tensor:
    """[B, S] bool: what is no padding."""
    if mask is None:
        return torch.ones_like(image)
    if mask.shape != image.shape:
        raise CALError(f"attention_mask has shape {tuple(mask.shape)}, but CAL needs [batch, length] = {tuple(image.shape)}")
    return mask.bool()


def _check_call(call: DecoderCall, image: Tensor) -> None:
    if not call.tokens:
        raise CALError("the language model was not called; is this forward a vision-language model's own?")
    shape = next(iter(call.tokens.values())).shape[:2]
    if shape != image.shape:
        raise CALError(
            f"the language model read {tuple(shape)} tokens for input_ids of {tuple(image.shape)}; CAL needs one per placeholder,"
            " so let the processor write as many as there are image features"
        )


def _rows_to_read(image: Tensor) -> Tensor | None:
    rows = image.any(dim=1).nonzero()[:, 0]
    if len(rows) == 0:
        # Sharded models communicate in every forward: all processes run the pass, or none.
        return rows.new_zeros(1) if dist.is_initialized() else None
    return rows


@dataclass(frozen=True)
class _Rows:
    """The image-bearing rows of a call: what the image-free pass is made of."""

    call: DecoderCall
    padding: Tensor  # [B, S] bool: what is no padding
    hide: Tensor  # [B, S] bool: what the pass must not see
    rows: Tensor  # [R]

    def tokens(self) -> dict[str, Tensor]:
        """[R, S, ...] each."""
        return {name: values[self.rows].detach() for name, values in self.call.tokens.items()}

    def positions(self) -> Tensor:
        """[R, S], or [axes, R, S]."""
        found = self.call.positions
        if found is None:
            found = torch.arange(self.padding.shape[1], device=self.padding.device)[None]
        return found.expand(*found.shape[:-2], *self.padding.shape)[..., self.rows, :]

    def keep(self) -> Tensor:
        """[R, S] bool: what the pass sees."""
        return (self.padding & ~self.hide)[self.rows]

    def built_mask(self) -> Mask:
        """The mask that the base model built, for these rows; None where it left that to the decoder."""
        if not _is_built(self.call.mask):
            return None
        return _each_square(self.call.mask, lambda mask: mask if len(mask) == 1 else mask[self.rows])

    def window_mask(self, decoder: nn.Module) -> Mask:
        """The mask of a decoder whose layers see less than a row, drawn where the tokens stood; None where all see everything.

        A window counts tokens: without the image the text would see further back. Flash attention draws its window itself, from
        the tokens it is given, so that there is nothing to draw for it.
        """
        limit = window(decoder.config)
        if limit is None or limit >= self.padding.shape[1]:
            return None
        mask = create_masks_for_generate(decoder.config, self.call.tokens["inputs_embeds"][self.rows], self.padding[self.rows], None)
        return mask if _is_built(mask) else None


def _blind_pass(decoder: nn.Module, given: _Rows, contrast: str) -> BlindPass:
    keep, tokens, positions, mask = given.keep(), given.tokens(), given.positions(), given.built_mask()
    if contrast == "drop":
        # Left-aligned: order lists the kept positions first, each group in its original order.
        order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : max(int(keep.sum(dim=1).max()), 1)]
        mask = _each_square(given.window_mask(decoder) if mask is None else mask, lambda square: _gather_square(square, order))
        tokens = {name: values[torch.arange(len(order))[:, None], order] for name, values in tokens.items()}
        positions = positions.gather(-1, order.expand(*positions.shape[:-1], -1))
        seen, predictor = keep.gather(1, order), keep.cumsum(dim=1) - 1
    else:
        seen, predictor = keep, torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    index = torch.full((len(given.hide),), -1, device=keep.device)
    index = index.index_copy(0, given.rows, torch.arange(len(given.rows), device=keep.device))
    return BlindPass(_run(decoder, tokens, _visible(mask, seen), positions), index, predictor)


def _run(decoder: nn.Module, tokens: dict[str, Tensor], mask: Mask, positions: Tensor) -> Tensor:
    devices = [positions.device] if positions.is_cuda else []
    # The fork keeps the dropout stream as it is without CAL, so that two arms with one seed draw the same.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        output = decoder(**tokens, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden: Tensor = output[0]
    return hidden


def _is_built(mask: Mask) -> bool:
    """Whether a mask says for each pair of tokens who sees whom; else the decoder finds out from a [B, S] one."""
    masks = mask.values() if isinstance(mask, dict) else [mask]
    return any(isinstance(square, Tensor) and square.dim() == 4 for square in masks)


def _each_square(mask: Mask, change: Callable[[Tensor], Tensor]) -> Mask:
    """Change what is [R, 1, S, S], leave the rest."""
    if isinstance(mask, dict):
        return {kind: change(entry) if _is_built(entry) else entry for kind, entry in mask.items()}
    return change(mask) if _is_built(mask) else mask


def _gather_square(square: Tensor, order: Tensor) -> Tensor:
    """[R or 1, 1, S, S] to [R, 1, W, W], for tokens in the order [R, W]."""
    rows = torch.arange(len(order), device=order.device)[:, None, None]
    return square.expand(len(order), -1, -1, -1)[rows, 0, order[:, :, None], order[:, None, :]][:, None]


def _visible(mask: Mask, seen: Tensor) -> Mask:
    """The mask without what is not seen; seen is [R, W] bool.

    Never None, even where everything is seen: without a mask, gaps in the positions are taken for packed sequences.
    """
    if mask is None:
        return seen.long()
    if isinstance(mask, dict):
        return {kind: _entry(kind, entry, seen) for kind, entry in mask.items()}
    return _hidden(mask, seen)


def _entry(kind: str, mask: Tensor | None, seen: Tensor) -> Tensor:
    if mask is None and kind in MASKED_LAYERS:
        # Left out where it is plainly causal, for a faster kernel.
        mask = torch.ones(1, 1, seen.shape[1], seen.shape[1], dtype=torch.bool, device=seen.device).tril()
    return seen.long() if mask is None or mask.dim() == 2 else _hidden(mask, seen)


def _hidden(square: Tensor, seen: Tensor) -> Tensor:
    if square.dtype == torch.bool:
        return square & seen[:, None, None, :]
    return square.masked_fill(~seen[:, None, None, :], torch.finfo(square.dtype).min)
