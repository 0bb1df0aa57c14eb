"""The picture of a scene. Pillow alone; the same scene is the same picture."""

import random
from dataclasses import replace

from PIL import Image, ImageChops, ImageDraw

from .font import text_mask
from .scene import SIDE, Entity, Scene, Writing, writings
from .vocabulary import COLOURS, FIGURES

Colour = tuple[int, int, int]
DARK, PALE = (28, 28, 34), (250, 250, 246)


def draw(scene: Scene) -> Image.Image:
    """RGB, 128 x 128."""
    rng = random.Random(scene.seed + 0.5)
    picture = _ground(scene.ground, rng)
    _clutter(picture, rng)
    if scene.layout == "page":
        ImageDraw.Draw(picture).rectangle((2, 2, SIDE - 3, SIDE - 3), fill=_jitter((250, 248, 240), rng, 6), outline=(90, 90, 90))
    if scene.layout == "chart":
        ImageDraw.Draw(picture).rectangle((0, 0, SIDE, SIDE), fill=_jitter((250, 250, 250), rng, 6))
        ImageDraw.Draw(picture).line((2, 101, SIDE - 3, 101), fill=DARK)
    for entity in scene.entities:
        {"thing": _thing, "sign": _sign, "line": _line, "bar": _bar}[entity.kind](picture, entity, rng)
    light = rng.uniform(0.85, 1.08)
    return picture.point([min(255, int(value * light)) for value in range(256)] * 3)


def _jitter(colour: Colour, rng: random.Random, by: int) -> Colour:
    red, green, blue = (min(255, max(0, channel + rng.randint(-by, by))) for channel in colour)
    return red, green, blue


def _ground(kind: str, rng: random.Random) -> Image.Image:
    base = _jitter((208, 206, 196), rng, 40)
    other = _jitter(base, rng, 22)
    picture = Image.new("RGB", (SIDE, SIDE), base)
    pen = ImageDraw.Draw(picture)
    step = rng.randint(8, 18)
    if kind == "shaded":
        for y in range(SIDE):
            pen.line((0, y, SIDE, y), fill=tuple(int(a + (b - a) * y / SIDE) for a, b in zip(base, other, strict=True)))
    for at in range(0, SIDE, step):
        if kind == "striped":
            pen.rectangle((at, 0, at + step // 2, SIDE), fill=other)
        if kind in ("dotted", "checked"):
            for y in range(0, SIDE, step):
                if kind == "dotted":
                    pen.ellipse((at, y, at + 3, y + 3), fill=other)
                elif (at + y) // step % 2:
                    pen.rectangle((at, y, at + step, y + step), fill=other)
    return picture


def _clutter(picture: Image.Image, rng: random.Random) -> None:
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(0, 10)):
        x, y, ink = rng.uniform(0, SIDE), rng.uniform(0, SIDE), _jitter((150, 150, 150), rng, 60)
        pen.line((x, y, x + rng.uniform(-9, 9), y + rng.uniform(-9, 9)), fill=ink, width=rng.randint(1, 2))


def _figure(noun: str, width: int, height: int) -> Image.Image:
    """The silhouette of a noun as a mask, drawn four times too large for smooth edges."""
    zoom = 4
    mask = Image.new("L", (width * zoom, height * zoom))
    pen = ImageDraw.Draw(mask)
    for shape, numbers in FIGURES[noun]:
        scaled = [n * (width if i % 2 == 0 else height) * zoom for i, n in enumerate(numbers)]
        ink = 0 if shape.startswith("h") else 255
        if shape == "l":
            pen.line(scaled, fill=ink, width=max(zoom, width * zoom // 7), joint="curve")
        elif shape.endswith("p"):
            pen.polygon(scaled, fill=ink)
        else:
            pen.ellipse(scaled, fill=ink)
    return mask.resize((width, height), Image.Resampling.BOX)


def _thing(picture: Image.Image, entity: Entity, rng: random.Random) -> None:
    left, top, right, bottom = (round(value) for value in entity.box)
    mask = _figure(entity.noun, right - left, bottom - top).rotate(entity.angle, Image.Resampling.BILINEAR)
    # A dark rim keeps white on white and yellow on yellow apart.
    rim = ImageChops.lighter(
        ImageChops.lighter(ImageChops.offset(mask, 1, 0), ImageChops.offset(mask, -1, 0)), ImageChops.offset(mask, 0, 1)
    )
    picture.paste((60, 60, 64), (left, top), rim)
    picture.paste(_jitter(COLOURS[entity.colour], rng, 10), (left, top), mask)


def _ink_on(colour: Colour) -> Colour:
    return DARK if 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] > 130 else PALE


def _write(picture: Image.Image, writing: Writing, ink: Colour) -> None:
    mask = text_mask(writing.text)
    size = max(1, round(mask.width * writing.dot)), max(1, round(mask.height * writing.dot))
    picture.paste(ink, (round(writing.left), round(writing.top)), mask.resize(size, Image.Resampling.BILINEAR))


def _sign(picture: Image.Image, entity: Entity, rng: random.Random) -> None:
    left, top, right, bottom = entity.box
    width, height = round(right - left), round(bottom - top)
    colour = _jitter(COLOURS[entity.colour], rng, 10)
    panel = Image.new("RGB", (width, height), colour)
    ink = _ink_on(colour)
    ImageDraw.Draw(panel).rectangle((1, 1, width - 2, height - 2), outline=ink)
    for writing in writings(entity):
        _write(panel, replace(writing, left=writing.left - left, top=writing.top - top), ink)
    mask = Image.new("L", panel.size, 255).rotate(entity.angle, Image.Resampling.BILINEAR)
    picture.paste(panel.rotate(entity.angle, Image.Resampling.BILINEAR), (round(left), round(top)), mask)


def _line(picture: Image.Image, entity: Entity, rng: random.Random) -> None:
    ink = _jitter((40, 40, 60), rng, 35)
    for writing in writings(entity):
        _write(picture, writing, ink)


def _bar(picture: Image.Image, entity: Entity, rng: random.Random) -> None:
    middle = (entity.box[0] + entity.box[2]) / 2
    box = (middle - 9, entity.box[1] + 12, middle + 9, 100)
    ImageDraw.Draw(picture).rectangle(box, fill=_jitter(COLOURS[entity.colour], rng, 10), outline=DARK)
    for writing in writings(entity):
        _write(picture, writing, DARK)
