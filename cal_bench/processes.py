"""Several processes of one training: which of them speaks and writes, and how they wait for each other.

A launcher (accelerate launch, torchrun, srun) says in the environment which process this is; without one there is one process.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from cal_bench.progress import say

if TYPE_CHECKING:
    from torch import Tensor

# The others wait while one reads, checks and draws the data of a study.
PATIENCE = timedelta(hours=2)


def is_main() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Whether this process is the first one on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say_once(text: str) -> None:
    """Say it in the main process alone."""
    if is_main():
        say(text)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    cuda = torch.cuda.is_available()
    PartialState(cpu=not cuda, timeout=PATIENCE).wait_for_everyone()


def over_all(values: "Tensor") -> "Tensor":
    """The sum of a tensor over all processes, where the tensor was."""
    if count() == 1:
        return values
    from accelerate import PartialState
    from accelerate.utils import reduce

    summed: Tensor = reduce(values.to(PartialState().device), reduction="sum")
    return summed.to(values.device)
