"""Figure 6: the word of the vocabulary that each patch of the picture is nearest to.

The paper: "retrieving the nearest text words to each image patch feature from the LLM vocabulary". Here the features are those behind
the projector, the words are the rows of the language model's input embeddings, and near is the cosine. Tokens without a letter or digit,
and those that were added to the vocabulary (special ones, whole sentences), are no words and are left out. The paper also left out "some
nonsensical patches"; here all are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from cal_bench.figure import styled
from cal_bench.trainer_plugin.data import ConversationDataset

from .grid import View, beside_the_picture, view_of
from .opened import Opened, batched

CHUNK = 256  # patches held against the vocabulary at a time
LONGEST = 9  # letters of a word that a patch has room for


@dataclass(frozen=True)
class Words:
    """The nearest word to each patch of a sample, row by row, and how near it is (cosine) [patches]."""

    model: str
    sample: int
    view: View
    words: tuple[str, ...]
    nearness: Tensor


def words_of(opened: Opened, dataset: ConversationDataset, number: int) -> Words:
    """The words of one sample with one picture; UserError where image tokens are no grid."""
    view = view_of(opened, batched(opened, [dataset[number]]))
    known = vocabulary(opened)
    vectors = opened.model.get_input_embeddings().weight.detach()[list(known)]
    nearness, places = nearest(view.tokens, vectors)
    names = list(known.values())
    return Words(opened.name, number, view, tuple(names[place] for place in places.tolist()), nearness.cpu())


def vocabulary(opened: Opened) -> dict[int, str]:
    """The tokens that are words or parts of one, with their text."""
    tokenizer = opened.processor.tokenizer
    rows = opened.model.get_input_embeddings().weight.shape[0]
    kept = [id for id in range(min(len(tokenizer), rows)) if id not in tokenizer.added_tokens_decoder]
    texts = [text.strip() for text in tokenizer.batch_decode([[id] for id in kept])]
    return {id: text for id, text in zip(kept, texts, strict=True) if any(letter.isalnum() for letter in text)}


def nearest(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Of features [P, H] and vectors [V, H] the largest cosine [P] and its place [P]."""
    directions = functional.normalize(vectors.float(), dim=-1).T
    best = [(functional.normalize(part.float(), dim=-1) @ directions).max(dim=-1) for part in features.split(CHUNK)]
    return torch.cat([one.values for one in best]), torch.cat([one.indices for one in best])


def words_figure(found: Sequence[Words]) -> Figure:
    """The picture, and on it the words of each model; the nearer, the darker."""
    side = max(4.4, 0.52 * found[0].view.rows)
    with styled():
        figure, panels = beside_the_picture(found[0].view, len(found), side, side + 0.3)
        for axes, one in zip(panels[1:], found, strict=False):
            axes.imshow(one.view.picture, extent=one.view.extent, alpha=0.3)
            axes.set_title(f"{one.model}, mean cosine {one.nearness.mean():.2f}")
            for place, (word, near) in enumerate(zip(one.words, one.nearness.tolist(), strict=True)):
                row, column = divmod(place, one.view.rows)
                shown = word if len(word) <= LONGEST else word[: LONGEST - 1] + "…"
                darkness = 0.45 + 0.55 * min(max(near, 0.0), 1.0)
                axes.text(column, row, shown, ha="center", va="center", fontsize=7.5, color=(0, 0, 0, darkness), parse_math=False)
    return figure


def words_caption(found: Sequence[Words], command: str) -> str:
    """What is drawn, of what, and how."""
    grids = " and ".join(dict.fromkeys(f"{one.view.rows} x {one.view.rows}" for one in found))
    return (
        f"For each of the {grids} patches of sample {found[0].sample} the word of the vocabulary whose input embedding has the largest"
        f" cosine with the patch's feature behind the projector; the larger, the darker. None is left out. Made by: {command}"
    )
