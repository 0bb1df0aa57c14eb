"""Training of the tiny vision tower: every patch learns to name what it shows, by the language model's word vectors."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from .draw import draw
from .muon import Muon
from .scene import GRID, LAYOUTS, PATCH, SIDE, Layout, Scene, make_scene, patch_letters, patch_owner
from .vocabulary import CONTENT

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # as CLIP's image processor
WIDTH, LAYERS = 192, 4
WORD_WIDTH = 160  # hidden size of the language model
FIRST_SEED = 1_000_000_000  # base pictures; the worlds of train and test draw from lower seeds
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
INDEX = {word: index for index, word in enumerate(CONTENT)}


def word_vectors() -> Tensor:
    """[words, hidden]: one fixed random vector for each content word, shared by the tower's targets and the language model's input."""
    generator = torch.Generator().manual_seed(20240528)
    return torch.randn(len(CONTENT), WORD_WIDTH, generator=generator) * 0.05


def new_tower() -> CLIPVisionModel:
    """Random, but for positions that begin as sines, so that neighbours can be told from the start."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, image_size=SIDE, patch_size=PATCH
    )
    tower = CLIPVisionModel(config)
    rates = 2.0 ** -torch.arange(WIDTH // 4).float().div(WIDTH // 16)
    angles = torch.arange(GRID).float()[:, None] * rates * 2  # [8, width / 4]
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    grid = torch.cat([waves[:, None].expand(-1, GRID, -1), waves[None].expand(GRID, -1, -1)], -1)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight[1:] = grid.flatten(0, 1) * 0.5
    return tower


class Example(NamedTuple):
    """A picture with what there is to learn from each of its patches, or from some."""

    pixels: Tensor  # uint8 [3, 128 scale, 128 scale]
    shown: Tensor  # [N]: which of the 8 x 8 patches the rest is about
    words: Tensor  # [N, words], summing to one
    boxes: Tensor  # [N, 4] in parts of the picture (-1: only ground)
    letters: Tensor  # [N, 2]: in the left and right half of each patch (0: none)


class Pictures(IterableDataset[Example]):
    """An endless stream of new pictures with the words, the box and the letters behind each patch."""

    def __init__(self, first_seed: int, layouts: tuple[Layout, ...], scale: int = 1) -> None:
        self.first_seed, self.layouts, self.scale = first_seed, layouts, scale

    def __iter__(self) -> Iterator[Example]:
        for seed in itertools.count(self.first_seed):
            yield picture_and_targets(make_scene(seed, self.layouts), self.scale)


class Halves(Pictures):
    """The same, but only what the half of each picture shows that shows most, over its whole width."""

    def __iter__(self) -> Iterator[Example]:
        return map(fuller_half, super().__iter__())


def fuller_half(whole: Example) -> Example:
    """Of 8 rows of patches the four in a row with most that is not ground; the picture itself stays."""
    owned = (whole.boxes[:, 0] >= 0).view(GRID, GRID).sum(1)
    top = int(owned.unfold(0, GRID // 2, 1).sum(1).argmax())
    shown = torch.arange(top * GRID, (top + GRID // 2) * GRID)
    return Example(whole.pixels, shown, whole.words[shown], whole.boxes[shown], whole.letters[shown])


def picture_and_targets(scene: Scene, scale: int = 1) -> Example:
    """All patches of the scene's picture."""
    picture = draw(scene, scale)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size, 3).permute(2, 0, 1)
    owners = patch_owner(scene)
    words, boxes = torch.zeros(len(owners), len(CONTENT)), torch.full((len(owners), 4), -1.0)
    for patch, owner in enumerate(owners):
        names = scene.entities[owner].words if owner >= 0 else (scene.ground,)
        words[patch, [INDEX[name] for name in names]] = 1 / len(names)
        if owner >= 0:
            boxes[patch] = torch.tensor(scene.entities[owner].box) / SIDE
    letters = torch.zeros(len(owners), 2, dtype=torch.long)
    for (patch, half), letter in patch_letters(scene).items():
        letters[patch, half] = 1 + ALPHABET.index(letter)
    return Example(pixels, torch.arange(len(owners)), words, boxes, letters)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to what CLIP's processor makes of it."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


class Reading(NamedTuple):
    """What a batch of pictures looks like to the tower, patch by patch."""

    features: Tensor  # [B, N, width]
    words: Tensor  # log-probabilities [B, N, words]
    aim: Tensor  # [B, N, hidden]: the features, rotated to where the word vectors are
    boxes: Tensor  # [B, N, 4]
    letters: Tensor  # logits [B, N, 2, 37], from half way up


class Reader(nn.Module):
    """The tower with the heads that teach it; only the tower is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = new_tower()
        # A fixed rotation: what is read is then spread evenly over the features, which a projector learns to undo fastest.
        self.register_buffer("rotation", nn.init.orthogonal_(torch.empty(WIDTH, WORD_WIDTH)))
        self.box = nn.Linear(WIDTH, 4)
        self.letters = nn.Linear(WIDTH, 2 * (1 + len(ALPHABET)))
        self.scale = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("vectors", functional.normalize(word_vectors(), dim=-1))

    def forward(self, pixels: Tensor, shown: Tensor) -> Reading:
        """Pictures [B, 3, 128, 128] as the patches `shown` [B, N] are read where the others are not there."""
        # As FLIP trains CLIP (Li and others, CVPR 2023): patches left out cost nothing, and most are ground.
        places = functional.pad(shown + 1, (1, 0))  # the class token stands before the patches

        def only_shown(encoder: nn.Module, nothing: tuple[()], given: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
            states = given["inputs_embeds"]
            return nothing, {**given, "inputs_embeds": states.gather(1, places[..., None].expand(-1, -1, WIDTH))}

        with self.tower.encoder.register_forward_pre_hook(only_shown, with_kwargs=True):
            states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        # The features that LLaVA reads: the last layer's output without the class token and without the final norm.
        features = states[-1][:, 1:]
        aim = features @ self.rotation
        named = aim @ self.vectors.T * self.scale.exp()
        letters = self.letters(states[LAYERS // 2][:, 1:]).unflatten(-1, (2, -1))
        return Reading(features, named.log_softmax(-1), aim, self.box(features), letters)


@dataclass(frozen=True)
class Leg:
    """A stretch of training with its own learning-rate cycle, on pictures drawn from the given layouts."""

    steps: int
    rate: float
    layouts: tuple[Layout, ...] = LAYOUTS
    whole: bool = True  # every patch of a picture, or those of its fuller half


# Things and signs are learned last, so there are more of them than in a world.
HARD: tuple[Layout, ...] = ("things", "things", "things", "sign", "sign", "sign", "sign", "page", "chart")
LEGS = (Leg(15_000, 1e-3, HARD, whole=False), Leg(3_000, 6e-4, HARD))
BATCH = 32


def train_tower(legs: tuple[Leg, ...] = LEGS) -> Reader:
    """Train on pictures of which none is drawn twice."""
    torch.manual_seed(0)
    reader, seed = Reader(), FIRST_SEED
    matrices = [weight for name, weight in reader.tower.named_parameters() if "layers" in name and weight.ndim == 2]
    for leg in legs:
        pictures = Pictures if leg.whole else Halves
        train_leg(reader, leg, pictures(seed, leg.layouts), matrices)
        seed += leg.steps * BATCH
    return reader


def train_leg(reader: nn.Module, leg: Leg, examples: IterableDataset[Example], matrices: Sequence[nn.Parameter]) -> None:
    """Teach what `reading_losses` measures to a module that gives a Reading; of its weights `matrices` learn by Muon, others by AdamW."""
    rest = [parameter for parameter in reader.parameters() if all(parameter is not matrix for matrix in matrices)]
    optimizers = [
        torch.optim.AdamW(rest, lr=leg.rate, weight_decay=0.02, betas=(0.9, 0.98)),
        Muon(matrices, leg.rate),
    ]
    cycles = [torch.optim.lr_scheduler.OneCycleLR(optimizer, leg.rate, total_steps=leg.steps, pct_start=0.05) for optimizer in optimizers]
    stream = iter(DataLoader(examples, batch_size=BATCH, num_workers=1, prefetch_factor=8))
    for step in range(1, leg.steps + 1):
        batch: Example = next(stream)
        losses = reading_losses(reader(normalise(batch.pixels), batch.shown), reader.vectors, batch)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        for part in (*optimizers, *cycles):
            part.step()
        reader.zero_grad()
        if step % 100 == 0:
            shown = ", ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            print(f"tower step {step}/{leg.steps}: {shown}", flush=True)


def unnamed(named: Tensor, words: Tensor, boxes: Tensor) -> Tensor:
    """Nats from the words of each patch to those that are `named`, as log-probabilities [B, N, words]."""
    gap = torch.special.xlogy(words, words).sum(-1) - (words * named).sum(-1)
    return (_care(boxes) * gap).sum()


def _care(boxes: Tensor) -> Tensor:
    """Weights [B, N] of the patches: ground is most of a picture and soon learned."""
    owned = boxes[..., 0] >= 0
    return torch.where(owned, 1.0, 0.2) / owned.sum()


def reading_losses(reading: Reading, vectors: Tensor, batch: Example) -> dict[str, Tensor]:
    """What there is to learn, by name, weighted: words and letters in nats, boxes in parts of the picture."""
    owned = batch.boxes[..., 0] >= 0
    direction = 1 - functional.cosine_similarity(reading.aim, batch.words @ vectors, dim=-1)
    return {
        "words": unnamed(reading.words, batch.words, batch.boxes),
        # Features that point where the sum of their words does: a projector has then nothing to undo but the rotation.
        "direction": 2 * (_care(batch.boxes) * direction).sum(),
        "boxes": 2 * (reading.boxes - batch.boxes).abs()[owned].mean(),
        "letters": 2 * functional.cross_entropy(reading.letters.flatten(0, 2), batch.letters.flatten()),
        # Small features: nothing that is not needed, above all nothing that every patch shares.
        "size": 0.02 * reading.features.square().mean(),
    }
