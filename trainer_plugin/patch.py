"""The patch that makes `model(**batch).loss` the CAL loss, and takes itself off again.

It sits inside `model.forward`, where fused-kernel libraries patch too: data-parallel wrappers, checkpointing and third-party
trainers see one ordinary call per step.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import CausalLMOutput

from .borrow import tower_is_shared_out, with_an_image
from .config import CALConfig, CALError
from .contrast import check_family
from .loss import Measured, Step, forward_slot, measure
from .quantile import RunningQuantile

HANDLE = "_cal_handle"
# Accelerate puts its own forward around the model's for mixed precision, and keeps the model's here.
BEFORE_AUTOCAST = "_original_forward"


@dataclass
class Stats:
    """Sums over the label tokens of image-bearing samples since they were last taken."""

    NAMES = ("tokens", "weight_mean", "clamped_low", "clamped_high", "delta_mean", "logp_tokens", "logp_delta_mean")
    sums: Tensor | None = None  # in the order of NAMES, double precision

    def add(self, measured: Measured, alpha: float) -> None:
        """Count a micro-batch in, without waiting for the device."""
        seeing = measured.tokens.seeing
        delta = measured.delta[seeing]
        above = torch.zeros_like(delta) if measured.beta is None else delta > measured.beta
        values = [torch.ones_like(delta), measured.tokens.weights[seeing], delta < alpha, above, delta]
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
    """A model's CAL: its configuration, what it measured, and the way to remove it.

    `step` is the optimizer's, for the options that go by it; where nobody sets it, each forward with labels in train mode is one.
    """

    model: nn.Module = field(repr=False)
    config: CALConfig
    patched: Callable[..., Any] = field(repr=False)
    guard: RemovableHandle = field(repr=False)
    quantile: RunningQuantile | None = None
    stats: Stats = field(default_factory=Stats)
    measure_logp: bool = False  # also measure the log-probability delta in the coming steps; costs a projection
    step: int | None = None
    forwards: int = 0  # how many gave the CAL loss
    guarded: int = field(default=0, repr=False)  # how many of them the guard has seen
    borrows: bool | None = field(default=None, repr=False)  # whether every process needs an image; known from the first forward on

    @property
    def strength(self) -> float:
        """How much of the weights counts in the coming forward."""
        return self.config.strength(self.forwards if self.step is None else self.step)

    def remove(self) -> None:
        """Give the model its own forward back."""
        own, slot = self.model.__dict__, forward_slot(self.model)
        if self._is_at(BEFORE_AUTOCAST):
            # Mixed precision was put around CAL, and goes with it.
            del own[BEFORE_AUTOCAST]
        elif not self._is_at(slot):
            raise CALError("model.forward was patched again after CAL; undo that first")
        if slot == "forward":
            del own["forward"]
        else:
            own[slot] = MethodType(type(self.model).forward, self.model)
        self.guard.remove()
        delattr(self.model, HANDLE)

    def _is_at(self, name: str) -> bool:
        return getattr(self.model.__dict__.get(name), "__func__", None) is self.patched


def apply(model: nn.Module, config: CALConfig | None = None) -> Handle:
    """Patch `model.forward` in place: in train mode with labels its loss is CAL's, elsewhere nothing changes.

    The model may be wrapped by PEFT; what is patched is the one inside, whose forward has the images.
    """
    model = unwrapped(model)
    if isinstance(model, nn.DataParallel):
        raise CALError("CAL does not run under nn.DataParallel; use one process per device (accelerate launch, torchrun)")
    if not hasattr(model, "config"):
        raise CALError(f"a {type(model).__name__} has no config; apply CAL to the transformers model, before anything is put around it")
    if not isinstance(config, CALConfig | None):
        raise CALError(f"expected a CALConfig, not {config!r}; write CALConfig(alpha=1, beta=5)")
    if HANDLE in model.__dict__:
        raise CALError("this model already has CAL; call handle.remove() first")
    if is_patched(model):
        raise CALError(
            "model.forward is already patched by something else, which CAL would silently switch off; load the model anew, and leave out"
            " what fuses its loss (with Liger, pass fused_linear_cross_entropy=False, which keeps the kernels of the layers)"
        )
    check_family(model)
    check_router(model)
    config, patched = config or CALConfig(), _patched(type(model))
    quantile = None if config.quantile is None else RunningQuantile(config.quantile, config.alpha)
    handle = Handle(model, config, patched, model.register_forward_hook(_check_took_part, with_kwargs=True), quantile)
    setattr(model, HANDLE, handle)
    # A bound method, because deepcopy binds it to the copy; the state lies on the model for the same reason.
    model.__dict__[forward_slot(model)] = MethodType(patched, model)
    return handle


def is_patched(model: nn.Module) -> bool:
    """Whether the model's forward is not that of its class; device hooks around it are no patch."""
    slot = forward_slot(model)
    return slot in model.__dict__ and getattr(model.__dict__[slot], "__func__", None) is not type(model).forward


def check_router(model: nn.Module) -> None:
    """Raise CALError for a mixture of experts whose own loss has a part that CAL's has not."""
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        raise CALError(
            "this model's loss balances the load of its experts, and CAL's does not; to train without,"
            " set model.config.get_text_config().output_router_logits = False"
        )


_NO_LABELS = (
    "a forward in train mode had no labels, and so no CAL: label_smoothing_factor and compute_loss_func of a trainer take them away"
    " from the model; leave them out"
)


def _check_took_part(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    handle = model.__dict__[HANDLE]
    if model.training and kwargs.get("labels") is not None and handle.forwards == handle.guarded:
        raise CALError(
            "the model trained without CAL: its forward was replaced after cal.apply, as libraries of fused kernels do, and TRL;"
            " patch only the model's layers, or before the model is loaded, and use CALSFTTrainer instead of SFTTrainer"
        )
    handle.guarded = handle.forwards


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
        named = {name: value for name, value in bound.items() if name not in ("self", extra)} | bound.get(extra, {})
        if not self.training or named.get("labels") is None:
            if self.training and torch.is_grad_enabled():
                warnings.warn(_NO_LABELS, stacklevel=2)
            return plain(self, *args, **kwargs)
        items, as_dict = named.pop("num_items_in_batch", None), named.get("return_dict", True)
        loss = _loss(self.__dict__[HANDLE], named, items)
        return CausalLMOutput(loss=loss) if as_dict is not False else (loss,)

    return forward


def _loss(handle: Handle, inputs: dict[str, Any], items: Tensor | int | None) -> Tensor:
    if inputs.get("output_router_logits"):
        raise CALError("output_router_logits=True asks for the load-balancing loss, which CAL's loss does not have; leave it out")
    _check_labels(inputs["labels"], inputs.get("input_ids"))
    if handle.borrows is None:
        handle.borrows = tower_is_shared_out(handle.model)
    if handle.borrows:
        inputs = with_an_image(handle.model, inputs)
    strength = handle.strength
    step = Step(items, strength, handle.quantile)
    measured = measure(handle.model, inputs, handle.config, step, handle.measure_logp and strength > 0)
    handle.forwards += 1
    if strength > 0:
        handle.stats.add(measured, handle.config.alpha)
    if handle.config.normalize in ("micro", "sample"):
        _check_whole_batch(len(measured.nll), handle.config.normalize, items)
    return measured.loss


def _check_labels(labels: Tensor, ids: Tensor | None) -> None:
    if ids is not None and labels.shape != ids.shape:
        raise CALError(
            f"labels are {list(labels.shape)}, but input_ids {list(ids.shape)}: CAL needs a label for each token;"
            " some trainers cut both logits and labels (ms-swift: --use_logits_to_keep false)"
        )


def _check_whole_batch(tokens: int, normalize: str, items: Tensor | int | None) -> None:
    """The stock trainer leaves it to the model to count label tokens; a mean per micro-batch can't be scaled that way."""
    if items is not None and int(items) != tokens:
        raise CALError(
            f"normalize={normalize!r} gives a mean per micro-batch, but this trainer sums over accumulation steps or processes;"
            " use CALTrainer, which divides it, or normalize='tokens'"
        )
