"""Curves of the label-level check: how well deltas tell label tokens apart, over training."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cal_bench.figure import COLOURS, new_figure, styled

from .separation import COMPARISONS, SIGNALS

STYLES = {"logit": {"linestyle": "-", "marker": "o"}, "logp": {"linestyle": "--", "marker": "s"}}
ASIDE = {"logit": -0.12, "logp": 0.12}  # of a model's place, where each has a single moment

Moments = Mapping[str, Sequence[Mapping[str, Any]]]  # by model, as `label_check` writes them


def lines(moments: Moments) -> list[str]:
    """The last moment of each model as a table of text."""
    width = max(len("model"), *map(len, moments))
    rows = [f"{'model':<{width}}  {'step':>6}  signal  " + "  ".join(f"{name:<30}" for name in COMPARISONS).rstrip()]
    for model, found in moments.items():
        for signal in SIGNALS:
            areas = "  ".join(f"{_interval(found[-1]['auc'][name][signal]):<30}" for name in COMPARISONS).rstrip()
            rows.append(f"{model:<{width}}  {found[-1]['step']:>6}  {signal:<6}  {areas}")
    return rows


def _interval(area: Sequence[float] | None) -> str:
    return "no such tokens" if area is None else f"{area[0]:.3f} [{area[1]:.3f}, {area[2]:.3f}]"


def labels_figure(moments: Moments) -> Figure:
    """One panel for each comparison; colours are models, dashes and shapes signals, bands and bars intervals."""
    over_training = any(len(found) > 1 for found in moments.values())
    with styled():
        figure = new_figure(8.4, 3.2)
        panels: Any = figure.subplots(1, len(COMPARISONS), sharey=True)
        for axes, name in zip(panels, COMPARISONS, strict=True):
            for place, (model, found) in enumerate(moments.items()):
                for signal in SIGNALS:
                    points = [(one["step"], *one["auc"][name][signal]) for one in found if one["auc"][name][signal] is not None]
                    if not over_training:
                        points = [(place + ASIDE[signal], *areas) for _, *areas in points]
                    _draw(axes, points, f"{model}, {signal}", {"color": COLOURS[place % len(COLOURS)], **STYLES[signal]})
            axes.axhline(0.5, color="#777777", linewidth=0.8)
            axes.set_title(name)
            if over_training:
                axes.set_xlabel("step")
            else:
                axes.set(xticks=range(len(moments)), xticklabels=list(moments), xlim=(-0.5, len(moments) - 0.5))
        panels[0].set_ylabel("area under the ROC curve\n(0.5 is chance)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _draw(axes: Any, points: Sequence[Sequence[float]], label: str, style: Mapping[str, Any]) -> None:
    steps, middle, low, high = zip(*points, strict=True) if points else ((),) * 4
    axes.plot(steps, middle, label=label, linewidth=1.4, markersize=4, **style)
    if len(points) == 1:
        axes.vlines(steps, low, high, color=style["color"], linewidth=1)
    else:
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def labels_caption(moments: Moments, command: str) -> str:
    """What is drawn, of how many, and how."""
    sizes = " or ".join(dict.fromkeys(_size(found[-1]) for found in moments.values()))
    return (
        f"How often the first kind of label token has the larger delta. n = {sizes} held-out conversations of the miniature world;"
        " swapped are the visual tokens read with another conversation's picture, some of which"
        f" are true of it too. Bands and bars: 95 % bootstrap over conversations. Made by: {command}"
    )


def _size(last: Mapping[str, Any]) -> str:
    tokens = ", ".join(f"{number:,} {kind}" for kind, number in last["tokens"].items())
    return f"{last['conversations']} ({tokens} tokens)"
