"""Which image tokens stand for which part of the picture."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from cal_bench.errors import UserError
from cal_bench.figure import new_figure

from .opened import Opened

# Families whose first image tokens are the whole picture, row by row from the top left. What follows in LLaVA-NeXT and MGM-HD are
# tiles of it, which show the same places again.
FAMILIES = ("llava", "llava_next", "cal_mgm")


@dataclass(frozen=True)
class View:
    """The whole picture as the tower sees it [side, side, 3] in 0..1, and its tokens behind the projector [rows * rows, hidden]."""

    picture: NDArray[np.float32]
    tokens: Tensor
    rows: int

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Where a drawing puts the picture, so that patches are 1 wide and their centres are whole numbers."""
        return (-0.5, self.rows - 0.5, self.rows - 0.5, -0.5)


def view_of(opened: Opened, batch: dict[str, Any]) -> View:
    """The view of a batch of one sample with one picture; UserError where its tokens are no grid."""
    family = opened.model.config.model_type
    if family not in FAMILIES:
        raise _no_grid(f"a model of type '{family}'")
    pixels = batch["pixel_values"]
    vision = opened.model.config.vision_config
    rows = vision.image_size // vision.patch_size
    given = {name: values for name, values in batch.items() if name in ("pixel_values", "image_sizes", "high_res_pixel_values")}
    with torch.no_grad():
        tokens = opened.model.get_image_features(**given).pooler_output[0]
    if family == "llava" and len(tokens) != rows**2:
        raise _no_grid(f"the tower of {opened.name}, which makes {len(tokens)} tokens of a picture ({rows} x {rows} were expected)")
    # [tiles, 3, side, side]; the whole picture is the first for LLaVA-NeXT and the last for MGM-HD.
    tiles = pixels[0].reshape(-1, *pixels.shape[-3:])
    return View(_seen(tiles[0 if family == "llava_next" else -1], opened.processor.image_processor), tokens[: rows**2], rows)


def _no_grid(what: str) -> UserError:
    return UserError(
        f"It is not known which part of the picture each image token of {what} stands for. Give checkpoints of LLaVA-1.5,"
        f" LLaVA-NeXT, MGM or MGM-HD (model types {', '.join(FAMILIES)}), whose tokens are a grid."
    )


def _seen(pixels: Tensor, processor: Any) -> NDArray[np.float32]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    picture: NDArray[np.float32] = (pixels.float().cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
    return picture


def beside_the_picture(view: View, models: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """A figure with the picture in its first panel, and one panel of so many inches for each model, still empty."""
    columns = min(models + 1, 3)
    rows = math.ceil((models + 1) / columns)
    figure = new_figure(width * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    panels[0].imshow(view.picture, extent=view.extent)
    panels[0].set_title("the picture")
    return figure, panels
