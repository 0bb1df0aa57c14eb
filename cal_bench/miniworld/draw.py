"""The picture of a scene. Pillow alone; the same scene is the same picture."""

import random
from dataclasses import dataclass, replace

from PIL import Image, ImageChops, ImageDraw

from .font import text_mask
from .scene import SIDE, Entity, Scene, Writing, writings
from .vocabulary import COLOURS, FIGURES

Colour = tuple[int, int, int]
DARK, PALE = (28, 28, 34), (250, 250, 246)


@dataclass(frozen=True)
class _Canvas:
    """A picture that is drawn in pixels of the 128-px one, each being `scale` x `scale` of its own.

    Whatever is drawn begins and ends at whole pixels of the small picture, so that a large one shrunk to it is nearly the same.
    """

    picture: Image.Image
    scale: int

    @classmethod
    def blank(cls, width: int, height: int, colour: Colour, scale: int) -> "_Canvas":
        return cls(Image.new("RGB", (width * scale, height * scale), colour), scale)

    def line(self, ends: tuple[float, float, float, float], fill: Colour, width: int = 1) -> None:
        self._pen.line([at * self.scale for at in ends], fill=fill, width=width * self.scale)

    def rectangle(self, box: tuple[float, float, float, float], fill: Colour | None = None, outline: Colour | None = None) -> None:
        self._pen.rectangle(self._filled(box), fill=fill, outline=outline, width=self.scale)

    def ellipse(self, box: tuple[float, float, float, float], fill: Colour) -> None:
        self._pen.ellipse(self._filled(box), fill=fill)

    def paste(self, ink: Colour | Image.Image, left: float, top: float, mask: Image.Image) -> None:
        self.picture.paste(ink, (round(left) * self.scale, round(top) * self.scale), mask)

    @property
    def _pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.picture)

    def _filled(self, box: tuple[float, float, float, float]) -> list[float]:
        """Pillow counts the pixel at the right and lower end as inside."""
        left, top, right, bottom = box
        rest = self.scale - 1
        return [left * self.scale, top * self.scale, right * self.scale + rest, bottom * self.scale + rest]


def draw(scene: Scene, scale: int = 1) -> Image.Image:
    """RGB, 128 x 128; or as many times larger as `scale` says, with more detail in what is written."""
    rng = random.Random(scene.seed + 0.5)
    canvas = _ground(scene.ground, rng, scale)
    _clutter(canvas, rng)
    if scene.layout == "page":
        canvas.rectangle((2, 2, SIDE - 3, SIDE - 3), fill=_jitter((250, 248, 240), rng, 6), outline=(90, 90, 90))
    if scene.layout == "chart":
        canvas.rectangle((0, 0, SIDE, SIDE), fill=_jitter((250, 250, 250), rng, 6))
        canvas.line((2, 101, SIDE - 3, 101), fill=DARK)
    for entity in scene.entities:
        {"thing": _thing, "sign": _sign, "line": _line, "bar": _bar}[entity.kind](canvas, entity, rng)
    light = rng.uniform(0.85, 1.08)
    return canvas.picture.point([min(255, int(value * light)) for value in range(256)] * 3)


def _jitter(colour: Colour, rng: random.Random, by: int) -> Colour:
    red, green, blue = (min(255, max(0, channel + rng.randint(-by, by))) for channel in colour)
    return red, green, blue


def _ground(kind: str, rng: random.Random, scale: int) -> _Canvas:
    base = _jitter((208, 206, 196), rng, 40)
    other = _jitter(base, rng, 22)
    canvas = _Canvas.blank(SIDE, SIDE, base, scale)
    step = rng.randint(8, 18)
    if kind == "shaded":
        for y in range(SIDE):
            red, green, blue = (int(a + (b - a) * y / SIDE) for a, b in zip(base, other, strict=True))
            canvas.rectangle((0, y, SIDE, y), fill=(red, green, blue))
    for at in range(0, SIDE, step):
        if kind == "striped":
            canvas.rectangle((at, 0, at + step // 2, SIDE), fill=other)
        if kind in ("dotted", "checked"):
            for y in range(0, SIDE, step):
                if kind == "dotted":
                    canvas.ellipse((at, y, at + 3, y + 3), fill=other)
                elif (at + y) // step % 2:
                    canvas.rectangle((at, y, at + step, y + step), fill=other)
    return canvas


def _clutter(canvas: _Canvas, rng: random.Random) -> None:
    for _ in range(rng.randint(0, 10)):
        x, y, ink = rng.uniform(0, SIDE), rng.uniform(0, SIDE), _jitter((150, 150, 150), rng, 60)
        canvas.line((x, y, x + rng.uniform(-9, 9), y + rng.uniform(-9, 9)), fill=ink, width=rng.randint(1, 2))


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


def _thing(canvas: _Canvas, entity: Entity, rng: random.Random) -> None:
    left, top, right, bottom = (round(value) for value in entity.box)
    dot = canvas.scale
    mask = _figure(entity.noun, (right - left) * dot, (bottom - top) * dot).rotate(entity.angle, Image.Resampling.BILINEAR)
    # A dark rim keeps white on white and yellow on yellow apart.
    rim = ImageChops.lighter(
        ImageChops.lighter(ImageChops.offset(mask, dot, 0), ImageChops.offset(mask, -dot, 0)), ImageChops.offset(mask, 0, dot)
    )
    canvas.paste((60, 60, 64), left, top, rim)
    canvas.paste(_jitter(COLOURS[entity.colour], rng, 10), left, top, mask)


def _ink_on(colour: Colour) -> Colour:
    return DARK if 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] > 130 else PALE


def _write(canvas: _Canvas, writing: Writing, ink: Colour) -> None:
    mask = text_mask(writing.text)
    width, height = (max(1, round(extent * writing.dot)) * canvas.scale for extent in mask.size)
    canvas.paste(ink, writing.left, writing.top, mask.resize((width, height), Image.Resampling.BILINEAR))


def _sign(canvas: _Canvas, entity: Entity, rng: random.Random) -> None:
    left, top, right, bottom = entity.box
    width, height = round(right - left), round(bottom - top)
    colour = _jitter(COLOURS[entity.colour], rng, 10)
    panel = _Canvas.blank(width, height, colour, canvas.scale)
    ink = _ink_on(colour)
    panel.rectangle((1, 1, width - 2, height - 2), outline=ink)
    for writing in writings(entity):
        _write(panel, replace(writing, left=writing.left - left, top=writing.top - top), ink)
    mask = Image.new("L", panel.picture.size, 255).rotate(entity.angle, Image.Resampling.BILINEAR)
    canvas.paste(panel.picture.rotate(entity.angle, Image.Resampling.BILINEAR), left, top, mask)


def _line(canvas: _Canvas, entity: Entity, rng: random.Random) -> None:
    ink = _jitter((40, 40, 60), rng, 35)
    for writing in writings(entity):
        _write(canvas, writing, ink)


def _bar(canvas: _Canvas, entity: Entity, rng: random.Random) -> None:
    middle = (entity.box[0] + entity.box[2]) / 2
    box = (middle - 9, entity.box[1] + 12, middle + 9, 100)
    canvas.rectangle(box, fill=_jitter(COLOURS[entity.colour], rng, 10), outline=DARK)
    for writing in writings(entity):
        _write(canvas, writing, DARK)
