"""Figure 4: how the deltas of label tokens are distributed, and which share of them the paper's upper bound leaves as they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cal_bench.figure import line_style, new_figure, styled

from .deltas import Deltas
from .separation import SIGNALS

BOUND = 5.0  # the paper's upper bound; about 90 % of its deltas are at most this
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)
BINS = 30

Found = Mapping[str, Deltas]  # by model


def summary(found: Found) -> dict[str, Any]:
    """By model and signal: number of label tokens and of samples, mean, quantiles, share of deltas of at most 5."""
    return {model: {signal: _of(deltas, signal) for signal in SIGNALS} for model, deltas in found.items()}


def _of(deltas: Deltas, signal: str) -> dict[str, Any]:
    values = deltas.by_signal[signal]
    quantiles = {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES}
    return {
        "samples": len(np.unique(deltas.records)),
        "tokens": len(values),
        "mean": float(values.mean()),
        "share_at_most_5": float((values <= BOUND).mean()),
        "quantiles": quantiles,
    }


def lines(numbers: Mapping[str, Any]) -> list[str]:
    """The summary as a table of text."""
    width = max(len("model"), *map(len, numbers))
    head = f"{'model':<{width}}  signal  samples  tokens    mean  median  90 %    share <= 5"
    rows = [
        f"{model:<{width}}  {signal:<6}  {one['samples']:>7}  {one['tokens']:>6}  {one['mean']:>6.2f}  {one['quantiles']['0.5']:>6.2f}"
        f"  {one['quantiles']['0.9']:>5.2f}  {100 * one['share_at_most_5']:>10.1f} %"
        for model, by_signal in numbers.items()
        for signal, one in by_signal.items()
    ]
    return [head, *rows]


def distribution_figure(found: Found) -> Figure:
    """One panel for each signal, one line for each model."""
    with styled():
        figure = new_figure(7.2, 3.1)
        panels: Any = figure.subplots(1, 2)
        for axes, (signal, name) in zip(panels, SIGNALS.items(), strict=True):
            edges = _edges([deltas.by_signal[signal] for deltas in found.values()])
            for place, (model, deltas) in enumerate(found.items()):
                shares = np.histogram(deltas.by_signal[signal], edges)[0] / len(deltas.by_signal[signal])
                axes.stairs(100 * shares, edges, label=model, linewidth=1.4, **line_style(place))
            axes.axvline(BOUND, color="#555555", linewidth=0.8)
            axes.annotate(
                f"{BOUND:g}", (BOUND, 0.97), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points", va="top"
            )
            axes.set(title=f"Delta, {name}", xlabel="with the picture minus without", yscale="log")
        panels[0].set_ylabel(f"% of label tokens in a bin\n({BINS} bins, log scale)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _edges(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    together = np.concatenate(values)
    low, high = np.quantile(together, [0.002, 0.998])
    edges: NDArray[np.float64] = np.linspace(min(low, -1.0), max(high, BOUND + 1), BINS + 1)
    return edges


def distribution_caption(numbers: Mapping[str, Any], command: str) -> str:
    """What is drawn, of how many, and how."""
    parts = []
    for model, by_signal in numbers.items():
        one = by_signal["logit"]
        shares = " and ".join(f"{100 * of['share_at_most_5']:.1f} % ({signal})" for signal, of in by_signal.items())
        parts.append(f"{model}: n = {one['tokens']:,} label tokens of {one['samples']} samples, at most 5: {shares}")
    return (
        f"Deltas of label tokens. {'; '.join(parts)}. The upright line is the paper's upper bound 5; the outermost 0.2 % to either side"
        f" are not drawn. Made by: {command}"
    )
