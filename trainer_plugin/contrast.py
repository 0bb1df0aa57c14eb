"""The same batch without its images, and all knowledge of model families.

B rows of S positions; R of the rows hold an image; W positions are left of the longest of them; H hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .config import CALError

# Model types whose language model attends to image tokens in the same sequence, so that leaving them out and hiding them
# are the same, and whose decoder takes embeddings, a 2-D mask and positions.
FAMILIES = ("llava", "llava_next")
# What a caller may pass that the two passes decide themselves.
NOT_FOR_THE_BASE = ("labels", "logits_to_keep", "use_cache", "return_dict")


def check_family(model: nn.Module) -> None:
    """Refuse a model whose image-free pass is not known to be right."""
    family = model.config.model_type
    if family not in FAMILIES:
        raise CALError(f"CAL does not know the model family {family!r}; it knows {', '.join(FAMILIES)}")


@dataclass
class DecoderCall:
    """What the language model was called with in the pass that sees the image."""

    embeddings: Tensor | None = None  # [B, S, H]
    mask: Tensor | None = None  # [B, S]
    positions: Tensor | None = None  # [B or 1, S]


@contextmanager
def recorded(decoder: nn.Module) -> Iterator[DecoderCall]:
    """Note the arguments of the decoder's next call: the second pass must keep the positions of the first."""
    call = DecoderCall()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.embeddings = kwargs["inputs_embeds"]
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
    """Read a batch twice; image features are computed once, and gradients flow through the first reading alone."""
    if inputs.get("input_ids") is None:
        raise CALError("CAL needs input_ids, to see which tokens are the image")
    image = inputs["input_ids"] == model.config.image_token_id
    arguments = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_BASE}
    decoder = model.get_decoder()
    with recorded(decoder) as call:
        hidden = model.base_model(**arguments, use_cache=False)[0]
    return Passes(hidden, image, image.any(dim=1), blind_pass(decoder, call, image, contrast))


def blind_pass(decoder: nn.Module, call: DecoderCall, image: Tensor, contrast: str) -> BlindPass | None:
    """Run the decoder on the rows that hold an image, without it; image is [B, S] bool. None if there is nothing to run."""
    rows = image.any(dim=1).nonzero()[:, 0]
    if len(rows) == 0:
        if not dist.is_initialized():
            return None
        rows = rows.new_zeros(1)  # sharded models communicate in every forward: all processes run the pass, or none
    embeddings, mask, positions = _complete(call)
    embeddings, mask, positions, hidden_from = embeddings[rows].detach(), mask[rows], positions[rows], image[rows]
    keep = mask & ~hidden_from
    if contrast == "drop":
        # Left-aligned: order lists the kept positions first, each group in its original order.
        order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, : max(int(keep.sum(dim=1).max()), 1)]
        embeddings = embeddings.gather(1, order[..., None].expand(-1, -1, embeddings.shape[-1]))
        positions, seen = positions.gather(1, order), keep.gather(1, order)
        predictor = keep.cumsum(dim=1) - 1
    else:
        seen = keep
        predictor = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    index = torch.full((len(image),), -1, device=image.device).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
    return BlindPass(_run(decoder, embeddings, seen, positions), index, predictor)


def _complete(call: DecoderCall) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, bool mask and positions of the call, with the defaults of the decoder written out."""
    if call.embeddings is None:
        raise CALError("the language model was not called; is this forward a vision-language model's own?")
    rows, length = call.embeddings.shape[:2]
    device = call.embeddings.device
    mask = torch.ones(rows, length, dtype=torch.bool, device=device) if call.mask is None else call.mask.bool()
    if mask.shape != (rows, length):
        raise CALError(f"attention_mask has shape {tuple(mask.shape)}, but CAL needs [batch, length] = {(rows, length)}")
    positions = torch.arange(length, device=device)[None] if call.positions is None else call.positions
    return call.embeddings, mask, positions.expand(rows, length)


def _run(decoder: nn.Module, embeddings: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    devices = [embeddings.device] if embeddings.is_cuda else []
    # The fork keeps the dropout stream as it is without CAL, so that two arms with one seed draw the same.
    # The mask is explicit even where nothing is masked: without one, gaps in the positions are taken for packed sequences.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        output = decoder(inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    hidden: Tensor = output[0]
    return hidden


def score_transform(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What the model does with its head's logits afterwards, element by element; None where nothing."""
    return None
