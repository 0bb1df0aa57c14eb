"""The model without its adapters, as the one that says what a token owes to the image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.utils import is_peft_available

from .config import CALConfig, CALError
from .contrast import Passes, both_passes, unrecorded


def reference_passes(model: nn.Module, inputs: dict[str, Any], config: CALConfig) -> Passes:
    """Both readings of a batch without adapters and without gradients."""
    with unrecorded(inputs["input_ids"].device), without_adapters(model):
        return both_passes(model, inputs, config)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """PEFT's adapters are off.

    The switches are set by hand: PEFT's own way also takes the gradients of adapters away and gives them to all, which
    libraries that shard or reduce gradients do not expect in the middle of a step.
    """
    switches = [(module, module._disable_adapters) for module in adapters(model)]
    try:
        for module, _ in switches:
            module._disable_adapters = True
        yield
    finally:
        for module, before in switches:
            module._disable_adapters = before


def adapters(model: nn.Module) -> list[Any]:
    """The modules of PEFT inside the model.

    Raises CALError if there are none.
    """
    found: list[Any] = []
    if is_peft_available():
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        found = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    if not found:
        raise CALError("reference='adapters_off' needs adapters of PEFT in the model; wrap it (get_peft_model), or set reference='trained'")
    return found
