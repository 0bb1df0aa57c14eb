"""MGM and MGM-HD (Mini-Gemini) as transformers models.

Paper   https://arxiv.org/abs/2403.18814
Differs from LLaVA in what an image token is: CLIP's feature of a patch plus what it finds in ConvNeXt's features of that patch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, LlavaForConditionalGeneration, LlavaModel, LlavaPreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast, LlavaModelOutputWithPast

from .mgm_config import MgmConfig
from .mgm_mining import KeyProjection, PatchInfoMining, resized, stacked_stages, windows

ImageFeatures = dict[str, BaseModelOutputWithPooling]


class MgmPreTrainedModel(LlavaPreTrainedModel):
    """What both classes share."""

    config: MgmConfig


class MgmModel(MgmPreTrainedModel, LlavaModel):
    """Two towers, mining, projector and language model, without the head."""

    def __init__(self, config: MgmConfig) -> None:
        super().__init__(config)
        # A tower without attention: whichever kernel is asked for the others, this one has none.
        self.high_res_vision_tower = AutoModel.from_config(config.high_res_vision_config, attn_implementation="eager")
        # Only the feature maps are read; a norm of their mean would be a parameter without gradient.
        self.high_res_vision_tower.layernorm = nn.Identity()
        self.patch_info_mining = PatchInfoMining(config.vision_config.hidden_size, config.high_res_channels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Projector and mining; the original leaves them as torch makes them. Towers and language model see to their own."""
        if isinstance(module, (nn.Linear, nn.LayerNorm, KeyProjection)):
            module.reset_parameters()

    def get_image_features(self, pixel_values: Tensor, high_res_pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of B pictures as a list of [tokens, hidden] in `pooler_output`: the whole first, then tile by tile.

        pixel_values [B, 3, h, w], or [B, tiles, 3, h, w] with the whole picture last; high_res_pixel_values [B, 3, H, W].
        """
        layer = self.config.vision_feature_layer
        outputs = self.vision_tower(pixel_values.flatten(0, -4), **kwargs | {"output_hidden_states": layer, "return_dict": True})
        tokens = outputs.hidden_states[layer][:, 1:].unflatten(0, (-1, self.config.tiles))
        tokens = tokens + self._mined(tokens, high_res_pixel_values)
        if self.config.image_global:
            tokens = tokens.roll(1, dims=1)
        features = self.multi_modal_projector(tokens.flatten(1, 2))
        outputs.pooler_output = list(features * torch.tensor(self.config.image_scale, dtype=features.dtype))
        return outputs

    def _mined(self, tokens: Tensor, high_res_pixel_values: Tensor) -> Tensor:
        """What the tokens [B, tiles, N, D] of each picture find in its high-resolution features: [B, tiles, N, D]."""
        grid = self.config.image_grid
        stages = self.high_res_vision_tower(high_res_pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features = stacked_stages(stages[1:])
        mined = self._mined_in(features, tokens[:, : grid**2], grid)
        if not self.config.image_global:
            return mined
        size = features.shape[-1] // grid
        return torch.cat([mined, self._mined_in(resized(features, (size, size)), tokens[:, grid**2 :], 1)], dim=1)

    def _mined_in(self, features: Tensor, tokens: Tensor, tiles_per_side: int) -> Tensor:
        """The same for tokens that share a feature map [B, C, S, S]."""
        pixels = windows(features, tiles_per_side, self.config.patches_per_side)
        mined: Tensor = self.patch_info_mining(tokens.flatten(0, 1), pixels).view_as(tokens)
        return mined

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        mm_encoder_outputs: ImageFeatures | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """As LLaVA's, for pictures of two resolutions."""
        if (pixel_values is None) != (high_res_pixel_values is None):
            raise ValueError("pixel_values and high_res_pixel_values are two views of the same pictures: give both or neither")
        if pixel_values is not None and mm_encoder_outputs:
            raise ValueError("give either pixel_values or mm_encoder_outputs, not both")
        if pixel_values is not None:
            mm_encoder_outputs = {"image": self.get_image_features(pixel_values, high_res_pixel_values)}
        return super().forward(input_ids=input_ids, mm_encoder_outputs=mm_encoder_outputs, **kwargs)


class MgmForConditionalGeneration(MgmPreTrainedModel, LlavaForConditionalGeneration):
    """MGM or MGM-HD with its head: trains, generates, saves and loads as any model of transformers."""

    def __init__(self, config: MgmConfig) -> None:
        # Not LLaVA's own, which would first build a LLaVA.
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = MgmModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, high_res_pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of B pictures, as MgmModel gives them."""
        return self.model.get_image_features(pixel_values, high_res_pixel_values, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: ImageFeatures | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """As LLaVA's, for pictures of two resolutions; Trainer and generate read this list of arguments."""
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
