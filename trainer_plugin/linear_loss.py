"""Cross-entropy straight from hidden states: no logits of a whole batch, and no second projection in the backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in one chunk of logits: 256 MiB in single precision.
CHUNK = 2**26


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of shares * nll, a scalar with gradients for hidden [N, H], weight [V, H] and bias [V]; and the nll [N], without.

    Logits exist a chunk of rows at a time, in single precision at least. Their gradient is known as soon as they are, so it is
    turned into those of the inputs at once, as fused kernels do; those of weight and bias are summed in single precision.
    """
    loss, nll = _LinearCrossEntropy.apply(hidden, weight, bias, targets, shares)
    return loss, nll


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=precise) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=precise) if bias is not None and for_bias else None
        nll = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        # Half precision has no numbers for the slopes of rows that are one of many: they are made large, and small again in backward.
        peak = _power_of_two(shares.abs().amax() if len(shares) else shares.new_ones(()))
        step = max(1, CHUNK // len(weight))
        for rows in (slice(start, start + step) for start in range(0, len(hidden), step)):
            projected = F.linear(hidden[rows], weight, bias)
            low = projected.dtype
            slope, nll[rows] = _slope(projected.to(precise), targets[rows], shares[rows] / peak)
            if d_bias is not None:
                d_bias += slope.sum(dim=0)
            slope = slope.to(low)
            if d_hidden is not None:
                d_hidden[rows] = (slope @ weight.to(low)).to(hidden.dtype)
            if d_weight is not None:
                _add_product(d_weight, slope.T, hidden[rows].to(low))
        ctx.save_for_backward(d_hidden, d_weight, d_bias, peak)
        ctx.dtypes = weight.dtype, bias.dtype if bias is not None else None
        ctx.mark_non_differentiable(nll)
        return (shares * nll).sum(), nll

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, above: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *slopes, peak = ctx.saved_tensors
        d_hidden, d_weight, d_bias = (None if slope is None else slope * (peak * above) for slope in slopes)
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight_dtype),
            None if d_bias is None else d_bias.to(bias_dtype),
            None,
            None,
        )


def _power_of_two(number: Tensor) -> Tensor:
    """The next one above, by which dividing and multiplying rounds nothing; 1 for 0."""
    return torch.ldexp(torch.ones_like(number), torch.frexp(number).exponent)


def _slope(logits: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the loss for the logits [n, V], written over them, and the nll [n]."""
    logits -= logits.amax(dim=1, keepdim=True)
    wanted = logits.gather(1, targets[:, None])
    total = logits.exp_().sum(dim=1, keepdim=True)
    logits *= shares[:, None] / total
    logits.scatter_add_(1, targets[:, None], -shares[:, None].to(logits.dtype))
    return logits, (total.log() - wanted)[:, 0]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
