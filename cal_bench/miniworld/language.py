"""Training of the tiny language model on the world's language: dialogues about texts, about nothing seen, and plain captions."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cal_bench.trainer_plugin.templates import IMAGE, Segment, render

from .base import build_tokenizer
from .conversations import Turn, caption_turn, closed_turns, image_turns, text_turns
from .drills import drill
from .markup import parse
from .muon import Muon
from .scene import LAYOUTS, Layout, Scene, make_scene, patch_owner
from .tower import FIRST_SEED, INDEX, word_vectors

IGNORE = -100


@dataclass(frozen=True)
class Stage:
    """What the texts of a part of the training are like."""

    batch: int
    turns: tuple[int, ...]  # of a dialogue
    drills: float  # share of bare exercises
    closed: float  # share of dialogues of nothing but yes-or-no questions, or of nothing but multiple choice
    rasters: float  # share of lists that go through the picture patch by patch
    layouts: tuple[Layout, ...] = LAYOUTS  # of the scenes; one that is named twice comes twice as often


# From long texts alone a model of this size does not find out how to look anything up, and less how to compare, in the time it has.
# Charts and signs are named oftener than the world draws them: they take longest to learn.
STAGES = (
    Stage(batch=64, turns=(1,), drills=0.5, closed=0.0, rasters=0.0),
    Stage(batch=32, turns=(2, 3), drills=0.15, closed=0.5, rasters=0.0),
    Stage(batch=64, turns=(1,), drills=0.5, closed=0.0, rasters=0.5, layouts=("things", "sign", "sign", "page", "chart", "chart", "chart")),
    # More turns than in a world's conversations: a list costs most of the time, whatever is asked about it.
    Stage(
        batch=16,
        turns=(6, 7, 8),
        drills=0.1,
        closed=0.22,
        rasters=0.7,
        layouts=("things", "things", "sign", "sign", "page", "chart", "chart"),
    ),
)


@dataclass(frozen=True)
class Document:
    """One training text. Each <image> in it stands for an item of a list, which is read as the sum of its words' vectors."""

    segments: list[Segment]
    items: list[tuple[str, ...]]


def items_of(scene: Scene, rng: random.Random, rasters: float) -> list[tuple[str, ...]]:
    """What the scene holds, as a list of items in words: where a picture will later stand, the language model reads this.

    Most lists are short and in no order; a share of `rasters` says what each patch of the picture shows, row by row.
    """
    if rng.random() < rasters:
        named = [scene.entities[owner].words if owner >= 0 else (scene.ground,) for owner in patch_owner(scene)]
    else:
        named = [entity.words for entity in scene.entities for _ in range(rng.randint(1, 4))]
        named += [(scene.ground,)] * rng.randint(1, 4)
        rng.shuffle(named)
    # No eye names everything everywhere.
    return [tuple(word for word in words if rng.random() < 0.85) for words in named]


def document(seed: int, stage: Stage) -> Document:
    """Beside drills and closed questions: 60 % dialogues behind a list, 12 % with nothing there, 18 % text only, 10 % captions."""
    rng = random.Random(seed)
    if rng.random() < stage.drills:
        return Document(*drill(rng))
    scene = make_scene(seed, stage.layouts)
    if rng.random() < stage.closed:
        return _behind(items_of(scene, rng, stage.rasters), closed_turns(scene, rng))
    kind = rng.choices(("read", "blind", "text", "caption"), (60, 12, 18, 10))[0]
    if kind == "text":
        return Document(_dialogue(text_turns(rng)[: max(stage.turns)], ""), [])
    items = items_of(scene, rng, stage.rasters) if kind == "read" or (kind == "caption" and rng.random() < 0.7) else []
    if kind == "caption":
        return Document([Segment(IMAGE * len(items), False), Segment(parse(caption_turn(scene, rng)[1]).plain + "\n", True)], items)
    return _behind(items, image_turns(scene, rng, stage.turns))


def _behind(items: list[tuple[str, ...]], turns: list[Turn]) -> Document:
    """The list goes where the template puts a picture: in front of the line break of the first question."""
    dialogue = _dialogue(turns, "\n")
    before, after = dialogue[0].text.split("\n", 1)
    return Document([Segment(f"{before}{IMAGE * len(items)}\n{after}", False), *dialogue[1:]], items)


def _dialogue(turns: list[Turn], lead: str) -> list[Segment]:
    conversations = []
    for index, (human, marked) in enumerate(turns):
        conversations.append({"from": "human", "value": (lead if index == 0 else "") + human})
        conversations.append({"from": "gpt", "value": parse(marked).plain})
    return render(conversations, "v1")


@dataclass(frozen=True)
class Row:
    """A document as tokens; `items` are the content-word numbers of its items, in order."""

    ids: list[int]
    labels: list[int]
    items: list[list[int]]


def encode(text: Document, tokenizer: PreTrainedTokenizerFast) -> Row:
    """What the assistant says, and captions, are learned."""
    ids, labels = [tokenizer.bos_token_id], [IGNORE]
    for segment in text.segments:
        new = tokenizer(segment.text, add_special_tokens=False).input_ids
        ids += new
        labels += new if segment.labelled else [IGNORE] * len(new)
    return Row(ids, labels, [[INDEX[word] for word in item] for item in text.items])


class Batches(IterableDataset[dict[str, Tensor]]):
    """An endless stream of padded batches of new texts; texts of like length share a batch, or half of it would be padding."""

    def __init__(self, first_seed: int, stage: Stage) -> None:
        self.first_seed, self.stage = first_seed, stage

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batch = self.stage.batch
        tokenizer, seed, pool = build_tokenizer(), self.first_seed, 16 * batch
        while True:
            rows = sorted((encode(document(seed + index, self.stage), tokenizer) for index in range(pool)), key=lambda row: len(row.ids))
            batches = [rows[start : start + batch] for start in range(0, pool, batch)]
            random.Random(seed).shuffle(batches)
            yield from (pad(texts, tokenizer.pad_token_id) for texts in batches)
            seed += pool


def pad(rows: list[Row], pad_id: int) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask and labels, each [B, T]; bags [items, words] of 0 and 1, in the order of the rows."""
    longest = max(len(row.ids) for row in rows)
    short = [longest - len(row.ids) for row in rows]
    items = [item for row in rows for item in row.items]
    bags = torch.zeros(len(items), len(INDEX))
    for place, words in enumerate(items):
        bags[place, words] = 1
    return {
        "input_ids": torch.tensor([row.ids + [pad_id] * gap for row, gap in zip(rows, short, strict=True)]),
        "labels": torch.tensor([row.labels + [IGNORE] * gap for row, gap in zip(rows, short, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * gap for row, gap in zip(rows, short, strict=True)]),
        "bags": bags,
    }


def embed(model: LlamaForCausalLM, batch: dict[str, Tensor], image_token: int) -> Tensor:
    """[B, T, H]: token vectors, and noisy sums of word vectors where an item stands."""
    vectors = model.model.embed_tokens(batch["input_ids"]).clone()
    seen = _unclear(batch["bags"]) @ word_vectors()
    vectors[batch["input_ids"] == image_token] = seen + 0.05 * torch.randn_like(seen)
    return vectors


def _unclear(bags: Tensor) -> Tensor:
    """[items, words] as the shipped tower and projector give them: some words louder than others, and some faintly that are not there."""
    ghosts = (torch.rand_like(bags) < 2 / bags.shape[1]) * 0.5 * torch.rand_like(bags)
    return bags * (1 + 0.3 * torch.randn_like(bags)) + ghosts


def train_language_model(model: LlamaForCausalLM, steps: tuple[int, ...], rate: float = 1.5e-3) -> None:
    """Train for each stage's number of steps; the rate is constant up to the last stage, in which it falls to nothing."""
    tokenizer = build_tokenizer()
    # The content words keep the vectors they share with the tower's targets.
    trained = torch.ones(model.config.vocab_size, 1)
    trained[tokenizer.convert_tokens_to_ids([f"▁{word}" for word in INDEX])] = 0
    model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * trained)
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in matrices)]
    optimizers = Muon(matrices, rate), torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    before = sum(steps[:-1])

    def pace(step: int) -> float:
        return min(1, (step + 1) / 50) * (1 + math.cos(math.pi * max(0, step - before) / steps[-1])) / 2

    paces = [LambdaLR(optimizer, pace) for optimizer in optimizers]
    for number, (stage, count) in enumerate(zip(STAGES, steps, strict=True), start=1):
        stream = DataLoader(Batches((1 + number) * FIRST_SEED, stage), batch_size=None, num_workers=1, prefetch_factor=8)
        for step, batch in zip(range(1, count + 1), stream, strict=False):
            loss = language_loss(model, batch, tokenizer.convert_tokens_to_ids(IMAGE))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for part in (*optimizers, *paces):
                part.step()
            model.zero_grad()
            if step % 100 == 0:
                print(f"language, stage {number}, step {step}/{count}: {loss.item():.3f} nats a label token", flush=True)


def language_loss(model: LlamaForCausalLM, batch: dict[str, Tensor], image_token: int) -> Tensor:
    """Mean nats of a batch's label tokens."""
    vectors = embed(model, batch, image_token)
    hidden = model.model(inputs_embeds=vectors, attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state
    labels = batch["labels"][:, 1:]
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][labels != IGNORE]), labels[labels != IGNORE])
