"""Pictures with part of what they show taken away: the contrasts of the paper's appendix (A.3), in place of no picture at all."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import CALConfig, CALError

# Pieces a picture is cut into: 20 in its height, 10 in its width (paper, A.3).
GRID = (20, 10)


def with_less(inputs: dict[str, Any], config: CALConfig) -> dict[str, Any]:
    """The same call with masked or blurred pictures; pixels are [P, 3, H, W], or [P, views, 3, H, W], already normalised.

    What is masked becomes 0, the mean colour; which pieces is drawn anew for every batch, by torch's seed and the batch's tokens.
    Every view of a picture (tiles, another resolution) is cut by the same grid.

    Raises CALError where pixels are no pictures any more.
    """
    names = [name for name, value in inputs.items() if "pixel_values" in name and isinstance(value, Tensor)]
    for name in names:
        _check_pictures(name, inputs[name])
    if config.contrast == "blur":
        return inputs | {name: blurred(inputs[name], config.sigma) for name in names}
    count = max((len(inputs[name]) for name in names), default=0)
    # The stream of the second pass begins where that of the step does, which without dropout is the same place each time.
    generator = torch.Generator().manual_seed((torch.initial_seed() + int(inputs["input_ids"].sum())) % 2**63)
    visible = random_pieces(count, 1 - config.mask_ratio, generator)
    return inputs | {name: inputs[name] * _laid_over(visible[: len(inputs[name])], inputs[name]) for name in names}


def random_pieces(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Which pieces of each picture stay, [count, *GRID] of 0 and 1; just this share of them."""
    pieces = math.prod(GRID)
    order = torch.rand(count, pieces, generator=generator).argsort(dim=1)
    return (order < round(share * pieces)).float().view(count, *GRID)


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """Each picture of [..., H, W] under a Gaussian of this deviation in pixels; its edges are continued."""
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=pixels.device)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(pixels.dtype)
    planes = F.pad(pixels.reshape(-1, 1, *pixels.shape[-2:]), (reach, reach, reach, reach), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes.view_as(pixels)


def _laid_over(visible: Tensor, pixels: Tensor) -> Tensor:
    """[P, *GRID] to [P, 1, H, W], or [P, 1, 1, H, W] where a picture has several views."""
    shown = F.interpolate(visible[:, None], size=pixels.shape[-2:], mode="nearest-exact").to(pixels)
    return shown if pixels.dim() == 4 else shown[:, None]


def _check_pictures(name: str, pixels: Tensor) -> None:
    if pixels.dim() not in (4, 5) or pixels.shape[-3] != 3:
        raise CALError(
            f"{name} is {list(pixels.shape)}: this model's processor cuts pictures into patches, so that they can't be masked or blurred"
            " here; use contrast='drop'"
        )
