"""The upper bound of the weights as a running estimate: a quantile of the deltas seen lately."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .config import CALError

# What a micro-batch still counts for in the next: the estimate is made of about the last hundred.
MEMORY = 0.99


@dataclass
class RunningQuantile:
    """A mean of the micro-batches' quantiles, by their number of tokens and by how long ago they were; the same in all processes."""

    level: float
    floor: float
    weighted: float = 0.0
    tokens: float = 0.0

    def update(self, deltas: Tensor) -> None:
        """Count the image-bearing label tokens [N] of a micro-batch in."""
        # One overflow in half precision, whose step the trainer skips, would stay in the estimate for ever.
        deltas = _of_all_processes(deltas[deltas.isfinite()])
        if len(deltas) == 0:
            return
        self.weighted = MEMORY * self.weighted + len(deltas) * torch.quantile(deltas, self.level).item()
        self.tokens = MEMORY * self.tokens + len(deltas)

    @property
    def bound(self) -> float | None:
        """The upper bound; None where there is none, because all is below it or nothing was seen yet."""
        if self.level == 1 or self.tokens == 0:
            return None
        return max(self.weighted / self.tokens, self.floor)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"level": self.level, "weighted": self.weighted, "tokens": self.tokens}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's estimate."""
        if state["level"] != self.level:
            raise CALError(
                f"the checkpoint holds an estimate of the quantile {state['level']}, but the config asks for {self.level};"
                " set quantile as it was, or start anew"
            )
        self.weighted, self.tokens = state["weighted"], state["tokens"]


def _of_all_processes(values: Tensor) -> Tensor:
    """[N] of this process and those of the others, in the order of ranks."""
    if not dist.is_initialized():
        return values
    own = torch.tensor([len(values)], device=values.device)
    sizes = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    lengths = [int(size) for size in sizes]
    # What is gathered must be of one size.
    padded = values.new_zeros(max(lengths))
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
