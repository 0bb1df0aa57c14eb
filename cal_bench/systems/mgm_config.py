"""The configuration of MGM and MGM-HD."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# OpenCLIP's ConvNeXt-L (convnext_large_d_320). Drop path stays: the original trains with it although the tower is frozen.
CONVNEXT = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3], "drop_path_rate": 0.1, "layer_norm_eps": 1e-6}


@strict
class MgmConfig(LlavaConfig):
    """LLaVA's configuration and a second tower, which reads the picture in high resolution.

    The low-resolution tower reads a grid of image_grid x image_grid tiles, and the whole picture as one more tile if
    image_global is set: (1, False) is MGM, (2, True) is MGM-HD.
    """

    # Not "mgm" or "mini_gemini": those are the original's own, flat configs.
    model_type = "cal_mgm"
    sub_configs_defaults = LlavaConfig.sub_configs_defaults | {
        "high_res_vision_config": SubConfigSpec(config_class=AutoConfig, model_type="convnext", init_kwargs=CONVNEXT)
    }

    high_res_vision_config: dict[str, Any] | PreTrainedConfig | None = None
    image_grid: int = 1
    image_global: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.image_seq_length = self.tiles * self.patches_per_side**2

    @property
    def tiles(self) -> int:
        """Low-resolution pictures per image."""
        return self.image_grid**2 + self.image_global

    @property
    def patches_per_side(self) -> int:
        """A tile has as many tokens in each row, and as many rows."""
        side: int = self.vision_config.image_size // self.vision_config.patch_size
        return side

    @property
    def high_res_channels(self) -> int:
        """Channels of a high-resolution pixel: all stages of the tower together."""
        tower: Any = self.high_res_vision_config
        return sum(tower.hidden_sizes)

    @property
    def image_scale(self) -> float:
        """What image features are multiplied by. Gemma scales its word embeddings, and the original scaled image rows with them."""
        return float(self.text_config.hidden_size) ** 0.5 if self.text_config.model_type == "gemma" else 1.0
