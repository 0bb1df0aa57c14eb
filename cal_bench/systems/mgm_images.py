"""Pictures for MGM and MGM-HD, in both resolutions, as the original's data code makes them."""

from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.processing_utils import ImagesKwargs


class MgmImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What it takes beyond other image processors."""

    low_res_size: int
    image_grid: int
    image_global: bool


class MgmImageProcessor(LlavaImageProcessorPil):
    """`size` and `crop_size` are those of the high resolution; low_res_size is the side of one tile of the low.

    do_pad pads to a square with the mean colour (instruction tuning and evaluation); without it the picture is cropped
    (the original's pre-training).
    """

    valid_kwargs = MgmImagesKwargs
    model_input_names = ("pixel_values", "high_res_pixel_values")
    resample = PILImageResampling.BICUBIC
    size = {"shortest_edge": 768}  # noqa: RUF012
    crop_size = {"height": 768, "width": 768}  # noqa: RUF012
    do_pad = True
    low_res_size = 336
    image_grid = 1
    image_global = False

    def convert_to_rgb(self, image: Any, input_data_format: Any = None) -> np.ndarray:
        """Transparency is dropped, as the original does; other image processors blend it with white."""
        opaque = image.convert("RGB") if isinstance(image, Image) else image
        converted: np.ndarray = super().convert_to_rgb(opaque, input_data_format)
        return converted

    def _preprocess(
        self, images: list[np.ndarray], low_res_size: int, image_grid: int, image_global: bool, return_tensors: str | None, **kwargs: Any
    ) -> BatchFeature:
        high = super()._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        low = [low_resolution(torch.tensor(picture), low_res_size, image_grid, image_global).numpy() for picture in high]
        return BatchFeature({"pixel_values": low, "high_res_pixel_values": high}, tensor_type=return_tensors)


def low_resolution(picture: torch.Tensor, size: int, grid: int, whole: bool) -> torch.Tensor:
    """A picture [3, H, W] as [3, size, size], or as grid x grid tiles, row by row, and the whole: [tiles, 3, size, size].

    From the normalised picture and without antialiasing, as the original does; the whole is made from the tiles.
    """
    joined = _shrunk(picture, size * grid)
    if grid == 1 and not whole:
        return joined
    tiles = joined.view(3, grid, size, grid, size).permute(1, 3, 0, 2, 4).reshape(grid**2, 3, size, size)
    return torch.cat([tiles, _shrunk(joined, size)[None]]) if whole else tiles


def _shrunk(picture: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(picture[None], size=(size, size), mode="bilinear", align_corners=False)[0]
