"""Figure 5: where on the picture the text looks, accumulated over the layers.

The paper: "The attention weights are calculated by accumulating the attention score between image tokens and text tokens across all
layers." It does not say which text tokens, nor what becomes of the heads. Here the queries are the positions that predict the label
tokens of the sample (its answers, the same text for every model); their attention to the image tokens of the whole picture is averaged
over heads and positions and summed over the layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from torch import Tensor, nn

from cal_bench.errors import UserError
from cal_bench.figure import COLOURS, styled
from cal_bench.trainer_plugin.data import ConversationDataset
from cal_bench.trainer_plugin.loss import IGNORED

from .grid import View, beside_the_picture, view_of
from .opened import Opened, batched

# Clear where there is no attention, so that the picture is seen there.
CLEAR_TO_FULL = LinearSegmentedColormap.from_list("attention", [to_rgba(COLOURS[1], 0.0), to_rgba(COLOURS[1], 0.9)])


@dataclass(frozen=True)
class Attention:
    """The map [rows, rows] of a model over its view of the picture, in shares of all attention of `layers` layers (the most is `layers`).

    `on_image` is the share of all attention that falls on any image token, `positions` the number of queries, `answer` what they predict.
    """

    model: str
    view: View
    values: Tensor
    on_image: float
    layers: int
    positions: int
    answer: str


@dataclass
class _Sum:
    """Attention from `queries` [Q] to `keys` [K], averaged over heads and queries and summed over layers: [K]."""

    queries: Tensor
    keys: Tensor
    total: Tensor
    layers: int = 0

    def add(self, weights: Tensor) -> None:
        """Weights [1, heads, T, T] of one layer."""
        self.total += weights[0][:, self.queries][:, :, self.keys].float().mean(dim=(0, 1))
        self.layers += 1


def attention_of(opened: Opened, dataset: ConversationDataset, number: int) -> Attention:
    """The map of one sample with one picture; UserError where image tokens are no grid."""
    batch = batched(opened, [dataset[number]])
    view = view_of(opened, batch)
    queries = (batch["labels"][0, 1:] != IGNORED).nonzero()[:, 0]
    keys = (batch["input_ids"][0] == opened.model.config.image_token_id).nonzero()[:, 0]
    found = _Sum(queries, keys, torch.zeros(len(keys), device=keys.device))
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    # One layer's weights at a time: all of them together would not fit where pictures have thousands of tokens.
    with torch.no_grad(), _told(opened.model.get_decoder(), found):
        opened.model.base_model(**inputs, use_cache=False)
    if not found.layers:
        raise UserError(f"The language model of {opened.name} does not give its attention weights. Give another checkpoint.")
    values = found.total[: view.rows**2].view(view.rows, view.rows).cpu()
    on_image = float(found.total.sum()) / found.layers
    return Attention(opened.name, view, values, on_image, found.layers, len(queries), _answer(opened, dataset, number))


def _answer(opened: Opened, dataset: ConversationDataset, number: int) -> str:
    end = opened.processor.tokenizer.eos_token or ""
    labelled = [segment.text.strip() for segment in dataset.records[number].segments if segment.labelled]
    return " / ".join(text.removesuffix(end).strip() for text in labelled)


@contextmanager
def _told(decoder: Any, found: _Sum) -> Iterator[None]:
    """While it lasts, the decoder computes attention so that its weights exist, and each layer's are added up."""

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and output[1] is not None:
            found.add(output[1])

    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    hooks = [module.register_forward_hook(note) for name, module in decoder.named_modules() if name.endswith("self_attn")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        decoder.set_attn_implementation(before)


def attention_lines(maps: Sequence[Attention]) -> list[str]:
    """How much of its attention each model spends on the picture."""
    return [f"{one.model}: {100 * one.on_image:.1f} % of the attention of {one.positions} positions is on the picture" for one in maps]


def attention_figure(maps: Sequence[Attention]) -> Figure:
    """The maps over the picture, with one scale for all."""
    most = max(float(one.values.max()) for one in maps)
    with styled():
        figure, panels = beside_the_picture(maps[0].view, len(maps), 2.8, 2.75)
        for axes, one in zip(panels[1:], maps, strict=False):
            axes.imshow(one.view.picture.mean(axis=-1), extent=one.view.extent, cmap="gray", vmin=0, vmax=1, alpha=0.6)
            shown = axes.imshow(one.values.numpy(), extent=one.view.extent, cmap=CLEAR_TO_FULL, vmin=0, vmax=most)
            axes.set_title(f"{one.model}\n{100 * one.on_image:.1f} % on the picture")
        bar = figure.colorbar(shown, ax=panels, shrink=0.75, pad=0.02)
        bar.set_label("attention, summed over layers")
    return figure


def attention_caption(maps: Sequence[Attention], command: str) -> str:
    """What is drawn, of what, and how."""
    layers, positions = (
        " and ".join(dict.fromkeys(map(str, of))) for of in zip(*((one.layers, one.positions) for one in maps), strict=True)
    )
    said = shorten(maps[0].answer, 160, placeholder="…")
    return (
        f"Attention to each image token of the whole picture, summed over {layers} layers, averaged over heads and over the"
        f" n = {positions} positions that predict the answer “{said}”. One scale for all models. Made by: {command}"
    )
