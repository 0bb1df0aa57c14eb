"""The patch that makes `model(**batch).loss` the CAL loss, and takes itself off again.

It sits inside `model.forward`, where fused-kernel libraries patch too: data-parallel wrappers, checkpointing and third-party
trainers see one ordinary call per step.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from .config import CALConfig, CALError
from .contrast import check_family
from .loss import Measured, measure

HANDLE = "_cal_handle"


@dataclass
class Stats:
    """Sums over the label tokens of image-bearing samples since they were last taken."""

    NAMES = ("tokens", "weight_mean", "clamped_low", "clamped_high", "delta_mean", "logp_tokens", "logp_delta_mean")
    sums: Tensor | None = None  # in the order of NAMES, double precision

    def add(self, measured: Measured, config: CALConfig) -> None:
        """Count a micro-batch in, without waiting for the device."""
        seeing = measured.tokens.seeing
        delta = measured.delta[seeing]
        above = torch.zeros_like(delta) if config.beta is None else delta > config.beta
        values = [torch.ones_like(delta), measured.tokens.weights[seeing], delta < config.alpha, above, delta]
        if measured.logp_delta is None:
            values += [torch.zeros_like(delta)] * 2
        else:
            values += [torch.ones_like(delta), measured.logp_delta[seeing]]
        found = torch.stack([value.double().sum() for value in values])
        self.sums = found if self.sums is None else self.sums + found

    def take(self, device: torch.device | str = "cpu") -> Tensor:
        """The sums so far, which start again from zero."""
        sums, self.sums = self.sums, None
        return torch.zeros(len(self.NAMES), dtype=torch.float64, device=device) if sums is None else sums

    def means(self, sums: Tensor) -> dict[str, float]:
        """What the sums say per token; nothing is said about what was not counted."""
        named = dict(zip(self.NAMES, sums.tolist(), strict=True))
        counts = {"logp_delta_mean": named.pop("logp_tokens")}
        tokens = named.pop("tokens")
        return {name: total / counts.get(name, tokens) for name, total in named.items() if counts.get(name, tokens) > 0}


@dataclass
class Handle:
    """A model's CAL: its configuration, what it measured, and the way to remove it."""

    model: nn.Module = field(repr=False)
    config: CALConfig
    patched: Callable[..., Any] = field(repr=False)
    stats: Stats = field(default_factory=Stats)
    measure_logp: bool = False  # also measure the log-probability delta in the coming steps; costs a projection

    def remove(self) -> None:
        """Give the model its own forward back."""
        if getattr(self.model.__dict__.get("forward"), "__func__", None) is not self.patched:
            raise CALError("model.forward was patched again after CAL; undo that first")
        del self.model.__dict__["forward"]
        delattr(self.model, HANDLE)


def apply(model: nn.Module, config: CALConfig | None = None) -> Handle:
    """Patch `model.forward` in place: in train mode with labels its loss is CAL's, elsewhere nothing changes.

    The model may be wrapped by PEFT; what is patched is the one inside, whose forward has the images.
    """
    model = unwrapped(model)
    if isinstance(model, nn.DataParallel):
        raise CALError("CAL does not run under nn.DataParallel; use one process per device (accelerate launch, torchrun)")
    if HANDLE in model.__dict__:
        raise CALError("this model already has CAL; call handle.remove() first")
    if "forward" in model.__dict__:
        raise CALError("model.forward is already patched by something else, which CAL would silently switch off")
    check_family(model)
    patched = _patched(type(model))
    handle = Handle(model, config or CALConfig(), patched)
    setattr(model, HANDLE, handle)
    # A bound method, because deepcopy binds it to the copy; the state lies on the model for the same reason.
    model.forward = MethodType(patched, model)
    return handle


def unwrapped(model: nn.Module) -> nn.Module:
    """The model whose forward has the images: PEFT puts itself around it."""
    return model.get_base_model() if is_peft_model(model) else model


def _patched(model_type: type[nn.Module]) -> Callable[..., Any]:
    plain = model_type.forward
    signature = inspect.signature(plain)
    extra = next(name for name, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD)

    # Trainer and generate read the signature, which wraps keeps.
    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        if not self.training or bound.get("labels") is None:
            return plain(self, *args, **kwargs)
        named = {name: value for name, value in bound.items() if name not in ("self", extra)} | bound.get(extra, {})
        items, as_dict = named.pop("num_items_in_batch", None), named.get("return_dict", True)
        loss = _loss(self.__dict__[HANDLE], named, items)
        return CausalLMOutput(loss=loss) if as_dict is not False else (loss,)

    return forward


def _loss(handle: Handle, inputs: dict[str, Any], items: Tensor | int | None) -> Tensor:
    measured = measure(handle.model, inputs, handle.config, items, handle.measure_logp)
    handle.stats.add(measured, handle.config)
    if handle.config.normalize in ("micro", "sample"):
        _check_whole_batch(len(measured.nll), handle.config.normalize, items)
    return measured.loss


def _check_whole_batch(tokens: int, normalize: str, items: Tensor | int | None) -> None:
    """The stock trainer leaves it to the model to count label tokens; a mean per micro-batch can't be scaled that way."""
    if items is not None and int(items) != tokens:
        raise CALError(
            f"normalize={normalize!r} gives a mean per micro-batch, but this trainer sums over accumulation steps or processes;"
            " use CALTrainer, which divides it, or normalize='tokens'"
        )
