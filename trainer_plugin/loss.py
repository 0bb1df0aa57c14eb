"""From one call of a model to its label tokens: two passes of the language model, one call of the head, on label rows only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CALConfig
from .contrast import BlindPass, both_passes
from .weights import LabelTokens, needed_positions, token_weights

IGNORED = -100
# Rows projected to the vocabulary at a time where only their normaliser is wanted.
CHUNK = 1024
# The configured deltas [B, T-1], and those of the log-probabilities [N] where wanted.
Deltas = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Measured:
    """The label tokens of a batch with their deltas, each [N]; `logp_delta` only where it was asked for."""

    tokens: LabelTokens
    delta: Tensor
    logp_delta: Tensor | None


def measure(model: nn.Module, inputs: dict[str, Any], config: CALConfig, with_logp: bool = False) -> Measured:
    """Label tokens weighted by what their scores owe to the image; gradients flow through `nll` alone."""
    passes = both_passes(model, inputs, config.contrast)
    shifted = without_image_labels(inputs["labels"], passes.placeholders)[:, 1:]
    labelled = shifted != IGNORED
    # At ignored positions the released code takes the delta of token 0.
    targets = shifted.where(labelled, 0)
    gap = Gap(passes.hidden.detach(), passes.blind, targets)

    def deltas(head: nn.Linear) -> tuple[Tensor, Tensor | None]:
        logp = gap.at(labelled, head, "logp")[labelled] if with_logp else None
        return gap.at(needed_positions(labelled, config), head, config.signal), logp

    logits, (delta, logp_delta) = project(model.get_output_embeddings(), passes.hidden[:, :-1][labelled], deltas)
    nll = F.cross_entropy(logits.float(), targets[labelled], reduction="none")
    rows = labelled.nonzero()[:, 0]
    tokens = LabelTokens(nll, token_weights(delta, labelled, config), rows, passes.seeing[rows])
    return Measured(tokens, delta[labelled], logp_delta)


def without_image_labels(labels: Tensor, image: Tensor) -> Tensor:
    """Some collators label the image's own placeholders, which nobody predicts."""
    return labels.masked_fill(image, IGNORED)


def project(head: nn.Linear, rows: Tensor, read: Callable[[nn.Linear], Deltas]) -> tuple[Tensor, Deltas]:
    """The head's logits for rows [N, H], and what `read` finds in the head just before.

    Reading happens inside the head's call: a sharded head holds its whole weight only there, and one call is all it bears.
    """
    found: list[Deltas] = []
    hook = head.register_forward_pre_hook(lambda module, args: found.append(read(module)))
    try:
        logits = head(rows)
    finally:
        hook.remove()
    return logits, found[0]


@dataclass(frozen=True)
class Gap:
    """Target scores of the two passes, and their difference."""

    hidden: Tensor  # [B, S, H]
    blind: BlindPass | None
    targets: Tensor  # [B, T-1]

    def at(self, where: Tensor, head: nn.Linear, signal: str) -> Tensor:
        """Deltas [B, T-1]; zero outside `where`, in text-only rows, and where no token is left to predict from.

        Zero because alpha is never negative: such a token gets the lowest weight.
        """
        deltas = torch.zeros(self.targets.shape, dtype=torch.float32, device=self.targets.device)
        if self.blind is None:
            return deltas
        rows, positions = (where & (self.blind.index >= 0)[:, None]).nonzero(as_tuple=True)
        unseeing, exists = self.blind.at(rows, positions)
        targets = self.targets[rows, positions]
        with torch.no_grad():
            gap = target_scores(head, self.hidden[rows, positions], targets, signal) - target_scores(head, unseeing, targets, signal)
        return deltas.index_put((rows, positions), gap.where(exists, 0.0))


def target_scores(head: nn.Linear, hidden: Tensor, targets: Tensor, signal: str) -> Tensor:
    """Logit or log-probability [N] of the targets, in single precision; logits need no projection to the vocabulary."""
    scores = (hidden.float() * head.weight[targets].float()).sum(dim=-1)
    if head.bias is not None:
        scores = scores + head.bias[targets].float()
    if signal == "logit":
        return scores
    return scores - torch.cat([F.linear(part, head.weight, head.bias).float().logsumexp(dim=-1) for part in hidden.split(CHUNK)])
