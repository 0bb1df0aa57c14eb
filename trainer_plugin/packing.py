"""Where the tokens of a batch stand when it is laid out anew, without those that are not read.

B rows of S positions are laid out as M rows of W slots. What attention must not mix is kept apart by a mask, so that several
texts can share a row: padding then costs nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .families import only_drop

# Kernels whose mask can say of any two tokens whether one sees the other; flash attention takes lengths instead.
DRAWN = ("eager", "sdpa")


@dataclass(frozen=True)
class Layout:
    """For each slot the token that stands in it, and for each token its slot."""

    rows: Tensor  # [M, W], from 0 to B - 1
    columns: Tensor  # [M, W], from 0 to S - 1
    filled: Tensor  # [M, W] bool
    place: Tensor  # [B, S], slot of M * W of the last token read at or before; -1 where there is none
    shared: bool  # whether some row holds several texts

    def tokens(self, values: Tensor) -> Tensor:
        """[B, S, ...] to [M, W, ...]."""
        return values[self.rows, self.columns]

    def positions(self, values: Tensor) -> Tensor:
        """[B, S] or [axes, B, S] to the same of [M, W]."""
        return values[..., self.rows, self.columns]

    def back(self, values: Tensor, keep: Tensor) -> Tensor:
        """[M, W, H] to [B, S, H], zero where nothing was kept."""
        found = values.flatten(0, 1).index_select(0, self.place[keep])
        return values.new_zeros(*keep.shape, values.shape[-1]).index_put((keep,), found)

    def square(self, values: Tensor) -> Tensor:
        """A mask [B or 1, 1, S, S] to [M, 1, W, W]."""
        rows, columns = self.rows[:, :, None], self.columns
        return values.expand(len(self.place), -1, -1, -1)[rows, 0, columns[:, :, None], columns[:, None, :]][:, None]

    def allowed(self) -> Tensor:
        """Whether the second token is of the first one's text, and is one: [M, W, W] bool.

        An empty slot sees itself, for kernels that divide by what is seen.
        """
        itself = torch.eye(self.rows.shape[1], dtype=torch.bool, device=self.rows.device)
        return (self.rows[:, :, None] == self.rows[:, None, :]) & (self.filled[:, None, :] | itself)


def lay_out(keep: Tensor, decoder: Any) -> Layout:
    """The tokens that `keep` [B, S] names, in their order from the left; several texts to a row where that saves time."""
    lengths = keep.sum(dim=1).tolist()
    starts, width = _starts(lengths, decoder.config.hidden_size) if _may_share(decoder) else _own_rows(lengths)
    count = keep.cumsum(dim=1)
    place = count - 1 + torch.tensor(starts, device=keep.device)[:, None]
    slots = place[keep]
    size = -(-(max(starts) + 1) // width) * width
    token = keep.new_zeros((2, size), dtype=torch.long)
    token[:, slots] = keep.nonzero().T
    filled = keep.new_zeros(size).index_fill(0, slots, True)
    rows, columns = token.view(2, -1, width)
    return Layout(rows, columns, filled.view(-1, width), place.where(count > 0, -1), len(rows) < len(keep))


def _may_share(decoder: Any) -> bool:
    return decoder.config._attn_implementation in DRAWN and not only_drop(decoder)


def _own_rows(lengths: list[int]) -> tuple[list[int], int]:
    width = max(*lengths, 1)
    return [row * width for row in range(len(lengths))], width


def _starts(lengths: list[int], hidden: int) -> tuple[list[int], int]:
    """First slot of each text, and slots to a row: of the ways to fill 1, 2, … rows evenly, the one that computes least."""
    options = [_own_rows(lengths), *(_evenly(lengths, rows) for rows in range(1, len(lengths)))]

    def cost(option: tuple[list[int], int]) -> int:
        starts, width = option
        # Per token a layer's matrices take 24 hidden^2 operations, and attention to a row 4 hidden * width.
        return (max(starts) // width + 1) * width * (6 * hidden + width)

    return min(options, key=cost)


def _evenly(lengths: list[int], rows: int) -> tuple[list[int], int]:
    """The longest text first, each to the row that is emptiest."""
    filled, places = [0] * rows, [(0, 0)] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        row = filled.index(min(filled))
        places[text] = row, filled[row]
        filled[row] += lengths[text]
    width = max(*filled, 1)
    return [row * width + offset for row, offset in places], width
