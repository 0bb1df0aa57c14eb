"""The Muon optimizer in single precision: torch's own orthogonalises in bfloat16, which a CPU takes fifty times as long for."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic iteration's coefficients and number of rounds (Jordan and others, 2024: "Muon: an optimizer for hidden layers").
A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5


class Muon(torch.optim.Optimizer):
    """For matrices: momentum whose singular values are all made about 1. At one learning rate it moves weights as far as AdamW does."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    def step(self, closure: None = None) -> None:
        """One update from the gradients at hand."""
        with torch.no_grad():
            for group in self.param_groups:
                for matrix in group["params"]:
                    past = self.state[matrix].setdefault("past", torch.zeros_like(matrix))
                    past.lerp_(matrix.grad, 1 - group["momentum"])
                    ahead = matrix.grad.lerp(past, group["momentum"])
                    matrix.add_(orthogonal(ahead), alpha=-0.2 * math.sqrt(max(matrix.shape)) * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Its singular vectors with singular values of about 1, by the Newton-Schulz iteration."""
    flat = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    flat = flat / flat.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(square, square, square, beta=B, alpha=C), flat, beta=A)
    return flat.T if matrix.shape[0] > matrix.shape[1] else flat
