"""An image for a process that has none, where all processes must run the vision tower or none.

A tower whose weights are shared out is gathered layer by layer, by all processes together: one that skips it, because its
micro-batch is text alone, lets the others wait for ever.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from .families import placeholders
from .loss import IGNORED

# What stands at the places that are filled up, where it is not 0.
FILL = {"labels": IGNORED}


def tower_is_shared_out(model: nn.Module) -> bool:
    """Whether what only images pass through is sharded: ZeRO-3's weights, or units of FSDP of its own."""
    if not dist.is_initialized():
        return False
    text = {model, model.base_model, *model.get_decoder().modules(), *model.get_output_embeddings().modules()}
    parts = [part for part in model.modules() if part not in text]
    units = any(isinstance(part, (FSDPModule, FullyShardedDataParallel)) for part in parts)
    return units or any(hasattr(weight, "ds_id") for part in parts for weight in part.parameters(recurse=False))


def with_an_image(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch, to which a process without an image adds the rows of another, without labels; as it is where all or none have one."""
    ids = inputs["input_ids"]
    own = placeholders(model.config, ids).any().int()[None]
    found = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    having = [rank for rank, one in enumerate(found) if one]
    if len(having) in (0, len(found)):
        return inputs
    lent: list[Any] = [
        {name: value.cpu() for name, value in inputs.items() if isinstance(value, Tensor)} if dist.get_rank() == having[0] else None
    ]
    dist.broadcast_object_list(lent, src=having[0], device=ids.device if ids.is_cuda else None)
    if own:
        return inputs
    return _together(inputs, {name: value.to(ids.device) for name, value in lent[0].items()})


def _together(own: dict[str, Any], lent: dict[str, Any]) -> dict[str, Any]:
    """Rows of both, filled up on the right to one length; what is not per token is about images, and only the lender has it."""
    lent = {**lent, "labels": torch.full_like(lent["labels"], IGNORED)}
    own, lent = ({"attention_mask": torch.ones_like(batch["input_ids"]), **batch} for batch in (own, lent))
    width = max(batch["input_ids"].shape[1] for batch in (own, lent))
    together = {**own, **lent}
    for name in together:
        if _is_per_token(own, name) or _is_per_token(lent, name):
            together[name] = torch.cat([_filled(batch, name, width) for batch in (own, lent)])
    return together


def _is_per_token(batch: dict[str, Any], name: str) -> bool:
    return isinstance(batch.get(name), Tensor) and batch[name].shape == batch["input_ids"].shape


def _filled(batch: dict[str, Any], name: str, width: int) -> Tensor:
    """[B, S] to [B, width]."""
    values = batch[name] if _is_per_token(batch, name) else torch.zeros_like(batch["input_ids"])
    return nn.functional.pad(values, (0, width - values.shape[1]), value=FILL.get(name, 0))
