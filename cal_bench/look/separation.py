"""How well deltas tell kinds of label tokens apart: the area under the ROC curve, with an interval. Needs only numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
VISUAL, OTHER, INVENTED, SWAPPED = "visual", "other", "invented", "swapped"
SIGNALS = {"logit": "logit (the paper's signal)", "logp": "log-probability"}
KINDS = (VISUAL, OTHER, INVENTED, SWAPPED)
# Each is "the first has the larger delta"; 0.5 is chance.
COMPARISONS = {
    "visual against other": (VISUAL, OTHER),
    "right against swapped picture": (VISUAL, SWAPPED),
    "visual against invented": (VISUAL, INVENTED),
}
ROUNDS = 200  # of the bootstrap


@dataclass(frozen=True)
class Judged:
    """N label tokens: deltas by signal [N], kind [N], and the conversation that each is from [N].

    Swapped are the visual tokens of the same conversations once more, read with another conversation's picture.
    """

    deltas: Mapping[str, Numbers]
    kinds: NDArray[np.str_]
    talks: NDArray[np.int64]


def auc(values: Numbers, positive: NDArray[np.bool_], weights: Numbers | None = None) -> float:
    """The chance that a positive value is larger than a negative one, ties counted half: the area under the ROC curve.

    The rank-sum formula of Mann and Whitney; `weights` say how often each value [N] counts. NaN where there are none of a side.
    """
    counts = np.ones(len(values)) if weights is None else weights
    _, rank = np.unique(values, return_inverse=True)
    above = np.bincount(rank, counts * positive)
    below = np.bincount(rank, counts * ~positive)
    pairs = above.sum() * below.sum()
    return float(above @ (below.cumsum() - below / 2) / pairs) if pairs > 0 else float("nan")


def separation(judged: Judged) -> dict[str, Any]:
    """Numbers of tokens and mean deltas by kind, and for each comparison and signal the area with its 95 % interval (None: no tokens)."""
    tokens = {kind: int((judged.kinds == kind).sum()) for kind in KINDS}
    means = {signal: {kind: _mean(values[judged.kinds == kind]) for kind in KINDS} for signal, values in judged.deltas.items()}
    areas = {name: {signal: _area(judged, signal, pair) for signal in judged.deltas} for name, pair in COMPARISONS.items()}
    return {"conversations": len(np.unique(judged.talks)), "tokens": tokens, "mean_delta": means, "auc": areas}


def _mean(values: Numbers) -> float | None:
    return float(values.mean()) if len(values) else None


def _area(judged: Judged, signal: str, pair: tuple[str, str]) -> list[float] | None:
    """Area, low and high. Conversations are drawn, not tokens: those of one conversation hang together."""
    taken = np.isin(judged.kinds, pair)
    values, positive = judged.deltas[signal][taken], judged.kinds[taken] == pair[0]
    if positive.all() or not positive.any():
        return None
    _, talk = np.unique(judged.talks[taken], return_inverse=True)
    drawing, talks = np.random.default_rng(0), talk.max() + 1
    drawn = [auc(values, positive, drawing.multinomial(talks, np.full(talks, 1 / talks))[talk].astype(float)) for _ in range(ROUNDS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return [auc(values, positive), float(low), float(high)]
