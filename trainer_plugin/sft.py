"""TRL's SFTTrainer with the CAL loss."""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from .config import CALConfig, CALError
from .loss import forward_slot
from .patch import Handle, apply, is_patched, unwrapped
from .trainer import Batch, CALMixin

try:
    from trl import SFTTrainer
    from trl.trainer.utils import add_fused_lm_head
except ImportError as error:
    raise CALError(f"CALSFTTrainer needs TRL 1.16 or newer ({error}); pip install 'cal-bench[trl]' or pip install 'trl>=1.16'") from error

# What SFTTrainer's evaluation reads from its fused head.
METRICS = ("log_probs", "entropy", "is_top1")


class ModelLossSFTTrainer(SFTTrainer):
    """SFTTrainer, except that in training the model's own forward gives the loss; TRL's fused head is for evaluation alone.

    The fused head goes around the forward that CAL patches, and gives log-probabilities of one pass, from which no weights follow.
    """

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """As Trainer does in training, as SFTTrainer does in evaluation."""
        if model.training:
            return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class CALSFTTrainer(CALMixin, ModelLossSFTTrainer):
    """SFTTrainer with the CAL loss: `CALSFTTrainer(model, args, train_dataset=…, cal=CALConfig())`.

    Logs cal/… in training; TRL's entropy and mean_token_accuracy, which its fused head measures, in evaluation only.
    """

    def __init__(self, model: Any, *args: Any, cal: CALConfig | None = None, **kwargs: Any) -> None:
        if isinstance(model, nn.Module) and is_patched(unwrapped(model)):
            raise CALError("model.forward is already patched; CALSFTTrainer patches it itself: give it the model as it was loaded")
        super().__init__(model, *args, cal=cal, **kwargs)

    def _apply_cal(self, config: CALConfig | None) -> Handle:
        self._check_loss()
        model = unwrapped(self.model)
        if forward_slot(model) != "forward":
            # TRL's fused head is around the device hooks, and CAL goes inside them.
            return apply(model, config)
        # TRL's fused head holds on to the forward that it was put around, so it comes off and goes on again around CAL.
        del model.__dict__["forward"]
        handle = apply(model, config)
        add_fused_lm_head(model, outputs=METRICS)
        return handle

    def _check_loss(self) -> None:
        problems = []
        if self.args.loss_type != "nll":
            problems.append(f"loss_type={self.args.loss_type!r} is another loss; set it to 'nll'")
        if self.aux_loss_enabled:
            problems.append("the load-balancing loss of mixtures of experts is not part of CAL's; set router_aux_loss_coef=0.0")
        if problems:
            raise CALError("CALSFTTrainer can't run with these arguments: " + "; ".join(problems))
