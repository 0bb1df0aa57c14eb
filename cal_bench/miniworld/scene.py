"""What is in a picture: entities with their words and boxes, drawn at random from a seed."""

import math
import random
from dataclasses import dataclass
from typing import Literal

from .font import HEIGHT, PITCH, WIDTH
from .vocabulary import COLOURS, COLUMNS, GOODS, GROUNDS, KEYS, NAMES, NOUNS, NUMBERS, ROWS, SHOPS, SIZES

SIDE = 128
PATCH = 16
GRID = SIDE // PATCH

Box = tuple[float, float, float, float]
Layout = Literal["things", "sign", "page", "chart"]
LAYOUTS: tuple[Layout, ...] = ("things", "sign", "page", "chart")


@dataclass(frozen=True)
class Entity:
    """One thing, sign, line of a page, or bar of a chart. `box` is x1, y1, x2, y2 in pixels of the 128-px picture."""

    kind: Literal["thing", "sign", "line", "bar"]
    box: Box
    colour: str = ""
    noun: str = ""
    word: str = ""  # what is written: the word of a sign, the label of a bar, the value of a line
    number: str = ""
    key: str = ""
    size: str = ""
    angle: float = 0.0

    @property
    def row(self) -> str:
        return ROWS[min(2, int((self.box[1] + self.box[3]) / 2 * 3 / SIDE))]

    @property
    def column(self) -> str:
        return COLUMNS[min(2, int((self.box[0] + self.box[2]) / 2 * 3 / SIDE))]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a reader of this part of the picture should think of."""
        place = (self.row, self.column) if self.kind in ("thing", "sign") else ()
        kind = self.kind if self.kind in ("sign", "bar") else ""
        return tuple(w for w in (self.size, self.colour, self.noun, kind, self.key, self.word, self.number, *place) if w)


@dataclass(frozen=True)
class Scene:
    seed: int
    layout: Layout
    ground: str
    entities: tuple[Entity, ...]

    def of(self, kind: str) -> list[Entity]:
        return [entity for entity in self.entities if entity.kind == kind]


def make_scene(seed: int, layouts: tuple[Layout, ...] = LAYOUTS) -> Scene:
    """The scene of a seed; the same seed is the same scene for ever."""
    rng = random.Random(seed)
    layout = rng.choice(layouts)
    entities = {"things": _things, "sign": _sign, "page": _page, "chart": _chart}[layout](rng)
    return Scene(seed, layout, rng.choice(GROUNDS), tuple(entities))


def _things(rng: random.Random) -> list[Entity]:
    count = rng.choices((1, 2, 3, 4), (1, 3, 3, 2))[0]
    cells = rng.sample(range(9), count)
    return _fill(rng, sorted(cells))


def _fill(rng: random.Random, cells: list[int]) -> list[Entity]:
    """A thing in each of the given cells of the 3 x 3 grid; no two share a noun or a colour."""
    nouns, colours = rng.sample(NOUNS, len(cells)), rng.sample(list(COLOURS), len(cells))
    entities = []
    for cell, noun, colour in zip(cells, nouns, colours, strict=True):
        size = rng.choice(SIZES)
        width = rng.uniform(24, 28) if size == "small" else rng.uniform(35, 40)
        height = width * rng.uniform(0.9, 1.0)
        left, top = _within(rng, cell % 3, width), _within(rng, cell // 3, height)
        entities.append(Entity("thing", (left, top, left + width, top + height), colour, noun, size=size, angle=rng.uniform(-8, 8)))
    return entities


def _snap(at: float) -> float:
    """Things and texts stand at multiples of 4 px: a tower this small can't learn every shift of every letter."""
    return 4.0 * round(at / 4)


def _within(rng: random.Random, third: int, extent: float) -> float:
    """Where something of this extent begins, its middle in the given third of the picture."""
    middle = _snap(third * SIDE / 3 + rng.uniform(0, SIDE / 3 - extent) + extent / 2)
    return min(max(middle - extent / 2, 0.0), SIDE - extent)


def _sign(rng: random.Random) -> list[Entity]:
    word, number = rng.choice(SHOPS), rng.choice(NUMBERS) if rng.random() < 0.7 else ""
    scale = rng.choice((1.5, 2.0))
    width, height = 6 * len(word) * scale + 12, (7 * scale + 6) * (2 if number else 1) + 8
    row = rng.randrange(3)
    left = _snap(rng.uniform(4, SIDE - width - 4))
    low, high = row * SIDE / 3, (row + 1) * SIDE / 3
    middle = min(max(rng.uniform(low + 4, high - 4), height / 2 + 3), SIDE - height / 2 - 3)
    top = _snap(middle - height / 2)
    sign = Entity(
        "sign", (left, top, left + width, top + height), rng.choice(list(COLOURS)), word=word, number=number, angle=rng.uniform(-4, 4)
    )
    free = [cell for cell in range(9) if (cell // 3 + 1) * SIDE / 3 <= top - 3 or cell // 3 * SIDE / 3 >= top + height + 3]
    cells = sorted(rng.sample(free, min(len(free), rng.randrange(3))))
    return [sign, *(thing for thing in _fill(rng, cells) if thing.colour != sign.colour)]


def _page(rng: random.Random) -> list[Entity]:
    count = rng.choice((3, 4))
    keys = rng.sample(list(KEYS), count)
    left, top, pitch = rng.choice((4, 8, 12)), rng.choice((8, 12)), rng.choice((24, 28) if count == 4 else (28, 32, 36))
    scale = rng.choice((1.25, 1.5))
    lines = []
    for index, key in enumerate(keys):
        words = KEYS[key]
        value = rng.choice(words) if words else rng.choice(NUMBERS)
        room = (SIDE - 4 - left) / (PITCH * (len(key) + 2 + len(value)))
        fit = max(size for size in (1.0, 1.25, 1.5) if size <= min(scale, max(room, 1.0)))
        y = top + index * pitch
        box = (left, y, left + 6 * fit * (len(key) + 2 + len(value)), y + 7 * fit)
        lines.append(Entity("line", box, key=key, word=value if words else "", number="" if words else value))
    return lines


def _chart(rng: random.Random) -> list[Entity]:
    count = rng.choice((2, 3, 3))
    labels = rng.sample([word for word in (*GOODS, *NAMES) if len(word) <= 6], count)
    values, colours = rng.sample(NUMBERS, count), rng.sample([c for c in COLOURS if c != "white"], count)
    pitch = (SIDE - 6) / count
    bars = []
    for index, (label, value, colour) in enumerate(zip(labels, values, colours, strict=True)):
        middle, half = 3 + pitch * (index + 0.5), max(10, 3 * len(label)) + 2
        top = 100 - int(value) * 0.78
        bars.append(Entity("bar", (middle - half, top - 13, middle + half, 122), colour, word=label, number=value))
    return bars


@dataclass(frozen=True)
class Writing:
    """One line of text in the picture: its upper left corner and the size of a font dot, in pixels, before any rotation."""

    text: str
    left: float
    top: float
    dot: float


def writings(entity: Entity) -> list[Writing]:
    """Where the words of an entity are written."""
    left, top, right, bottom = entity.box
    if entity.kind == "line":
        return [Writing(f"{entity.key}: {entity.word or entity.number}", left, top, (bottom - top) / HEIGHT)]
    if entity.kind == "bar":
        dot = min(1.25, (right - left - 2) / (PITCH * len(entity.word)))
        return [_centred(entity.number, entity.box, top + 1, 1.25), _centred(entity.word, entity.box, 106, dot)]
    texts = [text for text in (entity.word, entity.number) if text]
    dot = (right - left - 12) / (PITCH * len(entity.word)) if texts else 0
    room = (bottom - top) / max(1, len(texts))
    return [_centred(text, entity.box, top + room * index + (room - HEIGHT * dot) / 2, dot) for index, text in enumerate(texts)]


def _centred(text: str, box: Box, top: float, dot: float) -> Writing:
    return Writing(text, (box[0] + box[2] - dot * (PITCH * len(text) - 1)) / 2, top, dot)


def patch_letters(scene: Scene) -> dict[tuple[int, int], str]:
    """Which letter stands in the left (0) and right (1) half of a patch, keyed by patch and half; only where one does."""
    letters = {}
    for entity in scene.entities:
        middle_x, middle_y = (entity.box[0] + entity.box[2]) / 2, (entity.box[1] + entity.box[3]) / 2
        cosine, sine = math.cos(math.radians(entity.angle)), math.sin(math.radians(entity.angle))
        for writing in writings(entity):
            for index, letter in enumerate(writing.text):
                x = writing.left + writing.dot * (PITCH * index + WIDTH / 2) - middle_x
                y = writing.top + writing.dot * HEIGHT / 2 - middle_y
                x, y = middle_x + x * cosine + y * sine, middle_y - x * sine + y * cosine
                if letter.isalnum() and 0 <= x < SIDE and 0 <= y < SIDE:
                    letters[int(y) // PATCH * GRID + int(x) // PATCH, int(x % PATCH * 2) // PATCH] = letter
    return letters


def patch_owner(scene: Scene) -> list[int]:
    """For each of the 8 x 8 patches, row by row: the index of the entity that covers most of it, or -1 for the ground."""
    owners = []
    for y in range(0, SIDE, PATCH):
        for x in range(0, SIDE, PATCH):
            covered = [_overlap(entity.box, (x, y, x + PATCH, y + PATCH)) for entity in scene.entities]
            best = max(range(len(covered)), key=covered.__getitem__, default=-1)
            # A letter shows in a small part of a patch; the edge of a thing's box may show nothing of it.
            least = 0.15 if scene.entities[best].kind == "thing" else 0.05
            owners.append(best if covered[best] >= least * PATCH * PATCH else -1)
    return owners


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
