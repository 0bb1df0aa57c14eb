"""From one call of a model to its label tokens: two passes of the language model, one call of the head, on label rows only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CALConfig
from .contrast import BlindPass, both_passes, score_transform
from .linear_loss import linear_cross_entropy
from .quantile import RunningQuantile
from .reference import reference_passes, without_adapters
from .weights import LabelTokens, loss_shares, needed_positions, token_weights

IGNORED = -100
# Rows projected to the vocabulary at a time where only their normaliser is wanted.
CHUNK = 1024


@dataclass(frozen=True)
class Step:
    """What a step asks for: the stock trainer's count of label tokens over the accumulated batch (see `loss_shares`), how much of
    the weights counts (see `CALConfig.strength`), and the estimate that bounds them, which it adds to.
    """

    items: Tensor | int | None = None
    strength: float = 1.0
    quantile: RunningQuantile | None = None


PLAIN = Step()


@dataclass(frozen=True)
class Measured:
    """The loss of a micro-batch, and its label tokens with what was found for each, [N] without gradients.

    `logp_delta` only where it was asked for; `beta` is the upper bound that held.
    """

    loss: Tensor
    tokens: LabelTokens
    nll: Tensor
    delta: Tensor
    logp_delta: Tensor | None
    beta: float | None


def measure(model: nn.Module, inputs: dict[str, Any], config: CALConfig, step: Step = PLAIN, with_logp: bool = False) -> Measured:
    """Label tokens weighted by what their scores owe to the image; gradients flow through the likelihood alone."""
    apart = config.reference == "adapters_off" and step.strength > 0
    judge = reference_passes(model, inputs, config) if apart else None
    passes = both_passes(model, inputs, config, contrasted=not apart and step.strength > 0)
    judge = judge or passes
    shifted = without_image_labels(inputs["labels"], passes.placeholders)[:, 1:]
    labelled = shifted != IGNORED
    # At ignored positions the released code takes the delta of token 0.
    targets = shifted.where(labelled, 0)
    rows = labelled.nonzero()[:, 0]
    seeing = passes.seeing[rows]
    gap = Gap(judge.hidden.detach(), judge.blind, targets, judge.seeing)

    def work(head: Head, hidden: Tensor) -> Measured:
        with without_adapters(model) if apart else nullcontext():
            delta = gap.at(needed_positions(labelled, config), head, config.signal)
            logp = gap.at(labelled, head, "logp")[labelled] if with_logp else None
        bounded = _bounded(config, step, delta[labelled][seeing])
        weights = token_weights(delta, labelled, bounded)
        tokens = LabelTokens(torch.lerp(torch.ones_like(weights), weights, step.strength), rows, seeing)
        loss, nll = head.loss(hidden, targets[labelled], loss_shares(tokens, config.normalize, step.items))
        return Measured(loss, tokens, nll, delta[labelled], logp, bounded.beta)

    return call_head(model, passes.hidden[:, :-1][labelled], work)


def _bounded(config: CALConfig, step: Step, deltas: Tensor) -> CALConfig:
    """The config with the running estimate for its upper bound, where it asks for one; deltas are of image-bearing label tokens."""
    if step.quantile is None or step.strength == 0:
        return config
    step.quantile.update(deltas)
    return replace(config, beta=step.quantile.bound)


def without_image_labels(labels: Tensor, image: Tensor) -> Tensor:
    """Some collators label the image's own placeholders, which nobody predicts."""
    return labels.masked_fill(image, IGNORED)


@dataclass(frozen=True)
class Head:
    """A model's head while it is being called: a sharded one holds its whole weight only there.

    `plain` is the linear layer where the head is nothing else, so that scores and loss need not project to the vocabulary first.
    """

    project: Callable[[Tensor], Tensor]
    transform: Callable[[Tensor], Tensor] | None  # what the model does with the logits afterwards, element by element
    plain: nn.Linear | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] to [N, V], in single precision."""
        return self._transformed(self.project(hidden).float())

    def scores(self, hidden: Tensor, targets: Tensor, signal: str) -> Tensor:
        """Logit or log-probability [N] of the targets, in single precision."""
        parts = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        if signal == "logp":
            return torch.cat([-F.cross_entropy(self.logits(part), wanted, reduction="none") for part, wanted in parts])
        if self.plain is None:
            return torch.cat([self.logits(part).gather(1, wanted[:, None])[:, 0] for part, wanted in parts])
        scores = (hidden.float() * self.plain.weight[targets].float()).sum(dim=-1)
        return self._transformed(scores if self.plain.bias is None else scores + self.plain.bias[targets].float())

    def loss(self, hidden: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of shares * nll, and the nll [N] without gradients."""
        if self.plain is not None and self.transform is None:
            return linear_cross_entropy(hidden, self.plain.weight, self.plain.bias, targets, shares)
        nll = F.cross_entropy(self.logits(hidden), targets, reduction="none")
        return (shares * nll).sum(), nll.detach()

    def _transformed(self, scores: Tensor) -> Tensor:
        return scores if self.transform is None else self.transform(scores)


def call_head(model: nn.Module, hidden: Tensor, work: Callable[[Head, Tensor], Measured]) -> Measured:
    """Call the model's head once on hidden [N, H], and do the work inside that call; its loss is what the call gives back.

    One call, because that is all that a head bears which shards its weight as a unit of its own.
    """
    module = model.get_output_embeddings()
    found: list[Measured] = []
    own = getattr(module, forward_slot(module))
    # Sharding makes a subclass of the layer, quantisation too; only the latter brings a forward of its own.
    linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    head = Head(own, score_transform(model), module if linear else None)

    def forward(rows: Tensor) -> Tensor:
        found.append(work(head, rows))
        return found[0].loss

    with _forward_of(module, forward):
        loss = module(hidden)
    # Hooks of sharding libraries wrap what the call gives back.
    return replace(found[0], loss=loss)


def forward_slot(module: nn.Module) -> str:
    """Where a module keeps the forward of its own: accelerate's device hooks call it from one that they put around."""
    return "_old_forward" if "_hf_hook" in module.__dict__ else "forward"


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Another forward for a module, for one call; hooks around it stay."""
    name = forward_slot(module)
    before = module.__dict__.get(name)
    module.__dict__[name] = forward
    try:
        yield
    finally:
        del module.__dict__[name]
        if before is not None:
            module.__dict__[name] = before


@dataclass(frozen=True)
class Gap:
    """Target scores of the two passes, and their difference."""

    hidden: Tensor  # [B, S, H]
    blind: BlindPass | None
    targets: Tensor  # [B, T-1]
    seeing: Tensor  # [B] bool: rows with an image; another may have been read again for the sake of other processes

    def at(self, where: Tensor, head: Head, signal: str) -> Tensor:
        """Deltas [B, T-1]; zero outside `where`, in text-only rows, and where no token is left to predict from.

        Zero because alpha is never negative: such a token gets the lowest weight.
        """
        deltas = torch.zeros(self.targets.shape, dtype=torch.float32, device=self.targets.device)
        if self.blind is None:
            return deltas
        rows, positions = (where & self.seeing[:, None]).nonzero(as_tuple=True)
        unseeing, exists = self.blind.at(rows, positions)
        targets = self.targets[rows, positions]
        with torch.no_grad():
            gap = head.scores(self.hidden[rows, positions], targets, signal) - head.scores(unseeing, targets, signal)
        return deltas.index_put((rows, positions), gap.where(exists, 0.0))
