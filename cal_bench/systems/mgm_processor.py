"""Pictures and text together, as MGM reads them."""

from typing import Any

from transformers.processing_utils import MultiModalData, ProcessorMixin

from cal_bench.errors import UserError


class MgmProcessor(ProcessorMixin):
    """The image processor and the tokenizer; writes as many image tokens as the model has visual tokens."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 14,
        image_token: str = "<image>",
        chat_template: str | None = None,
    ) -> None:
        self.patch_size = patch_size
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        # The original tokenizes what follows the image as a text of its own, which SentencePiece begins with a space.
        self._begin = " " if tokenizer.tokenize("a")[0].startswith("▁") else ""
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def image_seq_length(self) -> int:
        """Visual tokens of a picture."""
        images = self.image_processor
        tiles: int = images.image_grid**2 + images.image_global
        side: int = images.low_res_size // self.patch_size
        return tiles * side**2

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """What the image token stands for in the text of one picture."""
        return self.image_token * self.image_seq_length + self._begin

    def _get_num_multimodal_tokens(self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any) -> MultiModalData:
        """For servers that plan a batch before they see its pictures."""
        pictures = image_sizes or []
        return MultiModalData(num_image_tokens=[self.image_seq_length] * len(pictures), num_image_patches=[1] * len(pictures))


def read_in_grid(config: Any, processor: Any, grid: int) -> None:
    """Let a model and its processor read pictures as MGM (1), or as MGM-HD (2): twice the resolution, in tiles beside the whole.

    Both have the same weights. The original pre-trains MGM-HD as MGM.
    """
    if not isinstance(processor, MgmProcessor):
        raise UserError(f"image_grid is for MGM and MGM-HD, but the model's processor is {type(processor).__name__}. Take it out.")
    images = processor.image_processor
    side = images.size["shortest_edge"] // images.image_grid * grid
    images.size, images.crop_size = {"shortest_edge": side}, {"height": side, "width": side}
    images.image_grid, images.image_global = grid, grid > 1
    config.image_grid, config.image_global = grid, grid > 1
    config.image_seq_length = config.tiles * config.patches_per_side**2
