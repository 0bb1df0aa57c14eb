"""Training of the tiny high-resolution tower: a ConvNeXt that reads 256-px pictures learns to name what they show.

Every stretch of a picture as large as a patch of the low resolution learns its words as in `tower.py`, but for where it is: a
convolution does not know.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset
from transformers import ConvNextConfig, ConvNextModel

from .scene import GRID, PATCH, Layout
from .tower import ALPHABET, BATCH, FIRST_SEED, INDEX, WORD_WIDTH, Example, Halves, Leg, Reading, train_leg, word_vectors
from .vocabulary import COLUMNS, ROWS

SCALE = 2  # of its pictures: a patch of the low resolution has 32 x 32 px here, and 8 x 8 pixels of the first stage
WIDTHS, DEPTHS = (16, 32, 96, 160), (1, 1, 3, 2)
LETTERS = 2  # the stage with 2 x 2 pixels to a patch, about one to a letter
# Past what the other parts were trained on.
HIGH_RES_SEED = 3 * FIRST_SEED


class Strips(IterableDataset[Example]):
    """Nothing of each picture but its fuller half, and nothing said of places."""

    def __init__(self, first_seed: int, layouts: tuple[Layout, ...]) -> None:
        self.halves = Halves(first_seed, layouts, SCALE)

    def __iter__(self) -> Iterator[Example]:
        for half in self.halves:
            first, last = (int(half.shown[end]) // GRID for end in (0, -1))
            side = PATCH * SCALE
            yield half._replace(pixels=half.pixels[:, first * side : (last + 1) * side], words=_placeless(half.words))


def _placeless(words: Tensor) -> Tensor:
    words[:, [INDEX[place] for place in (*ROWS, *COLUMNS)]] = 0
    return words / words.sum(-1, keepdim=True)


def new_convnext() -> ConvNextModel:
    """Untrained, in the class and with the drop path of the full-size one; only stem and stages are read."""
    config = ConvNextConfig(
        hidden_sizes=list(WIDTHS), depths=list(DEPTHS), num_stages=len(WIDTHS), drop_path_rate=0.1, layer_scale_init_value=0.5
    )
    tower = ConvNextModel(config)
    tower.layernorm = nn.Identity()
    return tower


class HighResReader(nn.Module):
    """The tower with the heads that teach it; only the tower is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = new_convnext().to(memory_format=torch.channels_last)
        self.register_buffer("rotation", nn.init.orthogonal_(torch.empty(WIDTHS[-1], WORD_WIDTH)))
        self.box = nn.Linear(WIDTHS[-1], 4)
        # The upper and the lower pixel of each half of a patch.
        self.letters = nn.Conv2d(WIDTHS[LETTERS], 1 + len(ALPHABET), kernel_size=(2, 1), stride=(2, 1))
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("vectors", functional.normalize(word_vectors(), dim=-1))

    def forward(self, pixels: Tensor, shown: Tensor) -> Reading:
        """Pictures [B, 3, H, 256] as their patches of 32 x 32 px are read, row by row; wherever they are `shown` in a picture."""
        stages = self.tower(pixels.contiguous(memory_format=torch.channels_last), output_hidden_states=True).hidden_states[1:]
        features = stages[-1].flatten(2).transpose(1, 2)
        aim = features @ self.rotation
        named = aim @ self.vectors.T * self.scale.exp()
        letters = self.letters(stages[LETTERS]).permute(0, 2, 3, 1).unflatten(2, (GRID, 2)).flatten(1, 2)
        return Reading(features, named.log_softmax(-1), aim, self.box(features), letters)


def matrices(reader: HighResReader) -> list[nn.Parameter]:
    """Those of the tower's linear layers."""
    return [weight for name, weight in reader.tower.named_parameters() if "pwconv" in name and weight.ndim == 2]


# Signs and things are what the other tower reads worst.
LEGS = (Leg(700, 3e-3), Leg(2_500, 2e-3, ("things", "things", "sign", "sign", "sign", "page", "chart")))


def train_high_res() -> HighResReader:
    """Train on pictures of which none is drawn twice."""
    torch.manual_seed(0)
    reader, seed = HighResReader(), HIGH_RES_SEED
    for leg in LEGS:
        train_leg(reader, leg, Strips(seed, leg.layouts), matrices(reader))
        seed += leg.steps * BATCH
    return reader
