"""Training of the tiny language model on the world's language: dialogues about texts, about nothing seen, and plain captions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cal_bench.trainer_plugin.templates import IMAGE, Segment, render

from .base import build_tokenizer
from .conversations import Turn, caption_turn, image_turns, text_turns
from .markup import parse
from .scene import Scene, make_scene, patch_owner
from .tower import FIRST_SEED, INDEX, word_vectors

IGNORE = -100
BATCH = 16
TURNS = (6, 7, 8)  # more than in a world's conversations: a list costs most of the time, whatever is asked about it


@dataclass(frozen=True)
class Document:
    """One training text. Each <image> in it stands for an item of a list, which is read as the sum of its words' vectors."""

    segments: list[Segment]
    items: list[tuple[str, ...]]


def items_of(scene: Scene, rng: random.Random) -> list[tuple[str, ...]]:
    """What the scene holds, as a list of items in words: where a picture will later stand, the language model reads this.

    Two lists in three are short and in no order; the others say what each patch of the picture shows, row by row.
    """
    if rng.random() < 0.35:
        named = [scene.entities[owner].words if owner >= 0 else (scene.ground,) for owner in patch_owner(scene)]
    else:
        named = [entity.words for entity in scene.entities for _ in range(rng.randint(1, 4))]
        named += [(scene.ground,)] * rng.randint(1, 4)
        rng.shuffle(named)
    # No eye names everything everywhere.
    return [tuple(word for word in words if rng.random() < 0.85) for words in named]


def document(seed: int) -> Document:
    """60 % dialogues behind a list, 12 % the same with nothing to look at, 18 % text only, 10 % captions (most behind a list)."""
    rng = random.Random(seed)
    scene = make_scene(seed)
    kind = rng.choices(("read", "blind", "text", "caption"), (60, 12, 18, 10))[0]
    if kind == "text":
        return Document(_dialogue(text_turns(rng), ""), [])
    items = items_of(scene, rng) if kind == "read" or (kind == "caption" and rng.random() < 0.7) else []
    places = IMAGE * len(items)
    if kind == "caption":
        return Document([Segment(places, False), Segment(parse(caption_turn(scene, rng)[1]).plain + "\n", True)], items)
    dialogue = _dialogue(image_turns(scene, rng, TURNS), "\n")
    # The list goes where the template puts a picture: in front of the line break of the first question.
    before, after = dialogue[0].text.split("\n", 1)
    return Document([Segment(f"{before}{places}\n{after}", False), *dialogue[1:]], items)


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

    def __init__(self, first_seed: int, batch: int) -> None:
        self.first_seed, self.batch = first_seed, batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        tokenizer, seed, pool = build_tokenizer(), self.first_seed, 16 * self.batch
        while True:
            rows = sorted((encode(document(seed + index), tokenizer) for index in range(pool)), key=lambda row: len(row.ids))
            batches = [rows[start : start + self.batch] for start in range(0, pool, self.batch)]
            random.Random(seed).shuffle(batches)
            yield from (pad(batch, tokenizer.pad_token_id) for batch in batches)
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
    seen = batch["bags"] @ word_vectors()
    vectors[batch["input_ids"] == image_token] = seen + 0.02 * torch.randn_like(seen)  # no projector is exact
    return vectors


def train_language_model(model: LlamaForCausalLM, steps: int, rate: float = 1.5e-3) -> None:
    """Train on `steps` x 16 texts."""
    tokenizer = build_tokenizer()
    # The content words keep the vectors they share with the tower's targets.
    trained = torch.ones(model.config.vocab_size, 1)
    trained[tokenizer.convert_tokens_to_ids([f"▁{word}" for word in INDEX])] = 0
    model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * trained)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05, anneal_strategy="cos")
    stream = iter(DataLoader(Batches(2 * FIRST_SEED, BATCH), batch_size=None, num_workers=1, prefetch_factor=8))
    for step in range(1, steps + 1):
        batch_of_texts = next(stream)
        vectors = embed(model, batch_of_texts, tokenizer.convert_tokens_to_ids(IMAGE))
        hidden = model.model(inputs_embeds=vectors, attention_mask=batch_of_texts["attention_mask"], use_cache=False).last_hidden_state
        labels = batch_of_texts["labels"][:, 1:]
        loss = functional.cross_entropy(model.lm_head(hidden[:, :-1][labels != IGNORE]), labels[labels != IGNORE])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"language step {step}/{steps}: {loss.item():.3f} nats a label token", flush=True)
