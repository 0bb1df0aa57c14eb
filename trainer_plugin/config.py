"""What a user may choose about CAL, and the error of a wrong choice."""

import math
from dataclasses import dataclass

CHOICES = {
    "pooling": ("within_row", "published"),
    "normalize": ("tokens", "sample", "micro", "global"),
    "contrast": ("drop", "mask", "patch_mask", "blur"),
    "signal": ("logit", "logp"),
    "reference": ("trained", "adapters_off"),
}


class CALError(ValueError):
    """A wrong configuration, model, batch or record; the message says what was expected."""


@dataclass(frozen=True)
class CALConfig:
    """How strongly, and over which neighbours, a label token's debt to the image counts.

    The weight of a label token is clamp(delta, alpha, beta), averaged over a window of neighbouring label tokens; delta is the
    token's score with the image minus its score without. `beta=None` sets no upper bound.

    pooling    within_row: neighbours are the label tokens of the same sample. published: the released code, whose window runs
               over the whole batch laid out as one row and counts ignored positions.
    normalize  tokens: weights have mean 1 over the image-bearing label tokens of a micro-batch, and every label token of the
               accumulated batch counts once, as in the stock trainer; text-only samples keep weight 1.
               global: the same with the mean taken over all data-parallel processes.
               sample: Eq. 5 of the paper, a weighted mean per sample and a plain mean over samples.
               micro: the released code, one weighted mean per micro-batch.
    contrast   drop: the second pass leaves the image tokens out and keeps all positions. mask: it hides them from attention,
               as the released code does (about a quarter slower). patch_mask, blur (the paper's appendix; a whole pass more):
               it sees the picture with a share `mask_ratio` of its 200 pieces masked, others in every batch, or under a
               Gaussian of `sigma` pixels.
    signal     logit: raw logits, as the paper. logp: log-probabilities, which a shift common to all logits does not move.
    pack       the training pass reads several rows of a batch as one, each kept to itself, so that padding costs nothing; the
               loss is the same. The image-free pass is always read so.

    Beyond the paper, and off unless set:

    quantile   beta is a running estimate of this quantile of delta, in place of the number above, and never below alpha; 1.0
               sets no bound.
    warmup     in the first steps weights are 1 + strength * (weight - 1), with a strength that rises from 0 to 1 over so many.
    every      only every so many steps are contrasted; the others weigh all tokens alike, and cost no second pass.
    reference  trained: delta is that of the model that is trained. adapters_off: that of the model without its adapters, which
               does not change in training; takes a third pass.
    """

    alpha: float = 1.0
    beta: float | None = 5.0
    window: int = 3
    pooling: str = "within_row"
    normalize: str = "tokens"
    contrast: str = "drop"
    signal: str = "logit"
    pack: bool = False
    quantile: float | None = None
    warmup: int = 0
    every: int = 1
    reference: str = "trained"
    mask_ratio: float = 0.7
    sigma: float = 10.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}"
            for name, known in CHOICES.items()
            if getattr(self, name) not in known
        ]
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            problems.append(f"alpha is {self.alpha}, but must be a number of at least 0")
        if self.beta is not None and not (math.isfinite(self.beta) and self.beta >= self.alpha and self.beta > 0):
            problems.append(f"beta is {self.beta}, but must be positive and at least alpha ({self.alpha}); None sets no bound")
        if self.window < 1 or self.window % 2 == 0:
            problems.append(f"window is {self.window}, but must be an odd number of tokens, 1 or more")
        if self.pack and self.pooling == "published":
            problems.append("pack leaves padding out, which the windows of pooling='published' count; set pooling='within_row'")
        if problems := problems + self._beyond_the_paper():
            raise CALError("; ".join(problems))

    def _beyond_the_paper(self) -> list[str]:
        problems = []
        if self.quantile is not None and not 0 < self.quantile <= 1:
            problems.append(f"quantile is {self.quantile}, but must be above 0 and at most 1; None keeps beta")
        if self.quantile is not None and self.alpha == 0:
            problems.append("quantile needs an alpha above 0: where the quantile is below, nothing would have any weight")
        if self.warmup < 0:
            problems.append(f"warmup is {self.warmup}, but must be a number of steps, 0 or more")
        if not 0 < self.mask_ratio <= 1:
            problems.append(f"mask_ratio is {self.mask_ratio}, but must be above 0 and at most 1")
        if not 0 < self.sigma < math.inf:
            problems.append(f"sigma is {self.sigma}, but must be a number of pixels above 0")
        if self.every < 1:
            problems.append(f"every is {self.every}, but must be a number of steps, 1 or more")
        return problems

    def strength(self, step: int) -> float:
        """How much of the weights counts in a step, the first of which is 0; at 0 there is nothing to contrast."""
        if step % self.every != 0:
            return 0.0
        return min(1.0, step / self.warmup) if self.warmup else 1.0

    @classmethod
    def published(cls) -> "CALConfig":
        """Everything as in the authors' released code."""
        return cls(pooling="published", normalize="micro", contrast="mask")
