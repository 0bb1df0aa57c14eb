"""The tiny projector before any training: from what the tower makes of a patch to the sum of the vectors of its words."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from .scene import LAYOUTS
from .tower import FIRST_SEED, WIDTH, WORD_WIDTH, Pictures, Reader, normalise, word_vectors

PICTURES = 200
BEND = math.sqrt(2)  # where the second derivative of GELU changes its sign, so that it is straightest
HEIGHT = BEND * (1 + math.erf(1)) / 2  # GELU there
SLOPE = (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))  # and its first derivative
SPREAD = 0.5  # standard deviation of its inputs around that point


def first_projector(reader: Reader) -> nn.Sequential:
    """Two layers as LLaVA-1.5 has them that do what the reader does: rotate features to where the vectors of their words are.

    The result is as loud as those vectors' sums, by least squares over some pictures; the two layers share the gain so that neither
    moves much faster than the other in training.
    """
    projector = nn.Sequential(nn.Linear(WIDTH, WORD_WIDTH), nn.GELU(), nn.Linear(WORD_WIDTH, WORD_WIDTH))
    with torch.no_grad():
        deviation, loudness = _measured(reader)
        gain = loudness * deviation / SPREAD / SLOPE
        projector[0].weight.copy_(SPREAD / deviation * reader.rotation.T)
        projector[0].bias.fill_(BEND)
        projector[2].weight.copy_(gain * torch.eye(WORD_WIDTH))
        projector[2].bias.fill_(-gain * HEIGHT)
    return projector


def _measured(reader: Reader) -> tuple[Tensor, Tensor]:
    """Standard deviation of the rotated features, and the factor that brings them nearest to the sums of word vectors."""
    examples = Pictures(FIRST_SEED + FIRST_SEED // 2, LAYOUTS)
    seen = default_collate(list(itertools.islice(examples, PICTURES)))
    aim = reader.tower(pixel_values=normalise(seen.pixels)).last_hidden_state[:, 1:] @ reader.rotation
    wanted = (seen.words > 0).float() @ word_vectors()
    return aim.std(), (aim * wanted).sum() / aim.square().sum()
