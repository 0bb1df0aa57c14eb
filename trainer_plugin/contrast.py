"""The same batch without its images, for any family whose image features stand among the tokens of the text.

B rows of S positions; R of the rows hold an image; W positions are left of the longest of them; H hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .config import CALConfig, CALError
from .families import CROSS_ATTENTION, PER_TOKEN, check_family, only_drop, placeholders, score_transform
from .masks import Mask, is_built, laid_out, restricted, rows_of, windowed
from .packing import lay_out
from .pictures import with_less

__all__ = ["BlindPass", "Passes", "both_passes", "check_family", "score_transform"]

# Contrasts whose second pass sees the picture, with less in it.
PICTURED = ("patch_mask", "blur")

# What a caller may pass that the two passes decide themselves.
NOT_FOR_THE_BASE = ("labels", "logits_to_keep", "use_cache", "return_dict")


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


@contextmanager
def packed(decoder: nn.Module, padding: Tensor) -> Iterator[None]:
    """The decoder's next call reads several rows as one, each kept to itself, and gives hidden states [B, S, H] as if it had not.

    `padding` is [B, S] bool: what is no padding; hidden states of the rest are zero.
    """
    layout = lay_out(padding, decoder)

    def pack(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _check_packable(kwargs)
        positions = _positions(kwargs.get("position_ids"), padding)
        mask = kwargs.get("attention_mask")
        mask = laid_out(mask if is_built(mask) else windowed(module, padding), layout, module)
        tokens = {name: layout.tokens(kwargs[name]) for name in PER_TOKEN if kwargs.get(name) is not None}
        return args, {**kwargs, **tokens, "attention_mask": mask, "position_ids": layout.positions(positions)}

    def unpack(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        output["last_hidden_state"] = layout.back(output[0], padding)

    hooks = [decoder.register_forward_pre_hook(pack, with_kwargs=True), decoder.register_forward_hook(unpack)] if layout.shared else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_packable(arguments: dict[str, Any]) -> None:
    known = {*PER_TOKEN, "attention_mask", "position_ids"}
    other = [name for name, value in arguments.items() if name not in known and isinstance(value, (Tensor, list, tuple, dict))]
    if other:
        raise CALError(f"pack=True is not defined for this model: its language model also gets {', '.join(other)}; set pack=False")


def _positions(found: Tensor | None, padding: Tensor) -> Tensor:
    """[B, S], or [axes, B, S]."""
    if found is None:
        found = torch.arange(padding.shape[1], device=padding.device)[None]
    return found.expand(*found.shape[:-2], *padding.shape)


@dataclass(frozen=True)
class BlindPass:
    """Hidden states of the image-free pass and where to find the predictor of each original position."""

    hidden: Tensor  # [N, H]
    index: Tensor  # [B], row of `predictor`, or -1 for a text-only row
    predictor: Tensor  # [R, S], place in `hidden` of the last token that is left at or before, or -1

    def at(self, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [N, H] for (row, position) pairs, and whether each exists; rows are image-bearing."""
        place = self.predictor[self.index[rows], positions]
        return self.hidden[place.clamp(min=0)], place >= 0


@dataclass(frozen=True)
class Passes:
    """One batch read with its images, and again without them."""

    hidden: Tensor  # [B, S, H]
    placeholders: Tensor  # [B, S] bool: where image features stand
    seeing: Tensor  # [B] bool: whether the row holds an image
    blind: BlindPass | None


def both_passes(model: nn.Module, inputs: dict[str, Any], config: CALConfig, contrasted: bool = True) -> Passes:
    """Read a batch twice; gradients flow through the first reading alone. Where the second sees no picture, image features are
    computed once.

    If not `contrasted`, read it once. With `config.pack` the first reading spends nothing on padding; an image-free one never does.

    Raises CALError for a batch or a contrast that the model can't be given.
    """
    if inputs.get("input_ids") is None:
        raise CALError(
            "CAL needs input_ids, to see which tokens are the image; pass them with pixel_values, not inputs_embeds"
            " (ms-swift takes them away for some models: see keep_ids in docs/trainer_plugin.md)"
        )
    decoder = model.get_decoder()
    if config.contrast == "mask" and (kinds := only_drop(decoder)):
        raise CALError(
            f"contrast='mask' is not defined for {model.config.model_type!r}: hidden tokens still move its layers of kind"
            f" {', '.join(kinds)}; use contrast='drop'"
        )
    mask = _padding(inputs.get("attention_mask"), inputs["input_ids"])
    # Some collators hide a picture in the padding of a batch of text alone, so that every process runs the vision tower.
    image = placeholders(model.config, inputs["input_ids"]) & mask
    arguments = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_BASE}
    drawn = random_state(mask.device) if config.contrast in PICTURED else None
    # What is recorded is the call before it is packed.
    with recorded(decoder) as call, packed(decoder, mask) if config.pack else nullcontext():
        hidden = model.base_model(**arguments, use_cache=False)[0]
    _check_call(call, mask)
    rows = _rows_to_read(image) if contrasted else None
    if rows is None:
        return Passes(hidden, image, image.any(dim=1), None)
    if config.contrast in PICTURED:
        # Both readings lose the same to dropout, so that what differs is the picture.
        with unrecorded(hidden.device, drawn), packed(decoder, mask) if config.pack else nullcontext():
            less = model.base_model(**with_less(arguments, config), use_cache=False)[0]
        return Passes(hidden, image, image.any(dim=1), _in_place(less, image, rows))
    hide = torch.zeros_like(image) if model.config.model_type in CROSS_ATTENTION else image
    return Passes(hidden, image, image.any(dim=1), _blind_pass(decoder, _Rows(call, mask, hide, rows), config.contrast))


RandomState = tuple[Tensor, Tensor | None]  # of the CPU, and of the device if it is another


def random_state(device: torch.device) -> RandomState:
    """Where the streams of random numbers are that dropout draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def unrecorded(device: torch.device, state: RandomState | None = None) -> Iterator[None]:
    """Without gradients, and with the dropout stream as it is without CAL, so that two arms with one seed draw the same.

    What is drawn meanwhile begins at `state`, if it is given.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if state is not None:
            torch.set_rng_state(state[0])
            if state[1] is not None:
                torch.cuda.set_rng_state(state[1], device)
        yield


def _in_place(hidden: Tensor, image: Tensor, rows: Tensor) -> BlindPass:
    """Of a pass that reads the batch as it stands, [B, S, H]: each position predicts what it predicts in the other."""
    index = torch.full((len(image),), -1, device=image.device).index_copy(0, rows, torch.arange(len(rows), device=image.device))
    places = torch.arange(image.numel(), device=image.device).view_as(image)
    return BlindPass(hidden.flatten(0, 1), index, places[rows])


def _padding(mask: Tensor | None, ids: Tensor) -> Tensor:
    """[B, S] bool: what is no padding."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise CALError(
            f"attention_mask has shape {tuple(mask.shape)}, but CAL needs [batch, length] = {tuple(ids.shape)};"
            " a trainer that packs makes such masks: turn its packing off"
        )
    return mask.bool()


def _check_call(call: DecoderCall, padding: Tensor) -> None:
    if not call.tokens:
        raise CALError("the language model was not called; is this forward a vision-language model's own?")
    shape = next(iter(call.tokens.values())).shape[:2]
    if shape != padding.shape:
        raise CALError(
            f"the language model read {tuple(shape)} tokens for input_ids of {tuple(padding.shape)}; CAL needs one per placeholder,"
            " so let the processor write as many as there are image features"
        )
    if call.positions is not None and _starts_again(_positions(call.positions, padding), padding):
        raise CALError(
            "the positions of a row start again, as where several texts are packed into one; CAL's image-free pass would read them"
            " as one text: turn the trainer's packing (packing, padding_free) off, and set pack=True in CALConfig instead"
        )


def _starts_again(positions: Tensor, padding: Tensor) -> bool:
    """Whether positions [B, S] or [axes, B, S] go back within a row, padding aside."""
    first = positions.reshape(-1, *padding.shape)[0]
    return bool(((first[:, 1:] < first[:, :-1]) & padding[:, 1:] & padding[:, :-1]).any())


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
        return _positions(self.call.positions, self.padding)[..., self.rows, :]

    def keep(self) -> Tensor:
        """[R, S] bool: what the pass sees."""
        return (self.padding & ~self.hide)[self.rows]

    def built(self) -> Mask:
        """The mask that the base model built, for these rows; None where it left that to the decoder."""
        return rows_of(self.call.mask, self.rows) if is_built(self.call.mask) else None

    def mask(self, decoder: nn.Module) -> Mask:
        """The same, or as windows make it; None where every token sees all before it."""
        if is_built(self.call.mask):
            return self.built()
        return windowed(decoder, self.padding[self.rows])


def _blind_pass(decoder: nn.Module, given: _Rows, contrast: str) -> BlindPass:
    keep, tokens, positions = given.keep(), given.tokens(), given.positions()
    if contrast == "drop":
        layout = lay_out(keep, decoder)
        mask = laid_out(given.mask(decoder), layout, decoder)
        tokens = {name: layout.tokens(values) for name, values in tokens.items()}
        positions, predictor = layout.positions(positions), layout.place
    else:
        mask = restricted(given.built(), keep[:, None], keep)
        predictor = torch.arange(keep.numel(), device=keep.device).view_as(keep)
    index = torch.full((len(given.hide),), -1, device=keep.device)
    index = index.index_copy(0, given.rows, torch.arange(len(given.rows), device=keep.device))
    return BlindPass(_run(decoder, tokens, mask, positions).flatten(0, 1), index, predictor)


def _run(decoder: nn.Module, tokens: dict[str, Tensor], mask: Mask, positions: Tensor) -> Tensor:
    with unrecorded(positions.device):
        output = decoder(**tokens, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden: Tensor = output[0]
    return hidden
