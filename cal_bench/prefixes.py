"""Prefix caching: the beginning that prompts of a batch share, up to their picture, is read once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cal_bench.features import ImageFeatures
from cal_bench.inputs import Pictures


class Prefixes:
    """Makes keys and values of the distinct beginnings of a batch, each of which ends with the last picture of its prompt."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._features = ImageFeatures(model)

    @cached_property
    def possible(self) -> bool:
        """Not with a sliding window: it counts places, and those between a short beginning and its end stay empty."""
        from transformers import DynamicCache

        return not any(DynamicCache(config=self._model.config.get_text_config()).is_sliding)

    def read(self, tensors: Mapping[str, Tensor], pictures: Pictures) -> dict[str, Any]:
        """The prompts, input_ids and attention_mask [B, T] with padding on the left, and their pictures as `generate` takes them.

        Where prompts have a beginning in common, [B, P + S]: padded beginnings, which are in the cache, before padded ends.
        """
        prompts = [tokens[seen].tolist() for tokens, seen in zip(tensors["input_ids"], tensors["attention_mask"].bool(), strict=True)]
        cuts = [self._after_pictures(prompt) for prompt in prompts]
        beginnings = [(tuple(prompt[:cut]), shown) for prompt, cut, shown in zip(prompts, cuts, pictures.shown, strict=True)]
        distinct = {beginning: row for row, beginning in enumerate(dict.fromkeys(beginnings))}
        if len(distinct) == len(prompts) or not self.possible:
            return {**tensors, "mm_encoder_outputs": self._features.of(pictures)}
        heads = self._left_padded([tokens for tokens, _ in distinct])
        cache = self._keys_and_values(heads, replace(pictures, shown=[shown for _, shown in distinct]))
        rows = torch.tensor([distinct[beginning] for beginning in beginnings], device=self._model.device)
        cache.batch_select_indices(rows)
        tails = self._left_padded([prompt[cut:] for prompt, cut in zip(prompts, cuts, strict=True)])
        return {name: torch.cat([heads[name][rows], tails[name]], dim=1) for name in heads} | {"past_key_values": cache}

    def _after_pictures(self, prompt: list[int]) -> int:
        """Where the end of a prompt begins, of which something is left; without a picture the beginning is its first token."""
        image = self._model.config.image_token_id
        last = max((place for place, token in enumerate(prompt) if token == image), default=0)
        return min(last + 1, len(prompt) - 1)

    def _keys_and_values(self, heads: Mapping[str, Tensor], pictures: Pictures) -> Any:
        positions = (heads["attention_mask"].cumsum(1) - 1).clamp(min=0)
        features = self._features.of(pictures)
        return self._model(**heads, position_ids=positions, mm_encoder_outputs=features, use_cache=True, logits_to_keep=1).past_key_values

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        tokens = [torch.tensor(row, device=self._model.device) for row in rows]
        padding = self._model.generation_config.pad_token_id
        return {
            "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding, padding_side="left"),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True, padding_side="left"),
        }
