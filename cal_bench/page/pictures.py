"""Pictures small enough to lie in a page."""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps

SIDES = (640, 320, 160)  # longest side in pixels; a smaller one where the file would get too large
QUALITY = 70
MOST_BYTES = 60_000
# What Pillow raises on files that are no picture, or half of one.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Album:
    """Pictures as data URIs by a short name, and the names of each sample's; what did not fit or could not be read is counted."""

    pictures: Mapping[str, str]
    names: Mapping[int, tuple[str, ...]]
    left_out: int
    unreadable: int


def album(samples: Iterable[tuple[int, Sequence[bytes]]], budget: int) -> Album:
    """Small copies of the pictures of samples in their order, until their data URIs have `budget` characters together."""
    pictures: dict[str, str] = {}
    names: dict[int, tuple[str, ...]] = {}
    left_out = unreadable = used = 0
    for id, files in samples:
        own = []
        for content in files:
            name = hashlib.sha256(content).hexdigest()[:16]
            if name not in pictures and used < budget:
                pictures[name] = data_uri(content)
                used += len(pictures[name])
            left_out += name not in pictures
            unreadable += pictures.get(name) == ""
            own.append(name)
        names[id] = tuple(name for name in own if pictures.get(name))
    return Album({name: uri for name, uri in pictures.items() if uri}, names, left_out, unreadable)


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as the picture is seen; None where it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (opened.height, opened.width) if turned else (opened.width, opened.height)
    except UNREADABLE:
        return None


def data_uri(content: bytes) -> str:
    """A small copy of a picture, without what else its file says; empty where it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            picture = ImageOps.exif_transpose(opened)
            mode = "RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB"
            sizes = (_webp(picture.convert(mode), side) for side in SIDES)
            small = next((content for content in sizes if len(content) <= MOST_BYTES), b"")
    except UNREADABLE:
        return ""
    return "data:image/webp;base64," + base64.b64encode(small).decode() if small else ""


def _webp(picture: Image.Image, side: int) -> bytes:
    copy = picture.copy()
    copy.thumbnail((side, side))
    stream = io.BytesIO()
    copy.save(stream, "WEBP", quality=QUALITY)
    return stream.getvalue()
