"""What the visual tokens of a miniature system name: `python -m cal_bench.miniworld.reading MODEL [--scale 2]`.

For each thing, sign, line and bar of unseen pictures, and each kind of word that is true of it: is that word the one of its kind to
which the tokens of its patches are nearest? Tokens are those behind the projector, and of the whole picture where there are tiles too.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from cal_bench.systems.llava import as_original
from cal_bench.systems.register import register

from .draw import draw
from .measure import FIRST_TEST_SEED
from .scene import GRID, Scene, make_scene, patch_owner
from .tower import INDEX, word_vectors
from .vocabulary import COLOURS, COLUMNS, KEYS, NOUNS, NUMBERS, ROWS, SIZES, WORDS

KINDS = {"word": WORDS, "number": NUMBERS, "key": KEYS, "colour": COLOURS, "noun": NOUNS, "row": ROWS, "column": COLUMNS, "size": SIZES}

Shares = Mapping[tuple[str, str], float]


def read(folder: Path, scale: int = 1, count: int = 320) -> Shares:
    """The share of words that are found, by kind of entity and kind of word."""
    register()
    processor = AutoProcessor.from_pretrained(folder)
    as_original(processor)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + count):
        scene = make_scene(seed)
        pictures = processor.image_processor(images=[draw(scene, scale)], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.get_image_features(**pictures).pooler_output[0][: GRID * GRID]
        for name, right in words_found(tokens, scene):
            found[name].append(right)
    return {name: sum(right) / len(right) for name, right in sorted(found.items())}


def words_found(tokens: Tensor, scene: Scene) -> list[tuple[tuple[str, str], bool]]:
    """Tokens [64, hidden] of a picture: for each word that is true of an entity its kinds, and whether it is found."""
    near = functional.normalize(tokens.float(), dim=-1) @ functional.normalize(word_vectors(), dim=-1).T
    owners = torch.tensor(patch_owner(scene))
    found: list[tuple[tuple[str, str], bool]] = []
    for index, entity in enumerate(scene.entities):
        if not (owners == index).any():
            continue
        nearness = near[owners == index].mean(0)
        for kind, words in KINDS.items():
            for true in set(entity.words) & set(words):
                best = max(words, key=lambda word, by=nearness: by[INDEX[word]].item())  # type: ignore[misc]
                found.append(((entity.kind, kind), best == true))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a miniature checkpoint, trained or not")
    parser.add_argument("--scale", type=int, default=1, help="how many times 128 px the pictures have (default 1)")
    parser.add_argument("--count", type=int, default=320, help="pictures (default 320)")
    arguments = parser.parse_args()
    for (entity, kind), share in read(arguments.model, arguments.scale, arguments.count).items():
        print(f"{entity:6} {kind:8} {share:.2f}")


if __name__ == "__main__":
    main()
